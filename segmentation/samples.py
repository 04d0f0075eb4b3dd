"""Finding and reading pairs of image and label in the layouts that datasets really come in.

The layout is told by what is there (:func:`recognise`); a dataset of your own needs no code, only two folders and a small
dataset.json. Pairs are matched by relative path without extension, and that path is the sample's name, so no two outputs
ever overwrite each other. All problems of a split are found before any work and named at once.

=====================  ======================================================================  ======================
layout                 images, labels                                                          label space
=====================  ======================================================================  ======================
PASCAL VOC 2012        ``JPEGImages``, ``SegmentationClass`` (``…Aug`` for trainaug), lists in  VOC
                       ``ImageSets/Segmentation``
Cityscapes             ``leftImg8bit/SPLIT/CITY``, ``gtFine/SPLIT/CITY``                       Cityscapes, labelIds
ADE20K                 ``images/SPLIT``, ``annotations/SPLIT``                                 ADE20K
two folders            ``images/SPLIT``, ``labels/SPLIT``, or both without SPLIT; the labels'  dataset.json
                       folder may be ``annotations`` or ``masks`` as well
a folder a split       ``SPLIT/images``, ``SPLIT/labels`` (or ``annotations``, ``masks``)      dataset.json
a CSV list             columns image, label, and split if you like                             dataset.json beside it
TFRecords              ``SPLIT-*.tfrecord`` with DeepLab's features                            dataset.json
=====================  ======================================================================  ======================

Where there is no dataset.json, the classes of VOC, Cityscapes and ADE20K are assumed only if the files look like theirs
(:class:`Known`), and the layout's first note says so. Hidden files and folders are left out.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet import files, strict_json
from dense_resnet.errors import InputError, counted
from dense_resnet.images import (
    MAX_PIXELS,
    SUFFIXES,
    as_stored,
    decode_image,
    find_images,
    is_hidden,
    orientation_of,
    read_file,
    spread,
)
from segmentation import records
from segmentation.labels import (
    ADE20K,
    CITYSCAPES,
    IGNORE_LABEL,
    VOC,
    LabelSpace,
    decode_indices,
    decode_label,
    mapping_from_json,
    reduce_zero_label,
)
from segmentation.records import SPLIT_NAMES, Source, is_inside, is_split, without_suffix

EXIF = ("error", "apply", "ignore")
LABEL_MAPS = ("trainIds", "labelIds", "reduce_zero_label")
WHOLE = "all"  # the split of a dataset without splits
DESCRIPTION = "dataset.json"
MOST_SHOWN = 100  # problems in one message
IMAGES, LABELS = "images", ("labels", "annotations", "masks")  # folders of a dataset of one's own
IMAGE_ENDING = "_leftImg8bit"  # of Cityscapes' images, before the extension
TRAINING, VALIDATION = ("train", "training"), ("val", "validation", "valid")  # usual names of splits
USUAL_SPLITS = (*TRAINING, *VALIDATION, "dev", "test", "testing", "trainval")
LABELMAP = "labelmap.txt"  # where CVAT names the classes of a VOC layout


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
        return pixels if self.exif == "apply" else as_stored(pixels, orientation)

    def orientation(self, data: bytes, max_pixels: int = MAX_PIXELS) -> int:
        """The EXIF orientation of the encoded image, 1 (upright) to 8."""
        return orientation_of(self.image.place, data, max_pixels)

    def is_turned(self, data: bytes, max_pixels: int = MAX_PIXELS) -> bool:
        """Whether an encoded image has an EXIF rotation."""
        return self.orientation(data, max_pixels) != 1

    def read_label(self, space: LabelSpace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The label ``[height, width]``: see :func:`segmentation.labels.decode_label`."""
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
            if files.lies_in(folder / out.name, out):
                raise InputError(f"{out}: holds the data themselves ({folder}). Choose an --out of its own.")


@dataclass(frozen=True)
class Pairs:
    """What looking for one split's pairs gave."""

    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what was left out


@dataclass(frozen=True)
class Layout:
    """A dataset as it lies on disk."""

    name: str
    space: LabelSpace
    splits: tuple[str, ...]
    pairs: Callable[[str], Pairs]  # of a split
    notes: tuple[str, ...] = ()  # whose classes were assumed, and what was left out
    is_records: bool = False  # TFRecords, which take TensorFlow to open


