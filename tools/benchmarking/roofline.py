"""Roofline limits for a forward pass on a CPU, measured alongside the benchmark.

1. The matrix-product rate: how fast TensorFlow multiplies two square matrices that are large enough to keep every core busy.
   A network of M multiply-adds cannot take less than ``2 M / rate`` if it multiplies matrices.
2. The time that oneDNN reports for the convolutions of our own graph: the rest goes into batch norms, poolings, moving data,
   and TensorFlow itself. oneDNN prints the time of each primitive if ``ONEDNN_VERBOSE`` is set.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .competitors import PRECISIONS, Workload, own

SIDE = 2048  # of the matrices
REPEATS = 5  # products a round; the fastest is the round's
FLOP = 2 * SIDE**3  # of a product
CONVOLUTIONS = {"convolution", "inner_product", "matmul"}  # kinds of primitives


@dataclass(frozen=True)
class Operation:
    """All executions of one kind of primitive by one implementation, in one run."""

    kind: str  # as oneDNN calls it
    implementation: str
    count: int
    milliseconds: float


@dataclass(frozen=True)
class Profile:
    """One profiled run of our graph."""

    seconds: float  # all of it
    operations: tuple[Operation, ...]  # the longest first

    @property
    def convolution_seconds(self) -> float:
        return sum(operation.milliseconds for operation in self.operations if operation.kind in CONVOLUTIONS) / 1000


def operations(lines: Iterable[str]) -> tuple[Operation, ...]:
    """Parse oneDNN's lines into the operations that were executed.

    >>> operations(["onednn_verbose,v1,primitive,exec,cpu,convolution,brgconv_1x1,forward,src:f32,,alg:direct,mb1,0.25"] * 2)
    (Operation(kind='convolution', implementation='brgconv_1x1', count=2, milliseconds=0.5),)
    """
    totals: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        fields = line.strip().split(",")
        if fields[0] == "onednn_verbose" and "exec" in fields:
            _, kind, implementation, *_, milliseconds = fields[fields.index("exec") + 1 :]  # the first is the engine
            totals.setdefault((kind, implementation), []).append(float(milliseconds))
    found = [Operation(*name, len(times), sum(times)) for name, times in totals.items()]
    return tuple(sorted(found, key=lambda operation: -operation.milliseconds))


class RooflineMeter:
    """Measures both limits, in a process of its own that has not imported TensorFlow: its output stream becomes a file."""

    def __init__(self, case: Workload) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
        os.dup2(self._log.fileno(), 1)
        os.environ["ONEDNN_VERBOSE"] = "profile_exec"
        import tensorflow as tf

        weights = case.weights()
        self._networks = {precision: own(case, weights, precision) for precision in PRECISIONS}
        noise = tf.random.stateless_normal([2, SIDE, SIDE], [0, 0])
        self._matrices = {precision: tf.unstack(tf.cast(noise, precision)) for precision in PRECISIONS}

    def products(self, precision: str) -> list[float]:
        """Return the seconds of each of some matrix products."""
        import tensorflow as tf

        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            tf.linalg.matmul(*self._matrices[precision])
            seconds.append(time.perf_counter() - start)
        return seconds

    def profile(self, precision: str) -> Profile:
        """Profile one run of our graph."""
        position = self._log.seek(0, os.SEEK_END)
        start = time.perf_counter()
        self._networks[precision]()
        seconds = time.perf_counter() - start
        self._log.seek(position)
        return Profile(seconds, operations(self._log.read().decode(errors="replace").splitlines()))
