"""What a plan costs at an image size: sizes, receptive field, parameters, multiply-adds, activation memory.

Multiply-adds count every tap of every convolution, padding included, biases and batch norms not, as the papers do: the
features of ResNet-v2-152 cost 10.9 G at 224x224. (``tests/dense_resnet/planning/test_analysis.py``)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dense_resnet.planning import geometry
from dense_resnet.planning.geometry import Window
from dense_resnet.planning.layers import Conv, Pool, Variable, count_parameters

if TYPE_CHECKING:
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
    activation_bytes: int  # outputs of its convolutions and poolings, float32, one image: all kept, as in training


@dataclass(frozen=True)
class Analysis:
    """The rows of a plan at an image size, and their totals."""

    name: str
    image_size: tuple[int, int]
    output_stride: int
    rows: tuple[Row, ...]
    parameters: int
    macs: int
    activation_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for ``json.dumps``."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a table with one row per unit."""
        cells = [["unit", "stride", "rate", "input", "output", "depth", "field", "parameters", "MMAC"]]
        for row in self.rows:
            sizes = ["{}x{}".format(*size) for size in (row.input_size, row.output_size)]
            figures = [str(row.depth), str(row.receptive_field), f"{row.parameters:,}", f"{row.macs / 1e6:,.1f}"]
            cells.append([row.name, str(row.stride), str(row.rate), *sizes, *figures])
        columns: list[list[str]] = []
        for column in zip(*cells, strict=True):
            width = max(map(len, column))
            columns.append([cell.rjust(width) if columns else cell.ljust(width) for cell in column])
        lines = ["  ".join(line) for line in zip(*columns, strict=True)]
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
    groups: list[tuple[str, Sequence[Conv | Pool], Conv | None, Iterable[Variable]]]  # name, path, shortcut, variables
    groups = [(layer.scope.removeprefix(f"{plan.scope}/"), [layer], None, layer.variables) for layer in plan.root]
    groups += [(unit.name, unit.convolutions, unit.shortcut, unit.variables) for unit in plan.units]
    if plan.postnorm:
        groups.append(("postnorm", [], None, plan.postnorm.variables))
    if plan.logits:
        groups.append(("logits", [plan.logits], None, plan.logits.variables))

    input_size, depth = image_size, plan.in_channels
    for name, path, shortcut, variables in groups:
        macs = activations = 0
        height, width = input_size = (1, 1) if path == [plan.logits] else input_size  # the classifier sees the map's mean
        for layer in path:
            height, width = (geometry.output_size(side, layer.stride) for side in (height, width))
            macs += layer.macs(height * width)
            activations += height * width * layer.depth
            depth = layer.depth
        if shortcut:
            macs += shortcut.macs(height * width)
            activations += height * width * shortcut.depth
        seen += [layer.window for layer in path]
        rows.append(
            Row(
                name=name,
                stride=math.prod(layer.stride for layer in path),
                rate=max((layer.rate for layer in path), default=1),
                input_size=input_size,
                output_size=(height, width),
                depth=depth,
                receptive_field=geometry.receptive_field(seen),
                parameters=count_parameters(variables),
                macs=macs,
                activation_bytes=activations * FLOAT32_BYTES,
            )
        )
        input_size = height, width
    totals = {name: sum(getattr(row, name) for row in rows) for name in ("parameters", "macs", "activation_bytes")}
    return Analysis(plan.name, image_size, plan.output_stride, tuple(rows), **totals)
