"""Where weights come from: told by the file's content, kept with them, and said to whoever loads them."""

import numpy as np
import pytest
from conftest import weights_of

import dense_resnet as dr
from dense_resnet import checkpoints
from dense_resnet.checkpoints import origin
from dense_resnet.preprocessing import preprocessing_doubt

RGB = np.random.default_rng(0).integers(0, 256, (1, 33, 33, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("resnet_v2_50", 1001, ("inception", origin.LABEL_ORDERS[1001])),
        ("resnet_v1_18", 1000, ("vgg", origin.LABEL_ORDERS[1000])),
        ("resnet_v1_18_beta", None, ("inception", None)),
        ("resnet_v1_5_18", 21, ("torch", None)),
    ],
)
def test_what_published_weights_bring(name, classes, expected):
    known = origin.origin_of(origin.SLIM, weights_of(dr.plan(name, num_classes=classes)))
    assert (known.framework, known.variant, known.class_count) == (origin.SLIM, name, classes)
    assert (known.preprocessing, known.label_order) == expected


def test_every_variant_is_told_from_every_other():
    """By shapes where the scope is the same, as of DeepLab's beta networks."""
    for name in dr.VARIANTS:
        zeros = {variable.name: np.broadcast_to(np.float32(0), variable.shape) for variable in dr.plan(name).variables}
        assert origin.fitting_variants(zeros) == (name,)


def test_origins_survive_json_and_nothing_else_is_taken_for_one():
    known = origin.Origin(origin.KERAS, "resnet_v2_50", "inception", "keras", 1000, origin.LABEL_ORDERS[1000])
    assert origin.from_json(known.as_json()) == known
    for other in (None, [], {}, {"framework": 7}, known.as_json() | {"more": 1}, known.as_json() | {"class_count": "7"},
                  known.as_json() | {"variant": 7}):  # fmt: skip
        assert origin.from_json(other) is None


def test_a_load_says_what_the_weights_expect(tmp_path):
    backbone = dr.Backbone("resnet_v1_18", seed=0)
    backbone.save(tmp_path / "a.ckpt")
    report = backbone.load(tmp_path / "a.ckpt")
    assert report.notes == ("Weights of TF-Slim: they expect dr.preprocess(images, 'vgg').",)
    assert str(report).endswith(report.notes[0])
    assert dr.keras_resnet.load(dr.keras_resnet.build("resnet_v1_18"), tmp_path / "a.ckpt").notes == report.notes


def test_weights_in_a_network_of_another_preprocessing():
    """v1 weights in blocks of one's own, whose images would go through another scheme."""
    blocks = dr.VARIANTS["resnet_v1_18"].blocks
    plan = dr.plan(blocks, kind="lite_bottleneck_v1", scope="resnet_v1_18")
    report = dr.Backbone(plan).load(weights_of(dr.plan("resnet_v1_18", num_classes=1000)))
    assert report.notes[1].startswith("WARNING: this plan's own scheme is 'inception'")
    assert report.notes[2] == "Their classifier has 1000 classes: ILSVRC 2012, in the order of the WordNet ids."


def test_a_root_that_is_not_the_one_of_training():
    known = origin.Origin(origin.KERAS, "resnet_v2_50", "inception", "keras")
    assert "with 'slim' features near the border differ" in known.notes(dr.plan("resnet_v2_50"))[1]
    assert len(known.notes(dr.plan("resnet_v2_50", root="keras"))) == 1


@pytest.mark.parametrize("name", ["resnet_v2_50", "resnet_v1_50", "resnet_v1_5_50", "resnet_v1_50_original"])
def test_images_of_another_scale_are_told(name):
    scheme = dr.plan(name).preprocessing
    assert preprocessing_doubt(dr.preprocess(RGB, scheme), scheme) is None
    assert "raw RGB values" in preprocessing_doubt(RGB, scheme)
    other = "vgg" if scheme in ("inception", "torch") else "inception"
    assert f"those of the scheme {other!r}" in preprocessing_doubt(dr.preprocess(RGB, other), scheme)


@pytest.mark.parametrize("values", [np.zeros((1, 3, 3, 3)), np.zeros((0, 3, 3, 3)), np.ones((1, 2, 2, 3))])
def test_images_that_nothing_can_be_said_of(values):
    for scheme in ("inception", "vgg", "torch", "caffe", "their own"):
        assert preprocessing_doubt(values, scheme) is None


def test_vgg_means_under_v2_weights_are_told_once():
    backbone = dr.Backbone(dr.plan([("block1", [(8, 4, 2)])]), seed=0)
    images = dr.preprocess(RGB, "vgg")
    with pytest.warns(UserWarning, match=r"which dr\.preprocess\(images, 'inception'\) never gives") as told:
        backbone(images)
    assert [warning.filename for warning in told if "dr.preprocess" in str(warning.message)] == [__file__]
    backbone(images)


def test_a_black_image_decides_nothing():
    backbone = dr.Backbone(dr.plan([("block1", [(8, 4, 2)])]), seed=0)
    for run in (backbone, backbone.compile("float32")):
        run(np.zeros((1, 5, 5, 3)))
        with pytest.warns(UserWarning, match="they look like raw RGB values") as told:
            run(RGB)
        assert [warning.filename for warning in told if "raw RGB" in str(warning.message)] == [__file__]
        run(RGB)


def test_a_file_is_what_its_first_bytes_say(tmp_path):
    """Whatever it is named: a zip of PyTorch's as .h5, HDF5 as .pth, a slim checkpoint as .bin is none of these."""
    torch = pytest.importorskip("torch")
    h5py = pytest.importorskip("h5py")
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.ckpt")
    assert list(checkpoints.raw(tmp_path / "weights.ckpt")) == ["a"]
    torch.save({"a": torch.ones(2)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert list(checkpoints.raw(tmp_path / "old.ckpt")) == ["a"]
    with h5py.File(tmp_path / "weights.pth", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match=r"weights\.pth: .*so Keras did not write it"):
        checkpoints.raw(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["weights.npz", "model.onnx", "model.tflite", "frozen.pb"])
def test_other_formats_are_named(name, tmp_path):
    with pytest.raises(ValueError, match=r"files are not read; slim checkpoints \(V1 and V2\), \.safetensors, Keras' \.h5"):
        checkpoints.read(tmp_path / name)


def test_pytorch_modules_in_memory():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 3).bfloat16()
    arrays = checkpoints.raw(module)
    assert {name: (value.shape, value.dtype) for name, value in arrays.items()} == {
        "weight": ((3, 2), np.float32),
        "bias": ((3,), np.float32),
    }
