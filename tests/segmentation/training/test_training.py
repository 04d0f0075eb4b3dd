"""Training: the numbers of a step, exactly on after any end, several devices as one, and what is said when it goes wrong."""

import argparse
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN, TESTS
from helpers.folders import free_ports
from helpers.networks import TRAINING_PLAN
from helpers.trainings import CLASSES, make, make_data, write_split
from PIL import Image

from dense_resnet import checkpoints
from dense_resnet.backbone import Backbone
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError
from dense_resnet.jobs import journal
from dense_resnet.planning import variants
from segmentation import metrics
from segmentation.data import doctor, label_counts
from segmentation.data.label_files import encode_label
from segmentation.data.layouts import open_dataset
from segmentation.data.transforms import Augmentation
from segmentation.metrics import confusion
from segmentation.model import SegmentationModel
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving.model_directory import load_model
from segmentation.training import loop, recipe
from segmentation.training.data import PADDING
from segmentation.training.log import CURVES, LOG, cut_log
from segmentation.training.loop import Training
from segmentation.training.recipe import FOLDER, LAST, Recipe
from segmentation.training.recipe import STATE as STATE_FILE
from segmentation.training.remarks import describe_start, find_doubts
from segmentation.training.step import find_worker
from tools import cli, terminal, train

