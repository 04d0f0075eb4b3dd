"""Heads for inference, on folded constants: :mod:`segmentation.heads.plan` says which layers. (``test_folding.py``)"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from dense_resnet.inference.canvas_ops import apply_mask, coverage_mask
from dense_resnet.inference.compiled import session
from dense_resnet.inference.folding import Activations, Layers
from segmentation.heads.build import image_mean, resize_align_corners
from segmentation.heads.plan import SKIP_STRIDE, DepthwiseConv, HeadPlan, Layer


def head_cells(layers: Layers, head: HeadPlan, found: Activations, boxes: tf.Tensor | None) -> tf.Tensor:
    """The head's ops.

    Args:
        layers: with the head's weights.
        found: the backbone's features, and its skip where the head has one.
        boxes: where the images lie on their canvases: see :func:`canvas_ops.coverage_mask`; None takes the whole canvas.

    Returns:
        Logits ``[batch, rows, columns, num_classes]``, of the features' size, or of the skip's under the decoder.
    """
    net = found.features
    if head.projection and head.image_projection:
        size = tf.shape(net)[1:3]
        inside = coverage_mask(boxes, size, head.output_stride)
        net = apply_mask(net, inside)
        mean = image_mean(head, tf.cast(net, tf.float32), inside)
        image = layers.convolve_and_activate(tf.cast(mean, layers.dtype), head.image_projection)
        parts = [_resize_align_corners(layers, image, size), *(_stack(layers, net, branch, None) for branch in head.branches)]
        net = layers.convolve_and_activate(tf.concat(parts, axis=3), head.projection)
    if head.skip_projection and found.skip is not None:
        beside = layers.convolve_and_activate(found.skip, head.skip_projection)
        size = tf.shape(beside)[1:3]
        inside = coverage_mask(boxes, size, SKIP_STRIDE)
        net = _stack(layers, tf.concat([_resize_align_corners(layers, net, size), beside], axis=3), head.decoder, inside)
    return layers.convolve_and_activate(net, head.logits)


def _stack(layers: Layers, net: tf.Tensor, stack: tuple[Layer, ...], inside: tf.Tensor | None) -> tf.Tensor:
    for layer in stack:
        net = apply_mask(net, inside) if layer.kernel > 1 else net
        net = _depthwise(layers, net, layer) if isinstance(layer, DepthwiseConv) else layers.convolve_and_activate(net, layer)
    return net


def _depthwise(layers: Layers, net: tf.Tensor, layer: DepthwiseConv) -> tf.Tensor:
    scale, shift = layers.scale_and_shift(layer.norm)
    kernel = np.float64(layers.weights[f"{layer.scope}/depthwise_weights"]) * scale[:, None]
    net = _convolve_depthwise(layers, net, layers.constant(kernel), layer.rate)
    return tf.nn.relu(tf.nn.bias_add(net, layers.constant(shift)))


def _convolve_depthwise(layers: Layers, net: tf.Tensor, kernel: tf.Tensor, rate: int) -> tf.Tensor:
    ones = [1, 1, 1, 1]
    if rate > 1 and not (layers.onednn and takes_rates(layers.dtype)):
        return tf.nn.depthwise_conv2d(net, kernel, ones, "SAME", dilations=[rate, rate])
    return tf.raw_ops.DepthwiseConv2dNative(
        input=net, filter=kernel, strides=ones, padding="SAME", dilations=[1, rate, rate, 1]
    )


@functools.cache
def takes_rates(dtype: tf.DType) -> bool:
    """Whether one op is a depthwise convolution with a rate: oneDNN's is, TensorFlow's own needs several.

    Which of them runs depends on the processor and on what stands in the environment, for each type apart.
    """
    values = np.ones((1, 3, 3, 1))
    with tf.Graph().as_default() as graph, session(graph) as running:
        net = tf.raw_ops.DepthwiseConv2dNative(
            input=tf.compat.v1.placeholder(dtype, values.shape, name="images"),
            filter=tf.ones((3, 3, 1, 1), dtype), strides=[1, 1, 1, 1], padding="SAME", dilations=[1, 2, 2, 1],
        )  # fmt: skip
        try:
            return float(running.run(net, {"images:0": values})[0, 0, 0, 0]) == 4
        except tf.errors.UnimplementedError:
            return False


def _resize_align_corners(layers: Layers, values: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """:func:`segmentation.heads.build.resize_align_corners`, computed in float32."""
    return tf.cast(resize_align_corners(tf.cast(values, tf.float32), size), layers.dtype)
