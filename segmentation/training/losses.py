"""The training losses: each a sum, and the number that divides it.

    ce, focal       sum of the losses of pixels     / number of pixels
    dice, lovasz    sum of the losses of images     / number of images with a labeled pixel

Ignored pixels are in neither. Both are returned apart, because over several devices the loss is the global sum over the
global number, which is what one device with all the images computes. (``tests/segmentation/training/test_losses.py``)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from dense_resnet.errors import InputError
from segmentation.training.recipe import CE, CE_DICE, DICE, FOCAL, LOVASZ

FOCUS = 2.0  # gamma of the focal loss, its authors' choice


class Mean(NamedTuple):
    """A mean in two parts, float32 scalars, which devices add up before they divide."""

    total: tf.Tensor
    count: tf.Tensor


def compute_loss(
    name: str,
    logits: tf.Tensor,
    labels: tf.Tensor,
    ignore_label: int | None,
    class_weights: Sequence[float] | None = None,
    hardest: float = 1.0,
) -> list[Mean]:
    """Return the terms of a loss, whose means add up to it.

    Args:
        name: "ce", "focal", "dice", "lovasz" or "ce+dice".
        logits, labels, ignore_label: see :func:`cross_entropy`.
        class_weights, hardest: see there; of the terms over pixels alone.

    >>> terms = compute_loss("ce+dice", tf.zeros([1, 1, 4, 2]), tf.constant([[[0, 1, 1, 255]]]), ignore_label=255)
    >>> [round(float(term.total / term.count), 4) for term in terms]
    [0.6931, 0.5143]
    """
    if name in (CE, CE_DICE):
        terms = [cross_entropy(logits, labels, ignore_label, class_weights, hardest)]
    elif name == FOCAL:
        terms = [focal(logits, labels, ignore_label, class_weights)]
    else:
        terms = []
    if name in OF_IMAGES:
        terms.append(OF_IMAGES[name](logits, labels, ignore_label))
    return terms


def cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    ignore_label: int | None,
    class_weights: Sequence[float] | None = None,
    hardest: float = 1.0,
) -> Mean:
    """Sum the pixels' losses, and count the pixels in it.

    Args:
        logits: ``[batch, height, width, classes]``.
        labels: ``[batch, height, width]`` integers, each a class or the ignore label.
        ignore_label: pixels that are ignored; None for none.
        class_weights: one factor a class on its pixels' losses.
        hardest: the share of each image's valid pixels, those with the largest losses, that count: 1.0 is all. Hard-example
            mining as in Wu et al., https://arxiv.org/abs/1604.04339.

    >>> total, count = cross_entropy(tf.zeros([1, 1, 3, 2]), tf.constant([[[0, 1, 255]]]), ignore_label=255)
    >>> round(float(total / count), 4), float(count)
    (0.6931, 2.0)
    """
    if not 0 < hardest <= 1:
        raise InputError(f"hardest must be a share above 0 and up to 1 (not {hardest}).")
    losses, valid = _pixel_losses(logits, labels, ignore_label, class_weights)
    counted = tf.cast(valid, tf.float32)
    if hardest < 1:
        counted *= _top_k_mask(losses, valid, hardest)
    return Mean(tf.reduce_sum(losses * counted), tf.reduce_sum(counted))


def focal(logits: tf.Tensor, labels: tf.Tensor, ignore_label: int | None, class_weights: Sequence[float] | None = None) -> Mean:
    """Weigh each pixel's cross-entropy by (1 - probability of its class) ** 2: Lin et al., https://arxiv.org/abs/1708.02002.

    Arguments and result are those of :func:`cross_entropy`.
    """
    losses, valid = _pixel_losses(logits, labels, ignore_label)
    losses *= (1 - tf.exp(-losses)) ** FOCUS
    if class_weights is not None:
        losses *= tf.gather(tf.constant(class_weights, tf.float32), tf.where(valid, tf.cast(labels, tf.int32), 0))
    counted = tf.cast(valid, tf.float32)
    return Mean(tf.reduce_sum(losses * counted), tf.reduce_sum(counted))


def dice(logits: tf.Tensor, labels: tf.Tensor, ignore_label: int | None) -> Mean:
    """Sum 1 - the mean soft Dice of the classes in each image's labels: Sudre et al., https://arxiv.org/abs/1707.03237.

    The Dice of a class is 2 sum(p g) / (sum(p) + sum(g)), with probabilities p, and g 1 on its pixels and otherwise 0. The
    arguments are those of :func:`cross_entropy`; the number is that of images with a labeled pixel.
    """
    probabilities, truth, _ = _by_class(logits, labels, ignore_label)
    both, either = tf.reduce_sum(probabilities * truth, 1), tf.reduce_sum(probabilities + truth, 1)
    return _mean_over_present(1 - 2 * both / tf.maximum(either, 1e-6), truth)


def lovasz_softmax(logits: tf.Tensor, labels: tf.Tensor, ignore_label: int | None) -> Mean:
    """Sum the Lovász extension of 1 - IoU, over the classes in each image's labels: Berman et al., https://arxiv.org/abs/1705.08790.

    Arguments and result are those of :func:`dice`.
    """
    probabilities, truth, valid = _by_class(logits, labels, ignore_label)

    def class_loss(index: tf.Tensor) -> tf.Tensor:
        own = truth[..., index]
        errors = tf.where(valid, tf.abs(own - probabilities[..., index]), -1.0)  # ignored pixels come last, and weigh 0
        errors, order = tf.math.top_k(errors, tf.shape(errors)[1])
        own = tf.gather(own, order, batch_dims=1)
        pixels = tf.reduce_sum(own, 1, keepdims=True)
        missed, found = tf.cumsum(own, 1), tf.cumsum(1 - own, 1)
        jaccard = 1 - (pixels - missed) / tf.maximum(pixels + found, 1.0)
        slopes = tf.concat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], 1)
        return tf.reduce_sum(tf.maximum(errors, 0) * tf.stop_gradient(slopes), 1)

    losses = tf.map_fn(class_loss, tf.range(tf.shape(logits)[-1]), fn_output_signature=tf.float32)
    return _mean_over_present(tf.transpose(losses), truth)


OF_IMAGES: dict[str, Callable[[tf.Tensor, tf.Tensor, int | None], Mean]] = {
    DICE: dice,
    LOVASZ: lovasz_softmax,
    CE_DICE: dice,
}


def _pixel_losses(
    logits: tf.Tensor, labels: tf.Tensor, ignore_label: int | None, class_weights: Sequence[float] | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return each pixel's (weighted) cross-entropy, and which pixels are valid."""
    labels, valid = _valid(labels, ignore_label)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=tf.cast(logits, tf.float32))
    if class_weights is not None:
        losses *= tf.gather(tf.constant(class_weights, tf.float32), labels)
    return losses, valid


