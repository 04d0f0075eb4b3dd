"""Evaluation: the fixture worked by hand, every figure from the log again, kill and resume, shards, and bad input."""

import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT
from helpers.command import run
from helpers.datasets import BLOBS, FIXTURE, INFERENCE, NAMES, SIZES, label_of, lines_of, make_exif, write_dataset, write_pair
from helpers.folders import wait_for
from helpers.networks import image_of, tiny_model
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io.discovery import find_images
from dense_resnet.jobs import journal
from segmentation import metrics
from segmentation.data.layouts import open_dataset
from segmentation.data.tfrecords import write_records
from segmentation.evaluation.evaluate import Evaluation
from segmentation.evaluation.results import ImageCounts, read_result
from segmentation.evaluation.systems import ModelPredictions, SavedPredictions
from segmentation.metrics import boundaries, calibration, intervals
from segmentation.metrics.confusion import ConfusionMatrix
from segmentation.metrics.presets import PRESETS, Switches, mean_iou_under
from segmentation.prediction.label_images import Labeling
from segmentation.prediction.options import Inference
from segmentation.saving.model_directory import load_model, save_model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The dataset's folder; nobody changes it."""
    return write_dataset(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def own_pairs(tmp_path):
    """One to change."""
    return write_dataset(tmp_path / "own")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model directory."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_model(), BLOBS)
    return folder


def exact_system(saved, inference):
    """A model by its slim graph."""
    return ModelPredictions(saved, saved.runner("exact"), inference)


@pytest.fixture(scope="module")
def system(model_folder):
    """The model, traced once for all."""
    return exact_system(load_model(model_folder), INFERENCE)


@pytest.fixture(scope="module")
def whole(system, pairs, tmp_path_factory):
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    outcome = Evaluation(system, open_dataset(pairs), out).run()
    assert (outcome.written, outcome.total, outcome.failed, outcome.stopped) == (6, 6, (), False)
    return out


def result_bytes(folder):
    return (folder / "evaluation.json").read_bytes()


def contents(folder):
    """Every file's bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- the figures -------------------------------------------------------------------------------------------------------


def write_fixture(root, ignore_label=255, names="AB"):
    """EVALUATION's fixture as files: the dataset, and predictions beside it; the same again for more names."""
    for name, (label, prediction) in zip(names, itertools.cycle(FIXTURE), strict=False):
        write_pair(root, name, np.zeros((1, 8, 3), np.uint8), label.astype(np.uint8))
        (root / "predictions").mkdir(exist_ok=True)
        Image.fromarray(prediction.astype(np.uint8)).save(root / "predictions" / f"{name}.png")
    described = {"classes": ["0", "1", "2", "3"], "ignore_label": ignore_label}
    if ignore_label is None:
        described["mapping"] = {"0": 0, "1": 1, "2": 2, "3": 3, "255": 0}
    (root / "dataset.json").write_text(json.dumps(described))
    dataset = open_dataset(root)
    return dataset, SavedPredictions(root / "predictions", dataset.space, dataset.samples)


def test_figures_equal_the_fixture_worked_by_hand(tmp_path):
    dataset, folder = write_fixture(tmp_path)
    outcome = Evaluation(folder, dataset, tmp_path / "out").run()
    result, _ = read_result(tmp_path / "out")
    assert outcome.result == result
    assert [one["iou"] for one in result["classes"]] == [0.75, 0.5, 0, None]
    assert [one["averaged"] for one in result["classes"]] == [True, True, True, False]
    assert [one["accuracy"] for one in result["classes"]] == [pytest.approx(0.75), pytest.approx(2 / 3), None, None]
    assert [one["pixels"] for one in result["classes"]] == [12, 3, 0, 0]
    assert [one["predicted"] for one in result["classes"]] == [9, 3, 3, 0]
    assert result["mean_iou"] == pytest.approx(0.41667, abs=1e-5)
    assert result["averaged_classes"] == 3
    assert result["pixel_accuracy"] == pytest.approx(0.73333, abs=1e-5)
    assert result["mean_accuracy"] == pytest.approx(0.70833, abs=1e-5)
    assert result["frequency_weighted_iou"] == pytest.approx(0.7)
    assert result["mean_image_iou"] == pytest.approx(0.39583, abs=1e-5)
    expected = dict.fromkeys(("cityscapes", "mmseg", "keras", "tf", "deeplab"), 0.41667)
    expected |= {"detectron2": 0.625, "ade20k": 0.3125, "torchmetrics": 0.4}
    assert {name: value for name, value in result["conventions"].items() if name != "voc"} == pytest.approx(expected, abs=1e-5)
    assert result["conventions"]["voc"] is None
    assert result["calibration"] is None
    assert result["matrix"] == [[9, 1, 2, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert result["counts"] == {"images": 2, "skipped": 0, "pixels": 16, "scored": 15, "ignored": 1, "padded": 0}
    assert result["images"] == [{"path": "A", "mean_iou": pytest.approx(5 / 12)}, {"path": "B", "mean_iou": 0.375}]


@pytest.mark.parametrize(
    ("switches", "mean", "averaged"),
    [
        (Switches(absent="one"), 0.5625, 4),
        (Switches(absent="nan"), None, 3),
        (Switches(absent="gt_only"), 0.625, 2),
        (Switches(background=False), 0.25, 2),
        (Switches(scope="image"), 0.39583, 3),
        (Switches(scope="image_class"), 0.4, 3),
    ],
)
def test_other_switches_reuse_the_log(switches, mean, averaged, tmp_path):
    dataset, folder = write_fixture(tmp_path, names="ABCDEF")
    plain = Evaluation(folder, dataset, tmp_path / "out").run(report=False).result
    outcome = Evaluation(folder, dataset, tmp_path / "out", switches).run(report=False)
    assert outcome.written == 0
    assert outcome.result["mean_iou"] == (mean if mean is None else pytest.approx(mean, abs=1e-5))
    own = outcome.result["protocol"]["switches"]
    assert own == {name: getattr(switches, name) for name in ("absent", "scope", "background", "size", "upsample")}
    if switches.scope != "dataset" or mean is None:
        assert outcome.result["intervals"]["mean_iou"] is None
    else:
        low, high = outcome.result["intervals"]["mean_iou"]
        assert low <= mean <= high
    for one, other in zip(outcome.result["classes"], plain["classes"], strict=True):  # by the definition, whatever the mean
        assert {**one, "averaged": None} == {**other, "averaged": None}
    assert outcome.result["averaged_classes"] == sum(one["averaged"] for one in outcome.result["classes"]) == averaged


def test_few_images_have_no_interval(capsys, tmp_path):
    dataset, folder = write_fixture(tmp_path, names="ABCD")
    result = Evaluation(folder, dataset, tmp_path / "out").run().result
    assert result["mean_iou"] == pytest.approx(0.41667, abs=1e-5)
    assert result["intervals"]["mean_iou"] is None
    assert [one["interval"] for one in result["classes"]] == [None] * 4
    code, out, _ = run(
        capsys, "evaluate", tmp_path, "--predictions", tmp_path / "predictions", "--out", tmp_path / "out", "--no-report"
    )
    assert code == 0
    assert "mean IoU 0.4167 over 3 classes, 4 images (" in out
    assert " to " not in out
    assert "intervals need at least 5 images, and for a class, 5 that contain it" in out
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "Measured on 4 images, too few for an interval, which needs at least 5." in page
    assert "Intervals need at least 5 images, and for a class, 5 that contain it." in page
    assert "% interval, by" not in page


@pytest.mark.parametrize("absent", metrics.ABSENT)
def test_the_mean_of_nothing_is_undefined(absent, capsys, tmp_path, monkeypatch):
    """Not 0 or 1 either, which absent classes count by some conventions; and nothing is printed as NaN."""
    from tools.evaluate import print_result

    monkeypatch.setattr("segmentation.evaluation.evaluate.judge", lambda splits: {})  # which refuses such labels beforehand

    dataset, folder = write_fixture(tmp_path)
    for name in "AB":
        write_pair(tmp_path, name, np.zeros((1, 8, 3), np.uint8), np.full((1, 8), 255, np.uint8))
    result = Evaluation(folder, dataset, tmp_path / "out", Switches(absent=absent)).run().result
    assert (result["mean_iou"], set(result["conventions"].values())) == (None, {None})
    print_result(result)
    out = capsys.readouterr().out
    assert "mean IoU undefined (no pixel was scored), 2 images (0 pixels scored, 16 ignored)" in out
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "<strong>–</strong>" in page
    assert not re.search(r"\bnan\b", re.sub(r"<dt>absent</dt><dd>nan", "", out + page), re.IGNORECASE)


def test_messages_use_the_singular_for_one(capsys, tmp_path):
    write_pair(tmp_path, "a", image_of(20, 20, 0), np.zeros((20, 20), np.uint8))
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": ["all"]}))
    arguments = ["evaluate", tmp_path, "--predictions", tmp_path / "labels", "--out", tmp_path / "out"]
    _, out, err = run(capsys, *arguments, "--merge")
    assert "1 of 1 image is in no shard's log" in err
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "mean IoU 1.0000 over 1 class, 1 image (" in out
    assert "Measured on 1 image, too few for an interval" in (tmp_path / "out" / "report" / "index.html").read_text()
    write_pair(tmp_path, "a", image_of(20, 20, 0), np.ones((20, 20), np.uint8))
    assert "1 of 1 pair cannot be used" in run(capsys, *arguments)[2]
    dataset = open_dataset(tmp_path)
    other = SavedPredictions(tmp_path / "labels", BLOBS, dataset.samples)
    with pytest.raises(InputError, match=r"the model has 5 classes \(sky, .*\), .* has 1 class \(all\)"):
        Evaluation(other, dataset, tmp_path / "other")


def test_the_ignored_pixel_as_class_0(tmp_path):
    dataset, folder = write_fixture(tmp_path, ignore_label=None)
    result = Evaluation(folder, dataset, tmp_path / "out").run(report=False).result
    assert result["mean_iou"] == pytest.approx(0.42308, abs=1e-5)
    assert result["counts"]["ignored"] == 0


@pytest.mark.parametrize(
    "inference",
    [INFERENCE, Inference(size=65, upsample="legacy"), Inference(size=65, flip=True), Inference(size=65, score="input")],
)
def test_a_model_against_a_literal_loop(inference, model_folder, pairs, tmp_path):
    evaluated, switches = (
        exact_system(load_model(model_folder), inference),
        Switches(size=inference.score, upsample=inference.upsample),
    )
    result = Evaluation(evaluated, open_dataset(pairs), tmp_path, switches).run(report=False).result
    matrix, predictor, padded = ConfusionMatrix(5), evaluated._predictor, 0
    assert (predictor._runner.preprocessing, predictor.inference) == ("inception", inference)
    for name, (height, width) in SIZES.items():
        label = np.array(Image.open(pairs / "labels" / f"{name}.png"))
        prediction = predictor(np.array(Image.open(pairs / "images" / f"{name}.png")))
        canvas = np.full(prediction.labels.shape, 255)
        canvas[:height, :width] = label
        matrix.update(canvas, prediction.labels)
        padded += (97 if height == 97 else 65) * (81 if width == 70 else 65) - height * width
    assert result["matrix"] == matrix.counts.tolist()
    assert result["mean_iou"] == metrics.mean_iou(matrix.counts) > 0.05
    assert result["counts"]["padded"] == (0 if inference.flip else padded)
    assert result["protocol"]["inference"] == {**inference.__dict__, "scales": [1.0]}


def dense(entries, *shape):
    """What a line holds as an array."""
    counts = np.zeros(shape, int)
    for *place, count in entries:
        counts[tuple(place)] = count
    return counts


def test_every_figure_is_one_of_the_lines(whole):
    result, _ = read_result(whole)
    lines = lines_of(whole)
    assert [line["path"] for line in lines] == sorted(SIZES)
    for line in lines:
        height, width = SIZES[line["path"]]
        assert line["size"] == [height, width]
        assert line["scored"] + line["ignored"] == height * width
        assert dense(line["matrix"], 5, 5).sum() == dense(line["calibration"], 15, 3)[:, 0].sum() == line["scored"]
        assert len(json.dumps(line)) < 4000
    each = [dense(line["matrix"], 5, 5) for line in lines]
    matrix = sum(each)
    iou, accuracy = [], []
    for number in range(5):
        union = matrix[number].sum() + matrix[:, number].sum() - matrix[number, number]
        iou.append(matrix[number, number] / union if union else None)
        accuracy.append(matrix[number, number] / matrix[number].sum() if matrix[number].sum() else None)
    known = [value for value in iou if value is not None]
    boundary = sum(dense(line["boundary"], 5, 3) for line in lines)
    edges = [both / (true + found - both) if true + found else None for both, true, found in boundary]
    trimap = sum(dense(line["trimap"], 9, 5, 3) for line in lines)
    bins = sum(dense(line["calibration"], 15, 3) for line in lines)
    pixels = bins[:, 0].sum()
    gaps = [abs(right - confidence / 2**24) / pixels for _, right, confidence in bins]
    frequency = matrix.sum(axis=1) / matrix.sum()
    expected = {
        "mean_iou": np.mean(known),
        "averaged_classes": len(known),
        "pixel_accuracy": matrix.trace() / matrix.sum(),
        "mean_accuracy": np.mean([value for value in accuracy if value is not None]),
        "frequency_weighted_iou": sum(share * value for share, value in zip(frequency, iou, strict=True) if value is not None),
        "mean_boundary_iou": np.mean([value for value in edges if value is not None]),
        "mean_image_iou": np.mean([metrics.mean_iou(one) for one in each]),
    }
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-12), name
    for number, one in enumerate(result["classes"]):
        assert (one["name"], one["color"]) == (NAMES[number], BLOBS.colors[number].tolist())
        for name, value in (("iou", iou), ("accuracy", accuracy), ("boundary_iou", edges)):
            assert one[name] == (None if value[number] is None else pytest.approx(value[number], rel=1e-12)), name
        assert (one["pixels"], one["predicted"]) == (matrix[number].sum(), matrix[:, number].sum())
        assert one["averaged"] == (iou[number] is not None)
    assert [one["width"] for one in result["trimap"]] == [1, 2, 3, 5, 8, 12, 20, 30, 40]
    for one, counts in zip(result["trimap"], trimap, strict=True):
        present = [hits / (true + found - hits) for hits, true, found in counts if true + found]
        assert one["mean_iou"] == pytest.approx(np.mean(present), rel=1e-12)
    assert result["calibration"]["expected_error"] == pytest.approx(sum(gaps), rel=1e-9)
    for one, (count, right, confidence) in zip(result["calibration"]["bins"], bins, strict=True):
        assert one["pixels"] == count
        assert one["accuracy"] == (right / count if count else None)
        assert one["confidence"] == (pytest.approx(confidence / count / 2**24) if count else None)
    assert result["matrix"] == matrix.tolist()
    assert result["images"] == [
        {"path": line["path"], "mean_iou": metrics.mean_iou(one)} for line, one in zip(lines, each, strict=True)
    ]
    assert result["counts"] == {
        "images": 6,
        "skipped": 0,
        "pixels": sum(math.prod(size) for size in SIZES.values()),
        "scored": int(matrix.sum()),
        "ignored": sum(line["ignored"] for line in lines),
        "padded": sum(line["padded"] for line in lines),
    }
    for name, value in result["conventions"].items():
        own = mean_iou_under(each, PRESETS[name])
        assert value == (None if math.isnan(own) else pytest.approx(own, rel=1e-12)), name
    assert set(result["conventions"]) == set(PRESETS)
    spread = intervals.bootstrap_mean_iou(metrics.class_sums(each))
    assert result["intervals"] == {
        "level": 0.95,
        "resamples": 2000,
        "seed": 0,
        "mean_iou": [spread.mean.low, spread.mean.high],
    }
    assert spread.mean.low < result["mean_iou"] < spread.mean.high
    for one, own in zip(result["classes"], spread.classes, strict=True):
        assert one["interval"] == (None if math.isnan(own.low) else [own.low, own.high])


def test_counts_of_an_image_are_those_of_the_modules(whole, system, pairs):
    line = lines_of(whole)[0]
    dataset = open_dataset(pairs)
    image, label = dataset.samples[0].read_image(), dataset.samples[0].read_label(BLOBS)
    [answer] = system([dataset.samples[0]], [image])
    both = label, answer.labels, 5, 255
    assert np.array_equal(dense(line["boundary"], 5, 3), boundaries.boundary_counts(*both))
    assert np.array_equal(dense(line["trimap"], 9, 5, 3), boundaries.trimap_counts(*both))
    bins = calibration.calibration_counts(answer.confidence, label == answer.labels, label != 255)
    assert np.array_equal(dense(line["calibration"], 15, 3), bins)


def test_protocol_records_all_that_results_depend_on(whole, model_folder):
    protocol = read_result(whole)[0]["protocol"]
    saved = load_model(model_folder)
    assert protocol["system"]["weights_sha256"] == saved.weights_sha256
    assert protocol["system"]["output_stride"] == 8
    assert protocol["system"]["preprocessing"] == "inception"
    assert protocol["system"]["seams"] is None
    assert protocol["inference"]["size"] == 65
    assert protocol["labels"] == BLOBS.as_json()
    assert (protocol["dataset"], protocol["split"], protocol["exif"]) == ("blobs", "all", "error")
    assert protocol["switches"] == Switches().__dict__
    assert len(protocol["split_sha256"]) == len(protocol["names_sha256"]) == 64


def test_the_report_page_is_written(whole):
    page = (whole / "report" / "index.html").read_text()
    assert "blobs" in page
    assert len(list((whole / "report").glob("*.jpg"))) == 6


# -- stop, kill, shards ------------------------------------------------------------------------------------------------


def test_a_stopped_run_resumes_to_the_same_file(system, pairs, whole, tmp_path):
    dataset, seen = open_dataset(pairs), []
    stopped = Evaluation(system, dataset, tmp_path).run(
        progress=lambda what, done, total: seen.append((what, done)), stop=lambda: ("scoring", 2) in seen
    )
    assert stopped.stopped
    assert stopped.result is None
    assert (stopped.written, stopped.total, len(lines_of(tmp_path))) == (2, 2, 2)
    assert [what for what, _ in seen[:13]] == ["checking"] * 6 + ["comparing"] * 6 + ["scoring"]
    assert not (tmp_path / "evaluation.json").exists()
    rest = Evaluation(system, dataset, tmp_path).run(report=False)
    assert (rest.written, rest.total) == (4, 6)
    assert result_bytes(tmp_path) == result_bytes(whole)
    again = Evaluation(system, dataset, tmp_path).run(report=False)
    assert (again.written, again.total) == (0, 6)
    assert result_bytes(tmp_path) == result_bytes(whole)


@pytest.mark.parametrize("at", ["checking", "comparing"])
def test_stopping_before_it_scores(at, system, pairs, tmp_path):
    seen = []
    outcome = Evaluation(system, open_dataset(pairs), tmp_path).run(
        progress=lambda what, done, total: seen.append((what, done)), stop=lambda: (at, 1) in seen
    )
    assert (outcome.stopped, outcome.written, outcome.result) == (True, 0, None)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_file(system, model_folder, pairs, whole, tmp_path):
    code = (
        "import sys, time\n"
        "from segmentation.evaluation import Evaluation, ModelPredictions\n"
        "from segmentation.saving.model_directory import load_model\n"
        "from segmentation.prediction import Inference\n"
        "from segmentation.data.layouts import open_dataset\n"
        "model, pairs, out = sys.argv[1:]\n"
        "saved = load_model(model)\n"
        "system = ModelPredictions(saved, saved.runner('exact'), Inference(size=65))\n"
        "evaluation = Evaluation(system, open_dataset(pairs), out)\n"
        "evaluation.run(progress=lambda what, done, total: time.sleep(0.5 * (what == 'scoring')))\n"
    )
    log = tmp_path / "images.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code, model_folder, pairs, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= log.read_bytes().count(b"\n") < 6
    assert not (tmp_path / "evaluation.json").exists()
    outcome = Evaluation(system, open_dataset(pairs), tmp_path).run()
    assert 0 < outcome.written < 5
    assert contents(tmp_path) == contents(whole)


def test_a_truncated_log_line_is_scored_again(system, pairs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    log = tmp_path / "out" / "images.jsonl"
    log.write_bytes(log.read_bytes()[:-200])
    (tmp_path / "out" / "evaluation.json").unlink()
    assert Evaluation(system, open_dataset(pairs), tmp_path / "out").run().written == 1
    assert contents(tmp_path / "out") == contents(whole)


def test_shards_make_the_whole(system, pairs, whole, tmp_path):
    dataset = open_dataset(pairs)
    for index in (2, 0):
        outcome = Evaluation(system, dataset, tmp_path, shard=(index, 3)).run()
        assert (outcome.written, outcome.total, outcome.result) == (2, 2, None)
    assert not (tmp_path / "evaluation.json").exists()
    with pytest.raises(InputError, match=r"2 of 6 images are in no shard's log, the first is b\. Run the shards"):
        Evaluation(system, dataset, tmp_path).run(merge=True)
    with pytest.raises(InputError, match="a shard has nothing to merge"):
        Evaluation(system, dataset, tmp_path, shard=(1, 3)).run(merge=True)
    Evaluation(system, dataset, tmp_path, shard=(1, 3)).run()
    merged = Evaluation(system, dataset, tmp_path).run(merge=True, report=False)
    assert (merged.written, merged.total) == (0, 6)
    assert result_bytes(tmp_path) == result_bytes(whole)


def test_a_whole_run_completes_unfinished_shards(system, pairs, whole, tmp_path):
    dataset = open_dataset(pairs)
    Evaluation(system, dataset, tmp_path, shard=(0, 2)).run()
    assert Evaluation(system, dataset, tmp_path).run(report=False).written == 3
    assert result_bytes(tmp_path) == result_bytes(whole)


def test_the_order_of_the_samples_does_not_matter(system, pairs, whole, tmp_path):
    dataset = open_dataset(pairs)
    shuffled = replace(dataset, samples=tuple(reversed(dataset.samples)))
    Evaluation(system, shuffled, tmp_path).run(report=False)
    assert [line["path"] for line in lines_of(tmp_path)] == sorted(SIZES, reverse=True)
    assert result_bytes(tmp_path) == result_bytes(whole)
    assert Evaluation(system, dataset, tmp_path).run(report=False).written == 0


def test_two_runs_on_one_folder(system, pairs, tmp_path):
    dataset, raised = open_dataset(pairs), []

    def intrude(what, done, total):
        if what == "scoring" and not raised:
            for shard in ((0, 1), (0, 2)):
                with pytest.raises(InputError, match="is locked by another run"):
                    Evaluation(system, dataset, tmp_path, shard=shard).run()
            raised.append(True)

    assert Evaluation(system, dataset, tmp_path).run(progress=intrude, report=False).written == 6
    assert raised


# -- what is in the folder already -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["evaluation.json", "report/index.html"])
def test_existing_files_are_not_overwritten(name, system, pairs, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=f"{name.split('/')[0]}: already exists, and was not written by this command"):
        Evaluation(system, open_dataset(pairs), tmp_path).run()
    assert contents(tmp_path) == {name: b"precious"}
    with pytest.raises(InputError, match="contains the dataset itself"):
        Evaluation(system, open_dataset(pairs), pairs / "labels")


def test_another_protocol_is_refused(system, model_folder, pairs, whole, tmp_path):
    dataset, before = open_dataset(pairs), contents(whole)
    other = tiny_model()
    other._by_name["logits/semantic/biases"].assign_add([0.0, 0.0, 0.1, 0.0, 0.0])
    save_model(tmp_path / "other", other, BLOBS)
    saved = load_model(model_folder)
    finer = load_model(model_folder, output_stride=4)
    systems = {
        "system.weights_sha256: '": exact_system(load_model(tmp_path / "other"), INFERENCE),
        r"system.output_stride: 8 there, 4 now": exact_system(finer, INFERENCE),
        r"inference.size: 65 there, 81 now": exact_system(saved, Inference(size=81)),
        r"inference.flip: False there, True now": exact_system(saved, Inference(size=65, flip=True)),
    }
    for message, another in systems.items():
        with pytest.raises(InputError, match=rf"holds results of another protocol \({message}"):
            Evaluation(another, dataset, whole).run()
    fewer = replace(dataset, samples=dataset.samples[1:])
    with pytest.raises(InputError, match=r"another protocol \(names_sha256: '"):
        Evaluation(system, fewer, whole).run()
    assert contents(whole) == before


def test_another_output_stride_is_another_network(model_folder, pairs, whole, tmp_path):
    finer = exact_system(load_model(model_folder, output_stride=4), INFERENCE)
    result = Evaluation(finer, open_dataset(pairs), tmp_path).run(report=False).result
    assert result["protocol"]["system"]["output_stride"] == 4
    assert result["matrix"] != read_result(whole)[0]["matrix"]


def test_changed_images_and_labels_are_scored_again(system, own_pairs, tmp_path):
    dataset = open_dataset(own_pairs)
    Evaluation(system, dataset, tmp_path / "out").run(report=False)
    before = read_result(tmp_path / "out")[0]
    Image.fromarray(image_of(50, 60, seed=9)).save(own_pairs / "images" / "a.png")
    Image.fromarray(label_of(33, 40, seed=9)).save(own_pairs / "labels" / "b.png")
    outcome = Evaluation(system, dataset, tmp_path / "out").run(report=False)
    assert outcome.written == 2
    assert outcome.result["protocol"]["split_sha256"] != before["protocol"]["split_sha256"]
    assert len(lines_of(tmp_path / "out")) == 6  # one line an image again
    Evaluation(system, dataset, tmp_path / "new").run(report=False)
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "new")


def test_a_changed_prediction_is_scored_anew(tmp_path):
    dataset, folder = write_fixture(tmp_path)
    Evaluation(folder, dataset, tmp_path / "out").run(report=False)
    Image.fromarray(np.zeros((1, 8), np.uint8)).save(tmp_path / "predictions" / "B.png")
    outcome = Evaluation(folder, dataset, tmp_path / "out").run(report=False)
    assert outcome.written == 1
    assert outcome.result["classes"][2]["iou"] == 0  # of image A


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.pop("matrix"),
        lambda line: line["matrix"][0].__setitem__(2, 1),
        lambda line: line.update(trimap=[[99, 0, 0, 1]]),
        lambda line: line.update(scored="many"),
        lambda line: line["calibration"].pop(0),
        lambda line: line["matrix"][0].__setitem__(2, -1),
        lambda line: line["matrix"][0].__setitem__(2, 10**30),
        lambda line: line["matrix"][0].__setitem__(2, float(line["matrix"][0][2])),
        lambda line: line["matrix"][0].__setitem__(0, -1),
        lambda line: line["matrix"].append(line["matrix"][0]),
        lambda line: line["boundary"][0].__setitem__(2, 10**6),
        lambda line: line["trimap"][0].__setitem__(3, 10**6),
        lambda line: line["calibration"][0].__setitem__(2, 10**6),
        lambda line: line.update(padded="many"),
        lambda line: line.update(size=[50.0, 60]),
        lambda line: line["size"].append(1),
        lambda line: line.update(size=[line["size"][0] * line["size"][1]]),
    ],
)
def test_an_inconsistent_log_line_is_refused(damage, system, pairs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    lines = lines_of(whole)
    damage(lines[2])
    (tmp_path / "out" / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        InputError, match=r"out: the log's line of more/a is damaged. Delete that line; its image is then scored again"
    ):
        Evaluation(system, open_dataset(pairs), tmp_path / "out").run()
    assert result_bytes(tmp_path / "out") == result_bytes(whole)


@pytest.mark.parametrize("digit", range(40, 2000, 97))
def test_a_flipped_bit_in_the_log(digit, system, pairs, whole, tmp_path):
    """Also where counts would still add up."""
    shutil.copytree(whole, tmp_path / "out")
    log = tmp_path / "out" / "images.jsonl"
    data = bytearray(log.read_bytes())
    data[digit] ^= 1
    log.write_bytes(data)
    with pytest.raises(
        InputError, match=r"images.jsonl, line \d: damaged. Delete that line; its image will be processed again"
    ):
        Evaluation(system, open_dataset(pairs), tmp_path / "out").run()


def test_a_log_without_checksums_as_older_ones(system, pairs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines_of(whole)))
    assert Evaluation(system, open_dataset(pairs), tmp_path / "out").run().written == 0
    assert result_bytes(tmp_path / "out") == result_bytes(whole)
    assert (tmp_path / "out" / "images.jsonl").read_bytes() == (whole / "images.jsonl").read_bytes()