def open_dataset(
    source: str | Path,
    split: str | None = None,
    *,
    classes: str | Path | None = None,
    label_map: str | Path | None = None,
    exif: str = "error",
    strict: bool = True,
) -> Dataset:
    """Finds the pairs of a split.

    Args:
        source: a folder in one of the layouts above, or a CSV list.
        split: one of the dataset's own; None where there is only one.
        classes: a JSON file as :meth:`LabelSpace.from_json` reads, instead of the dataset's own label space.
        label_map: how values in the files become labels: "labelIds" (of Cityscapes, to trainIds), "trainIds" (the files hold
            the labels themselves; for Cityscapes, its ``*_labelTrainIds.png``), "reduce_zero_label" (0 is "ignore", n is
            class n - 1), or a JSON file ``{"value": label}``.
        exif: what an image with an EXIF rotation gets: see :class:`Sample`.
        strict: raise if there are problems; otherwise they are in the result, with the pairs that are whole.

    Raises:
        InputError: nothing is recognised, the split is not there, or (if `strict`) problems, all in one message.
    """
    return open_layout(recognise(source, classes=classes, label_map=label_map), split, exif=exif, strict=strict)


def open_layout(layout: Layout, split: str | None = None, *, exif: str = "error", strict: bool = True) -> Dataset:
    """As :func:`open_dataset`, of what :func:`recognise` found."""
    if exif not in EXIF:
        raise InputError(f"exif must be one of {', '.join(EXIF)} (not {exif!r}).")
    if split is None:
        if len(layout.splits) > 1:
            raise InputError(f"{layout.name}: which split? There are {', '.join(layout.splits)}: --split NAME.")
        split = layout.splits[0]
    if split not in layout.splits:
        raise InputError(f"{layout.name}: there is no split {split!r}; there are {', '.join(layout.splits)}.")
    found = layout.pairs(split)
    problems = list(found.problems)
    if not (found.samples or problems):
        problems.append("there are no pairs")
    if strict and problems:
        shown = problems[:MOST_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more: doctor lists them all")
        raise InputError("\n  ".join([f"{layout.name}, split {split}: {counted(len(problems), 'problem')}:", *shown]))
    samples = tuple(replace(sample, exif=exif) for sample in found.samples)
    return Dataset(layout.name, split, layout.space, samples, tuple(problems), found.notes)


def usual_split(layout: Layout, usual: Iterable[str]) -> str | None:
    """The first of the `usual` names that a split of `layout` has, in small or capital letters; None where none has."""
    named = {split.lower(): split for split in reversed(layout.splits)}
    return next((named[name] for name in usual if name in named), None)


def recognise(source: str | Path, *, classes: str | Path | None = None, label_map: str | Path | None = None) -> Layout:
    """Which layout `source` has, its label space and its splits. Arguments and errors as :func:`open_dataset`."""
    given = Path(source)
    if given.is_file():
        root, layout = given, _csv_list
    elif given.is_dir():
        root, layout = _layout_of(given)
    else:
        raise InputError(f"{source}: no such file or folder.")
    found = layout(root, _described(root if root.is_dir() else root.parent, classes), str(label_map) == "trainIds")
    return found if label_map is None else replace(found, space=_mapped(found.space, label_map))


# --------------------------------------------------------------------------------------------------------------------
# Label spaces


@dataclass(frozen=True)
class Described:
    """What dataset.json, or the file given instead, says."""

    name: str
    space: LabelSpace


def _described(folder: Path, classes: str | Path | None) -> Described | None:
    path = folder / DESCRIPTION if classes is None else Path(classes)
    if classes is None and not path.exists():
        return None
    return read_description(path, folder.resolve().name)


def read_description(path: Path, name: str = "") -> Described:
    """The classes that a ``dataset.json`` describes; `name` is the dataset's where the file has none.

    Raises:
        InputError: the file cannot be read, or describes no classes.
    """
    if not path.exists():
        raise InputError(f'{path}: no such file. The classes stand in a JSON file such as {{"classes": ["road", "sky"]}}.')
    value = _read_json(path)
    if not isinstance(value, dict):
        of_names = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
        meant = f": write {json.dumps({'classes': value})}" if of_names else ""
        raise InputError(f'{path}: expected an object such as {{"name": ..., "classes": [...]}} (not {value!r:.80}){meant}.')
    name = value.pop("name", name)
    if not isinstance(name, str):
        raise InputError(f'{path}: "name" must be a string (not {name!r:.80}).')
    return Described(name, LabelSpace.from_json(value, path))


def _needed(described: Described | None, folder: Path, why: str = "") -> Described:
    """`described`, which must be there; `why` says what of the folder does not do instead."""
    if described is None:
        above, labelmap, hint = folder.resolve().parent / DESCRIPTION, folder / LABELMAP, ""
        if labelmap.is_file():
            hint = f' {labelmap} names classes and colours: copy them, with "from_colors": true for painted labels.'
        elif above.is_file():
            hint = f" Is it {above}? Then --classes {above}."
        raise InputError(
            f"{folder}: there is no {DESCRIPTION}, which names the classes{why}. Write one there, or give --classes FILE, such "
            'as {"name": "mine", "classes": [{"name": "road", "color": [128, 64, 128]}, ...], "ignore_label": 255}. Where the '
            f"names of images and labels differ, list the pairs in a CSV file beside it.{hint}"
        )
    return described


@dataclass(frozen=True)
class Known:
    """A dataset of the field, whose classes may be assumed where no dataset.json names others."""

    name: str
    space: LabelSpace
    pattern: re.Pattern[str]  # of its label files' names
    largest: int  # value in its label files but the ignore label
    enough: int  # a value that files under other names must reach: one's own labels rarely count so far

    def described(self, own: Described | None, root: Path, folder: Path, ending: str = "") -> tuple[Described, list[str]]:
        """(what names the classes, notes): `own`, or these classes where the label files in `folder` support them.

        Raises:
            InputError: names and values are not such a dataset's, or no name has that ending.
        """
        if own is not None:
            return own, []
        files = [one for one in find_images([str(folder)]) if without_suffix(one.relative).endswith(ending)]
        if not files:
            raise InputError(f"{folder}: holds no *{ending}.png.")
        shown = spread(files)
        values: set[int] = set()
        for file in shown:
            with contextlib.suppress(InputError):  # reading the pairs says what is wrong
                values |= set(np.flatnonzero(np.bincount(decode_indices(file.path, read_file(file.path)).ravel())).tolist())
        largest = max(values - {IGNORE_LABEL}, default=0)
        named = all(self.pattern.fullmatch(without_suffix(file.path.name)) for file in shown)
        classes = f"its {self.space.num_classes} classes"
        if (named and largest > 1) or self.enough <= largest <= self.largest:
            alike = f"names such as {shown[0].path.name}" if named else f"values up to {largest}"
            return Described(self.name, self.space), [
                f"{root}: there is no {DESCRIPTION}, and the labels look like those of {self.name} ({alike}): {classes} are "
                f"assumed. If yours are others, name them in {root / DESCRIPTION}."
            ]
        others = f" and {counted(len(shown) - 1, 'other file')}" if len(shown) > 1 else ""
        held = f"values up to {max(values)}" if values else "no number per pixel"
        why = f", and the labels ({shown[0].path}{others}, with {held}) are not those of a well-known dataset"
        return _needed(None, root, why), []


def _mapped(space: LabelSpace, label_map: str | Path) -> LabelSpace:
    if str(label_map) == "trainIds":
        return replace(space, mapping=None)
    if str(label_map) == "labelIds":
        return replace(space, mapping=CITYSCAPES.mapping)
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
        raise InputError(f"{path}: is no text in UTF-8 ({error}). Save it as UTF-8.") from error
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}.{_json_hint(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}.") from error


def _json_hint(error: json.JSONDecodeError) -> str:
    """What is likely wrong where Python's reader stopped."""
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if not error.doc.strip():
        return ' The file is empty. Expected is such as {"classes": ["road", "sky"]}.'
    if rest.startswith("'"):
        return ' Names stand in double quotes: ".'
    if rest.startswith(("//", "/*", "#")):
        return " JSON has no comments: take them out."
    if rest.startswith(("True", "False", "None")):
        return " JSON writes true, false and null."
    if (before.endswith(",") or rest.startswith(",")) and rest.lstrip(", \t\r\n").startswith(("]", "}")):
        return " Take out the comma before the closing bracket."
    if before.endswith(('"', "]", "}")) and rest.startswith(('"', "[", "{")):
        return " A comma is missing there."
    return ""


# --------------------------------------------------------------------------------------------------------------------
# Layouts


def _layout_of(folder: Path) -> tuple[Path, Callable[[Path, Described | None, bool], Layout]]:
    """(the dataset's own folder, what reads its layout)."""
    for root in (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012", folder / "ADEChallengeData2016"):
        if layout := _layout_at(root):
            return root, layout
    if records.find_shards(folder):
        return folder, _tfrecords
    inner = sorted(path for path in folder.iterdir() if os.path.isdir(path))
    around = [path for path in (*inner, *folder.resolve().parents[:3]) if _layout_at(path)]
    hint = f" Is it {around[0]}, which does look like one?" if around else ""
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    known = "; ".join(" and ".join(parts) for parts in LAYOUTS)
    raise InputError(
        f"{folder}: no layout of a dataset is recognised. It holds {inside}. Expected are two folders ({known}), or files "
        f"SPLIT-*.tfrecord; or give a CSV file with the columns image,label instead of a folder.{hint}"
    )


def _layout_at(root: Path) -> Callable[[Path, Described | None, bool], Layout] | None:
    two = next((layout for parts, layout in LAYOUTS.items() if all(os.path.isdir(root / part) for part in parts)), None)
    named = (root / spelling for name in USUAL_SPLITS for spelling in (name, name.capitalize()))
    return two or (_by_split if any(_has_both(folder) for folder in named) else None)


def _voc(root: Path, described: Described | None, train_ids: bool) -> Layout:
    lists = {
        path.stem: path for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")) if not is_hidden(path.name)
    }
    if not lists:
        raise InputError(f"{root}: ImageSets/Segmentation holds no list such as train.txt.")
    plain, augmented = "SegmentationClass", "SegmentationClassAug"
    there = [name for name in (plain, augmented) if (root / name).is_dir()]

    def pairs(split: str) -> Pairs:
        labels = augmented if "aug" in split and (augmented in there or split.endswith("aug")) else plain
        if labels not in there:
            return Pairs((), (f"{root / labels}: the folder of labels is not there",))
        named = [(number, line.strip()) for number, line in enumerate(_lines(lists[split]), 1) if line.strip()]
        if not named:
            return Pairs((), (f"{lists[split]}: the list is empty",))
        if columns := [number for number, name in named if len(name.split()) == 2 and "/" in name]:
            problem = (
                f"{lists[split]}: line {columns[0]} has two columns; a line is one name, such as 2007_000032. Keep the names "
                "alone, or list the pairs in a CSV file with the columns image,label"
            )
            return Pairs((), (problem,))
        rows = []
        for number, name in named:
            kinds = [suffix for suffix in SUFFIXES if is_inside(name) and os.path.isfile(root / f"JPEGImages/{name}{suffix}")]
            image = f"JPEGImages/{name}{kinds[0] if kinds else '.jpg'}"
            rows.append(_Row(f"{lists[split]}: line {number}", name, image, f"{labels}/{name}.png"))
        return _listed(root, rows)

    own, notes = KNOWN_VOC.described(described, root, root / (there or [plain])[0])
    return Layout(own.name, own.space, tuple(lists), pairs, tuple(notes))


def _cityscapes(root: Path, described: Described | None, train_ids: bool) -> Layout:
    ending = "_gtFine_labelTrainIds" if train_ids else "_gtFine_labelIds"
    own, notes = KNOWN_CITYSCAPES.described(described, root, root / "gtFine", ending)
    return _folders(root, own, "leftImg8bit", "gtFine", IMAGE_ENDING, ending, notes)


def _ade20k(root: Path, described: Described | None, train_ids: bool) -> Layout:
    own, notes = KNOWN_ADE20K.described(described, root, root / "annotations")
    return _folders(root, own, IMAGES, "annotations", notes=notes)


def _own(root: Path, described: Described | None, train_ids: bool) -> Layout:
    return _folders(root, _needed(described, root), IMAGES, _labels_in(root) or LABELS[0])


def _by_split(root: Path, described: Described | None, train_ids: bool) -> Layout:
    own, labels = _needed(described, root), _split_folders(root)

    def pairs(split: str) -> Pairs:
        folder = root / split
        return _matched(_Files(folder / IMAGES, "", ".jpg"), _Files(folder / labels[split], "", ".png"))

    unlabelled = [name for name in _subfolders(root) if name not in labels and os.path.isdir(root / name / IMAGES)]
    notes = tuple(f"{root / name}: left out, for there is no {root / name / LABELS[0]}" for name in unlabelled)
    return Layout(own.name, own.space, tuple(labels), pairs, notes)


def _split_folders(root: Path) -> dict[str, str]:
    """The subfolders that have images and labels of their own, and what each calls its labels."""
    return {name: labels for name in _subfolders(root) if _has_both(root / name) and (labels := _labels_in(root / name))}


def _has_both(folder: Path) -> bool:
    return os.path.isdir(folder / IMAGES) and _labels_in(folder) is not None


def _labels_in(folder: Path) -> str | None:
    """What the folder of labels is called there."""
    return next((name for name in LABELS if os.path.isdir(folder / name)), None)


def _folders(
    root: Path,
    own: Described,
    images: str,
    labels: str,
    image_ending: str = "",
    label_ending: str = "",
    notes: Iterable[str] = (),
) -> Layout:
    """Two folders with subfolders for splits, or without; the labels' decide, for without labels there is nothing to do."""
    splits, unlabelled = _subfolders(root / labels), ()
    if _holds_images(root / images) or not splits:
        splits = (WHOLE,)
    else:
        unlabelled = tuple(name for name in _subfolders(root / images) if name not in splits)

    def pairs(split: str) -> Pairs:
        part = "" if splits == (WHOLE,) else split
        return _matched(_Files(root / images / part, image_ending, ".jpg"), _Files(root / labels / part, label_ending, ".png"))

    left_out = (f"{root / images / name}: left out, for there is no {root / labels / name}" for name in unlabelled)
    return Layout(own.name, own.space, splits, pairs, (*notes, *left_out))


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and not is_hidden(path.name) for path in folder.iterdir())


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if os.path.isdir(path) and not is_hidden(path.name)))


