"""The variants' variables against lists from tf_slim.nets and from DeepLab (tests/golden/regenerate.py says how)."""

import json

import pytest
from helpers import GOLDEN

import dense_resnet as dr
from dense_resnet.planning import variants

GOLDEN = json.loads((GOLDEN / "variables.json").read_text())
HOW = "tests/golden/regenerate.py writes the list again, if it is the list that is wrong"


def golden_of(name):
    """The list for a variant; v1.5 and original networks have v1's under their own scope."""
    if name in GOLDEN:
        return GOLDEN[name]
    twin = name.replace("_v1_5_", "_v1_").removesuffix("_original")
    return [[variable.replace(twin, name, 1), shape, trainable] for variable, shape, trainable in GOLDEN[twin]]


@pytest.mark.parametrize("name", dr.VARIANTS)
def test_variables_equal_the_golden_lists(name):
    assert [[n, list(shape), trainable] for n, shape, trainable in dr.plan(name).variables] == golden_of(name), HOW


def test_every_variant_of_the_field_is_there():
    expected = {f"resnet_v2_{n}" for n in (50, 101, 152, 200)}
    expected |= {f"resnet_v1_{n}" for n in (18, 34, 50, 101, 152, 200)} | {
        f"resnet_v1_5_{n}" for n in (18, 34, 50, 101, 152, 200)
    }
    expected |= {f"resnet_v1_{n}_original" for n in (50, 101, 152, 200)} | {f"resnet_v1_{n}_beta" for n in (18, 50, 101)}
    assert set(dr.VARIANTS) == expected


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("resnet_v2_50", "inception"),
        ("resnet_v1_50", "vgg"),
        ("resnet_v1_5_50", "torch"),
        ("resnet_v1_50_original", "caffe"),
        ("resnet_v1_50_beta", "inception"),
    ],
)
def test_preprocessing_is_bound_to_the_variant(name, scheme):
    assert dr.plan(name).preprocessing == scheme


BLOCKS = [["a", [[4, 2, 1]]]]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"blocks": [["a", 7]]}, r"a block must be \(scope, units\) .*not \['a', 7\]"),
        ({"blocks": [["a", True]]}, "a block must be"),
        ({"blocks": [["a", "xyz"]]}, "a block must be"),
        ({"blocks": [["a", None, {"depth": 1}]]}, "a block must be"),
        ({"blocks": BLOCKS, "kind": [1]}, r"a plan's kind must be text \(not \[1\]\)"),
        ({"blocks": BLOCKS, "kind": {"a": 1}}, "a plan's kind must be text"),
        ({"blocks": BLOCKS, "scope": [1]}, "a plan's scope must be text"),
        ({"blocks": BLOCKS, "scope": 7}, "a plan's scope must be text"),
    ],
)
def test_invalid_descriptions_are_refused(description, message):
    with pytest.raises(dr.InputError, match=message):
        variants.plan_from_config(description)


def test_logits_are_part_of_the_plan_where_asked_for():
    names = [variable.name for variable in dr.plan("resnet_v2_50", num_classes=21).variables]
    assert names[-2:] == ["resnet_v2_50/logits/weights", "resnet_v2_50/logits/biases"]
    assert dr.plan("resnet_v2_50", num_classes=0) == dr.plan("resnet_v2_50")
