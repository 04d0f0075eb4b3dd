"""The loss against Keras' and against loops over pixels."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_resnet.errors import InputError
from segmentation.training.losses import cross_entropy

IGNORED = 255


def sample(seed, classes=4, size=(2, 5, 6), ignored=0.3):
    """Logits and labels, some of them ignored."""
    generator = np.random.default_rng(seed)
    logits = 3 * generator.standard_normal((*size, classes)).astype(np.float32)
    labels = generator.integers(0, classes, size)
    labels[generator.random(size) < ignored] = IGNORED
    return logits, labels


def literal(logits, labels, weights=None, hardest=1.0):
    """(sum, number) by the definition, pixel by pixel."""
    total, number = 0.0, 0
    for own_logits, own_labels in zip(logits.astype(np.float64), labels, strict=True):
        pixels = []
        for values, label in zip(own_logits.reshape(-1, logits.shape[-1]), own_labels.ravel(), strict=True):
            if label != IGNORED:
                loss = math.log(sum(math.exp(value) for value in values)) - values[label]
                pixels.append(loss * (1 if weights is None else weights[label]))
        kept = sorted(pixels, reverse=True)[: math.ceil(hardest * len(pixels) - 1e-6)]
        total, number = total + sum(kept), number + len(kept)
    return total, number


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.0, 1.0)])
@pytest.mark.parametrize("hardest", [1.0, 0.3, 0.05])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), ignored=st.sampled_from([0.0, 0.3, 0.95]))
def test_loss_equals_the_definition(weights, hardest, seed, ignored):
    if weights and hardest < 1:
        weights = (0.5, 2.0, 0.1, 1.0)  # a weight of 0 makes ties
    logits, labels = sample(seed, ignored=ignored)
    total, number = cross_entropy(logits, labels, IGNORED, weights, hardest)
    expected, count = literal(logits, labels, weights, hardest)
    assert float(number) == count
    assert float(total) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_loss_equals_keras():
    logits, labels = sample(0)
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED, reduction="none")
    total, number = cross_entropy(logits, labels, IGNORED)
    assert float(total) == pytest.approx(float(tf.reduce_sum(keras(labels, logits))), rel=1e-6)
    assert float(number) == np.count_nonzero(labels != IGNORED)


@pytest.mark.parametrize("hardest", [1.0, 0.4])
def test_ignored_pixels_change_nothing(hardest):
    logits, labels = sample(1)
    logits = tf.Variable(logits)
    with tf.GradientTape() as tape:
        total, _ = cross_entropy(logits, labels, IGNORED, hardest=hardest)
    gradient = tape.gradient(total, logits).numpy()
    assert not gradient[labels == IGNORED].any()
    counted = gradient[labels != IGNORED].any(axis=-1)
    assert counted.all() if hardest == 1 else 0.4 <= counted.mean() < 0.5
    others = np.where((labels == IGNORED)[..., None], 1e9, logits.numpy())
    assert float(cross_entropy(others, labels, IGNORED, hardest=hardest)[0]) == float(total)


def test_without_an_ignore_label_every_pixel_counts():
    logits, labels = sample(2, ignored=0)
    assert float(cross_entropy(logits, labels, None)[1]) == labels.size


@pytest.mark.parametrize("hardest", [1.0, 0.5])
def test_loss_of_ignored_pixels_alone_is_0(hardest):
    logits = tf.Variable(sample(3)[0])
    with tf.GradientTape() as tape:
        total, number = cross_entropy(logits, np.full((2, 5, 6), IGNORED), IGNORED, hardest=hardest)
        loss = total / tf.maximum(number, 1.0)
    assert float(loss) == float(number) == 0
    assert not tape.gradient(loss, logits).numpy().any()


def test_the_hardest_are_taken_within_each_image():
    """An easy image keeps its share, however hard the other is."""
    logits = np.zeros((2, 1, 4, 2), np.float32)
    logits[0, 0, :, 0] = [0, 1, 2, 3]  # losses fall from left to right
    logits[1, 0, :, 0] = [-10, -11, -12, -13]
    with tf.GradientTape() as tape:
        tape.watch(inputs := tf.constant(logits))
        total, number = cross_entropy(inputs, np.zeros((2, 1, 4), int), IGNORED, hardest=0.5)
    assert float(number) == 4
    counted = tape.gradient(total, inputs).numpy().any(axis=-1)[:, 0]
    assert counted.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_ties_at_the_threshold_all_count():
    """Otherwise which of them counts would be chance."""
    total, number = cross_entropy(tf.zeros([1, 2, 4, 2]), np.zeros((1, 2, 4), int), IGNORED, hardest=0.25)
    assert float(number) == 8
    assert float(total) == pytest.approx(8 * math.log(2))


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_the_sum_is_float32_whatever_the_logits(dtype):
    logits, labels = sample(4, size=(1, 80, 80))
    low = tf.cast(logits, dtype)
    total, number = cross_entropy(low, labels, IGNORED)
    assert total.dtype == number.dtype == tf.float32
    expected, count = literal(tf.cast(low, tf.float32).numpy(), labels)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(number) == count  # above 256, bfloat16 has no odd numbers


def test_extreme_logits_stay_finite():
    logits = tf.Variable([[[[1e30, -1e30], [-1e4, 1e4]]]])
    with tf.GradientTape() as tape:
        total, _ = cross_entropy(logits, np.array([[[0, 0]]]), IGNORED)
    assert float(total) == pytest.approx(2e4)
    assert np.isfinite(tape.gradient(total, logits).numpy()).all()


@pytest.mark.parametrize("hardest", [0, 1.1, -1, float("nan")])
def test_invalid_shares_are_refused(hardest):
    with pytest.raises(InputError, match="hardest must be a share above 0 and up to 1"):
        cross_entropy(tf.zeros([1, 1, 1, 2]), np.zeros((1, 1, 1), int), IGNORED, hardest=hardest)
