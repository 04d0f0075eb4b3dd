"""analysis.py against published figures and Keras' own counts."""

import json

import pytest

import dense_resnet as dr


def test_resnet_v2_152_has_the_published_parameters_and_macs():
    plan = dr.plan("resnet_v2_152")
    assert plan.parameter_count == 58_187_904
    assert plan.macs(224) / 1e9 == pytest.approx(10.9, abs=0.05)
    assert plan.macs((513, 513)) / 1e9 == pytest.approx(60.4, abs=0.05)
    assert dr.plan("resnet_v2_152", output_stride=16).macs(513) / 1e9 == pytest.approx(73.05, abs=0.05)


@pytest.mark.parametrize("output_stride", [None, 16, 8])
@pytest.mark.parametrize(
    ("name", "field"),  # A. Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019
    [("resnet_v1_50", 483), ("resnet_v1_101", 1027), ("resnet_v1_152", 1507), ("resnet_v2_50", 483), ("resnet_v2_152", 1507)],
)
def test_receptive_fields(name, field, output_stride):
    assert dr.plan(name, output_stride=output_stride).receptive_field == field


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet_v1_5_18", 11.689512), ("resnet_v1_5_34", 21.797672), ("resnet_v1_5_50", 25.557032)]
)
def test_parameters_are_torchvisions(name, millions):
    assert dr.plan(name, num_classes=1000).parameter_count == millions * 1e6


@pytest.mark.parametrize(("name", "gmacs"), [("resnet_v1_5_18", 1.814), ("resnet_v1_5_34", 3.664), ("resnet_v1_5_50", 4.089)])
def test_multiply_adds_are_torchvisions(name, gmacs):
    assert dr.plan(name, num_classes=1000).macs(224) / 1e9 == pytest.approx(gmacs, abs=0.003)


def test_the_table_has_a_row_a_unit_and_the_json_the_same_figures():
    plan = dr.plan("resnet_v2_50", output_stride=16)
    analysis = plan.analyze((513, 257))
    text = plan.describe((513, 257))
    for unit in plan.units:
        assert sum(line.startswith(unit.name + " ") for line in text.splitlines()) == 1
    described = json.loads(json.dumps(analysis.as_dict()))
    assert described["parameters"] == plan.parameter_count
    assert described["rows"][-1]["output_size"] == [33, 17] == list(plan.feature_size((513, 257)))
    assert described["macs"] == sum(row["macs"] for row in described["rows"]) == plan.macs((513, 257))


def test_activation_memory_equals_a_count_by_hand():
    plan = dr.plan([("block1", [(8, 2, 2)])], include_root_block=False, in_channels=8, kind="bottleneck_v1")
    cells = 5 * 5 * 2 + 3 * 3 * 2 + 3 * 3 * 8  # conv1, conv2 with the stride, conv3
    assert plan.analyze(5).activation_bytes == 4 * cells
    assert plan.macs(5) == 5 * 5 * 8 * 2 + 3 * 3 * 9 * 2 * 2 + 3 * 3 * 2 * 8
