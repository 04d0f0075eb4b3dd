"""The bootstrap against a loop over the resamples, and what it must not depend on."""

import dataclasses

import numpy as np
import pytest

from dense_resnet.errors import InputError
from segmentation import metrics
from segmentation.metrics import class_sums
from segmentation.metrics.intervals import FEWEST_IMAGES, Interval, bootstrap_mean_iou, paired_bootstrap


def matrices_of(images, num_classes, seed, rare=0.3):
    """``[images, classes, classes]``: each image lacks some classes; the last class is in the first five alone."""
    generator = np.random.default_rng(seed)
    matrices = generator.integers(0, 20, (images, num_classes, num_classes))
    matrices += 60 * np.eye(num_classes, dtype=int)
    lacking = generator.random((images, num_classes)) < rare
    lacking[:5, -1], lacking[5:, -1] = False, True
    matrices[lacking] = 0
    return np.where(lacking[:, None], 0, matrices)


def add_errors(matrices, seed):
    """The same ground truth, some of whose pixels are taken for another class."""
    generator = np.random.default_rng(seed)
    worse = matrices.copy()
    for matrix in worse:
        true, found = generator.integers(0, len(matrix), 2)
        moved = matrix[true, true] // 3
        matrix[true, true] -= moved
        matrix[true, found] += moved
    return worse


def literally(matrices, resamples, seed, absent, background):
    """``[resamples, 1 + classes]``: draw the images, add their matrices, take the mean IoU."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        total = np.sum([matrices[image] for image in generator.integers(0, len(matrices), len(matrices))], axis=0)
        mean = metrics.mean_iou(total, absent, background=background)
        rows.append([mean, *metrics.class_iou(total, absent, background=background)])
    return np.array(rows)


def figures(intervals):
    return np.array([dataclasses.astuple(interval) for interval in (intervals.mean, *intervals.classes)])


def percentiles(column):
    column = column[np.isfinite(column)]
    return np.percentile(column, [2.5, 97.5]) if column.size else [np.nan, np.nan]


SETTINGS = [(absent, background) for absent in metrics.ABSENT for background in (True, False)]


@pytest.mark.parametrize(("absent", "background"), SETTINGS)
def test_intervals_equal_a_loop_over_resamples(absent, background):
    matrices = matrices_of(40, 5, seed=1)
    rows = literally(matrices, 300, 7, absent, background)
    if absent == "exclude":
        assert np.isnan(rows[:, 5]).any()  # a class that some resamples lack
    made = bootstrap_mean_iou(class_sums(matrices), 300, 7, absent, background=background)
    total = matrices.sum(axis=0)
    assert made.mean.value == metrics.mean_iou(total, absent, background=background)
    values = metrics.class_iou(total, absent, background=background)
    np.testing.assert_array_equal([interval.value for interval in made.classes], values)
    np.testing.assert_allclose(figures(made)[:, 1:], [percentiles(column) for column in rows.T], rtol=1e-13)
    assert (made.resamples, made.seed) == (300, 7)


@pytest.mark.parametrize(("absent", "background"), [("exclude", True), ("gt_only", False), ("nan", True)])
def test_paired_differences_equal_a_loop_over_resamples(absent, background):
    first = matrices_of(11, 4, seed=3)
    second = add_errors(first, seed=4)
    rows = literally(first, 700, 0, absent, background) - literally(second, 700, 0, absent, background)
    made = paired_bootstrap(class_sums(first), class_sums(second), 700, 0, absent, background=background)
    np.testing.assert_allclose(figures(made)[:, 1:], [percentiles(column) for column in rows.T], rtol=1e-9, atol=1e-15)
    means = rows[np.isfinite(rows[:, 0]), 0]
    assert made.not_better == np.mean(means <= 0)
    assert made.p_value == min(1, 2 * (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (means.size + 1))
    value = [metrics.mean_iou(m.sum(axis=0), absent, background=background) for m in (first, second)]
    np.testing.assert_array_equal(made.mean.value, value[0] - value[1])


def test_identical_systems_differ_by_exactly_0():
    sums = class_sums(matrices_of(9, 4, seed=5))
    made = paired_bootstrap(sums, sums.copy())
    assert made.mean == Interval(0, 0, 0)
    assert all(interval == Interval(0, 0, 0) for interval in made.classes)
    assert (made.not_better, made.p_value) == (1, 1)


def test_a_better_system_is_found_out_in_either_order():
    worse, better = add_errors(matrices_of(40, 4, seed=6), seed=7), matrices_of(40, 4, seed=6)
    won = paired_bootstrap(class_sums(better), class_sums(worse))
    assert won.mean.low > 0
    assert won.not_better == 0
    assert won.p_value == 2 / 2001
    lost = paired_bootstrap(class_sums(worse), class_sums(better))
    assert lost.not_better == 1
    assert lost.p_value == won.p_value
    assert dataclasses.astuple(lost.mean) == pytest.approx((-won.mean.value, -won.mean.high, -won.mean.low), abs=1e-15)


def test_pairs_of_one_image_see_less_noise_than_two_intervals():
    first = matrices_of(30, 3, seed=8)
    second = add_errors(first, seed=9)
    one, other = (bootstrap_mean_iou(class_sums(matrices)).mean for matrices in (first, second))
    pair = paired_bootstrap(class_sums(first), class_sums(second)).mean
    assert pair.high - pair.low < (one.high - one.low) + (other.high - other.low)


def test_95_percent_intervals_cover_the_true_mean():
    """Of 200 sets of images from one source, about 95 % of the intervals hold the source's own mean IoU."""
    source = matrices_of(4000, 3, seed=10, rare=0)
    source += np.random.default_rng(11).integers(0, 400, (4000, 1, 1)) * np.array([[3, 1, 0], [1, 4, 1], [0, 1, 2]])
    truth = metrics.mean_iou(source.sum(axis=0))
    sums = class_sums(source)
    inside = 0
    for start in range(0, 4000, 20):
        mean = bootstrap_mean_iou(sums[start : start + 20], 400, seed=start).mean
        inside += mean.low <= truth <= mean.high
    assert 0.85 <= inside / 200 <= 0.99


