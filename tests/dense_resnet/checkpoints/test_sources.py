"""Where weights come from: told by the file's content, kept with them, and said to whoever loads them."""

import re

import numpy as np
import pytest
from helpers.networks import of_caffe, weights_of

import dense_resnet as dr
from dense_resnet import checkpoints
from dense_resnet.checkpoints import provenance
from dense_resnet.checkpoints.load_report import match
from dense_resnet.checkpoints.names import torch_resnet
from dense_resnet.preprocessing import LOOKS, range_mismatch

RGB = np.random.default_rng(0).integers(0, 256, (1, 33, 33, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("resnet_v2_50", 1001, ("inception", provenance.LABEL_ORDERS[1001])),
        ("resnet_v1_18", 1000, ("vgg", provenance.LABEL_ORDERS[1000])),
        ("resnet_v1_18_beta", None, ("inception", None)),
        ("resnet_v1_5_18", 21, ("torch", None)),
    ],
)
def test_origin_is_recognized_from_published_weights(name, classes, expected):
    known = provenance.origin_of(provenance.SLIM, weights_of(dr.plan(name, num_classes=classes)))
    assert (known.framework, known.variant, known.class_count) == (provenance.SLIM, name, classes)
    assert (known.preprocessing, known.label_order) == expected


def test_every_variant_is_distinguished_by_its_weights():
    """By shapes where the scope is the same, as of DeepLab's beta networks."""
    for name in dr.VARIANTS:
        zeros = {variable.name: np.broadcast_to(np.float32(0), variable.shape) for variable in dr.plan(name).variables}
        assert provenance.find_fitting_variants(zeros) == (name,)


def test_origins_survive_json_and_nothing_else_is_taken_for_one():
    known = provenance.Origin(provenance.KERAS, "resnet_v2_50", "inception", "keras", 1000, provenance.LABEL_ORDERS[1000])
    assert provenance.from_json(known.as_json()) == known
    for other in (None, [], {}, {"framework": 7}, known.as_json() | {"more": 1}, known.as_json() | {"class_count": "7"},
                  known.as_json() | {"variant": 7}):  # fmt: skip
        assert provenance.from_json(other) is None


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
    assert report.notes[2] == "Their classifier has 1,000 classes: ILSVRC 2012, in the order of the WordNet ids."


def test_another_root_than_in_training_is_noted():
    known = provenance.Origin(provenance.KERAS, "resnet_v2_50", "inception", "keras")
    assert "with 'slim' features near the border differ" in known.notes(dr.plan("resnet_v2_50"))[1]
    assert len(known.notes(dr.plan("resnet_v2_50", root="keras"))) == 1


@pytest.mark.parametrize("name", ["resnet_v2_50", "resnet_v1_50", "resnet_v1_5_50", "resnet_v1_50_original"])
def test_images_of_another_scale_are_reported(name):
    scheme = dr.plan(name).preprocessing
    assert range_mismatch(dr.preprocess(RGB, scheme), scheme) is None
    assert "raw RGB values" in range_mismatch(RGB, scheme)
    other = "vgg" if scheme in ("inception", "torch") else "inception"
    assert f"those of the scheme {other!r}" in range_mismatch(dr.preprocess(RGB, other), scheme)


@pytest.mark.parametrize("values", [np.zeros((1, 3, 3, 3)), np.zeros((0, 3, 3, 3)), np.ones((1, 2, 2, 3))])
def test_ambiguous_images_give_no_warning(values):
    for scheme in ("inception", "vgg", "torch", "caffe", "their own"):
        assert range_mismatch(values, scheme) is None


def test_vgg_means_under_v2_weights_are_warned_of_once():
    backbone = dr.Backbone(dr.plan([("block1", [(8, 4, 2)])]), seed=0)
    images = dr.preprocess(RGB, "vgg")
    with pytest.warns(UserWarning, match=r"which dr\.preprocess\(images, 'inception'\) never gives") as told:
        backbone(images)
    assert [warning.filename for warning in told if "dr.preprocess" in str(warning.message)] == [__file__]
    backbone(images)


def test_a_black_image_does_not_end_the_input_check():
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
    with pytest.raises(
        ValueError, match=r"files are not supported\. Supported: slim checkpoints \(V1 and V2\), \.safetensors, Keras' \.h5"
    ):
        checkpoints.read(tmp_path / name)


