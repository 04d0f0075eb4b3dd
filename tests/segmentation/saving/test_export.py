"""Exports: what stands on disk gives the model's answers, says what it is, and does not stay where it does not."""

import dataclasses
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN, ROOT
from helpers.command import SCENES_MODEL, run
from helpers.folders import names, room_for
from helpers.networks import small_model, small_plan, weights_of
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

import dense_resnet as dr
from dense_resnet import checkpoints
from dense_resnet.checkpoints.provenance import Origin
from dense_resnet.errors import InputError
from dense_resnet.extraction.features import read_features
from dense_resnet.image_io.decoding import decode_image, read_file
from dense_resnet.inference import compiled
from dense_resnet.inference.folded_weights import FoldedWeights
from dense_resnet.planning import variants
from dense_resnet.verification import laws
from segmentation.data import synthetic as drawn
from segmentation.data.label_files import decode_label
from segmentation.data.label_space import LabelSpace
from segmentation.heads.plan import HEADS
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving.export import agreement, exporter, files, foreign_run
from segmentation.saving.export.exporter import open_exported
from segmentation.saving.export.files import DESCRIPTION, GRAPH, is_exported
from segmentation.saving.export.foreign_run import ONEDNN, ONNX, OPENVINO, SAVED_MODEL, run_in_fresh_process
from segmentation.saving.model_directory import load_model, save_backbone, save_model

SPACE = LabelSpace.from_json({"classes": ["sky", "road", "car", "tree", "wall"], "ignore_label": 250})
PHOTOGRAPH = ROOT / "tools" / "coffee.jpg"
TARGET = {SAVED_MODEL: "exported", ONNX: "exported.onnx", OPENVINO: "for_openvino"}
EVERYTHING = ("features", "cells", "labels", "probabilities")
OLD = GOLDEN / "exported_b3f9543"  # small_model("fcn"), by the code before `sizes` was an input
CHECK_ELSEWHERE = agreement.check_elsewhere

needs_onednn = pytest.mark.skipif(not compiled.takes_rates(tf.float32), reason="this TensorFlow has no oneDNN")


