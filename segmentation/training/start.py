"""What a training starts from: a variant with weights of its backbone or random ones, or a whole model."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from dense_resnet.backbone import Backbone
from dense_resnet.errors import pluralize
from dense_resnet.planning.plan import Plan
from dense_resnet.resnet_utils import BATCH_NORM_DECAY
from segmentation.data.label_space import LabelSpace
from segmentation.heads import plan as heads
from segmentation.model import SegmentationModel
from segmentation.saving.description import head_options
from segmentation.saving.model_directory import load_model
from segmentation.training.recipe import batch_norm_decay


class Start(NamedTuple):
    """A model with its initial weights."""

    model: SegmentationModel
    preprocessing: str  # that its weights expect
    notes: tuple[str, ...]  # on where they come from


def start_from_backbone(
    plan: Plan, space: LabelSpace, steps: int, *, weights: Any = None, head: str = heads.DEFAULT_HEAD, separable: bool = True,
    seed: int = 0,
) -> Start:  # fmt: skip
    """Make a new head on a backbone, for a training of `steps`.

    Args:
        space: the classes.
        weights: of the backbone: see :meth:`dense_resnet.Backbone.load`; None for random ones.
        head, separable: see :func:`segmentation.heads.plan.plan_head`.
        seed: of the random weights.
    """
    own, of_head = _decays(steps)
    backbone = Backbone(plan, seed=seed, batch_norm_decay=own)
    preprocessing = plan.preprocessing
    if weights:
        report = backbone.load(weights)
        note = str(report)
        preprocessing = (report.origin and report.origin.preprocessing) or preprocessing  # that of the weights' source
    else:
        note = f"{plan.name}: random weights. Pretrained ImageNet weights (--weights) shorten training considerably."
    model = SegmentationModel(backbone, space.num_classes, head, separable=separable, seed=seed, batch_norm_decay=of_head)
    return Start(model, preprocessing, (note,))


def start_from_model(
    folder: str | os.PathLike[str], space: LabelSpace, steps: int, *, output_stride: int | None = None, seed: int = 0
) -> Start:
    """Take the whole model of a model directory, with a new last layer if its classes are others.

    Arguments and errors are those of :func:`start_from_backbone` and :func:`segmentation.load_model`.
    """
    decays = _decays(steps)
    saved = load_model(folder, output_stride, batch_norm_decays=decays)
    model, before = saved.model, saved.model.weights
    if saved.space.names == space.names:
        return Start(model, saved.preprocessing, ())
    options = head_options(saved.description) | {"num_classes": space.num_classes}
    model = SegmentationModel(model.backbone, **options, seed=seed, batch_norm_decay=decays[1])
    last = {variable.name for variable in model.head.logits.variables}
    model.assign(model.weights | {name: value for name, value in before.items() if name not in last})
    own = pluralize(space.num_classes, "class")
    others = pluralize(saved.space.num_classes, "other class")
    note = f"the model to start from has {others}, so the last layer starts anew, with {own}"
    return Start(model, saved.preprocessing, (note,))


def _decays(steps: int) -> tuple[float, float]:
    """Return the decays of the backbone's and of the head's moving averages."""
    return batch_norm_decay(BATCH_NORM_DECAY, steps), batch_norm_decay(heads.BATCH_NORM_DECAY, steps)
