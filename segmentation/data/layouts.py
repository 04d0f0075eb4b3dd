"""Find and read pairs of image and label in the usual layouts of datasets, recognized by their files.

Pairs are matched by relative path without extension. That path is the sample's name, so no two outputs overwrite each other.

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
a CSV list             columns image, label, and optionally split                              dataset.json next to it
TFRecords              ``SPLIT-*.tfrecord`` with DeepLab's features                            dataset.json
=====================  ======================================================================  ======================

Without a dataset.json, the classes of VOC, Cityscapes and ADE20K are assumed only if the files look like theirs
(:class:`description.Known`), and the layout's first note says so. Hidden files and folders are left out.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dense_resnet.errors import InputError, pluralize
from dense_resnet.image_io.decoding import SUFFIXES, read_file
from dense_resnet.image_io.discovery import find_images, is_hidden
from segmentation.data import description, tfrecords
from segmentation.data.description import Described, require
from segmentation.data.label_space import LabelSpace
from segmentation.data.samples import EXIF, WHOLE, Dataset, Sample
from segmentation.data.source import SPLIT_NAMES, Source, is_inside, is_split, without_suffix

IMAGES, LABELS = "images", ("labels", "annotations", "masks")  # folders of a dataset in no well-known layout
IMAGE_ENDING = "_leftImg8bit"  # of Cityscapes' images, before the extension
TRAINING, VALIDATION = ("train", "training"), ("val", "validation", "valid")  # usual names of splits
USUAL_SPLITS = (*TRAINING, *VALIDATION, "dev", "test", "testing", "trainval")
MOST_SHOWN = 100  # problems in one message


@dataclass(frozen=True)
class Pairs:
    """The pairs of one split, and the problems found."""

    samples: Sequence[Sample]
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()  # what was ignored


@dataclass(frozen=True)
class Layout:
    """A dataset as it is on disk."""

    name: str
    space: LabelSpace
    splits: tuple[str, ...]
    pairs: Callable[[str], Pairs]  # of a split
    notes: tuple[str, ...] = ()  # whose classes were assumed, and what was ignored
    is_records: bool = False  # TFRecords, which need TensorFlow to open


def open_dataset(
    source: str | Path,
    split: str | None = None,
    *,
    classes: str | Path | None = None,
    label_map: str | Path | None = None,
    exif: str = "error",
    strict: bool = True,
) -> Dataset:
    """Find the pairs of a split.

    Args:
        source: a folder in one of the layouts above, or a CSV list.
        split: one of the dataset's own; None if there is only one.
        classes: a JSON file as :meth:`LabelSpace.from_json` reads, instead of the dataset's own label space.
        label_map: how values in the files become labels: "labelIds" (of Cityscapes, to trainIds), "trainIds" (the files hold
            the labels themselves; for Cityscapes, its ``*_labelTrainIds.png``), "reduce_zero_label" (0 is "ignore", n is
            class n - 1), or a JSON file ``{"value": label}``.
        exif: what to do with an image that has an EXIF rotation: see :class:`Sample`.
        strict: raise if there are problems; otherwise they are in the result, with the complete pairs.

    Raises:
        InputError: nothing is recognized, the split does not exist, or (if `strict`) problems, all in one message.
    """
    return open_layout(recognize(source, classes=classes, label_map=label_map), split, exif=exif, strict=strict)


def open_layout(layout: Layout, split: str | None = None, *, exif: str = "error", strict: bool = True) -> Dataset:
    """Open a split of a layout that :func:`recognize` found; arguments as :func:`open_dataset`."""
    if exif not in EXIF:
        raise InputError(f"exif must be one of {', '.join(EXIF)} (not {exif!r}).")
    if split is None:
        if len(layout.splits) > 1:
            raise InputError(f"{layout.name}: a split is required. Available: {', '.join(layout.splits)}. Pass --split NAME.")
        split = layout.splits[0]
    if split not in layout.splits:
        raise InputError(f"{layout.name}: there is no split {split!r}. Available: {', '.join(layout.splits)}.")
    found = layout.pairs(split)
    problems = found.problems if found.samples or found.problems else ["there are no pairs"]
    if strict and problems:
        more = len(problems) - MOST_SHOWN
        hidden = [f"... and {more} more: doctor lists them all"] if more > 0 else []
        heading = f"{layout.name}, split {split}: {pluralize(len(problems), 'problem')}:"
        raise InputError("\n  ".join([heading, *problems[:MOST_SHOWN], *hidden]))
    samples = tuple(replace(sample, exif=exif) for sample in found.samples)
    return Dataset(layout.name, split, layout.space, samples, tuple(problems), tuple(found.notes))


def usual_split(layout: Layout, usual: Iterable[str]) -> str | None:
    """Return the split of `layout` that has the first of the `usual` names, in any case; None if there is none."""
    named = {split.lower(): split for split in reversed(layout.splits)}
    return next((named[name] for name in usual if name in named), None)


def recognize(source: str | Path, *, classes: str | Path | None = None, label_map: str | Path | None = None) -> Layout:
    """Recognize the layout of `source`, its label space and its splits. Arguments and errors as :func:`open_dataset`."""
    given = Path(source)
    if given.is_dir():
        root, layout = _layout_of(given)
    elif given.is_file():
        root, layout = given, _csv_list
    else:
        raise InputError(f"{source}: no such file or folder.")
    found = layout(root, description.load(root if root.is_dir() else root.parent, classes), str(label_map) == "trainIds")
    return found if label_map is None else replace(found, space=description.apply_label_map(found.space, label_map))


Reader = Callable[[Path, Described | None, bool], Layout]  # of a folder, what describes it, whether trainIds are asked for


def _layout_of(folder: Path) -> tuple[Path, Reader]:
    """Return (the dataset's own folder, what reads its layout)."""
    for root in (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012", folder / "ADEChallengeData2016"):
        if layout := _layout_at(root):
            return root, layout
    if tfrecords.find_shards(folder):
        return folder, _tfrecords
    inner = sorted(path for path in folder.iterdir() if os.path.isdir(path))
    around = [path for path in (*inner, *folder.resolve().parents[:3]) if _layout_at(path)]
    hint = f" Is it {around[0]}, which does look like one?" if around else ""
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    known = "; ".join(" and ".join(parts) for parts in LAYOUTS)
    raise InputError(
        f"{folder}: no layout of a dataset is recognized. It contains {inside}. Expected: two folders ({known}), or files "
        f"SPLIT-*.tfrecord; or pass a CSV file with the columns image,label instead of a folder.{hint}"
    )


def _layout_at(root: Path) -> Reader | None:
    two = next((layout for parts, layout in LAYOUTS.items() if all(os.path.isdir(root / part) for part in parts)), None)
    named = (root / spelling for name in USUAL_SPLITS for spelling in (name, name.capitalize()))
    by_split = any(os.path.isdir(folder / IMAGES) and _labels_in(folder) for folder in named)
    return two or (_by_split if by_split else None)


def _voc(root: Path, described: Described | None, train_ids: bool) -> Layout:
    found = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    lists = {path.stem: path for path in found if not is_hidden(path.name)}
    if not lists:
        raise InputError(f"{root}: ImageSets/Segmentation contains no list such as train.txt.")
    plain, augmented = "SegmentationClass", "SegmentationClassAug"
    there = [name for name in (plain, augmented) if (root / name).is_dir()]

    def pairs(split: str) -> Pairs:
        labels = augmented if "aug" in split and (augmented in there or split.endswith("aug")) else plain
        if labels not in there:
            return Pairs((), (f"{root / labels}: the folder of labels does not exist",))
        named = [(number, line.strip()) for number, line in enumerate(_lines(lists[split]), 1) if line.strip()]
        if not named:
            return Pairs((), (f"{lists[split]}: the list is empty",))
        if columns := [number for number, name in named if len(name.split()) == 2 and "/" in name]:
            problem = (
                f"{lists[split]}: line {columns[0]} has two columns; a line is one name, such as 2007_000032. Keep only "
                "the names, or list the pairs in a CSV file with the columns image,label"
            )
            return Pairs((), (problem,))
        rows = []
        for number, name in named:
            kinds = [suffix for suffix in SUFFIXES if is_inside(name) and os.path.isfile(root / f"JPEGImages/{name}{suffix}")]
            image = f"JPEGImages/{name}{kinds[0] if kinds else '.jpg'}"
            rows.append(_Row(f"{lists[split]}: line {number}", name, image, f"{labels}/{name}.png"))
        return _pair_rows(root, rows)

    own = description.VOC.resolve(described, root, root / (there or [plain])[0])
    return Layout(own.name, own.space, tuple(lists), pairs, own.notes)


def _cityscapes(root: Path, described: Described | None, train_ids: bool) -> Layout:
    ending = "_gtFine_labelTrainIds" if train_ids else "_gtFine_labelIds"
    own = description.CITYSCAPES.resolve(described, root, root / "gtFine", ending)
    return _folders(root, own, "leftImg8bit", "gtFine", IMAGE_ENDING, ending)


def _ade20k(root: Path, described: Described | None, train_ids: bool) -> Layout:
    return _folders(root, description.ADE20K.resolve(described, root, root / "annotations"), IMAGES, "annotations")


def _own(root: Path, described: Described | None, train_ids: bool) -> Layout:
    return _folders(root, require(described, root), IMAGES, _labels_in(root) or LABELS[0])


def _by_split(root: Path, described: Described | None, train_ids: bool) -> Layout:
    own = require(described, root)
    with_images = [name for name in _subfolders(root) if os.path.isdir(root / name / IMAGES)]
    labels = {name: folder for name in with_images if (folder := _labels_in(root / name))}

    def pairs(split: str) -> Pairs:
        return _match_pairs(_Files(root / split / IMAGES, "", ".jpg"), _Files(root / split / labels[split], "", ".png"))

    unlabeled = [root / name for name in with_images if name not in labels]
    notes = tuple(f"{folder}: ignored, because there is no {folder / LABELS[0]}" for folder in unlabeled)
    return Layout(own.name, own.space, tuple(labels), pairs, notes)


def _labels_in(folder: Path) -> str | None:
    """Return the name of the label folder, if any."""
    return next((name for name in LABELS if os.path.isdir(folder / name)), None)


def _folders(root: Path, own: Described, images: str, labels: str, image_ending: str = "", label_ending: str = "") -> Layout:
    """Read two folders, with subfolders for splits or without; the label folder's subfolders are the splits."""
    splits, unlabeled = _subfolders(root / labels), []
    holds_images = (path.suffix.lower() in SUFFIXES and not is_hidden(path.name) for path in (root / images).iterdir())
    if any(holds_images) or not splits:
        splits = (WHOLE,)
    else:
        unlabeled = [name for name in _subfolders(root / images) if name not in splits]

    def pairs(split: str) -> Pairs:
        part = "" if splits == (WHOLE,) else split
        of_images = _Files(root / images / part, image_ending, ".jpg")
        return _match_pairs(of_images, _Files(root / labels / part, label_ending, ".png"))

    left_out = (f"{root / images / name}: ignored, because there is no {root / labels / name}" for name in unlabeled)
    return Layout(own.name, own.space, splits, pairs, (*own.notes, *left_out))


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if os.path.isdir(path) and not is_hidden(path.name)))


