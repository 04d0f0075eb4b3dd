"""What must hold for every input: of counts and means by hypothesis, of features, logits and whole jobs by random cases.

An answer never depends on how it was come by: the order of the images, the batches and threads they went through, the shards
they were scored in, the other images in a batch, and what the canvas holds beside them. Names of classes are only names,
what is ignored is nowhere, and a perfect prediction is 1. Cells see as far as the plan says and no farther, and mirrored
networks see mirrored images.
"""

import functools
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers.datasets import NAMES, label_of, write_pair
from helpers.folders import contents
from helpers.networks import PLACEMENTS, STRIDE_8_PLAN, image_of, small_plan, tiny_model, weights_of
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dense_resnet as dr
from dense_resnet.extraction.extract import Extraction
from dense_resnet.extraction.settings import Settings
from dense_resnet.image_io import discovery
from dense_resnet.inference.runner import COARSE_LOGITS, FEATURES
from dense_resnet.verification import laws
from segmentation import ConfusionMatrix
from segmentation.data.label_space import LabelSpace
from segmentation.data.layouts import open_dataset
from segmentation.evaluation.evaluate import Evaluation
from segmentation.evaluation.results import ImageCounts
from segmentation.evaluation.systems import ModelPredictions
from segmentation.metrics.presets import PRESETS, mean_iou_under
from segmentation.prediction.options import Inference
from segmentation.saving.model_directory import load_model, save_model

IGNORED = 255
ROUND = 200  # of hypothesis' examples, between two looks at the time
FLOAT_NOISE = 1e-5  # between two sizes of batch or canvas: the order of the sums