def test_the_same_seed_gives_the_same_bits():
    sums = class_sums(matrices_of(17, 6, seed=12))
    np.testing.assert_array_equal(figures(bootstrap_mean_iou(sums)), figures(bootstrap_mean_iou(sums.astype(np.int32))))
    other = bootstrap_mean_iou(sums, seed=1).mean
    assert other.value == bootstrap_mean_iou(sums).mean.value
    assert other.low != bootstrap_mean_iou(sums).mean.low


@pytest.mark.parametrize("images", [1, FEWEST_IMAGES - 1])
def test_few_images_give_no_interval_and_no_p_value(images):
    """An image alone would give an interval without width, and few give a p-value of 1 or of nearly 0."""
    matrices = matrices_of(images, 4, seed=13, rare=0)
    unscored = np.concatenate([matrices, np.zeros((9, 4, 4), int)])  # which say no more about the figure
    for each in (matrices, unscored):
        sums = class_sums(each)
        made, pair = bootstrap_mean_iou(sums), paired_bootstrap(sums, class_sums(add_errors(each, seed=1)))
        assert made.mean.value == metrics.mean_iou(matrices.sum(axis=0))
        for one in (made, pair):
            assert np.isfinite(figures(one)[:, 0]).all()
            assert np.isnan(figures(one)[:, 1:]).all()
        assert np.isnan([pair.not_better, pair.p_value]).all()
    enough = class_sums(matrices_of(FEWEST_IMAGES, 4, seed=13, rare=0))
    assert np.isfinite(figures(bootstrap_mean_iou(enough))).all()
    assert paired_bootstrap(enough, enough).p_value == 1


def test_a_class_of_few_images_has_no_interval():
    matrices = matrices_of(20, 4, seed=17, rare=0)
    matrices[4:, 3] = 0  # it is in four images
    matrices[4:, :, 3] = 0
    for made in (bootstrap_mean_iou(class_sums(matrices)), paired_bootstrap(*[class_sums(matrices)] * 2)):
        assert np.isfinite(figures(made)[:4]).all()
        assert np.isfinite(made.classes[3].value)
        assert np.isnan([made.classes[3].low, made.classes[3].high]).all()
    for absent in metrics.ABSENT:
        few = bootstrap_mean_iou(class_sums(matrices[:, 2:, 2:]), absent=absent, background=False)
        assert np.isnan(few.mean.low), absent  # which is the class's alone
    other = matrices.copy()
    other[4, 0, 3], other[4, 0, 0] = 1, other[4, 0, 0] - 1  # the other system finds it in one more
    assert np.isfinite(paired_bootstrap(class_sums(matrices), class_sums(other)).classes[3].low)


def test_an_absent_class_has_no_interval():
    matrices = np.zeros((5, 3, 3), int)
    matrices[:, :2, :2] = matrices_of(5, 2, seed=14, rare=0)
    made = bootstrap_mean_iou(class_sums(matrices))
    assert np.isnan(dataclasses.astuple(made.classes[2])).all()
    assert np.isfinite(dataclasses.astuple(made.mean)).all()
    nothing = bootstrap_mean_iou(np.zeros((5, 3, 3), int))
    assert np.isnan(figures(nothing)).all()
    pair = paired_bootstrap(class_sums(0 * matrices), class_sums(0 * matrices))
    assert np.isnan([pair.not_better, pair.p_value]).all()


@pytest.mark.parametrize("absent", metrics.ABSENT)
def test_the_background_alone_leaves_nothing_to_average(absent):
    """And no warning of NumPy's."""
    made = bootstrap_mean_iou(class_sums(np.full((3, 1, 1), 5)), 20, absent=absent, background=False)
    assert np.isnan(dataclasses.astuple(made.mean)).all()


def test_counts_beyond_float32():
    matrices = np.array([[[2**40, 1], [0, 2**40 + 1]]] * 5)
    made = bootstrap_mean_iou(class_sums(matrices), 20)
    assert made.classes[0].low == made.classes[0].high == 2**40 / (2**40 + 1)


def test_invalid_sums_and_options_are_refused():
    sums = class_sums(matrices_of(4, 3, seed=15))
    with pytest.raises(InputError, match=r"sums must be \[images, classes, 3\] integers"):
        bootstrap_mean_iou(sums[0])
    with pytest.raises(InputError, match="of at least one image"):
        bootstrap_mean_iou(sums[:0])
    with pytest.raises(InputError, match=r"not float64 of shape \[4, 3, 3\]"):
        bootstrap_mean_iou(sums / 2)
    with pytest.raises(InputError, match="resamples must be a positive integer"):
        bootstrap_mean_iou(sums, 0)
    with pytest.raises(InputError, match="absent must be one of"):
        bootstrap_mean_iou(sums, absent="ignore")
    with pytest.raises(InputError, match=r"the same images and classes \(not \[4, 3, 3\] and \[3, 3, 3\]\)"):
        paired_bootstrap(sums, sums[:3])
    other = sums.copy()
    other[2:, 1, 1] += 1
    with pytest.raises(InputError, match=r"the same ground truth \(2 images differ, the first is number 2\)"):
        paired_bootstrap(sums, other)
    with pytest.raises(InputError, match=r"matrices must be \[..., classes, classes\] integers"):
        class_sums(np.zeros((4, 3, 2), int))
