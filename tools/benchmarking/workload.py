"""What every network of a benchmark has to compute: its plan, images, weights, and a folder for files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.planning.plan import Plan

PRECISIONS = FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"

Run = Callable[[], Any]
Array = np.ndarray


@dataclass(frozen=True)
class Workload:
    """What every competitor has to compute."""

    plan: Plan  # with classes: compute their logits, else the features
    size: int  # side of the images
    batch: int
    folder: Path  # for files that competitors read

    @property
    def output(self) -> str:
        return "logits" if self.plan.logits else "features"

    def images(self, seed: int = 0) -> Array:
        """Return ``[batch, size, size, channels]`` float32."""
        shape = (self.batch, self.size, self.size, self.plan.in_channels)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def weights(self) -> dict[str, Array]:
        """Return weights by canonical name, the same in every process; no batch norm statistic is trivial."""
        generator = np.random.default_rng(0)
        values = {}
        for name, shape, _ in self.plan.variables:
            noise: Array = generator.standard_normal(shape, np.float32)
            leaf = name.rpartition("/")[2]
            if leaf == "weights":
                noise *= 1 / math.sqrt(math.prod(shape[:-1]))
            elif leaf == "gamma":
                noise = 1 + 0.2 * noise
                noise[::5] *= -1
            elif leaf == "moving_variance":
                noise = 1 + 0.2 * np.abs(noise)
            else:
                noise *= 0.1
            values[name] = noise
        return values
