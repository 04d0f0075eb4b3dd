"""What turns features into logits: fcn, aspp, decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from segmentation.heads.build import build_head
    from segmentation.heads.plan import HEADS, HeadPlan, plan_head

__all__ = ["HEADS", "HeadPlan", "build_head", "plan_head"]

__getattr__ = import_lazily(__name__, HEADS="plan", HeadPlan="plan", build_head="build", plan_head="plan")
