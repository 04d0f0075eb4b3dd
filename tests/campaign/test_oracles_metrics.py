"""Every figure of an evaluation against others' evaluators, and against fractions of Python's integers.

A set is some label maps and predictions of 1 to 40 classes, of any integer type and memory layout: classes that are nowhere,
pixels that are ignored, maps of one pixel, predictions that are perfect, constant, near or far. It is counted as
``evaluate`` counts it, image by image through a `ConfusionMatrix`, and scored under each preset. What has no evaluator to
install is written out from its source: the devkit's formula for VOC, mmseg's; detectron2's and ADE20K's means over what
scikit-learn counts.

Others give 0 where no pixel counts at all; here that is no figure (EVALUATION, 4), and so it is held.
"""

import copy
import functools
import importlib.util
import io
import itertools
import json
import math
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from helpers.references import mmseg_areas
from PIL import Image
from scipy import ndimage

from segmentation import ConfusionMatrix, metrics
from segmentation.data.label_space import LabelClass, LabelSpace
from segmentation.evaluation.results import ImageCounts, summarize
from segmentation.metrics import boundaries, class_sums, presets
from segmentation.metrics.calibration import BINS, ONE, calibration_counts, expected_calibration_error

VOID = 255  # what is to be ignored, for evaluators that are told so
CLASSES = (1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 19, 21, 27, 34, 40)
FEW_PIXELS = "ignore:The number of unique classes"  # scikit-learn 1.7 warns where classes are more than half the pixels
TYPES = (np.uint8, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64, np.dtype(">i2"))
LAYOUTS = (
    lambda values: values,
    np.asfortranarray,
    lambda values: np.flip(np.flip(values).copy()),
    lambda values: np.repeat(values, 2, axis=1)[:, ::2],
    lambda values: np.pad(values, 1)[1:-1, 1:-1],
)


@pytest.fixture(autouse=True)
def one_thread():
    """Of PyTorch's: to begin more takes longer than a small map."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- the sets ----------------------------------------------------------------------------------------------------------


def random_set(random, num_classes=None, sides=(1, 24), large=0.05):
    """A set: ``images`` as users have them, and ``plain``, the same as int64 with VOID where the label is ignored."""
    num_classes = num_classes or int(random.choice(CLASSES))
    above = num_classes + int(random.integers(num_classes))
    ignore_label = [255, 255, 254, 65535, -1, num_classes, above, None][random.integers(8)]
    true, found = (random.permutation(num_classes)[: random.integers(1, num_classes + 1)] for _ in range(2))
    images, plain = [], []
    for _ in range(random.integers(1, 5)):
        shape = tuple(random.integers(sides[0], sides[1] + 1, 2) * (5 if random.random() < large else 1))
        shape = (1, 1) if random.random() < 0.05 else shape
        labels, predictions = random_pair(random, shape, true, found)
        if ignore_label is not None:
            share = [0, 1, random.random(), random.random() ** 3][random.choice(4, p=[0.3, 0.1, 0.2, 0.4])]
            labels = np.where(random.random(shape) < share, ignore_label, labels)
        images.append(tuple(as_users_have_them(random, values) for values in (labels, predictions)))
        plain.append((labels if ignore_label is None else np.where(labels == ignore_label, VOID, labels), predictions))
    return SimpleNamespace(num_classes=num_classes, ignore_label=ignore_label, images=images, plain=plain)


def random_pair(random, shape, true, found):
    """(labels, predictions): perfect, constant, random, mostly right, or half of each."""
    labels = random.choice(true, shape)
    kind = random.integers(5)
    if kind == 0:
        return labels, labels.copy()
    if kind == 1:
        return labels, np.full(shape, random.choice(found))
    wrong = random.random(shape) < (1, 0.02, 0.5)[kind - 2]
    return labels, np.where(wrong, random.choice(found, shape), labels)


def as_users_have_them(random, values):
    """One of the types that hold the values, one of the ways to lie in memory, sometimes read-only."""
    fitting = [kind for kind in TYPES if np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max]
    values = LAYOUTS[random.integers(len(LAYOUTS))](values.astype(fitting[random.integers(len(fitting))]))
    values.setflags(write=bool(random.integers(2)))
    return values


def count_images(case):
    """Each image's matrix, which together are the whole's."""
    whole = ConfusionMatrix(case.num_classes, case.ignore_label)
    matrices = [whole.update(*pair) for pair in case.images]
    assert np.array_equal(whole.counts, np.sum(matrices, axis=0))
    return matrices


def select_scored_pixels(case):
    """(labels, predictions) of all images' pixels that count."""
    labels, predictions = (np.concatenate([pair[part].ravel() for pair in case.plain]) for part in (0, 1))
    return labels[labels != VOID], predictions[labels != VOID]


