"""Every preset against the evaluator that it is named after, on random label maps, and where those evaluators go wrong.

Those that can be installed are called; the others' few lines are written out, with the file that they come from.
"""

import copy
import functools
import importlib

import numpy as np
import pytest
import tensorflow as tf
from helpers.references import mmseg_areas

from dense_resnet.errors import InputError
from segmentation import metrics
from segmentation.metrics import ABSENT
from segmentation.metrics.confusion import image_counts
from segmentation.metrics.presets import PRESETS, Switches, mean_iou_under, preset

IGNORE = 255
NUM_CLASSES = 7
SETS = 300


@functools.cache
def random_set(seed, num_classes=NUM_CLASSES, ignored=True):
    """Some images, (labels, predictions) each: classes that are nowhere, that only one of the two has, ignored pixels."""
    generator = np.random.default_rng(seed)
    images = []
    true, found = (generator.permutation(num_classes)[: generator.integers(1, num_classes + 1)] for _ in range(2))
    for _ in range(generator.integers(1, 5)):
        shape = generator.integers(2, 24, 2)
        labels, predictions = generator.choice(true, shape), generator.choice(found, shape)
        agreed = generator.random(shape) < generator.random()
        predictions[agreed & np.isin(labels, found)] = labels[agreed & np.isin(labels, found)]
        if ignored:
            labels[generator.random(shape) < 0.2] = IGNORE
        images.append((labels, predictions))
    return images


def matrices_of(images, num_classes=NUM_CLASSES):
    return [image_counts(labels, predictions, num_classes, IGNORE) for labels, predictions in images]


def test_the_random_sets_hold_every_case():
    totals = [sum(matrices_of(random_set(seed))) for seed in range(SETS)]
    true, found = (np.array([total.sum(axis=axis) > 0 for total in totals]) for axis in (1, 0))
    for case in (true & found, true & ~found, ~true & found, ~true & ~found):
        assert case.any(axis=1).sum() > SETS / 4
    values = {
        name: [mean_iou_under(matrices_of(random_set(seed)), switches) for seed in range(SETS)]
        for name, switches in PRESETS.items()
    }
    told_apart = ("voc", "cityscapes", "detectron2", "ade20k", "torchmetrics")
    for number, one in enumerate(told_apart):
        for other in told_apart[:number]:
            assert np.mean(np.isclose(values[one], values[other], equal_nan=True)) < 0.75, (one, other)


def voc(images):
    """VOCevalseg.m of the PASCAL VOC development kit."""
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES))
    for labels, predictions in images:
        inside = labels < IGNORE
        joined = 1 + labels[inside] + predictions[inside] * NUM_CLASSES
        counts += np.histogram(joined, np.arange(1, NUM_CLASSES**2 + 2))[0].reshape(counts.shape).T
    accuracies = np.zeros(NUM_CLASSES)
    with np.errstate(invalid="ignore"):
        for number in range(NUM_CLASSES):
            true, found, both = counts[number].sum(), counts[:, number].sum(), counts[number, number]
            accuracies[number] = both / (true + found - both)
    return np.mean(accuracies)


def detectron2(images):
    """SemSegEvaluator in detectron2/evaluation/sem_seg_evaluation.py: rows are predictions there."""
    counts = np.zeros((NUM_CLASSES + 1, NUM_CLASSES + 1), np.int64)
    for labels, predictions in images:
        true = np.where(labels == IGNORE, NUM_CLASSES, labels)
        joined = (NUM_CLASSES + 1) * predictions.reshape(-1) + true.reshape(-1)
        counts += np.bincount(joined, minlength=counts.size).reshape(counts.shape)
    iou = np.full(NUM_CLASSES, np.nan)
    right = counts.diagonal()[:-1].astype(float)
    true, found = counts[:-1, :-1].sum(axis=0).astype(float), counts[:-1, :-1].sum(axis=1).astype(float)
    union = true + found - right
    valid = np.logical_and(true > 0, union > 0)
    iou[valid] = right[valid] / union[valid]
    return np.sum(iou[valid]) / np.sum(valid)


def ade20k(images):
    """demoEvaluation.m and intersectionAndUnion.m of CSAILVision/sceneparsing: 0 is unlabelled, classes start at 1."""
    intersections, unions = [], []
    for labels, predictions in images:
        true = np.where(labels == IGNORE, 0, labels + 1).ravel()
        found = (predictions.ravel() + 1) * (true > 0)
        both = found * (found == true)
        own, other, shared = (np.bincount(values, minlength=NUM_CLASSES + 1) for values in (true, found, both))
        unions.append((own + other - shared)[1:])
        intersections.append(shared[1:])
    eps = np.finfo(float).eps
    return np.mean(np.sum(intersections, axis=0) / np.sum(eps + np.array(unions), axis=0))


