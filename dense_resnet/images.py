"""Finding and reading real images: what is admitted, what is refused before any work, and how pixels come out.

Only PNG and JPEG are decoded, told by their first bytes and not by their names. EXIF rotation is applied, so sizes and
coordinates are those of the image as a viewer shows it. Pillow decodes, because it reports a truncated file where OpenCV
returns grey rows.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from dense_resnet import files, jpeg, kinds, png
from dense_resnet.errors import InputError, UnreadableError, counted

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".jpg", ".jpeg", ".png")
KEPT_ASIDE = ("__MACOSX", "@eaDir")  # folders of archives made on a Mac, and of a NAS for its previews
UNREAD = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB of RGB
PNG_START, JPEG_START = png.START, b"\xff\xd8\xff"
PNG_DEPTH = 24  # where in a PNG the bits per sample stand, a byte
DEEP = 16  # bits per sample
DARK = 2**15  # the brightest value of 16 bits below which a picture comes out dark
LOOKED_AT = 16  # of many files, where some of them tell what is asked
TAIL = 4096  # bytes at the end of a file in which its end mark is looked for
MOST_NAMED = 3  # hidden files in one message
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
EXIF_ORIENTATION = 0x0112
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # Pillow decodes a PNG to look for what may be absent


@dataclass(frozen=True)
class Found:
    """An image to read."""

    path: Path
    relative: str  # under the folder it was found through, with forward slashes: what outputs are named after

    @property
    def place(self) -> Path:
        """For messages."""
        return self.path

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or the first of them."""
        return read_file(self.path, most)


def find_images(
    sources: Sequence[str],
    without: str | os.PathLike[str] | None = None,
    note: Callable[[str], object] = lambda message: None,
) -> list[Found]:
    """The images that `sources` mean, sorted by relative path.

    Args:
        sources: folders (searched through, for .jpg, .jpeg and .png), image files, glob patterns, or ``.txt`` lists with
            one path a line, relative to the list's own folder and inside it. In folders, hidden files and folders are left out.
        without: a folder whose files do not count, even where a source holds it.
        note: called with a message for each folder that also holds pictures under other names, or hidden ones.

    Raises:
        InputError: a source does not exist or holds no image, a list leaves its folder, or two images would have the
            same relative path. All problems of a list are named at once.
    """
    found: list[Found] = []
    single: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            hidden: list[Path] = []
            everything = list(_walk(path, hidden))
            inside = [file for file in everything if file.suffix.lower() in SUFFIXES]
            if without is not None and inside:
                inside = [file for file in inside if not files.lies_in(file, Path(without))]
                if not inside:
                    raise InputError(f"{source}: all its images are in {without}, where results go. Choose another --out.")
            if not inside:
                others = sorted({file.suffix.lower() for file in everything} - {""})[:10]
                held = (
                    f" It holds files of other kinds ({', '.join(others)}): convert pictures to PNG or JPEG." if others else ""
                )
                held += f" {_hidden_note(hidden)}" if hidden else ""
                raise InputError(f"{source}: the folder holds no image (looked for {', '.join(SUFFIXES)}).{held}")
            if unread := Counter(file.suffix.lower() for file in everything if file.suffix.lower() in UNREAD):
                held = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
                note(f"{source}: other pictures are left out ({held}): PNG and JPEG are read, as {', '.join(SUFFIXES)}.")
            if hidden:
                note(f"{source}: {_hidden_note(hidden)}")
            found += [Found(file, file.relative_to(path).as_posix()) for file in inside]
        elif path.is_file() and path.suffix.lower() == ".txt":
            found += _listed(path)
        elif path.is_file():
            single.append(path)
        elif glob.has_magic(source):
            matches = [Path(match) for match in glob.glob(source, recursive=True) if not os.path.isdir(match)]
            if not matches:
                raise InputError(f"{source}: no file matches this pattern.")
            single += matches
        else:
            raise InputError(f"{source}: no such file or folder.")
    if single:
        absolute = [Path(os.path.abspath(file)) for file in single]
        common = Path(os.path.commonpath([file.parent for file in absolute]))
        found += [Found(file, path.relative_to(common).as_posix()) for file, path in zip(single, absolute, strict=True)]
    by_name: dict[str, Found] = {}
    for image in found:
        other = by_name.setdefault(image.relative, image)
        if other.path.absolute() != image.path.absolute():
            raise InputError(
                f"{other.path} and {image.path} would both be named {image.relative}, and one would overwrite the other. "
                "Run them separately, or name the folder above both."
            )
    return [by_name[name] for name in sorted(by_name)]


