"""Label spaces, and label files as what they are: numbers, not pictures.

A label file is decoded to indices by Pillow, because general decoders expand a palette to colours, 16 bits to 8 and a
1-bit mask to 0 and 255. Raw values go through the label space's mapping, and each of them is then a class or the ignore
label; anything else is an error that says which value, how often, where first, and what the cause may be.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dense_resnet import png
from dense_resnet.errors import InputError
from dense_resnet.images import JPEG_START, MAX_PIXELS, PNG_DEPTH, opencv, opened, orientation

IGNORE_LABEL = 255
VOID_COLOR = (224, 224, 192)  # what PASCAL VOC paints the ignore label
LARGEST = 2**16 - 1  # the largest number that a PNG's pixel holds
LABEL_IDS = 35  # of Cityscapes: its labelIds are below
PNG_KIND = 25  # where in a PNG the kind of pixel stands, a byte
PNG_GREY, PNG_PALETTE = 0, 3  # kinds of pixel
MOST_RANGES = 20  # in one message
WHITE = 255  # of 8-bit masks, which 1-bit ones store as 1
SEAM = 5  # side in pixels of the window in which an interpolated number lies between two others
INTERPOLATED = 0.9  # share of a number's pixels that do, from which on interpolation is the likely cause
PAINTED = 'Is it painted in the classes\' colours? Then set "from_colors": true in dataset.json.'
RESIZED = (
    "Such values lie only along edges between others: was the label resized with interpolation, or saved as JPEG in between? "
    "Resize labels by nearest neighbour, from the originals."
)
KEYS = ("classes", "ignore_label", "mapping", "reduce_zero_label", "from_colors", "ignore_color")
CLASS_KEYS = ("name", "color")
MEANT = {  # keys, and what other programs call them
    "ignore_label": "ignore ignore_index ignore_idx ignore_id ignore_value ignore_class void void_label void_class",
    "classes": "names class_names classnames labels label_names categories id2label label2id",
    "mapping": "label_map labelmap label_mapping class_map map remap lut",
    "reduce_zero_label": "reduce_zero reduce_label reduce_labels do_reduce_labels",
    "from_colors": "from_colours from_color from_rgb rgb rgb_labels color_coded",
    "ignore_color": "ignore_colour void_color void_colour",
    "name": "label class title class_name category",
    "color": "colour rgb colors palette",
}
PER_CLASS = ("palette", "colors", "colours", "colormap", "color_map", "class_colors")  # of all classes, in other programs
BY_PLACE = ("id", "index", "label_id", "trainid", "train_id", "num_classes", "n_classes", "nc")  # what the list says itself


@dataclass(frozen=True)
class LabelClass:
    """One class."""

    name: str
    color: tuple[int, int, int]  # RGB
    color_is_given: bool = field(default=True, compare=False, repr=False)  # by the user or the field, not chosen here


@dataclass(frozen=True)
class LabelSpace:
    """What the numbers in label files mean.

    >>> space = LabelSpace((LabelClass("road", (128, 64, 128)), LabelClass("car", (0, 0, 142))))
    >>> space.num_classes, space.names
    (2, ('road', 'car'))
    >>> space.colored(np.array([[0, 1, 255]]))[0].tolist()
    [[128, 64, 128], [0, 0, 142], [224, 224, 192]]
    """

    classes: tuple[LabelClass, ...]  # class i is labelled i
    ignore_label: int | None = IGNORE_LABEL  # the label of ignored pixels; None for none
    mapping: Mapping[int, int] | None = field(default=None, hash=False)  # value in the file -> class or ignore label
    from_colors: bool = False  # label files are pictures in the classes' colours
    ignore_color: tuple[int, int, int] = VOID_COLOR  # of the ignore label, where labels are colours
    ignore_is_given: bool = field(default=False, compare=False, repr=False)  # the user said which label is ignored

    @property
    def ignored_numbers(self) -> tuple[int, ...]:
        """The values in label files that mean the ignore label."""
        if self.ignore_label is None:
            return ()
        if self.mapping is None:
            return (self.ignore_label,)
        return tuple(raw for raw, label in self.mapping.items() if label == self.ignore_label)

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError("a label space needs at least one class.")
        if self.num_classes > LARGEST:
            raise InputError(f"{self.num_classes} classes are more than label files can hold ({LARGEST}).")
        for name, count in Counter(self.names).items():
            if count > 1:
                raise InputError(f"two classes are named {name!r}.")
        for label_class in (*self.classes, LabelClass("ignore", self.ignore_color)):
            _check_color(label_class)
        if self.ignore_label is not None:
            if not _is_integer(self.ignore_label) or not 0 <= self.ignore_label <= LARGEST:
                raise InputError(
                    f"ignore_label must be an integer from 0 to {LARGEST}, or null for none (not {self.ignore_label!r:.80})"
                    f"{_unquoted(self.ignore_label)}."
                )
            if self.ignore_label < self.num_classes:
                raise InputError(
                    f"ignore_label {self.ignore_label} is the label of the class {self.names[self.ignore_label]!r}. Choose one "
                    f'above {self.num_classes - 1}, such as 255. If the files use 0 for "ignore", see "reduce_zero_label".'
                )
        if self.mapping is not None:
            for raw, label in self.mapping.items():
                if not (_is_integer(raw) and 0 <= raw <= LARGEST and _is_integer(label) and self._allows(label)):
                    by_name = label in self.names and f" {label!r} is class {self.names.index(label)}: write the number."
                    raise InputError(
                        f"the label map sends {raw!r} to {label!r}, which is neither {self._allowed}.{by_name or ''}"
                    )
        if self.from_colors:
            if self.mapping is not None:
                raise InputError("labels are read either through a mapping or from_colors, not both.")
            owners: dict[tuple[int, int, int], str] = {}
            void = [LabelClass("ignore", self.ignore_color)] if self.ignore_label is not None else []
            for label_class in (*self.classes, *void):
                other = owners.setdefault(label_class.color, label_class.name)
                if other != label_class.name:
                    raise InputError(
                        f"{other!r} and {label_class.name!r} have the same color {list(label_class.color)}: "
                        'no label file could tell them apart. (The ignore label\'s is "ignore_color".)'
                    )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names."""
        return tuple(label_class.name for label_class in self.classes)

    @property
    def colors(self) -> np.ndarray:
        """The classes' colours: uint8 ``[num_classes, 3]``, RGB."""
        return np.array([label_class.color for label_class in self.classes], np.uint8)

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The type of decoded labels: uint8 where it holds every label, else uint16."""
        largest = max(self.num_classes - 1, self.ignore_label or 0)
        return np.uint8 if largest < 256 else np.uint16

    def colored(self, labels: np.ndarray) -> np.ndarray:
        """A picture of `labels` ``[h, w]``: uint8 ``[h, w, 3]``, RGB."""
        return self._palette()[check_labels(labels, self)]

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        value: dict[str, Any] = {
            "classes": [{"name": one.name, "color": list(one.color)} for one in self.classes],
            "ignore_label": self.ignore_label,
        }
        if self.mapping is not None:
            value["mapping"] = {str(raw): label for raw, label in sorted(self.mapping.items())}
        if self.from_colors:
            value["from_colors"] = True
        if self.ignore_color != VOID_COLOR:
            value["ignore_color"] = list(self.ignore_color)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str | Path = "dataset.json") -> LabelSpace:
        """The space that a dataset.json describes.

        Args:
            value: ``classes`` is a list of ``{"name", "color"}`` or of names alone, which get VOC's colours in order.
                Optional: ``ignore_label`` (255), ``mapping`` ({"value in the file": class or ignore label}),
                ``reduce_zero_label`` (0 becomes the ignore label, n becomes n - 1), ``from_colors``, ``ignore_color``.
            where: for messages.

        Raises:
            InputError: a key is unknown or a value is not what it should be.
        """
        try:
            return cls._from_json(value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> LabelSpace:
        if not isinstance(value, Mapping):
            raise InputError(f"expected an object with the key classes (not {value!r:.80}).")
        _check_keys(value, KEYS)
        listed = value.get("classes")
        if not isinstance(listed, list) or not listed:
            raise InputError(
                f'"classes" must be a list of {{"name": ..., "color": [r, g, b]}}, or of names (not {listed!r:.80})'
                f"{_as_list(listed)}."
            )
        classes = tuple(
            _class_from_json(entry, color) for entry, color in zip(listed, voc_palette(len(listed)).tolist(), strict=True)
        )
        mapping = None if value.get("mapping") is None else mapping_from_json(value["mapping"])
        for key in ("from_colors", "reduce_zero_label"):
            if not isinstance(value.get(key, False), bool):
                raise InputError(f'"{key}" must be true or false (not {value[key]!r:.80}).')
        ignore_color = value.get("ignore_color", VOID_COLOR)
        if not isinstance(ignore_color, Sequence):
            raise InputError(f'"ignore_color" must be [r, g, b] (not {ignore_color!r}).')
        space = cls(
            classes,
            value.get("ignore_label", IGNORE_LABEL),
            mapping,
            value.get("from_colors", False),
            tuple(ignore_color),
            ignore_is_given="ignore_label" in value,
        )
        if not value.get("reduce_zero_label", False):
            return space
        if mapping is not None:
            raise InputError('"reduce_zero_label" is a mapping itself: leave out "mapping".')
        return reduce_zero_label(space)

    def _allows(self, label: int) -> bool:
        return 0 <= label < self.num_classes or label == self.ignore_label

    @property
    def _allowed(self) -> str:
        ignore = "" if self.ignore_label is None else f" nor the ignore label {self.ignore_label}"
        return f"a class 0..{self.num_classes - 1}{ignore}"

    def _palette(self) -> np.ndarray:
        """A colour for every label, uint8 ``[largest label + 1, 3]``."""
        palette = np.zeros((max(self.num_classes, (self.ignore_label or 0) + 1), 3), np.uint8)
        palette[: self.num_classes] = self.colors
        if self.ignore_label is not None:
            palette[self.ignore_label] = self.ignore_color
        return palette


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_color(label_class: LabelClass) -> None:
    color = label_class.color
    if len(color) != 3 or not all(_is_integer(part) and 0 <= part <= 255 for part in color):
        raise InputError(
            f"the color of {label_class.name!r} must be three integers 0..255 (not {list(color)!r:.80}){_as_bytes(color)}."
        )


def _class_from_json(entry: Any, color: Sequence[int]) -> LabelClass:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise InputError(f'a class must be {{"name": ..., "color": [r, g, b]}}, or its name alone (not {entry!r:.80}).')
    _check_keys(entry, CLASS_KEYS, f"the class {entry['name']!r}: ")
    try:
        entry["name"].encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of the class {entry['name']!a} is no text.") from None
    given = entry.get("color", color)
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"the color of {entry['name']!r} must be [r, g, b] (not {given!r:.80}){_as_bytes(given)}.")
    return LabelClass(entry["name"], tuple(given), "color" in entry)


def _check_keys(value: Mapping[str, Any], known: Sequence[str], where: str = "") -> None:
    """Refuse a key that is unknown, and say which one was likely meant."""
    for key in value:
        if key in known:
            continue
        plain = str(key).lower().replace("-", "_").replace(" ", "_")
        meant = next((own for own in known if plain in (own, *MEANT[own].split())), None)
        close = meant or next(iter(difflib.get_close_matches(plain, known, 1)), None)
        if known is KEYS and plain in PER_CLASS:
            hint = ' Each class has its own: {"name": ..., "color": [r, g, b]}.'
        elif plain in BY_PLACE:
            hint = " The list of classes says it, for a class is numbered by its place there: leave it out."
        else:
            hint = f' Did you mean "{close}"?' if close else ""
        raise InputError(f"{where}unknown key {key!r}; the keys are {', '.join(known)}.{hint}")


def _as_list(value: object) -> str:
    """How `value` would be written as a list of classes; empty where that cannot be said."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    elif isinstance(value, dict) and value:
        by_number = all(str(key).isascii() and str(key).isdecimal() for key in value)
        if by_number:
            value = [value[key] for key in sorted(value, key=int)]
        else:
            value = sorted(value, key=value.get) if all(map(_is_integer, value.values())) else list(value)
    elif _is_integer(value):
        value = [f"class_{index}" for index in range(value)] if value <= MOST_RANGES else []
    else:
        return ""
    return f": write {json.dumps(value)}" if value and all(isinstance(name, str) for name in value) else ""