@pytest.fixture(scope="module", autouse=True)
def not_elsewhere():
    """Exports are read back in this process only, where a test does not ask for more: a fresh TensorFlow takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "check_elsewhere", lambda *arguments: None)
        yield


@pytest.fixture
def elsewhere(monkeypatch):
    """They are read back in fresh processes too, as everywhere but here."""
    monkeypatch.setattr(agreement, "check_elsewhere", CHECK_ELSEWHERE)


@pytest.fixture(scope="module")
def photograph():
    """A real one, small: 80x120."""
    return np.ascontiguousarray(decode_image(PHOTOGRAPH, read_file(PHOTOGRAPH))[::5, ::5])


@pytest.fixture(scope="module")
def model():
    return small_model("aspp", image_pooling_crop=(65, 65))


def needs_onnx():
    for name in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(name)


@pytest.fixture(params=[SAVED_MODEL, ONNX, OPENVINO])
def to(request):
    """All formats."""
    if request.param == ONNX:
        needs_onnx()
    if request.param == OPENVINO:
        pytest.importorskip("openvino")
    return request.param


@pytest.fixture(scope="module")
def good(model, photograph, tmp_path_factory):
    """A SavedModel of `model`, to be copied."""
    path = tmp_path_factory.mktemp("good") / "exported"
    exporter.export(model, path, [photograph], space=SPACE, precision="float32")
    return path


@pytest.fixture(scope="module")
def good_onnx(model, photograph, tmp_path_factory):
    """Likewise as ONNX."""
    needs_onnx()
    path = tmp_path_factory.mktemp("good") / "exported.onnx"
    exporter.export(model, path, [photograph], space=SPACE, to=ONNX)
    return path


@pytest.fixture(scope="module")
def good_openvino(model, photograph, tmp_path_factory):
    """Likewise for OpenVINO."""
    pytest.importorskip("openvino")
    path = tmp_path_factory.mktemp("good") / "for_openvino"
    exporter.export(model, path, [photograph], space=SPACE, to=OPENVINO, precision="float32")
    return path


GOOD = ["good", "good_onnx", "good_openvino"]


def canvases(side=None, channels=3):
    """Two noise images, white beyond their sizes."""
    height, width = (side, side) if side else (70, 97)
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), np.uint8)
    sizes = np.array([[33, 60], [height, 41]], np.int32)
    for image, (rows, columns) in zip(pixels, sizes, strict=True):
        image[rows:], image[:, columns:] = 255, 255
    return pixels, sizes


def read_export(path):
    """Every byte of an export."""
    if path.is_file():
        return path.read_bytes()
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("head", "precision", "side"),
    [("aspp", "float32", None), ("decoder", "bfloat16", None), ("fcn", "bfloat16", 97)],
)
def test_saved_models_answer_as_the_runner_to_the_bit(head, precision, side, photograph, tmp_path):
    model = small_model(head)
    written, result = exporter.export(
        model, tmp_path / "new" / "exported", [photograph], space=SPACE, precision=precision, side=side
    )
    assert result.within(agreement.TOLERANCES[precision])
    assert (result.feature_error > 1e-3) == (precision == "bfloat16")
    assert names(tmp_path / "new") == ["exported"]
    exported = open_exported(written.path)
    runner, expected = exported.runner(precision), model.runner(precision, side=side, portable=True)
    pixels, sizes = canvases(side)
    for sizes_given in (sizes, None):
        values = runner(pixels, sizes_given, EVERYTHING)
        for name, value in expected(pixels, sizes_given, EVERYTHING).items():
            np.testing.assert_array_equal(values[name], value)
            assert values[name].dtype == value.dtype
    assert (runner.names, runner.side, runner.precision) == (EVERYTHING, side, precision)
    assert exported.outputs["labels"] == ("uint8 [batch, 97, 97]" if side else "uint8 [batch, height, width]")


@pytest.mark.slow
@pytest.mark.parametrize(("head", "side"), [("aspp", None), ("decoder", None), ("fcn", 97)])
def test_onnx_answers_as_the_runner(head, side, photograph, tmp_path):
    needs_onnx()
    model = small_model(head)
    written, result = exporter.export(model, tmp_path / "x.onnx", [photograph], space=SPACE, to=ONNX, side=side)
    assert result.within(agreement.TOLERANCES["float32"])
    assert names(tmp_path) == ["x.onnx"]
    runner, expected = open_exported(written.path).runner(), model.runner("float32", side=side)
    pixels, sizes = canvases(side)
    for sizes_given in (sizes, None):
        values = runner(pixels, sizes_given, EVERYTHING)
        for name, value in expected(pixels, sizes_given, EVERYTHING).items():
            assert values[name].dtype == value.dtype
            if name == "labels":
                assert np.mean(values[name] == value) > 0.999
            else:
                assert laws.relative_error(values[name], value) <= 1e-4
    shapes = {output.name: output.shape for output in runner._session.get_outputs()}
    assert shapes["labels"] == (["batch", 97, 97] if side else ["batch", "height", "width"])
    assert [given.name for given in runner._session.get_inputs()] == ["images", "sizes"]
    for name, value in values.items():  # the shapes it tells are those it gives
        assert [size for size in shapes[name] if isinstance(size, int)] == [
            value.shape[axis] for axis, size in enumerate(shapes[name]) if isinstance(size, int)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn", "v2, last unit"])
def test_tf2onnx_makes_the_same_without_the_kernels(name, photograph, monkeypatch, tmp_path):
    """It copies what it is given at each of its steps, so it gets none of what is heavy, and nothing shows in the file."""
    needs_onnx()
    import onnx
    import tf2onnx

    if name == "fcn":
        network, space = small_model(name), SPACE
    else:
        plan = small_plan(name, 8)
        network, space = laws.backbone_with(plan, weights_of(plan)), None
    given, convert, found = [], tf2onnx.convert.from_graph_def, []

    def record_size(graph, **arguments):
        given.append(graph.ByteSize())
        return convert(graph, **arguments)

    monkeypatch.setattr(tf2onnx.convert, "from_graph_def", record_size)
    pixels, sizes = canvases()
    for path in (tmp_path / "apart.onnx", tmp_path / "whole.onnx"):
        written, _ = exporter.export(network, path, [photograph], space=space, to=ONNX)
        graph = onnx.load(path).graph
        found.append(
            (
                sorted((node.op_type, len(node.input)) for node in graph.node),
                sorted((tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in graph.initializer),
                [value.tobytes() for value in written.runner()(pixels, sizes, written.network.names).values()],
            )
        )
        monkeypatch.setattr("segmentation.saving.export.onnx._extract_kernels", lambda graph: (graph, {}))
    assert found[0] == found[1]
    kernels = sum(value.nbytes for value in network.weights.values() if value.ndim == 4)
    assert given[0] <= given[1] - kernels


@pytest.mark.parametrize("headed", [True, False])
def test_weights_are_fingerprinted_once(headed, model, photograph, monkeypatch, tmp_path):
    network, calls, fingerprint = model if headed else model.backbone, [], checkpoints.fingerprint
    monkeypatch.setattr(checkpoints, "fingerprint", lambda weights: calls.append(len(weights)) or fingerprint(weights))
    written, _ = exporter.export(network, tmp_path / "x", [photograph], space=SPACE if headed else None, precision="float32")
    assert calls == [len(network.weights)]
    assert written.weights_sha256 == fingerprint(network.weights)


def test_a_backbone_without_a_head_is_exported(to, photograph, tmp_path):
    plan = small_plan("v2, last unit", 8)
    backbone = laws.backbone_with(plan, weights_of(plan))
    written, result = exporter.export(backbone, tmp_path / TARGET[to], [photograph], to=to, precision="float32")
    assert (result.feature_error <= 1e-4, result.label_agreement) == (True, None)
    exported = open_exported(written.path)
    assert (exported.plan, exported.head, exported.space) == (plan, None, None)
    pixels, sizes = canvases()
    values = exported.runner()(pixels, sizes)
    assert list(values) == ["features"]
    assert laws.relative_error(values["features"], backbone.runner("exact")(pixels, sizes)["features"]) <= 1e-4


def test_a_network_of_four_channels_is_exported(photograph, tmp_path):
    plan = variants.plan_from_config(variants.plan_config(small_plan("v1.5", 8)), 8, in_channels=4)
    plan = dataclasses.replace(plan, preprocessing="inception")
    written, result = exporter.export(
        laws.backbone_with(plan, weights_of(plan)), tmp_path / "x", [photograph], precision="float32"
    )
    assert result.feature_error <= 1e-4
    assert written.plan == plan


def test_plan_head_and_classes_come_back(model, good):
    exported = open_exported(good)
    assert (exported.plan, exported.head, exported.space) == (model.backbone.plan, model.head, SPACE)
    assert exported.weights_sha256 == exported.runner().weights_sha256 == checkpoints.fingerprint(model.weights)
    assert exported.preprocessing == exported.runner().preprocessing == model.backbone.plan.preprocessing
    assert (exported.kind, exported.path, exported.network.precision) == (SAVED_MODEL, good, "float32")


@pytest.mark.parametrize("fixture", GOOD)
def test_description_equals_that_of_the_model_directory(fixture, model, tmp_path, request):
    exported = open_exported(request.getfixturevalue(fixture))
    save_model(tmp_path, model, SPACE)
    protocol = load_model(tmp_path).protocol
    assert json.loads(json.dumps(exported.protocol)) == json.loads(json.dumps(protocol | {"export": exported.kind}))


def test_exports_keep_the_origin_of_weights(photograph, tmp_path):
    model, origin = small_model("fcn"), Origin("TF-Slim", preprocessing="vgg")
    written, _ = exporter.export(model, tmp_path / "x", [photograph], space=SPACE, origin=origin, training={"step": 7})
    description = open_exported(written.path).description
    assert (description["origin"], description["training"]) == (origin.as_json(), {"step": 7})


def test_the_graph_is_the_runners_and_holds_weights_once(model, good):
    (meta,) = saved_model_pb2.SavedModel.FromString((good / GRAPH).read_bytes()).meta_graphs
    assert {node.name: node.op for node in meta.graph_def.node} == {
        node.name: node.op for node in model.runner("float32", portable=True).graph.as_graph_def().node
    }
    assert (good / GRAPH).stat().st_size < sum(value.nbytes for value in model.weights.values()) + 2**17


def test_tensorflow_loads_the_signature(model, good):
    signatures = tf.saved_model.load(str(good)).signatures
    pixels, sizes = canvases()
    for values, sizes_given in (
        (signatures["serving_default"](images=tf.constant(pixels)), None),
        (signatures["sized"](images=tf.constant(pixels), sizes=tf.constant(sizes)), sizes),
    ):
        expected = model.runner("float32")(pixels, sizes_given, EVERYTHING)
        assert sorted(values) == ["features", "labels", "probabilities"]
        assert laws.relative_error(values["probabilities"], expected["probabilities"]) <= 1e-4
        assert np.mean(values["labels"] == expected["labels"]) > 0.999


@pytest.mark.parametrize("fixture", GOOD)
def test_nothing_beyond_an_images_size_is_read(fixture, request):
    runner = open_exported(request.getfixturevalue(fixture)).runner()
    pixels, sizes = canvases()
    others = pixels.copy()
    for image, (rows, columns) in zip(others, sizes, strict=True):
        image[rows:], image[:, columns:] = 3, 7
    values, same = (runner(one, sizes, EVERYTHING) for one in (pixels, others))
    assert all(np.array_equal(values[name], same[name]) for name in EVERYTHING)
    assert not np.array_equal(values["features"], runner(pixels)["features"])


@pytest.mark.parametrize("fixture", GOOD)
def test_a_predictor_runs_an_export(fixture, model, photograph, request):
    exported = open_exported(request.getfixturevalue(fixture))
    inference = Inference(size=129, tile=97, flip=True)
    labels = Predictor(exported.runner(), exported.head, inference)(photograph).labels
    assert np.mean(labels == Predictor(model.runner("exact"), model.head, inference)(photograph).labels) > 0.999


# -- wherever it runs --------------------------------------------------------------------------------------------------

ENVIRONMENTS = ({ONEDNN: "0"}, {}, {ONEDNN: "1"})
LENGTHS = ((33, 33), (33, 97), (50, 77), (65, 40), (80, 120), (97, 129), (100, 64), (129, 110))  # (height, width)


def make_undecided_model(head, image):
    """No class of which has the highest logits everywhere on that image."""
    model = small_model(head)
    logits = model.logits(dr.preprocess(image[None], model.backbone.plan.preprocessing))
    model._by_name["logits/semantic/biases"].assign_sub(tf.reduce_mean(logits, [0, 1, 2]))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("to", [SAVED_MODEL, ONNX])
def test_files_of_every_head_run_in_every_environment(to, photograph, capsys, tmp_path):
    """By plain TensorFlow and ONNX Runtime, at eight sizes, without this package: the labels are those of `predict`."""
    if to == ONNX:
        needs_onnx()
    mirrored = np.pad(photograph, [(0, 80), (0, 120), (0, 0)], "reflect")
    images = [np.ascontiguousarray(mirrored[:height, :width]) for height, width in LENGTHS]
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    calls = [{"images": image[None], "sizes": np.array([image.shape[:2]], np.int32)} for image in images]
    expected, paths = {}, {}
    for head in HEADS:
        save_model(tmp_path / head, make_undecided_model(head, images[-1]), SPACE)
        arguments = ["--model", tmp_path / head, "--precision", "float32", "--size", 33, "--out", tmp_path / f"of_{head}"]
        code, _, err = run(capsys, "predict", tmp_path / "images", *arguments)
        assert code == 0, err
        labels = [np.asarray(Image.open(tmp_path / f"of_{head}" / f"{number}.png")) for number in range(len(images))]
        expected[head] = np.concatenate([one.ravel() for one in labels])
        assert np.sort(np.bincount(expected[head]))[-2] > 0.05 * expected[head].size  # more than one class
        paths[head] = tmp_path / f"{head}{Path(TARGET[to]).suffix}"
        if to == SAVED_MODEL:
            paths[head] = tmp_path / f"{head}_exported"
        code, _, err = run(capsys, "export", tmp_path / head, "--to", to, "--precision", "float32", "--out", paths[head])
        assert code == 0, err

    def share(head, environment):
        found = run_in_fresh_process(to, paths[head], calls, ["labels"], environment)
        return np.mean(np.concatenate([one["labels"].ravel() for one in found]) == expected[head])

    cases = [(head, environment) for head in HEADS for environment in ENVIRONMENTS]
    with ThreadPoolExecutor(2) as pool:
        shares = list(pool.map(lambda case: share(*case), cases))
    assert min(shares) >= 0.999, list(zip(cases, shares, strict=True))


@pytest.mark.slow
def test_the_verb_runs_what_it_wrote_in_fresh_processes(elsewhere, model, photograph, capsys, monkeypatch, tmp_path):
    ran, fresh = [], foreign_run.run_in_fresh_process

    def record_call(kind, path, calls, names, environment):
        ran.append((kind, path.name, [sorted(call) for call in calls], names, dict(environment)))
        return fresh(kind, path, calls, names, environment)

    monkeypatch.setattr(agreement, "run_in_fresh_process", record_call)
    save_model(tmp_path / "model", model, SPACE)
    arguments = ["export", tmp_path / "model", "--to", "savedmodel", "--precision", "float32", "--out", tmp_path / "x"]
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    both, names = [["images", "sizes"], ["images"]], ["features", "labels"]
    assert ran == [(SAVED_MODEL, ".x.partial", both, names, environment) for environment in ({ONEDNN: "0"}, {})]
    assert "Ran it in a fresh process with TensorFlow alone" in out


@pytest.mark.slow
@needs_onednn
def test_exports_that_fail_in_a_fresh_process_are_not_written(elsewhere, model, photograph, monkeypatch, tmp_path):
    runner = type(model).runner
    monkeypatch.setattr(type(model), "runner", lambda *own, **given: runner(*own, **given | {"onednn": True}))
    with pytest.raises(
        InputError, match=rf"x: not written, because .* TensorFlow alone and {ONEDNN}=0 the export does not run: "
    ):
        exporter.export(model, tmp_path / "x", [photograph], space=SPACE, precision="float32")
    assert names(tmp_path) == []


def test_exports_that_differ_in_a_fresh_process_are_not_written(elsewhere, to, model, photograph, monkeypatch, tmp_path):
    def other(kind, path, calls, names, environment):
        shape = calls[0]["images"].shape[:3]
        return [{"features": np.ones((1, 9, 9, 16), np.float32), "labels": np.zeros(shape, np.uint8)} for _ in calls]

    monkeypatch.setattr(agreement, "run_in_fresh_process", other)
    with pytest.raises(InputError, match="not written, because .* gives other outputs than here: features differ by"):
        exporter.export(model, tmp_path / TARGET[to], [photograph], to=to, space=SPACE, precision="float32")
    assert names(tmp_path) == []


def atrous(path):
    """How many depthwise convolutions of a SavedModel have a rate, which TensorFlow runs with oneDNN alone."""
    (meta,) = saved_model_pb2.SavedModel.FromString((path / GRAPH).read_bytes()).meta_graphs
    depthwise = [node for node in meta.graph_def.node if node.op == "DepthwiseConv2dNative"]
    assert len(depthwise) == 3
    return sum(max(node.attr["dilations"].list.i) > 1 for node in depthwise)


def test_graphs_have_only_operations_of_every_tensorflow(good):
    assert atrous(good) == 0
    assert open_exported(good).description["onednn"] is False


@needs_onednn
def test_onednn_exports_are_refused_without_onednn(model, photograph, monkeypatch, tmp_path):
    written, _ = exporter.export(model, tmp_path / "x", [photograph], space=SPACE, precision="float32", onednn=True)
    assert atrous(tmp_path / "x") == 3
    assert written.description["onednn"] is True
    pixels, sizes = canvases()
    expected = model.runner("float32")(pixels, sizes)["features"]
    assert laws.relative_error(open_exported(tmp_path / "x").runner()(pixels, sizes)["features"], expected) <= 1e-4
    for module in (compiled, exporter):
        monkeypatch.setattr(module, "takes_rates", lambda dtype: False)
    with pytest.raises(InputError, match=f"operators that TensorFlow runs with oneDNN alone, and it is off here.*{ONEDNN}=1"):
        open_exported(tmp_path / "x")
    with pytest.raises(InputError, match="onednn: this TensorFlow runs without oneDNN"):
        exporter.export(model, tmp_path / "y", [photograph], space=SPACE, onednn=True)


@needs_onednn
def test_the_form_for_onednn_is_recorded_where_there_is_one(photograph, tmp_path):
    """A head without atrous depthwise convolutions runs anywhere, whatever was asked for."""
    written, _ = exporter.export(
        small_model("fcn"), tmp_path / "x", [photograph], space=SPACE, precision="float32", onednn=True
    )
    assert written.description["onednn"] is False


def test_a_signal_that_ends_the_fresh_process_is_named(monkeypatch):
    done = subprocess.CompletedProcess([], -9, b"", b"I0000 To enable the following instructions: AVX2 FMA")
    monkeypatch.setattr(foreign_run.subprocess, "run", lambda *unused, **options: done)
    with pytest.raises(foreign_run.ForeignRunError, match="^signal 9 ended it$"):
        foreign_run.run_in_fresh_process("onnx", "x.onnx", [{}], ["labels"], {})


def onnx_inputs(path):
    """{name: type} of an ONNX file's inputs, none of which is an initializer."""
    import onnx

    graph = onnx.load(path).graph
    assert not {info.name for info in graph.input} & {tensor.name for tensor in graph.initializer}
    assert all(info.doc_string for info in (*graph.input, *graph.output))
    assert "(height, width)" in next(info.doc_string for info in graph.input if info.name == "sizes")
    return {info.name: info.type.WhichOneof("value") for info in graph.input}


