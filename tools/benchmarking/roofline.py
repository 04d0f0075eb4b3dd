"""Roofline limits for a forward pass on a CPU, measured in rounds of the benchmark.

1. The matrix-product rate: how fast TensorFlow multiplies two square matrices that are large enough to keep every core busy.
   A network of M multiply-adds cannot take less than ``2 M / rate`` if it computes each of them. Winograd's algorithm needs
   fewer for the same result, so an engine that uses it may take less.
2. The time that oneDNN reports for the convolutions of our TensorFlow graph: the rest goes into batch norms, poolings, moving
   data, and TensorFlow itself. oneDNN prints the time of each primitive if ``ONEDNN_VERBOSE`` is set.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .competitors import TENSORFLOW, tensorflow
from .timing import Timing, ratio
from .workload import Workload

SIDE = 2048  # of the matrices
REPEATS = 5  # products a round; the fastest is the round's
FLOP = 2 * SIDE**3  # of a product
CONVOLUTIONS = {"convolution", "inner_product", "matmul"}  # kinds of primitives
PART = 1 / 5  # of the time of all rounds, at most


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

    def __init__(self, case: Workload, precisions: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
        os.dup2(self._log.fileno(), 1)
        os.environ["ONEDNN_VERBOSE"] = "profile_exec"
        import tensorflow as tf

        self._networks = {name: tensorflow(case, case.weights(), name) for name in precisions}
        noise = tf.random.stateless_normal([2, SIDE, SIDE], [0, 0])
        self._matrices = {name: tf.unstack(tf.cast(noise, name)) for name in precisions}
        for name in precisions:  # the first run is slower
            self.measure(name)

    def measure(self, precision: str) -> tuple[list[float], Profile]:
        """Return the seconds of some matrix products, and a profile of our graph."""
        return self._time_products(precision), self._profile(precision)

    def _time_products(self, precision: str) -> list[float]:
        import tensorflow as tf

        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            tf.linalg.matmul(*self._matrices[precision])
            seconds.append(time.perf_counter() - start)
        return seconds

    def _profile(self, precision: str) -> Profile:
        position = self._log.seek(0, os.SEEK_END)
        start = time.perf_counter()
        self._networks[precision]()
        seconds = time.perf_counter() - start
        self._log.seek(position)
        return Profile(seconds, operations(self._log.read().decode(errors="replace").splitlines()))


class Budget:
    """Keeps the limits to a part of the time of all rounds; they are measured at least once."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._start = clock, clock()
        self._spent = self._last = 0.0  # seconds

    def allows(self) -> bool:
        """Return whether the limits stay within their part, should they take as long as the last time."""
        total = self._clock() - self._start
        return self._spent + self._last <= PART * (total + self._last)

    def spend(self, measure: Callable[[], Any]) -> Any:
        """Return what `measure` returns."""
        start = self._clock()
        result = measure()
        self._last = self._clock() - start
        self._spent += self._last
        return result


@dataclass
class Limit:
    """What bounds our time at one precision."""

    rounds: list[int] = field(default_factory=list)  # in which it was measured, among the timed ones
    products: list[list[float]] = field(default_factory=list)  # seconds of matrix products
    profiles: list[Profile] = field(default_factory=list)  # of our graph

    def as_dict(self, ours: Mapping[str, Timing], macs: float) -> dict[str, Any]:
        """Return the figures; `ours`: by name, at this precision; `macs`: multiply-adds of a run."""
        seconds = {name: [timing.seconds[number] for number in self.rounds] for name, timing in ours.items()}
        rates = [FLOP / min(seconds) for seconds in self.products]
        least = [2 * macs / rate for rate in rates]
        return {
            "rounds": self.rounds,
            "matrix_products": {
                "flop": FLOP,
                "seconds": self.products,
                "gflop_per_second": statistics.median(rates) / 1e9,
                "best_gflop_per_second": max(rates) / 1e9,
            },
            "least_seconds": statistics.median(least),
            "ours / least": {name: ratio(values, least) for name, values in seconds.items()},
            "onednn": self._onednn(seconds.get(TENSORFLOW)),
        }

    def _onednn(self, own: Sequence[float] | None) -> dict[str, Any]:
        convolutions = [profile.convolution_seconds for profile in self.profiles]
        if not all(convolutions):
            return {"skipped": "this TensorFlow does not run its convolutions by oneDNN"}
        times: dict[tuple[str, str, int], list[float]] = {}
        for profile in self.profiles:
            for one in profile.operations:
                times.setdefault((one.kind, one.implementation, one.count), []).append(one.milliseconds)
        return {
            "convolution_seconds": convolutions,
            "median": statistics.median(convolutions),
            "ours / convolutions": ratio(own, convolutions) if own else None,
            "operations": [
                {"kind": kind, "implementation": implementation, "count": count, "milliseconds": statistics.median(values)}
                for (kind, implementation, count), values in times.items()
            ],
            "run_milliseconds": statistics.median(profile.seconds for profile in self.profiles) * 1000,  # with all the rest
        }
