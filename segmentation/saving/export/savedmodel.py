"""Write and open a TensorFlow SavedModel."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from dense_resnet.errors import InputError
from dense_resnet.inference import compiled
from dense_resnet.inference.runner import COARSE_LOGITS, IMAGES, SIZES, Runner
from dense_resnet.inference.tensorflow_runner import CompiledRunner, SessionRunner
from segmentation.saving.export.exported import Exported, make_exported
from segmentation.saving.export.files import GRAPH, read_sealed, write_export_description
from segmentation.saving.export.foreign_run import ALONE, ONEDNN, SAVED_MODEL, SIZED

# What the graphs are made of. None of it reads or writes files, calls other code, or keeps anything.
OPS = frozenset(
    """AddV2 AvgPool BatchToSpaceND BiasAdd Cast ConcatV2 Const Conv2D DepthwiseConv2dNative FloorDiv FloorMod FusedBatchNormV3
    GatherV2 Identity Less LogicalAnd MaxPool Mean Mul Pack Pad PadV2 Placeholder PlaceholderWithDefault Range RealDiv Relu
    ResizeBilinear SelectV2 Shape Softmax SpaceToBatchND StridedSlice Sub Sum TopKV2 Unpack ZerosLike""".split()
)

v1 = tf.compat.v1


class _SavedModelRunner(SessionRunner):
    """A SavedModel's graph in a session; the arguments are Runner's."""

    export = SAVED_MODEL

    def __init__(self, graph: tf.Graph, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.session = compiled.session(graph)


class SavedModelGraph:
    """The :class:`segmentation.saving.export.exported.Graph` of this format.

    Args:
        onednn: whether operators that TensorFlow runs with oneDNN alone were asked for.
    """

    def __init__(self, runner: CompiledRunner, onednn: bool) -> None:
        self.runner = runner
        # fcn and backbones have no such operator
        self.description = {"onednn": onednn and any(map(needs_onednn, runner.graph.as_graph_def().node))}

    def quantize(self, kept: Collection[str]) -> Runner:
        raise NotImplementedError("TensorFlow has no int8 convolutions on processors")

    def measure_noise(self, parts: Sequence[str]) -> Mapping[str, float]:
        raise NotImplementedError("TensorFlow has no int8 convolutions on processors")

    def write(self, path: Path, description: Mapping[str, Any]) -> None:
        _write_graph(path, self.runner)
        write_export_description(path, description, [GRAPH])


def _write_graph(folder: Path, compiled: CompiledRunner) -> None:
    with compiled.graph.as_default() as graph:
        tensors = {name: graph.get_tensor_by_name(f"{name}:0") for name in (IMAGES, SIZES, *compiled.names)}
        outputs = {name: tensors[name] for name in compiled.names if name != COARSE_LOGITS}
        signatures = {
            signature: v1.saved_model.predict_signature_def({name: tensors[name] for name in inputs}, outputs)
            for signature, inputs in ((ALONE, (IMAGES,)), (SIZED, (IMAGES, SIZES)))
        }
        try:
            builder = v1.saved_model.Builder(os.fspath(folder))
            builder.add_meta_graph_and_variables(compiled.session, [v1.saved_model.tag_constants.SERVING], signatures)
            builder.save()
        except tf.errors.OpError as error:
            raise OSError(error.message) from error


def open_saved_model(folder: Path) -> Exported:
    description, [data] = read_sealed(folder, [GRAPH])
    try:
        (meta,) = saved_model_pb2.SavedModel.FromString(data).meta_graphs
        del data
        others = {node.op for node in meta.graph_def.node} - OPS
        if others or meta.graph_def.library.function:
            raise InputError(
                f"{folder / GRAPH}: has operations that no export has ({', '.join(sorted(others)) or 'functions'}), "
                "and is not run."
            )
        if any(map(needs_onednn, meta.graph_def.node)) and not compiled.takes_rates(tf.as_dtype(description["precision"])):
            raise InputError(
                f"{folder}: has operators that TensorFlow runs with oneDNN alone, and it is off here. Where the processor is "
                f"an x86, set {ONEDNN}=1 before Python starts; else export the model again."
            )
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(meta.graph_def, name="")
    except InputError:
        raise
    except Exception as error:  # protocol buffers and TensorFlow raise what they please
        raise InputError(
            f"{folder / GRAPH}: cannot be read by TensorFlow {tf.__version__}: {error}. It was written by "
            f"{description.get('versions')}."
        ) from error
    return make_exported(folder, SAVED_MODEL, description, lambda *of_network: _SavedModelRunner(graph, *of_network))


def needs_onednn(node: Any) -> bool:
    """Whether it is an atrous depthwise convolution; all exports had some until `onednn` was an option."""
    return node.op == "DepthwiseConv2dNative" and any(rate > 1 for rate in node.attr["dilations"].list.i)