@dataclass(frozen=True)
class _Files:
    """Files of one kind below a folder."""

    folder: Path
    ending: str  # end of a name, before its extension
    suffix: str  # the usual one

    def path_of(self, name: str) -> Path:
        """Return where the file of a sample should be."""
        return self.folder / f"{name}{self.ending}{self.suffix}"

    def by_name(self, note: Callable[[str], object]) -> tuple[dict[str, Path], list[str]]:
        """Return (files by the sample's name, problems); `note` is called with what is ignored."""
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
                problems.append(f"{other} and {file.path} differ only in the extension: remove one of them")
        if not by_name:
            problems.append(f"{self.folder}: contains no *{self.ending}{self.suffix}")
        return by_name, problems


def _match_pairs(images: _Files, labels: _Files) -> Pairs:
    notes: list[str] = []
    of_image, problems = images.by_name(notes.append)
    of_label, label_problems = labels.by_name(notes.append)
    problems += label_problems
    if not (of_image and of_label):
        return Pairs((), problems, notes)
    both = sorted(set(of_image) & set(of_label))
    problems += [f"{of_image[name]}: no label {labels.path_of(name)}" for name in sorted(set(of_image) - set(both))]
    problems += [f"{of_label[name]}: no image {images.path_of(name)}" for name in sorted(set(of_label) - set(both))]
    if not both:
        unequal = "no image has the name of a label. Names must be equal up to the extension; or list them in a CSV file"
        problems.insert(0, unequal)
    pairs = [Sample(name, Source(of_image[name]), Source(of_label[name])) for name in both]
    return Pairs(pairs, problems, notes)


