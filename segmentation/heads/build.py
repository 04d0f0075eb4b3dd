"""Build a head: one wiring, two sets of ops.

:func:`build_head` is the head on slim's layers, for training and exact inference; :func:`build_folded_head` is the same on
folded constants, for the compiled graph. (``tests/segmentation/heads/test_heads.py``, ``test_folding.py``)
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from dense_resnet.compat import slim
from dense_resnet.inference.canvas_ops import ImageEnds, resize_align_corners
from dense_resnet.inference.compiled import takes_rates
from dense_resnet.inference.folding import Layers
from dense_resnet.planning.layers import Conv
from dense_resnet.resnet_utils import convolve, resnet_arg_scope
from segmentation.heads.plan import BATCH_NORM_DECAY, SKIP_STRIDE, DepthwiseConv, HeadPlan, Layer, Uniform

KEEP = 0.9  # share of the projection's activations that training keeps


class HeadOps(Protocol):
    """What an engine does for a head."""

    def conv(self, net: Any, conv: Conv) -> Any:
        """Convolve, then apply the batch norm or bias, and the ReLU if there is one."""

    def depthwise(self, net: Any, layer: DepthwiseConv) -> Any:
        """Convolve each channel by itself, then apply the batch norm and the ReLU."""

    def mask(self, net: Any, stride: int) -> Any:
        """Put zeros where `net`, whose cells lie `stride` pixels apart, is beyond its image."""

    def project_mean(self, net: Any, conv: Conv, window: tuple[int, int] | None, stride: int) -> Any:
        """Convolve the mean over the cells of the image, or over every `window` of cells; `net` is 0 beyond the image."""

    def resize(self, net: Any, like: Any) -> Any:
        """Resize to the rows and columns of `like`, corner on corner."""

    def concat(self, parts: list[Any]) -> Any:
        """Put channels side by side."""

    def dropout(self, net: Any) -> Any:
        """Drop activations in training."""


def wire_head(head: HeadPlan, ops: HeadOps, features: Any, skip: Any) -> Any:
    """Build the head.

    Args:
        features: ``[batch, rows, columns, depth]`` of the backbone.
        skip: for the decoder, ``[batch, 4 x rows, 4 x columns, channels]`` of its skip unit, or as many as there are.

    Returns:
        Logits ``[batch, rows, columns, num_classes]``, of the features' size, or of the skip's under the decoder.
    """
    net = features
    if head.projection and head.image_projection:
        net = ops.mask(net, head.output_stride)
        image = ops.project_mean(net, head.image_projection, head.image_pooling, head.output_stride)
        parts = [ops.resize(image, net), *(_stack(ops, net, branch) for branch in head.branches)]
        net = ops.dropout(ops.conv(ops.concat(parts), head.projection))
    if head.skip_projection and skip is not None:
        beside = ops.conv(skip, head.skip_projection)
        net = ops.concat([ops.resize(net, beside), beside])
        net = _stack(ops, net, head.decoder, SKIP_STRIDE)
    return ops.conv(net, head.logits)


def _stack(ops: HeadOps, net: Any, layers: tuple[Layer, ...], stride: int | None = None) -> Any:
    """Build layers in a row; mask the input of each 3x3 if `stride`, the distance of its cells, is given."""
    for layer in layers:
        if stride and layer.kernel > 1:
            net = ops.mask(net, stride)
        net = ops.depthwise(net, layer) if isinstance(layer, DepthwiseConv) else ops.conv(net, layer)
    return net


def build_head(
    head: HeadPlan,
    features: tf.Tensor,
    skip: tf.Tensor | None,
    is_training: bool,
    *,
    boxes: tf.Tensor | None = None,
    dropout: Uniform | None = None,
    batch_norm_decay: float = BATCH_NORM_DECAY,
    freeze_image_pooling: bool = False,
) -> tf.Tensor:
    """Build the head on slim's layers, as :func:`wire_head`.

    Args:
        boxes: where the images lie on their canvases: see :func:`canvas_ops.coverage_mask`; None takes the whole canvas.
        dropout: draws the numbers that decide which activations training drops; None drops none.
        freeze_image_pooling: normalizes the pooled features by their moving averages, and leaves those alone.
    """
    ops = _SlimOps(boxes, dropout, is_training and not freeze_image_pooling)
    with (
        slim.arg_scope(resnet_arg_scope(0.0, batch_norm_decay, is_training=is_training)),
        slim.arg_scope([slim.separable_conv2d], activation_fn=tf.nn.relu, normalizer_fn=slim.batch_norm),
    ):
        return wire_head(head, ops, features, skip)


def build_folded_head(
    layers: Layers, head: HeadPlan, features: tf.Tensor, skip: tf.Tensor | None, boxes: tf.Tensor | None
) -> tf.Tensor:
    """Build the head on folded constants, as :func:`wire_head`; `layers` have its weights. `boxes` as :func:`build_head`."""
    return wire_head(head, _FoldedOps(layers, boxes), features, skip)


class _TensorOps:
    """The shared part of both sets of ops: TensorFlow tensors, masked beyond the images' ends, which `boxes` give."""

    def __init__(self, boxes: tf.Tensor | None) -> None:
        self._ends = None if boxes is None else ImageEnds(boxes)

    def mask(self, net: tf.Tensor, stride: int) -> tf.Tensor:
        return net * self._ends.inside(net, stride) if self._ends else net

    def image_mean(self, net: tf.Tensor, window: tuple[int, int] | None, stride: int) -> tf.Tensor:
        if self._ends:
            inside = tf.cast(self._ends.inside(net, stride), net.dtype)
            share = tf.reduce_mean(inside, [1, 2], keepdims=True)  # several times as fast as two sums
            return tf.reduce_mean(net, [1, 2], keepdims=True) / share
        if window is None:
            return tf.reduce_mean(net, [1, 2], keepdims=True)
        return tf.nn.avg_pool2d(net, window, 1, "VALID")

    def resize(self, net: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        return resize_align_corners(net, tf.shape(like)[1:3])

    def concat(self, parts: list[tf.Tensor]) -> tf.Tensor:
        return tf.concat(parts, axis=3)

    def dropout(self, net: tf.Tensor) -> tf.Tensor:
        return net


class _SlimOps(_TensorOps):
    """Slim's layers, in the arg scopes around them."""

    def __init__(self, boxes: tf.Tensor | None, dropout: Uniform | None, train_image_pooling: bool) -> None:
        super().__init__(boxes)
        self._dropout, self._train_image_pooling = dropout, train_image_pooling

    def conv(self, net: tf.Tensor, conv: Conv) -> tf.Tensor:
        return convolve(net, conv)

    def depthwise(self, net: tf.Tensor, layer: DepthwiseConv) -> tf.Tensor:
        return slim.separable_conv2d(net, None, layer.kernel, depth_multiplier=1, rate=layer.rate, scope=layer.scope)

    def project_mean(self, net: tf.Tensor, conv: Conv, window: tuple[int, int] | None, stride: int) -> tf.Tensor:
        with slim.arg_scope([slim.batch_norm], is_training=self._train_image_pooling):
            return self.conv(self.image_mean(net, window, stride), conv)

    def dropout(self, net: tf.Tensor) -> tf.Tensor:
        return net if self._dropout is None else tf.nn.experimental.general_dropout(net, 1 - KEEP, self._dropout)


class _FoldedOps(_TensorOps):
    """Folded constants; means and resizing in float32."""

    def __init__(self, layers: Layers, boxes: tf.Tensor | None) -> None:
        super().__init__(boxes)
        self._layers = layers
        self.conv = layers.conv

    def depthwise(self, net: tf.Tensor, layer: DepthwiseConv) -> tf.Tensor:
        layers = self._layers
        scale, shift = layers.scale_and_shift(layer.norm)
        kernel = layers.constant(np.float64(layers.weights[f"{layer.scope}/depthwise_weights"]) * scale[:, None])
        rate, same = layer.rate, {"strides": [1, 1, 1, 1], "padding": "SAME", "name": layer.scope}
        if rate > 1 and not (layers.onednn and takes_rates(layers.dtype)):
            net = tf.nn.depthwise_conv2d(net, kernel, dilations=[rate, rate], **same)
        else:
            net = tf.raw_ops.DepthwiseConv2dNative(input=net, filter=kernel, dilations=[1, rate, rate, 1], **same)
        return tf.nn.relu(tf.nn.bias_add(net, layers.constant(shift), name=f"{layer.scope}/bias"))

    def project_mean(self, net: tf.Tensor, conv: Conv, window: tuple[int, int] | None, stride: int) -> tf.Tensor:
        mean = self.image_mean(tf.cast(net, tf.float32), window, stride)
        return self.conv(tf.cast(mean, self._layers.dtype), conv)

    def resize(self, net: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        return tf.cast(super().resize(tf.cast(net, tf.float32), like), self._layers.dtype)
