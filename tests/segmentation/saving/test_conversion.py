"""convert: every source becomes every file, and each file reads back as the same dictionary, bit for bit."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.command import run
from helpers.datasets import FIVE_CLASSES
from helpers.networks import BLOCKS, images_of, of_caffe, small_model, weights_of

import dense_resnet as dr
from dense_resnet import checkpoints, keras_resnet
from dense_resnet.checkpoints import provenance
from dense_resnet.checkpoints.names import torch_resnet
from dense_resnet.errors import InputError
from dense_resnet.verification import laws, parity
from segmentation import load_backbone, load_model, save_model
from segmentation.heads.plan import HEADS, options_of
from segmentation.saving import conversion

PLAN = dr.plan("resnet_v1_5_18", num_classes=10)
WEIGHTS = weights_of(PLAN)
OUTPUTS = {"slim": "out.ckpt", "safetensors": "out.safetensors", "keras": "out.keras", "model-dir": "out"}


def equal(one, two):
    """Whether two dictionaries of arrays are the same, bit for bit."""
    return one.keys() == two.keys() and all(one[name].tobytes() == two[name].tobytes() for name in one)


def state_dict(plan, weights):
    """`weights` as PyTorch names and lays them out."""
    arrays = {}
    for name, theirs in torch_resnet.names(plan).items():
        value = weights[name]
        value = value[0, 0] if theirs == "fc.weight" else value
        arrays[theirs] = np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)
    return arrays


def as_keras(folder):
    path = folder / "in.keras"
    keras_resnet.build(PLAN, weights=WEIGHTS).save(path)
    return path


def as_file(name, arrays=WEIGHTS):
    def make(folder):
        checkpoints.write(folder / name, arrays)
        return folder / name

    return make


SOURCES = {
    "slim": as_file("in.ckpt"),
    "safetensors": as_file("in.safetensors"),
    "PyTorch in safetensors": as_file("in.safetensors", state_dict(PLAN, WEIGHTS)),
    "PyTorch in memory": lambda folder: state_dict(PLAN, WEIGHTS),
    "Keras": as_keras,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_there_and_back_is_the_identity(source, tmp_path):
    """Source -> canonical -> every format -> canonical; also through a slim checkpoint and back into safetensors."""
    made = SOURCES[source](tmp_path)
    assert equal(checkpoints.read(made), WEIGHTS)
    network = conversion.open_network(made)
    assert network.report.complete
    assert equal(network.weights, WEIGHTS)
    for to, name in OUTPUTS.items():
        conversion.write(network, to, tmp_path / name)
        again = conversion.open_network(tmp_path / name)
        assert equal(again.weights, WEIGHTS), to
        assert (again.plan.name, again.plan.num_classes) == ("resnet_v1_5_18", 10)
    assert json.loads((tmp_path / "out" / "model.json").read_text())["num_classes"] == 10
    conversion.write(conversion.open_network(tmp_path / "out.ckpt"), "safetensors", tmp_path / "last.safetensors")
    assert equal(checkpoints.read(tmp_path / "last.safetensors"), WEIGHTS)


def test_where_weights_come_from_stays_with_them(tmp_path):
    network = conversion.open_network(state_dict(PLAN, WEIGHTS))
    assert network.origin == provenance.Origin(provenance.TORCH, "resnet_v1_5_18", "torch", class_count=10)
    conversion.write(network, "safetensors", tmp_path / "a.safetensors")
    assert checkpoints.open_source(tmp_path / "a.safetensors").origin == network.origin
    conversion.write(network, "model-dir", tmp_path / "model")
    assert conversion.open_network(tmp_path / "model").origin == network.origin
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (described["preprocessing"], described["origin"]["framework"]) == ("torch", provenance.TORCH)


@pytest.mark.slow
def test_a_converted_backbone_runs_at_another_stride(tmp_path):
    conversion.write(conversion.open_network(WEIGHTS, classifier=False), "model-dir", tmp_path)
    backbone = load_backbone(tmp_path, output_stride=8)
    assert backbone.plan == dr.plan("resnet_v1_5_18", output_stride=8)
    expected = laws.backbone_with(dr.plan("resnet_v1_5_18", output_stride=8), WEIGHTS)(images_of(33))
    np.testing.assert_array_equal(backbone(images_of(33)), expected)
    with pytest.raises(ValueError, match="a backbone without a segmentation head: use it with `extract`"):
        load_model(tmp_path)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("separable", [True, False])
def test_heads_are_recognized_by_variable_names(head, separable):
    model = small_model(head, separable=separable)
    assert options_of(model.weights) == (5, head, separable and head != "fcn")
    assert options_of(model.backbone.weights) is None


@pytest.mark.parametrize("head", HEADS)
def test_a_segmentation_model_there_and_back(head, tmp_path):
    """Blocks of one's own, which no variant tells of: the model directory does, and a .json beside other files."""
    model = small_model(head, image_pooling_crop=65)
    save_model(tmp_path / "model", model, FIVE_CLASSES)
    network = conversion.open_network(tmp_path / "model")
    conversion.write(network, "slim", tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="no variant fits these weights, whose first names are .*Pass the closest variant"):
        conversion.open_network(tmp_path / "model.ckpt")
    blocks = {"scope": "tiny", "kind": "bottleneck_v1", "blocks": [list(block) for block in BLOCKS]}
    again = conversion.open_network(tmp_path / "model.ckpt", blocks, 16)
    assert again.head == network.head
    assert equal(again.weights, model.weights)
    assert conversion.write(again, "model-dir", tmp_path / "again")[0].startswith("The classes are numbered")
    assert load_model(tmp_path / "again").space.names == tuple(f"class_{i}" for i in range(5))
    conversion.write(network, "model-dir", tmp_path / "copy")
    copy = load_model(tmp_path / "copy")
    assert copy.space == FIVE_CLASSES
    np.testing.assert_array_equal(copy.model(images_of((40, 70))), model(images_of((40, 70))))


