"""Weights files: both formats round, V1 checkpoints, the load report, and files that are wrong."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from campaign import mutations
from helpers.networks import images_of, weights_of
from safetensors.numpy import save_file
from tensorflow.core.util.saved_tensor_slice_pb2 import SavedTensorSlices

import dense_resnet as dr
from dense_resnet import checkpoints
from dense_resnet.checkpoints import load_report, provenance
from dense_resnet.checkpoints.containers import safetensors, tf_checkpoint, tf_table
from dense_resnet.errors import InputError
from dense_resnet.jobs import atomic_files
from dense_resnet.verification import laws

v1 = tf.compat.v1
PLAN = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], scope="tiny")


def save_with_tf1(folder, weights, version, extra=()):
    """What a TF1 program's Saver leaves in `folder`."""
    with tf.Graph().as_default(), v1.Session() as session:
        for name, value in [*weights.items(), *extra]:
            v1.get_variable(name, initializer=tf.constant(value))
        session.run(v1.global_variables_initializer())
        return v1.train.Saver(write_version=version).save(session, str(folder / "model.ckpt"), write_meta_graph=False)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.ckpt"])
def test_round_trip_is_the_identity(name, tmp_path):
    weights = weights_of(PLAN)
    one = laws.backbone_with(PLAN, weights)
    one.save(tmp_path / name)
    two = dr.Backbone(PLAN, seed=1)
    loaded = two.load(tmp_path / name)
    assert loaded.complete
    assert set(loaded.matched) == set(weights)
    assert not loaded.unexpected
    assert all(np.array_equal(value, weights[key]) for key, value in two.weights.items())


@pytest.mark.parametrize("version", [v1.train.SaverDef.V1, v1.train.SaverDef.V2])
@pytest.mark.parametrize("how", ["prefix", "part", "folder"])
def test_checkpoints_of_tf1_programs(version, how, tmp_path):
    weights = weights_of(PLAN)
    extra = [
        ("global_step", np.int64(7)),
        ("tiny/conv1/weights/Momentum", weights["tiny/conv1/weights"]),
        ("mean_rgb", np.ones(3, np.float32)),
    ]
    path = save_with_tf1(tmp_path, weights, version, extra)
    if how == "part":
        parts = sorted(tmp_path.glob("model.ckpt*"))
        path = str(parts[0])
    if how == "folder":
        path = str(tmp_path)
    backbone = dr.Backbone(PLAN, seed=1)
    loaded = backbone.load(path)
    assert loaded.unexpected == ("mean_rgb", "tiny/conv1/weights/Momentum")
    assert all(np.array_equal(value, weights[key]) for key, value in backbone.weights.items())


def test_what_we_save_a_tf1_program_restores(tmp_path):
    weights = weights_of(PLAN)
    laws.backbone_with(PLAN, weights).save(tmp_path / "model.ckpt")
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.get_variable(name, shape) for name, shape, _ in PLAN.variables}
        v1.train.Saver().restore(session, str(tmp_path / "model.ckpt"))
        values = session.run(variables)
    assert all(np.array_equal(values[name], weights[name]) for name in weights)


def test_other_classifiers_are_left_out_and_reported():
    with_logits = dr.plan("resnet_v1_18", num_classes=10)
    weights = weights_of(with_logits)
    none = dr.Backbone("resnet_v1_18").assign(weights)
    assert none.complete
    assert [line.split(":")[0] for line in none.left_out] == ["resnet_v1_18/logits/biases", "resnet_v1_18/logits/weights"]
    assert "left out           2" in str(none)
    other = dr.Backbone(dr.plan("resnet_v1_18", num_classes=7), seed=0)
    before = other.weights["resnet_v1_18/logits/weights"]
    assert other.assign(weights).left_out[0] == "resnet_v1_18/logits/weights: network [1, 1, 512, 7], file [1, 1, 512, 10]"
    assert np.array_equal(other.weights["resnet_v1_18/logits/weights"], before)
    same = dr.Backbone(with_logits)
    assert same.assign(weights).left_out == ()
    assert np.array_equal(same.weights["resnet_v1_18/logits/weights"], weights["resnet_v1_18/logits/weights"])


