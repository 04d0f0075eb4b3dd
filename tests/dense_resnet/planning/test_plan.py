"""plan.py: law 1 over random block lists, what is refused, and tables held fixed."""

import math

import pytest
from helpers.networks import MISTAKES
from hypothesis import given
from hypothesis import strategies as st

import dense_resnet as dr
from dense_resnet.planning import plan as plan_module
from dense_resnet.planning.layers import UNIT_KINDS
from dense_resnet.planning.plan import make_plan
from dense_resnet.planning.schedule import reachable_strides, schedule

units = st.fixed_dictionaries(
    {
        "depth": st.integers(1, 16),
        "depth_bottleneck": st.integers(1, 16),
        "stride": st.sampled_from([1, 1, 2, 3]),
        "stride_at": st.sampled_from(["conv1", "conv2"]),
    }
)
block_lists = st.lists(st.lists(units, min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda blocks: [(f"block{number}", block) for number, block in enumerate(blocks, 1)]
)


def for_kind(blocks, kind):
    """Basic units have no bottleneck."""
    if kind != "lite_bottleneck_v1":
        return blocks
    return [(scope, [{k: v for k, v in unit.items() if k != "depth_bottleneck"} for unit in block]) for scope, block in blocks]


@given(block_lists, st.sampled_from(UNIT_KINDS), st.booleans(), st.data())
def test_stride_times_rate_is_preserved_at_every_unit(blocks, kind, root, data):
    blocks = for_kind(blocks, kind)
    strides = [unit["stride"] for _, block in blocks for unit in block]
    output_stride = data.draw(st.sampled_from(reachable_strides(strides, 4 if root else 1)))
    grid = data.draw(st.none() | st.lists(st.integers(1, 4), min_size=len(blocks[-1][1]), max_size=len(blocks[-1][1])))
    arguments = {"root": "slim" if root else None, "multi_grid": grid, "preprocessing": "inception"}
    try:
        nominal = make_plan("net", blocks, kind, **arguments)
    except dr.InputError as error:
        assert "a convolution cannot have both" in str(error)
        assert grid is not None
        return
    plan = make_plan("net", blocks, kind, output_stride=output_stride, **arguments)
    assert plan.output_stride == output_stride
    assert plan.nominal_stride == nominal.nominal_stride == (4 if root else 1) * math.prod(strides)
    assert plan.receptive_field == nominal.receptive_field
    assert plan.variables == nominal.variables
    assert_law_1(plan, nominal)


def assert_law_1(plan, nominal):
    """stride x rate at every unit's input, and every convolution's rate from it."""
    for unit, reference in zip(plan.units, nominal.units, strict=True):
        assert unit.input_stride * unit.input_rate == reference.input_stride
        assert unit.nominal_stride == reference.stride
        suppressed = 1
        for conv, own in zip(unit.convolutions, reference.convolutions, strict=True):
            if conv.kernel > 1:
                assert conv.rate == unit.input_rate * suppressed * unit.unit_rate
            assert not (conv.stride > 1 and conv.rate > 1)
            if own.stride > conv.stride:
                suppressed *= own.stride
        assert math.prod(conv.stride for conv in unit.convolutions) == unit.stride
        assert unit.stride * suppressed == unit.nominal_stride


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["resnet_v2_50", "resnet_v1_5_50", "resnet_v1_5_18", "resnet_v1_50_original"])
def test_the_stride_law_detects_wrong_schedules(mistake, name, monkeypatch):
    right = plan_module.schedule.schedule
    monkeypatch.setattr(plan_module.schedule, "schedule", lambda *arguments: mistake(right(*arguments)))
    with pytest.raises(AssertionError):
        assert_law_1(dr.plan(name, output_stride=8), dr.plan(name))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 300))
def test_schedule_reaches_or_refuses(strides, output_stride):
    if output_stride in reachable_strides(strides):
        steps = schedule(strides, output_stride)
        assert math.prod(step.stride for step in steps) == output_stride
        assert all(step.stride * step.suppressed == stride for step, stride in zip(steps, strides, strict=True))
    else:
        with pytest.raises(ValueError, match=r"^The target output_stride cannot be reached\..*valid: 1"):
            schedule(strides, output_stride)


