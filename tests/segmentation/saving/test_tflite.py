"""TensorFlow Lite files: what phones run gives the model's answers, by operators that they have."""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from det_weights import det_weight
from helpers import ROOT
from helpers.command import run
from helpers.folders import names
from helpers.networks import BLOCKS, image_of, small_model, small_plan, weights_of
from PIL import Image

import dense_resnet as dr
from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import decode_image, read_file
from dense_resnet.inference import folding
from dense_resnet.planning import variants
from dense_resnet.verification import laws
from segmentation.data.label_space import LabelSpace
from segmentation.model import SegmentationModel
from segmentation.saving.export import agreement, exporter, files, foreign_run, search
from segmentation.saving.export.calibration import Calls, canvases_for, take_images
from segmentation.saving.export.exporter import open_exported
from segmentation.saving.export.files import is_exported
from segmentation.saving.export.foreign_run import TFLITE
from segmentation.saving.model_directory import save_backbone, save_model

pytest.importorskip("ai_edge_litert")
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from segmentation.saving.export import tflite_quantization
from segmentation.saving.export.tflite import TFLiteGraph

CLASSES = ["sky", "road", "car", "tree", "wall"]
SPACE = LabelSpace.from_json({"classes": CLASSES, "ignore_label": 250})
PHOTOGRAPH = ROOT / "tools" / "coffee.jpg"
SIDE = 97
EVERYTHING = ("features", "cells", "labels")
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
# What XNNPACK does not take, or takes apart: a convolution with a rate is one operator.
UNWANTED = {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "TRANSPOSE", "CUSTOM"}


@pytest.fixture(scope="module")
def photograph():
    """A real one, small: 80x120."""
    return np.ascontiguousarray(decode_image(PHOTOGRAPH, read_file(PHOTOGRAPH))[::5, ::5])


@pytest.fixture(autouse=True)
def not_elsewhere(request, monkeypatch):
    """Files are read back in this process only, where a test does not ask for more."""
    if "elsewhere" not in request.fixturenames:
        monkeypatch.setattr(agreement, "check_elsewhere", lambda *arguments: None)


@pytest.fixture
def elsewhere():
    """They are read back in a fresh process too, as everywhere but here."""


def write(network, path, photograph, space=SPACE, side=SIDE):
    exported, found = exporter.export(network, path, [photograph], to=TFLITE, space=space, side=side)
    assert found.within(agreement.TOLERANCES["float32"])
    return exported


@pytest.fixture(scope="module")
def model():
    return small_model("aspp")


@pytest.fixture(scope="module")
def good(model, photograph, tmp_path_factory):
    """A file of `model`."""
    path = tmp_path_factory.mktemp("good") / "exported.tflite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "check_elsewhere", lambda *arguments: None)
        write(model, path, photograph)
    return path


def canvases(channels=3):
    """Two noise images, white beyond their sizes."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, channels), np.uint8)
    sizes = np.array([[33, 60], [SIDE, 41]], np.int32)
    for image, (rows, columns) in zip(pixels, sizes, strict=True):
        image[rows:], image[:, columns:] = 255, 255
    return pixels, sizes


def model_of(path):
    """A file's content, for a look at its parts."""
    return schema.ModelT.InitFromPackedBuf(path.read_bytes())


def operators_of(path):
    """(its name, the operator) of each in a file."""
    found = model_of(path)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in found.operatorCodes]
    (graph,) = found.subgraphs
    return [(OPERATORS[codes[operator.opcodeIndex]], operator) for operator in graph.operators]


def rates_of(model):
    """How many convolutions of a model have each rate, other than 1."""
    units = [conv for unit in model.backbone.plan.units for conv in unit.convolutions]
    heads = [layer for branch in model.head.branches for layer in branch]
    return Counter(layer.rate for layer in (*units, *heads) if layer.rate > 1)