@dataclass(frozen=True)
class _Files:
    """Files of one kind below a folder."""

    folder: Path
    ending: str  # of a name before its extension
    suffix: str  # that is usual

    def expected(self, name: str) -> Path:
        """Where the file of a sample should be."""
        return self.folder / f"{name}{self.ending}{self.suffix}"

    def by_name(self, note: Callable[[str], object]) -> tuple[dict[str, Path], list[str]]:
        """(files by the sample's name, problems); `note` is called with what is left out."""
        try:
            found = find_images([str(self.folder)], note=note)
        except InputError as error:
            return {}, [str(error)]
        by_name: dict[str, Path] = {}
        problems = []
        for file in found:
            name = without_suffix(file.relative)
            if not name.endswith(self.ending):
                continue
            other = by_name.setdefault(name.removesuffix(self.ending), file.path)
            if other != file.path:
                problems.append(f"{other} and {file.path} differ in the extension only: which one counts?")
        if not by_name:
            problems.append(f"{self.folder}: holds no *{self.ending}{self.suffix}")
        return by_name, problems


def _matched(images: _Files, labels: _Files) -> Pairs:
    notes: list[str] = []
    of_image, problems = images.by_name(notes.append)
    of_label, label_problems = labels.by_name(notes.append)
    problems += label_problems
    if not (of_image and of_label):
        return Pairs((), tuple(problems), tuple(notes))
    both = sorted(set(of_image) & set(of_label))
    problems += [f"{of_image[name]}: no label {labels.expected(name)}" for name in sorted(set(of_image) - set(both))]
    problems += [f"{of_label[name]}: no image {images.expected(name)}" for name in sorted(set(of_label) - set(both))]
    if not both:
        problems.insert(
            0, "no image has the name of a label. Names must be equal up to the extension; or list them in a CSV file"
        )
    pairs = tuple(Sample(name, Source(of_image[name]), Source(of_label[name])) for name in both)
    return Pairs(pairs, tuple(problems), tuple(notes))


