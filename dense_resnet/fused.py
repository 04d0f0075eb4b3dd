"""The inference builder: a plan and its weights as one graph of folded constants, as fast as the processor allows.

What training needs and inference does not is gone. A batch norm behind a convolution is in its kernel and bias; padding is
the convolution's own, dilation its attribute. What TensorFlow's oneDNN rewriter can fuse stands in the shapes that it looks
for: convolution + bias, + ReLU, + residual sum (+ ReLU).

A v2 unit begins with a batch norm and a ReLU that nothing precedes to fold into. oneDNN runs the two as one pass over the
map. (To bound each channel by ``-shift / scale`` instead, with the scale folded into the 1x1 convolutions behind, computes
less, and in TensorFlow's own ops takes longer in bfloat16.)

Kernels never change, and oneDNN is told so: it keeps its packed copy. :func:`frozen` makes the graph that runs, with one
copy of the kernels beside it, or the plain one for files and other machines, with kernels as constants.
(``tests/test_fused.py`` holds features against the slim builder's, and looks at what oneDNN executes.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet import geometry
from dense_resnet.canvas import ImageEnds, masked
from dense_resnet.compat import CPU, Assignment, fused_graph, stand_in
from dense_resnet.errors import InputError
from dense_resnet.plan import BATCH_NORM_EPSILON, Conv, Norm, Plan, Pool, Unit
from dense_resnet.precision import AUTO, BFLOAT16, FLOAT32, chosen_precision  # noqa: F401 - some for those who look here
from dense_resnet.preprocessing import Look

NOT_NEEDED = (  # of TensorFlow's rewritings of graphs
    "arithmetic_optimization", "auto_mixed_precision", "common_subgraph_elimination", "constant_folding", "debug_stripper",
    "dependency_optimization", "function_optimization", "implementation_selector", "layout_optimizer", "loop_optimization",
    "pin_to_host_optimization", "scoped_allocator_optimization", "shape_optimization",
)  # fmt: skip

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
        self._apart = apart

    def affine(self, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
        """A batch norm's scale and shift, float64."""
        gamma, beta, mean, variance = (
            np.float64(self.weights[f"{norm.scope}/{leaf}"]) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return scale, beta - mean * scale

    def folded(self, conv: Conv) -> tuple[np.ndarray, np.ndarray]:
        """A convolution's kernel and bias, its batch norm in them, float64."""
        kernel = np.float64(self.weights[f"{conv.scope}/weights"])
        if conv.norm is None:
            return kernel, np.float64(self.weights[f"{conv.scope}/biases"])
        scale, shift = self.affine(conv.norm)
        return kernel * scale, shift

    def constant(self, value: np.ndarray) -> tf.Tensor:
        return tf.constant(value.astype(self.dtype.as_numpy_dtype))

    def kernel(self, value: np.ndarray) -> tf.Tensor:
        """A convolution's kernel: a constant, or its stand-in."""
        if not self._apart:
            return self.constant(value)
        tensor = stand_in(self.dtype, value.shape)
        self.kernels[tensor.op.name] = value.astype(self.dtype.as_numpy_dtype)
        return tensor

    def convolve(self, net: tf.Tensor, conv: Conv) -> tf.Tensor:
        """A convolution with its batch norm or bias, without its ReLU."""
        kernel, bias = self.folded(conv)
        stride = conv.stride
        if conv.kernel == 1:  # a slice, and a matrix product of what is left of it
            net, stride = subsampled(net, stride), 1
        padding: Any = "SAME"  # at stride 1 symmetric; the rewriter knows that it keeps the size, as a residual sum must
        if stride > 1:
            pads = geometry.symmetric_padding(conv.kernel)
            padding = [[0, 0], pads, pads, [0, 0]]
        net = tf.nn.conv2d(net, self.kernel(kernel), stride, padding, dilations=conv.rate, name=conv.scope)
        return tf.nn.bias_add(net, self.constant(bias))

    def activated(self, net: tf.Tensor, conv: Conv) -> tf.Tensor:
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

    def masked(self, net: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        """`net` with zeros where it is not `inside`."""
        found = masked(net, inside)
        if not self._apart:
            return found
        return tf.reshape(found, tf.shape(net))  # the rewriter knows no sizes behind a broadcast, and would leave sums alone

    def ended(self, net: tf.Tensor, inside: tf.Tensor, layer: Conv | Pool) -> tf.Tensor:
        """`net` with what `layer` is padded with where it is not `inside`."""
        if isinstance(layer, Conv) or layer.zeros:
            return self.masked(net, inside)
        return tf.where(tf.cast(inside, tf.bool), net, tf.constant(BELOW_ALL, net.dtype))

    def normalized(self, net: tf.Tensor, norm: Norm) -> tf.Tensor:
        """Batch norm and ReLU that stand before a convolution."""
        scale, shift = (value.astype(np.float32) for value in self.affine(norm))
        neutral = np.zeros_like(scale), np.ones_like(scale)
        net, *_ = tf.compat.v1.nn.fused_batch_norm(net, scale, shift, *neutral, epsilon=0.0, is_training=False)
        return tf.nn.relu(net)

    def unit(self, net: tf.Tensor, unit: Unit, ends: ImageEnds | None) -> tuple[tf.Tensor, tf.Tensor]:
        """A residual unit: its output, and that of its last convolution."""
        inputs, branch = net, self.normalized(net, unit.preact) if unit.preact else net
        shortcut = self.convolve(branch, unit.shortcut) if unit.shortcut else subsampled(inputs, unit.stride)
        stride = unit.input_stride
        for conv in unit.convolutions:
            if ends and conv.kernel > 1:
                branch = self.masked(branch, ends.inside(branch, stride))
            branch = self.activated(branch, conv)
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
    deferred = plan.deferred if pyramid else {}
    net, stride = found.features, 1
    for layer in plan.root:
        if ends and stride > 1:
            net = layers.ended(net, ends.inside(net, stride), layer)
        net = layers.pool(net, layer) if isinstance(layer, Pool) else layers.activated(net, layer)
        stride *= layer.stride
        if ends and isinstance(layer, Pool):
            net = layers.masked(net, ends.inside(net, stride))  # a window wholly beyond the image holds BELOW_ALL
    for unit in plan.units:
        factor = deferred.get(unit.scope, 1)
        net, branch = layers.unit(net, unit.undivided if factor > 1 else unit, ends)
        if unit.convolutions[-1].scope == skip:
            found.skip = branch
        found.pyramid[unit.input_stride * unit.stride // factor] = net
        net = subsampled(net, factor)
    if plan.postnorm:
        net = layers.normalized(net, plan.postnorm)
    found.features = found.pyramid[plan.output_stride] = net
    if pyramid:
        found.pyramid = {stride: found.pyramid[stride] for stride in plan.pyramid}
    if plan.logits:
        mean = tf.reduce_mean(tf.cast(net, tf.float32), [1, 2], keepdims=True)
        found.logits = layers.activated(tf.cast(mean, layers.dtype), plan.logits)[:, 0, 0]
    return found


def subsampled(net: tf.Tensor, factor: int) -> tf.Tensor:
    """Every `factor`-th row and column."""
    return net if factor == 1 else net[:, ::factor, ::factor]


class Compiled:
    """A network frozen for inference, for any image size and batch. Calls from several threads may run at once.

    Args:
        build: makes the ops of what is to be computed, from the layers and images.
        weights: under canonical names; not kept.
        in_channels: of the images.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the processor multiplies such numbers.
        preprocessing: the scheme of dense_resnet.preprocess that images are expected to have gone through.

    Raises:
        InputError: there is no such precision.
    """

    def __init__(
        self,
        build: Callable[[Layers, tf.Tensor], Any],
        weights: Weights,
        in_channels: int,
        precision: str,
        preprocessing: str,
    ) -> None:
        self.precision = chosen_precision(precision)
        self._in_channels, self._look = in_channels, Look(preprocessing)

        def named(layers: Layers) -> list[str]:
            images = v1.placeholder(tf.float32, [None, None, None, in_channels], name="images")
            self._structure = build(layers, images)
            flat = tf.nest.flatten(self._structure)
            return [tf.identity(tf.cast(output, tf.float32), f"output_{i}").op.name for i, output in enumerate(flat)]

        _, session, names = frozen(named, weights, self.precision)
        self._run = session.make_callable([f"{name}:0" for name in names], ["images:0"])

    def __call__(self, images: Any) -> Any:
        """What the network computes: a float32 array, or a dictionary of them.

        Args:
            images: ``[batch, height, width, channels]``, preprocessed. Nothing is padded or resized.
        """
        if tf.is_symbolic_tensor(images):  # no InputError, which tf.function would not hand on as it is
            raise ValueError(
                "what compile gives takes arrays, no symbolic tensors: inside tf.function call the backbone itself."
            )
        expected = f"[batch, height, width, {self._in_channels}]"
        try:
            images = np.asarray(images, np.float32)
        except (TypeError, ValueError):
            raise InputError(f"images must be numbers of shape {expected} (not {images!r:.80}).") from None
        if images.ndim != 4 or images.shape[3] != self._in_channels:
            raise InputError(f"images must have shape {expected} (not {list(images.shape)}).")
        self._look(images, stacklevel=3)
        return tf.nest.pack_sequence_as(self._structure, self._run(images))


def frozen(
    build: Callable[[Layers], Sequence[str]],
    weights: Weights,
    precision: str,
    *,
    plain: bool = False,
    onednn: bool = False,
) -> tuple[tf.Graph, Any, Sequence[str]]:
    """A graph, a session of TensorFlow 1's kind on it, and the names of its outputs.

    Such a session can be told to rewrite a graph only as this one needs: with weights as constants every further pass copies
    them, and the first call of a ``tf.function`` takes several times as long.

    Args:
        build: makes the ops, from the layers; gives the names of the outputs.
        weights: under canonical names; not kept.
        precision: "float32" or "bfloat16".
        plain: whether the graph must be one that any TensorFlow can read and run, with kernels as constants: it takes seven
            times the memory of its weights, and longer, to start.
        onednn: whether a plain graph may have ops that TensorFlow runs with oneDNN alone.
    """
    apart = not plain and keeps_kernels_apart()
    layers = Layers(weights, precision, apart=apart, onednn=onednn or not plain)
    with tf.Graph().as_default() as graph, tf.device(CPU if apart else None):
        outputs = build(layers)
    if not apart:
        return graph, session(graph), outputs
    config = session_options()
    try:
        graph, assignments = fused_graph(graph, layers.kernels, outputs, config)
    except (RuntimeError, ValueError):  # such as a batch norm of 3 channels, where there is no root block
        return frozen(build, weights, precision, plain=True, onednn=True)
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # it has been done
    running = v1.Session(graph=graph, config=config)
    _assign(running, assignments, layers.kernels)
    return graph, running, outputs


def _assign(running: Any, assignments: Sequence[Assignment], kernels: dict[str, np.ndarray]) -> None:
    """Gives the variables of :func:`dense_resnet.compat.fused_graph` their kernels, each of which is then let go."""
    for name, assign, value in assignments:
        running.run(assign, {value: kernels.pop(name)})


def session(graph: tf.Graph) -> Any:
    """A session on a plain graph."""
    return v1.Session(graph=graph, config=session_options())


def session_options() -> Any:
    """Of TensorFlow's rewritings the one that fuses, and none that copies constants; the graph never grows."""
    options = v1.ConfigProto()
    options.graph_options.optimizer_options.opt_level = v1.OptimizerOptions.L0
    options.experimental.optimize_for_static_graph = True
    rewriting = options.graph_options.rewrite_options
    for name in NOT_NEEDED:
        setattr(rewriting, name, type(rewriting).OFF)
    rewriting.remapping = type(rewriting).ON
    rewriting.memory_optimization = type(rewriting).NO_MEM_OPT
    rewriting.meta_optimizer_iterations = type(rewriting).ONE
    return options


@functools.cache
def keeps_kernels_apart() -> bool:
    """Whether :func:`dense_resnet.compat.fused_graph` works here: on two convolutions and a sum, which must all be fused."""
    values, ones = np.full((1, 1, 1, 1), 3, np.float32), np.ones((1, 2, 2, 1), np.float32)
    try:
        with tf.Graph().as_default() as graph, tf.device(CPU):
            kernels = [stand_in(tf.float32, values.shape) for _ in range(2)]
            first, second = (lambda net, kernel=kernel: tf.nn.conv2d(net, kernel, 1, "SAME") for kernel in kernels)
            net = tf.nn.bias_add(first(v1.placeholder(tf.float32, ones.shape, name="images")), [1.0])
            tf.identity(tf.nn.bias_add(second(net), [1.0]) + net, name="sum")
        named = {kernel.op.name: values for kernel in kernels}
        graph, assignments = fused_graph(graph, named, ["sum"], session_options())
        with v1.Session(graph=graph) as running:
            _assign(running, assignments, named)
            right = np.all(running.run("sum:0", {"images:0": ones}) == (3 * 1 + 1) * 3 + 1 + (3 * 1 + 1))
        return bool(right) and not any(operation.type == "AddV2" for operation in graph.get_operations())
    except (ImportError, AttributeError, RuntimeError, TypeError, ValueError, tf.errors.OpError):
        return False
