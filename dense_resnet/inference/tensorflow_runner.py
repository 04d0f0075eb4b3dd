"""The TensorFlow engine's runners: the slim graph as it is, and the folded one in a session.

(``tests/dense_resnet/inference/test_runner.py``)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.inference import compiled, folding
from dense_resnet.inference.canvas_ops import aligned_size
from dense_resnet.inference.folded_weights import Weights
from dense_resnet.inference.precision import choose_precision
from dense_resnet.inference.runner import IMAGES, SIZES, Outputs, Runner
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import preprocess

v1 = tf.compat.v1


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
        weights: Weights,
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
