"""The inference builder: a plan and its weights as one graph of folded constants, as fast as the CPU allows.

What TensorFlow's oneDNN rewriter can fuse has the patterns that it looks for: convolution + bias, + ReLU, + residual sum
(+ ReLU). A v2 unit begins with a batch norm and a ReLU that nothing precedes to fold into; oneDNN runs the two as one pass over
the map. (To bound each channel by ``-shift / scale`` instead, with the scale folded into the 1x1 convolutions behind, computes
less, and in TensorFlow's own ops takes longer in bfloat16.)
(``tests/dense_resnet/inference/test_folding.py`` holds features against the slim builder's, and looks at what oneDNN executes.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.builders import walk
from dense_resnet.inference.canvas_ops import ImageEnds, apply_mask
from dense_resnet.inference.folded_weights import FoldedWeights, Weights
from dense_resnet.inference.onednn import placeholder_kernel
from dense_resnet.planning import geometry
from dense_resnet.planning.layers import Conv, Norm, Pool
from dense_resnet.planning.plan import Plan

BELOW_ALL = -1e9  # activations; where a runtime scales it before it is masked, it stays finite, as the least float would not

v1 = tf.compat.v1


class Layers(FoldedWeights):
    """A network's layers as ops on folded constants: the :class:`dense_resnet.builders.walk.Ops` of the inference graph.

    Args:
        external_kernels: whether convolutions' kernels stay in ``kernels``, by the names of their placeholders in the graph.
        onednn: whether ops may be such as TensorFlow runs with oneDNN alone, where this process has it.
    """

    def __init__(self, weights: Weights, precision: str, *, external_kernels: bool = False, onednn: bool = True) -> None:
        super().__init__(weights)
        self.dtype, self.onednn = tf.as_dtype(precision), onednn
        self.kernels: dict[str, np.ndarray] = {}
        self._external_kernels = external_kernels

    def constant(self, value: np.ndarray) -> tf.Tensor:
        return tf.constant(value.astype(self.dtype.as_numpy_dtype))

    def kernel(self, value: np.ndarray) -> tf.Tensor:
        """Return a convolution's kernel: a constant, or its placeholder."""
        if not self._external_kernels:
            return self.constant(value)
        tensor = placeholder_kernel(self.dtype, value.shape)
        self.kernels[tensor.op.name] = value.astype(self.dtype.as_numpy_dtype)
        return tensor

    def conv(self, net: tf.Tensor, conv: Conv) -> tf.Tensor:
        kernel, bias = self.fold_batch_norm(conv)
        stride = conv.stride
        if conv.kernel == 1:  # a slice, and a matrix product of what is left of it
            net, stride = self.subsample(net, stride), 1
        padding: Any = "SAME"  # at stride 1 symmetric; the rewriter knows that it keeps the size, as a residual sum must
        if stride > 1:
            pads = geometry.symmetric_padding(conv.kernel)
            padding = [[0, 0], pads, pads, [0, 0]]
        net = tf.nn.conv2d(net, self.kernel(kernel), stride, padding, dilations=conv.rate, name=conv.scope)
        net = tf.nn.bias_add(net, self.constant(bias), name=f"{conv.scope}/bias")
        return tf.nn.relu(net) if conv.relu else net

    def norm_relu(self, net: tf.Tensor, norm: Norm) -> tf.Tensor:
        scale, shift = (value.astype(np.float32) for value in self.scale_and_shift(norm))
        neutral = np.zeros_like(scale), np.ones_like(scale)
        net, *_ = v1.nn.fused_batch_norm(net, scale, shift, *neutral, epsilon=0.0, is_training=False, name=norm.scope)
        return tf.nn.relu(net)

    def pool(self, net: tf.Tensor, pool: Pool) -> tf.Tensor:
        if pool.padding == geometry.SAME:
            return tf.nn.max_pool2d(net, pool.kernel, pool.stride, "SAME")
        pads = [[0, 0], *[geometry.symmetric_padding(pool.kernel)] * 2, [0, 0]]
        net = tf.pad(net, pads, constant_values=tf.cast(0 if pool.zeros else net.dtype.min, net.dtype))
        return tf.nn.max_pool2d(net, pool.kernel, pool.stride, "VALID")

    def subsample(self, net: tf.Tensor, factor: int, scope: str = "") -> tf.Tensor:
        return net if factor == 1 else net[:, ::factor, ::factor]

    def add(self, shortcut: tf.Tensor, branch: tf.Tensor, scope: str) -> tf.Tensor:
        return branch + shortcut

    def relu(self, net: tf.Tensor, scope: str) -> tf.Tensor:
        return tf.nn.relu(net)

    def mean(self, net: tf.Tensor, scope: str) -> tf.Tensor:
        return tf.cast(tf.reduce_mean(tf.cast(net, tf.float32), [1, 2], keepdims=True), self.dtype)

    def mask(self, ends: ImageEnds) -> walk.Mask:
        """Return what fills activations beyond where each image's map ends."""

        def fill(net: tf.Tensor, stride: int, lowest: bool) -> tf.Tensor:
            inside = ends.inside(net, stride)
            if lowest:
                return tf.where(tf.cast(inside, tf.bool), net, tf.constant(BELOW_ALL, net.dtype))
            found = apply_mask(net, inside)
            # The rewriter knows no sizes behind a broadcast, and would leave sums alone.
            return tf.reshape(found, tf.shape(net)) if self._external_kernels else found

        return fill


def network(
    layers: Layers,
    plan: Plan,
    images: tf.Tensor,
    *,
    pyramid: bool = False,
    skip: str | None = None,
    ends: ImageEnds | None = None,
) -> walk.Activations:
    """Build the ops of a whole network, as :func:`walk.run`; maps end at `ends`, beyond which `images` are 0."""
    mask = layers.mask(ends) if ends else None
    found = walk.run(plan, layers, tf.cast(images, layers.dtype), pyramid=pyramid, skip=skip, mask=mask)
    if plan.logits:
        found.logits = found.logits[:, 0, 0]
    return found
