"""The records that a plan is made of: variables, layers, units and blocks, as immutable integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dense_resnet.planning.geometry import Window

BOTTLENECK_V1, BASIC_V1, BOTTLENECK_V2 = "bottleneck_v1", "lite_bottleneck_v1", "bottleneck_v2"
UNIT_KINDS = (BOTTLENECK_V1, BASIC_V1, BOTTLENECK_V2)
LAST_3X3 = "conv2"  # where slim puts a unit's stride: nothing spatial follows, so subsampling the output is the same
BATCH_NORM_EPSILON = 1e-5  # that canonical weights mean


class Variable(NamedTuple):
    """A variable of the network under its canonical name, which is TF-Slim's."""

    name: str
    shape: tuple[int, ...]
    trainable: bool


def count_parameters(variables: Iterable[Variable]) -> int:
    """Return the number of trainable values."""
    return sum(math.prod(variable.shape) for variable in variables if variable.trainable)


@dataclass(frozen=True)
class Norm:
    """A batch normalization."""

    scope: str
    depth: int

    @property
    def variables(self) -> Iterator[Variable]:
        for leaf, trainable in (("gamma", True), ("beta", True), ("moving_mean", False), ("moving_variance", False)):
            yield Variable(f"{self.scope}/{leaf}", (self.depth,), trainable)


@dataclass(frozen=True)
class Conv:
    """A convolution: symmetric padding, then batch norm or a bias, then perhaps a ReLU."""

    scope: str
    kernel: int
    stride: int
    rate: int
    depth_in: int
    depth: int
    batch_norm: bool = True  # else it has biases
    relu: bool = True

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.rate)

    @property
    def norm(self) -> Norm | None:
        return Norm(f"{self.scope}/BatchNorm", self.depth) if self.batch_norm else None

    @property
    def variables(self) -> Iterator[Variable]:
        yield Variable(f"{self.scope}/weights", (self.kernel, self.kernel, self.depth_in, self.depth), True)
        if self.norm:
            yield from self.norm.variables
        else:
            yield Variable(f"{self.scope}/biases", (self.depth,), True)

    def macs(self, cells: int) -> int:
        """Return the multiply-adds for `cells` output cells."""
        return cells * self.kernel**2 * self.depth_in * self.depth


@dataclass(frozen=True)
class Pool:
    """The root block's max pooling."""

    scope: str
    kernel: int
    stride: int
    depth: int
    padding: str  # geometry.SAME or geometry.SYMMETRIC
    zeros: bool  # pads with zeros, which after no ReLU can win; else with minus infinity, which never does
    rate: int = 1
    variables: tuple[Variable, ...] = ()

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, padding=self.padding)

    def macs(self, cells: int) -> int:
        """Return 0: a comparison is not a multiply-add."""
        return 0


@dataclass(frozen=True)
class UnitArguments:
    """What a unit's function is called with, but for its input and rate."""

    depth: int
    depth_bottleneck: int | None  # None in a basic unit
    stride: int
    stride_at: str = LAST_3X3  # the convolution that carries the stride: "conv1" or "conv2"
    unit_rate: int = 1  # multi_grid factor of its 3x3 convolutions

    @property
    def slim(self) -> dict[str, Any]:
        """The dict that slim's blocks have, without what is usual."""
        usual = {"depth_bottleneck": None, "stride_at": LAST_3X3, "unit_rate": 1}
        return {name: value for name, value in vars(self).items() if name not in usual or value != usual[name]}


@dataclass(frozen=True)
class Unit:
    """A residual unit: shortcut + convolutions."""

    name: str  # "block1/unit_1"
    kind: str  # one of UNIT_KINDS
    scope: str  # "resnet_v2_50/block1/unit_1/bottleneck_v2"
    depth_in: int
    depth: int
    depth_bottleneck: int | None  # None in a basic unit
    input_stride: int  # stride of its input, counted from the image
    input_rate: int  # atrous rate that it starts with
    stride: int  # stride that it runs with
    suppressed: int  # stride that became rate inside this unit; else 1
    stride_at: str  # the convolution that carries the stride: "conv1" or "conv2"
    unit_rate: int  # multi_grid factor of its 3x3 convolutions
    preact: Norm | None  # v2: the batch norm + ReLU before everything
    shortcut: Conv | None  # None: the input itself, subsampled by `stride`
    convolutions: tuple[Conv, ...]

    @property
    def nominal_stride(self) -> int:
        """The stride that the unit has in the nominal network."""
        return self.stride * self.suppressed

    @property
    def rate(self) -> int:
        """The largest rate among its convolutions: what a table shows."""
        return max(conv.rate for conv in self.convolutions)

    @property
    def variables(self) -> Iterator[Variable]:
        parts = (self.preact, self.shortcut, *self.convolutions)
        return (variable for part in parts if part for variable in part.variables)

    @property
    def at_stride_1(self) -> Unit:
        """The unit at stride 1, for those after which subsampling equals their stride."""
        return replace(
            self,
            stride=1,
            shortcut=self.shortcut and replace(self.shortcut, stride=1),
            convolutions=tuple(replace(conv, stride=1) for conv in self.convolutions),
        )

    @property
    def arguments(self) -> UnitArguments:
        """What the nominal network's unit function is called with."""
        return UnitArguments(self.depth, self.depth_bottleneck, self.nominal_stride, self.stride_at, self.unit_rate)


@dataclass(frozen=True)
class Block:
    """A sequence of units under one scope."""

    scope: str  # "block1"
    units: tuple[Unit, ...]
