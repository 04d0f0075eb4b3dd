"""Decide which unit runs at which stride and which atrous rate, before anything is built.

Units keep their strides until the product of strides has reached `output_stride`; from there on each stride is suppressed to 1
and multiplies the atrous rate of what follows instead: of what follows *the convolution* that had it, so a 3x3 that carries the
stride keeps the old rate, and a 3x3 behind a 1x1 that carries it takes the new one.
(``tests/dense_resnet/planning/test_plan.py``, ``tests/dense_resnet/verification/test_laws.py``)

Source: L.-C. Chen et al., "DeepLab", https://arxiv.org/abs/1606.00915; `multi_grid` from "Rethinking Atrous Convolution",
https://arxiv.org/abs/1706.05587.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from dense_resnet.errors import InputError, pluralize
from dense_resnet.planning import geometry
from dense_resnet.planning.geometry import positive_integer
from dense_resnet.planning.layers import BASIC_V1, BOTTLENECK_V2, LAST_3X3, Conv, Pool, UnitArguments

UNREACHABLE = "The target output_stride cannot be reached."  # these two sentences are tf_slim's, then come ours
NOT_A_MULTIPLE = "The output_stride needs to be a multiple of 4."
KNOWN_ARGUMENTS = {field.name for field in fields(UnitArguments)}
ROOT_STRIDE = 4


class Step(NamedTuple):
    """How one unit runs."""

    input_stride: int  # stride of the unit's input, counted from the image
    input_rate: int  # atrous rate that the unit starts with
    stride: int  # stride that it runs with
    suppressed: int  # stride that it would have had, where that became rate; else 1


def schedule(strides: Sequence[int], output_stride: int | None = None, root_stride: int = 1) -> tuple[Step, ...]:
    """Decide stride and rate of every unit, given the units' own strides.

    Args:
        strides: one positive integer a unit.
        output_stride: the stride, counted from the image, at which subsampling stops; None keeps every stride.
        root_stride: the stride of the layers before the first unit.

    Raises:
        InputError: `output_stride` is not a product of `root_stride` and the first units' strides; the message names those.

    >>> [(step.stride, step.input_rate) for step in schedule([2, 2, 2, 1], output_stride=16, root_stride=4)]
    [(2, 1), (2, 1), (1, 1), (1, 2)]
    """
    if output_stride is not None:
        output_stride = positive_integer("output_stride", output_stride)
        reachable = reachable_strides(strides, root_stride)
        if output_stride not in reachable:
            sentence = NOT_A_MULTIPLE if root_stride == ROOT_STRIDE and output_stride % root_stride else UNREACHABLE
            raise InputError(f"{sentence} Got output_stride={output_stride}; valid: {', '.join(map(str, reachable))} or None.")
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
    """Return the output strides that :func:`schedule` accepts, ascending."""
    return sorted({root_stride * math.prod(strides[:count]) for count in range(len(strides) + 1)})


def unit_convolutions(
    kind: str, depth_in: int, unit: UnitArguments, rate: int = 1, suppressed: int = 1, prefix: str = ""
) -> tuple[Conv, ...]:
    """Return the convolutions of one residual branch, in order, with the stride and the rate that each runs with.

    The unit starts with `rate`; `suppressed` multiplies it behind `unit.stride_at`. A convolution that would have both a stride
    and a rate above 1 raises an :class:`InputError`.
    """
    inner = unit.depth_bottleneck or unit.depth
    basic = [("conv1", 3, inner), ("conv2", 3, inner)]
    shape = basic if kind == BASIC_V1 else [("conv1", 1, inner), ("conv2", 3, inner), ("conv3", 1, unit.depth)]
    if unit.stride_at not in ("conv1", "conv2"):
        raise InputError(f"stride_at must be 'conv1' or 'conv2' (not {unit.stride_at!r}).")
    convolutions = []
    for name, kernel, depth_out in shape:
        last = name == shape[-1][0]
        conv = Conv(
            scope=prefix + name,
            kernel=kernel,
            stride=unit.stride if name == unit.stride_at else 1,
            rate=rate * unit.unit_rate if kernel > 1 else 1,
            depth_in=depth_in,
            depth=depth_out,
            batch_norm=not (last and kind == BOTTLENECK_V2),
            relu=not last,
        )
        if conv.stride > 1 and conv.rate > 1:
            raise InputError(
                f"{name} would have stride {conv.stride} and rate {conv.rate}: a convolution cannot have both. "
                f"Use a multi_grid factor of 1 (not {unit.unit_rate}) for the unit that carries the stride."
            )
        convolutions.append(conv)
        depth_in = depth_out
        if name == unit.stride_at:
            rate *= suppressed
    return tuple(convolutions)


def unit_shortcut(kind: str, depth_in: int, depth: int, stride: int, prefix: str = "") -> Conv | None:
    """Return the 1x1 projection if the depth changes; None if the shortcut is the input, subsampled."""
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
    """Raise an :class:`InputError` if `root` is not one of ROOTS."""
    if root not in ROOTS:
        raise InputError(f"root must be one of {', '.join(map(repr, ROOTS))} (not {root!r}).")


def root_layers(root: str, in_channels: int, preactivation: bool, prefix: str = "") -> tuple[Conv | Pool, ...]:
    """Return the root block's layers, of stride 4 in total."""
    check_root(root)
    convolutions, padding, zeros = ROOTS[root]
    layers: list[Conv | Pool] = []
    depth_in = in_channels
    normalized = not preactivation  # a v2 network normalizes in its first unit
    for scope, kernel, stride, depth in convolutions:
        layers.append(Conv(prefix + scope, kernel, stride, 1, depth_in, depth, batch_norm=normalized, relu=normalized))
        depth_in = depth
    return *layers, Pool(f"{prefix}pool1", 3, 2, depth_in, padding, zeros)


