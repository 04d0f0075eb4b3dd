"""Quantize an ONNX model to 8 bits by ONNX Runtime: its convolutions, with weights by channel, in the QDQ form.

A *part* is a layer or a residual unit, by its scope, which begins its convolutions' names.
(``tests/segmentation/saving/test_quantized.py``)
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.inference import cpu
from segmentation.saving.export.calibration import Call, Calls


def quantize(model: Any, calls: Calls, kept: Collection[str], folder: Path) -> Any:
    """Return the model in 8 bits; arguments as :func:`dense_resnet.inference.quantization.quantize`.

    Args:
        folder: for the files that ONNX Runtime writes meanwhile.
    """
    import onnx
    from onnxruntime import quantization

    excluded = [node.name for part in kept for node in convolutions_of(model, part)]
    source, target = folder / "float32.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    with _temporary_files_in(folder), _quietly():
        quantization.quantize_static(
            source,
            target,
            _Reader(calls),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            nodes_to_exclude=excluded,
        )
    return onnx.load(target)


class _Reader:
    """Calls one after the other, as ONNX Runtime asks for them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = iter(calls)

    def get_next(self) -> Call | None:
        return next(self._calls, None)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let this process create temporary files there: ONNX Runtime does elsewhere, where a kill would leave them."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Drop warnings that a graph was not simplified before."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def convolutions_of(model: Any, part: str) -> list[Any]:
    """Return the convolutions of a part, which have the names of the sums that tf2onnx has put into them."""
    return [node for node in model.graph.node if node.op_type == "Conv" and f"{node.name}/".startswith(f"{part}/")]


def measure_noise(model: Any, quantized: Any, parts: Sequence[str], calls: Iterable[Call]) -> dict[str, float]:
    """Return how much noise each part adds: see :func:`dense_resnet.inference.quantization.measure_noise`."""
    ends = {part: (nodes[0].input[0], nodes[-1].output[0]) for part in parts if (nodes := convolutions_of(model, part))}
    names = sorted({name for pair in ends.values() for name in pair})
    exact, other = (_session_to(one, names) for one in (model, quantized))
    noise = dict.fromkeys(names, 0.0)
    for call in calls:
        for name, one, two in zip(names, exact.run(names, dict(call)), other.run(names, dict(call)), strict=True):
            noise[name] += float(np.mean((one - two) ** 2) / max(np.var(one), 1e-12))
    return {part: noise[last] - noise[first] for part, (first, last) in ends.items()}


def _session_to(model: Any, names: Sequence[str]) -> Any:
    """Open a session that gives these values of a model."""
    import onnx

    with_values = onnx.ModelProto()
    with_values.CopyFrom(model)
    del with_values.graph.output[:]
    with_values.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return open_session(with_values.SerializeToString())


def open_session(data: bytes) -> Any:
    """Open a session of ONNX Runtime on a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu.cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: earlier exports have an input with a default, of which it warns
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