def _csv_list(path: Path, described: Described | None, train_ids: bool) -> Layout:
    own = _needed(described, path.parent)
    reader = csv.DictReader(_lines(path), restval="", strict=True)
    try:
        columns, entries = reader.fieldnames or (), [(reader.line_num, entry) for entry in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num + 1}: {error}.") from error
    if not all(list(columns).count(name) == 1 for name in ("image", "label")) or list(columns).count("split") > 1:
        raise InputError(
            f"{path}: its first line must name the columns image,label (and split, if you like), each once, not "
            f"{','.join(columns)!r:.80}." + (" Save it with commas, not semicolons." if ";" in ",".join(columns) else "")
        )
    rows: dict[str, list[_Row]] = {}
    problems = []
    for number, entry in entries:
        where, image = f"{path}: line {number}", entry["image"].strip()
        beyond = next(filter(str.strip, entry.get(None, ())), "")
        row = _Row(where, without_suffix(image), image, entry["label"].strip(), beyond)
        split = entry.get("split", WHOLE).strip()
        if not is_split(split):
            problems.append(f"line {number}: the split {split!r:.80}")
        rows.setdefault(split, []).append(row)
    if problems:
        found_bad = f"{counted(len(problems), 'bad line')}: {'; '.join(problems[:10])}"
        raise InputError(f"{path}: {found_bad}. The column split may be left out; {SPLIT_NAMES}.")
    if not rows:
        raise InputError(f"{path}: the list is empty.")
    return Layout(own.name, own.space, tuple(sorted(rows)), lambda split: _listed(path.parent, rows[split]))