def test_a_wrong_variant_is_named_and_nothing_is_loaded():
    backbone = dr.Backbone("resnet_v1_18", seed=0)
    before = backbone.weights
    with pytest.raises(ValueError, match="do not fit resnet_v1_18; nothing was loaded") as error:
        backbone.assign(weights_of(dr.plan("resnet_v1_34")), "file.ckpt")
    assert "These weights fit: resnet_v1_34" in str(error.value)
    assert all(np.array_equal(value, before[name]) for name, value in backbone.weights.items())


def test_a_refusal_is_short_and_claims_no_initial_values():
    """Nothing was loaded, so nothing was left at anything."""
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        dr.Backbone("resnet_v1_18", seed=0).assign(weights_of(dr.plan("resnet_v1_34")), "file.ckpt")
    lines = str(error.value).splitlines()
    assert "initial values" not in str(error.value)
    assert len(lines) <= 7
    assert sum(line.count("resnet_v1_18/") for line in lines) <= 2
    assert re.search(r"missing +100  resnet_v1_18/conv1/weights, .*, …", str(error.value))


def test_beta_and_plain_variants_of_one_scope_are_distinguished():
    weights = weights_of(dr.plan("resnet_v1_50_beta"))
    assert provenance.find_fitting_variants(weights) == ("resnet_v1_50_beta",)
    with pytest.raises(ValueError, match="These weights fit: resnet_v1_50_beta"):
        load_report.match(dr.plan("resnet_v1_50"), weights, "file")


def test_scalar_classifier_biases_give_no_class_count():
    weights = weights_of(dr.plan("resnet_v1_18", num_classes=7))
    assert provenance.origin_of("slim", weights).class_count == 7
    weights["resnet_v1_18/logits/biases"] = np.float32(1)
    found = provenance.origin_of("slim", weights)
    assert (found.variant, found.class_count) == ("resnet_v1_18", None)


def test_missing_and_mismatched_variables_are_refused_or_reported():
    weights = weights_of(PLAN)
    del weights["tiny/postnorm/beta"]
    weights["tiny/postnorm/gamma"] = np.ones(3, np.float32)
    weights["other/scope"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="nothing was loaded"):
        load_report.match(PLAN, weights, "file")
    loose = load_report.match(PLAN, weights, "file", strict=False).report
    assert loose.missing == ("tiny/postnorm/beta",)
    assert loose.mismatched == (("tiny/postnorm/gamma", (8,), (3,)),)
    assert loose.unexpected == ("other/scope",)
    assert not loose.complete
    for line in (
        "missing            1  (left at their initial values)",
        "tiny/postnorm/gamma: network [8], file [3]",
        "unexpected         1",
    ):
        assert line in str(loose)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_other_input_channels_keep_the_response_to_gray(channels):
    rgb = PLAN
    other = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], scope="tiny", in_channels=channels)
    weights = weights_of(rgb)
    backbone = dr.Backbone(other)
    loaded = backbone.assign(weights)
    assert loaded.adapted == (f"tiny/conv1/weights: 3 to {channels} channels",)
    assert "input channels adapted" in str(loaded)
    grey = images_of(33, channels=1)
    expected = laws.backbone_with(rgb, weights)(np.repeat(grey, 3, axis=-1))
    assert laws.relative_error(backbone(np.repeat(grey, channels, axis=-1)), expected) <= 1e-5
    kept = dr.Backbone(other, seed=0)
    before = kept.weights["tiny/conv1/weights"]
    assert kept.assign(weights, first_convolution="leave_out").left_out == (
        f"tiny/conv1/weights: network [7, 7, {channels}, 64], file [7, 7, 3, 64]",
    )
    assert np.array_equal(kept.weights["tiny/conv1/weights"], before)


# -- wrong files -----------------------------------------------------------------------------------------------------


def save_good_weights(folder, name):
    """A good weights file."""
    path = folder / name
    laws.backbone_with(PLAN, weights_of(PLAN)).save(path)
    return path


def test_missing_weights_files_are_named(tmp_path):
    save_good_weights(tmp_path, "good.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt: no such checkpoint .*In that folder: good\.ckpt"):
        checkpoints.read(tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.safetensors: no such file"):
        checkpoints.read(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "model.ckpt"])
