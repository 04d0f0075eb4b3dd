"""Place images on canvases: shrink them if they are larger, then pad at the bottom and on the right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dense_resnet.image_io.decoding import opencv


@dataclass(frozen=True)
class Placement:
    original_size: tuple[int, int]  # (height, width) in pixels
    size: tuple[int, int]  # after scaling
    padding: tuple[int, int]  # (bottom, right) in pixels of the canvas

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) factor from original to scaled pixels."""
        return self.size[0] / self.original_size[0], self.size[1] / self.original_size[1]

    def to_canvas(self, xy: np.ndarray) -> np.ndarray:
        """Return canvas coordinates of original pixel coordinates, ``[points, 2]`` of (x, y), pixel centers at integers."""
        return np.asarray((np.asarray(xy, np.float64) + 0.5) * self.scale[::-1] - 0.5)

    def to_original(self, xy: np.ndarray) -> np.ndarray:
        """Invert :meth:`to_canvas`."""
        return np.asarray((np.asarray(xy, np.float64) + 0.5) / self.scale[::-1] - 0.5)


def placement(original_size: tuple[int, int], side: int) -> Placement:
    """Fit an image into a `side` x `side` canvas: shrink it if its long side is longer, and never upsample it."""
    height, width = original_size
    factor = min(1.0, side / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return Placement(original_size, size, (side - size[0], side - size[1]))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink `pixels` to `size` (height, width); each new pixel is the mean of the area it covers."""
    if pixels.shape[:2] == size:
        return pixels
    resized = opencv().resize(pixels, size[::-1], interpolation=opencv().INTER_AREA)
    return np.asarray(resized).reshape(*size, pixels.shape[2])
