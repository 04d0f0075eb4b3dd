"""Validate a dataset before training: report all problems at once, and what the dataset contains.

An error would stop a training or an evaluation, or falsify its figures; a warning is a likely mistake that may be intended.
:func:`inspect` reads everything; :func:`check_splits`, which `train` calls first, reads all labels and the images' headers.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, format_list, pluralize
from dense_resnet.image_io.bit_depth import find_deep
from dense_resnet.image_io.decoding import MAX_PIXELS, open_image
from dense_resnet.jobs.atomic_files import sha256
from dense_resnet.jobs.resumable import Progress, quiet
from segmentation.data.label_counts import BOTH, LabelCounts, SplitCounts, check_pair
from segmentation.data.label_space import LabelSpace
from segmentation.data.samples import Dataset, Sample, format_size
from segmentation.data.tfrecords import counts_path

Found = tuple[str, str, bool]  # of a Finding: kind, message, whether it is an error


@dataclass(frozen=True)
class Finding:
    """Something wrong."""

    split: str
    kind: str  # one of few words, such as "size"
    message: str
    is_error: bool = True

    def as_json(self) -> dict[str, str]:
        return {"split": self.split, "kind": self.kind, "message": self.message}


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
            "splits": {counts.split: counts.as_json(self.space.names) for counts in self.splits},
            "errors": [finding.as_json() for finding in self.errors],
            "warnings": [finding.as_json() for finding in self.warnings],
            "notes": list(self.notes),
        }


def judge(splits: Sequence[tuple[Dataset, LabelCounts]]) -> dict[str, str]:
    """Return warnings, by kind, about labels of splits that are used together, the one that is trained or scored on first.

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
    """Read all labels and the headers of all images of splits, ordered as for :func:`judge`, before anything is computed.

    Raises:
        InputError: pairs that cannot be used, all in one message; or see :func:`judge`.
    """

    def look(pair: tuple[LabelCounts, Sample]) -> _Seen:
        seen = _Seen(LabelCounts(pair[0].space))
        with seen.note_errors("pair"):
            check_pair(pair[1], seen.labels, max_pixels)
        return seen

    counts = [LabelCounts(dataset.space) for dataset in datasets]
    pairs = [(total, sample) for dataset, total in zip(datasets, counts, strict=True) for sample in dataset.samples]
    bad: list[str] = []
    with contextlib.closing(_map_in_threads(look, pairs)) as work:
        for number, ((total, _), seen) in enumerate(zip(pairs, work, strict=True), 1):
            total.add(seen.labels)
            bad += [message for _, message, _ in seen.found]
            progress("checking", number, len(pairs))
    if bad:
        share = f"{len(bad)} of {pluralize(len(pairs), 'pair')} cannot be used; nothing was computed"
        raise InputError(f"{share}. `dense-resnet doctor` says more about the dataset.{format_list(bad)}")
    return Checked(tuple(counts), judge(list(zip(datasets, counts, strict=True))))


