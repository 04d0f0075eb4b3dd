"""Images of the user's, by which a network is quantized: for the ranges of its activations, and for the price.

An image is in one of the two parts, unless it is the only one. Of a dataset that has both, the training split is for the ranges
and the validation split for the price. (``tests/segmentation/saving/test_quantized.py``)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_resnet.image_io.discovery import find_images
from dense_resnet.inference.canvas import placement, resize
from dense_resnet.inference.runner import IMAGES, SIZES
from dense_resnet.planning.geometry import positive_integer
from dense_resnet.planning.plan import Plan
from segmentation.data.label_space import LabelSpace
from segmentation.data.layouts import TRAINING, VALIDATION, Layout, open_layout, usual_split
from segmentation.data.samples import Sample
from segmentation.data.source import Source

MOST_IMAGES = 300  # of each part

Call = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """Images for quantizing a network."""

    source: str  # where they are from, for the record
    ranges: tuple[Sample, ...]  # those that the ranges of activations are taken from
    trials: tuple[Sample, ...]  # those that the price is told on
    space: LabelSpace | None = None  # of the trials' labels; None of bare images

    @property
    def held_out(self) -> bool:
        """Whether the price is told on other images than those of the ranges."""
        return not {sample.image for sample in self.ranges} & {sample.image for sample in self.trials}

    def as_json(self) -> dict[str, Any]:
        """Describe it for the record of an export."""
        digest = hashlib.sha256()
        for sample in self.ranges:
            digest.update(hashlib.sha256(sample.image_bytes()).digest())
        return {"source": self.source, "images": len(self.ranges), "images_sha256": digest.hexdigest()}


def take_images(sources: Sequence[str], most: int = MOST_IMAGES) -> Calibration:
    """Take images without labels, of folders, files, patterns or lists: see :func:`find_images`."""
    found = [Sample(one.relative, Source(one.path), exif="apply") for one in find_images(sources)]
    ranges, trials = _share(found, most)
    return Calibration(" ".join(sources), ranges, trials)


def take_dataset(layout: Layout, most: int = MOST_IMAGES, exif: str = "error") -> Calibration:
    """Take pairs of a dataset, of both of its splits if it has a training and a validation split."""
    training, validation = (usual_split(layout, names) for names in (TRAINING, VALIDATION))
    if training and validation:
        splits = [open_layout(layout, split, exif=exif) for split in (training, validation)]
        ranges, trials = (_spread(split.samples, most) for split in splits)
    else:
        splits = [open_layout(layout, training or validation, exif=exif)]
        ranges, trials = _share(splits[0].samples, most)
    return Calibration(f"{layout.name}, {' and '.join(split.split for split in splits)}", ranges, trials, layout.space)


def _share(samples: Sequence[Sample], most: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Return every other image for the ranges, and the others for the price; a single image is for both."""
    return _spread(samples[::2], most), _spread(samples[1::2] or samples, most)


def _spread(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    """Return at most so many, evenly spread: neighbors are often alike."""
    count = min(len(samples), positive_integer("images", most))
    return tuple(samples[number * len(samples) // count] for number in range(count))


class Calls:
    """What a network is called with for each of some images, which are decoded one after the other, each time anew.

    An image lies alone on its canvas, shrunk if it is larger: `images`, uint8 ``[1, side, side, channels]``, and `sizes`, int32
    ``[1, 2]``, its (height, width) there.

    Args:
        plan: of the network's backbone.
        side: of the canvases, aligned.
    """

    def __init__(self, samples: Sequence[Sample], plan: Plan, side: int) -> None:
        self._samples, self._channels, self._side = samples, plan.in_channels, side

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Call]:
        for sample in self._samples:
            pixels = sample.read_image()
            channels = np.arange(self._channels) % pixels.shape[2]
            pixels = resize(np.ascontiguousarray(pixels[..., channels]), placement(pixels.shape[:2], self._side).size)
            canvas = np.zeros((1, self._side, self._side, self._channels), np.uint8)
            canvas[0, : pixels.shape[0], : pixels.shape[1]] = pixels
            yield {IMAGES: canvas, SIZES: np.array([pixels.shape[:2]], np.int32)}
