"""Logits on pixels: scales, flips, tiles; and label images of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from segmentation.prediction.label_images import Labeling
    from segmentation.prediction.options import Inference
    from segmentation.prediction.predictor import Prediction, Predictor

__all__ = ["Inference", "Labeling", "Prediction", "Predictor"]

__getattr__ = import_lazily(
    __name__, Inference="options", Labeling="label_images", Prediction="predictor", Predictor="predictor"
)
