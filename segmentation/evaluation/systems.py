"""What an evaluation scores: a model, or a folder of predictions that were made elsewhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dense_resnet.errors import InputError, format_list, pluralize
from dense_resnet.image_io import decoding
from dense_resnet.jobs.atomic_files import sha256
from segmentation.data.label_files import decode_prediction
from segmentation.data.label_space import LabelSpace
from segmentation.data.layouts import IMAGE_ENDING
from segmentation.data.samples import Sample
from segmentation.data.source import without_suffix
from segmentation.evaluation.numbering import outside_cause
from segmentation.evaluation.results import PREDICTIONS
from segmentation.prediction.options import NATIVE, Inference
from segmentation.saving.description import OpenedModel, check_head, explain_errors

if TYPE_CHECKING:
    from dense_resnet.inference.runner import Runner

MOST_WAYS = 3  # to name predictions, in one message


@dataclass(frozen=True)
class Answer:
    """A system's answer for one image."""

    labels: np.ndarray  # [height, width], on the sample's pixels, or on the canvas that they were padded to
    confidence: np.ndarray | None = None  # [height, width] float32, if there are probabilities
    padded: int = 0  # pixels of the canvas beyond the image
    sha256: str | None = None  # of the file that it was read from


class System(Protocol):
    """What an evaluation scores."""

    space: LabelSpace
    protocol: dict[str, Any]  # what its answers depend on, for the protocol
    inference: dict[str, Any] | None  # how a model is run
    size: str  # one of SIZES: whether answers are on the image's pixels or on the canvas
    upsample: str | None  # one of UPSAMPLES, of a model
    tiling_note: str | None  # a note on where tiles meet
    batch: int  # images that it takes at a time

    def fingerprint(self, sample: Sample) -> str | None:
        """Return what a line of the log depends on beyond image, label and protocol."""

    def check_size(self, sample: Sample, size: tuple[int, ...]) -> None:
        """Raise an :class:`InputError` if it does not take images of that (height, width)."""

    def __call__(self, samples: Sequence[Sample], pixels: Sequence[np.ndarray]) -> list[Answer]:
        """Answer for each sample, whose decoded image is at the same place in `pixels`."""


class ModelPredictions:
    """A model, run on every image.

    Args:
        saved: the model: of :func:`segmentation.load_model`, or exported.
        runner: the function that runs it: of ``saved.runner()``.
        inference: see :class:`segmentation.prediction.Inference`.
        batch: images that the network takes at a time.
    """

    def __init__(self, saved: OpenedModel, runner: Runner, inference: Inference, batch: int = 1) -> None:
        with explain_errors(saved.path):
            head = check_head(saved)
        from segmentation.prediction.predictor import Predictor  # and TensorFlow, which a folder of predictions does not need

        self._predictor = Predictor(runner, head, inference, batch)
        assert saved.space is not None  # a model with a head has classes
        self.space, self.tiling_note, self.batch = saved.space, self._predictor.tiling_note, batch
        self.protocol = {
            **saved.protocol, "precision": runner.precision, "engine": runner.engine_protocol, "batch": batch,
            "seams": self.tiling_note,
        }  # fmt: skip
        self.inference: dict[str, Any] | None = dataclasses.asdict(inference)
        self.size = inference.score
        self.upsample: str | None = inference.upsample

    def fingerprint(self, sample: Sample) -> str | None:
        """Return None: answers depend only on image, label and protocol."""
        return None

    def check_size(self, sample: Sample, size: tuple[int, ...]) -> None:
        """Raise an :class:`InputError` where the network takes no image of that (height, width)."""
        self._predictor.check_size(sample.image, size)

    def __call__(self, samples: Sequence[Sample], pixels: Sequence[np.ndarray]) -> list[Answer]:
        try:
            predictions = self._predictor.many(pixels)
        except InputError as error:
            raise InputError(f"{', '.join(str(sample.image) for sample in samples)}: {error}") from error
        return [Answer(one.labels, one.confidence, one.padded) for one in predictions]