class Tally(Counter):
    """How many sets had what; each evaluator must have seen some of each."""

    def add(self, case, matrices):
        total = np.sum(matrices, axis=0)
        truth, found = total.sum(axis=1) > 0, total.sum(axis=0) > 0
        void = sum(np.count_nonzero(labels == VOID) for labels, _ in case.plain)
        self.update(
            sets=1,
            of_no_pixel=not total.any(),
            with_an_absent_class=not (truth | found).all(),
            with_a_class_only_predicted=bool((found & ~truth).any()),
            with_ignored_pixels=bool(void),
            perfect=bool(total.any() and total.sum() == total.trace()),
        )

    def check(self):
        for name, count in self.items():
            assert count >= self["sets"] // 100, f"{name}: {count} of {self['sets']} sets"
        return {name: count for name, count in self.items() if name != "sets"}


def assert_close(own, theirs, tolerance, message):
    """Both are NaN, or near; returns how far apart."""
    assert math.isnan(own) == math.isnan(theirs), f"{message}: {own!r} here, {theirs!r} there"
    difference = 0.0 if math.isnan(own) else abs(own - theirs)
    assert difference <= tolerance, f"{message}: {own!r} here, {theirs!r} there"
    return difference


# -- the evaluators: each is made once, then called with set after set ------------------------------------------------


def pairs_of(case):
    """How often each (label, prediction) is there: plain Python."""
    return pairs_in(*select_scored_pixels(case))


def pairs_in(labels, predictions):
    return Counter(zip(labels.tolist(), predictions.tolist(), strict=True))


def fractions(pairs, num_classes):
    """{class: exact IoU} of the classes that are in either map."""
    true, found = Counter(), Counter()
    for (label, prediction), count in pairs.items():
        true[label] += count
        found[prediction] += count
    either = {number: true[number] + found[number] - pairs[number, number] for number in range(num_classes)}
    return {number: Fraction(pairs[number, number], union) for number, union in either.items() if union}


def mean(values):
    return sum(values) / Fraction(len(values)) if values else math.nan


def values_under(pairs, num_classes, absent, background):
    """What is averaged over: EVALUATION's text, in fractions of Python's integers."""
    iou = fractions(pairs, num_classes)
    true = {label for label, _ in pairs}
    nowhere = {"zero": Fraction(0), "one": Fraction(1), "nan": None}
    values = []
    for number in range(0 if background else 1, num_classes):
        if number in iou:
            values += [iou[number]] if absent != "gt_only" or number in true else []
        elif absent in nowhere:
            values.append(nowhere[absent])
    return values


def exactly(images, num_classes, switches):
    """The mean IoU of images' pairs."""
    arguments = num_classes, switches.absent, switches.background
    if switches.scope == "dataset":
        values = values_under(sum(images, Counter()), *arguments)
        return math.nan if None in values else float(mean(values))
    each = [values_under(pairs, *arguments) for pairs in images]
    if switches.scope == "image_class":
        return float(mean([value for values in each for value in values if value is not None]))
    return float(mean([mean(values) for values in each if values and None not in values]))


