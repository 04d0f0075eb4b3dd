"""The plan: a whole ResNet as immutable integers, validated before anything is built.

:mod:`dense_resnet.planning.schedule` decides strides and rates. Builders loop over a :class:`Plan` and decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dense_resnet.errors import InputError
from dense_resnet.planning import analysis, geometry, layers, schedule
from dense_resnet.planning.geometry import Grid, Window, positive_integer
from dense_resnet.planning.layers import BOTTLENECK_V2, LAST_3X3, UNIT_KINDS, Block, Conv, Norm, Pool, Unit, Variable


@dataclass(frozen=True)
class Plan:
    """A ResNet as immutable integers: everything a builder needs to know. Made by :func:`dense_resnet.plan`.

    Sizes are (height, width) in pixels; strides and rates are integers.
    """

    name: str  # the variant's name, or the scope of a custom network
    scope: str  # of every variable
    root_name: str | None  # a key of ROOTS; None without root block
    root: tuple[Conv | Pool, ...]
    blocks: tuple[Block, ...]
    postnorm: Norm | None  # v2: the batch norm + ReLU after the last unit
    logits: Conv | None  # the 1x1 classifier, where num_classes was given
    output_stride: int
    nominal_stride: int
    multi_grid: tuple[int, ...] | None
    in_channels: int
    preprocessing: str  # a scheme of dense_resnet.preprocess

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units in order."""
        return tuple(unit for block in self.blocks for unit in block.units)

    @property
    def preactivation(self) -> bool:
        """Whether this is a v2 network."""
        return self.postnorm is not None

    @property
    def depth(self) -> int:
        """Channels of the features."""
        return self.units[-1].depth

    @property
    def num_classes(self) -> int | None:
        return self.logits.depth if self.logits else None

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Every variable: canonical name, shape, whether it is trained."""
        parts = (*self.root, *self.units, self.postnorm, self.logits)
        return tuple(variable for part in parts if part for variable in part.variables)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        return layers.count_parameters(self.variables)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Every spatial window on the longest path."""
        path = [*self.root, *(conv for unit in self.units for conv in unit.convolutions)]
        return tuple(layer.window for layer in path)

    def grids(self, size: object) -> tuple[Grid, Grid]:
        """Return the feature map's rows and columns for an image of `size`: cells, and the pixels that they are centered on."""
        rows, columns = (Grid(side) for side in geometry.image_size(size))
        for window in self.windows:
            rows, columns = rows.through(window), columns.through(window)
        return rows, columns

    def feature_size(self, size: object) -> tuple[int, int]:
        """Return the (height, width) of the features of an image of `size`: (513, 513) gives (33, 33) at stride 16."""
        rows, columns = self.grids(size)
        return rows.size, columns.size

    def aligned_size(self, size: object) -> tuple[int, int]:
        """Return the next size whose corner cells are centered exactly on the corner pixels."""
        height, width = geometry.image_size(size)
        return geometry.aligned_size(height, self.nominal_stride), geometry.aligned_size(width, self.nominal_stride)

    @property
    def receptive_field(self) -> int:
        """Pixels along one axis that a feature cell can see."""
        return geometry.receptive_field(self.windows)

    @property
    def pyramid(self) -> dict[int, Unit | None]:
        """{stride: the unit whose output is the last activation at it}; None for the network's own output.

        A block's last unit counts at the stride before its own if nothing spatial follows the convolution that has it.
        """
        last: dict[int, Unit | None] = {}
        for block in self.blocks:
            for unit in block.units:
                deferred = unit is block.units[-1] and unit.stride_at == LAST_3X3
                last[unit.input_stride * (1 if deferred else unit.stride)] = unit
        return last | {self.output_stride: None}

    @property
    def deferred_strides(self) -> dict[str, int]:
        """{scope of a unit: what its output is subsampled by} for those units that a pyramid needs at their input's stride."""
        factors = {unit.scope: unit.input_stride * unit.stride // stride for stride, unit in self.pyramid.items() if unit}
        return {scope: factor for scope, factor in factors.items() if factor > 1}

    def macs(self, size: object) -> int:
        """Return the multiply-adds of all convolutions for one image of `size`."""
        return analysis.analyze(self, size).macs

    def analyze(self, size: object) -> analysis.Analysis:
        """Return sizes, receptive field, parameters, multiply-adds and activation memory, layer group by layer group."""
        return analysis.analyze(self, size)

    def describe(self, size: object) -> str:
        """Return the analysis as a table with one row per unit."""
        return str(self.analyze(size))


def make_plan(
    name: str,
    blocks: Sequence[Any],
    kind: str,
    *,
    scope: str | None = None,
    root: str | None = "slim",
    output_stride: int | None = None,
    multi_grid: Sequence[int] | None = None,
    in_channels: int = 3,
    num_classes: int | None = None,
    preprocessing: str,
) -> Plan:
    """Validate everything, then lay out the whole network. See :func:`dense_resnet.plan` for the arguments."""
    if kind not in UNIT_KINDS:
        raise InputError(f"kind must be one of {', '.join(UNIT_KINDS)} (not {kind!r}).")
    scope = scope or name
    preactivation = kind == BOTTLENECK_V2
    in_channels = positive_integer("in_channels", in_channels)
    listed = schedule.block_arguments(blocks, multi_grid)
    strides = schedule.nominal_strides(listed)
    root_layers = schedule.root_layers(root, in_channels, preactivation, f"{scope}/") if root else ()
    steps = schedule.schedule(strides, output_stride, schedule.ROOT_STRIDE if root else 1)

    remaining = iter(steps)
    depth_in = root_layers[-1].depth if root_layers else in_channels
    planned = []
    for block in listed:
        block_units = []
        for number, given in enumerate(block.units, 1):
            unit = _plan_unit(f"{block.scope}/unit_{number}", scope, kind, depth_in, given, next(remaining))
            block_units.append(unit)
            depth_in = unit.depth
        planned.append(Block(block.scope, tuple(block_units)))
    logits = None
    if num_classes:
        classes = positive_integer("num_classes", num_classes)
        logits = Conv(f"{scope}/logits", 1, 1, 1, depth_in, classes, batch_norm=False, relu=False)

    return Plan(
        name=name,
        scope=scope,
        root_name=root,
        root=root_layers,
        blocks=tuple(planned),
        postnorm=Norm(f"{scope}/postnorm", depth_in) if preactivation else None,
        logits=logits,
        output_stride=steps[-1].input_stride * steps[-1].stride,
        nominal_stride=steps[0].input_stride * math.prod(strides),
        multi_grid=tuple(multi_grid) if multi_grid is not None else None,
        in_channels=in_channels,
        preprocessing=preprocessing,
    )


def check_blocks(
    blocks: list[schedule.ListedBlock], in_channels: int, num_classes: int | None, output_stride: int | None, root: str | None
) -> None:
    """Raise the errors of :func:`make_plan`; for custom units, which have no kind, only those of strides and root block."""
    kinds = {block.kind for block in blocks}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        schedule.schedule(schedule.nominal_strides(blocks), output_stride, schedule.ROOT_STRIDE if root else 1)
        if root:
            schedule.check_root(root)
    else:
        given: dict[str, Any] = {"output_stride": output_stride, "in_channels": in_channels, "num_classes": num_classes}
        make_plan("resnet", blocks, kind, root=root, preprocessing="", **given)


def _plan_unit(name: str, scope: str, kind: str, depth_in: int, given: Mapping[str, Any], step: schedule.Step) -> Unit:
    prefix = f"{scope}/{name}/{kind}"
    try:
        unit = schedule.check_arguments(kind, given, step.stride)
        convolutions = schedule.unit_convolutions(kind, depth_in, unit, step.input_rate, step.suppressed, f"{prefix}/")
    except InputError as error:
        raise InputError(f"{scope}/{name}: {error}") from None
    return Unit(
        name=name,
        kind=kind,
        scope=prefix,
        depth_in=depth_in,
        **vars(unit) | step._asdict(),
        preact=Norm(f"{prefix}/preact", depth_in) if kind == BOTTLENECK_V2 else None,
        shortcut=schedule.unit_shortcut(kind, depth_in, unit.depth, step.stride, f"{prefix}/"),
        convolutions=convolutions,
    )