def check_apart(found: Sequence[Found], out: Path) -> None:
    """Raises an :class:`InputError` where the folder `out`, which results go to, holds an image."""
    for image in found:
        if files.lies_in(image.path, out):
            raise InputError(f"{out}: holds the images themselves ({image.path}). Choose an --out of its own.")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is a program's own, such as ``.ipynb_checkpoints`` or a Mac's ``._a.jpg``."""
    return name.startswith(".") or name in KEPT_ASIDE


def _hidden_note(hidden: Sequence[Path]) -> str:
    """A message of the hidden files and folders that were left out."""
    named = ", ".join(path.name for path in hidden[:MOST_NAMED]) + (", …" if len(hidden) > MOST_NAMED else "")
    return f"hidden files and folders are left out ({len(hidden):,}: {named})."


def _walk(folder: Path, hidden: list[Path], above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Every file below `folder`, links followed, but not into a folder that they are in; a folder that cannot be read is an
    error, not an empty one. Folders and pictures that are hidden are added to `hidden` instead.
    """
    try:
        found = os.stat(folder)
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}.") from error
    own = (found.st_dev, found.st_ino)
    for entry in entries if own not in above else ():
        is_folder = entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
        if is_hidden(entry.name):
            hidden += [Path(entry.path)] if is_folder or Path(entry.name).suffix.lower() in SUFFIXES else []
        elif is_folder:
            yield from _walk(Path(entry.path), hidden, above | {own})
        else:
            yield Path(entry.path)


def _listed(path: Path) -> list[Found]:
    found, problems = [], []
    for number, line in enumerate(path.read_text("utf-8-sig", errors="surrogateescape").splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            problems.append(f"line {number}: {name!r} is not inside the list's folder")
        elif not os.path.isfile(path.parent / name):
            problems.append(f"line {number}: no such file {name!r} in {path.parent}")
        else:
            found.append(Found(path.parent / name, str(pure)))
    if problems:
        found_bad = f"{counted(len(problems), 'bad line')}: {'; '.join(problems[:10])}"
        raise InputError(f"{path}: {found_bad}. A line is one path, from the list's folder on.")
    if not found:
        raise InputError(f"{path}: the list is empty.")
    return found


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded."""

    format: str
    size: tuple[int, int]  # (height, width) as a viewer shows it


def check_image(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the header and the last bytes; decodes only where the end of the file is missing.

    Raises:
        InputError: not a PNG or JPEG, too large, of too many scans, or truncated.
    """
    try:
        with open_file(path) as file:
            start = file.read(len(PNG_START))
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            end = file.read().rstrip(b"\0\r\n ")
            file.seek(0)
            with opened(path, file, max_pixels) as image:
                width, height = image.size
                if image.info.get("progressive"):
                    _check_scans(path, read_file(path))
                turned = (orientation_of(path, read_file(path), max_pixels) if start == PNG_START else orientation(image)) >= 5
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}.") from error
    width, height = (height, width) if turned else (width, height)
    kind = "PNG" if start == PNG_START else "JPEG"
    if not end.endswith(ENDINGS[kind]):
        decode_image(path, read_file(path), max_pixels=max_pixels)  # trailing bytes are harmless, a missing end is not
    return Header(kind, (height, width))


