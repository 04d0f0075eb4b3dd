"""Trainings of a tiny model."""

from __future__ import annotations

import json

import numpy as np
import tensorflow as tf
from PIL import Image

from dense_resnet.backbone import Backbone
from dense_resnet.planning import variants
from helpers.networks import TRAINING_PLAN
from segmentation.data.layouts import open_dataset
from segmentation.data.transforms import Augmentation
from segmentation.model import SegmentationModel
from segmentation.training.loop import Training
from segmentation.training.recipe import Recipe

CLASSES = {"name": "tiny", "classes": ["ground", "red", "green"]}
COLORS = np.array([[90, 90, 90], [220, 40, 40], [40, 200, 60]])


def pair(seed, shown=(1, 2)):
    """An image of 40x48 pixels with a red and a green square on grey, and its label; the first rows are ignored."""
    generator = np.random.default_rng(seed)
    label = np.zeros((40, 48), np.uint8)
    for index in shown:
        row, column = generator.integers(0, 20, 2)
        label[row : row + 20, column + 4 * index : column + 4 * index + 20] = index
    image = np.clip(COLORS[label] + generator.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
    label[:2] = 255
    return image, label


def write_split(folder, split, count, shown=(1, 2)):
    """Pairs of a split in the layout of two folders."""
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(CLASSES))
    for number in range(count):
        image, label = pair([count, number], shown)
        for kind, values in (("images", image), ("labels", label)):
            path = folder / kind / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


def make_data(folder):
    """Eight images to train on, three to validate."""
    write_split(folder, "train", 8)
    write_split(folder, "val", 3)
    return folder


def make(data, out, *, split="train", validation=None, head="fcn", strategy=None, seed=0, **recipe):
    """A training of a tiny model."""
    recipe = {"steps": 3, "batch": 4, "learning_rate": 0.1, "augmentation": Augmentation((33, 33), (0.8, 1.25)), **recipe}
    with (strategy or tf.distribute.get_strategy()).scope():
        plan = variants.plan_from_config(TRAINING_PLAN, 8)
        model = SegmentationModel(Backbone(plan, seed=seed, batch_norm_decay=0.8), 3, head, seed=seed, batch_norm_decay=0.8)
    dataset = open_dataset(data, split)
    scored = open_dataset(data, validation) if validation else None
    return Training(model, dataset, scored, out, Recipe(**recipe), strategy=strategy, validation_size=49)
