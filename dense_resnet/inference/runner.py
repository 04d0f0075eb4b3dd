"""Inference on uint8 images: preprocessing, padding and network in one callable, as the tools and `export` use it.

    images  uint8 [batch, height, width, channels]: canvases of one size, each image in the top left corner of its own
    sizes   [batch, 2]: (height, width) of each image, at most its canvas's; left out, images fill their canvases
      -> preprocessing -> 0, the mean color, beyond each image -> padding to the next aligned size -> network

There is one :class:`Runner` per way: :class:`ExactRunner` (the slim graph in float32), :class:`CompiledRunner` (the folded
graph), and those of exported files. (``tests/dense_resnet/inference/test_runner.py``)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from dense_resnet.errors import InputError
from dense_resnet.inference import compiled, folding
from dense_resnet.inference.canvas_ops import aligned_size
from dense_resnet.inference.precision import choose_precision
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import preprocess

EXACT = "exact"  # the slim graph in float32, where others are "float32" or "bfloat16"
FEATURES, COARSE_LOGITS, LABELS, PROBABILITIES = "features", "cells", "labels", "probabilities"  # what networks give
IMAGES, SIZES = "images", "sizes"  # the inputs' names

v1 = tf.compat.v1
Outputs = dict[str, np.ndarray]


def at_stride(stride: int) -> str:
    """Return the name of the pyramid's activation at a finer stride than the network's own."""
    return f"stride_{stride}"


@dataclass(eq=False)
class Runner:
    """A network, and what its answers depend on."""

    export: ClassVar[str | None] = None  # the format, where it runs a file

    plan: Plan  # of the backbone
    preprocessing: str  # a scheme of dense_resnet.preprocess
    precision: str  # EXACT, "float32" or "bfloat16"
    weights_sha256: str  # dense_resnet.checkpoints.fingerprint of the weights
    names: Sequence[str]  # of what it can give
    side: int | None = None  # of the only canvas that it takes; None takes any

    def __post_init__(self) -> None:
        self.names = tuple(self.names)  # a list in the description of an exported file

    def __call__(self, images: np.ndarray, sizes: Any = None, names: Sequence[str] = (FEATURES,)) -> Outputs:
        """Run the network. Several threads may call this at the same time.

        Args:
            images: uint8 ``[batch, height, width, channels]``, RGB or gray, on canvases.
            sizes: ``[batch, 2]``, the (height, width) of each image; None where they fill their canvases.
            names: of the arrays that are wanted.

        Returns:
            ``{name: array}``: "features" ``[batch, rows, columns, depth]`` float32 and "stride_N" likewise; of a segmentation
            model "cells" ``[batch, rows, columns, classes]``, the logits before they are enlarged, "labels"
            ``[batch, height, width]`` uint8 or uint16, and "probabilities" ``[batch, height, width, classes]`` float32.

        Raises:
            InputError: images of another type or shape than the network takes, or sizes that their canvases do not hold.
        """
        channels = self.plan.in_channels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != channels:
            raise InputError(
                f"images must be uint8 [batch, height, width, {channels}] (not {images.dtype} {list(images.shape)})."
            )
        if self.side and images.shape[1:3] != (self.side, self.side):
            raise InputError(
                f"this network was exported for canvases of {self.side}x{self.side} pixels (these are "
                f"{images.shape[2]}x{images.shape[1]}). `export --size dynamic` writes one that takes any."
            )
        canvas = images.shape[1:3]
        sizes = np.asarray([canvas] if sizes is None else sizes, np.int32)
        if sizes.shape not in ((1, 2), (len(images), 2)) or (sizes < 0).any() or (sizes > canvas).any():
            raise InputError(
                f"sizes must be the (height, width) of each of the {len(images)} images, within its canvas's {canvas} "
                f"(not {sizes.tolist()!r:.80})."
            )
        return self._run(images, sizes, tuple(names))

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        raise NotImplementedError


@dataclass(eq=False)
class ExactRunner(Runner):
    """The slim graph, eagerly, for any canvas: `function` takes preprocessed canvases, their images' sizes, and names."""

    function: Callable[[tf.Tensor, np.ndarray, tuple[str, ...]], Mapping[str, tf.Tensor]] = field(kw_only=True)

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        canvases = _canvases(tf.constant(images), tf.constant(sizes), self.plan, self.preprocessing)
        return {name: values.numpy() for name, values in self.function(canvases, sizes, names).items()}