def hold(campaign, law, *strategies, short):
    """Tries a law on as many examples as the campaign has cases; a failing one is shrunk and shown."""
    cases = campaign.cases(short)
    while own := list(itertools.islice(cases, ROUND)):
        number, _ = own[0]
        quiet = settings(max_examples=len(own), deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(number)(quiet(given(*strategies)(law)))()


# -- counts and means --------------------------------------------------------------------------------------------------


@st.composite
def draw_images(draw, most=5):
    """(number of classes, images: (label with some ignored, prediction) of one type); every class may be absent."""
    classes = draw(st.integers(1, 7))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
    drawn = []
    for _ in range(draw(st.integers(1, most))):
        shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
        label = draw(arrays(dtype, shape, elements=st.sampled_from([*range(classes), IGNORED])))
        drawn.append((label, draw(arrays(dtype, shape, elements=st.integers(0, classes - 1)))))
    return classes, drawn


def matrices_of(classes, drawn):
    """Each image's."""
    return [ConfusionMatrix(classes).update(label, prediction) for label, prediction in drawn]


def all_counts(label, prediction, classes):
    """Every count of an image, by name; the confidence is made from the place alone."""
    confidence = np.linspace(0, 1, label.size, dtype=np.float32).reshape(label.shape)
    counts = ImageCounts.of(label, prediction, confidence, classes, IGNORED)
    return {name: getattr(counts, name) for name in ("matrix", "boundary", "trimap", "calibration")}


def means_of(matrices):
    """By every preset."""
    return {name: mean_iou_under(matrices, switches) for name, switches in PRESETS.items()}


def assert_same_means(means, others):
    """But for the order of the sums."""
    for name, value in means.items():
        assert others[name] == pytest.approx(value, rel=1e-12, abs=1e-15, nan_ok=True), name


def test_counts_depend_on_no_order_batch_or_shard(campaign):
    """Merging is the union: of pixels, of images, of shards' sums, of lines of a log."""
    parts = []

    def law(case, order, shards, cut):
        classes, drawn = case
        whole = ConfusionMatrix(classes)
        whole.update(*(np.concatenate([image[side].ravel() for image in drawn]) for side in (0, 1)))
        each = matrices_of(classes, drawn)
        assert np.array_equal(whole.counts, sum(each))

        shuffled = list(range(len(drawn)))
        order.shuffle(shuffled)
        sums = [ConfusionMatrix(classes) for _ in range(shards)]
        for place, number in enumerate(shuffled):
            label, prediction = drawn[number]
            rows = cut % (len(label) + 1)
            sums[place % shards].update(label[:rows].astype(np.int64), prediction[:rows].astype(np.int64))
            sums[place % shards].update(label[rows:], prediction[rows:])
        assert np.array_equal(whole.counts, sum(one.counts for one in sums))
        assert whole.counts.sum() == sum(np.count_nonzero(label != IGNORED) for label, _ in drawn)
        assert_same_means(means_of(each), means_of([each[number] for number in shuffled]))

        for label, prediction in drawn:
            counts = ImageCounts.of(label, prediction, None, classes, IGNORED)
            ignored = int((label == IGNORED).sum())
            line = {"path": "image", "image_sha256": "00", "label_sha256": "00", "size": label.shape, "padded": 0}
            line |= {"ignored": ignored, "scored": label.size - ignored, **counts.as_json()}
            read = ImageCounts.from_line(json.loads(json.dumps(line)), classes)
            assert all(np.array_equal(getattr(read, name), getattr(counts, name)) for name in ("matrix", "boundary", "trimap"))
        parts.append(min(shards, len(drawn)))

    hold(campaign, law, draw_images(), st.randoms(use_true_random=False), st.integers(1, 4), st.integers(0, 8), short=100)
    assert max(parts) > 1
    campaign.report(examples=len(parts), of_several_shards=sum(part > 1 for part in parts))


def test_renamed_classes_permute_the_counts_and_keep_the_means(campaign):
    moved = []

    def law(case, order):
        classes, drawn = case
        new = list(range(classes))
        order.shuffle(new)
        table = np.arange(256)
        table[:classes] = new
        renamed = [(table[label].astype(label.dtype), table[prediction].astype(label.dtype)) for label, prediction in drawn]
        for image, other in zip(drawn, renamed, strict=True):
            before, after = all_counts(*image, classes), all_counts(*other, classes)
            assert np.array_equal(after["matrix"][np.ix_(new, new)], before["matrix"])
            assert np.array_equal(after["boundary"][new], before["boundary"])
            assert np.array_equal(after["trimap"][:, new], before["trimap"])
            assert np.array_equal(after["calibration"], before["calibration"])
        assert_same_means(means_of(matrices_of(classes, drawn)), means_of(matrices_of(classes, renamed)))
        moved.append(new != sorted(new))

    hold(campaign, law, draw_images(most=3), st.randoms(use_true_random=False), short=100)
    assert sum(moved) > len(moved) / 4
    campaign.report(examples=len(moved), that_move_classes=sum(moved))


def test_a_perfect_prediction_is_1_under_every_preset(campaign):
    """Where a class is nowhere, "zero" counts it 0 and "nan" gives no mean, as those evaluators do."""
    full = []

    def law(case):
        classes, drawn = case
        perfect = [(label, np.where(label == IGNORED, prediction, label)) for label, prediction in drawn]
        matrices = matrices_of(classes, perfect)
        present = np.count_nonzero(np.diagonal(sum(matrices)))
        for name, mean in means_of(matrices).items():
            absent = PRESETS[name].absent
            if absent == "zero":
                assert mean == pytest.approx(present / classes, rel=1e-12)
            elif present == 0 or (absent == "nan" and present < classes):
                assert np.isnan(mean), name
            else:
                assert mean == 1, name
        full.append(present == classes)

    hold(campaign, law, draw_images(), short=100)
    assert sum(full) > len(full) / 10
    campaign.report(examples=len(full), with_every_class=sum(full))


def test_ignored_pixels_change_nothing(campaign):
    """Neither what is predicted there nor how many there are."""
    changed = []

    def law(case, noise, below, right):
        classes, drawn = case
        count = 0
        for label, prediction in drawn:
            ignored = label == IGNORED
            other = prediction.copy()
            other[ignored] = np.random.default_rng(noise).integers(0, classes, np.count_nonzero(ignored))
            before, after = all_counts(label, prediction, classes), all_counts(label, other, classes)
            for name, values in before.items():
                assert np.array_equal(after[name], values), name
            count += np.count_nonzero(other != prediction)

            wide = ((0, below), (0, right))
            more = ConfusionMatrix(classes).update(
                np.pad(label, wide, constant_values=IGNORED), np.pad(other, wide, constant_values=classes - 1)
            )
            assert np.array_equal(more, before["matrix"])
        changed.append(count)

    hold(campaign, law, draw_images(most=3), st.integers(0, 999), st.integers(0, 3), st.integers(0, 3), short=100)
    assert np.count_nonzero(changed) > len(changed) / 10
    campaign.report(examples=len(changed), with_another_prediction_there=np.count_nonzero(changed))


# -- networks ----------------------------------------------------------------------------------------------------------


@functools.cache
def make_mirrored_pair(placement, output_stride):
    """(a network, the one with every kernel mirrored)."""
    plan = small_plan(placement, output_stride)
    weights = weights_of(plan)
    turned = {name: value[::-1, ::-1] if value.ndim == 4 else value for name, value in weights.items()}
    return laws.backbone_with(plan, weights), laws.backbone_with(plan, turned)


def mirror_error(backbone, turned, images):
    """How far the mirrored images' features are from the mirrored features, in standard deviations of these."""
    features, mirrored = backbone(images).numpy(), turned(images[:, ::-1, ::-1].copy()).numpy()
    assert features.std() >= laws.LEAST_SPREAD
    return float(np.abs(mirrored - features[:, ::-1, ::-1]).max() / features.std())


def test_the_mirror_law(campaign):
    """At aligned sizes mirrored images under mirrored kernels have mirrored features; at no other size."""
    kinds = list(itertools.product(PLACEMENTS, (4, 8, 16)))
    worst, least, used = 0.0, np.inf, set()
    for number, random in campaign.cases(short=4):
        kind = kinds[number * 7 % len(kinds)]
        backbone, turned = make_mirrored_pair(*kind)
        step = backbone.plan.nominal_stride
        size = tuple(int(side) * step + 1 for side in random.integers(1, 7, 2))
        noise = random.standard_normal((1, *size, backbone.plan.in_channels)).astype(np.float32)
        other = random.standard_normal((1, 4 * step, size[1], backbone.plan.in_channels)).astype(np.float32)
        agreeing, differing = (mirror_error(backbone, turned, images) for images in (noise, other))
        assert agreeing <= laws.TOLERANCE, f"case {number}: {kind}"
        assert differing >= laws.BREAKS, f"case {number}: {kind}"
        worst, least = max(worst, agreeing), min(least, differing)
        used.add(kind)
    campaign.report(networks=len(used), worst_error=worst, least_error_at_other_sizes=least)


SHORT_SIGHTED = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], output_stride=8, scope="short")