@pytest.mark.slow
def test_sizes_are_an_input_of_onnx(model, photograph, good_onnx, tmp_path):
    """Of the optional kind where they may be left out, which OpenVINO and others do not know; else like any other."""
    import onnxruntime

    assert onnx_inputs(good_onnx) == {"images": "tensor_type", "sizes": "optional_type"}
    for name, options in (("required.onnx", {"require_sizes": True}), ("only.onnx", {"side": 97})):
        exporter.export(model, tmp_path / name, [photograph], to=ONNX, space=SPACE, **options)
        assert onnx_inputs(tmp_path / name) == {"images": "tensor_type", "sizes": "tensor_type"}
        assert "left out" not in open_exported(tmp_path / name).inputs["sizes"]
        with pytest.raises(ValueError, match=r"Required inputs \(\['sizes'\]\) are missing"):
            onnxruntime.InferenceSession(tmp_path / name).run(["labels"], {"images": np.zeros((1, 97, 97, 3), np.uint8)})
    assert "left out" in open_exported(good_onnx).inputs["sizes"]


def test_onnx_runtime_warns_of_nothing(good_onnx):
    code = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(good_onnx)], capture_output=True, text=True, check=True)
    assert "graph.cc" not in done.stderr
    assert "sizes" not in done.stderr


