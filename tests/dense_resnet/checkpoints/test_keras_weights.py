"""Weights of Keras models: their features are Keras' own, every kind of file gives the same arrays, and harm is refused."""

import hashlib
import json
import shutil
import struct
import urllib.error
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tf_keras
from helpers.networks import images_of

import dense_resnet as dr
from dense_resnet.checkpoints import load_report
from dense_resnet.checkpoints.containers import keras_h5
from dense_resnet.checkpoints.names import keras_applications as keras_weights
from dense_resnet.errors import InputError
from dense_resnet.verification import laws

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),  # Keras'
]

FEATURES = {"ResNet50": "conv5_block3_out", "ResNet50V2": "post_relu"}
VARIANTS = {"ResNet50": "resnet_v1_50_original", "ResNet50V2": "resnet_v2_50"}


def randomize(model):
    """The model, with statistics, biases and gammas that make no test vacuous."""
    generator = np.random.default_rng(0)
    values = []
    for variable, value in zip(model.weights, model.get_weights(), strict=True):
        leaf = getattr(variable, "path", variable.name).split("/")[-1].split(":")[0]
        if leaf in ("gamma", "moving_variance"):
            value = generator.uniform(0.5, 1.5, value.shape)
            if leaf == "gamma":
                value.flat[::5] *= -1
        elif leaf in ("beta", "moving_mean", "bias"):
            value = 0.1 * generator.standard_normal(value.shape)
        values.append(value)
    model.set_weights(values)
    return model


@pytest.fixture(scope="module")
def applications():
    """Keras Applications' networks for images of any size, their classifiers without softmax."""
    return {
        name: randomize(
            getattr(keras.applications, name)(
                weights=None, input_tensor=keras.Input((None, None, 3)), classifier_activation=None
            )
        )
        for name in FEATURES
    }


def equal(arrays, others):
    """Whether two dictionaries are the same, bit for bit."""
    return arrays.keys() == others.keys() and all(
        arrays[name].dtype == others[name].dtype and arrays[name].tobytes() == others[name].tobytes() for name in arrays
    )


# --------------------------------------------------------------------------------------------------------------------
# Parity


@pytest.mark.slow
@pytest.mark.parametrize("size", [96, 97])
@pytest.mark.parametrize("name", FEATURES)
def test_features_and_logits_are_those_of_keras(name, size, applications):
    theirs = applications[name]
    plan = dr.plan(VARIANTS[name], num_classes=1000, root="keras" if "V2" in name else None)
    ours = laws.backbone_with(plan, keras_weights.canonical(keras_weights.arrays_of(theirs), name))
    images = images_of(size)
    features, logits = keras.Model(theirs.inputs[0], [theirs.get_layer(FEATURES[name]).output, theirs.output])(images)
    assert laws.relative_error(ours(images), features) <= 1e-4
    if size == 97:
        assert laws.relative_error(ours.logits(images), logits) <= 1e-4


def test_the_aligned_root_differs_from_that_of_keras_at_the_border_alone(applications):
    weights = keras_weights.canonical(keras_weights.arrays_of(applications["ResNet50V2"]), "V2")
    images = images_of(97)
    block1 = [("block1", [(256, 64, 1), (256, 64, 1), (256, 64, 2)])]  # beyond, the border's influence is everywhere
    pyramids = []
    for root in ("keras", "slim"):
        backbone = dr.Backbone(dr.plan(block1, root=root, scope="resnet_v2_50"))
        outcome = backbone.assign(weights, strict=False)
        assert not outcome.missing
        pyramids.append(backbone.features(images)[4].numpy())
    theirs, aligned = pyramids
    inner = slice(6, -6)
    assert laws.relative_error(aligned[:, inner, inner], theirs[:, inner, inner]) <= 1e-5
    assert laws.relative_error(aligned, theirs) >= 1e-2


