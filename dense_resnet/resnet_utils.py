"""The slim face: blocks, strided convolutions without misalignment, and the loop that builds a dense ResNet.

A user of ``tf_slim.nets.resnet_utils`` changes the import line and nothing else: names, positional order, variable names
and end points are the same (``tests/dense_resnet/test_slim_face.py`` runs tf-slim's own tests, and compares features).
:mod:`dense_resnet.resnet_v2` has an example.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from dense_resnet.compat import slim
from dense_resnet.errors import InputError
from dense_resnet.planning import geometry, variants
from dense_resnet.planning.layers import BATCH_NORM_EPSILON, BOTTLENECK_V2, LAST_3X3, Conv, Pool, UnitArguments
from dense_resnet.planning.plan import check_blocks
from dense_resnet.planning.schedule import (
    ROOT_STRIDE,
    block_arguments,
    nominal_strides,
    root_layers,
    schedule,
    unit_convolutions,
    unit_shortcut,
)

v1 = tf.compat.v1

BATCH_NORM_DECAY = 0.997  # of the moving averages in training


class Block(NamedTuple):
    """A block of residual units."""

    scope: str  # of its variables, such as "block1"
    unit_fn: Callable[..., tf.Tensor]  # of a tensor, a `rate` and a unit's arguments; returns the unit's output
    args: Sequence[Any]  # one dict of arguments per unit, or the classic tuple (depth, depth_bottleneck, stride)


def subsample(inputs: tf.Tensor, factor: int, scope: str | None = None) -> tf.Tensor:
    """Keep every `factor`-th row and column: ``[batch, height, width, channels]`` with ``ceil(height / factor)`` rows."""
    if factor == 1:
        return inputs
    return slim.max_pool2d(inputs, [1, 1], stride=factor, scope=scope)


def conv2d_same(
    inputs: tf.Tensor, num_outputs: int, kernel_size: int, stride: int, rate: int = 1, scope: str | None = None
) -> tf.Tensor:
    """Apply a convolution whose output cell ``i`` is centered on input cell ``i * stride``, for every size.

    Equal to the same convolution at stride 1 followed by ``subsample(…, stride)``, which ``conv2d`` with a stride and
    ``"SAME"`` padding is not for even sizes (``tests/dense_resnet/test_slim_face.py``: testConv2DSameEven of tf-slim).

    Args:
        inputs: ``[batch, height, width, channels]``.
        kernel_size: an odd integer.
        stride: above 1 only with rate 1.
        rate: atrous rate: the distance of the kernel's taps in cells.

    Returns:
        ``[batch, ceil(height / stride), ceil(width / stride), num_outputs]``.
    """
    if stride == 1:
        return slim.conv2d(inputs, num_outputs, kernel_size, stride=1, rate=rate, padding="SAME", scope=scope)
    pads = geometry.symmetric_padding(kernel_size, rate)
    inputs = tf.pad(inputs, [[0, 0], pads, pads, [0, 0]])
    return slim.conv2d(inputs, num_outputs, kernel_size, stride=stride, rate=rate, padding="VALID", scope=scope)


def convolve(net: tf.Tensor, conv: Conv) -> tf.Tensor:
    """Apply one convolution of a plan, under the scope of its last name; settings of the arg scope apply."""
    without = {} if conv.batch_norm else {"normalizer_fn": None}
    without |= {} if conv.relu else {"activation_fn": None}
    with slim.arg_scope([slim.conv2d], **without):
        if conv.kernel == 1:
            return slim.conv2d(net, conv.depth, [1, 1], stride=conv.stride, scope=conv.scope)
        return conv2d_same(net, conv.depth, conv.kernel, conv.stride, conv.rate, conv.scope)


def pool(net: tf.Tensor, layer: Pool) -> tf.Tensor:
    """Apply the root block's max pooling."""
    if layer.padding == geometry.SAME:
        return slim.max_pool2d(net, [layer.kernel] * 2, stride=layer.stride, scope=layer.scope)
    pads = geometry.symmetric_padding(layer.kernel)
    net = tf.pad(net, [[0, 0], pads, pads, [0, 0]], constant_values=0 if layer.zeros else net.dtype.min)
    return slim.max_pool2d(net, [layer.kernel] * 2, stride=layer.stride, padding="VALID", scope=layer.scope)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise a plain ``ValueError`` for what the plan refuses: the only kind that ``tf.function`` re-raises unchanged."""
    try:
        yield
    except InputError as error:
        raise ValueError(str(error)) from None


@slim.add_arg_scope
def stack_blocks_dense(
    net: tf.Tensor,
    blocks: Sequence[Block],
    output_stride: int | None = None,
    outputs_collections: str | None = None,
    *,
    store_non_strided_activations: bool = False,
) -> tf.Tensor:
    """Build `blocks` so that the output has `output_stride`: each further stride becomes atrous rate.

    Args:
        net: ``[batch, height, width, channels]``; strides are counted from here.
        output_stride: a product of the first units' strides, or None for all of them.
        outputs_collections: collection to add each block's output to.
        store_non_strided_activations: run each block's last unit without its stride and subsample afterwards, so that
            the collected output is the last activation at the block's stride. The result is the same; the unit costs four
            times as much. Only for blocks that carry the stride in their last 3x3.

    Raises:
        ValueError: `output_stride` cannot be reached; the message names the valid ones.
    """
    with _plain_errors():
        listed = block_arguments(blocks)
        steps = iter(schedule(nominal_strides(listed), output_stride))
    for block, (_, _, units) in zip(blocks, listed, strict=True):
        with v1.variable_scope(block.scope, "block", [net]) as scope:
            factor = 1
            deferred = store_non_strided_activations and units[-1].get("stride_at", LAST_3X3) == LAST_3X3
            for number, unit in enumerate(units, 1):
                step = next(steps)
                arguments = dict(unit, stride=step.stride)
                if deferred and number == len(units):
                    factor, arguments["stride"] = step.stride, 1
                elif step.suppressed > 1 and "stride_at" in unit:
                    arguments["suppressed"] = step.suppressed
                with v1.variable_scope(f"unit_{number}", values=[net]):
                    net = block.unit_fn(net, rate=step.input_rate, **arguments)
            net = slim.utils.collect_named_outputs(outputs_collections, scope.name, net)
            net = subsample(net, factor)
    return net


def resnet_arg_scope(
    weight_decay: float = 0.0001,
    batch_norm_decay: float = BATCH_NORM_DECAY,
    batch_norm_epsilon: float = BATCH_NORM_EPSILON,
    batch_norm_scale: bool = True,
    *,
    is_training: bool | None = None,
) -> Any:
    """Return the arg scope that ResNets are built in: weight decay, He initialization, ReLU, batch norm, SAME poolings.

    Args:
        weight_decay: L2 factor of the convolutions' weights.
        batch_norm_scale: whether batch norm has a gamma.
        is_training: batch norm's mode if the network does not set it; None leaves slim's own default, True.
    """
    norm = {"decay": batch_norm_decay, "epsilon": batch_norm_epsilon, "scale": batch_norm_scale}
    norm["updates_collections"] = v1.GraphKeys.UPDATE_OPS
    mode = {} if is_training is None else {"is_training": is_training}
    with slim.arg_scope(
        [slim.conv2d],
        weights_regularizer=slim.l2_regularizer(weight_decay),
        weights_initializer=slim.variance_scaling_initializer(),
        activation_fn=tf.nn.relu,
        normalizer_fn=slim.batch_norm,
        normalizer_params=norm,
    ):
        with slim.arg_scope([slim.batch_norm], **norm, **mode):
            with slim.arg_scope([slim.max_pool2d], padding="SAME") as scope:
                return scope


def residual_unit(
    kind: str, inputs: tf.Tensor, unit: UnitArguments, rate: int, suppressed: int, collections: str | None, scope: str | None
) -> tf.Tensor:
    """Build a unit of one of the plan's kinds, for v1 and v2; :func:`resnet_v2.bottleneck` documents the arguments."""
    with v1.variable_scope(scope, kind, [inputs]) as sc:
        depth_in = slim.utils.last_dimension(inputs.shape, min_rank=4)
        preactivation = kind == BOTTLENECK_V2
        net = slim.batch_norm(inputs, activation_fn=tf.nn.relu, scope="preact") if preactivation else inputs
        projection = unit_shortcut(kind, depth_in, unit.depth, unit.stride)
        shortcut = convolve(net, projection) if projection else subsample(inputs, unit.stride, "shortcut")
        for conv in unit_convolutions(kind, depth_in, unit, rate, suppressed):
            net = convolve(net, conv)
        output = shortcut + net if preactivation else tf.nn.relu(shortcut + net)
        return slim.utils.collect_named_outputs(collections, sc.name, output)