@pytest.mark.parametrize("sizes", [(97, 70), (71, 97), (70, 98), (-1, 20)])
def test_sizes_that_a_canvas_does_not_hold(sizes, good_onnx, good):
    """(width, height) among them: the graphs refuse them themselves, in whatever runs them."""
    import onnxruntime

    given = {"images": canvases()[0], "sizes": np.array([(70, 97), sizes], np.int32)}
    with pytest.raises(Exception, match="(height|width)_within_the_canvas.*out of data bounds"):
        onnxruntime.InferenceSession(good_onnx).run(["labels"], given)
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)(height|width)_within_the_canvas"):
        tf.saved_model.load(str(good)).signatures["sized"](**{name: tf.constant(value) for name, value in given.items()})
    for path in (good, good_onnx):
        with pytest.raises(InputError, match=r"sizes must be the \(height, width\) of each of the 2 images, within its canvas"):
            open_exported(path).runner()(given["images"], given["sizes"])


@pytest.mark.parametrize("name", ["fcn", "fcn.onnx"])
def test_exports_of_earlier_versions_are_read(name):
    if name == "fcn.onnx":
        needs_onnx()
    exported, model = open_exported(OLD / name), small_model("fcn", canvas="padded")  # the rule of their time
    pixels, sizes = canvases()
    for sizes_given in (sizes, None):
        values = exported.runner()(pixels, sizes_given, ("features", "labels"))
        expected = model.runner("float32")(pixels, sizes_given, ("features", "labels"))
        assert laws.relative_error(values["features"], expected["features"]) <= 1e-4
        assert np.mean(values["labels"] == expected["labels"]) > 0.999
    assert "left out" in exported.inputs["sizes"]


