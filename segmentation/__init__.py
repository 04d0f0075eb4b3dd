"""Semantic segmentation on the backbones of :mod:`dense_resnet`: a head, a model, and metrics that one can check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from segmentation import metrics
    from segmentation.metrics.confusion import ConfusionMatrix
    from segmentation.model import SegmentationModel
    from segmentation.saving.model_directory import load_backbone, load_model, save_backbone, save_model

__all__ = ["ConfusionMatrix", "SegmentationModel", "load_backbone", "load_model", "metrics", "save_backbone", "save_model"]

__getattr__ = import_lazily(
    __name__,
    "metrics",
    ConfusionMatrix="metrics.confusion",
    SegmentationModel="model",
    load_backbone="saving.model_directory",
    load_model="saving.model_directory",
    save_backbone="saving.model_directory",
    save_model="saving.model_directory",
)
