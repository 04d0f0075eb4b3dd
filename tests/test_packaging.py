"""What `pip install` brings: every package, its data, and every public name."""

import importlib
import re
import runpy

import pytest
import setuptools
from helpers import ROOT

PACKAGES = {
    "dense_resnet": "dense_resnet",
    "segmentation": "segmentation",
    "tools": "dense_resnet_tools",
}  # folder: installed as
DATA = {
    "dense_resnet": {"py.typed"},
    "segmentation": {"py.typed"},
    "segmentation.evaluation.report": {file.name for file in (ROOT / "segmentation/evaluation/report").glob("*.css")},
    "dense_resnet_tools": {"coffee.jpg"}
    | {f"scenes_model/{name}" for name in ("evaluation.json", "model.json", "plan.json", "recipe.sh", "weights.safetensors")},
}
PUBLIC = {
    "dense_resnet": ["checkpoints", "keras_resnet", "resnet_utils", "resnet_v1", "resnet_v2"],
    "dense_resnet.compat": ["slim"],
    "dense_resnet.extraction": ["Extraction"],
    "segmentation": [
        "ConfusionMatrix", "SegmentationModel", "load_backbone", "load_model", "metrics", "save_backbone", "save_model",
    ],
    "segmentation.evaluation": ["Evaluation"],
    "segmentation.metrics": ["mean_iou"],
    "segmentation.prediction": ["Predictor"],
    "segmentation.training": ["Training"],
}  # fmt: skip


@pytest.fixture
def distribution(monkeypatch):
    """What setup.py and pyproject.toml say together."""
    given = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path("setup.py")
    distribution = setuptools.Distribution(given)
    distribution.parse_config_files()
    return distribution


def test_every_folder_with_python_files_is_installed(distribution):
    folders = {file.parent.relative_to(ROOT) for folder in PACKAGES for file in (ROOT / folder).rglob("*.py")}
    names = {".".join((PACKAGES[folder.parts[0]], *folder.parts[1:])) for folder in folders}
    assert {*PACKAGES.values()} < names
    assert {*distribution.packages} == names


def test_data_files_are_installed(distribution):
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    installed = {package: {*files} for package, _, _, files in command.get_data_files_without_manifest() if files}
    assert installed == {package: files for package, files in DATA.items() if files}


def test_the_version_is_that_of_the_package(distribution):
    import dense_resnet as dr

    assert distribution.get_version() == dr.__version__


@pytest.mark.parametrize("file", sorted((ROOT / "tools").rglob("*.py")), ids=lambda file: file.stem)
def test_tools_name_each_other_relatively(file):
    """Installed, the folder has another name."""
    assert not re.search(r"^\s*(from|import) tools\b", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_import(module):
    imported = importlib.import_module(module)
    assert {*PUBLIC[module]} <= {*getattr(imported, "__all__", PUBLIC[module])}
    for name in {*PUBLIC[module], *getattr(imported, "__all__", [])}:
        assert getattr(imported, name) is not None