# -- what does not stay ------------------------------------------------------------------------------------------------


@pytest.fixture
def old(to, good, request, tmp_path):
    """A good export where a new one is to stand."""
    path = tmp_path / TARGET[to]
    if to == ONNX:
        return Path(shutil.copy(request.getfixturevalue("good_onnx"), path))
    return Path(shutil.copytree(good if to == SAVED_MODEL else request.getfixturevalue("good_openvino"), path))


def break_one_weight(monkeypatch):
    right = FoldedWeights.fold_batch_norm

    def wrong(layers, conv):
        kernel, bias = right(layers, conv)
        if conv.scope.endswith("unit_2/bottleneck_v1/conv1"):
            kernel[0, 0, 0, 0] += 1
        return kernel, bias

    monkeypatch.setattr(FoldedWeights, "fold_batch_norm", wrong)


def test_one_wrong_weight_keeps_the_old_export(to, old, model, photograph, monkeypatch):
    before = read_export(old)
    break_one_weight(monkeypatch)
    with pytest.raises(InputError, match="not written, because the export is not the model: features differ by at most"):
        exporter.export(model, old, [photograph], to=to, space=SPACE, precision="float32")
    assert names(old.parent) == [old.name]
    assert read_export(old) == before


def test_tolerance_covers_label_agreement():
    tolerance = agreement.TOLERANCES["float32"]
    assert agreement.Agreement(1e-5, 0.9995).within(tolerance)
    assert not agreement.Agreement(1e-5, 0.99).within(tolerance)
    assert not agreement.Agreement(float("nan"), None).within(tolerance)


def test_the_old_one_stands_until_the_new_one_has_passed(to, old, photograph, monkeypatch):
    before, other = read_export(old), small_model("fcn")
    seen, compare = [], agreement.compare

    def check_old_export(*arguments):
        seen.append(read_export(old) == before)
        return compare(*arguments)

    monkeypatch.setattr(agreement, "compare", check_old_export)
    written, _ = exporter.export(other, old, [photograph], to=to, space=SPACE, precision="float32")
    assert (seen, names(old.parent)) == ([True], [old.name])
    assert open_exported(old).head == written.head == other.head


def test_files_created_during_an_export_are_kept(to, model, photograph, tmp_path, monkeypatch):
    path, compare = tmp_path / TARGET[to], agreement.compare
    mine = path if to == "onnx" else path / "mine"

    def meanwhile(*arguments):
        mine.parent.mkdir(exist_ok=True)
        mine.write_bytes(b"precious")
        return compare(*arguments)

    monkeypatch.setattr(agreement, "compare", meanwhile)
    with pytest.raises(InputError, match="exists, and is not an export"):
        exporter.export(model, path, [photograph], to=to, space=SPACE, precision="float32")
    assert mine.read_bytes() == b"precious"
    assert names(tmp_path) == [path.name]


def test_leftovers_of_a_killed_export_are_removed(good, model, photograph, tmp_path, monkeypatch):
    """Half of a new one, and the old one already moved aside: it comes back before anything else happens."""
    shutil.copytree(good, tmp_path / ".exported.old")
    (tmp_path / ".exported.partial").mkdir()
    (tmp_path / ".exported.partial" / GRAPH).write_bytes(b"half")
    break_one_weight(monkeypatch)
    with pytest.raises(InputError, match="not written"):
        exporter.export(model, tmp_path / "exported", [photograph], space=SPACE, precision="float32")
    assert names(tmp_path) == ["exported"]
    assert read_export(tmp_path / "exported") == read_export(good)


def test_a_full_disk(to, old, model, photograph):
    before = read_export(old)
    with room_for(20_000), pytest.raises(InputError, match="cannot be written|MiB are needed"):
        exporter.export(model, old, [photograph], to=to, space=SPACE, precision="float32")
    assert names(old.parent) == [old.name]
    assert read_export(old) == before


def test_only_exports_are_replaced(model, photograph, good, tmp_path):
    folder = tmp_path / "folder"
    save_model(folder, small_model("fcn"), SPACE)
    more = tmp_path / "more"
    shutil.copytree(good, more)
    (more / "notes.txt").write_text("mine")
    for path in (folder, more):
        with pytest.raises(InputError, match="exists, and is not an export"):
            exporter.export(model, path, [photograph], space=SPACE)
    assert (more / "notes.txt").read_text() == "mine"


