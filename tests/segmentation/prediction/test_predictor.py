"""Prediction against each step written out: padding, upsampling, cropping, scales, mirror images, sliding windows."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers.networks import THREE_BLOCKS, image_of, tiny_model
from hypothesis import given
from hypothesis import strategies as st

import dense_resnet as dr
from dense_resnet.errors import InputError
from dense_resnet.verification import laws
from segmentation.metrics.presets import UPSAMPLES
from segmentation.model import IMAGE_CELLS, SegmentationModel
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import OVERLAP, Predictor, window_starts

NOMINAL = 16  # the tiny network's stride; its cells are 8 pixels apart
CANVAS = 65


@functools.cache
def model_of(head="fcn"):
    """One for all tests that do not change it."""
    return tiny_model(head)


@functools.cache
def predictor_of(head="fcn", **inference):
    """With the canvas of these tests."""
    return exact_predictor(model_of(head), Inference(**{"size": CANVAS, **inference}))


def exact_predictor(model, inference, batch=1):
    """By the slim graph."""
    return Predictor(model.runner("exact"), model.head, inference, batch)


def align_side(side):
    """The next 16n+1, counted up."""
    while side % NOMINAL != 1:
        side += 1
    return side


def interpolate(values, size, position):
    """Bilinear enlargement of [rows, columns, channels] in float64: `position(i, cells, pixels)` of a pixel among cells."""
    for axis, pixels in enumerate(size):
        cells = values.shape[axis]
        at = np.clip([position(i, cells, pixels) for i in range(pixels)], 0, cells - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if other == axis else 1 for other in range(3)])
        high = np.minimum(low + 1, cells - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


POSITIONS = {
    "align_corners": lambda i, cells, pixels: i * (cells - 1) / max(1, pixels - 1),
    "half_pixel": lambda i, cells, pixels: (i + 0.5) * cells / pixels - 0.5,
    "legacy": lambda i, cells, pixels: i * cells / pixels,
}


def literal_cells(image, canvas, head="fcn"):
    """Preprocessed, padded with 0 to its own aligned size, through the network: one logit a cell, 0 beyond on the canvas."""
    values = image[None].astype(np.float32) / np.float32(127.5) - 1
    if head == "fcn":
        below, right = (align_side(side) - side for side in image.shape[:2])
        cells = model_of(head).logits(np.pad(values, [(0, 0), (0, below), (0, right), (0, 0)]))
    else:
        cells = model_of(head)._run(IMAGE_CELLS, values, False)  # what a head sees of padding: test_canvases.py
    stride = 4 if head == "decoder" else 8
    rows, columns = ((side - 1) // stride + 1 for side in canvas)
    return np.pad(cells[0], [(0, rows - cells.shape[1]), (0, columns - cells.shape[2]), (0, 0)])


def literal_logits(image, side=CANVAS, upsample="align_corners", head="fcn"):
    """On the canvas: (logits, canvas)."""
    canvas = tuple(max(side, align_side(pixels)) for pixels in image.shape[:2])
    return interpolate(literal_cells(image, canvas, head).astype(np.float64), canvas, POSITIONS[upsample]), canvas


def softmax(logits):
    """In float64."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def assert_answers(prediction, probabilities):
    """Labels are the argmax wherever it is clear, confidence the maximum."""
    assert prediction.labels.dtype == np.uint8
    assert prediction.confidence.dtype == np.float32
    second, first = np.sort(probabilities, axis=-1)[..., -2:].transpose(2, 0, 1)
    clear = first - second > 1e-5
    assert clear.mean() > 0.99
    assert np.array_equal(prediction.labels[clear], probabilities.argmax(axis=-1)[clear])
    np.testing.assert_allclose(prediction.confidence, first, atol=1e-5)


# -- one run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["fcn", "decoder"])
@pytest.mark.parametrize("size", [(65, 65), (33, 50), (1, 1), (64, 1), (97, 40), (70, 100)])
def test_one_run_step_by_step(head, size):
    image = image_of(*size)
    logits, canvas = literal_logits(image, head=head)
    assert canvas == {(97, 40): (97, 65), (70, 100): (81, 113)}.get(size, (65, 65))
    logits = logits[: size[0], : size[1]]
    predictor = predictor_of(head)
    np.testing.assert_allclose(predictor.logits(image), logits, atol=1e-4)
    prediction = predictor(image, keep_probabilities=True)
    assert_answers(prediction, softmax(logits))
    assert prediction.padded == canvas[0] * canvas[1] - size[0] * size[1]
    np.testing.assert_allclose(prediction.probabilities, softmax(logits), atol=1e-5)
    assert predictor(image).probabilities is None
    if min(size) > 30:
        assert len(np.unique(prediction.labels)) > 2  # else agreement would say little


