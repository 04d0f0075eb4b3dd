"""Quantize a graph of OpenVINO to 8 bits by NNCF: convolutions, and what is between them.

The ranges of activations are taken from images. A *part* is a layer or a residual unit, by its scope, which begins its nodes'
names. (``tests/dense_resnet/inference/test_quantization.py``)
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import openvino as ov
from openvino import opset13 as op

from dense_resnet.inference.openvino import nodes_of

Call = Mapping[str, np.ndarray]
TELEMETRY_OFF = "NNCF_CI"  # in the environment when NNCF is imported; otherwise it reports to its makers


class Calls(Protocol):
    """Inputs by name, call by call; may be gone through several times."""

    def __iter__(self) -> Iterator[Call]: ...
    def __len__(self) -> int: ...


def quantize(model: Any, calls: Calls, kept: Collection[str]) -> Any:
    """Return the graph in 8 bits: weights by channel, activations as their ranges have it, biases corrected.

    Args:
        model: of float32; each of its nodes has a name of its own.
        calls: from which the ranges are taken.
        kept: parts that stay in float32.
    """
    nncf = _import_nncf()
    names = [node.get_friendly_name() for part in kept for node in nodes_of_part(model, part)]
    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        return nncf.quantize(
            model,
            nncf.Dataset(calls),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calls),
            ignored_scope=nncf.IgnoredScope(names=names),
        )


def nodes_of_part(model: Any, part: str) -> list[Any]:
    """Return the nodes of a part, in the order in which they are computed."""
    return [node for node in model.get_ordered_ops() if f"{node.get_friendly_name()}/".startswith(f"{part}/")]


def measure_noise(model: Any, quantized: Any, parts: Sequence[str], calls: Iterable[Call]) -> dict[str, float]:
    """Return how much noise each part adds: the growth of mean squared error over variance from its input to its output."""
    ends = {part: (nodes[0].input_value(0).get_node(), nodes[-1]) for part in parts if (nodes := nodes_of_part(model, part))}
    names = sorted({node.get_friendly_name() for pair in ends.values() for node in pair})
    exact, other = _run_to(model, names), _run_to(quantized, names)
    noise = dict.fromkeys(names, 0.0)
    for call in calls:
        for name, one, two in zip(names, exact(call), other(call), strict=True):
            noise[name] += float(np.mean((one - two) ** 2) / max(np.var(one), 1e-12))
    return {part: noise[last.get_friendly_name()] - noise[first.get_friendly_name()] for part, (first, last) in ends.items()}


def _run_to(model: Any, names: Sequence[str]) -> Any:
    """Return a function of a call's inputs to the values of nodes."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    parameters, _ = nodes_of(model)
    to_nodes = ov.Model([op.result(nodes[name]) for name in names], list(parameters.values()))
    compiled = ov.Core().compile_model(to_nodes, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda call: compiled(dict(call)).to_tuple()


def _import_nncf() -> Any:
    before = os.environ.get(TELEMETRY_OFF)
    os.environ[TELEMETRY_OFF] = "1"
    try:
        import nncf
    finally:
        if before is None:
            del os.environ[TELEMETRY_OFF]
        else:
            os.environ[TELEMETRY_OFF] = before
    nncf.set_log_level(logging.ERROR)
    return nncf
