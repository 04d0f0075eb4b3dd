"""Scoring: every figure of evaluation.json, and the page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from segmentation.evaluation.evaluate import Evaluation
    from segmentation.evaluation.results import read_result, summarise
    from segmentation.evaluation.systems import FolderSystem, ModelSystem

__all__ = ["Evaluation", "FolderSystem", "ModelSystem", "read_result", "summarise"]

__getattr__ = import_lazily(
    __name__, Evaluation="evaluate", FolderSystem="systems", ModelSystem="systems", read_result="results", summarise="results"
)