def test_a_flipped_bit_is_found(name, tmp_path):
    path = save_good_weights(tmp_path, name)
    data = path if path.exists() else path.with_name(path.name + ".data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*damaged"):
        checkpoints.read(path)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that opens and cannot be read")
def test_an_error_of_the_disk_names_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.symlink_to("/proc/self/mem")
    for given in (path, tmp_path):
        with pytest.raises(InputError, match=f"{re.escape(str(path))}: cannot be read: Input/output error"):
            checkpoints.read(given)


def test_damaged_names_of_checksums_are_noticed(tmp_path):
    path = save_good_weights(tmp_path, "weights.safetensors")
    content = bytearray(path.read_bytes().replace(b'"dense_resnet"', b'"denze_resnet"'))
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: cannot be read as safetensors: its metadata 'dense_resnet'"):
        checkpoints.read(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.ckpt"])
@pytest.mark.parametrize("keep", [0, 4, 40, 0.5, 0.99])
def test_a_truncated_file(name, keep, tmp_path):
    path = save_good_weights(tmp_path, name)
    for part in tmp_path.glob(f"{name}*"):
        content = part.read_bytes()
        part.write_bytes(content[: keep if keep >= 1 else int(len(content) * keep)])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        checkpoints.read(path)


@pytest.mark.parametrize("name", ["bytes.ckpt", "bytes.safetensors"])
def test_other_bytes_are_refused_as_weights(name, tmp_path):
    (tmp_path / name).write_bytes(bytes(range(256)) * 2)
    with pytest.raises(ValueError, match=f"{name}: cannot be read as"):
        checkpoints.read(tmp_path / name)


def test_a_false_safetensors_header_is_refused(tmp_path):
    path = tmp_path / "bad.safetensors"
    for header in (
        b"{",
        b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(ValueError, match=r"bad\.safetensors: cannot be read as safetensors"):
            checkpoints.read(path)


def test_an_object_based_checkpoint(tmp_path):
    tf.train.Checkpoint(v=tf.Variable(1.0)).write(str(tmp_path / "object.ckpt"))
    with pytest.raises(ValueError, match="object-based checkpoint"):
        checkpoints.read(tmp_path / "object.ckpt")


@pytest.mark.parametrize("state", [None, "", "garbage\0\xff", 'model_checkpoint_path: ""'])
def test_an_unreadable_checkpoint_state_file(state, tmp_path):
    save_good_weights(tmp_path, "model.ckpt-7")
    if state is not None:
        (tmp_path / "checkpoint").write_text(state)
    with pytest.raises(ValueError, match=r"no readable 'checkpoint' file .*found: model\.ckpt-7"):
        checkpoints.read(tmp_path)


@pytest.mark.parametrize("named", ["/", "a" * 300, "a/" * 3000])
def test_a_state_file_with_an_impossible_name_is_refused(named, tmp_path):
    save_good_weights(tmp_path, "model.ckpt-7")
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"')
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}"):
        checkpoints.read(tmp_path)


def test_a_moved_checkpoint_folder_is_read(tmp_path):
    save_with_tf1(tmp_path, weights_of(PLAN), v1.train.SaverDef.V2)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/where/it/was/model.ckpt"')
    assert set(checkpoints.read(tmp_path)) == set(weights_of(PLAN))


@pytest.mark.parametrize("name", ["weights.h5", "model.pth", "model.keras"])
def test_writing_other_formats_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"the name must end in \.safetensors, or have \.ckpt in it"):
        checkpoints.write(tmp_path / name, weights_of(PLAN))


