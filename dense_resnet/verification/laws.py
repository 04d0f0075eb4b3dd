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
    """Build a backbone with `weights`."""
    backbone = Backbone(plan)
    backbone.assign(dict(weights))
    return backbone


@dataclass(frozen=True)
class Finding:
    """One law's figure."""

    law: str
    error: float
    spread: float  # standard deviation of the reference features
    holds: bool


def dense_equals_nominal(dense: Backbone, nominal: Backbone, images: np.ndarray) -> Finding:
    """Check law 2: the dense features, subsampled, are the nominal network's features.

    Args:
        dense, nominal: the same weights at two output strides.
        images: ``[batch, height, width, channels]``, preprocessed.
    """
    reference = nominal(images).numpy()
    values = subsample(dense(images), nominal.plan.output_stride // dense.plan.output_stride)
    error, spread = relative_error(values, reference), float(reference.std())
    law = f"dense = nominal, stride {dense.plan.output_stride} at {_size(images)}"
    return Finding(law, error, spread, error <= TOLERANCE and spread >= LEAST_SPREAD)


def mirror_kernels(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mirror every kernel, top to bottom and left to right."""
    return {name: value[::-1, ::-1] if value.ndim == 4 else value for name, value in weights.items()}


def mirror(backbone: Backbone, turned: Backbone, images: np.ndarray, *, aligned: bool) -> Finding:
    """Check law 3: mirroring the image and every kernel mirrors the features, at aligned sizes and only there.

    Args:
        backbone: any weights.
        turned: the backbone with :func:`mirror_kernels` weights.
        images: ``[batch, height, width, channels]``, preprocessed.
        aligned: whether the images' size is aligned, so whether the law must hold.
    """
    reference = backbone(images).numpy()
    values = turned(np.ascontiguousarray(images[:, ::-1, ::-1])).numpy()[:, ::-1, ::-1]
    error, spread = relative_error(values, reference), float(reference.std())
    law = f"mirror law, stride {backbone.plan.output_stride} at {_size(images)}"
    agrees = error <= TOLERANCE if aligned else error >= BREAKS
    return Finding(law if aligned else f"{law} (must not hold)", error, spread, agrees and spread >= LEAST_SPREAD)


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


def _size(images: np.ndarray) -> str:
    return "{}x{}".format(*images.shape[1:3])
