"""Heads and the model against the original DeepLab code: names, shapes and numbers; then any size, any stride."""

import copy
import inspect
import logging

import numpy as np
import pytest
import tensorflow as tf
from det_weights import det_input, det_weight
from helpers import GOLDEN
from helpers.networks import images_of, small_model

import dense_resnet as dr
from dense_resnet.backbone import Backbone
from dense_resnet.errors import InputError
from dense_resnet.inference.canvas_ops import aligned_size
from dense_resnet.planning import geometry
from dense_resnet.verification import laws
from segmentation.heads.plan import HEADS, atrous_rates, plan_head
from segmentation.model import IMAGE_CELLS, SegmentationModel


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "head", "size"),
    [("logits_aspp_sep_321_os16", "aspp", 321), ("logits_aspp_sep_decoder_sep_97_os16", "decoder", 97)],
)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_deeplabs(file, head, size, tied):
    backbone = Backbone("resnet_v1_50_beta", output_stride=16)
    model = SegmentationModel(backbone, 21, head, image_pooling_crop=size if tied else None)
    for module in (backbone, model):
        for name, variable in module._by_name.items():
            variable.assign(det_weight(name, variable.shape))
    expected = np.load(GOLDEN / f"{file}.npy", allow_pickle=False)
    assert laws.relative_error(model.logits(det_input(size, size)), expected) <= 2e-4


@pytest.mark.parametrize(("output_stride", "rates"), [(32, (3, 6, 9)), (16, (6, 12, 18)), (8, (12, 24, 36)), (4, (24, 48, 72))])
def test_rates_follow_the_stride(output_stride, rates):
    assert atrous_rates(output_stride) == rates
    planned = plan_head(dr.plan("resnet_v2_50", output_stride=output_stride), 21)
    assert tuple(branch[0].rate for branch in planned.branches[1:]) == rates


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("separable", [True, False])
def test_the_same_weights_at_every_stride(head, separable):
    """Where nothing is pooled over the map, logits at stride 8, subsampled, are those at stride 16."""
    fine, coarse = (small_model(head, stride, separable=separable) for stride in (8, 16))
    assert {name: value.shape for name, value in fine.weights.items()} == {name: v.shape for name, v in coarse.weights.items()}
    images = images_of(65)
    if head == "fcn":
        assert laws.relative_error(fine.logits(images)[:, ::2, ::2], coarse.logits(images)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(65, 65), (50, 77), (1, 40)])
