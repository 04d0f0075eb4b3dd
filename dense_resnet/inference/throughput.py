"""Choose batch size and number of concurrent batches by measuring throughput.

The small steps between a network's convolutions leave cores idle, which a second batch can use. Results do not depend on the
number of concurrent batches; their last bits may depend on the batch size, so a resumed run keeps it.
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
    batch: int = 1  # images
    threads: int = 1  # batches at the same time
    images_per_second: float = 0.0  # 0 where it was not measured


def choose(
    run: Callable[[int], Any],
    images: int,
    *,
    batch: int | None = None,
    threads: int | None = None,
    prepare: Callable[[int], Any] = lambda threads: None,
) -> Pace:
    """Choose the pace for `images` images, where it is not given.

    Args:
        run: computes a batch of as many images as it is told.
        prepare: is told how many threads will call `run` at the same time.
    """
    if (batch and threads) or images < WORTH:
        return Pace(batch or 1, threads or min(2, cores()))
    return measure(run, batch=batch, threads=threads, prepare=prepare)


def measure(
    run: Callable[[int], Any],
    *,
    batch: int | None = None,
    threads: int | None = None,
    prepare: Callable[[int], Any] = lambda threads: None,
) -> Pace:
    """Double first the threads, then the batch, as long as that is faster; arguments as :func:`choose`."""
    start = time.perf_counter()
    prepare(threads or 1)
    best = _time_run(run, Pace(batch or 1, threads or 1))
    steps = [] if threads else [("threads", cores())]
    steps += [] if batch else [("batch", LARGEST_BATCH)]
    for name, most in steps:
        while time.perf_counter() - start < LONGEST and (value := 2 * getattr(best, name)) <= most:
            if name == "threads":
                prepare(value)
            other = _time_run(run, dataclasses.replace(best, **{name: value}))
            if other.images_per_second < GAIN * best.images_per_second:
                break
            best = other
    return best


def _time_run(run: Callable[[int], Any], pace: Pace) -> Pace:
    run(pace.batch)  # the first run of a new shape is slower
    start, batches = time.perf_counter(), 0
    while batches == 0 or time.perf_counter() - start < SHORTEST:
        batches += len(list(ordered_map(run, [pace.batch] * 2 * pace.threads, pace.threads)))
    return dataclasses.replace(pace, images_per_second=batches * pace.batch / (time.perf_counter() - start))