def _valid(labels: tf.Tensor, ignore_label: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return int32 labels with 0 on ignored pixels, and which pixels are valid."""
    labels = tf.cast(labels, tf.int32)
    valid = tf.ones_like(labels, tf.bool) if ignore_label is None else tf.not_equal(labels, ignore_label)
    return tf.where(valid, labels, 0), valid


def _by_class(logits: tf.Tensor, labels: tf.Tensor, ignore_label: int | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return probabilities and truth, ``[batch, pixels, classes]``, both 0 on ignored pixels, and which are valid."""
    labels, valid = _valid(labels, ignore_label)
    batch, classes = tf.shape(labels)[0], tf.shape(logits)[-1]
    counted = tf.cast(valid, tf.float32)[..., None]
    probabilities = tf.nn.softmax(tf.cast(logits, tf.float32)) * counted
    truth = tf.one_hot(labels, classes) * counted
    return (
        tf.reshape(probabilities, [batch, -1, classes]),
        tf.reshape(truth, [batch, -1, classes]),
        tf.reshape(valid, [batch, -1]),
    )


def _mean_over_present(losses: tf.Tensor, truth: tf.Tensor) -> Mean:
    """Average ``[batch, classes]`` losses over the classes that the image's labels hold; add up the images."""
    present = tf.cast(tf.reduce_any(truth > 0, 1), tf.float32)
    number = tf.reduce_sum(present, 1)
    return Mean(
        tf.reduce_sum(tf.reduce_sum(losses * present, 1) / tf.maximum(number, 1)),
        tf.reduce_sum(tf.cast(number > 0, tf.float32)),
    )


def _top_k_mask(losses: tf.Tensor, valid: tf.Tensor, share: float) -> tf.Tensor:
    """Return 1 on each image's largest losses, `share` of its valid pixels, rounded up, with ties; otherwise 0."""
    losses = tf.where(valid, losses, -1.0)  # no loss is below 0
    flat = tf.reshape(losses, [tf.shape(losses)[0], -1])
    kept = tf.cast(tf.math.ceil(share * tf.reduce_sum(tf.cast(valid, tf.float32), [1, 2])), tf.int32)
    last = tf.gather(tf.sort(flat, axis=1, direction="DESCENDING"), tf.maximum(kept - 1, 0), batch_dims=1)
    return tf.cast(valid & (losses >= last[:, None, None]), tf.float32)
