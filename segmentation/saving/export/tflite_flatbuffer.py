"""Read and change TensorFlow Lite models, which are flatbuffers. (``tests/segmentation/saving/test_tflite.py``)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"  # of the format
SIGNATURE = "serving_default"  # the usual name of the only one
ALIGNMENT = 16  # bytes: what runtimes expect of weights
KINDS = {code: kind for kind, code in vars(schema.BuiltinOperator).items() if not kind.startswith("_")}


@dataclass(frozen=True)
class Operator:
    """An operator of a model."""

    kind: str  # such as CONV_2D
    input: str  # the name of its first tensor
    output: str


def operators_of(data: bytes) -> list[Operator]:
    """Return a model's operators in the order in which they run."""
    model = schema.ModelT.InitFromPackedBuf(data)
    (graph,) = model.subgraphs
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    names = [tensor.name.decode() for tensor in graph.tensors]
    return [Operator(KINDS[codes[one.opcodeIndex]], names[one.inputs[0]], names[one.outputs[0]]) for one in graph.operators]


def set_outputs(data: bytes, names: Sequence[str]) -> bytes:
    """Return a model without signatures whose outputs are the tensors of these names."""
    model = schema.ModelT.InitFromPackedBuf(data)
    (graph,) = model.subgraphs
    places = {tensor.name.decode(): place for place, tensor in enumerate(graph.tensors)}
    graph.outputs = [places[name] for name in names]
    model.signatureDefs = []
    return _pack(model)


def set_signature(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return a model with one signature, so that programs call it by the names of inputs and outputs."""
    model = schema.ModelT.InitFromPackedBuf(data)
    (graph,) = model.subgraphs
    given, found = (
        [schema.TensorMapT(name, place) for name, place in zip(names, places, strict=True)]
        for names, places in ((inputs, graph.inputs), (outputs, graph.outputs))
    )
    model.signatureDefs = [schema.SignatureDefT(given, found, SIGNATURE)]
    return _pack(model)


def add_metadata(data: bytes, name: str, value: bytes) -> bytes:
    """Return a model with one more entry of metadata."""
    model = schema.ModelT.InitFromPackedBuf(data)
    model.metadata.append(schema.MetadataT(name, len(model.buffers)))
    model.buffers.append(schema.BufferT(np.frombuffer(value, np.uint8)))
    return _pack(model)


def read_metadata(data: bytes, name: str) -> bytes:
    """Return the entry of metadata of that name."""
    model = schema.Model.GetRootAs(data)
    entries = (model.Metadata(number) for number in range(model.MetadataLength()))
    (place,) = (entry.Buffer() for entry in entries if entry.Name() == name.encode())
    return bytes(model.Buffers(place).DataAsNumpy())


class _Builder(flatbuffers.Builder):
    """Aligns weights, which flatbuffers' Python leaves where they fall."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
        if x.dtype != np.uint8:
            return super().CreateNumpyVector(x)
        self.StartVector(1, x.size, ALIGNMENT)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return self.EndVector()


def _pack(model: Any) -> bytes:
    builder = _Builder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
