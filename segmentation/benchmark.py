"""The confusion matrix against those of the field, timed in turn on the same label maps.

Everyone adds one image a run to a matrix that it keeps, and gets the maps beforehand in the type that it likes best. No label
is to be ignored: dropping pixels costs the others extra. torchmetrics runs as it comes, looking for values outside the
classes as we do, and once more without looking, which is another contract: values outside are then undefined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dense_resnet.benchmark import Run, Timing, alternate, prepared, ratio
from dense_resnet.geometry import positive_integer
from dense_resnet.images import opencv
from segmentation.confusion import ConfusionMatrix

OWN = "dense_resnet"


@dataclass(frozen=True)
class Comparison:
    """Timings of one size and number of classes."""

    timings: tuple[Timing, ...]  # ours first
    missing: dict[str, str]  # what was not timed: why

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long as ours each of the others takes: the median over pairs of runs."""
        return {timing.name: ratio(timing, self.timings[0]) for timing in self.timings[1:]}


def confusion_timings(height: int, width: int, num_classes: int, runs: int = 20, burn_in: int = 3) -> Comparison:
    """Ours, then Keras' MeanIoU, torchmetrics' MulticlassConfusionMatrix (twice) and scikit-learn's confusion_matrix.

    Args:
        height, width: of the label maps, in pixels.
        num_classes: 1 to 256.
        runs: timed ones of each, one image a run.
        burn_in: runs before those.
    """
    for name, value in (("height", height), ("width", width), ("num_classes", num_classes), ("runs", runs)):
        positive_integer(name, value)
    maps = label_maps(height, width, num_classes)
    makers: dict[str, Callable[..., Run]] = {
        OWN: _own,
        "keras": _keras,
        "torchmetrics": _torchmetrics,
        "torchmetrics unchecked": functools.partial(_torchmetrics, checked=False),
        "scikit-learn": _scikit_learn,
    }
    competitors, missing = [], {}
    for name, make in makers.items():
        try:
            competitors.append(prepared(name, lambda make=make: make(*maps, num_classes), images=1))
        except ImportError as error:
            missing[name] = str(error)
    alternate(competitors, runs, burn_in)
    return Comparison(tuple(timing for timing, _ in competitors), missing)


def label_maps(height: int, width: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels, predictions), uint8 ``[height, width]``: blobs, and the same blobs a little elsewhere with specks."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, num_classes, (height // 32 + 1, width // 32 + 1), np.uint8)
    labels = opencv().resize(coarse, (width, height), interpolation=opencv().INTER_NEAREST)
    predictions = np.roll(labels, (5, 3), axis=(0, 1))
    specks = generator.random(labels.shape) < 0.02
    predictions[specks] = generator.integers(0, num_classes, np.count_nonzero(specks), np.uint8)
    return labels, predictions


def _own(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> Run:
    matrix = ConfusionMatrix(num_classes)
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

    def run() -> None:
        np.add(total, confusion_matrix(labels, predictions, labels=classes), out=total)

    return run
