"""How many images the network takes at a time, and how many batches run at the same time.

A network in TensorFlow uses all cores by itself, but not all of the time: the small steps between its convolutions leave
some idle, which a second batch can use. What is fastest depends on machine, network and size, so it is measured, for a few
seconds, where there are images enough to win them back. Answers do not depend on how many batches run at the same time; on
the batch their last bits may, so a run that goes on keeps it. (``tests/dense_resnet/inference/test_throughput.py``)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dense_resnet.inference.cpu import cores
from dense_resnet.jobs.pipeline import ordered_map

WORTH = 100  # images from which on measuring pays: it takes the time of about 15, and wins a tenth to a fifth
GAIN = 1.03  # by which a step must be faster to be taken
LARGEST_BATCH = 16
LONGEST = 15.0  # seconds after which no further step is tried
SHORTEST = 0.3  # seconds that a speed is measured for, at least


@dataclass(frozen=True)
class Pace:
    """Images a batch, batches at the same time, and the speed where it was measured."""

    batch: int = 1
    threads: int = 1
    images_per_second: float | None = None


def choose(run: Callable[[int], Any], images: int, *, batch: int | None = None, threads: int | None = None) -> Pace:
    """The pace for a run over `images` images.

    Args:
        run: computes a batch of that many images.
        images: how many there are; below WORTH nothing is measured.
        batch, threads: fixed ones; None chooses.
    """
    if (batch and threads) or images < WORTH:
        return Pace(batch or 1, threads or min(2, cores()))
    return measure(run, batch=batch, threads=threads)


def measure(run: Callable[[int], Any], *, batch: int | None = None, threads: int | None = None) -> Pace:
    """Doubles first the threads, then the batch, for as long as that is faster. Arguments as :func:`choose`'s."""
    start = time.perf_counter()
    best = _time_run(run, Pace(batch or 1, threads or 1))
    steps = [] if threads else [("threads", cores())]
    steps += [] if batch else [("batch", LARGEST_BATCH)]
    for name, most in steps:
        while time.perf_counter() - start < LONGEST and (value := 2 * getattr(best, name)) <= most:
            other = _time_run(run, dataclasses.replace(best, **{name: value}))
            if _speed(other) < GAIN * _speed(best):
                break
            best = other
    return best


def _time_run(run: Callable[[int], Any], pace: Pace) -> Pace:
    run(pace.batch)  # a new shape has its first time
    start, batches = time.perf_counter(), 0
    while batches == 0 or time.perf_counter() - start < SHORTEST:
        batches += len(list(ordered_map(run, [pace.batch] * 2 * pace.threads, pace.threads)))
    return dataclasses.replace(pace, images_per_second=batches * pace.batch / (time.perf_counter() - start))


def _speed(pace: Pace) -> float:
    return pace.images_per_second or 0.0
