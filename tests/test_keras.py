"""Keras Applications' ResNet50, code that nobody here wrote: the original variant computes the same at odd and even sizes."""

import keras
import numpy as np
import pytest
from conftest import images_of

import dense_resnet as dr
from dense_resnet import laws

UNITS = (3, 4, 6, 3)
KERAS_EPSILON, OUR_EPSILON = 1.001e-5, 1e-5


@pytest.fixture(scope="module")
def networks():
    """(theirs, ours) with the same weights: their biases go into our moving means, their epsilon into our variances."""
    theirs = keras.applications.ResNet50(include_top=False, weights=None)
    generator = np.random.default_rng(0)
    for variable in theirs.weights:
        leaf = variable.path.split("/")[-1]
        if leaf in ("gamma", "moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif leaf in ("beta", "moving_mean", "bias"):
            variable.assign(0.1 * generator.standard_normal(variable.shape))
    plan = dr.plan("resnet_v1_50_original")
    weights = {}

    def take(convolution, norm, scope):
        kernel, bias = (value.numpy() for value in theirs.get_layer(convolution).weights)
        gamma, beta, mean, variance = (value.numpy() for value in theirs.get_layer(norm).weights)
        norms = {"gamma": gamma, "beta": beta, "moving_mean": mean - bias}
        norms["moving_variance"] = variance + KERAS_EPSILON - OUR_EPSILON
        weights[f"{scope}/weights"] = kernel
        weights.update({f"{scope}/BatchNorm/{name}": value for name, value in norms.items()})

    take("conv1_conv", "conv1_bn", f"{plan.scope}/conv1")
    for block, count in enumerate(UNITS, 1):
        for unit in range(1, count + 1):
            source = f"conv{block + 1}_block{unit}"
            scope = f"{plan.scope}/block{block}/unit_{unit}/bottleneck_v1"
            for number in (1, 2, 3):
                take(f"{source}_{number}_conv", f"{source}_{number}_bn", f"{scope}/conv{number}")
            if unit == 1:
                take(f"{source}_0_conv", f"{source}_0_bn", f"{scope}/shortcut")
    return theirs, laws.loaded(plan, weights)


@pytest.mark.parametrize("size", [96, 97])
def test_resnet50(size, networks):
    theirs, ours = networks
    images = images_of(size)
    assert laws.relative_error(ours(images), theirs(images)) <= 1e-4
