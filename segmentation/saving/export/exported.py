"""An export, opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dense_resnet.backbone import Backbone
from dense_resnet.errors import InputError
from dense_resnet.inference import engines
from dense_resnet.inference.precision import AUTO
from dense_resnet.inference.runner import COARSE_LOGITS, FEATURES, IMAGES, LABELS, PROBABILITIES, SIZES, Runner
from dense_resnet.planning import geometry
from dense_resnet.planning.plan import Plan
from segmentation.heads.plan import SKIP_STRIDE, HeadPlan
from segmentation.model import SegmentationModel
from segmentation.saving.description import OpenedModel, outline_from
from segmentation.saving.export.foreign_run import TFLITE

KEY = "dense_resnet"  # of ONNX's metadata
DOCUMENTED = {  # inputs and outputs of ONNX, for people who open a file
    IMAGES: "RGB pixels as they are decoded, 0 to 255: each image in the top left corner of its canvas.",
    SIZES: "(height, width) of each image in pixels, in this order: what of its canvas is image. At most the canvas's own.",
    FEATURES: "The backbone's features, one vector for each cell of output_stride pixels.",
    COARSE_LOGITS: "Logits of the classes, before they are enlarged to pixels.",
    LABELS: "The class of each pixel of the canvas; those beyond the image mean nothing.",
    PROBABILITIES: "The probability of each class, of each pixel of the canvas; those beyond the image mean nothing.",
}
OPTIONAL, REQUIRED = "optional", "required"  # whether `sizes` may be left out


class Graph(Protocol):
    """A network in the form of a format, before it is written."""

    description: dict[str, Any]  # keys of the format's own

    @property
    def runner(self) -> Runner:
        """What runs it, as it is before it is quantized."""

    def quantize(self, kept: Collection[str]) -> Runner:
        """Quantize all but the parts `kept`: see :mod:`segmentation.saving.export.search`."""

    def measure_noise(self, parts: Sequence[str]) -> Mapping[str, float]:
        """Return how much noise each part adds, as it was quantized the last time."""

    def write(self, path: Path, description: Mapping[str, Any]) -> None:
        """Write it as it was quantized the last time, or else as it is."""


@dataclass(frozen=True)
class Exported(OpenedModel):
    """An export, opened."""

    kind: str  # one of FORMATS
    network: Runner

    @property
    def protocol(self) -> dict[str, Any]:
        """All that its results depend on, for protocols."""
        quantization = self.description.get("quantization")  # ranges of other images are another network
        return {**super().protocol, "export": self.kind} | ({"quantization": quantization} if quantization else {})

    @property
    def inputs(self) -> dict[str, str]:
        """Types and shapes of the inputs by name, for people."""
        batch, height, width, channels = self._shapes[IMAGES]
        needed = "" if self.description.get("sizes") == REQUIRED else "; may be left out"
        return {
            IMAGES: f"uint8 [{batch}, {height}, {width}, {channels}]",
            SIZES: f"int32 [{batch}, 2], (height, width) of each image{needed}",
        }

    @property
    def least_canvas(self) -> int:
        """Pixels along each side of the smallest canvas that it takes."""
        return self.side or least_canvas(self.plan, self.head)

    @property
    def outputs(self) -> dict[str, str]:
        """Types and shapes of the outputs by name, for people."""
        shapes = self._shapes
        types = {LABELS: np.dtype(self.head.label_dtype).name} if self.head else {}
        return {name: f"{types.get(name, 'float32')} [{', '.join(map(str, shapes[name]))}]" for name in self.network.names}

    @property
    def _shapes(self) -> dict[str, tuple[int | str, ...]]:
        return shapes_of(self.plan, self.head, self.side, 1 if self.kind == TFLITE else "batch")

    def runner(self, precision: str = AUTO, engine: str = engines.AUTO) -> Runner:
        """Return the network; refuse a `precision` or an `engine` other than "auto" or the file's own."""
        own = self.network.precision
        if precision not in (AUTO, own):
            raise InputError(
                f"{self.path}: was exported in {own}, and cannot run in {precision!r}. "
                "Leave the precision out, or take the model directory that it was exported from."
            )
        if engine not in (engines.AUTO, self.network.engine):
            raise InputError(
                f"{self.path}: an export runs in its own engine, not in {engine!r}: leave the engine out, or take the model "
                "directory that it was exported from."
            )
        return self.network


def make_exported(path: Path, kind: str, description: Mapping[str, Any], make: Callable[..., Runner]) -> Exported:
    """Make an :class:`Exported` from a description; `make` makes the runner from :class:`Runner`'s arguments."""
    try:
        outline = outline_from(description)
        asked = [description[key] for key in ("precision", "weights_sha256", "outputs", "side")]
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        said = error if isinstance(error, InputError) else f"{error!r}."
        raise InputError(f"{path}: its description is not one of `export`: {said}") from error
    runner = make(outline.plan, outline.plan.preprocessing, *asked)
    return Exported(**vars(outline), path=path, description=description, kind=kind, network=runner)


def plan_of(network: Backbone | SegmentationModel) -> Plan:
    return network.backbone.plan if isinstance(network, SegmentationModel) else network.plan


def head_of(network: Backbone | SegmentationModel) -> HeadPlan | None:
    return network.head if isinstance(network, SegmentationModel) else None


def shapes_of(
    plan: Plan, head: HeadPlan | None, side: int | None, batch: int | str = "batch"
) -> dict[str, tuple[int | str, ...]]:
    """Return the shapes of all inputs and outputs by name; free sizes are named, and equal names are equal sizes."""
    of_image: tuple[int | str, int | str] = ("height", "width")
    of_features: tuple[int | str, int | str] = ("rows", "columns")
    of_cells: tuple[int | str, int | str] = ("cell_rows", "cell_columns")
    if side:
        cells = geometry.output_size(side, SKIP_STRIDE if head and head.skip else plan.output_stride)
        of_image, of_features, of_cells = (side, side), plan.feature_size(side), (cells, cells)
    shapes: dict[str, tuple[int | str, ...]] = {
        IMAGES: (batch, *of_image, plan.in_channels),
        SIZES: ("batch_or_1", 2),
        FEATURES: (batch, *of_features, plan.depth),
    }
    if head:
        shapes[COARSE_LOGITS] = (batch, *of_cells, head.num_classes)
        shapes[LABELS] = (batch, *of_image)
        shapes[PROBABILITIES] = (batch, *of_image, head.num_classes)
    return shapes


def least_canvas(plan: Plan, head: HeadPlan | None) -> int:
    """Return the least side of a canvas that a network takes: a head may pool over windows as large as its training crops."""
    pooled = head.image_pooling if head else None
    return (max(pooled) - 1) * plan.output_stride + 1 if pooled else 1
