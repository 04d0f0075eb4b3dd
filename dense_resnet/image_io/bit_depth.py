"""Find 16-bit images among many, and report how dark they are when only their high byte is read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_resnet.errors import InputError, pluralize
from dense_resnet.image_io.decoding import MAX_PIXELS, PNG_START, Encoded, open_image

PNG_DEPTH = 24  # offset of the byte in a PNG that holds the bits per sample
DEEP = 16  # bits per sample
DARK = 2**15  # a picture is dark if its brightest 16-bit value is below this
LOOKED_AT = 16  # files that are decoded of many


@dataclass(frozen=True)
class DeepImages:
    """The 16-bit images of a set, and how :func:`decode_image` reads them."""

    first: Path
    count: int
    low: int  # values in the files that were decoded
    high: int
    looked_at: int

    @property
    def are_dark(self) -> bool:
        """Whether most of the range is unused, so that they look dark."""
        return self.high < DARK

    def __str__(self) -> str:
        others = f" and {pluralize(self.count - 1, 'other image')}" if self.count > 1 else ""
        seen = f" in the {self.looked_at} looked at" if self.looked_at < self.count else ""
        text = (
            f"{self.first}{others}: 16-bit, with values {self.low} to {self.high} of {2**DEEP - 1}{seen}; read as value / 256, "
            f"which is {self.low >> 8} to {self.high >> 8} of 255"
        )
        if not self.are_dark:
            return f"{text}."
        how_dark = "almost black" if self.high < DARK // 4 else "dark"
        return f"{text}: {how_dark}. Save with 8 bits, such as value * 255 / {max(1, self.high)}."


def sample_evenly(items: Sequence[Any]) -> Sequence[Any]:
    """Take at most LOOKED_AT of the items, at equal steps."""
    return items[:: max(1, -(-len(items) // LOOKED_AT))]


def find_deep(pictures: Iterable[Encoded], max_pixels: int = MAX_PIXELS) -> DeepImages | None:
    """Find the 16-bit PNGs among `pictures` by their headers, with the range of values in some of them; None without any."""
    deep = []
    for picture in pictures:
        with contextlib.suppress(InputError):  # decoding reports what is wrong with it
            start = picture.read(PNG_DEPTH + 1)
            if start.startswith(PNG_START) and start[PNG_DEPTH:] == bytes([DEEP]):
                deep.append(picture)
    ranges = []
    for picture in sample_evenly(deep):
        with contextlib.suppress(InputError):
            ranges.append(_range_of(picture, max_pixels))
    if not ranges:
        return None
    lows, highs = zip(*ranges, strict=True)
    return DeepImages(deep[0].place, len(deep), min(lows), max(highs), len(ranges))


def _range_of(picture: Encoded, max_pixels: int) -> tuple[int, int]:
    """Return the (lowest, highest) value of a 16-bit image; for colors, whose low bits Pillow drops, the possible range."""
    with open_image(picture.place, io.BytesIO(picture.read()), max_pixels) as image:
        try:
            image.load()
        except Exception as error:  # Pillow's decoders raise various exceptions
            raise InputError(f"{picture.place}: cannot be decoded: {error}.") from error
        if image.mode.startswith("I"):
            low, high = image.getextrema()
            return int(low), int(high)
        bands = zip(image.getbands(), image.split(), strict=True)
        lows, highs = zip(*(band.getextrema() for name, band in bands if name != "A"), strict=True)
        return min(lows) << 8, (max(highs) << 8) + 255
