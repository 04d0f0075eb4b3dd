"""Write and open a TensorFlow Lite file, for phones.

It has one canvas and takes one image, since runtimes plan a phone's memory for known shapes alone, and one signature, whose
outputs are all computed at each call: probabilities, which weigh as much as everything else, are left to who wants them (the
softmax of enlarged `cells`). Its operators are built into every runtime. TensorFlow's converter makes one of each atrous
convolution. Processors run most operators by XNNPACK, and what it does not take between two of its parts.
(``tests/segmentation/saving/test_tflite.py``)
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from dense_resnet.errors import InputError
from dense_resnet.inference import cpu
from dense_resnet.inference.precision import INT8
from dense_resnet.inference.runner import IMAGES, PROBABILITIES, SIZES, Outputs, Runner
from dense_resnet.inference.tensorflow_runner import CompiledRunner
from dense_resnet.jobs import strict_json
from segmentation.saving.export import tflite_flatbuffer, tflite_quantization
from segmentation.saving.export.calibration import Calls
from segmentation.saving.export.exported import KEY, Exported, make_exported
from segmentation.saving.export.files import read_sealed_file, seal
from segmentation.saving.export.foreign_run import TFLITE
from segmentation.saving.export.price import FEW

v1 = tf.compat.v1
LONGEST_CONCATENATION = 4  # tensors, which XNNPACK takes


class TFLiteRunner(Runner):
    """A TensorFlow Lite file in LiteRT, image by image.

    Args:
        data: the file's content.
        of_network: the arguments of :class:`Runner`.
    """

    export = TFLITE
    engine = "litert"

    def __init__(self, data: bytes, *of_network: Any) -> None:
        super().__init__(*of_network)
        self._interpreter = Interpreter(model_content=data, num_threads=cpu.cores())
        self._interpreter.allocate_tensors()
        signature = self._interpreter.get_signature_runner()
        tensors = signature.get_input_details() | signature.get_output_details()
        self._places = {name: tensors[name]["index"] for name in (IMAGES, SIZES, *self.names)}
        self._lock = threading.Lock()  # an interpreter holds the tensors of one call

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        with self._lock:
            for image, size in zip(images, np.broadcast_to(sizes, (len(images), 2)), strict=True):
                self._interpreter.set_tensor(self._places[IMAGES], image[None])
                self._interpreter.set_tensor(self._places[SIZES], size[None])
                self._interpreter.invoke()
                for name in names:
                    found[name].append(self._interpreter.get_tensor(self._places[name]))
        return {name: np.concatenate(values) for name, values in found.items()}


class TFLiteGraph:
    """The :class:`segmentation.saving.export.exported.Graph` of this format, quantized by TensorFlow's converter.

    Args:
        compiled: the network, for one canvas.
        calls: from which the ranges of activations are taken.
    """

    def __init__(self, compiled: CompiledRunner, calls: Calls | None) -> None:
        own, names = compiled, [name for name in compiled.names if name != PROBABILITIES]
        self._names, self._calls = names, calls
        self._plan, self._of_network = (own.plan, own.preprocessing), (own.weights_sha256, names, own.side)
        self._converter = _make_converter(compiled, names)
        self._ranged: bytes | None = None
        self._data, self.runner = self._finish(self._converter.convert(), own.precision)
        self.description = {"onednn": False}
        if calls:
            tflite_quantization.check_quantizable(self._data)

    def _finish(self, data: bytes, precision: str) -> tuple[bytes, Runner]:
        """Return a converted model with its signature, and what runs it."""
        data = tflite_flatbuffer.set_signature(data, (IMAGES, SIZES), self._names)
        return data, TFLiteRunner(data, *self._plan, precision, *self._of_network)

    def quantize(self, kept: Collection[str]) -> Runner:
        if self._ranged is None:
            assert self._calls
            self._ranged = tflite_quantization.take_ranges(self._converter, self._calls)
        self._data, runner = self._finish(tflite_quantization.quantize(self._ranged, kept), INT8)
        return runner

    def measure_noise(self, parts: Sequence[str]) -> Mapping[str, float]:
        assert self._calls
        assert self._ranged
        return tflite_quantization.measure_noise(self._ranged, self._data, parts, itertools.islice(self._calls, FEW))

    def write(self, path: Path, description: Mapping[str, Any]) -> None:
        data = tflite_flatbuffer.add_metadata(self._data, KEY, json.dumps(description).encode())
        with open(path, "wb") as file:
            file.write(data)
            file.write(seal(data))


def _make_converter(compiled: CompiledRunner, names: Sequence[str]) -> Any:
    """Return TensorFlow's converter of a compiled network, with these outputs."""
    inputs = [
        tf.TensorSpec([1, compiled.side, compiled.side, compiled.plan.in_channels], tf.uint8, IMAGES),
        tf.TensorSpec([1, 2], tf.int32, SIZES),
    ]
    graph = _split_concatenations(_pool_from_zero(compiled.graph.as_graph_def()))

    def run(*given: tf.Tensor) -> list[tf.Tensor]:
        replaced = dict(zip((IMAGES, SIZES), given, strict=True))
        return tf.graph_util.import_graph_def(graph, replaced, [f"{name}:0" for name in names], name="")

    function = v1.wrap_function(run, inputs)
    return tf.lite.TFLiteConverter.from_concrete_functions([function], function)


def _pool_from_zero(graph: Any) -> Any:
    """Return `graph` with 0 as the lowest number before a pooling, where a ReLU precedes.

    It is not in the way of 8 bits, whose range would be all numbers, nor of XNNPACK, which pads with nothing else.
    """
    found, at_least_0 = v1.GraphDef(versions=graph.versions), set()
    for node in graph.node:
        if node.op == "Relu":
            at_least_0.add(node.name)
        elif node.op == "SelectV2" and node.input[1] in at_least_0:
            at_least_0.add(node.name)
            zero = found.node.add(name=f"{node.name}/zero", op="Const")
            zero.attr["dtype"].CopyFrom(node.attr["T"])
            zero.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(0)))
            node.input[2] = zero.name
        elif node.op == "PadV2" and node.input[0] in at_least_0:
            node.op = "Pad"
            del node.input[2]
        found.node.add().CopyFrom(node)
    return found


def _split_concatenations(graph: Any) -> Any:
    """Return `graph` with concatenations of more than LONGEST_CONCATENATION tensors in two steps."""
    found = v1.GraphDef(versions=graph.versions)
    for node in graph.node:
        if node.op == "ConcatV2" and node.attr["N"].i > LONGEST_CONCATENATION:
            *values, axis = node.input
            first = found.node.add(name=f"{node.name}/first", op=node.op, input=[*values[:LONGEST_CONCATENATION], axis])
            for name, value in node.attr.items():
                first.attr[name].CopyFrom(value)
            first.attr["N"].i = LONGEST_CONCATENATION
            node.input[:] = [first.name, *values[LONGEST_CONCATENATION:], axis]
            node.attr["N"].i = len(node.input) - 1
        found.node.add().CopyFrom(node)
    return found


def open_tflite(path: Path) -> Exported:
    data = read_sealed_file(path)

    def make(*of_network: Any) -> Runner:
        return TFLiteRunner(data, *of_network)

    try:
        return make_exported(path, TFLITE, strict_json.loads(tflite_flatbuffer.read_metadata(data, KEY)), make)
    except InputError:
        raise
    except Exception as error:  # flatbuffers and LiteRT have no common kind
        version = importlib.metadata.version("ai-edge-litert")
        raise InputError(f"{path}: cannot be run by LiteRT {version}: {error}") from error
