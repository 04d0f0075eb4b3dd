"""What a training starts from: a whole model, with a new last layer where its classes are others."""

import numpy as np
import pytest
from helpers.networks import TRAINING_PLAN

from dense_resnet.backbone import Backbone
from dense_resnet.planning import variants
from segmentation.data.label_space import LabelClass, LabelSpace
from segmentation.model import SegmentationModel
from segmentation.saving.model_directory import save_model
from segmentation.training.start import start_from_backbone, start_from_model


def space_of(*names):
    return LabelSpace(tuple(LabelClass(name, (number, 0, 0)) for number, name in enumerate(names)))


OLD = space_of("ground", "red", "green")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = SegmentationModel(Backbone(variants.plan_from_config(TRAINING_PLAN, 8), seed=1), 3, "fcn", seed=1)
    generator = np.random.default_rng(0)
    model.assign({name: value + generator.uniform(0.1, 1, value.shape).astype("f") for name, value in model.weights.items()})
    save_model(folder, model, OLD, preprocessing="caffe")
    return folder, model.weights


def test_the_same_classes_take_the_whole_model(saved):
    folder, weights = saved
    start = start_from_model(folder, OLD, 100)
    assert all(np.array_equal(value, weights[name]) for name, value in start.model.weights.items())
    assert (start.preprocessing, start.notes) == ("caffe", ())


@pytest.mark.parametrize("names", [("ground", "green", "red"), ("cat", "dog"), tuple("abcdefg")])
def test_other_classes_get_a_new_last_layer(saved, names):
    folder, weights = saved
    start = start_from_model(folder, space_of(*names), 100, seed=7)
    last = {name for name in weights if name.startswith("logits/")}
    assert len(last) == 2
    for name, value in start.model.weights.items():
        assert np.array_equal(value, weights[name]) == (name not in last), name
        if name in last:
            assert value.shape[-1] == len(names)
    assert start.preprocessing == "caffe"
    assert f"so the last layer starts anew, with {len(names)} classes" in start.notes[0]


def test_a_new_head_on_a_backbone(saved):
    folder, weights = saved
    start = start_from_backbone(
        variants.plan_from_config(TRAINING_PLAN, 8), OLD, 100, weights=folder / "weights.safetensors", head="fcn"
    )
    for name, value in start.model.backbone.weights.items():
        assert np.array_equal(value, weights[name]), name
    assert "matched" in start.notes[0]


def test_without_weights_a_note_says_so():
    start = start_from_backbone(variants.plan_from_config(TRAINING_PLAN, 8), OLD, 100, head="fcn", seed=3)
    assert "random weights" in start.notes[0]
