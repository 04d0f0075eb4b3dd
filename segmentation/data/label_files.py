"""Read label files as class indices, and write them.

Pillow decodes, because general decoders expand a palette to colors, 16 bits to 8 and a 1-bit mask to 0 and 255. Raw values
go through the label space's mapping. What is then neither a class nor the ignore label is an error that says which value,
how often, where first, and what the cause may be.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io import png
from dense_resnet.image_io.bit_depth import PNG_DEPTH
from dense_resnet.image_io.decoding import JPEG_START, MAX_PIXELS, open_image, opencv, orientation
from segmentation.data.label_space import LARGEST, MOST_RANGES, LabelSpace, check_labels, describe_wrong_value
from segmentation.metrics.confusion import IGNORE_LABEL

LABEL_IDS = 35  # of Cityscapes: its labelIds are below
PNG_KIND = 25  # offset of the byte in a PNG that holds the kind of pixel
PNG_GRAY, PNG_PALETTE = 0, 3  # kinds of pixel
COLOR_CODE = np.array([1 << 16, 1 << 8, 1], np.int32)  # makes one number of red, green and blue
WHITE = 255  # of 8-bit masks, which 1-bit ones store as 1
SEAM = 5  # side in pixels of the window in which an interpolated number lies between two others
INTERPOLATED = 0.9  # share of such pixels of a number, from which on interpolation is the likely cause
PAINTED = 'Is it painted in the classes\' colors? Then set "from_colors": true in dataset.json.'
RESIZED = (
    "Such values are only along edges between others: was the label resized with interpolation, or saved as JPEG in between? "
    "Resize labels by nearest neighbor, from the originals."
)


def decode_label(path: str | Path, data: bytes, space: LabelSpace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the labels in a label file; `path` is for messages.

    Args:
        data: the file's bytes: a PNG, palette or gray with 1 to 16 bits, or in colors if ``space.from_colors``.
        max_pixels: larger files are refused before decoding.

    Returns:
        ``[height, width]``, uint8 or (if a label exceeds 255) uint16; each value a class or the ignore label.

    Raises:
        InputError: not such a file, truncated, or a value that means nothing in `space`.
    """
    if space.from_colors:
        return _from_colors(path, _decode(path, data, max_pixels, colors=True), space)
    return to_labels(path, decode_numbers(path, data, space, max_pixels), space)