STATE = Path(FOLDER) / STATE_FILE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight images to train on, three to validate."""
    folder = make_data(tmp_path_factory.mktemp("tiny"))
    (folder / "plan.json").write_text(json.dumps(TRAINING_PLAN))
    return folder


def about(out):
    """What a state says of itself."""
    return safetensors.metadata(Path(out) / STATE)


def arrays(path):
    """The weights of a file."""
    return checkpoints.read(path)


def assert_equal(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], err_msg=name, **{"rtol": 0, "atol": 0, **tolerance})


# -- a whole training -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """(training, outcome, lines, progress) of a hundred steps."""
    out = tmp_path_factory.mktemp("trained")
    lines, progress = [], []
    one = make(data, out, validation="val", steps=100, learning_rate=0.2, validate_every=40, save_every=50)
    before = one.model.weights
    outcome = one.run(say=lines.append, progress=lambda *call: progress.append(call))
    return one, outcome, lines, progress, before


def test_a_short_training_reaches_70_percent(trained, data):
    one, outcome, *_ = trained
    assert (outcome.step, outcome.stopped) == (100, False)
    assert outcome.best > 0.7
    counts = confusion.ConfusionMatrix(3)
    saved = load_model(one.out)
    predictor = Predictor(saved.runner("exact"), saved.head, Inference(49))
    for sample in open_dataset(data, "val").samples:
        counts.update(sample.read_label(saved.space), predictor(sample.read_image()).labels)
    assert metrics.mean_iou(counts.counts) == pytest.approx(outcome.best, abs=1e-6)
    assert saved.training["validation_mean_iou"] == outcome.best
    assert saved.training["recipe"]["learning_rate"] == 0.2
    last = load_model(one.out / LAST)
    assert last.training["step"] == 100
    assert_equal(last.model.weights, one.model.weights)


def test_the_best_model_is_kept(trained, data, tmp_path):
    """Not the latest: neither a worse one nor its equal takes its place."""
    one = make(data, tmp_path, validation="val", steps=9)
    run = loop.TrainingRun(one, loop.quiet, print)
    (tmp_path / FOLDER).mkdir()
    with run.log.open(tmp_path / FOLDER, 0):
        for step, weights in enumerate([one.initial, trained[0].model.weights, one.initial, trained[0].model.weights], 1):
            one.model.assign(weights)
            run.validate(step)
            saved = load_model(tmp_path)
            assert saved.training["step"] == min(step, 2)
            assert saved.training["validation_mean_iou"] == run.state.best
    assert_equal(saved.model.weights, trained[0].model.weights)


def test_batch_norm_moves_its_averages(trained):
    one, *_, before = trained
    after = one.model.weights
    assert all(not np.array_equal(value, before[name]) for name, value in after.items())


def test_validations_and_progress_are_printed(trained, data):
    _, outcome, lines, progress, _ = trained
    validations = [line for line in lines if "validation images" in line]
    assert [line.split(":")[0] for line in validations] == ["step 40", "step 80", "step 100"]
    assert f"mean IoU {outcome.best:.4f} on 3 validation images" in "".join(validations)
    assert "(best so far)" in validations[0]
    steps = [call for call in progress if call[0] == "training"]
    assert [(done, total) for _, done, total, _ in steps] == [(4 * step, 400) for step in range(1, 101)]
    note = steps[-1][3]
    assert note.startswith("step 100/100  loss ")
    assert "mIoU" in note
    losses = [float(call[3].split("loss ")[1].split()[0]) for call in steps]
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:3])
    assert [call[1:3] for call in progress if call[0] == "validating"] == 3 * [(1, 3), (2, 3), (3, 3)]


def test_the_log_and_the_curves(trained):
    one, outcome, *_ = trained
    lines = [json.loads(line) for line in (one.out / FOLDER / LOG).read_text().splitlines()]
    scores = [line for line in lines if "mean_iou" in line]
    assert [line["step"] for line in scores] == [40, 80, 100]
    assert max(line["mean_iou"] for line in scores) == outcome.best
    assert all(len(line["class_iou"]) == 3 for line in scores)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(one.out / FOLDER / CURVES), {"tensors": 0}).Reload()
    kinds = {tag: events.SummaryMetadata(tag).plugin_data.plugin_name for tag in events.Tags()["tensors"]}
    assert {tag for tag, kind in kinds.items() if kind == "scalars"} == {
        "loss", "learning_rate", "mean_iou/training", "mean_iou/validation",
    }  # fmt: skip
    assert {tag for tag, kind in kinds.items() if kind == "images"} == {f"validation/{number}" for number in range(3)}
    rates = events.Tensors("learning_rate")
    assert [event.step for event in rates] == list(range(10, 101, 10))
    assert float(tf.make_ndarray(rates[0].tensor_proto)) == pytest.approx(one.recipe.rate(9))


def test_a_training_that_is_done_only_reports(trained, data):
    one, outcome, *_ = trained
    before = {path: path.stat().st_mtime_ns for path in one.out.rglob("*") if path.is_file()}
    lines = []
    again = make(data, one.out, validation="val", steps=100, learning_rate=0.2, validate_every=40, save_every=50)
    assert again.run(say=lines.append) == outcome
    assert lines == ["done at step 100: more --steps continue it"]
    assert {path: path.stat().st_mtime_ns for path in one.out.rglob("*") if path.is_file()} == before


# -- the numbers of a step --------------------------------------------------------------------------------------------

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
EXACTING = {
    "steps": 3,
    "warmup": 2,
    "head_rate": 3.0,
    "weight_decay": 0.05,
    "clip": 0.5,
    "class_weights": (0.5, 1.0, 2.0),
    "freeze_batch_norm": True,
}


@pytest.fixture(scope="module")
def exacting(data, tmp_path_factory):
    """Three steps with everything on."""
    one = make(data, tmp_path_factory.mktemp("exacting"), **EXACTING)
    one.run()
    return one


def test_three_steps_equal_tensorflows_optimizers(exacting, data, tmp_path):
    """The same images through a loss written out, L2 as slim's, clipping by hand and TensorFlow's own momentum optimizers."""
    one = make(data, tmp_path, **EXACTING)
    model, weights = one.model, np.array(EXACTING["class_weights"], np.float32)
    variables = model.trainable
    rates = [0.1 * (1 - step / 3) ** 0.9 * min(1, (step + 1) / 2) for step in range(3)]
    assert [one.recipe.rate(step) for step in range(3)] == pytest.approx(rates)
    rate = tf.Variable(0.0)
    optimizers = {False: tf.compat.v1.train.MomentumOptimizer(lambda: rate, 0.9)}
    optimizers[True] = tf.compat.v1.train.MomentumOptimizer(lambda: 3.0 * rate, 0.9)

    @tf.function(autograph=False)
    def gradients_of(pixels, labels):
        with tf.GradientTape() as tape:
            probabilities = tf.nn.softmax(model(pixels))
            valid = labels != 255
            own = tf.boolean_mask(labels, valid)
            likelihood = tf.gather(tf.boolean_mask(probabilities, valid), own, batch_dims=1)
            loss = tf.reduce_mean(-tf.gather(weights, own) * tf.math.log(likelihood))
            loss += 0.05 * tf.add_n([tf.nn.l2_loss(value) for name, value in variables.items() if name.endswith("weights")])
        return tape.gradient(loss, list(variables.values()))

    for step in range(3):
        views = [one.training_example(4 * step + number) for number in range(4)]
        gradients = gradients_of(np.stack([view[1] for view in views]), np.stack([view[2] for view in views]))
        norm = math.sqrt(sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in gradients))
        assert norm > 0.5
        rate.assign(rates[step])
        for (name, variable), gradient in zip(variables.items(), gradients, strict=True):
            optimizers[name.startswith("logits")].apply_gradients([(gradient * (0.5 / norm), variable)])
    assert_equal(exacting.model.weights, model.weights, **CLOSE)
    moved = {name for name, value in model.weights.items() if not np.allclose(value, exacting.initial[name], **CLOSE)}
    assert moved >= {name for name in variables if name.endswith("/weights")}


def test_frozen_batch_norm_leaves_its_averages_alone(exacting):
    for name, value in exacting.model.weights.items():
        assert np.array_equal(value, exacting.initial[name]) == ("moving_" in name), name


def test_bfloat16_training_is_close_to_float32(exacting, data, tmp_path):
    """Close to float32, not equal to it, and the variables are float32."""
    one = make(data, tmp_path, precision="bfloat16", **EXACTING)
    one.run()
    differences = []
    for name, value in one.model.weights.items():
        assert value.dtype == np.float32
        change, other = value - one.initial[name], exacting.model.weights[name] - one.initial[name]
        if np.abs(other).max() > 1e-4:
            differences.append(np.abs(change - other).max() / np.abs(other).max())
    assert 1e-4 < np.max(differences) < 0.2  # Python's max may drop a NaN
    assert not any(tf.config.optimizer.get_experimental_options().values())


def test_every_epoch_sees_each_image_once_in_another_order(data, tmp_path):
    one = make(data, tmp_path)
    names = [one.training_example(position)[0].name for position in range(24)]
    epochs = [tuple(names[start : start + 8]) for start in (0, 8, 16)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len(set(epochs)) == 3
    for position in (0, 9):
        for one_part, other in zip(
            one.training_example(position)[1:], make(data, tmp_path).training_example(position)[1:], strict=True
        ):
            np.testing.assert_array_equal(one_part, other)


def test_labels_are_read_once_for_the_check_and_the_class_weights(data, tmp_path, capsys):
    calls = []
    splits = [open_dataset(data, split) for split in ("train", "val")]
    expected = sum(np.bincount(sample.read_label(splits[0].space).ravel(), minlength=256) for sample in splits[0].samples)[:3]
    one = make(data, tmp_path, validation="val", steps=1)
    checked = doctor.check_splits(splits)
    assert checked.labels[0].pixels.tolist() == expected.tolist()
    weights = train._balance_classes(checked.labels[0])
    assert weights == pytest.approx(label_counts.class_weights(expected), rel=1e-3)
    assert "class weights: ground 0." in capsys.readouterr().out
    one.run(checked=checked, progress=lambda *call: calls.append(call[0]))
    assert set(calls) == {"training", "validating"}
    make(data, tmp_path / "other", steps=1).run(progress=lambda *call: calls.append(call[:3]))
    assert [call for call in calls if call[0] == "checking"] == [("checking", number, 8) for number in range(1, 9)]


# -- warnings and faults ----------------------------------------------------------------------------------------------


def doubts(one, counts, labelled=(0, 0, 0)):
    """What a validation with such counts would say."""
    names = one.dataset.space.names
    return [warning for _, warning in find_doubts(names, np.array(counts), np.array(labelled))]


def test_validation_warns_of_suspicious_counts(data, tmp_path):
    one = make(data, tmp_path)
    assert doubts(one, [[90, 0, 0], [5, 5, 0], [5, 0, 5]], (90, 10, 10)) == []
    (collapsed,) = doubts(one, [[90, 0, 0], [10, 0, 0], [10, 0, 0]])
    assert collapsed.startswith("over 99% of the predictions are 'ground'")
    assert doubts(one, [[1000, 0, 0], [0, 1, 0], [0, 0, 1]]) == []  # the truth is of one class too
    (never,) = doubts(one, [[90, 0, 0], [5, 5, 0], [10, 0, 0]])
    assert never.startswith("never predicted, though the labels have them: green.")
    assert doubts(one, [[90, 0, 0], [5, 5, 0], [0, 0, 0]]) == []  # the labels lack it too
    (far,) = doubts(one, [[50, 0, 0], [0, 25, 0], [0, 0, 25]], (10, 45, 45))
    assert "('ground': 10.0% and 50.0%). Do the two splits have the same label map?" in far


def test_a_warning_is_printed_and_recorded_once(data, tmp_path):
    write_split(tmp_path, "train", 4, shown=())
    write_split(tmp_path, "val", 2)
    lines = []
    one = make(tmp_path, tmp_path / "out", validation="val", steps=20, learning_rate=0.2, validate_every=10)
    outcome = one.run(say=lines.append)
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert [line.removeprefix("warning: ") for line in warnings] == list(outcome.warnings)
    assert list(about(one.out)["warnings"].values()) == list(outcome.warnings)
    assert any("predicts a single class" in line for line in warnings)
    assert sum("the classes' shares of the training labels are far from" in line for line in warnings) == 1
    log = [json.loads(line) for line in (one.out / FOLDER / LOG).read_text().splitlines()]
    assert [line["warning"] for line in log if "warning" in line] == list(outcome.warnings)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(data, tmp_path):
    one = make(data, tmp_path, learning_rate=1e30, steps=9, freeze_batch_norm=True)
    with pytest.raises(InputError) as caught:
        one.run()
    message = str(caught.value)
    step = int(message.split(":")[0].removeprefix("step "))
    assert step in (1, 2, 3)
    assert f"step {step}: the loss is " in message
    for position in range(4 * step, 4 * step + 4):
        assert one.training_example(position)[0].name in message
    assert "Lower" not in message
    assert "lower --lr, or give --clip 1" in message
    assert "Nothing of this training has been saved yet." in message
    assert about(tmp_path)["step"] == 0
    assert_equal({name: safetensors.read(tmp_path / STATE)[name] for name in one.initial}, one.initial)


def test_weights_that_are_not_finite_are_never_written(data, tmp_path):
    one = make(data, tmp_path, steps=1)
    run = loop.TrainingRun(one, loop.quiet, print)
    assert run.state.restore() == 0
    before = (tmp_path / STATE).read_bytes()
    one.model.trainable["logits/semantic/biases"].assign([0.0, math.nan, 0.0])
    with pytest.raises(InputError, match="step 1: logits/semantic/biases became NaN or infinite; this state was not saved"):
        run.state.save(1)
    assert (tmp_path / STATE).read_bytes() == before
    assert not (tmp_path / LAST).exists()


def test_logits_that_are_not_finite_while_it_validates(data, tmp_path):
    """By weights that are."""
    one = make(data, tmp_path, validation="val")
    run = loop.TrainingRun(one, loop.quiet, print)
    run.state.restore()
    weights = one.model.trainable["logits/semantic/weights"]
    weights.assign(np.full(weights.shape, 3e38, np.float32))
    message = (
        "^step 2, validation image 0: the network's logits are not finite .* Nothing of this training has been saved yet.$"
    )
    with run.log.open(tmp_path / FOLDER, 0), pytest.raises(InputError, match=message):
        run.validate(2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-9], r"state.safetensors: cannot be read"),
        (lambda data: data[:-9] + b"9" * 9, r"state.safetensors: .* does not match its checksum: the file is damaged"),
        (lambda data: data.replace(b'\\"step\\": 0', b'\\"step\\": 2'), "damaged: its metadata does not match its checksum"),
        (
            lambda data: data.replace(b'"momentum/logits/', b'"momentum/magics/'),
            "damaged: its metadata does not match its checksum",
        ),
        (lambda data: b"", r"state.safetensors: cannot be read"),
    ],
)
def test_a_damaged_state(data, tmp_path, damage, message):
    one = make(data, tmp_path)
    loop.TrainingRun(one, loop.quiet, print).state.restore()
    before = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(damage(before))
    assert (tmp_path / STATE).read_bytes() != before
    with pytest.raises(InputError, match=message):
        one.run()


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "1"},
        {"step": -1},
        {"best": "x"},
        {"seen": [[0]]},
        {"seen": [[0.5, 0, 0]] * 3},
        {"seen": [[True, 0, 0]] * 3},
        {"seen": [[2**64, 0, 0]] * 3},
        {"seen": [[-1, 0, 0]] * 3},
        {"protocol": 3},
        {"warnings": None},
        {"best_step": "x"},
        {"scored": [1]},
        {"protocol": {"recipe": {"steps": 3}, "legs": []}},
        {"protocol": {"recipe": {"steps": 3}, "legs": [{"from": 0, "steps": 4}]}},
        {"protocol": {"recipe": {"steps": 3}, "legs": [{"from": 1, "steps": 3}]}},
    ],
)
def test_states_with_impossible_values_are_refused(changes, data, tmp_path):
    """Under a checksum that fits."""
    one = make(data, tmp_path)
    loop.TrainingRun(one, loop.quiet, print).state.restore()
    described = {key: value for key, value in about(tmp_path).items() if key != "sha256"} | changes
    safetensors.write(tmp_path / STATE, arrays(tmp_path / STATE), described)
    with pytest.raises(InputError, match=r"state.safetensors: damaged: .*Choose another --out"):
        one.run()


def test_file_names_that_are_not_utf8_are_trained_on(tmp_path):
    write_split(tmp_path, "train", 1)
    for kind in ("images", "labels"):
        folder = tmp_path / kind / "train"
        (folder / "0.png").rename(folder / "\udcff.png")
    assert make(tmp_path, tmp_path / "out").protocol["dataset"]["images"] == 1


def test_another_training_in_the_folder_is_refused(data, tmp_path):
    loop.TrainingRun(make(data, tmp_path), loop.quiet, print).state.restore()
    for changes, message in (
        ({"learning_rate": 0.2}, r"recipe.learning_rate: 0.1 there, 0.2 now"),
        ({"split": "val"}, r"dataset.images: 8 there, 3 now; .*dataset.split: 'train' there, 'val' now"),
        ({"validation": "val"}, r"validation: None there, \{'name'"),
        ({"seed": 1}, "initial_weights_sha256"),
        ({"head": "aspp"}, r"head.type: 'fcn' there, 'aspp' now"),
    ):
        with pytest.raises(InputError, match=f"holds a training by another protocol .*{message}.* Choose another --out"):
            make(data, tmp_path, **changes).run()
    assert about(tmp_path)["step"] == 0


def test_a_training_of_other_classes_is_another_one_and_not_damaged(data, tmp_path):
    run = loop.TrainingRun(make(data, tmp_path), loop.quiet, print)
    run.state.restore()
    run.training.protocol["dataset"]["classes"] = ["other"]
    run.state.seen, run.labeled_pixels = confusion.ConfusionMatrix(5, 255), np.zeros(5, np.int64)
    with pytest.raises(InputError, match=r"holds a training by another protocol \(dataset\.classes"):
        run.state.restore()


def test_errors_name_the_last_saved_step(data, tmp_path):
    run = loop.TrainingRun(make(data, tmp_path), loop.quiet, print)
    assert run.state.restore() == 0
    assert run.state.saved_state_note == "Nothing of this training has been saved yet"
    run.state.save(2)
    assert run.state.saved_state_note == f"The last good state, of step 2, is kept in {tmp_path}"
    again = loop.TrainingRun(run.training, loop.quiet, print)
    assert again.state.restore() == 2
    assert again.state.saved_state_note == run.state.saved_state_note


def test_another_exif_choice_is_another_training(data, tmp_path):
    """But a state of before, which does not say, is gone on from."""

    def restore(exif, validated):
        datasets = [open_dataset(data, split, exif=own) for split, own in (("train", exif), ("val", validated))]
        one = Training(made.model, *datasets, tmp_path, made.recipe, validation_size=49)
        return loop.TrainingRun(one, loop.quiet, print).state.restore()

    made = make(data, tmp_path)
    restore("apply", "error")
    assert restore("apply", "error") == 0
    for exif, validated, message in (
        ("ignore", "error", "dataset.exif: 'apply'"),
        ("apply", "ignore", "validation.exif: 'error'"),
    ):
        with pytest.raises(InputError, match=rf"by another protocol \({message} there, 'ignore' now\)\. Choose another --out"):
            restore(exif, validated)
    described = {key: value for key, value in about(tmp_path).items() if key != "sha256"}
    for name in ("dataset", "validation"):
        described["protocol"][name].pop("exif")
    safetensors.write(tmp_path / STATE, arrays(tmp_path / STATE), described)
    assert restore("ignore", "apply") == 0


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "last"])
def test_a_model_without_its_state_is_not_overwritten(name, data, tmp_path):
    """Weights among them, which a training may start from."""
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=rf"holds {name} but not the training/state.safetensors"):
        make(data, tmp_path).run()
    assert (tmp_path / name).read_text() == "precious"


def test_a_folder_that_holds_the_data(data):
    for out in (data, data / "images", data / "labels" / "val"):
        with pytest.raises(InputError, match="contains the dataset itself"):
            make(data, out, validation="val")


def test_two_runs_on_one_folder(data, tmp_path):
    (tmp_path / FOLDER).mkdir()
    with journal.lock_folder(tmp_path / FOLDER, shared=False):
        with pytest.raises(InputError, match="is locked by another run"):
            make(data, tmp_path).run()


def test_no_room_is_found_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(InputError, match="MiB are needed and 0 MiB are free"):
        make(data, tmp_path).run(progress=lambda what, *_: what == "checking" or pytest.fail("a step was made"))


def refuses(one, message):
    """The run ends before its first step, and leaves nothing behind."""
    steps = []
    with pytest.raises(InputError, match=message):
        one.run(progress=lambda what, *_: what == "checking" or steps.append(what))
    assert not steps
    assert not one.out.exists()


def test_pairs_that_cannot_be_used_are_all_named_before_the_first_step(data, tmp_path):
    """Those of the validation images too."""
    for split, count in (("train", 5), ("val", 2)):
        write_split(tmp_path, split, count)
    image = tmp_path / "images" / "train" / "2.png"
    image.write_bytes(image.read_bytes()[:300])
    space = open_dataset(data, "val").space
    (tmp_path / "labels" / "train" / "1.png").write_bytes(encode_label(np.zeros((40, 47), np.uint8), space))
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(tmp_path / "labels" / "val" / "1.png")
    one = make(tmp_path, tmp_path / "out", validation="val")
    message = (
        r"(?s)^3 of 7 pairs cannot be used; nothing was computed\..*doctor.*\n .*train/1\.png: the image is 48x40 pixels, its "
        r"label 47x40.*\n .*train/2\.png: cannot be decoded.*\n .*val/1\.png: label value 7 "
    )
    refuses(one, message)


def test_an_image_that_breaks_after_the_check_is_named(tmp_path):
    write_split(tmp_path, "train", 4)
    one = make(tmp_path, tmp_path / "out")
    checked = doctor.check_splits([one.dataset])
    image = tmp_path / "images" / "train" / "2.png"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(InputError, match=r"images/train/2.png: cannot be decoded"):
        one.run(checked=checked)
    assert about(tmp_path / "out")["step"] == 0


def test_a_split_without_a_labeled_pixel_is_refused(data, tmp_path):
    for split in ("train", "val", "test"):
        write_split(tmp_path, split, 2)
    for path in (tmp_path / "labels" / "test").iterdir():
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
    refuses(make(tmp_path, tmp_path / "out", split="test"), "tiny, split test: no pixel is labeled: .* so nothing is counted")
    one = make(tmp_path, tmp_path / "out", validation="test")
    refuses(one, "tiny, split test: no pixel is labeled: .* --validation none")


def test_masks_whose_255_would_be_ignored_are_refused(tmp_path):
    """Unless it is said that they are to be."""
    write_split(tmp_path, "train", 2, shown=())
    refuses(make(tmp_path, tmp_path / "out"), "tiny: all labels are 0 or 255, .* are these masks")
    (tmp_path / "dataset.json").write_text(json.dumps(CLASSES | {"ignore_label": 255}))
    lines = []
    outcome = make(tmp_path, tmp_path / "out", steps=1).run(say=lines.append)
    assert [line.removeprefix("warning: ") for line in lines] == list(outcome.warnings)
    assert "'ground' is the only class in the labels, and 5.0% is ignored" in outcome.warnings[0]
    assert "are these masks" in outcome.warnings[1]


def test_views_without_a_labeled_pixel_print_no_nan(tmp_path):
    """No NaN in what is said, shown and kept."""
    write_split(tmp_path, "train", 3)
    write_split(tmp_path, "val", 1)
    for number in range(2):
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(tmp_path / "labels" / "train" / f"{number}.png")
    said = []
    one = make(tmp_path, tmp_path / "out", validation="val", steps=10, batch=1, validate_every=1, hardest=0.5)
    one.run(say=said.append, progress=lambda *call: said.append(call[3]))
    assert not any("nan" in line.lower() for line in said)
    assert any(line.endswith("mIoU -") for line in said)
    assert any(" - on the training views since" in line for line in said)
    assert all(np.isfinite(value).all() for value in one.model.weights.values())


def test_class_shares_are_those_of_the_split(tmp_path):
    """Not of the views so far, which may have been of a few images."""
    write_split(tmp_path, "train", 4)
    write_split(tmp_path, "val", 1)
    whole = np.array([0, 0, 1, 2], np.uint8)
    for number, value in enumerate(whole):
        Image.fromarray(np.full((40, 48), value, np.uint8)).save(tmp_path / "labels" / "train" / f"{number}.png")
    Image.fromarray(np.tile(np.repeat(whole, 12), (40, 1))).save(tmp_path / "labels" / "val" / "0.png")
    outcome = make(tmp_path, tmp_path / "out", validation="val", steps=1, batch=1).run()
    assert not any("shares of the training labels are far" in warning for warning in outcome.warnings)


def test_a_warning_about_the_labels_survives_a_stop(tmp_path):
    """It is in the log once, as in that of a run that was not stopped."""
    write_split(tmp_path, "train", 2, shown=())
    (tmp_path / "dataset.json").write_text(json.dumps(CLASSES | {"ignore_label": 255}))
    options = {"steps": 3, "batch": 2, "validate_every": 1}
    logs, warnings = [], []
    for name, stops in (("a", [False]), ("b", [True, False])):
        for stopping in stops:
            said = []
            one = make(tmp_path, tmp_path / name, **options)
            outcome = one.run(stop=lambda stopping=stopping: stopping, say=said.append)
            warnings.append(sum(line.startswith("warning") for line in said))
        logs.append(((one.out / FOLDER / LOG).read_text(), outcome.warnings, about(one.out)["warnings"]))
    assert logs[0] == logs[1]
    assert warnings == [2, 2, 0]


def test_padding_is_ignored_without_an_ignore_label(data, tmp_path):
    """As with one that no file has: the same weights and figures to the bit."""
    mapping = {"0": 0, "1": 1, "2": 2, "255": 0}
    weights = []
    for name, ignored in (("with", 77), ("without", None)):
        folder = tmp_path / name
        folder.mkdir()
        write_split(folder, "train", 3)
        (folder / "dataset.json").write_text(json.dumps(CLASSES | {"ignore_label": ignored, "mapping": mapping}))
        one = make(folder, folder / "out", batch=2, hardest=0.5, augmentation=Augmentation((57, 65), (0.5, 1.0)))
        label = one.training_example(0)[2]
        assert (label == (PADDING if ignored is None else ignored)).any()
        one.run()
        weights.append(one.model.weights)
        assert np.sum(about(one.out)["seen"]) < 3 * 2 * 40 * 48  # pixels of images alone
    assert_equal(*weights)
    assert load_model(tmp_path / "without" / "out").space.ignore_label is None


def test_padding_around_small_images_is_ignored(data, tmp_path):
    write_split(tmp_path, "train", 2)
    mapping = {"0": 0, "1": 1, "2": 2, "255": 7}
    (tmp_path / "dataset.json").write_text(json.dumps(CLASSES | {"ignore_label": 7, "mapping": mapping}))
    one = make(tmp_path, tmp_path / "out", augmentation=Augmentation((57, 65), (1.0, 1.0), flip=False))
    for position in range(4):
        sample, pixels, label, box = one.training_example(position)
        own = sample.read_label(one.dataset.space)
        places = np.lib.stride_tricks.sliding_window_view(label, own.shape)
        ((row, column),) = np.argwhere((places == own).all(axis=(2, 3)))
        inside = np.zeros(label.shape, bool)
        inside[row : row + 40, column : column + 48] = True
        assert box.tolist() == [row, column, row + 40, column + 48]
        assert (label[~inside] == 7).all()
        assert (pixels[~inside] == 0).all()  # the mean colour
        assert (pixels[inside] != 0).any(axis=-1).mean() > 0.99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer"),
        ({"batch": 0}, "batch must be a positive integer"),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0 \(not 0.0\)"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"warmup": 3}, r"warmup must be at least 0 and below the 3 steps \(not 3\)"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"hardest": 0.0}, "hardest must be a share"),
        ({"precision": "float16"}, r"precision must be 'float32' or 'bfloat16' \(not 'float16'\)"),
        ({"seed": 2**31}, "seed must be at least 0 and below 2147483648"),
        ({"class_weights": (1.0, 2.0)}, "one number of at least 0 for each of the 3 classes"),
        ({"class_weights": (1.0, 2.0, math.nan)}, "one number of at least 0"),
        ({"class_weights": (0.0, 0.0, 0.0)}, r"not all 0 \(not 0 0 0\)"),
        ({"augmentation": Augmentation(scale=(2.0, 1.0))}, "scale must be"),
    ],
)
def test_invalid_recipes_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe(**{"steps": 3, **changes}).check(3)


def test_models_and_data_that_do_not_fit(data, tmp_path):
    dataset = open_dataset(data, "train")

    def make_training(plan, classes=3, size=49):
        model = SegmentationModel(Backbone(plan, seed=0), classes, "fcn", seed=0)
        return Training(model, dataset, None, tmp_path, Recipe(steps=3), validation_size=size)

    plan = variants.plan_from_config(TRAINING_PLAN, 8)
    with pytest.raises(InputError, match="tiny has 3 classes, the model 4"):
        make_training(plan, classes=4)
    with pytest.raises(InputError, match=r"size must be 8n\+1 pixels \(not 48\); next: 49"):
        make_training(plan, size=48)
    with pytest.raises(InputError, match="images have 3 channels, this network takes 4"):
        make_training(variants.plan_from_config(TRAINING_PLAN, 8, in_channels=4))


@pytest.mark.parametrize("side", [32, 40])
def test_an_unaligned_crop_is_refused_as_a_size_is(side, data, tmp_path):
    with pytest.raises(InputError, match=rf"^crop must be 8n\+1 pixels \(not {side}\); next: {side + 1}\.$"):
        make(data, tmp_path, augmentation=Augmentation((33, side)))


def test_a_crop_too_small_for_the_atrous_rates_is_reported_first(data, tmp_path):
    """At stride 8 the rates are 12, 24 and 36."""

    def crop_remarks(head, crop):
        one = make(data, tmp_path / f"{head}{crop}", head=head, steps=1, batch=1, augmentation=Augmentation((crop, crop)))
        return [line for line in describe_start(one, [{"from": 0, "steps": 1}]) if line.startswith("crop ")]

    (line,) = crop_remarks("aspp", 33)
    assert line.startswith("crop 33 is 5x5 cells at output_stride 8: the outer taps of ASPP's rates 12, 24 and 36 never touch")
    assert "--crop 289 trains them" in line
    assert "the outer taps of ASPP's rate 36 never touch" in crop_remarks("aspp", 281)[0]
    assert crop_remarks("aspp", 289) == crop_remarks("fcn", 33) == []
    lines = []
    one = make(data, tmp_path / "run", head="aspp", steps=1, batch=1)
    one.run(say=lines.append, progress=lambda what, *call: lines.append(what))
    assert lines.index(line) < lines.index("training")


def image_pooling_norm(weights):
    """Of the head's image pooling: its moving averages."""
    return {name: value for name, value in weights.items() if name.startswith("image_pooling/") and "moving_" in name}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["aspp", "decoder"])
