"""Time a forward pass in turn with other frameworks: seconds, ratios, and the limits of the machine.

Machines are shared and noisy, so competitors take turns, run by run, and a ratio is the median over pairs of runs. Each network
of a :func:`contest` has its own process, suspended while the others are timed: in one process the thread pools of a framework
spin after their work is done and take the cores from the next, two OpenMP libraries may not even load together, and memory
could not be attributed. The processor time of each process between its turns is reported.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.backbone import Backbone
from dense_resnet.errors import InputError
from dense_resnet.extraction.extract import Extraction
from dense_resnet.extraction.settings import Settings
from dense_resnet.image_io.decoding import opencv
from dense_resnet.image_io.discovery import find_images
from dense_resnet.inference import throughput
from dense_resnet.planning.plan import Plan
from dense_resnet.verification.laws import relative_error

from . import competitors, hardware
from .competitors import COMPETITORS, FLOAT32, OWN, PRECISIONS, Competitor, Run, Worker, Workload
from .hardware import peak_memory
from .roofline import FLOP, Profile, RooflineMeter
from .worker_process import Process

PAIRS = 3  # runs of a job and of the bare forward
TOLERANCE = 1e-3  # of float32 features: a fast wrong answer does not count

Progress = Callable[[str, int, int, str], None]  # (what is being done, images done, images in all, which competitor)


@dataclass
class Timing:
    """One competitor."""

    name: str
    build_seconds: float  # from nothing to ready, first run included
    seconds: list[float] = field(default_factory=list)  # of each timed run
    images: int = 1  # in a run

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures: seconds per run, images per second."""
        return {
            "name": self.name,
            "build_seconds": self.build_seconds,
            "mean": statistics.mean(self.seconds),
            "sd": statistics.stdev(self.seconds) if len(self.seconds) > 1 else 0.0,
            "median": self.median,
            "minimum": min(self.seconds),
            "images_per_second": self.images / self.median,
            "seconds": self.seconds,
        }


def prepare(name: str, make: Callable[[], Run], images: int) -> tuple[Timing, Run]:
    """Build a competitor and run it once."""
    start = time.perf_counter()
    run = make()
    run()
    return Timing(name, time.perf_counter() - start, images=images), run


def alternate(competitors: Sequence[tuple[Timing, Run]], runs: int, burn_in: int) -> None:
    """Run every competitor in turn, `burn_in` times unrecorded and then `runs` times."""
    for number in range(burn_in + runs):
        for timing, run in competitors:
            start = time.perf_counter()
            run()
            if number >= burn_in:
                timing.seconds.append(time.perf_counter() - start)


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Return the median over pairs of times of `slower` / `faster`: above 1 if the second is faster."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def time_pairs(forward: str, bare: Run, name: str, job: Run, images: int) -> tuple[Timing, Timing, list[int]]:
    """Time the bare forward of images in memory and the job from files; also return peak memory in bytes after each pair."""
    pair = prepare(forward, lambda: bare, images), prepare(name, lambda: job, images)
    peaks = []
    for _ in range(PAIRS):
        alternate(pair, runs=1, burn_in=0)
        peaks.append(peak_memory())
    return pair[0][0], pair[1][0], peaks


# --------------------------------------------------------------------------------------------------------------------
# Networks


@dataclass
class Entry:
    """A competitor of a contest, and what was measured of it."""

    competitor: Competitor
    process: Process
    timing: Timing
    versions: dict[str, str]
    error: float | None  # of what it computes, against our float32; None if its weights differ
    idle: list[float] = field(default_factory=list)  # processor seconds between its turns
    peak_memory: int = 0  # bytes

    def as_dict(self, gmacs: float) -> dict[str, Any]:
        return {
            **self.timing.as_dict(),
            "competitor": self.competitor.name,
            "precision": self.competitor.precision,
            "gmac_per_second": gmacs / self.timing.median,
            "relative_error": self.error,
            "peak_memory_bytes": self.peak_memory,
            "idle_processor_seconds": self.idle,
        }


@dataclass
class Limit:
    """What bounds our time at one precision: measurements of each round."""

    products: list[list[float]] = field(default_factory=list)  # seconds of matrix products
    profiles: list[Profile] = field(default_factory=list)  # of our graph

    def as_dict(self, own: Timing, macs: float) -> dict[str, Any]:
        """Return the figures; `macs`: multiply-adds of a run."""
        rates = [FLOP / min(seconds) for seconds in self.products]
        least = [2 * macs / rate for rate in rates]
        return {
            "matrix_products": {
                "flop": FLOP,
                "seconds": self.products,
                "gflop_per_second": statistics.median(rates) / 1e9,
                "best_gflop_per_second": max(rates) / 1e9,
            },
            "least_seconds": statistics.median(least),
            "ours / least": ratio(own.seconds, least),
            "onednn": self._onednn(own),
        }

    def _onednn(self, own: Timing) -> dict[str, Any]:
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
            "ours / convolutions": ratio(own.seconds, convolutions),
            "operations": [
                {"kind": kind, "implementation": implementation, "count": count, "milliseconds": statistics.median(values)}
                for (kind, implementation, count), values in times.items()
            ],
            "run_milliseconds": statistics.median(profile.seconds for profile in self.profiles) * 1000,  # with all the rest
        }


