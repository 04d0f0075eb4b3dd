"""Bootstrap percentile intervals for mean IoU.

Images are drawn with replacement, as many as there are, 2,000 times; each draw is scored as the whole set is, and the interval
is the middle 95 % of the scores. Two systems are compared on the same draws. A draw depends on positions, so the caller sorts
the images (by name): then neither shards nor resuming change a figure. B. Efron and R. Tibshirani, "An Introduction to the
Bootstrap", chapters 13 and 16, https://doi.org/10.1201/9780429246593.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.planning.geometry import positive_integer
from segmentation.metrics import average_classes, describe_array, iou_of_sums

RESAMPLES = 2000
FEWEST_IMAGES = 5  # fewer give neither an interval nor a p-value: they have too few different resamples
LEVEL = 0.95  # share of the resamples within an interval
_CHUNK = 250  # resamples at a time, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """A figure of all images and the interval around it."""

    value: float  # NaN for a class that no image has
    low: float  # as high: NaN if fewer than FEWEST_IMAGES images bear on the figure
    high: float


@dataclass(frozen=True)
class Intervals:
    """Intervals of the mean IoU and of each class's IoU."""

    mean: Interval
    classes: tuple[Interval, ...]
    resamples: int
    seed: int


@dataclass(frozen=True)
class Difference:
    """Differences of two systems' IoU on the same images, the first less the second."""

    mean: Interval
    classes: tuple[Interval, ...]
    not_better: float  # share of the resamples in which the first system's mean IoU is not above the second's; NaN as p_value
    p_value: float  # two-sided: share of resamples of the opposite sign, doubled; at most 1; NaN without interval
    resamples: int
    seed: int


def bootstrap_mean_iou(
    sums: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, absent: str = "exclude", *, background: bool = True
) -> Intervals:
    """Return 95 % percentile intervals of the dataset's mean IoU and of each class's IoU.

    A resample without a class is excluded from that class's interval; its mean treats the class as `absent` says.
    There is no interval (NaN) of the mean from fewer than FEWEST_IMAGES images with scored pixels, and none of a class that
    fewer images have.

    Args:
        sums: ``[images, classes, 3]`` integers, images in any fixed order: :func:`class_sums` of their matrices, or
            boundary counts.
        seed: of NumPy's default generator.
        absent, background: as :func:`segmentation.metrics.class_iou`.

    Raises:
        InputError: no images, or another shape or type.

    >>> from segmentation.metrics import class_sums
    >>> sums = class_sums([[[9, 1], [2, 8]], [[6, 4], [1, 9]], [[10, 0], [3, 7]], [[8, 2], [2, 8]], [[7, 3], [0, 10]]])
    >>> bootstrap_mean_iou(sums).mean
    Interval(value=0.694..., low=0.647..., high=0.738...)
    """
    _, intervals = _bootstrap(_check_sums(sums)[:, None], resamples, seed, absent, background)
    return Intervals(intervals[0], intervals[1:], resamples, seed)


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    absent: str = "exclude",
    *,
    background: bool = True,
) -> Difference:
    """Say whether the first system is better than the second, by resampling the images that both have scored.

    The p-value is 2 (k + 1) / (resamples + 1), at most 1, where k resamples have a difference of 0 or of the rarer sign. It
    is NaN if the mean has no interval: see :func:`bootstrap_mean_iou`.

    Args:
        first, second: ``[images, classes, 3]`` integers, the same images in the same order.
        resamples, seed, absent, background: as :func:`bootstrap_mean_iou`, which uses the same draws.

    Raises:
        InputError: as there, or the two differ in shape or in the ground truth's sums.

    >>> from segmentation.metrics import class_sums
    >>> first = class_sums([[[9, 1], [2, 8]], [[6, 4], [1, 9]], [[10, 0], [3, 7]], [[8, 2], [2, 8]], [[7, 3], [0, 10]]])
    >>> second = class_sums([[[8, 2], [2, 8]], [[6, 4], [2, 8]], [[9, 1], [3, 7]], [[8, 2], [3, 7]], [[7, 3], [1, 9]]])
    >>> paired_bootstrap(first, second).mean
    Interval(value=0.0688..., low=0.0639..., high=0.0724...)
    """
    first, second = _check_sums(first), _check_sums(second)
    if first.shape != second.shape:
        raise InputError(f"both must have the same images and classes (not {list(first.shape)} and {list(second.shape)}).")
    other = np.flatnonzero((first[..., 1] != second[..., 1]).any(axis=1))
    if other.size:
        differ = f"{other.size} images differ, the first is number {other[0]}"
        raise InputError(f"both must have scored the same ground truth ({differ}).")
    draws, intervals = _bootstrap(np.stack([first, second], axis=1), resamples, seed, absent, background)
    share = p_value = float("nan")
    if np.isfinite(intervals[0].low):
        means = draws[np.isfinite(draws[:, 0]), 0]
        not_better, not_worse = np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)
        share, p_value = not_better / means.size, min(1.0, 2 * (min(not_better, not_worse) + 1) / (means.size + 1))
    return Difference(intervals[0], intervals[1:], share, p_value, resamples, seed)


def _bootstrap(
    systems: np.ndarray, resamples: int, seed: int, absent: str, background: bool
) -> tuple[np.ndarray, tuple[Interval, ...]]:
    """Return the figures of each resample of ``[images, systems, classes, 3]``, and an interval for each figure."""
    value = _figures(systems.sum(axis=0), absent, background)
    draws = np.concatenate([_figures(drawn, absent, background) for drawn in _resample(systems, resamples, seed)])
    has: np.ndarray = (systems > 0).max(axis=(1, 3))
    any_class = has[:, 0 if background else 1 :].any(axis=1, keepdims=True)
    images = np.concatenate([any_class, has], axis=1).sum(axis=0)  # that bear on each figure
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    intervals = []
    for own, column, number in zip(value, draws.T, images, strict=True):
        there = column[np.isfinite(column) & (number >= FEWEST_IMAGES)]
        low, high = np.quantile(there, ends) if there.size else (np.nan, np.nan)
        intervals.append(Interval(float(own), float(low), float(high)))
    return draws, tuple(intervals)


def _resample(sums: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the sums over each resample's images, ``[some, ...]`` at a time."""
    positive_integer("resamples", resamples)
    images = len(sums)
    flat = sums.reshape(images, -1).astype(np.float64)  # a matrix product of integers, exact below 2**53
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        drawn = generator.integers(0, images, (min(_CHUNK, resamples - start), images))
        drawn += np.arange(len(drawn))[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield (times @ flat).reshape(-1, *sums.shape[1:])


def _figures(sums: np.ndarray, absent: str, background: bool) -> np.ndarray:
    """Return ``[..., 1 + classes]``: mean IoU and each class's, of ``[..., systems, classes, 3]``; of two, their difference."""
    iou = iou_of_sums(sums, absent, background=background)
    mean = average_classes(iou, absent, background=background)
    first, *others = np.moveaxis(np.concatenate([mean[..., None], iou], axis=-1), -2, 0)
    return np.asarray(first - others[0] if others else first)


def _check_sums(sums: np.ndarray) -> np.ndarray:
    sums = np.asarray(sums)
    if sums.ndim != 3 or sums.shape[2] != 3 or not len(sums) or not np.issubdtype(sums.dtype, np.integer):
        raise InputError(f"sums must be [images, classes, 3] integers, of at least one image (not {describe_array(sums)}).")
    return sums
