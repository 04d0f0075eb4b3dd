"""Draw the pictures of the page: an image, its ground truth, its prediction and where they differ, side by side.

Labels become colors at full size and are then averaged down, so that thin errors of a large image fade instead of falling
between the pixels that are shown.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import opencv

PANELS = ("image", "ground truth", "prediction", "errors")
LONG_SIDE = 400  # pixels, of a panel
GAP = 8  # pixels between panels
STRIPE = 4  # pixels, of the hatching where the ground truth is the ignore label
LIGHT, DARK = 214, 150  # greys of the hatching
WRONG = (235, 20, 60)  # what errors are painted in
QUALITY = 90  # of the JPEG files


@dataclass(frozen=True)
class Example:
    """An image to show."""

    path: str  # as the result names it
    image: np.ndarray  # uint8 [height, width, 3], RGB
    label: np.ndarray  # [height, width] integers; values that are not classes are ignored
    prediction: np.ndarray  # [height, width] integers
    mean_iou: float | None  # of this image alone


def panel_size(example: Example) -> tuple[int, int]:
    """Return the (width, height) of a panel in pixels: the example's proportions, LONG_SIDE at the longer side."""
    height, width = (max(1, round(side * LONG_SIDE / max(example.label.shape))) for side in example.label.shape)
    return width, height


def example_panels(example: Example, colors: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Draw the panels of an example in the order of PANELS: uint8 ``[height, width, 3]`` of one size, RGB.

    Args:
        colors: RGB of each class, 0..255.

    Raises:
        InputError: the image, the label and the prediction differ in size.
    """
    shapes = example.image.shape[:2], example.label.shape, example.prediction.shape
    if len(set(shapes)) > 1:
        raise InputError(f"{example.path}: the image, the label and the prediction differ in size ({shapes}).")
    size = panel_size(example)
    ignored = (example.label < 0) | (example.label >= len(colors))
    hidden = _resize(ignored.astype(np.float32), size)
    wrong = _resize(((example.label != example.prediction) & ~ignored).astype(np.float32), size)
    image = _resize(example.image, size)
    grey = opencv().cvtColor(opencv().cvtColor(image, opencv().COLOR_RGB2GRAY), opencv().COLOR_GRAY2RGB)
    pale = 90 + 0.6 * grey  # errors stand out from a weak image
    return [
        image,
        _blend(_colorize(example.label, colors, size), _hatch(size), hidden),
        _colorize(example.prediction, colors, size),
        _blend(_blend(pale, np.array(WRONG), wrong), _hatch(size), hidden),
    ]


def example_picture(example: Example, colors: Sequence[Sequence[int]]) -> bytes:
    """Return the panels in a row, GAP apart, as a JPEG file. Arguments as :func:`example_panels`."""
    panels = example_panels(example, colors)
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
    return encode(row, "JPEG", quality=QUALITY, subsampling=0)  # chroma subsampling would smear the labels


def encode(pixels: np.ndarray, kind: str, **settings: int) -> bytes:
    """Return the file of uint8 ``[height, width, channels]``, a "JPEG" or a "PNG"."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    return file.getvalue()


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    cv2 = opencv()
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST))


def _colorize(labels: np.ndarray, colors: Sequence[Sequence[int]], size: tuple[int, int]) -> np.ndarray:
    """Color labels by class; values that are not classes get the hatching's light gray."""
    palette = np.array([*colors, (LIGHT,) * 3], np.uint8)
    known = (labels >= 0) & (labels < len(colors))
    return _resize(palette[np.where(known, labels, len(colors))], size)


def _hatch(size: tuple[int, int]) -> np.ndarray:
    """Draw diagonal stripes, ``[height, width, 1]``."""
    stripes = np.add.outer(np.arange(size[1]), np.arange(size[0])) // STRIPE % 2
    return np.where(stripes, LIGHT, DARK)[..., None]


def _blend(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Lay `above` over `below` where `share` ``[height, width]`` is 1, and mix them where it is less."""
    return np.rint(below + (above - below.astype(np.float32)) * share[..., None]).astype(np.uint8)
