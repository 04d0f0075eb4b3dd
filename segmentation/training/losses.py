"""The training loss: cross-entropy over the pixels that count.

    loss = sum over pixels of weight[class] * cross-entropy / number of pixels

Ignored pixels are in neither sum. The two are returned separately: over several devices the loss is the global sum over the
global number, as one device with all images computes it. (``tests/segmentation/training/test_losses.py``)
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dense_resnet.errors import InputError


def cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    ignore_label: int | None,
    class_weights: Sequence[float] | None = None,
    hardest: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sum of the pixels' losses, and how many pixels are in it, as float32 scalars.

    Args:
        logits: ``[batch, height, width, classes]``.
        labels: ``[batch, height, width]`` integers, each a class or the ignore label.
        class_weights: one factor a class on its pixels' losses.
        hardest: the share of each image's valid pixels, those with the largest losses, that count: 1.0 is all. Hard-example
            mining as in Wu et al., https://arxiv.org/abs/1604.04339.

    >>> total, count = cross_entropy(tf.zeros([1, 1, 3, 2]), tf.constant([[[0, 1, 255]]]), ignore_label=255)
    >>> round(float(total / count), 4), float(count)
    (0.6931, 2.0)
    """
    if not 0 < hardest <= 1:
        raise InputError(f"hardest must be a share above 0 and up to 1 (not {hardest}).")
    labels = tf.cast(labels, tf.int32)
    valid = tf.ones_like(labels, tf.bool) if ignore_label is None else tf.not_equal(labels, ignore_label)
    own = tf.where(valid, labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=own, logits=tf.cast(logits, tf.float32))
    if class_weights is not None:
        losses *= tf.gather(tf.constant(class_weights, tf.float32), own)
    counted = tf.cast(valid, tf.float32)
    if hardest < 1:
        counted *= _top_k_mask(losses, valid, hardest)
    return tf.reduce_sum(losses * counted), tf.reduce_sum(counted)


def _top_k_mask(losses: tf.Tensor, valid: tf.Tensor, share: float) -> tf.Tensor:
    """Return 1 on each image's largest losses, `share` of its valid pixels, rounded up, with ties; otherwise 0."""
    losses = tf.where(valid, losses, -1.0)  # no loss is below 0
    flat = tf.reshape(losses, [tf.shape(losses)[0], -1])
    kept = tf.cast(tf.math.ceil(share * tf.reduce_sum(tf.cast(valid, tf.float32), [1, 2])), tf.int32)
    last = tf.gather(tf.sort(flat, axis=1, direction="DESCENDING"), tf.maximum(kept - 1, 0), batch_dims=1)
    return tf.cast(valid & (losses >= last[:, None, None]), tf.float32)