def voc():
    """VOCevalseg.m of the PASCAL VOC development kit, pixel by pixel; MATLAB's 0 / 0 is NaN, and so is a mean over one."""

    def evaluate(case):
        pairs = pairs_of(case)
        accuracies = []
        for number in range(case.num_classes):
            in_truth = sum(count for (label, _), count in pairs.items() if label == number)
            in_result = sum(count for (_, prediction), count in pairs.items() if prediction == number)
            both = pairs[number, number]
            either = in_truth + in_result - both
            accuracies.append(100 * both / either if either else math.nan)
        return sum(accuracies) / len(accuracies) / 100

    return evaluate


def cityscapes():
    """cityscapesScripts' own evaluator of files, which hold label ids; its 19 classes."""
    evaluation = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    args = copy.copy(evaluation.args)
    args.evalInstLevelScore = False
    ids = {label.id: label.trainId for label in evaluation.labels if label.id >= 0}
    void = [number for number, train in ids.items() if train == VOID]
    to_id = np.full(256, void[0], np.uint8)
    for number, train in ids.items():
        if train != VOID:
            to_id[train] = number

    def png(values):
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG", compress_level=0)
        return file

    def evaluate(case):
        counts = evaluation.generateMatrix(args)
        for labels, predictions in case.plain:
            evaluation.evaluatePair(png(to_id[predictions]), png(to_id[labels]), counts, {}, {}, args)
        return evaluation.getScoreAverage(
            {number: evaluation.getIouScoreForLabel(number, counts, args) for number in args.evalLabels}, args
        )

    return evaluate


def mmseg():
    """IoUMetric's lines, run by PyTorch as there."""
    pytest.importorskip("torch")

    def evaluate(case):
        areas = [mmseg_areas(labels, predictions, case.num_classes) for labels, predictions in case.plain]
        right, union = (sum(parts).numpy() for parts in zip(*areas, strict=True))
        return float(np.nanmean(right / union)) if union.any() else math.nan

    return np.errstate(invalid="ignore")(evaluate)


def keras():
    @functools.cache
    def metric(num_classes):
        made = tf.keras.metrics.MeanIoU(num_classes, ignore_class=VOID)
        vector = tf.TensorSpec([None], tf.int64)
        return made, tf.function(made.update_state, input_signature=[vector, vector])

    def evaluate(case):
        made, update = metric(case.num_classes)
        made.reset_state()
        for labels, predictions in case.plain:
            update(labels.ravel(), predictions.ravel())
        value = float(made.result())
        return value if np.any(made.total_cm) else only_if_zero(value)

    return evaluate


def only_if_zero(value):
    """NaN, where an evaluator has 0 (or NaN itself) for a mean over no class."""
    assert not value > 0
    return math.nan


def compat_v1():
    """tf.compat.v1.metrics.mean_iou, with the weights that DeepLab's eval.py gives it."""
    v1 = tf.compat.v1

    @functools.cache
    def metric(num_classes):
        session = v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            raw, found = v1.placeholder(tf.int64, [None]), v1.placeholder(tf.int64, [None])
            weights = tf.cast(tf.not_equal(raw, VOID), tf.float32)
            labels = tf.where(tf.equal(raw, VOID), tf.zeros_like(raw), raw)
            value, update = v1.metrics.mean_iou(labels, found, num_classes, weights=weights)
            reset = v1.local_variables_initializer()
        return session.make_callable(value), session.make_callable(update, [raw, found]), session.make_callable(reset)

    def evaluate(case):
        value, update, reset = metric(case.num_classes)
        reset()
        for truth, prediction in case.plain:
            total = update(truth.ravel(), prediction.ravel())
        return float(value()) if total.any() else only_if_zero(float(value()))

    return evaluate