def build(
    inputs: tf.Tensor,
    blocks: Sequence[Block],
    num_classes: int | None,
    is_training: bool | None,
    global_pool: bool,
    output_stride: int | None,
    include_root_block: bool,
    reuse: bool | None,
    scope: str | None,
    *,
    preactivation: bool,
    unit_fns: Sequence[Callable[..., tf.Tensor]],
    spatial_squeeze: bool,
    store_non_strided_activations: bool,
    multi_grid: Sequence[int] | None,
    root: str,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Build the network of :func:`resnet_v1.resnet_v1` and :func:`resnet_v2.resnet_v2`, which document the arguments."""
    with _plain_errors():
        listed = block_arguments(blocks, multi_grid)
        blocks = [Block(block.scope, block.unit_fn, units) for block, (_, _, units) in zip(blocks, listed, strict=True)]
        depth_in = slim.utils.last_dimension(inputs.shape, min_rank=4)
        check_blocks(listed, depth_in, num_classes, output_stride, root if include_root_block else None)
    with v1.variable_scope(scope, "resnet_v2" if preactivation else "resnet_v1", [inputs], reuse=reuse) as sc:
        collection = sc.original_name_scope + "_end_points"
        mode = {} if is_training is None else {"is_training": is_training}
        with (
            slim.arg_scope([slim.conv2d, stack_blocks_dense, *unit_fns], outputs_collections=collection),
            slim.arg_scope([slim.batch_norm], **mode),
        ):
            net = inputs
            if include_root_block:
                output_stride = output_stride and output_stride // ROOT_STRIDE  # that is left to the blocks
                for layer in root_layers(root, depth_in, preactivation):
                    net = pool(net, layer) if isinstance(layer, Pool) else convolve(net, layer)
            net = stack_blocks_dense(net, blocks, output_stride, store_non_strided_activations=store_non_strided_activations)
            if preactivation:  # a v2 unit ends in a bare sum
                net = slim.batch_norm(net, activation_fn=tf.nn.relu, scope="postnorm")
            named = {}
            if global_pool:
                net = named["global_pool"] = tf.reduce_mean(net, [1, 2], name="pool5", keepdims=True)
            if num_classes:
                net = slim.conv2d(net, num_classes, [1, 1], activation_fn=None, normalizer_fn=None, scope="logits")
                named[f"{sc.name}/logits"] = net
                if spatial_squeeze:
                    if net.shape[1:3] == [1, 1]:
                        net = tf.squeeze(net, [1, 2], name="SpatialSqueeze")
                    named[f"{sc.name}/spatial_squeeze"] = net
                named["predictions"] = slim.softmax(net, scope="predictions")
        end_points = slim.utils.convert_collection_to_dict(collection)
        if tf.executing_eagerly():  # the process-wide graph would keep every activation alive
            v1.get_default_graph().clear_collection(collection)
        return net, end_points | named


def named_network(name: str, network: Callable[..., Any], unit_fn: Callable[..., tf.Tensor]) -> Callable[..., Any]:
    """Return the function that builds a variant, with the arguments of ``tf_slim.nets``."""
    variant = variants.variant(name)
    blocks = [Block(scope, unit_fn, units) for scope, units in variant.blocks]

    def build_variant(
        inputs: tf.Tensor,
        num_classes: int | None = None,
        is_training: bool | None = None,
        global_pool: bool = True,
        output_stride: int | None = None,
        reuse: bool | None = None,
        scope: str = variant.scope,
        *,
        spatial_squeeze: bool = False,
        store_non_strided_activations: bool = False,
        multi_grid: Sequence[int] | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return network(
            inputs,
            blocks,
            num_classes,
            is_training,
            global_pool,
            output_stride,
            include_root_block=True,
            reuse=reuse,
            scope=scope,
            spatial_squeeze=spatial_squeeze,
            store_non_strided_activations=store_non_strided_activations,
            multi_grid=multi_grid,
            root=variant.family.root,
        )

    build_variant.__name__ = build_variant.__qualname__ = name
    build_variant.__module__ = network.__module__
    build_variant.__doc__ = f"Build the variant {name}. Arguments, result and errors as :func:`{network.__name__}`."
    build_variant.default_image_size = network.default_image_size  # type: ignore[attr-defined]  # as slim's functions have it
    return build_variant
