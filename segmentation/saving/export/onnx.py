"""Write and open an ONNX file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.errors import InputError
from dense_resnet.inference.precision import INT8
from dense_resnet.inference.runner import IMAGES, SIZES, Outputs, Runner
from dense_resnet.inference.tensorflow_runner import CompiledRunner
from dense_resnet.jobs import atomic_files, strict_json
from dense_resnet.planning import geometry
from segmentation.saving.export import onnx_quantization
from segmentation.saving.export.calibration import Calls
from segmentation.saving.export.exported import DOCUMENTED, KEY, OPTIONAL, Exported, make_exported
from segmentation.saving.export.files import read_sealed_file, require, seal
from segmentation.saving.export.foreign_run import ONNX
from segmentation.saving.export.onnx_quantization import open_session
from segmentation.saving.export.price import FEW

v1 = tf.compat.v1
OPSET = 17  # of ONNX's operators: read by every onnxruntime since 1.12


class OnnxRunner(Runner):
    """An ONNX file in ONNX Runtime; the arguments are Runner's."""

    export = ONNX
    engine = "onnxruntime"

    def __init__(self, session: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._session = session

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        found = self._session.run(list(names), {IMAGES: np.ascontiguousarray(images), SIZES: sizes})
        return dict(zip(names, found, strict=True))


class OnnxGraph:
    """The :class:`segmentation.saving.export.exported.Graph` of this format, quantized by ONNX Runtime.

    Args:
        compiled: the network.
        shapes: of the inputs and outputs.
        calls: from which the ranges of activations are taken.
        path: of the export, next to which ONNX Runtime's own files are while it works.
    """

    def __init__(
        self, compiled: CompiledRunner, shapes: Mapping[str, Sequence[int | str]], calls: Calls | None, path: Path
    ) -> None:
        own, self._model = compiled, _make_onnx(compiled, shapes)
        self._of_network = own.plan, own.preprocessing, own.weights_sha256, own.names, own.side
        self._calls, self._path = calls, path
        self.runner = self._run(self._model, own.precision)
        self.description = {"onednn": False}
        self._quantized: Any = None

    def _run(self, model: Any, precision: str) -> Runner:
        plan, preprocessing, *others = self._of_network
        return OnnxRunner(open_session(model.SerializeToString()), plan, preprocessing, precision, *others)

    def quantize(self, kept: Collection[str]) -> Runner:
        assert self._calls
        with atomic_files.scratch(self._path) as folder:
            self._quantized = onnx_quantization.quantize(self._model, self._calls, kept, folder)
        return self._run(self._quantized, INT8)

    def measure_noise(self, parts: Sequence[str]) -> Mapping[str, float]:
        assert self._calls
        return onnx_quantization.measure_noise(self._model, self._quantized, parts, itertools.islice(self._calls, FEW))

    def write(self, path: Path, description: Mapping[str, Any]) -> None:
        _write_onnx(path, self._quantized or self._model, description)


def _make_onnx(compiled: CompiledRunner, shapes: Mapping[str, Sequence[int | str]]) -> Any:
    """Return a compiled network as an ONNX model, whose inputs are both required."""
    import logging

    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    graph, kernels = _extract_kernels(_require_sizes(compiled.graph.as_graph_def()))
    names = (IMAGES, SIZES, *compiled.names)
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        name=compiled.plan.name,
        input_names=[f"{name}:0" for name in (IMAGES, SIZES, *kernels)],
        output_names=[f"{name}:0" for name in compiled.names],
        opset=OPSET,
        tensors_to_rename={f"{name}:0": name for name in (*names, *kernels)},
    )
    _put_back(kernels, model.graph)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    for info in (*model.graph.input, *model.graph.output):
        for dimension, size in zip(info.type.tensor_type.shape.dim, shapes[info.name], strict=True):
            dimension.Clear()
            setattr(dimension, "dim_param" if isinstance(size, str) else "dim_value", size)
        info.doc_string = DOCUMENTED[info.name]
    return model


def _write_onnx(path: Path, model: Any, description: Mapping[str, Any]) -> None:
    import onnx

    if description["sizes"] == OPTIONAL:
        _let_sizes_be_left_out(model.graph)
    onnx.helper.set_model_props(model, {KEY: json.dumps(description)})
    data = model.SerializeToString()
    onnx.checker.check_model(data, full_check=True)
    with open(path, "wb") as file:
        file.write(data)
        file.write(seal(data))