def test_a_full_disk(system, pairs, whole, tmp_path, monkeypatch):
    """The log keeps what it has, and the same command goes on."""
    sync = os.fsync

    def full(handle):
        log = tmp_path / "images.jsonl"
        if log.exists() and os.path.sameopenfile(handle, log_handle(log)) and log.read_bytes().count(b"\n") > 3:
            raise OSError(28, "No space left on device")
        sync(handle)

    def log_handle(log, opened=[]):  # noqa: B006
        opened or opened.append(os.open(log, os.O_RDONLY))
        return opened[0]

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(
        InputError, match=r"images\.jsonl: cannot be written: No space left on device.*same command again to resume"
    ):
        Evaluation(system, open_dataset(pairs), tmp_path).run(on_error="skip", report=False)
    assert len(lines_of(tmp_path)) == 3
    monkeypatch.undo()
    assert Evaluation(system, open_dataset(pairs), tmp_path).run(report=False).written == 3
    assert result_bytes(tmp_path) == result_bytes(whole)


# -- bad input ---------------------------------------------------------------------------------------------------------


def refuses(system, dataset, out, message, **options):
    """One message, and nothing was computed or written."""
    with pytest.raises(InputError, match=message):
        Evaluation(system, dataset, out).run(**options)
    assert not out.exists()


