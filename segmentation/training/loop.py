"""Train: from a dataset to a model directory, by a recipe; a killed run resumes exactly.

    OUT/model.json, weights.safetensors      the best model so far (without validation images: the last)
    OUT/last/                                the last one, also a model directory
    OUT/training/state.safetensors           what a resumed run starts from: see segmentation.training.state
    OUT/training/log.jsonl, tensorboard/     figures, and pictures of validation images

A restarted run gives the weights of an uninterrupted one, bit for bit on one worker, where TensorFlow runs deterministic ops
(the `train` verb sees to that). All workers share the out folder, and the first alone writes.
(``tests/segmentation/training/test_training.py``)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from dense_resnet import checkpoints
from dense_resnet.errors import InputError, pluralize
from dense_resnet.inference.runner import EXACT
from dense_resnet.jobs import atomic_files, journal
from dense_resnet.planning import geometry
from segmentation import metrics
from segmentation.data.doctor import Checked, check_splits
from segmentation.data.samples import Dataset
from segmentation.metrics.confusion import ConfusionMatrix
from segmentation.model import SegmentationModel
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving.description import NETWORK, description_of
from segmentation.training import page, remarks
from segmentation.training.data import Batch, Example, describe_dataset, ignored_label, read_batches, read_example
from segmentation.training.log import Log
from segmentation.training.recipe import FOLDER, SMALLEST_BATCH, Recipe
from segmentation.training.state import FROM, State
from segmentation.training.step import LOST, Cluster, make_step, mixed_precision

FORMAT = 1
TIMED = 3  # steps, before the time of the rest is estimated
CURVE_EVERY = 10  # steps between points of the curves
PICTURES = 4  # validation images that are shown

Progress = Callable[[str, int, int, str], None]  # (task, images done, images in total, a note)


def quiet(what: str, done: int, total: int, note: str) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    step: int  # that the state is at
    best: float | None  # mean IoU on the validation images
    best_step: int | None  # of that model
    last: float | None  # mean IoU of the last model, where it has been validated
    stopped: bool  # by `stop`, before the end
    warnings: tuple[str, ...]


class Training:
    """A model, its data and its recipe.

    Args:
        model: with its initial weights; made under the strategy's scope.
        validation: to choose the best model by; None keeps the last.
        out: the folder for everything.
        preprocessing: a scheme of :func:`dense_resnet.preprocess`; None is the plan's own.
        strategy: a ``tf.distribute.Strategy``; None is one device.
        validation_size: side of the canvas that validation images are run on, 32n+1.

    Raises:
        InputError: model, data and recipe do not fit each other.
    """

    def __init__(
        self,
        model: SegmentationModel,
        dataset: Dataset,
        validation: Dataset | None,
        out: str | os.PathLike[str],
        recipe: Recipe,
        *,
        preprocessing: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
        validation_size: int = Inference.size,
    ) -> None:
        plan, head, space = model.backbone.plan, model.head, dataset.space
        recipe.check(head.num_classes)
        self.model, self.dataset, self.validation = model, dataset, validation
        self.out, self.recipe = Path(out), recipe
        self.splits = [split for split in (dataset, validation) if split is not None]
        for split in self.splits:
            split.check_apart(self.out)
        self.preprocessing = preprocessing or plan.preprocessing
        self.strategy = strategy or tf.distribute.get_strategy()
        self.inference = Inference(validation_size)
        self.inference.check(plan.nominal_stride)
        if plan.in_channels != 3:
            raise InputError(f"images have 3 channels, this network takes {plan.in_channels}.")
        replicas = self.strategy.num_replicas_in_sync
        if recipe.batch % replicas:
            raise InputError(f"batch must be a multiple of the {replicas} devices (not {recipe.batch}).")
        for side in recipe.augmentation.crop:
            geometry.check_aligned("crop", side, plan.nominal_stride)
        if space.num_classes != head.num_classes:
            raise InputError(f"{dataset.name} has {pluralize(space.num_classes, 'class')}, the model {head.num_classes}.")
        if validation is not None and validation.space.names != space.names:
            raise InputError(f"{validation.name}: its classes differ from those of {dataset.name}.")
        if recipe.patience is not None and validation is None:
            raise InputError("patience counts validations, and there are no validation images. Leave it out.")
        pools = head.image_projection is not None and not recipe.freeze_batch_norm
        self.freeze_image_pooling = pools and recipe.batch // replicas < SMALLEST_BATCH
        self.cluster = Cluster(self.strategy)
        self.initial = model.weights
        self.ignored = ignored_label(space)  # in views
        described = description_of(model, space, preprocessing=self.preprocessing)
        self.protocol = {
            "format": FORMAT,
            **{key: described[key] for key in ("plan", *NETWORK)},
            "initial_weights_sha256": checkpoints.fingerprint(self.initial),
            "dataset": describe_dataset(dataset),
            "validation": describe_dataset(validation) if validation is not None else None,
            "validation_size": validation_size,
            "image_pooling_batch_norm": "moving averages" if self.freeze_image_pooling else None,
            "recipe": dataclasses.asdict(recipe),
        }

    @property
    def chief(self) -> bool:
        """Whether this worker is the first, which alone writes."""
        return self.cluster.worker == 0

    def training_example(self, position: int) -> Example:
        """Read the view at a position of the endless order of training images."""
        return read_example(self.dataset, self.recipe, self.preprocessing, position)

    def run(
        self,
        *,
        progress: Progress = quiet,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
        checked: Checked | None = None,
        unbounded: bool = True,
    ) -> Outcome:
        """Train from the last saved state to the end.

        Args:
            progress: called with (task, images done, images in total, a note).
            stop: called after each step; True from any worker saves and returns on all of them.
            say: called with each line for the user: figures of a validation, warnings.
            checked: of :func:`segmentation.data.doctor.check_splits` with both datasets; None checks them first.
            unbounded: whether a run of more than a day may begin; otherwise it ends after a few steps.

        Raises:
            InputError: `out` holds another training, a sample cannot be used, the loss is not finite, or another worker is
                lost; the last good state stays.
        """
        if checked is None:
            checked = check_splits(self.splits, lambda what, done, total: progress(what, done, total, ""))
        try:
            return self._run(TrainingRun(self, progress, say), stop, checked, unbounded)
        except LOST as error:
            if self.cluster.workers == 1:
                raise
            raise InputError(
                f"another of the {self.cluster.workers} workers is lost; see its output. "
                f"Run the same commands on all of them to resume from the last state in {self.out}."
            ) from error

    def _run(self, run: TrainingRun, stop: Callable[[], bool], checked: Checked, unbounded: bool) -> Outcome:
        folder, steps, cluster = self.out / FOLDER, self.recipe.steps, self.cluster
        with contextlib.ExitStack() as stack:
            if self.chief:
                atomic_files.probe_folder(folder, 4 * sum(value.nbytes for value in self.initial.values()))
                stack.enter_context(journal.lock_folder(folder, shared=False))
            start = run.state.restore()
            if cluster.total(start) != start * cluster.workers:
                raise InputError(f"{self.out}: the workers find different states there. They must share the folder.")
            if start:
                run.say(
                    f"resuming at step {start} of {steps}"
                    if start < steps
                    else f"done at step {start}: more --steps continue it"
                )
            if start == steps or run.state.is_exhausted(start):
                return run.outcome(start)
            if start == run.state.legs[-1][FROM]:
                for line in remarks.describe_start(self, run.state.legs):
                    run.say(line)
            if self.chief:
                stack.enter_context(run.log.open(folder, start))
            run.labeled_pixels += checked.labels[0].pixels
            for kind, warning in checked.warnings.items():
                run.warn(kind, warning, start + 1)  # a run from this state warns again, and cuts the log before it
            stack.enter_context(mixed_precision(self.recipe.precision))
            batches = read_batches(self.training_example, self.recipe, start, cluster.worker, cluster.workers)
            began = 0.0
            for step, batch in stack.enter_context(contextlib.closing(batches)):
                run.train(step, batch)
                done = step + 1
                if done == start + 1:  # the first step is traced
                    began = time.perf_counter()
                elif done == start + 1 + TIMED and done < steps:
                    run.report_time((time.perf_counter() - began) / TIMED, steps - done, unbounded)
                stopping = cluster.total(int(stop())) > 0 and done < steps
                if done == steps or done % self.recipe.validate_every == 0:
                    run.validate(done)
                exhausted = self.recipe.patience is not None and cluster.total(int(run.state.is_exhausted(done))) > 0
                if done == steps or stopping or exhausted or done % self.recipe.save_every == 0:
                    run.state.save(done)
                if exhausted:
                    found = pluralize(self.recipe.patience or 0, "validation")
                    run.say(f"{found} without a better model: training ends at step {done} of {steps}")
                    return run.outcome(done)
                if stopping:
                    return run.outcome(done, stopped=True)
        return run.outcome(steps)


class TrainingRun:
    """One run of a training: it trains, validates and reports."""

    def __init__(self, training: Training, progress: Progress, say: Callable[[str], None]) -> None:
        self.training, self.progress, self.say = training, progress, say
        self.state, self.log = State(training), Log()
        self.labeled_pixels = np.zeros(training.model.head.num_classes, np.int64)  # of each class in the training split
        self._make_step = make_step(training, self.state)

    def outcome(self, step: int, *, stopped: bool = False) -> Outcome:
        """Return the run's outcome at `step`."""
        state = self.state
        return Outcome(step, state.best, state.best_step, state.score(step), stopped, tuple(state.warnings.values()))

    def train(self, step: int, batch: Batch) -> None:
        """Make one step on this worker's part of the batch."""
        recipe, seen = self.training.recipe, self.state.seen
        rate = np.float32(recipe.rate(step))
        loss, predicted = self._make_step(step, batch, rate)
        if not math.isfinite(loss):
            listed = ", ".join(str(sample) for sample in batch.samples)
            raise InputError(
                f"step {step}: the loss is {loss}. The batch: {listed}. {self.state.saved_state_note}. "
                "Likely causes: a learning rate that is too high (lower --lr, or give --clip 1 or --warmup), or weights "
                "that expect another preprocessing."
            )
        seen.update(batch.labels, predicted)
        mean = metrics.mean_iou(seen.counts)
        done = step + 1
        note = f"step {done}/{recipe.steps}  loss {loss:.3f}  mIoU {_format_figure(mean, 3)}"
        self.progress("training", done * recipe.batch, recipe.steps * recipe.batch, note)
        if done % CURVE_EVERY == 0:
            figures = {"loss": loss, "learning_rate": float(rate)}
            self.log.draw(done, {**figures, "mean_iou/training": mean})
            self.log.record({"step": done, **figures})

    def report_time(self, seconds: float, steps: int, unbounded: bool) -> None:
        """Say how long so many steps take; refuse more than a day unless `unbounded`."""
        hours = seconds * steps / 3600
        lasts = (
            f"{hours / 24:.1f} days"
            if hours > 24
            else f"{hours:.1f} hours"
            if hours > 1.5
            else f"{max(1, round(60 * hours))} min"
        )
        if hours > 24 and not unbounded:
            raise InputError(
                f"a step takes {seconds:.1f} s, so the {pluralize(steps, 'step')} that are left take about {lasts}, without "
                "validations. --yes begins nevertheless; a smaller network, --crop or --steps take less."
            )
        self.say(f"{seconds:.2f} s a step: about {lasts} for the {pluralize(steps, 'step')} that are left, without validations")

    def validate(self, done: int) -> None:
        """Score the validation images, if there are any; the best model so far is written."""
        state, training = self.state, self.training
        if training.validation is not None:
            weights = state.weights
            if training.chief:
                model = state.copy_model(weights, done)
                self._report(self._score(model, training.validation, done), len(training.validation.samples), model, done)
        state.seen = ConfusionMatrix(state.seen.num_classes, state.seen.ignore_label)

    def _score(self, model: SegmentationModel, validation: Dataset, done: int) -> np.ndarray:
        """Return the counts of a model on the validation images."""
        training, samples = self.training, validation.samples
        runner = model.runner(EXACT, preprocessing=training.preprocessing)  # compiling would cost more than it saves
        predictor = Predictor(runner, model.head, training.inference)
        matrix = ConfusionMatrix(model.head.num_classes, validation.space.ignore_label)
        colorize = training.dataset.space.colorize
        for number, sample in enumerate(samples):
            image, label = sample.read_image(), sample.read_label(validation.space)
            try:
                predicted = predictor(image).labels
                matrix.update(label, predicted)
            except InputError as error:
                note = self.state.saved_state_note
                raise InputError(f"step {done}, validation image {sample}: {error} {note}.") from error
            if number < PICTURES:
                row = np.concatenate([image, colorize(label), colorize(predicted)], axis=1)
                self.log.show(done, f"validation/{number}", row)
                page.keep_pictures(training.out / FOLDER, number, done, (image, label, predicted), training.dataset.space)
            self.progress("validating", number + 1, len(samples), f"step {done}/{training.recipe.steps}")
        return matrix.counts

    def _report(self, counts: np.ndarray, images: int, model: SegmentationModel, done: int) -> None:
        """Report the figures of a validation, on that many images, and warn about them; keep the best model."""
        training, state = self.training, self.state
        mean = metrics.mean_iou(counts)
        state.scored = done, _finite(mean)
        better = state.best is None or mean > state.best
        self.say(
            f"step {done}: mean IoU {_format_figure(mean, 4)} on {pluralize(images, 'validation image')}, "
            f"{_format_figure(metrics.mean_iou(state.seen.counts), 4)} on the training views since"
            + (" (best so far)" if better and not math.isnan(mean) else "")
        )
        class_iou = [_finite(value) for value in metrics.class_iou(counts)]
        seen = _finite(metrics.mean_iou(state.seen.counts))
        self.log.record({"step": done, "mean_iou": _finite(mean), "class_iou": class_iou, "training_mean_iou": seen})
        self.log.draw(done, {"mean_iou/validation": mean})
        for kind, warning in remarks.find_doubts(training.dataset.space.names, counts, self.labeled_pixels):
            self.warn(kind, warning, done)
        if better:
            state.best, state.best_step = _finite(mean), done
            state.write_model(training.out, model, done, state.best)
        page.write_page(training.out / FOLDER, state.protocol, self.labeled_pixels.tolist(), list(state.warnings))

    def warn(self, kind: str, warning: str, done: int) -> None:
        """Say and record a warning, once of its kind, by the chief alone."""
        if self.training.chief and kind not in self.state.warnings:
            self.state.warnings[kind] = warning
            self.say(f"warning: {warning}")
            self.log.record({"step": done, "warning": warning})


def _format_figure(value: float, decimals: int) -> str:
    """Return a figure, or a dash where no pixel was counted."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def _finite(value: float) -> float | None:
    """Return None for NaN, which JSON lacks."""
    return None if math.isnan(value) else float(value)
