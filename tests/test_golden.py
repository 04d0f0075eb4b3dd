"""Features against the original code's, on weights and inputs made from names alone (golden/det_weights.py).

The arrays were made by TensorFlow models' research/slim and research/deeplab (2024-04-24) on TensorFlow 2.21, CPU, float32,
inference mode; every second channel is kept. Tolerance 2e-4 of the standard deviation is ten times the noise between
kernels.
"""

from pathlib import Path

import numpy as np
import pytest
from det_weights import det_input, det_weight

import dense_resnet as dr
from dense_resnet import laws

HERE = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("file", "name", "size", "multi_grid"),
    [
        ("v2_50_96x128_os16", "resnet_v2_50", (96, 128), None),
        ("v1_50_beta_97_os16_mg124", "resnet_v1_50_beta", (97, 97), (1, 2, 4)),
    ],
)
def test_features_of_the_original_code(file, name, size, multi_grid):
    plan = dr.plan(name, output_stride=16, multi_grid=multi_grid)
    backbone = laws.loaded(plan, {variable.name: det_weight(variable.name, variable.shape) for variable in plan.variables})
    features = backbone(det_input(*size)).numpy()
    expected = np.load(HERE / f"{file}.npy", allow_pickle=False)
    assert laws.relative_error(features[..., ::2], expected) <= 2e-4
