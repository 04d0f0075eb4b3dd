"""geometry.py against brute force and against TensorFlow's own padding."""

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from dense_resnet.errors import InputError
from dense_resnet.planning import geometry
from dense_resnet.planning.geometry import SAME, SYMMETRIC, Grid, Window

kernels = st.sampled_from([1, 3, 5, 7])
rates = st.integers(1, 6)
strides = st.integers(1, 4)
sizes = st.integers(1, 200)


@pytest.mark.parametrize(
    ("kernel", "rate", "padding"),
    [(7, 1, (3, 3)), (3, 1, (1, 1)), (3, 2, (2, 2)), (3, 12, (12, 12)), (1, 4, (0, 0)), (2, 1, (0, 1))],
)
def test_symmetric_padding_literals(kernel, rate, padding):
    assert geometry.symmetric_padding(kernel, rate) == padding


@given(kernels, rates, strides, sizes)
def test_symmetric_windows_by_brute_force(kernel, rate, stride, size):
    window = Window(kernel, stride, rate)
    before, after = window.pads(size)
    positions = range(-before, size + after)
    span = geometry.effective_kernel(kernel, rate)
    windows = [positions[start : start + span : rate] for start in range(0, len(positions) - span + 1, stride)]
    grid = Grid(size).through(window)
    assert len(windows) == grid.size
    assert [taps[kernel // 2] for taps in windows] == list(grid.centers)
    assert all(len(taps) == kernel for taps in windows)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [*range(1, 13), 64, 65, 129])
def test_same_padding_equals_tensorflow(size, stride):
    ramp = tf.reshape(tf.range(size, dtype=tf.float32), [1, size, 1, 1])
    pooled = tf.nn.max_pool2d(ramp, [3, 1], [stride, 1], "SAME").numpy().ravel()
    grid = Grid(size).through(Window(3, stride, padding=SAME))
    assert [min(centre + 1, size - 1) for centre in grid.centers] == pooled.tolist()


@given(st.integers(0, 40), st.integers(1, 5))
def test_aligned_sizes_put_corners_on_corners(n, levels):
    size = 2**levels * n + 1
    for padding in (SAME, SYMMETRIC):
        grid = Grid(size)
        for _ in range(levels):
            grid = grid.through(Window(3, 2, padding=padding))
        assert (grid.first, grid.size, grid.stride) == (0, (size - 1) // 2**levels + 1, 2**levels)
        assert grid.centers[-1] == size - 1


def test_even_sizes_do_not_align_cells_with_corners():
    grid = Grid(64)
    for _ in range(2):
        grid = grid.through(Window(3, 2, padding=SAME))
    assert grid.first > 0


@given(sizes)
def test_aligned_size_is_the_next(size):
    aligned = geometry.aligned_size(size)
    assert aligned % 32 == 1
    assert size <= aligned < size + 32


@pytest.mark.parametrize("bad", [0, -3, 2.5, "513", None, True])
def test_sizes_must_be_positive_integers(bad):
    with pytest.raises(InputError, match="size must be a positive integer"):
        geometry.aligned_size(bad)


@given(st.lists(st.builds(Window, kernels, st.integers(1, 2), st.integers(1, 3)), min_size=1, max_size=6))
def test_receptive_field_by_propagating_one_cell(windows):
    low, high = 0, 0
    for window in reversed(windows):
        reach = (geometry.effective_kernel(window.kernel, window.rate) - 1) // 2
        low, high = low * window.stride - reach, high * window.stride + reach
    assert geometry.receptive_field(windows) == high - low + 1
