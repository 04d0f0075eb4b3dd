"""Boundary IoU, and mean IoU within bands around the ground truth's edges.

Both are sums of exact integers over images, as the confusion matrix is, so images may come in any order and in any parts.
Ignored pixels and the area outside the image are treated as extra classes, so masks end at both.

* Boundary IoU looks at each class's pixels within d of the mask's outline, inside it. B. Cheng et al., "Boundary IoU",
  https://arxiv.org/abs/2103.16562. (``tests/segmentation/metrics/test_boundaries.py`` compares it with the authors' procedure.)
* A trimap is the band of pixels within a width of the ground truth's edges. P. Kohli et al., "Robust Higher Order
  Potentials for Enforcing Label Consistency", https://doi.org/10.1007/s11263-008-0202-0; L.-C. Chen et al., "DeepLab",
  https://arxiv.org/abs/1606.00915.
"""

from __future__ import annotations

import math

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import opencv
from dense_resnet.planning.geometry import positive_integer
from segmentation.metrics import average_classes, iou_of_sums
from segmentation.metrics.confusion import image_counts

DILATION_RATIO = 0.02  # of the image's diagonal
TRIMAP_WIDTHS = (1, 2, 3, 5, 8, 12, 20, 30, 40)  # pixels
_BAND = np.searchsorted([width - 1 for width in TRIMAP_WIDTHS], np.arange(256)).astype(np.uint8)  # of a distance less 1


def boundary_counts(
    labels: np.ndarray,
    predictions: np.ndarray,
    num_classes: int,
    ignore_label: int | None,
    dilation_ratio: float = DILATION_RATIO,
) -> np.ndarray:
    """Count one image's boundary pixels of each class.

    A pixel is on its class's boundary where another value, or the outside of the image, is at most d pixels away along
    either axis: the mask less its erosion by a box of side 2 d + 1, with d = max(1, round(dilation_ratio * diagonal)).

    Args:
        labels: ``[height, width]`` integers, each a class 0 to ``num_classes - 1`` or `ignore_label` (None for none).
        predictions: ``[height, width]`` integers, each a class.

    Returns:
        int64 ``[num_classes, 3]``: pixels on both boundaries, on the ground truth's, on the prediction's.

    Raises:
        InputError: shapes differ, a value is outside the classes, or the ratio is not a positive number.

    >>> labels = np.array([[0, 0, 0, 0, 1]] * 5)
    >>> boundary_counts(labels, labels, 2, None).tolist()
    [[14, 14, 14], [5, 5, 5]]
    """
    if not 0 < dilation_ratio < math.inf:
        raise InputError(f"dilation_ratio must be a positive number (not {dilation_ratio!r}).")
    labels, predictions = _make_ignored_a_class(labels, predictions, num_classes, ignore_label)
    distance = max(1, round(dilation_ratio * math.hypot(*labels.shape)))
    box = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    true, found = (_near_another(values, box, outside=num_classes) for values in (labels, predictions))
    both = true & found & (labels == predictions)
    pairs = (both, labels), (true, labels), (found, predictions)
    return np.stack([_histogram(mask, values, 2, num_classes)[1] for mask, values in pairs], axis=1)


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Return each class's boundary IoU, pixels on both boundaries over pixels on either, from ``[..., classes, 3]`` sums.

    Returns:
        float64 ``[..., classes]``; NaN for a class in neither ground truth nor prediction.

    >>> boundary_iou([[2, 3, 3], [0, 0, 0]])
    array([0.5, nan])
    """
    return iou_of_sums(counts)


def mean_boundary_iou(counts: np.ndarray) -> float:
    """Return the mean of :func:`boundary_iou` over the classes that are present; NaN if none is."""
    return float(average_classes(boundary_iou(counts)))


def trimap_counts(labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int | None) -> np.ndarray:
    """Count one image's pixels of each class within each of TRIMAP_WIDTHS of the ground truth's edges.

    An edge runs between two 4-neighbors of different ground truth, the ignore label included. A pixel that touches one
    is at distance 1, any other at 1 more than the Euclidean distance to the nearest that does.

    Arguments and errors as :func:`boundary_counts`.

    Returns:
        int64 ``[len(TRIMAP_WIDTHS), num_classes, 3]``: within a width (so each includes those before it) the pixels that are
        right, those of the ground truth, those of the prediction.

    >>> labels = np.array([[0, 0, 0, 1, 1, 1]])
    >>> trimap_counts(labels, np.zeros_like(labels), 2, None)[:3].tolist()
    [[[1, 1, 2], [0, 1, 0]], [[2, 2, 4], [0, 2, 0]], [[3, 3, 6], [0, 3, 0]]]
    """
    labels, predictions = _make_ignored_a_class(labels, predictions, num_classes, ignore_label)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    touching = _near_another(labels, cross)
    beyond = len(TRIMAP_WIDTHS)
    if not touching.any():
        return np.zeros((beyond, num_classes, 3), np.int64)
    cv = opencv()
    distance = cv.distanceTransform((~touching).view(np.uint8), cv.DIST_L2, cv.DIST_MASK_PRECISE)
    # rounds up, to at most 255: a root of an integer is exact, or more than 0.01 above the integer below it
    band = cv.LUT(cv.convertScaleAbs(distance, alpha=1, beta=0.495), _BAND)
    right = np.where(labels == predictions, band, np.uint8(beyond))
    pairs = (right, labels), (band, labels), (band, predictions)
    counts = np.stack([_histogram(where, values, beyond + 1, num_classes)[:-1] for where, values in pairs], axis=2)
    return counts.cumsum(axis=0)


def trimap_mean_iou(counts: np.ndarray) -> np.ndarray:
    """Return the mean IoU within each width, over the classes that ground truth or prediction has there; NaN without pixels.

    >>> trimap_mean_iou([[[1, 1, 2], [0, 1, 0]]])
    array([0.25])
    """
    return average_classes(boundary_iou(counts))


def _make_ignored_a_class(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return both with `num_classes` where the label is ignored, as integers that OpenCV takes."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    limit = positive_integer("num_classes", num_classes)
    if labels.ndim != 2:
        raise InputError(f"a label must be [height, width] (not of shape {list(labels.shape)}).")
    image_counts(labels, predictions, num_classes, ignore_label)  # raises an error that says what is wrong, and where
    kind = np.min_scalar_type(limit)
    ignored = np.zeros(labels.shape, bool) if ignore_label is None else labels == ignore_label
    labels, predictions = labels.astype(kind), predictions.astype(kind)
    labels[ignored] = predictions[ignored] = limit
    return labels, predictions


def _histogram(rows: np.ndarray, values: np.ndarray, num_rows: int, num_classes: int) -> np.ndarray:
    """Count the pixels of each class in each row: int64 ``[num_rows, num_classes]``, without ignored pixels."""
    counts = image_counts(rows.astype(values.dtype), values, max(num_rows, num_classes + 1), None)
    return counts[:num_rows, :num_classes]


def _near_another(values: np.ndarray, kernel: np.ndarray, outside: int | None = None) -> np.ndarray:
    """Return where the kernel around a pixel covers another value than the pixel's own; `outside` surrounds the image."""
    cv = opencv()
    border = {} if outside is None else {"borderType": cv.BORDER_CONSTANT, "borderValue": outside}
    return np.asarray((cv.erode(values, kernel) != values) | (cv.dilate(values, kernel, **border) != values))
