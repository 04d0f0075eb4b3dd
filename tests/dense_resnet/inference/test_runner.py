"""Images as they are decoded, through the slim graph and the folded ones: the same answers, whatever is beyond the images."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.networks import EXACT, LOW, WAYS, small_model, small_plan, weights_of

import dense_resnet as dr
from dense_resnet import checkpoints
from dense_resnet.errors import InputError
from dense_resnet.verification import laws
from segmentation.heads.plan import HEADS
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor


def pixels_of(height, width, batch=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def backbone():
    plan = small_plan("v2, last unit", 8)
    return laws.backbone_with(plan, weights_of(plan))


@pytest.mark.parametrize("way", WAYS)
def test_a_backbone_runs_images_on_canvases(backbone, way):
    runner = backbone.runner(**way)
    pixels = pixels_of(65, 65, batch=2)
    reference = dr.preprocess(pixels, backbone.plan.preprocessing)
    reference[0, 40:], reference[0, :, 50:] = 0, 0
    found = runner(pixels, [(40, 50), (65, 65)])
    assert list(found) == ["features"]
    assert laws.relative_error(found["features"], backbone(reference)) <= (0 if way == EXACT else 1e-4)


@pytest.mark.parametrize("way", [*WAYS, *LOW])
def test_what_lies_beyond_an_image_changes_nothing(backbone, way):
    runner = backbone.runner(**way)
    first, second = pixels_of(33, 65), pixels_of(33, 65)
    second[:, 20:] = 255 - second[:, 20:]
    answers = [runner(pixels, [(20, 65)])["features"] for pixels in (first, second)]
    np.testing.assert_array_equal(*answers)
    assert not np.array_equal(runner(first)["features"], answers[0])


@pytest.mark.parametrize("size", [(60, 91), (65, 91), (60, 97)])
@pytest.mark.parametrize("way", WAYS)
def test_other_canvases_are_padded_to_aligned_ones(backbone, way, size):
    pixels = np.zeros((1, 65, 97, 3), np.uint8)
    pixels[:, : size[0], : size[1]] = pixels_of(*size)
    runner = backbone.runner(**way)
    found, expected = runner(pixels[:, : size[0], : size[1]]), runner(pixels, [size])
    np.testing.assert_array_equal(found["features"], expected["features"])


@pytest.mark.parametrize("way", WAYS)
def test_the_pyramid(backbone, way):
    runner = backbone.runner(**way, strides=(4, 8))
    assert runner.names == ("features", "stride_4")
    pixels = pixels_of(65, 65)
    found, reference = runner(pixels, names=runner.names), backbone.features(dr.preprocess(pixels, backbone.plan.preprocessing))
    assert laws.relative_error(found["features"], reference[8]) <= 1e-4
    assert laws.relative_error(found["stride_4"], reference[4]) <= 1e-4


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("head", HEADS)
def test_a_model_gives_labels_and_probabilities_on_the_images_pixels(head, way):
    model = small_model(head)
    runner = model.runner(**way)
    pixels = pixels_of(50, 77)
    logits = model(dr.preprocess(pixels, model.backbone.plan.preprocessing))
    found = runner(pixels, names=runner.names)
    assert found["labels"].dtype == np.uint8
    assert found["labels"].shape == (1, 50, 77)
    assert np.mean(found["labels"] == tf.argmax(logits, axis=-1)) > 0.999
    np.testing.assert_allclose(found["probabilities"], tf.nn.softmax(logits), atol=1e-5)
    height, width = model.backbone.plan.aligned_size((50, 77))
    canvas = np.pad(pixels, [(0, 0), (0, height - 50), (0, width - 77), (0, 0)])
    exact = model.runner("exact")(canvas, [(50, 77)], ("cells",))["cells"]
    assert laws.relative_error(found["cells"], exact) <= 1e-4


@pytest.mark.parametrize("way", [*WAYS[1:], *LOW])
def test_an_image_does_not_depend_on_its_place_in_a_batch_or_on_its_company(way):
    model = small_model("aspp")
    predictor = Predictor(model.runner(**way), model.head, Inference(65), batch=3)
    images = [
        pixels_of(*size, seed=number)[0] for number, size in enumerate([(65, 65), (40, 60), (65, 30), (90, 70), (33, 33)])
    ]
    together = predictor.many(images)
    for image, answer in zip(images, together, strict=True):
        alone = predictor(image)
        np.testing.assert_array_equal(alone.labels, answer.labels)
        np.testing.assert_array_equal(alone.confidence, answer.confidence)
        assert answer.labels.shape == image.shape[:2]


def test_a_runner_reports_precision_side_and_weights(backbone):
    exact, low = backbone.runner("exact"), backbone.runner("bfloat16", side=33)
    assert (exact.precision, low.precision, exact.side, low.side) == ("exact", "bfloat16", None, 33)
    assert exact.weights_sha256 == low.weights_sha256 == checkpoints.fingerprint(backbone.weights)
    assert low(pixels_of(33, 33))["features"].dtype == np.float32


@pytest.mark.parametrize("way", WAYS)
def test_images_of_other_types_and_shapes_are_refused(backbone, way):
    runner = backbone.runner(**way)
    for images in (np.zeros((33, 33, 3), np.uint8), np.zeros((1, 33, 33, 1), np.uint8), np.zeros((1, 33, 33, 3), np.float32)):
        with pytest.raises(InputError, match=r"images must be uint8 \[batch, height, width, 3\]"):
            runner(images)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [[(65, 33)], [(33, 66)], [(-1, 65)], [(33, 65), (33, 65)], [33, 65]])
def test_sizes_that_a_canvas_does_not_hold(backbone, way, sizes):
    with pytest.raises(InputError, match=r"sizes must be the \(height, width\) of each of the 1 images, within .*\(33, 65\)"):
        backbone.runner(**way)(pixels_of(33, 65), sizes)


@pytest.mark.parametrize("sizes", [(65, 33), (33, 66), (-1, 65)])
def test_graphs_refuse_such_sizes_themselves(backbone, sizes):
    runner = backbone.runner("float32", engine="tensorflow")
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)(height|width)_within_the_canvas"):
        runner._run(pixels_of(33, 65), np.array([sizes], np.int32), ("features",))


def test_a_runner_of_one_canvas_refuses_others(backbone):
    with pytest.raises(InputError, match=r"canvases of 33x33 pixels \(these are 65x33\)"):
        backbone.runner("float32", side=33)(pixels_of(33, 65))
