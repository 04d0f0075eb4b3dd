"""Distort views of images by Keras' preprocessing layers: rotation, colors, blur and noise.

Keras' layers take an image and its label map together, are seeded, and are maintained; since version 3.9 it has all of these.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from dense_resnet.errors import InputError

NEEDED = 3, 9  # of Keras
ROTATION = 30  # degrees, at strength 1
COLORS = 0.4  # contrast by up to this share, brightness by half of it, saturation by about it, hue by a tenth of the circle
BLUR = 9, 2.0  # the kernel's side and its largest sigma, in pixels
NOISE = 0.05  # standard deviation, of the range of values


def check_keras() -> None:
    """Raise an :class:`InputError` if the installed Keras is too old for :func:`distort`."""
    found = version("keras")
    if tuple(int(part) for part in found.split(".")[:2]) < NEEDED:
        needed = ".".join(map(str, NEEDED))
        raise InputError(f"distortion (--augment) needs Keras {needed}, and {found} is installed: pip install -U keras.")


def distort(image: np.ndarray, label: np.ndarray, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotate a view, what is beyond its edges mirrored, and change its colors, sharpness and noise.

    Args:
        image: uint8 ``[height, width, 3]``, RGB.
        label: ``[height, width]`` integers, which are sampled by nearest neighbor.
        strength: above 0, up to 1.
        seed: equal ones give equal views.

    >>> image, label = np.full((33, 33, 3), 90, np.uint8), np.eye(33, dtype=np.uint8)
    >>> view, own = distort(image, label, 0.5, seed=1)
    >>> view.shape, view.dtype, np.unique(own).tolist()
    ((33, 33, 3), dtype('uint8'), [0, 1])
    """
    pixels = image[None] / np.float32(255)
    labels = label[None, ..., None].astype(np.float32)
    function, states, lock = _layers(strength)
    with lock:  # threads that read ahead share the states
        for place, state in enumerate(states):
            state.assign([seed, place])
        view, own = function(pixels, labels)
    pixels = np.rint(255 * np.clip(view.numpy()[0], 0, 1)).astype(np.uint8)
    return pixels, np.rint(own.numpy()[0, ..., 0]).astype(label.dtype)


@functools.cache
def _layers(strength: float) -> tuple[Callable[[np.ndarray, np.ndarray], Any], list[Any], threading.Lock]:
    """Return Keras' layers as a function of pixels and labels, the states of their generators, and who may use them."""
    import keras
    import tensorflow as tf

    share = COLORS * strength
    saturation = 0.5 - share / 4, 0.5 + share / 4  # Keras' 0.5 changes nothing
    rotate = keras.layers.RandomRotation(ROTATION / 360 * strength, fill_mode="reflect", seed=0)
    others = (
        keras.layers.RandomColorJitter((0, 1), share / 2, share, saturation, share / 10, seed=0),
        keras.layers.RandomGaussianBlur(0.5, BLUR[0], BLUR[1] / 2 * strength, (0, 1), seed=0),
        keras.layers.GaussianNoise(NOISE * strength, seed=0),
    )

    def run(pixels: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        turned = rotate({"images": pixels, "segmentation_masks": labels}, training=True)
        pixels = turned["images"]
        for layer in others:
            pixels = layer(pixels, training=True)
        return pixels, turned["segmentation_masks"]

    states = [state for layer in (rotate, *others) for state in layer.variables]
    signature = [tf.TensorSpec([1, None, None, channels], tf.float32) for channels in (3, 1)]
    return tf.function(run, signature, autograph=False), states, threading.Lock()
