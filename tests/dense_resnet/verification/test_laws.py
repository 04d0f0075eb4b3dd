"""Laws 2 and 3 on every kind of unit and stride placement, and that they catch the mistakes that the field makes."""

import pytest
from helpers.networks import MISTAKES, PLACEMENTS, dilate_strided_units, images_of, small_plan, weights_of

import dense_resnet as dr
from dense_resnet import resnet_utils
from dense_resnet.verification import laws


def dense_error(placement, output_stride, size, **arguments):
    """Law 2's finding for a small network."""
    dense, nominal = small_plan(placement, output_stride, **arguments), small_plan(placement, None, **arguments)
    weights = weights_of(dense)
    images = images_of(size, dense.in_channels)
    return laws.dense_equals_nominal(laws.backbone_with(dense, weights), laws.backbone_with(nominal, weights), images)


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [4, 8, 16])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_dense_equals_nominal(placement, output_stride):
    dense, nominal = small_plan(placement, output_stride), small_plan(placement, None)
    weights = weights_of(dense)
    backbone, reference = laws.backbone_with(dense, weights), laws.backbone_with(nominal, weights)
    for size in (65, 64, (33, 50)):
        finding = laws.dense_equals_nominal(backbone, reference, images_of(size))
        assert finding.holds, finding
        assert finding.spread > 1e-2


@pytest.mark.parametrize("output_stride", [1, 2, 4])
def test_dense_equals_nominal_without_the_root_block(output_stride):
    for size in (33, 32):
        assert dense_error("v2, last unit", output_stride, size, root_block=False).holds


def test_dense_equals_nominal_with_multi_grid():
    assert dense_error("v1, last unit", 8, 65, multi_grid=(2, 1)).holds
    assert dense_error("v1.5", 8, 65, multi_grid=(1, 2)).holds


MADE = [  # where a 1x1 carries the stride of a bottleneck, the 3x3 is to take the new rate: there the first is no mistake
    (placement, mistake)
    for placement, (kind, stride_at, _, _) in PLACEMENTS.items()
    for mistake in MISTAKES
    if not (mistake is dilate_strided_units and stride_at == "conv1" and kind != "lite_bottleneck_v1")
]


@pytest.mark.slow
@pytest.mark.parametrize(("placement", "mistake"), MADE)
def test_dense_equals_nominal_detects_wrong_rates(placement, mistake, monkeypatch):
    right = resnet_utils.schedule
    monkeypatch.setattr(resnet_utils, "schedule", lambda *arguments: mistake(right(*arguments)))
    finding = dense_error(placement, 4, 65)
    assert finding.error > 1e-2
    assert not finding.holds


@pytest.mark.parametrize("placement", ["v2, first unit, 1x1", "v1 original"])
def test_dense_equals_nominal_detects_an_old_rate_behind_the_1x1(placement, monkeypatch):
    right = resnet_utils.schedule
    monkeypatch.setattr(resnet_utils, "schedule", lambda *a: tuple(s._replace(suppressed=1) for s in right(*a)))
    assert dense_error(placement, 4, 65).error > 1e-2


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_mirrored_images_give_mirrored_features(placement):
    plan = small_plan(placement, 8)
    weights = weights_of(plan)
    backbone, turned = laws.backbone_with(plan, weights), laws.backbone_with(plan, laws.mirror_kernels(weights))
    for size in (65, (33, 97)):
        finding = laws.mirror(backbone, turned, images_of(size), aligned=True)
        assert finding.holds, finding
    for size in (64, (65, 66)):
        finding = laws.mirror(backbone, turned, images_of(size), aligned=False)
        assert finding.holds, finding
        assert finding.error > 1e-2


def test_mirroring_the_image_alone_changes_features():
    plan = small_plan("v2, last unit", 8)
    weights = weights_of(plan)
    finding = laws.mirror(laws.backbone_with(plan, weights), laws.backbone_with(plan, weights), images_of(65), aligned=True)
    assert finding.error > 1e-2


@pytest.mark.slow
def test_laws_hold_for_resnet_v2_152(monkeypatch):
    """The real network, once: laws 2 and 3 at strides 8 and 16, and the two mistakes at stride 16."""
    nominal = dr.plan("resnet_v2_152")
    weights = weights_of(nominal)
    reference = laws.backbone_with(nominal, weights)
    odd, even = images_of(97), images_of(96)
    for output_stride in (8, 16):
        dense = laws.backbone_with(dr.plan("resnet_v2_152", output_stride=output_stride), weights)
        for images in (odd, even):
            finding = laws.dense_equals_nominal(dense, reference, images)
            assert finding.holds, finding
    turned = laws.backbone_with(dr.plan("resnet_v2_152", output_stride=16), laws.mirror_kernels(weights))
    assert laws.mirror(dense, turned, odd, aligned=True).holds
    assert laws.mirror(dense, turned, even, aligned=False).holds
    right = resnet_utils.schedule
    for mistake in MISTAKES:
        monkeypatch.setattr(resnet_utils, "schedule", lambda *a, mistake=mistake: mistake(right(*a)))
        assert laws.dense_equals_nominal(laws.backbone_with(dense.plan, weights), reference, odd).error > 1e-2
