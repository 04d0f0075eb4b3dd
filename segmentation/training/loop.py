"""Training: from a dataset to a model directory, by SGD with momentum, and exactly on after a kill.

    OUT/model.json, weights.safetensors      the best model so far (without validation images: the last)
    OUT/last/                                the last one, likewise a model directory
    OUT/training/state.safetensors           weights and momentum after `step` steps: what a resumed run starts from
    OUT/training/log.jsonl, tensorboard/     figures, and pictures of validation images

Everything random is a function of (seed, position in the data), so step, weights and momentum are the whole state: a run
that was killed and started again gives the weights of an uninterrupted one, bit for bit on one worker, where TensorFlow
runs deterministic ops (the `train` verb sees to that).

More steps continue a training, finished or not: a new *leg* starts at the step of the state, and the learning rate follows
the schedule of the new number of steps from there on, as if it had always been that long. The data continue in their
order. So the result differs from that of one long training by the rates of the earlier legs, and the protocol lists them
all: ``"legs": [{"from": 0, "steps": 4000}, {"from": 4000, "steps": 8000}]``.

Batch norm over the image's mean, in heads that pool it, has one value an image: from few of them its variance is far from
that of all images (0 from one), and inference divides by its root. So below :data:`SMALLEST_BATCH` images a device that
one layer is normalized by its moving averages in training too, whatever the others are.

Over several devices the loss is the global sum over the global number of valid pixels; all of them share the out folder,
and the first worker alone writes. (``tests/segmentation/training/test_training.py``)
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet import checkpoints
from dense_resnet.backbone import Backbone
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError, pluralize
from dense_resnet.inference.precision import BFLOAT16
from dense_resnet.inference.runner import EXACT
from dense_resnet.jobs import atomic_files, journal, strict_json
from dense_resnet.planning import geometry, variants
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import preprocess
from segmentation import metrics
from segmentation.data.doctor import Checked, check_splits
from segmentation.data.samples import Dataset, Sample
from segmentation.data.transforms import augment, place_on_canvas
from segmentation.heads.plan import PADDED, HeadPlan
from segmentation.metrics.confusion import ConfusionMatrix
from segmentation.model import SegmentationModel
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving.description import DESCRIPTION, WEIGHTS
from segmentation.saving.model_directory import save_model
from segmentation.training import losses
from segmentation.training.recipe import SMALLEST_BATCH, Recipe

FORMAT = 1
FOLDER, LAST = "training", "last"
LEGS, FROM, STEPS = "legs", "from", "steps"  # of a protocol
BY_AVERAGES = "moving averages"  # of the batch norm over pooled features, where the batch is too small
STATE, LOG, CURVES = "state.safetensors", "log.jsonl", "tensorboard"
MOMENTUM = "momentum/"  # before a variable's name
EXIF = "exif"  # a dataset's
CHOSEN = ("plan", "output_stride", "multi_grid", "head", "validation_size", "recipe")  # of a protocol, by options
PADDING = -1  # label around a view of a dataset without an ignore label: no file holds it, and it is ignored
MIXED = "auto_mixed_precision_onednn_bfloat16"  # TensorFlow's own rewriting of float32 graphs
READERS = 2  # threads
BATCHES_AHEAD = 3  # of the step, being read
CURVE_EVERY = 10  # steps between points of the curves
PICTURES = 4  # validation images that are shown
COLLAPSED = 0.99  # share of the predicted pixels in one class
FAR_APART = 0.3  # half the sum of differences between two label histograms
LOST = (  # what TensorFlow raises where another worker does not answer
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

Progress = Callable[[str, int, int, str], None]  # (what is being done, images done, images in all, a note)


def quiet(what: str, done: int, total: int, note: str) -> None:
    """No progress."""


def describe_unreached_rates(plan: Plan, head: HeadPlan, crop: tuple[int, int]) -> str | None:
    """Which atrous branches a crop is too small for: their outer taps touch no cell of an image; None where all touch.

    >>> from segmentation.heads.plan import plan_head
    >>> plan = variants.plan("resnet_v1_18", 16)
    >>> print(describe_unreached_rates(plan, plan_head(plan, 2), (129, 129)).partition(":")[0])
    crop 129 is 9x9 cells at output_stride 16
    >>> describe_unreached_rates(plan, plan_head(plan, 2), (289, 289))
    """
    cells = plan.feature_size(crop)
    rates = sorted({layer.rate for branch in head.branches for layer in branch if layer.kernel > 1})
    beyond = [str(rate) for rate in rates if rate >= min(cells)]
    if not beyond:
        return None
    fitting = geometry.aligned_size(rates[-1] * plan.output_stride + 1, plan.nominal_stride)
    sides = "x".join(str(side) for side in dict.fromkeys(crop))
    named = f"rate {beyond[0]}" if len(beyond) == 1 else f"rates {', '.join(beyond[:-1])} and {beyond[-1]}"
    return (
        f"crop {sides} is {cells[0]}x{cells[1]} cells at output_stride {plan.output_stride}: the outer taps of ASPP's {named} "
        f"never touch an image there, and stay untrained. --crop {fitting} trains them, at any output_stride; for images that "
        "are smaller, --head fcn has no such taps"
    )


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
        dataset: to train on.
        validation: to choose the best model by; None keeps the last.
        out: the folder for everything.
        recipe: see :class:`Recipe`.
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
        recipe.check(model.head.num_classes)
        self.model, self.dataset, self.validation = model, dataset, validation
        self.out, self.recipe = Path(out), recipe
        for split in filter(None, (dataset, validation)):
            split.check_apart(self.out)
        self.preprocessing = preprocessing or model.backbone.plan.preprocessing
        self.strategy = strategy or tf.distribute.get_strategy()
        self._inference = Inference(validation_size)
        self._inference.check(model.backbone.plan.nominal_stride)
        if model.backbone.plan.in_channels != 3:
            raise InputError(f"images have 3 channels, this network takes {model.backbone.plan.in_channels}.")
        replicas = self.strategy.num_replicas_in_sync
        if recipe.batch % replicas:
            raise InputError(f"batch must be a multiple of the {replicas} devices (not {recipe.batch}).")
        for side in recipe.augmentation.crop:
            geometry.check_aligned("crop", side, model.backbone.plan.nominal_stride)
        own = recipe.batch // replicas
        pools = model.head.image_projection is not None and not recipe.freeze_batch_norm
        self._few = own if pools and own < SMALLEST_BATCH else None  # images, of which the pooled features' norm takes none
        space = dataset.space
        if space.num_classes != model.head.num_classes:
            raise InputError(f"{dataset.name} has {pluralize(space.num_classes, 'class')}, the model {model.head.num_classes}.")
        if validation is not None and validation.space.names != space.names:
            raise InputError(f"{validation.name}: its classes differ from those of {dataset.name}.")
        self._worker, self._workers = _place(self.strategy)
        self.chief = self._worker == 0
        self._summed = tf.function(lambda number: self.strategy.run(_sum, [number]), autograph=False)
        # A list: a set would order the graph by chance, and TensorFlow optimizes graphs of another order to other bits.
        self._decayed = [name for name in model.trainable if name.endswith("/weights")]
        with self.strategy.scope():
            self._momentum = {
                name: tf.Variable(tf.zeros_like(variable), trainable=False, name=MOMENTUM + name)
                for name, variable in model.trainable.items()
            }
        self.initial = model.weights
        self.ignored = PADDING if space.ignore_label is None else space.ignore_label  # in views
        self.protocol = {
            "format": FORMAT,
            "plan": variants.plan_config(model.backbone.plan),
            "output_stride": model.backbone.plan.output_stride,
            "multi_grid": model.backbone.plan.multi_grid,
            "head": {"type": model.head.type, "separable": model.head.separable, "image_pooling": model.image_pooling_crop},
            "canvas": model.head.canvas,
            "preprocessing": self.preprocessing,
            "initial_weights_sha256": checkpoints.fingerprint(self.initial),
            "dataset": _describe_dataset(dataset),
            "validation": _describe_dataset(validation) if validation is not None else None,
            "validation_size": validation_size,
            "image_pooling_batch_norm": BY_AVERAGES if self._few else None,
            "recipe": dataclasses.asdict(recipe),
        }

    # ------------------------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        progress: Progress = quiet,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
        checked: Checked | None = None,
    ) -> Outcome:
        """Trains from the last saved state to the end.

        Args:
            progress: called with (what is being done, images done, images in all, a note).
            stop: asked after each step; True from any worker saves and returns on all of them.
            say: called with each line that a reader should see: figures of a validation, warnings.
            checked: of :func:`segmentation.data.doctor.check_splits` with both datasets; None checks them first.

        Raises:
            InputError: `out` holds another training, a sample cannot be used, the loss is not finite, or another worker is
                lost; the last good state stays.
        """
        if checked is None:
            splits = [split for split in (self.dataset, self.validation) if split is not None]
            checked = check_splits(splits, lambda what, done, total: progress(what, done, total, ""))
        try:
            return self._run(TrainingRun(self, progress, say), stop, say, checked)
        except LOST as error:
            if self._workers == 1:
                raise
            raise InputError(
                f"another of the {self._workers} workers is lost; it may say why. The same commands on all of them go on from "
                f"the last state in {self.out}."
            ) from error

    def _run(self, run: TrainingRun, stop: Callable[[], bool], say: Callable[[str], None], checked: Checked) -> Outcome:
        folder, steps = self.out / FOLDER, self.recipe.steps
        with contextlib.ExitStack() as stack:
            if self.chief:
                atomic_files.probe_folder(folder, 4 * sum(value.nbytes for value in self.initial.values()))
                stack.enter_context(journal.lock_folder(folder, shared=False))
            start = run.restore(folder / STATE)
            if self._total(start) != start * self._workers:
                raise InputError(f"{self.out}: the workers find different states there. They must share the folder.")
            if start:
                say(f"resuming at step {start} of {steps}")
            if start == steps:
                return run.outcome(start)
            if start == run.legs[-1][FROM]:
                for line in self._remarks(run.legs):
                    say(line)
            stack.enter_context(run.open(folder, start))
            run.labeled_pixels += checked.labels[0].pixels
            for kind, warning in checked.warnings.items():
                run.warn(kind, warning, start + 1)  # a run from this state on says it again, and cuts the log before it
            stack.enter_context(mixed_precision(self.recipe.precision))
            batches = stack.enter_context(contextlib.closing(self._batches(start)))
            for step, (samples, *arrays) in zip(range(start, steps), batches, strict=True):
                run.train(step, samples, *arrays)
                done = step + 1
                stopping = self._total(int(stop())) > 0 and done < steps
                if done == steps or done % self.recipe.validate_every == 0:
                    run.validate(done)
                if done == steps or stopping or done % self.recipe.save_every == 0:
                    run.save(done)
                if stopping:
                    return run.outcome(done, stopped=True)
        return run.outcome(steps)

    def _remarks(self, legs: list[dict[str, int]]) -> Iterator[str]:
        """What a reader should know before the first step of the last of the `legs`."""
        recipe, start = self.recipe, legs[-1][FROM]
        if start:
            before = legs[-2][STEPS]
            yield (
                f"more steps, {recipe.steps} instead of {before}: from here on the learning rate follows the schedule of "
                f"{recipe.steps} steps, {recipe.rate(start):.3g} at step {start}, and so does batch norm's decay; model.json "
                "lists the legs"
            )
        if self._few:
            yield (
                f"image pooling: its batch norm uses its moving averages in training too: with {pluralize(self._few, 'image')} "
                f"a device it has {pluralize(self._few, 'value')} a channel, too few for a variance (from {SMALLEST_BATCH} on "
                "it uses the batch's)"
            )
        if line := describe_unreached_rates(self.model.backbone.plan, self.model.head, recipe.augmentation.crop):
            yield line

    def _total(self, number: int) -> int:
        """The sum of a number over the workers, each of which must ask for it."""
        if self._workers == 1:
            return number
        local = self.strategy.experimental_local_results(self._summed(tf.constant(number)))
        return int(local[0]) // len(local)  # every device of a worker has added its number

    def view(self, position: int) -> tuple[Sample, np.ndarray, np.ndarray, np.ndarray]:
        """(sample, preprocessed pixels, label, box) at a position of the endless order of training images.

        The box is where the image lies on the crop: see :func:`dense_resnet.inference.canvas_ops.coverage_mask`.
        """
        recipe = self.recipe
        epoch, place = divmod(position, len(self.dataset.samples))
        sample = self.dataset.samples[self._order(epoch)[place]]
        image, label = sample.read_image(), sample.read_label(self.dataset.space)
        generator = np.random.default_rng([recipe.seed, 1, position])
        try:
            image, label, offset = augment(image, label, recipe.augmentation, generator)
        except InputError as error:
            raise InputError(f"{sample}: {error}") from error
        pixels = place_on_canvas(preprocess(image, self.preprocessing), offset, recipe.augmentation.crop, 0)
        box = np.array([*offset, *np.add(offset, label.shape)], np.int32)
        return sample, pixels, place_on_canvas(label.astype(np.int32), offset, recipe.augmentation.crop, self.ignored), box

    # ------------------------------------------------------------------------------------------------------------------

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.recipe.seed, 0, epoch]).permutation(len(self.dataset.samples))

    def _batches(self, start: int) -> Iterator[tuple[list[Sample], np.ndarray, np.ndarray, np.ndarray]]:
        """This worker's part of each step's images, read ahead by threads."""
        batch, own = self.recipe.batch, self.recipe.batch // self._workers
        first = own * self._worker
        with ThreadPoolExecutor(READERS) as pool:
            pending: deque[list[Future[Any]]] = deque()
            steps = iter(range(start, self.recipe.steps))
            try:
                while True:
                    for step in itertools.islice(steps, BATCHES_AHEAD - len(pending)):
                        positions = range(step * batch + first, step * batch + first + own)
                        pending.append([pool.submit(self.view, position) for position in positions])
                    if not pending:
                        return
                    views = [future.result() for future in pending.popleft()]
                    samples, *arrays = zip(*views, strict=True)
                    pixels, labels, boxes = map(np.stack, arrays)
                    yield list(samples), pixels, labels, boxes
            finally:
                for futures in pending:
                    for future in futures:
                        future.cancel()


class TrainingRun:
    """One run of a training: what changes while it goes on."""

    def __init__(self, training: Training, progress: Progress, say: Callable[[str], None]) -> None:
        self.training, self.progress, self.say = training, progress, say
        self.best: float | None = None
        self.warnings: dict[str, str] = {}  # by their kinds, each of which is said once
        classes = training.model.head.num_classes
        self.seen = ConfusionMatrix(classes, training.ignored)  # of the training images since the last validation
        self.labeled_pixels = np.zeros(classes, np.int64)  # pixels of each class in the labels of the training split
        self.best_step: int | None = None
        self.scored: tuple[int, float | None] | None = None  # the step that was validated last, its mean IoU
        self.legs = [{FROM: 0, STEPS: training.recipe.steps}]  # from which step on, under a schedule of how many
        self._kept = 0  # the step that was saved last
        self._step = tf.function(self._replicas_step, autograph=False)
        self._twin: SegmentationModel | None = None
        self._log: Any = None
        self._curves: Any = None

    @property
    def protocol(self) -> dict[str, Any]:
        """The training's, with the legs that it has had."""
        return {**self.training.protocol, LEGS: self.legs}

    def outcome(self, step: int, *, stopped: bool = False) -> Outcome:
        """What the run has come to at `step`."""
        return Outcome(step, self.best, self.best_step, self._score(step), stopped, tuple(self.warnings.values()))

    def _score(self, step: int) -> float | None:
        """The mean IoU of the model at `step`, where it has been validated."""
        return self.scored[1] if self.scored and self.scored[0] == step else None

    @contextlib.contextmanager
    def open(self, folder: Path, start: int) -> Iterator[None]:
        """The log up to step `start` and the curves, written by the chief alone."""
        if not self.training.chief:
            yield
            return
        self._curves = tf.summary.create_file_writer(os.fspath(folder / CURVES))
        _cut(folder / LOG, start)
        with open(folder / LOG, "a", encoding="utf-8") as self._log:
            try:
                yield
            finally:
                self._curves.close()

    # -- one step -----------------------------------------------------------------------------------------------------

    def train(self, step: int, samples: list[Sample], pixels: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> None:
        """One step on this worker's part of the batch."""
        training, recipe = self.training, self.training.recipe
        strategy = training.strategy
        rate = np.float32(recipe.rate(step))
        local = strategy.num_replicas_in_sync // training._workers
        split = (map(tf.constant, np.split(values, local)) for values in (pixels, labels, boxes))
        parts = list(zip(*split, strict=True))
        inputs = parts[0] if strategy.num_replicas_in_sync == 1 else _per_replica(strategy, parts)
        loss, answers = self._step(*inputs, tf.constant(rate), tf.constant(step, tf.int32))
        loss = float(strategy.experimental_local_results(loss)[0])
        if not math.isfinite(loss):
            listed = ", ".join(str(sample) for sample in samples)
            raise InputError(
                f"step {step}: the loss is {loss}. The batch: {listed}. {self.saved_state_note}. "
                "Likely causes: a learning rate that is too high (lower --lr, or give --clip 1 or --warmup), or weights "
                "that expect another preprocessing."
            )
        answered = np.concatenate([part.numpy() for part in strategy.experimental_local_results(answers)])
        self.seen.update(labels, answered)
        mean = metrics.mean_iou(self.seen.counts)
        done = step + 1
        note = f"step {done}/{recipe.steps}  loss {loss:.3f}  mIoU {_format_figure(mean, 3)}"
        self.progress("training", done * recipe.batch, recipe.steps * recipe.batch, note)
        if self._curves is not None and done % CURVE_EVERY == 0:
            with self._curves.as_default(step=done):
                tf.summary.scalar("loss", loss)
                tf.summary.scalar("learning_rate", rate)
                if not math.isnan(mean):
                    tf.summary.scalar("mean_iou/training", mean)

    def _replicas_step(self, pixels: Any, labels: Any, boxes: Any, rate: tf.Tensor, step: tf.Tensor) -> tuple[Any, Any]:
        return self.training.strategy.run(self._replica_step, (pixels, labels, boxes, rate, step))

    def _replica_step(
        self, pixels: tf.Tensor, labels: tf.Tensor, boxes: tf.Tensor, rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The gradient of the global loss, summed over replicas, and one step of SGD with momentum."""
        training, recipe = self.training, self.training.recipe
        model = training.model
        context = tf.distribute.get_replica_context()
        add = tf.distribute.ReduceOp.SUM
        number = tf.cast(context.replica_id_in_sync_group, tf.int32)
        variables = model.trainable

        def dropout(shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
            """This replica's part of what one device would draw for the whole batch."""
            own = shape[0]
            whole = tf.concat([[own * context.num_replicas_in_sync], shape[1:]], axis=0)
            return tf.random.stateless_uniform(whole, [step, recipe.seed], dtype=dtype)[number * own : (number + 1) * own]

        with tf.GradientTape() as tape:
            logits = model.training_logits(
                pixels, boxes, dropout, recipe.freeze_batch_norm, freeze_image_pooling=training._few is not None
            )
            total, count = losses.cross_entropy(logits, labels, training.ignored, recipe.class_weights, recipe.hardest)
            loss = total / tf.maximum(context.all_reduce(add, count), 1.0)
        slopes = tape.gradient(loss, list(variables.values()), unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = dict(zip(variables, slopes, strict=True))
        gradients, loss = context.all_reduce(add, [gradients, loss])
        for name in training._decayed:
            gradients[name] += recipe.weight_decay * variables[name]
        if recipe.clip is not None:
            clipped, _ = tf.clip_by_global_norm(list(gradients.values()), recipe.clip)
            gradients = dict(zip(gradients, clipped, strict=True))
        for name, variable in variables.items():
            momentum = training._momentum[name]
            momentum.assign(recipe.momentum * momentum + gradients[name])
            factor = recipe.head_rate if name in model.head_names else 1.0
            variable.assign_sub(rate * factor * momentum)
        dtype = tf.uint8 if model.head.num_classes <= 256 else tf.int32
        return loss, tf.cast(tf.argmax(logits, axis=-1), dtype)

    # -- validation ---------------------------------------------------------------------------------------------------

    def validate(self, done: int) -> None:
        """Scores the validation images, if there are any; the best model so far is written."""
        if self.training.validation is not None:
            weights = self.training.model.weights  # every worker takes part where moving averages are read
            if self.training.chief:
                self._validate(self.training.validation, weights, done)
        self.seen = ConfusionMatrix(self.seen.num_classes, self.seen.ignore_label)

    def _validate(self, validation: Dataset, weights: Mapping[str, np.ndarray], done: int) -> None:
        training = self.training
        self._refuse(weights, done)
        matrix = ConfusionMatrix(self.seen.num_classes, validation.space.ignore_label)
        model = self._model(weights)
        runner = model.runner(EXACT, preprocessing=training.preprocessing)  # compiling would cost more than it saves
        predictor = Predictor(runner, model.head, training._inference)
        samples = validation.samples
        for number, sample in enumerate(samples):
            image, label = sample.read_image(), sample.read_label(validation.space)
            try:
                prediction = predictor(image)
                matrix.update(label, prediction.labels)
            except InputError as error:
                raise InputError(f"step {done}, validation image {sample}: {error} {self.saved_state_note}.") from error
            if number < PICTURES:
                self._show(f"validation/{number}", done, image, label, prediction.labels)
            self.progress("validating", number + 1, len(samples), f"step {done}/{training.recipe.steps}")
        mean = metrics.mean_iou(matrix.counts)
        self.scored = done, _finite(mean)
        better = self.best is None or mean > self.best
        scored = not math.isnan(mean)
        self.say(
            f"step {done}: mean IoU {_format_figure(mean, 4)} on {pluralize(len(samples), 'validation image')}, "
            f"{_format_figure(metrics.mean_iou(self.seen.counts), 4)} on the training views since"
            + (" (best so far)" if better and scored else "")
        )
        class_iou = metrics.class_iou(matrix.counts)
        self._record({"step": done, "mean_iou": _finite(mean), "class_iou": [_finite(value) for value in class_iou]})
        if scored:
            with self._curves.as_default(step=done):
                tf.summary.scalar("mean_iou/validation", mean)
        for kind, warning in self._doubts(matrix.counts):
            self.warn(kind, warning, done)
        if better:
            self.best, self.best_step = _finite(mean), done
            self._write(training.out, model, done, self.best)

    def warn(self, kind: str, warning: str, done: int) -> None:
        """Say and record a warning, once of its kind, by the chief alone."""
        if self.training.chief and kind not in self.warnings:
            self.warnings[kind] = warning
            self.say(f"warning: {warning}")
            self._record({"step": done, "warning": warning})

    def _doubts(self, counts: np.ndarray) -> Iterator[tuple[str, str]]:
        """What looks wrong in a validation's counts: (kind, warning)."""
        names = self.training.dataset.space.names
        truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
        top = int(predicted.argmax())
        if predicted[top] > COLLAPSED * predicted.sum() > 0 and truth[top] <= COLLAPSED * truth.sum():
            yield (
                "collapsed",
                f"over {COLLAPSED:.0%} of the predictions are {names[top]!r}: it has collapsed to one class, or has only "
                "begun. If it lasts: a lower --lr, --class-weights balanced, or weights to start from.",
            )
        elif missing := [name for name, own, found in zip(names, truth, predicted, strict=True) if own and not found]:
            yield (
                "never",
                f"never predicted, though the labels have them: {', '.join(missing)}. --class-weights balanced may help.",
            )
        if self.labeled_pixels.sum() and truth.sum():
            apart = np.abs(self.labeled_pixels / self.labeled_pixels.sum() - truth / truth.sum())
            if apart.sum() / 2 > FAR_APART:
                far = int(apart.argmax())
                yield (
                    "far",
                    f"the classes' shares of the training labels are far from those of the validation labels ({names[far]!r}: "
                    f"{self.labeled_pixels[far] / self.labeled_pixels.sum():.1%} and {truth[far] / truth.sum():.1%}). Do "
                    "the two splits have the same label map?",
                )

    def _model(self, weights: Mapping[str, np.ndarray]) -> SegmentationModel:
        """The model once more, on one device, with these weights: what validates, and what is written."""
        if self._twin is None:
            training = self.training
            own = training.model
            self._twin = SegmentationModel(
                Backbone(own.backbone.plan, seed=0),
                own.head.num_classes,
                own.head.type,
                separable=own.head.separable,
                image_pooling_crop=own.image_pooling_crop,
                canvas=own.head.canvas,
                seed=0,
            )
        self._twin.assign(weights)
        return self._twin

    def _show(self, name: str, done: int, image: np.ndarray, label: np.ndarray, answer: np.ndarray) -> None:
        space = self.training.dataset.space
        row = np.concatenate([image, space.colorize(label), space.colorize(answer)], axis=1)
        with self._curves.as_default(step=done):
            tf.summary.image(name, row[None])

    # -- state --------------------------------------------------------------------------------------------------------

    def save(self, done: int) -> None:
        """The state that a resumed run starts from, and the last model."""
        training = self.training
        weights = training.model.weights
        if not training.chief:
            return
        self._refuse(weights, done)
        model = self._model(weights)
        self._write(training.out / LAST, model, done, self._score(done))
        if training.validation is None:
            self._write(training.out, model, done, None)
        self._keep(weights, done)

    def _keep(self, weights: Mapping[str, np.ndarray], done: int) -> None:
        training = self.training
        momentum = {MOMENTUM + name: variable.numpy() for name, variable in training._momentum.items()}
        about = {
            "step": done,
            "best": self.best,
            "best_step": self.best_step,
            "scored": self.scored,
            "warnings": self.warnings,
            "seen": self.seen.counts.tolist(),
            "protocol": self.protocol,
        }
        about["seal"] = _seal(about)
        safetensors.write(training.out / FOLDER / STATE, {**weights, **momentum}, about)
        self._kept = done

    def restore(self, path: Path) -> int:
        """Takes the state at `path`; gives the step that it is at. Where there is none, writes the first, at step 0."""
        training = self.training
        if not path.exists():
            if there := next((name for name in (DESCRIPTION, WEIGHTS, LAST) if (training.out / name).exists()), None):
                raise InputError(
                    f"{training.out}: holds {there} but not the {FOLDER}/{STATE} that its training would go on from. "
                    "Choose another --out."
                )
            if training.chief:  # so that whatever stands in the folder later is known to be of this training
                self._keep(training.initial, 0)
            return 0
        state = safetensors.read(path)
        about = safetensors.metadata(path)
        if about.get("seal") != _seal(about):
            raise InputError(f"{path}: damaged: what it says of itself does not match its checksum. Choose another --out.")
        try:
            old, step, best, warnings = about["protocol"], about["step"], about["best"], about["warnings"]
            best_step, scored = about.get("best_step"), about.get("scored")  # states of before do not say them
            if not (type(step) is int and isinstance(best, float | None) and isinstance(best_step, int | None)):
                raise TypeError("a number of another kind")
            if scored is not None:
                scored = int(scored[0]), None if scored[1] is None else float(scored[1])
            if not (isinstance(old, dict) and isinstance(warnings, dict)):
                raise TypeError("a value of another kind")
            legs = _legs(old, step)
            self._check_protocol(old)  # before what its classes are counted in
            seen = np.array(about["seen"], object)
            if not all(type(count) is int for count in seen.flat):  # True would count as 1
                raise TypeError("counts that are none")
            seen = seen.astype(np.int64)
            if seen.shape != self.seen.counts.shape or min(step, seen.min()) < 0:
                raise ValueError("counts that are none")
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: damaged: {error!r}. Choose another --out.") from error
        momentum = {name: state.pop(MOMENTUM + name, None) for name in training._momentum}
        if lost := [name for name, value in momentum.items() if value is None]:
            raise InputError(f"{path}: damaged: the momentum of {lost[0]} is missing. Choose another --out.")
        training.model.assign(state, str(path))
        for name, variable in training._momentum.items():
            variable.assign(momentum[name])
        self.best, self.best_step, self.scored, self.warnings = best, best_step, scored, warnings
        self.seen.counts += seen
        self._kept = step
        self._continue(legs, step, state)
        return step

    def _continue(self, legs: list[dict[str, int]], step: int, weights: Mapping[str, np.ndarray]) -> None:
        """Takes up the `legs` of a state; more steps than their last has make another one, which the state says at once."""
        training, steps = self.training, self.training.recipe.steps
        if steps < legs[-1][STEPS]:
            raise InputError(
                f"{training.out}: holds a training of {legs[-1][STEPS]} steps, {step} of them done; --steps {steps} is fewer, "
                f"and steps can only be added. Give --steps {legs[-1][STEPS]} to resume it, or choose another --out."
            )
        self.legs = legs
        if steps > legs[-1][STEPS]:
            self.legs = [leg for leg in legs if leg[FROM] < step] + [{FROM: step, STEPS: steps}]
            if training.chief:  # so that a model which is written before the next state is known to be of this leg
                self._keep(weights, step)

    def _check_protocol(self, old: dict[str, Any]) -> None:
        training = self.training
        new = json.loads(json.dumps(self.protocol))
        for protocol in (old, new):  # what may grow
            protocol.pop(LEGS, None)
            protocol["recipe"].pop(STEPS)
        for name in ("dataset", "validation"):
            if new[name] and isinstance(old.get(name), dict):
                old[name].setdefault(EXIF, new[name][EXIF])  # states of before do not say it
        old.setdefault("canvas", PADDED)
        if differing := journal.format_differences(old, new):
            chosen = any(old.get(name) != new[name] for name in CHOSEN)
            before = "; or give the options of before, which resume it" if chosen else ""
            raise InputError(
                f"{training.out}: holds a training by another protocol ({differing}). Choose another --out"
                f"{self._start(old, new)}{before}."
            )

    def _start(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """How a training of the `new` protocol starts from the model of the `old` one, where there is one that fits."""
        last = self.training.out / LAST
        if old["plan"] != new["plan"] or not (last / DESCRIPTION).exists():
            return ""
        whole = all(old[name] == new[name] for name in ("multi_grid", "head"))
        if whole and old["dataset"]["classes"] == new["dataset"]["classes"]:
            return f", where --init {last} starts from this one's model"
        return f", where --weights {last / WEIGHTS} starts from this one's backbone"

    @property
    def saved_state_note(self) -> str:
        """What a run that stops at an error has left, for its message."""
        if not self._kept:
            return "Nothing of this training has been saved yet"
        return f"The last good state, of step {self._kept}, is kept in {self.training.out}"

    def _write(self, folder: Path, model: SegmentationModel, done: int, mean: float | None) -> None:
        training = self.training
        about = {"step": done, "validation_mean_iou": mean, **self.protocol}
        save_model(folder, model, training.dataset.space, preprocessing=training.preprocessing, training=about)

    def _refuse(self, weights: Mapping[str, np.ndarray], done: int) -> None:
        for name, value in weights.items():
            if not np.isfinite(value).all():
                raise InputError(
                    f"step {done}: {name} is not finite any more, and is not saved. {self.saved_state_note}. "
                    "Lower --lr, or give --clip 1."
                )

    def _record(self, line: Mapping[str, Any]) -> None:
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()


def _describe_dataset(dataset: Dataset) -> dict[str, Any]:
    names = "\n".join(sample.name for sample in dataset.samples)
    return {
        "name": dataset.name,
        "split": dataset.split,
        "images": len(dataset.samples),
        EXIF: dataset.samples[0].exif if dataset.samples else None,
        "names_sha256": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
        **dataset.space.as_json(),
    }


def _legs(protocol: Mapping[str, Any], step: int) -> list[dict[str, int]]:
    """The legs in the protocol of a state that is at `step`; a state of before any could be added has one."""
    steps = protocol["recipe"][STEPS]
    legs = [{FROM: int(leg[FROM]), STEPS: int(leg[STEPS])} for leg in protocol.get(LEGS, [{FROM: 0, STEPS: steps}])]
    starts = [leg[FROM] for leg in legs]
    if starts[0] != 0 or sorted(set(starts)) != starts or legs[-1][STEPS] != steps or not starts[-1] <= step <= steps:
        raise ValueError("legs that cannot be")
    return legs


def _format_figure(value: float, decimals: int) -> str:
    """A figure, or a dash where no pixel was counted."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _seal(about: Mapping[str, Any]) -> str:
    """A checksum of what a state says of itself, which those of its arrays do not cover."""
    told = {key: value for key, value in about.items() if key not in ("seal", "sha256")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _cut(log: Path, step: int) -> None:
    """Leaves out of a log what came after `step` and what a kill left half written: it will be written again."""
    if log.exists():
        lines = log.read_bytes().splitlines(keepends=True)
        atomic_files.write_bytes(log, b"".join(line for line in lines if _step_of(line) <= step))


def _step_of(line: bytes) -> float:
    try:
        return float(strict_json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError, OverflowError):
        return math.inf


def _sum(number: tf.Tensor) -> tf.Tensor:
    own = tf.identity(number)  # an argument stands on no device, and TensorFlow needs one
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)


def _place(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """(this worker's number, how many there are)."""
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec() if resolver else None
    if not spec:
        return 0, 1
    tasks = [(job, task) for job in ("chief", "worker") if job in spec.jobs for task in spec.task_indices(job)]
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def _per_replica(strategy: tf.distribute.Strategy, parts: list[tuple[tf.Tensor, ...]]) -> tuple[Any, ...]:
    """This worker's parts, one a replica."""

    def part(index: int) -> Callable[[Any], tf.Tensor]:
        return lambda context: parts[context.replica_id_in_sync_group % len(parts)][index]

    return tuple(strategy.experimental_distribute_values_from_function(part(index)) for index in range(len(parts[0])))


@contextlib.contextmanager
def mixed_precision(precision: str) -> Iterator[None]:
    """bfloat16 where TensorFlow finds it safe and fast, in every function traced inside; variables stay float32."""
    before = tf.config.optimizer.get_experimental_options().get(MIXED, False)
    tf.config.optimizer.set_experimental_options({MIXED: precision == BFLOAT16})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({MIXED: before})