def test_dropping_the_head_for_keras_is_reported(tmp_path):
    save_model(tmp_path / "model", small_model("fcn"), FIVE_CLASSES)
    network = conversion.open_network(tmp_path / "model")
    assert conversion.write(network, "keras", tmp_path / "a.keras") == (
        "The head was not written: a Keras model contains only the backbone.",
    )


def test_optimizer_variables_are_not_converted(tmp_path):
    extra = {**WEIGHTS, "resnet_v1_5_18/conv1/weights/Momentum": np.ones((7, 7, 3, 64), np.float32)}
    network = conversion.open_network(extra)
    assert network.report.unexpected == ("resnet_v1_5_18/conv1/weights/Momentum",)
    assert equal(network.weights, WEIGHTS)


def test_a_conversion_warns_of_caffes_weights():
    told = conversion.open_network(state_dict(PLAN, of_caffe(WEIGHTS))).report
    assert told.origin.preprocessing == "caffe"
    assert told.notes[-1].startswith("WARNING: all moving means are 0 and all variances 1")


def test_weights_without_a_variable_are_refused():
    broken = {name: value for name, value in WEIGHTS.items() if not name.endswith("conv1/BatchNorm/gamma")}
    with pytest.raises(ValueError, match="no variant fits"):
        conversion.open_network(broken)
    with pytest.raises(ValueError, match="the weights do not fit resnet_v1_5_18; nothing was loaded") as error:
        conversion.open_network(broken, "resnet_v1_5_18")
    assert "missing            9" in str(error.value)
    model = small_model("aspp").weights
    del model["aspp0/weights"]
    blocks = {"scope": "tiny", "kind": "bottleneck_v1", "blocks": [list(block) for block in BLOCKS]}
    with pytest.raises(ValueError, match="with the head 'aspp', but aspp0/weights is missing"):
        conversion.open_network(model, blocks, 16)