def _map_in_threads(look: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
    """Map `look` over items by threads; closing it, as an interrupt does, does not wait for the rest."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, contextlib.closing(pool.map(look, items)) as work:  # type: ignore[type-var]  # a generator
        yield from work


def inspect(datasets: Sequence[Dataset], max_pixels: int = MAX_PIXELS, progress: Progress = quiet) -> Report:
    """Decode every image and label of all splits of a dataset, opened with ``strict=False``."""
    space = datasets[0].space
    samples = list(dict.fromkeys(sample for dataset in datasets for sample in dataset.samples))
    seen: dict[Sample, _Seen] = {}
    with contextlib.closing(_map_in_threads(lambda sample: _examine(sample, space, max_pixels), samples)) as work:
        for sample, result in zip(samples, work, strict=True):
            seen[sample] = result
            progress("inspecting", len(seen), len(samples))
    findings: list[Finding] = []
    notes = []
    splits = []
    for dataset in datasets:
        found: list[Found] = [("pairs", problem, True) for problem in dataset.problems]
        found += _without_counts(dataset)
        labels, occurrences = LabelCounts(space), np.zeros(space.num_classes, np.int64)
        own = [seen[sample] for sample in dict.fromkeys(dataset.samples)]
        for result in own:
            labels.add(result.labels)
            occurrences += result.labels.pixels > 0
            found += result.found
            result.found = []  # what is in two splits, such as train and trainval, is reported once
        splits.append(SplitCounts(dataset.split, len(own), labels.pixels, occurrences, labels.ignored))
        doubts = ("unlabelled", labels.no_labels_problem), ("seams", labels.seams), ("absent", labels.absent)
        found += [(kind, doubt, False) for kind, doubt in doubts if doubt]
        found += _twice(dataset, seen)
        findings += [Finding(dataset.split, *one) for one in found]
        if labels.meaningless:
            notes.append(f"{dataset.split}: {labels.meaningless_summary}")
    whole = LabelCounts(space)
    for result in seen.values():
        whole.add(result.labels)
    findings += _overlaps([dataset for dataset in datasets if dataset.split != BOTH], seen)
    everywhere = ", ".join(dataset.split for dataset in datasets)
    if whole.one_based:
        findings.append(Finding(everywhere, "one-based", whole.one_based))
    if whole.masks:
        findings.append(Finding(everywhere, "mask", whole.masks, not space.ignore_is_given))
    if deep := find_deep((sample.image for sample in samples), max_pixels):
        findings.append(Finding(everywhere, "16-bit", str(deep), False))
    return Report(datasets[0].name, space, tuple(splits), tuple(findings), tuple(notes))


@dataclass
class _Seen:
    """What one pair turned out to be."""

    labels: LabelCounts
    digest: str | None = None  # of the encoded image; None if it could not be read
    found: list[Found] = field(default_factory=list)

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
        seen.digest = sha256(data)
        if sample.orientation(data, max_pixels) != 1 and sample.exif != "error":
            seen.found.append(("exif", f"{sample.image}: has an EXIF rotation: --exif {sample.exif}", False))
        image_size = sample.decode_image(data, max_pixels).shape[:2]
    with seen.note_errors("label"):
        data = sample.label_bytes()
        labels = counts.read(sample, data, max_pixels)
        if not space.from_colors and (surprise := _palette_surprise(sample, data, counts.numbers, space, max_pixels)):
            seen.found.append(("palette", surprise, False))
        if counts.ignored == labels.size:
            seen.found.append(("ignored", f"{sample.label}: every pixel has the ignore label.", False))
    label_size = next(iter(counts.sizes), None)
    if image_size and label_size and image_size != label_size:
        sizes = f"the image is {format_size(image_size)}, its label {sample.label} {format_size(label_size)}."
        turned = " It is rotated: has the image lost an EXIF rotation?" if image_size == label_size[::-1] else ""
        seen.found.append(("size", f"{sample.image}: {sizes}{turned}", True))
    return seen


def _palette_surprise(sample: Sample, data: bytes, values: Iterable[int], space: LabelSpace, max_pixels: int) -> str | None:
    """Report a palette that is neither the classes' given colors nor gray: the indices may mean something else."""
    assert sample.label is not None
    with open_image(sample.label.place, io.BytesIO(data), max_pixels) as image:
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if not len(palette):
        return None
    owners = {one.color: index for index, one in reversed(list(enumerate(space.classes))) if one.color_is_given}
    for value in sorted(values):
        label = value if space.mapping is None else space.mapping[value]
        color = tuple(palette[value].tolist()) if value < len(palette) else (0, 0, 0)
        if label == space.ignore_label or not (own := space.classes[label]).color_is_given:
            continue
        if color not in (own.color, (value, value, value)):
            other = f", which is the color of class {owners[color]} {space.names[owners[color]]!r}" if color in owners else ""
            paints = f"its palette paints value {value} {list(color)}{other}; class {label} {own.name!r} has {list(own.color)}"
            return f"{sample.label}: {paints}. Was the label converted from a color picture?"
    return None


def _without_counts(dataset: Dataset) -> list[Found]:
    folders = {sample.image.path.parent for sample in dataset.samples if sample.image.length is not None}
    paths = [path for path in (counts_path(folder, dataset.split) for folder in folders) if not path.exists()]
    cannot = "not found: a shard that is cut between two records cannot be detected."
    return [("records", f"{path} {cannot}", False) for path in paths]


def _twice(dataset: Dataset, seen: dict[Sample, _Seen]) -> list[Found]:
    """Find images of one split with the same bytes."""
    found: list[Found] = []
    first: dict[str, Sample] = {}
    for sample in dataset.samples:
        digest = seen[sample].digest
        if digest is not None and first.setdefault(digest, sample) is not sample:
            found.append(("duplicate", f"{sample.image}: the same image as {first[digest].image}.", False))
    return found


def _overlaps(datasets: Sequence[Dataset], seen: dict[Sample, _Seen]) -> list[Finding]:
    """Find images that are also in a later split, each with the next one; train and trainaug may share images."""
    findings = []
    images = {dataset.split: {seen[sample].digest: sample for sample in dataset.samples} for dataset in datasets}
    for number, dataset in enumerate(datasets, 1):
        later = [other.split for other in datasets[number:]]
        if dataset.split.startswith("train"):
            later = [split for split in later if not split.startswith("train")]
        for sample in dataset.samples:
            digest = seen[sample].digest
            split = next((split for split in later if digest is not None and digest in images[split]), None)
            if split:
                message = f"{sample.image} is also in {split}, as {images[split][digest].image}: results there would be wrong."
                findings.append(Finding(dataset.split, "overlap", message))
    return findings
