"""Winograd's matrices in exact fractions, and how much of float32 they lose."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from dense_resnet.inference import winograd


@pytest.mark.parametrize("m", winograd.POINTS)
def test_matrices_are_exact(m):
    """Every product of an input and a tap arrives where it belongs, with no rounding: the identity is bilinear."""
    a, g, b = winograd.matrices(m)
    assert {type(value) for matrix in (a, g, b) for value in matrix.flat} == {Fraction}
    assert (a.shape, g.shape, b.shape) == ((m, m + 2), (m + 2, 3), (m + 2, m + 2))
    for output, tap, place in itertools.product(range(m), range(3), range(m + 2)):
        assert sum(a[output] * g[:, tap] * b[:, place]) == (place == output + tap)


@pytest.mark.parametrize(("m", "share"), [(3, 0.7), (4, 0.6)])
def test_the_points_lose_less_than_the_usual_ones(m, share):
    usual = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2))[: m + 1]  # those of Lavin and Gray's code
    assert error_of(winograd.POINTS[m], m) < share * error_of(usual, m)


def error_of(points, m, depth=32):
    """The root mean square error of float32, as a share of the outputs'."""
    generator = np.random.default_rng(0)
    inputs, kernels = (
        generator.normal(size=(1000, depth, m + 2, m + 2)).astype(np.float32),
        generator.normal(size=(depth, 3, 3)),
    )
    a, g, b = (np.asarray(matrix, np.float64) for matrix in winograd.cook_toom(points))
    outputs = {}
    for dtype in (np.float64, np.float32):
        back, kernel, forth = (matrix.astype(dtype) for matrix in (a, g @ kernels @ g.T, b))
        products = (forth @ inputs.astype(dtype) @ forth.T) * kernel
        outputs[dtype] = back @ products.sum(axis=1) @ back.T
    error = outputs[np.float32] - outputs[np.float64]
    return np.sqrt(np.mean(error**2) / np.mean(outputs[np.float64] ** 2))