@functools.cache
def short_sighted_runner(precision):
    """A network whose cells see 35 pixels."""
    return laws.backbone_with(SHORT_SIGHTED, weights_of(SHORT_SIGHTED)).runner(precision)


@functools.cache
def model():
    """A segmentation model, and how it is run."""
    own = tiny_model()
    return own, own.runner("float32")


def on_canvases(pictures, side, random):
    """Pictures in the top left corners of canvases full of noise: (canvases, sizes)."""
    canvases = random.integers(0, 256, (len(pictures), side, side, 3)).astype(np.uint8)
    for canvas, picture in zip(canvases, pictures, strict=True):
        canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvases, [picture.shape[:2] for picture in pictures]


def test_no_answer_depends_on_its_canvas_or_its_company(campaign):
    """What lies beside an image on its canvas, and the other images of its batch, change not one bit.

    Its place in the batch and the batch's size change no more than the order of sums does.
    """
    _, segmenter = model()
    noise, exact, compared = 0.0, 0, 0
    for number, random in campaign.cases(short=30):
        runner, name = [
            (short_sighted_runner("float32"), FEATURES),
            (short_sighted_runner("exact"), FEATURES),
            (segmenter, COARSE_LOGITS),
        ][number % 3]
        side = 65
        pictures = [image_of(*random.integers(1, side + 1, 2), seed=int(random.integers(10**6))) for _ in range(3)]
        whole = runner(*on_canvases(pictures, side, random), (name,))[name]
        assert np.array_equal(whole, runner(*on_canvases(pictures, side, random), (name,))[name]), f"case {number}: padding"

        others = [pictures[0], *(image_of(*random.integers(1, side + 1, 2), seed=number) for _ in range(2))]
        company = runner(*on_canvases(others, side, random), (name,))[name]
        assert np.array_equal(whole[0], company[0]), f"case {number}: company"

        order = random.permutation(3)
        moved = runner(*on_canvases([pictures[one] for one in order], side, random), (name,))[name]
        alone = np.concatenate([runner(*on_canvases([one], side, random), (name,))[name] for one in pictures])
        for other in (moved[np.argsort(order)], alone):
            error = laws.relative_error(other, whole)
            assert error <= FLOAT_NOISE, f"case {number}: {error}"  # before max, which may drop a NaN
            noise = max(noise, error)
            exact += np.array_equal(other, whole)
            compared += 1
    campaign.report(compared=compared, identical_in_other_batches=exact, worst_error_in_other_batches=noise)