def _unquoted(value: object) -> str:
    """What to write for an ignore label."""
    if isinstance(value, str) and value.strip().isdecimal():
        return f": write {value.strip()}, without quotes"
    if _is_integer(value):
        return ": it is the value that label files have there, such as 255"
    return ""


def _as_bytes(color: object) -> str:
    """How a colour of another notation would be written; empty where that cannot be said."""
    if isinstance(color, str) and re.fullmatch("#?[0-9a-fA-F]{6}", color):
        color = list(bytes.fromhex(color.removeprefix("#")))
    elif (
        isinstance(color, Sequence) and len(color) == 3 and all(isinstance(part, float) and 0 <= part <= 255 for part in color)
    ):
        scale = 255 if max(color) <= 1 else 1
        color = [round(part * scale) for part in color]
    else:
        return ""
    return f": write {color}"


def mapping_from_json(value: Any) -> dict[int, int]:
    """A mapping from JSON, whose keys are strings."""
    try:
        for raw in value:
            if not (raw.isascii() and raw == str(int(raw))):
                raise InputError(f"a label map's keys must be plain numbers, such as 7 (not {raw!r:.80}).")
        return {int(raw): label for raw, label in value.items()}
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError):
        raise InputError(f'a label map must be like {{"7": 0, "8": 1}} (not {value!r:.80}).') from None