def test_bad_pairs_are_all_named_before_any_compute(system, own_pairs, tmp_path):
    images, labels = own_pairs / "images", own_pairs / "labels"
    data = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(data[: len(data) // 2])
    label = np.zeros((33, 40), np.uint8)
    label[3, 8:12] = 34
    Image.fromarray(label).save(labels / "b.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(labels / "more/a.png")
    Image.fromarray(np.zeros((97, 30), np.uint8)).save(labels / "more/c.png", "JPEG")
    Image.fromarray(image_of(40, 70)).save(images / "z.png", exif=make_exif(6))
    dataset = open_dataset(own_pairs)
    with pytest.raises(InputError) as error:
        Evaluation(system, dataset, tmp_path / "out").run()
    heading, *listed = str(error.value).splitlines()
    assert heading == "5 of 6 pairs cannot be used; nothing was computed. --on-error skip leaves them out."
    expected = (
        r"images/a.png: cannot be decoded: .*truncated or damaged",
        r"labels/b.png: label value 34 \(4 px, first at y=3, x=8\) is outside 0..4 and is not the ignore label 255\. "
        r"Are these labelIds instead of trainIds\? See --label-map\.",
        r"images/more/a.png: the image is 65x65 pixels, its label 40x40\. Labels are never resized\.",
        r"labels/more/c.png: a JPEG file changes the values of labels",
        r"images/z.png: has EXIF rotation 6, and it is unknown whether its label is rotated too",
    )
    for line, pattern in zip(listed, expected, strict=True):
        assert re.search(pattern, line), line
    assert not (tmp_path / "out").exists()
    outcome = Evaluation(system, dataset, tmp_path / "out").run(on_error="skip", report=False)
    assert (outcome.written, outcome.total, len(outcome.failed)) == (1, 1, 5)
    assert outcome.result["counts"]["images"] == 1
    assert outcome.result["counts"]["skipped"] == 5
    assert outcome.result["skipped"] == list(outcome.failed)
    again = Evaluation(system, dataset, tmp_path / "out").run(on_error="skip", report=False)
    assert again == replace(outcome, written=0)


def masks(root, values, **described):
    """Two pairs whose labels have these values alone, and predictions of class 0."""
    for name in "AB":
        write_pair(root, name, image_of(8, 8, ord(name)), np.resize(np.array(values, np.uint8), (8, 8)))
        (root / "predictions").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "predictions" / f"{name}.png")
    (root / "dataset.json").write_text(json.dumps({"name": "masks", "classes": ["no", "yes"], **described}))
    dataset = open_dataset(root)
    return SavedPredictions(root / "predictions", dataset.space, dataset.samples), dataset


@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize(
    ("values", "message"),
    [([0, 255], "masks: all labels are 0 or 255, .* are these masks"), ([255], "masks, split all: no pixel is labeled")],
)
def test_labels_that_cannot_be_scored(values, message, on_error, tmp_path):
    refuses(*masks(tmp_path, values), tmp_path / "out", message, on_error=on_error)


def test_labels_of_one_class_and_what_is_said_to_be_ignored(tmp_path):
    said = []
    system, dataset = masks(tmp_path, [0, 255], ignore_label=255)
    Evaluation(system, dataset, tmp_path / "shards", shard=(0, 2)).run(note=said.append)
    assert said == []  # of a part
    outcome = Evaluation(system, dataset, tmp_path / "out").run(note=said.append, report=False)
    assert outcome.result["counts"]["scored"] == 64
    assert [re.search("only class|masks, in which", line)[0] for line in said] == ["only class", "masks, in which"]


def test_label_checks_do_not_apply_to_a_single_shard(tmp_path):
    system, dataset = masks(tmp_path, [0, 1])
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "labels" / "B.png")
    assert Evaluation(system, dataset, tmp_path / "out", shard=(1, 2)).run().written == 1
    Evaluation(system, dataset, tmp_path / "out", shard=(0, 2)).run()
    result = Evaluation(system, dataset, tmp_path / "out").run(merge=True, report=False).result
    assert result["counts"]["scored"] == 64


def test_a_run_without_scored_pixels_fails(capsys, tmp_path):
    """The only labelled pair breaks after the check."""
    masks(tmp_path, [255])
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "labels" / "A.png")
    data = bytearray((tmp_path / "images" / "A.png").read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    (tmp_path / "images" / "A.png").write_bytes(data)
    options = ["--predictions", tmp_path / "predictions", "--out", tmp_path / "out", "--on-error", "skip", "--no-report"]
    code, out, err = run(capsys, "evaluate", tmp_path, *options)
    assert (code, err) == (1, "")
    assert "mean IoU undefined (no pixel was scored), 1 image (0 pixels scored, 64 ignored)" in out
    assert "nan" not in out.lower()
    assert read_result(tmp_path / "out")[0]["mean_iou"] is None


def test_similar_bad_pairs_are_grouped(tmp_path):
    masks(tmp_path, [0, 1])
    for number in range(30):
        write_pair(tmp_path, f"{number:02}", image_of(8, 8, number), np.full((8, 8), 9, np.uint8))
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "predictions" / f"{number:02}.png")
    dataset = open_dataset(tmp_path)
    system = SavedPredictions(tmp_path / "predictions", dataset.space, dataset.samples)
    with pytest.raises(InputError) as caught:
        Evaluation(system, dataset, tmp_path / "out").run()
    heading, line = str(caught.value).splitlines()
    assert heading.startswith("30 of 32 pairs cannot be used")
    assert line.startswith(f"  30 alike: {tmp_path}/labels/00.png: label value 9 (64 px")
    assert line.endswith(f"Also: {tmp_path}/labels/01.png, {tmp_path}/labels/02.png and 27 more.")


