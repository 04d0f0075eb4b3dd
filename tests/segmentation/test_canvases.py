"""One answer on every canvas: a network ends where its image ends, in every builder and every export."""

import functools
import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT
from helpers.networks import EXACT, WAYS, small_model

import dense_resnet as dr
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError
from dense_resnet.inference.canvas_ops import coverage_mask
from dense_resnet.inference.compiled import keeps_kernels_apart
from segmentation import ConfusionMatrix, SegmentationModel, load_backbone, load_model, metrics, save_model
from segmentation.data.label_space import LabelClass, LabelSpace
from segmentation.data.layouts import open_dataset
from segmentation.data.synthetic import SPACE, scene, write_scenes
from segmentation.data.transforms import Augmentation
from segmentation.heads.build import build_head
from segmentation.heads.plan import HEADS, IMAGE, PADDED, plan_head
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving import conversion
from segmentation.saving.description import DESCRIPTION, canvas_of, validation_size
from segmentation.saving.export.exporter import export
from segmentation.training.loop import Training
from segmentation.training.recipe import Recipe
from tools import cli

SCENES_MODEL = ROOT / "tools" / "scenes_model"
SIZES = (129, 129), (100, 121), (65, 120)  # of images
CANVASES = (1, 2, 4)  # times the image's own
SPACE_OF_FIVE = LabelSpace(tuple(LabelClass(name, (number, 0, 0)) for number, name in enumerate("abcde")))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A trained model with each head, by head: the shipped one, and two that start from it."""
    folder = tmp_path_factory.mktemp("canvases")
    write_scenes(folder / "scenes", 32, 1, size=129)
    dataset = open_dataset(folder / "scenes", "train")
    recipe = Recipe(40, batch=4, learning_rate=0.05, clip=2.0, augmentation=Augmentation((129, 129), (0.8, 1.25)))
    trained = {"fcn": load_model(SCENES_MODEL)}
    for head in ("aspp", "decoder"):
        model = SegmentationModel(load_backbone(SCENES_MODEL, 16), SPACE.num_classes, head, seed=0, batch_norm_decay=0.8)
        Training(model, dataset, None, folder / head, recipe).run()
        trained[head] = load_model(folder / head)
    return trained


@functools.cache
def scenes():
    """Pairs of each of SIZES."""
    pairs = [scene("val", number, 129) for number in range(3)]
    return [(image[:h, :w], label[:h, :w]) for (image, label), (h, w) in zip(pairs, SIZES, strict=True)]


def on_canvas(image, factor):
    """The image on a canvas of that many times its own, as runners take it, with anything but black around it."""
    sides = [dr.aligned_size(factor * side) for side in image.shape[:2]]
    canvas = np.random.default_rng(0).integers(0, 256, (1, *sides, 3), np.uint8)
    canvas[0, : image.shape[0], : image.shape[1]] = image
    return canvas


def assert_one_answer(labels_of, images=None):
    """`labels_of` an image, a factor: equal on 99 % of the pixels on all CANVASES, with one mean IoU."""
    means = []
    answers = []
    for factor in CANVASES:
        matrix = ConfusionMatrix(SPACE.num_classes, SPACE.ignore_label)
        answers.append([labels_of(image, factor) for image, _ in scenes()])
        for (_, label), answer in zip(scenes(), answers[-1], strict=True):
            matrix.update(label, answer)
        means.append(metrics.mean_iou(matrix.counts))
    for answer in answers[1:]:
        equal = [np.mean(own == first) for own, first in zip(answer, answers[0], strict=True)]
        assert min(equal) >= 0.99
    assert max(means) - min(means) < 0.005
    assert means[0] > 0.3  # else equal answers would say little


def labels_by(saved, way):
    runner = saved.runner(**way)

    def labels_of(image, factor):
        size = dr.aligned_size(factor * max(image.shape[:2]))
        return Predictor(runner, saved.head, Inference(size))(image).labels

    return labels_of


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", HEADS)
def test_labels_do_not_depend_on_the_canvas(models, head, way):
    assert_one_answer(labels_by(models[head], way))


@pytest.mark.slow
def test_labels_of_a_head_on_the_whole_canvas_depend_on_it(models):
    """The same weights with a head that reads the whole canvas, as all did before."""
    saved = models["aspp"]
    other = SegmentationModel(saved.model.backbone, SPACE.num_classes, "aspp", canvas=PADDED)
    other.assign(saved.model.weights)
    runner = other.runner("exact", preprocessing=saved.preprocessing)
    image = scenes()[0][0]
    with pytest.warns(UserWarning, match="fills 25% of its canvas of 257x257"):
        answers = [Predictor(runner, other.head, Inference(side))(image).labels for side in (129, 257)]
    assert np.mean(answers[0] == answers[1]) < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("to", ["savedmodel", "onnx"])
@pytest.mark.parametrize("head", HEADS)
def test_labels_of_exports_do_not_depend_on_the_canvas(models, head, to, photographs, tmp_path):
    if to == "onnx":
        pytest.importorskip("tf2onnx")
    saved = models[head]
    path = tmp_path / ("model.onnx" if to == "onnx" else "exported")
    exported, _ = export(saved.model, path, [photographs["coffee"]], to=to, precision="float32", space=saved.space)

    def labels_of(image, factor):
        height, width = image.shape[:2]
        found = exported.network(on_canvas(image, factor), [(height, width)], ["labels"])["labels"]
        return found[0, :height, :width]

    assert_one_answer(labels_of)
    exact = labels_by(saved, EXACT)
    assert np.mean([np.mean(labels_of(image, 2) == exact(image, 2)) for image, _ in scenes()]) >= 0.999


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", HEADS)
def test_an_image_in_company_is_the_image_alone(head, way):
    """On canvases with an image of another size beside it, and on its own canvas."""
    model = small_model(head)
    runner = model.runner(**way)
    images = np.random.default_rng(0).integers(0, 256, (2, 97, 161, 3), np.uint8)
    stride = 4 if head == "decoder" else 16
    together = runner(images, [(40, 65), (97, 161)], ["cells"])["cells"]
    alone = runner(images[:1, :40, :65], None, ["cells"])["cells"]
    rows, columns = (dr.aligned_size(side) // stride + 1 for side in (40, 65))
    assert alone.shape[1:3] == (rows, columns)
    inside = slice(0, -(-39 // stride) + 1), slice(0, 64 // stride + 1)  # cells that pixels are interpolated from
    np.testing.assert_allclose(together[0][inside], alone[0][inside], atol=1e-4 * np.std(alone))


@pytest.mark.parametrize("boxes", [[[0, 0, 34, 17]], [[16, 5, 33, 40], [0, 0, 1, 1], [30, 31, 65, 49]], [[0, 0, 0, 0]]])
@pytest.mark.parametrize("stride", [4, 16])
def test_covered_cells_are_those_that_pixels_are_interpolated_from(boxes, stride):
    rows, columns = 64 // stride + 1, 48 // stride + 1
    found = coverage_mask(tf.constant(boxes), tf.constant([rows, columns]), stride).numpy()[..., 0]
    for mask, (top, left, bottom, right) in zip(found, boxes, strict=True):
        expected = np.zeros((rows, columns), bool)
        for y in range(top, bottom):
            for x in range(left, right):
                expected[y // stride : -(-y // stride) + 1, x // stride : -(-x // stride) + 1] = True
        if bottom > top:
            np.testing.assert_array_equal(mask, expected)
        assert mask.any()  # never a mean of nothing


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("head", ["aspp", "decoder"])
def test_a_head_does_not_see_beyond_the_image(head, separable):
    """In training too, where views lie anywhere on their crop."""
    plan = dr.plan("resnet_v1_18", output_stride=16)
    planned = plan_head(plan, 3, head, separable=separable)
    values = np.random.default_rng(0)
    features = values.standard_normal((2, 9, 9, plan.depth)).astype(np.float32)
    skip = values.standard_normal((2, 33, 33, planned.skip.depth)).astype(np.float32) if planned.skip else None
    boxes = np.array([[32, 48, 97, 129], [0, 0, 129, 129]], np.int32)

    def logits_of(features, skip):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.compat.v1.set_random_seed(0)
            net = build_head(planned, tf.constant(features), None if skip is None else tf.constant(skip), False, boxes=boxes)
            session.run(tf.compat.v1.global_variables_initializer())
            return session.run(net)

    before = logits_of(features, skip)
    features[0, :2], features[0, 7:], features[0, :, :3] = 100, -100, 100
    if skip is not None:
        skip[0, :8], skip[0, 25:], skip[0, :, :12] = 100, -100, 100
    after = logits_of(features, skip)
    stride = 4 if skip is not None else 16
    inside = slice(32 // stride, 96 // stride + 1), slice(48 // stride, 128 // stride + 1)
    np.testing.assert_allclose(after[0][inside], before[0][inside], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after[1], before[1])


def test_a_training_view_says_where_its_image_lies(tmp_path):
    write_scenes(tmp_path / "scenes", 2, 1, size=97)
    recipe = Recipe(4, batch=2, augmentation=Augmentation((129, 129), (0.5, 1.0)))
    model = SegmentationModel(dr.Backbone("resnet_v1_18", output_stride=16, seed=0), SPACE.num_classes, seed=0)
    training = Training(model, open_dataset(tmp_path / "scenes", "train"), None, tmp_path / "out", recipe)
    for position in range(6):
        _, pixels, _, (top, left, bottom, right) = training.training_example(position)
        filled = np.argwhere((pixels != 0).any(axis=-1))
        assert (top, left) == tuple(filled.min(axis=0))
        assert (bottom, right) == tuple(filled.max(axis=0) + 1)


# -- which rule ---------------------------------------------------------------------------------------------------------


def test_a_model_directory_keeps_the_canvas_rule(tmp_path):
    for name, crop in (("own", None), ("windows", (65, 65))):
        model = small_model("aspp", image_pooling_crop=crop)
        save_model(tmp_path / name, model, SPACE_OF_FIVE)
        described = json.loads((tmp_path / name / DESCRIPTION).read_text())
        assert described["canvas"] == (IMAGE if crop is None else PADDED)
        assert load_model(tmp_path / name).head.canvas == described["canvas"]
        assert load_model(tmp_path / name).protocol["canvas"] == described["canvas"]


@pytest.mark.parametrize(
    ("more", "canvas"),
    [
        ({"training": {"recipe": {}}}, IMAGE),
        ({"training": {}}, PADDED),  # converted
        ({"training": {"recipe": {}}, "export": "onnx"}, PADDED),  # a graph of that time
        ({"training": {}, "canvas": IMAGE}, IMAGE),
    ],
)
def test_older_descriptions_get_their_canvas_rule(more, canvas):
    assert canvas_of({"head": {"type": "aspp", "image_pooling": None}, **more}) == canvas


def test_windows_of_a_crop_take_the_whole_canvas():
    with pytest.raises(InputError, match="image_pooling_crop goes with canvas='padded'"):
        plan_head(dr.plan("resnet_v1_18", output_stride=16), 3, image_pooling_crop=(65, 65), canvas=IMAGE)
    with pytest.raises(InputError, match=r"canvas must be one of 'image', 'padded' \(not 'crop'\)"):
        plan_head(dr.plan("resnet_v1_18", output_stride=16), 3, canvas="crop")


@pytest.mark.parametrize(("canvas", "head", "warned"), [(PADDED, "aspp", True), (IMAGE, "aspp", False), (PADDED, "fcn", False)])
def test_a_small_image_is_mentioned_where_the_canvas_counts(canvas, head, warned):
    model = small_model(head, canvas=canvas)
    predictor = Predictor(model.runner("exact"), model.head, Inference(97))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        predictor(np.zeros((90, 97, 3), np.uint8))
        assert not canvas_warnings(caught)
        predictor.many([np.zeros((40, 40, 3), np.uint8)] * 2)
        predictor(np.zeros((40, 40, 3), np.uint8))
    assert len(canvas_warnings(caught)) == warned
    for message in canvas_warnings(caught):
        assert "40x40 pixels fills 17% of its canvas of 97x97" in message
        assert "such as 65" in message


def canvas_warnings(caught):
    return [str(one.message) for one in caught if "of its canvas" in str(one.message)]


@pytest.mark.parametrize(
    ("training", "size"),
    [
        ({}, None),
        ({"validation_size": 257, "validation": None}, None),
        ({"validation_size": 257, "validation": {"images": 3}}, 257),
    ],
)
def test_validation_size_is_read_from_the_training_protocol(training, size):
    assert validation_size(training) == size


@pytest.mark.slow
def test_images_of_one_pixel_and_empty_batch_places_are_run(models):
    """The smallest image, and places of a batch that none fills."""
    runner = models["aspp"].runner("float32")
    found = runner(np.full((2, 129, 129, 3), 200, np.uint8), [(1, 1), (0, 0)], ["labels"])
    assert np.isfinite(runner(np.zeros((1, 1, 1, 3), np.uint8), None, ["cells"])["cells"]).all()
    assert found["labels"][0, 0, 0] < SPACE.num_classes


@pytest.mark.slow
def test_a_bare_image_equals_the_image_on_a_canvas(models):
    """What `model()` gives of a bare image is what a runner gives of it on a canvas."""
    saved = models["decoder"]
    image = np.ascontiguousarray(scenes()[1][0])
    exact = saved.model(dr.preprocess(image[None], saved.preprocessing)).numpy()[0]
    logits = Predictor(saved.runner("float32"), saved.head, Inference(257)).logits(image)
    assert np.abs(logits - exact).max() < 1e-3 * exact.std()


def test_evaluate_and_predict_take_the_canvas_of_validation(tmp_path):
    """A bare `evaluate` and `predict`, as the README has them."""
    write_scenes(tmp_path / "scenes", 1, 2, size=97)
    model = SegmentationModel(load_backbone(SCENES_MODEL, 16), SPACE.num_classes, "aspp", seed=0)
    training = {"validation_size": 97, "validation": {"images": 2}}
    save_model(tmp_path / "model", model, SPACE, training=training)
    common = "--model", str(tmp_path / "model"), "--precision", "float32"
    scenes_folder = str(tmp_path / "scenes")
    assert cli.main(["evaluate", scenes_folder, *common, "--no-report", "--out", str(tmp_path / "scored")]) == 0
    protocol = json.loads((tmp_path / "scored" / "evaluation.json").read_text())["protocol"]
    assert protocol["inference"]["size"] == 97
    assert protocol["system"]["canvas"] == IMAGE
    images = str(tmp_path / "scenes" / "images" / "val")
    assert cli.main(["predict", images, *common, "--out", str(tmp_path / "labels")]) == 0
    assert json.loads((tmp_path / "labels" / "protocol.json").read_text())["inference"]["size"] == 97


def test_converted_models_keep_the_rule_that_they_were_trained_by(tmp_path):
    model = SegmentationModel(dr.Backbone("resnet_v1_18", output_stride=16, seed=0), 5, "aspp", seed=0)
    save_model(tmp_path / "own", model, SPACE_OF_FIVE)
    safetensors.write(tmp_path / "elsewhere.safetensors", model.weights, {})
    for source, canvas in (("own", IMAGE), ("elsewhere.safetensors", PADDED)):
        network = conversion.open_network(str(tmp_path / source), output_stride=16)
        conversion.write(network, "model-dir", tmp_path / "converted")
        assert json.loads((tmp_path / "converted" / DESCRIPTION).read_text())["canvas"] == canvas


def test_masks_leave_residual_sums_inside_the_convolutions():
    """Behind a broadcast TensorFlow's rewriter knows no sizes, and a sum of unknown sizes is an operator of its own."""
    if not keeps_kernels_apart():
        pytest.skip("this TensorFlow fuses nothing")
    sums = {}
    for canvas in (IMAGE, PADDED):
        operations = small_model("aspp", canvas=canvas).runner("float32", engine="tensorflow").graph.get_operations()
        sums[canvas] = sum(one.type == "AddV2" and one.outputs[0].dtype == tf.float32 for one in operations)
    assert sums[IMAGE] == sums[PADDED]