@pytest.mark.parametrize(("name", "variant"), [("ResNet101", "resnet_v1_101_original"), ("ResNet152V2", "resnet_v2_152")])
def test_deeper_networks_have_every_variable_and_no_other(name, variant):
    model = getattr(keras.applications, name)(include_top=False, weights=None)
    weights = keras_weights.canonical(keras_weights.arrays_of(model), name)
    outcome = load_report.match(dr.plan(variant), weights, name).report
    assert outcome.complete
    assert outcome.unexpected == outcome.left_out == ()


def test_a_network_in_a_model_with_a_classifier_of_its_own_and_other_channels(applications):
    arrays = keras_weights.arrays_of(applications["ResNet50"])
    arrays["conv1_conv/kernel"] = np.tile(arrays["conv1_conv/kernel"][:, :, :1], (1, 1, 4, 1))
    arrays = {f"resnet50/{name}": value for name, value in arrays.items()}
    arrays["predictions/kernel"] = np.zeros((1000, 3), np.float32)
    weights = keras_weights.canonical(arrays, "own")
    assert weights["resnet_v1_50_original/conv1/weights"].shape == (7, 7, 4, 64)
    assert weights["resnet_v1_50_original/logits/weights"].shape == (1, 1, 2048, 1000)
    assert [name for name in weights if not name.startswith("resnet_v1_50_original/")] == ["predictions/kernel"]


def test_biases_and_epsilon_are_folded_in_double_precision(applications):
    arrays = keras_weights.arrays_of(applications["ResNet50"])
    arrays["conv2_block1_0_bn/moving_variance"] *= 1e-6  # where float32 has room for the epsilons' difference
    weights = keras_weights.canonical(arrays, "R50")
    scope = "resnet_v1_50_original/block1/unit_1/bottleneck_v1/shortcut"
    mean, bias = (np.float64(arrays[f"conv2_block1_0_{name}"]) for name in ("bn/moving_mean", "conv/bias"))
    variance = np.float64(arrays["conv2_block1_0_bn/moving_variance"])
    assert np.array_equal(weights[f"{scope}/BatchNorm/moving_mean"], np.float32(mean - bias))
    assert np.array_equal(weights[f"{scope}/BatchNorm/moving_variance"], np.float32(variance + 1e-8))
    assert weights[f"{scope}/BatchNorm/moving_mean"].dtype == np.float32


# --------------------------------------------------------------------------------------------------------------------
# The same arrays through every file


