"""The named networks: depths, and what the variants of a family share.

``resnet_v1_N`` and ``resnet_v2_N`` are slim's, ``resnet_v1_5_N`` torchvision's and timm's, ``resnet_v1_N_original`` the paper's
and Keras', ``resnet_v1_N_beta`` DeepLab's. The poolings agree at 32n+1 pixels; at even sizes each does what its weights
were trained with. The published ImageNet classifiers have 1001 classes in v2 and beta, 1000 in the others.

Sources: K. He et al., https://arxiv.org/abs/1512.03385 (v1), https://arxiv.org/abs/1603.05027 (v2); DeepLab's resnet_v1_beta.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from dense_resnet.errors import InputError
from dense_resnet.planning.layers import BASIC_V1, BOTTLENECK_V1, BOTTLENECK_V2, LAST_3X3
from dense_resnet.planning.plan import Plan, make_plan
from dense_resnet.planning.schedule import block_arguments

USUAL_STRIDE = 16  # output_stride of a variant, if neither the user nor the weights specify one
UNITS = {  # units of each block
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BASIC_DEPTHS = (18, 34)
BASE_DEPTHS = (64, 128, 256, 512)  # of the 3x3 convolutions in each block
EXPANSION = 4  # a bottleneck's depth over that of its 3x3
PLAIN_NAME = re.compile(r"resnet[-_ ]?(\d+)", re.IGNORECASE)  # which does not name a family
USUAL = {"resnet_v1_5_{}": " (torchvision, timm)", "resnet_v1_{}_original": " (Keras)", "resnet_v2_{}": ""}  # what may be meant


@dataclass(frozen=True)
class Family:
    """What the variants of one family share at any depth."""

    name: str  # with {} for the depth
    scope: str  # of the variables, with {} too
    depths: tuple[int, ...]
    first_unit: bool  # whether a block's stride is in its first unit; otherwise in its last
    stride_at: str  # the convolution that carries it in a bottleneck
    basic_stride_at: str  # and in a basic unit
    root: str
    preprocessing: str
    bottleneck: str = BOTTLENECK_V1

    @property
    def preactivation(self) -> bool:
        """Whether these are v2 networks."""
        return self.bottleneck == BOTTLENECK_V2

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the blocks: the root block has the first 4 of the nominal 32."""
        return (1, 2, 2, 2) if self.first_unit else (2, 2, 2, 1)


FAMILIES = (
    Family("resnet_v2_{}", "resnet_v2_{}", (50, 101, 152, 200), False, "conv2", "conv2", "slim", "inception", BOTTLENECK_V2),
    Family("resnet_v1_{}", "resnet_v1_{}", (18, 34, 50, 101, 152, 200), False, "conv2", "conv2", "slim", "vgg"),
    Family("resnet_v1_5_{}", "resnet_v1_5_{}", (18, 34, 50, 101, 152, 200), True, "conv2", "conv1", "symmetric", "torch"),
    Family("resnet_v1_{}_original", "resnet_v1_{}_original", (50, 101, 152, 200), True, "conv1", "conv1", "symmetric", "caffe"),
    Family("resnet_v1_{}_beta", "resnet_v1_{}", (18, 50, 101), False, "conv2", "conv2", "beta", "inception"),
)


def stack_units(
    base_depth: int, count: int, stride: int, *, basic: bool = False, first: bool = False, stride_at: str = LAST_3X3
) -> list[dict[str, Any]]:
    """Return `count` units as slim dicts, `stride` in the last or first; a bottleneck has ``4 * base_depth`` channels."""
    depths = {"depth": base_depth} if basic else {"depth": base_depth * EXPANSION, "depth_bottleneck": base_depth}
    units: list[dict[str, Any]] = [dict(depths, stride=1) for _ in range(count)]
    strided = units[0 if first else -1]
    strided["stride"] = stride
    if stride > 1 and stride_at != LAST_3X3:
        strided["stride_at"] = stride_at
    return units


@dataclass(frozen=True)
class Variant:
    """A named network."""

    name: str
    scope: str
    family: Family
    units: tuple[int, ...]  # of each block
    basic: bool

    @property
    def kind(self) -> str:
        return BASIC_V1 if self.basic else self.family.bottleneck

    @property
    def blocks(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """(scope, units as slim dicts) of each block, at the nominal stride."""
        stride_at = self.family.basic_stride_at if self.basic else self.family.stride_at
        place: dict[str, Any] = {"basic": self.basic, "first": self.family.first_unit, "stride_at": stride_at}
        blocks = zip(BASE_DEPTHS, self.units, self.family.strides, strict=True)
        return [(f"block{number}", stack_units(*block, **place)) for number, block in enumerate(blocks, 1)]


VARIANTS: dict[str, Variant] = {
    name: Variant(name, family.scope.format(depth), family, UNITS[depth], basic=depth in BASIC_DEPTHS)
    for family in FAMILIES
    for depth in family.depths
    for name in [family.name.format(depth)]
}


def variant(name: str) -> Variant:
    """Return the variant of that name, or raise an :class:`InputError` that lists all variants and the closest ones."""
    try:
        return VARIANTS[name]
    except (KeyError, TypeError):
        plain = PLAIN_NAME.fullmatch(str(name))
        usual = {family.format(plain[1]): whose for family, whose in USUAL.items()} if plain else {}
        close = [f"{one!r}{whose}" for one, whose in usual.items() if one in VARIANTS]
        close = close or [repr(one) for one in get_close_matches(str(name), VARIANTS, 1)]
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"unknown variant {name!r}.{hint} Known: {', '.join(VARIANTS)}.") from None


