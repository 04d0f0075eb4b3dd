"""Upsampling: corner on corner, as PyTorch does with align_corners."""

import numpy as np
import pytest

import dense_resnet as dr


@pytest.mark.parametrize("size", [(33, 65), (40, 31), (3, 5)])
def test_upsampling_equals_pytorchs(size):
    torch = pytest.importorskip("torch")
    features = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype("f")
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(features.transpose(0, 3, 1, 2).copy()), size=size, mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(dr.upsample(features, size), theirs.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_cells_keep_their_values_on_their_pixels():
    features = np.random.default_rng(1).standard_normal((1, 3, 5, 2)).astype("f")
    np.testing.assert_allclose(dr.upsample(features, (33, 65))[:, ::16, ::16], features, atol=1e-6)


@pytest.mark.parametrize(("features", "size"), [(np.zeros((3, 5, 7)), (9, 9)), (np.zeros((1, 3, 5, 7)), (9, 0))])
def test_invalid_arguments_are_refused(features, size):
    with pytest.raises(dr.InputError):
        dr.upsample(features, size)