def sklearn_over(averaged):
    """scikit-learn's jaccard_score over the classes that `averaged` names; it gives a class that is nowhere 0."""
    pytest.importorskip("sklearn")
    from sklearn.metrics import jaccard_score

    def evaluate(case):
        labels, predictions = select_scored_pixels(case)
        listed = averaged(case, labels)
        if not len(listed):
            return math.nan
        if not labels.size:
            return 0.0  # it takes no empty arrays
        return float(jaccard_score(labels, predictions, labels=listed, average="macro", zero_division=0))

    return evaluate


def detectron2():
    """Only the classes of the ground truth."""
    return sklearn_over(lambda case, labels: np.unique(labels))


def ade20k():
    """All classes, one that is nowhere with 0."""
    return sklearn_over(lambda case, labels: np.arange(case.num_classes))


def torchmetrics():
    """Its MeanIoU, which cannot ignore: it is given the pixels that count."""
    torch = pytest.importorskip("torch")
    segmentation = pytest.importorskip("torchmetrics.segmentation")
    metric = functools.cache(lambda num_classes: segmentation.MeanIoU(num_classes, input_format="index"))

    def evaluate(case):
        own = metric(case.num_classes)
        own.reset()
        scored = False
        for labels, predictions in case.plain:
            kept = labels != VOID
            if kept.any():
                own.update(torch.from_numpy(predictions[kept][None]), torch.from_numpy(labels[kept][None]))
                scored = True
        return float(own.compute()) if scored else math.nan

    return evaluate


EVALUATORS = {  # preset: (the evaluator, tolerance: float32 or float64)
    "voc": (voc, 1e-12),
    "cityscapes": (cityscapes, 1e-12),
    "mmseg": (mmseg, 1e-6),
    "keras": (keras, 1e-6),
    "tf": (compat_v1, 1e-6),
    "detectron2": (detectron2, 1e-12),
    "ade20k": (ade20k, 1e-12),
    "torchmetrics": (torchmetrics, 1e-6),
    "deeplab": (compat_v1, 1e-6),
}


def on_a_canvas(random, case):
    """The set as DeepLab scores it: padded at the bottom and the right, the padding ignored, whatever is predicted there."""
    void = VOID if case.ignore_label is None else case.ignore_label
    images, plain = [], []
    for labels, predictions in case.plain:
        more = random.integers(0, 9, 2)
        around = [(0, more[0]), (0, more[1])]
        canvas = np.pad(labels, around, constant_values=VOID)
        found = np.pad(predictions, around, constant_values=random.integers(case.num_classes))
        plain.append((canvas, found))
        images.append((np.where(canvas == VOID, void, canvas), found))
    return SimpleNamespace(num_classes=case.num_classes, ignore_label=void, images=images, plain=plain)


def test_every_preset_has_its_evaluator():
    assert list(EVALUATORS) == list(presets.PRESETS)


@pytest.mark.filterwarnings(FEW_PIXELS)
@pytest.mark.parametrize("name", EVALUATORS)
def test_preset(name, campaign):
    make, tolerance = EVALUATORS[name]
    evaluator, switches = make(), presets.preset(name)
    tally, worst = Tally(), 0.0
    for number, random in campaign.cases(short=120):
        case = random_set(random, num_classes=19 if name == "cityscapes" else None)
        if name == "deeplab":
            case = on_a_canvas(random, case)
        matrices = count_images(case)
        tally.add(case, matrices)
        own = presets.mean_iou_under(matrices, switches)
        worst = max(worst, assert_close(own, evaluator(case), tolerance, f"case {number}, {case.num_classes} classes"))
    campaign.report(**tally.check(), worst_difference=worst)


