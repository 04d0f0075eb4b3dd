"""The confusion matrix: the only state of an evaluation, exact integers on the host.

The sum of the counts is compared with the number of pixels that are not ignored; a value outside the classes is an error that
says which, how often and where. Metrics are functions of the counts: :mod:`segmentation.metrics`.
"""

from __future__ import annotations

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import opencv
from dense_resnet.planning.geometry import positive_integer

IGNORE_LABEL = 255
BYTE = 256  # values of a pixel of uint8
EXACT_FLOAT32 = 2**24  # pixels: OpenCV's histograms are float32, whose integers are exact up to here
LANES = 8  # distant places that are counted in turn: neighbors are alike, and adding to one cell twice in a row is slow


class ConfusionMatrix:
    """Counts of (ground truth, prediction) over images.

    Args:
        num_classes: labels are 0 to ``num_classes - 1``.
        ignore_label: ground truth that is ignored, and not a class; None for none.

    Raises:
        InputError: the ignore label is one of the classes.

    >>> matrix = ConfusionMatrix(num_classes=3)
    >>> _ = matrix.update(np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 2]]))
    >>> matrix.counts.tolist()
    [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    """

    def __init__(self, num_classes: int, ignore_label: int | None = IGNORE_LABEL) -> None:
        self.num_classes = positive_integer("num_classes", num_classes)
        if ignore_label is not None and 0 <= ignore_label < num_classes:
            which = f"ignore_label {ignore_label} is one of the {num_classes} classes, which would be ignored"
            raise InputError(f"{which}. Choose one above {num_classes - 1}, or ignore_label=None.")
        self.ignore_label = ignore_label
        self.counts = np.zeros((num_classes, num_classes), np.int64)  # rows: ground truth; columns: prediction

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Add one image, or several of one size.

        Args:
            labels: integers of any shape, each a class or the ignore label.
            predictions: integers of that shape, each a class.

        Returns:
            What was added: int64 ``[num_classes, num_classes]``.

        Raises:
            InputError: shapes differ, or a value is outside the classes; nothing is added.
        """
        added = image_counts(labels, predictions, self.num_classes, self.ignore_label)
        self.counts += added
        return added


def image_counts(labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int | None) -> np.ndarray:
    """Return the matrix of one image. Arguments, result and errors as :meth:`ConfusionMatrix.update`."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise InputError(f"the label has shape {list(labels.shape)}, the prediction {list(predictions.shape)}.")
    for name, values in (("label", labels), ("prediction", predictions)):
        if not np.issubdtype(values.dtype, np.integer):
            raise InputError(f"a {name} must contain integers (not {values.dtype}).")
    bytes_only = labels.dtype == predictions.dtype == np.uint8 and num_classes <= BYTE
    count = _count_bytes if bytes_only else _count_any
    counts = count(labels, predictions, num_classes, ignore_label)
    if counts is None:
        raise InputError(_outside(labels, predictions, num_classes, ignore_label))
    ignored = 0 if ignore_label is None else np.count_nonzero(labels == ignore_label)
    if counts.sum() != labels.size - ignored:
        raise RuntimeError(f"{counts.sum()} pixels were counted of {labels.size} less {ignored} ignored ones")
    return counts


def _count_bytes(labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int | None) -> np.ndarray | None:
    """Count by OpenCV's two-dimensional histogram over byte pairs; return None for a value outside."""
    padding = -labels.size % LANES
    rows = [labels.ravel(), predictions.ravel()]
    if padding:
        rows = [np.append(row, np.zeros(padding, np.uint8)) for row in rows]
    joint = np.zeros((BYTE, num_classes))
    for start in range(0, len(rows[0]), EXACT_FLOAT32):
        part = [opencv().transpose(row[start : start + EXACT_FLOAT32].reshape(LANES, -1)) for row in rows]
        joint += opencv().calcHist(part, [0, 1], None, [BYTE, num_classes], [0, BYTE, 0, num_classes])
    joint[0, 0] -= padding
    if joint.sum() != labels.size:  # predictions outside are in no bin
        return None
    if ignore_label is not None and 0 <= ignore_label < BYTE:
        joint[ignore_label] = 0
    return None if joint[num_classes:].any() else joint[:num_classes].astype(np.int64)


def _count_any(labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int | None) -> np.ndarray | None:
    labels, predictions = labels.ravel(), predictions.ravel()
    kept = np.ones(labels.shape, bool) if ignore_label is None else labels != ignore_label
    own = labels[kept]
    for values in (own, predictions):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            return None
    pairs = own.astype(np.int64) * num_classes + predictions[kept].astype(np.int64)
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts.astype(np.int64)


def _outside(labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int | None) -> str:
    """Say which value is outside the classes, how often, and where first."""
    for name, values in (("label", labels), ("prediction", predictions)):
        wrong = (values < 0) | (values >= num_classes)
        allowed = f"0..{num_classes - 1}"
        if name == "label" and ignore_label is not None:
            wrong &= values != ignore_label
            allowed += f" and is not the ignore label {ignore_label}"
        if wrong.any():
            place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            value = values[place]
            where = ", ".join(f"{axis}={index}" for axis, index in zip(("image", "y", "x")[-len(place) :], place, strict=False))
            count = np.count_nonzero(values[wrong] == value)
            return f"{name} value {value} ({count} px, first at {where}) is outside {allowed}."
    raise AssertionError("every value is inside")
