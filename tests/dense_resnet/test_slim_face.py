"""The slim face against tf_slim.nets: its own tests, equal features, equal names, and what is ours on top."""

import gc
import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf
from det_weights import det_weight
from helpers import TESTS
from helpers.networks import images_of

import dense_resnet as dr
from dense_resnet import resnet_utils, resnet_v1, resnet_v2
from dense_resnet.compat import slim
from dense_resnet.verification import laws

v1 = tf.compat.v1
NOISE = 2e-5  # of TensorFlow's kernels: the two are equal bit for bit, but 1.04e-5 was seen once beside other work


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_v1_test", "resnet_v2_test"])
def test_tf_slims_own_tests_pass(name):
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", TESTS / "helpers" / "redirected.py", name],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert int(re.search(r"Ran (\d+) tests", result.stderr)[1]) == 17


def theirs(family):
    """The module of tf_slim.nets."""
    from tf_slim.nets import resnet_v1, resnet_v2

    return {"resnet_v1": resnet_v1, "resnet_v2": resnet_v2}[family]


OURS = {"resnet_v1": resnet_v1, "resnet_v2": resnet_v2}


def run_in_session(module, name, images, **arguments):
    """(result, end points' names and shapes in order) of a slim network with weights from names alone."""
    with tf.Graph().as_default(), slim.arg_scope(module.resnet_arg_scope()):
        net, end_points = getattr(module, name)(tf.constant(images), is_training=False, **arguments)
        variables = v1.global_variables()
        with v1.Session() as session:
            feed = {variable.initializer.inputs[1]: det_weight(variable.op.name, variable.shape) for variable in variables}
            session.run([variable.initializer for variable in variables], feed)
            listed = [(point, tensor.shape.as_list()) for point, tensor in end_points.items()]
            return session.run(net), listed, [(variable.name, variable.shape.as_list()) for variable in variables]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "output_stride"), [("resnet_v1", 16), ("resnet_v2", 8), ("resnet_v2", 32)])
def test_features_names_and_end_points_equal_tf_slims(family, output_stride):
    size = {8: 65, 16: 97, 32: 96}[output_stride]
    arguments = {"images": images_of(size), "global_pool": False, "output_stride": output_stride}
    expected, their_points, their_variables = run_in_session(theirs(family), f"{family}_50", **arguments)
    values, our_points, our_variables = run_in_session(OURS[family], f"{family}_50", **arguments)
    assert expected.std() > 1e-2
    assert laws.relative_error(values, expected) <= NOISE
    assert our_points == their_points
    assert our_variables == their_variables


@pytest.mark.slow
def test_classifier_equals_tf_slims():
    arguments = {"images": images_of(33), "num_classes": 10}
    expected, their_points, _ = run_in_session(theirs("resnet_v2"), "resnet_v2_50", **arguments)
    values, our_points, _ = run_in_session(resnet_v2, "resnet_v2_50", **arguments)
    assert values.shape == expected.shape == (1, 1, 1, 10)
    assert laws.relative_error(values, expected) <= NOISE
    assert {name for name, _ in our_points} - {name for name, _ in their_points} == {"global_pool"}


def tiny(inputs, num_classes=None, family="resnet_v2", **arguments):
    """A two-block network."""
    module = OURS[family]
    block = getattr(module, f"{family}_block")
    blocks = [block("block1", base_depth=2, num_units=2, stride=2), block("block2", base_depth=4, num_units=2, stride=1)]
    return getattr(module, family)(inputs, blocks, num_classes, scope="tiny", **arguments)


@pytest.fixture
def graph():
    """An empty graph, under the ResNet arg scope."""
    with tf.Graph().as_default() as graph, slim.arg_scope(resnet_v2.resnet_arg_scope()):
        yield graph


@pytest.mark.slow
@pytest.mark.usefixtures("graph")
def test_the_fields_513_example_works():
    images = v1.placeholder(tf.float32, [2, 513, 513, 3])
    net, _ = resnet_v2.resnet_v2_101(images, 21, is_training=False, global_pool=False, output_stride=16, spatial_squeeze=True)
    assert net.shape.as_list() == [2, 33, 33, 21]


@pytest.mark.usefixtures("graph")
def test_spatial_squeeze_and_the_end_points_of_research_slim():
    images = v1.placeholder(tf.float32, [2, 33, 33, 3])
    net, end_points = tiny(images, 7, spatial_squeeze=True)
    assert net.shape.as_list() == [2, 7]
    shapes = {name: end_points[name].shape.as_list() for name in list(end_points)[-4:]}
    assert shapes == {
        "tiny/logits": [2, 1, 1, 7],
        "global_pool": [2, 1, 1, 16],
        "tiny/spatial_squeeze": [2, 7],
        "predictions": [2, 7],
    }


@pytest.mark.usefixtures("graph")
def test_zero_classes_build_no_classifier():
    images = v1.placeholder(tf.float32, [1, 33, 33, 3])
    net, end_points = tiny(images, 0, global_pool=False)
    assert net.shape.as_list() == [1, 5, 5, 16]
    assert not {"predictions", "tiny/logits"} & set(end_points)


@pytest.mark.parametrize(
    ("in_scope", "argument", "training"),
    [
        (None, None, True),
        (False, None, False),
        (True, None, True),
        (False, True, True),
        (True, False, False),
        (None, False, False),
    ],
)
def test_is_training_argument_overrides_the_arg_scope(in_scope, argument, training):
    with tf.Graph().as_default(), slim.arg_scope(resnet_v2.resnet_arg_scope(is_training=in_scope)):
        tiny(v1.placeholder(tf.float32, [2, 33, 33, 3]), is_training=argument)
        assert bool(v1.get_collection(v1.GraphKeys.UPDATE_OPS)) is training


