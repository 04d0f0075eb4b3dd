"""The plan: which unit runs at which stride and which atrous rate, decided before anything is built.

A ResNet becomes *dense* by integer arithmetic alone. Units run with their own strides until the product of strides has
reached the `output_stride` asked for; from there on every stride is suppressed to 1 and multiplies the atrous rate of
what follows it instead. :func:`schedule` is that arithmetic, for any list of unit strides; :func:`unit_convolutions` is
its continuation inside a unit; :class:`Plan` is the whole network as immutable records. Builders loop over these and
decide nothing.

The laws, each with the test that proves it (``tests/test_plan.py``, ``tests/test_laws.py``):

1. at every unit's input, ``input_stride * input_rate`` equals the stride that the nominal network has there;
2. dense features, subsampled, equal the nominal network's features;
3. the new rate starts *after the convolution* whose stride was suppressed: a 3x3 that carries the stride keeps the old
   rate itself, a 3x3 behind a 1x1 that carries it takes the new one.

Source: L.-C. Chen et al., "DeepLab", https://arxiv.org/abs/1606.00915; `multi_grid` from "Rethinking Atrous Convolution",
https://arxiv.org/abs/1706.05587.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dense_resnet import analysis, geometry
from dense_resnet.errors import InputError, counted
from dense_resnet.geometry import Grid, Window, positive_integer

BOTTLENECK_V1, BASIC_V1, BOTTLENECK_V2 = "bottleneck_v1", "lite_bottleneck_v1", "bottleneck_v2"
UNIT_KINDS = (BOTTLENECK_V1, BASIC_V1, BOTTLENECK_V2)

UNREACHABLE = "The target output_stride cannot be reached."  # these two sentences are tf_slim's, then come ours
NOT_A_MULTIPLE = "The output_stride needs to be a multiple of 4."

ROOT_STRIDE = 4
BATCH_NORM_EPSILON = 1e-5  # that canonical weights mean


# --------------------------------------------------------------------------------------------------------------------
# The arithmetic


class Step(NamedTuple):
    """How one unit runs."""

    input_stride: int  # stride of the unit's input, counted from the image
    input_rate: int  # atrous rate that the unit starts with
    stride: int  # stride that it runs with
    suppressed: int  # stride that it would have had, where that became rate; else 1


def schedule(strides: Sequence[int], output_stride: int | None = None, root_stride: int = 1) -> tuple[Step, ...]:
    """Decides stride and rate of every unit, given the units' own strides.

    Args:
        strides: one positive integer a unit.
        output_stride: the stride, counted from the image, at which subsampling stops; None keeps every stride.
        root_stride: the stride of what stands before the first unit.

    Raises:
        InputError: `output_stride` is no product of `root_stride` and the first units' strides; the message names those.

    >>> [(step.stride, step.input_rate) for step in schedule([2, 2, 2, 1], output_stride=16, root_stride=4)]
    [(2, 1), (2, 1), (1, 1), (1, 2)]
    """
    if output_stride is not None:
        output_stride = _reachable(output_stride, strides, root_stride)
    steps = []
    stride, rate = root_stride, 1
    for unit_stride in strides:
        if stride == output_stride:
            steps.append(Step(stride, rate, 1, unit_stride))
            rate *= unit_stride
        else:
            steps.append(Step(stride, rate, unit_stride, 1))
            stride *= unit_stride
    return tuple(steps)


def reachable_strides(strides: Sequence[int], root_stride: int = 1) -> list[int]:
    """The output strides that :func:`schedule` accepts, ascending."""
    return sorted({root_stride * math.prod(strides[:count]) for count in range(len(strides) + 1)})


def _reachable(output_stride: object, strides: Sequence[int], root_stride: int) -> int:
    stride = positive_integer("output_stride", output_stride)
    reachable = reachable_strides(strides, root_stride)
    if stride not in reachable:
        sentence = NOT_A_MULTIPLE if root_stride == ROOT_STRIDE and stride % root_stride else UNREACHABLE
        raise InputError(f"{sentence} Got output_stride={stride}; valid: {', '.join(map(str, reachable))} or None.")
    return stride


# --------------------------------------------------------------------------------------------------------------------
# The records


class Variable(NamedTuple):
    """A variable of the network under its canonical name, which is TF-Slim's."""

    name: str
    shape: tuple[int, ...]
    trainable: bool


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
        """Multiply-adds for `cells` output cells."""
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
        """A comparison is no multiply-add."""
        return 0


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
        if self.preact:
            yield from self.preact.variables
        if self.shortcut:
            yield from self.shortcut.variables
        for conv in self.convolutions:
            yield from conv.variables

    @property
    def undivided(self) -> Unit:
        """The unit at stride 1, for those after which subsampling equals their stride."""
        return replace(
            self,
            stride=1,
            shortcut=self.shortcut and replace(self.shortcut, stride=1),
            convolutions=tuple(replace(conv, stride=1) for conv in self.convolutions),
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The unit as a slim dict: what the nominal network's unit function is called with."""
        arguments: dict[str, Any] = {"depth": self.depth}
        if self.depth_bottleneck is not None:
            arguments["depth_bottleneck"] = self.depth_bottleneck
        arguments["stride"] = self.nominal_stride
        if self.stride_at != LAST_3X3:
            arguments["stride_at"] = self.stride_at
        if self.unit_rate != 1:
            arguments["unit_rate"] = self.unit_rate
        return arguments


@dataclass(frozen=True)
class Block:
    """A sequence of units under one scope."""

    scope: str  # "block1"
    units: tuple[Unit, ...]


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

    # -- variables ----------------------------------------------------------------------------------------------------

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Every variable: canonical name, shape, whether it is trained."""
        parts = (*self.root, *self.units, self.postnorm, self.logits)
        return tuple(variable for part in parts if part for variable in part.variables)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        return sum(math.prod(variable.shape) for variable in self.variables if variable.trainable)

    # -- geometry -----------------------------------------------------------------------------------------------------

    @property
    def windows(self) -> tuple[Window, ...]:
        """Every spatial window on the longest path."""
        return tuple(layer.window for layer in self.root) + tuple(
            conv.window for unit in self.units for conv in unit.convolutions
        )

    def grids(self, size: object) -> tuple[Grid, Grid]:
        """The feature map's rows and columns for an image of `size`: cells, and the pixels that they are centred on."""
        rows, columns = (Grid(side) for side in geometry.image_size(size))
        for window in self.windows:
            rows, columns = rows.through(window), columns.through(window)
        return rows, columns

    def feature_size(self, size: object) -> tuple[int, int]:
        """(height, width) of the features of an image of `size`: (513, 513) gives (33, 33) at stride 16."""
        rows, columns = self.grids(size)
        return rows.size, columns.size

    def aligned_size(self, size: object) -> tuple[int, int]:
        """The next size whose corner cells sit exactly on the corner pixels."""
        height, width = geometry.image_size(size)
        return geometry.aligned_size(height, self.nominal_stride), geometry.aligned_size(width, self.nominal_stride)

    @property
    def receptive_field(self) -> int:
        """Pixels along one axis that a feature cell can see."""
        return geometry.receptive_field(self.windows)

    @property
    def pyramid(self) -> dict[int, Unit | None]:
        """{stride: the unit whose output is the last activation at it}; None for the network's own output.

        A block's last unit counts before its stride wherever nothing spatial stands behind the convolution that has it.
        """
        last: dict[int, Unit | None] = {}
        for block in self.blocks:
            for unit in block.units:
                deferred = unit is block.units[-1] and stride_is_deferrable(unit.arguments)
                last[unit.input_stride * (1 if deferred else unit.stride)] = unit
        return last | {self.output_stride: None}

    @property
    def deferred(self) -> dict[str, int]:
        """{scope of a unit: what its output is subsampled by} for those units that a pyramid needs at their input's stride."""
        factors = {unit.scope: unit.input_stride * unit.stride // stride for stride, unit in self.pyramid.items() if unit}
        return {scope: factor for scope, factor in factors.items() if factor > 1}

    # -- analysis -----------------------------------------------------------------------------------------------------

    def macs(self, size: object) -> int:
        """Multiply-adds of all convolutions for one image of `size`."""
        return analysis.analyse(self, size).macs

    def analyse(self, size: object) -> analysis.Analysis:
        """Sizes, receptive field, parameters, multiply-adds and activation memory, layer group by layer group."""
        return analysis.analyse(self, size)

    def describe(self, size: object) -> str:
        """The analysis as a table, one row a unit."""
        return str(self.analyse(size))


# --------------------------------------------------------------------------------------------------------------------
# Making the records

LAST_3X3 = "conv2"  # of either kind of unit: where slim puts the stride


def unit_convolutions(
    kind: str,
    depth_in: int,
    depth: int,
    depth_bottleneck: int | None,
    stride: int,
    rate: int = 1,
    *,
    stride_at: str = LAST_3X3,
    unit_rate: int = 1,
    suppressed: int = 1,
    prefix: str = "",
) -> tuple[Conv, ...]:
    """The convolutions of one residual branch, in order, with the stride and the rate that each runs with.

    Args:
        kind: one of UNIT_KINDS.
        stride, rate: what the unit runs with, from its :class:`Step`.
        stride_at: the convolution that carries the stride, ``"conv1"`` or ``"conv2"``.
        unit_rate: multi_grid factor of the 3x3 convolutions.
        suppressed: the stride that became rate, which counts for the convolutions behind `stride_at`.
        prefix: of the scopes.

    Raises:
        InputError: a convolution would have both a stride and a rate above 1.
    """
    depth_bottleneck = depth_bottleneck or depth
    shape = [("conv1", 1, depth_bottleneck), ("conv2", 3, depth_bottleneck), ("conv3", 1, depth)]
    if kind == BASIC_V1:
        shape = [("conv1", 3, depth), ("conv2", 3, depth)]
    if stride_at not in ("conv1", "conv2"):
        raise InputError(f"stride_at must be 'conv1' or 'conv2' (not {stride_at!r}).")
    convolutions = []
    for name, kernel, depth_out in shape:
        last = name == shape[-1][0]
        conv = Conv(
            scope=prefix + name,
            kernel=kernel,
            stride=stride if name == stride_at else 1,
            rate=rate * unit_rate if kernel > 1 else 1,
            depth_in=depth_in,
            depth=depth_out,
            batch_norm=not (last and kind == BOTTLENECK_V2),
            relu=not last,
        )
        if conv.stride > 1 and conv.rate > 1:
            raise InputError(
                f"{name} would have stride {conv.stride} and rate {conv.rate}: a convolution cannot have both. "
                f"Use a multi_grid factor of 1 (not {unit_rate}) for the unit that carries the stride."
            )
        convolutions.append(conv)
        depth_in = depth_out
        if name == stride_at:
            rate *= suppressed
    return tuple(convolutions)


def unit_shortcut(kind: str, depth_in: int, depth: int, stride: int, prefix: str = "") -> Conv | None:
    """The 1x1 projection where the depth changes; None where the shortcut is the input, subsampled."""
    if depth == depth_in:
        return None
    return Conv(f"{prefix}shortcut", 1, stride, 1, depth_in, depth, batch_norm=kind != BOTTLENECK_V2, relu=False)


ROOTS: Mapping[str, tuple[tuple[tuple[str, int, int, int], ...], str, bool]] = {
    # name: ((scope, kernel, stride, depth) of each convolution, padding of the pooling, whether with zeros)
    "slim": ((("conv1", 7, 2, 64),), geometry.SAME, False),
    "symmetric": ((("conv1", 7, 2, 64),), geometry.SYMMETRIC, False),
    "keras": ((("conv1", 7, 2, 64),), geometry.SYMMETRIC, True),
    "beta": ((("conv1_1", 3, 2, 64), ("conv1_2", 3, 1, 64), ("conv1_3", 3, 1, 128)), geometry.SAME, False),
}


def check_root(root: str) -> None:
    """Raises an :class:`InputError` for what is none of ROOTS."""
    if root not in ROOTS:
        raise InputError(f"root must be one of {', '.join(map(repr, ROOTS))} (not {root!r}).")


def root_layers(root: str, in_channels: int, preactivation: bool, prefix: str = "") -> tuple[Conv | Pool, ...]:
    """The root block's layers, of stride 4 in all. A v2 network normalizes in its first unit: its root only convolves."""
    check_root(root)
    convolutions, padding, zeros = ROOTS[root]
    layers: list[Conv | Pool] = []
    depth_in = in_channels
    for scope, kernel, stride, depth in convolutions:
        layers.append(Conv(prefix + scope, kernel, stride, 1, depth_in, depth, not preactivation, not preactivation))
        depth_in = depth
    return *layers, Pool(f"{prefix}pool1", 3, 2, depth_in, padding, zeros)


def unit_arguments(unit: object) -> dict[str, Any]:
    """A unit as a slim dict, given as one or as the classic tuple ``(depth, depth_bottleneck, stride)``."""
    if isinstance(unit, Mapping):
        return dict(unit)
    if isinstance(unit, (tuple, list)) and len(unit) == 3:
        named = zip(("depth", "depth_bottleneck", "stride"), unit, strict=True)
        return {name: value for name, value in named if value is not None}  # a basic unit has no bottleneck
    raise InputError(
        f"a unit must be a dict with depth, depth_bottleneck and stride, or a tuple of these three (not {unit!r})."
    )


def unit_stride(arguments: Mapping[str, Any]) -> int:
    """The nominal stride in a unit's arguments."""
    return positive_integer("a unit's stride", arguments.get("stride", 1))


def stride_is_deferrable(arguments: Mapping[str, Any]) -> bool:
    """Whether subsampling after the unit equals its stride: nothing spatial stands behind the convolution that has it."""
    return bool(arguments.get("stride_at", LAST_3X3) == LAST_3X3)


class ListedBlock(NamedTuple):
    """A block as it was given, its units as slim dicts."""

    scope: str
    kind: str | None  # of its unit function, where that is one of ours
    units: list[dict[str, Any]]


def block_arguments(blocks: Sequence[Any], multi_grid: Sequence[int] | None = None) -> list[ListedBlock]:
    """`blocks` with their units as slim dicts, the last block's units with their multi_grid factors.

    Args:
        blocks: ``(scope, units)`` pairs or slim ``Block`` tuples ``(scope, unit_fn, units)``.
        multi_grid: one factor for each unit of the last block.
    """
    if not isinstance(blocks, (tuple, list)) or not blocks:
        raise InputError(f"blocks must be a variant's name or a list of blocks (not {blocks!r}).")
    listed: list[ListedBlock] = []
    scopes: set[str] = set()
    for block in blocks:
        if (
            not isinstance(block, (tuple, list))
            or len(block) not in (2, 3)
            or not isinstance(block[-1], (tuple, list))
            or not block[-1]
        ):
            raise InputError(
                f"a block must be (scope, units) or (scope, unit_fn, units), with a unit at least (not {block!r})."
            )
        scope, kind = block[0], getattr(block[1], "kind", None)
        if not isinstance(scope, str) or scope in scopes:
            raise InputError(f"each block must have a scope of its own, a string (not {scope!r}).")
        scopes.add(scope)
        listed.append(ListedBlock(scope, kind, [unit_arguments(unit) for unit in block[-1]]))
    if multi_grid is None:
        return listed
    last = listed[-1].units
    if not isinstance(multi_grid, (tuple, list)) or len(multi_grid) != len(last):
        raise InputError(
            f"multi_grid must have one factor for each of the {counted(len(last), 'unit')} of the last block, "
            f"such as {tuple(2**i for i in range(len(last)))!r} (not {multi_grid!r})."
        )
    for unit, factor in zip(last, multi_grid, strict=True):
        if "unit_rate" in unit:
            raise InputError("give the last block's factors as multi_grid or as its units' unit_rate, not both.")
        unit["unit_rate"] = positive_integer("a multi_grid factor", factor)
    return listed


KNOWN_ARGUMENTS = {"depth", "depth_bottleneck", "stride", "stride_at", "unit_rate"}


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
    """Validates everything, then lays out the whole network. See :func:`dense_resnet.plan` for the arguments."""
    if kind not in UNIT_KINDS:
        raise InputError(f"kind must be one of {', '.join(UNIT_KINDS)} (not {kind!r}).")
    scope = scope or name
    preactivation = kind == BOTTLENECK_V2
    in_channels = positive_integer("in_channels", in_channels)
    listed = block_arguments(blocks, multi_grid)
    strides = [unit_stride(unit) for block in listed for unit in block.units]
    layers = root_layers(root, in_channels, preactivation, f"{scope}/") if root else ()
    steps = schedule(strides, output_stride, ROOT_STRIDE if root else 1)

    remaining = iter(steps)
    depth_in = layers[-1].depth if layers else in_channels
    planned = []
    for block in listed:
        block_units = []
        for number, arguments in enumerate(block.units, 1):
            unit = _plan_unit(f"{block.scope}/unit_{number}", scope, kind, depth_in, arguments, next(remaining))
            block_units.append(unit)
            depth_in = unit.depth
        planned.append(Block(block.scope, tuple(block_units)))

    return Plan(
        name=name,
        scope=scope,
        root_name=root,
        root=layers,
        blocks=tuple(planned),
        postnorm=Norm(f"{scope}/postnorm", depth_in) if preactivation else None,
        logits=Conv(f"{scope}/logits", 1, 1, 1, depth_in, positive_integer("num_classes", num_classes), False, False)
        if num_classes
        else None,
        output_stride=steps[-1].input_stride * steps[-1].stride,
        nominal_stride=steps[0].input_stride * math.prod(strides),
        multi_grid=tuple(multi_grid) if multi_grid is not None else None,
        in_channels=in_channels,
        preprocessing=preprocessing,
    )


def _plan_unit(name: str, scope: str, kind: str, depth_in: int, arguments: Mapping[str, Any], step: Step) -> Unit:
    try:
        if unknown := set(arguments) - KNOWN_ARGUMENTS:
            raise InputError(f"unknown argument {sorted(unknown)[0]!r}; known: {', '.join(sorted(KNOWN_ARGUMENTS))}.")
        depth = positive_integer("depth", arguments.get("depth"))
        depth_bottleneck = arguments.get("depth_bottleneck")
        if kind != BASIC_V1:
            depth_bottleneck = positive_integer("depth_bottleneck", depth_bottleneck)
        elif depth_bottleneck is not None:
            raise InputError(f"a basic unit has no depth_bottleneck (not {depth_bottleneck!r}).")
        unit_rate = positive_integer("unit_rate", arguments.get("unit_rate", 1))
        stride_at = arguments.get("stride_at", LAST_3X3)
        prefix = f"{scope}/{name}/{kind}"
        convolutions = unit_convolutions(
            kind,
            depth_in,
            depth,
            depth_bottleneck,
            step.stride,
            step.input_rate,
            stride_at=stride_at,
            unit_rate=unit_rate,
            suppressed=step.suppressed,
            prefix=f"{prefix}/",
        )
    except InputError as error:
        raise InputError(f"{scope}/{name}: {error}") from None
    return Unit(
        name=name,
        kind=kind,
        scope=prefix,
        depth_in=depth_in,
        depth=depth,
        depth_bottleneck=depth_bottleneck,
        input_stride=step.input_stride,
        input_rate=step.input_rate,
        stride=step.stride,
        suppressed=step.suppressed,
        stride_at=stride_at,
        unit_rate=unit_rate,
        preact=Norm(f"{prefix}/preact", depth_in) if kind == BOTTLENECK_V2 else None,
        shortcut=unit_shortcut(kind, depth_in, depth, step.stride, f"{prefix}/"),
        convolutions=convolutions,
    )
