"""Freeze a folded network into a graph, and run it in a session.

The graph that runs here keeps its kernels outside, in one copy (:mod:`dense_resnet.inference.onednn`); the portable one, for
files, has them as constants. (``tests/dense_resnet/inference/test_folding.py``)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.errors import InputError
from dense_resnet.inference.folded_weights import Weights
from dense_resnet.inference.folding import Layers
from dense_resnet.inference.onednn import CPU, Assignment, fuse_graph, placeholder_kernel
from dense_resnet.preprocessing import InputRangeCheck

v1 = tf.compat.v1
NOT_NEEDED = (  # of TensorFlow's rewritings of graphs
    "arithmetic_optimization", "auto_mixed_precision", "common_subgraph_elimination", "constant_folding", "debug_stripper",
    "dependency_optimization", "function_optimization", "implementation_selector", "layout_optimizer", "loop_optimization",
    "pin_to_host_optimization", "scoped_allocator_optimization", "shape_optimization",
)  # fmt: skip


class CompiledFunction:
    """A network compiled for inference, for any image size and batch. Calls from several threads may run at once.

    Args:
        run: the network, from float32 ``[batch, height, width, channels]``.
        engine, precision: what computes it, and in which numbers.
        preprocessing: the scheme that images are expected to have gone through.
    """

    def __init__(
        self, run: Callable[[np.ndarray], Any], engine: str, precision: str, in_channels: int, preprocessing: str
    ) -> None:
        self.engine, self.precision = engine, precision
        self._run, self._in_channels, self._look = run, in_channels, InputRangeCheck(preprocessing)

    def __call__(self, images: Any) -> Any:
        """Run the network and return a float32 array, or a dictionary of them.

        Args:
            images: ``[batch, height, width, channels]``, preprocessed. Nothing is padded or resized.
        """
        if tf.is_symbolic_tensor(images):  # no InputError, which tf.function would not hand on as it is
            raise ValueError(
                "the compiled function takes arrays, not symbolic tensors: inside tf.function call the backbone itself."
            )
        expected = f"[batch, height, width, {self._in_channels}]"
        try:
            images = np.asarray(images, np.float32)
        except (TypeError, ValueError):
            raise InputError(f"images must be numbers of shape {expected} (not {images!r:.80}).") from None
        if images.ndim != 4 or images.shape[3] != self._in_channels:
            raise InputError(f"images must have shape {expected} (not {list(images.shape)}).")
        self._look(images, stacklevel=3)
        return self._run(images)


def freeze_function(
    build: Callable[[Layers, tf.Tensor], Any], weights: Weights, in_channels: int, precision: str
) -> Callable[[np.ndarray], Any]:
    """Return a network as a function that runs a frozen graph; `build` makes its ops from the layers and the images."""
    structure: Any = None

    def build_outputs(layers: Layers) -> list[str]:
        nonlocal structure
        images = v1.placeholder(tf.float32, [None, None, None, in_channels], name="images")
        structure = build(layers, images)
        flat = tf.nest.flatten(structure)
        return [tf.identity(tf.cast(output, tf.float32), f"output_{i}").op.name for i, output in enumerate(flat)]

    _, session, names = freeze(build_outputs, weights, precision)
    run = session.make_callable([f"{name}:0" for name in names], ["images:0"])
    return lambda images: tf.nest.pack_sequence_as(structure, run(images))


def freeze(
    build: Callable[[Layers], Sequence[str]], weights: Weights, precision: str, *, portable: bool = False, onednn: bool = False
) -> tuple[tf.Graph, Any, Sequence[str]]:
    """Return a graph, a session of TensorFlow 1's kind on it, and the names of its outputs.

    Such a session can be set to rewrite a graph only as this one needs: with weights as constants every further pass copies
    them, and the first call of a ``tf.function`` takes several times as long.

    Args:
        build: makes the ops from the layers, and returns the names of the outputs.
        portable: whether any TensorFlow must be able to run the graph: with kernels as constants, it takes longer to start.
        onednn: whether a portable graph may have ops that TensorFlow runs with oneDNN alone.
    """
    external_kernels = not portable and keeps_kernels_apart()
    layers = Layers(weights, precision, external_kernels=external_kernels, onednn=onednn or not portable)
    with tf.Graph().as_default() as graph, tf.device(CPU if external_kernels else None):
        outputs = build(layers)
    if not external_kernels:
        return graph, session(graph), outputs
    config = session_options()
    try:
        graph, assignments = fuse_graph(graph, layers.kernels, outputs, config)
    except (RuntimeError, ValueError) as error:  # such as a batch norm of 3 channels, without a root block
        _log_fallback(str(error))
        return freeze(build, weights, precision, portable=True, onednn=True)
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # it has been done
    running = v1.Session(graph=graph, config=config)
    _assign(running, assignments, layers.kernels)
    return graph, running, outputs


def _assign(running: Any, assignments: Sequence[Assignment], kernels: dict[str, np.ndarray]) -> None:
    """Assign the kernels to the variables of :func:`onednn.fuse_graph`, and release each one."""
    for name, assign, value in assignments:
        running.run(assign, {value: kernels.pop(name)})


def session(graph: tf.Graph) -> Any:
    """Open a session on a portable graph."""
    return v1.Session(graph=graph, config=session_options())


def session_options() -> Any:
    """Return options with the one TensorFlow rewriter that fuses, and none that copies constants; the graph never grows."""
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
    """Return whether :func:`onednn.fuse_graph` works here: on two convolutions and a sum, which must all be fused."""
    values, ones = np.full((1, 1, 1, 1), 3, np.float32), np.ones((1, 2, 2, 1), np.float32)
    try:
        with tf.Graph().as_default() as graph, tf.device(CPU):
            kernels = [placeholder_kernel(tf.float32, values.shape) for _ in range(2)]
            images = v1.placeholder(tf.float32, ones.shape, name="images")
            net = tf.nn.bias_add(tf.nn.conv2d(images, kernels[0], 1, "SAME"), [1.0])
            tf.identity(tf.nn.bias_add(tf.nn.conv2d(net, kernels[1], 1, "SAME"), [1.0]) + net, name="sum")
        arrays = {kernel.op.name: values for kernel in kernels}
        graph, assignments = fuse_graph(graph, arrays, ["sum"], session_options())
        with v1.Session(graph=graph) as running:
            _assign(running, assignments, arrays)
            right = np.all(running.run("sum:0", {"images:0": ones}) == (3 * 1 + 1) * 3 + 1 + (3 * 1 + 1))
        return bool(right) and not any(operation.type == "AddV2" for operation in graph.get_operations())
    except (ImportError, AttributeError, RuntimeError, TypeError, ValueError, tf.errors.OpError) as error:
        _log_fallback(str(error))
        return False


@functools.cache
def _log_fallback(reason: str) -> None:
    """Log once for each reason why kernels stay in the graph; at a level that is not shown by default."""
    logging.getLogger("dense_resnet").info("kernels are constants of the graph, which takes more memory to start: %s", reason)


@functools.cache
def takes_rates(dtype: tf.DType) -> bool:
    """Return whether a depthwise convolution with a rate is one op here, as oneDNN's is; TensorFlow's own needs several."""
    values = np.ones((1, 3, 3, 1))
    with tf.Graph().as_default() as graph, session(graph) as running:
        net = tf.raw_ops.DepthwiseConv2dNative(
            input=v1.placeholder(dtype, values.shape, name="images"),
            filter=tf.ones((3, 3, 1, 1), dtype), strides=[1, 1, 1, 1], padding="SAME", dilations=[1, 2, 2, 1],
        )  # fmt: skip
        try:
            return float(running.run(net, {"images:0": values})[0, 0, 0, 0]) == 4
        except tf.errors.UnimplementedError:
            return False