def test_cells_see_as_far_as_the_plan_says(campaign):
    """Pad, run, crop: a larger canvas, and other pixels, change the cells that can see them and no other."""
    radius, stride = (SHORT_SIGHTED.receptive_field - 1) // 2, SHORT_SIGHTED.output_stride
    worst, least, kept, left, farthest = 0.0, np.inf, 0, 0, 0
    for number, random in campaign.cases(short=30):
        runner = short_sighted_runner(("float32", "exact")[number % 2])
        side, more = 97, 97 + 8 * int(random.integers(1, 8))
        picture = image_of(*random.integers(80, 98, 2), seed=number)
        small = runner(*on_canvases([picture], side, random))[FEATURES][0]
        large = runner(*on_canvases([picture], more, random))[FEATURES][0][: len(small), : len(small)]

        y, x = (int(place) for place in random.integers(0, np.array(picture.shape[:2])))
        touched = picture.copy()
        touched[y, x] = 255 - touched[y, x]
        dotted = runner(*on_canvases([touched], side, random))[FEATURES][0]

        at = np.arange(len(small)) * stride  # the pixel of each cell
        inside = at + radius < side
        away = np.maximum(np.abs(at - y)[:, None], np.abs(at - x))
        spread = small.std()
        for other, unseen in ((large, inside[:, None] & inside), (dotted, away > radius)):
            differences = np.abs(other - small).max(axis=-1) / spread
            change, seen = float(differences[unseen].max()), float(differences[~unseen].max())
            assert change <= FLOAT_NOISE, f"case {number}: {change}"
            assert seen > 100 * FLOAT_NOISE, f"case {number}: {seen}"  # else the cells saw nothing of it
            worst, least = max(worst, change), min(least, seen)
            kept, left = kept + int(unseen.sum()), left + int((~unseen).sum())
        farthest = max(farthest, int(away[(dotted != small).any(axis=-1)].max()))
    assert farthest > radius - stride  # else the plan promises too little
    campaign.report(
        pixels_that_a_cell_may_see=radius,
        pixels_that_one_saw=farthest,
        cells_that_cannot_see_it=kept,
        worst_change=worst,
        cells_that_can=left,
        least_change_of_an_image_there=least,
    )


# -- whole jobs --------------------------------------------------------------------------------------------------------

SPACE = LabelSpace.from_json({"classes": NAMES})
CANVAS = 65


def write_images(root, random):
    """A few pairs of several sizes, some larger than the canvas."""
    for number in range(int(random.integers(3, 8))):
        size = random.integers(20, 90, 2)
        own = int(random.integers(10**6))
        write_pair(root, f"val/{'abc'[number % 3]}/{number}", image_of(*size, own), label_of(*size, own))
    (root / "dataset.json").write_text(json.dumps({"classes": NAMES}))


@functools.cache
def features_runner(precision):
    """Of the tiny network."""
    return laws.backbone_with(STRIDE_8_PLAN, weights_of(STRIDE_8_PLAN)).runner(precision)


def features_in(folder):
    """Every file of features, by its path."""
    return {path: data for path, data in contents(folder).items() if path.endswith(".safetensors")}