@dataclass(frozen=True)
class _Row:
    """A line of a list."""

    where: str
    name: str
    image: str  # both relative to the list's, or the dataset's, folder
    label: str
    beyond: str = ""  # what stands behind the last column


def _listed(root: Path, rows: Iterable[_Row]) -> Pairs:
    samples: dict[str, Sample] = {}
    problems = []
    for row in rows:
        outside = [part for part in (row.name, row.image, row.label) if part and not is_inside(part)]
        if outside:
            problems.append(f"{row.where}: {outside[0]!r} is not inside {root}")
            continue
        if row.beyond:
            problems.append(f"{row.where}: {row.beyond!r:.80} stands behind the last column")
            continue
        missing = [part for part in (row.image, row.label) if not (part and os.path.isfile(root / part))]
        problems += [f"{row.where}: no such file {part!r} in {root}" for part in missing]
        if row.name in samples:
            problems.append(f"{row.where}: {row.name!r} is listed already")
        elif not missing:
            samples[row.name] = Sample(row.name, Source(root / row.image), Source(root / row.label))
    return Pairs(tuple(samples.values()), tuple(problems))


def _lines(path: Path) -> list[str]:
    """Ended by what ends lines in files; ``splitlines`` takes more for an end, which may be in a name."""
    return re.split("\r\n|\r|\n", read_file(path).decode("utf-8-sig", "surrogateescape"))


