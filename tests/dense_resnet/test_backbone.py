"""The TensorFlow 2 face: eager, tf.function, gradients, moving averages, SavedModel, the pyramid."""

import copy
import gc
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from helpers.networks import images_of, small_plan, weights_of

import dense_resnet as dr
from dense_resnet.errors import InputError
from dense_resnet.verification import laws

BLOCKS = [("block1", [(8, 4, 1), (8, 4, 2)]), ("block2", [(12, 4, 1), (12, 4, 2)]), ("block3", [(16, 4, 1), (16, 4, 1)])]


@pytest.fixture
def backbone():
    """A tiny v2 network of nominal stride 16 at stride 8, with weights that are not trivial."""
    plan = dr.plan(BLOCKS, output_stride=8, scope="tiny")
    return laws.backbone_with(plan, weights_of(plan))


def test_shapes_follow_the_plan(backbone):
    for size in (65, (64, 33)):
        assert tuple(backbone(images_of(size)).shape) == (1, *backbone.plan.feature_size(size), 16)


def test_eager_function_and_graph_agree(backbone):
    images = tf.constant(images_of(65))
    eager = backbone(images)
    function = tf.function(backbone)
    assert laws.relative_error(function(images), eager) <= 1e-5
    static = function.get_concrete_function(tf.TensorSpec([None, 65, 65, 3]))
    assert static.structured_outputs.shape.as_list() == [None, 9, 9, 16]


def test_backbone_is_traced_once_for_all_sizes(backbone):
    for size in (33, 65, (33, 97)):
        backbone(images_of(size))
    assert backbone._traced("features", False).experimental_get_tracing_count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
@pytest.mark.parametrize("called", [False, True])
def test_a_copy_runs_its_own_weights(backbone, copied, called, tmp_path):
    """As an average of the weights in training is kept."""
    images = images_of(65)
    if called:
        backbone(images)
    other = copied(backbone)
    expected = backbone(images)
    np.testing.assert_array_equal(other(images), expected)
    for variable in other.trainable.values():
        variable.assign(variable + 1)
    assert laws.relative_error(other(images), expected) > 1
    np.testing.assert_array_equal(backbone(images), expected)
    tf.saved_model.save(other, str(tmp_path))
    assert laws.relative_error(tf.saved_model.load(str(tmp_path))(images), other(images)) <= 1e-5


def test_a_shallow_copy_shares_its_weights(backbone):
    images = images_of(65)
    other = copy.copy(backbone)
    for variable in backbone.trainable.values():
        variable.assign(variable + 1)
    np.testing.assert_array_equal(other(images), backbone(images))


def test_autograph_converts_nothing_of_slim(backbone, monkeypatch):
    """It took 25 s of the first call of a user's ``tf.function`` with 50 layers, and 1 without."""
    ran = []

    def build(self, output, images, training):
        ran.append(inspect.currentframe().f_code.co_filename)  # of what AutoGraph makes, a temporary file
        return images

    monkeypatch.setattr(dr.Backbone, "_build", build)
    tf.function(backbone).get_concrete_function(tf.TensorSpec([None, 65, 65, 3]))
    assert ran == [__file__]


def test_variables_are_the_plans_under_slims_names(backbone):
    assert {variable.name: tuple(variable.shape) for variable in backbone.variables} == {
        f"{name}:0": shape for name, shape, _ in backbone.plan.variables
    }
    trainable = {f"{name}:0" for name, _, trainable in backbone.plan.variables if trainable}
    assert {variable.name for variable in backbone.trainable_variables} == trainable


@pytest.mark.parametrize("wrap", [lambda call: call, tf.function])
def test_training_gives_gradients_and_moves_the_averages(backbone, wrap):
    images = tf.constant(images_of(65, batch=2))
    before = backbone.weights

    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(backbone(images, training=True) ** 2)
        return tape.gradient(loss, backbone.trainable_variables)

    gradients = wrap(step)(images)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    assert sum(float(tf.reduce_max(tf.abs(gradient))) > 0 for gradient in gradients) > len(gradients) * 0.9
    after = backbone.weights
    for name, _, trainable in backbone.plan.variables:
        assert np.array_equal(before[name], after[name]) == trainable, name


def test_moving_averages_follow_slims_rule(backbone):
    """moving = decay * moving + (1 - decay) * batch, on the first unit's input, computed by hand."""
    images = images_of(65, batch=2)
    name = "tiny/block1/unit_1/bottleneck_v2/preact/moving_mean"
    weights = backbone.weights
    conv = tf.nn.conv2d(tf.pad(images, [[0, 0], [3, 3], [3, 3], [0, 0]]), weights["tiny/conv1/weights"], 2, "VALID")
    root = tf.nn.max_pool2d(conv + weights["tiny/conv1/biases"], 3, 2, "SAME")
    expected = 0.997 * weights[name] + 0.003 * tf.reduce_mean(root, [0, 1, 2]).numpy()
    backbone(images, training=True)
    np.testing.assert_allclose(backbone.weights[name], expected, rtol=1e-4, atol=1e-6)