def save_weights_legacy(model, path):
    """As Keras 2 saved weights, and as Keras' own downloads are."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


def without_names(path):
    """The file as Keras wrote it before it named the layers."""
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_every_kind_of_file_gives_the_arrays_bit_for_bit(name, applications, tmp_path):
    model = applications[name]
    arrays = keras_weights.arrays_of(model)
    assert all(value.dtype == np.float32 for value in arrays.values())
    save_weights_legacy(model, tmp_path / "legacy.h5")
    model.save(tmp_path / "whole.h5")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "later.weights.h5")
    for file in ("legacy.h5", "whole.h5", "model.keras", "later.weights.h5"):
        assert equal(keras_h5.read(tmp_path / file), arrays), file
    unnamed = keras_h5.read(without_names(tmp_path / "later.weights.h5"))
    assert "conv2d_1/kernel" in unnamed
    assert keras_weights.recognizes(unnamed)
    assert equal(keras_weights.canonical(unnamed, "unnamed"), keras_weights.canonical(arrays, "named"))


@pytest.fixture(scope="module")
def legacy_network(applications):
    """The ResNet50 of tf_keras, with the same weights."""
    model = tf_keras.applications.ResNet50(weights=None, classifier_activation=None)
    model.set_weights(applications["ResNet50"].get_weights())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("file", ["weights.h5", "whole.h5", "model.keras", "later.weights.h5", None])
def test_tf_keras_files_give_the_same_weights(file, legacy_network, applications, tmp_path):
    if file is None:
        arrays = keras_weights.arrays_of(legacy_network)
    else:
        save = legacy_network.save_weights if "weights" in file else legacy_network.save
        save(tmp_path / file)
        arrays = keras_h5.read(tmp_path / file)
    expected = keras_weights.canonical(keras_weights.arrays_of(applications["ResNet50"]), "Keras 3")
    assert equal(keras_weights.canonical(arrays, "tf_keras"), expected)


def make_nested_model(framework):
    """A model within a model, and layers of other kinds, some without what they may have."""
    layers = framework.layers
    inner = framework.Sequential(
        [layers.Conv2D(4, 3, name="inner_conv"), layers.BatchNormalization(name="inner_bn"), layers.Dropout(0.5)], name="inner"
    )
    net = images = framework.Input((9, 9, 3))
    net = layers.Conv2D(4, 3, use_bias=False, name="first")(net)
    net = inner(net)
    net = layers.SeparableConv2D(4, 1, name="separable")(net)
    net = layers.BatchNormalization(center=False, scale=False, name="plain")(net)
    net = layers.GlobalAveragePooling2D()(net)
    model = framework.Model(images, layers.Dense(2, name="head")(net))
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 9, 9, 3)), np.zeros((2, 2)), verbose=0)  # an optimizer's variables must stay out
    return model


@pytest.mark.parametrize("framework", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_models_within_models_and_other_layers_are_named_alike(framework, tmp_path):
    model = randomize(make_nested_model(framework))
    arrays = keras_weights.arrays_of(model)
    assert {name.rpartition("/")[0] for name in arrays} == {
        "first", "inner/inner_conv", "inner/inner_bn", "separable", "plain", "head",
    }  # fmt: skip
    assert {name for name in arrays if "bn" in name or "plain" in name} == {
        *(f"inner/inner_bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")),
        "plain/moving_mean",
        "plain/moving_variance",
    }
    model.save(tmp_path / "whole.h5")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "later.weights.h5")
    assert equal(keras_h5.read(tmp_path / "whole.h5"), arrays)
    assert equal(keras_h5.read(tmp_path / "model.keras"), arrays)
    if framework is keras:
        assert equal(keras_h5.read(tmp_path / "later.weights.h5"), arrays)


def test_a_keras_face_model_comes_back_bit_for_bit(tmp_path):
    plan = dr.plan([("block1", [(16, 4, 2), (16, 4, 1)])], num_classes=5, scope="resnet_v2_7")
    model = dr.keras_resnet.build(plan)
    weights = dr.keras_resnet.weights_of(randomize(model))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for arrays in (
        keras_h5.read(tmp_path / "model.keras"),
        keras_h5.read(tmp_path / "model.weights.h5"),
        keras_weights.arrays_of(model),
    ):
        assert keras_weights.recognizes(arrays)
        assert equal(keras_weights.canonical(arrays, "face"), weights)


# --------------------------------------------------------------------------------------------------------------------
# What is not read


def test_names_of_keras_before_2_2_5_are_refused_with_the_reason():
    arrays = {"res2a_branch2a/kernel": np.zeros((1, 1, 64, 64), np.float32)}
    assert keras_weights.recognizes(arrays)
    with pytest.raises(InputError, match="old.h5: .*before 2.2.5.*epsilon.*keras:ResNet50"):
        keras_weights.canonical(arrays, "old.h5")


def test_another_network_is_named_by_its_first_layers():
    arrays = {f"block{number}_conv1/kernel": np.zeros((3, 3, 3, 64), np.float32) for number in range(1, 6)}
    assert not keras_weights.recognizes(arrays)
    with pytest.raises(InputError, match="vgg.h5: .*block1_conv1, block2_conv1.* Supported: .*ResNet152V2"):
        keras_weights.canonical(arrays, "vgg.h5")


def test_a_resnext_and_an_incomplete_network_are_refused(applications):
    arrays = keras_weights.arrays_of(applications["ResNet50"])
    wide = {**arrays, "conv2_block1_1_conv/kernel": np.zeros((1, 1, 64, 128), np.float32)}
    with pytest.raises(InputError, match="conv2_block1_1_conv/kernel.*128.*ResNeXt"):
        keras_weights.canonical(wide, "x.h5")
    del arrays["conv5_block3_3_bn/beta"]
    with pytest.raises(InputError, match="conv5_block3_3_bn/beta is missing"):
        keras_weights.canonical(arrays, "x.h5")
    without_channels = {**arrays, "conv1_conv/kernel": np.zeros((7, 7, 0, 64), np.float32)}
    with pytest.raises(InputError, match=r"x\.h5: .*conv1_conv/kernel"):
        keras_weights.canonical(without_channels, "x.h5")
    short = {name: value for name, value in arrays.items() if not name.startswith("conv4_block6")}
    with pytest.raises(InputError, match=r"\(3, 4, 5, 3\) units"):
        keras_weights.canonical(short, "x.h5")
    twice = {**arrays, "second/conv1_conv/kernel": arrays["conv1_conv/kernel"]}
    with pytest.raises(InputError, match="two networks"):
        keras_weights.canonical(twice, "x.h5")


def test_unnamed_layers_of_a_network_without_biases_are_refused(applications):
    arrays = keras_weights.arrays_of(applications["ResNet50"])
    numbered = {"conv2d": 0, "batch_normalization": 0}
    names = {}
    for name in arrays:
        layer = name.rpartition("/")[0]
        kind = "batch_normalization" if layer.endswith("bn") else "conv2d"
        if layer not in names:
            names[layer] = f"{kind}_{numbered[kind]}" if numbered[kind] else kind
            numbered[kind] += 1
    unnamed = {f"{names[name.rpartition('/')[0]]}/{name.rpartition('/')[2]}": value for name, value in arrays.items()}
    unnamed = {name: value for name, value in unnamed.items() if "conv2d" not in name or name.endswith("kernel")}
    with pytest.raises(InputError, match="does not name its layers"):
        keras_weights.canonical(unnamed, "x.weights.h5")


# --------------------------------------------------------------------------------------------------------------------
# keras:NAME


@pytest.fixture(scope="module")
def stand_in(applications, tmp_path_factory):
    """A file as Keras would download it."""
    path = tmp_path_factory.mktemp("download") / "resnet50.h5"
    save_weights_legacy(applications["ResNet50"], path)
    return path


@pytest.fixture
def downloads(stand_in, tmp_path, monkeypatch):
    """Keras with an empty cache, and the stand-in in place of the network; a list of what was asked for."""
    from keras.src.utils import file_utils

    asked = []

    def urlretrieve(url, target, hook=None):
        asked.append(url)
        shutil.copy(stand_in, target)

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(file_utils, "urlretrieve", urlretrieve)
    return asked


def test_fetch_takes_what_keras_has_verified(downloads, stand_in, applications, monkeypatch):
    from keras.src.applications import resnet

    digest = hashlib.md5(stand_in.read_bytes()).hexdigest()
    monkeypatch.setitem(resnet.WEIGHTS_HASHES, "resnet50", (digest, digest))
    assert equal(keras_weights.fetch("ResNet50"), keras_weights.arrays_of(applications["ResNet50"]))
    assert len(downloads) == 1
    assert downloads[0].startswith("https://")


def test_fetch_refuses_what_does_not_match_the_checksum(downloads):
    with pytest.raises(InputError, match="keras:ResNet50: .*hash does not match.*local file"):
        keras_weights.fetch("ResNet50")
    assert downloads


def test_fetch_without_a_network_says_so(downloads, monkeypatch):
    from keras.src.utils import file_utils

    def offline(*_):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(file_utils, "urlretrieve", offline)
    with pytest.raises(InputError, match="keras:ResNet50V2: .*no route to host.*local file"):
        keras_weights.fetch("ResNet50V2")


def test_fetch_knows_the_resnets_only():
    with pytest.raises(InputError, match="keras:VGG16: must be one of ResNet50, "):
        keras_weights.fetch("VGG16")


def test_fetch_refuses_to_round(monkeypatch):
    monkeypatch.setattr(keras.config, "dtype_policy", lambda: keras.DTypePolicy("float16"))
    with pytest.raises(InputError, match="keras:ResNet50: Keras would round the weights to float16, as its floatx"):
        keras_weights.fetch("ResNet50")


def test_arrays_of_takes_models_only():
    with pytest.raises(InputError, match="not dict"):
        keras_weights.arrays_of({})


# --------------------------------------------------------------------------------------------------------------------
# Files that are damaged or made to harm


VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def write_legacy_file(path, dataset=None, **arguments):
    """A legacy weights file with one layer, whose kernel `dataset(group)` makes."""
    with h5py.File(path, "w", **arguments) as file:
        file.attrs["layer_names"] = ["conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = ["conv/kernel:0"]
        (dataset or (lambda inner: inner.create_dataset("kernel:0", data=VALUES)))(group.create_group("conv"))
    return path


def later(path, fill):
    """A ``.weights.h5`` file with one layer's group, which `fill` fills."""
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros((1, 1, 3, 4), np.float32)
        fill(file)
    return path