@pytest.mark.parametrize("upsample", UPSAMPLES)
def test_logits_are_upsampled_as_asked(upsample):
    image = image_of(50, 60)
    logits, canvas = literal_logits(image, upsample=upsample)
    own = predictor_of(upsample=upsample).logits(image)
    np.testing.assert_allclose(own, logits[:50, :60], atol=1e-4)
    cells = literal_cells(image, canvas)[None]
    theirs = {
        "align_corners": lambda: tf.compat.v1.image.resize_bilinear(cells, canvas, align_corners=True),
        "half_pixel": lambda: tf.image.resize(cells, canvas),
        "legacy": lambda: tf.compat.v1.image.resize_bilinear(cells, canvas),
    }
    np.testing.assert_allclose(own, theirs[upsample]()[0, :50, :60], atol=1e-5)
    others = [literal_logits(image, upsample=other)[0][:50, :60] for other in UPSAMPLES if other != upsample]
    assert all(np.abs(own - other).max() > 0.1 for other in others)


def test_cells_sit_on_their_pixels():
    image = image_of(CANVAS, CANVAS)
    np.testing.assert_allclose(predictor_of().logits(image)[::8, ::8], literal_cells(image, (CANVAS, CANVAS)), atol=1e-5)


@pytest.mark.parametrize("size", [(40, 60), (70, 50)])
def test_scoring_the_input_keeps_the_padding(size):
    image = image_of(*size)
    logits, canvas = literal_logits(image)
    prediction = predictor_of(score="input")(image)
    assert prediction.labels.shape == canvas
    near = tuple(slice(align_side(side)) for side in size)  # farther out all classes tie
    answer = dataclasses.replace(prediction, labels=prediction.labels[near], confidence=prediction.confidence[near])
    assert_answers(answer, softmax(logits)[near])
    native = predictor_of()(image)
    assert np.array_equal(prediction.labels[: size[0], : size[1]], native.labels)
    assert prediction.padded == native.padded == canvas[0] * canvas[1] - size[0] * size[1]


@pytest.mark.parametrize("num_classes", [2, 21])
def test_the_lowest_class_wins_a_tie(num_classes):
    model = tiny_model(num_classes=num_classes)
    for variable in model._by_name.values():
        variable.assign(tf.zeros_like(variable))
    predictor = exact_predictor(model, Inference(size=33))
    for ties in ({0, num_classes - 1}, {1, num_classes - 1}, set(range(num_classes))):
        model._by_name["logits/semantic/biases"].assign([float(number in ties) for number in range(num_classes)])
        prediction = predictor(image_of(33, 30))
        assert (prediction.labels == min(ties)).all()
        np.testing.assert_allclose(prediction.confidence, np.e / (len(ties) * np.e + num_classes - len(ties)), rtol=1e-6)


