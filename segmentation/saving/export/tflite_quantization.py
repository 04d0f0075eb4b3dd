"""Quantize a TensorFlow Lite model to 8 bits by TensorFlow's converter: weights by channel, and activations.

Ranges are taken once, and then the model is quantized as often as a search wants, with other parts in float32. A *part* is a
layer or a residual unit, by its scope, which names of tensors begin with. (``tests/segmentation/saving/test_tflite.py``)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python.convert import mlir_quantize  # a converter's last step

from dense_resnet.errors import InputError
from dense_resnet.inference import cpu
from dense_resnet.inference.runner import IMAGES, SIZES
from segmentation.saving.export import tflite_flatbuffer
from segmentation.saving.export.calibration import Call, Calls

CONVOLUTIONS = "CONV_2D", "DEPTHWISE_CONV_2D"


def check_quantizable(model: bytes) -> None:
    """Raise an :class:`InputError` if a model pads with a number below all others, which every range would reach."""
    if any(one.kind == "PADV2" for one in tflite_flatbuffer.operators_of(model)):
        raise InputError(
            "a v2 network whose pooling pads symmetrically cannot be int8 in TensorFlow Lite: the lowest of all numbers, with "
            "which it pads, would be in the range. Export it in float32, or in int8 to openvino or onnx."
        )


def take_ranges(converter: Any, calls: Calls) -> bytes:
    """Return the converter's model with the ranges of its activations, to be quantized."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([call[IMAGES], call[SIZES]] for call in calls)
    converter._experimental_calibrate_only = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs")  # images are no such input
        return converter.convert()


def quantize(ranged: bytes, kept: Collection[str]) -> bytes:
    """Return the model of :func:`take_ranges` in 8 bits.

    Besides, in float32 stay what comes before the first convolution and after the last, since enlarged logits tie in 8 bits,
    and what comes between the convolutions around a pooling, where a number below all others would be in the range.

    Args:
        kept: the parts that stay in float32.
    """
    operators = tflite_flatbuffer.operators_of(ranged)
    convolutions = [place for place, one in enumerate(operators) if one.kind in CONVOLUTIONS]
    exact = {*range(convolutions[0]), *range(convolutions[-1] + 1, len(operators))}
    for pool in (place for place, one in enumerate(operators) if one.kind == "MAX_POOL_2D"):
        before = max(place for place in convolutions if place < pool)
        exact |= {*range(before + 1, min(place for place in convolutions if place > pool))}
    for part in kept:
        if inside := _inside(operators, part):
            exact |= {*range(inside[0], inside[-1] + 1)}  # with the masks between them
    return mlir_quantize(ranged, denylisted_nodes=[operators[place].output for place in sorted(exact)])


def _inside(operators: Sequence[tflite_flatbuffer.Operator], part: str) -> list[int]:
    """Return the places of the operators of a part; a fused operator has the names of all, with a semicolon between them."""
    return [
        place for place, one in enumerate(operators) if any(f"{name}/".startswith(f"{part}/") for name in one.output.split(";"))
    ]


def measure_noise(ranged: bytes, quantized: bytes, parts: Sequence[str], calls: Iterable[Call]) -> dict[str, float]:
    """Return how much noise each part adds: see :func:`dense_resnet.inference.quantization.measure_noise`."""
    operators = tflite_flatbuffer.operators_of(ranged)
    known = {one.output for one in tflite_flatbuffer.operators_of(quantized)}
    ends = {}
    for part in parts:
        if inside := _inside(operators, part):
            first, last = operators[inside[0]].input, operators[inside[-1]].output
            if {first, last} <= known:
                ends[part] = first, last
    names = sorted({name for pair in ends.values() for name in pair})
    noise = dict.fromkeys(names, 0.0)
    runs = [_run_to(model, names) for model in (ranged, quantized)]
    for call in calls:
        for name, one, two in zip(names, *(run(call) for run in runs), strict=True):
            noise[name] += float(np.mean((one - two) ** 2) / max(np.var(one), 1e-12))
    return {part: noise[last] - noise[first] for part, (first, last) in ends.items()}


def _run_to(model: bytes, names: Sequence[str]) -> Callable[[Call], list[np.ndarray]]:
    """Return what computes the values of these tensors of a model, as numbers."""
    running = Interpreter(model_content=tflite_flatbuffer.set_outputs(model, names), num_threads=cpu.cores())
    running.allocate_tensors()
    inputs = [tensor["index"] for tensor in running.get_input_details()]

    def run(call: Call) -> list[np.ndarray]:
        for place, name in zip(inputs, (IMAGES, SIZES), strict=True):
            running.set_tensor(place, call[name])
        running.invoke()
        return [
            _numbers(running.get_tensor(tensor["index"]), *tensor["quantization"]) for tensor in running.get_output_details()
        ]

    return run


def _numbers(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    return (values - np.float32(zero)) * np.float32(scale) if values.dtype == np.int8 else values