def test_the_3x3_that_carries_the_stride_keeps_the_old_rate_and_one_behind_a_1x1_takes_the_new():
    at_3x3 = dr.plan("resnet_v1_5_50", output_stride=8).blocks[2].units[0]
    assert (at_3x3.suppressed, at_3x3.convolutions[1].rate) == (2, 1)
    at_1x1 = dr.plan("resnet_v1_50_original", output_stride=8).blocks[2].units[0]
    assert (at_1x1.suppressed, at_1x1.convolutions[1].rate) == (2, 2)
    basic = dr.plan("resnet_v1_5_18", output_stride=8).blocks[2].units[0]
    assert [conv.rate for conv in basic.convolutions] == [1, 2]


@pytest.mark.parametrize(
    ("output_stride", "rates"),
    [(32, [1, 1, 1, 1]), (16, [1, 1, 1, 2]), (8, [1, 1, 2, 4]), (4, [1, 2, 4, 8])],
)
def test_rates_of_the_blocks(output_stride, rates):
    plan = dr.plan("resnet_v2_152", output_stride=output_stride)
    assert [block.units[0].convolutions[1].rate for block in plan.blocks] == rates


def test_multi_grid_multiplies_the_last_block():
    plan = dr.plan("resnet_v1_50_beta", output_stride=8, multi_grid=(1, 2, 4))
    assert [unit.convolutions[1].rate for unit in plan.blocks[-1].units] == [4, 8, 16]
    assert [unit.convolutions[1].rate for unit in dr.plan("resnet_v1_50_beta", multi_grid=(1, 2, 4)).blocks[-1].units] == [
        1,
        2,
        4,
    ]


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
@pytest.mark.parametrize("name", dr.VARIANTS)
def test_513_pixels_are_exactly_aligned(name, output_stride):
    rows, columns = dr.plan(name, output_stride=output_stride).grids((513, 513))
    assert rows == columns
    assert (rows.size, rows.first, rows.stride) == (512 // output_stride + 1, 0, output_stride)


def test_even_sizes_are_not_aligned_and_the_plan_says_where_cells_sit():
    assert dr.plan("resnet_v2_50").grids(512)[0].first == 2  # the SAME pooling of 256 cells starts one cell late
    assert dr.plan("resnet_v1_5_50").grids(512)[0].first == 0  # symmetric pooling


@pytest.mark.parametrize("output_stride", [1, 2, 4, 8])
def test_without_the_root_block(output_stride):
    plan = dr.plan("resnet_v2_50", output_stride=output_stride, include_root_block=False, in_channels=64)
    assert plan.output_stride == output_stride
    assert plan.nominal_stride == 8
    assert plan.aligned_size(500) == (505, 505)


def test_own_blocks_in_every_form():
    as_dicts = [("block1", [{"depth": 8, "depth_bottleneck": 2, "stride": 2}])]
    as_tuples = [("block1", [(8, 2, 2)])]
    as_slim_blocks = [("block1", "unit_fn", [(8, 2, 2)])]
    assert dr.plan(as_dicts) == dr.plan(as_tuples) == dr.plan(as_slim_blocks)
    assert dr.plan(as_dicts, kind="bottleneck_v1", scope="mine").variables[0].name == "mine/conv1/weights"


def test_slim_blocks_bring_their_kind():
    from dense_resnet import resnet_v1, resnet_v2

    blocks = [resnet_v1.resnet_v1_block("block1", 2, 2, 2)]
    assert dr.plan(blocks).units[0].kind == "bottleneck_v1"
    assert dr.plan([resnet_v2.resnet_v2_block("block1", 2, 2, 2)]).units[0].kind == "bottleneck_v2"
    with pytest.raises(ValueError, match=r"must agree \(not bottleneck_v1, bottleneck_v2\)"):
        dr.plan(blocks, kind="bottleneck_v2")


V2 = "resnet_v2_50"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dr.plan(V2, output_stride=6),
            r"The output_stride needs to be a multiple of 4\. Got .*=6; valid: 4, 8, 16, 32",
        ),
        (lambda: dr.plan(V2, output_stride=12), r"The target output_stride cannot be reached\. Got .*=12; valid: 4, 8, 16, 32"),
        (lambda: dr.plan(V2, output_stride=64), r"cannot be reached.*valid: 4, 8, 16, 32 or None"),
        (lambda: dr.plan(V2, output_stride=16.0), r"output_stride must be a positive integer \(not 16\.0\)"),
        (lambda: dr.plan(V2, output_stride=16, include_root_block=False), "cannot be reached.*valid: 1, 2, 4, 8 or None"),
        (lambda: dr.plan(V2, multi_grid=(1, 2)), r"one factor for each of the 3 units.*not \(1, 2\)"),
        (lambda: dr.plan(V2, multi_grid=3), r"one factor for each of the 3 units.*not 3"),
        (lambda: dr.plan(V2, multi_grid=(1, 0, 2)), r"a multi_grid factor must be a positive integer \(not 0\)"),
        (lambda: dr.plan("resnet_v1_5_50", multi_grid=(2, 2, 2)), r"block4/unit_1: conv2 would have stride 2 and rate 2"),
        (lambda: dr.plan(V2).describe((0, 513)), r"height must be a positive integer \(not 0\)"),
        (lambda: dr.plan(V2).feature_size(0), r"size must be a positive integer \(not 0\)"),
        (lambda: dr.plan(V2).feature_size((1, 2, 3)), r"size must be \(height, width\) or one number"),
        (
            lambda: dr.plan("ResNet50"),
            r"'ResNet50'\. Did you mean 'resnet_v1_5_50' \(torchvision, timm\) or 'resnet_v1_50_original' \(Keras\) or "
            r"'resnet_v2_50'\?",
        ),
        (lambda: dr.plan("resnet-18"), r"Did you mean 'resnet_v1_5_18' \(torchvision, timm\)\? Known"),
        (lambda: dr.plan("resnet_v2_151"), r"unknown variant 'resnet_v2_151'\. Did you mean 'resnet_v2_1"),
        (lambda: dr.plan(V2, in_channels=0), r"in_channels must be a positive integer \(not 0\)"),
        (lambda: dr.plan(V2, num_classes=-1), r"num_classes must be a positive integer \(not -1\)"),
        (lambda: dr.plan([]), "blocks must be a variant's name or a list of blocks"),
        (lambda: dr.plan([("block1", [])]), "with a unit at least"),
        (lambda: dr.plan([("block1", [(8, 2)])]), "a unit must be a dict .* or a tuple of these three"),
        (lambda: dr.plan([("block1", [{"depth": 8, "stride": 1}])]), "resnet/block1/unit_1: depth_bottleneck must be"),
        (lambda: dr.plan([("block1", [{"depth": 8, "width": 3}])]), "unknown argument 'width'"),
        (lambda: dr.plan([("block1", [(8, 2, 0)])]), r"a unit's stride must be a positive integer \(not 0\)"),
        (lambda: dr.plan([("block1", [(8, 2, 1)])], kind="v3"), "kind must be one of"),
        (lambda: dr.plan(V2, kind="bottleneck_v1"), r"resnet_v2_50 has its own \(not 'bottleneck_v1'\)"),
        (lambda: dr.plan([("b", [(8, 2, 1)]), ("b", [(8, 2, 1)])]), r"its own scope, a string \(not 'b'\)"),
        (lambda: dr.plan([("b", [{"depth": 8, "depth_bottleneck": 2, "stride_at": "conv3"}])]), "stride_at must be"),
        (lambda: dr.plan([("b", [(8, 2, 1)])], kind="lite_bottleneck_v1"), "a basic unit has no depth_bottleneck"),
    ],
)
def test_invalid_plans_are_refused_before_anything_is_built(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_plan_cannot_be_changed():
    with pytest.raises(AttributeError):
        dr.plan(V2).output_stride = 8
