"""ResNet v2 (preactivation) on TF-Slim: the names, arguments and results of ``tf_slim.nets.resnet_v2``.

    from dense_resnet import resnet_v2
    with slim.arg_scope(resnet_v2.resnet_arg_scope()):
        # image classification: [batch, 1, 1, 1001]
        net, end_points = resnet_v2.resnet_v2_152(images, 1001, is_training=False)
        # dense prediction, 513x513 images: [batch, 33, 33, 21]
        net, end_points = resnet_v2.resnet_v2_152(images, 21, is_training=False, global_pool=False, output_stride=16)

Source: K. He et al., "Identity Mappings in Deep Residual Networks", https://arxiv.org/abs/1603.05027.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dense_resnet import resnet_utils
from dense_resnet.compat import slim
from dense_resnet.planning import variants
from dense_resnet.planning.layers import BOTTLENECK_V2, LAST_3X3, UnitArguments
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
    """Build a preactivation bottleneck unit: batch norm and ReLU come before each convolution (Fig. 1b of the paper).

    Args:
        inputs: ``[batch, height, width, channels]``.
        depth: channels of the output.
        depth_bottleneck: channels of the 3x3 convolution.
        stride: of the unit.
        rate: atrous rate of its input.
        outputs_collections: collection to add the unit's output to.
        stride_at: the convolution that carries the stride, "conv1" or "conv2".
        unit_rate: multi_grid factor of the 3x3 convolution.
        suppressed: a stride of this unit that became atrous rate after `stride_at`.

    Returns:
        ``[batch, ceil(height / stride), ceil(width / stride), depth]``.
    """
    unit = UnitArguments(depth, depth_bottleneck, stride, stride_at, unit_rate)
    return resnet_utils.residual_unit(BOTTLENECK_V2, inputs, unit, rate, suppressed, outputs_collections, scope)


bottleneck.kind = BOTTLENECK_V2  # tells a plan the kind of its blocks' units


def resnet_v2(
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
    """Build a v2 network of `blocks`.

    Args:
        inputs: ``[batch, height, width, channels]``; batch, height and width may be unknown. Sides of 32n+1 pixels give
            features aligned with the image, corner on corner.
        blocks: the units; see :func:`resnet_v2_block`.
        num_classes: outputs of the classifier; None or 0 leaves it out.
        is_training: batch norm's mode; None leaves it to the arg scope.
        global_pool: average over the map before the classifier; False for dense prediction.
        output_stride: pixels of the input per cell of the output; None is the nominal stride.
        include_root_block: the first 7x7 convolution and pooling (stride 4); without it, `inputs` should come from a
            convolution without activation.
        reuse: whether to reuse the variables of `scope`.
        spatial_squeeze: drop height and width of a 1x1 result: ``[batch, num_classes]``; larger maps stay.
        store_non_strided_activations: see :func:`resnet_utils.stack_blocks_dense`.
        multi_grid: atrous factors for the last block's units.
        root: the root block: "slim", "symmetric" (pooling padded as PyTorch and Keras do) or "beta" (three 3x3).

    Returns:
        The features ``[batch, rows, columns, depth]``, or with `num_classes` the logits, and a dict of end points.

    Raises:
        ValueError: `output_stride` or `multi_grid` does not fit `blocks`; the message lists the valid values.
    """
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
        preactivation=True,
        unit_fns=[bottleneck],
        spatial_squeeze=spatial_squeeze,
        store_non_strided_activations=store_non_strided_activations,
        multi_grid=multi_grid,
        root=root,
    )


resnet_v2.default_image_size = 224  # type: ignore[attr-defined]  # as slim's functions have it


def resnet_v2_block(scope: str, base_depth: int, num_units: int, stride: int) -> Block:
    """Return a block of `num_units` bottleneck units of ``4 * base_depth`` channels, the last one with `stride`."""
    return Block(scope, bottleneck, variants.stack_units(base_depth, num_units, stride))


resnet_v2_50 = resnet_utils.named_network("resnet_v2_50", resnet_v2, bottleneck)
resnet_v2_101 = resnet_utils.named_network("resnet_v2_101", resnet_v2, bottleneck)
resnet_v2_152 = resnet_utils.named_network("resnet_v2_152", resnet_v2, bottleneck)
resnet_v2_200 = resnet_utils.named_network("resnet_v2_200", resnet_v2, bottleneck)
