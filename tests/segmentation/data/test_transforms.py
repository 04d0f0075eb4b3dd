"""Random views: by seed alone, image and label joined, labels never blended, whatever the sizes."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_resnet.errors import InputError
from segmentation.data.distortion import check_keras, distort
from segmentation.data.transforms import Augmentation, augment, place_on_canvas

IGNORED = 255
PLAIN = Augmentation((33, 65), (1.0, 1.0), flip=False)


def noise(size, seed=0):
    """An image and a label of noise."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (*size, 3), np.uint8), generator.integers(0, 21, size, np.uint8)


def views(image, label, settings, count=20):
    """Views by the seeds from 0 on."""
    for seed in range(count):
        yield augment(image, label, settings, np.random.default_rng(seed))


def squares(size, side=16):
    """An image whose red channel says the label: 12 times a class, in squares."""
    rows, columns = (np.arange(length) // side for length in size)
    label = ((rows[:, None] * 7 + columns[None]) % 20).astype(np.uint8)
    return np.stack([12 * label] * 3, axis=-1), label


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_the_same_seed_gives_the_same_view_eagerly_and_in_a_pipeline(jitter):
    image, label = noise((60, 80))
    options = Augmentation((33, 65), jitter=jitter)

    def view(seed):
        view, own, offset = augment(image, label, options, np.random.default_rng(int(seed)))
        return place_on_canvas(view, offset, options.crop, 0), place_on_canvas(own, offset, options.crop, IGNORED)

    pipeline = tf.data.Dataset.range(12).map(
        lambda seed: tf.numpy_function(view, [seed], [tf.uint8, tf.uint8]), num_parallel_calls=4
    )
    mapped = [(one.numpy(), two.numpy()) for one, two in pipeline]
    for seed, (one, two) in enumerate(mapped):
        np.testing.assert_array_equal(one, view(seed)[0])
        np.testing.assert_array_equal(two, view(seed)[1])
    assert len({one.tobytes() for one, _ in mapped}) == 12  # and other seeds give others


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.5, 2.0), (1.7, 1.7)])
def test_image_and_label_stay_joined(scale):
    """Scaled, cropped and mirrored together: away from edges between classes the image still says the label."""
    image, label = squares((150, 170))
    inner = 0
    for view, own, _ in views(image, label, Augmentation((97, 65), scale)):
        assert view.shape[:2] == own.shape
        padded = np.pad(own.astype(int), 2, constant_values=-1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
        flat = (windows == own[..., None, None]).all(axis=(2, 3))
        np.testing.assert_allclose(view[flat], 12.0 * own[flat][:, None].repeat(3, axis=1), atol=1)
        inner += flat.mean() / 20
    assert inner > 0.2


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_panoramas_are_longer_than_opencv_warps(transposed, dtype):
    """Every kind of label; the view is the image's own pixels, and shows what it does of a short image."""
    image, label = noise((40, 40000))
    label = label.astype(dtype)
    options = Augmentation((33, 65), (1.0, 1.0), flip=False)
    if transposed:
        image, label, options = image.swapaxes(0, 1), label.T, Augmentation((65, 33), (1.0, 1.0), flip=False)
    starts = []
    for view, own, _ in views(image, label, options):
        rows = np.lib.stride_tricks.sliding_window_view(label, (1, 24))[..., 0, :]
        ((row, column),) = np.argwhere((rows == own[0, :24]).all(axis=-1))
        np.testing.assert_array_equal(own, label[row : row + own.shape[0], column : column + own.shape[1]])
        np.testing.assert_array_equal(view, image[row : row + own.shape[0], column : column + own.shape[1]])
        starts.append(max(row, column))
    assert max(starts) > 32767


def test_a_panoramas_windows_are_sampled_as_a_short_images():
    """Smaller and mirrored too: a picture that repeats looks as its one period does."""
    image, label = squares((64, 40000))
    for view, own, _ in views(image, label, Augmentation((33, 65), (0.5, 2.0))):
        padded = np.pad(own.astype(int), 2, constant_values=-1)
        flat = (np.lib.stride_tricks.sliding_window_view(padded, (5, 5)) == own[..., None, None]).all(axis=(2, 3))
        np.testing.assert_allclose(view[flat], 12.0 * own[flat][:, None].repeat(3, axis=1), atol=1)


def test_a_window_longer_than_opencv_warps_is_refused():
    image, label = noise((4, 70000))
    with pytest.raises(InputError, match=r"would shrink .* pixels of this image, and OpenCV takes at most 32,766 per side"):
        augment(image, label, Augmentation((33, 65), (0.001, 0.001)), np.random.default_rng(0))


def test_scale_1_without_flip_is_a_crop_to_the_byte():
    image, label = noise((60, 80))
    windows = np.lib.stride_tricks.sliding_window_view(label, (33, 65))
    places = set()
    for view, own, offset in views(image, label, PLAIN):
        ((row, column),) = np.argwhere((windows == own).all(axis=(2, 3)))
        np.testing.assert_array_equal(view, image[row : row + 33, column : column + 65])
        assert offset == (0, 0)
        places.add((int(row), int(column)))
    assert len(places) > 10


def test_a_flipped_view_is_the_mirror_image():
    image, label = noise((33, 65))
    both = set()
    for view, own, _ in views(image, label, Augmentation((33, 65), (1.0, 1.0))):
        mirrored = not np.array_equal(own, label)
        both.add(mirrored)
        np.testing.assert_array_equal(view[:, :: -1 if mirrored else 1], image)
        np.testing.assert_array_equal(own[:, :: -1 if mirrored else 1], label)
    assert both == {True, False}


def test_every_place_is_drawn():
    """The first and the last row and column of an image can be seen, and a small image can lie anywhere."""
    image, label = noise((6, 7))
    crops = [own for _, own, _ in views(image, label, Augmentation((4, 4), (1.0, 1.0), flip=False), 300)]
    assert {np.flatnonzero((label[:3, :4] == own[:3]).all()).size for own in crops} == {0, 1}
    assert len({own.tobytes() for own in crops}) == 3 * 4
    offsets = {offset for *_, offset in views(image, label, Augmentation((8, 9), (1.0, 1.0)), 300)}
    assert offsets == {(row, column) for row in range(3) for column in range(3)}


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.floats(0.2, 3),
    st.floats(1, 3),
    st.sampled_from([np.uint8, np.uint16, np.int32]),
    st.integers(0, 2**32),
)
def test_views_of_any_size_fit_the_crop(size, crop, low, span, dtype, seed):
    """The view fits the crop, labels keep their type and are never blended, and smaller images are placed inside."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (*size, 3), np.uint8)
    label = generator.choice([0, 7, 200, 255 if dtype is np.uint8 else 1000], size).astype(dtype)
    view, own, offset = augment(image, label, Augmentation(crop, (low, low * span), jitter=0.5), generator)
    assert view.shape == (*own.shape, 3)
    assert (view.dtype, own.dtype) == (np.uint8, dtype)
    assert set(np.unique(own)) <= set(np.unique(label))
    canvas = place_on_canvas(own, offset, crop, 255)
    assert canvas.shape == crop
    assert canvas.dtype == dtype
    for start, side, most in zip(offset, own.shape, crop, strict=True):
        assert 0 <= start <= start + side <= most


def test_a_smaller_image_is_padded_with_what_is_asked():
    image, label = noise((20, 30))
    view, own, offset = augment(image, label, PLAIN, np.random.default_rng(3))
    np.testing.assert_array_equal(own, label)
    canvas = place_on_canvas(own, offset, PLAIN.crop, IGNORED)
    rows, columns = (slice(start, start + side) for start, side in zip(offset, label.shape, strict=True))
    np.testing.assert_array_equal(canvas[rows, columns], label)
    assert np.count_nonzero(canvas == IGNORED) == 33 * 65 - 20 * 30
    assert place_on_canvas(view, offset, PLAIN.crop, 0).shape == (33, 65, 3)


def test_the_scale_is_drawn_evenly_between_its_ends_by_ratio():
    image, label = noise((100, 100))
    sides = np.array([own.shape[0] for _, own, _ in views(image, label, Augmentation((500, 500)), 300)]) / 100
    assert 0.5 <= sides.min() < 0.53
    assert 1.9 < sides.max() <= 2
    assert abs(np.mean(sides < 1) - 0.5) < 0.1  # as many halved as doubled


def test_jitter_changes_colors_alone():
    image, label = noise((60, 80))
    plain, coloured = (list(views(image, label, Augmentation((33, 65), jitter=jitter))) for jitter in (0, 0.4))
    for (view, own, offset), (other, its, where) in zip(plain, coloured, strict=True):
        np.testing.assert_array_equal(own, its)
        assert offset == where
        assert other.dtype == np.uint8
        assert not np.array_equal(view, other)
    brightness = [other.mean() for other, *_ in coloured]
    assert max(brightness) - min(brightness) > 30
    grey = [abs(other.astype(int) - other[..., :1]).mean() for other, *_ in coloured]
    assert max(grey) > 1.2 * min(grey)  # saturation


def test_jitter_of_one_channel():
    image, label = noise((20, 20))
    view, _, _ = augment(image[..., :1], label, Augmentation((33, 33), jitter=0.4), np.random.default_rng(0))
    assert view.shape[2] == 1


def test_shrinking_does_not_alias():
    """One bright column in three, at a third of the size: single pixels would be all dark, and the mean is 200 / 3."""
    image = np.zeros((63, 63, 3), np.uint8)
    image[:, ::3] = 200
    view, _, _ = augment(image, image[..., 0], Augmentation((21, 21), (1 / 3, 1 / 3)), np.random.default_rng(0))
    np.testing.assert_allclose(view[:, 2:-2], 200 / 3, atol=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 5)}, "crop must be a positive integer"),
        ({"scale": (0.0, 1.0)}, r"scale must be two factors above 0, the smaller first \(not 0.0 1.0\)"),
        ({"scale": (2.0, 1.0)}, "the smaller first"),
        ({"scale": (1.0, float("inf"))}, "scale must be"),
        ({"scale": (float("nan"), 1.0)}, "scale must be"),
        ({"jitter": 1.0}, r"jitter must be at least 0 and below 1 \(not 1.0\)"),
        ({"jitter": -0.1}, "jitter must be"),
    ],
)
def test_invalid_augmentation_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**options).check()


def test_image_and_label_of_different_sizes_are_refused():
    with pytest.raises(InputError, match="the image is 40x30, its label 30x40"):
        augment(np.zeros((30, 40, 3), np.uint8), np.zeros((40, 30), np.uint8), PLAIN, np.random.default_rng(0))


# -- distortion by Keras ----------------------------------------------------------------------------------------------


def has_distortion():
    try:
        check_keras()
    except InputError:
        return False
    return True


@pytest.mark.skipif(not has_distortion(), reason="this Keras is too old")
def test_distortion_turns_the_label_with_the_image(photographs):
    """A label that is the image's own brightness stays so, within blur, noise and colors."""
    image = np.repeat(photographs["grey"][200:329, 200:329, None], 3, 2)
    label = (image[..., 0] > 100).astype(np.uint8)
    for seed in range(5):
        view, own = distort(image, label, 0.3, seed)
        assert set(np.unique(own)) <= {0, 1}
        brightness = view.mean(-1)
        assert brightness[own == 1].mean() > brightness[own == 0].mean() + 50
        assert (own != label).mean() > 0.001  # it was turned


@pytest.mark.skipif(not has_distortion(), reason="this Keras is too old")
def test_distortion_is_a_function_of_its_seed(photographs):
    image, label = photographs["cat"][:65, :65], np.eye(65, dtype=np.int32) * 40000
    one, same, other = (distort(image, label, 0.8, seed) for seed in (1, 1, 2))
    assert np.array_equal(one[0], same[0])
    assert np.array_equal(one[1], same[1])
    assert not np.array_equal(one[0], other[0])
    assert set(np.unique(one[1])) == {0, 40000}


def test_an_old_keras_is_named(monkeypatch):
    monkeypatch.setattr("segmentation.data.distortion.version", lambda name: "3.6.0")
    with pytest.raises(InputError, match=r"needs Keras 3\.9, and 3\.6\.0 is installed"):
        Augmentation(distortion=0.5).check()
