"""The preprocessing schemes that published weights expect: ``dense_resnet.preprocess``.

All take RGB values in [0, 255] and give float32:

=============  ==================================================  ===========================================
scheme         value                                               weights
=============  ==================================================  ===========================================
``inception``  ``x / 127.5 - 1``, in [-1, 1]                        slim v2, DeepLab beta, Keras ResNetV2
``vgg``        ``x - (123.68, 116.779, 103.939)``                  slim v1
``caffe``      the same with the channels reversed (BGR)            Keras ResNet (v1), the paper's own
``torch``      ``(x / 255 - mean) / std`` of ImageNet               torchvision, timm
=============  ==================================================  ===========================================

A padding of 0 *after* preprocessing is therefore the mean color. (``tests/dense_resnet/test_preprocessing.py``)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_resnet.errors import InputError

VGG_MEAN = (123.68, 116.779, 103.939)  # RGB
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_STD = (0.229, 0.224, 0.225)
LOOKS = 20  # calls of a network whose inputs are checked
SLACK = 16  # factor on a scheme's values that is allowed for augmentation, noise or another norm


@dataclass(frozen=True)
class Scheme:
    """``(x[reversed?] - mean) / std`` of values in [0, 255]."""

    mean: tuple[float, ...] | float
    std: tuple[float, ...] | float = 1.0
    reverse: bool = False  # RGB -> BGR


SCHEMES = {
    "inception": Scheme(127.5, 127.5),
    "vgg": Scheme(VGG_MEAN),
    "caffe": Scheme(VGG_MEAN[::-1], reverse=True),
    "torch": Scheme(tuple(255 * value for value in TORCH_MEAN), tuple(255 * value for value in TORCH_STD)),
}


def preprocess(images: Any, scheme: str) -> Any:
    """Turn RGB images into a network's input.

    Args:
        images: ``[..., height, width, channels]`` with values in [0, 255], of any number type: a NumPy array, or a
            TensorFlow tensor, which gives a tensor.
        scheme: "inception", "vgg", "caffe" or "torch"; a plan's own is ``plan.preprocessing``.

    Returns:
        float32, same shape. Floats that look already scaled get a warning, except for tensors inside a graph.

    Raises:
        InputError: (a ValueError) unknown scheme, or a number of channels for which it has no means.

    >>> preprocess(np.full((1, 1, 1, 3), 255, np.uint8), "inception").tolist()
    [[[[1.0, 1.0, 1.0]]]]
    """
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise InputError(f"scheme must be one of {', '.join(map(repr, SCHEMES))} (not {scheme!r:.80}).")
    recipe = SCHEMES[scheme]
    if not hasattr(images, "shape"):
        images = np.asarray(images)
        if images.ndim < 3 or not np.issubdtype(images.dtype, np.number):
            raise InputError(f"images must be numbers of shape [..., height, width, channels] (not {images!r:.80}).")
    if isinstance(recipe.mean, tuple) and images.shape[-1] != len(recipe.mean):
        raise InputError(
            f"scheme {scheme!r} needs {len(recipe.mean)} channels (not {images.shape[-1]}); 'inception' takes any number."
        )
    if isinstance(images, np.ndarray):
        floating = np.issubdtype(images.dtype, np.floating)
        values = images.astype(np.float32)
    else:
        import tensorflow as tf

        floating = isinstance(images, tf.Tensor) and images.dtype.is_floating and tf.executing_eagerly()
        values = tf.cast(images, tf.float32)
    if floating and 0 not in images.shape:
        low, high = float(np.min(values)), float(np.max(values))
        if low < 0 or 0 < high <= 1:  # black is black on any scale
            warnings.warn(
                f"images must be in 0..255; these look already scaled: they have values from {low:.4g} to {high:.4g}.",
                stacklevel=2,
            )
    if recipe.reverse:
        values = values[..., ::-1]
    return (values - np.asarray(recipe.mean, np.float32)) / np.asarray(recipe.std, np.float32)


def range_mismatch(images: Any, scheme: str) -> str | None:
    """Say why `images`, a network's input, were not preprocessed by `scheme`; return None if they may have been.

    A network silently accepts raw RGB values and the scheme of other weights. Schemes with a `std` give no values near 100; the
    others give none beyond 152, and exceed [-1, 1] except for an image of a single color.

    >>> range_mismatch(np.full((1, 1, 1, 3), 200.0), "inception")
    "images have values from 200 to 200, which dr.preprocess(images, 'inception') never gives: they look like raw RGB values."
    """
    if scheme not in SCHEMES or 0 in images.shape:
        return None
    low, high = float(np.min(images)), float(np.max(images))
    like = None
    if SCHEMES[scheme].std != 1.0:  # values of the order of 1, not of 100
        if max(-low, high) > SLACK:
            like = "raw RGB values" if low >= 0 else "those of the scheme 'vgg' or 'caffe'"
    elif high > 255 - min(VGG_MEAN) + 1 and low >= 0:
        like = "raw RGB values"
    elif low < 0 and max(-low, high) <= 1:
        like = "those of the scheme 'inception'"
    if like is None:
        return None
    return (
        f"images have values from {low:.4g} to {high:.4g}, which dr.preprocess(images, {scheme!r}) never gives: "
        f"they look like {like}."
    )


class InputRangeCheck:
    """Warn once if the input range does not match the preprocessing scheme (:func:`range_mismatch`).

    Images may be preprocessed in one call and raw in the next, so each of the first LOOKS calls is checked.
    """

    def __init__(self, scheme: str) -> None:
        self._scheme, self._left = scheme, LOOKS if scheme in SCHEMES else 0

    def __call__(self, images: Any, stacklevel: int) -> None:
        if self._left <= 0:
            return
        self._left -= 1
        if doubt := range_mismatch(images, self._scheme):
            self._left = 0
            warnings.warn(doubt, stacklevel=stacklevel)