def test_few_images_a_batch_leave_the_image_poolings_averages_alone(head, data, tmp_path):
    """One has no variance, by whose root inference divides; the other layers have many cells."""
    if head == "decoder":  # needs a second unit in its first block
        plan = {**TRAINING_PLAN, "blocks": [["block1", [[16, 8, 1], [16, 8, 2]]], TRAINING_PLAN["blocks"][1]]}
        backbone = Backbone(variants.plan_from_config(plan, 8), seed=0, batch_norm_decay=0.8)
        model = SegmentationModel(backbone, 3, head, seed=0, batch_norm_decay=0.8)
        recipe = Recipe(steps=3, batch=1, augmentation=Augmentation((33, 33)))
        one = Training(model, open_dataset(data, "train"), None, tmp_path, recipe, validation_size=49)
    else:
        one = make(data, tmp_path, head=head, batch=1)
    lines = []
    one.run(say=lines.append)
    assert_equal(image_pooling_norm(one.model.weights), image_pooling_norm(one.initial))
    others = {name for name in one.initial if "moving_" in name} - image_pooling_norm(one.initial).keys()
    assert all(not np.array_equal(one.model.weights[name], one.initial[name]) for name in others)
    assert any(
        line.startswith("image pooling: its batch norm uses its moving averages") and "1 image" in line for line in lines
    )
    images, _, boxes = (np.stack(arrays) for arrays in list(zip(*map(one.training_example, range(8)), strict=True))[1:])
    step = functools.partial(one.model.training_logits, dropout=None, freeze_batch_norm=False, freeze_image_pooling=True)
    trained = [step(image[None], box[None])[0].numpy() for image, box in zip(images, boxes, strict=True)]
    assert one.model(images).numpy().std() < 10 * np.std(trained)
    assert load_model(tmp_path / "last").training["image_pooling_batch_norm"] == "moving averages"