class SessionRunner(Runner):
    """A graph whose inputs and outputs have their names, in the session ``session``."""

    session: Any

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        fetched = {name: f"{name}:0" for name in names}
        return dict(self.session.run(fetched, {f"{IMAGES}:0": images, f"{SIZES}:0": sizes}))


class CompiledRunner(SessionRunner):
    """The folded graph in a session; ``graph`` has its inputs and outputs under their names.

    Args:
        build: from the layers, preprocessed canvases of an aligned size, (height, width) of the images array and
            ``[batch or 1, 2]``, those of each image, to the outputs by name.
        portable, onednn: as :func:`dense_resnet.inference.compiled.freeze`, where the graph is to be written to a file.
    """

    def __init__(
        self,
        build: Callable[[folding.Layers, tf.Tensor, tf.Tensor, tf.Tensor], Mapping[str, tf.Tensor]],
        weights: folding.Weights,
        plan: Plan,
        preprocessing: str,
        precision: str,
        weights_sha256: str,
        side: int | None = None,
        portable: bool = False,
        onednn: bool = False,
    ) -> None:
        precision = choose_precision(precision)

        def build_outputs(layers: folding.Layers) -> list[str]:
            images = v1.placeholder(tf.uint8, [None, side, side, plan.in_channels], name=IMAGES)
            canvas = tf.shape(images)[1:3]
            sizes = _within(v1.placeholder_with_default(canvas[None], [None, 2], name=SIZES), canvas)
            canvases = _canvases(images, sizes, plan, preprocessing)
            outputs = build(layers, canvases, canvas, sizes)
            return [tf.identity(values, name).op.name for name, values in outputs.items()]

        self.graph, self.session, names = compiled.freeze(build_outputs, weights, precision, portable=portable, onednn=onednn)
        super().__init__(plan, preprocessing, precision, weights_sha256, names, side)


def _within(sizes: tf.Tensor, canvas: tf.Tensor) -> tf.Tensor:
    """Look `sizes` up in a list of those that fit the canvas: a larger one, such as a width for a height, is an error.

    Runtimes of exported files have no other way to reject a number. 0 is the size of an empty place in a batch.
    """
    found = []
    for axis, side in enumerate(("height", "width")):
        beyond = canvas[axis] + 1
        asked = tf.where(sizes[:, axis] < 0, beyond, sizes[:, axis])  # ONNX counts negative places from the end
        found.append(tf.gather(tf.range(beyond), asked, name=f"{side}_within_the_canvas"))
    return tf.stack(found, axis=1)


def _canvases(images: tf.Tensor, sizes: tf.Tensor, plan: Plan, preprocessing: str) -> tf.Tensor:
    """Preprocess images, put 0 beyond each, and pad to the next aligned size if theirs is not aligned."""
    height, width = tf.unstack(tf.shape(images)[1:3])
    rows = tf.range(height)[:, None] < sizes[:, 0, None, None]
    columns = tf.range(width) < sizes[:, 1, None, None]
    values = preprocess(images, preprocessing)
    canvases = tf.where((rows & columns)[..., None], values, tf.zeros_like(values))
    static = images.shape[1:3]
    if static.is_fully_defined() and tuple(static) == plan.aligned_size(tuple(static)):
        return canvases
    below, right = (aligned_size(length, plan.nominal_stride) - length for length in (height, width))
    return tf.pad(canvases, [[0, 0], [0, below], [0, right], [0, 0]])
