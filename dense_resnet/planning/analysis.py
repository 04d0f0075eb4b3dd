"""What a plan costs at an image size: sizes, receptive field, parameters, multiply-adds, activation memory.

Multiply-adds count every tap of every convolution, padding included, biases and batch norms not, as the papers do: the
features of ResNet-v2-152 cost 10.9 G at 224x224. Activation memory is what one image's convolution and pooling outputs
take in float32, all kept, as a training step keeps them. (``tests/dense_resnet/planning/test_analysis.py``)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dense_resnet.planning import geometry
from dense_resnet.planning.geometry import Window

if TYPE_CHECKING:
    from dense_resnet.planning.layers import Conv, Norm, Pool
    from dense_resnet.planning.plan import Plan

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Row:
    """One unit, or one layer outside the units."""

    name: str
    stride: int  # that it runs with
    rate: int  # the largest among its convolutions
    input_size: tuple[int, int]  # (height, width), cells
    output_size: tuple[int, int]
    depth: int  # channels that come out
    receptive_field: int  # pixels of the image that an output cell sees, along one axis
    parameters: int  # trainable
    macs: int  # multiply-adds for one image
    activation_bytes: int  # outputs of its convolutions and poolings, float32, one image


@dataclass(frozen=True)
class Analysis:
    """The rows of a plan at an image size, and their totals."""

    name: str
    image_size: tuple[int, int]
    output_stride: int
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        return sum(row.activation_bytes for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for ``json.dumps``."""
        totals = {"parameters": self.parameters, "macs": self.macs, "activation_bytes": self.activation_bytes}
        return dataclasses.asdict(self) | totals

    def __str__(self) -> str:
        """Return a table with one row per unit."""
        header = ("unit", "stride", "rate", "input", "output", "depth", "field", "parameters", "MMAC")
        cells = [header]
        for row in self.rows:
            cells.append(
                (
                    row.name,
                    str(row.stride),
                    str(row.rate),
                    "{}x{}".format(*row.input_size),
                    "{}x{}".format(*row.output_size),
                    str(row.depth),
                    str(row.receptive_field),
                    f"{row.parameters:,}",
                    f"{row.macs / 1e6:,.1f}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(pairs))
            for pairs in (list(zip(line, widths, strict=True)) for line in cells)
        ]
        lines.insert(1, "-" * len(lines[0]))
        title = "{} at {}x{}, output_stride {}".format(self.name, *self.image_size, self.output_stride)
        total = (
            f"{self.parameters:,} trainable parameters, {self.macs / 1e9:,.1f} GMAC, "
            f"{self.activation_bytes / 2**20:,.0f} MiB of activations an image (float32)"
        )
        return "\n".join([title, "", *lines, "", total])


def analyze(plan: Plan, size: object) -> Analysis:
    """Follow one image of `size` pixels, (height, width) or one number, through `plan`."""
    image_size = geometry.image_size(size)
    rows: list[Row] = []
    seen: list[Window] = []
    groups: list[tuple[str, Sequence[Conv | Pool], Sequence[Conv], Sequence[Norm]]] = []  # name, path, side path, norms
    for layer in plan.root:
        groups.append((layer.scope.removeprefix(f"{plan.scope}/"), [layer], [], []))
    for unit in plan.units:
        beside = [unit.shortcut] if unit.shortcut else []
        groups.append((unit.name, unit.convolutions, beside, [unit.preact] if unit.preact else []))
    if plan.postnorm:
        groups.append(("postnorm", [], [], [plan.postnorm]))
    if plan.logits:
        groups.append(("logits", [plan.logits], [], []))

    input_size, depth = image_size, plan.in_channels
    for name, path, shortcuts, norms in groups:
        macs = activations = 0
        input_size = (1, 1) if path == [plan.logits] else input_size  # the classifier sees the map's mean
        height, width = input_size
        for layer in path:
            height, width = (geometry.output_size(side, layer.stride) for side in (height, width))
            macs += layer.macs(height * width)
            activations += height * width * layer.depth
            depth = layer.depth
        for conv in shortcuts:
            macs += conv.macs(height * width)
            activations += height * width * conv.depth
        seen += [layer.window for layer in path]
        variables = [variable for layer in (*path, *shortcuts, *norms) for variable in layer.variables]
        rows.append(
            Row(
                name=name,
                stride=math.prod(layer.stride for layer in path),
                rate=max((layer.rate for layer in path), default=1),
                input_size=input_size,
                output_size=(height, width),
                depth=depth,
                receptive_field=geometry.receptive_field(seen),
                parameters=sum(math.prod(variable.shape) for variable in variables if variable.trainable),
                macs=macs,
                activation_bytes=activations * FLOAT32_BYTES,
            )
        )
        input_size = height, width
    return Analysis(plan.name, image_size, plan.output_stride, tuple(rows))
