"""Winograd's minimal filtering F(m x m, 3 x 3): 3x3 convolutions with fewer products, at any atrous rate.

    output tile [m, m] = A ((G kernel G^T) * (B input_tile B^T)) A^T      input_tile: [n, n], n = m + 2

An output takes 9 products in the direct way, and (n / m)^2 here: 4 for m = 2, 2.8 for m = 3, 2.25 for m = 4. The matrices are
Cook's and Toom's, computed from their points in exact fractions. A kernel of rate r joins cells that lie r apart, so each of
the r x r phases of a map is tiled by itself: the rate is in the places that tiles read, and costs nothing.
Source: Lavin and Gray, https://arxiv.org/abs/1509.09308. (``tests/dense_resnet/inference/test_winograd.py``)
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

TAPS = 3  # of a kernel along an axis
POINTS = {  # by m, besides infinity; of all sets of 0 and small fractions these lose the least of float32, or 1 % more
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    3: (Fraction(0), Fraction(1), Fraction(-1, 2), Fraction(-2)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}


class Matrices(NamedTuple):
    """Of one axis, of exact fractions: ``outputs = a @ ((g @ kernel) * (b @ inputs))``."""

    a: np.ndarray  # [m, n]
    g: np.ndarray  # [n, 3]
    b: np.ndarray  # [n, n]


@functools.cache
def matrices(m: int) -> Matrices:
    """Return the matrices for tiles of m outputs.

    >>> a, g, b = matrices(2)
    >>> kernel, inputs = np.array([1, 2, 3]), np.array([4, 5, 6, 7])
    >>> (a @ ((g @ kernel) * (b @ inputs))).tolist() == [1 * 4 + 2 * 5 + 3 * 6, 1 * 5 + 2 * 6 + 3 * 7]
    True
    """
    return cook_toom(POINTS[m])


def cook_toom(points: tuple[Fraction, ...]) -> Matrices:
    """Return the matrices of Cook and Toom's interpolation at `points` and at infinity."""
    m, last = len(points) + 2 - TAPS, [Fraction(0)] * (TAPS - 1) + [Fraction(1)]
    a = [[point**power for point in points] + [Fraction(power == m - 1)] for power in range(m)]
    g, b = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        g.append([point**power / scale for power in range(TAPS)])
        b.append([*_multiply_roots(others), Fraction(0)])
    return Matrices(np.array(a), np.array([*g, last]), np.array([*b, _multiply_roots(points)]))


def _multiply_roots(roots: list[Fraction] | tuple[Fraction, ...]) -> list[Fraction]:
    """Return the coefficients of the product of all (x - root), that of the lowest power first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


def transform_kernel(kernel: np.ndarray, m: int) -> np.ndarray:
    """Return ``[n * n, depth_in, depth]`` float64 of a kernel ``[3, 3, depth_in, depth]``."""
    g = np.asarray(matrices(m).g, np.float64)
    return np.tensordot(np.kron(g, g), np.asarray(kernel, np.float64).reshape(TAPS * TAPS, *kernel.shape[2:]), 1)


def transform_tiles(m: int) -> np.ndarray:
    """Return the matrix ``[n * n, n * n]`` of tiles of inputs, both of whose axes are in a row."""
    b = np.asarray(matrices(m).b, np.float64)
    return np.kron(b, b)


def transform_back(m: int) -> np.ndarray:
    """Return the matrix ``[m * m, n * n]`` from products to tiles of outputs."""
    a = np.asarray(matrices(m).a, np.float64)
    return np.kron(a, a)
