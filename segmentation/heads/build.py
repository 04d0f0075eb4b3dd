"""Build a head in TensorFlow, for training and exact inference. :mod:`segmentation.heads.folded` is its folded twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf
from segmentation.heads.plan import SKIP_STRIDE, DepthwiseConv, HeadPlan, Layer, Uniform

BATCH_NORM_DECAY = 0.9997
KEEP = 0.9  # share of the projection's activations that training keeps


def build_head(
    head: HeadPlan,
    features: tf.Tensor,
    skip: tf.Tensor | None,
    is_training: bool,
    *,
    boxes: tf.Tensor | None = None,
    dropout: Uniform | None = None,
    batch_norm_decay: float = BATCH_NORM_DECAY,
    freeze_image_pooling: bool = False,
) -> tf.Tensor:
    """The head's ops on slim's layers.

    Args:
        features: ``[batch, rows, columns, depth]`` of the backbone.
        skip: for the decoder, ``[batch, 4 x rows, 4 x columns, channels]`` of its skip unit, or as many as there are.
        is_training: batch norm's mode.
        boxes: where the images lie on their canvases: see :func:`canvas_ops.coverage_mask`; None takes the whole canvas.
        dropout: draws the numbers that say which activations training drops; None drops none.
        batch_norm_decay: of the moving averages.
        freeze_image_pooling: normalizes the pooled features by their moving averages, and leaves those alone.

    Returns:
        Logits ``[batch, rows, columns, num_classes]``, of the features' size, or of the skip's under the decoder.
    """
    import tensorflow as tf

    from dense_resnet.compat import slim
    from dense_resnet.inference.canvas_ops import apply_mask, coverage_mask
    from dense_resnet.resnet_utils import convolve, resnet_arg_scope

    with (
        slim.arg_scope(resnet_arg_scope(0.0, batch_norm_decay, is_training=is_training)),
        slim.arg_scope([slim.separable_conv2d], activation_fn=tf.nn.relu, normalizer_fn=slim.batch_norm),
    ):
        net = features
        if head.projection and head.image_projection:
            size = tf.shape(features)[1:3]
            inside = coverage_mask(boxes, size, head.output_stride)
            features = apply_mask(features, inside)
            with slim.arg_scope([slim.batch_norm], is_training=is_training and not freeze_image_pooling):
                pooled = convolve(image_mean(head, features, inside), head.image_projection)
            parts = [resize_align_corners(pooled, size)]
            parts += [_stack(features, branch, None) for branch in head.branches]
            net = convolve(tf.concat(parts, axis=3), head.projection)
            if dropout is not None:
                net = tf.nn.experimental.general_dropout(net, 1 - KEEP, dropout)
        if head.skip_projection and skip is not None:
            beside = convolve(skip, head.skip_projection)
            size = tf.shape(beside)[1:3]
            inside = coverage_mask(boxes, size, SKIP_STRIDE)
            net = _stack(tf.concat([resize_align_corners(net, size), beside], axis=3), head.decoder, inside)
        return convolve(net, head.logits)


def _stack(net: tf.Tensor, layers: tuple[Layer, ...], inside: tf.Tensor | None) -> tf.Tensor:
    from dense_resnet.compat import slim
    from dense_resnet.inference.canvas_ops import apply_mask
    from dense_resnet.resnet_utils import convolve

    for layer in layers:
        net = apply_mask(net, inside) if layer.kernel > 1 else net
        if isinstance(layer, DepthwiseConv):
            net = slim.separable_conv2d(net, None, layer.kernel, depth_multiplier=1, rate=layer.rate, scope=layer.scope)
        else:
            net = convolve(net, layer)
    return net


def image_mean(head: HeadPlan, features: tf.Tensor, inside: tf.Tensor | None) -> tf.Tensor:
    """The mean over the cells `inside`, of `features` that are 0 elsewhere, or over every window of the head's crop."""
    import tensorflow as tf

    if inside is not None:
        share = tf.reduce_mean(tf.cast(inside, features.dtype), [1, 2], keepdims=True)  # several times as fast as two sums
        return tf.reduce_mean(features, [1, 2], keepdims=True) / share
    if head.image_pooling is None:
        return tf.reduce_mean(features, [1, 2], keepdims=True)
    return tf.nn.avg_pool2d(features, head.image_pooling, 1, "VALID")


def resize_align_corners(values: tf.Tensor, size: Any) -> tf.Tensor:
    """`values` on another grid of cells, corner on corner."""
    import tensorflow as tf

    return tf.raw_ops.ResizeBilinear(images=values, size=size, align_corners=True)  # tf.image.resize has no align_corners