def mmseg(images):
    """compute_metrics in the same file."""
    right, union = (sum(areas) for areas in zip(*(mmseg_areas(*pair, NUM_CLASSES) for pair in images), strict=True))
    return np.nanmean((right / union).numpy())


@pytest.mark.parametrize(
    ("name", "evaluator", "tolerance"),
    [("voc", voc, 1e-12), ("detectron2", detectron2, 1e-12), ("ade20k", ade20k, 1e-12), ("mmseg", mmseg, 1e-6)],
)
def test_presets_equal_evaluators_written_in_numpy(name, evaluator, tolerance):
    for seed in range(SETS):
        images = random_set(seed)
        assert mean_iou_under(matrices_of(images), preset(name)) == pytest.approx(
            evaluator(images), abs=tolerance, rel=0, nan_ok=True
        )


def test_keras_preset_equals_keras():
    metric = tf.keras.metrics.MeanIoU(NUM_CLASSES, ignore_class=IGNORE)
    for seed in range(SETS):
        metric.reset_state()
        images = random_set(seed)
        joined = [np.concatenate([image[part].ravel() for image in images]) for part in (0, 1)]
        for part in np.array_split(np.arange(joined[0].size), 2) if seed < 20 else [slice(None)]:
            metric.update_state(joined[0][part], joined[1][part])
        assert mean_iou_under(matrices_of(images), preset("keras")) == pytest.approx(float(metric.result()), abs=1e-6, rel=0)


def deeplab_graph():
    """(labels, predictions, mean IoU, each class's IoU, their updates, reset) as research/deeplab/eval.py builds them."""
    v1 = tf.compat.v1
    raw, predictions = v1.placeholder(tf.int64, [None]), v1.placeholder(tf.int64, [None])
    weights = v1.to_float(tf.not_equal(raw, IGNORE))
    labels = tf.where(tf.equal(raw, IGNORE), tf.zeros_like(raw), raw)
    mean, update = v1.metrics.mean_iou(labels, predictions, NUM_CLASSES, weights=weights)
    each, updates = [], [update]
    for number in range(NUM_CLASSES):
        pair = {"labels": tf.equal(labels, number), "predictions": tf.equal(predictions, number), "weights": weights}
        right, wrong, missed = (
            v1.metrics.true_positives(**pair),
            v1.metrics.false_positives(**pair),
            v1.metrics.false_negatives(**pair),
        )
        tp, fp, fn = right[0], wrong[0], missed[0]
        each.append(tf.where(tf.greater(tp + fn, 0.0), tp / (tp + fn + fp), tf.constant(np.nan)))
        updates += [right[1], wrong[1], missed[1]]
    return raw, predictions, mean, each, updates, v1.local_variables_initializer()


def test_tf_and_deeplab_presets_equal_tensorflow():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        labels, predictions, mean, each, updates, reset = deeplab_graph()
        disagreements = 0
        for seed in range(SETS):
            images = random_set(seed)
            session.run(reset)
            for own, other in images:
                session.run(updates, {labels: own.ravel(), predictions: other.ravel()})
            value, listed = session.run([mean, each])
            matrices = matrices_of(images)
            for name in ("tf", "deeplab"):
                assert mean_iou_under(matrices, preset(name)) == pytest.approx(value, abs=1e-6, rel=0)
            # DeepLab's list of classes is that of another convention than its mean
            np.testing.assert_allclose(listed, metrics.class_iou(sum(matrices), "gt_only"), atol=1e-6)
            disagreements += not np.isclose(np.nanmean(listed), value)
        assert disagreements > SETS / 4


def test_cityscapes_preset_equals_cityscapesscripts(tmp_path):
    evaluation = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    from PIL import Image

    args = copy.copy(evaluation.args)
    args.evalInstLevelScore = False
    ids = {label.id: label.trainId for label in evaluation.labels if label.id >= 0}
    classes = {train: number for number, train in ids.items() if train != IGNORE}
    void = [number for number, train in ids.items() if train == IGNORE]
    assert len(classes) == 19
    to_id = np.array([classes[train] for train in range(19)])
    for seed in range(SETS):
        generator = np.random.default_rng(seed)
        counts = evaluation.generateMatrix(args)
        images = random_set(seed, num_classes=19)
        for labels, predictions in images:
            true = np.where(labels == IGNORE, generator.choice(void, labels.shape), to_id[np.minimum(labels, 18)])
            for name, values in (("true", true), ("found", to_id[predictions])):
                Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"{name}.png", compress_level=0)
            evaluation.evaluatePair(str(tmp_path / "found.png"), str(tmp_path / "true.png"), counts, {}, {}, args)
        scores = {number: evaluation.getIouScoreForLabel(number, counts, args) for number in args.evalLabels}
        matrices = matrices_of(images, 19)
        assert mean_iou_under(matrices, preset("cityscapes")) == pytest.approx(
            evaluation.getScoreAverage(scores, args), abs=1e-12, rel=0
        )
        np.testing.assert_allclose(metrics.class_iou(sum(matrices)), [scores[number] for number in to_id], rtol=0, atol=1e-12)


