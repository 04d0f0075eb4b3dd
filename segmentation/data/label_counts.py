"""Count what is in a split's labels: pixels of each class, values without a meaning, seams of interpolation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, pluralize
from dense_resnet.image_io.decoding import MAX_PIXELS, check_image
from segmentation.data import label_files
from segmentation.data.label_files import INTERPOLATED, RESIZED
from segmentation.data.label_space import LabelSpace
from segmentation.data.samples import Sample, format_size
from segmentation.metrics.confusion import IGNORE_LABEL

BOTH = "trainval"  # the split that contains others by definition
MOST_VALUES = 20  # in one message
OF_EDGES = 0.1  # least share of the pixels along edges that are interpolated


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

    def as_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return everything, for a file; `names` are the classes'."""
        columns = self.pixels.tolist(), self.occurrences.tolist(), self.weights.tolist()
        classes = [
            {"name": name, "pixels": pixels, "images": images, "weight": weight}
            for name, pixels, images, weight in zip(names, *columns, strict=True)
        ]
        return {"images": self.images, "ignored_pixels": self.ignored, "classes": classes}


def class_weights(pixels: np.ndarray) -> np.ndarray:
    """Return weights that balance classes by median frequency: the median of the present classes' shares, over a class's own.

    `pixels` are those of each class, integers ``[num_classes]``; an absent class has weight 1. From Eigen and Fergus 2015
    (https://arxiv.org/abs/1411.4734), with shares of all pixels.

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
    """What label files hold: pixels of each class, and of each number as it is in the files."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.files = 0  # whose numbers were counted
        self.pixels = np.zeros(space.num_classes, np.int64)
        self.ignored = 0  # pixels
        self.numbers: Counter[int] = Counter()  # pixels of each, before the mapping; empty where labels are colors
        self.between: Counter[int] = Counter()  # those of them between a lower and a higher number, as interpolation makes them
        self.edges = 0  # pixels near another number
        self.only_masks = True  # each file has 1 bit, or only the numbers 0 and 255
        self.sizes: Counter[tuple[int, int]] = Counter()  # files by (height, width), whatever their numbers are

    def read(self, sample: Sample, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode a sample's label as ``decode_label`` does, and count it, including numbers without a meaning."""
        assert sample.label is not None
        place, space = sample.label.place, self.space
        if space.from_colors:
            labels = label_files.decode_label(place, data, space, max_pixels)
            self._count_file(labels)
        else:
            indices = label_files.decode_numbers(place, data, space, max_pixels)
            self._count_file(indices)
            self._count_numbers(indices, label_files.is_bilevel(data))
            labels = label_files.to_labels(place, indices, space)
        counts = np.bincount(labels.ravel(), minlength=space.num_classes)[: space.num_classes]
        self.pixels += counts
        self.ignored += int(labels.size - counts.sum())
        return labels

    def _count_file(self, values: np.ndarray) -> None:
        self.files += 1
        self.sizes[values.shape[0], values.shape[1]] += 1

    def _count_numbers(self, indices: np.ndarray, bilevel: bool) -> None:
        numbers = _histogram(indices)
        self.numbers += numbers
        self.only_masks &= bilevel or numbers.keys() <= {0, IGNORE_LABEL}
        if len(numbers.keys() - set(self.space.ignored_numbers)) > 1:
            between, near = label_files.lies_between(indices, self.space.ignored_numbers)
            self.between += _histogram(indices[between])
            self.edges += int(np.count_nonzero(near))

    def add(self, other: LabelCounts) -> None:
        """Add the counts of other files of the same label space."""
        self.files += other.files
        self.sizes += other.sizes
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
    def numbers_summary(self) -> str:
        """The most frequent numbers and their shares of the pixels, for a message."""
        total = self.numbers.total()
        most = sorted(self.numbers.most_common(MOST_VALUES))
        more = len(self.numbers) - len(most)
        listed = ", ".join(f"{number} ({pixels / total:.1%})" for number, pixels in most)
        return listed + (f" and {more} rarer ones, up to {max(self.numbers)}" if more else "")

    @property
    def meaningless_summary(self) -> str:
        """The numbers in the label files, and those of them without a meaning."""
        space = self.space
        meaning = f"the classes are 0..{space.num_classes - 1}"
        if space.mapping is not None:
            meaning = "the label map says what the others mean"
        elif space.ignore_label is not None:
            meaning += f", the ignore label is {space.ignore_label}"
        return (
            f"the label files hold {self.numbers_summary}. No meaning is given to {_join(self.meaningless)}: {meaning}. Does "
            'dataset.json name too few classes, or need a "mapping" of the values to classes?'
        )

    @property
    def no_labels_problem(self) -> str | None:
        """What is wrong if no pixel has a class."""
        if not self.files or self.pixels.any() or self.meaningless:
            return None
        held = f" The files hold {self.numbers_summary}." if self.numbers else ""
        return (
            f"no pixel is labeled: every pixel of {pluralize(self.files, 'label')} has the ignore label, so nothing is counted."
            f"{held} Are the labels withheld, as those of test splits are? Choose another split, or correct the label map."
        )

    @property
    def masks(self) -> str | None:
        """What is wrong if 255 looks like a class and is ignored."""
        space = self.space
        masks = self.only_masks and self.numbers[0] and self.numbers[IGNORE_LABEL]
        if not masks or space.mapping is not None or space.ignore_label != IGNORE_LABEL:
            return None
        two = "" if space.num_classes > 1 else "name two classes and "
        given = "" if space.ignore_is_given else ' If 255 does mean "ignore", add it there: "ignore_label": 255.'
        return (
            "all labels are 0 or 255, and 255 is the ignore label: are these masks, in which 255 means class 1? "
            f'Then {two}set "ignore_label": null and "mapping": {{"0": 0, "255": 1}} in dataset.json.{given}'
        )

    @property
    def seams(self) -> str | None:
        """What looks wrong if numbers are only along edges."""
        along = sorted(number for number, own in self.between.items() if own >= INTERPOLATED * self.numbers[number])
        if len(along) < 2 or sum(self.between[number] for number in along) < OF_EDGES * self.edges:
            return None
        return f"the label values {_join(along)} look interpolated. {RESIZED}"

    @property
    def alone(self) -> str | None:
        """What looks wrong if one class of several has all pixels."""
        present = np.flatnonzero(self.pixels)
        if len(present) != 1 or self.space.num_classes == 1:
            return None
        ignored = f", and {self.ignored / (self.ignored + self.pixels.sum()):.1%} is ignored" if self.ignored else ""
        return (
            f"{self.space.names[present[0]]!r} is the only class in the labels{ignored}: nothing else can be learned from "
            "them, and a score on them says little."
        )

    @property
    def absent(self) -> str | None:
        """What looks wrong if some classes have no pixels, and others have."""
        names = [name for name, pixels in zip(self.space.names, self.pixels, strict=True) if not pixels]
        return f"classes that never occur: {', '.join(names)}." if names and self.pixels.any() else None

    @property
    def one_based(self) -> str | None:
        """What is wrong if the labels start at 1."""
        highest = self.space.num_classes
        if self.space.mapping is not None or highest not in self.numbers or 0 in self.numbers:
            return None
        return (
            f"the labels look 1-based: {highest} occurs and 0 never, and the classes are 0..{highest - 1}. "
            'If 0 means "ignore", pass --label-map reduce_zero_label.'
        )


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:MOST_VALUES])) + (", ..." if len(numbers) > MOST_VALUES else "")


def _histogram(indices: np.ndarray) -> Counter[int]:
    counts = np.bincount(indices.ravel())
    present = np.flatnonzero(counts)
    return Counter(dict(zip(present.tolist(), counts[present].tolist(), strict=True)))


def check_pair(sample: Sample, counts: LabelCounts, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Check a pair as far as its label and the image's header say, count its label, and return its (height, width)."""
    label = counts.read(sample, sample.label_bytes(), max_pixels)
    if sample.image.length is None:  # otherwise a record, whose checksum was verified when it was opened
        size = check_image(sample.image.path, max_pixels).size
        if sample.exif != "apply" and sample.orientation(data := sample.image_bytes()) != 1:
            size = sample.decode_image(data, max_pixels).shape[:2]
        compare_sizes(sample, size, label)
    return label.shape


def compare_sizes(sample: Sample, size: tuple[int, ...], label: np.ndarray) -> None:
    """Raise an :class:`InputError` if an image's (height, width) is not its label's."""
    if tuple(size) != label.shape:
        sizes = f"the image is {format_size(size)} pixels, its label {format_size(label.shape)}"
        raise InputError(f"{sample.image}: {sizes}. Labels are never resized.")