@dataclass
class Comparison:
    """Everything that was measured of one network."""

    case: Workload
    entries: list[Entry] = field(default_factory=list)  # ours first
    limits: dict[str, Limit] = field(default_factory=dict)  # by precision
    skipped: dict[str, str] = field(default_factory=dict)  # competitor that did not take part: why

    def as_dict(self) -> dict[str, Any]:
        """Return every figure and every single time."""
        plan = self.case.plan
        macs = plan.macs(self.case.size) * self.case.batch
        timings = [entry.timing for entry in self.entries]
        own = {entry.competitor.precision: entry.timing for entry in self.entries if entry.competitor.name == OWN}
        return {
            "model": plan.name,
            "output_stride": plan.output_stride,
            "multi_grid": plan.multi_grid,
            "classes": plan.num_classes,
            "size": self.case.size,
            "batch": self.case.batch,
            "gmac": macs / 1e9,
            "rounds": len(timings[0].seconds),
            "timings": [entry.as_dict(macs / 1e9) for entry in self.entries],
            "ratios": {
                ours.name: {other.name: ratio(other.seconds, ours.seconds) for other in timings if other is not ours}
                for ours in own.values()
            },
            "limits": {precision: limit.as_dict(own[precision], macs) for precision, limit in self.limits.items()},
            "skipped": self.skipped,
            "versions": {name: version for entry in self.entries for name, version in entry.versions.items()},
        }


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
    """Time our folded network at both precisions, and others in turn with it.

    Args:
        plan: with classes, their logits are computed, else the features.
        versus: names among :data:`tools.benchmarking.competitors.NAMES`. One whose packages are missing is skipped.
        runs: timed ones of each, of `batch` images, after `burn_in` others.

    Raises:
        InputError: a competitor computes something other than ours.
    """
    entering = [competitor for competitor in COMPETITORS if competitor.name in (OWN, *versus)]
    with contextlib.ExitStack() as stack:
        case = Workload(plan, size, batch, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        found = Comparison(case)
        total = (runs + burn_in) * len(entering) * batch
        reference = None
        for competitor in entering:
            progress("timing", 0, total, f"building {competitor.label}")
            try:
                process = stack.enter_context(Process(Worker, competitor, case))
            except ImportError as missing:
                found.skipped[competitor.label] = str(missing)
                continue
            seconds, versions = process.call("ready")
            error: float | None = None
            if competitor.has_our_weights(plan):
                values = process.call("first")
                reference = values if reference is None else reference
                error = check_error(competitor, relative_error(values, reference))
            timing = Timing(competitor.label, seconds, images=batch)
            found.entries.append(Entry(competitor, process, timing, versions, error))
        progress("timing", 0, total, "building the limits")
        meter = stack.enter_context(Process(RooflineMeter, case))
        found.limits = {precision: Limit() for precision in PRECISIONS}

        total = (runs + burn_in) * len(found.entries) * batch
        done = 0
        for number in range(burn_in + runs):
            timed = number >= burn_in
            for entry in found.entries:
                progress("timing", done, total, entry.timing.name)
                seconds, idle = entry.process.call("run")
                done += batch
                if timed:
                    entry.timing.seconds.append(seconds)
                    entry.idle.append(idle)
            for precision, limit in found.limits.items():
                progress("timing", done, total, "the limits")
                products, profile = meter.call("products", precision), meter.call("profile", precision)
                if timed:
                    limit.products.append(products)
                    limit.profiles.append(profile)
        for entry in found.entries:
            entry.peak_memory = entry.process.call("peak_memory")
    return found


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


def against_extraction(plan: Plan, size: int, images: int) -> tuple[Timing, Timing, list[int]]:
    """Time the bare forward, one image at a time, and the extraction of as many JPEG files: see :func:`time_pairs`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = Backbone(plan, seed=0)
        photographs = folder / "photographs"
        photographs.mkdir()
        generator = np.random.default_rng(0)
        for number in range(images):
            coarse = generator.integers(0, 256, (24, 32, 3), np.uint8)
            pixels = opencv().resize(coarse, (640, 480), interpolation=opencv().INTER_CUBIC)
            opencv().imwrite(str(photographs / f"{number:03}.jpg"), pixels)
        found = find_images([str(photographs)])
        forward, noise = backbone.compile(), Workload(plan, size, 1, folder).images()
        runner = backbone.runner()
        canvas = np.zeros((size, size, plan.in_channels), np.uint8)
        chosen = throughput.choose(lambda batch: runner(np.stack([canvas] * batch)), images)
        count = itertools.count()

        def bare() -> None:
            for _ in range(images):
                forward(noise)

        def extract() -> None:
            settings = Settings(size, batch=chosen.batch)
            Extraction(runner, folder / str(next(count)), settings, threads=chosen.threads).run(found)

        return time_pairs("forward", bare, "extract", extract, images)
