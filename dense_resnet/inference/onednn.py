"""Keep large kernels out of graphs, whose constants a session copies about seven times while it starts.

:func:`fuse_graph` runs TensorFlow's rewriting by itself, on a graph whose kernels are placeholders of no size, and passes the
true ones to oneDNN's convolutions as variables, marked as never changing, so that oneDNN keeps its packed copy as it does of
constants. Memory while a session starts is 2.8 times the weights instead of 7 times (measured on TensorFlow 2.16 and 2.21).
This is the only file that touches ``tensorflow.python``. (``tests/dense_resnet/inference/test_folding.py``)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

FUSED, ONEDNN = "_FusedConv2D", "_MklNativeFusedConv2D"  # what TensorFlow's rewriting makes, and what runs it
KERNEL_LABEL = b"MklNameChangeOp"  # of oneDNN's kernels
CPU = "/device:CPU:0"  # where placeholders' graphs must be placed, or nothing is fused

Assignment = tuple[str, tf.Tensor, tf.Tensor]  # (a placeholder's name, the op that sets its variable, what that op is fed)


def placeholder_kernel(dtype: tf.DType, shape: Sequence[int]) -> tf.Tensor:
    """Return a kernel that takes no space in a graph."""
    return tf.constant(0, dtype, shape)


def fuse_graph(
    graph: tf.Graph, kernels: Mapping[str, np.ndarray], outputs: Sequence[str], config: Any
) -> tuple[tf.Graph, list[Assignment]]:
    """Optimize `graph` as a session with `config` would, with a variable for each placeholder kernel.

    Args:
        graph: on CPU, with placeholders as the kernels of convolutions.
        kernels: the true kernels by the placeholders' names; only types and shapes are used.
        outputs: names of the ops whose values are wanted.
    """
    from tensorflow.python.grappler import tf_optimizer

    with graph.as_default():
        described = tf.compat.v1.train.export_meta_graph(graph=graph)
    described.collection_def["train_op"].node_list.value.extend(outputs)
    own = type(config)()
    own.CopyFrom(config)
    own.graph_options.rewrite_options.min_graph_nodes = -1  # small ones too
    rewritten = tf_optimizer.OptimizeGraph(own, described)

    rest = tf.compat.v1.GraphDef(versions=rewritten.versions)
    convolved: set[str] = set()
    for node in rewritten.node:
        if node.name in kernels:
            continue
        kept = rest.node.add()
        kept.CopyFrom(node)
        if node.op == FUSED and node.input[1] in kernels:
            convolved.add(node.input[1])
            kept.op = ONEDNN
            for name in [name for name in kept.attr if name.startswith("_")]:  # notes for the pass that this loop replaces
                del kept.attr[name]
            kept.attr["_kernel"].s = KERNEL_LABEL
            kept.attr["is_filter_const"].b = True
    if left := kernels.keys() - convolved:
        raise RuntimeError(f"not fused: {sorted(left)}")
    assignments, variables = [], {}
    with tf.Graph().as_default() as fused:
        for name, kernel in kernels.items():
            handle = tf.raw_ops.VarHandleOp(dtype=kernel.dtype, shape=kernel.shape, shared_name=name)
            value = tf.compat.v1.placeholder(kernel.dtype, kernel.shape)
            assignments.append((name, tf.raw_ops.AssignVariableOp(resource=handle, value=value), value))
            variables[f"{name}:0"] = tf.raw_ops.ReadVariableOp(resource=handle, dtype=kernel.dtype)
        tf.import_graph_def(rest, input_map=variables, name="")
    return fused, assignments