def test_pytorch_modules_in_memory():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 3).bfloat16()
    arrays = checkpoints.raw(module)
    assert {name: (value.shape, value.dtype) for name, value in arrays.items()} == {
        "weight": ((3, 2), np.float32),
        "bias": ((3,), np.float32),
    }


def in_pytorch(plan, weights):
    """Under torchvision's names."""
    table = torch_resnet.names(plan)
    return {table[name]: value.transpose(3, 2, 0, 1) if value.ndim == 4 else value for name, value in weights.items()}


def write_weights(name, folder):
    """A file of that name with the kind of weights that belongs to it; its statistics are Caffe's."""
    small = dr.plan("resnet_v1_5_18" if name.endswith((".pth", ".safetensors")) else "resnet_v1_18")
    weights = of_caffe(weights_of(small))
    if name.endswith(".keras"):
        dr.keras_resnet.build(small, weights=weights).save(folder / name)
    elif name.endswith(".pth"):
        torch = pytest.importorskip("torch")
        torch.save({key: torch.from_numpy(value.copy()) for key, value in in_pytorch(small, weights).items()}, folder / name)
    else:
        checkpoints.write(folder / name, in_pytorch(small, weights) if name.startswith("torch") else weights)
    return folder / name


@pytest.mark.parametrize("name", ["a.ckpt", "a.keras", "a.pth", "a.safetensors", "torch.safetensors"])
def test_weights_that_look_like_caffes_are_told_in_every_format(name, tmp_path):
    opened = checkpoints.open_source(write_weights(name, tmp_path))
    (note,) = opened.notes
    assert note.startswith("WARNING: all moving means are 0 and all variances 1")
    assert "dr.preprocess(images, 'caffe') (BGR, 0..255 minus means)" in note
    if name in ("a.pth", "torch.safetensors"):
        assert (opened.origin.framework, opened.origin.preprocessing) == (provenance.CAFFE, "caffe")
    else:
        assert "UPDATE_OPS" in note  # then a training of ours or slim's may have forgotten them as well


def test_caffes_strides_are_named_and_the_variant_with_them_takes_the_weights():
    plan = dr.plan("resnet_v1_5_50")
    weights = of_caffe(weights_of(plan))
    opened = checkpoints.open_source(in_pytorch(plan, weights))
    assert "a stride in each block's first 1x1 convolution, as in resnet_v1_50_original" in opened.notes[0]
    assert opened.under("resnet_v1_5_50") is opened
    original = opened.under("resnet_v1_50_original")
    assert (original.origin.variant, original.origin.preprocessing, original.notes) == ("resnet_v1_50_original", "caffe", ())
    assert match(dr.plan("resnet_v1_50_original"), original.weights, "R-50.pth").report.complete
    trained = checkpoints.open_source(in_pytorch(plan, weights_of(plan)))
    assert trained.notes == ()
    assert trained.under("resnet_v1_50_original") is trained


def test_a_load_warns_of_caffes_weights_and_of_the_scheme():
    report = dr.Backbone("resnet_v1_5_18").load(in_pytorch(plan := dr.plan("resnet_v1_5_18"), of_caffe(weights_of(plan))))
    assert report.complete
    assert report.notes[0] == "Weights of Caffe / Detectron: they expect dr.preprocess(images, 'caffe')."
    assert report.notes[1].startswith("WARNING: this plan's own scheme is 'torch'")
    assert str(report).endswith(report.notes[-1])
    assert "as in weights of Caffe and Detectron" in report.notes[-1]
    assert dr.Backbone("resnet_v1_5_18").load(dr.Backbone("resnet_v1_5_18").weights).complete


# --------------------------------------------------------------------------------------------------------------------
# Averages

