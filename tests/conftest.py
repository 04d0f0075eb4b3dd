"""What the tests share: tiny networks, weights that make no test vacuous, real photographs."""

import os
import sys
import tempfile
import warnings
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the tools have it
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["DENSE_RESNET_CACHE"] = tempfile.mkdtemp()  # not the user's
sys.modules.setdefault("triton", None)  # see dense_resnet.verification.parity._without_triton

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if not os.environ.get("CI"):  # there hypothesis asks for no more than this by itself
    settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared machine")


def pytest_addoption(parser):
    group = parser.getgroup("campaign", "tests/campaign: how long it is")
    group.addoption("--cases", type=int, help="random cases of each test; by default a short form")
    group.addoption("--seconds", type=float, help="for each test, as many cases as fit into so long")
    group.addoption("--figures", metavar="DIR", help="keep what each test counted, as JSON")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: at the end one would keep a process busy while the other is idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _determinism():
    """What `train` switches on ends with its test: TensorFlow has no public call for that, and no later test expects it."""
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.util import _pywrap_determinism

        _pywrap_determinism.enable(False)


@pytest.fixture(scope="session")
def photographs():
    """Real photographs that scikit-image ships, as uint8 arrays by name."""
    from skimage import data

    return {
        "astronaut": data.astronaut(),  # 512x512
        "cat": data.chelsea(),  # 300x451
        "coffee": data.coffee(),  # 400x600
        "rocket": data.rocket(),  # 427x640
        "grey": data.camera(),  # 512x512, one channel
        "portrait": data.astronaut()[:, 100:340],  # 512x240
    }


@pytest.fixture(scope="session")
def photograph_folder(photographs, tmp_path_factory):
    """A folder as users have them: sizes, orientations, grey, alpha, a subfolder, 801 pixels wide."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    Image.fromarray(photographs["cat"]).save(folder / "cat.jpg")
    Image.fromarray(photographs["rocket"]).save(folder / "more" / "cat.jpg")
    Image.fromarray(photographs["portrait"]).save(folder / "portrait.png")
    Image.fromarray(photographs["grey"]).save(folder / "grey.jpg")
    Image.fromarray(photographs["coffee"]).resize((801, 534)).save(folder / "large.jpeg")
    alpha = np.dstack([photographs["coffee"], np.full(photographs["coffee"].shape[:2], 128, np.uint8)])
    Image.fromarray(alpha).save(folder / "alpha.PNG")
    return folder


@pytest.fixture(scope="session")
def timm_resnet():
    """The module timm.models.resnet.

    timm imports torchvision for its data pipelines and for one layer, and its builds have to fit PyTorch's. No ResNet needs
    any of it, so empty modules stand in for it while timm is imported, and it need not be installed.
    """
    pytest.importorskip("torch")
    parts = ("", ".transforms", ".transforms.functional", ".datasets", ".ops", ".ops.misc")
    standing_in = {f"torchvision{part}": mock.MagicMock() for part in parts}
    sys.modules.update(standing_in)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("timm.models.resnet")
    finally:
        for name in standing_in:
            del sys.modules[name]
