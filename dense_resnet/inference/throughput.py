"""Choose batch size and number of concurrent batches by measuring throughput.

A network in TensorFlow uses all cores, but not all of the time: the small steps between its convolutions leave some idle,
which a second batch can use. The optimum depends on machine, network and size, so it is measured for a few seconds if
there are enough images to make up for them. Results do not depend on the number of concurrent batches; their last bits may
depend on the batch size, so a resumed run keeps it.
(``tests/dense_resnet/inference/test_throughput.py``)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dense_resnet.inference.cpu import cores
from dense_resnet.jobs.pipeline import ordered_map

WORTH = 100  # least number of images for measuring, which takes the time of about 15 and gains a tenth to a fifth
GAIN = 1.03  # least speed-up of a step that is kept
LARGEST_BATCH = 16
LONGEST = 15.0  # seconds after which no further step is tried
SHORTEST = 0.3  # least seconds for measuring a speed


@dataclass(frozen=True)
class Pace:
    """Images per batch, concurrent batches, and the speed if it was measured."""

    batch: int = 1
    threads: int = 1
    images_per_second: float | None = None


def choose(run: Callable[[int], Any], images: int, *, batch: int | None = None, threads: int | None = None) -> Pace:
    """Choose the pace for a run over `images` images.

    Args:
        run: computes a batch of that many images.
        images: their number; below WORTH nothing is measured.
        batch, threads: fixed ones; None chooses.
    """
    if (batch and threads) or images < WORTH:
        return Pace(batch or 1, threads or min(2, cores()))
    return measure(run, batch=batch, threads=threads)


def measure(run: Callable[[int], Any], *, batch: int | None = None, threads: int | None = None) -> Pace:
    """Double first the threads, then the batch, as long as that is faster. Arguments as :func:`choose`."""
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
    run(pace.batch)  # the first run of a new shape is slower
    start, batches = time.perf_counter(), 0
    while batches == 0 or time.perf_counter() - start < SHORTEST:
        batches += len(list(ordered_map(run, [pace.batch] * 2 * pace.threads, pace.threads)))
    return dataclasses.replace(pace, images_per_second=batches * pace.batch / (time.perf_counter() - start))


def _speed(pace: Pace) -> float:
    return pace.images_per_second or 0.0
