"""Features on disk and sampling them at the image's pixels."""

import numpy as np
import pytest

import dense_resnet as dr
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError
from dense_resnet.extraction import features
from dense_resnet.extraction.features import Features
from dense_resnet.extraction.visualization import alignment_picture, principal_colors
from dense_resnet.inference import canvas


def ramp(place, stride, side=513):
    """A map whose two channels are the x and y of each cell's centre on the original image."""
    cells = (side - 1) // stride + 1
    grid = np.stack(np.meshgrid(np.arange(cells) * stride, np.arange(cells) * stride), axis=-1).reshape(-1, 2)
    return place.to_original(grid).reshape(cells, cells, 2).astype(np.float32)


@pytest.mark.parametrize("original", [(400, 600), (513, 513), (1027, 333)])
def test_sampling_reads_at_original_pixels(original):
    place = canvas.placement(original, 513)
    own = Features({16: ramp(place, 16), 4: ramp(place, 4)}, place, "image")
    points = np.random.default_rng(0).uniform(20, min(original) - 20, (50, 2))
    for stride in (4, 16):
        np.testing.assert_allclose(dr.sample(own, points, stride), points, atol=1e-3)


def test_cell_centers_and_sampling_agree():
    place = canvas.placement((1000, 700), 513)
    values = np.random.default_rng(0).standard_normal((33, 33, 5)).astype(np.float32)
    own = Features({16: values}, place, "image")
    y, x = own.cell_centers(16)
    assert len(y) == len(x) == 33
    np.testing.assert_allclose(dr.sample(own, [[x[7], y[11]], [x[8], y[12]]]), values[[11, 12], [7, 8]], atol=1e-4)
    between = dr.sample(own, [[(x[7] + x[8]) / 2, y[11]]])[0]
    np.testing.assert_allclose(between, (values[11, 7] + values[11, 8]) / 2, atol=1e-4)


def test_sampling_beyond_the_outermost_cells_takes_the_nearest():
    """Half a pixel around the image, which no cell reaches."""
    place = canvas.placement((65, 65), 65)
    values = np.random.default_rng(0).standard_normal((5, 5, 3)).astype(np.float32)
    own = Features({16: values}, place, "image")
    corners = [[-0.5, -0.5], [64.5, -0.5], [-0.5, 64.5], [64.5, 64.5]]
    assert np.array_equal(dr.sample(own, corners), values[[0, 0, -1, -1], [0, -1, 0, -1]])
    large = Features({16: values}, canvas.placement((650, 650), 65), "image")  # cells at 4.5, 164.5, ...
    assert np.array_equal(dr.sample(large, [[0, 0], [649, 649]]), values[[0, -1], [0, -1]])


def test_a_single_row_of_cells():
    own = Features(
        {16: np.arange(33, dtype=np.float32).reshape(1, 33, 1)}, canvas.Placement((1, 513), (1, 513), (0, 0)), "image"
    )
    assert dr.sample(own, [[24, 0], [512, 0]]).ravel().tolist() == [1.5, 32.0]


@pytest.mark.parametrize("dtype", features.DTYPES)
def test_written_features_are_read_back(dtype, tmp_path):
    import tensorflow as tf

    place = canvas.placement((400, 600), 513)
    values = np.random.default_rng(0).standard_normal((33, 33, 8)).astype(np.float32)
    stored = values.astype(tf.dtypes.as_dtype(dtype).as_numpy_dtype)
    features.write_features(tmp_path / "f.safetensors", {16: stored}, place, {"path": "a/b.jpg"})
    own = dr.read_features(tmp_path / "f.safetensors")
    assert (own.placement, own.path) == (place, "a/b.jpg")
    assert np.array_equal(own.map(), stored.astype(np.float32))
    assert (tmp_path / "f.safetensors").stat().st_size < 33 * 33 * 8 * stored.dtype.itemsize + 2000


def test_sampling_no_points_gives_an_empty_array():
    place = canvas.placement((100, 200), 513)
    assert dr.sample(Features({16: ramp(place, 16)}, place, "image"), []).shape == (0, 2)


