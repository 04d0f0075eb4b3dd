"""Earlier commits' models, features, predictions, evaluations and exports are read as they were meant, and resumed.

The files are in golden/written_before, whose README says how they were made. Everything here goes through the command and
the public imports, so that it stays as it is where modules move.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dense_resnet as dr
from segmentation import load_model, metrics
from tools import cli

GOLDEN = Path(__file__).parent / "golden"
WRITTEN = GOLDEN / "written_before"
OLD = WRITTEN / "b3f9543"
EXPORTED = GOLDEN / "exported_b3f9543"
TOLERANCE = 1e-4  # of the standard deviation
VAL = ("0000", "0001", "0002", "0003", "0004")


@pytest.fixture
def room(tmp_path, monkeypatch):
    """The written files, to work in as their commands did."""
    monkeypatch.chdir(shutil.copytree(WRITTEN, tmp_path / "written_before"))
    return Path()


def run(command, *arguments):
    """The exit code of a command."""
    return cli.main([*command.split(), *map(str, arguments)])


def relative_error(values, expected):
    assert values.shape == expected.shape
    return np.abs(values - expected).max() / expected.std()


def pixels_of(path):
    return np.asarray(Image.open(path))


def agreement(path, expected):
    """The share of equal labels in two PNGs, which must have more than one class."""
    labels = pixels_of(expected)
    assert len(np.unique(labels)) > 1
    return np.mean(pixels_of(path) == labels)


def state_of(folder):
    """Content and time of every file."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


# -- what is finished --------------------------------------------------------------------------------------------------


def test_a_model_gives_the_logits_that_it_gave():
    saved, values = load_model(OLD / "model"), np.load(OLD / "values.npz")
    images = np.stack([pixels_of(WRITTEN / f"scenes/images/val/{name}.png") for name in ("0000", "0003")])
    logits = saved.model(dr.preprocess(images, saved.preprocessing)).numpy()[:, ::2, ::2]
    assert relative_error(logits, values["logits"]) <= TOLERANCE
    expected = values["logits"].argmax(axis=-1)
    assert len(np.unique(expected)) > 3
    assert np.mean(logits.argmax(axis=-1) == expected) > 0.999


def test_features_are_read_and_sampled():
    wide, small = (dr.read_features(OLD / f"features/{name}.safetensors") for name in ("wide.jpg", "more/small.png"))
    assert (wide.path, wide.placement.original_size, wide.placement.size) == ("wide.jpg", (60, 100), (39, 65))
    assert (small.path, small.placement.original_size, small.placement.padding) == ("more/small.png", (50, 33), (15, 32))
    assert {stride: values.shape for stride, values in wide.maps.items()} == {4: (17, 17, 24), 8: (9, 9, 48)}
    values = np.load(OLD / "values.npz")
    samples = dr.sample(wide, values["points"], 8)
    assert relative_error(samples, values["samples"]) <= 1e-6
    rows, columns = wide.cell_centers(8)
    assert (rows[1], columns[1]) == pytest.approx((8.5 / 0.65 - 0.5,) * 2)


def test_features_are_what_the_model_gives_now(room):
    assert run("extract photos --model b3f9543/model --size 65 --layers 4 8 --exact --out now") == 0
    for name in ("wide.jpg", "more/small.png"):
        now, before = (dr.read_features(folder / f"{name}.safetensors") for folder in (Path("now"), OLD / "features"))
        assert now.placement == before.placement
        for stride in (4, 8):
            assert relative_error(now.map(stride), before.map(stride)) <= TOLERANCE


def test_labels_are_what_the_model_gives_now(room):
    assert run("predict scenes/images/val --model b3f9543/model --size 65 --exact --out now") == 0
    for name in VAL:
        assert agreement(f"now/{name}.png", OLD / f"predictions/{name}.png") > 0.999
        assert Image.open(f"now/{name}.png").getpalette() == Image.open(OLD / f"predictions/{name}.png").getpalette()


@pytest.mark.parametrize(("export", "folder"), [("fcn", "by_savedmodel"), ("fcn.onnx", "by_onnx")])
def test_an_export_gives_the_labels_that_it_gave(export, folder, room):
    if export.endswith(".onnx"):
        pytest.importorskip("onnxruntime")
    assert run("predict photos --size 65 --out now --model", EXPORTED / export) == 0
    for name in ("wide.png", "more/small.png"):
        assert agreement(f"now/{name}", OLD / folder / name) > 0.999


