"""The laws of a dense ResNet as figures, on any weights: ``dense-resnet check`` prints them, the tests assert them.

Every error is ``max|a - b| / std(b)``: 1e-4 is float noise between two ways of computing the same result, 1e-2 is a mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dense_resnet.backbone import Backbone
from dense_resnet.errors import InputError
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import preprocess
from dense_resnet.resnet_utils import subsample

TOLERANCE = 1e-4
LEAST_SPREAD = 1e-2  # of the features: below, agreement would mean nothing
BREAKS = 1e-2  # what a mirrored even size must exceed


def relative_error(values: object, reference: object) -> float:
    """Return ``max|values - reference| / std(reference)``."""
    values, reference = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if values.shape != reference.shape:
        raise InputError(f"shapes differ: {list(values.shape)} and {list(reference.shape)}.")
    return float(np.abs(values - reference).max() / reference.std())


def backbone_with(plan: Plan, weights: Mapping[str, np.ndarray]) -> Backbone:
    backbone = Backbone(plan)
    backbone.assign(dict(weights))
    return backbone


@dataclass(frozen=True)
class Finding:
    law: str
    error: float
    spread: float  # standard deviation of the reference features
    holds: bool


def dense_equals_nominal(dense: Backbone, nominal: Backbone, images: np.ndarray) -> Finding:
    """Check law 2 on preprocessed images: the dense features, subsampled, are those of the same weights at another stride."""
    reference = nominal(images).numpy()
    values = subsample(dense(images), nominal.plan.output_stride // dense.plan.output_stride)
    return _judge("dense = nominal", dense, images, values, reference)


def mirror_kernels(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mirror every kernel, top to bottom and left to right."""
    return {name: value[::-1, ::-1] if value.ndim == 4 else value for name, value in weights.items()}


def mirror(backbone: Backbone, turned: Backbone, images: np.ndarray, *, aligned: bool) -> Finding:
    """Check law 3: mirroring preprocessed images and every kernel (`turned`) mirrors the features, at `aligned` sizes only."""
    reference = backbone(images).numpy()
    values = turned(np.ascontiguousarray(images[:, ::-1, ::-1])).numpy()[:, ::-1, ::-1]
    return _judge("mirror law", backbone, images, values, reference, must_hold=aligned)


def check(backbone: Backbone, nominal: Plan, size: int, seed: int = 0) -> Iterator[Finding]:
    """Check laws 2 and 3 on noise images of `size` (32n+1) pixels and of one less, preprocessed as the plan says."""
    generator = np.random.default_rng(seed)
    plan, weights = backbone.plan, backbone.weights
    odd, even = (
        preprocess(generator.uniform(0, 255, (1, side, side, plan.in_channels)), plan.preprocessing)
        for side in (size, size - 1)
    )
    reference = backbone_with(nominal, weights)
    yield dense_equals_nominal(backbone, reference, odd)
    yield dense_equals_nominal(backbone, reference, even)
    del reference
    turned = backbone_with(plan, mirror_kernels(weights))
    yield mirror(backbone, turned, odd, aligned=True)
    yield mirror(backbone, turned, even, aligned=False)


def _judge(
    law: str, backbone: Backbone, images: np.ndarray, values: np.ndarray, reference: np.ndarray, must_hold: bool = True
) -> Finding:
    error, spread = relative_error(values, reference), float(reference.std())
    agrees = error <= TOLERANCE if must_hold else error >= BREAKS
    height, width = images.shape[1:3]
    name = f"{law}, stride {backbone.plan.output_stride} at {height}x{width}{'' if must_hold else ' (must not hold)'}"
    return Finding(name, error, spread, agrees and spread >= LEAST_SPREAD)
