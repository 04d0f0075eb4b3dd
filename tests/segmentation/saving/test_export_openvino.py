"""Exports for OpenVINO: the engine's own graph, the same bytes in every run, and its precision goes with it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from helpers.networks import image_of, small_model

import dense_resnet as dr
from dense_resnet.errors import InputError
from dense_resnet.inference.precision import choose_precision
from dense_resnet.verification import laws
from segmentation.data.label_space import LabelSpace
from segmentation.saving.export import agreement, exporter, files, foreign_run
from segmentation.saving.export.exporter import open_exported
from segmentation.saving.export.foreign_run import OPENVINO

ov = pytest.importorskip("openvino")

SPACE = LabelSpace.from_json({"classes": ["sky", "road", "car", "tree", "wall"]})
CHECK_ELSEWHERE = agreement.check_elsewhere
EVERYTHING = ("features", "cells", "labels", "probabilities")


@pytest.fixture(scope="module")
def photograph():
    return image_of(80, 120)


@pytest.fixture(scope="module", autouse=True)
def not_elsewhere():
    """Exports are read back in this process only, where a test does not ask for more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "check_elsewhere", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def good(photograph, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "exported"
    exporter.export(small_model("aspp"), path, [photograph], to=OPENVINO, precision="float32", space=SPACE)
    return path


@pytest.mark.parametrize(("head", "side"), [("aspp", None), ("decoder", None), ("fcn", 97)])
def test_it_answers_as_the_engine_to_the_bit(head, side, photograph, tmp_path):
    model = small_model(head)
    written, result = exporter.export(
        model, tmp_path / "x", [photograph], to=OPENVINO, precision="float32", space=SPACE, side=side
    )
    assert result.within(agreement.TOLERANCES["float32"])
    exported, expected = open_exported(written.path), model.runner("float32", engine="openvino")
    height, width = (side, side) if side else (70, 97)
    pixels, sizes = np.stack([image_of(height, width, seed) for seed in (1, 2)]), [(33, 60), (height, 41)]
    for given in (sizes, None):
        found = exported.runner()(pixels, given, EVERYTHING)
        for name, values in expected(pixels, given, EVERYTHING).items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype
    model = ov.Core().read_model(written.path / "model.xml")
    assert model.input("images").get_partial_shape().to_string() == ("[?,97,97,3]" if side else "[?,?,?,3]")
    assert (exported.side, exported.inputs["sizes"]) == (side, "int32 [batch, 2], (height, width) of each image")


def test_it_is_the_same_to_the_byte_in_every_process(good, tmp_path):
    """Nodes have names of their own, not numbers that count what a process has made."""
    code = (
        "import pathlib, sys; sys.path.insert(0, 'tests'); from helpers.networks import image_of, small_model; "
        "from segmentation.saving.export import agreement, exporter; from segmentation.data.label_space import LabelSpace; "
        "agreement.check_elsewhere = lambda *given: None; small_model('fcn').runner(engine='openvino')._build(); "
        "exporter.export(small_model('aspp'), sys.argv[1], [image_of(80, 120)], to='openvino', precision='float32', "
        f"space=LabelSpace.from_json({SPACE.as_json()!r}))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=True, cwd=ROOT, capture_output=True)
    for name in ("model.xml", "model.bin", "model.json"):
        assert (tmp_path / "x" / name).read_bytes() == (good / name).read_bytes(), name


def test_deep_convolutions_are_computed_by_winograds_algorithm_in_float32_alone(photograph, tmp_path):
    plan = dr.plan([("block1", [(512, 256, 1), (512, 256, 1)])], scope="deep", kind="bottleneck_v1")
    backbone, found = dr.Backbone(plan, seed=0), {}
    for precision in ("float32", "bfloat16"):
        written, _ = exporter.export(backbone, tmp_path / precision, [photograph], to=OPENVINO, precision=precision)
        found[precision] = written.network.engine_protocol
        graph = (tmp_path / precision / "model.xml").read_text()
        assert ('type="MatMul"' in graph) == (precision == "float32")
    assert found["float32"] == backbone.runner("float32", engine="openvino").engine_protocol
    assert found == {
        "float32": {"name": "openvino", "winograd": {"256": 3}},
        "bfloat16": {"name": "openvino", "winograd": {}},
    }


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_goes_with_the_graph(precision, photograph, monkeypatch, tmp_path):
    """A processor that multiplies bfloat16 would take it for a float32 graph too: 0.1 of std, not 1e-4."""
    found, right = [], foreign_run.run_in_fresh_process

    def record(*arguments):
        found.append(right(*arguments))
        return found[-1]

    monkeypatch.setattr(agreement, "check_elsewhere", CHECK_ELSEWHERE)
    monkeypatch.setattr(agreement, "run_in_fresh_process", record)
    model = small_model("fcn")
    exporter.export(model, tmp_path / "x", [photograph], to=OPENVINO, precision=precision, space=SPACE)
    [[elsewhere]] = found
    case = next(agreement.comparison_cases([photograph], model.backbone.plan, None, 1, agreement.SMALL_CANVAS))
    here = model.runner("float32", engine="openvino")(case[0][:1], case[1][:1])["features"]
    in_bfloat16 = precision == "bfloat16" == choose_precision("auto")  # other processors compute it in float32
    assert (laws.relative_error(elsewhere["features"], here) > 1e-3) == in_bfloat16
    graph = ov.Core().read_model(tmp_path / "x" / "model.xml")
    assert graph.get_rt_info(foreign_run.OPENVINO_HINT).value == {"float32": "f32", "bfloat16": "bf16"}[precision]


# -- what is not opened ------------------------------------------------------------------------------------------------


def flip_bit(data, place):
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("file", ["model.xml", "model.bin", "model.json"])
def test_damage_is_found_before_openvino_reads_anything(file, good, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(good, path)
    data = (path / file).read_bytes()
    damaged = [data[:length] for length in (0, 1, len(data) // 2, len(data) - 2)]
    damaged += [flip_bit(data, place) for place in np.random.default_rng(0).integers(0, len(data) - 1, 20)]
    for content in damaged:
        (path / file).write_bytes(content)
        with pytest.raises(
            InputError, match=f"^{path}: .* do not have the sha256 that|^{path}/model.json: damaged, or not written"
        ):
            open_exported(path)
    (path / file).unlink()
    with pytest.raises(InputError, match=f"^{path}: (cannot be read: No such file|has no {file})"):
        open_exported(path)


def seal(folder, **changes):
    """What somebody makes who knows how the digest is made."""
    description = files.read_export_description(folder) | changes
    files.write_export_description(folder, description, files.OPENVINO_FILES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.xml", b"<net/>", r"model\.xml: cannot be read by OpenVINO .*It was written by"),
        ("model.bin", b"", r"model\.xml: cannot be read by OpenVINO .*It was written by"),
    ],
)
def test_graphs_that_openvino_does_not_read_are_refused(name, content, message, good, tmp_path):
    path = tmp_path / "other"
    shutil.copytree(good, path)
    (path / name).write_bytes(content)
    seal(path)
    with pytest.raises(InputError, match=f"(?s){message}"):
        open_exported(path)


def test_graphs_with_other_outputs_are_refused(good, tmp_path):
    path = tmp_path / "other"
    shutil.copytree(good, path)
    seal(path, outputs=["features", "depth"])
    with pytest.raises(InputError, match=r"cannot be read by OpenVINO .*: its inputs are \['images', 'sizes'\], its outputs"):
        open_exported(path)


def test_folders_of_others_are_not_run_and_not_replaced(good, photograph, tmp_path):
    path = tmp_path / "theirs"
    shutil.copytree(good, path)
    (path / "model.json").unlink()
    with pytest.raises(InputError, match=r"theirs: has no model\.json, so it was not written by `export`, and is not run"):
        open_exported(path)
    with pytest.raises(InputError, match="exists, and is not an export of the same format"):
        exporter.export(small_model("fcn"), path, [photograph], to=OPENVINO, space=SPACE)


def test_openvino_is_named_where_it_is_missing(good, photograph, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="for this, openvino must be installed: pip install openvino"):
        open_exported(good)
    with pytest.raises(InputError, match=r"openvino and nncf must be installed: pip install dense-resnet\[int8\]"):
        files.check_request(
            small_model("fcn").backbone.plan, tmp_path / "x", OPENVINO, "int8", None, onednn=False, require_sizes=False,
            calibrated=True,
        )  # fmt: skip
