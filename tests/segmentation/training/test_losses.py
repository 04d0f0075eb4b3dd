"""The loss against Keras' and against loops over pixels."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_resnet.errors import InputError
from segmentation.training.losses import compute_loss, cross_entropy, dice, focal, lovasz_softmax
from segmentation.training.recipe import CE, CE_DICE, LOSSES

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


# -- focal, Dice, Lovász ----------------------------------------------------------------------------------------------


def mean(loss):
    return float(loss.total / loss.count)


def test_focal_equals_keras():
    logits, labels = sample(3, ignored=0)
    keras = tf.keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=2.0, from_logits=True)
    assert mean(focal(logits, labels, None)) == pytest.approx(float(keras(tf.one_hot(labels, 4), logits)), rel=1e-5)


def test_focal_is_weighted_by_the_pixels_classes():
    logits, labels = sample(4, ignored=0)
    one, two = (float(focal(logits, np.full_like(labels, 2), None, weights).total) for weights in (None, (1.0, 1.0, 3.0, 1.0)))
    assert two == pytest.approx(3 * one, rel=1e-6)


@pytest.fixture(scope="module")
def kornia():
    return pytest.importorskip("kornia.losses"), pytest.importorskip("torch")


def test_dice_equals_kornia(kornia):
    losses, torch = kornia
    logits, labels = sample(5, ignored=0)
    assert all(len(np.unique(image)) == 4 for image in labels)  # kornia averages over absent classes too
    images = [losses.dice_loss(torch.from_numpy(a.transpose(2, 0, 1)[None].copy()), torch.from_numpy(b[None]), "macro")
              for a, b in zip(logits, labels, strict=True)]  # fmt: skip
    assert mean(dice(logits, labels, None)) == pytest.approx(float(sum(images) / 2), rel=1e-5)


def test_lovasz_and_its_gradient_equal_kornia(kornia):
    losses, torch = kornia
    logits, labels = sample(6, ignored=0)
    theirs = torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()).requires_grad_()
    loss = losses.lovasz_softmax_loss(theirs, torch.from_numpy(labels))
    loss.backward()
    ours = tf.Variable(logits)
    with tf.GradientTape() as tape:
        own = lovasz_softmax(ours, labels, None)
        value = own.total / own.count
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(value, ours), theirs.grad.numpy().transpose(0, 2, 3, 1), atol=1e-7)


def test_lovasz_of_sure_predictions_is_one_minus_iou():
    logits, labels = sample(7)
    predicted = logits.argmax(-1)
    total = 0.0
    for own, label in zip(predicted, labels, strict=True):
        valid = label != IGNORED
        ious = [
            np.sum((own == index) & (label == index)) / np.sum(valid & ((own == index) | (label == index)))
            for index in np.unique(label[valid])
        ]
        total += 1 - np.mean(ious)
    assert float(lovasz_softmax(1e4 * logits, labels, IGNORED).total) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("loss", [focal, dice, lovasz_softmax])
def test_ignored_pixels_change_no_loss(loss):
    logits, labels = sample(8)
    logits = tf.Variable(logits)
    with tf.GradientTape() as tape:
        total, _ = loss(logits, labels, IGNORED)
    assert not tape.gradient(total, logits).numpy()[labels == IGNORED].any()
    others = np.where((labels == IGNORED)[..., None], 7 * logits.numpy()[..., ::-1], logits.numpy())
    assert float(loss(others, labels, IGNORED).total) == pytest.approx(float(total), rel=1e-6)


@pytest.mark.parametrize("loss", [dice, lovasz_softmax])
def test_images_without_a_labeled_pixel_are_not_counted(loss):
    logits, labels = sample(9)
    labels[1] = IGNORED
    alone = loss(logits[:1], labels[:1], IGNORED)
    both = loss(logits, labels, IGNORED)
    assert float(both.count) == 1
    assert float(both.total) == pytest.approx(float(alone.total), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_parts_of_a_batch_add_up(name):
    """As several devices add them."""
    logits, labels = sample(10, size=(4, 5, 6))
    whole = compute_loss(name, logits, labels, IGNORED)
    halves = [compute_loss(name, logits[part], labels[part], IGNORED) for part in (slice(2), slice(2, 4))]
    for term, one, two in zip(whole, *halves, strict=True):
        assert float(term.total) == pytest.approx(float(one.total + two.total), rel=1e-5)
        assert float(term.count) == float(one.count + two.count)
    assert len(whole) == (2 if name == CE_DICE else 1)


def test_class_weights_and_hard_pixels_reach_cross_entropy():
    logits, labels = sample(11)
    weights = (1.0, 2.0, 3.0, 0.5)
    for name in (CE, CE_DICE):
        term = compute_loss(name, logits, labels, IGNORED, weights, 0.5)[0]
        assert float(term.total) == float(cross_entropy(logits, labels, IGNORED, weights, 0.5).total)
