"""Time a forward pass in turn with other frameworks: seconds, ratios, memory, and the limits of the machine.

Machines are shared and noisy, so competitors take turns, run by run, and a ratio is the median over pairs of runs. Each network
of a :func:`contest` has its own process, suspended while the others are timed: in one process the thread pools of a framework
spin after their work is done and take the cores from the next, two OpenMP libraries may not even load together, and memory
could not be attributed. The processor time of each process between its turns is reported.

A competitor that fails is reported, and the others continue. A stop keeps the rounds that are finished.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dense_resnet.errors import InputError
from dense_resnet.planning.plan import Plan
from dense_resnet.verification.laws import relative_error

from .. import terminal
from . import competitors, hardware
from .competitors import COMPETITORS, TENSORFLOW, USUAL, Competitor, Worker
from .roofline import Budget, Limit, RooflineMeter
from .timing import Stopped, Timing, ratio
from .worker_process import Process
from .workload import FLOAT32, INT8, PRECISIONS, Array, Workload

TOLERANCE = 1e-3  # of float32 features: a fast wrong answer does not count
LIMITS = "the limits"  # for people

Progress = Callable[[str, int, int, str], None]  # (what is being done, images done, images in all, which competitor)


@dataclass
class Entry:
    """A competitor of a contest, and what was measured of it."""

    competitor: Competitor
    process: Process
    timing: Timing
    versions: dict[str, str]
    cached_build_seconds: float | None  # as the timing's, of a second start; None if it keeps nothing for that
    error: float | None  # of what it computes, against our float32; None if its weights differ
    idle: list[float] = field(default_factory=list)  # processor seconds between its turns
    peak_memory: int = 0  # bytes
    imported_memory: int = 0  # of it, bytes when no more than its packages had been imported

    def as_dict(self, gmacs: float) -> dict[str, Any]:
        return {
            **self.timing.as_dict(),
            "competitor": self.competitor.name,
            "precision": self.competitor.precision,
            "ours": self.competitor.is_ours,
            "cached_build_seconds": self.cached_build_seconds,
            "gmac_per_second": gmacs / self.timing.median,
            "relative_error": self.error,
            "peak_memory_bytes": self.peak_memory,
            "imported_memory_bytes": self.imported_memory,
            "idle_processor_seconds": self.idle,
        }


@dataclass
class Comparison:
    """Everything that was measured of one network."""

    case: Workload
    entries: list[Entry] = field(default_factory=list)  # ours first
    rounds: int = 0  # that were timed to their end
    stopped: bool = False  # before all rounds were
    limits: dict[str, Limit] = field(default_factory=dict)  # by precision
    skipped: dict[str, str] = field(default_factory=dict)  # competitor that did not take part: why
    failed: dict[str, str] = field(default_factory=dict)  # competitor that began and did not reach the end: why

    def as_dict(self) -> dict[str, Any]:
        """Return every figure and every single time, of at least one round."""
        plan = self.case.plan
        macs = plan.macs(self.case.size) * self.case.batch
        timings = [entry.timing for entry in self.entries]
        return {
            "model": plan.name,
            "output_stride": plan.output_stride,
            "multi_grid": plan.multi_grid,
            "classes": plan.num_classes,
            "size": self.case.size,
            "batch": self.case.batch,
            "gmac": macs / 1e9,
            "rounds": self.rounds,
            "stopped": self.stopped,
            "timings": [entry.as_dict(macs / 1e9) for entry in self.entries],
            "ratios": {
                own.timing.name: {
                    other.name: ratio(other.seconds, own.timing.seconds) for other in timings if other is not own.timing
                }
                for own in self._ours()
            },
            "fastest": self._compare_fastest(),
            "limits": {
                precision: limit.as_dict({own.competitor.name: own.timing for own in self._ours(precision)}, macs)
                for precision, limit in self.limits.items()
                if limit.rounds
            },
            "skipped": self.skipped,
            "failed": self.failed,
            "versions": {name: version for entry in self.entries for name, version in entry.versions.items()},
        }

    def _ours(self, *precisions: str) -> list[Entry]:
        return [
            one for one in self.entries if one.competitor.is_ours and one.competitor.precision in (precisions or PRECISIONS)
        ]

    def _compare_fastest(self) -> list[dict[str, Any]]:
        """Compare the fastest of ours with the fastest of the others: at each precision, and 8 bits with their float32."""
        found = []
        for precision, other_precision in (*zip(PRECISIONS, PRECISIONS, strict=True), (INT8, FLOAT32)):
            ours = self._ours(precision)
            competing = [one.competitor for one in self.entries]
            others = [
                entry
                for entry, one in zip(self.entries, competing, strict=True)
                if not one.is_ours and one.precision == other_precision
            ]
            if ours and others:
                own, other = (min(group, key=lambda entry: entry.timing.median) for group in (ours, others))
                found.append({
                    "precision": precision,
                    "ours": own.competitor.name,
                    "others_precision": other_precision,
                    "other": other.competitor.name,
                    "times_as_fast": ratio(other.timing.seconds, own.timing.seconds),
                })  # fmt: skip
        return found


def check(plan: Plan, versus: Sequence[str]) -> None:
    """Raise an :class:`InputError` if a competitor has no such network."""
    if "slim" in versus:
        from dense_resnet.verification.parity import slim_network

        slim_network(plan)
    if "timm" in versus:
        competitors.timm_name(plan)


def contest(
    plan: Plan,
    size: int,
    batch: int,
    versus: Sequence[str] = (),
    *,
    runs: int = 20,
    burn_in: int = 3,
    progress: Progress = lambda what, done, total, note: None,
) -> Comparison:
    """Time our folded network in the usual engines and precisions, and others in turn with it.

    SIGINT or SIGTERM ends the rounds early. Memory is the peak of each process's resident memory, with all that it needs: the
    interpreter, its packages, weights, images, and one output.

    Args:
        plan: with classes, their logits are computed, else the features.
        versus: names among :data:`tools.benchmarking.competitors.NAMES`. One whose packages are missing is skipped.
        runs: timed ones of each, of `batch` images, after `burn_in` others.

    Raises:
        InputError: a competitor computes something other than ours.
    """
    entering = [competitor for competitor in COMPETITORS if competitor.name in (*USUAL, *versus)]
    with contextlib.ExitStack() as stack:
        case = Workload(plan, size, batch, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        found = Comparison(case)
        total = (runs + burn_in) * len(entering) * batch
        reference = None
        for competitor in entering:
            progress("timing", 0, total, f"building {competitor.label}")
            if why := competitor.absence(plan):
                found.skipped[competitor.label] = why
                continue
            try:
                entry, first = _enter(competitor, case, stack)
            except ImportError as missing:
                found.skipped[competitor.label] = str(missing)
            except RuntimeError as error:
                found.failed[competitor.label] = str(error)
            else:
                found.entries.append(entry)
                if competitor.has_our_weights(plan):
                    reference = first if reference is None else reference
                    entry.error = check_error(competitor, relative_error(first, reference))
                del first
        progress("timing", 0, total, f"building {LIMITS}")
        meter = _start_meter(found, stack)
        with terminal.stop_signals() as stopped:
            _time_rounds(found, meter, runs, burn_in, progress, stopped)
            found.stopped = stopped()
        for entry in [*found.entries]:
            with _record_failure(found, entry):
                entry.peak_memory, entry.imported_memory = entry.process.call("memory")
    return found


def _enter(competitor: Competitor, case: Workload, stack: contextlib.ExitStack) -> tuple[Entry, Array]:
    """Start a competitor's process; return it with what it computed first."""
    process = stack.enter_context(Process(Worker, competitor, case))
    seconds, versions = process.call("ready")
    first = process.call("take_first")
    cached = None
    if competitor.has_cache:
        with Process(Worker, competitor, case) as second:
            cached, _ = second.call("ready")
    return Entry(competitor, process, Timing(competitor.label, seconds, images=case.batch), versions, cached, None), first