def reduce_zero_label(space: LabelSpace) -> LabelSpace:
    """`space` for files in which 0 is "ignore" and class n is labelled n + 1, as in ADE20K."""
    if space.ignore_label is None:
        raise InputError("reduce_zero_label turns 0 into the ignore label, and ignore_label is null.")
    mapping = {space.ignore_label: space.ignore_label, 0: space.ignore_label}
    mapping.update({index + 1: index for index in range(space.num_classes)})
    return LabelSpace(space.classes, space.ignore_label, mapping, space.from_colors, space.ignore_color)


# --------------------------------------------------------------------------------------------------------------------
# Files


def decode_label(path: str | Path, data: bytes, space: LabelSpace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The labels in a label file.

    Args:
        path: for messages.
        data: the file's bytes: a PNG, palette or grey with 1 to 16 bits, or in colours if ``space.from_colors``.
        space: what its values mean.
        max_pixels: refused above, before decoding.

    Returns:
        ``[height, width]``, uint8 or (where a label exceeds 255) uint16; each value a class or the ignore label.

    Raises:
        InputError: not such a file, truncated, or a value that means nothing in `space`.
    """
    if space.from_colors:
        return _from_colors(path, _decoded(path, data, max_pixels, colors=True), space)
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
    """Whether a PNG has 1 bit per pixel."""
    return data[PNG_DEPTH] == 1


def decode_indices(path: str | Path, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The numbers in a label file as they stand there, ``[height, width]`` uint8 or uint16. Errors as `decode_label`."""
    return _decoded(path, data, max_pixels, colors=False)


def decode_prediction(path: str | Path, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As :func:`decode_indices`, of what another program predicted: it is never read from colours."""
    return _decoded(path, data, max_pixels, colors=False, advice="Predictions must be index PNGs.")


def _decoded(path: str | Path, data: bytes, max_pixels: int, colors: bool, advice: str = PAINTED) -> np.ndarray:
    """Indices ``[h, w]``, or RGB ``[h, w, 3]`` if `colors`; `advice` is for pictures in colours that are not to be."""
    if data.startswith(JPEG_START):
        raise InputError(f"{path}: a JPEG file changes the values of labels. Save labels as PNG, from the original.")
    with opened(Path(path), io.BytesIO(data), max_pixels) as image:
        with decoding(path):
            png.check(data)
        depth, kind = data[PNG_DEPTH], data[PNG_KIND]
        single = kind in (PNG_GREY, PNG_PALETTE)
        if not single and not colors:
            raise InputError(f"{path}: a label must hold one number per pixel, and this is an {image.mode} picture. {advice}")
        if depth == 16 and (colors or not single):
            raise InputError(f"{path}: 16 bits per channel cannot be compared with the classes' colours. Save it with 8.")
        with decoding(path):
            image.load()
        if orientation(image) != 1:
            raise InputError(f"{path}: the label has an EXIF rotation; labels are read as stored. Save it without EXIF.")
        stretched = 255 // (2**depth - 1) if kind == PNG_GREY and depth < 8 else 1  # by Pillow, to 0..255
        if colors:
            clear = png.last(data, b"tRNS") if kind == PNG_GREY and "transparency" in image.info else None
            if clear:  # its low bits count; Pillow takes all, and stretches none of them, or since 12.3 those of 1 bit alone
                image.info["transparency"] = int.from_bytes(clear[:2], "big") % 2**depth * stretched
            return _opaque(path, image)
        indices = np.asarray(image)
    if indices.dtype == np.uint8:  # 1 bit is a bool each
        return indices // np.uint8(stretched)
    return indices.astype(np.uint16 if depth == 16 else np.uint8)


@contextlib.contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Makes one message of whatever Pillow's decoders raise."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{path}: cannot be decoded: {error}. The file is truncated or damaged.") from error


def _opaque(path: str | Path, image: Image.Image) -> np.ndarray:
    with decoding(path):
        rgba = np.asarray(image.convert("RGBA"))
    if rgba[..., 3].min() < 255:
        raise InputError(f"{path}: the label has transparent pixels, which are no class's colour. Save it without alpha.")
    return rgba[..., :3]


def to_labels(path: str | Path, indices: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Numbers from a file as labels of `space`: mapped, and each checked."""
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
    """Find the numbers that interpolation makes: those with a lower and a higher one nearby.

    Args:
        indices: uint8 or uint16 ``[height, width]``.
        ignored: numbers that are passed over, both as pixels and as neighbours.

    Returns:
        (which pixels lie between two other numbers, which are near any other number), both bool ``[height, width]``.

    >>> between, _ = lies_between(np.array([[0, 0, 0, 4, 9, 9, 9]], np.uint8))
    >>> between.astype(int).tolist()
    [[0, 0, 0, 1, 0, 0, 0]]
    """
    box, cv2 = np.ones((SEAM, SEAM), np.uint8), opencv()
    greatest = int(np.iinfo(indices.dtype).max)
    passed = [number for number in ignored if number <= greatest]
    tables = np.arange(greatest + 1, dtype=indices.dtype), np.arange(greatest + 1, dtype=indices.dtype)
    tables[0][passed], tables[1][passed] = greatest, 0  # neither the lowest nor the highest
    low, high = (np.take(table, indices) for table in tables)
    lowest, highest = cv2.erode(low, box), cv2.dilate(high, box)
    return (lowest < high) & (low < highest), (low == high) & (lowest < highest)


def check_labels(labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    """`labels` as an array, if each is a class or the ignore label.

    Raises:
        InputError: it is not ``[height, width]`` of integers, or a value is neither.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be integers [height, width] (not {labels.dtype} {list(labels.shape)}).")
    wrong = (labels < 0) | (labels >= space.num_classes)
    if space.ignore_label is not None:
        wrong &= labels != space.ignore_label
    if wrong.any():
        raise InputError(f"{_counted(labels, wrong)} is neither {space._allowed}.")
    return labels


def _counted(values: np.ndarray, wrong: np.ndarray) -> str:
    """The first wrong value, how often it is there, and where first."""
    y, x = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return f"label value {values[y, x]} ({np.count_nonzero(values == values[y, x])} px, first at y={y}, x={x})"


def _outside(indices: np.ndarray, wrong: np.ndarray, space: LabelSpace) -> str:
    first = _counted(indices, wrong)
    if space.mapping is not None:
        resized = f" {RESIZED}" if _is_interpolated(indices, wrong) else ""
        return f"{first} is not in the label map, which maps {_ranges(sorted(space.mapping))}.{resized}"
    ignore = "" if space.ignore_label is None else f" and is not the ignore label {space.ignore_label}"
    return f"{first} is outside 0..{space.num_classes - 1}{ignore}. {_cause(indices, wrong, space)}"


def _is_interpolated(indices: np.ndarray, wrong: np.ndarray) -> bool:
    """Whether the wrong numbers are what interpolation leaves: several, most of them along edges between two others."""
    counts = np.bincount(indices[wrong])
    between = np.bincount(indices[wrong & lies_between(indices)[0]], minlength=len(counts))
    along = np.count_nonzero(between >= INTERPOLATED * np.maximum(counts, 1))
    return bool(along > 1 and along > np.count_nonzero(counts) / 2)


def _ranges(values: Sequence[int]) -> str:
    """Sorted integers for a reader, such as "0..33, 255"."""
    there = set(values)
    starts = [value for value in values if value - 1 not in there]
    ends = [value for value in values if value + 1 not in there]
    ranges = [str(low) if low == high else f"{low}..{high}" for low, high in zip(starts, ends, strict=True)]
    more = [f"... up to {values[-1]}"] if len(ranges) > MOST_RANGES else []
    return ", ".join(ranges[:MOST_RANGES] + more)


def _cause(indices: np.ndarray, wrong: np.ndarray, space: LabelSpace) -> str:
    """What may have led to values outside the classes, judged by all the values in a file."""
    present = np.unique(indices)
    outside = set(present.tolist()) - set(range(space.num_classes)) - {space.ignore_label}
    red, green, blue = space.colors.astype(int).T
    greys = set(((red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16).tolist())  # by Pillow's formula
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
    if likely and set(present.tolist()) - {space.ignore_label} <= greys:
        return "These are the classes' colours turned to grey. Save the labels as indices, from the original."
    if _is_interpolated(indices, wrong):
        return RESIZED
    return "Are these labelIds instead of trainIds? See --label-map. Or does dataset.json name too few classes?"


def _from_colors(path: str | Path, rgb: np.ndarray, space: LabelSpace) -> np.ndarray:
    labels = np.arange(space.num_classes)
    colors = space.colors
    if space.ignore_label is not None:
        labels = np.append(labels, space.ignore_label)
        colors = np.vstack([colors, np.array(space.ignore_color, np.uint8)])
    codes, known = _codes(rgb), _codes(colors)
    order = np.argsort(known)
    nearest = order[np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)]
    wrong = known[nearest] != codes
    if wrong.any():
        y, x = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        raise InputError(
            f"{path}: colour {rgb[y, x].tolist()} ({np.count_nonzero(codes == codes[y, x])} px, first at y={y}, x={x}) is none "
            'of the classes\' colours. Was the label resized or saved as JPEG? For "ignore", see "ignore_color".'
        )
    return labels[nearest].astype(space.dtype)


def _codes(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def encode_label(labels: np.ndarray, space: LabelSpace) -> bytes:
    """A label file: a PNG of indices with the classes' colours as its palette, or 16-bit where a label exceeds 255.

    Args:
        labels: ``[height, width]``, each a class or the ignore label.

    >>> decode_label("", encode_label(np.array([[0, 20, 255]]), VOC), VOC).tolist()
    [[0, 20, 255]]
    """
    values = check_labels(labels, space).astype(space.dtype)
    image = Image.fromarray(values)
    if space.dtype is np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(space._palette())] = space._palette()
        image.putpalette(palette.tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


# --------------------------------------------------------------------------------------------------------------------
# The datasets of the field


def voc_palette(count: int) -> np.ndarray:
    """PASCAL VOC's colours of labels 0 to ``count - 1``, uint8 ``[count, 3]``.

    The bits of a label, from the lowest, go in turn to red, green and blue, from their highest down.
    """
    labels = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(24):
        palette[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette


def _named(listing: str) -> tuple[LabelClass, ...]:
    """Classes from "name rrggbb, name rrggbb, ..."."""
    pairs = (entry.strip().rsplit(" ", 1) for entry in listing.split(","))
    return tuple(LabelClass(name, tuple(bytes.fromhex(color))) for name, color in pairs)


_VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
VOC = LabelSpace(
    tuple(LabelClass(name, tuple(color)) for name, color in zip(_VOC_NAMES, voc_palette(21).tolist(), strict=True))
)

_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # labelId of each trainId
CITYSCAPES = LabelSpace(  # for *_labelIds.png; for *_labelTrainIds.png the mapping is None
    _named("""
    road 804080, sidewalk f423e8, building 464646, wall 66669c, fence be9999, pole 999999, traffic light faaa1e,
    traffic sign dcdc00, vegetation 6b8e23, terrain 98fb98, sky 4682b4, person dc143c, rider ff0000, car 00008e,
    truck 000046, bus 003c64, train 005064, motorcycle 0000e6, bicycle 770b20
    """),
    mapping={raw: _CITYSCAPES_IDS.index(raw) if raw in _CITYSCAPES_IDS else IGNORE_LABEL for raw in range(34)},
)

ADE20K = reduce_zero_label(  # SceneParse150: first names and colours of its own tables
    LabelSpace(
        _named("""
    wall 787878, building b47878, sky 06e6e6, floor 503232, tree 04c803, ceiling 787850, road 8c8c8c, bed cc05ff,
    windowpane e6e6e6, grass 04fa07, cabinet e005ff, sidewalk ebff07, person 96053d, earth 787846, door 08ff33,
    table ff0652, mountain 8fff8c, plant ccff04, curtain ff3307, chair cc4603, car 0066c8, water 3de6fa, painting ff0633,
    sofa 0b66ff, shelf ff0747, house ff09e0, sea 0907e6, mirror dcdcdc, rug ff095c, field 7009ff, armchair 08ffd6,
    seat 07ffe0, fence ffb806, desk 0aff47, rock ff290a, wardrobe 07ffff, lamp e0ff08, bathtub 6608ff, railing ff3d06,
    cushion ffc207, base ff7a08, box 00ff14, column ff0829, signboard ff0599, chest of drawers 0633ff, counter eb0cff,
    sand a09614, sink 00a3ff, skyscraper 8c8c8c, fireplace fa0a0f, refrigerator 14ff00, grandstand 1fff00, path ff1f00,
    stairs ffe000, runway 99ff00, case 0000ff, pool table ff4700, pillow 00ebff, screen door 00adff, stairway 1f00ff,
    river 0bc8c8, bridge ff5200, bookcase 00fff5, blind 003dff, coffee table 00ff70, toilet 00ff85, flower ff0000,
    book ffa300, hill ff6600, bench c2ff00, countertop 008fff, stove 33ff00, palm 0052ff, kitchen island 00ff29,
    computer 00ffad, swivel chair 0a00ff, boat adff00, bar 00ff99, arcade machine ff5c00, hovel ff00ff, bus ff00f5,
    towel ff0066, light ffad00, truck ff0014, tower ffb8b8, chandelier 001fff, awning 00ff3d, streetlight 0047ff,
    booth ff00cc, television receiver 00ffc2, airplane 00ff52, dirt track 000aff, apparel 0070ff, pole 3300ff, land 00c2ff,
    bannister 007aff, escalator 00ffa3, ottoman ff9900, bottle 00ff0a, buffet ff7000, poster 8fff00, stage 5200ff,
    van a3ff00, ship ffeb00, fountain 08b8aa, conveyer belt 8500ff, canopy 00ff5c, washer b800ff, plaything ff001f,
    swimming pool 00b8ff, stool 00d6ff, barrel ff0070, basket 5cff00, waterfall 00e0ff, tent 70e0ff, bag 46b8a0,
    minibike a300ff, cradle 9900ff, oven 47ff00, ball ff00a3, food ffcc00, step ff008f, tank 00ffeb, trade name 85ff00,
    microwave ff00eb, pot f500ff, animal ff007a, bicycle fff500, lake 0abed4, dishwasher d6ff00, screen 00ccff,
    blanket 1400ff, sculpture ffff00, hood 0099ff, sconce 0029ff, vase 00ffcc, traffic light 2900ff, tray 29ff00,
    ashcan ad00ff, fan 00f5ff, pier 4700ff, crt screen 7a00ff, plate 00ffb8, monitor 005cff, bulletin board b8ff00,
    shower 0085ff, radiator ffd600, glass 19c2c2, clock 66ff00, flag 5c00ff
        """)
    )
)
