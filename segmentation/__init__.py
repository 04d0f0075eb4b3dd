"""Semantic segmentation on the backbones of :mod:`dense_resnet`: a head, a model, and metrics that one can check."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {  # name: the module that it is handed on from
    "ConfusionMatrix": "segmentation.confusion",
    "SegmentationModel": "segmentation.model",
    "load_backbone": "segmentation.model_directory",
    "load_model": "segmentation.model_directory",
    "save_backbone": "segmentation.model_directory",
    "save_model": "segmentation.model_directory",
}
_MODULES = ("metrics",)

__all__ = ["ConfusionMatrix", "SegmentationModel", "load_backbone", "load_model", "metrics", "save_backbone", "save_model"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"segmentation.{name}")
    raise AttributeError(f"module 'segmentation' has no attribute {name!r}")