def virtual(group):
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 4))
    group.create_virtual_dataset("kernel:0", layout)


def link(target):
    def make(group):
        group["kernel:0"] = target

    return make


def dataset(*shape, **arguments):
    return lambda group: group.create_dataset("kernel:0", shape or None, **arguments)


def bomb(group):
    """Zeros beside values of their own size, so that the file as a whole is large enough."""
    group["bias:0"] = np.random.default_rng(0).standard_normal(2**19).astype(np.float32)
    group.create_dataset("kernel:0", data=np.zeros(2**20, np.float32), chunks=(2**18,), compression="gzip")
    group.parent.attrs["weight_names"] = ["conv/kernel:0", "conv/bias:0"]


def many_zeros(group):
    for number in range(9):
        group.create_dataset(f"k{number}:0", data=np.zeros(2**18, np.float32), chunks=True, compression="gzip")
    group.parent.attrs["weight_names"] = [f"conv/k{number}:0" for number in range(9)]


def same_twice(group):
    group["kernel:0"] = VALUES
    group["other:0"] = group["kernel:0"]
    group.parent.attrs["weight_names"] = ["conv/kernel:0", "conv/other:0"]


def upwards(group):
    group["kernel:0"] = VALUES
    group.parent.attrs["weight_names"] = ["../conv/conv/kernel:0"]


