"""preprocess against Keras' own preprocess_input, on arrays and tensors."""

import numpy as np
import pytest
import tensorflow as tf

import dense_resnet as dr
from dense_resnet.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)


def keras_input(mode):
    """What Keras makes of IMAGES."""
    from keras.src.applications.imagenet_utils import preprocess_input

    return preprocess_input(IMAGES.astype(np.float32), data_format="channels_last", mode=mode)


@pytest.mark.parametrize(("scheme", "mode"), [("inception", "tf"), ("caffe", "caffe"), ("torch", "torch")])
@pytest.mark.parametrize("convert", [np.asarray, tf.constant])
def test_schemes_equal_keras(scheme, mode, convert):
    values = dr.preprocess(convert(IMAGES), scheme)
    assert tf.is_tensor(values) == tf.is_tensor(convert(IMAGES))
    np.testing.assert_allclose(np.asarray(values), keras_input(mode), rtol=1e-5, atol=1e-5)
    assert np.asarray(values).dtype == np.float32


def test_vgg_is_caffe_in_rgb_order():
    np.testing.assert_array_equal(dr.preprocess(IMAGES, "vgg"), dr.preprocess(IMAGES, "caffe")[..., ::-1])


def test_the_mean_color_becomes_zero():
    mean = np.array([[[123.68, 116.779, 103.939]]])
    assert np.abs(dr.preprocess(mean, "vgg")).max() < 1e-5
    assert dr.preprocess(np.full((2, 2, 7), 127.5), "inception").tolist() == np.zeros((2, 2, 7)).tolist()


def test_invalid_schemes_and_channels_are_refused():
    with pytest.raises(ValueError, match=r"scheme must be one of 'inception', .*not 'imagenet'"):
        dr.preprocess(IMAGES, "imagenet")
    with pytest.raises(ValueError, match=r"needs 3 channels \(not 4\)"):
        dr.preprocess(np.zeros((2, 2, 4)), "vgg")


@pytest.mark.parametrize("convert", [np.asarray, tf.constant])
@pytest.mark.parametrize("scale", [lambda x: x / np.float32(255), lambda x: x / np.float32(127.5) - 1])
def test_floats_that_look_already_scaled(scale, convert):
    with pytest.warns(UserWarning, match=r"images must be in 0\.\.255; these look already scaled") as told:
        dr.preprocess(convert(scale(IMAGES)), "inception")
    assert told[0].filename == __file__


@pytest.mark.parametrize("images", [IMAGES.astype(np.float32), np.zeros((2, 2, 3)), np.ones((2, 2, 3), np.uint8)])
def test_possible_rgb_values_give_no_warning(images):
    dr.preprocess(images, "vgg")


def test_a_path_or_swapped_arguments():
    image = np.zeros((1, 5, 5, 3), np.uint8)
    with pytest.raises(InputError, match=r"images must be numbers of shape .* \(not array\('cat.jpg'"):
        dr.preprocess("cat.jpg", "vgg")
    with pytest.raises(InputError, match=r"scheme must be one of 'inception', .*\(not array"):
        dr.preprocess("vgg", image)
