"""Boundary IoU against the authors' own procedure, trimaps against the definition, pixel by pixel."""

import itertools
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dense_resnet.errors import InputError
from segmentation.metrics.boundaries import (
    TRIMAP_WIDTHS,
    boundary_counts,
    boundary_iou,
    mean_boundary_iou,
    trimap_counts,
    trimap_mean_iou,
)


def authors_boundary(mask, dilation_ratio=0.02):
    """mask_to_boundary of github.com/bowenc0221/boundary-iou-api, step by step: the mask less d erosions by 3x3."""
    distance = max(1, round(dilation_ratio * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    eroded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    for _ in range(distance):
        eroded = cv2.erode(eroded, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (eroded[1:-1, 1:-1] == 0)


def authors_counts(labels, predictions, num_classes, ignore_label, dilation_ratio=0.02):
    """The same for each class, both masks ending where the ground truth is to be ignored."""
    valid = labels != ignore_label
    counts = []
    for number in range(num_classes):
        true = authors_boundary((labels == number) & valid, dilation_ratio)
        found = authors_boundary((predictions == number) & valid, dilation_ratio)
        counts.append([(true & found).sum(), true.sum(), found.sum()])
    return np.array(counts)


def scene(shape, num_classes, seed, ignore_label=255):
    """(labels, predictions): blobs, some ignored, and the same blobs elsewhere with specks."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, num_classes, (7, 6)).astype(np.float32)
    predictions = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
    labels = np.roll(predictions, generator.integers(-5, 6, 2), (0, 1))
    labels[generator.random(shape) < 0.002] = ignore_label
    labels[: shape[0] // 5, -(shape[1] // 4) :] = ignore_label
    predictions[generator.random(shape) < 0.002] = 0
    return labels, predictions


@pytest.mark.parametrize("shape", [(513, 513), (120, 161), (60, 400), (1, 90), (20, 20)])
@pytest.mark.parametrize("dilation_ratio", [0.02, 0.005])
def test_boundary_counts_equal_the_authors_code(shape, dilation_ratio):
    for seed in range(3):
        labels, predictions = scene(shape, 5, seed)
        counts = boundary_counts(labels, predictions, 6, 255, dilation_ratio)
        assert counts.dtype == np.int64
        assert np.array_equal(counts, authors_counts(labels, predictions, 6, 255, dilation_ratio))
        assert counts[:5].any()
        assert not counts[5].any()


@pytest.mark.parametrize(
    ("dtype", "num_classes", "ignore_label"),
    [
        (np.uint8, 5, 255),
        (np.uint8, 254, 255),
        (np.uint8, 255, 255),  # with what is ignored, all values of a byte
        (np.uint8, 256, None),
        (np.uint8, 300, None),
        (np.int32, 300, 65535),
        (np.int16, 5, -1),
        (np.int64, 5, 1000),
        (np.uint8, 5, 3),  # a class that is not to count
    ],
)
def test_counts_are_equal_for_all_types_and_ignore_labels(dtype, num_classes, ignore_label):
    most = min(num_classes, int(np.iinfo(dtype).max) + 1)
    labels, predictions = scene((40, 45), most, seed=3, ignore_label=0 if ignore_label is None else ignore_label)
    labels[5:20, 5:25] = most - 1
    predictions[8:24, 8:25] = most - 1
    labels, predictions = labels.astype(dtype), predictions.astype(dtype)
    counts = boundary_counts(labels, predictions, num_classes, ignore_label)
    assert np.array_equal(counts, authors_counts(labels, predictions, num_classes, ignore_label))
    assert counts[most - 1].all()
    counts = trimap_counts(labels, predictions, num_classes, ignore_label)
    assert np.array_equal(counts[3], by_hand(labels, predictions, num_classes, ignore_label, TRIMAP_WIDTHS[3]))


def by_hand(labels, predictions, num_classes, ignore_label, width):
    """The counts within one width, from the definition: the edges' pixels one by one."""
    height, breadth = labels.shape
    touching = set()
    for y, x in itertools.product(range(height), range(breadth)):
        for other in ((y + 1, x), (y, x + 1)):
            if other[0] < height and other[1] < breadth and labels[y, x] != labels[other]:
                touching |= {(y, x), other}
    counts = np.zeros((num_classes, 3), np.int64)
    for y, x in itertools.product(range(height), range(breadth)):
        square = min(((y - v) ** 2 + (x - u) ** 2 for v, u in touching), default=math.inf)
        if square <= (width - 1) ** 2 and labels[y, x] != ignore_label:
            counts[labels[y, x], 0] += labels[y, x] == predictions[y, x]
            counts[labels[y, x], 1] += 1
            counts[predictions[y, x], 2] += 1
    return counts


sides = st.integers(1, 14)


@st.composite
def images(draw):
    """(number of classes, labels with some ignored, predictions)."""
    count, shape = draw(st.integers(1, 4)), (draw(sides), draw(sides))
    labels = draw(arrays(np.uint8, shape, elements=st.sampled_from([*range(count), 255]), fill=st.just(0)))
    return count, labels, draw(arrays(np.uint8, shape, elements=st.integers(0, count - 1), fill=st.just(0)))


@given(images(), st.sampled_from([0.02, 0.1, 0.2, 0.5]))
def test_boundaries_pixel_by_pixel(case, dilation_ratio):
    count, labels, predictions = case
    height, width = labels.shape
    distance = max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))

    def on_boundary(values, y, x):
        around = itertools.product(range(y - distance, y + distance + 1), range(x - distance, x + distance + 1))
        inside = [0 <= v < height and 0 <= u < width and values[v, u] == values[y, x] for v, u in around]
        return not all(inside)

    ignored = labels == 255
    counts = np.zeros((count, 3), np.int64)
    found = np.where(ignored, 255, predictions)
    for y, x in np.argwhere(~ignored):
        true, same = on_boundary(labels, y, x), on_boundary(found, y, x)
        counts[labels[y, x], 0] += true and same and labels[y, x] == found[y, x]
        counts[labels[y, x], 1] += true
        counts[found[y, x], 2] += same
    assert np.array_equal(boundary_counts(labels, predictions, count, 255, dilation_ratio), counts)


@given(images())
def test_trimaps_pixel_by_pixel(case):
    count, labels, predictions = case
    counts = trimap_counts(labels, predictions, count, 255)
    for width, own in zip(TRIMAP_WIDTHS, counts, strict=True):
        assert np.array_equal(own, by_hand(labels, predictions, count, 255, width))


def test_trimap_widths_reach_as_far_as_they_say():
    labels = np.zeros((3, 200), np.uint8)
    labels[:, 100:] = 1
    counts = trimap_counts(labels, labels, 2, 255)
    for width, own in zip(TRIMAP_WIDTHS, counts, strict=True):
        assert own.tolist() == [[3 * width] * 3] * 2

    corner = np.zeros((100, 100), np.uint8)
    corner[0, 0] = 1  # distances that are no integers: to the pixels (0, 1) and (1, 0)
    y, x = np.mgrid[:100, :100]
    nearest = 1 + np.sqrt(np.minimum(y**2 + (x - 1) ** 2, (y - 1) ** 2 + x**2))
    nearest[0, 0] = 1
    counts = trimap_counts(corner, corner, 2, 255)
    assert counts[:, :, 1].sum(axis=1).tolist() == [np.count_nonzero(nearest <= width + 1e-9) for width in TRIMAP_WIDTHS]


def test_a_large_image_of_one_class_has_no_trimap():
    labels = np.full((600, 700), 2, np.uint8)
    counts = trimap_counts(labels, labels, 3, 255)
    assert counts.shape == (len(TRIMAP_WIDTHS), 3, 3)
    assert not counts.any()
    assert np.isnan(trimap_mean_iou(counts)).all()
    counts = boundary_counts(labels, labels, 3, 255)  # the image's own border is a boundary
    assert counts[2].tolist() == [600 * 700 - (600 - 36) * (700 - 36)] * 3


def test_boundary_iou_is_computed_from_counts():
    counts = np.array([[2, 4, 4], [0, 3, 0], [0, 0, 5], [0, 0, 0]])
    np.testing.assert_array_equal(boundary_iou(counts), [1 / 3, 0, 0, np.nan])
    assert mean_boundary_iou(counts) == pytest.approx(1 / 9)
    assert np.isnan(mean_boundary_iou(np.zeros((3, 3), int)))
    np.testing.assert_allclose(trimap_mean_iou(np.stack([counts, 0 * counts, counts * 7])), [1 / 9, np.nan, 1 / 9])


def test_perfect_predictions_score_1_and_shifted_ones_less_at_edges():
    labels, _ = scene((200, 210), 4, seed=1)
    perfect = np.where(labels == 255, 0, labels)
    assert mean_boundary_iou(boundary_counts(labels, perfect, 4, 255)) == 1
    assert (trimap_mean_iou(trimap_counts(labels, perfect, 4, 255)) == 1).all()
    shifted = np.roll(perfect, 2, 0)
    curve = trimap_mean_iou(trimap_counts(labels, shifted, 4, 255))
    assert (np.diff(curve) >= 0).all()  # errors sit at the edges
    assert mean_boundary_iou(boundary_counts(labels, shifted, 4, 255)) < curve[-1]


@pytest.mark.parametrize("counts_of", [boundary_counts, trimap_counts])
def test_invalid_labels_and_predictions_are_refused(counts_of):
    good = np.zeros((4, 5), np.uint8)
    bad = good.copy()
    bad[1:3, 2] = 7
    with pytest.raises(InputError, match=r"prediction value 7 \(2 px, first at y=1, x=2\) is outside 0\.\.2\."):
        counts_of(good, bad, 3, 255)
    with pytest.raises(InputError, match=r"label value 7 \(2 px, first at y=1, x=2\) is outside 0\.\.2 and"):
        counts_of(bad, good, 3, 255)
    with pytest.raises(InputError, match="prediction value 7"):  # where the label is to be ignored too
        counts_of(np.full_like(good, 255), bad, 3, 255)
    with pytest.raises(InputError, match="prediction value 3"):  # what stands for the ignored pixels is no class
        counts_of(good, np.full_like(good, 3), 3, 255)
    with pytest.raises(InputError, match=r"label value -1 \(20 px"):
        counts_of(good.astype(int) - 1, good, 3, 255)
    with pytest.raises(InputError, match=r"the label has shape \[4, 5\], the prediction \[5, 4\]"):
        counts_of(good, good.T, 3, 255)
    with pytest.raises(InputError, match=r"a prediction must contain integers \(not float64\)"):
        counts_of(good, good.astype(float), 3, 255)
    with pytest.raises(InputError, match=r"a label must be \[height, width\] \(not of shape \[1, 4, 5\]\)"):
        counts_of(good[None], good[None], 3, 255)
    with pytest.raises(InputError, match="num_classes must be a positive integer"):
        counts_of(good, good, 0, 255)


@pytest.mark.parametrize("ratio", [0, -0.02, math.nan, math.inf])
def test_invalid_dilation_ratios_are_refused(ratio):
    with pytest.raises(InputError, match="dilation_ratio must be a positive number"):
        boundary_counts(np.zeros((2, 2), int), np.zeros((2, 2), int), 1, None, ratio)