@pytest.mark.parametrize(
    ("head", "stride", "arguments"),
    [
        ("fcn", 8, {}),
        ("aspp", 16, {}),
        ("aspp", 8, {"separable": False, "image_pooling_crop": (65, 65)}),
        ("decoder", 16, {}),
        ("decoder", 8, {"canvas": "padded"}),
    ],
)
def test_files_answer_as_the_runner(head, stride, arguments, photograph, tmp_path):
    model = small_model(head, stride, **arguments)
    exported = write(model, tmp_path / "x.tflite", photograph)
    assert names(tmp_path) == ["x.tflite"]
    runner, expected = open_exported(exported.path).runner(), model.runner("float32", side=SIDE)
    pixels, sizes = canvases()
    for sizes_given in (sizes, sizes[:1], None):
        values = runner(pixels, sizes_given, EVERYTHING)
        for name, value in expected(pixels, sizes_given, EVERYTHING).items():
            assert values[name].dtype == value.dtype
            if name == "labels":
                assert np.mean(values[name] == value) > 0.999
            else:
                assert laws.relative_error(values[name], value) <= 1e-4
    found = operators_of(exported.path)
    assert not {name for name, _ in found} & UNWANTED
    convolved = [operator.builtinOptions for name, operator in found if name in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    rates = Counter(options.dilationHFactor for options in convolved if options.dilationHFactor > 1)
    assert rates == rates_of(model) != {}
    joined = [len(operator.inputs) for name, operator in found if name == "CONCATENATION"]
    assert max(joined, default=0) <= 4
    assert len(joined) == {"fcn": 0, "aspp": 2, "decoder": 3}[head]


@pytest.mark.parametrize(("placement", "channels"), [("v2, last unit", 3), ("v1.5", 1)])
def test_backbones_of_color_and_gray_images_are_exported(placement, channels, photograph, tmp_path):
    plan = variants.plan_from_config(variants.plan_config(small_plan(placement, 8)), 8, in_channels=channels)
    plan = dataclasses.replace(plan, preprocessing="inception")
    backbone = laws.backbone_with(plan, weights_of(plan))
    exported = open_exported(write(backbone, tmp_path / "x.tflite", photograph, None).path)
    assert (exported.plan, exported.head, list(exported.outputs)) == (plan, None, ["features"])
    pixels, sizes = canvases(channels)
    expected = backbone.runner("exact")(pixels, sizes)["features"]
    assert laws.relative_error(exported.runner()(pixels, sizes)["features"], expected) <= 1e-4
    assert not {name for name, _ in operators_of(exported.path)} & UNWANTED


def test_labels_of_many_classes_are_exported(photograph, tmp_path):
    space = LabelSpace.from_json({"classes": [f"class {number}" for number in range(300)], "ignore_label": 65535})
    exported = write(small_model("fcn", num_classes=300), tmp_path / "x.tflite", photograph, space, 65)
    assert exported.outputs["labels"] == "uint16 [1, 65, 65]"
    assert exported.runner()(np.zeros((1, 65, 65, 3), np.uint8), None, ["labels"])["labels"].dtype == np.uint16


def test_programs_call_it_by_names(model, good):
    """By the one signature, with shapes as they are told."""
    (signature,) = Interpreter(str(good)).get_signature_list().values()
    assert signature == {"inputs": ["images", "sizes"], "outputs": sorted(EVERYTHING)}
    run_file = Interpreter(str(good)).get_signature_runner()
    exported = open_exported(good)
    for details, told in ((run_file.get_input_details(), exported.inputs), (run_file.get_output_details(), exported.outputs)):
        for name, tensor in details.items():
            shape = ", ".join(map(str, tensor["shape"]))
            assert told[name].startswith(f"{np.dtype(tensor['dtype']).name} [{shape}]")
    pixels, sizes = canvases()
    found = run_file(images=pixels[:1], sizes=sizes[:1])
    expected = model.runner("float32", side=SIDE)(pixels[:1], sizes[:1], EVERYTHING)
    assert laws.relative_error(found["cells"], expected["cells"]) <= 1e-4


def test_the_description_is_inside(model, good):
    exported, found = open_exported(good), model_of(good)
    (place,) = (entry.buffer for entry in found.metadata if entry.name == b"dense_resnet")
    assert json.loads(found.buffers[place].data.tobytes()) == exported.description
    assert (exported.plan, exported.head, exported.space) == (model.backbone.plan, model.head, SPACE)
    assert (exported.kind, exported.side, exported.network.precision) == (TFLITE, SIDE, "float32")
    assert {"tensorflow", "ai-edge-litert"} <= set(exported.description["versions"])


def test_weights_are_aligned(good):
    """As kernels that load 16 bytes at a time expect; what TensorFlow's converter gives is not."""
    data = good.read_bytes()
    found = schema.Model.GetRootAs(data)
    buffers = [found.Buffers(number) for number in range(found.BuffersLength())]
    places = [one._tab.Vector(one._tab.Offset(4)) for one in buffers if one.DataLength()]
    assert len(places) > 50
    assert not any(place % 16 for place in places)


def test_weights_are_there_once(model, good):
    assert good.stat().st_size < sum(value.nbytes for value in model.weights.values()) + 2**17


def test_the_same_model_gives_the_same_bytes(model, good, photograph, tmp_path):
    assert write(model, tmp_path / "again.tflite", photograph).path.read_bytes() == good.read_bytes()


def test_nothing_beyond_an_images_size_is_read(good):
    runner = open_exported(good).runner()
    pixels, sizes = canvases()
    others = pixels.copy()
    for image, (rows, columns) in zip(others, sizes, strict=True):
        image[rows:], image[:, columns:] = 3, 7
    values, same = (runner(one, sizes, EVERYTHING) for one in (pixels, others))
    assert all(np.array_equal(values[name], same[name]) for name in ("features", "cells"))
    assert not np.array_equal(values["features"], runner(pixels)["features"])


def test_sizes_that_a_canvas_does_not_hold(good):
    """The file refuses them itself, in whatever runs it."""
    run_file = Interpreter(str(good)).get_signature_runner()
    for size in ((SIDE + 1, 20), (20, -1)):
        sizes = np.array([size], np.int32)
        with pytest.raises(RuntimeError, match="gather index out of bounds"):
            run_file(images=canvases()[0][:1], sizes=sizes)
        with pytest.raises(InputError, match=r"sizes must be the \(height, width\)"):
            open_exported(good).runner()(canvases()[0], sizes)


def test_threads_share_a_file(good):
    """Each gets the answer to what it asked."""
    runner, (pixels, sizes) = open_exported(good).runner(), canvases()
    expected = runner(pixels, sizes)["features"]
    numbers = [number % 2 for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda number: runner(pixels[number][None], sizes[number][None])["features"][0], numbers)
    assert all(np.array_equal(one, expected[number]) for one, number in zip(found, numbers, strict=True))


def test_a_fresh_process_needs_litert_alone(elsewhere, model, photograph, monkeypatch, tmp_path):
    ran, fresh = [], foreign_run.run_in_fresh_process

    def record_call(kind, path, calls, names, environment):
        ran.append((kind, path.name, [sorted(call) for call in calls], names))
        return fresh(kind, path, calls, names, environment)

    monkeypatch.setattr(agreement, "run_in_fresh_process", record_call)
    path = write(model, tmp_path / "x.tflite", photograph).path
    assert ran == [(TFLITE, ".x.tflite.partial", [["images", "sizes"]], ["features", "labels"])]
    code = """if True:
        import sys
        sys.modules["tensorflow"] = sys.modules["dense_resnet"] = None
        sys.path.insert(0, sys.argv[1])
        import numpy, foreign_run
        call = {"images": numpy.zeros((1, 97, 97, 3), "uint8"), "sizes": numpy.full((1, 2), 97, "int32")}
        (found,) = foreign_run._run_tflite(sys.argv[2], [call], ["labels"])
        assert found["labels"].shape == (1, 97, 97)
        """
    subprocess.run([sys.executable, "-I", "-c", code, foreign_run.__file__.rpartition("/")[0], path], check=True)


def test_files_that_differ_in_a_fresh_process_are_not_written(elsewhere, model, photograph, monkeypatch, tmp_path):
    def other(kind, path, calls, names, environment):
        return [{"features": np.ones((1, 7, 7, 16), np.float32), "labels": np.zeros((1, SIDE, SIDE), np.uint8)}]

    monkeypatch.setattr(agreement, "run_in_fresh_process", other)
    with pytest.raises(InputError, match="with LiteRT alone and no setting of ours the export gives other outputs than here"):
        write(model, tmp_path / "x.tflite", photograph)
    assert names(tmp_path) == []


# -- int8 ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranges(tmp_path_factory):
    """Twelve images, of which every other one is for the ranges."""
    folder = tmp_path_factory.mktemp("ranges")
    for number in range(12):
        Image.fromarray(image_of(60 + number, SIDE, number)).save(folder / f"{number:02}.png")
    return take_images([str(folder)])


def quantized(network, ranges, kept):
    """A graph that was quantized, and the mean squared error of its features over their variance."""
    compiled = network.runner("float32", side=SIDE, portable=True)
    only = canvases_for(compiled.plan, None, SIDE, None)
    graph = TFLiteGraph(compiled, Calls(ranges.ranges, compiled.plan, only))
    runner, errors = graph.quantize(kept), []
    for call in Calls(ranges.trials, compiled.plan, only):
        found, exact = (one(call["images"], call["sizes"])["features"] for one in (runner, compiled))
        errors.append(np.mean((found - exact) ** 2) / np.var(exact))
    return graph, np.mean(errors)


def model_with(kind, head):
    """A small model on a backbone of that kind."""
    plan = dr.plan(BLOCKS, output_stride=16, scope="tiny", kind=kind)
    model = SegmentationModel(laws.backbone_with(plan, weights_of(plan)), 5, head)
    for name, variable in model._by_name.items():
        variable.assign(det_weight(name, variable.shape))
    return model


def quantized_layers(graph, path, kinds=("CONV_2D", "DEPTHWISE_CONV_2D")):
    """{name of a convolution: the type of what it gives} of a graph, which is written to `path`."""
    graph.write(path, {})
    (tensors,) = [one.tensors for one in model_of(path).subgraphs]
    outputs = [operator.outputs[0] for name, operator in operators_of(path) if name in kinds]
    return {tensors[place].name.decode(): TYPES[tensors[place].type] for place in outputs}


@pytest.mark.parametrize(("kind", "head"), [("bottleneck_v1", "decoder"), ("bottleneck_v2", "fcn")])
def test_int8_is_close_for_images_that_end_on_their_canvas(kind, head, ranges, tmp_path):
    """Beyond an image there are numbers below all others before the pooling, which no range may have."""
    model = model_with(kind, head)
    graph, error = quantized(model, ranges, ["tiny/conv1", "logits/semantic"])
    assert 1e-5 < error < 0.01
    found = quantized_layers(graph, tmp_path / "x.tflite")
    exact = {name for name, kind in found.items() if kind == "float32"}
    assert len(exact) == 2
    assert all(any(part in name for name in exact) for part in ("tiny/conv1", "logits/semantic"))
    assert len(found) > 15
    assert not {name for name, _ in operators_of(tmp_path / "x.tflite")} & UNWANTED


@pytest.mark.parametrize("placement", ["v1.5", "v2, last unit", "beta"])
def test_int8_of_backbones_is_close(placement, ranges):
    """Their poolings pad with the lowest number, or are of what no ReLU precedes, or follow three convolutions."""
    plan = small_plan(placement, 8)
    _, error = quantized(laws.backbone_with(plan, weights_of(plan)), ranges, [plan.root[0].scope])
    assert 1e-5 < error < 0.01


def test_parts_that_are_kept_stay_in_float32(ranges, tmp_path):
    """With the masks between their convolutions; their noise is that of what is before them."""
    model = small_model("aspp")
    kept = ["tiny/conv1", "tiny/block1/unit_1/bottleneck_v1", "aspp2_depthwise", "logits/semantic"]
    graph, _ = quantized(model, ranges, kept)
    found = quantized_layers(graph, tmp_path / "x.tflite")
    for name, kind in found.items():
        assert kind == ("float32" if any(part in name for part in kept) else "int8"), name
    parts = [part for part in search.parts_of(model.backbone.plan, model.head) if part not in kept]
    assert list(graph.measure_noise(parts)) == parts


def test_the_norm_before_a_unit_is_part_of_it(ranges, tmp_path):
    part = "tiny/block3/unit_1/bottleneck_v2"
    graph, _ = quantized(model_with("bottleneck_v2", "fcn"), ranges, ["tiny/conv1", part, "logits/semantic"])
    found = quantized_layers(graph, tmp_path / "x.tflite", ("MUL", "ADD"))
    norms = {
        name: kind for name, kind in found.items() if "preact" in name and "block1/unit_1" not in name
    }  # after the pooling
    assert len(norms) >= 4
    assert all((kind == "float32") == (part in name) for name, kind in norms.items()), norms


def test_noise_is_what_a_part_adds(ranges, monkeypatch):
    """From what its first operator takes to what its last one gives."""
    graph, _ = quantized(small_model("fcn"), ranges, ["tiny/conv1", "logits/semantic"])
    read, exact = tflite_quantization._run_to, graph._ranged

    def run_to(model, names):
        run = read(model, names)
        noisy = [model != exact and "unit_2" in name and "conv3" in name for name in names]
        return lambda call: [one + 100 * np.std(one) * more for one, more in zip(run(call), noisy, strict=True)]

    before = graph.measure_noise(["tiny/block1/unit_1/bottleneck_v1", "tiny/block1/unit_2/bottleneck_v1"])
    monkeypatch.setattr(tflite_quantization, "_run_to", run_to)
    after = graph.measure_noise(list(before))
    first, second = (after[part] - before[part] for part in before)
    assert (first, second) == (0, pytest.approx(6 * 100**2, rel=0.01))  # of six images


def test_v2_networks_with_symmetric_pooling_stay_in_float32(ranges, photograph, tmp_path):
    plan = variants.plan_from_config(variants.plan_config(small_plan("v2, last unit", 8)), 8, root="symmetric")
    plan = dataclasses.replace(plan, preprocessing="inception")
    backbone = laws.backbone_with(plan, weights_of(plan))
    with pytest.raises(InputError, match="pads symmetrically cannot be int8 in TensorFlow Lite"):
        exporter.export(
            backbone, tmp_path / "x.tflite", [photograph], to=TFLITE, side=SIDE, precision="int8", calibration=ranges
        )
    assert names(tmp_path) == []
    write(backbone, tmp_path / "x.tflite", photograph, None)


# -- what does not stay, and what is not opened ------------------------------------------------------------------------


def test_one_wrong_weight_keeps_the_old_file(model, good, photograph, monkeypatch, tmp_path):
    path, right = tmp_path / "x.tflite", folding.Layers.fold_batch_norm
    path.write_bytes(good.read_bytes())

    def wrong(layers, conv):
        kernel, bias = right(layers, conv)
        kernel[0, 0, 0, 0] += conv.scope.endswith("unit_2/bottleneck_v1/conv1")
        return kernel, bias

    monkeypatch.setattr(folding.Layers, "fold_batch_norm", wrong)
    with pytest.raises(InputError, match="not written, because the export is not the model: features differ by at most"):
        write(model, path, photograph)
    assert names(tmp_path) == ["x.tflite"]
    assert path.read_bytes() == good.read_bytes()


def test_files_of_others_are_never_replaced(model, photograph, tmp_path):
    path = tmp_path / "theirs.tflite"
    path.write_bytes(b"theirs" * 100)
    with pytest.raises(InputError, match="exists, and is not an export"):
        write(model, path, photograph)
    assert path.read_bytes() == b"theirs" * 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": None}, "takes canvases of one size only. Pass it, such as --size 513"),
        ({"side": 100}, r"size must be 32n\+1 pixels \(not 100\); next: 129"),
        ({"precision": "bfloat16"}, "LiteRT has no bfloat16 convolutions on processors: export to tflite in float32 or int8"),
        ({"onednn": True}, "--onednn is for --to savedmodel: other files leave"),
        ({"require_sizes": True}, "--require-sizes is for --to onnx: others require them always"),
    ],
)
def test_invalid_requests_are_refused(arguments, message, model, photograph, tmp_path):
    with pytest.raises(InputError, match=message):
        exporter.export(model, tmp_path / "x.tflite", [photograph], to=TFLITE, **{"side": SIDE, "space": SPACE, **arguments})
    assert names(tmp_path) == []