def test_many_images_a_device_move_the_image_poolings_averages(data, tmp_path, monkeypatch):
    """As trainings with a pretrained start have had it, whose batch norm is by the batch from as many on."""
    few = recipe.SMALLEST_BATCH
    one = make(data, tmp_path, head="aspp", batch=few, steps=1)
    lines = []
    one.run(say=lines.append)
    assert all(not np.array_equal(value, one.initial[name]) for name, value in image_pooling_norm(one.model.weights).items())
    assert not any(line.startswith("image pooling") for line in lines)
    assert one.protocol["image_pooling_batch_norm"] is None
    for other in ({"head": "fcn", "batch": 1}, {"batch": 1, "freeze_batch_norm": True}):
        assert make(data, tmp_path, **{"head": "aspp", **other}).protocol["image_pooling_batch_norm"] is None
    monkeypatch.setattr(type(tf.distribute.get_strategy()), "num_replicas_in_sync", property(lambda self: 2))
    assert make(data, tmp_path, head="aspp", batch=few).protocol["image_pooling_batch_norm"] == "moving averages"
    assert make(data, tmp_path, head="aspp", batch=2 * few).protocol["image_pooling_batch_norm"] is None


# -- more steps -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_steps_continue_a_training_in_a_leg_of_their_own(data, tmp_path):
    """Finished or not; the state and the models list the legs, and the rate is that of the longer schedule."""
    make(data, tmp_path, steps=2, validation="val").run()
    lines = []
    one = make(data, tmp_path, steps=6, validation="val")
    outcome = one.run(say=lines.append, stop=lambda: True)
    assert (outcome.step, outcome.stopped) == (3, True)
    assert lines[0] == "resuming at step 2 of 6"
    assert lines[1].startswith("more steps, 6 instead of 2: from here on the learning rate follows the schedule of 6 steps")
    assert f"{0.1 * (1 - 2 / 6) ** 0.9:.3g} at step 2" in lines[1]
    outcome = make(data, tmp_path, steps=9, validation="val").run()
    assert (outcome.step, outcome.stopped) == (9, False)
    legs = [{"from": 0, "steps": 2}, {"from": 2, "steps": 6}, {"from": 3, "steps": 9}]
    assert about(tmp_path)["protocol"]["legs"] == legs
    last = load_model(tmp_path / "last").training
    assert (last["legs"], last["step"], last["recipe"]["steps"]) == (legs, 9, 9)
    assert last["validation_mean_iou"] == outcome.last
    with pytest.raises(InputError, match=r"holds a training of 9 steps, 9 of them done; --steps 8 is fewer, .* Give --steps 9"):
        make(data, tmp_path, steps=8, validation="val").run()
    assert make(data, tmp_path, steps=9, validation="val").run() == outcome


