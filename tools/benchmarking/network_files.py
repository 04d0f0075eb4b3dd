"""The files that runtimes read: our folded graph as ONNX, and 8-bit graphs made by the quantizers of each runtime.

The ranges of 8-bit activations are taken from noise, as the weights are: what is compared is time and memory. The price of 8
bits in mean IoU is what ``export --precision int8`` measures.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.inference import cpu

from .workload import FLOAT32, Array, Workload

CALIBRATION = 4  # images, or one batch
QUANTIZED = ["Conv", "MatMul", "Add", "Relu", "MaxPool"]  # with Pad and Slice, ONNX Runtime's are wrong and slower


def onnx(case: Workload) -> Path:
    """Write our folded float32 graph with a fixed image shape, unless another has done so; return the file's path."""
    import tensorflow as tf
    import tf2onnx

    from dense_resnet.inference import folding

    path = case.folder / "network.onnx"
    if path.exists():
        return path
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        images = v1.placeholder(tf.float32, case.images().shape, name="images")
        layers = folding.Layers(case.weights(), FLOAT32)
        tf.identity(getattr(folding.network(layers, case.plan, images), case.output), name="output")
    tf2onnx.convert.from_graph_def(
        graph.as_graph_def(), input_names=["images:0"], output_names=["output:0"], opset=17, output_path=str(path)
    )
    return path


def onnx_int8(case: Workload) -> Path:
    """Quantize the ONNX file by ONNX Runtime's static quantization: pairs of QDQ operators, weights by channel."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._calls = iter([{"images:0": images} for images in _calibration(case)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._calls, None)

    path, prepared = case.folder / "network.int8.onnx", case.folder / "prepared.onnx"
    quant_pre_process(str(onnx(case)), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(path),
        Images(),
        op_types_to_quantize=QUANTIZED,
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        reduce_range=not {"avx_vnni", "avx512_vnni"} & {*cpu.flags()},  # sums of products overflow 16 bits there
    )
    prepared.unlink()
    return path


def openvino_from_onnx_int8(case: Workload) -> Path:
    """Quantize the ONNX file by NNCF."""
    import openvino

    return _quantize(case, "from_onnx.int8.xml", lambda: openvino.Core().read_model(onnx(case)))


def openvino_int8(case: Workload) -> Path:
    """Build our plan in OpenVINO's operators, all convolutions direct, and quantize it by NNCF."""
    import openvino
    from openvino import opset13

    from dense_resnet.inference import openvino_layers

    def build() -> Any:
        images = opset13.parameter(case.images().shape, np.float32, name="images")
        found = openvino_layers.network(openvino_layers.Layers(case.weights(), {}), case.plan, images)
        lay_out = openvino_layers.channels_alone if case.plan.logits else openvino_layers.channels_last
        return openvino.Model([opset13.result(lay_out(getattr(found, case.output)))], [images])

    return _quantize(case, "ours.int8.xml", build)


def _quantize(case: Workload, name: str, build: Callable[[], Any]) -> Path:
    os.environ["NNCF_CI"] = "1"  # else it reports its use to its makers
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    calls = _calibration(case)
    quantized = nncf.quantize(
        build(),
        nncf.Dataset(calls),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calls),
    )
    openvino.save_model(quantized, case.folder / name, compress_to_fp16=False)
    return case.folder / name


def _calibration(case: Workload) -> list[Array]:
    return [case.images(seed) for seed in range(1, 1 + -(-CALIBRATION // case.batch))]
