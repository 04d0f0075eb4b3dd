"""Weights that depend only on a variable's name and shape, so that a golden needs no stored weights. NumPy only.

`name` is the TensorFlow variable name without ':0', e.g. 'resnet_v2_50/block1/unit_1/bottleneck_v2/conv1/weights'.
"""

import zlib

import numpy as np


def det_weight(name, shape):
    """float32 array of `shape`; variance 1 / fan-in for weights, small or positive values for the rest."""
    shape = tuple(int(d) for d in shape)
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "depthwise_weights":  # [kernel, kernel, channels_in, multiplier]
        value = rng.standard_normal(shape) * np.sqrt(1 / (shape[0] * shape[1]))
    elif leaf.endswith("weights"):  # 'weights', 'pointwise_weights'
        value = rng.standard_normal(shape) * np.sqrt(1 / np.prod(shape[:-1]))
    elif leaf in ("biases", "beta", "moving_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif leaf in ("gamma", "moving_variance"):
        value = 0.5 + rng.rand(*shape)
    else:
        raise ValueError(f"no rule for variable {name!r}")
    return np.asarray(value, np.float32)


def det_input(height, width, seed=0):
    """float32 image batch [1, height, width, 3]."""
    return np.random.RandomState(seed).standard_normal((1, height, width, 3)).astype(np.float32)
