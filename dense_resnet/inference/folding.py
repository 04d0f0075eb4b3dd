"""The inference builder: a plan and its weights as one graph of folded constants, as fast as the processor allows.

What training needs and inference does not is gone. A batch norm behind a convolution is in its kernel and bias; padding is
the convolution's own, dilation its attribute. What TensorFlow's oneDNN rewriter can fuse stands in the shapes that it looks
for: convolution + bias, + ReLU, + residual sum (+ ReLU).

A v2 unit begins with a batch norm and a ReLU that nothing precedes to fold into. oneDNN runs the two as one pass over the
map. (To bound each channel by ``-shift / scale`` instead, with the scale folded into the 1x1 convolutions behind, computes
less, and in TensorFlow's own ops takes longer in bfloat16.)

Kernels never change, and oneDNN is told so: it keeps its packed copy. :mod:`dense_resnet.inference.compiled` makes the graph
that runs.
(``tests/dense_resnet/inference/test_folding.py`` holds features against the slim builder's, and looks at what oneDNN executes.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.inference.canvas_ops import ImageEnds, apply_mask
from dense_resnet.inference.onednn import placeholder_kernel
from dense_resnet.planning import geometry
from dense_resnet.planning.layers import BATCH_NORM_EPSILON, Conv, Norm, Pool, Unit
from dense_resnet.planning.plan import Plan

BELOW_ALL = -1e9  # activations; where a runtime scales it before it is masked, it stays finite, as the least float would not

v1 = tf.compat.v1
Weights = Mapping[str, np.ndarray]


class Layers:
    """The layers of a network, as ops on folded constants.

    Args:
        weights: under canonical names.
        precision: "float32" or "bfloat16": of the constants and the activations.
        apart: whether the kernels of convolutions stay in ``kernels``, by the names of their stand-ins in the graph.
        onednn: whether ops may be such as TensorFlow runs with oneDNN alone, where this process has it.
    """

    def __init__(self, weights: Weights, precision: str, *, apart: bool = False, onednn: bool = True) -> None:
        self.weights, self.dtype, self.onednn = weights, tf.as_dtype(precision), onednn
        self.kernels: dict[str, np.ndarray] = {}
        self._external_kernels = apart

    def scale_and_shift(self, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
        """A batch norm's scale and shift, float64."""
        gamma, beta, mean, variance = (
            np.float64(self.weights[f"{norm.scope}/{leaf}"]) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return scale, beta - mean * scale

    def fold_batch_norm(self, conv: Conv) -> tuple[np.ndarray, np.ndarray]:
        """A convolution's kernel and bias, its batch norm in them, float64."""
        kernel = np.float64(self.weights[f"{conv.scope}/weights"])
        if conv.norm is None:
            return kernel, np.float64(self.weights[f"{conv.scope}/biases"])
        scale, shift = self.scale_and_shift(conv.norm)
        return kernel * scale, shift

    def constant(self, value: np.ndarray) -> tf.Tensor:
        return tf.constant(value.astype(self.dtype.as_numpy_dtype))

    def kernel(self, value: np.ndarray) -> tf.Tensor:
        """A convolution's kernel: a constant, or its stand-in."""
        if not self._external_kernels:
            return self.constant(value)
        tensor = placeholder_kernel(self.dtype, value.shape)
        self.kernels[tensor.op.name] = value.astype(self.dtype.as_numpy_dtype)
        return tensor

    def convolve(self, net: tf.Tensor, conv: Conv) -> tf.Tensor:
        """A convolution with its batch norm or bias, without its ReLU."""
        kernel, bias = self.fold_batch_norm(conv)
        stride = conv.stride
        if conv.kernel == 1:  # a slice, and a matrix product of what is left of it
            net, stride = subsample(net, stride), 1
        padding: Any = "SAME"  # at stride 1 symmetric; the rewriter knows that it keeps the size, as a residual sum must
        if stride > 1:
            pads = geometry.symmetric_padding(conv.kernel)
            padding = [[0, 0], pads, pads, [0, 0]]
        net = tf.nn.conv2d(net, self.kernel(kernel), stride, padding, dilations=conv.rate, name=conv.scope)
        return tf.nn.bias_add(net, self.constant(bias))

    def convolve_and_activate(self, net: tf.Tensor, conv: Conv) -> tf.Tensor:
        """A convolution with everything that is its own."""
        net = self.convolve(net, conv)
        return tf.nn.relu(net) if conv.relu else net

    def pool(self, net: tf.Tensor, layer: Pool) -> tf.Tensor:
        """The root block's max pooling."""
        if layer.padding == geometry.SAME:
            return tf.nn.max_pool2d(net, layer.kernel, layer.stride, "SAME")
        pads = [[0, 0], *[geometry.symmetric_padding(layer.kernel)] * 2, [0, 0]]
        net = tf.pad(net, pads, constant_values=tf.cast(0 if layer.zeros else net.dtype.min, net.dtype))
        return tf.nn.max_pool2d(net, layer.kernel, layer.stride, "VALID")

    def apply_mask(self, net: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        """`net` with zeros where it is not `inside`."""
        found = apply_mask(net, inside)
        if not self._external_kernels:
            return found
        return tf.reshape(found, tf.shape(net))  # the rewriter knows no sizes behind a broadcast, and would leave sums alone

    def fill_outside(self, net: tf.Tensor, inside: tf.Tensor, layer: Conv | Pool) -> tf.Tensor:
        """`net` with what `layer` is padded with where it is not `inside`."""
        if isinstance(layer, Conv) or layer.zeros:
            return self.apply_mask(net, inside)
        return tf.where(tf.cast(inside, tf.bool), net, tf.constant(BELOW_ALL, net.dtype))

    def normalize(self, net: tf.Tensor, norm: Norm) -> tf.Tensor:
        """Batch norm and ReLU that stand before a convolution."""
        scale, shift = (value.astype(np.float32) for value in self.scale_and_shift(norm))
        neutral = np.zeros_like(scale), np.ones_like(scale)
        net, *_ = tf.compat.v1.nn.fused_batch_norm(net, scale, shift, *neutral, epsilon=0.0, is_training=False)
        return tf.nn.relu(net)

    def unit(self, net: tf.Tensor, unit: Unit, ends: ImageEnds | None) -> tuple[tf.Tensor, tf.Tensor]:
        """A residual unit: its output, and that of its last convolution."""
        inputs, branch = net, self.normalize(net, unit.preact) if unit.preact else net
        shortcut = self.convolve(branch, unit.shortcut) if unit.shortcut else subsample(inputs, unit.stride)
        stride = unit.input_stride
        for conv in unit.convolutions:
            if ends and conv.kernel > 1:
                branch = self.apply_mask(branch, ends.inside(branch, stride))
            branch = self.convolve_and_activate(branch, conv)
            stride *= conv.stride
        summed = branch + shortcut
        return summed if unit.preact else tf.nn.relu(summed), branch


@dataclass
class Activations:
    """What a network computes, as far as it was asked for."""

    features: tf.Tensor
    pyramid: dict[int, tf.Tensor]  # {stride: the last activation at it}
    skip: tf.Tensor | None  # a convolution's output before the residual sum
    logits: tf.Tensor | None  # [batch, classes]: of the mean over the image, where the plan has a classifier


def network(
    layers: Layers,
    plan: Plan,
    images: tf.Tensor,
    *,
    pyramid: bool = False,
    skip: str | None = None,
    ends: ImageEnds | None = None,
) -> Activations:
    """The ops of a whole network.

    Args:
        images: ``[batch, height, width, channels]``, preprocessed.
        pyramid: whether each stride's last activation is wanted, which costs a block's last unit four times as much.
        skip: scope of the last convolution of a unit, whose output is wanted.
        ends: where each image's map is to end; None is where the canvas does. `images` are 0 beyond.
    """
    found = Activations(tf.cast(images, layers.dtype), {}, None, None)
    deferred = plan.deferred_strides if pyramid else {}
    net, stride = found.features, 1
    for layer in plan.root:
        if ends and stride > 1:
            net = layers.fill_outside(net, ends.inside(net, stride), layer)
        net = layers.pool(net, layer) if isinstance(layer, Pool) else layers.convolve_and_activate(net, layer)
        stride *= layer.stride
        if ends and isinstance(layer, Pool):
            net = layers.apply_mask(net, ends.inside(net, stride))  # a window wholly beyond the image holds BELOW_ALL
    for unit in plan.units:
        factor = deferred.get(unit.scope, 1)
        net, branch = layers.unit(net, unit.at_stride_1 if factor > 1 else unit, ends)
        if unit.convolutions[-1].scope == skip:
            found.skip = branch
        found.pyramid[unit.input_stride * unit.stride // factor] = net
        net = subsample(net, factor)
    if plan.postnorm:
        net = layers.normalize(net, plan.postnorm)
    found.features = found.pyramid[plan.output_stride] = net
    if pyramid:
        found.pyramid = {stride: found.pyramid[stride] for stride in plan.pyramid}
    if plan.logits:
        mean = tf.reduce_mean(tf.cast(net, tf.float32), [1, 2], keepdims=True)
        found.logits = layers.convolve_and_activate(tf.cast(mean, layers.dtype), plan.logits)[:, 0, 0]
    return found


def subsample(net: tf.Tensor, factor: int) -> tf.Tensor:
    """Every `factor`-th row and column."""
    return net if factor == 1 else net[:, ::factor, ::factor]
