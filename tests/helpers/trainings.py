"""Trainings of a tiny model."""

from __future__ import annotations

import tensorflow as tf

from dense_resnet.backbone import Backbone
from dense_resnet.planning import variants
from helpers.networks import TRAINING_PLAN
from segmentation.data.layouts import open_dataset
from segmentation.data.transforms import Augmentation
from segmentation.model import SegmentationModel
from segmentation.training.loop import Training
from segmentation.training.recipe import Recipe


def make(data, out, *, split="train", validation=None, head="fcn", strategy=None, seed=0, **recipe):
    """A training of a tiny model."""
    recipe = {"steps": 3, "batch": 4, "learning_rate": 0.1, "augmentation": Augmentation((33, 33), (0.8, 1.25)), **recipe}
    with (strategy or tf.distribute.get_strategy()).scope():
        plan = variants.plan_from_config(TRAINING_PLAN, 8)
        model = SegmentationModel(Backbone(plan, seed=seed, batch_norm_decay=0.8), 3, head, seed=seed, batch_norm_decay=0.8)
    dataset = open_dataset(data, split)
    scored = open_dataset(data, validation) if validation else None
    return Training(model, dataset, scored, out, Recipe(**recipe), strategy=strategy, validation_size=49)