def _require_sizes(graph: Any) -> Any:
    """Return `graph` with `sizes` as an input without a default, which would be an initializer in ONNX."""
    (node,) = (node for node in graph.node if node.name == SIZES)
    node.op = "Placeholder"
    del node.input[:]
    return graph


def _let_sizes_be_left_out(graph: Any) -> None:
    """Make the type of an ONNX graph's `sizes` "optional"; images without them fill their canvases."""
    import onnx
    from onnx.helper import make_graph, make_node, make_optional_type_proto, make_value_info

    (info,) = (info for info in graph.input if info.name == SIZES)
    for node in graph.node:
        node.input[:] = [f"{SIZES}_or_canvas" if name == SIZES else name for name in node.input]
    known = make_value_info(f"{SIZES}_known", info.type)
    whole = make_value_info(f"{SIZES}_whole", info.type)
    branches = {
        "then_branch": make_graph([make_node("OptionalGetElement", [SIZES], [known.name])], "given", [], [known]),
        "else_branch": make_graph([make_node("Identity", ["canvas_size"], [whole.name])], "left_out", [], [whole]),
    }
    first = [
        make_node("OptionalHasElement", [SIZES], [f"{SIZES}_given"]),
        make_node("Shape", [IMAGES], ["canvas_height_width"], start=1, end=3),
        make_node("Cast", ["canvas_height_width"], ["canvas_size_of_all"], to=onnx.TensorProto.INT32),
        make_node("Unsqueeze", ["canvas_size_of_all", "canvas_axis"], ["canvas_size"]),
        make_node("If", [f"{SIZES}_given"], [f"{SIZES}_or_canvas"], **branches),
    ]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "canvas_axis"))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *rest])
    info.type.CopyFrom(make_optional_type_proto(info.type))


def _extract_kernels(graph: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return `graph` with a placeholder for each kernel of a convolution, and the kernels by the placeholders' names.

    tf2onnx copies a graph at each of its many steps, so it is given one that weighs next to nothing.
    """
    convolved = {node.input[1] for node in graph.node if node.op == "Conv2D"}
    light, kernels = v1.GraphDef(versions=graph.versions), {}
    for node in graph.node:
        if node.name not in convolved:
            light.node.add().CopyFrom(node)
            continue
        kernels[node.name] = tf.make_ndarray(node.attr["value"].tensor)
        placeholder = light.node.add(name=node.name, op="Placeholder")
        placeholder.attr["dtype"].CopyFrom(node.attr["dtype"])
        placeholder.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
    return light, kernels


def _put_back(kernels: dict[str, np.ndarray], graph: Any) -> None:
    """Replace the inputs of an ONNX graph that represent `kernels` by constants, and release each kernel.

    A kernel's axes are height, width, input, output in TensorFlow, and output, input, height, width in ONNX. The nodes
    that tf2onnx puts between an input and its convolution convert between these, and are removed, as with a constant.
    """
    import onnx

    made = {output: node for node in graph.node for output in node.output}
    inputs = [info for info in graph.input if info.name not in kernels]
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        between, name = [], conv.input[1]
        while name in made:
            between.append(made[name])
            name = made[name].input[0]
        if name in kernels:  # depthwise ones are constants already
            value = np.ascontiguousarray(kernels.pop(name).transpose(3, 2, 0, 1))
            graph.initializer.append(onnx.numpy_helper.from_array(value, conv.input[1]))
            for node in between:
                graph.node.remove(node)
    del graph.input[:]
    graph.input.extend(inputs)


def _pad_explicitly(node: Any) -> None:
    """Write the padding of a convolution as numbers: ONNX Runtime cannot compute it for a dilated one."""
    import onnx

    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") != b"SAME_UPPER" or set(attributes["strides"]) != {1}:
        return
    kernels = zip(attributes["kernel_shape"], attributes["dilations"], strict=True)
    before, after = zip(*(geometry.symmetric_padding(kernel, rate) for kernel, rate in kernels), strict=True)
    kept = [attribute for attribute in node.attribute if attribute.name not in ("auto_pad", "pads")]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("pads", [*before, *after])])


def open_onnx(path: Path) -> Exported:
    data = read_sealed_file(path)
    require("onnxruntime")
    import onnxruntime

    try:
        session = open_session(data)
        description = strict_json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    except Exception as error:  # onnxruntime has no common kind
        raise InputError(f"{path}: cannot be run by ONNX Runtime {onnxruntime.__version__}: {error}") from error
    return make_exported(path, ONNX, description, lambda *of_network: OnnxRunner(session, *of_network))