def test_a_pair_that_breaks_after_the_check(system, own_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluation, "_check", lambda *_: None)
    path = own_pairs / "images" / "more/a.png"
    path.write_bytes(path.read_bytes()[:500])
    dataset = open_dataset(own_pairs)
    with pytest.raises(InputError, match=r"images/more/a\.png: cannot be decoded"):
        Evaluation(system, dataset, tmp_path / "one").run()
    assert [line["path"] for line in lines_of(tmp_path / "one")] == ["a", "b"]
    outcome = Evaluation(system, dataset, tmp_path / "two").run(on_error="skip", report=False)
    assert (outcome.written, len(outcome.failed), outcome.result["counts"]["skipped"]) == (5, 1, 1)
    assert [line["status"] for line in lines_of(tmp_path / "two")] == ["ok", "ok", "error", "ok", "ok", "ok"]


def test_a_repaired_pair_is_scored(system, own_pairs, tmp_path):
    path = own_pairs / "images" / "a.png"
    data = path.read_bytes()
    path.write_bytes(data[:500])
    dataset = open_dataset(own_pairs)
    Evaluation(system, dataset, tmp_path / "out", shard=(0, 2)).run(on_error="skip")
    Evaluation(system, dataset, tmp_path / "out").run(on_error="skip", report=False)
    path.write_bytes(data)
    assert Evaluation(system, dataset, tmp_path / "out").run(report=False).written == 1
    Evaluation(system, dataset, tmp_path / "new").run(report=False)
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "new")


