"""Where the cells of a feature map are centered, in integers along one axis. Two facts carry the whole library:

* ``conv2d_same`` pads by half the effective kernel on both sides: cell ``i`` is centered on pixel ``i * stride`` for any size.
* TensorFlow's ``"SAME"`` splits the padding that a *size* needs: for an even size and stride 2, cells are centered one pixel
  later. With 32n+1 pixels every map has an odd size, both agree, and corner cells are exactly on the corner pixels.

Source: L.-C. Chen et al., "DeepLab", https://arxiv.org/abs/1606.00915. (``tests/dense_resnet/planning/test_geometry.py``)
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

from dense_resnet.errors import InputError

NOMINAL_STRIDE = 32  # of every standard ResNet with its root block: the 32 of "32n+1"
LARGEST_SEED = 2**31  # TensorFlow's are int32

SYMMETRIC = "symmetric"  # half the effective kernel on both sides: conv2d_same, PyTorch
SAME = "SAME"  # TensorFlow's padding, which depends on the size


def positive_integer(name: str, value: object) -> int:
    """Return `value` as an ``int``, or raise an :class:`InputError` that names the argument."""
    number = _integer(value)
    if number < 1 or isinstance(value, bool):
        raise InputError(f"{name} must be a positive integer (not {value!r}).")
    return number


def check_seed(seed: object) -> int:
    """Return `seed` as an ``int``, or raise an :class:`InputError`."""
    number = _integer(seed)
    if not 0 <= number < LARGEST_SEED:
        raise InputError(f"seed must be at least 0 and below {LARGEST_SEED} (not {seed!r:.80}).")
    return number


def _integer(value: object) -> int:
    """Return `value` as an ``int``, or -1 if it is not an integer."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return -1


def image_size(size: object) -> tuple[int, int]:
    """Return `size` as ``(height, width)`` in pixels; one number means a square."""
    if isinstance(size, (tuple, list)):
        if len(size) != 2:
            raise InputError(f"size must be (height, width) or one number (not {size!r}).")
        return positive_integer("height", size[0]), positive_integer("width", size[1])
    side = positive_integer("size", size)
    return side, side


def effective_kernel(kernel: int, rate: int = 1) -> int:
    """Return the pixels that a kernel spans when its taps are `rate` apart.

    >>> effective_kernel(3, 2)
    5
    """
    return kernel + (kernel - 1) * (rate - 1)


def symmetric_padding(kernel: int, rate: int = 1) -> tuple[int, int]:
    """Return the zeros that ``conv2d_same`` adds (before, after), which center a cell's window on its pixel.

    >>> symmetric_padding(7), symmetric_padding(3, rate=4)
    ((3, 3), (4, 4))
    """
    total = effective_kernel(kernel, rate) - 1
    return total // 2, total - total // 2


def output_size(size: int, stride: int) -> int:
    """Return the cells that a window with stride `stride` makes of `size` pixels, under either padding.

    >>> output_size(513, 2), output_size(512, 2)
    (257, 256)
    """
    return -(-size // stride)


def aligned_size(size: int, stride: int = NOMINAL_STRIDE) -> int:
    """Return the smallest ``stride * n + 1`` that is at least `size` pixels.

    >>> aligned_size(500), aligned_size(513), aligned_size(514)
    (513, 513, 545)
    """
    return output_size(positive_integer("size", size) - 1, positive_integer("stride", stride)) * stride + 1


def check_aligned(name: str, side: object, stride: int = NOMINAL_STRIDE) -> None:
    """Raise an :class:`InputError` if a side is not ``stride * n + 1`` pixels; the message names the next valid one."""
    nearest = aligned_size(max(2, positive_integer(name, side)), stride)
    if side != nearest:
        raise InputError(f"{name} must be {stride}n+1 pixels (not {side}); next: {nearest}.")


@dataclass(frozen=True)
class Window:
    """What a convolution or a pooling looks at, along one axis."""

    kernel: int
    stride: int = 1
    rate: int = 1
    padding: str = SYMMETRIC  # or SAME

    def pads(self, size: int) -> tuple[int, int]:
        """Return the cells of padding (before, after) an input of `size`."""
        if self.padding == SYMMETRIC:
            return symmetric_padding(self.kernel, self.rate)
        span = (output_size(size, self.stride) - 1) * self.stride + effective_kernel(self.kernel, self.rate)
        total = max(span - size, 0)
        return total // 2, total - total // 2

    def first_center(self, size: int) -> int:
        """Return the input position on which output cell 0 is centered (odd kernels)."""
        return effective_kernel(self.kernel, self.rate) // 2 - self.pads(size)[0]


@dataclass(frozen=True)
class Grid:
    """A feature map along one axis: cell ``i`` is centered on pixel ``first + i * stride``."""

    size: int
    stride: int = 1
    first: int = 0

    def through(self, window: Window) -> Grid:
        """Return the grid of the map that `window` computes from this one."""
        return Grid(
            size=output_size(self.size, window.stride),
            stride=self.stride * window.stride,
            first=self.first + self.stride * window.first_center(self.size),
        )

    @property
    def centers(self) -> tuple[int, ...]:
        """Pixel on which each cell is centered."""
        return tuple(self.first + i * self.stride for i in range(self.size))


def receptive_field(windows: Iterable[Window]) -> int:
    """Return the pixels along one axis that a cell behind `windows` can see.

    >>> receptive_field([Window(7, stride=2), Window(3, stride=2), Window(3)])
    19
    """
    field, stride = 1, 1
    for window in windows:
        field += (effective_kernel(window.kernel, window.rate) - 1) * stride
        stride *= window.stride
    return field
