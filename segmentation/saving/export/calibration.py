"""Images of the user's, by which a network is quantized: for the ranges of its activations, and for the price.

An image is in one of the two parts, unless it is the only one. Of a dataset that has both, the training split is for the ranges
and the validation split for the price. (``tests/segmentation/saving/test_quantized.py``)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, pluralize
from dense_resnet.image_io.discovery import find_images
from dense_resnet.inference.canvas import placement, resize
from dense_resnet.inference.runner import IMAGES, SIZES
from dense_resnet.planning.geometry import positive_integer
from dense_resnet.planning.plan import Plan
from segmentation.data.label_space import LabelSpace
from segmentation.data.layouts import TRAINING, VALIDATION, Layout, open_layout, recognize, usual_split
from segmentation.data.samples import Sample
from segmentation.data.source import Source
from segmentation.heads.plan import PADDED, HeadPlan
from segmentation.prediction.options import SIZE
from segmentation.saving.export.exported import least_canvas

MOST_IMAGES = 300  # of each part

Call = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """Images for quantizing a network."""

    ranges: tuple[Sample, ...]  # those that the ranges of activations are taken from
    trials: tuple[Sample, ...]  # those that the price is told on
    ranges_source: str  # where they are from, for people
    trials_source: str
    space: LabelSpace | None = None  # of the trials' labels; None of bare images

    @property
    def held_out(self) -> bool:
        """Whether the price is told on other images than those of the ranges."""
        return not {sample.image for sample in self.ranges} & {sample.image for sample in self.trials}

    def check_classes(self, space: LabelSpace | None) -> None:
        """Raise an :class:`InputError` if a model's classes are not the labels'."""
        if self.space and space and self.space.names != space.names:
            raise InputError(
                f"--calibrate: {self.trials_source} has {pluralize(self.space.num_classes, 'class')} "
                f"({', '.join(self.space.names[:5])}), and the model has {pluralize(space.num_classes, 'class')} "
                f"({', '.join(space.names[:5])}): they must be the same. Its images alone, without labels, may be given too."
            )

    def as_json(self) -> dict[str, Any]:
        """Describe it for the record of an export."""
        digest = hashlib.sha256()
        for sample in self.ranges:
            digest.update(hashlib.sha256(sample.image_bytes()).digest())
        return {"source": self.ranges_source, "images": len(self.ranges), "images_sha256": digest.hexdigest()}


def take(sources: Sequence[str], most: int = MOST_IMAGES, note: Callable[[str], object] = lambda message: None) -> Calibration:
    """Take a dataset, if one source is given and is one, or else the images of all of them.

    Args:
        most: images for the ranges, and again for the price.
        note: called with a message where a folder is taken for images alone.
    """
    if len(sources) > 1 or not (Path(sources[0]).is_dir() or Path(sources[0]).suffix == ".csv"):
        return take_images(sources, most)
    try:
        layout = recognize(sources[0])
    except InputError as error:
        found = take_images(sources, most)
        note(f"taken as images without labels, so mean IoU is not measured: {str(error).split('. ')[0]}")
        return found
    return take_dataset(layout, most)


def take_images(sources: Sequence[str], most: int = MOST_IMAGES) -> Calibration:
    """Take images without labels, of folders, files, patterns or lists: see :func:`find_images`."""
    found = [Sample(one.relative, Source(one.path), exif="apply") for one in find_images(sources)]
    ranges, trials = _share(found, most)
    return Calibration(ranges, trials, ", ".join(sources), ", ".join(sources))


def take_dataset(layout: Layout, most: int = MOST_IMAGES) -> Calibration:
    """Take pairs of a dataset, of both of its splits if it has a training and a validation split."""
    training, validation = (usual_split(layout, names) for names in (TRAINING, VALIDATION))
    if training and validation:
        splits = [open_layout(layout, split) for split in (training, validation)]
        ranges, trials = (_spread(split.samples, most) for split in splits)
    else:
        splits = [open_layout(layout, training or validation)] * 2
        ranges, trials = _share(splits[0].samples, most)
    ranges_source, trials_source = (f"{layout.name}, {split.split}" for split in splits)
    return Calibration(ranges, trials, ranges_source, trials_source, layout.space)


def _share(samples: Sequence[Sample], most: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Return every other image for the ranges, and the others for the price; a single image is for both."""
    return _spread(samples[::2], most), _spread(samples[1::2] or samples, most)


def _spread(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    """Return at most so many, evenly spread: neighbors are often alike."""
    count = min(len(samples), positive_integer("images", most))
    return tuple(samples[number * len(samples) // count] for number in range(count))


@dataclass(frozen=True)
class Canvases:
    """The canvases that images are run on."""

    least: int  # pixels along each side, aligned
    most: int  # for ranges, larger images are shrunk to that


def canvases_for(plan: Plan, head: HeadPlan | None, side: int | None, size: int | None) -> Canvases:
    """Return canvases as small as images allow: what is beyond an image widens the ranges, and takes time.

    Args:
        side: of the only canvas that the network takes, if any.
        size: of the canvases that it was validated on; a head that reads all of a canvas gets such ones.
    """
    whole = side is not None or (head is not None and head.canvas == PADDED)
    most = side or size or SIZE
    return Canvases(most if whole else max(plan.nominal_stride + 1, least_canvas(plan, head)), most)


class Calls:
    """What a network is called with for each of some images, which are decoded one after the other, each time anew.

    Each image lies alone on its canvas: `images`, uint8 ``[1, height, width, channels]``, and `sizes`, int32 ``[1, 2]``, its
    (height, width) there.
    """

    def __init__(self, samples: Sequence[Sample], plan: Plan, canvases: Canvases) -> None:
        self._samples, self._plan, self._canvases = samples, plan, canvases

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Call]:
        least, most = self._canvases.least, self._canvases.most
        for sample in self._samples:
            pixels = sample.read_image()
            channels = np.arange(self._plan.in_channels) % pixels.shape[2]
            pixels = resize(np.ascontiguousarray(pixels[..., channels]), placement(pixels.shape[:2], most).size)
            height, width = pixels.shape[:2]
            canvas = np.zeros((1, *self._plan.aligned_size((max(height, least), max(width, least))), len(channels)), np.uint8)
            canvas[0, :height, :width] = pixels
            yield {IMAGES: canvas, SIZES: np.array([(height, width)], np.int32)}
