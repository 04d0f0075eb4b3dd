"""Confusion matrices and training, each timed in turn with other libraries.

Each library adds one image per run to a matrix that it keeps, and gets the maps beforehand in the type that it prefers. No
label is ignored: dropping pixels costs the others extra. torchmetrics runs with its defaults, which check for values outside
the classes as we do, and once more without this check: the result for such values is then undefined.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet import keras_resnet
from dense_resnet.backbone import Backbone
from dense_resnet.image_io.decoding import opencv
from dense_resnet.inference.precision import BFLOAT16, FLOAT32
from dense_resnet.jobs.resumable import never
from dense_resnet.planning.plan import Plan
from segmentation.data.label_space import LabelClass, LabelSpace
from segmentation.data.samples import Dataset, Sample
from segmentation.data.source import Source
from segmentation.data.transforms import Augmentation
from segmentation.metrics.confusion import ConfusionMatrix
from segmentation.model import SegmentationModel
from segmentation.training.data import Batch
from segmentation.training.loop import Training, TrainingRun, quiet
from segmentation.training.recipe import Recipe
from segmentation.training.step import mixed_precision

from .timing import Stopped, Timing, alternate, prepare, ratio
from .workload import Run


def confusion_ratios(
    height: int, width: int, num_classes: int, runs: int, stopped: Stopped = never
) -> tuple[dict[str, float], dict[str, str]]:
    """Time matrices; return (how many times as long as ours each of the others takes, what was not timed and why)."""
    maps = label_maps(height, width, num_classes)
    makers: dict[str, Callable[..., Run]] = {
        "dense_resnet": _own,
        "keras": _keras,
        "torchmetrics": _torchmetrics,
        "torchmetrics unchecked": functools.partial(_torchmetrics, checked=False),
        "scikit-learn": _scikit_learn,
    }
    competitors, missing = [], {}
    for name, make in makers.items():
        try:
            competitors.append(prepare(name, functools.partial(make, *maps, num_classes), images=1))
        except ImportError as error:
            missing[name] = str(error)
    alternate(competitors, runs, burn_in=3, stopped=stopped)
    own, *others = (timing for timing, _ in competitors)
    return {timing.name: ratio(timing.seconds, own.seconds) for timing in others if own.seconds}, missing


def label_maps(height: int, width: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, predictions), uint8 ``[height, width]``: blobs, and the same blobs shifted, with specks."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, num_classes, (height // 32 + 1, width // 32 + 1), np.uint8)
    labels = opencv().resize(coarse, (width, height), interpolation=opencv().INTER_NEAREST)
    predictions = np.roll(labels, (5, 3), axis=(0, 1))
    specks = generator.random(labels.shape) < 0.02
    predictions[specks] = generator.integers(0, num_classes, np.count_nonzero(specks), np.uint8)
    return labels, predictions


def _own(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> Run:
    matrix = ConfusionMatrix(num_classes, ignore_label=None)
    return lambda: matrix.update(labels, predictions)


def _keras(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> Run:
    metric = tf.keras.metrics.MeanIoU(num_classes)
    update = tf.function(metric.update_state, autograph=False)
    pair = tf.constant(labels, tf.int32), tf.constant(predictions, tf.int32)

    def run() -> None:
        update(*pair)
        metric.total_cm.numpy()

    return run


def _torchmetrics(labels: np.ndarray, predictions: np.ndarray, num_classes: int, *, checked: bool = True) -> Run:
    import torch
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(num_classes, validate_args=checked)
    pair = torch.from_numpy(predictions.astype(np.int64)), torch.from_numpy(labels.astype(np.int64))
    return lambda: metric.update(*pair)


def _scikit_learn(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> Run:
    from sklearn.metrics import confusion_matrix

    total = np.zeros((num_classes, num_classes), np.int64)
    labels, predictions, classes = labels.ravel(), predictions.ravel(), np.arange(num_classes)
    return lambda: np.add(total, confusion_matrix(labels, predictions, labels=classes), out=total)


def training_timings(plan: Plan, crop: int, batch: int, steps: int, runs: int, stopped: Stopped = never) -> tuple[Timing, ...]:
    """Time our steps in float32 and bfloat16, and those of the same network from our Keras face, run by ``fit``.

    A run has `steps` steps of `batch` images with sides of `crop` pixels. The head is one 1x1 convolution.
    """
    classes = 21
    generator = np.random.default_rng(0)
    pixels = generator.standard_normal((batch, crop, crop, 3)).astype(np.float32)
    labels = generator.integers(0, classes, (batch, crop, crop)).astype(np.int32)
    boxes = np.tile(np.array([0, 0, crop, crop], np.int32), (batch, 1))
    sample = Sample("noise", Source(Path("noise")))
    space = LabelSpace(tuple(LabelClass(f"class {i}", (i, i, i)) for i in range(classes)))
    dataset = Dataset("noise", "train", space, (sample,))

    def own(precision: str) -> Run:
        model = SegmentationModel(Backbone(plan, seed=0), classes, "fcn", seed=0)
        recipe = Recipe(steps=sys.maxsize, batch=batch, augmentation=Augmentation((crop, crop)), precision=precision)
        with tempfile.TemporaryDirectory() as folder:
            run = TrainingRun(Training(model, dataset, None, folder, recipe), quiet, lambda note: None)

        def some() -> None:
            with mixed_precision(precision):
                for step in range(steps):
                    run.train(step, Batch([sample] * batch, pixels, labels, boxes))

        return some

    def plain() -> Run:
        model = keras_network(plan, classes, crop)
        data = tf.data.Dataset.from_tensors((pixels, labels)).repeat(steps)
        return lambda: model.fit(data, verbose=0, shuffle=False)

    competitors = [
        prepare("dense_resnet", lambda: own(FLOAT32), batch * steps),
        prepare("Keras fit", plain, batch * steps),
        prepare("dense_resnet, bfloat16", lambda: own(BFLOAT16), batch * steps),
    ]
    alternate(competitors, runs, burn_in=1, stopped=stopped)
    return tuple(timing for timing, _ in competitors)


def keras_network(plan: Plan, num_classes: int, crop: int) -> Any:
    """Build the Keras face of a network with an fcn head, compiled with the same loss and optimizer."""
    keras = tf.keras
    backbone = keras_resnet.build(plan, input_shape=(crop, crop, plan.in_channels))
    cells = keras.layers.Conv2D(num_classes, 1)(backbone.output)
    model = keras.Model(backbone.input, keras.layers.Resizing(crop, crop)(cells))
    model.compile(
        keras.optimizers.SGD(0.007, momentum=0.9, weight_decay=0.0001),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
    )
    return model