def test_names_tell_the_format(model, photograph, tmp_path):
    with pytest.raises(InputError, match=r"the name must end in \.tflite for 'tflite'"):
        exporter.export(model, tmp_path / "x.onnx", [photograph], to=TFLITE, side=SIDE, space=SPACE)
    with pytest.raises(InputError, match=r"the name must not end in \.tflite for 'savedmodel'"):
        exporter.export(model, tmp_path / "x.tflite", [photograph], space=SPACE)


def test_a_missing_package_is_named(model, good, photograph, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = r"for this, ai_edge_litert must be installed: pip install dense-resnet\[tflite\]"
    with pytest.raises(InputError, match=missing):
        write(model, tmp_path / "x.tflite", photograph)
    with pytest.raises(InputError, match=missing):
        open_exported(good)


def test_damaged_files(good, tmp_path):
    path = tmp_path / "damaged.tflite"
    data = good.read_bytes()
    damaged = [data[:length] for length in (0, 1, 50, len(data) // 2, len(data) - 1)] + [data + b"\0"]
    for place in np.random.default_rng(0).integers(0, len(data), 20):
        damaged.append(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged\.tflite: does not end in the sha256 .* or is not a file of `export`"):
            open_exported(path)
    path.unlink()
    with pytest.raises(InputError, match=r"damaged\.tflite: cannot be read: No such file"):
        open_exported(path)


def test_nothing_runs_a_file_before_its_digest_fits(good, tmp_path, monkeypatch):
    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", None)
    (tmp_path / "x.tflite").write_bytes(good.read_bytes()[:-1])
    with pytest.raises(InputError, match="is not run"):
        open_exported(tmp_path / "x.tflite")


def test_other_content_under_a_digest_is_refused(good, tmp_path):
    """What somebody makes who knows how the digest is made."""
    path, data = tmp_path / "x.tflite", good.read_bytes()[: -files.SEAL_SIZE]
    nameless = data.replace(b"dense_resnet\0", b"dense_reznet\0")
    for content in (b"", b"no flatbuffer", data[:1000], bytes(1000), nameless):
        path.write_bytes(content + files.seal(content))
        with pytest.raises(InputError, match=r"x\.tflite: cannot be run by LiteRT"):
            open_exported(path)
    other = data.replace(b'"format": 1', b'"format": 2')
    path.write_bytes(other + files.seal(other))
    with pytest.raises(InputError, match="format 2 is not read by this version"):
        open_exported(path)


def test_files_are_recognized_by_their_paths(good, tmp_path):
    assert is_exported(good)
    assert not is_exported(tmp_path / "x.tflite")


# -- the verbs ---------------------------------------------------------------------------------------------------------


def make_dataset(folder):
    """Two images with labels."""
    (folder / "dataset.json").write_text(json.dumps({"name": "noise", "classes": CLASSES, "ignore_label": 250}))
    generator = np.random.default_rng(0)
    for number, kind in itertools.product(range(2), ("images", "labels")):
        (folder / kind / "val").mkdir(parents=True, exist_ok=True)
        shape, highest = ((50, 80, 3), 256) if kind == "images" else ((50, 80), len(CLASSES))
        Image.fromarray(generator.integers(0, highest, shape, np.uint8)).save(folder / kind / "val" / f"{number}.png")
    return folder


def test_the_verbs_write_and_take_it(model, capsys, tmp_path):
    save_model(tmp_path / "model", model, SPACE)
    exported, data = tmp_path / "x.tflite", make_dataset(tmp_path)
    code, out, err = run(capsys, "export", tmp_path / "model", "--to", "tflite", "--size", SIDE, "--out", exported)
    assert code == 0, err
    scope = {"images": np.random.default_rng(0).integers(0, 256, (2, 40, 77, 3), np.uint8)}
    exec(out.partition("To run it:\n")[2].replace("  ", ""), scope)
    padded = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    padded[:, :40, :77] = scope["images"]
    expected = model.runner("float32")(padded, [(40, 77)], ("labels",))["labels"][:, :40, :77]
    assert np.mean(scope["labels"] == expected) > 0.999
    found = {}
    for name, options in (("file", [exported]), ("directory", [tmp_path / "model", "--precision", "float32", "--size", SIDE])):
        verbs = {
            "evaluate": [data, "--split", "val", "--no-report"],
            "predict": [data / "images" / "val"],
            "extract": [data / "images" / "val"],
        }
        for verb, arguments in verbs.items():
            for _ in range(2):  # the second time, all is done
                code, _, err = run(capsys, verb, *arguments, "--model", *options, "--out", tmp_path / name / verb)
                assert code == 0, err
        evaluated = json.loads((tmp_path / name / "evaluate" / "evaluation.json").read_text())
        labels = [np.asarray(Image.open(path)) for path in sorted((tmp_path / name / "predict").glob("*.png"))]
        found[name] = evaluated["mean_iou"], np.stack(labels)
    assert found["file"][0] == pytest.approx(found["directory"][0], abs=1e-3)
    assert np.mean(found["file"][1] == found["directory"][1]) > 0.999
    protocol = json.loads((tmp_path / "file" / "extract" / "extraction.json").read_text())
    assert (protocol["export"], protocol["precision"]) == ("tflite", "float32")


def test_the_verb_takes_a_backbone_and_wants_a_size(capsys, tmp_path):
    plan = small_plan("v1.5", 8)
    save_backbone(tmp_path / "backbone", laws.backbone_with(plan, weights_of(plan)))
    arguments = ["export", tmp_path / "backbone", "--to", "tflite", "--out", tmp_path / "x.tflite"]
    code, _, err = run(capsys, *arguments)
    assert (code, names(tmp_path)) == (1, ["backbone"])
    assert "such as --size 513" in err
    code, out, err = run(capsys, *arguments, "--size", 65)
    assert code == 0, err
    assert "uint8 [1, 65, 65, 3]" in out
    scope = {"images": np.zeros((1, 40, 50, 3), np.uint8)}
    exec(out.partition("To run it:\n")[2].replace("  ", ""), scope)
    assert scope["features"].shape == (1, 9, 9, plan.depth)