def test_the_definition_under_every_switch(campaign):
    """Absent classes, scopes and background in every combination, against fractions."""
    every = [presets.Switches(*one) for one in itertools.product(metrics.ABSENT, metrics.SCOPES, (True, False))]
    tally, worst = Tally(), 0.0
    for number, random in campaign.cases(short=120):
        case = random_set(random)
        matrices = count_images(case)
        tally.add(case, matrices)
        images = [pairs_in(labels[labels != VOID], predictions[labels != VOID]) for labels, predictions in case.plain]
        for switches in every:
            own, exact = presets.mean_iou_under(matrices, switches), exactly(images, case.num_classes, switches)
            worst = max(worst, assert_close(own, exact, 1e-15, f"case {number}, {case.num_classes} classes, {switches}"))
    campaign.report(**tally.check(), switches=len(every), worst_difference=worst)


@pytest.mark.filterwarnings(FEW_PIXELS)
@pytest.mark.filterwarnings("ignore:A single label was found")  # where there is one class
def test_the_result_file(campaign):
    """All of evaluation.json that comes from the matrix, by the log's lines, against fractions and scikit-learn."""
    sklearn = pytest.importorskip("sklearn.metrics")
    tally, worst, compared = Tally(), 0.0, 0
    for number, random in campaign.cases(short=60):
        case = random_set(random, sides=(1, 16), large=0)
        result, matrices = result_of(case)
        tally.add(case, matrices)
        labels, predictions = select_scored_pixels(case)
        pairs, classes = pairs_of(case), np.arange(case.num_classes)
        truth = np.unique(labels)
        iou = fractions(pairs, case.num_classes)
        expected = {
            "mean_iou": float(mean(list(iou.values()))),
            "pixel_accuracy": sklearn.accuracy_score(labels, predictions) if labels.size else math.nan,
            "mean_accuracy": math.nan,
            "frequency_weighted_iou": math.nan,
        }
        if labels.size:
            recalls = sklearn.recall_score(labels, predictions, labels=truth, average=None, zero_division=0)
            weighted = sklearn.jaccard_score(labels, predictions, labels=classes, average="weighted", zero_division=0)
            expected |= {"mean_accuracy": float(np.mean(recalls)), "frequency_weighted_iou": float(weighted)}
            theirs = sklearn.confusion_matrix(labels, predictions, labels=classes)
            assert np.array_equal(result["matrix"], theirs), f"case {number}"
            for one, (index, recall) in zip(truth, enumerate(recalls), strict=True):
                own = result["classes"][int(one)]["accuracy"]
                worst = max(worst, assert_close(own, recall, 1e-12, f"case {number}, accuracy of class {index}"))
        for name, value in expected.items():
            own = math.nan if result[name] is None else result[name]
            worst = max(worst, assert_close(own, value, 1e-12, f"case {number}, {name}"))
        for one, listed in enumerate(result["classes"]):
            own = math.nan if listed["iou"] is None else listed["iou"]
            worst = max(worst, assert_close(own, float(iou.get(one, math.nan)), 1e-15, f"case {number}, class {one}"))
            assert listed["averaged"] == (one in iou)
            assert listed["pixels"] == np.count_nonzero(labels == one)
            assert listed["predicted"] == np.count_nonzero(predictions == one)
        assert result["averaged_classes"] == len(iou)
        assert result["counts"]["scored"] == labels.size
        compared += len(expected) + 4 * case.num_classes
    campaign.report(**tally.check(), figures_compared=compared, worst_difference=worst)


def result_of(case):
    """(evaluation.json, the matrices) of a set, through lines as the log holds them."""
    lines, matrices = [], []
    for number, (labels, predictions) in enumerate(case.images):
        counts = ImageCounts.of(labels, predictions, None, case.num_classes, case.ignore_label)
        matrices.append(counts.matrix)
        scored = int(counts.matrix.sum())
        line = {"path": f"{number}.png", "status": "ok", "size": labels.shape, "scored": scored, "padded": 0}
        line |= {"ignored": labels.size - scored, "image_sha256": "0" * 64, "label_sha256": "0" * 64} | counts.as_json()
        lines.append(json.loads(json.dumps(line)))
    space = LabelSpace(tuple(LabelClass(f"class {number}", (0, 0, 0)) for number in range(case.num_classes)))
    return summarize(lambda: lines, space, presets.Switches(), {"system": {}}), matrices