def test_inference_changes_nothing(backbone):
    before = backbone.weights
    backbone(images_of(33))
    backbone.features(images_of(33))
    assert all(np.array_equal(value, before[name]) for name, value in backbone.weights.items())


@pytest.mark.slow
def test_saved_model_computes_the_same_features(backbone, tmp_path):
    tf.saved_model.save(backbone, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    for size in (65, (33, 64)):
        images = tf.constant(images_of(size))
        assert laws.relative_error(loaded(images), backbone(images)) <= 1e-5


@pytest.mark.parametrize("kind", ["bottleneck_v2", "bottleneck_v1"])
def test_the_pyramid_holds_the_last_activation_before_subsampling(kind):
    plan = dr.plan(BLOCKS, output_stride=8, kind=kind)
    backbone = laws.backbone_with(plan, weights_of(plan))
    images = images_of(65)
    pyramid = backbone.features(images)
    assert {stride: tuple(values.shape) for stride, values in pyramid.items()} == {4: (1, 17, 17, 8), 8: (1, 9, 9, 16)}
    assert laws.relative_error(pyramid[8], backbone(images)) <= 1e-5
    # at stride 4: what a network of the first block alone, kept dense, computes; its final batch norm made the identity
    first = dr.plan(BLOCKS[:1], output_stride=4, kind=kind)
    weights = weights_of(first)
    for leaf, value in {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1 - 1e-5}.items():
        if f"resnet/postnorm/{leaf}" in weights:
            weights[f"resnet/postnorm/{leaf}"][:] = value
    alone = laws.backbone_with(first, weights)(images)
    assert laws.relative_error(tf.nn.relu(pyramid[4]), alone) <= 1e-5
    assert (float(tf.reduce_min(pyramid[4])) < 0) == (kind == "bottleneck_v2")  # there the raw sum


def test_pyramid_of_resnet_v1_18_has_strides_4_8_16():
    pyramid = dr.Backbone("resnet_v1_18", output_stride=16, seed=0).features(images_of(65))
    assert {stride: tuple(values.shape) for stride, values in pyramid.items()} == {
        4: (1, 17, 17, 64),
        8: (1, 9, 9, 128),
        16: (1, 5, 5, 512),
    }


def test_logits_are_the_classifier_on_the_mean_features():
    plan = dr.plan(BLOCKS, num_classes=7, scope="tiny")
    backbone = laws.backbone_with(plan, weights_of(plan))
    images = images_of(65, batch=2)
    pooled = tf.reduce_mean(backbone(images), [1, 2])
    weights = backbone.weights
    expected = pooled @ weights["tiny/logits/weights"][0, 0] + weights["tiny/logits/biases"]
    assert laws.relative_error(backbone.logits(images), expected) <= 1e-5


def test_users_variable_scope_changes_no_values(backbone):
    @tf.function
    def inside(images):
        with tf.compat.v1.variable_scope("outer"):
            return backbone(images), backbone.features(images)[8]

    images = tf.constant(images_of(33))
    for values in inside(images):
        assert laws.relative_error(values, backbone(images)) <= 1e-5


def test_equal_seeds_give_equal_weights():
    one, same, other = (dr.Backbone("resnet_v1_18", seed=seed).weights for seed in (1, 1, 2))
    name = "resnet_v1_18/block4/unit_2/lite_bottleneck_v1/conv2/weights"
    assert all(np.array_equal(value, same[key]) for key, value in one.items())
    assert not np.array_equal(one[name], other[name])
    assert one[name].var() == pytest.approx(2 / (9 * 512), rel=0.01)
    assert np.abs(one[name]).max() <= 2 * np.sqrt(2 / (9 * 512)) / 0.8796


@pytest.mark.slow
def test_eager_calls_leave_no_tensor_behind(backbone):
    images = tf.constant(images_of(17))
    for call in (lambda: backbone(images), lambda: backbone.features(images), lambda: backbone(images, training=True)):
        call()
        gc.collect()
        before = sum(issubclass(type(item), tf.Tensor) for item in gc.get_objects())
        for _ in range(100):
            call()
        gc.collect()
        assert sum(issubclass(type(item), tf.Tensor) for item in gc.get_objects()) <= before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dr.Backbone("resnet_v2_51"), "unknown variant 'resnet_v2_51'. Did you mean 'resnet_v2_"),
        (lambda: dr.Backbone(dr.plan(BLOCKS), output_stride=8), "a Plan has its own output_stride"),
        (lambda: dr.Backbone(dr.plan(BLOCKS)).logits(images_of(33)), "made without num_classes"),
        (lambda: dr.Backbone(dr.plan(BLOCKS), seed="a"), r"seed must be at least 0 and below 2147483648 \(not 'a'\)"),
        (lambda: dr.Backbone(dr.plan(BLOCKS), seed=1.5), r"seed must be .* \(not 1.5\)"),
        (lambda: dr.Backbone(dr.plan(BLOCKS))("a.jpg"), r"images must be numbers of shape \[batch, .*, 3\] \(not 'a.jpg'\)"),
        (lambda: dr.Backbone(dr.plan(BLOCKS))(None), r"images must be numbers of shape .* \(not None\)"),
        (
            lambda: dr.Backbone(dr.plan(BLOCKS))(tf.keras.Input((33, 33, 3))),
            r"images must be numbers of shape .*For Keras tensors: dr\.keras_resnet\.build",
        ),
        (lambda: dr.Backbone(dr.plan(BLOCKS)).save(None), r"path must be that of a file \(not None\)"),
        (lambda: dr.Backbone(dr.plan(BLOCKS)).load(dr.Backbone(dr.plan(BLOCKS))), r"weights must be .*Pass its \.weights\."),
        (lambda: dr.Backbone(dr.plan(BLOCKS))(images_of(33), training=None), r"training must be True or False \(not None\)"),
    ],
)
def test_invalid_arguments_raise_input_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("shape", [(1, 33, 33, 4), (33, 33, 3), (1, 33, 33, 3, 1)])
def test_images_of_the_wrong_shape(shape, backbone):
    with pytest.raises(ValueError, match=r"images must have shape \[batch, height, width, 3\] \(not \["):
        backbone(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="images must have shape"):
        tf.function(backbone).get_concrete_function(tf.TensorSpec(shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32])
