"""Metrics against the fixture worked by hand and against the evaluators of the field, on random data."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from helpers.datasets import FIXTURE
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dense_resnet.errors import InputError
from segmentation import ConfusionMatrix, metrics


@pytest.fixture(params=[np.uint8, np.int32, np.int64])
def fixture(request):
    """(all images' matrix, each image's) in each type."""
    matrix = ConfusionMatrix(4)
    each = [matrix.update(labels.astype(request.param), predictions.astype(request.param)) for labels, predictions in FIXTURE]
    return matrix.counts, each


def test_metrics_equal_the_fixture_worked_by_hand(fixture):
    counts, each = fixture
    np.testing.assert_allclose(metrics.class_iou(counts), [0.75, 0.5, 0, np.nan])
    assert metrics.averaged_classes(counts) == 3
    for absent, mean in {"exclude": 0.41667, "gt_only": 0.625, "zero": 0.3125, "one": 0.5625}.items():
        assert metrics.mean_iou(counts, absent) == pytest.approx(mean, abs=1e-5)
    assert np.isnan(metrics.mean_iou(counts, "nan"))
    assert metrics.mean_iou(counts, background=False) == pytest.approx(0.25)
    assert metrics.scoped_mean_iou(each, "dataset") == metrics.mean_iou(counts)
    assert metrics.scoped_mean_iou(each, "image") == pytest.approx(0.39583, abs=1e-5)
    assert metrics.scoped_mean_iou(each, "image_class") == pytest.approx(0.4)
    assert metrics.frequency_weighted_iou(counts) == pytest.approx(0.7)
    assert metrics.pixel_accuracy(counts) == pytest.approx(0.73333, abs=1e-5)
    assert metrics.mean_accuracy(counts) == pytest.approx(0.70833, abs=1e-5)


def test_fixture_with_the_ignored_pixel_as_class_0():
    matrix = ConfusionMatrix(4, ignore_label=None)
    for labels, predictions in FIXTURE:
        matrix.update(np.where(labels == 255, 0, labels), predictions)
    assert metrics.mean_iou(matrix.counts) == pytest.approx(0.42308, abs=1e-5)


sides = st.integers(1, 12)
classes = st.integers(1, 6)


@st.composite
def images(draw):
    """(number of classes, labels with some ignored, predictions)."""
    count, shape = draw(classes), (draw(sides), draw(sides))
    labels = draw(arrays(np.uint8, shape, elements=st.sampled_from([*range(count), 255])))
    return count, labels, draw(arrays(np.uint8, shape, elements=st.integers(0, count - 1)))


def by_sets(labels, predictions, count):
    """IoU of each class by sets of pixels: the definition itself."""
    values = []
    for number in range(count):
        truth = {tuple(place) for place in np.argwhere((labels == number) & (labels != 255))}
        found = {tuple(place) for place in np.argwhere((predictions == number) & (labels != 255))}
        values.append(len(truth & found) / len(truth | found) if truth | found else np.nan)
    return values


@given(images())
def test_iou_equals_the_definition_by_sets(case):
    count, labels, predictions = case
    matrix = ConfusionMatrix(count)
    matrix.update(labels, predictions)
    np.testing.assert_allclose(metrics.class_iou(matrix.counts), by_sets(labels, predictions, count))
    assert matrix.counts.sum() == np.count_nonzero(labels != 255)


@given(images(), st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_order_or_class_numbers(case, random):
    count, labels, predictions = case
    whole = ConfusionMatrix(count)
    whole.update(labels, predictions)
    parts = ConfusionMatrix(count)
    rows = list(range(len(labels)))
    random.shuffle(rows)
    for row in rows:
        parts.update(labels[row].astype(np.int64), predictions[row])
    assert np.array_equal(whole.counts, parts.counts)

    order = list(range(count))
    random.shuffle(order)
    renamed = ConfusionMatrix(count)
    renamed.update(np.array([*order, *[255] * (256 - count)])[labels], np.array(order)[predictions])
    assert metrics.mean_iou(renamed.counts) == pytest.approx(metrics.mean_iou(whole.counts), nan_ok=True)

    perfect = ConfusionMatrix(count)
    perfect.update(labels, np.where(labels == 255, 0, labels))
    assert metrics.mean_iou(perfect.counts) == (1 if (labels != 255).any() else pytest.approx(np.nan, nan_ok=True))


@pytest.mark.parametrize("seed", range(20))
def test_tensorflows_mean_iou(seed):
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, 7, (2, 31, 17))
    labels[labels == 3] = 2  # a class that is predicted only
    counts = ConfusionMatrix(8).update(labels, predictions)
    assert metrics.mean_iou(counts) == pytest.approx(keras_mean_iou(labels, predictions, 8), abs=1e-6)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        value, update = tf.compat.v1.metrics.mean_iou(tf.constant(labels), tf.constant(predictions), 8)
        session.run(tf.compat.v1.local_variables_initializer())
        session.run(update)
        assert metrics.mean_iou(counts) == pytest.approx(session.run(value), abs=1e-6)


def keras_mean_iou(labels, predictions, count):
    """Keras' figure."""
    metric = tf.keras.metrics.MeanIoU(count)
    metric.update_state(labels, predictions)
    return float(metric.result())


