"""Settings of an extraction, checked without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.extraction import features
from dense_resnet.planning import geometry
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import preprocess

PROTOCOL = "extraction.json"


@dataclass(frozen=True)
class Settings:
    """Settings of an extraction. All of them are recorded, and a run resumes only with the same ones."""

    size: int = 513  # side of the canvas in pixels, 32n+1
    layers: tuple[int, ...] = ()  # strides; () is the network's own output
    dtype: str = "float32"
    batch: int = 1

    def strides(self, plan: Plan) -> tuple[int, ...]:
        """Return the layers, or the output of `plan` if none are given."""
        return tuple(sorted(set(self.layers or (plan.output_stride,))))

    def check(self, plan: Plan, side: int | None = None) -> None:
        """Raise an :class:`InputError` for what does not fit `plan`, or a network that only takes canvases of `side`."""
        geometry.check_aligned("size", self.size, plan.nominal_stride)
        if side not in (None, self.size):
            raise InputError(f"this network was exported for canvases of {side} pixels: size cannot be {self.size}.")
        if unknown := sorted(set(self.layers) - set(plan.pyramid)):
            raise InputError(f"layers must be among {', '.join(map(str, plan.pyramid))} (not {unknown[0]}).")
        if self.dtype not in features.DTYPES:
            raise InputError(f"dtype must be one of {', '.join(features.DTYPES)} (not {self.dtype!r}).")
        geometry.positive_integer("batch", self.batch)
        if plan.in_channels not in (1, 3):
            raise InputError(f"images have 1 or 3 channels, this network takes {plan.in_channels}.")
        preprocess(np.zeros((1, 1, plan.in_channels)), plan.preprocessing)  # an error if the scheme is for other channels