def test_a_leg_is_recorded_before_its_first_step(data, tmp_path):
    """So that no model is written which the state knows nothing of; and a leg without a step is none."""
    make(data, tmp_path, steps=2).run()
    for steps in (4, 6):
        run = loop.TrainingRun(make(data, tmp_path, steps=steps), loop.quiet, print)
        assert run.state.restore() == 2
        assert about(tmp_path)["protocol"]["legs"] == [{"from": 0, "steps": 2}, {"from": 2, "steps": steps}]
    for fewer in (2, 5):
        with pytest.raises(InputError, match=rf"--steps {fewer} is fewer"):
            make(data, tmp_path, steps=fewer).run()
    for steps in (2, 3):
        run = loop.TrainingRun(make(data, tmp_path / "none", steps=steps), loop.quiet, print)
        assert run.state.restore() == 0
        assert about(tmp_path / "none")["protocol"]["legs"] == [{"from": 0, "steps": steps}]


def test_a_state_without_legs_can_be_extended(data, tmp_path):
    make(data, tmp_path, steps=2).run()
    described = {key: value for key, value in about(tmp_path).items() if key not in ("sha256", "best_step", "scored")}
    described["protocol"].pop("legs")
    safetensors.write(tmp_path / STATE, arrays(tmp_path / STATE), described)
    assert make(data, tmp_path, steps=3).run().step == 3
    assert about(tmp_path)["protocol"]["legs"] == [{"from": 0, "steps": 2}, {"from": 2, "steps": 3}]