def _start_meter(found: Comparison, stack: contextlib.ExitStack) -> Process | None:
    precisions = [entry.competitor.precision for entry in found.entries if entry.competitor.name == TENSORFLOW]
    found.limits = {precision: Limit() for precision in precisions}
    try:
        return stack.enter_context(Process(RooflineMeter, found.case, precisions))
    except RuntimeError as error:
        found.failed[LIMITS] = str(error)
        return None


@contextlib.contextmanager
def _record_failure(found: Comparison, entry: Entry) -> Iterator[None]:
    """Take a competitor whose process fails out of the contest."""
    try:
        yield
    except RuntimeError as error:
        found.failed[entry.timing.name] = str(error)
        found.entries.remove(entry)


def _time_rounds(
    found: Comparison, meter: Process | None, runs: int, burn_in: int, progress: Progress, stopped: Stopped
) -> None:
    budget, batch = Budget(), found.case.batch
    total, done = (runs + burn_in) * len(found.entries) * batch, 0
    for number in range(burn_in + runs):
        turns: list[tuple[Entry, float, float]] = []
        for entry in [*found.entries]:
            if stopped():
                return
            progress("timing", done, total, entry.timing.name)
            with _record_failure(found, entry):
                turns.append((entry, *entry.process.call("run")))
            done += batch
        if not found.entries:  # all have failed
            return
        if number < burn_in:
            continue
        for entry, seconds, idle in turns:
            entry.timing.seconds.append(seconds)
            entry.idle.append(idle)
        found.rounds += 1
        if meter and budget.allows():
            progress("timing", done, total, LIMITS)
            try:
                measured = budget.spend(functools.partial(_measure, meter, found.limits))
            except RuntimeError as error:
                found.failed[LIMITS], meter = str(error), None
                continue
            for precision, (products, profile) in measured.items():
                limit = found.limits[precision]
                limit.rounds.append(found.rounds - 1)
                limit.products.append(products)
                limit.profiles.append(profile)


def _measure(meter: Process, precisions: Iterable[str]) -> dict[str, Any]:
    return {precision: meter.call("measure", precision) for precision in precisions}


def check_error(competitor: Competitor, error: float) -> float:
    """Return the error; raise an :class:`InputError` if it is above the tolerance of float32."""
    if competitor.precision == FLOAT32 and not error <= TOLERANCE:
        raise InputError(
            f"{competitor.label}: its output differs from ours by {error:.1e} of its standard deviation, "
            f"more than {TOLERANCE:g}. It is another network, or that version is defective, so its time means nothing: leave "
            f"{competitor.name} out of --versus."
        )
    return error


def surroundings(arguments: Mapping[str, Any], load_before: Sequence[float]) -> dict[str, Any]:
    """Return what else a file of figures records: when, on which machine and by which command they were measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "arguments": dict(arguments),
        "machine": hardware.describe(),
        "load_before": list(load_before),
        "load_after": list(hardware.load()),
    }
