"""Calibration against torchmetrics, and by hand."""

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dense_resnet.errors import InputError
from segmentation.metrics.calibration import BINS, ONE, calibration_counts, expected_calibration_error


def test_bins_and_error_equal_an_example_worked_by_hand():
    confidence = np.array([[0.0, 0.05, 0.5, 0.5], [0.75, 0.75, 1.0, 0.9]], np.float32)
    correct = np.array([[False, True, True, False], [True, True, True, False]])
    valid = np.array([[True, True, True, True], [True, True, True, False]])
    counts = calibration_counts(confidence, correct, valid)
    assert counts.dtype == np.int64
    expected = np.zeros((BINS, 3))
    expected[0] = 2, 1, np.float32(0.05) * ONE
    expected[7] = 2, 1, 1.0 * ONE
    expected[11] = 2, 2, 1.5 * ONE
    expected[14] = 1, 1, ONE
    np.testing.assert_allclose(counts, expected, atol=0.5)
    by_hand = (2 * abs(1 / 2 - 0.05 / 2) + 2 * abs(1 / 2 - 1 / 2) + 2 * abs(1 - 0.75) + 1 * abs(1 - 1)) / 7
    assert expected_calibration_error(counts) == pytest.approx(by_hand, abs=1e-8)


def test_bins_are_15_equal_intervals():
    for edge in range(1, BINS):
        around = np.array([[edge / BINS - 2**-22, edge / BINS + 2**-22]], np.float32)
        pixels = calibration_counts(around, np.ones((1, 2), bool))[:, 0]
        assert np.flatnonzero(pixels).tolist() == [edge - 1, edge]
    ends = calibration_counts(np.array([[0.0, 1.0]], np.float32), np.ones((1, 2), bool))
    assert ends[[0, -1]].tolist() == [[1, 1, 0], [1, 1, ONE]]


def torchmetrics_error(probabilities, labels, ignore_label=None):
    torch = importlib.import_module("torch")
    classification = importlib.import_module("torchmetrics.classification")
    metric = classification.MulticlassCalibrationError(
        probabilities.shape[-1], n_bins=BINS, norm="l1", ignore_index=ignore_label
    )
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    metric.update(torch.from_numpy(flat), torch.from_numpy(labels.ravel()))
    return float(metric.compute())


@pytest.mark.parametrize("seed", range(10))
def test_calibration_error_equals_torchmetrics(seed):
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((61, 53, 5)).astype(np.float32) * generator.uniform(0.3, 4)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    labels = np.where(generator.random((61, 53)) < 0.6, probabilities.argmax(-1), generator.integers(0, 5, (61, 53)))
    labels[generator.random((61, 53)) < 0.1] = 255
    counts = calibration_counts(probabilities.max(-1), probabilities.argmax(-1) == labels, labels != 255)
    assert counts[:, 0].sum() == np.count_nonzero(labels != 255)
    error = expected_calibration_error(counts)
    assert error > 0.01
    assert error == pytest.approx(torchmetrics_error(probabilities, labels, 255), abs=1e-6)


def test_torchmetrics_has_a_bin_of_its_own_for_1():
    probabilities = np.array([[1.0, 0.0], [0.95, 0.05]], np.float32)
    labels = np.array([1, 0])  # the sure one is wrong, the other right
    counts = calibration_counts(probabilities[None].max(-1), (probabilities.argmax(-1) == labels)[None])
    assert expected_calibration_error(counts) == pytest.approx(abs(0.5 - 0.975), abs=1e-7)
    assert torchmetrics_error(probabilities, labels) == pytest.approx((1 + 0.05) / 2, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_counts_of_parts_add_up_to_the_whole(seed, pixels):
    generator = np.random.default_rng(seed)
    confidence = generator.random((4, pixels), np.float32)
    correct, valid = generator.random((2, 4, pixels)) < 0.5
    whole = calibration_counts(confidence, correct, valid)
    rows = generator.permutation(4)
    parts = [calibration_counts(confidence[row], correct[row], valid[row]) for row in rows]
    assert np.array_equal(whole, sum(parts))
    assert whole[:, 0].sum() == valid.sum()
    assert whole[:, 1].sum() == (correct & valid).sum()
    units = np.rint(confidence[valid].astype(np.float64) * ONE)
    assert whole[:, 2].sum() == units.sum()
    bins = np.clip(np.ceil(units * BINS / ONE) - 1, 0, BINS - 1).astype(int)
    assert np.array_equal(whole[:, 0], np.bincount(bins, minlength=BINS))


def test_error_without_pixels_is_nan():
    nothing = calibration_counts(np.ones((2, 2), np.float32), np.ones((2, 2), bool), np.zeros((2, 2), bool))
    assert not nothing.any()
    assert np.isnan(expected_calibration_error(nothing))


def test_totals_beyond_a_float64():
    counts = np.zeros((BINS, 3), np.int64)
    counts[14] = 2**38 + 1, 2**38, (2**38 + 1) * ONE
    assert expected_calibration_error(counts) == 1 / (2**38 + 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_invalid_confidences_are_refused(value):
    confidence = np.full((2, 3), 0.5, np.float32)
    confidence[1, 1] = value
    with pytest.raises(InputError, match="a confidence must be between 0 and 1 \\(not"):
        calibration_counts(confidence, np.ones((2, 3), bool))


def test_averaged_probabilities_may_round_above_1():
    assert calibration_counts(np.float32([[1 + 2e-6]]), np.ones((1, 1), bool))[-1].tolist() == [1, 1, ONE]


def test_unequal_shapes_are_refused():
    with pytest.raises(InputError, match=r"must have one shape \(not \[2, 3\], \[3, 2\], \[2, 3\]\)"):
        calibration_counts(np.zeros((2, 3)), np.zeros((3, 2), bool))