def test_another_protocol_names_how_to_start_from_the_model(data, tmp_path):
    make(data, tmp_path, steps=2).run()
    last = re.escape(str(tmp_path / "last"))
    begin = r"\(recipe.learning_rate: 0.1 there, 0.2 now\). Choose another --out, where "
    with pytest.raises(InputError, match=begin + rf"--init {last} starts from this one's model; or give the options of before"):
        make(data, tmp_path, steps=4, learning_rate=0.2).run()
    with pytest.raises(InputError, match=rf"--weights {last}/weights.safetensors starts from this one's backbone; or give"):
        make(data, tmp_path, steps=4, head="aspp").run()


# -- exactly on -------------------------------------------------------------------------------------------------------


@pytest.fixture
def start():
    """Starts a process that runs jobs of training_worker.py, or another command; none of them outlives the test."""
    processes = []

    def run(*jobs, command=None, **environment):
        arguments = command or (TESTS / "helpers" / "training_worker.py", json.dumps(jobs))
        process = subprocess.Popen(
            [sys.executable, "-u", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS, GOLDEN))), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def read_output(process):
    """What a process prints until its end."""
    return process.communicate(timeout=200)[0]


@pytest.mark.slow
def test_a_killed_and_resumed_training_equals_an_uninterrupted_one(data, tmp_path, start):
    """The command as users run it: SIGKILL, then SIGTERM, then to the end; and once more where it is done."""
    options = ["train", str(data), "--model", str(data / "plan.json"), "--output-stride", "8", "--head", "aspp"]
    options += ["--crop", "33", "--size", "49", "--batch", "4", "--steps", "10", "--validate-every", "2", "--save-every", "3"]
    options += ["--lr", "0.1", "--jitter", "0.2", "--hardest", "0.5"]
    train = TESTS.parent / "tools" / "train.py"
    for number, after in ((signal.SIGKILL, "step 4:"), (signal.SIGTERM, "step 6:")):
        process = start(command=(train, *options[1:], "--out", tmp_path / "b"))
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith(after):
                process.send_signal(number)
                break
        printed += read_output(process)
        assert process.returncode == (terminal.STOPPED if number == signal.SIGTERM else -number), printed
        assert 3 <= about(tmp_path / "b")["step"] < 10
    assert "resuming at step" in printed
    assert "the same command resumes from here" in printed
    at = about(tmp_path / "b")["step"]
    assert f"stopped at step {at} of 10" in printed
    runs = [[*options, "--out", str(tmp_path / name)] for name in ("b", "a", "b")]
    records = ["doctor", str(data), "--records", str(tmp_path / "records")]
    other = ["train", str(tmp_path / "records"), "--classes", str(data / "dataset.json"), "--validation", "none", *options[2:6]]
    other += ["--head", "fcn", "--crop", "33", "--batch", "2", "--steps", "2", "--class-weights", "balanced"]
    printed = read_output(start(*runs, records, [*other, "--out", str(tmp_path / "c")]))
    assert printed.count("exit code 0") == 5, printed
    assert f"resuming at step {at} of 10" in printed
    ends = [line for line in printed.splitlines() if line.startswith("best: ")]
    assert len(ends) == 3
    crop_remarks = load_model(tmp_path / "a").training
    assert ends[1].startswith(
        f"best: mean IoU {crop_remarks['validation_mean_iou']:.4f} at step {crop_remarks['step']}, in {tmp_path / 'a'}; "
    )
    assert re.search(rf"; last: mean IoU 0\.\d{{4}} at step 10, in {tmp_path / 'a' / 'last'}$", ends[1])
    assert ends[2] == ends[0]  # where all is done already
    for file in ("weights.safetensors", "last/weights.safetensors", STATE):
        assert_equal(arrays(tmp_path / "a" / file), arrays(tmp_path / "b" / file))
    one, two = about(tmp_path / "a"), about(tmp_path / "b")
    assert one == two
    assert one["step"] == 10
    logs = [(tmp_path / name / FOLDER / LOG).read_text() for name in "ab"]
    assert logs[0] == logs[1]
    assert logs[0].count('"mean_iou"') == 5
    assert "no validation images: the last model is kept, not the best" in printed
    assert "class weights: ground 0." in printed
    assert f"{tmp_path / 'c'}: the model after 2 steps" in printed
    assert load_model(tmp_path / "c").training["recipe"]["class_weights"][1] >= 1


