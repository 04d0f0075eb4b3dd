"""Make one step of training, on one device or several, of one worker or several."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from dense_resnet.inference.precision import BFLOAT16
from segmentation.training.data import Batch, read_batches
from segmentation.training.losses import compute_loss
from segmentation.training.optimizers import apply_gradient, decays
from segmentation.training.recipe import SGD
from segmentation.training.state import State

if TYPE_CHECKING:
    from segmentation.training.loop import Training

MEASURED = 4  # steps
MIXED = "auto_mixed_precision_onednn_bfloat16"  # TensorFlow's own rewriting of float32 graphs
LOST = (  # what TensorFlow raises where another worker does not answer
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

Step = Callable[[int, Batch, np.float32], tuple[float, np.ndarray]]


class Cluster:
    """The workers that train together, one of which is this process."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.worker, self.workers = find_worker(strategy)
        self._sum = tf.function(lambda number: strategy.run(_all_reduce, [number]), autograph=False)

    def total(self, number: int) -> int:
        """Sum a number over the workers, each of which must call this."""
        if self.workers == 1:
            return number
        local = self.strategy.experimental_local_results(self._sum(tf.constant(number)))
        return int(local[0]) // len(local)  # every device of a worker has added its number

    def split(self, arrays: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
        """Give each of this worker's devices its part of the arrays."""
        devices = self.strategy.num_replicas_in_sync // self.workers
        parts = list(zip(*(map(tf.constant, np.split(values, devices)) for values in arrays), strict=True))
        if self.strategy.num_replicas_in_sync == 1:
            return parts[0]

        def part(index: int) -> Callable[[Any], tf.Tensor]:
            return lambda context: parts[context.replica_id_in_sync_group % devices][index]

        return tuple(self.strategy.experimental_distribute_values_from_function(part(index)) for index in range(len(arrays)))


def find_worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return this worker's number, and how many there are."""
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec() if resolver else None
    if not spec:
        return 0, 1
    tasks = [(job, task) for job in ("chief", "worker") if job in spec.jobs for task in spec.task_indices(job)]
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def _all_reduce(number: tf.Tensor) -> tf.Tensor:
    own = tf.identity(number)  # an argument is on no device, and TensorFlow needs one
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)


def make_step(training: Training, state: State) -> Step:
    """Return a function of (step, this worker's part of the batch, learning rate), which changes the `state`.

    It must be called by all workers, and returns the loss of all images and the predicted labels of these.
    """
    model, recipe, cluster = training.model, training.recipe, training.cluster
    variables, strategy, auxiliary = state.trainable, cluster.strategy, state.auxiliary
    add = tf.distribute.ReduceOp.SUM

    def replica_step(
        pixels: tf.Tensor, labels: tf.Tensor, boxes: tf.Tensor, rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.int32)

        def dropout(shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
            """Return this replica's part of what one device would draw for the whole batch."""
            own = shape[0]
            whole = tf.concat([[own * context.num_replicas_in_sync], shape[1:]], axis=0)
            return tf.random.stateless_uniform(whole, [step, recipe.seed], dtype=dtype)[number * own : (number + 1) * own]

        def mean_loss(logits: tf.Tensor) -> tf.Tensor:
            """Return this replica's part of the mean over the images of all."""
            terms = compute_loss(recipe.loss, logits, labels, training.ignored, recipe.class_weights, recipe.hardest)
            return tf.add_n([term.total / tf.maximum(context.all_reduce(add, term.count), 1.0) for term in terms])

        with tf.GradientTape() as tape:
            logits, end_points = model.training_logits(
                pixels, boxes, dropout, recipe.freeze_batch_norm, freeze_image_pooling=training.freeze_image_pooling
            )
            loss = mean_loss(logits)
            if auxiliary:
                loss += recipe.auxiliary * mean_loss(auxiliary.logits(end_points, tf.shape(labels)[1:]))
        slopes = tape.gradient(loss, list(variables.values()), unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = dict(zip(variables, slopes, strict=True))
        gradients, loss = context.all_reduce(add, [gradients, loss])
        if recipe.optimizer == SGD:  # in the order of the variables: graphs of another order are optimized to other bits
            for name in filter(decays, variables):
                gradients[name] += recipe.weight_decay * variables[name]
        if recipe.clip is not None:
            clipped, _ = tf.clip_by_global_norm(list(gradients.values()), recipe.clip)
            gradients = dict(zip(gradients, clipped, strict=True))
        for name, variable in variables.items():
            own_rate = rate * (1.0 if name in model.backbone.trainable else recipe.head_rate)
            apply_gradient(recipe, name, variable, gradients[name], state.kept, own_rate, step)
        dtype = tf.uint8 if model.head.num_classes <= 256 else tf.int32
        return loss, tf.cast(tf.argmax(logits, axis=-1), dtype)

    run = tf.function(lambda *inputs: strategy.run(replica_step, inputs), autograph=False)

    def make(step: int, batch: Batch, rate: np.float32) -> tuple[float, np.ndarray]:
        inputs = cluster.split((batch.pixels, batch.labels, batch.boxes))
        loss, predicted = run(*inputs, tf.constant(rate), tf.constant(step, tf.int32))
        state.average(step)
        labels = [part.numpy() for part in strategy.experimental_local_results(predicted)]
        return float(strategy.experimental_local_results(loss)[0]), np.concatenate(labels)

    return make


def measure_step(training: Training) -> float:
    """Return the seconds of a step, reading included, by making a few; the training's model cannot be used afterwards."""
    make, moments = make_step(training, State(training)), []
    recipe, cluster = training.recipe, training.cluster
    with (
        mixed_precision(recipe.precision),
        contextlib.closing(read_batches(training.training_example, recipe, 0, cluster.worker, cluster.workers)) as batches,
    ):
        for step, batch in itertools.islice(batches, MEASURED + 1):
            make(step, batch, np.float32(0))
            moments.append(time.perf_counter())
    return (moments[-1] - moments[0]) / MEASURED  # the first step is traced


@contextlib.contextmanager
def mixed_precision(precision: str) -> Iterator[None]:
    """Use bfloat16 where TensorFlow finds it safe and fast, in every function traced inside; variables stay float32."""
    before = tf.config.optimizer.get_experimental_options().get(MIXED, False)
    tf.config.optimizer.set_experimental_options({MIXED: precision == BFLOAT16})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({MIXED: before})