def torchmetrics_mean_iou(images, num_classes, background=True):
    torch = importlib.import_module("torch")
    segmentation = importlib.import_module("torchmetrics.segmentation")
    metric = segmentation.MeanIoU(num_classes, include_background=background, input_format="index")
    for labels, predictions in images:
        metric.update(torch.from_numpy(predictions[None]), torch.from_numpy(labels[None]))
    return float(metric.compute())


@pytest.mark.parametrize("background", [True, False])
def test_torchmetrics_preset_equals_torchmetrics(background):
    switches = Switches(scope=preset("torchmetrics").scope, background=background)
    for seed in range(SETS):
        images = random_set(seed, ignored=False)  # it cannot ignore
        own = mean_iou_under(matrices_of(images), switches)
        assert own == pytest.approx(torchmetrics_mean_iou(images, NUM_CLASSES, background), abs=1e-6, rel=0, nan_ok=True)


# where other evaluators go wrong; Keras' dropping of values outside is in tests/segmentation/metrics/test_metrics.py


def test_torchmetrics_averages_over_images_and_classes_at_once():
    images = [(np.array([[0, 0, 0, 0, 1, 1, 1]]), np.array([[0, 0, 0, 1, 1, 1, 2]]))]  # EVALUATION's fixture
    images += [(np.zeros((1, 8), int), np.array([[0, 0, 0, 0, 0, 0, 2, 2]]))]
    assert torchmetrics_mean_iou(images, 4) == pytest.approx(0.4)
    matrices = matrices_of(images, 4)
    assert mean_iou_under(matrices, preset("torchmetrics")) == pytest.approx(0.4)
    assert mean_iou_under(matrices, Switches()) == pytest.approx(0.41667, abs=1e-5)


def test_tf_keras_totals_stop_at_2_to_the_24():
    metric = importlib.import_module("tf_keras").metrics.MeanIoU(2)
    many = np.array([[2**24, 0], [0, 0]])
    metric.total_cm.assign(many)
    metric.update_state([0], [0])
    assert metric.total_cm.numpy()[0, 0] == 2**24
    assert (many + image_counts(np.array([[0]]), np.array([[0]]), 2, None))[0, 0] == 2**24 + 1


def test_mmsegs_totals_stop_at_2_to_the_24():
    pixel = np.zeros((1, 1), np.int64)
    right, _ = mmseg_areas(pixel, pixel, 2)
    assert float(right[0]) == 1
    assert float((right * 2**24 + right)[0]) == 2**24


def test_smps_iou_score_gives_absent_classes_1():
    """segmentation_models_pytorch.metrics.iou_score, macro: 0 / 0 is its zero_division, 1.0."""
    for seed in range(50):
        matrices = matrices_of(random_set(seed))
        total = sum(matrices)
        right = total.diagonal()
        union = total.sum(axis=0) + total.sum(axis=1) - right
        score = np.where(union == 0, 1.0, right / np.maximum(union, 1)).mean()
        assert mean_iou_under(matrices, Switches(absent="one")) == pytest.approx(score, abs=1e-12)


def test_tensorflows_argmax_takes_a_pixel_of_nan_for_class_0():
    assert int(tf.argmax(tf.fill([5], np.nan))) == 0


def test_presets_by_name():
    assert {name: switches.absent for name, switches in PRESETS.items() if switches.absent != "exclude"} == {
        "voc": "nan",
        "detectron2": "gt_only",
        "ade20k": "zero",
    }
    assert preset("deeplab") == Switches("exclude", "dataset", True, "input", "align_corners")
    assert [name for name, switches in PRESETS.items() if switches.size == "input"] == ["deeplab"]
    with pytest.raises(InputError, match="a preset must be one of voc, cityscapes, .*, deeplab \\(not 'coco'\\)"):
        preset("coco")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"absent": "ignore"}, r"absent must be one of exclude, gt_only, zero, one, nan \(not 'ignore'\)"),
        ({"scope": "class"}, r"scope must be one of dataset, image, image_class \(not 'class'\)"),
        ({"size": "513"}, r"size must be one of native, input \(not '513'\)"),
        ({"upsample": "bilinear"}, r"upsample must be one of align_corners, half_pixel, legacy \(not 'bilinear'\)"),
        ({"background": "exclude"}, r"background must be True or False \(not 'exclude'\)"),
    ],
)
def test_invalid_switches_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Switches(**wrong)


def test_every_switch_reaches_the_mean():
    matrices = matrices_of(random_set(3))
    for absent in ABSENT:
        for scope in metrics.SCOPES:
            for background in (True, False):
                expected = metrics.scoped_mean_iou(matrices, scope, absent, background=background)
                assert mean_iou_under(matrices, Switches(absent, scope, background)) == pytest.approx(expected, nan_ok=True)
