"""Pairs of an image and its label file, and datasets of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import MAX_PIXELS, decode_image, orientation_of, undo_orientation
from dense_resnet.jobs import atomic_files
from segmentation.data.label_files import decode_label
from segmentation.data.label_space import LabelSpace
from segmentation.data.source import Source

EXIF = ("error", "apply", "ignore")
LABEL_MAPS = ("trainIds", "labelIds", "reduce_zero_label")
WHOLE = "all"  # the split of a dataset without splits


@dataclass(frozen=True)
class Sample:
    """An image and its label."""

    name: str  # relative path without extension, forward slashes; unique within a dataset
    image: Source
    label: Source | None = None
    exif: str = "error"  # what a rotated image gets: "error", "apply" (turned; the label is as shown) or "ignore"

    def __str__(self) -> str:
        return self.name

    def image_bytes(self) -> bytes:
        """The encoded image."""
        return self.image.read()

    def label_bytes(self) -> bytes:
        """The encoded label."""
        if self.label is None:
            raise InputError(f"{self.image}: there is no label to this image.")
        return self.label.read()

    def read_image(self, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The image, uint8 ``[height, width, 3]`` RGB.

        Raises:
            InputError: it cannot be decoded, is too large, or has an EXIF rotation and ``exif`` is "error".
        """
        return self.decode_image(self.image_bytes(), max_pixels)

    def decode_image(self, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """As :meth:`read_image`, of bytes that were read already."""
        path = self.image.place
        orientation = self.orientation(data, max_pixels)
        if orientation != 1 and self.exif == "error":
            raise InputError(
                f"{path}: has EXIF rotation {orientation}, and whether its label is turned too cannot be known. Choose "
                "--exif apply (the label fits the image as viewers show it) or --exif ignore (as it is stored)."
            )
        pixels = decode_image(path, data, max_pixels=max_pixels)
        return pixels if self.exif == "apply" else undo_orientation(pixels, orientation)

    def orientation(self, data: bytes, max_pixels: int = MAX_PIXELS) -> int:
        """The EXIF orientation of the encoded image, 1 (upright) to 8."""
        return orientation_of(self.image.place, data, max_pixels)

    def is_turned(self, data: bytes, max_pixels: int = MAX_PIXELS) -> bool:
        """Whether an encoded image has an EXIF rotation."""
        return self.orientation(data, max_pixels) != 1

    def read_label(self, space: LabelSpace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The label ``[height, width]``: see :func:`segmentation.data.label_files.decode_label`."""
        data = self.label_bytes()
        assert self.label is not None
        return decode_label(self.label.place, data, space, max_pixels)


@dataclass(frozen=True)
class Dataset:
    """The pairs of one split, in the order of their names or of their list."""

    name: str
    split: str
    space: LabelSpace
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()  # what finding pairs turned up: unmatched, duplicate, missing
    notes: tuple[str, ...] = ()  # what was left out

    def check_apart(self, out: Path) -> None:
        """Raises an :class:`InputError` where the folder `out` holds any of the data."""
        sources = (source for sample in self.samples for source in (sample.image, sample.label) if source)
        for folder in sorted({source.path.parent for source in sources}):
            if atomic_files.lies_in(folder / out.name, out):
                raise InputError(f"{out}: holds the data themselves ({folder}). Choose an --out of its own.")


@dataclass(frozen=True)
class Pairs:
    """What looking for one split's pairs gave."""

    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what was left out
