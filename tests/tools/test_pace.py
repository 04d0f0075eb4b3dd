"""How the verbs choose an engine, and what a resumed run keeps."""

import json
import shutil

import numpy as np
import pytest
from helpers.command import SCENES_MODEL, run
from PIL import Image

from dense_resnet.inference import engines, throughput

pytestmark = pytest.mark.skipif(not engines.has_openvino(), reason="no OpenVINO")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache folder of its own."""
    monkeypatch.setenv("DENSE_RESNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path):
    """A folder of three images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def predict(capsys, images, out, *options):
    code, printed, err = run(capsys, "predict", images, "--model", SCENES_MODEL, "--size", 65, "--out", out, *options)
    return code, printed, err


def engine_of(out):
    return (json.loads((out / "protocol.json").read_text())["system"]["engine"] or {"name": "tensorflow"})["name"]


def test_few_images_take_the_usual_engine_unmeasured(capsys, images, tmp_path, cache):
    code, printed, _ = predict(capsys, images, tmp_path / "out", "--precision", "float32")
    assert code == 0
    assert "openvino, float32: 1 image at a time" in printed
    assert engine_of(tmp_path / "out") == "openvino"
    assert not (cache / engines.MEASURED).exists()


def test_many_images_take_the_engine_that_is_measured_to_be_faster(capsys, images, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(throughput, "WORTH", 3)
    monkeypatch.setattr(throughput, "measure", lambda *_, **__: throughput.Pace(1, 1, 2.5))
    seconds = iter([3.0, 1.0, 0.0])
    monkeypatch.setattr(engines.statistics, "median", lambda _: next(seconds))
    code, printed, _ = predict(capsys, images, tmp_path / "out", "--precision", "float32")
    assert code == 0
    assert "tensorflow (an image takes openvino 3.00 s, tensorflow 1.00 s, measured now), float32: 1 image" in printed
    assert engine_of(tmp_path / "out") == "tensorflow"
    assert list(json.loads((cache / engines.MEASURED).read_text()).values()) == [{"openvino": 3.0, "tensorflow": 1.0}]
    code, printed, _ = predict(capsys, images, tmp_path / "again", "--precision", "float32")
    assert "tensorflow (an image takes openvino 3.00 s, tensorflow 1.00 s, measured before)" in printed
    assert engine_of(tmp_path / "again") == "tensorflow"


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_a_resumed_run_keeps_its_engine_and_precision(capsys, images, tmp_path, engine):
    out, late = tmp_path / "out", tmp_path / "2.png"
    (images / "2.png").rename(late)
    assert predict(capsys, images, out, "--engine", engine, "--precision", "float32")[0] == 0
    shutil.move(late, images / "2.png")
    code, printed, _ = predict(capsys, images, out)
    assert (code, engine_of(out)) == (0, engine)
    assert f"{engine}, float32: 1 image at a time" in printed
    assert "2 of them from an earlier run" in printed
    other = "tensorflow" if engine == "openvino" else "openvino"
    code, _, err = predict(capsys, images, out, "--engine", other, "--precision", "float32")
    assert code == 1
    assert f"out: was begun by the engine '{engine}': leave --engine out, or choose another --out" in err


def test_without_openvino_everything_runs_in_tensorflow(capsys, images, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "has_openvino", lambda: False)
    code, printed, _ = predict(capsys, images, tmp_path / "out", "--precision", "float32")
    assert code == 0
    assert "tensorflow, float32: 1 image at a time" in printed
    code, _, err = predict(capsys, images, tmp_path / "other", "--engine", "openvino")
    assert code == 1
    assert "the engine 'openvino' is not installed: pip install openvino" in err