def test_predictions_score_as_their_model_did(room):
    assert run("evaluate scenes --predictions b3f9543/predictions --no-report --out now") == 0
    now, before = (json.loads((folder / "evaluation.json").read_text()) for folder in (Path("now"), OLD / "evaluation"))
    assert now["matrix"] == before["matrix"]
    assert now["mean_iou"] == before["mean_iou"] == pytest.approx(metrics.mean_iou(np.array(before["matrix"])))
    assert [entry["boundary_iou"] for entry in now["classes"]] == [entry["boundary_iou"] for entry in before["classes"]]
    assert now["intervals"] == before["intervals"]


def test_an_evaluation_compares_with_one_of_today(room):
    assert run("evaluate scenes --model b3f9543/model --size 65 --exact --no-report --out now") == 0
    assert run("compare b3f9543/evaluation now --json now.json") == 0
    compared = json.loads(Path("now.json").read_text())
    before = json.loads((OLD / "evaluation/evaluation.json").read_text())
    assert compared["mean_iou"]["first"] == before["mean_iou"]
    assert compared["mean_iou"]["difference"] == pytest.approx(0, abs=1e-3)
    assert compared["differing"] == []
    assert len(compared["classes"]) == 10


# -- what is not -------------------------------------------------------------------------------------------------------


def interrupt(journal, *results):
    """Leave a run as it was before its last image."""
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    for path in results:
        path.unlink()


@pytest.mark.parametrize(
    ("command", "commit", "journal", "result"),
    [
        ("extract photos --layers 4 8", "b3f9543", "features/manifest.jsonl", "wide.jpg.safetensors"),
        ("predict scenes/images/val", "73fd203", "predictions/predictions.jsonl", "0004.png"),
        ("evaluate scenes --no-report", "73fd203", "evaluation/images.jsonl", "evaluation.json"),
    ],
)
def test_a_run_is_resumed(command, commit, journal, result, room):
    journal = Path(commit) / journal
    folder, text = journal.parent, journal.read_text()
    interrupt(journal, folder / result)
    kept = state_of(folder)
    arguments = ("--model", f"{commit}/model", "--size", 65, "--exact", "--out", folder)
    assert run(command, *arguments) == 0
    after = state_of(folder)
    assert set(after) == {*kept, folder / result}
    assert all(after[path] == kept[path] for path in kept if path != journal)
    assert journal.read_text().splitlines()[:-1] == text.splitlines()[:-1]
    assert len(journal.read_text().splitlines()) == len(text.splitlines())
    assert run(command, *arguments) == 0
    assert {path: content for path, (content, _) in state_of(folder).items()} == {
        p: content for p, (content, _) in after.items()
    }


@pytest.mark.slow
def test_a_training_is_continued(room):
    recipe = "--output-stride 8 --head fcn --crop 65 --scale 1 1 --batch 4 --lr 0.1 --clip 2 --freeze-bn no --size 65"
    before = json.loads(Path("73fd203/model/last/model.json").read_text())["training"]
    more = "--validate-every 100 --save-every 100 --steps 101 --out 73fd203/model"
    assert run(f"train scenes --model plan.json {recipe} {more}") == 0
    after = json.loads(Path("73fd203/model/last/model.json").read_text())["training"]
    assert (before["step"], after["step"]) == (100, 101)
    assert after["legs"] == [*before["legs"], {"from": 100, "steps": 101}]
    assert after["initial_weights_sha256"] == before["initial_weights_sha256"]
    moved = load_model("73fd203/model/last").model.weights
    weights = load_model(WRITTEN / "73fd203/model/last").model.weights
    errors = [relative_error(moved[name], value) for name, value in weights.items() if value.std() > 0]
    assert 0 < max(errors) < 0.5  # one small step from where it was


@pytest.mark.parametrize(
    ("command", "folder"), [("predict scenes/images/val", "predictions"), ("evaluate scenes --no-report", "evaluation")]
)
def test_a_run_by_another_rule_is_refused(command, folder, room, capsys):
    """b3f9543's models took the whole canvas for the map: what it began is not mixed with answers by today's rule."""
    folder = Path("b3f9543") / folder
    before = state_of(folder)
    assert run(command, "--model", "b3f9543/model", "--size", 65, "--exact", "--out", folder) == 1
    assert "canvas" in capsys.readouterr().err
    assert state_of(folder) == before
