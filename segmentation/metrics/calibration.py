"""Expected calibration error (ECE) over 15 confidence bins.

C. Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599. The counts are sums of exact
integers, with confidences in units of 2**-24 (the last bit of a float32 between one half and one), so images may
come in any order and in any parts. (``tests/segmentation/metrics/test_calibration.py`` holds the error against torchmetrics.)
"""

from __future__ import annotations

import numpy as np

from dense_resnet.errors import InputError

BINS = 15  # m of them: bin k contains k/m < confidence <= (k + 1)/m; the first one also 0
UNIT_BITS = 24
ONE = 2**UNIT_BITS
ROUNDING = 1e-5  # by which averaged float32 probabilities may exceed 1


def calibration_counts(confidence: np.ndarray, correct: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Count one image's bins; all arrays are ``[height, width]``.

    Args:
        confidence: float32, the probability of the predicted class.
        correct: bool, whether the prediction is right.
        valid: bool, the pixels that count; None for all.

    Returns:
        int64 ``[BINS, 3]``: pixels, right ones, the sum of their confidences in units of 2**-24.

    Raises:
        InputError: shapes differ, or a confidence is not a number between 0 and 1.

    >>> calibration_counts(np.float32([[0.75, 0.75, 1.0]]), np.array([[True, False, True]]))[[11, 14]].tolist()
    [[2, 1, 25165824], [1, 1, 16777216]]
    """
    confidence, correct = np.asarray(confidence, np.float32), np.asarray(correct, bool)
    valid = np.ones(confidence.shape, bool) if valid is None else np.asarray(valid, bool)
    if not confidence.shape == correct.shape == valid.shape:
        shapes = ", ".join(str(list(array.shape)) for array in (confidence, correct, valid))
        raise InputError(f"confidence, correct and valid must have one shape (not {shapes}).")
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1 + ROUNDING):
        strangers = confidence[~((confidence >= 0) & (confidence <= 1 + ROUNDING))]
        raise InputError(f"a confidence must be between 0 and 1 (not {float(strangers[0])!r}).")
    units = np.minimum(np.rint(confidence * np.float32(ONE)), ONE).astype(np.int32)
    cells = np.maximum((units * BINS - 1) >> UNIT_BITS, 0)  # in integers, so that no edge depends on rounding
    cells += correct * np.int32(BINS)
    cells = np.where(valid, cells, 2 * BINS).ravel()
    pixels = np.bincount(cells, minlength=2 * BINS + 1)[:-1].reshape(2, BINS)
    exact = units.ravel().astype(np.float64)  # integers, whose sums stay far below 2**53
    sums = np.bincount(cells, exact, 2 * BINS + 1)[:-1].reshape(2, BINS)
    return np.stack([pixels.sum(axis=0), pixels[1], sums.sum(axis=0).astype(np.int64)], axis=1)


def expected_calibration_error(counts: np.ndarray) -> float:
    """Return the sum over the bins of share of pixels times | accuracy - mean confidence |; NaN without pixels.

    `counts` are ``[BINS, 3]`` sums of :func:`calibration_counts`.

    >>> counts = calibration_counts(np.float32([[0.75, 0.75, 1.0]]), np.array([[True, False, True]]))
    >>> round(expected_calibration_error(counts), 6)  # 2/3 * |0.5 - 0.75| + 1/3 * |1 - 1|
    0.166667
    """
    pixels, right, confidence = np.moveaxis(np.asarray(counts), -1, 0)
    total = int(pixels.sum())
    gaps = int(np.abs(right * ONE - confidence).sum())  # of a bin: pixels * |accuracy - mean confidence|, in units
    return gaps / ONE / total if total else float("nan")