def _csv_list(path: Path, described: Described | None, train_ids: bool) -> Layout:
    own = require(described, path.parent)
    reader = csv.DictReader(_lines(path), restval="", strict=True)
    try:
        columns, entries = list(reader.fieldnames or ()), [(reader.line_num, entry) for entry in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num + 1}: {error}.") from error
    if not columns.count("image") == columns.count("label") == 1 or columns.count("split") > 1:
        first = ",".join(columns)
        expected = "its first line must name the columns image,label (and optionally split), each once"
        hint = " Save it with commas, not semicolons." if ";" in first else ""
        raise InputError(f"{path}: {expected}, not {first!r:.80}.{hint}")
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
        found_bad = f"{pluralize(len(problems), 'bad line')}: {'; '.join(problems[:10])}"
        raise InputError(f"{path}: {found_bad}. The column split may be left out; {SPLIT_NAMES}.")
    if not rows:
        raise InputError(f"{path}: the list is empty.")
    return Layout(own.name, own.space, tuple(sorted(rows)), lambda split: _pair_rows(path.parent, rows[split]))


@dataclass(frozen=True)
class _Row:
    """A line of a list."""

    where: str
    name: str
    image: str  # both relative to the list's, or the dataset's, folder
    label: str
    beyond: str = ""  # text after the last column