def plan(
    variant_or_blocks: str | Sequence[Any],
    output_stride: int | None = None,
    *,
    multi_grid: Sequence[int] | None = None,
    include_root_block: bool = True,
    root: str | None = None,
    in_channels: int = 3,
    num_classes: int | None = None,
    kind: str | None = None,
    scope: str | None = None,
) -> Plan:
    """Plan a network: every unit's stride, rate and depths, validated, without TensorFlow.

    Args:
        variant_or_blocks: a variant's name, or your own blocks: ``(scope, units)`` pairs or slim ``Block`` tuples, each
            unit a slim dict or a tuple ``(depth, depth_bottleneck, stride)``.
        output_stride: pixels of the image per feature cell: 4, 8, 16, 32 for the variants (1, 2, 4, 8 without the root
            block); None is the nominal stride.
        multi_grid: atrous factors for the last block's units, such as (1, 2, 4).
        include_root_block: False leaves out the first convolution and pooling.
        root: another root block than the variant's own: "slim", "symmetric" (PyTorch's pooling), "keras" (that of Keras'
            ResNetV2, whose pooling pads with zeros) or "beta" (DeepLab's three 3x3).
        in_channels: channels of the input.
        num_classes: adds a 1x1 classifier; None or 0 for none.
        kind: unit kind of your own blocks: "bottleneck_v2", "bottleneck_v1" or "lite_bottleneck_v1". None takes it from the
            unit functions of slim blocks, "bottleneck_v2" if there are none.
        scope: of the variables; the variant's own by default, "resnet" for your own blocks.

    Raises:
        InputError: (a ValueError) naming the argument, its value and the valid ones.

    >>> plan("resnet_v2_152", output_stride=16).feature_size((513, 513))
    (33, 33)
    >>> plan([("block1", [(256, 64, 1), (256, 64, 2)])], output_stride=4).nominal_stride
    8
    """
    if root is not None and not include_root_block:
        raise InputError(f"root goes with a root block; without one it must be None (not {root!r}).")
    blocks: Sequence[Any] = variant_or_blocks
    if isinstance(variant_or_blocks, str):
        known = variant(variant_or_blocks)
        if kind is not None:
            raise InputError(f"kind goes with your own blocks; {known.name} has its own (not {kind!r}).")
        name, blocks, kind, scope = known.name, known.blocks, known.kind, scope or known.scope
        root, preprocessing = root or known.family.root, known.family.preprocessing
    else:
        name, kind = scope or "resnet", _kind_of(blocks, kind)
        root, preprocessing = root or "slim", "inception"
    return make_plan(
        name,
        blocks,
        kind,
        scope=scope,
        root=root if include_root_block else None,
        output_stride=output_stride,
        multi_grid=multi_grid,
        in_channels=in_channels,
        num_classes=num_classes,
        preprocessing=preprocessing,
    )


def _kind_of(blocks: Sequence[Any], asked: str | None) -> str:
    """Return the kind of custom blocks: the one asked for, which must agree with their unit functions if these are ours."""
    kinds = {kind for kind in (asked, *(block.kind for block in block_arguments(blocks))) if kind}
    if len(kinds) > 1:
        raise InputError(f"the blocks' unit functions and kind must agree (not {', '.join(sorted(kinds))}).")
    return kinds.pop() if kinds else BOTTLENECK_V2


def plan_config(planned: Plan) -> str | dict[str, Any]:
    """Return `planned` for JSON: a variant's name, or scope, kind and blocks, ``[[name, [unit as a slim dict, …]], …]``."""
    if not planned.root:
        raise InputError("a plan without root block has no description.")
    if planned.name in VARIANTS:
        return planned.name
    blocks = []
    for block in planned.blocks:
        units = [unit.arguments.slim for unit in block.units]
        if planned.multi_grid and block is planned.blocks[-1]:  # it has their factors
            for unit in units:
                unit.pop("unit_rate", None)
        blocks.append([block.scope, units])
    return {"scope": planned.scope, "kind": planned.units[0].kind, "blocks": blocks}


def plan_from_config(
    description: object,
    output_stride: int | None = None,
    multi_grid: Sequence[int] | None = None,
    in_channels: int = 3,
    root: str | None = None,
    num_classes: int | None = None,
) -> Plan:
    """Return the plan that :func:`plan_config` describes, at an output_stride.

    >>> plan_from_config(plan_config(plan("resnet_v1_18")), output_stride=8).name
    'resnet_v1_18'
    """
    others: dict[str, Any] = {"multi_grid": multi_grid, "in_channels": in_channels, "root": root, "num_classes": num_classes}
    if isinstance(description, str):
        return plan(description, output_stride, **others)
    if not isinstance(description, dict) or set(description) - {"scope", "kind"} != {"blocks"}:
        raise InputError(f"a plan must be a variant's name, or an object of blocks, kind and scope (not {description!r:.80}).")
    for key in ("kind", "scope"):
        if not isinstance(description.get(key, ""), str | None):
            raise InputError(f"a plan's {key} must be text (not {description[key]!r:.80}).")
    return plan(description["blocks"], output_stride, kind=description.get("kind"), scope=description.get("scope"), **others)


def at_output_stride(planned: Plan, output_stride: int | None) -> Plan:
    """Return `planned` at another output_stride, with the same variables; None is the nominal one.

    >>> at_output_stride(plan("resnet_v2_50", 8, multi_grid=(1, 2, 4)), 16).units[-1].rate
    8
    """
    other = plan_from_config(
        plan_config(planned), output_stride, planned.multi_grid, planned.in_channels, planned.root_name, planned.num_classes
    )
    return replace(other, preprocessing=planned.preprocessing)
