"""What is wrong with a dataset, all of it at once and before any compute, and what is in it.

An error is what would stop a training or an evaluation, or make its figures untrue; a warning is what looks like a mistake
and may be none. (``dense-resnet doctor``)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.images import MAX_PIXELS, opened
from segmentation.labels import LabelSpace, decode_indices, decode_label, to_labels
from segmentation.records import counts_path
from segmentation.samples import Dataset, Sample

BOTH = "trainval"  # the split that holds others by definition


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


def inspect(
    datasets: Sequence[Dataset],
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[str, int, int], None] | None = None,
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
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = pool.map(lambda sample: _examine(sample, space, max_pixels), pairs.values())
        with contextlib.closing(work):
            for pair, result in zip(pairs, work, strict=True):
                seen[pair] = result
                if progress:
                    progress("inspecting", len(seen), len(pairs))
    findings: list[Finding] = []
    told: set[Any] = set()  # pairs that are in two splits, such as train and trainval, are told of once
    counted = []
    for dataset in datasets:
        findings += [Finding(dataset.split, "pairs", problem) for problem in dataset.problems]
        findings += _without_counts(dataset)
        own = {pair: seen[pair] for pair in ((sample.image, sample.label) for sample in dataset.samples)}
        for pair, result in own.items():
            if pair not in told:
                findings += [Finding(dataset.split, *found) for found in result.found]
        told.update(own)
        counts = SplitCounts(
            dataset.split,
            len(own),
            sum((result.pixels for result in own.values()), np.zeros(space.num_classes, np.int64)),
            sum((result.pixels > 0 for result in own.values()), np.zeros(space.num_classes, np.int64)),
            sum(result.ignored for result in own.values()),
        )
        counted.append(counts)
        findings += _absent(space, counts)
        findings += _twice(dataset, seen)
    findings += _across(space, datasets, seen, counted)
    return Report(datasets[0].name, space, tuple(counted), tuple(findings))


@dataclass
class _Seen:
    """What one pair turned out to be."""

    pixels: np.ndarray
    ignored: int = 0
    digest: str | None = None  # of the encoded image
    values: frozenset[int] = frozenset()  # in the label file, before the mapping
    found: list[tuple[str, str, bool]] = field(default_factory=list)  # (kind, message, whether it is an error)

    @contextlib.contextmanager
    def noting(self, kind: str) -> Iterator[None]:
        """A mistake becomes a finding."""
        try:
            yield
        except InputError as error:
            self.found.append((kind, str(error), True))


def _examine(sample: Sample, space: LabelSpace, max_pixels: int) -> _Seen:
    seen = _Seen(np.zeros(space.num_classes, np.int64))
    image_size = label_size = labels = None
    with seen.noting("image"):
        data = sample.image_bytes()
        seen.digest = hashlib.sha256(data).hexdigest()
        if sample.is_turned(data, max_pixels) and sample.exif != "error":
            seen.found.append(("exif", f"{sample.image}: has an EXIF rotation: --exif {sample.exif}", False))
        image_size = sample.decode_image(data, max_pixels).shape[:2]
    with seen.noting("label"):
        data = sample.label_bytes()
        assert sample.label is not None
        place = sample.label.place
        if space.from_colors:
            labels = decode_label(place, data, space, max_pixels)
            label_size = labels.shape
        else:
            indices = decode_indices(place, data, max_pixels)
            label_size = indices.shape
            seen.values = frozenset(np.flatnonzero(np.bincount(indices.ravel())).tolist())
            labels = to_labels(place, indices, space)
            seen.found += _palette_surprise(sample, data, seen.values, space, max_pixels)
    if image_size and label_size and image_size != label_size:
        turned = " It lies on its side: has the image lost an EXIF rotation?" if image_size == label_size[::-1] else ""
        message = f"{sample.image}: the image is {_size(image_size)}, its label {sample.label} {_size(label_size)}.{turned}"
        seen.found.append(("size", message, True))
    if labels is not None:
        counts = np.bincount(labels.ravel(), minlength=space.num_classes)
        seen.pixels = counts[: space.num_classes].astype(np.int64)
        seen.ignored = int(labels.size - seen.pixels.sum())
        if seen.ignored == labels.size:
            seen.found.append(("ignored", f"{sample.label}: every pixel has the ignore label.", False))
    return seen


def _size(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def _palette_surprise(
    sample: Sample, data: bytes, values: frozenset[int], space: LabelSpace, max_pixels: int
) -> list[tuple[str, str, bool]]:
    """A palette that is neither the classes' colours nor grey: are the indices what they seem?"""
    assert sample.label is not None
    with opened(sample.label.place, io.BytesIO(data), max_pixels) as image:
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if not len(palette):
        return []
    owners = {one.color: index for index, one in reversed(list(enumerate(space.classes)))}
    for value in sorted(values):
        label = value if space.mapping is None else space.mapping[value]
        color = tuple(palette[value].tolist()) if value < len(palette) else (0, 0, 0)
        if label == space.ignore_label or color in (space.classes[label].color, (value, value, value)):
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


def _absent(space: LabelSpace, counts: SplitCounts) -> list[Finding]:
    absent = [name for name, pixels in zip(space.names, counts.pixels, strict=True) if not pixels]
    if not absent or not counts.images:
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


def _across(
    space: LabelSpace, datasets: Sequence[Dataset], seen: dict[Any, _Seen], counted: Sequence[SplitCounts]
) -> list[Finding]:
    """What shows only over all files: images in two splits, labels that start at 1, masks of 0 and 255."""
    findings = []
    names = ", ".join(dataset.split for dataset in datasets)
    findings += _overlaps([dataset for dataset in datasets if dataset.split != BOTH], seen)
    values = frozenset[int]().union(*(result.values for result in seen.values()))
    highest = space.num_classes
    if space.mapping is None and highest in values and 0 not in values:
        findings.append(
            Finding(
                names,
                "one-based",
                f"the labels look 1-based: {highest} occurs and 0 never, and the classes are 0..{highest - 1}. "
                'If 0 means "ignore", say --label-map reduce_zero_label.',
            )
        )
    if space.mapping is None and values == {0, 255} and space.num_classes == 2 and space.ignore_label == 255:
        findings.append(
            Finding(
                names,
                "mask",
                "all labels are 0 or 255, and 255 is the ignore label: are these masks, in which 255 means class 1? "
                'Then set "ignore_label": null and "mapping": {"0": 0, "255": 1} in dataset.json.',
                False,
            )
        )
    return findings