def test_folders_and_bare_suffixes_are_refused(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(ValueError, match="a folder, not a file"):
        checkpoints.read(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no such checkpoint"):
        checkpoints.read(tmp_path / ".index")


def test_values_that_are_not_finite(tmp_path):
    weights = weights_of(PLAN)
    weights["tiny/conv1/weights"][0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="file: tiny/conv1/weights has values that are not finite; nothing was loaded"):
        dr.Backbone(PLAN).assign(weights, "file")
    with pytest.raises(ValueError, match="not written: tiny/conv1/weights"):
        checkpoints.write(tmp_path / "weights.safetensors", weights)
    assert list(tmp_path.iterdir()) == []


def test_a_slim_checkpoint_is_never_overwritten_and_safetensors_are_in_one_step(tmp_path):
    path = save_good_weights(tmp_path, "model.ckpt")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"exists already.*or save as \.safetensors"):
        dr.Backbone(PLAN).save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    save_good_weights(tmp_path, "weights.safetensors")
    save_good_weights(tmp_path, "weights.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "weights.safetensors",
    ]


def test_a_kill_between_the_two_files_of_a_slim_checkpoint(tmp_path):
    """What it leaves is told from the data file of another checkpoint by what lies beside it, and gives way."""
    path, network = tmp_path / "model.ckpt", dr.Backbone(PLAN)
    data, index = (path.with_name(path.name + ending) for ending in (tf_checkpoint.DATA, tf_checkpoint.INDEX))
    data.write_bytes(b"of another")
    with pytest.raises(ValueError, match="data-00000-of-00001: exists already"):
        network.save(path)
    assert data.read_bytes() == b"of another"
    index.with_name(f".{index.name}.partial").write_bytes(b"of the killed run")
    network.save(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [data.name, index.name]
    dr.Backbone(PLAN).load(path)


def test_a_slim_checkpoint_whose_second_file_cannot_be_written(tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith(tf_checkpoint.INDEX):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match=r"model\.ckpt\.index: cannot be written: No space left on device"):
        dr.Backbone(PLAN).save(tmp_path / "model.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_slim_checkpoint_whose_folder_cannot_be_brought_to_the_disk(tmp_path, monkeypatch):
    """After the data have their name: they would be in the way of the next attempt."""
    sync = atomic_files.sync

    def fail(path):
        if path == tmp_path:
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(atomic_files, "sync", fail)
    with pytest.raises(ValueError, match="Input/output error"):
        dr.Backbone(PLAN).save(tmp_path / "model.ckpt")
    monkeypatch.undo()
    dr.Backbone(PLAN).save(tmp_path / "model.ckpt")
    dr.Backbone(PLAN).load(tmp_path / "model.ckpt")


def test_the_fingerprint_is_of_names_and_values():
    weights = weights_of(PLAN)
    one = checkpoints.fingerprint(weights)
    assert checkpoints.fingerprint(dict(reversed(weights.items()))) == one
    weights["tiny/postnorm/beta"][0] += 1
    assert checkpoints.fingerprint(weights) != one


# -- slim checkpoints, compared with TensorFlow's own reader -----------------------------------------------------------


def many_kinds():
    """Variables of every kind that a checkpoint can hold, and so many that their names share beginnings."""
    generator = np.random.default_rng(0)
    return {
        "double": generator.standard_normal((2, 3)),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float32(3),
        "step": np.int64(7),
        "repeated": np.tile(generator.standard_normal(7).astype(np.float32), 9000),
        **{f"net/block1/unit_{n}/weights": np.full((1, n), n, np.float32) for n in range(1, 120)},
    }


def assert_reads_as_tensorflow_does(path):
    theirs = tf.train.load_checkpoint(str(path))
    ours = checkpoints.read(path)
    assert set(ours) == {name for name, dtype in theirs.get_variable_to_dtype_map().items() if dtype.is_floating}
    for name, value in ours.items():
        expected = theirs.get_tensor(name)
        assert (value.dtype, value.shape) == (np.float32, expected.shape)
        assert np.array_equal(value, expected.astype(np.float32))


def test_a_v1_checkpoint_reads_as_tensorflow_reads_it(tmp_path):
    variables = many_kinds()
    with tf.Graph().as_default(), v1.Session() as session:
        data = [tf.constant(value) for value in variables.values()]
        session.run(tf.raw_ops.Save(filename=str(tmp_path / "model.ckpt"), tensor_names=list(variables), data=data))
    assert_reads_as_tensorflow_does(tmp_path / "model.ckpt")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_v2_checkpoint_reads_as_tensorflow_reads_it(size, tmp_path):
    variables = {name: tf.constant(value) for name, value in many_kinds().items()}
    variables |= {"half": tf.constant([1.5, -2], tf.float16), "bfloat16": tf.constant([1.5, -2], tf.bfloat16)}
    path = tmp_path / "model.ckpt"
    names, values = list(variables), list(variables.values())
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    assert_reads_as_tensorflow_does(path)
    index = tmp_path / "model.ckpt.index"
    entries = list(tf_table.entries(index))
    index.write_bytes(mutations.table(entries, size))  # as other releases write it
    assert list(tf_table.entries(index)) == entries
    assert_reads_as_tensorflow_does(path)


def test_a_malformed_table_with_valid_checksums_is_refused(tmp_path):
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "a.ckpt"), tensor_names=["a", "b"], shape_and_slices=[""] * 2, tensors=[tf.ones(3)] * 2
    )
    index = tmp_path / "a.ckpt.index"
    entries, good = list(tf_table.entries(index)), index.read_bytes()
    footer = good[-48:]
    empty = footer[: next(at + 1 for at in range(1, 48) if footer[at] < 128)]  # where the empty block lies: two numbers
    header, (_, value), _ = entries
    blocks = []
    mutations.table(entries, 1, lambda block: blocks.append(block) or block)
    begins = np.cumsum([0] + [len(block) + tf_table.TRAILER for block in blocks])
    less = mutations.block([(b"b", mutations.varint(int(begins[2])) + mutations.varint(len(blocks[2])))])
    for content, why in (
        (mutations.table(entries[::-1], 1), "its keys are not in order"),
        (mutations.table([entries[0], *entries], 9), "its keys are not in order"),
        (
            mutations.table(entries, 1, lambda block: less if block == blocks[-1] else block),
            "gap or overlap between blocks at byte 0",
        ),
        (mutations.table([header, (b"a", value), (b"b", value), (b"c", value)], 9), "too short for c"),
        (good[:-48] + (empty * 2).ljust(40, b"\0") + good[-8:], "its blocks do not fill it"),
    ):
        index.write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.ckpt: .*{why}"):
            checkpoints.read(tmp_path / "a.ckpt")


@pytest.mark.parametrize("method", [1, 2])
def test_a_compressed_table_is_refused_with_the_reason(method, tmp_path):
    path = tmp_path / "a.ckpt"
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=["a"], shape_and_slices=[""], tensors=[tf.ones(3)])
    index = tmp_path / "a.ckpt.index"
    index.write_bytes(mutations.table(list(tf_table.entries(index)), 9, method=method))
    with pytest.raises(InputError, match=rf"a\.ckpt: .*is compressed \(method {method}\).*save it again"):
        checkpoints.read(path)