def test_shards_with_a_skipped_image_join(system, own_pairs, tmp_path):
    path = own_pairs / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:500])
    dataset = open_dataset(own_pairs)
    for index in range(2):
        Evaluation(system, dataset, tmp_path / "out", shard=(index, 2)).run(on_error="skip")
    merged = Evaluation(system, dataset, tmp_path / "out").run(on_error="skip", merge=True, report=False)
    assert (merged.written, merged.result["counts"]["skipped"]) == (0, 1)


def test_a_file_that_is_gone(system, own_pairs, tmp_path):
    dataset, out = open_dataset(own_pairs), tmp_path / "out"
    Evaluation(system, dataset, out).run(report=False)
    (own_pairs / "images" / "b.png").unlink()
    before = contents(out)
    with pytest.raises(InputError, match=r"1 of 6 pairs cannot be used; .*\n  .*images/b\.png: cannot be read: No such file"):
        Evaluation(system, dataset, out).run()
    assert contents(out) == before
    outcome = Evaluation(system, dataset, out).run(on_error="skip", report=False)
    assert (outcome.written, outcome.total, outcome.result["counts"]["images"]) == (0, 5, 5)
    assert "images/b.png: cannot be read" in outcome.result["skipped"][0]


def test_a_dataset_of_bad_pairs_has_no_result(system, own_pairs, tmp_path):
    for path in (own_pairs / "images").rglob("*.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="no image was scored, so there is no result"):
        Evaluation(system, open_dataset(own_pairs), tmp_path / "out").run(on_error="skip")


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_exif_choice_decides_which_pixels_are_scored(exif, system, tmp_path):
    stored, label = image_of(40, 60), label_of(40, 60, 0)
    write_pair(tmp_path, "a", stored, np.ascontiguousarray(np.rot90(label, -1)) if exif == "apply" else label)
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=make_exif(6))
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": NAMES}))
    dataset = open_dataset(tmp_path, exif=exif)
    result = Evaluation(system, dataset, tmp_path / "out").run(report=False).result
    assert lines_of(tmp_path / "out")[0]["size"] == ([60, 40] if exif == "apply" else [40, 60])
    assert result["protocol"]["exif"] == exif


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_nan_logits_stop_the_run(on_error, pairs, tmp_path):
    """Not class 0, and not an image that one may leave out."""
    model = tiny_model()
    biases = model._by_name["logits/semantic/biases"]
    saved_folder = tmp_path / "model"
    save_model(saved_folder, model, BLOBS)
    saved = load_model(saved_folder)
    saved.model._by_name["logits/semantic/biases"].assign(biases * np.nan)
    with pytest.raises(InputError, match=r"images/a\.png: the network's logits are not finite"):
        Evaluation(exact_system(saved, INFERENCE), open_dataset(pairs), tmp_path / "out").run(on_error=on_error)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_missing_predictions_are_named_at_once(tmp_path):
    dataset, _ = write_fixture(tmp_path)
    (tmp_path / "predictions" / "A.png").unlink()
    (tmp_path / "predictions" / "B.png").rename(tmp_path / "predictions" / "C.png")
    with pytest.raises(InputError, match=r"2 of 2 predictions are missing\.\n .*A\.png: no such file\n .*B\.png: no such file"):
        SavedPredictions(tmp_path / "predictions", dataset.space, dataset.samples)
    with pytest.raises(InputError, match="nowhere: no such folder of predictions"):
        SavedPredictions(tmp_path / "nowhere", dataset.space, dataset.samples)
    many = [replace(dataset.samples[0], name=f"{number:03}") for number in range(25)]
    with pytest.raises(
        InputError, match=r"25 of 25 .*\n  25 alike: .*000\.png: no such file\. Also: .*001\.png, .*002\.png and 22 more\.$"
    ):
        SavedPredictions(tmp_path / "predictions", dataset.space, many)


