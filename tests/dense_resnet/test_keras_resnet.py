"""The Keras face: the slim builder's features from the same weights (law 4), plain layers, files that load anywhere."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.networks import PLACEMENTS, images_of, small_plan, weights_of
from keras.src.backend.common import global_state

import dense_resnet as dr
from dense_resnet import keras_resnet
from dense_resnet.checkpoints.names import keras_applications as keras_weights
from dense_resnet.errors import InputError
from dense_resnet.planning import variants
from dense_resnet.planning.plan import make_plan
from dense_resnet.verification import laws

TOLERANCE = 1e-4
BLOCKS = [("block1", [(8, 4, 1), (8, 4, 2)]), ("block2", [(12, 4, 1), (12, 4, 2)]), ("block3", [(16, 4, 1), (16, 4, 1)])]
ODD_AND_EVEN = (33, 50)


def tiny_plan(output_stride=8, kind="bottleneck_v2", **arguments):
    """Three blocks of nominal stride 16."""
    return dr.plan(BLOCKS, output_stride, scope="tiny", kind=kind, **arguments)


def tiny_model(plan=None, **arguments):
    """A model of `plan` with weights that are not trivial."""
    plan = plan or tiny_plan()
    shape = arguments.pop("input_shape", (None, None, plan.in_channels))
    return keras_resnet.build(plan, input_shape=shape, weights=weights_of(plan), **arguments)


def calm(weights):
    """Weights whose residual branches end small, as trained ones do.

    In training mode every branch is scaled to the spread of its own batch, float noise with it, so that without this the
    noise of 16 units is 1e-3 in either framework; with it, below 5e-5.
    """
    last = ("bottleneck_v1/conv3/BatchNorm/gamma", "lite_bottleneck_v1/conv2/BatchNorm/gamma", "bottleneck_v2/conv3/weights")
    return {name: value * np.float32(0.2) if name.endswith(last) else value for name, value in weights.items()}


def assert_same_features(plan, size):
    """Law 4 in inference."""
    weights = weights_of(plan)
    images = images_of(size, plan.in_channels)
    model = keras_resnet.build(plan, input_shape=(None, None, plan.in_channels), weights=weights)
    values, reference = model(images).numpy(), laws.backbone_with(plan, weights)(images).numpy()
    assert reference.std() > 1e-2
    assert values.shape == (1, *plan.feature_size(size), plan.depth)
    assert laws.relative_error(values, reference) <= TOLERANCE


def assert_same_in_both_modes(plan, size):
    """Law 4 in both modes, then of the moving averages, which one call in training has moved half of the way."""
    weights = calm(weights_of(plan))
    images = images_of(size, plan.in_channels, batch=2)
    model = keras_resnet.build(plan, input_shape=images.shape[1:], weights=weights, batch_norm_decay=0.5)
    backbone = dr.Backbone(plan, batch_norm_decay=0.5)
    backbone.assign(weights)
    for training in (False, True):
        values, reference = model(images, training=training), backbone(images, training=training)
        assert laws.relative_error(values, reference) <= TOLERANCE
    ours, slims = keras_resnet.weights_of(model), backbone.weights
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            scope = layer.name.replace(".", "/")
            mean, variance = f"{scope}/moving_mean", f"{scope}/moving_variance"
            assert laws.relative_error(slims[mean], weights[mean]) > 1e-2  # it did move
            assert laws.relative_error(ours[mean], slims[mean]) <= TOLERANCE, mean
            count = len(images) * layer.input.shape[1] * layer.input.shape[2]
            kept = weights[variance] / 2
            unbiased = kept + (ours[variance] - kept) * count / (count - 1)
            assert laws.relative_error(unbiased, slims[variance]) <= TOLERANCE, variance
    for name, _, trainable in plan.variables:
        assert np.array_equal(ours[name], weights[name]) == trainable, name


# -- law 4 -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [4, 16])  # 8: the next test
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_features_are_the_slim_builders(placement, output_stride):
    assert_same_features(small_plan(placement, output_stride), ODD_AND_EVEN)


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_inference_and_training_are_the_slim_builders(placement):
    assert_same_in_both_modes(small_plan(placement, 8), ODD_AND_EVEN)


@pytest.mark.parametrize(
    "plan",
    [
        small_plan("v1, last unit", 4, multi_grid=(2, 1)),
        small_plan("v2, first unit, 1x1", 8, multi_grid=(1, 2)),
        small_plan("v2, last unit", 2, root_block=False),
        tiny_plan(in_channels=5),
        tiny_plan(None, kind="bottleneck_v1", in_channels=1),
        tiny_plan(root="keras"),
        tiny_plan(root="symmetric"),
        tiny_plan(root="beta"),
    ],
    ids=lambda plan: f"{plan.root_name}, {plan.in_channels} channels, {plan.multi_grid}",
)
def test_other_plans_equal_the_slim_builder(plan):
    assert_same_features(plan, ODD_AND_EVEN)


def test_the_poolings_of_v2_differ_so_that_their_tests_can_fail():
    images = images_of(64)
    values = {root: tiny_model(tiny_plan(root=root))(images).numpy() for root in ("slim", "symmetric", "keras")}
    for one, other in (("slim", "symmetric"), ("symmetric", "keras")):
        assert laws.relative_error(values[one], values[other]) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnet_v1_18", 32),
        ("resnet_v1_50", 16),
        ("resnet_v1_5_18", 16),
        ("resnet_v1_50_original", 8),
        ("resnet_v1_18_beta", 8),
        ("resnet_v2_50", 32),
    ],
)
def test_the_true_variants(name, output_stride):
    """What becomes of a stride, whatever the depth, the tests above see; this one sees that the tables of variants fit."""
    assert_same_features(dr.plan(name, output_stride), (65, 50))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "output_stride"), [("resnet_v1_18", 8), ("resnet_v2_50", 16)])
def test_true_variants_in_both_modes(name, output_stride):
    assert_same_in_both_modes(dr.plan(name, output_stride), (65, 50))


@pytest.mark.parametrize("name", ["resnet_v1_5_50", "resnet_v1_50_beta"])
def test_variables_are_the_plans(name):
    """Of the variants that the tests above do not fill with a strict load."""
    model = keras_resnet.build(name)
    shapes = {key: value.shape for key, value in keras_resnet.weights_of(model).items()}
    assert shapes == {variable.name: variable.shape for variable in dr.plan(name).variables}
    assert len(model.trainable_variables) == sum(variable.trainable for variable in dr.plan(name).variables)


@pytest.mark.parametrize(
    ("placement", "output_stride"),
    [("v2, last unit", 8), ("v2, last unit", None), ("v1, last unit", None), ("v1.5", 8), ("basic v1.5", None)],
)
def test_the_pyramid_is_the_backbones(placement, output_stride):
    plan = small_plan(placement, output_stride)
    weights = weights_of(plan)
    images = images_of(ODD_AND_EVEN)
    pyramid = keras_resnet.build(plan, pyramid=True, weights=weights)(images)
    reference = laws.backbone_with(plan, weights).features(images)
    assert list(pyramid) == [f"stride_{stride}" for stride in reference]
    for stride, values in reference.items():
        assert laws.relative_error(pyramid[f"stride_{stride}"], values) <= TOLERANCE, stride


@pytest.mark.parametrize("kind", ["bottleneck_v2", "bottleneck_v1"])
def test_the_classifier_is_the_backbones(kind):
    plan = tiny_plan(None, kind, num_classes=7)
    images = images_of(ODD_AND_EVEN, batch=2)
    model = tiny_model(plan)
    logits = laws.backbone_with(plan, weights_of(plan)).logits(images)
    assert model.output_shape == (None, 7)
    assert laws.relative_error(model(images), logits) <= TOLERANCE


def test_batch_norm_keeps_the_backbones_decay_and_epsilon():
    norms = [layer for layer in tiny_model().layers if isinstance(layer, keras.layers.BatchNormalization)]
    default = inspect.signature(dr.Backbone).parameters["batch_norm_decay"].default
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(default, 1e-5)}


# -- a good Keras model ----------------------------------------------------------------------------------------------


def test_the_summary_shows_every_layers_shape():
    lines = []
    model = tiny_model(tiny_plan(num_classes=3), input_shape=(65, 33, 3))
    model.summary(line_length=200, print_fn=lambda text, **unused: lines.extend(text.splitlines()))
    text = "\n".join(lines)
    assert "multiple" not in text
    assert "?" not in text
    for layer in model.layers:
        (line,) = (line for line in lines if line.split()[1:2] == [layer.name])
        assert f"({', '.join(map(str, layer.output.shape))})" in line
        assert None not in layer.output.shape[1:]
    assert model.get_layer("tiny.block3.unit_2.bottleneck_v2.conv3").output.shape == (None, 9, 5, 16)


def test_unknown_and_fixed_sizes_agree():
    images = images_of(ODD_AND_EVEN)
    free, fixed = tiny_model(), tiny_model(input_shape=(*ODD_AND_EVEN, 3))
    assert free.output_shape == (None, None, None, 16)
    assert fixed.output_shape == (None, 5, 7, 16)
    assert laws.relative_error(fixed(images), free(images)) <= 1e-5


def test_layers_are_plain_and_named_as_slims_scopes():
    plan = tiny_plan(kind="bottleneck_v1", num_classes=3)
    model = tiny_model(plan)
    assert model.name == "tiny"
    for layer in model.layers[1:]:
        assert type(layer) is getattr(keras.layers, type(layer).__name__)
        assert not isinstance(layer, keras.layers.Lambda)
        assert layer.name.startswith("tiny.")
    for unit in plan.units:
        for conv in unit.convolutions:
            layer = model.get_layer(conv.scope.replace("/", "."))
            assert (layer.kernel_size, layer.strides, layer.dilation_rate) == (
                (conv.kernel,) * 2,
                (conv.stride,) * 2,
                (conv.rate,) * 2,
            )
            assert model.get_layer(f"{layer.name}.BatchNorm").input is layer.output
    assert keras_resnet.build("resnet_v1_18_beta").name == "resnet_v1_18_beta"  # its scope is resnet_v1_18


def test_initial_weights_are_slims():
    keras.utils.set_random_seed(0)
    plan = small_plan("v1, last unit", None)
    one = keras_resnet.weights_of(keras_resnet.build(plan))
    keras.utils.set_random_seed(0)
    same = keras_resnet.weights_of(keras_resnet.build(plan))
    other = dr.Backbone(plan, seed=0).weights
    for name, value in one.items():
        assert np.array_equal(value, same[name])
        if not name.endswith("weights"):
            assert np.array_equal(value, other[name])
    kernel = one["small/conv1/weights"]
    assert kernel.var() == pytest.approx(2 / (49 * 3), rel=0.05)
    assert np.abs(kernel).max() <= 2 * np.sqrt(2 / (49 * 3)) / 0.8796
    twins = (one[f"small/block3/unit_{number}/bottleneck_v1/conv2/weights"] for number in (1, 2))
    assert not np.array_equal(*twins)


ELSEWHERE = """
import sys
import keras
import numpy as np
model = keras.saving.load_model("model.keras", safe_mode=True)
np.savez("outputs.npz", **{key: value.numpy() for key, value in model(np.load("images.npy")).items()})
assert not {name for name in sys.modules if name.startswith(("dense_resnet", "tf_slim", "tf_keras"))}
"""


@pytest.mark.slow
def test_a_saved_model_loads_where_only_keras_is(tmp_path):
    images = images_of(ODD_AND_EVEN)
    model = tiny_model(tiny_plan(root="symmetric"), pyramid=True)
    expected = {key: value.numpy() for key, value in model(images).items()}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert all(np.array_equal(value, expected[key]) for key, value in loaded(images).items())
    np.save(tmp_path / "images.npy", images)
    result = subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert set(outputs) == {"stride_4", "stride_8"}
        assert all(np.array_equal(outputs[key], value) for key, value in expected.items())


def test_it_trains_with_fit():
    """At a dilated stride, where gradients of convolutions take another way."""
    keras.utils.set_random_seed(0)
    labels = np.arange(16) % 2
    images = images_of(33, batch=16) * np.float32(0.3) + labels[:, None, None, None].astype(np.float32)
    plan = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], 4, num_classes=2)
    model = keras_resnet.build(plan, batch_norm_decay=0.5)
    model.compile(
        keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    losses = model.fit(images, labels, batch_size=8, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert loss < losses[0] / 2
    assert accuracy == 1


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.safetensors", "model.ckpt"])
def test_weights_go_from_file_to_model_to_backbone_unchanged(name, tmp_path):
    plan = tiny_plan(num_classes=3)
    weights = weights_of(plan)
    laws.backbone_with(plan, weights).save(tmp_path / name)
    model = keras_resnet.build(plan)
    report = keras_resnet.load(model, tmp_path / name)
    assert report.complete
    assert report.source == str(tmp_path / name)
    assert report.origin.framework == ("TF-Slim" if name.endswith("ckpt") else "dense_resnet")
    assert set(report.matched) == set(weights)
    back = keras_resnet.weights_of(model)
    assert {key: value.dtype for key, value in back.items()} == dict.fromkeys(weights, np.dtype(np.float32))
    assert all(np.array_equal(back[key], value) for key, value in weights.items())
    assert dr.Backbone(plan).assign(back).complete
    assert np.array_equal(
        keras_resnet.weights_of(keras_resnet.build(plan, weights=tmp_path / name))["tiny/logits/biases"],
        back["tiny/logits/biases"],
    )


def test_a_model_back_from_a_file_takes_and_gives_weights(tmp_path):
    plan = tiny_plan(num_classes=3)
    keras_resnet.build(plan).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    weights = weights_of(plan)
    assert keras_resnet.assign(loaded, weights).complete
    assert all(np.array_equal(value, weights[key]) for key, value in keras_resnet.weights_of(loaded).items())
    assert laws.relative_error(loaded(images_of(33)), tiny_model(plan)(images_of(33))) <= 1e-5


@pytest.mark.parametrize("nested", [False, True])
def test_weights_pass_through_a_model_around_the_network(nested):
    network = tiny_model(tiny_plan())
    if nested:
        model = keras.Sequential([keras.Input((33, 33, 3)), network, keras.layers.Dense(2)])
    else:
        model = keras.Model(network.input, keras.layers.Dense(2)(network.output))
    weights = weights_of(tiny_plan())
    assert set(keras_resnet.weights_of(model)) == set(weights)
    assert keras_resnet.assign(model, {name: value * 2 for name, value in weights.items()}).complete
    assert np.array_equal(keras_resnet.weights_of(network)["tiny/conv1/weights"], 2 * weights["tiny/conv1/weights"])


def test_another_classifier_is_left_out_and_other_channels_are_adapted():
    weights = weights_of(tiny_plan(num_classes=3))
    model = keras_resnet.build(tiny_plan(num_classes=7, in_channels=1), input_shape=(None, None, 1))
    before = keras_resnet.weights_of(model)["tiny/logits/weights"]
    report = keras_resnet.assign(model, weights)
    assert report.left_out == (
        "tiny/logits/weights: network [1, 1, 16, 7], file [1, 1, 16, 3]",
        "tiny/logits/biases: network [7], file [3]",
    )
    assert report.adapted == ("tiny/conv1/weights: 3 to 1 channels",)
    after = keras_resnet.weights_of(model)
    assert np.array_equal(after["tiny/logits/weights"], before)
    np.testing.assert_allclose(after["tiny/conv1/weights"], weights["tiny/conv1/weights"].sum(2, keepdims=True))
    assert len(keras_resnet.assign(keras_resnet.build(tiny_plan()), weights).left_out) == 2


def test_without_a_root_block_no_channels_are_adapted():
    blocks = [("block1", [(8, 4, 1)])]
    one, three = (make_plan("tiny", blocks, "bottleneck_v1", root=None, in_channels=n, preprocessing="") for n in (1, 3))
    model = keras_resnet.build(one, input_shape=(None, None, 1))
    report = keras_resnet.assign(model, weights_of(three), strict=False)
    assert not report.adapted
    assert {name.rpartition("/")[0] for name, _, _ in report.mismatched} == {
        "tiny/block1/unit_1/bottleneck_v1/shortcut",
        "tiny/block1/unit_1/bottleneck_v1/conv1",
    }


def test_weights_of_another_variant_are_named_and_nothing_is_loaded():
    model = tiny_model()
    before = keras_resnet.weights_of(model)
    weights = weights_of(dr.plan("resnet_v1_18"))
    with pytest.raises(ValueError, match="do not fit tiny; nothing was loaded") as error:
        keras_resnet.assign(model, weights, "file.ckpt")
    assert "file.ckpt" in str(error.value)
    assert "These weights fit: resnet_v1_18" in str(error.value)
    assert all(np.array_equal(value, before[name]) for name, value in keras_resnet.weights_of(model).items())
    loose = dict(before, other=np.ones(3, np.float32))
    del loose["tiny/postnorm/beta"]
    with pytest.raises(ValueError, match=r"missing\s+1"):
        keras_resnet.build(tiny_plan(), weights=loose)
    report = keras_resnet.assign(model, loose, strict=False)
    assert (report.missing, report.unexpected) == (("tiny/postnorm/beta",), ("other",))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_resnet.build("resnet_v1_19"), "unknown variant 'resnet_v1_19'. Did you mean 'resnet_v1_1"),
        (lambda: keras_resnet.build("resnet_v1_18", 12), r"output_stride=12; valid: 4, 8, 16, 32 or None"),
        (lambda: keras_resnet.build(tiny_plan(), 8), "a Plan has its own output_stride"),
        (lambda: keras_resnet.build(tiny_plan(), num_classes=3), "a Plan has its own output_stride"),
        (lambda: keras_resnet.build(tiny_plan(), input_shape=(33, 33, 4)), r"plan's 3 channels \(not \(33, 33, 4\)\)"),
        (lambda: keras_resnet.build(tiny_plan(num_classes=3), pyramid=True), "leave out num_classes=3 or pyramid=True"),
        (lambda: keras_resnet.build("resnet_v1_18", num_classes=3, pyramid=True), "leave out num_classes=3"),
        (lambda: keras_resnet.build(dr.plan(BLOCKS, scope="a.b")), r"must have no dot.*\(not 'a.b'\)"),
        (lambda: keras_resnet.build(dr.plan([("b.1", BLOCKS[0][1])])), r"must have no dot.*\(not 'b.1'\)"),
        (
            lambda: keras_resnet.weights_of(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])),
            r"one network .*\(not 0\)",
        ),
    ],
)
def test_invalid_arguments_raise_input_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "shape", [None, 3, (33, 33), (33, 33, None), (None, 33, 33, 3), (0, 33, 3), ("a", 33, 3), (33, 33, 1.5)]
)
def test_wrong_input_shapes(shape):
    with pytest.raises(ValueError, match=r"input_shape must be \(height, width, channels\), positive integers"):
        keras_resnet.build("resnet_v1_18", input_shape=shape)


def test_two_networks_in_one_model_are_refused():
    one, two = tiny_model(), keras_resnet.build(dr.plan(BLOCKS, scope="other"))
    images = keras.Input((None, None, 3))
    both = keras.Model(images, [one(images), two(images)])
    with pytest.raises(ValueError, match=r"\(not 2: other, tiny\)"):
        keras_resnet.weights_of(both)


def test_the_names_arguments_are_the_plans():
    model = keras_resnet.build("resnet_v1_18", 8, multi_grid=(1, 2), num_classes=5, root="beta", input_shape=(None, 65, 4))
    plan = variants.plan("resnet_v1_18", 8, multi_grid=(1, 2), num_classes=5, root="beta", in_channels=4)
    shapes = {name: value.shape for name, value in keras_resnet.weights_of(model).items()}
    assert shapes == {variable.name: variable.shape for variable in plan.variables}
    assert model.input_shape == (None, None, 65, 4)
    for unit in plan.units:
        for conv in unit.convolutions:
            assert model.get_layer(conv.scope.replace("/", ".")).dilation_rate == (conv.rate, conv.rate)


# -- Keras configured otherwise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, "float16"])
def test_floatx_and_policies_leave_the_variables_float32(policy):
    """As keras.json of another life sets floatx: rounded weights would have been loaded silently."""
    before = keras.config.dtype_policy()
    keras.config.set_floatx("float16")
    if policy:
        keras.config.set_dtype_policy(policy)
    else:  # as in a process that has set none
        global_state.set_global_attribute("dtype_policy", None)
    try:
        model = tiny_model()
        assert keras.config.floatx() == "float16"
        assert keras.config.dtype_policy().name == "float16"
        values = model(images_of(33))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(before)
    assert {variable.dtype for variable in model.variables} == {"float32"}
    weights = weights_of(tiny_plan())
    assert all(np.array_equal(value, weights[name]) for name, value in keras_resnet.weights_of(model).items())
    assert values.dtype == "float32"
    assert np.array_equal(values, tiny_model()(images_of(33)))


def test_the_backend_of_pytorch_is_named(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(InputError, match="Keras' PyTorch backend refuses. Set KERAS_BACKEND=tensorflow"):
        keras_resnet.build(tiny_plan())


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'jax'"), ValueError("Unable to import backend : x")])
def test_a_backend_that_is_not_there_is_named(error, monkeypatch):
    def import_module(name):
        raise error

    monkeypatch.setattr(keras_weights.importlib, "import_module", import_module)
    with pytest.raises(ImportError, match="Keras cannot be imported: .*KERAS_BACKEND") as told:
        keras_weights.import_keras()
    assert str(error) in str(told.value)


def test_loading_inside_a_graph_is_refused():
    model, weights = tiny_model(), weights_of(tiny_plan())
    with tf.Graph().as_default():
        for load in (
            lambda: keras_resnet.build(tiny_plan(), weights=weights),
            lambda: keras_resnet.load(model, weights),
            lambda: keras_resnet.assign(model, weights),
            lambda: keras_resnet.weights_of(model),
        ):
            with pytest.raises(InputError, match="needs eager execution, which is off here"):
                load()