def test_an_index_with_keys_larger_than_its_bytes_is_refused(tmp_path):
    keys = [b"a" * 4000 + b"%04d" % number for number in range(2000)]
    first = mutations.block([(keys[0], b"")])
    last = b"".join(b"".join(map(mutations.varint, (4000, 4, 0))) + key[4000:] for key in keys[1:])  # each begins as the first
    shared = first[:-8] + last + first[-8:]
    (tmp_path / "a.ckpt.index").write_bytes(
        mutations.table([(keys[0], b"")], 1, lambda block: shared if block == first else block)
    )
    with pytest.raises(InputError, match=r"a\.ckpt: .*its keys are of more than 16 times its bytes"):
        checkpoints.read(tmp_path / "a.ckpt")


@pytest.mark.parametrize("version", [v1.train.SaverDef.V1, v1.train.SaverDef.V2])
def test_values_too_large_for_float32_are_infinite_without_a_warning(version, tmp_path):
    values = np.array([1e300, -1e300, np.nan, 2])
    path = save_with_tf1(tmp_path, {"a": values}, version)
    assert np.array_equal(checkpoints.read(path)["a"], np.float32([np.inf, -np.inf, np.nan, 2]), equal_nan=True)


def test_a_v1_checkpoint_with_an_unknown_size_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    tf.raw_ops.Save(filename=str(path), tensor_names=["a"], data=[tf.ones((2, 3))])
    (key, value), *entries = tf_table.entries(path)
    listed = SavedTensorSlices.FromString(value)
    listed.meta.tensor[0].shape.dim[0].size = -1
    path.write_bytes(mutations.table([(key, listed.SerializeToString()), *entries], 9))
    with pytest.raises(ValueError, match=r"a\.ckpt: .*a has an invalid shape"):
        checkpoints.read(path)