def test_an_onnx_file_of_others_is_never_replaced(model, photograph, tmp_path):
    needs_onnx()
    path = tmp_path / "theirs.onnx"
    for content in (b"theirs", b"theirs" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="exists, and is not an export"):
            exporter.export(model, path, [photograph], to=ONNX, space=SPACE)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "tf"}, r"to must be one of 'savedmodel', 'onnx', 'openvino', 'tflite' \(not 'tf'\)"),
        ({"precision": "exact"}, r"precision must be one of 'auto', 'float32', 'bfloat16', 'int8' \(not 'exact'\)"),
        ({"side": 100}, r"size must be 32n\+1 pixels \(not 100\); next: 129"),
        ({"to": ONNX, "precision": "bfloat16"}, "ONNX Runtime has no bfloat16 convolutions on processors"),
        ({"precision": "int8"}, "TensorFlow has no int8 convolutions on processors: export to openvino, onnx or tflite"),
        ({"to": ONNX, "precision": "int8"}, "int8 takes the ranges of activations from images: --calibrate"),
        ({"to": ONNX, "onednn": True}, "--onednn is for --to savedmodel"),
        ({"side": 33}, "size must be at least 65: the head takes the image's mean over windows of that many pixels"),
        ({"space": None}, "space must name the 5 classes of the model"),
        ({"require_sizes": True}, "--require-sizes is for --to onnx: a SavedModel has a signature with sizes"),
    ],
)
def test_invalid_requests_are_refused(arguments, message, model, photograph, tmp_path):
    with pytest.raises(InputError, match=message):
        exporter.export(model, tmp_path / "x", [photograph], **{"space": SPACE, **arguments})
    assert names(tmp_path) == []


def test_names_tell_the_format(model, photograph, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "require", lambda *modules: None)
    with pytest.raises(InputError, match=r"the name must end in \.onnx for 'onnx'"):
        exporter.export(model, tmp_path / "x", [photograph], to=ONNX, space=SPACE)
    with pytest.raises(InputError, match=r"the name must not end in \.onnx for 'savedmodel'"):
        exporter.export(model, tmp_path / "x.onnx", [photograph], space=SPACE)


def test_missing_onnx_packages_are_named(model, photograph, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"tf2onnx and onnx and onnxruntime must be installed: pip install dense-resnet\[onnx\]"
    ):
        exporter.export(model, tmp_path / "x.onnx", [photograph], to=ONNX, space=SPACE)


# -- what is not opened ------------------------------------------------------------------------------------------------


def test_runner_refuses_other_precisions(good):
    exported = open_exported(good)
    assert exported.runner("float32") is exported.runner("auto")
    for precision in ("bfloat16", "exact"):
        with pytest.raises(InputError, match=f"was exported in float32, and cannot run in '{precision}'"):
            exported.runner(precision)


def test_runner_refuses_other_canvases(photograph, tmp_path):
    written, _ = exporter.export(small_model("fcn"), tmp_path / "x", [photograph], space=SPACE, side=97)
    with pytest.raises(InputError, match="was exported for canvases of 97x97 pixels"):
        written.runner()(np.zeros((1, 129, 129, 3), np.uint8))