def test_invalid_points_and_files_are_refused(tmp_path):
    place = canvas.placement((100, 200), 513)
    own = Features({4: ramp(place, 4), 16: ramp(place, 16)}, place, "image")
    with pytest.raises(ValueError, match=r"point \(x=200, y=5\) is outside the image, which has 200 columns and 100 rows"):
        dr.sample(own, [[3, 3], [200, 5]], 16)
    with pytest.raises(ValueError, match=r"stride must be one of \[4, 16\] \(not None\)"):
        dr.sample(own, [[3, 3]])
    with pytest.raises(ValueError, match=r"xy must have shape \[points, 2\] \(not \[1, 3\]\)"):
        dr.sample(own, [[1, 2, 3]], 16)
    from dense_resnet.checkpoints.containers import safetensors

    safetensors.write(tmp_path / "weights.safetensors", {"a": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match="not a features file"):
        dr.read_features(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("path", [None, 7, ["a.jpg"]])
def test_the_name_of_the_image_is_text(path, tmp_path):
    place = canvas.placement((33, 33), 33)
    features.write_features(tmp_path / "f.safetensors", {16: ramp(place, 16, 33)}, place, {"path": path})
    with pytest.raises(InputError, match=r"f\.safetensors: not a features file of dense-resnet extract \(TypeError\(.path "):
        dr.read_features(tmp_path / "f.safetensors")


def test_the_picture_shows_cells_where_they_are():
    """A map that steps up between columns 4 and 5 makes the picture step up between pixels 64 and 80."""
    place = canvas.placement((400, 400), 513)
    values = np.zeros((33, 33, 1), np.float32)
    values[:, 5:] = 1
    picture = alignment_picture(np.zeros((400, 400, 3), np.uint8), Features({16: values}, place, "image"))
    zoom = 2  # 400 pixels become 800, the next multiple that is at least 620 wide
    row = picture[:, picture.shape[1] // 2 :, 0][100 * zoom + 21].astype(int)
    start = int(np.argmin(row > 0))  # the panel's first column, behind the white border
    profile = row[start : start + 800] / 255
    for pixel, expected in ((32, 0), (64, 0), (68, 0.25), (72, 0.5), (76, 0.75), (80, 1), (300, 1)):
        assert profile[pixel * zoom] == pytest.approx(expected, abs=0.05), pixel


@pytest.mark.parametrize("size", [(8, 600), (600, 8), (1, 1), (3000, 20)])
def test_a_picture_of_any_shape(size):
    place = canvas.placement(size, 513)
    values = np.random.default_rng(0).standard_normal((33, 33, 4)).astype(np.float32)
    picture = alignment_picture(np.zeros((*size, 3), np.uint8), Features({16: values}, place, "image"))
    assert max(picture.shape) < 5000


def test_colors_do_not_depend_on_the_sign_of_components():
    values = np.random.default_rng(0).standard_normal((50, 6))
    colours = principal_colors(values)
    assert colours.shape == (50, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    np.testing.assert_allclose(principal_colors(values[:, ::-1]), colours, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"original_size": [20]},
        {"original_size": [20, 0]},
        {"size": [16.0, 33]},
        {"padding": [-1, 0]},
        {"padding": "ab"},
        {"size": 7},
    ],
)
def test_an_invalid_placement_is_refused(changes, tmp_path):
    described = {"path": "a", "original_size": [20, 40], "size": [16, 33], "padding": [17, 0], **changes}
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {"stride_8": np.zeros((5, 5, 3), np.float32)}, {"features": described})
    with pytest.raises(InputError, match="a.safetensors: not a features file of dense-resnet extract"):
        dr.read_features(path)


@pytest.mark.parametrize("arrays", [{"stride_8": (5, 5)}, {"stride_0": (5, 5, 3)}, {}])
def test_arrays_other_than_maps_are_refused(arrays, tmp_path):
    described = {"path": "a", "original_size": [20, 40], "size": [16, 33], "padding": [17, 0]}
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {name: np.zeros(shape, np.float32) for name, shape in arrays.items()}, {"features": described})
    with pytest.raises(InputError, match="a.safetensors: not a features file of dense-resnet extract"):
        dr.read_features(path)


def test_sampling_from_a_path_is_refused():
    with pytest.raises(InputError, match="features must be the result of dense_resnet.read_features"):
        features.sample("a.jpg.safetensors", [(1, 2)])
