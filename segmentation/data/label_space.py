"""A label space: the classes, their colors, the ignore label, and the mapping from raw values."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from dense_resnet.errors import InputError
from segmentation.metrics.confusion import IGNORE_LABEL

VOID_COLOR = (224, 224, 192)  # what PASCAL VOC paints the ignore label
LARGEST = 2**16 - 1  # the largest number that a PNG's pixel holds
MOST_RANGES = 20  # in one message
KEYS = ("classes", "ignore_label", "mapping", "reduce_zero_label", "from_colors", "ignore_color")
CLASS_KEYS = ("name", "color")
MEANT = {  # our keys, and other programs' names for them
    "ignore_label": "ignore ignore_index ignore_idx ignore_id ignore_value ignore_class void void_label void_class",
    "classes": "names class_names classnames labels label_names categories id2label label2id",
    "mapping": "label_map labelmap label_mapping class_map map remap lut",
    "reduce_zero_label": "reduce_zero reduce_label reduce_labels do_reduce_labels",
    "from_colors": "from_colours from_color from_rgb rgb rgb_labels color_coded",
    "ignore_color": "ignore_colour void_color void_colour",
    "name": "label class title class_name category",
    "color": "colour rgb colors palette",
}
PER_CLASS = "palette colors colours colormap color_map class_colors".split()  # other programs' keys for all classes' colors
BY_PLACE = "id index label_id trainid train_id num_classes n_classes nc".split()  # what follows from the order of the list


@dataclass(frozen=True)
class LabelClass:
    """One class."""

    name: str
    color: tuple[int, int, int]  # RGB
    color_is_given: bool = field(default=True, compare=False, repr=False)  # by a user or well-known dataset, not chosen here


@dataclass(frozen=True)
class LabelSpace:
    """What the numbers in label files mean.

    >>> space = LabelSpace((LabelClass("road", (128, 64, 128)), LabelClass("car", (0, 0, 142))))
    >>> space.num_classes, space.names
    (2, ('road', 'car'))
    >>> space.colorize(np.array([[0, 1, 255]]))[0].tolist()
    [[128, 64, 128], [0, 0, 142], [224, 224, 192]]
    """

    classes: tuple[LabelClass, ...]  # class i is labeled i
    ignore_label: int | None = IGNORE_LABEL  # the label of ignored pixels; None for none
    mapping: Mapping[int, int] | None = field(default=None, hash=False)  # value in the file -> class or ignore label
    from_colors: bool = False  # label files are pictures in the classes' colors
    ignore_color: tuple[int, int, int] = VOID_COLOR  # of the ignore label, if labels are colors
    ignore_is_given: bool = field(default=False, compare=False, repr=False)  # the user has set the ignore label

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
        ignored = LabelClass("ignore", self.ignore_color)
        for one in (*self.classes, ignored):
            if len(one.color) != 3 or not all(_is_integer(part) and 0 <= part <= 255 for part in one.color):
                found = f"(not {list(one.color)!r:.80}){_as_bytes(one.color)}"
                raise InputError(f"the color of {one.name!r} must be three integers 0..255 {found}.")
        if self.ignore_label is not None:
            if not _is_integer(self.ignore_label) or not 0 <= self.ignore_label <= LARGEST:
                found = f"(not {self.ignore_label!r:.80}){_suggest_ignore_label(self.ignore_label)}"
                raise InputError(f"ignore_label must be an integer from 0 to {LARGEST}, or null for none {found}.")
            if self.ignore_label < self.num_classes:
                raise InputError(
                    f"ignore_label {self.ignore_label} is the label of the class {self.names[self.ignore_label]!r}. Choose one "
                    f'above {self.num_classes - 1}, such as 255. If the files use 0 for "ignore", see "reduce_zero_label".'
                )
        for raw, label in (self.mapping or {}).items():
            if not (_is_integer(raw) and 0 <= raw <= LARGEST and _is_integer(label) and self._allows(label)):
                named = isinstance(label, str) and label in self.names
                hint = f" {label!r} is class {self.names.index(str(label))}: write the number." if named else ""
                raise InputError(f"the label map sends {raw!r} to {label!r}, which is neither {self._allowed_values}.{hint}")
        if not self.from_colors:
            return
        if self.mapping is not None:
            raise InputError("labels are read either by a mapping or by from_colors, not both.")
        owners: dict[tuple[int, int, int], str] = {}
        for one in self.classes if self.ignore_label is None else (*self.classes, ignored):
            other = owners.setdefault(one.color, one.name)
            if other != one.name:
                same = f"{other!r} and {one.name!r} have the same color {list(one.color)}"
                raise InputError(f'{same}: a label file could not distinguish them. (The ignore label\'s is "ignore_color".)')

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label_class.name for label_class in self.classes)

    @property
    def colors(self) -> np.ndarray:
        """The classes' colors: uint8 ``[num_classes, 3]``, RGB."""
        return np.array([label_class.color for label_class in self.classes], np.uint8)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of decoded labels: uint8 if it holds every label, else uint16."""
        return np.min_scalar_type(max(self.num_classes - 1, self.ignore_label or 0))

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Return a picture of `labels` ``[h, w]``: uint8 ``[h, w, 3]``, RGB."""
        return self._palette()[check_labels(labels, self)]

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads."""
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
        """Return the space that a dataset.json describes.

        Args:
            value: ``classes`` is a list of ``{"name", "color"}`` or only of names, which get VOC's colors in order.
                Optional: ``ignore_label`` (255), ``mapping`` ({"value in the file": class or ignore label}),
                ``reduce_zero_label`` (0 becomes the ignore label, n becomes n - 1), ``from_colors``, ``ignore_color``.
            where: for messages.
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
            expected = '"classes" must be a list of {"name": ..., "color": [r, g, b]}, or of names'
            raise InputError(f"{expected} (not {listed!r:.80}){_as_list(listed)}.")
        classes = tuple(map(_class_from_json, listed, voc_palette(len(listed)).tolist()))
        mapping = None if value.get("mapping") is None else mapping_from_json(value["mapping"])
        for key in ("from_colors", "reduce_zero_label"):
            if not isinstance(value.get(key, False), bool):
                raise InputError(f'"{key}" must be true or false (not {value[key]!r:.80}).')
        ignore_color = value.get("ignore_color", VOID_COLOR)
        if not isinstance(ignore_color, Sequence):
            raise InputError(f'"ignore_color" must be [r, g, b] (not {ignore_color!r}).')
        ignore_label, is_given = value.get("ignore_label", IGNORE_LABEL), "ignore_label" in value
        from_colors = value.get("from_colors", False)
        space = cls(classes, ignore_label, mapping, from_colors, tuple(ignore_color), ignore_is_given=is_given)
        if not value.get("reduce_zero_label", False):
            return space
        if mapping is not None:
            raise InputError('"reduce_zero_label" is a mapping itself: leave out "mapping".')
        return reduce_zero_label(space)

    def _allows(self, label: int) -> bool:
        return 0 <= label < self.num_classes or label == self.ignore_label

    @property
    def _allowed_values(self) -> str:
        ignore = "" if self.ignore_label is None else f" nor the ignore label {self.ignore_label}"
        return f"a class 0..{self.num_classes - 1}{ignore}"

    def _palette(self) -> np.ndarray:
        """Return a color for every label, uint8 ``[largest label + 1, 3]``."""
        palette = np.zeros((max(self.num_classes, (self.ignore_label or 0) + 1), 3), np.uint8)
        palette[: self.num_classes] = self.colors
        if self.ignore_label is not None:
            palette[self.ignore_label] = self.ignore_color
        return palette


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _class_from_json(entry: Any, color: Sequence[int]) -> LabelClass:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise InputError(f'a class must be {{"name": ..., "color": [r, g, b]}}, or only its name (not {entry!r:.80}).')
    _check_keys(entry, CLASS_KEYS, f"the class {entry['name']!r}: ")
    try:
        entry["name"].encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of the class {entry['name']!a} is not valid text.") from None
    given = entry.get("color", color)
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"the color of {entry['name']!r} must be [r, g, b] (not {given!r:.80}){_as_bytes(given)}.")
    return LabelClass(entry["name"], tuple(given), "color" in entry)