def strange_name(group):
    group["kernel\x07:0"] = VALUES


def shuffle_twice(group):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((3, 4))
    creation.set_shuffle()
    creation.set_deflate()
    creation.set_shuffle()
    h5py.h5d.create(group.id, b"kernel:0", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3, 4)), creation)


def values_of(dtype):
    return lambda group: group.create_dataset("kernel:0", (3,), dtype)


HARM = {
    "external link": (link(h5py.ExternalLink("/etc/hostname", "/x")), "conv/conv: 'kernel:0' is an external link"),
    "soft link": (link(h5py.SoftLink("/elsewhere")), "conv/conv: 'kernel:0' is a soft link"),
    "virtual dataset": (virtual, "conv/conv/kernel:0: it has a virtual dataset"),
    "external storage": (dataset(3, 4, dtype="f4", external=[("/etc/hostname", 0, 48)]), "kernel:0: .*data in other files"),
    "never written": (
        dataset(3, 4, dtype="f4"),
        r"kernel:0: an array of \[3, 4\] is declared, 48 bytes, and 0 bytes are stored",
    ),
    "larger than a disk": (dataset(10**6, 10**8, dtype="f4"), "kernel:0 the arrays are declared as 400000000000000 bytes"),
    "a bomb": (bomb, r"conv/conv/kernel:0: an array of \[1048576\] is declared, 4194304 bytes, and \d{4} bytes are stored"),
    "many small bombs": (many_zeros, r"conv/conv/k\d:0 the arrays are declared as .* too many"),
    "unknown filter": (dataset(data=VALUES, chunks=True, compression="lzf"), "kernel:0: it is packed by the filter 32000"),
    "a filter twice": (shuffle_twice, "kernel:0: it is packed by the filter 2 twice"),
    "chunks not written": (dataset(3, 4, dtype="f4", chunks=(1, 4)), "kernel:0: 0 of its 3 chunks are stored|B-tree"),
    "the same array twice": (same_twice, "conv/conv/other:0 overlaps conv/conv/kernel:0"),
    "out of its group": (upwards, "conv: its attribute 'weight_names' must be a name without"),
    "control characters": (strange_name, "conv/conv: a member's name must be a name without control characters"),
    "compound": (values_of([("a", "f4")]), "kernel:0: its values are of the type compound"),
    "objects": (values_of(h5py.ref_dtype), "kernel:0: its values are of the type reference"),
    "variable length": (values_of(h5py.vlen_dtype(np.float32)), "kernel:0: its values are of the type variable-length"),
    "text": (values_of("S4"), "kernel:0: its values are of the type string"),
    "big-endian": (values_of(">f4"), "kernel:0: its values are of the type float of 4 bytes"),
    "truth values": (values_of(bool), "kernel:0: its values are of the type enumeration"),
    "a group": (lambda group: group.create_group("kernel:0"), "kernel:0: message 3 is missing"),
}


