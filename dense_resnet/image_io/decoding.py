"""Validate and decode PNG and JPEG images, identified by their first bytes and not by their names.

EXIF rotation is applied, so sizes and coordinates are those of the image as a viewer shows it. Pillow decodes, because it
reports a truncated file, for which OpenCV returns gray rows.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from dense_resnet.errors import InputError, UnreadableError, pluralize
from dense_resnet.image_io import file_types, jpeg, png

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB of RGB
PNG_START, JPEG_START = png.START, b"\xff\xd8\xff"
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
TAIL = 4096  # bytes at the end of a file that are searched for its end mark
EXIF_ORIENTATION = 0x0112
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # Pillow decodes a whole PNG to search for these


@dataclass(frozen=True)
class Header:
    format: str
    size: tuple[int, int]  # (height, width) as a viewer shows it


def check_image(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header and the last bytes; decode only if the end mark is missing."""
    try:
        with open_file(path) as file:
            start = file.read(len(PNG_START))
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            end = file.read().rstrip(b"\0\r\n ")
            file.seek(0)
            with open_image(path, file, max_pixels) as image:
                width, height = image.size
                if image.info.get("progressive"):
                    _check_scans(path, read_file(path))
                turned = (orientation_of(path, read_file(path), max_pixels) if start == PNG_START else orientation(image)) >= 5
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}.") from error
    kind = "PNG" if start == PNG_START else "JPEG"
    if not end.endswith(ENDINGS[kind]):
        decode_image(path, read_file(path), max_pixels=max_pixels)  # trailing bytes are harmless, a missing end mark is not
    return Header(kind, (width, height) if turned else (height, width))


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read; raise an :class:`OSError` for a pipe or a device, which could block its reader forever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a file")
    return os.fdopen(handle, "rb")


def read_file(path: Path, most: int | None = None) -> bytes:
    """Read the bytes of a file, or at most `most` of them."""
    try:
        with open_file(path) as file:
            return file.read(-1 if most is None else most)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decode_image(path: Path, data: bytes, channels: int = 3, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the bytes of an image file to ``[height, width, channels]`` uint8: 3 channels of RGB, or 1 of gray.

    Alpha is dropped, EXIF rotation is applied. Of 16 bits, the high 8 are taken, which darkens a picture that uses only a part
    of the range: see :func:`find_deep`. `path` is for messages.
    """
    with open_image(path, io.BytesIO(data), max_pixels) as image:
        _check_scans(path, data)
        try:
            if data.startswith(PNG_START):
                png.check(data)
            image.load()
        except Exception as error:  # Pillow's decoders raise various exceptions
            raise InputError(f"{path}: cannot be decoded: {error}. The file is truncated or damaged.") from error
        turn = orientation(image)
        image.info.pop("transparency", None)  # dropped like all alpha; Pillow would convert it, or warn
        pixels = image
        if image.mode.startswith("I"):  # 16 bits, of which Pillow takes the high ones in all other modes
            pixels = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        stored = np.asarray(pixels.convert("L" if channels == 1 else "RGB"), np.uint8)
        return apply_orientation(stored.reshape(image.height, image.width, channels), turn)


class Encoded(Protocol):
    """An image file, or a part of a file that contains one."""

    @property
    def place(self) -> Path:
        """The image's name in messages."""

    def read(self, most: int | None = None) -> bytes:
        """Read its bytes, or at most `most` of them."""


def _check_scans(path: Path, data: bytes) -> None:
    if data.startswith(JPEG_START) and jpeg.has_too_many_scans(data):
        raise InputError(
            f"{path}: a JPEG of more than {jpeg.MAX_SCANS} scans, each of which goes over all pixels; encoders write about 10. "
            "The file may be a denial-of-service attempt. Save it again as a baseline JPEG, or leave it out."
        )


def open_image(path: Path, file: IO[bytes], max_pixels: int) -> Any:
    """Open a Pillow image, whose header is valid and whose size is at most `max_pixels`."""
    too_large = f"more than {pluralize(max_pixels, 'pixel')}. If that is intended, raise --max-pixels."
    Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow has one limit for the whole process
    start = file.read(len(PNG_START))
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path}: {too_large}") from None
    except Exception as error:
        if start == PNG_START or start.startswith(JPEG_START):
            raise InputError(
                f"{path}: cannot be decoded: its header is truncated or damaged, or of a rare kind, such as a JPEG of 12 bits."
            ) from error
        file.seek(0)
        known = file_types.describe(file.read(file_types.LENGTH))
        what = f"this is {known}" if known else f"its first bytes are {start!r}"
        raise InputError(f"{path}: not a PNG or JPEG image ({what}). Convert it, or leave it out of the folder.") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(f"{path}: {width}x{height} is {too_large}")
    return image


def orientation_of(path: Path, data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """Return the EXIF orientation of an image file, 1 (upright) to 8."""
    if data.startswith(PNG_START) and not any(mark in data for mark in PNG_EXIF):
        return 1  # Pillow would decode the whole file to find this out
    with open_image(path, io.BytesIO(data), max_pixels) as image:
        if data.startswith(PNG_START):  # EXIF may follow the pixels, and is read only after decoding
            with contextlib.suppress(Exception):  # decoding it later reports what is wrong
                image.load()
        return orientation(image)


def apply_orientation(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate the pixels ``[height, width, ...]`` of a file by its EXIF orientation."""
    rows, columns = _turns(orientation)
    turned = stored[::rows, ::columns]
    return np.ascontiguousarray(turned.swapaxes(0, 1) if orientation >= 5 else turned)


def undo_orientation(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Undo :func:`apply_orientation`: return ``[height, width, ...]`` as stored in the file."""
    turned = upright.swapaxes(0, 1) if orientation >= 5 else upright
    rows, columns = _turns(orientation)
    return np.ascontiguousarray(turned[::rows, ::columns])


def _turns(orientation: int) -> tuple[int, int]:
    """Return the steps through the rows and the columns of a file: -1 if they are reversed."""
    return -1 if orientation in (3, 4, 6, 7) else 1, -1 if orientation in (2, 3, 7, 8) else 1


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 for invalid values, as viewers do."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # a damaged EXIF block records no rotation, and decoding ignores it too
        return 1


def opencv() -> Any:
    """Return the cv2 module, or raise an error that says how to install one that loads."""
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"OpenCV cannot be loaded: {error}. On a machine without a display: "
            "pip uninstall -y opencv-python; pip install opencv-python-headless"
        ) from error
    return cv2