def decode_numbers(path: str | Path, data: bytes, space: LabelSpace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the numbers that `space` maps: as `decode_indices`, except for 1-bit masks under a label map made for 8-bit ones.

    White is stored as 1 in a 1-bit file and as 255 in an 8-bit one. A label map that has 255 and not 1 means white by 255.
    """
    indices = decode_indices(path, data, max_pixels)
    if is_bilevel(data) and space.mapping is not None and WHITE in space.mapping and 1 not in space.mapping:
        return indices * np.uint8(WHITE)
    return indices


def is_bilevel(data: bytes) -> bool:
    return data[PNG_DEPTH] == 1


def decode_indices(path: str | Path, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the raw numbers in a label file, ``[height, width]`` uint8 or uint16. Errors as `decode_label`."""
    return _decode(path, data, max_pixels, colors=False)


def decode_prediction(path: str | Path, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode what another program predicted, as :func:`decode_indices`; colors are never accepted."""
    return _decode(path, data, max_pixels, colors=False, advice="Predictions must be index PNGs.")


def _decode(path: str | Path, data: bytes, max_pixels: int, colors: bool, advice: str = PAINTED) -> np.ndarray:
    """Decode indices ``[h, w]``, or RGB ``[h, w, 3]`` if `colors`; `advice` is added to the error at color pictures."""
    if data.startswith(JPEG_START):
        raise InputError(f"{path}: a JPEG file changes the values of labels. Save labels as PNG, from the original.")
    with open_image(Path(path), io.BytesIO(data), max_pixels) as image:
        with explain_decoder_errors(path):
            png.check(data)
        depth, kind = data[PNG_DEPTH], data[PNG_KIND]
        single = kind in (PNG_GRAY, PNG_PALETTE)
        if not single and not colors:
            raise InputError(f"{path}: a label must hold one number per pixel, and this is an {image.mode} picture. {advice}")
        if depth == 16 and (colors or not single):
            raise InputError(f"{path}: 16 bits per channel cannot be compared with the classes' colors. Save it with 8.")
        with explain_decoder_errors(path):
            image.load()
        if orientation(image) != 1:
            raise InputError(f"{path}: the label has an EXIF rotation; labels are read as stored. Save it without EXIF.")
        stretched = 255 // (2**depth - 1) if kind == PNG_GRAY and depth < 8 else 1  # by Pillow, to 0..255
        if colors:
            clear = png.last(data, b"tRNS") if kind == PNG_GRAY and "transparency" in image.info else None
            if clear:  # only its low bits count; Pillow takes all bits, and stretches none, or since 12.3 only those of 1 bit
                image.info["transparency"] = int.from_bytes(clear[:2], "big") % 2**depth * stretched
            return _opaque(path, image)
        indices = np.asarray(image)
    if indices.dtype == np.uint8:  # 1 bit becomes a bool
        return indices // np.uint8(stretched)
    return indices.astype(np.uint16 if depth == 16 else np.uint8)


@contextlib.contextmanager
def explain_decoder_errors(path: str | Path) -> Iterator[None]:
    """Turn whatever Pillow's decoders raise into one InputError."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{path}: cannot be decoded: {error}. The file is truncated or damaged.") from error


def _opaque(path: str | Path, image: Image.Image) -> np.ndarray:
    with explain_decoder_errors(path):
        rgba = np.asarray(image.convert("RGBA"))
    if rgba[..., 3].min() < 255:
        raise InputError(f"{path}: the label has transparent pixels, which are not a class's color. Save it without alpha.")
    return rgba[..., :3]


def to_labels(path: str | Path, indices: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Return numbers from a file as labels of `space`: mapped, and each checked."""
    table = np.full(LARGEST + 1, -1, np.int32)
    if space.mapping is None:
        table[: space.num_classes] = range(space.num_classes)
        if space.ignore_label is not None:
            table[space.ignore_label] = space.ignore_label
    else:
        table[list(space.mapping)] = list(space.mapping.values())
    labels = table[indices]
    if labels.min(initial=0) < 0:
        raise InputError(f"{path}: {_outside(indices, labels < 0, space)}")
    return labels.astype(space.dtype)


def lies_between(indices: np.ndarray, ignored: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Find the numbers that interpolation makes: those with a lower and a higher one nearby, `ignored` ones aside.

    Returns:
        (which pixels lie between two other numbers, which are near any other number), both bool ``[height, width]``.

    >>> between, _ = lies_between(np.array([[0, 0, 0, 4, 9, 9, 9]], np.uint8))
    >>> between.astype(int).tolist()
    [[0, 0, 0, 1, 0, 0, 0]]
    """
    box, cv2, passed = np.ones((SEAM, SEAM), np.uint8), opencv(), np.isin(indices, ignored)
    low, high = indices.copy(), indices.copy()
    low[passed], high[passed] = np.iinfo(indices.dtype).max, 0  # neither the lowest nor the highest
    lowest, highest = cv2.erode(low, box), cv2.dilate(high, box)
    return (lowest < high) & (low < highest), (low == high) & (lowest < highest)


def _outside(indices: np.ndarray, wrong: np.ndarray, space: LabelSpace) -> str:
    first = describe_wrong_value(indices, wrong)
    if space.mapping is not None:
        resized = f" {RESIZED}" if _is_interpolated(indices, wrong) else ""
        return f"{first} is not in the label map, which maps {_ranges(sorted(space.mapping))}.{resized}"
    ignore = "" if space.ignore_label is None else f" and is not the ignore label {space.ignore_label}"
    return f"{first} is outside 0..{space.num_classes - 1}{ignore}. {_cause(indices, wrong, space)}"


def _is_interpolated(indices: np.ndarray, wrong: np.ndarray) -> bool:
    """Return whether the wrong numbers look interpolated: several, most of them along edges between two others."""
    counts = np.bincount(indices[wrong])
    between = np.bincount(indices[wrong & lies_between(indices)[0]], minlength=len(counts))
    along = np.count_nonzero(between >= INTERPOLATED * np.maximum(counts, 1))
    return bool(along > 1 and along > np.count_nonzero(counts) / 2)


def _ranges(values: Sequence[int]) -> str:
    """Format sorted integers, such as "0..33, 255"."""
    there = set(values)
    starts = (value for value in values if value - 1 not in there)
    ends = (value for value in values if value + 1 not in there)
    ranges = [str(low) if low == high else f"{low}..{high}" for low, high in zip(starts, ends, strict=True)]
    more = [f"... up to {values[-1]}"] if len(ranges) > MOST_RANGES else []
    return ", ".join(ranges[:MOST_RANGES] + more)


def _cause(indices: np.ndarray, wrong: np.ndarray, space: LabelSpace) -> str:
    """Guess the cause of values outside the classes from all the values in a file."""
    present = np.unique(indices)
    outside = set(present.tolist()) - set(range(space.num_classes)) - {space.ignore_label}
    red, green, blue = space.colors.astype(int).T
    grays = set(((red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16).tolist())  # by Pillow's formula
    if outside == {IGNORE_LABEL} and set(present.tolist()) <= {0, IGNORE_LABEL}:
        return (
            'Is it a mask, in which 255 means class 1? Then set "mapping": {"0": 0, "255": 1} in dataset.json. Or is 255 the '
            'ignore label? Then set "ignore_label": 255.'
        )
    if outside == {IGNORE_LABEL}:
        return 'Is 255 the ignore label? Then set "ignore_label": 255 in dataset.json.'
    if outside == {space.num_classes} and 0 not in present:
        return 'The labels look 1-based. If 0 means "ignore", see --label-map reduce_zero_label.'
    likely = len(outside) > 1 or max(outside) >= LABEL_IDS
    if likely and set(present.tolist()) - {space.ignore_label} <= grays:
        return "These are the classes' colors converted to gray. Save the labels as indices, from the original."
    if _is_interpolated(indices, wrong):
        return RESIZED
    return "Are these labelIds instead of trainIds? See --label-map. Or does dataset.json name too few classes?"


def _from_colors(path: str | Path, rgb: np.ndarray, space: LabelSpace) -> np.ndarray:
    labels, colors = np.arange(space.num_classes), space.colors
    if space.ignore_label is not None:
        labels = np.append(labels, space.ignore_label)
        colors = np.vstack([colors, np.array(space.ignore_color, np.uint8)])
    codes, known = rgb @ COLOR_CODE, colors @ COLOR_CODE
    order = np.argsort(known)
    nearest = order[np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)]
    wrong = known[nearest] != codes
    if wrong.any():
        y, x = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        if (rgb.max(-1) == rgb.min(-1)).all():
            raise InputError(
                f'{path}: is gray, and "from_colors" reads colors. If its values are class numbers, remove "from_colors", '
                "and save one channel, for example by Pillow: Image.open(path).convert('L').save(path)."
            )
        raise InputError(
            f"{path}: color {rgb[y, x].tolist()} ({np.count_nonzero(codes == codes[y, x])} px, first at y={y}, x={x}) is not "
            'one of the classes\' colors. Was the label resized or saved as JPEG? For "ignore", see "ignore_color".'
        )
    return labels[nearest].astype(space.dtype)


def encode_label(labels: np.ndarray, space: LabelSpace) -> bytes:
    """Encode labels ``[height, width]`` as a PNG with the classes' colors as its palette, or 16-bit if a label exceeds 255.

    >>> from segmentation.data.label_tables import VOC
    >>> decode_label("", encode_label(np.array([[0, 20, 255]]), VOC), VOC).tolist()
    [[0, 20, 255]]
    """
    values = check_labels(labels, space).astype(space.dtype)
    image = Image.fromarray(values)
    if space.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(space._palette())] = space._palette()
        image.putpalette(palette.tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