@pytest.mark.parametrize("kind", HARM)
def test_malicious_hdf5_files_are_refused(kind, tmp_path):
    make, message = HARM[kind]
    path = write_legacy_file(tmp_path / "harm.h5", make)
    with pytest.raises(InputError, match=f"harm.h5: .*({message})"):
        keras_h5.read(path)


def deep(file):
    file["layers/" + "/".join("abcdefghijklmnopq")] = np.zeros(3)


def cycle(file):
    file["layers/conv2d/again"] = file["layers"]


def outside(file):
    file["layers/conv2d/more"] = h5py.SoftLink("/vars")


def long_paths(file):
    file[f"layers/{'a' * 600}/{'b' * 600}/vars/0"] = np.zeros(3)


def long_names(file):
    """Of layers within one another, of which each says another name than its group's."""
    inner = file["layers/conv2d"]
    for _ in range(2):
        inner.require_group("vars").attrs["name"] = np.bytes_("a" * 600)
        inner = inner.require_group("inner")


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (deep, "more than 16 deep"),
        (cycle, "a group contains itself"),
        (outside, "'more' is a soft link"),
        (long_paths, "or names are too long"),
        (long_names, "layers/conv2d/inner: its name has 1201 characters; 1024 are the most"),
    ],
)
def test_malicious_weights_h5_files_are_refused(fill, message, tmp_path):
    with pytest.raises(InputError, match=f"harm.weights.h5: .*{message}"):
        keras_h5.read(later(tmp_path / "harm.weights.h5", fill))


def test_chunks_filters_and_other_floats_are_read(tmp_path):
    values = np.random.default_rng(0).standard_normal((5, 7, 3))
    for dtype in ("<f2", "<f4", "<f8"):
        for options in (
            {},
            {"chunks": (2, 3, 3)},
            {"chunks": (2, 3, 2), "compression": "gzip", "shuffle": True, "fletcher32": True},
            {"chunks": (5, 7, 3), "fletcher32": True},
        ):
            path = write_legacy_file(tmp_path / "x.h5", dataset(data=values.astype(dtype), **options))
            read = keras_h5.read(path)["conv/kernel"]
            assert read.dtype == np.float32
            assert np.array_equal(read, values.astype(dtype).astype(np.float32))


