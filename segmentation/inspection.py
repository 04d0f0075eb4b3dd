"""What is wrong with a dataset, all of it at once and before any compute, and what is in it.

An error is what would stop a training or an evaluation, or make its figures untrue; a warning is what looks like a mistake
and may be none. :func:`inspect` reads everything (``dense-resnet doctor``); :func:`check_splits` reads all labels and the
images' headers, which `train` does before its first step and `evaluate` before its first image.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, counted, listed
from dense_resnet.images import MAX_PIXELS, check_image, find_deep, opened
from segmentation.labels import (
    IGNORE_LABEL,
    INTERPOLATED,
    RESIZED,
    LabelSpace,
    decode_label,
    decode_numbers,
    is_bilevel,
    lies_between,
    to_labels,
)
from segmentation.records import counts_path
from segmentation.samples import Dataset, Sample

BOTH = "trainval"  # the split that holds others by definition
MOST_VALUES = 20  # in one message
OF_EDGES = 0.1  # share of the pixels along edges that interpolated numbers have at least

Progress = Callable[[str, int, int], None]  # (what is being done, done, total)


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Finding:
    """Something wrong."""

    split: str
    kind: str  # one of few words, such as "size"
    message: str
    is_error: bool = True


@dataclass(frozen=True)
class SplitCounts:
    """What is in one split."""

    split: str
    images: int
    pixels: np.ndarray  # of each class, int64 [num_classes]
    occurrences: np.ndarray  # images that each class is in, int64 [num_classes]
    ignored: int  # pixels of the ignore label

    @property
    def weights(self) -> np.ndarray:
        """See :func:`class_weights`."""
        return class_weights(self.pixels)


@dataclass(frozen=True)
class Report:
    """What :func:`inspect` found."""

    name: str
    space: LabelSpace
    splits: tuple[SplitCounts, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()  # the numbers in label files, where some of them have no meaning

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What has to be mended."""
        return tuple(finding for finding in self.findings if finding.is_error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What should be looked at."""
        return tuple(finding for finding in self.findings if not finding.is_error)

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
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


def class_weights(pixels: np.ndarray) -> np.ndarray:
    """Weights that balance classes by median frequency: the median of the present classes' shares, over a class's own.

    Args:
        pixels: of each class, integers ``[num_classes]``.

    Returns:
        float64 ``[num_classes]``; 1 for a class that is absent.

    From Eigen and Fergus 2015 (https://arxiv.org/abs/1411.4734), with shares of all pixels.

    >>> class_weights(np.array([800, 100, 100, 0])).tolist()
    [0.125, 1.0, 1.0, 1.0]
    """
    pixels = np.asarray(pixels, np.int64)
    weights = np.ones(pixels.shape)
    present = pixels > 0
    if present.any():
        shares = pixels[present] / pixels.sum()
        weights[present] = np.median(shares) / shares
    return weights


class LabelCounts:
    """What label files hold: pixels of each class, and of each number as it stands in the files."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.files = 0  # whose numbers were counted
        self.pixels = np.zeros(space.num_classes, np.int64)
        self.ignored = 0  # pixels
        self.numbers: Counter[int] = Counter()  # pixels of each, before the mapping; empty where labels are colours
        self.between: Counter[int] = Counter()  # those of them between a lower and a higher number, as interpolation makes them
        self.edges = 0  # pixels near another number
        self.only_masks = True  # each file has 1 bit, or the numbers 0 and 255 alone
        self.size: tuple[int, int] | None = None  # of the last file, whatever its numbers are

    def read(self, sample: Sample, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode a sample's label, and count it; its numbers even where one of them has no meaning.

        Raises:
            InputError: see :func:`segmentation.labels.decode_label`.
        """
        assert sample.label is not None
        place, space = sample.label.place, self.space
        if space.from_colors:
            labels = decode_label(place, data, space, max_pixels)
            self.size, self.files = labels.shape, self.files + 1
        else:
            indices = decode_numbers(place, data, space, max_pixels)
            self.size, self.files = indices.shape, self.files + 1
            self._count_numbers(indices, is_bilevel(data))
            labels = to_labels(place, indices, space)
        counts = np.bincount(labels.ravel(), minlength=space.num_classes)[: space.num_classes]
        self.pixels += counts
        self.ignored += int(labels.size - counts.sum())
        return labels

    def _count_numbers(self, indices: np.ndarray, bilevel: bool) -> None:
        numbers = _histogram(indices)
        self.numbers += numbers
        self.only_masks &= bilevel or numbers.keys() <= {0, IGNORE_LABEL}
        if len(numbers.keys() - set(self.space.ignored_numbers)) > 1:
            between, near = lies_between(indices, self.space.ignored_numbers)
            self.between += _histogram(indices[between])
            self.edges += int(np.count_nonzero(near))

    def add(self, other: LabelCounts) -> None:
        """Add the counts of other files of the same label space."""
        self.files += other.files
        self.pixels += other.pixels
        self.ignored += other.ignored
        self.numbers += other.numbers
        self.between += other.between
        self.edges += other.edges
        self.only_masks &= other.only_masks

    @property
    def meaningless(self) -> list[int]:
        """The numbers that are neither a class nor ignored."""
        mapped = range(self.space.num_classes) if self.space.mapping is None else self.space.mapping
        return sorted(number for number in self.numbers if number not in mapped and number not in self.space.ignored_numbers)

    @property
    def shown(self) -> str:
        """The most frequent numbers and their shares of the pixels, for a message."""
        total = self.numbers.total()
        most = sorted(self.numbers.most_common(MOST_VALUES))
        more = len(self.numbers) - len(most)
        listed = ", ".join(f"{number} ({pixels / total:.1%})" for number, pixels in most)
        return listed + (f" and {more} rarer ones, up to {max(self.numbers)}" if more else "")

    @property
    def unlabelled(self) -> str | None:
        """What is wrong where no pixel has a class."""
        if not self.files or self.pixels.any() or self.meaningless:
            return None
        held = f" The files hold {self.shown}." if self.numbers else ""
        return (
            f"no pixel is labelled: every pixel of {counted(self.files, 'label')} has the ignore label, so nothing is counted."
            f"{held} Were the labels withheld, as those of test splits are? Choose another split, or correct the label map."
        )

    @property
    def masks(self) -> str | None:
        """What is wrong where 255 looks like a class and is ignored."""
        space = self.space
        if not (self.only_masks and self.numbers[0] and self.numbers[IGNORE_LABEL]):
            return None
        if space.mapping is not None or space.ignore_label != IGNORE_LABEL:
            return None
        two = "" if space.num_classes > 1 else "name two classes and "
        given = "" if space.ignore_is_given else ' If 255 does mean "ignore", say so there: "ignore_label": 255.'
        return (
            "all labels are 0 or 255, and 255 is the ignore label: are these masks, in which 255 means class 1? "
            f'Then {two}set "ignore_label": null and "mapping": {{"0": 0, "255": 1}} in dataset.json.{given}'
        )

    @property
    def seams(self) -> str | None:
        """What looks wrong where numbers lie along edges alone."""
        along = sorted(number for number, own in self.between.items() if own >= INTERPOLATED * self.numbers[number])
        if len(along) < 2 or sum(self.between[number] for number in along) < OF_EDGES * self.edges:
            return None
        shown = ", ".join(map(str, along[:MOST_VALUES])) + (", ..." if len(along) > MOST_VALUES else "")
        return f"the label values {shown} look interpolated. {RESIZED}"

    @property
    def alone(self) -> str | None:
        """What looks wrong where one class of several has all pixels."""
        present = np.flatnonzero(self.pixels)
        if len(present) != 1 or self.space.num_classes == 1:
            return None
        ignored = f", and {self.ignored / (self.ignored + self.pixels.sum()):.1%} is ignored" if self.ignored else ""
        return (
            f"{self.space.names[present[0]]!r} is the only class in the labels{ignored}: nothing else can be learned from "
            "them, and a score on them says little."
        )


def _histogram(indices: np.ndarray) -> Counter[int]:
    counts = np.bincount(indices.ravel())
    present = np.flatnonzero(counts)
    return Counter(dict(zip(present.tolist(), counts[present].tolist(), strict=True)))


def check_pair(sample: Sample, counts: LabelCounts, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Check a pair as far as its label and the image's header say, and count its label.

    Returns:
        The pair's (height, width).

    Raises:
        InputError: it cannot be used.
    """
    label = counts.read(sample, sample.label_bytes(), max_pixels)
    if sample.image.length is None:  # else a record, whose checksum was compared when it was opened
        size = check_image(sample.image.path, max_pixels).size
        if sample.exif != "apply" and sample.is_turned(data := sample.image_bytes()):
            size = sample.decode_image(data, max_pixels).shape[:2]
        compare_sizes(sample, size, label)
    return label.shape


def compare_sizes(sample: Sample, size: tuple[int, ...], label: np.ndarray) -> None:
    """Raise an :class:`InputError` where an image's (height, width) is not its label's."""
    if tuple(size) != label.shape:
        raise InputError(
            f"{sample.image}: the image is {_size(size)} pixels, its label {_size(label.shape)}. Labels are never resized."
        )


def judge(splits: Sequence[tuple[Dataset, LabelCounts]]) -> dict[str, str]:
    """Judge what the labels of splits that are used together hold, the one that is trained or scored on first.

    Returns:
        Warnings, by their kinds.

    Raises:
        InputError: a split has no labelled pixel, or all are masks of 0 and 255 whose 255 would be ignored.
    """
    warnings = {}
    whole = LabelCounts(splits[0][0].space)
    for number, (dataset, counts) in enumerate(splits):
        if problem := counts.unlabelled:
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
    with contextlib.closing(_looked_at(look, pairs)) as work:
        for number, ((total, _), (own, problem)) in enumerate(zip(pairs, work, strict=True), 1):
            total.add(own)
            if problem:
                bad.append(problem)
            progress("checking", number, len(pairs))
    if bad:
        raise InputError(
            f"{len(bad)} of {counted(len(pairs), 'pair')} cannot be used; nothing was computed. `dense-resnet doctor` says "
            f"more about the dataset.{listed(bad)}"
        )
    return Checked(tuple(counts), judge(list(zip(datasets, counts, strict=True))))


def _looked_at(look: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
    """Map `look` over items by threads; closing it, as an interrupt does, does not wait for the rest."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, contextlib.closing(pool.map(look, items)) as work:
        yield from work


def inspect(
    datasets: Sequence[Dataset],
    max_pixels: int = MAX_PIXELS,
    progress: Progress = quiet,
) -> Report:
    """Decodes every image and label of all splits of a dataset, opened with ``strict=False``.

    Args:
        datasets: its splits.
        max_pixels: larger images are an error.
        progress: called with (what, done, total).
    """
    space = datasets[0].space
    pairs = {(sample.image, sample.label): sample for dataset in datasets for sample in dataset.samples}
    seen: dict[Any, _Seen] = {}
    with contextlib.closing(_looked_at(lambda sample: _examine(sample, space, max_pixels), pairs.values())) as work:
        for pair, result in zip(pairs, work, strict=True):
            seen[pair] = result
            progress("inspecting", len(seen), len(pairs))
    findings: list[Finding] = []
    notes = []
    told: set[Any] = set()  # pairs that are in two splits, such as train and trainval, are told of once
    splits = []
    for dataset in datasets:
        findings += [Finding(dataset.split, "pairs", problem) for problem in dataset.problems]
        findings += _without_counts(dataset)
        own = {pair: seen[pair] for pair in ((sample.image, sample.label) for sample in dataset.samples)}
        for pair, result in own.items():
            if pair not in told:
                findings += [Finding(dataset.split, *found) for found in result.found]
        told.update(own)
        labels = LabelCounts(space)
        for result in own.values():
            labels.add(result.labels)
        occurrences = sum((result.labels.pixels > 0 for result in own.values()), np.zeros(space.num_classes, np.int64))
        counts = SplitCounts(dataset.split, len(own), labels.pixels, occurrences, labels.ignored)
        splits.append(counts)
        if labels.meaningless:
            notes.append(f"{dataset.split}: {_unexplained(labels)}")
        for kind in ("unlabelled", "seams"):
            if doubt := getattr(labels, kind):
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
    def noting(self, kind: str) -> Iterator[None]:
        """A mistake becomes a finding."""
        try:
            yield
        except InputError as error:
            self.found.append((kind, str(error), True))


def _examine(sample: Sample, space: LabelSpace, max_pixels: int) -> _Seen:
    counts = LabelCounts(space)
    seen = _Seen(counts)
    image_size = None
    with seen.noting("image"):
        data = sample.image_bytes()
        seen.digest = hashlib.sha256(data).hexdigest()
        if sample.is_turned(data, max_pixels) and sample.exif != "error":
            seen.found.append(("exif", f"{sample.image}: has an EXIF rotation: --exif {sample.exif}", False))
        image_size = sample.decode_image(data, max_pixels).shape[:2]
    with seen.noting("label"):
        data = sample.label_bytes()
        labels = counts.read(sample, data, max_pixels)
        if not space.from_colors:
            seen.found += _palette_surprise(sample, data, counts.numbers, space, max_pixels)
        if counts.ignored == labels.size:
            seen.found.append(("ignored", f"{sample.label}: every pixel has the ignore label.", False))
    if image_size and counts.size and image_size != counts.size:
        turned = " It lies on its side: has the image lost an EXIF rotation?" if image_size == counts.size[::-1] else ""
        message = f"{sample.image}: the image is {_size(image_size)}, its label {sample.label} {_size(counts.size)}.{turned}"
        seen.found.append(("size", message, True))
    return seen


def _size(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def _palette_surprise(
    sample: Sample, data: bytes, values: Iterable[int], space: LabelSpace, max_pixels: int
) -> list[tuple[str, str, bool]]:
    """A palette that is neither the classes' given colours nor grey: are the indices what they seem?"""
    assert sample.label is not None
    with opened(sample.label.place, io.BytesIO(data), max_pixels) as image:
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
        other = f", which is the colour of class {owners[color]} {space.names[owners[color]]!r}" if color in owners else ""
        return [
            (
                "palette",
                f"{sample.label}: its palette paints value {value} {list(color)}{other}; class {label} "
                f"{space.names[label]!r} has {list(space.classes[label].color)}. Was the label made from a picture in colours?",
                False,
            )
        ]
    return []


def _unexplained(labels: LabelCounts) -> str:
    """The numbers in label files, where some of them have no meaning."""
    space = labels.space
    meaning = f"the classes are 0..{space.num_classes - 1}"
    if space.mapping is not None:
        meaning = "the label map says what the others mean"
    elif space.ignore_label is not None:
        meaning += f", the ignore label is {space.ignore_label}"
    without = ", ".join(map(str, labels.meaningless[:MOST_VALUES])) + (", ..." if len(labels.meaningless) > MOST_VALUES else "")
    return (
        f"the label files hold {labels.shown}. No meaning is given to {without}: {meaning}. Does dataset.json name too few "
        'classes, or need a "mapping" of the values to classes?'
    )


def _absent(space: LabelSpace, counts: SplitCounts) -> list[Finding]:
    absent = [name for name, pixels in zip(space.names, counts.pixels, strict=True) if not pixels]
    if not absent or not counts.pixels.any():  # else another finding says why there is none
        return []
    return [Finding(counts.split, "absent", f"classes that never occur: {', '.join(absent)}.", False)]


def _twice(dataset: Dataset, seen: dict[Any, _Seen]) -> list[Finding]:
    """Images of one split with the same bytes."""
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
        Finding(dataset.split, "records", f"there is no {path}: a shard cut between two records could not be noticed.", False)
        for path in (counts_path(folder, dataset.split) for folder in folders)
        if not path.exists()
    ]


def _overlaps(datasets: Sequence[Dataset], seen: dict[Any, _Seen]) -> list[Finding]:
    """Images that are in a later split too, each with the next one; train and trainaug may share theirs."""
    overlaps: list[list[Finding]] = []
    later: dict[str | None, tuple[str, Sample]] = {}  # by digest: the next split, and the sample there
    untrained: dict[str | None, tuple[str, Sample]] = {}  # likewise, of splits that nobody trains on
    for dataset in reversed(datasets):
        trained = dataset.split.startswith("train")
        own: dict[str | None, tuple[str, Sample]] = {}
        overlaps.append([])
        for sample in dataset.samples:
            digest = seen[sample.image, sample.label].digest
            own[digest] = dataset.split, sample
            if found := (untrained if trained else later).get(digest):
                split, other = found
                message = f"{sample.image} is also in {split}, as {other.image}: results there would not be true."
                overlaps[-1].append(Finding(dataset.split, "overlap", message))
        own.pop(None, None)  # could not be read
        later |= own
        untrained |= {} if trained else own
    return list(itertools.chain.from_iterable(reversed(overlaps)))


def _across(space: LabelSpace, datasets: Sequence[Dataset], seen: dict[Any, _Seen]) -> list[Finding]:
    """What shows only over all files: images in two splits, labels that start at 1, masks of 0 and 255."""
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
                'If 0 means "ignore", say --label-map reduce_zero_label.',
            )
        )
    if problem := labels.masks:
        findings.append(Finding(names, "mask", problem, not space.ignore_is_given))
    return findings