LAYOUTS = {  # images and labels of the split val; folders that `predict` may be given, of which the last ones together
    "two folders": ("images/{}.jpg", "labels/{}.png", ["images", "."]),
    "splits": ("images/val/{}.jpg", "labels/val/{}.png", ["images/val", "images", "."]),
    "masks": ("images/val/{}.png", "masks/val/{}.png", ["images/val", "images"]),
    "a folder a split": ("val/images/{}.jpg", "val/labels/{}.png", ["val/images", "val", "."]),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", ["JPEGImages", "."]),
    "cityscapes": (
        "leftImg8bit/val/{}_leftImg8bit.png",
        "gtFine/val/{}_gtFine_labelIds.png",
        ["leftImg8bit/val", "leftImg8bit", "."],
    ),
    "ade20k": ("images/validation/{}.jpg", "annotations/validation/{}.png", ["images/validation", "images"]),
    "csv": ("pictures/{}.jpg", "masks of them/{}.png", ["pictures", "."]),
}


def write_layout(root, layout, names):
    """(a dataset in that layout, the folders to predict on)."""
    image, label, folders = LAYOUTS[layout]
    for number, name in enumerate(names):
        for path in (root / image.format(name), root / label.format(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_of(9, 13, number)).save(root / image.format(name))
        Image.fromarray(label_of(9, 13, number)).save(root / label.format(name))
    if layout == "voc":
        (root / "ImageSets" / "Segmentation").mkdir(parents=True)
        (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    if layout == "csv":
        lines = [f"{image.format(name)},{label.format(name)}" for name in names]
        (root / "list.csv").write_text("\n".join(["image,label", *lines]))
    (root / "dataset.json").write_text(json.dumps({"classes": list(BLOBS.names)}))
    return open_dataset(root / "list.csv" if layout == "csv" else root), [root / folder for folder in folders]


def predict_labels(dataset, folder, out):
    """What `predict` writes for the images in `folder`, if its model were always right."""
    samples = {sample.image.path: sample for sample in dataset.samples}
    for found in find_images([str(folder)]):
        sample = samples.get(found.path)
        labels = sample.read_label(dataset.space) if sample else np.zeros((9, 13), np.uint8)
        path = Labeling.path_of(SimpleNamespace(out=out), found)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(labels == 255, 0, labels).astype(np.uint8)).save(path)


@pytest.mark.parametrize("names", [("a", "b", "more/a"), ("a", "b")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_predict_writes_is_found_in_every_layout(layout, names, tmp_path):
    if layout == "cityscapes":
        names = [f"city{len(name)}/{name.replace('/', '_')}_000000_000019" for name in names]
    dataset, folders = write_layout(tmp_path / "data", layout, names)
    for number, folder in enumerate(folders):
        predict_labels(dataset, folder, tmp_path / f"p{number}")
        system = SavedPredictions(tmp_path / f"p{number}", BLOBS, dataset.samples)
        result = Evaluation(system, dataset, tmp_path / f"out{number}").run(report=False).result
        assert (result["counts"]["images"], result["mean_iou"]) == (len(names), 1)
    write_records(dataset, tmp_path / "records", shards=1)
    records = open_dataset(tmp_path / "records")
    assert len(records.samples) == len(names)
    SavedPredictions(tmp_path / "p0", BLOBS, records.samples)


def test_predictions_of_several_folders_in_one_level(tmp_path):
    names = ["aachen/a_000000_000019", "munster/m_000000_000019"]
    dataset, (folder, *_) = write_layout(tmp_path / "data", "cityscapes", names)
    for city in ("aachen", "munster"):
        predict_labels(dataset, folder / city, tmp_path / "p")
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "a_000000_000019_leftImg8bit.png",
        "m_000000_000019_leftImg8bit.png",
    ]
    SavedPredictions(tmp_path / "p", BLOBS, dataset.samples)


def test_predictions_that_are_missing_in_part_are_named_as_the_others_are(tmp_path):
    dataset, (_, above, _) = write_layout(tmp_path / "data", "splits", ["a", "b", "more/a"])
    predict_labels(dataset, above, tmp_path / "p")
    (tmp_path / "p" / "val" / "b.png").unlink()
    with pytest.raises(InputError, match=r"1 of 3 predictions is missing\.\n  .*/p/val/b\.png: no such file\n  Nor .* a\.png"):
        SavedPredictions(tmp_path / "p", BLOBS, dataset.samples)


def test_predictions_in_one_level(pairs, tmp_path):
    """Where base names are unique, as Cityscapes' servers want them."""
    dataset = open_dataset(pairs)
    for name, size in SIZES.items():
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / f"{name.replace('/', '_')}.png")
    with pytest.raises(InputError, match=r"2 of 6 predictions are missing\.\n .*more/a\.png"):
        SavedPredictions(tmp_path, BLOBS, dataset.samples)
    unique = [sample for sample in dataset.samples if sample.name != "a"]
    for name in ("a", "c"):
        (tmp_path / f"more_{name}.png").rename(tmp_path / f"{name}.png")
    folder = SavedPredictions(tmp_path, BLOBS, unique)
    evaluated = Evaluation(folder, replace(dataset, samples=tuple(unique)), tmp_path / "out").run(report=False)
    assert evaluated.result["classes"][0]["predicted"] == evaluated.result["counts"]["scored"]


@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: Image.fromarray(np.zeros((8, 1), np.uint8)).save(path),
            "the prediction is 1x8 pixels, the image 8x1. Labels",
        ),
        (
            lambda path: Image.fromarray(np.array([[0, 0, 4, 0, 4, 0, 0, 0]], np.uint8)).save(path),
            r"prediction value 4 \(2 px, first at y=0, x=2\) is outside 0\.\.3\. Every pixel needs a class",
        ),
        (
            lambda path: Image.fromarray(np.array([[0, 0, 0, 0, 0, 0, 0, 255]], np.uint8)).save(path),
            r"prediction value 255 \(1 px, first at y=0, x=7\) is outside 0\.\.3",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), r"cannot be decoded: .*truncated or damaged"),
        (
            lambda path: Image.new("RGB", (8, 1)).save(path),
            r"a label must .*this is an RGB picture\. Predictions must be index PNGs\.$",
        ),
    ],
)
def test_a_bad_prediction_is_never_skipped(damage, message, on_error, tmp_path):
    """A system does not choose what it is scored on."""
    dataset, folder = write_fixture(tmp_path)
    damage(tmp_path / "predictions" / "B.png")
    with pytest.raises(InputError, match=rf"predictions/B\.png: {message}"):
        Evaluation(folder, dataset, tmp_path / "out").run(on_error=on_error)
    assert [line["path"] for line in lines_of(tmp_path / "out")] == ["A"]
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_systems_that_do_not_match_the_dataset_are_refused(system, pairs, tmp_path):
    dataset = open_dataset(pairs)
    fewer = replace(dataset, space=replace(BLOBS, classes=BLOBS.classes[:4]))
    message = r"the model has 5 classes \(sky, road, car, tree, \[lamp\]\), blobs has 4 classes \(sky, road, car, tree\)"
    with pytest.raises(InputError, match=message):
        Evaluation(system, fewer, tmp_path)
    swapped = replace(dataset, space=replace(BLOBS, classes=BLOBS.classes[::-1]))
    with pytest.raises(InputError, match="they must be the same, in the same order"):
        Evaluation(system, swapped, tmp_path)
    with pytest.raises(InputError, match="size 'input' is to be scored, and the predictions are of size 'native'"):
        Evaluation(system, dataset, tmp_path, PRESETS["deeplab"])
    with pytest.raises(InputError, match="upsample is to be 'legacy', and the model's inference has 'align_corners'"):
        Evaluation(system, dataset, tmp_path, Switches(upsample="legacy"))
    with pytest.raises(InputError, match=r"on_error must be 'fail' or 'skip' \(not 'ignore'\)"):
        Evaluation(system, dataset, tmp_path).run(on_error="ignore")