def flip_bit(data, place):
    """With one bit the other way."""
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("file", [Path(GRAPH), DESCRIPTION])
def test_damaged_saved_models(file, good, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(good, path)
    data = (path / file).read_bytes()
    damaged = [data[:length] for length in (0, 1, len(data) // 2, len(data) - 2)]
    damaged += [flip_bit(data, place) for place in np.random.default_rng(0).integers(0, len(data) - 1, 20)]
    for content in damaged:
        (path / file).write_bytes(content)
        with pytest.raises(InputError, match=str(path)):
            open_exported(path)
    (path / file).unlink()
    with pytest.raises(InputError, match=str(path)):
        open_exported(path)


def test_damaged_onnx(good_onnx, tmp_path):
    path = tmp_path / "damaged.onnx"
    data = good_onnx.read_bytes()
    damaged = [data[:length] for length in (0, 1, 50, len(data) // 2, len(data) - 1)] + [data + b"\0"]
    damaged += [flip_bit(data, place) for place in np.random.default_rng(0).integers(0, len(data), 20)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged\.onnx: does not end in the sha256 of what is before it"):
            open_exported(path)
    path.unlink()
    with pytest.raises(InputError, match=r"damaged\.onnx: cannot be read: No such file"):
        open_exported(path)


def seal(folder, graph, **changes):
    """What somebody makes who knows how the digest is made."""
    (folder / GRAPH).write_bytes(graph)
    description = json.loads((folder / DESCRIPTION).read_text()) | changes
    description["sha256"] = files._digest(description, graph)
    (folder / DESCRIPTION).write_text(json.dumps(description))


def test_foreign_graph_operations_are_refused(good, tmp_path):
    path = tmp_path / "made up"
    shutil.copytree(good, path)
    saved = saved_model_pb2.SavedModel.FromString((path / GRAPH).read_bytes())
    with tf.Graph().as_default() as graph:
        tf.io.read_file("/etc/hostname", name="features")
    saved.meta_graphs[0].graph_def.CopyFrom(graph.as_graph_def())
    seal(path, saved.SerializeToString())
    with pytest.raises(InputError, match=r"has operations that no export has \(ReadFile\), and is not run"):
        open_exported(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"format 2 is not read by this version, which reads 1\.$"),
        ({"plan": "resnet_v9"}, "its description is not one of `export`"),
        ({"classes": 5}, "its description is not one of `export`"),
        ({"head": {"type": "aspp"}}, "its description is not one of `export`: KeyError"),
        ({"preprocessing": "none"}, r"preprocessing must be one of inception, vgg, caffe, torch \(not 'none'\)\.$"),
    ],
)
def test_invalid_descriptions_are_refused(changes, message, good, tmp_path):
    path = tmp_path / "other"
    shutil.copytree(good, path)
    seal(path, (path / GRAPH).read_bytes(), **changes)
    with pytest.raises(InputError, match=message):
        open_exported(path)


def test_unreadable_graphs_are_refused(good, tmp_path):
    path = tmp_path / "other"
    shutil.copytree(good, path)
    seal(path, b"no protocol buffer")
    with pytest.raises(InputError, match=f"{GRAPH}: cannot be read by TensorFlow"):
        open_exported(path)


def test_foreign_onnx_files_are_refused(good_onnx, tmp_path):
    import onnx

    model = onnx.load(good_onnx)
    assert {entry.key for entry in model.metadata_props} == {"dense_resnet", "dense_resnet_sha256"}
    onnx.checker.check_model(model)
    path = tmp_path / "theirs.onnx"
    del model.metadata_props[:]
    data = model.SerializeToString()
    path.write_bytes(data)
    with pytest.raises(InputError, match="or is not a file of `export`"):
        open_exported(path)
    path.write_bytes(data + files.seal(data))
    with pytest.raises(InputError, match="cannot be run by ONNX Runtime"):
        open_exported(path)


def test_the_seal_is_the_digest(good_onnx):
    data = good_onnx.read_bytes()
    assert data[-64:].decode() == hashlib.sha256(data[: -files.SEAL_SIZE]).hexdigest()


def test_exports_are_recognized_by_their_paths(good, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"")
    assert is_exported(good)
    assert is_exported(str(tmp_path / "x.onnx"))
    assert not any(map(is_exported, (tmp_path, tmp_path / "y.onnx", "resnet_v2_50", None)))


# -- the verb ----------------------------------------------------------------------------------------------------------


def test_the_verb_exports_the_shipped_model(capsys, tmp_path):
    code, out, err = run(
        capsys, "export", SCENES_MODEL, "--to", "savedmodel", "--precision", "float32", "--size", 257, "--out", tmp_path / "x"
    )
    assert code == 0, err
    agree = ("100.000%",) if compiled.takes_rates(tf.float32) else ("100.000%", "99.99")  # with oneDNN here, none is near a tie
    assert any(f"labels agree on {share}" in out for share in agree)
    assert "uint8 [batch, 257, 257, 3]" in out
    exported, saved = open_exported(tmp_path / "x"), load_model(SCENES_MODEL)
    assert (exported.plan, exported.head, exported.space) == (saved.plan, saved.head, saved.space)
    assert exported.description["training"] == saved.training
    snippet = out.partition("To run it:\n")[2].replace("  ", "")
    scope = {"images": np.zeros((1, 257, 257, 3), np.uint8)}
    exec(snippet, scope)
    assert scope["labels"].shape == (1, 257, 257)


def test_the_verb_refuses_a_wrong_export(capsys, tmp_path, monkeypatch):
    save_model(tmp_path / "model", small_model("fcn"), SPACE)
    break_one_weight(monkeypatch)
    code, _, err = run(
        capsys, "export", tmp_path / "model", "--to", "savedmodel", "--precision", "float32", "--out", tmp_path / "x"
    )
    assert (code, names(tmp_path)) == (1, ["model"])
    assert "not written, because the export is not the model" in err


def test_the_verb_takes_a_backbone(capsys, to, tmp_path):
    plan = small_plan("v1.5", 8)
    save_backbone(tmp_path / "backbone", laws.backbone_with(plan, weights_of(plan)), Origin("TF-Slim"))
    arguments = ["--to", to, "--out", tmp_path / TARGET[to], "--precision", "float32", "--output-stride", 4]
    code, out, err = run(capsys, "export", tmp_path / "backbone", *arguments)
    assert code == 0, err
    exported = open_exported(tmp_path / TARGET[to])
    assert (exported.plan.output_stride, exported.head) == (4, None)
    assert exported.description["origin"]["framework"] == "TF-Slim"
    scope = {"images": np.zeros((1, 40, 50, 3), np.uint8)}
    exec(out.partition("To run it:\n")[2].replace("  ", ""), scope)
    assert scope["features"].shape == (1, *exported.plan.feature_size(plan.aligned_size((40, 50))), plan.depth)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["dynamic", 129])
@pytest.mark.parametrize("crop", [None, (65, 65)])
def test_the_printed_example_takes_images_of_any_size(size, crop, to, capsys, tmp_path):
    """Those that are smaller than what the head pools over, too, and several at once."""
    model = small_model("aspp", image_pooling_crop=crop)
    save_model(tmp_path / "model", model, SPACE)
    arguments = ["--to", to, "--out", tmp_path / TARGET[to], "--precision", "float32", "--size", size]
    code, out, err = run(capsys, "export", tmp_path / "model", *arguments)
    assert code == 0, err
    example = out.partition("To run it:\n")[2].replace("  ", "")
    exported, runner = open_exported(tmp_path / TARGET[to]), model.runner("float32")
    for height, width in ((129, 129), (40, 77), (5, 100)):
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        scope = {"images": images}
        exec(example, scope)
        canvas = (size, size) if size == 129 else [max(side, exported.least_canvas) for side in (height, width)]
        padded = np.full((2, *canvas, 3), 255, np.uint8)
        padded[:, :height, :width] = images
        expected = runner(padded, [(height, width)], ("labels",))["labels"][:, :height, :width]
        assert np.mean(np.asarray(scope["labels"]) == expected) > 0.999
        assert scope["labels"].shape == (2, height, width)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--require-sizes"], "--require-sizes is for --to onnx"),
        (["--onednn", "--to", "onnx"], "--onednn is for --to savedmodel"),
        (["--size", "large"], "--size must be dynamic or a number of pixels"),
        (["--size", 500], r"size must be 32n+1 pixels (not 500); next: 513"),
        (["--multi-grid", 1, 2], "leave --multi-grid out"),
    ],
)
def test_verb_refuses_invalid_options(arguments, message, capsys, tmp_path):
    code, _, err = run(capsys, "export", SCENES_MODEL, "--to", "savedmodel", "--out", tmp_path / "x", *arguments)
    assert (code, names(tmp_path)) == (1, [])
    assert message in err


# -- the other verbs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three drawn scenes with labels."""
    folder = tmp_path_factory.mktemp("scenes")
    drawn.write_scenes(folder, 1, 3, size=129)
    return folder


@pytest.fixture(scope="module")
def shipped(scenes, tmp_path_factory):
    """Exports of the shipped model, by format."""
    folder = tmp_path_factory.mktemp("shipped")
    saved = load_model(SCENES_MODEL)
    image = decode_image(PHOTOGRAPH, read_file(PHOTOGRAPH))[::3, ::3]
    paths = {to: folder / TARGET[to] for to in (SAVED_MODEL, ONNX, OPENVINO)}
    needed = {SAVED_MODEL: (), ONNX: ("tf2onnx", "onnx", "onnxruntime"), OPENVINO: ("openvino",)}
    for to, path in paths.items():
        if all(importlib.util.find_spec(name) for name in needed[to]):
            exporter.export(saved.model, path, [image], space=saved.space, to=to, precision="float32", side=129)
    return paths


@pytest.mark.slow
def test_evaluate_and_predict_take_exports(to, shipped, scenes, capsys, tmp_path):
    found = {}
    for name, model in (("directory", [SCENES_MODEL, "--precision", "float32", "--size", 129]), ("export", [shipped[to]])):
        out = tmp_path / name
        code, _, err = run(capsys, "evaluate", scenes, "--split", "val", "--model", *model, "--out", out, "--no-report")
        assert code == 0, err
        code, _, err = run(capsys, "predict", scenes / "images" / "val", "--model", *model, "--out", out / "labels")
        assert code == 0, err
        labels = [decode_label(path, path.read_bytes(), drawn.SPACE) for path in sorted((out / "labels").rglob("*.png"))]
        found[name] = json.loads((out / "evaluation.json").read_text()), np.stack(labels)
    (own, own_labels), (other, other_labels) = found.values()
    assert other["mean_iou"] == pytest.approx(own["mean_iou"], abs=1e-4)
    assert np.mean(own_labels == other_labels) > 0.9999
    assert other["protocol"]["system"]["export"] == to
    assert other["protocol"]["inference"] == own["protocol"]["inference"]


def test_extract_takes_exports(to, shipped, scenes, capsys, tmp_path):
    image = next((scenes / "images" / "val").rglob("*.*"))
    for name, model in (("directory", [SCENES_MODEL, "--precision", "float32", "--size", 129]), ("export", [shipped[to]])):
        code, _, err = run(capsys, "extract", image, "--model", *model, "--out", tmp_path / name)
        assert code == 0, err
    protocol = json.loads((tmp_path / "export" / "extraction.json").read_text())
    assert (protocol["export"], protocol["precision"]) == (to, "float32")
    own, other = (read_features(tmp_path / name / f"{image.name}.safetensors").map(8) for name in ("directory", "export"))
    assert laws.relative_error(other, own) <= 1e-4


def test_images_too_large_for_an_export_are_found_before_any_compute(shipped, scenes, capsys, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    for folder in ("images", "labels"):
        path = min((data / folder / "val").iterdir())
        Image.open(path).resize((150, 120), Image.Resampling.NEAREST).save(path)
    told = "its 150x120 pixels run at 161x129, and this network was exported only for 129x129: --tile 129 cuts it into"
    verbs = {"evaluate": [data, "--split", "val", "--no-report"], "predict": [data / "images" / "val"]}
    for verb, arguments in verbs.items():
        out = tmp_path / verb
        command = [verb, *arguments, "--model", shipped[SAVED_MODEL], "--out", out]
        code, _, err = run(capsys, *command)
        assert code == 1
        assert "1 of 3 " in err
        assert told in err
        assert not out.exists()
        code, printed, err = run(capsys, *command, "--on-error", "skip")
        assert code == 0, err
        assert told in printed
        code, _, err = run(capsys, *command[:-1], tmp_path / f"{verb}_tiled", "--tile", 129)
        assert code == 0, err


def test_scales_that_an_export_does_not_take(shipped):
    exported = open_exported(shipped[SAVED_MODEL])
    predictor = Predictor(exported.runner(), exported.head, Inference(size=129, scales=(1.0, 1.5)))
    with pytest.raises(
        InputError, match=r"its 90x100 pixels run at 193x193, and this network .* only for 129x129: `export --size"
    ):
        predictor.check_size("a.png", (100, 90))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "bfloat16"], "float32"),
        (["--exact"], "float32"),
        (["--output-stride", 16], "was exported at output_stride 8"),
        (["--size", 257], "129"),
    ],
)
def test_options_that_an_export_cannot_meet_are_refused(arguments, message, shipped, scenes, capsys, tmp_path):
    code, _, err = run(capsys, "predict", scenes / "images", "--model", shipped[SAVED_MODEL], "--out", tmp_path, *arguments)
    assert code == 1
    assert message in err


@pytest.mark.parametrize("given", [["--weights", "a.ckpt"], ["--random-weights", 0], ["--multi-grid", 1, 2, 4]])
def test_weights_options_are_refused_with_an_export(given, shipped, scenes, capsys, tmp_path):
    out = ["--out", tmp_path / "out"]
    code, _, err = run(capsys, "extract", scenes / "images", "--model", shipped[SAVED_MODEL], *out, *given)
    assert code == 1
    assert f"{shipped[SAVED_MODEL]}: an exported file has its own weights: leave --weights, " in err


def test_predict_refuses_an_exported_backbone(capsys, scenes, photograph, tmp_path):
    plan = small_plan("v2, last unit", 8)
    exporter.export(laws.backbone_with(plan, weights_of(plan)), tmp_path / "x", [photograph], precision="float32")
    code, _, err = run(capsys, "predict", scenes / "images", "--model", tmp_path / "x", "--out", tmp_path / "out")
    assert code == 1
    assert "a backbone without a segmentation head: use it with `extract`" in err
