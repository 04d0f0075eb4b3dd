"""Inference on uint8 images: preprocessing, padding and network in one callable, as the tools and `export` use it.

    images  uint8 [batch, height, width, channels]: canvases of one size, each image in the top left corner of its own
    sizes   [batch, 2]: (height, width) of each image, at most its canvas's; left out, images fill their canvases
      -> preprocessing -> 0, the mean color, beyond each image -> padding to the next aligned size -> network

There is one :class:`Runner` per way: the slim graph and the folded one in TensorFlow (:mod:`tensorflow_runner`), the folded one
in OpenVINO (:mod:`openvino`), and exported files. (``tests/dense_resnet/inference/test_runner.py``)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.inference.engines import TENSORFLOW
from dense_resnet.planning.plan import Plan

EXACT = "exact"  # the slim graph in float32, where others are "float32" or "bfloat16"
FEATURES, COARSE_LOGITS, LABELS, PROBABILITIES = "features", "cells", "labels", "probabilities"  # what networks give
IMAGES, SIZES = "images", "sizes"  # the inputs' names

Outputs = dict[str, np.ndarray]


def at_stride(stride: int) -> str:
    """Return the name of the pyramid's activation at a finer stride than the network's own."""
    return f"stride_{stride}"


@dataclass(eq=False)
class Runner:
    """A network, and what its answers depend on."""

    export: ClassVar[str | None] = None  # the format, where it runs a file
    engine: ClassVar[str] = TENSORFLOW  # what computes it

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
                f"{images.shape[2]}x{images.shape[1]}). `export --size dynamic` (not to tflite) writes one that takes any."
            )
        canvas = images.shape[1:3]
        sizes = np.asarray([canvas] if sizes is None else sizes, np.int32)
        if sizes.shape not in ((1, 2), (len(images), 2)) or (sizes < 0).any() or (sizes > canvas).any():
            raise InputError(
                f"sizes must be the (height, width) of each of the {len(images)} images, within its canvas's {canvas} "
                f"(not {sizes.tolist()!r:.80})."
            )
        return self._run(images, sizes, tuple(names))

    @property
    def engine_protocol(self) -> dict[str, Any] | None:
        """The engine, for protocols: None is TensorFlow, as in those of earlier versions."""
        return None

    def prepare(self, threads: int) -> None:
        """Get ready to compute the calls of so many threads at the same time; else they may have to wait for each other."""

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        raise NotImplementedError
