"""Segmentation metrics as pure functions of one confusion matrix, in every common convention.

`counts` is int64 ``[classes, classes]``: rows are the ground truth, columns the prediction; ignored pixels are not in it.
With tp the diagonal, fn the rest of a row and fp the rest of a column, IoU = tp / (tp + fp + fn), divided once, at the end, in
float64. Evaluators disagree only on a class that is absent; here `absent` chooses:

* ``exclude``: the mean is over the classes that the ground truth or the prediction has (Cityscapes, mmseg, Keras, TensorFlow).
* ``gt_only``: over the classes that the ground truth has (detectron2).
* ``zero``: over all classes; an absent one counts 0 (ADE20K's own script).
* ``one``: over all classes; an absent one counts 1.
* ``nan``: over all classes; an absent one makes the mean NaN (the VOC formula, unchanged).

A class that is predicted but absent from the ground truth has IoU 0 and is in the mean, except under ``gt_only``.
(``tests/segmentation/metrics/test_metrics.py`` holds each against that evaluator.)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dense_resnet.errors import InputError

ABSENT = ("exclude", "gt_only", "zero", "one", "nan")
SCOPES = ("dataset", "image", "image_class")


def check_counts(counts: np.ndarray) -> np.ndarray:
    """Return `counts` as a square int64 matrix, or raise an :class:`InputError`."""
    hint = " Pass its .counts." if hasattr(counts, "counts") else ""
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not np.issubdtype(counts.dtype, np.integer):
        raise InputError(f"counts must be a square integer matrix (not {counts.dtype} of shape {list(counts.shape)}).{hint}")
    if counts.min(initial=0) < 0:
        raise InputError(f"counts must not be negative (not {counts.min()}).")
    return counts.astype(np.int64)


def class_sums(matrices: np.ndarray) -> np.ndarray:
    """Return what IoU needs of confusion matrices, ``[..., classes, classes]`` integers.

    Returns:
        int64 ``[..., classes, 3]``: right pixels, those of the ground truth, those of the prediction.

    >>> class_sums([[3, 1], [0, 2]]).tolist()
    [[3, 4, 3], [2, 2, 3]]
    """
    matrices = np.asarray(matrices)
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2] or not np.issubdtype(matrices.dtype, np.integer):
        raise InputError(f"matrices must be [..., classes, classes] integers (not {describe_array(matrices)}).")
    right = np.diagonal(matrices, axis1=-2, axis2=-1)
    return np.stack([right, matrices.sum(axis=-1), matrices.sum(axis=-2)], axis=-1).astype(np.int64)


def iou_of_sums(sums: np.ndarray, absent: str = "exclude", *, background: bool = True) -> np.ndarray:
    """Return the IoU of each class, from ``[..., classes, 3]`` sums as :func:`class_sums` gives them, as :func:`class_iou`."""
    if absent not in ABSENT:
        raise InputError(f"absent must be one of {', '.join(ABSENT)} (not {absent!r}).")
    right, truth, found = np.moveaxis(np.asarray(sums), -1, 0)
    union = truth + found - right
    iou = _divide(right, union)
    if absent == "gt_only":
        iou[truth == 0] = np.nan
    if absent in ("zero", "one"):
        iou[union == 0] = float(absent == "one")
    if not background:
        iou[..., 0] = np.nan
    return iou


def average_classes(iou: np.ndarray, absent: str = "exclude", *, background: bool = True) -> np.ndarray:
    """Return the mean of ``[..., classes]`` IoUs over the classes that take part; NaN where none does."""
    averaged = np.isfinite(iou)
    mean = _divide(np.where(averaged, iou, 0).sum(axis=-1), averaged.sum(axis=-1))
    if absent == "nan":
        return np.where((averaged if background else averaged[..., 1:]).all(axis=-1), mean, np.nan)
    return mean


def class_iou(counts: np.ndarray, absent: str = "exclude", *, background: bool = True) -> np.ndarray:
    """Return the IoU of each class that counts, in class order.

    Args:
        counts: ``[classes, classes]`` integers.
        absent: one of ABSENT.
        background: False leaves out class 0 (its pixels still count as errors of the others).

    Returns:
        float64 ``[classes]``; NaN where a class does not take part in the mean (or, under "nan", makes it NaN).
    """
    return iou_of_sums(class_sums(check_counts(counts)), absent, background=background)


def mean_iou(counts: np.ndarray, absent: str = "exclude", *, background: bool = True) -> float:
    """Return the mean IoU. Arguments as :func:`class_iou`; NaN where no class takes part.

    >>> mean_iou([[9, 1, 0], [1, 3, 0], [0, 0, 0]])
    0.7090909090909091
    """
    iou = class_iou(counts, absent, background=background)
    return float(average_classes(iou, absent, background=background))


def averaged_classes(counts: np.ndarray, absent: str = "exclude", *, background: bool = True) -> int:
    """Return the number of classes that :func:`mean_iou` averages over."""
    return int(np.isfinite(class_iou(counts, absent, background=background)).sum())


def scoped_mean_iou(
    matrices: Iterable[np.ndarray], scope: str = "dataset", absent: str = "exclude", *, background: bool = True
) -> float:
    """Return the mean IoU over the images' matrices.

    Args:
        matrices: one ``[classes, classes]`` per image.
        scope: "dataset" adds the matrices first; "image" averages the images' mean IoUs; "image_class" averages over every
            class of every image at once (torchmetrics).
        absent, background: as :func:`class_iou`.
    """
    if scope not in SCOPES:
        raise InputError(f"scope must be one of {', '.join(SCOPES)} (not {scope!r}).")
    if scope == "dataset":
        return mean_iou(np.sum([*map(check_counts, matrices)], axis=0), absent, background=background)
    of_image = mean_iou if scope == "image" else class_iou
    each = [np.atleast_1d(of_image(matrix, absent, background=background)) for matrix in matrices]
    return float(average_classes(np.concatenate([*each, np.empty(0)])))


def pixel_accuracy(counts: np.ndarray) -> float:
    """Return the share of pixels that are right."""
    counts = check_counts(counts)
    return float(_divide(np.trace(counts), counts.sum()))


def class_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the share of each class's pixels that are right, ``[classes]`` float64; NaN where the ground truth lacks it."""
    counts = check_counts(counts)
    return _divide(np.diagonal(counts), counts.sum(axis=1))


def mean_accuracy(counts: np.ndarray) -> float:
    """Return the mean of :func:`class_accuracy` over the classes that the ground truth has."""
    return float(average_classes(class_accuracy(counts)))


def frequency_weighted_iou(counts: np.ndarray) -> float:
    """Return the mean IoU, with classes weighted by their share of the ground truth's pixels."""
    counts = check_counts(counts)
    truth = counts.sum(axis=1)
    return float(_divide(np.nansum(class_iou(counts) * truth), truth.sum()))


def describe_array(array: np.ndarray) -> str:
    """Describe an array for messages: its type and shape."""
    return f"{array.dtype} of shape {list(array.shape)}"


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide in float64; 0 / 0 is NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.true_divide(numerator, denominator, dtype=np.float64))
