"""Options for running a model on an image, checked without TensorFlow. :mod:`segmentation.prediction` runs it."""

from __future__ import annotations

from dataclasses import dataclass

from dense_resnet.errors import InputError
from dense_resnet.planning import geometry
from segmentation.metrics.presets import SIZES, UPSAMPLES

SIZE = 513  # pixels, the usual canvas
NATIVE, INPUT = SIZES
FACTORS = (0.1, 10.0)  # the least and the greatest scale


@dataclass(frozen=True)
class Inference:
    """How a model is run on an image."""

    size: int = SIZE  # side of the canvas, 32n+1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False  # also run each scale mirrored left to right
    tile: int | None = None  # side of sliding windows, 32n+1; None runs the image whole
    upsample: str = UPSAMPLES[0]
    score: str = NATIVE  # "input" keeps the padding, for evaluators that score the canvas

    def check(self, nominal_stride: int) -> None:
        """Raise an :class:`InputError` for invalid values."""
        for name, side in (("size", self.size), ("tile", self.tile)):
            if side is not None:
                geometry.check_aligned(name, side, nominal_stride)
        least, greatest = FACTORS
        if not self.scales or not all(least <= scale <= greatest for scale in self.scales):
            raise InputError(f"scales must be factors from {least} to {greatest} (not {self.scales}).")
        for name, value, allowed in (("upsample", self.upsample, UPSAMPLES), ("score", self.score, SIZES)):
            if value not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)} (not {value!r}).")
        if self.score == INPUT and (self.averages or self.tile):
            raise InputError("scoring the input canvas has no meaning for several scales, mirror images or sliding windows.")

    @property
    def averages(self) -> bool:
        """Whether several runs are averaged, or one was scaled."""
        return self.flip or self.scales != (1.0,)


USUAL = Inference()