def test_a_partitioned_variable_is_refused_by_name(tmp_path):
    halves = [tf.ones((2, 3)), tf.ones((2, 3))]
    slices = {"tensor_names": ["a/weights"] * 2, "shape_and_slices": ["4 3 0,2:0,3", "4 3 2,2:0,3"]}
    slices_v1 = {"tensor_names": ["a/weights"] * 2, "shapes_and_slices": slices["shape_and_slices"]}
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "two.ckpt"), tensors=halves, **slices)
    tf.raw_ops.SaveSlices(filename=str(tmp_path / "one.ckpt"), data=halves, **slices_v1)
    for name in ("one.ckpt", "two.ckpt"):
        with pytest.raises(ValueError, match=f"{name}: .*a/weights is stored in slices"):
            checkpoints.read(tmp_path / name)


# -- safetensors: what the checksums cover -----------------------------------------------------------------------------


def test_what_is_said_about_the_arrays_is_under_a_checksum(tmp_path):
    path = tmp_path / "a.safetensors"
    for before, after in (
        (b'"shape":[2,6]', b'"shape":[6,2]'),
        (b'"F32"', b'"I32"'),
        (b'"scope/weights":{', b'"scopf/weights":{'),
        (b"road", b"toad"),
    ):
        safetensors.write(path, {"scope/weights": np.ones((2, 6), np.float32)}, {"classes": ["road"]})
        content = path.read_bytes()
        assert content.count(before) == 1
        path.write_bytes(content.replace(before, after))
        with pytest.raises(ValueError, match=r"a\.safetensors: .*damaged"):
            checkpoints.read(path)


def test_files_of_the_first_release_have_checksums_of_arrays_only(tmp_path):
    path, weights = tmp_path / "a.safetensors", {"a": np.ones((2, 3), np.float32)}
    save_file(weights, path, metadata={"dense_resnet": json.dumps({"sha256": {"a": safetensors.digest(weights["a"])}})})
    assert np.array_equal(checkpoints.read(path)["a"], weights["a"])
    save_file(weights, path, metadata={"dense_resnet": json.dumps({"sha256": {"b": safetensors.digest(weights["a"])}})})
    with pytest.raises(ValueError, match="its arrays are not those of its checksums"):
        checkpoints.read(path)


def test_deeply_nested_metadata_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.ones(3, np.float32)}, path, metadata={"dense_resnet": "[" * 100_000})
    with pytest.raises(ValueError, match=r"a\.safetensors: cannot be read"):
        checkpoints.read(path)


@pytest.mark.parametrize("name", ["w.ckpt", "w.h5", "w.keras", "w.safetensors", "w.txt", "w.tar.gz", "w"])
def test_files_other_than_weights_are_identified(name, tmp_path):
    path = tmp_path / name
    for content, kind in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs: `git lfs pull` fetches the file"),
        (b"<!DOCTYPE html>\n<html>" * 9, r"text that begins '<!DOCTYPE html>.*a failed download"),
        (b"\x1f\x8b" + bytes(99), r"a gzip archive \(unpack it first\)"),
        (b"\x89PNG\r\n" + bytes(99), "a PNG picture"),
        (b"", "an empty file"),
        (b'model_checkpoint_path: "model.ckpt-9"\n', "the list of a folder's checkpoints"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(99), "a WebP picture"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "a HEIC or AVIF picture"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: this is .*{kind}"):
            checkpoints.read(path)


def test_an_index_without_its_data(tmp_path):
    checkpoints.write(tmp_path / "a.ckpt", {"w": np.zeros(3, np.float32)})
    (tmp_path / "a.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(
        InputError, match=r"a\.ckpt\.data-00000-of-00001: is missing\. A checkpoint consists of its \.index and \.data"
    ):
        checkpoints.read(tmp_path / "a.ckpt")


def test_a_saved_model_is_refused_as_a_checkpoint(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(InputError, match="this is a SavedModel, a program"):
        checkpoints.read(tmp_path)


@pytest.mark.parametrize("source", [None, 3, ["a.ckpt"]])
def test_sources_of_invalid_types_are_refused(source):
    with pytest.raises(InputError, match="weights must be a path, a Keras model, a PyTorch module or a dictionary of arrays"):
        checkpoints.read(source)
