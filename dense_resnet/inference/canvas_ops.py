"""Canvases in TensorFlow: masks that let a network end where its image ends, aligned sizes, resizing corner on corner.

Outside an image the pixels are 0, but after the first bias the activations there are not, and every kernel that crosses the
edge reads them. If they are reset to 0 before each such kernel, cells compute what they would compute if the map ended there.
(``tests/segmentation/test_canvases.py``)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from dense_resnet.errors import InputError
from dense_resnet.planning import geometry


def aligned_size(size: Any, stride: int) -> Any:
    """Return :func:`geometry.aligned_size` of a tensor; converters of graphs agree on ``//`` for numbers above 0 alone."""
    return (size + stride - 2) // stride * stride + 1


def resize_align_corners(values: tf.Tensor, size: Any) -> tf.Tensor:
    """Return `values` ``[batch, rows, columns, channels]`` on another grid of cells, corner on corner."""
    return tf.raw_ops.ResizeBilinear(images=values, size=size, align_corners=True)  # tf.image.resize has no align_corners


def upsample(features: Any, size: Sequence[int]) -> tf.Tensor:
    """Upsample features or logits to the pixels of their images, corner on corner (align_corners).

    At inputs of 32n+1 pixels, that puts each cell's value on the cell's own pixel.

    Args:
        features: ``[batch, rows, columns, channels]`` numbers.
        size: (height, width) of the images in pixels.

    Returns:
        ``[batch, height, width, channels]`` float32.

    Raises:
        InputError: the features do not have four axes, or the size is not two positive integers.

    >>> upsample([[[[0.0], [1.0]], [[2.0], [3.0]]]], (3, 5))[0, :, :, 0].numpy().tolist()
    [[0.0, 0.25, 0.5, 0.75, 1.0], [1.0, 1.25, 1.5, 1.75, 2.0], [2.0, 2.25, 2.5, 2.75, 3.0]]
    """
    values = tf.cast(features, tf.float32)
    if values.shape.rank != 4:
        raise InputError(f"features must have shape [batch, rows, columns, channels] (not {values.shape.as_list()}).")
    return resize_align_corners(values, geometry.image_size(size))


def boxes_of(sizes: tf.Tensor) -> tf.Tensor:
    """Return boxes of images of these (height, width) in the top left corners of their canvases; see :func:`coverage_mask`."""
    return tf.pad(sizes, [[0, 0], [2, 0]])


def coverage_mask(boxes: tf.Tensor | None, size: tf.Tensor, stride: int) -> tf.Tensor | None:
    """Return which cells images cover: those from which their pixels are interpolated.

    Args:
        boxes: int32 ``[batch or 1, 4]``, (top, left, bottom, right) of each image on its canvas in pixels, the last two
            just beyond it; None if they take the whole canvas.
        size: (rows, columns) of the map, whose cells are `stride` pixels apart.

    Returns:
        bool ``[batch or 1, rows, columns, 1]``, or None.

    >>> coverage_mask(tf.constant([[0, 0, 34, 17]]), tf.constant([5, 3]), 16)[0, :, :, 0].numpy().astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 0],
           [1, 1, 0],
           [0, 0, 0]])
    """
    if boxes is None:
        return None
    axes = []
    for axis in (0, 1):
        start, end = boxes[:, axis, None], boxes[:, axis + 2, None]
        at = tf.range(size[axis]) * stride
        axes.append((start < at + stride) & (at - stride < end - 1))
    return (axes[0][:, :, None] & axes[1][:, None, :])[..., None]


def apply_mask(values: tf.Tensor, inside: tf.Tensor | None) -> tf.Tensor:
    """Set `values` to 0 where `inside` is 0 or False; None changes nothing."""
    return values if inside is None else values * tf.cast(inside, values.dtype)


class ImageEnds:
    """The ends of a batch's maps, one mask for each stride, by :func:`coverage_mask`; aligned sizes end on a cell at each."""

    def __init__(self, boxes: tf.Tensor) -> None:
        self._boxes = boxes
        self._inside: dict[int, tf.Tensor] = {}

    def inside(self, values: tf.Tensor, stride: int) -> tf.Tensor:
        """Return the mask for `values` ``[batch, rows, columns, channels]`` with cells `stride` pixels apart, in their type."""
        if stride not in self._inside:
            self._inside[stride] = tf.cast(coverage_mask(self._boxes, tf.shape(values)[1:3], stride), values.dtype)
        return self._inside[stride]