def test_the_canvas_needs_an_ignore_label(model_folder, pairs, tmp_path):
    dataset = open_dataset(pairs)
    canvas = exact_system(load_model(model_folder), Inference(size=65, score="input"))
    with pytest.raises(InputError, match="scoring the input canvas needs an ignore label"):
        Evaluation(canvas, replace(dataset, space=replace(BLOBS, ignore_label=None)), tmp_path, PRESETS["deeplab"])


def test_the_canvas_of_a_system_that_pads(model_folder, pairs, whole, tmp_path):
    """What is padded is ignored, so DeepLab's own figure is the native one; outlines are the image's too."""
    canvas = exact_system(load_model(model_folder), Inference(size=65, score="input"))
    result = Evaluation(canvas, open_dataset(pairs), tmp_path, PRESETS["deeplab"]).run(report=False).result
    native = read_result(whole)[0]
    for key in ("matrix", "counts", "mean_boundary_iou", "trimap", "classes"):
        assert result[key] == native[key], key
    for one, other in zip(lines_of(tmp_path), lines_of(whole), strict=True):
        assert all(one[key] == other[key] for key in ("path", "size", "ignored", "matrix", "boundary", "trimap"))
    errors = [one["calibration"]["expected_error"] for one in (result, native)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-6)  # exp has other last bits elsewhere in memory
    assert result["protocol"]["boundary"]["area"] == "image"  # of before: another protocol
    assert result["mean_iou"] == native["conventions"]["deeplab"]


