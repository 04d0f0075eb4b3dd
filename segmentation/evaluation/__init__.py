"""Scoring: every figure of evaluation.json, and the page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from segmentation.evaluation.evaluate import Evaluation
    from segmentation.evaluation.results import read_result, summarize
    from segmentation.evaluation.systems import ModelPredictions, SavedPredictions

__all__ = ["Evaluation", "ModelPredictions", "SavedPredictions", "read_result", "summarize"]

__getattr__ = import_lazily(
    __name__,
    Evaluation="evaluate",
    ModelPredictions="systems",
    SavedPredictions="systems",
    read_result="results",
    summarize="results",
)
