"""Forward time as the field reports it, and ratios against others that ran in turn with it.

Machines are shared and noisy, so competitors alternate, run by run, and the ratio is taken pair by pair; its median is the
figure to quote. Nothing is timed before `burn_in` runs of everyone.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet import resnet_utils
from dense_resnet.backbone import Backbone
from dense_resnet.compat import slim
from dense_resnet.extraction import Extraction, Settings
from dense_resnet.images import find_images, opencv
from dense_resnet.parity import slim_network
from dense_resnet.plan import Plan

Run = Callable[[], Any]


@dataclass
class Timing:
    """One competitor."""

    name: str
    build_seconds: float  # from nothing to ready, first run included
    seconds: list[float] = field(default_factory=list)  # of each timed run
    images: int = 1  # in a run

    def as_dict(self) -> dict[str, Any]:
        """The figures: seconds a run, images a second."""
        median = statistics.median(self.seconds)
        return {
            "name": self.name,
            "build_seconds": self.build_seconds,
            "mean": statistics.mean(self.seconds),
            "sd": statistics.stdev(self.seconds) if len(self.seconds) > 1 else 0.0,
            "median": median,
            "minimum": min(self.seconds),
            "images_per_second": self.images / median,
            "seconds": self.seconds,
        }


def prepared(name: str, make: Callable[[], Run], images: int) -> tuple[Timing, Run]:
    """Builds a competitor and runs it once."""
    start = time.perf_counter()
    run = make()
    run()
    return Timing(name, time.perf_counter() - start, images=images), run


def alternate(competitors: Sequence[tuple[Timing, Run]], runs: int, burn_in: int) -> None:
    """Runs everyone in turn, `burn_in` times unrecorded and then `runs` times."""
    for number in range(burn_in + runs):
        for timing, run in competitors:
            start = time.perf_counter()
            run()
            if number >= burn_in:
                timing.seconds.append(time.perf_counter() - start)


def ratio(slower: Timing, faster: Timing) -> float:
    """Median over pairs of runs of `slower` / `faster`: above 1 where the second is faster."""
    return statistics.median(a / b for a, b in zip(slower.seconds, faster.seconds, strict=True))


def noise_images(plan: Plan, size: int, batch: int) -> np.ndarray:
    """``[batch, size, size, channels]`` float32."""
    shape = (batch, size, size, plan.in_channels)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def backbone_forward(backbone: Backbone, images: np.ndarray) -> Run:
    """The backbone in a ``tf.function`` of its own."""
    function = tf.function(backbone, autograph=False).get_concrete_function(tf.TensorSpec(images.shape, tf.float32))
    tensor = tf.constant(images)
    return lambda: function(tensor).numpy()


def compiled_forward(backbone: Backbone, images: np.ndarray, precision: str) -> Run:
    """The backbone frozen for inference."""
    compiled = backbone.compile(precision)
    return lambda: compiled(images)


def slim_forward(plan: Plan, images: np.ndarray) -> Run:
    """The same network by ``tf_slim.nets``, in a session."""
    network = slim_network(plan)
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        placeholder = v1.placeholder(tf.float32, images.shape)
        with slim.arg_scope(resnet_utils.resnet_arg_scope()):
            net, _ = network(placeholder, None, is_training=False, global_pool=False, output_stride=plan.output_stride)
        session = v1.Session(graph=graph)
        session.run(v1.global_variables_initializer())
    return lambda: session.run(net, {placeholder: images})


def extraction_forward(plan: Plan, size: int, images: int, folder: Path) -> tuple[Callable[[], Any], Run]:
    """(the bare forward of `images` images one by one, their extraction from JPEG files to disk) with one backbone.

    Each run of the second writes to a folder of its own.
    """
    backbone = Backbone(plan, seed=0)
    photographs = folder / "photographs"
    photographs.mkdir()
    generator = np.random.default_rng(0)
    for number in range(images):
        coarse = generator.integers(0, 256, (24, 32, 3), np.uint8)
        pixels = opencv().resize(coarse, (640, 480), interpolation=opencv().INTER_CUBIC)
        opencv().imwrite(str(photographs / f"{number:03}.jpg"), pixels)
    found = find_images([str(photographs)])
    forward = backbone_forward(backbone, noise_images(plan, size, 1))
    count = iter(range(sys.maxsize))

    def bare() -> None:
        for _ in range(images):
            forward()

    def extract() -> None:
        Extraction(backbone, folder / str(next(count)), Settings(size)).run(found)

    return bare, extract


def against_extraction(plan: Plan, size: int, images: int, runs: int) -> tuple[Timing, Timing, list[int]]:
    """(bare forward, extraction, peak memory in bytes after each pair of runs) over `images` JPEG files a run."""
    with tempfile.TemporaryDirectory() as name:
        bare, extract = extraction_forward(plan, size, images, Path(name))
        competitors = prepared("forward", lambda: bare, images), prepared("extract", lambda: extract, images)
        peaks = []
        for _ in range(runs):
            alternate(competitors, runs=1, burn_in=0)
            peaks.append(peak_memory())
        return competitors[0][0], competitors[1][0], peaks


def peak_memory() -> int:
    """Bytes: the most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
