"""Weights for inference: each batch norm folded into the convolution before it. NumPy alone, for every engine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dense_resnet.planning.layers import BATCH_NORM_EPSILON, Conv, Norm

Weights = Mapping[str, np.ndarray]


class FoldedWeights:
    """The weights of a network by canonical name, as float64 numbers of its folded layers."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def scale_and_shift(self, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch norm's scale and shift."""
        gamma, beta, mean, variance = (
            np.asarray(self.weights[f"{norm.scope}/{leaf}"], np.float64)
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return scale, beta - mean * scale

    def fold_batch_norm(self, conv: Conv) -> tuple[np.ndarray, np.ndarray]:
        """Return a convolution's kernel and bias, its batch norm in them."""
        kernel = np.asarray(self.weights[f"{conv.scope}/weights"], np.float64)
        if conv.norm is None:
            return kernel, np.asarray(self.weights[f"{conv.scope}/biases"], np.float64)
        scale, shift = self.scale_and_shift(conv.norm)
        return kernel * scale, shift
