"""ResNet v1 on TF-Slim: the names, arguments and results of ``tf_slim.nets.resnet_v1``, and the v1 variants it lacks.

    from dense_resnet import resnet_v1
    with slim.arg_scope(resnet_v1.resnet_arg_scope()):
        net, end_points = resnet_v1.resnet_v1_101(images, 21, is_training=False, global_pool=False, output_stride=16)

The variants differ in the place of a block's stride and in the root block: see ``FAMILIES`` in ``planning/variants.py``.
Source: K. He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dense_resnet import resnet_utils
from dense_resnet.compat import slim
from dense_resnet.planning import variants
from dense_resnet.planning.layers import BASIC_V1, BOTTLENECK_V1, LAST_3X3, UnitArguments
from dense_resnet.resnet_utils import Block

resnet_arg_scope = resnet_utils.resnet_arg_scope


@slim.add_arg_scope
def bottleneck(
    inputs: tf.Tensor,
    depth: int,
    depth_bottleneck: int,
    stride: int,
    rate: int = 1,
    outputs_collections: str | None = None,
    scope: str | None = None,
    *,
    stride_at: str = LAST_3X3,
    unit_rate: int = 1,
    suppressed: int = 1,
) -> tf.Tensor:
    """Build a bottleneck unit: 1x1, 3x3, 1x1, batch norm after each. Arguments as :func:`resnet_v2.bottleneck`."""
    unit = UnitArguments(depth, depth_bottleneck, stride, stride_at, unit_rate)
    return resnet_utils.residual_unit(BOTTLENECK_V1, inputs, unit, rate, suppressed, outputs_collections, scope)


bottleneck.kind = BOTTLENECK_V1  # tells a plan the kind of its blocks' units


@slim.add_arg_scope
def lite_bottleneck(
    inputs: tf.Tensor,
    depth: int,
    stride: int,
    rate: int = 1,
    outputs_collections: str | None = None,
    scope: str | None = None,
    *,
    stride_at: str = LAST_3X3,
    unit_rate: int = 1,
    suppressed: int = 1,
) -> tf.Tensor:
    """Build a basic unit of two 3x3 convolutions, under DeepLab's name for it. Arguments as :func:`resnet_v2.bottleneck`."""
    unit = UnitArguments(depth, None, stride, stride_at, unit_rate)
    return resnet_utils.residual_unit(BASIC_V1, inputs, unit, rate, suppressed, outputs_collections, scope)


lite_bottleneck.kind = BASIC_V1  # tells a plan the kind of its blocks' units


def resnet_v1(
    inputs: tf.Tensor,
    blocks: Sequence[Block],
    num_classes: int | None = None,
    is_training: bool | None = None,
    global_pool: bool = True,
    output_stride: int | None = None,
    include_root_block: bool = True,
    reuse: bool | None = None,
    scope: str | None = None,
    *,
    spatial_squeeze: bool = False,
    store_non_strided_activations: bool = False,
    multi_grid: Sequence[int] | None = None,
    root: str = "slim",
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Build a v1 network of `blocks`. Arguments, result and errors as :func:`resnet_v2.resnet_v2`."""
    return resnet_utils.build(
        inputs,
        blocks,
        num_classes,
        is_training,
        global_pool,
        output_stride,
        include_root_block,
        reuse,
        scope,
        preactivation=False,
        unit_fns=[bottleneck, lite_bottleneck],
        spatial_squeeze=spatial_squeeze,
        store_non_strided_activations=store_non_strided_activations,
        multi_grid=multi_grid,
        root=root,
    )


resnet_v1.default_image_size = 224  # type: ignore[attr-defined]  # as slim's functions have it


def resnet_v1_block(scope: str, base_depth: int, num_units: int, stride: int) -> Block:
    """Return a block of `num_units` bottleneck units of ``4 * base_depth`` channels, the last one with `stride`."""
    return Block(scope, bottleneck, variants.stack_units(base_depth, num_units, stride))


resnet_v1_18 = resnet_utils.named_network("resnet_v1_18", resnet_v1, lite_bottleneck)
resnet_v1_34 = resnet_utils.named_network("resnet_v1_34", resnet_v1, lite_bottleneck)
resnet_v1_50 = resnet_utils.named_network("resnet_v1_50", resnet_v1, bottleneck)
resnet_v1_101 = resnet_utils.named_network("resnet_v1_101", resnet_v1, bottleneck)
resnet_v1_152 = resnet_utils.named_network("resnet_v1_152", resnet_v1, bottleneck)
resnet_v1_200 = resnet_utils.named_network("resnet_v1_200", resnet_v1, bottleneck)
resnet_v1_5_18 = resnet_utils.named_network("resnet_v1_5_18", resnet_v1, lite_bottleneck)
resnet_v1_5_34 = resnet_utils.named_network("resnet_v1_5_34", resnet_v1, lite_bottleneck)
resnet_v1_5_50 = resnet_utils.named_network("resnet_v1_5_50", resnet_v1, bottleneck)
resnet_v1_5_101 = resnet_utils.named_network("resnet_v1_5_101", resnet_v1, bottleneck)
resnet_v1_5_152 = resnet_utils.named_network("resnet_v1_5_152", resnet_v1, bottleneck)
resnet_v1_5_200 = resnet_utils.named_network("resnet_v1_5_200", resnet_v1, bottleneck)
resnet_v1_50_original = resnet_utils.named_network("resnet_v1_50_original", resnet_v1, bottleneck)
resnet_v1_101_original = resnet_utils.named_network("resnet_v1_101_original", resnet_v1, bottleneck)
resnet_v1_152_original = resnet_utils.named_network("resnet_v1_152_original", resnet_v1, bottleneck)
resnet_v1_200_original = resnet_utils.named_network("resnet_v1_200_original", resnet_v1, bottleneck)
resnet_v1_18_beta = resnet_utils.named_network("resnet_v1_18_beta", resnet_v1, lite_bottleneck)
resnet_v1_50_beta = resnet_utils.named_network("resnet_v1_50_beta", resnet_v1, bottleneck)
resnet_v1_101_beta = resnet_utils.named_network("resnet_v1_101_beta", resnet_v1, bottleneck)
