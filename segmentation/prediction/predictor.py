"""Predict a class for each pixel of images of any size.

    pad -> network -> upsample the logits on the padded canvas -> crop -> highest class

An image is padded at the bottom and on the right with 0 after preprocessing, the mean color, to exactly `size`; a
larger one to its own next 32n+1. The result does not depend on the padding, except for models whose head reads the whole
canvas (``canvas="padded"``, see :mod:`segmentation.heads.plan`), which warn if an image fills little of it. Scales and mirror
images average their class probabilities, as DeepLab does, but also mirrored at scale 1.

Sliding windows are on the output-stride grid and overlap. If the receptive field fits the overlap, the logits are those of the
whole image; otherwise :attr:`Predictor.tiling_note` says why not.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dense_resnet.errors import InputError
from dense_resnet.inference.canvas_ops import resize_align_corners
from dense_resnet.inference.runner import COARSE_LOGITS, Runner
from dense_resnet.planning import geometry
from segmentation.heads.plan import PADDED, SKIP_STRIDE, HeadPlan
from segmentation.prediction.options import INPUT, USUAL, Inference

OVERLAP = 1 / 3  # of a window with the next, at least
LEAST_FILLED = 0.5  # share of its canvas that an image fills, if the head reads all of it


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    labels: np.ndarray  # [height, width] uint8, or uint16 above 256 classes
    confidence: np.ndarray  # [height, width] float32: the probability of that class
    padded: int  # pixels of the canvas beyond the image; 0 if several runs were averaged
    probabilities: np.ndarray | None = None  # [height, width, classes] float32, if asked for


class Predictor:
    """A network ready to run on images of any size.

    Args:
        runner: the network; its output includes cells.
        head: of the network.
        inference: see :class:`Inference`.
        batch: canvases that the network takes at a time; the last bits of its results may depend on it.

    Raises:
        InputError: the inference has invalid values or ones that the runner does not support, or the network does not take RGB.

    >>> from dense_resnet import Backbone
    >>> from segmentation.model import SegmentationModel
    >>> model = SegmentationModel(Backbone("resnet_v1_18", output_stride=16), num_classes=5, head="fcn")
    >>> Predictor(model.runner("float32"), model.head, Inference(size=65))(np.zeros((40, 60, 3), np.uint8)).labels.shape
    (40, 60)
    """

    def __init__(self, runner: Runner, head: HeadPlan, inference: Inference = USUAL, batch: int = 1) -> None:
        self.plan, self.head, self.inference = runner.plan, head, inference
        self.batch = geometry.positive_integer("batch", batch)
        inference.check(self.plan.nominal_stride)
        if self.plan.in_channels != 3:
            raise InputError(f"images have 3 channels, this network takes {self.plan.in_channels}.")
        self._runner = runner
        self._canvas_counts = head.canvas == PADDED and head.image_projection is not None
        size, maps = tf.TensorSpec([2], tf.int32), tf.TensorSpec([None, None, head.num_classes], tf.float32)
        self._upsampled = tf.function(self._resize_cells, [maps, size, size], autograph=False)
        self._highest = tf.function(self._highest_of, [maps], autograph=False)

    def __call__(self, image: np.ndarray, *, keep_probabilities: bool = False) -> Prediction:
        """Predict the class of every pixel of one image: see :meth:`many`."""
        return self.many([image], keep_probabilities=keep_probabilities)[0]

    def many(self, images: Sequence[np.ndarray], *, keep_probabilities: bool = False) -> list[Prediction]:
        """Predict the class of every pixel of some images; several threads may call it at once.

        Args:
            images: uint8 RGB ``[height, width, 3]``, of any sizes. Those of equal canvases go through the network together,
                up to `batch` of them; short batches are padded, so results do not depend on batch composition.
            keep_probabilities: also return those of all classes.

        Raises:
            InputError: logits are not finite.
        """
        if self.inference.averages:
            return [self._average_runs(image, keep_probabilities) for image in images]
        answers = []
        side = self.inference.size
        for image, logits in zip(images, self._logits([(image, side) for image in images]), strict=True):
            labels, confidence = self._highest(logits)
            kept = tf.nn.softmax(logits).numpy() if keep_probabilities else None
            padded = math.prod(self._canvas(image.shape[:2], side)) - math.prod(image.shape[:2])
            answers.append(Prediction(labels.numpy(), confidence.numpy(), padded, kept))
        return answers

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return logits at the image's own scale, not mirrored: ``[height, width, classes]`` float32."""
        return np.asarray(self._logits([(image, self.inference.size)])[0].numpy())

    def check_size(self, place: object, size: Sequence[int]) -> None:
        """Raise an :class:`InputError` if the network was exported for another canvas than an image of (height, width) needs.

        Args:
            place: the image's name in the message.
        """
        only = self._runner.side
        if only is None:
            return
        for scale in self.inference.scales:
            window = self._window(self._canvas(_scale_size(size, scale), self._side(scale)))
            if window != (only, only):
                tiles = f"--tile {only} cuts it into windows, " if self.inference == Inference(size=only) else ""
                raise InputError(
                    f"{place}: its {size[1]}x{size[0]} pixels run at {window[1]}x{window[0]}, and this network was exported "
                    f"only for {only}x{only}: {tiles}`export --size dynamic` (not to tflite) writes one that takes any."
                )

    @property
    def tiling_note(self) -> str | None:
        """Why sliding windows may differ from the whole image; None if they do not (to 1e-5), or there are none."""
        if self.inference.tile is None:
            return None
        if self.head.image_projection is not None:
            return f"the head takes the mean of each window of {self.inference.tile} pixels, not of the image"
        overlap, seen = self.inference.tile - _step(self.inference.tile, self.plan.output_stride), self.plan.receptive_field
        return f"windows overlap by {overlap} pixels, and a cell sees {seen}" if seen > overlap else None

    # ------------------------------------------------------------------------------------------------------------------

    def _average_runs(self, image: np.ndarray, keep_probabilities: bool) -> Prediction:
        """Average over scales and mirror images."""
        own = image.shape[:2]
        total = np.zeros((*own, self.head.num_classes), np.float32)
        for scale in self.inference.scales:
            scaled = _scale_image(image, scale)
            for mirrored in (False, True) if self.inference.flip else (False,):
                [logits] = self._logits([(scaled[:, ::-1] if mirrored else scaled, self._side(scale))])
                logits = logits[:, ::-1] if mirrored else logits
                logits = logits if scaled is image else tf.image.resize(logits, own)  # half-pixel bilinear
                total += tf.nn.softmax(logits).numpy()
        probabilities = total / (len(self.inference.scales) * (1 + self.inference.flip))
        labels = np.argmax(probabilities, axis=-1)
        confidence = np.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0]
        return Prediction(labels.astype(self.head.label_dtype), confidence, 0, probabilities if keep_probabilities else None)

    def _logits(self, wanted: Sequence[tuple[np.ndarray, int]]) -> list[tf.Tensor]:
        """Return logits on the pixels of each (image, least side of its canvas)."""
        images = [image for image, _ in wanted]
        canvases = [self._canvas(image.shape[:2], side) for image, side in wanted]
        if self._canvas_counts and not self.inference.tile:
            self._warn_of_padding(images, canvases)
        pairs = list(zip(images, canvases, strict=True))
        all_cells = [self._run_tiles(*pair) for pair in pairs] if self.inference.tile else self._cells(pairs)
        whole = self.inference.score == INPUT
        return [
            self._upsampled(cells, canvas, canvas if whole else image.shape[:2])
            for cells, (image, canvas) in zip(all_cells, pairs, strict=True)
        ]

    def _warn_of_padding(self, images: Sequence[np.ndarray], canvases: Sequence[tuple[int, int]]) -> None:
        """Warn once of an image that fills little of its canvas."""
        for image, (rows, columns) in zip(images, canvases, strict=True):
            height, width = image.shape[:2]
            if height * width < LEAST_FILLED * rows * columns:
                self._canvas_counts = False
                fitting = geometry.aligned_size(max(height, width), self.plan.nominal_stride)
                warnings.warn(
                    f"an image of {width}x{height} pixels fills {height * width / (rows * columns):.0%} of its canvas of "
                    f"{columns}x{rows}, and this model's head reads all of it, as in its original training: results depend "
                    f"on the canvas. A size closer to the images, such as {fitting}, or to its training crop may work better.",
                    stacklevel=4,
                )
                return

    def _cells(self, wanted: Sequence[tuple[np.ndarray, tuple[int, int]]]) -> list[np.ndarray]:
        """Return logits ``[rows, columns, classes]``, one per cell, of each (image, its canvas)."""
        found: dict[int, np.ndarray] = {}
        for canvas in dict.fromkeys(canvas for _, canvas in wanted):
            alike = [number for number, (_, own) in enumerate(wanted) if own == canvas]
            for start in range(0, len(alike), self.batch):
                numbers = alike[start : start + self.batch]
                pixels = np.zeros((self.batch, *canvas, 3), np.uint8)
                sizes = np.zeros((self.batch, 2), np.int32)
                for place, number in enumerate(numbers):
                    image = wanted[number][0]
                    sizes[place] = height, width = image.shape[:2]
                    pixels[place, :height, :width] = image
                cells = self._runner(pixels, sizes, (COARSE_LOGITS,))[COARSE_LOGITS][: len(numbers)]
                if not np.isfinite(cells).all():
                    raise InputError(
                        "the network's logits are not finite (NaN or infinite). Are the weights correct, and was the model "
                        "trained with this preprocessing?"
                    )
                found.update(zip(numbers, cells, strict=True))
        return [found[number] for number in range(len(wanted))]

    def _run_tiles(self, image: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
        """Return the whole canvas's cells, each from the window that it is deepest in: later windows overwrite earlier ones."""
        head, grid = self.head, self.plan.output_stride
        stride = SKIP_STRIDE if head.skip else grid  # pixels between two cells of the logits
        height, width = window = self._window(canvas)
        rows, columns = (_shares(*axis, grid, stride) for axis in zip(canvas, window, strict=True))
        whole = np.empty((*((side - 1) // stride + 1 for side in canvas), head.num_classes), np.float32)
        windows = list(itertools.product(rows, columns))
        parts = [(image[top : top + height, left : left + width], (height, width)) for (top, _), (left, _) in windows]
        for ((top, row), (left, column)), cells in zip(windows, self._cells(parts), strict=True):
            own = cells[row - top // stride :, column - left // stride :]
            whole[row : row + own.shape[0], column : column + own.shape[1]] = own
        return whole

    def _side(self, scale: float) -> int:
        """Return the least side of an image's canvas at that scale."""
        return geometry.aligned_size(round((self.inference.size - 1) * scale) + 1, self.plan.nominal_stride)

    def _window(self, canvas: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the part of a canvas that the network gets at a time."""
        height, width = (min(side, self.inference.tile or side) for side in canvas)
        return height, width

    def _canvas(self, size: tuple[int, ...], side: int) -> tuple[int, int]:
        """Return exactly `side`, or the image's own next aligned size if it is larger."""
        height, width = self.plan.aligned_size((size[0], size[1]))
        return max(side, height), max(side, width)

    def _resize_cells(self, cells: tf.Tensor, canvas: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Upsample logits to the canvas's pixels and crop them to `kept`."""
        if self.inference.upsample == "align_corners":
            pixels = resize_align_corners(cells[None], canvas)[0]
        elif self.inference.upsample == "half_pixel":
            pixels = tf.image.resize(cells, canvas)
        else:  # legacy
            pixels = tf.raw_ops.ResizeBilinear(images=cells[None], size=canvas)[0]
        return pixels[: kept[0], : kept[1]]

    def _highest_of(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (classes, their probabilities); the lowest class on ties, which top_k guarantees and argmax does not."""
        highest, labels = tf.math.top_k(logits, 1)
        return tf.cast(labels[..., 0], self.head.label_dtype), 1 / tf.reduce_sum(tf.exp(logits - highest), axis=-1)


def window_starts(length: int, window: int, grid: int) -> list[int]:
    """Return where windows begin along an axis: at multiples of `grid`, with the last one ending at the end of the axis.

    Args:
        length: of the axis, in pixels; 1 more than a multiple of `grid`, as is `window`.
        window: pixels, at most `length`.
        grid: pixels.

    >>> window_starts(1025, 513, 16), window_starts(513, 513, 16)
    ([0, 336, 512], [0])
    """
    return [*range(0, length - window, _step(window, grid)), length - window]


def _step(window: int, grid: int) -> int:
    """Return the pixels from a window to the next."""
    return max(grid, int(window * (1 - OVERLAP)) // grid * grid)


def _shares(length: int, window: int, grid: int, stride: int) -> list[tuple[int, int]]:
    """Return (start of a window in pixels, first cell it supplies) along an axis: each supplies half of what two share."""
    starts = window_starts(length, window, grid)
    cells = (window - 1) // stride + 1
    seams = [(before // stride + cells + start // stride) // 2 for before, start in itertools.pairwise(starts)]
    return list(zip(starts, [0, *seams], strict=True))


def _scale_size(size: Sequence[int], scale: float) -> tuple[int, ...]:
    return tuple(max(1, round(side * scale)) for side in size)


def _scale_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize `image`; return it unchanged if its size does not change."""
    size = _scale_size(image.shape[:2], scale)
    if size == image.shape[:2]:
        return image
    resized = tf.image.resize(image, size, antialias=scale < 1).numpy()
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)