@pytest.mark.slow
def test_a_killed_and_resumed_second_leg_equals_an_uninterrupted_one(data, tmp_path, start):
    """Four steps, then --steps 8; the bits of moving averages too, whose decay is by the steps."""
    options = ["train", str(data), "--model", str(data / "plan.json"), "--output-stride", "8", "--head", "fcn", "--lr", "0.1"]
    options += ["--crop", "33", "--size", "49", "--batch", "2", "--validate-every", "2", "--save-every", "3"]
    a, b = ([*options, "--out", str(tmp_path / name)] for name in "ab")
    jobs = [[*a, "--steps", "4"], [*b, "--steps", "4"], [*a, "--steps", "8"]]
    printed = read_output(start(*jobs))
    assert printed.count("exit code 0") == 3, printed
    process = start(command=(TESTS.parent / "tools" / "train.py", *b[1:], "--steps", "8"))
    for line in process.stdout:
        if line.startswith("step 8:"):  # after the state of step 6
            process.kill()
            break
    process.wait(timeout=60)
    assert about(tmp_path / "b")["step"] in (6, 8)
    printed = read_output(start([*b, "--steps", "8"]))
    assert "exit code 0" in printed, printed
    assert_equal(arrays(tmp_path / "a" / STATE), arrays(tmp_path / "b" / STATE))
    assert about(tmp_path / "a") == about(tmp_path / "b")
    assert about(tmp_path / "a")["protocol"]["legs"] == [{"from": 0, "steps": 4}, {"from": 4, "steps": 8}]
    logs = [(tmp_path / name / FOLDER / LOG).read_text() for name in "ab"]
    assert logs[0] == logs[1]
    assert logs[0].count('"mean_iou"') == 4