def test_torchmetrics_jaccard_index(campaign):
    """Its macro average leaves out classes that are nowhere, its weighted one is the frequency-weighted IoU."""
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    tally, worst = Tally(), 0.0
    for number, random in campaign.cases(short=120):
        case = random_set(random, num_classes=int(random.choice(CLASSES[1:])))
        matrices = count_images(case)
        tally.add(case, matrices)
        labels, predictions = (torch.from_numpy(values) for values in select_scored_pixels(case))
        if not len(labels):
            continue
        total = np.sum(matrices, axis=0)
        for average, own in (("macro", metrics.mean_iou(total)), ("weighted", metrics.frequency_weighted_iou(total))):
            arguments = {"average": average, "validate_args": False}
            theirs = float(functional.multiclass_jaccard_index(predictions, labels, case.num_classes, **arguments))
            worst = max(worst, assert_close(own, theirs, 2e-6, f"case {number}, {average}"))
    campaign.report(**tally.check(), worst_difference=worst)


# -- totals ------------------------------------------------------------------------------------------------------------


def test_totals_beyond_2_to_the_31(campaign):
    """Merged matrices of up to 2**62 pixels against Python's integers, and one more image counted on top of them."""
    worst, largest, beyond = 0.0, 0, Counter()
    for number, random in campaign.cases(short=200):
        case = random_set(random, sides=(1, 8), large=0)
        bits = int(random.integers(31, 62))
        parts, classes = int(random.integers(2, 5)), case.num_classes
        most = 2**bits // (parts * classes**2)
        matrices = [random.integers(0, most + 1, (classes, classes)) for _ in range(parts)]
        for matrix in matrices:
            matrix[:, random.random(classes) < 0.2] = 0
            matrix[random.random(classes) < 0.2] = 0
        matrices[0][0, 0] = most
        exact = sum(matrix.astype(object) for matrix in matrices)
        whole = ConfusionMatrix(classes, case.ignore_label)
        for matrix in matrices:
            whole.counts += matrix
        for pair in case.images:
            whole.update(*pair)
        for (label, prediction), count in pairs_of(case).items():
            exact[label, prediction] += count
        assert (whole.counts.astype(object) == exact).all(), f"case {number}"
        rows, columns, diagonal = exact.sum(axis=1), exact.sum(axis=0), exact.diagonal()
        assert (class_sums(whole.counts).astype(object) == np.stack([diagonal, rows, columns], axis=-1)).all()
        pixels = exact.sum()
        unions = rows + columns - diagonal
        iou = {n: Fraction(int(diagonal[n]), int(unions[n])) for n in range(classes) if unions[n]}
        own = metrics.class_iou(whole.counts)
        assert set(np.flatnonzero(np.isfinite(own))) == set(iou), f"case {number}"
        figures = [(own[n], value, f"class {n}") for n, value in iou.items()]
        accuracy = [Fraction(int(diagonal[n]), int(rows[n])) for n in range(classes) if rows[n]]
        weighted = sum(iou[n] * int(rows[n]) for n in iou) / Fraction(int(pixels))
        figures += [
            (metrics.mean_iou(whole.counts), mean(list(iou.values())), "mean IoU"),
            (metrics.pixel_accuracy(whole.counts), Fraction(int(diagonal.sum()), int(pixels)), "pixel accuracy"),
            (metrics.mean_accuracy(whole.counts), mean(accuracy), "mean accuracy"),
            (metrics.frequency_weighted_iou(whole.counts), weighted, "frequency-weighted IoU"),
        ]
        switched = {"gt_only": [iou[n] for n in iou if rows[n]], "zero": [iou.get(n, Fraction(0)) for n in range(classes)]}
        figures += [(metrics.mean_iou(whole.counts, absent), mean(values), absent) for absent, values in switched.items()]
        for value, fraction, what in figures:
            worst = max(worst, assert_close(value, float(fraction), 1e-14, f"case {number}, 2**{bits} pixels, {what}"))
        largest = max(largest, int(pixels))
        beyond.update(beyond_2_to_31=pixels > 2**31, beyond_2_to_53=pixels > 2**53)
    assert beyond["beyond_2_to_31"] >= (number + 1) // 4
    campaign.report(**{name: int(count) for name, count in beyond.items()}, largest=largest, worst_difference=worst)


