"""Time runs in turn: machines are shared and noisy, so a ratio is the median over pairs of runs of one round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dense_resnet.jobs.resumable import never

from .workload import Run

Stopped = Callable[[], bool]  # whether somebody asked for an end


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


def alternate(competitors: Sequence[tuple[Timing, Run]], runs: int, burn_in: int, stopped: Stopped = never) -> None:
    """Run every competitor in turn, `burn_in` times unrecorded and then `runs` times; a round that is cut short is dropped."""
    for number in range(burn_in + runs):
        seconds = []
        for _, run in competitors:
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
            if stopped():
                return
        if number >= burn_in:
            for (timing, _), value in zip(competitors, seconds, strict=True):
                timing.seconds.append(value)


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Return the median over pairs of times of `slower` / `faster`: above 1 if the second is faster."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))
