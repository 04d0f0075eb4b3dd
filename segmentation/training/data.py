"""Read what a training sees: views of images, in an order of their own each epoch, batch after batch.

Everything random is a function of (seed, position in the data), so a resumed run sees what an uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.jobs.pipeline import ordered_map
from dense_resnet.preprocessing import preprocess
from segmentation.data.label_space import LabelSpace
from segmentation.data.samples import Dataset, Sample
from segmentation.data.transforms import augment, place_on_canvas
from segmentation.training.recipe import Recipe

EXIF = "exif"  # a dataset's, in a protocol
PADDING = -1  # label around a view of a dataset without an ignore label: no file holds it, and it is ignored
BATCHES_AHEAD = 3  # of the step, being read, each by a thread


class Example(NamedTuple):
    """A view of a training image."""

    sample: Sample
    pixels: np.ndarray  # [height, width, 3] float32, preprocessed
    label: np.ndarray  # [height, width] int32
    box: np.ndarray  # where the image lies on the crop: see dense_resnet.inference.canvas_ops.coverage_mask


class Batch(NamedTuple):
    """One worker's examples of one step."""

    samples: list[Sample]
    pixels: np.ndarray  # these and the rest: an example's, stacked
    labels: np.ndarray
    boxes: np.ndarray


def ignored_label(space: LabelSpace) -> int:
    """Return the label of what is ignored in views."""
    return PADDING if space.ignore_label is None else space.ignore_label


def read_example(dataset: Dataset, recipe: Recipe, preprocessing: str, position: int) -> Example:
    """Read the example at a position of the endless order of training images."""
    epoch, place = divmod(position, len(dataset.samples))
    order = np.random.default_rng([recipe.seed, 0, epoch]).permutation(len(dataset.samples))
    sample = dataset.samples[order[place]]
    image, label = sample.read_image(), sample.read_label(dataset.space)
    generator = np.random.default_rng([recipe.seed, 1, position])
    try:
        image, label, offset = augment(image, label, recipe.augmentation, generator)
    except InputError as error:
        raise InputError(f"{sample}: {error}") from error
    crop = recipe.augmentation.crop
    pixels = place_on_canvas(preprocess(image, preprocessing), offset, crop, 0)
    box = np.array([*offset, *np.add(offset, label.shape)], np.int32)
    return Example(sample, pixels, place_on_canvas(label.astype(np.int32), offset, crop, ignored_label(dataset.space)), box)


def read_batches(
    read: Callable[[int], Example], recipe: Recipe, start: int, worker: int, workers: int
) -> Generator[tuple[int, Batch], None, None]:
    """Give each step from `start` on with this worker's part of its images, read ahead by threads."""
    own = recipe.batch // workers

    def read_batch(step: int) -> Batch:
        first = step * recipe.batch + worker * own
        samples, *arrays = zip(*map(read, range(first, first + own)), strict=True)
        return Batch(list(samples), *map(np.stack, arrays))

    yield from ordered_map(read_batch, range(start, recipe.steps), BATCHES_AHEAD)


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return the entries of a protocol about a dataset."""
    names = "\n".join(sample.name for sample in dataset.samples)
    return {
        "name": dataset.name,
        "split": dataset.split,
        "images": len(dataset.samples),
        EXIF: dataset.samples[0].exif if dataset.samples else None,
        "names_sha256": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
        **dataset.space.as_json(),
    }