def open_file(path: Path) -> IO[bytes]:
    """A file to read; an :class:`OSError` for a pipe or a device, which could keep its reader waiting for ever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no file")
    return os.fdopen(handle, "rb")


def read_file(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file, or at most so many of them."""
    try:
        with open_file(path) as file:
            return file.read(-1 if most is None else most)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decode_image(path: Path, data: bytes, channels: int = 3, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of an image file.

    Grey and palette images become RGB, alpha is dropped, EXIF rotation is applied. Of 16 bits, the high 8 are taken, which
    leaves little of a picture that uses a part of the range only: see :func:`find_deep`.

    Args:
        path: for messages.
        data: the file's bytes.
        channels: 3 for RGB, 1 for grey.
        max_pixels: refused above, before decoding.

    Returns:
        ``[height, width, channels]`` uint8.
    """
    with opened(path, io.BytesIO(data), max_pixels) as image:
        _check_scans(path, data)
        try:
            if data.startswith(PNG_START):
                png.check(data)
            image.load()
        except Exception as error:  # Pillow's decoders raise what they please
            raise InputError(f"{path}: cannot be decoded: {error}. The file is truncated or damaged.") from error
        turn = orientation(image)
        image.info.pop("transparency", None)  # dropped as all alpha; Pillow would convert it, or warn
        pixels = image
        if image.mode.startswith("I"):  # 16 bits, of which Pillow takes the high ones in all other kinds
            pixels = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        stored = np.asarray(pixels.convert("L" if channels == 1 else "RGB"), np.uint8)
        return upright(stored.reshape(image.height, image.width, channels), turn)


class Encoded(Protocol):
    """An image file, or a part of a file that holds one."""

    @property
    def place(self) -> Path:
        """For messages."""

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or the first of them."""


@dataclass(frozen=True)
class DeepImages:
    """The 16-bit ones of many images, and what :func:`decode_image` makes of them."""

    first: Path
    count: int
    low: int  # values in the files, of those that were looked at
    high: int
    looked_at: int

    @property
    def are_dark(self) -> bool:
        """Whether most of the range is unused, so that they come out dark."""
        return self.high < DARK

    def __str__(self) -> str:
        others = f" and {counted(self.count - 1, 'other image')}" if self.count > 1 else ""
        seen = f" in the {self.looked_at} looked at" if self.looked_at < self.count else ""
        text = (
            f"{self.first}{others}: 16-bit, with values {self.low} to {self.high} of {2**DEEP - 1}{seen}; read as value / 256, "
            f"which is {self.low >> 8} to {self.high >> 8} of 255"
        )
        if not self.are_dark:
            return f"{text}."
        how_dark = "almost black" if self.high < DARK // 4 else "dark"
        return f"{text}: {how_dark}. Save with 8 bits, such as value * 255 / {max(1, self.high)}."


def spread(items: Sequence[Any]) -> Sequence[Any]:
    """Take at most LOOKED_AT of the items, at equal steps: all that decoding some of them can tell."""
    return items[:: max(1, -(-len(items) // LOOKED_AT))]


def find_deep(pictures: Iterable[Encoded], max_pixels: int = MAX_PIXELS) -> DeepImages | None:
    """The 16-bit PNGs among `pictures`, told by their headers, with the range of values in some of them; None without any.

    What cannot be read is passed over: decoding it for its own sake says what is wrong.
    """
    deep = []
    for picture in pictures:
        with contextlib.suppress(InputError):
            start = picture.read(PNG_DEPTH + 1)
            if start.startswith(PNG_START) and start[PNG_DEPTH:] == bytes([DEEP]):
                deep.append(picture)
    ranges = []
    for picture in spread(deep):
        with contextlib.suppress(InputError):
            ranges.append(_range_of(picture, max_pixels))
    if not ranges:
        return None
    lows, highs = zip(*ranges, strict=True)
    return DeepImages(deep[0].place, len(deep), min(lows), max(highs), len(ranges))


def _range_of(picture: Encoded, max_pixels: int) -> tuple[int, int]:
    """(lowest, highest) value of a 16-bit image; in colours, where Pillow keeps the high bits alone, what they allow."""
    with opened(picture.place, io.BytesIO(picture.read()), max_pixels) as image:
        try:
            image.load()
        except Exception as error:  # Pillow's decoders raise what they please
            raise InputError(f"{picture.place}: cannot be decoded: {error}.") from error
        if image.mode.startswith("I"):
            low, high = image.getextrema()
            return int(low), int(high)
        bands = zip(image.getbands(), image.split(), strict=True)
        lows, highs = zip(*(band.getextrema() for name, band in bands if name != "A"), strict=True)
        return min(lows) << 8, (max(highs) << 8) + 255


def _check_scans(path: Path, data: bytes) -> None:
    if data.startswith(JPEG_START) and jpeg.has_too_many_scans(data):
        raise InputError(
            f"{path}: a JPEG of more than {jpeg.MAX_SCANS} scans, each of which goes over all pixels; encoders write about 10. "
            "It may be made to keep its readers busy. Save it again as a baseline JPEG, or leave it out."
        )


def opened(path: Path, file: IO[bytes], max_pixels: int) -> Any:
    """A Pillow image whose header has been read and found admissible; raises an :class:`InputError` otherwise."""
    Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow has one limit for the process, and so have we
    start = file.read(len(PNG_START))
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path}: more than {counted(max_pixels, 'pixel')}. If that is right, raise --max-pixels.") from None
    except Exception as error:
        if start == PNG_START or start.startswith(JPEG_START):
            raise InputError(
                f"{path}: cannot be decoded: its header is truncated or damaged, or of a rare kind, such as a JPEG of 12 bits."
            ) from error
        file.seek(0)
        known = kinds.kind_of(file.read(kinds.LENGTH))
        what = f"this is {known}" if known else f"its first bytes are {start!r}"
        raise InputError(f"{path}: not a PNG or JPEG image ({what}). Convert it, or leave it out of the folder.") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {width}x{height} is more than {counted(max_pixels, 'pixel')}. If that is right, raise --max-pixels."
        )
    return image


def orientation_of(path: Path, data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """The EXIF orientation of an image file, 1 (upright) to 8."""
    if data.startswith(PNG_START) and not any(mark in data for mark in PNG_EXIF):
        return 1  # Pillow would decode all of it to say so
    with opened(path, io.BytesIO(data), max_pixels) as image:
        if data.startswith(PNG_START):  # what stands behind the pixels may say it, and is seen once they are decoded
            with contextlib.suppress(Exception):  # whoever decodes it says what is wrong
                image.load()
        return orientation(image)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Turns the pixels ``[height, width, ...]`` of a file as its EXIF orientation says."""
    rows, columns = _turns(orientation)
    turned = stored[::rows, ::columns]
    return np.ascontiguousarray(turned.swapaxes(0, 1) if orientation >= 5 else turned)


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes :func:`upright`: ``[height, width, ...]`` on the pixels as they lie in the file."""
    turned = upright.swapaxes(0, 1) if orientation >= 5 else upright
    rows, columns = _turns(orientation)
    return np.ascontiguousarray(turned[::rows, ::columns])


def _turns(orientation: int) -> tuple[int, int]:
    """Steps through the rows and the columns of a file: -1 where it lies turned over."""
    return -1 if orientation in (3, 4, 6, 7) else 1, -1 if orientation in (2, 3, 7, 8) else 1


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where it is none of these, as viewers take it."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # a damaged EXIF block says nothing about the rotation, and decoding ignores it too
        return 1


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a network's canvas: shrunk by `scale`, then padded at the bottom and on the right."""

    original_size: tuple[int, int]  # (height, width) in pixels
    size: tuple[int, int]  # after scaling
    padding: tuple[int, int]  # (bottom, right) in pixels of the canvas

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) factor from original to scaled pixels."""
        return self.size[0] / self.original_size[0], self.size[1] / self.original_size[1]

    def to_canvas(self, xy: np.ndarray) -> np.ndarray:
        """Canvas coordinates of original pixel coordinates, ``[points, 2]`` of (x, y), pixel centres at integers."""
        factors = np.array(self.scale[::-1])
        return np.asarray((np.asarray(xy, np.float64) + 0.5) * factors - 0.5)

    def to_original(self, xy: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to_canvas`."""
        factors = np.array(self.scale[::-1])
        return np.asarray((np.asarray(xy, np.float64) + 0.5) / factors - 0.5)


def placement(original_size: tuple[int, int], side: int) -> Placement:
    """Fits an image into a `side` x `side` canvas: its long side is shrunk to `side` where it is longer, never enlarged."""
    height, width = original_size
    factor = min(1.0, side / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return Placement(original_size, size, (side - size[0], side - size[1]))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`pixels` shrunk to `size` (height, width), each new pixel the mean of the area it covers."""
    if pixels.shape[:2] == size:
        return pixels
    resized = opencv().resize(pixels, size[::-1], interpolation=opencv().INTER_AREA)
    return np.asarray(resized).reshape(*size, pixels.shape[2])


def opencv() -> Any:
    """The cv2 module, or an error that says how to get one that loads."""
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"OpenCV cannot be loaded: {error}. On a machine without a display: "
            "pip uninstall -y opencv-python; pip install opencv-python-headless"
        ) from error
    return cv2