TINY = dr.plan([("block1", [(8, 4, 2)])], scope="tiny")
PLAIN = weights_of(TINY)
SUFFIX = "/ExponentialMovingAverage"
AVERAGED = {name: value * 2 for name, value in PLAIN.items()}
SUFFIXED = {name + SUFFIX: value for name, value in AVERAGED.items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_averages_beside_slims_weights_are_mentioned(name, tmp_path):
    checkpoints.write(tmp_path / name, PLAIN | SUFFIXED)
    opened = checkpoints.open_source(tmp_path / name)
    assert same(opened.weights, PLAIN | SUFFIXED)
    (note,) = opened.notes
    assert f"moving averages of {len(PLAIN)} variables (…{SUFFIX}). The plain weights are read" in note
    (advice,) = re.findall(r"the averages are (\{.*\})\.$", note)
    assert same(eval(advice, {"dr": dr, "path": tmp_path / name}), AVERAGED)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_averages_without_weights_are_read_and_noted(name, tmp_path):
    statistics = {key: value for key, value in PLAIN.items() if "moving" in key}  # which have none of their own
    of_trained = {key: value for key, value in SUFFIXED.items() if key.removesuffix(SUFFIX) not in statistics}
    checkpoints.write(tmp_path / name, statistics | of_trained)
    report = dr.Backbone(TINY).load(tmp_path / name)
    assert report.complete
    assert any("The weights are moving averages" in note for note in report.notes)
    assert same(checkpoints.read(tmp_path / name), AVERAGED | statistics)


@pytest.fixture(scope="module")
def small():
    """torchvision's names and arrays of a ResNet-18."""
    plan = dr.plan("resnet_v1_5_18")
    return in_pytorch(plan, weights_of(plan))


FIRST = "resnet_v1_5_18/conv1/weights"


def pytorch_file(folder, entries):
    """Dictionaries of arrays, within others, as torch.save writes them."""
    torch = pytest.importorskip("torch")

    def tensors(value):
        if isinstance(value, dict):
            return {name: tensors(inner) for name, inner in value.items()}
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    torch.save(tensors(entries), folder / "a.pth")
    return folder / "a.pth"


@pytest.mark.parametrize("beside", ["state_dict_ema", "model_ema", "ema", "ema_state_dict", "swa_model"])
@pytest.mark.parametrize("wrapped", ["state_dict", "model"])
def test_averages_beside_the_weights_of_a_pytorch_file(beside, wrapped, small, tmp_path):
    entries = {"epoch": 3, beside: {name: value * 2 for name, value in small.items()}, wrapped: small}
    opened = checkpoints.open_source(pytorch_file(tmp_path, entries))
    assert np.array_equal(opened.weights[FIRST].transpose(3, 2, 0, 1), small["conv1.weight"])
    (note,) = opened.notes
    assert f"averages, by their name: ['{beside}']. The weights ['{wrapped}'] were read" in note


@pytest.mark.parametrize("beside", ["ema", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("inner", [None, "module", "shadow"])
def test_averages_alone_in_a_pytorch_file(beside, inner, small, tmp_path):
    averages = {inner: small, "decay": 0.999} if inner else small
    opened = checkpoints.open_source(pytorch_file(tmp_path, {beside: averages, "best": np.float32([0.5])}))
    assert np.array_equal(opened.weights[FIRST].transpose(3, 2, 0, 1), small["conv1.weight"])
    assert opened.notes[0].startswith(f"The weights are averages, by their name in the file: ['{beside}']")


@pytest.mark.parametrize(("plain", "averaged"), [("model.", "ema_model."), ("", "ema."), ("module.", "model_ema.module.")])
def test_averages_under_a_prefix_of_their_own(plain, averaged, small):
    """As modules have them that keep the copy: until now there were two networks in the file."""
    copy = {averaged + name: value * 2 for name, value in small.items()}
    opened = checkpoints.open_source({plain + name: value for name, value in small.items()} | copy)
    assert np.array_equal(opened.weights[FIRST].transpose(3, 2, 0, 1), small["conv1.weight"])
    (note,) = opened.notes
    assert f"{len(small)} arrays that are averages, by their names" in note
    (note,) = checkpoints.open_source(copy).notes
    assert note == f"The weights are averages, by their names (under {averaged!r})."


def test_averaged_models_are_recognized_by_their_counter(small, tmp_path):
    state = {f"module.{name}": value for name, value in small.items()} | {"n_averaged": np.int64([7])}
    for source in (state, pytorch_file(tmp_path, {"state_dict": state})):
        (note,) = checkpoints.open_source(source).notes
        assert note.startswith("The weights are averages: the file also has n_averaged")


# --------------------------------------------------------------------------------------------------------------------
# The scale of images


def test_raw_images_after_valid_ones_are_reported_in_the_first_calls():
    backbone = dr.Backbone(TINY, seed=0)
    right = dr.preprocess(RGB, "inception")
    for run in (backbone, backbone.compile("float32")):
        for _ in range(LOOKS - 1):
            run(right)
        with pytest.warns(UserWarning, match="they look like raw RGB values"):
            run(RGB)
        run(RGB)
    late = dr.Backbone(TINY, seed=0)
    for _ in range(LOOKS):
        late(right)
    late(RGB)
