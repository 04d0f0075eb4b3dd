"""Read dataset.json: names of classes, the ignore label and a mapping of raw values; and know three datasets without one."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, pluralize
from dense_resnet.image_io.bit_depth import sample_evenly
from dense_resnet.image_io.decoding import read_file
from dense_resnet.image_io.discovery import find_images
from dense_resnet.jobs import strict_json
from segmentation.data import label_tables
from segmentation.data.label_files import decode_indices
from segmentation.data.label_space import LabelSpace, mapping_from_json, reduce_zero_label
from segmentation.data.samples import LABEL_MAPS
from segmentation.data.source import without_suffix
from segmentation.metrics.confusion import IGNORE_LABEL

DESCRIPTION = "dataset.json"
LABELMAP = "labelmap.txt"  # where CVAT names the classes of a VOC layout


@dataclass(frozen=True)
class Described:
    """What dataset.json, or the file given instead, says."""

    name: str
    space: LabelSpace
    notes: tuple[str, ...] = ()  # that the classes were assumed


def load(folder: Path, classes: str | Path | None) -> Described | None:
    """Read the file `classes`, or the dataset.json in `folder` if there is one."""
    path = folder / DESCRIPTION if classes is None else Path(classes)
    if classes is None and not path.exists():
        return None
    return read_dataset_description(path, folder.resolve().name)


def read_dataset_description(path: Path, name: str = "") -> Described:
    """Read the classes that a ``dataset.json`` describes; `name` is the dataset's if the file has none."""
    if not path.exists():
        raise InputError(f'{path}: no such file. The classes are in a JSON file such as {{"classes": ["road", "sky"]}}.')
    value = _read_json(path)
    if not isinstance(value, dict):
        of_names = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
        meant = f": write {json.dumps({'classes': value})}" if of_names else ""
        raise InputError(f'{path}: expected an object such as {{"name": ..., "classes": [...]}} (not {value!r:.80}){meant}.')
    name = value.pop("name", name)
    if not isinstance(name, str):
        raise InputError(f'{path}: "name" must be a string (not {name!r:.80}).')
    return Described(name, LabelSpace.from_json(value, path))


def require(described: Described | None, folder: Path, why: str = "") -> Described:
    """Return `described`; raise an error if it is None, with `why`: the reason that the folder does not replace it."""
    if described is None:
        above, labelmap, hint = folder.resolve().parent / DESCRIPTION, folder / LABELMAP, ""
        if labelmap.is_file():
            hint = f' {labelmap} lists classes and colors: copy them, with "from_colors": true for painted labels.'
        elif above.is_file():
            hint = f" Is it {above}? Then --classes {above}."
        raise InputError(
            f"{folder}: {DESCRIPTION} not found (it defines the classes){why}. Create it or pass --classes FILE, for example "
            '{"name": "mine", "classes": [{"name": "road", "color": [128, 64, 128]}, ...], "ignore_label": 255}. If the '
            f"names of images and labels differ, list the pairs in a CSV file next to it.{hint}"
        )
    return described


@dataclass(frozen=True)
class Known:
    """A well-known dataset, whose classes may be assumed if no dataset.json defines others."""

    name: str
    space: LabelSpace
    pattern: re.Pattern[str]  # of its label files' names
    largest: int  # value in its label files, except the ignore label
    enough: int  # a value that files under other names must reach, which labels of other datasets rarely do

    def resolve(self, own: Described | None, root: Path, folder: Path, ending: str = "") -> Described:
        """Return `own`, or these classes if names and values of the label files in `folder` with that ending support them."""
        if own is not None:
            return own
        files = [one for one in find_images([str(folder)]) if without_suffix(one.relative).endswith(ending)]
        if not files:
            raise InputError(f"{folder}: contains no *{ending}.png.")
        shown = sample_evenly(files)
        values: set[int] = set()
        for file in shown:
            with contextlib.suppress(InputError):  # reading the pairs says what is wrong
                values |= set(np.flatnonzero(np.bincount(decode_indices(file.path, read_file(file.path)).ravel())).tolist())
        largest = max(values - {IGNORE_LABEL}, default=0)
        named = all(self.pattern.fullmatch(without_suffix(file.path.name)) for file in shown)
        if (named and largest > 1) or self.enough <= largest <= self.largest:
            alike = f"names such as {shown[0].path.name}" if named else f"values up to {largest}"
            found = f"{root}: {DESCRIPTION} not found, and the labels look like those of {self.name} ({alike})"
            assumed = f"its {self.space.num_classes} classes are assumed. If yours differ, define them in {root / DESCRIPTION}."
            return Described(self.name, self.space, (f"{found}: {assumed}",))
        others = f" and {pluralize(len(shown) - 1, 'other file')}" if len(shown) > 1 else ""
        held = f"values up to {max(values)}" if values else "no number per pixel"
        why = f", and the labels ({shown[0].path}{others}, with {held}) are not those of a well-known dataset"
        return require(None, root, why)


def apply_label_map(space: LabelSpace, label_map: str | Path) -> LabelSpace:
    """Return `space` with one of LABEL_MAPS, or with the mapping in a JSON file."""
    if str(label_map) == "trainIds":
        return replace(space, mapping=None)
    if str(label_map) == "labelIds":
        return replace(space, mapping=label_tables.CITYSCAPES.mapping)
    if str(label_map) == "reduce_zero_label":
        return reduce_zero_label(space)
    path = Path(label_map)
    if not path.is_file():
        raise InputError(f"label map {str(label_map)!r}: neither a JSON file nor one of {', '.join(LABEL_MAPS)}.")
    try:
        return replace(space, mapping=mapping_from_json(_read_json(path)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return strict_json.loads(read_file(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}.{_json_hint(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}.") from error


def _json_hint(error: json.JSONDecodeError) -> str:
    """Say what is likely wrong at the place where Python's reader stopped."""
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if not error.doc.strip():
        return ' The file is empty. Expected, for example: {"classes": ["road", "sky"]}.'
    if rest.startswith("'"):
        return ' Names must be in double quotes: ".'
    if rest.startswith(("//", "/*", "#")):
        return " JSON has no comments: remove them."
    if rest.startswith(("True", "False", "None")):
        return " JSON writes true, false and null."
    if (before.endswith(",") or rest.startswith(",")) and rest.lstrip(", \t\r\n").startswith(("]", "}")):
        return " Remove the comma before the closing bracket."
    if before.endswith(('"', "]", "}")) and rest.startswith(('"', "[", "{")):
        return " A comma is missing here."
    return ""


VOC = Known("PASCAL VOC 2012", label_tables.VOC, re.compile(r"\d{4}_\d{6}"), largest=20, enough=15)  # 2007_000032
CITYSCAPES = Known(  # such as aachen_000000_000019_gtFine_labelIds
    "Cityscapes", label_tables.CITYSCAPES, re.compile(r".+_\d{6}_\d{6}_gtFine_label(Train)?Ids"), largest=33, enough=24
)
ADE20K = Known("ADE20K", label_tables.ADE20K, re.compile(r"ADE_.+"), largest=150, enough=50)  # ADE_val_00000001