def test_compact_scalar_and_empty_arrays_are_read(tmp_path):
    def make(group):
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3, 4))
        h5py.h5d.create(group.id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, creation).write(space, space, VALUES)
        group["scalar:0"] = np.float32(5)
        group["none:0"] = np.zeros((0, 4), np.float32)
        group["count:0"] = np.int64(7)  # no weight
        group.parent.attrs["weight_names"] = ["conv/kernel:0", "conv/scalar:0", "conv/none:0", "conv/count:0"]

    arrays = keras_h5.read(write_legacy_file(tmp_path / "x.h5", make))
    assert np.array_equal(arrays["conv/kernel"], VALUES)
    assert arrays["conv/scalar"] == 5
    assert arrays["conv/none"].shape == (0, 4)
    assert "conv/count" not in arrays


def test_long_lists_of_names_are_put_together(tmp_path):
    """Keras divides an attribute of more than 64 KiB."""
    path = write_legacy_file(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        del file["conv"].attrs["weight_names"]
        for number in range(12):
            file[f"conv/conv/b{number}:0"] = VALUES[0] + number
        file["conv"].attrs["weight_names0"] = np.array([f"conv/b{number}:0".encode() for number in range(8)])
        file["conv"].attrs["weight_names1"] = np.array([f"conv/b{number}:0".encode() for number in range(8, 12)])
    arrays = keras_h5.read(path)
    assert list(arrays) == [f"conv/b{number}" for number in range(12)]
    assert np.array_equal(arrays["conv/b11"], VALUES[0] + 11)


def test_a_flipped_byte_in_a_chunk_with_a_checksum_is_seen(tmp_path):
    path = write_legacy_file(tmp_path / "x.h5", dataset(data=VALUES, chunks=True, fletcher32=True))
    data = path.read_bytes()
    at = data.index(VALUES.tobytes()) + 5
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(InputError, match=r"kernel:0: its chunk at \[0, 0\] does not match its checksum"):
        keras_h5.read(path)


def test_a_global_heap_with_false_sizes_is_refused(tmp_path):
    """A global heap whose sizes are wrong: the HDF5 library may search one for ever."""
    path = write_legacy_file(tmp_path / "x.h5")
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    for size in (0, 2**63, 2**64 - 16, len(data)):
        data[heap + 24 : heap + 32] = struct.pack("<Q", size)
        path.write_bytes(data)
        with pytest.raises(InputError, match="x.h5: "):
            keras_h5.read(path)


def test_repeated_strings_are_refused(tmp_path):
    """What a few bytes point to is counted each time."""
    path = write_legacy_file(tmp_path / "x.h5")
    long, count = "a" * 1000, 4000
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = [long] + ["b"] * (count - 1)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<I", len(long)))
    data[at : at + 16 * count] = data[at : at + 16] * count
    path.write_bytes(data)
    with pytest.raises(InputError, match="x.h5: .*the root group: its attribute 'layer_names' repeats the strings"):
        keras_h5.read(path)


def test_an_empty_array_with_an_impossible_side_is_refused(tmp_path):
    path = write_legacy_file(tmp_path / "x.h5", lambda group: group.create_dataset("kernel:0", (0, 7654321), "f4"))
    assert keras_h5.read(path)["conv/kernel"].shape == (0, 7654321)
    data = path.read_bytes()
    for side in (2**63, 2**64 - 1, 2**40 + 1):
        path.write_bytes(data.replace(struct.pack("<Q", 7654321), struct.pack("<Q", side)))
        with pytest.raises(InputError, match=rf"x.h5: .*kernel:0: no array can have the shape \[0, {side}\]"):
            keras_h5.read(path)


def test_values_too_large_for_float32_are_infinite_without_a_warning(tmp_path):
    path = write_legacy_file(tmp_path / "x.h5", dataset(data=np.array([1e300, np.nan, 2.0])))
    assert np.array_equal(keras_h5.read(path)["conv/kernel"], np.float32([np.inf, np.nan, 2]), equal_nan=True)


@pytest.mark.parametrize("damage", ["cut", "longer", "text", "empty", "signature alone"])
def test_incomplete_hdf5_files_are_refused(damage, tmp_path):
    path = write_legacy_file(tmp_path / "x.h5")
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[:-100], "longer": data + b"\0", "text": b"hello", "empty": b"", "signature alone": data[:8]}[damage]
    )
    with pytest.raises(InputError, match="x.h5: (the file has|this is not an HDF5 file)"):
        keras_h5.read(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="none.h5: no such file"):
        keras_h5.read(tmp_path / "none.h5")
    with pytest.raises(InputError, match="a folder"):
        keras_h5.read(tmp_path)
    with pytest.raises(InputError, match="new.h5: .*libver='latest'"):
        keras_h5.read(write_legacy_file(tmp_path / "new.h5", libver="latest"))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = VALUES
    with pytest.raises(InputError, match="data.h5: .*Keras did not write it; it has images"):
        keras_h5.read(tmp_path / "data.h5")
    with h5py.File(tmp_path / "again.h5", "w") as file:
        file.attrs["layer_names"] = ["a", "a"]
        file["a/count"] = np.int64(1)
        file["a"].attrs["weight_names"] = ["count"]
    with pytest.raises(InputError, match="again.h5: a/count occurs twice"):
        keras_h5.read(tmp_path / "again.h5")
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file.attrs["layer_names"] = ["a"]
        file.create_group("a").attrs["weight_names"] = np.zeros(0)
    with pytest.raises(InputError, match="bare.h5: contains no weights"):
        keras_h5.read(tmp_path / "bare.h5")