@pytest.mark.parametrize("family", OURS)
def test_unknown_batch_height_and_width(family, graph):
    images = v1.placeholder(tf.float32, [None, None, None, 3])
    net, _ = tiny(images, family=family, is_training=False, global_pool=False, output_stride=4)
    assert net.shape.as_list() == [None, None, None, 16]
    with v1.Session(graph=graph) as session:
        session.run(v1.global_variables_initializer())
        assert session.run(net, {images: images_of((33, 65), batch=2)}).shape == (2, 9, 17, 16)


@pytest.mark.parametrize("family", OURS)
def test_non_strided_activations_change_nothing_but_the_end_points(family, graph):
    images = tf.constant(images_of(65))
    arguments = {"family": family, "is_training": False, "global_pool": False}
    net, strided = tiny(images, **arguments)
    with v1.variable_scope("", reuse=True):
        same, full = tiny(images, store_non_strided_activations=True, **arguments)
    assert strided["tiny/block1"].shape.as_list() == [1, 9, 9, 8]
    assert full["tiny/block1"].shape.as_list() == [1, 17, 17, 8]
    with v1.Session(graph=graph) as session:
        session.run(v1.global_variables_initializer())
        values, expected = session.run([same, net])
    assert laws.relative_error(values, expected) <= NOISE


@pytest.mark.slow
def test_a_hundred_eager_calls_leave_no_tensor_behind():
    images = tf.constant(images_of(17))

    def count_tensors():
        gc.collect()
        collections = v1.get_default_graph().collections
        return sum(issubclass(type(item), tf.Tensor) for item in gc.get_objects()), {
            name: len(v1.get_collection(name)) for name in collections if "end_points" in name
        }

    def call():
        with slim.arg_scope(resnet_v2.resnet_arg_scope()):
            return tiny(images, is_training=False)[0]

    call()
    before, _ = count_tensors()
    assert before > 0
    for _ in range(100):
        call()
    after, collected = count_tensors()
    assert after <= before
    assert sum(collected.values()) == 0


@pytest.mark.usefixtures("graph")
def test_classic_tuples_and_multi_grid():
    images = v1.placeholder(tf.float32, [1, 33, 33, 3])
    blocks = [
        resnet_utils.Block("block1", resnet_v1.bottleneck, [(8, 2, 2)]),
        resnet_utils.Block("block2", resnet_v1.bottleneck, [(8, 2, 1)] * 2),
    ]
    net, _ = resnet_v1.resnet_v1(images, blocks, is_training=False, global_pool=False, output_stride=4, multi_grid=(1, 3))
    assert net.shape.as_list() == [1, 9, 9, 8]
    rates = {}
    for op in net.graph.get_operations():  # slim convolves natively or from space to batch, by TensorFlow's version
        if "conv2/" in op.name and op.type == "Conv2D" and op.get_attr("dilations")[1] > 1:
            rates[op.name.split("/conv2/")[0]] = op.get_attr("dilations")[1]
        if "conv2/" in op.name and op.type == "SpaceToBatchND":
            rates[op.name.split("/conv2/")[0]] = int(tf.get_static_value(op.inputs[1])[0])
    scope = "resnet_v1/block2/unit_{}/bottleneck_v1"
    assert rates == {scope.format(1): 2, scope.format(2): 6}


@pytest.mark.usefixtures("graph")
def test_a_users_own_unit_function():
    seen = []

    def unit(net, depth, stride, rate):
        seen.append((stride, rate))
        return slim.conv2d(resnet_utils.subsample(net, stride), depth, 1)

    blocks = [resnet_utils.Block("block1", unit, [{"depth": 4, "stride": 2}] * 3)]
    net = resnet_utils.stack_blocks_dense(v1.placeholder(tf.float32, [1, 9, 9, 2]), blocks, output_stride=2)
    assert net.shape.as_list() == [1, 5, 5, 4]
    assert seen == [(2, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_stride": 6}, "The output_stride needs to be a multiple of 4."),
        ({"output_stride": 12}, "The target output_stride cannot be reached."),
        ({"multi_grid": (1, 2, 4)}, "one factor for each of the 2 units"),
    ],
)
def test_errors_come_before_any_op(arguments, message, graph):
    images = v1.placeholder(tf.float32, [1, 33, 33, 3])
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(images, **arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        tf.function(lambda images: tiny(images, **arguments)).get_concrete_function(tf.TensorSpec([1, 33, 33, 3]))
    with pytest.raises(ValueError, match="conv2 would have stride 2 and rate 2"):
        resnet_v1.resnet_v1_5_50(images, multi_grid=(2, 2, 2))
    with pytest.raises(ValueError, match="root must be one of"):
        tiny(images, root="stem")
    assert len(graph.get_operations()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in dr.VARIANTS if "50" in name or "18" in name])
def test_every_family_builds_its_plans_variables(name, graph):
    module = resnet_v2 if "v2" in name else resnet_v1
    getattr(module, name)(v1.placeholder(tf.float32, [1, 33, 33, 3]), global_pool=False, is_training=False)
    expected = {f"{variable.name}:0": variable.shape for variable in dr.plan(name).variables}
    assert {variable.name: tuple(variable.shape) for variable in v1.global_variables()} == expected
    assert getattr(module, name).default_image_size == 224
