"""int8: what it costs is told before an export is kept, too high a price keeps parts in float32, and a kill leaves nothing."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, TESTS
from helpers.command import SCENES_MODEL, run
from helpers.datasets import image_file, own_dataset
from helpers.folders import names, wait_for
from helpers.networks import image_of, small_model, small_plan, weights_of
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.inference.folded_weights import FoldedWeights
from dense_resnet.verification import laws
from segmentation.data import synthetic
from segmentation.data.label_space import LabelSpace
from segmentation.data.layouts import open_dataset
from segmentation.metrics import boundaries
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving.export import agreement, calibration, exporter, price, search
from segmentation.saving.export.calibration import take, take_images
from segmentation.saving.export.exporter import open_exported
from segmentation.saving.export.foreign_run import ONNX, OPENVINO, TFLITE
from segmentation.saving.model_directory import load_model, save_model

SPACE = LabelSpace.from_json({"classes": ["sky", "road", "car", "tree", "wall"]})
TARGET = {ONNX: "exported.onnx", OPENVINO: "for_openvino", TFLITE: "exported.tflite"}
NEEDED = {ONNX: ("tf2onnx", "onnx", "onnxruntime"), OPENVINO: ("openvino", "nncf"), TFLITE: ("ai_edge_litert",)}
ENGINES = {ONNX: "onnxruntime", OPENVINO: "openvino", TFLITE: "litert"}
ONLY = {TFLITE: {"side": 129}}  # such a file has one canvas
TRAINING = {"validation": [1], "validation_size": 129}
FIRST_AND_LAST = {"tiny/conv1": search.FIRST, "logits/semantic": search.LAST}


@pytest.fixture(params=[ONNX, TFLITE, pytest.param(OPENVINO, marks=pytest.mark.slow)], scope="module")
def to(request):
    """All formats that have it."""
    for name in NEEDED[request.param]:
        pytest.importorskip(name)
    return request.param


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images of noise."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        Image.fromarray(image_of(80, 97 + number, number)).save(folder / f"{number}.png")
    return folder


def export(network, path, images, to, **arguments):
    return exporter.export(
        network, path, [image_of(80, 100)],
        **{"to": to, "precision": "int8", "space": SPACE, "training": TRAINING, "calibration": take_images([str(images)])}
        | ONLY.get(to, {}) | arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def good(to, images, tmp_path_factory):
    """A small network in int8, which was run here alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "check_elsewhere", lambda *arguments: None)
        patch.setattr(price, "LEAST_AGREEMENT", 0.5)  # its classes nearly tie
        path = tmp_path_factory.mktemp("good") / TARGET[to]
        return export(small_model("fcn"), path, images, to)


def test_it_says_what_it_is_and_what_it_costs(good, to):
    written, float32 = good
    assert float32.within(agreement.TOLERANCES["float32"])
    assert names(written.path.parent) == [TARGET[to]]
    exported = open_exported(written.path)
    assert (exported.network.precision, exported.runner("int8")) == ("int8", exported.network)
    assert exported.description["quantization"]["float32"] == FIRST_AND_LAST
    told = price.Price.from_json(exported.description["price"])
    assert (told.images, told.held_out, told.mean_iou) == (3, True, None)
    assert 0.01 < told.feature_error < price.MOST_ERROR
    assert 0.8 < told.label_agreement < 1
    assert exported.protocol["quantization"] == exported.description["quantization"]  # ranges of other images: another network


def test_all_but_the_first_convolution_and_the_last_layer_is_in_int8(good, to):
    found = layers_in_int8(good[0].path, to)
    assert {name for name, quantized in found.items() if not quantized} == {"tiny/conv1", "logits/semantic"}
    assert len(found) > 15