@pytest.mark.parametrize(("num_classes", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_more_than_256_classes_give_uint16_labels(num_classes, dtype):
    model = tiny_model(num_classes=num_classes)
    biases = model._by_name["logits/semantic/biases"]
    biases.assign(1000 * tf.one_hot(num_classes - 1, num_classes))
    for inference in (Inference(size=33), Inference(size=33, flip=True)):
        labels = exact_predictor(model, inference)(image_of(33, 30)).labels
        assert labels.dtype == dtype
        assert (labels == num_classes - 1).all()


# -- several runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), True), ((0.5,), False), ((0.5, 1.0, 1.75), True)])
def test_scales_and_mirror_images(scales, flip):
    image = image_of(50, 60)
    found = []
    for scale in scales:
        scaled = image
        if scale != 1:
            resized = tf.image.resize(image, (round(50 * scale), round(60 * scale)), antialias=scale < 1)
            scaled = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
        side = align_side(round((CANVAS - 1) * scale) + 1)
        for turn in (1, -1) if flip else (1,):
            logits = literal_logits(np.ascontiguousarray(scaled[:, ::turn]), side)[0]
            logits = logits[: scaled.shape[0], : scaled.shape[1]][:, ::turn]
            found.append(softmax(interpolate(logits, (50, 60), POSITIONS["half_pixel"])))
    prediction = predictor_of(scales=scales, flip=flip)(image, keep_probabilities=True)
    mean = np.mean(found, axis=0)
    np.testing.assert_allclose(prediction.probabilities, mean, atol=1e-4)
    assert_answers(prediction, prediction.probabilities)
    assert prediction.padded == 0
    assert max(np.abs(mean - one).max() for one in found) > 0.02 or len(found) == 1  # each run counts


def test_a_mirror_image_has_mirrored_labels_at_scale_1():
    """DeepLab's flip flag is ignored there."""
    image = image_of(50, 59)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    both, plain = predictor_of(flip=True), predictor_of()
    assert np.array_equal(both(mirrored).labels, both(image).labels[:, ::-1])
    assert not np.array_equal(plain(mirrored).labels, plain(image).labels[:, ::-1])


# -- sliding windows ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 40), st.sampled_from([(4, 32), (8, 32), (16, 32), (32, 32), (8, 16), (3, 12)]))
def test_windows_cover_everything(n, m, strides):
    grid, nominal = strides
    window, length = (nominal * min(n, m) + 1, nominal * max(n, m) + 1)
    starts = window_starts(length, window, grid)
    assert starts[0] == 0
    assert starts[-1] == length - window
    assert starts == sorted(set(starts))
    assert all(start % grid == 0 for start in starts)
    steps = np.diff(starts)
    assert (steps <= max(grid, window * (1 - OVERLAP))).all()
    assert (steps < window).all()
    if window > 1.5 * nominal * 2:
        assert len(starts) <= 1 + -(-(length - window) // (window * (1 - OVERLAP) - grid))  # and no more than it takes


def literal_windows(image, tile, canvas, stride=8):
    """Each cell from the window whose edges inside the canvas are farthest, the later one on a tie."""
    cells = np.zeros((*((side - 1) // stride + 1 for side in canvas), 5), np.float32)
    sides = [min(tile, side) for side in canvas]
    step = int(tile * 2 / 3) // 8 * 8
    axes = [sorted({*range(0, canvas[axis] - sides[axis], step), canvas[axis] - sides[axis]}) for axis in range(2)]

    def depth(cell, start, side, whole):
        edges = [cell * stride - start] if start > 0 else []
        edges += [start + side - 1 - cell * stride] if start + side < whole else []
        inside = start <= cell * stride < start + side
        return min(edges, default=10**6) if inside else -1

    def best(axis, cell):
        return max(reversed(axes[axis]), key=lambda start: depth(cell, start, sides[axis], canvas[axis]))

    answers = {}
    for y, x in np.ndindex(cells.shape[:2]):
        top, left = best(0, y), best(1, x)
        if (top, left) not in answers:
            answers[top, left] = literal_cells(image[top : top + sides[0], left : left + sides[1]], sides)
        cells[y, x] = answers[top, left][y - top // stride, x - left // stride]
    return interpolate(cells.astype(np.float64), canvas, POSITIONS["align_corners"]), len(answers)


@pytest.mark.parametrize(("size", "windows"), [((97, 150), 15), ((60, 97), 2), ((65, 33), 1), ((20, 100), 3)])
def test_windows_step_by_step(size, windows):
    image = image_of(*size)
    canvas = tuple(max(CANVAS, align_side(side)) for side in size)
    logits, answers = literal_windows(image, 65 if windows < 15 else 49, canvas)
    logits = logits[: size[0], : size[1]]
    predictor = predictor_of(tile=65 if windows < 15 else 49)
    assert answers == windows
    np.testing.assert_allclose(predictor.logits(image), logits, atol=1e-4)
    prediction = predictor(image)
    assert_answers(prediction, softmax(logits))
    assert prediction.padded == canvas[0] * canvas[1] - size[0] * size[1]


def test_windows_and_scales():
    image = image_of(60, 90)
    found = []
    for scale, side in ((1.0, 65), (1.5, 97)):
        scaled = np.clip(np.rint(tf.image.resize(image, (round(60 * scale), round(90 * scale)))), 0, 255).astype(np.uint8)
        canvas = tuple(max(side, align_side(pixels)) for pixels in scaled.shape[:2])
        logits = literal_windows(scaled, 49, canvas)[0][: scaled.shape[0], : scaled.shape[1]]
        found.append(softmax(interpolate(logits, (60, 90), POSITIONS["half_pixel"])))
    prediction = predictor_of(tile=49, scales=(1.0, 1.5))(image, keep_probabilities=True)
    np.testing.assert_allclose(prediction.probabilities, np.mean(found, axis=0), atol=1e-4)


def test_no_seams_where_the_receptive_field_fits_the_overlap():
    field = model_of().backbone.plan.receptive_field
    image = image_of(300, 400)
    whole = predictor_of().logits(image)
    errors = {}
    for tile in (65, 113, 193, 273):
        predictor = predictor_of(tile=tile)
        overlap = tile - int(tile * 2 / 3) // 8 * 8
        errors[tile] = laws.relative_error(predictor.logits(image), whole)
        if field <= overlap:
            assert errors[tile] <= 1e-5
            assert predictor.tiling_note is None
        else:
            assert predictor.tiling_note == f"windows overlap by {overlap} pixels, and a cell sees {field}"
    assert errors[65] > 1e-2
    assert errors[273] <= 1e-5
    assert predictor_of().tiling_note is None


def test_seams_of_a_head_that_pools_over_the_image():
    predictor = predictor_of("decoder", tile=273)
    assert predictor.tiling_note == "the head takes the mean of each window of 273 pixels, not of the image"
    image = image_of(289, 289)
    assert laws.relative_error(predictor.logits(image), predictor_of("decoder").logits(image)) > 1e-3


def test_windows_of_the_decoders_cells():
    """Cells 4 pixels apart: each window's own part is where it would be in the image run whole."""
    image = np.full((97, 97, 3), 128, np.uint8)
    image[40:50, 40:50] = 255
    one, whole = (predictor_of("decoder", **more).logits(image) for more in ({"tile": 81}, {}))
    assert one.shape == whole.shape == (97, 97, 5)
    assert np.corrcoef(one.ravel(), whole.ravel())[0, 1] > 0.9


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "inference"), [(np.nan, {}), (np.inf, {"flip": True}), (np.nan, {"tile": 49})])
def test_logits_that_are_not_finite(value, inference):
    model = tiny_model()
    biases = model._by_name["logits/semantic/biases"]
    biases.assign([0.0, 0.0, value, 0.0, 0.0])
    predictor = exact_predictor(model, Inference(size=CANVAS, **inference))
    with pytest.raises(InputError, match="the network's logits are not finite"):
        predictor(image_of(40, 70))


@pytest.mark.parametrize(
    ("inference", "message"),
    [
        (Inference(size=512), r"size must be 16n\+1 pixels \(not 512\); next: 513\."),
        (Inference(size=66), r"size must be 16n\+1 pixels \(not 66\); next: 81\."),
        (Inference(size=1), r"size must be 16n\+1 pixels \(not 1\); next: 17\."),
        (Inference(size=65, tile=64), r"tile must be 16n\+1 pixels \(not 64\); next: 65\."),
        (Inference(size=65, tile=0), r"tile must be a positive integer \(not 0\)"),
        (Inference(size=65, scales=()), r"scales must be factors from 0\.1 to 10\.0 \(not \(\)\)"),
        (Inference(size=65, scales=(1.0, float("nan"))), "scales must be factors"),
        (Inference(size=65, scales=(20.0,)), "scales must be factors"),
        (
            Inference(size=65, upsample="nearest"),
            r"upsample must be one of align_corners, half_pixel, legacy \(not 'nearest'\)",
        ),
        (Inference(size=65, score="canvas"), r"score must be one of native, input \(not 'canvas'\)"),
        (Inference(size=65, score="input", flip=True), "scoring the input canvas has no meaning for several scales"),
        (Inference(size=65, score="input", tile=65), "scoring the input canvas has no meaning"),
    ],
)
def test_invalid_inference_options_are_refused(inference, message):
    with pytest.raises(InputError, match=message):
        exact_predictor(model_of(), inference)


def test_a_network_of_four_channels_is_refused():
    plan = dr.plan(THREE_BLOCKS, output_stride=8, scope="tiny", kind="bottleneck_v1", in_channels=4)
    model = SegmentationModel(dr.Backbone(plan, seed=0), 5, "fcn")
    with pytest.raises(InputError, match="images have 3 channels, this network takes 4"):
        exact_predictor(model, Inference(size=CANVAS))
