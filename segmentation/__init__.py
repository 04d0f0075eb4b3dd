"""Semantic segmentation on the backbones of :mod:`dense_resnet`."""

from segmentation import metrics
from segmentation.confusion import ConfusionMatrix

__all__ = ["ConfusionMatrix", "metrics"]