@pytest.mark.slow
def test_training_on_several_devices_equals_one(data, tmp_path, start):
    """Two workers on loopback, stopped by the second of them and gone on, and two devices of one process."""
    recipe = {"freeze_batch_norm": True, "learning_rate": 0.02, "clip": 1.0}

    def job(devices, out, weights, **more):
        path = str(tmp_path / f"{weights}.safetensors")
        return {"devices": devices, "data": str(data), "out": str(tmp_path / out), "recipe": recipe, "weights": path, **more}

    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        jobs = [job("workers", "out", f"half{index}", stop=[None, 2][index]), job("workers", "out", f"worker{index}")]
        processes.append(start(*jobs, TF_CONFIG=json.dumps(task)))
    for index, process in enumerate(processes):
        printed = read_output(process)
        role = ("chief", "worker")[index]
        assert f"outcome 2 True {role}\n" in printed, printed
        assert f"resuming at step 2 of 3\noutcome 3 False {role}\n" in printed, printed
    printed = read_output(start(job("one", "one", "one"), job("two", "two", "two")))
    assert printed.count("outcome 3 False chief") == 2, printed
    weights = {name: arrays(tmp_path / f"{name}.safetensors") for name in ("worker0", "worker1", "one", "two")}
    assert_equal(weights["worker0"], weights["worker1"])
    assert_equal(arrays(tmp_path / "out" / "weights.safetensors"), weights["worker0"])
    for name in ("worker0", "two"):
        assert_equal(weights[name], weights["one"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(
        weights["one"]["logits/semantic/weights"], make(data, tmp_path, head="aspp").initial["logits/semantic/weights"]
    )


def test_the_log_is_cut_at_the_step_of_the_state(tmp_path):
    """What a kill left after it will be written again; half a line is nothing."""
    log = tmp_path / "log.jsonl"
    cut_log(log, 0)
    assert not log.exists()
    beyond_floats = b'{"step": %s}\n' % (b"9" * 400)
    log.write_bytes(b'{"step": 2}\n{"step": 4}\n{"st{"step": 4}\n[5]\n{"step": 6}\n' + beyond_floats + b'{"step": 3}')
    cut_log(log, 4)
    assert log.read_bytes() == b'{"step": 2}\n{"step": 4}\n'


def test_workers_that_do_not_share_the_folder(data, tmp_path, monkeypatch):
    one = make(data, tmp_path)
    monkeypatch.setattr(one.cluster, "total", lambda number: number + 1)
    with pytest.raises(InputError, match="the workers find different states there. They must share the folder"):
        one.run()


def test_a_lost_worker_is_reported(data, tmp_path, monkeypatch):
    def fail(*arguments):
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted")

    one = make(data, tmp_path)
    monkeypatch.setattr(one, "_run", fail)
    with pytest.raises(tf.errors.UnavailableError):
        one.run()
    one.cluster.workers = 2
    with pytest.raises(InputError, match="another of the 2 workers is lost; .* resume from the last state"):
        one.run()


def test_workers_are_numbered_with_the_chief_first():
    def place(task_type, task_id, **jobs):
        resolver = SimpleNamespace(cluster_spec=lambda: tf.train.ClusterSpec(jobs), task_type=task_type, task_id=task_id)
        return find_worker(SimpleNamespace(cluster_resolver=resolver))

    assert place("worker", 1, worker=["a:1", "b:1"]) == (1, 2)
    assert place("chief", 0, chief=["a:1"], worker=["b:1", "c:1"]) == (0, 3)
    assert place("worker", 1, chief=["a:1"], worker=["b:1", "c:1"]) == (2, 3)
    assert place(None, None) == find_worker(tf.distribute.get_strategy()) == (0, 1)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(data, tmp_path, capsys):
    """(exit code, what was printed, what went to the error stream) of ``dense-resnet train`` in this process."""

    def run(*options, source=data):
        code = cli.main(["train", str(source), "--out", str(tmp_path / "out"), *map(str, options)])
        return code, *capsys.readouterr()

    return run


def test_invalid_arguments_are_refused_by_the_command(command, data, tmp_path, trained):
    model = ("--model", data / "plan.json", "--output-stride", 8)
    for options, message in (
        ((*model, "--init", trained[0].out), "give either --model VARIANT, or --init DIR"),
        (("--init", trained[0].out, "--head", "fcn"), "--init brings the whole model"),
        (("--model", "resnet_v9"), "unknown variant 'resnet_v9'"),
        (("--model", data / "dataset.json"), "a plan must be a variant's name, or an object of blocks"),
        (
            ("--model", data / "images/train/0.png", "--model", data / "none.json"),
            "none.json: no such file or folder, and not a variant's name",
        ),
        ((*model[:2], "--output-stride", 0), "output_stride must be a positive integer (not 0)"),
        ((*model, "--split", "test"), "there is no split 'test'. Available: train, val"),
        ((*model, "--validation", "test"), "there is no split 'test'"),
        ((*model, "--classes", data / "none.json"), "none.json"),
        ((*model, "--class-weights", "heavy"), "--class-weights must be none, balanced, or one number per class (not heavy)"),
        ((*model, "--class-weights", 1, 2), "one number of at least 0 for each of the 3 classes"),
        ((*model, "--lr", 0), "learning_rate must be above 0"),
        ((*model, "--head", "psp"), "head must be one of 'fcn', 'aspp', 'decoder'"),
        ((*model, "--size", 50), "size must be 8n+1 pixels (not 50); next: 57"),
        ((*model, "--steps", 1, "--crop", 50), "crop must be 8n+1 pixels (not 50); next: 57"),
        (("--init", trained[0].out, "--steps", 1, "--crop", 50), "crop must be 8n+1 pixels (not 50); next: 57"),
        ((*model, "--optimizer", "adam"), "optimizer must be 'sgd' or 'adamw' (not 'adam')"),
        ((*model, "--loss", "iou"), "loss must be 'ce', 'focal', 'dice', 'lovasz' or 'ce+dice' (not 'iou')"),
        ((*model, "--augment", 2), "distortion must be from 0 to 1 (not 2.0)"),
        ((*model, "--loss", "dice", "--class-weights", "balanced"), "class_weights goes with a loss over pixels"),
        (("--init", tmp_path), "not a model directory"),
    ):
        code, _, errors = command(*options)
        assert code == 1, options
        assert errors.startswith("error: "), errors
        assert message in errors
        assert not (tmp_path / "out").exists()


def test_the_commands_defaults_are_the_librarys():
    """The verb states them once more, since its parser imports no TensorFlow; what it chooses has no default."""
    parser = argparse.ArgumentParser()
    train.configure(parser)
    options, recipe, views = parser.parse_args(["data", "--out", "out"]), Recipe(steps=30000), Augmentation()
    stated = {
        "scale": list(views.scale), "no_flip": not views.flip, "jitter": views.jitter, "augment": views.distortion,
        "head_rate": recipe.head_rate, "warmup": recipe.warmup, "momentum": recipe.momentum,
        "hardest": recipe.hardest, "precision": recipe.precision, "seed": recipe.seed, "optimizer": recipe.optimizer,
        "schedule": recipe.schedule, "loss": recipe.loss, "ema": recipe.ema, "auxiliary": recipe.auxiliary,
        "patience": recipe.patience,
    }  # fmt: skip
    assert {name: getattr(options, name) for name in stated} == stated
    chosen = "crop size batch lr clip weight_decay class_weights steps validate_every save_every".split()
    assert {getattr(options, name) for name in chosen} == {None}
    assert train._recipe(options, 30000) == recipe  # every field of it has an option, and the default of both is one
    for action in parser._actions:
        if action.dest in stated and "default" in (action.help or ""):
            values = action.default if isinstance(action.default, list) else [action.default]
            shown = " ".join("none" if value is None else value if isinstance(value, str) else f"{value:g}" for value in values)
            assert re.search(rf"default {re.escape(shown)}($|\))", action.help), action.dest


def test_the_best_and_the_last_model_are_said_with_places_and_scores():
    outcome = loop.Outcome(500, 0.61, 400, 0.5, False, ())
    crop_remarks = "best: mean IoU 0.6100 at step 400, in model; last: mean IoU 0.5000 at step 500, in model/last"
    assert train._result("model", outcome, validated=True) == crop_remarks
    assert train._result("model", outcome, validated=False) == "model: the model after 500 steps"


def test_the_learning_rate_has_two_names():
    parser = argparse.ArgumentParser()
    train.configure(parser)
    assert parser.parse_args(["data", "--out", "out", "--learning-rate", "0.5"]).lr == 0.5


def test_an_invalid_tf_config_is_refused(command, data, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{cluster")
    code, _, errors = command("--model", data / "plan.json", "--output-stride", 8)
    assert code == 1
    assert "error: TF_CONFIG does not describe a cluster" in errors


def test_starting_from_a_trained_model(command, trained, tmp_path):
    """Without splits, with a frozen batch norm since the batch is small, and it begins where the other ended."""
    write_split(tmp_path / "flat", "", 4)
    options = ("--init", trained[0].out, "--crop", 33, "--size", 49, "--steps", 1, "--batch", 2, "--lr", 1e-6)
    code, printed, errors = command(*options, source=tmp_path / "flat")
    assert code == 0, errors
    assert "batch norm: frozen (2 images a batch)" in printed
    assert "no validation images" in printed
    weights, before = load_model(tmp_path / "out").model.weights, load_model(trained[0].out).model.weights
    assert_equal(weights, before, rtol=1e-3, atol=1e-4)
    assert all(
        np.array_equal(value, before[name]) == ("moving_" in name) for name, value in weights.items() if "moving_" in name
    )


def test_scoring_the_training_images_is_noted(data, tmp_path, trained, capsys):
    for split in ("train", "val"):
        out = tmp_path / split
        assert (
            cli.main(
                ["evaluate", str(data), "--model", str(trained[0].out), "--split", split, "--out", str(out), "--no-report"]
            )
            == 0
        )
        assert ("note: the model was trained on these images" in capsys.readouterr().out) == (split == "train")