@pytest.fixture
def archive(tmp_path):
    """Makes a ``.keras`` file of members, a good one by default."""
    weights = later(tmp_path / "model.weights.h5", lambda _: None).read_bytes()
    configuration = {"config": {"layers": [{"class_name": "Conv2D", "config": {"name": "conv", "function": "os.system"}}]}}

    def make(members=None, compression=zipfile.ZIP_STORED):
        good = {"config.json": json.dumps(configuration).encode(), "model.weights.h5": weights}
        path = tmp_path / "model.keras"
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, data in (good | (members or {})).items():
                if data is not None:
                    file.writestr(name, data)
        return path

    return make


def test_a_configuration_only_names_layers(archive):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert list(keras_h5.read(archive(compression=compression))) == ["conv/kernel"]


@pytest.mark.parametrize(
    ("members", "compression", "message"),
    [
        ({"model.weights.h5": bytes(2**24)}, zipfile.ZIP_DEFLATED, "model.weights.h5: 16777216 bytes are declared"),
        ({"config.json": b" " * 2**25}, zipfile.ZIP_DEFLATED, "config.json: 33554432 bytes are declared"),
        ({"config.json": b" " * (2**22 + 1)}, zipfile.ZIP_STORED, "config.json: 4194305 bytes are declared"),
        ({"config.json": b"[" * 10**5}, zipfile.ZIP_STORED, "cannot be read as a .keras archive"),
        ({"config.json": b"{"}, zipfile.ZIP_STORED, "cannot be read as a .keras archive"),
        ({"model.weights.h5": None}, zipfile.ZIP_STORED, "model.weights.h5 is not in the archive"),
        ({"model.weights.h5": b"hello"}, zipfile.ZIP_STORED, "model.weights.h5: this is not an HDF5 file"),
        ({}, zipfile.ZIP_LZMA, "config.json is packed by the method 14"),
    ],
)
def test_archives_made_to_harm_are_refused(members, compression, message, archive):
    with pytest.raises(InputError, match=f"model.keras: .*{message}"):
        keras_h5.read(archive(members, compression))


def test_a_flipped_byte_in_an_archive_is_seen(archive):
    path = archive()
    data = path.read_bytes()
    at = data.index(b"\x89HDF") + 3000
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(InputError, match="model.keras: .*CRC"):
        keras_h5.read(path)
    path.write_bytes(data[:-30])
    with pytest.raises(InputError, match="model.keras: .*archive"):
        keras_h5.read(path)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="model.keras: .*archive"):
        keras_h5.read(path)