def unit_arguments(unit: object) -> dict[str, Any]:
    """Return a unit as a slim dict, given as one or as the classic tuple ``(depth, depth_bottleneck, stride)``."""
    if isinstance(unit, Mapping):
        return dict(unit)
    if isinstance(unit, (tuple, list)) and len(unit) == 3:
        named = zip(("depth", "depth_bottleneck", "stride"), unit, strict=True)
        return {name: value for name, value in named if value is not None}  # a basic unit has no bottleneck
    raise InputError(
        f"a unit must be a dict with depth, depth_bottleneck and stride, or a tuple of these three (not {unit!r})."
    )


def check_arguments(kind: str, unit: Mapping[str, Any], stride: int) -> UnitArguments:
    """Return a unit's arguments from a slim dict, checked, with another stride."""
    if unknown := set(unit) - KNOWN_ARGUMENTS:
        raise InputError(f"unknown argument {sorted(unknown)[0]!r}; known: {', '.join(sorted(KNOWN_ARGUMENTS))}.")
    depth = positive_integer("depth", unit.get("depth"))
    depth_bottleneck = unit.get("depth_bottleneck")
    if kind != BASIC_V1:
        depth_bottleneck = positive_integer("depth_bottleneck", depth_bottleneck)
    elif depth_bottleneck is not None:
        raise InputError(f"a basic unit has no depth_bottleneck (not {depth_bottleneck!r}).")
    unit_rate = positive_integer("unit_rate", unit.get("unit_rate", 1))
    return UnitArguments(depth, depth_bottleneck, stride, unit.get("stride_at", LAST_3X3), unit_rate)


class ListedBlock(NamedTuple):
    """A block as it was given, its units as slim dicts: a user's unit function may have its own arguments."""

    scope: str
    kind: str | None  # of its unit function, if that is one of ours
    units: list[dict[str, Any]]


def nominal_strides(blocks: Sequence[ListedBlock]) -> list[int]:
    """Return the stride of every unit in the nominal network."""
    return [positive_integer("a unit's stride", unit.get("stride", 1)) for block in blocks for unit in block.units]


def block_arguments(blocks: Sequence[Any], multi_grid: Sequence[int] | None = None) -> list[ListedBlock]:
    """Return `blocks`, given as ``(scope, units)`` or ``(scope, unit_fn, units)``, the last one with its multi_grid factors."""
    if not _is_filled_list(blocks):
        raise InputError(f"blocks must be a variant's name or a list of blocks (not {blocks!r}).")
    listed: list[ListedBlock] = []
    for block in blocks:
        if not (_is_filled_list(block) and len(block) in (2, 3) and _is_filled_list(block[-1])):
            raise InputError(
                f"a block must be (scope, units) or (scope, unit_fn, units), with a unit at least (not {block!r})."
            )
        scope, kind = block[0], getattr(block[1], "kind", None)
        if not isinstance(scope, str) or scope in [other.scope for other in listed]:
            raise InputError(f"each block must have its own scope, a string (not {scope!r}).")
        listed.append(ListedBlock(scope, kind, [unit_arguments(unit) for unit in block[-1]]))
    if multi_grid is None:
        return listed
    last = listed[-1].units
    if not isinstance(multi_grid, (tuple, list)) or len(multi_grid) != len(last):
        raise InputError(
            f"multi_grid must have one factor for each of the {pluralize(len(last), 'unit')} of the last block, "
            f"such as {tuple(2**i for i in range(len(last)))!r} (not {multi_grid!r})."
        )
    for unit, factor in zip(last, multi_grid, strict=True):
        if "unit_rate" in unit:
            raise InputError("give the last block's factors as multi_grid or as its units' unit_rate, not both.")
        unit["unit_rate"] = positive_integer("a multi_grid factor", factor)
    return listed


def _is_filled_list(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0