@pytest.mark.parametrize(("to", "name"), [("slim", "a.safetensors"), ("safetensors", "a.ckpt"), ("keras", "a.h5")])
def test_a_name_that_belies_its_format(to, name, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}: the name of a .* must (have|end in) \."):
        conversion.write(conversion.open_network(WEIGHTS), to, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    network = conversion.open_network(WEIGHTS, classifier=False)
    with pytest.raises(InputError, match=r"is not a model directory, and contains photo\.jpg"):
        conversion.write(network, "model-dir", tmp_path)
    (tmp_path / "photo.jpg").rename(tmp_path / "weights.safetensors")  # a kill before model.json was there
    conversion.write(network, "model-dir", tmp_path)
    conversion.write(network, "model-dir", tmp_path)


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_keras_model(tmp_path):
    """The old file survives; nothing half-written stays."""
    path = tmp_path / "a.keras"
    path.write_bytes(b"old")
    code = (
        "import resource, sys; from dense_resnet.errors import InputError; from segmentation.saving import conversion\n"
        f"network = conversion.open_network({str(tmp_path / 'w.safetensors')!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"try: conversion.write(network, 'keras', {str(path)!r})\n"
        "except InputError as error: sys.exit(f'refused {error}')\n"
    )
    checkpoints.write(tmp_path / "w.safetensors", WEIGHTS)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "refused" in result.stderr.splitlines()[-1], result.stderr
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.keras", "w.safetensors"]


def test_known_label_spaces():
    assert conversion.label_space(19, "cityscapes").names[0] == "road"
    with pytest.raises(ValueError, match=r"classes must be one of voc, cityscapes, ade20k, or a \.json file \(not 'coco'\)"):
        conversion.label_space(21, "coco")
    with pytest.raises(ValueError, match=r"the head has 20 classes, the label space 21 \(background,"):
        conversion.label_space(20, "voc")


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_checks_against_pytorch(capsys, tmp_path, timm_resnet):
    checkpoints.write(tmp_path / "in.safetensors", state_dict(PLAN, WEIGHTS))
    code, out, err = run(
        capsys, "convert", tmp_path / "in.safetensors", "--to", "slim", "--out", tmp_path / "out.ckpt", "--check"
    )
    assert (code, err) == (0, "")
    for line in (
        "  matched          102",
        "Weights of torchvision / timm: they expect dr.preprocess(images, 'torch').",
        "features agree with those of PyTorch on the same weights: largest error",
        f"{tmp_path / 'out.ckpt'}: 102 arrays, read back and equal bit for bit",
    ):
        assert line in out
    assert out.count("holds") >= 4
    assert equal(checkpoints.read(tmp_path / "out.ckpt"), WEIGHTS)


def test_triton_is_not_imported_beside_tensorflow(tmp_path, monkeypatch):
    """It ends the process without a word there, and torchvision and timm import it by way of PyTorch's compiler."""
    (tmp_path / "triton.py").write_text("raise SystemExit('crashed')")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "models.py").write_text(
        "try:\n    import triton\nexcept ImportError:\n    def resnet50(weights):\n        return 'the network'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ("triton", "torchvision", "torchvision.models")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        assert parity._torch_network("resnet50") == "the network"
        with pytest.raises(SystemExit, match="crashed"):
            importlib.import_module("triton")  # by whoever wants it later
    finally:
        for name in names:
            sys.modules.pop(name, None)


@pytest.mark.slow
def test_slim_features_equal_tf_slim(tmp_path):
    checkpoints.write(tmp_path / "in.ckpt", weights_of(dr.plan("resnet_v1_50")))
    name, error = parity.compare(tmp_path / "in.ckpt")
    assert name == "tf_slim.nets"
    assert error <= 2e-5


@pytest.mark.slow
def test_comparison_reports_why_it_is_impossible(tmp_path):
    for weights, reason in (
        (weights_of(dr.plan(BLOCKS, scope="tiny", kind="bottleneck_v1")), "no variant fits"),
        (WEIGHTS, "dense_resnet has no code to run"),
    ):
        with pytest.raises(parity.NotComparableError, match=reason):
            parity.compare(weights)
    conversion.write(conversion.open_network(state_dict(PLAN, WEIGHTS)), "model-dir", tmp_path / "model")
    with pytest.raises(parity.NotComparableError, match="came from torchvision / timm, but no longer have its names"):
        parity.compare(tmp_path / "model")
    checkpoints.write(tmp_path / "in.ckpt", weights_of(dr.plan("resnet_v1_18_beta")))
    with pytest.raises(parity.NotComparableError, match="tf_slim.nets has no resnet_v1_18_beta"):
        parity.compare(tmp_path / "in.ckpt")


@pytest.mark.slow
def test_a_swapped_array_is_detected(monkeypatch, timm_resnet):
    """What a wrong map would do: one of the framework's own arrays takes another's place."""
    arrays = state_dict(PLAN, WEIGHTS)
    swapped = {**arrays, "layer2.1.bn1.weight": arrays["layer2.1.bn2.weight"]}
    assert parity.compare(arrays)[1] <= laws.TOLERANCE
    monkeypatch.setattr(checkpoints, "raw", lambda source: swapped)
    assert parity.compare(arrays)[1] > 1e-2


@pytest.mark.slow
def test_features_that_are_not_finite_do_not_agree(monkeypatch):
    """Of any of the images that are compared."""
    for broken in parity.SIZES:

        def theirs(variant, arrays, broken=broken):
            plan = dr.plan(variant)
            own = laws.backbone_with(plan, WEIGHTS)
            return lambda images: own(images).numpy() * (np.nan if images.shape[1] == broken else 1)

        monkeypatch.setitem(parity.FRAMEWORKS, provenance.TORCH, ("other code", theirs, lambda arrays: True))
        name, error = parity.compare(state_dict(PLAN, WEIGHTS))
        assert (name, error <= laws.TOLERANCE, np.isnan(error)) == ("other code", False, True)


def test_invalid_arguments_are_refused_by_the_command(capsys, tmp_path):
    checkpoints.write(tmp_path / "in.safetensors", WEIGHTS)
    (tmp_path / "blocks.json").write_text("{")
    for arguments, message in [
        (("nothing.ckpt", "--to", "slim", "--out", tmp_path / "a.ckpt"), "nothing.ckpt: no such checkpoint"),
        (("nothing.pth", "--to", "slim", "--out", tmp_path / "a.ckpt"), "nothing.pth: no such file"),
        (("nothing.h5", "--to", "slim", "--out", tmp_path / "a.ckpt"), "nothing.h5: no such file"),
        ((tmp_path / "in.safetensors", "--to", "slim", "--out", tmp_path / "a"), "must have .ckpt"),
        ((tmp_path / "in.safetensors", "--to", "slim", "--out", tmp_path / "a.ckpt", "--model", "resnet_50"), "Did you mean"),
        ((tmp_path / "in.safetensors", "--to", "slim", "--out", tmp_path / "a.ckpt", "--root", "no"), "root must be one of"),
        (
            (tmp_path / "in.safetensors", "--to", "slim", "--out", tmp_path / "a.ckpt", "--model", tmp_path / "blocks.json"),
            "blocks.json: is not JSON",
        ),
    ]:
        code, _, err = run(capsys, "convert", *arguments)
        assert code == 1
        assert message in err
        assert err.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["blocks.json", "in.safetensors"]


def test_a_model_directory_keeps_its_stride(capsys, tmp_path):
    save_model(tmp_path / "model", small_model("fcn", output_stride=8), FIVE_CLASSES)
    code, _, _ = run(capsys, "convert", tmp_path / "model", "--to", "model-dir", "--out", tmp_path / "copy")
    assert code == 0
    assert load_model(tmp_path / "copy").model.backbone.plan.output_stride == 8
    code, _, _ = run(capsys, "convert", tmp_path / "model", "--to", "model-dir", "--out", tmp_path / "b", "--output-stride", 4)
    assert (code, load_model(tmp_path / "b").model.backbone.plan.output_stride) == (0, 4)


@pytest.mark.slow
def test_check_and_extract_take_a_converted_model_directory(capsys, tmp_path, photograph_folder):
    conversion.write(conversion.open_network(WEIGHTS), "model-dir", tmp_path / "model")
    code, out, _ = run(capsys, "check", tmp_path / "model", "--size", 65)
    assert (code, out.count("holds")) == (0, 5)
    image = photograph_folder / "cat.jpg"
    code, out, err = run(capsys, "extract", image, "--model", tmp_path / "model", "--size", 65, "--out", tmp_path / "features")
    assert code == 0, err
    assert dr.read_features(tmp_path / "features" / "cat.jpg.safetensors").map().shape == (3, 3, 512)  # at its own stride
    code, _, err = run(capsys, "check", tmp_path / "model", "--random-weights", 1)
    assert code == 1
    assert "a model directory has its own weights" in err