def _check_keys(value: Mapping[str, Any], known: Sequence[str], where: str = "") -> None:
    """Refuse a key that is unknown, and say which one was likely meant."""
    for key in (key for key in value if key not in known):
        plain = str(key).lower().replace("-", "_").replace(" ", "_")
        meant = next((own for own in known if plain in (own, *MEANT[own].split())), None)
        close = meant or next(iter(difflib.get_close_matches(plain, known, 1)), None)
        if known is KEYS and plain in PER_CLASS:
            hint = ' Each class has its own: {"name": ..., "color": [r, g, b]}.'
        elif plain in BY_PLACE:
            hint = " Classes are numbered by their place in the list: leave it out."
        else:
            hint = f' Did you mean "{close}"?' if close else ""
        raise InputError(f"{where}unknown key {key!r}; the keys are {', '.join(known)}.{hint}")


def _as_list(value: object) -> str:
    """Suggest `value` as a list of classes; return "" if that is not possible."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    elif isinstance(value, dict) and value:
        if all(str(key).isascii() and str(key).isdecimal() for key in value):
            value = [value[key] for key in sorted(value, key=int)]
        else:
            value = sorted(value, key=value.__getitem__) if all(map(_is_integer, value.values())) else list(value)
    elif _is_integer(value):
        value = [f"class_{index}" for index in range(value)] if value <= MOST_RANGES else []
    else:
        return ""
    return f": write {json.dumps(value)}" if value and all(isinstance(name, str) for name in value) else ""


def _suggest_ignore_label(value: object) -> str:
    """Suggest what to write for an ignore label."""
    if isinstance(value, str) and value.strip().isdecimal():
        return f": write {value.strip()}, without quotes"
    if _is_integer(value):
        return ": it is the value that label files have there, such as 255"
    return ""


def _as_bytes(color: object) -> str:
    """Suggest a color of another notation as [r, g, b]; return "" if that is not possible."""
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
    """Return a mapping from JSON, whose keys are strings."""
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
    """Return `space` for files in which 0 is "ignore" and class n is labeled n + 1, as in ADE20K."""
    if space.ignore_label is None:
        raise InputError("reduce_zero_label turns 0 into the ignore label, and ignore_label is null.")
    mapping = {space.ignore_label: space.ignore_label, 0: space.ignore_label}
    mapping.update({index + 1: index for index in range(space.num_classes)})
    return replace(space, mapping=mapping)


def voc_palette(count: int) -> np.ndarray:
    """Return PASCAL VOC's colors of labels 0 to ``count - 1``, uint8 ``[count, 3]``.

    The bits of a label, from the lowest, go in turn to red, green and blue, from their highest down.
    """
    labels = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(24):
        palette[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette


def check_labels(labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Return `labels` as an array if they are integers ``[height, width]``, each a class or the ignore label."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be integers [height, width] (not {labels.dtype} {list(labels.shape)}).")
    wrong = (labels < 0) | (labels >= space.num_classes)
    if space.ignore_label is not None:
        wrong &= labels != space.ignore_label
    if wrong.any():
        raise InputError(f"{describe_wrong_value(labels, wrong)} is neither {space._allowed_values}.")
    return labels


def describe_wrong_value(values: np.ndarray, wrong: np.ndarray) -> str:
    """Describe the first wrong value, how often it occurs, and where first."""
    y, x = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return f"label value {values[y, x]} ({np.count_nonzero(values == values[y, x])} px, first at y={y}, x={x})"