def test_keras_silently_drops_labels_outside_and_we_do_not():
    labels, predictions = np.array([[0, 0, 9]]), np.array([[0, 0, 1]])
    with contextlib.suppress(tf.errors.InvalidArgumentError):  # TensorFlow 2.16's own error; later ones score 1.0
        assert keras_mean_iou(labels, predictions, 2) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(
        InputError, match=r"label value 9 \(1 px, first at y=0, x=2\) is outside 0\.\.1 and is not the ignore label 255"
    ):
        ConfusionMatrix(2).update(labels, predictions)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_values_outside_the_classes_are_refused_and_not_counted(dtype):
    matrix = ConfusionMatrix(3)
    good = np.zeros((4, 5), dtype)
    bad = good.copy()
    bad[1:3, 2] = 7
    with pytest.raises(InputError, match=r"prediction value 7 \(2 px, first at y=1, x=2\) is outside 0\.\.2\."):
        matrix.update(good, bad)
    with pytest.raises(InputError, match=r"label value 7 \(2 px, first at y=1, x=2\) is outside 0\.\.2 and is not the ignore"):
        matrix.update(bad, good)
    hidden = np.full((4, 5), 255, dtype)
    with pytest.raises(InputError, match="prediction value 7"):
        matrix.update(hidden, bad)
    if dtype == np.int32:
        with pytest.raises(InputError, match=r"label value -1 \(2 px"):
            matrix.update(np.where(bad == 7, -1, 0).astype(dtype), good)
    assert matrix.counts.sum() == 0


def test_invalid_shapes_and_types_are_refused():
    matrix = ConfusionMatrix(3)
    with pytest.raises(InputError, match=r"the label has shape \[2, 3\], the prediction \[3, 2\]"):
        matrix.update(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(InputError, match=r"a prediction must contain integers \(not float64\)"):
        matrix.update(np.zeros((2, 3), int), np.zeros((2, 3)))
    with pytest.raises(InputError, match="num_classes must be a positive integer"):
        ConfusionMatrix(0)
    with pytest.raises(InputError, match="absent must be one of"):
        metrics.mean_iou(np.eye(3, dtype=int), "ignore")
    with pytest.raises(InputError, match="counts must be a square integer matrix"):
        metrics.mean_iou(np.eye(3))
    with pytest.raises(InputError, match=r"counts must be a square integer matrix .*\. Pass its \.counts\.$"):
        metrics.mean_iou(ConfusionMatrix(3))
    with pytest.raises(InputError, match=r"counts must not be negative \(not -1\)"):
        metrics.pixel_accuracy([[3, -1], [0, 2]])


@pytest.mark.parametrize(("arguments", "ignore_label"), [((847,), 255), ((256,), 255), ((3, 0), 0), ((3, 2), 2)])
def test_an_ignore_label_that_is_a_class(arguments, ignore_label):
    """Of many classes the default is one, and would be lost without a word."""
    num_classes, *_ = arguments
    message = (
        rf"ignore_label {ignore_label} is one of the {num_classes} classes, .* above {num_classes - 1}, or ignore_label=None"
    )
    with pytest.raises(InputError, match=message):
        ConfusionMatrix(*arguments)
    label = np.full((2, 2), num_classes - 1)
    for other in (None, -1, num_classes):
        assert ConfusionMatrix(num_classes, other).update(label, label).sum() == 4


def test_totals_beyond_float32_and_int32():
    matrix = ConfusionMatrix(2)
    matrix.counts[:] = [[2**40, 1], [0, 2**24 + 1]]
    matrix.update(np.array([[1]], np.uint8), np.array([[1]], np.uint8))
    assert matrix.counts[1, 1] == 2**24 + 2
    assert metrics.class_iou(matrix.counts)[0] == 2**40 / (2**40 + 1)
    big = np.zeros((2**12, 2**13), np.uint8)  # more pixels than a float32 counts exactly
    assert ConfusionMatrix(2).update(big, big)[0, 0] == 2**25


def test_metrics_without_pixels_are_nan():
    counts = ConfusionMatrix(3).update(np.full((2, 2), 255), np.zeros((2, 2), int))
    for metric in (metrics.mean_iou, metrics.pixel_accuracy, metrics.mean_accuracy, metrics.frequency_weighted_iou):
        assert np.isnan(metric(counts))


@pytest.mark.parametrize("absent", metrics.ABSENT)
def test_the_background_alone_leaves_nothing_to_average(absent):
    """And no warning of NumPy's."""
    assert np.isnan(metrics.mean_iou(np.array([[5]]), absent, background=False))