def _tfrecords(folder: Path, described: Described | None, train_ids: bool) -> Layout:
    own = _needed(described, folder)

    def pairs(split: str) -> Pairs:
        found, problems = records.read_split(folder, split)
        return Pairs(tuple(Sample(one.name, one.image, one.label) for one in found), tuple(problems))

    return Layout(own.name, own.space, tuple(sorted(records.find_shards(folder))), pairs, is_records=True)


KNOWN_VOC = Known(
    "PASCAL VOC 2012",
    VOC,
    re.compile(r"\d{4}_\d{6}"),  # such as 2007_000032
    largest=20,
    enough=15,
)
KNOWN_CITYSCAPES = Known(
    "Cityscapes",
    CITYSCAPES,
    re.compile(r".+_\d{6}_\d{6}_gtFine_label(Train)?Ids"),  # behind such as aachen_000000_000019
    largest=33,
    enough=24,
)
KNOWN_ADE20K = Known(
    "ADE20K",
    ADE20K,
    re.compile(r"ADE_.+"),  # such as ADE_val_00000001
    largest=150,
    enough=50,
)
LAYOUTS = {  # folders that are there: what reads them
    ("JPEGImages", "ImageSets/Segmentation"): _voc,
    ("leftImg8bit", "gtFine"): _cityscapes,
    (IMAGES, "labels"): _own,
    (IMAGES, "annotations"): _ade20k,
    (IMAGES, "masks"): _own,
}