# -- boundaries and calibration ----------------------------------------------------------------------------------------


def blobs(random, case):
    """The set with labels that have areas, and outlines where the prediction misses them by some pixels."""
    images, plain = [], []
    for labels, predictions in case.plain:
        shape = tuple(random.integers(1, 61, 2))
        coarse = labels[
            np.ix_(*(np.sort(random.integers(0, side, size)) for side, size in zip(labels.shape, shape, strict=True)))
        ]
        found = np.roll(coarse, random.integers(-3, 4, 2), (0, 1))
        found = np.where(found == VOID, predictions[0, 0], found)
        plain.append((coarse, found))
        own = coarse if case.ignore_label is None else np.where(coarse == VOID, case.ignore_label, coarse)
        images.append((as_users_have_them(random, own), as_users_have_them(random, found)))
    return SimpleNamespace(num_classes=case.num_classes, ignore_label=case.ignore_label, images=images, plain=plain)


def boundary_by_erosion(mask, ratio):
    """Boundary IoU's mask_to_boundary by SciPy's erosion: what goes when a 3x3 box gnaws d times, the outside being empty."""
    distance = max(1, round(ratio * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)


def trimap_by_distances(labels, predictions, num_classes):
    """[widths, classes, 3], by SciPy's exact distances to the pixels that touch an edge."""
    touching = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    for part in (np.s_[1:], np.s_[:-1]):
        touching[part] |= down
        touching[:, part] |= right
    if not touching.any():
        return np.zeros((len(boundaries.TRIMAP_WIDTHS), num_classes, 3), int)
    nearest = ndimage.distance_transform_edt(~touching, return_distances=False, return_indices=True)
    square = ((nearest - np.indices(labels.shape)) ** 2).sum(axis=0)  # integers
    counts = []
    for width in boundaries.TRIMAP_WIDTHS:
        inside = (square <= (width - 1) ** 2) & (labels != VOID)
        sets = labels[inside & (labels == predictions)], labels[inside], predictions[inside]
        counts.append(np.stack([np.bincount(values, minlength=num_classes) for values in sets], axis=1))
    return np.stack(counts)


def test_boundaries(campaign):
    """Boundary IoU and trimaps as integers, then their figures."""
    pixels, compared, with_trimap, worst = 0, 0, 0, 0.0
    for number, random in campaign.cases(short=150):
        case = blobs(random, random_set(random, num_classes=int(random.integers(1, 9)), sides=(1, 6), large=0))
        ratio = float(random.choice([0.02, 0.02, 0.005, 0.1, 0.3]))
        edges, bands = 0, 0
        both = (case.num_classes, case.ignore_label)
        expected_edges, expected_bands = np.zeros((case.num_classes, 3), int), 0
        for own, (labels, predictions) in zip(case.images, case.plain, strict=True):
            edges += boundaries.boundary_counts(*own, *both, ratio)
            bands += boundaries.trimap_counts(*own, *both)
            expected_bands += trimap_by_distances(labels, predictions, case.num_classes)
            for one in range(case.num_classes):
                true = boundary_by_erosion(labels == one, ratio)
                found = boundary_by_erosion((predictions == one) & (labels != VOID), ratio)
                expected_edges[one] += (true & found).sum(), true.sum(), found.sum()
            pixels += labels.size
        assert np.array_equal(edges, expected_edges), f"case {number}, ratio {ratio}"
        assert np.array_equal(bands, expected_bands), f"case {number}"
        iou = [Fraction(int(shared), int(true + found - shared)) for shared, true, found in expected_edges if true + found > 0]
        worst = max(worst, assert_close(boundaries.mean_boundary_iou(edges), float(mean(iou)), 1e-14, f"case {number}"))
        for own, of_classes in zip(boundaries.trimap_mean_iou(bands), expected_bands, strict=True):
            iou = [Fraction(int(a), int(b + c - a)) for a, b, c in of_classes if b + c > 0]
            worst = max(worst, assert_close(float(own), float(mean(iou)), 1e-14, f"case {number}, a trimap"))
        compared += edges.size + bands.size
        with_trimap += bool(expected_bands.any())
    assert with_trimap >= (number + 1) // 2
    campaign.report(pixels=pixels, counts_compared=compared, sets_with_edges=with_trimap, worst_difference=worst)


def test_calibration(campaign):
    """Bins by fractions, pixel by pixel; the error as torchmetrics computes it, which has a bin of its own for exactly 1."""
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    pixels, worst, on_edges = 0, 0.0, 0
    for number, random in campaign.cases(short=120):
        shape, classes = tuple(random.integers(1, 25, 2)), int(random.integers(2, 12))
        logits = random.standard_normal((*shape, classes)) * random.uniform(0.2, 5)
        probabilities = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
        labels = np.where(random.random(shape) < random.random(), probabilities.argmax(-1), random.integers(0, classes, shape))
        labels[random.random(shape) < random.choice([0, 0.1, 0.9, 1], p=[0.4, 0.4, 0.15, 0.05])] = VOID
        confidence, found, valid = probabilities.max(-1), probabilities.argmax(-1), labels != VOID
        clear = valid & (np.abs(confidence * BINS - np.rint(confidence * BINS)) > 1e-4)  # of the bins' ends, in float32
        counts = calibration_counts(confidence, found == labels, clear)
        own = expected_calibration_error(counts)
        if clear.any():
            parts = torch.from_numpy(probabilities[clear]), torch.from_numpy(labels[clear])
            theirs = float(functional.multiclass_calibration_error(*parts, classes, BINS, "l1", validate_args=False))
            worst = max(worst, assert_close(own, theirs, 2e-6, f"case {number}"))
        else:
            assert math.isnan(own)

        edges = random.integers(0, BINS + 1, shape) / BINS + random.integers(-2, 3, shape) / ONE  # on them and beside them
        confidence = np.where(random.random(shape) < 0.5, edges.clip(0, 1), confidence).astype(np.float32)
        counts = calibration_counts(confidence, found == labels, valid)
        bins = [[0, 0, 0] for _ in range(BINS)]
        for value, right in zip(confidence[valid].tolist(), (found == labels)[valid].tolist(), strict=True):
            units = round(Fraction(value) * ONE)
            own_bin = bins[max(math.ceil(Fraction(units, ONE) * BINS) - 1, 0)]
            for place, more in enumerate((1, right, units)):
                own_bin[place] += more
        assert counts.tolist() == bins, f"case {number}"
        total = sum(count for count, _, _ in bins)
        error = sum(abs(Fraction(right * ONE - units, ONE)) for _, right, units in bins) / total if total else math.nan
        worst_exact = assert_close(expected_calibration_error(counts), float(error), 1e-15, f"case {number}")
        worst = max(worst, worst_exact)
        pixels += int(valid.sum())
        on_edges += int((valid & (confidence == edges.astype(np.float32))).sum())
    assert on_edges >= pixels // 5
    campaign.report(pixels=pixels, pixels_at_a_bins_end=on_edges, worst_difference=worst)
