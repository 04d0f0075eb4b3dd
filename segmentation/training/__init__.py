"""Training: the recipe, the data's order, the step, the state on disk, the log, the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from segmentation.training.loop import Training
    from segmentation.training.recipe import Recipe

__all__ = ["Recipe", "Training"]

__getattr__ = import_lazily(__name__, Recipe="recipe", Training="loop")