class SavedPredictions:
    """Predictions that another program wrote: one index PNG an image, under the sample's name, on the image's stored pixels.

    `predict` writes them so: where the samples' images are turned by their EXIF rotation, predictions are turned with them.
    It names them after the images' files, from whichever folder it was given; they are found under such names, too.

    Args:
        folder: with a PNG for each sample: see :func:`_find_predictions`.
        space: of the predicted indices.
        samples: that have to be there.
        max_pixels: larger files are refused.

    Raises:
        InputError: predictions are missing; all are listed at once.
    """

    size, batch = NATIVE, 1
    upsample: str | None = None
    tiling_note: str | None = None
    inference: dict[str, Any] | None = None

    def __init__(
        self,
        folder: str | os.PathLike[str],
        space: LabelSpace,
        samples: Sequence[Sample],
        max_pixels: int = decoding.MAX_PIXELS,
    ) -> None:
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder of predictions.")
        self.space, self._max_pixels = space, max_pixels
        self.protocol: dict[str, Any] = {PREDICTIONS: str(root)}
        if any(sample.exif == "apply" for sample in samples):
            self.protocol["pixels"] = "stored"  # older logs, which scored them as upright, have another protocol
        self._paths = _find_predictions(root, samples)

    def fingerprint(self, sample: Sample) -> str | None:
        """Return the prediction file's digest."""
        return sha256(decoding.read_file(self._paths[sample.name]))

    def check_size(self, sample: Sample, size: tuple[int, ...]) -> None:
        """Accept any size."""

    def __call__(self, samples: Sequence[Sample], pixels: Sequence[np.ndarray]) -> list[Answer]:
        return [self._answer(sample, image) for sample, image in zip(samples, pixels, strict=True)]

    def _answer(self, sample: Sample, image: np.ndarray) -> Answer:
        path = self._paths[sample.name]
        data = decoding.read_file(path)
        labels = decode_prediction(path, data, self._max_pixels)
        turn = sample.orientation(sample.image_bytes(), self._max_pixels) if sample.exif == "apply" else 1
        stored = decoding.undo_orientation(image, turn)
        if labels.shape != stored.shape[:2]:
            as_stored = "" if turn == 1 else f" as it is stored (it has EXIF rotation {turn}, which predictions are without)"
            raise InputError(
                f"{path}: the prediction is {_size(labels)} pixels, the image {_size(stored)}{as_stored}. "
                "Labels are never resized: predict at the image's own size."
            )
        if (wrong := labels >= self.space.num_classes).any():
            y, x = np.argwhere(wrong)[0]
            raise InputError(
                f"{path}: prediction value {labels[y, x]} ({np.count_nonzero(labels == labels[y, x])} px, first at y={y}, "
                f"x={x}) is outside 0..{self.space.num_classes - 1}. {outside_cause(labels, self.space)}"
            )
        return Answer(decoding.apply_orientation(labels, turn), sha256=sha256(data))


def _find_predictions(root: Path, samples: Sequence[Sample]) -> dict[str, Path]:
    """Find the prediction of each sample below `root`, by the sample's name; all files are named in the first way that fits.

    1. ``<name>.png``
    2. as the image's file is named from a folder around all of the images on; the innermost folder first
    3. in one level, by the last part of the name, or of the image's file

    Raises:
        InputError: some are missing; all are listed at once.
    """
    ways = [[sample.name for sample in samples]]
    for paths in _image_files(samples):
        around = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path("/")
        ways += [[without_suffix(path.relative_to(top).as_posix()) for path in paths] for top in (around, *around.parents)]
    ways += [[Path(name).name for name in names] for names in ways]
    unique = [names for names in dict.fromkeys(map(tuple, ways)) if len(set(names)) == len(names)] or [tuple(ways[0])]
    absent = {names: [name for name in names if not (root / f"{name}.png").is_file()] for names in unique}
    best = min(unique, key=lambda names: len(absent[names]))  # the first of equals
    if missing := [f"{root / name}.png: no such file" for name in absent[best]]:
        others = ", ".join(f"{names[0]}.png" for names in unique[: MOST_WAYS + 1] if names != best)
        missed = f"{len(missing)} of {pluralize(len(samples), 'prediction')} {'is' if len(missing) == 1 else 'are'}"
        also = f"\n  Nor are all of them there under other names, such as {others} for the first." if others else ""
        raise InputError(f"{root}: {missed} missing.{format_list(missing)}{also}")
    return {sample.name: root / f"{name}.png" for sample, name in zip(samples, best, strict=True)}


def _image_files(samples: Sequence[Sample]) -> list[list[Path]]:
    """Return the absolute paths of the samples' images; for images in records, the paths that they may have had."""
    if all(sample.image.length is None for sample in samples):
        return [[Path(os.path.abspath(sample.image.path)) for sample in samples]]
    return [[Path(f"/{sample.name}{ending}.png") for sample in samples] for ending in ("", IMAGE_ENDING)]


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