def layers_in_int8(path, to):
    """{convolution: whether its weights are in 8 bits}."""
    if to == ONNX:
        import onnx

        graph = onnx.load(path).graph
        makers = {name: node.op_type for node in graph.node for name in node.output}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        return {
            node.name.removesuffix("/bias"): [makers.get(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2
            for node in convolutions
        }
    if to == TFLITE:
        from ai_edge_litert import schema_py_generated as schema

        (graph,) = schema.ModelT.InitFromPackedBuf(path.read_bytes()).subgraphs
        convolutions = (schema.BuiltinOptions.Conv2DOptions, schema.BuiltinOptions.DepthwiseConv2DOptions)
        outputs = [graph.tensors[one.outputs[0]] for one in graph.operators if one.builtinOptionsType in convolutions]
        return {  # a tensor has the names of all that was fused
            next(name for name in one.name.decode().split(";") if "/" in name).removesuffix("/bias"): one.type
            == schema.TensorType.INT8
            for one in outputs
        }
    import openvino

    model = openvino.Core().read_model(path / "model.xml")

    def types_above(port):
        node = port.get_node()
        yield node.get_output_element_type(0).get_type_name()
        for value in node.input_values():
            yield from types_above(value)

    return {
        node.get_friendly_name(): "i8" in set(types_above(node.input_value(1)))
        for node in model.get_ops()
        if node.get_type_name() == "Convolution"
    }


def test_a_backbone_is_told_by_its_features(to, images, monkeypatch, tmp_path):
    monkeypatch.setattr(agreement, "check_elsewhere", lambda *arguments: None)
    plan = small_plan("v2, last unit", 8)
    backbone = laws.backbone_with(plan, weights_of(plan))
    written, _ = export(backbone, tmp_path / TARGET[to], images, to, space=None, side=97)
    told = price.Price.from_json(written.description["price"])
    assert (told.label_agreement, told.mean_iou) == (None, None)
    assert 0.01 < told.feature_error < 0.3


def test_one_wrong_weight_is_refused(to, images, monkeypatch, tmp_path):
    """However much int8 may differ: what is quantized is compared as an export in float32."""
    right = FoldedWeights.fold_batch_norm

    def wrong(layers, conv):
        kernel, bias = right(layers, conv)
        kernel[0, 0, 0, 0] += conv.scope.endswith("unit_2/bottleneck_v1/conv1")
        return kernel, bias

    monkeypatch.setattr(FoldedWeights, "fold_batch_norm", wrong)
    with pytest.raises(InputError, match="not written, because the export is not the model: features differ by at most"):
        export(small_model("fcn"), tmp_path / TARGET[to], images, to)
    assert names(tmp_path) == []


def test_what_was_written_is_compared_with_what_was_quantized(to, images, monkeypatch, tmp_path):
    opened = exporter._open

    def open_another(path, kind):
        exported = opened(path, kind)
        run_right = exported.network._run
        exported.network._run = lambda *given: {name: 1 - values for name, values in run_right(*given).items()}
        return exported

    monkeypatch.setattr(exporter, "_open", open_another)
    with pytest.raises(InputError, match="not written, because the export does not give what was quantized: features differ"):
        export(small_model("fcn"), tmp_path / TARGET[to], images, to)
    assert names(tmp_path) == []


def test_too_high_a_price_is_refused_and_leaves_nothing(to, images, monkeypatch, tmp_path):
    monkeypatch.setattr(price, "MOST_ERROR", 1e-4)
    notes = []
    with pytest.raises(InputError, match=r"not written, because int8 costs too much, even with 3 of 7 parts in float32: featu"):
        export(small_model("fcn"), tmp_path / TARGET[to], images, to, note=notes.append)
    assert names(tmp_path) == []
    [note] = notes
    assert "and at most 0.0001 is kept: keeping tiny/block" in note


# -- the search --------------------------------------------------------------------------------------------------------


class FakeGraph:
    """A network whose mean IoU falls by the sum of the falls of its quantized parts."""

    def __init__(self, falls):
        self.falls, self.rounds = falls, []

    def quantize(self, kept):
        self.rounds.append(list(kept))
        return sum(fall for part, fall in self.falls.items() if part not in kept)

    def measure_noise(self, parts):
        return {part: self.falls.get(part, 0.0) for part in parts}


class FakeTrial:
    """Tells that fall."""

    def measure(self, fall):
        return price.Price(9, "scenes", True, 0.1, 1.0, price.MeanIoU(0.9, 0.9 - fall, fall, None))


def search_in(falls, max_drop, path="x"):
    model, graph, notes = small_model("fcn"), FakeGraph(falls), []
    found = search.find_affordable(path, graph, model.backbone.plan, model.head, FakeTrial(), max_drop, notes.append)
    return found, graph.rounds, notes


def test_the_noisiest_parts_are_kept_until_the_price_is_within_the_limit():
    noisy = "tiny/block2/unit_1/bottleneck_v1"
    found, rounds, notes = search_in({noisy: 0.05, "tiny/block1/unit_1/bottleneck_v1": 0.004}, 0.01)
    assert rounds == [[*FIRST_AND_LAST], [*FIRST_AND_LAST, noisy]]
    assert found.kept == FIRST_AND_LAST | {noisy: "adds noise of 0.05 of its variance"}
    assert found.price.mean_iou.drop == pytest.approx(0.004)
    assert notes == [f"mean IoU falls by 0.0540, and --max-drop is 0.01: keeping {noisy} in float32 too"]


def test_a_network_that_is_within_the_limit_is_quantized_once():
    found, rounds, notes = search_in({"tiny/block1/unit_1/bottleneck_v1": 0.004}, 0.01)
    assert (len(rounds), notes, found.kept) == (1, [], FIRST_AND_LAST)


def test_half_of_a_network_in_float32_is_not_int8():
    falls = {f"tiny/block{number}/unit_1/bottleneck_v1": 0.05 for number in (1, 2, 3, 4)}
    with pytest.raises(
        InputError, match=r"x: not written, because int8 costs too much, .*: mean IoU falls by 0.15.*--max-drop is"
    ):
        search_in(falls, 0.01)


def test_a_drop_that_is_not_a_number_is_too_high():
    assert "mean IoU falls by nan" in FakeTrial().measure(float("nan")).excess(0.01)


# -- the images --------------------------------------------------------------------------------------------------------


def test_a_dataset_has_its_ranges_from_training_and_its_price_on_validation(tmp_path):
    found = take([str(own_dataset(tmp_path / "mine"))])
    parts = [{sample.image.path.parts[-2:-1] or sample.image.path for sample in part} for part in (found.ranges, found.trials)]
    assert all("train" in str(sample.image.path) for sample in found.ranges)
    assert all("val" in str(sample.image.path) for sample in found.trials)
    assert (len(found.ranges), len(found.trials), found.held_out, found.space.num_classes) == (3, 3, True, 3)
    assert parts[0]


def test_images_of_one_split_are_shared(tmp_path):
    found = take([str(own_dataset(tmp_path / "mine", splits=("val",)))])
    assert ([sample.name for sample in found.ranges], [sample.name for sample in found.trials]) == (["a", "more/a"], ["b"])
    assert found.held_out


def test_a_single_image_is_for_both(tmp_path):
    image_file(tmp_path / "a.png")
    found = take([str(tmp_path / "a.png")])
    assert (len(found.ranges), len(found.trials), found.held_out, found.space) == (1, 1, False, None)


def test_many_images_are_spread_evenly(tmp_path):
    for number in range(20):
        image_file(tmp_path / f"{number:02}.png", seed=number)
    found = take([str(tmp_path)], most=5)
    assert [sample.name for sample in found.ranges] == ["00.png", "04.png", "08.png", "12.png", "16.png"]
    assert [sample.name for sample in found.trials] == ["01.png", "05.png", "09.png", "13.png", "17.png"]


def test_a_folder_that_is_not_a_dataset_is_taken_for_images(tmp_path):
    image_file(tmp_path / "a.png")
    notes = []
    assert take([str(tmp_path)], note=notes.append).space is None
    assert "taken as images without labels, so mean IoU is not measured: " in notes[0]


def test_calls_are_what_a_network_takes(tmp_path):
    image_file(tmp_path / "wide.png", (60, 200))
    found, plan = take([str(tmp_path)]), small_plan("v1.5", 8)
    [call] = calibration.Calls(found.ranges, plan, calibration.canvases_for(plan, None, None, 129))
    assert (call["images"].shape, call["images"].dtype, call["sizes"].tolist()) == ((1, 65, 129, 3), np.uint8, [[39, 129]])
    assert not call["images"][0, 39:].any()
    [call] = calibration.Calls(found.ranges, plan, calibration.canvases_for(plan, None, 97, 129))
    assert (call["images"].shape, call["sizes"].tolist()) == ((1, 97, 97, 3), [[29, 97]])


def test_labels_of_other_classes_are_refused(images, tmp_path):
    importlib.util.find_spec("openvino") or pytest.skip("OpenVINO is not installed")
    pytest.importorskip("nncf")
    data = take([str(own_dataset(tmp_path / "mine"))])
    with pytest.raises(
        InputError, match=r"--calibrate: mine, val has 3 classes \(sky, road, car\), and the model has 5 classes"
    ):
        export(small_model("fcn"), tmp_path / "x", images, OPENVINO, calibration=data)
    assert names(tmp_path) == ["mine"]


# -- kills, and what others would do -----------------------------------------------------------------------------------

KILLED = """
import pathlib, sys, time
from segmentation.saving.export import calibration
from tools import cli
right = calibration.Calls.__iter__

def stop_in_the_middle(calls):
    for number, call in enumerate(right(calls)):
        yield call
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(number * 600)

calibration.Calls.__iter__ = stop_in_the_middle
cli.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_killed_quantization_leaves_nothing_half_made(to, images, monkeypatch, tmp_path):
    out, temporary, marker = (tmp_path / name for name in ("out", "temporary", "marker"))
    for folder in (out, temporary):
        folder.mkdir()
    save_model(tmp_path / "model", small_model("fcn"), SPACE, training=TRAINING)
    path = out / TARGET[to]
    command = ["export", tmp_path / "model", "--to", to, "--precision", "int8", "--calibrate", images, "--out", path]
    command += ["--size", 129] if to == TFLITE else []
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(marker), *map(str, command)], env=environment, cwd=ROOT)
    wait_for(marker.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(name.startswith(".") for name in names(out))  # of what was being written
    assert set(names(temporary)) <= {".ses"}  # ONNX Runtime's own, wherever it is imported
    monkeypatch.setattr(agreement, "check_elsewhere", lambda *arguments: None)
    export(small_model("fcn"), path, images, to)
    assert names(out) == [TARGET[to]]


@pytest.mark.slow
def test_nncf_reports_to_nobody_and_prints_nothing():
    pytest.importorskip("nncf")
    code = (
        "import os; from dense_resnet.inference import quantization; before = dict(os.environ); quantization._import_nncf(); "
        "from nncf.telemetry import telemetry; print(type(telemetry).__name__, before == dict(os.environ))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["MagicMock", "True"]


# -- the shipped model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Drawn scenes: 32 to calibrate on, 12 to tell the price."""
    folder = tmp_path_factory.mktemp("scenes")
    synthetic.write_scenes(folder, 32, 12, size=257)
    return folder


@pytest.mark.slow
def test_int8_of_the_shipped_model_costs_next_to_nothing(to, scenes, capsys, tmp_path):
    """And the price is that of `evaluate` and `compare`, which know nothing of it."""
    path = tmp_path / TARGET[to]
    code, out, err = run(
        capsys,
        "export",
        SCENES_MODEL,
        "--to",
        to,
        "--precision",
        "int8",
        "--calibrate",
        scenes,
        "--max-drop",
        0.002,
        "--out",
        path,
        *(["--size", 257] if to == TFLITE else []),
    )
    assert code == 0, err
    assert "Ranges from 32 images of scenes, train. The price of int8: mean IoU 0.98" in out
    assert "In float32: resnet_small/conv1 (the first convolution), logits/semantic (the last layer)." in out
    exported, saved = open_exported(path), load_model(SCENES_MODEL)
    told = price.Price.from_json(exported.description["price"])
    assert told.mean_iou.drop < 0.002
    runners = {"float32": saved.model.runner("float32"), "int8": exported.runner()}
    dataset, inference, edges = open_dataset(scenes, "val"), Inference(size=257), {}
    for name, runner in runners.items():
        predictor, counts = Predictor(runner, saved.head, inference), 0
        for sample in dataset.samples:
            label = sample.read_label(dataset.space)
            predicted = predictor(sample.read_image()).labels
            counts += boundaries.boundary_counts(label, predicted, dataset.space.num_classes, dataset.space.ignore_label)
        edges[name] = boundaries.mean_boundary_iou(counts)
    assert edges["float32"] - edges["int8"] < 0.005
    for name, model in (("float32", [SCENES_MODEL, "--precision", "float32"]), ("int8", [path])):
        arguments = ["--split", "val", "--no-report", "--batch", 1, "--size", 257, "--model", *model, "--out", tmp_path / name]
        code, _, err = run(capsys, "evaluate", scenes, *arguments)
        assert code == 0, err
    code, _, err = run(capsys, "compare", tmp_path / "float32", tmp_path / "int8", "--json", tmp_path / "compared.json")
    assert code == 0, err
    compared = json.loads((tmp_path / "compared.json").read_text())["mean_iou"]
    assert compared["second"] == pytest.approx(told.mean_iou.int8, abs=1e-9)
    assert compared["difference"] == pytest.approx(told.mean_iou.drop, abs=1e-5)
    assert compared["interval"] == pytest.approx(told.mean_iou.interval, abs=1e-5)
    protocol = json.loads((tmp_path / "int8" / "evaluation.json").read_text())["protocol"]["system"]
    assert (protocol["precision"], protocol["export"]) == ("int8", to)
    assert protocol["quantization"] == exported.description["quantization"]


@pytest.mark.slow
def test_predict_and_extract_take_int8(good, to, images, capsys, tmp_path):
    for verb in ("predict", "extract"):
        for _ in range(2):  # the second run finds everything done, in the engine and precision of the first
            code, out, err = run(capsys, verb, images, "--model", good[0].path, "--size", 129, "--out", tmp_path / verb)
            assert code == 0, err
        assert f"{ENGINES[to]}, int8: " in out