def test_file_names_that_are_not_utf8_are_scored(system, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_pair(tmp_path, name, image_of(20, 20), label_of(20, 20, 0))
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": NAMES}))
    assert Evaluation(system, open_dataset(tmp_path), tmp_path / "out").run().total == 1
    assert Evaluation(system, open_dataset(tmp_path), tmp_path / "out").run().written == 0
    assert read_result(tmp_path / "out")[0]["images"][0]["path"] == name


def test_records_are_scored_like_files(system, pairs, whole, tmp_path):
    write_records(open_dataset(pairs), tmp_path / "records", shards=2)
    dataset = open_dataset(tmp_path / "records", "all")
    result = Evaluation(system, dataset, tmp_path / "out").run(report=False).result
    expected = read_result(whole)[0]
    for figures in (result, expected):
        del figures["protocol"]  # the label files are others
    assert result == expected


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_log_is_not_kept_in_memory(tmp_path):
    with journal.Journal(tmp_path / "images.jsonl", "images") as log:
        log._own._file.write(b"".join(journal._encode_record(record(number)) for number in range(3000)))
    size = (tmp_path / "images.jsonl").stat().st_size
    assert size > 10e6
    tracemalloc.start()
    with journal.Journal(tmp_path / "images.jsonl", "images") as log:
        assert log.find("2999")["matrix"] == "x" * 5000
        assert log.find("3000") is None
        log.add(record(7))
        assert not log._own.superseded
    assert tracemalloc.get_traced_memory()[1] < size / 10
    tracemalloc.stop()


def record(number):
    """Of a line of 5 kB."""
    return {"path": str(number), "status": "ok", "matrix": "x" * 5000}


def test_a_log_line_stays_below_20_kb():
    """21 classes, each of them all over the image: a dense [21, 21] matrix and every band."""
    generator = np.random.default_rng(0)
    label, prediction = (np.kron(generator.integers(0, 21, (27, 27)), np.ones((19, 19))).astype(np.uint8) for _ in range(2))
    counts = ImageCounts.of(label, prediction, generator.random(label.shape).astype(np.float32), 21, 255)
    assert len(json.dumps(counts.as_json())) < 20_000
    line = {"path": "a", "size": label.shape, "scored": label.size, "ignored": 0, "padded": 0}
    line |= {"image_sha256": "00", "label_sha256": "00", **json.loads(json.dumps(counts.as_json()))}
    again = ImageCounts.from_line(line, 21)
    for name in ("matrix", "boundary", "trimap", "calibration"):
        assert np.array_equal(getattr(again, name), getattr(counts, name))


def test_counts_that_overflow_int64_are_refused():
    """Five times 2**62 would be 2**62, and no class has more than that."""
    line = {"path": "a", "size": [2**31, 2**31], "scored": 2**62, "ignored": 0, "padded": 0, "calibration": None}
    line |= {"image_sha256": "00", "label_sha256": "00", "boundary": [], "trimap": []}
    line["matrix"] = [[number, number, 2**62] for number in range(5)]
    with pytest.raises(InputError, match="the log's line of a is damaged"):
        ImageCounts.from_line(line, 5)


@pytest.mark.parametrize("depth", [60, 1000, 100_000])
def test_deeply_nested_protocols_are_reported_as_different(depth):
    def nest(value):
        for _ in range(depth):
            value = {"a": value}
        return value

    [(key, _, _)] = journal.differences(nest(1), nest(2))
    assert key.startswith("a.a.a.")
    assert len(journal.format_differences(nest(1), nest(2))) < 500
    if depth < 100:
        assert not journal.differences(nest(1), nest(1))


# -- the command -------------------------------------------------------------------------------------------------------


def run_evaluate(capsys, pairs, model_folder, out, *more):
    return run(capsys, "evaluate", pairs, "--model", model_folder, "--out", out, "--size", 65, "--exact", "--no-report", *more)


def test_command_prints_the_figures_and_writes_the_files(capsys, pairs, model_folder, whole, tmp_path):
    code, out, _ = run(capsys, "evaluate", pairs, "--model", model_folder, "--out", tmp_path, "--size", 65, "--exact")
    assert code == 0
    result, _ = read_result(whole)
    low, high = result["intervals"]["mean_iou"]
    assert (
        f"mean IoU {result['mean_iou']:.4f} {low:.4f} to {high:.4f} over {result['averaged_classes']} classes, 6 images" in out
    )
    assert f"pixel accuracy {result['pixel_accuracy']:.4f}, mean accuracy {result['mean_accuracy']:.4f}" in out
    assert f"calibration error {result['calibration']['expected_error']:.4f}" in out
    assert "[lamp]" in out
    assert f"{tmp_path}/evaluation.json, {tmp_path}/report/index.html" in out
    assert contents(tmp_path) == contents(whole)


def test_a_mean_that_is_undefined(whole, capsys):
    from tools.evaluate import print_result

    result, _ = read_result(whole)
    result |= {"mean_iou": None, "intervals": {"mean_iou": None}}
    result["protocol"]["switches"]["absent"] = "nan"
    for one in result["classes"]:
        one["iou"] = None
    print_result(result)
    assert "mean IoU undefined under --absent nan (absent: sky, road, car, …), 6 images" in capsys.readouterr().out
    result["protocol"]["switches"]["background"] = False
    print_result(result)
    assert "(absent: road, car, tree, …)" in capsys.readouterr().out
    result["mean_iou"] = 0.5
    print_result(result)
    assert "mean IoU 0.5000 over " in capsys.readouterr().out


def test_switches_and_presets_by_the_command(capsys, pairs, model_folder, whole, tmp_path):
    conventions = read_result(whole)[0]["conventions"]
    for name in ("ade20k", "torchmetrics"):
        code, out, _ = run_evaluate(capsys, pairs, model_folder, tmp_path / "out", "--preset", name)
        assert code == 0
        assert f"mean IoU {conventions[name]:.4f}" in out
    assert "report" not in {path.name for path in (tmp_path / "out").iterdir()}
    arguments = ["--preset", "ade20k", "--absent", "one", "--background", "exclude", "--scope", "image"]
    assert run_evaluate(capsys, pairs, model_folder, tmp_path / "out", *arguments)[0] == 0
    switches = read_result(tmp_path / "out")[0]["protocol"]["switches"]
    assert (switches["absent"], switches["background"], switches["scope"]) == ("one", False, "image")
    code, _, _ = run_evaluate(capsys, pairs, model_folder, tmp_path / "deeplab", "--preset", "deeplab", "--ignore-label", "200")
    assert code == 1  # 255 is no class then
    assert (
        run_evaluate(capsys, pairs, model_folder, tmp_path / "deeplab", "--preset", "deeplab", "--upsample", "legacy")[0] == 0
    )
    inference = read_result(tmp_path / "deeplab")[0]["protocol"]["inference"]
    assert (inference["score"], inference["upsample"]) == ("input", "legacy")


def test_tiling_is_noted(capsys, pairs, model_folder, tmp_path):
    code, out, _ = run_evaluate(capsys, pairs, model_folder, tmp_path, "--tile", 65)
    assert code == 0
    assert (
        "note: near seams, figures may differ from those of whole images: windows overlap by 25 pixels, and a cell sees" in out
    )
    assert read_result(tmp_path)[0]["protocol"]["system"]["seams"].startswith("windows overlap by 25 pixels")


def test_shards_by_the_command(capsys, pairs, model_folder, whole, tmp_path):
    code, out, _ = run_evaluate(capsys, pairs, model_folder, tmp_path, "--shard", "0/2")
    assert (code, out.splitlines()[-1]) == (
        0,
        f"{tmp_path}: 3 images of shard 0/2; the command without --shard joins the shards",
    )
    code, _, err = run_evaluate(capsys, pairs, model_folder, tmp_path, "--merge")
    assert code == 1
    assert "3 of 6 images are in no shard's log" in err
    assert run_evaluate(capsys, pairs, model_folder, tmp_path, "--shard", "1/2")[0] == 0
    assert run_evaluate(capsys, pairs, model_folder, tmp_path, "--merge")[0] == 0
    assert result_bytes(tmp_path) == result_bytes(whole)


def test_a_signal_stops_the_command(capsys, pairs, model_folder, whole, tmp_path, monkeypatch):
    write = Evaluation._write

    def write_and_stop(self, *arguments):
        write(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Evaluation, "_write", write_and_stop)
    monkeypatch.setattr(os, "_exit", lambda code: None)  # further signals would end this process at once
    code, out, err = run_evaluate(capsys, pairs, model_folder, tmp_path)
    assert code == 75
    assert "of 6 images; the same command resumes from here" in out
    assert "finishing current work; press Ctrl-C again to stop immediately" in err
    monkeypatch.undo()
    assert run_evaluate(capsys, pairs, model_folder, tmp_path)[0] == 0
    assert result_bytes(tmp_path) == result_bytes(whole)


def test_skipped_images_are_listed_by_the_command(capsys, own_pairs, model_folder, tmp_path):
    (own_pairs / "images" / "a.png").write_bytes(b"")
    code, out, _ = run_evaluate(capsys, own_pairs, model_folder, tmp_path / "out", "--on-error", "skip")
    assert code == 0
    assert "1 image skipped:\n" in out
    assert "images/a.png: not a PNG or JPEG image" in out


MISTAKES = {
    "no model": (["--model", "{out}/nothing"], "nothing: no such folder. A model directory is expected"),
    "an aligned size": (["--model", "{model}", "--size", 512], "size must be 16n+1 pixels (not 512); next: 513."),
    "an output stride": (
        ["--model", "{model}", "--output-stride", 5],
        "The output_stride needs to be a multiple of 4. Got output_stride=5",
    ),
    "other classes": (
        ["--model", "{model}", "--classes", "{classes}"],
        "the model has 5 classes (sky, road, car, tree, [lamp])",
    ),
    "a missing split": (["--model", "{model}", "--split", "test"], "there is no split 'test'. Available: all"),
    "a preset": (["--model", "{model}", "--preset", "coco"], "a preset must be one of voc, cityscapes"),
    "a word": (["--model", "{model}", "--absent", "ignore"], "absent must be one of exclude, gt_only, zero, one, nan"),
    "an ignore label": (
        ["--model", "{model}", "--ignore-label", "void"],
        "--ignore-label must be a number or none (not 'void')",
    ),
    "ignored pixels": (
        ["--model", "{model}", "--ignore-label", "none"],
        'Is 255 the ignore label? Then set "ignore_label": 255',
    ),
    "no predictions": (["--predictions", "{out}/nothing"], "no such folder of predictions"),
    "upsampling of files": (["--predictions", "{model}", "--upsample", "legacy"], "go with --model, not with --predictions"),
    "options of a model": (["--predictions", "{model}", "--flip"], "go with --model, not with --predictions"),
    "a size of files": (["--predictions", "{pairs}/labels", "--size", "65"], "go with --model, not with --predictions"),
    "a batch of files": (["--predictions", "{pairs}/labels", "--batch", "2"], "go with --model, not with --predictions"),
    "threads of files": (["--predictions", "{pairs}/labels", "--threads", "2"], "go with --model, not with --predictions"),
    "exact files": (["--predictions", "{pairs}/labels", "--exact"], "go with --model, not with --predictions"),
    "precision of files": (
        ["--predictions", "{pairs}/labels", "--precision", "float32"],
        "go with --model, not with --predictions",
    ),
    "the canvas of files": (["--predictions", "{pairs}/labels", "--preset", "deeplab"], "the predictions are of size 'native'"),
    "a shard": (["--model", "{model}", "--shard", "2/2"], "--shard must be I/N with 0 <= I < N"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_common_mistakes_are_refused_before_any_work(mistake, capsys, pairs, model_folder, tmp_path):
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"classes": ["one", "two"]}))
    places = {"model": model_folder, "pairs": pairs, "classes": classes, "out": tmp_path / "out"}
    arguments, message = MISTAKES[mistake]
    arguments = [str(argument).format(**places) for argument in arguments]
    code, _, err = run(capsys, "evaluate", pairs, *arguments, "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_labels(capsys, pairs, model_folder, tmp_path):
    code, _, err = run(capsys, "evaluate", pairs / "images", "--model", model_folder, "--out", tmp_path / "out")
    assert code == 1
    assert "no layout of a dataset is recognized" in err


def test_label_ids_instead_of_train_ids_are_reported(capsys, own_pairs, model_folder, tmp_path):
    """FAULTS' example: labelIds where trainIds belong."""
    Image.fromarray(np.full((33, 40), 34, np.uint8)).save(own_pairs / "labels" / "b.png")
    code, _, err = run_evaluate(capsys, own_pairs, model_folder, tmp_path / "out")
    assert code == 1
    assert "labels/b.png: label value 34 (1320 px, first at y=0, x=0) is outside 0..4 and is not the ignore label 255." in err
    assert "Are these labelIds instead of trainIds? See --label-map." in err
    assert not (tmp_path / "out").exists()
