"""Validate a dataset before training: report all problems at once, and what the dataset contains.

An error would stop a training or an evaluation, or falsify its figures; a warning is a likely mistake that may be
intended. :func:`inspect` reads everything (``dense-resnet doctor``); :func:`check_splits` reads all labels and the images'
headers, which `train` does before its first step. `evaluate` checks its pairs itself and asks :func:`judge`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, format_list, pluralize
from dense_resnet.image_io.bit_depth import find_deep
from dense_resnet.image_io.decoding import MAX_PIXELS, open_image
from segmentation.data.label_counts import BOTH, MOST_VALUES, LabelCounts, SplitCounts, _size, check_pair
from segmentation.data.label_space import LabelSpace
from segmentation.data.samples import Dataset, Sample
from segmentation.data.tfrecords import counts_path

Progress = Callable[[str, int, int], None]  # (what is being done, done, total)


def quiet(what: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Finding:
    """Something wrong."""

    split: str
    kind: str  # one of few words, such as "size"
    message: str
    is_error: bool = True


@dataclass(frozen=True)
class Report:
    """What :func:`inspect` found."""

    name: str
    space: LabelSpace
    splits: tuple[SplitCounts, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()  # the numbers in label files, if some of them have no meaning

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What has to be fixed."""
        return tuple(finding for finding in self.findings if finding.is_error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What should be looked at."""
        return tuple(finding for finding in self.findings if not finding.is_error)

    def as_json(self) -> dict[str, Any]:
        """Return everything, for a file."""
        return {
            "name": self.name,
            **self.space.as_json(),
            "splits": {
                counts.split: {
                    "images": counts.images,
                    "ignored_pixels": counts.ignored,
                    "classes": [
                        {"name": name, "pixels": pixels, "images": images, "weight": weight}
                        for name, pixels, images, weight in zip(
                            self.space.names,
                            counts.pixels.tolist(),
                            counts.occurrences.tolist(),
                            counts.weights.tolist(),
                            strict=True,
                        )
                    ],
                }
                for counts in self.splits
            },
            **{
                title: [{"split": one.split, "kind": one.kind, "message": one.message} for one in findings]
                for title, findings in (("errors", self.errors), ("warnings", self.warnings))
            },
            "notes": list(self.notes),
        }


def judge(splits: Sequence[tuple[Dataset, LabelCounts]]) -> dict[str, str]:
    """Judge what the labels of splits that are used together hold, the one that is trained or scored on first.

    Returns:
        Warnings, by their kinds.

    Raises:
        InputError: a split has no labeled pixel, or all are masks of 0 and 255 whose 255 would be ignored.
    """
    warnings = {}
    whole = LabelCounts(splits[0][0].space)
    for number, (dataset, counts) in enumerate(splits):
        if problem := counts.no_labels_problem:
            instead = " Or train without validation images: --validation none." if number else ""
            raise InputError(f"{dataset.name}, split {dataset.split}: {problem}{instead}")
        whole.add(counts)
        for kind in ("seams", "alone"):
            if doubt := getattr(counts, kind):
                warnings[f"{kind} {dataset.split}"] = f"{dataset.name}, split {dataset.split}: {doubt}"
    if problem := whole.masks:
        if not whole.space.ignore_is_given:
            raise InputError(f"{splits[0][0].name}: {problem}")
        warnings["masks"] = f"{splits[0][0].name}: {problem}"
    return warnings


@dataclass(frozen=True)
class Checked:
    """What :func:`check_splits` found in splits that can be used."""

    labels: tuple[LabelCounts, ...]  # one a split
    warnings: Mapping[str, str]  # by their kinds


def check_splits(datasets: Sequence[Dataset], progress: Progress = quiet, max_pixels: int = MAX_PIXELS) -> Checked:
    """Read all labels and the headers of all images of splits that are used together, before anything is computed.

    Args:
        datasets: the splits, the one that is trained on first, and the one for validation if there is one.
        progress: called with (what, done, total).
        max_pixels: larger images are refused.

    Raises:
        InputError: pairs that cannot be used, all in one message; or see :func:`judge`.
    """

    def look(pair: tuple[LabelCounts, Sample]) -> tuple[LabelCounts, str | None]:
        own = LabelCounts(pair[0].space)
        try:
            check_pair(pair[1], own, max_pixels)
        except InputError as error:
            return own, str(error)
        return own, None

    counts = [LabelCounts(dataset.space) for dataset in datasets]
    pairs = [(total, sample) for dataset, total in zip(datasets, counts, strict=True) for sample in dataset.samples]
    bad = []
    with contextlib.closing(_map_in_threads(look, pairs)) as work:
        for number, ((total, _), (own, problem)) in enumerate(zip(pairs, work, strict=True), 1):
            total.add(own)
            if problem:
                bad.append(problem)
            progress("checking", number, len(pairs))
    if bad:
        raise InputError(
            f"{len(bad)} of {pluralize(len(pairs), 'pair')} cannot be used; nothing was computed. `dense-resnet doctor` says "
            f"more about the dataset.{format_list(bad)}"
        )
    return Checked(tuple(counts), judge(list(zip(datasets, counts, strict=True))))


def _map_in_threads(look: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
    """Map `look` over items by threads; closing it, as an interrupt does, does not wait for the rest."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, contextlib.closing(pool.map(look, items)) as work:  # type: ignore[type-var]  # a generator
        yield from work


def inspect(
    datasets: Sequence[Dataset],
    max_pixels: int = MAX_PIXELS,
    progress: Progress = quiet,
) -> Report:
    """Decode every image and label of all splits of a dataset, opened with ``strict=False``.

    Args:
        datasets: its splits.
        max_pixels: larger images are an error.
        progress: called with (what, done, total).
    """
    space = datasets[0].space
    pairs = {(sample.image, sample.label): sample for dataset in datasets for sample in dataset.samples}
    seen: dict[Any, _Seen] = {}
    with contextlib.closing(_map_in_threads(lambda sample: _examine(sample, space, max_pixels), pairs.values())) as work:
        for pair, result in zip(pairs, work, strict=True):
            seen[pair] = result
            progress("inspecting", len(seen), len(pairs))
    findings: list[Finding] = []
    notes = []
    reported: set[Any] = set()  # pairs that are in two splits, such as train and trainval, are reported once
    splits = []
    for dataset in datasets:
        findings += [Finding(dataset.split, "pairs", problem) for problem in dataset.problems]
        findings += _without_counts(dataset)
        own = {pair: seen[pair] for pair in ((sample.image, sample.label) for sample in dataset.samples)}
        for pair, result in own.items():
            if pair not in reported:
                findings += [Finding(dataset.split, *found) for found in result.found]
        reported.update(own)
        labels = LabelCounts(space)
        for result in own.values():
            labels.add(result.labels)
        occurrences = sum((result.labels.pixels > 0 for result in own.values()), np.zeros(space.num_classes, np.int64))
        counts = SplitCounts(dataset.split, len(own), labels.pixels, occurrences, labels.ignored)
        splits.append(counts)
        if labels.meaningless:
            notes.append(f"{dataset.split}: {_report_meaningless(labels)}")
        for kind, doubt in (("unlabelled", labels.no_labels_problem), ("seams", labels.seams)):
            if doubt:
                findings.append(Finding(dataset.split, kind, doubt, False))
        findings += _absent(space, counts)
        findings += _twice(dataset, seen)
    findings += _across(space, datasets, seen)
    if deep := find_deep((image for image, _ in pairs), max_pixels):
        findings.append(Finding(", ".join(dataset.split for dataset in datasets), "16-bit", str(deep), False))
    return Report(datasets[0].name, space, tuple(splits), tuple(findings), tuple(notes))


@dataclass
class _Seen:
    """What one pair turned out to be."""

    labels: LabelCounts
    digest: str | None = None  # of the encoded image
    found: list[tuple[str, str, bool]] = field(default_factory=list)  # (kind, message, whether it is an error)

    @contextlib.contextmanager
    def note_errors(self, kind: str) -> Iterator[None]:
        """Turn errors in the block into findings."""
        try:
            yield
        except InputError as error:
            self.found.append((kind, str(error), True))


def _examine(sample: Sample, space: LabelSpace, max_pixels: int) -> _Seen:
    counts = LabelCounts(space)
    seen = _Seen(counts)
    image_size = None
    with seen.note_errors("image"):
        data = sample.image_bytes()
        seen.digest = hashlib.sha256(data).hexdigest()
        if sample.is_turned(data, max_pixels) and sample.exif != "error":
            seen.found.append(("exif", f"{sample.image}: has an EXIF rotation: --exif {sample.exif}", False))
        image_size = sample.decode_image(data, max_pixels).shape[:2]
    with seen.note_errors("label"):
        data = sample.label_bytes()
        labels = counts.read(sample, data, max_pixels)
        if not space.from_colors:
            seen.found += _palette_surprise(sample, data, counts.numbers, space, max_pixels)
        if counts.ignored == labels.size:
            seen.found.append(("ignored", f"{sample.label}: every pixel has the ignore label.", False))
    if image_size and counts.size and image_size != counts.size:
        turned = " It is rotated: has the image lost an EXIF rotation?" if image_size == counts.size[::-1] else ""
        message = f"{sample.image}: the image is {_size(image_size)}, its label {sample.label} {_size(counts.size)}.{turned}"
        seen.found.append(("size", message, True))
    return seen


def _palette_surprise(
    sample: Sample, data: bytes, values: Iterable[int], space: LabelSpace, max_pixels: int
) -> list[tuple[str, str, bool]]:
    """Report a palette that is neither the classes' given colors nor gray: the indices may mean something else."""
    assert sample.label is not None
    with open_image(sample.label.place, io.BytesIO(data), max_pixels) as image:
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if not len(palette):
        return []
    owners = {one.color: index for index, one in reversed(list(enumerate(space.classes))) if one.color_is_given}
    for value in sorted(values):
        label = value if space.mapping is None else space.mapping[value]
        color = tuple(palette[value].tolist()) if value < len(palette) else (0, 0, 0)
        if label == space.ignore_label or not space.classes[label].color_is_given:
            continue
        if color in (space.classes[label].color, (value, value, value)):
            continue
        other = f", which is the color of class {owners[color]} {space.names[owners[color]]!r}" if color in owners else ""
        return [
            (
                "palette",
                f"{sample.label}: its palette paints value {value} {list(color)}{other}; class {label} "
                f"{space.names[label]!r} has {list(space.classes[label].color)}. Was the label converted from a color picture?",
                False,
            )
        ]
    return []


def _report_meaningless(labels: LabelCounts) -> str:
    """List the numbers in label files, and those of them without a meaning."""
    space = labels.space
    meaning = f"the classes are 0..{space.num_classes - 1}"
    if space.mapping is not None:
        meaning = "the label map says what the others mean"
    elif space.ignore_label is not None:
        meaning += f", the ignore label is {space.ignore_label}"
    without = ", ".join(map(str, labels.meaningless[:MOST_VALUES])) + (", ..." if len(labels.meaningless) > MOST_VALUES else "")
    return (
        f"the label files hold {labels.numbers_summary}. No meaning is given to {without}: {meaning}. Does dataset.json name "
        'too few classes, or need a "mapping" of the values to classes?'
    )


def _absent(space: LabelSpace, counts: SplitCounts) -> list[Finding]:
    absent = [name for name, pixels in zip(space.names, counts.pixels, strict=True) if not pixels]
    if not absent or not counts.pixels.any():  # otherwise another finding explains why nothing is present
        return []
    return [Finding(counts.split, "absent", f"classes that never occur: {', '.join(absent)}.", False)]


def _twice(dataset: Dataset, seen: dict[Any, _Seen]) -> list[Finding]:
    """Find images of one split with the same bytes."""
    findings = []
    first: dict[str, Sample] = {}
    for sample in dataset.samples:
        digest = seen[sample.image, sample.label].digest
        if digest is not None and first.setdefault(digest, sample) is not sample:
            message = f"{sample.image}: the same image as {first[digest].image}."
            findings.append(Finding(dataset.split, "duplicate", message, False))
    return findings


def _without_counts(dataset: Dataset) -> list[Finding]:
    folders = {sample.image.path.parent for sample in dataset.samples if sample.image.length is not None}
    return [
        Finding(
            dataset.split, "records", f"{path} not found: a shard that is cut between two records cannot be detected.", False
        )
        for path in (counts_path(folder, dataset.split) for folder in folders)
        if not path.exists()
    ]


def _overlaps(datasets: Sequence[Dataset], seen: dict[Any, _Seen]) -> list[Finding]:
    """Find images that are also in a later split, each with the next one; train and trainaug may share images."""
    overlaps: list[list[Finding]] = []
    later: dict[str | None, tuple[str, Sample]] = {}  # by digest: the next split, and the sample there
    untrained: dict[str | None, tuple[str, Sample]] = {}  # by digest: the same, of splits that are not trained on
    for dataset in reversed(datasets):
        trained = dataset.split.startswith("train")
        own: dict[str | None, tuple[str, Sample]] = {}
        overlaps.append([])
        for sample in dataset.samples:
            digest = seen[sample.image, sample.label].digest
            own[digest] = dataset.split, sample
            if found := (untrained if trained else later).get(digest):
                split, other = found
                message = f"{sample.image} is also in {split}, as {other.image}: results there would be wrong."
                overlaps[-1].append(Finding(dataset.split, "overlap", message))
        own.pop(None, None)  # could not be read
        later |= own
        untrained |= {} if trained else own
    return list(itertools.chain.from_iterable(reversed(overlaps)))


def _across(space: LabelSpace, datasets: Sequence[Dataset], seen: dict[Any, _Seen]) -> list[Finding]:
    """Find what only all files together show: images in two splits, labels that start at 1, masks of 0 and 255."""
    findings = []
    names = ", ".join(dataset.split for dataset in datasets)
    findings += _overlaps([dataset for dataset in datasets if dataset.split != BOTH], seen)
    labels = LabelCounts(space)
    for result in seen.values():
        labels.add(result.labels)
    highest = space.num_classes
    if space.mapping is None and highest in labels.numbers and 0 not in labels.numbers:
        findings.append(
            Finding(
                names,
                "one-based",
                f"the labels look 1-based: {highest} occurs and 0 never, and the classes are 0..{highest - 1}. "
                'If 0 means "ignore", pass --label-map reduce_zero_label.',
            )
        )
    if problem := labels.masks:
        findings.append(Finding(names, "mask", problem, not space.ignore_is_given))
    return findings
