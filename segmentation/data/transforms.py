"""Random views of an image and its label, made together: scale, crop, flip, and colors of the image alone.

Everything random comes from one NumPy generator in a fixed order, so a seed gives the same view in eager code, in threads and
inside ``tf.data``. Labels are sampled by nearest neighbor, never blended. (``tests/segmentation/data/test_transforms.py``)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import opencv
from dense_resnet.planning import geometry
from segmentation.data.distortion import check_keras, distort
from segmentation.data.samples import format_size

HUE_CIRCLE = 180  # OpenCV's hue of uint8, in half degrees
LONGEST = 32766  # pixels per side that OpenCV can warp: it keeps coordinates in 16 bits
MARGIN = 2  # pixels around a window, for the neighbors that are blended


@dataclass(frozen=True)
class Augmentation:
    """What training draws views from; the defaults are DeepLab's, whose colors stay as they are."""

    crop: tuple[int, int] = (513, 513)  # (height, width) in pixels of the view
    scale: tuple[float, float] = (0.5, 2.0)  # the least and the greatest factor
    flip: bool = True  # left to right, with probability 1/2
    jitter: float = 0.0  # 0.4: brightness, contrast and saturation by up to 40 %, hue by a tenth of that of the circle
    distortion: float = 0.0  # strength of :func:`segmentation.data.distortion.distort`

    def check(self) -> None:
        """Raise an :class:`InputError` for invalid values."""
        for side in self.crop:
            geometry.positive_integer("crop", side)
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise InputError(f"scale must be two factors above 0, the smaller first (not {low} {high}).")
        if not 0 <= self.jitter < 1:
            raise InputError(f"jitter must be at least 0 and below 1 (not {self.jitter}).")
        if not 0 <= self.distortion <= 1:
            raise InputError(f"distortion must be from 0 to 1 (not {self.distortion}).")
        if self.distortion:
            check_keras()


def augment(
    image: np.ndarray, label: np.ndarray, settings: Augmentation, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Draw a random view of an image, uint8 ``[height, width, channels]``, and its label, uint8, uint16 or int32.

    Returns:
        (image, label, offset): the view's pixels, at most `settings.crop` of them, and where it starts (row, column) on
        a canvas of that size. Smaller images are placed at random; :func:`place_on_canvas` pads them.

    >>> image, label = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8)
    >>> view, own, offset = augment(image, label, Augmentation((33, 65)), np.random.default_rng(0))
    >>> canvas = place_on_canvas(own, offset, (33, 65), 255)
    >>> canvas.shape
    (33, 65)
    """
    if image.shape[:2] != label.shape:
        raise InputError(f"the image is {format_size(image.shape)}, its label {format_size(label.shape)}.")
    factor = float(np.exp(generator.uniform(*np.log(settings.scale))))
    places = generator.random(2)
    mirrored = bool(generator.random() < 0.5) and settings.flip
    colors = generator.uniform(-1, 1, 4)
    full = [max(1, round(side * factor)) for side in label.shape]
    # Only the window that will be seen is scaled; a scaled pixel i is centered on (i + 0.5) / factor - 0.5 of the original.
    sizes = [min(side, most) for side, most in zip(full, settings.crop, strict=True)]
    starts = [int(place * (side - size + 1)) for place, side, size in zip(places, full, sizes, strict=True)]
    offset = [int(place * (most - size + 1)) for place, most, size in zip(places, settings.crop, sizes, strict=True)]
    steps = [side / scaled for side, scaled in zip(label.shape, full, strict=True)]
    inverse = np.array([[steps[1], 0, (starts[1] + 0.5) * steps[1] - 0.5], [0, steps[0], (starts[0] + 0.5) * steps[0] - 0.5]])
    cv2 = opencv()
    smooth = cv2.GaussianBlur(image, (0, 0), 0.5 * max(steps)) if max(steps) > 1 else image  # otherwise shrinking aliases
    size = (sizes[1], sizes[0])
    if max(label.shape) > LONGEST:
        rows, columns = (_window(*axis) for axis in zip(label.shape, inverse[::-1, 2], steps, sizes, strict=True))
        smooth, label = smooth[rows, columns], np.ascontiguousarray(label[rows, columns])
        inverse[:, 2] -= columns.start, rows.start
    linear, nearest = (kind | cv2.WARP_INVERSE_MAP for kind in (cv2.INTER_LINEAR, cv2.INTER_NEAREST))
    view = cv2.warpAffine(smooth, inverse, size, flags=linear, borderMode=cv2.BORDER_REPLICATE)
    own = cv2.warpAffine(label, inverse, size, flags=nearest, borderMode=cv2.BORDER_REPLICATE)
    view = view.reshape(*sizes, image.shape[2])
    if mirrored:
        view, own = view[:, ::-1], own[:, ::-1]
    if settings.jitter:
        view = _jitter(view, colors * settings.jitter)
    if settings.distortion:
        view, own = distort(view, own, settings.distortion, int(generator.integers(2**31)))
    return np.ascontiguousarray(view), np.ascontiguousarray(own), (offset[0], offset[1])


def place_on_canvas(values: np.ndarray, offset: tuple[int, int], size: tuple[int, int], fill: float) -> np.ndarray:
    """Put `values` on a canvas of `size` (height, width) at `offset` (row, column), and fill the rest with `fill`."""
    canvas = np.full((*size, *values.shape[2:]), fill, values.dtype)
    canvas[offset[0] : offset[0] + values.shape[0], offset[1] : offset[1] + values.shape[1]] = values
    return canvas


def _window(side: int, first: float, step: float, size: int) -> slice:
    """Return the part of an axis of `side` pixels that `size` pixels are sampled from, `step` apart, starting at `first`.

    >>> _window(100000, 39999.5, 2.0, 33)
    slice(39997, 40067, None)
    """
    start, end = max(0, math.floor(first) - MARGIN), min(side, math.ceil(first + step * (size - 1)) + MARGIN + 1)
    if end - start > LONGEST:
        raise InputError(
            f"a view of {size} pixels would shrink {end - start:,} pixels of this image, and OpenCV takes at most {LONGEST:,} "
            "per side. Raise the first --scale, or cut the image into several."
        )
    return slice(start, end)


def _jitter(image: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Change brightness, contrast, saturation and hue by `amounts`, each in (-1, 1)."""
    brightness, contrast, saturation, hue = amounts
    mean = float(image.mean())
    values = np.arange(256) * (1 + brightness)
    values = (values - mean) * (1 + contrast) + mean
    image = np.clip(np.rint(values), 0, 255).astype(np.uint8)[image]
    if image.shape[2] != 3:
        return image
    cv2 = opencv()
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    turned = (np.arange(256) + round(hue * HUE_CIRCLE / 10)) % HUE_CIRCLE
    faded = np.clip(np.rint(np.arange(256) * (1 + saturation)), 0, 255)
    hsv = np.stack([turned.astype(np.uint8)[hsv[..., 0]], faded.astype(np.uint8)[hsv[..., 1]], hsv[..., 2]], axis=-1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