def test_images_of_any_number_type(dtype, backbone):
    images = np.random.default_rng(0).integers(0, 10, (1, 33, 33, 3))
    expected = backbone(images.astype(np.float32))
    assert np.array_equal(backbone(images.astype(dtype)), expected)
    assert np.array_equal(backbone(tf.constant(images.astype(dtype))), expected)


def test_a_users_arg_scopes_stay_outside(backbone):
    from dense_resnet.compat import slim

    images = tf.constant(images_of(33))
    expected = backbone(images)
    other = laws.backbone_with(backbone.plan, backbone.weights)
    with slim.arg_scope([slim.batch_norm, slim.conv2d], activation_fn=tf.nn.tanh, reuse=True):
        assert laws.relative_error(other(images), expected) <= 1e-5


def test_first_calls_from_several_threads():
    """slim's arg scopes are one stack for the whole process: networks that are traced at once would take each other's."""
    plans = [small_plan(placement, 8) for placement in ("v2, last unit", "v1, last unit")] * 2
    expected = [laws.backbone_with(plan, weights_of(plan))(images_of(33)).numpy() for plan in plans[:2]]
    own = [laws.backbone_with(plan, weights_of(plan)) for plan in plans[:2]]
    together = threading.Barrier(len(plans))

    def call(number):
        together.wait()
        return own[number % 2](images_of(33)).numpy()

    with ThreadPoolExecutor(len(plans)) as pool:
        for number, values in enumerate(pool.map(call, range(len(plans)))):
            np.testing.assert_array_equal(values, expected[number % 2])


@pytest.mark.parametrize("off", [lambda: tf.Graph().as_default(), lambda: tf.init_scope()], ids=["graph", "eager"])
def test_loading_inside_a_graph_is_refused(off, tmp_path):
    """A graph's assignments are ops that nobody runs."""
    plan = dr.plan(BLOCKS, scope="tiny")
    laws.backbone_with(plan, weights_of(plan)).save(tmp_path / "a.safetensors")
    made = dr.Backbone(plan)
    with off():
        eager = tf.executing_eagerly()
        loads = [
            lambda: dr.Backbone(plan).load(tmp_path / "a.safetensors"),
            lambda: dr.Backbone(plan).assign(weights_of(plan)),
            lambda: made.load(tmp_path / "a.safetensors"),
            lambda: made.weights,
            lambda: made.save(tmp_path / "b.safetensors"),
            lambda: made.compile("float32"),
        ]
        for load in loads:
            if eager:
                load()
                continue
            with pytest.raises(InputError, match="needs eager execution, which is off here.*Nothing was read or assigned"):
                load()
    traced = tf.function(lambda: made.load(tmp_path / "a.safetensors"), autograph=False)
    with pytest.raises(InputError, match="loading weights needs eager execution"):
        traced()


def test_frozen_parts_are_not_trained():
    backbone = dr.Backbone("resnet_v1_18", output_stride=16, seed=0)
    every = backbone.trainable_variables
    assert [variable.name for variable in every] == [f"{name}:0" for name in backbone.trainable]
    backbone.freeze("conv1", "block1")
    left = set(backbone.trainable)
    assert {name.split("/")[1] for name in left} == {"block2", "block3", "block4"}
    assert [f"{name}:0" for name in backbone.trainable] == [variable.name for variable in backbone.trainable_variables]
    backbone.freeze()
    assert backbone.trainable_variables == ()
    backbone.unfreeze("block4")
    assert {name.split("/")[1] for name in backbone.trainable} == {"block4"}
    backbone.unfreeze()
    assert len(backbone.trainable_variables) == len(every)
    with pytest.raises(InputError, match="does not have a part 'layer1'; its parts are conv1, block1, block2, block3, block4"):
        backbone.freeze("layer1")
    assert len(backbone.trainable_variables) == len(every)