def test_extraction_in_any_order_batch_and_shards(campaign, tmp_path):
    """One image at a time, the files are the same to the byte, whatever the order, threads and shards.

    In batches so they are with any number of threads, and the values are those of single images but for the order of sums.
    """
    files = compared = identical = 0
    worst = 0.0
    for number, random in campaign.cases(short=5):
        root = tmp_path / str(number)
        write_images(root, random)
        found = discovery.find_images([str(root / "images")])
        runner = features_runner(("float32", "exact")[number % 2])

        def extract(name, own, batch=1, threads=1, shard=(0, 1), root=root, runner=runner):
            settings_ = Settings(size=CANVAS, batch=batch)
            Extraction(runner, root / name, settings_, shard=shard, threads=threads).run(own)
            return features_in(root / name)

        whole = extract("whole", found)
        assert len(whole) == len(found)
        shuffled = [found[one] for one in random.permutation(len(found))]
        threads, count, batch = (int(random.integers(2, 5)) for _ in range(3))
        assert extract("shuffled", shuffled, threads=threads) == whole, f"case {number}: {threads} threads"
        for index in random.permutation(count).tolist():
            sharded = extract("sharded", found, shard=(index, count))
        assert sharded == whole, f"case {number}: {count} shards"
        assert extract("sharded", found) == whole, f"case {number}: {count} shards, joined"
        assert (root / "sharded" / "manifest.jsonl").read_bytes() == (root / "whole" / "manifest.jsonl").read_bytes()

        batched = extract("batched", found, batch)
        assert extract("threads", found, batch, threads) == batched, f"case {number}: batches of {batch}"
        for path in whole:
            one, other = (dr.read_features(root / name / path).map() for name in ("whole", "batched"))
            error = laws.relative_error(other, one)
            assert error <= FLOAT_NOISE, f"case {number}: {error}"
            worst = max(worst, error)
            identical += np.array_equal(one, other)
            compared += 1
        files += 3 * len(whole)
        shutil.rmtree(root)
    campaign.report(
        files_identical_to_the_byte=files, compared_with_batches=compared, identical_in_batches=identical, worst_error=worst
    )


def test_evaluation_in_any_order_batch_shards_and_company(campaign, tmp_path):
    """`evaluation.json` is the same to the byte for any order, threads and shards, and each image's line in any company.

    Other batches may move pixels whose two highest classes are equal but for the order of sums.
    """
    own_model, runner = model()
    save_model(tmp_path / "model", own_model, SPACE)
    saved = load_model(tmp_path / "model")
    systems = {batch: ModelPredictions(saved, runner, Inference(size=CANVAS), batch) for batch in (1, 2, 3)}
    results = pixels = moved = lines = 0
    for number, random in campaign.cases(short=5):
        root = tmp_path / str(number)
        write_images(root, random)
        dataset = open_dataset(root)
        count, threads = (int(random.integers(2, 5)) for _ in range(2))
        batch = number % 3 + 1

        def run(name, dataset=dataset, root=root, batch=batch, merge=False, **options):
            Evaluation(systems[batch], dataset, root / name, **options).run(report=False, merge=merge)
            return root / name

        whole = run("whole")
        expected = (whole / "evaluation.json").read_bytes()
        order = random.permutation(len(dataset.samples))
        shuffled = replace(dataset, samples=tuple(dataset.samples[one] for one in order))
        for index in random.permutation(count).tolist():
            run("sharded", shard=(index, count))
        for other in (run("shuffled", shuffled, threads=threads), run("sharded", merge=True)):
            assert (other / "evaluation.json").read_bytes() == expected, f"case {number}: {other.name}"
            results += 1

        few = replace(dataset, samples=tuple(dataset.samples[one] for one in sorted(order[:2])))
        every = set((whole / "images.jsonl").read_bytes().splitlines())
        assert every.issuperset((run("few", few) / "images.jsonl").read_bytes().splitlines()), f"case {number}: company"
        lines += len(few.samples)

        other = json.loads((run("batches", batch=batch % 3 + 1) / "evaluation.json").read_bytes())
        difference = np.abs(np.array(other["matrix"]) - np.array(json.loads(expected)["matrix"])).sum()
        moved += int(difference) // 2
        pixels += other["counts"]["scored"]
        shutil.rmtree(root)
    assert moved <= 1e-4 * pixels
    campaign.report(
        results_identical_to_the_byte=results,
        lines_identical_in_other_company=lines,
        pixels_in_other_batches=pixels,
        pixels_moved_there=moved,
    )