def _pair_rows(root: Path, rows: Iterable[_Row]) -> Pairs:
    samples: dict[str, Sample] = {}
    problems = []
    for row in rows:
        outside = [part for part in (row.name, row.image, row.label) if part and not is_inside(part)]
        if outside:
            problems.append(f"{row.where}: {outside[0]!r} is not inside {root}")
            continue
        if row.beyond:
            problems.append(f"{row.where}: {row.beyond!r:.80} is after the last column")
            continue
        missing = [part for part in (row.image, row.label) if not (part and os.path.isfile(root / part))]
        problems += [f"{row.where}: no such file {part!r} in {root}" for part in missing]
        if row.name in samples:
            problems.append(f"{row.where}: {row.name!r} is listed already")
        elif not missing:
            samples[row.name] = Sample(row.name, Source(root / row.image), Source(root / row.label))
    return Pairs(list(samples.values()), problems)


def _lines(path: Path) -> list[str]:
    """Split a file at line ends only; ``splitlines`` also splits at characters that may be in a name."""
    return re.split("\r\n|\r|\n", read_file(path).decode("utf-8-sig", "surrogateescape"))


def _tfrecords(folder: Path, described: Described | None, train_ids: bool) -> Layout:
    own, splits = require(described, folder), tuple(sorted(tfrecords.find_shards(folder)))
    return Layout(own.name, own.space, splits, lambda split: Pairs(*tfrecords.read_split(folder, split)), is_records=True)


LAYOUTS = {  # folders that must exist: what reads them
    ("JPEGImages", "ImageSets/Segmentation"): _voc,
    ("leftImg8bit", "gtFine"): _cityscapes,
    (IMAGES, "labels"): _own,
    (IMAGES, "annotations"): _ade20k,
    (IMAGES, "masks"): _own,
}
