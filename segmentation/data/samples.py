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
    exif: str = "error"  # at an EXIF rotation: "error", "apply" (turn it; the label is as shown) or "ignore"

    def __str__(self) -> str:
        return self.name

    def image_bytes(self) -> bytes:
        return self.image.read()

    def label_bytes(self) -> bytes:
        if self.label is None:
            raise InputError(f"{self.image}: this image has no label.")
        return self.label.read()

    def read_image(self, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode the image, uint8 ``[height, width, 3]`` RGB.

        Raises:
            InputError: it cannot be decoded, is too large, or has an EXIF rotation and ``exif`` is "error".
        """
        return self.decode_image(self.image_bytes(), max_pixels)

    def decode_image(self, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode the image from bytes that were already read, as :meth:`read_image`."""
        orientation = self.orientation(data, max_pixels)
        if orientation != 1 and self.exif == "error":
            raise InputError(
                f"{self.image}: has EXIF rotation {orientation}, and it is unknown whether its label is rotated too. Choose "
                "--exif apply (the label fits the image as viewers show it) or --exif ignore (as stored)."
            )
        pixels = decode_image(self.image.place, data, max_pixels=max_pixels)
        return pixels if self.exif == "apply" else undo_orientation(pixels, orientation)

    def orientation(self, data: bytes, max_pixels: int = MAX_PIXELS) -> int:
        """Return the EXIF orientation of the encoded image, 1 (upright) to 8."""
        return orientation_of(self.image.place, data, max_pixels)

    def read_label(self, space: LabelSpace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode the label ``[height, width]``: see :func:`segmentation.data.label_files.decode_label`."""
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
    problems: tuple[str, ...] = ()  # found when pairing: unmatched, duplicate, missing
    notes: tuple[str, ...] = ()  # what was ignored

    def check_apart(self, out: Path) -> None:
        """Raise an :class:`InputError` if the folder `out` contains any of the data."""
        sources = (source for sample in self.samples for source in (sample.image, sample.label) if source)
        for folder in sorted({source.path.parent for source in sources}):
            if atomic_files.lies_in(folder / out.name, out):
                raise InputError(f"{out}: contains the dataset itself ({folder}). Choose another folder for --out.")


def format_size(shape: tuple[int, ...]) -> str:
    """Format a size (height, width) as people write it: width first."""
    return f"{shape[1]}x{shape[0]}"