def test_logits_of_any_size_equal_padding_and_cropping_by_hand(head, size):
    """Static, unknown and eager sizes agree, and are what padding and cropping by hand give."""
    model = small_model(head)
    images = images_of(size)
    canvas = [geometry.aligned_size(side) for side in size]
    padded = np.zeros((1, *canvas, 3), np.float32)
    padded[:, : size[0], : size[1]] = images
    small = model._run(IMAGE_CELLS, images, False)  # what canvases change of it: test_canvases.py
    assert tuple(small.shape[1:3]) == tuple((side - 1) // (4 if head == "decoder" else 16) + 1 for side in canvas)
    expected = tf.compat.v1.image.resize_bilinear(small, canvas, align_corners=True)[:, : size[0], : size[1]]
    assert laws.relative_error(model(images), expected) <= 1e-5
    static = tf.function(model).get_concrete_function(tf.TensorSpec([None, *size, 3]))
    assert static.structured_outputs.shape.as_list() == [None, *size, 5]
    assert laws.relative_error(static(tf.constant(images)), expected) <= 1e-5


def test_a_copy_runs_its_own_weights():
    model, images = small_model("decoder"), images_of(33)
    expected = model(images)
    other = copy.deepcopy(model)
    for variable in other.trainable.values():
        variable.assign(tf.zeros_like(variable))
    assert not np.any(other(images))
    np.testing.assert_array_equal(model(images), expected)


def test_autograph_converts_nothing_of_a_training_step(monkeypatch):
    ran = []

    def cells(self, images, training, dropout, boxes, freeze_image_pooling):
        ran.append(inspect.currentframe().f_code.co_filename)  # of what AutoGraph makes, a temporary file
        return images, {}

    monkeypatch.setattr(SegmentationModel, "_cells", cells)
    model = small_model("fcn")
    tf.function(lambda images: model.training_logits(images, tf.constant([[0, 0, 33, 33]]), tf.random.uniform, True))(
        images_of(33)
    )
    assert ran == [__file__]


def test_logits_of_a_cell_stand_on_its_pixel():
    """align_corners on the canvas: pixel (16 i, 16 j) has cell (i, j)'s logits."""
    model = small_model("aspp")
    images = images_of(65)
    np.testing.assert_allclose(model(images)[:, ::16, ::16], model.logits(images), rtol=1e-4, atol=1e-5)


def test_decoder_without_padding_keeps_its_own_size():
    """DESIGN: 96x128 with the decoder gives 24x32."""
    assert small_model("decoder").logits(images_of((96, 128))).shape.as_list() == [1, 24, 32, 5]


@pytest.mark.parametrize("size", range(1, 70))
def test_aligned_tensor_sizes(size):
    assert aligned_size(size, 32) == int(aligned_size(tf.constant(size), 32)) == geometry.aligned_size(size)


@pytest.mark.parametrize("head", HEADS)
def test_training_gives_gradients_and_moves_averages_only(head):
    model = small_model(head)
    before = model.weights
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(images_of(65, batch=2), training=True) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert len(gradients) == len(model.backbone.trainable_variables) + sum(v.trainable for v in model.head.variables)
    assert all(gradient is not None for gradient in gradients)
    moved = [name for name, value in model.weights.items() if not np.array_equal(value, before[name])]
    assert sorted(moved) == sorted(name for name in before if "moving_" in name)


@pytest.mark.slow
def test_saved_model_computes_the_same_logits(tmp_path):
    model = small_model("decoder")
    tf.saved_model.save(model, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    images = tf.constant(images_of((50, 77)))
    assert laws.relative_error(loaded(images), model(images)) <= 1e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small_model("deeplab"), r"head must be one of 'fcn', 'aspp', 'decoder' \(not 'deeplab'\)"),
        (lambda: small_model("aspp", num_classes=0), r"num_classes must be a positive integer \(not 0\)"),
        (lambda: plan_head(dr.plan([("b", [(8, 4, 5)])]), 3), r"ASPP needs an output_stride that divides 96 \(not 20\)"),
        (
            lambda: plan_head(dr.plan([("b", [(8, 4, 2)])]), 3, "decoder"),
            "the last but one unit of the first block at stride 4",
        ),
    ],
)
def test_invalid_heads_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("backbone", ["resnet_v1_18", 5, None])
def test_a_model_takes_a_backbone_and_not_its_name(backbone):
    with pytest.raises(InputError, match=r"backbone must be a dense_resnet\.Backbone \(not "):
        SegmentationModel(backbone, num_classes=2)


@pytest.mark.slow
def test_nothing_is_deprecated(monkeypatch):
    """TensorFlow says so once a process: here as in a fresh one."""
    from tensorflow.python.util import deprecation

    told = []
    handler = logging.Handler()
    handler.emit = told.append
    monkeypatch.setattr(deprecation, "_PRINTED_WARNING", {})
    tf.get_logger().addHandler(handler)
    try:
        for head in HEADS:
            small_model(head)(images_of((40, 70)))
            small_model(head).compile("float32")
    finally:
        tf.get_logger().removeHandler(handler)
    assert [record.getMessage() for record in told if "deprecated" in record.getMessage()] == []


def test_a_model_takes_no_weights_where_nothing_would_be_assigned():
    model = small_model("fcn")
    weights = model.weights
    with tf.Graph().as_default():
        with pytest.raises(InputError, match="loading weights needs eager execution"):
            SegmentationModel(Backbone(model.backbone.plan), model.head.num_classes, "fcn").assign(weights)
