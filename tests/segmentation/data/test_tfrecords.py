"""TFRecords: what is written is what DeepLab reads, and no damage to a shard goes unnoticed."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf
from helpers.datasets import SPACE, THREE, image_file, label_file, names, own_dataset
from PIL import Image

from dense_resnet.checkpoints.containers.tf_table import masked_checksum
from dense_resnet.errors import InputError
from dense_resnet.image_io.bit_depth import find_deep
from segmentation.data import tfrecords
from segmentation.data.label_files import encode_label
from segmentation.data.label_space import LabelSpace
from segmentation.data.label_tables import CITYSCAPES
from segmentation.data.layouts import open_dataset, recognize
from segmentation.data.tfrecords import counts_path, write_records

DEEPLAB = {  # as in DeepLab's data_generator.py
    "image/encoded": tf.io.FixedLenFeature((), tf.string, default_value=""),
    "image/filename": tf.io.FixedLenFeature((), tf.string, default_value=""),
    "image/format": tf.io.FixedLenFeature((), tf.string, default_value="jpeg"),
    "image/height": tf.io.FixedLenFeature((), tf.int64, default_value=0),
    "image/width": tf.io.FixedLenFeature((), tf.int64, default_value=0),
    "image/segmentation/class/encoded": tf.io.FixedLenFeature((), tf.string, default_value=""),
    "image/segmentation/class/format": tf.io.FixedLenFeature((), tf.string, default_value="png"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(a folder of records in 2 shards, the dataset they were made of): 5 pairs, palette labels."""
    folder = own_dataset(tmp_path_factory.mktemp("folders"), splits=("val",), names=("a", "b", "c", "more/a", "more/d"))
    rng = np.random.default_rng(0)
    for path in (folder / "labels").rglob("*.png"):
        path.write_bytes(encode_label(rng.choice([0, 1, 2, 255], (4, 6)), SPACE))
    dataset = open_dataset(folder)
    out = tmp_path_factory.mktemp("records")
    write_records(dataset, out, shards=2)
    return out, dataset


@pytest.fixture
def copied(written, tmp_path):
    """The same records, to be damaged."""
    return shutil.copytree(written[0], tmp_path / "records")


def shard(folder, index=0):
    """A shard's path."""
    return folder / f"val-{index:05d}-of-00002.tfrecord"


def lengths(path):
    """The length of each record's data."""
    return [len(data) for _, data in tfrecords._raw_records(path)]


def rewrite(folder, index=0, **changes):
    """Replaces features of the first record of a shard; None removes one."""
    examples = [tf.train.Example.FromString(data) for _, data in tfrecords._raw_records(shard(folder, index))]
    for key, value in changes.items():
        feature = examples[0].features.feature
        key = key.replace("__", "/")
        if value is None:
            del feature[key]
        else:
            feature[key].bytes_list.value[:] = [value]
    with tf.io.TFRecordWriter(str(shard(folder, index))) as writer:
        for example in examples:
            writer.write(example.SerializeToString())


def test_written_records_are_read_unchanged(written):
    folder, original = written
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.split, dataset.space) == ("mine", "val", SPACE)
    assert names(dataset) == names(original) == ["a", "b", "c", "more/a", "more/d"]
    for ours, theirs in zip(dataset.samples, original.samples, strict=True):
        assert ours.image_bytes() == theirs.image_bytes()
        assert np.array_equal(ours.read_image(), theirs.read_image())
        assert np.array_equal(ours.read_label(SPACE), theirs.read_label(SPACE))
    assert json.loads(counts_path(folder, "val").read_text())["shards"] == {shard(folder).name: 2, shard(folder, 1).name: 3}
    assert recognize(folder).is_records


def test_deeplab_reads_them(written):
    folder, original = written
    examples = tf.data.TFRecordDataset([str(shard(folder, index)) for index in (0, 1)])
    for serialized, sample in zip(examples, original.samples, strict=True):
        features = tf.io.parse_single_example(serialized, DEEPLAB)
        label = tf.io.decode_image(features["image/segmentation/class/encoded"], channels=1)
        assert np.array_equal(label[..., 0], sample.read_label(SPACE))
        assert tf.io.decode_jpeg(features["image/encoded"]).shape == (4, 6, 3)
        assert (features["image/height"], features["image/width"]) == (4, 6)
        assert features["image/filename"].numpy().decode() == sample.name
        assert features["image/format"] == b"jpeg"


def test_records_of_deeplab_itself(tmp_path):
    """Names without folders, no counts file, another naming of shards, a palette-free label."""
    label = np.array([[0, 1], [2, 255]], np.uint8)
    values = {
        "image/encoded": tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy(),
        "image/filename": b"2007_000032.png",
        "image/segmentation/class/encoded": tf.io.encode_png(label[..., None]).numpy(),
    }
    features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in values.items()}
    with tf.io.TFRecordWriter(str(tmp_path / "train_aug-7.tfrecord")) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    (tmp_path / "dataset.json").write_text(json.dumps(THREE))
    dataset = open_dataset(tmp_path)
    assert (dataset.split, names(dataset)) == ("train_aug", ["2007_000032"])
    assert np.array_equal(dataset.samples[0].read_label(SPACE), label)


def test_a_flipped_byte_is_found_wherever_it_is(copied):
    path = shard(copied, 1)
    sound = path.read_bytes()
    first, second, _ = lengths(path)
    start = tfrecords.BEFORE + first + tfrecords.AFTER
    places = {"length": 0, "its checksum": 9, "data": 12 + second // 2, "the last of it": 11 + second, "checksum": 14 + second}
    for offset in places.values():
        damaged = bytearray(sound)
        damaged[start + offset] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(
            InputError, match=rf"val-00001-of-00002\.tfrecord: the record at byte {start} is damaged: its checks"
        ):
            open_dataset(copied)
    dataset = open_dataset(copied, strict=False)
    assert names(dataset) == ["a", "b", "c"]
    assert len(dataset.problems) == 1


def test_a_shard_cut_between_two_records(copied):
    path = shard(copied, 1)
    first = lengths(path)[0]
    path.write_bytes(path.read_bytes()[: tfrecords.BEFORE + first + tfrecords.AFTER])
    with pytest.raises(
        InputError, match=r"00001-of-00002\.tfrecord: 1 records, and val\.counts\.json says 3: the shard was cut"
    ):
        open_dataset(copied)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"0 records, and val\.counts\.json says 3"):
        open_dataset(copied)


@pytest.mark.parametrize("keep", [5, 20, -1])
def test_a_shard_cut_within_a_record(keep, copied):
    path = shard(copied)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"val-00000-of-00002\.tfrecord: the record at byte \d+ is damaged: .* or it is cut"):
        open_dataset(copied)


@pytest.mark.parametrize("length", [2**31, 2**62, 2**64 - 1])
def test_a_length_under_a_checksum_that_fits(length, copied):
    """TensorFlow itself would crash."""
    path = shard(copied)
    told = struct.pack("<Q", length)
    path.write_bytes(told + struct.pack("<I", masked_checksum(told)) + path.read_bytes()[12:])
    with pytest.raises(InputError, match=r"val-00000-of-00002\.tfrecord: the record at byte 0 is damaged: .* or it is cut"):
        open_dataset(copied)


def test_missing_and_foreign_shards(copied):
    shard(copied, 1).unlink()
    with pytest.raises(InputError) as caught:
        open_dataset(copied)
    assert "of val's 2 shards, these are missing: 1" in str(caught.value)
    assert "the shard val-00001-of-00002.tfrecord is missing" in str(caught.value)
    shutil.copy(shard(copied), copied / "val-00001-of-00002.tfrecord")
    counts_path(copied, "val").write_text(json.dumps({"shards": {shard(copied).name: 2}}))
    with pytest.raises(InputError) as caught:
        open_dataset(copied)
    assert "00001-of-00002.tfrecord: the shard is not in val.counts.json: is it a remnant of another run?" in str(caught.value)
    assert "00001-of-00002.tfrecord: the record at byte 0: duplicate name 'a'" in str(caught.value)
    assert "duplicate name 'b'" in str(caught.value)


@pytest.mark.parametrize("count", [50_000, 9_999_999_999])
def test_very_many_missing_shards(count, copied):
    """As many as a name says: nothing is made for each."""
    shutil.copy(shard(copied), copied / f"train-00003-of-{count}.tfrecord")
    (problem,) = open_dataset(copied, "train", strict=False).problems
    listed = f"0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20 and {count - 21} more"
    assert problem == f"{copied}: of train's {count} shards, these are missing: {listed}"


@pytest.mark.parametrize("text", ["{", "[]", '{"shards": 3}'])
def test_an_invalid_counts_file_is_refused(text, copied):
    counts_path(copied, "val").write_text(text)
    with pytest.raises(InputError, match=r"val\.counts\.json: not a counts file"):
        open_dataset(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image__encoded": None}, r"at byte 0 has no image/encoded\. Its features are image/channels, image/filename,"),
        ({"image__segmentation__class__encoded": None}, "has no image/segmentation/class/encoded"),
        ({"image__filename": b""}, "has no image/filename"),
        ({"image__filename": b"/data/a"}, "its name '/data/a' leads out of the output folder"),
        ({"image__filename": b"../a"}, r"its name '\.\./a' leads out of the output folder"),
        ({"image__filename": b"more/a.png"}, "duplicate name 'more/a'"),
    ],
)
def test_records_with_other_features_are_refused(changes, message, copied):
    rewrite(copied, **changes)
    with pytest.raises(InputError, match=message):
        open_dataset(copied)


def test_records_other_than_examples_are_refused(copied):
    with tf.io.TFRecordWriter(str(shard(copied))) as writer:
        writer.write(b"\xff\xff\xff something else")
    with pytest.raises(InputError, match=r"the record at byte 0 is not a tf\.train\.Example"):
        open_dataset(copied)


def test_messages_name_the_place(copied):
    rewrite(copied, image__segmentation__class__encoded=encode_label(np.full((4, 6), 7), LabelSpace(CITYSCAPES.classes)))
    dataset = open_dataset(copied)
    with pytest.raises(InputError, match=r"val-00000-of-00002\.tfrecord at byte \d+: label value 7"):
        dataset.samples[0].read_label(SPACE)
    shard(copied).write_bytes(b"")
    with pytest.raises(InputError, match="the file was truncated after it was opened"):
        dataset.samples[0].read_image()
    shard(copied).unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        dataset.samples[0].read_image()


# -- writing ----------------------------------------------------------------------------------------------------------


def test_mapped_labels_are_stored_as_classes(tmp_path):
    own_dataset(tmp_path, splits=("val",), names=("a",))
    (tmp_path / "dataset.json").write_text(json.dumps({**THREE, "mapping": {"10": 0, "20": 2, "0": 255}}))
    label_file(tmp_path / "labels/val/a.png", [[10, 20, 0]])
    write_records(open_dataset(tmp_path), tmp_path / "records")
    dataset = open_dataset(tmp_path / "records")
    assert dataset.space == SPACE
    assert dataset.samples[0].read_label(SPACE)[0].tolist() == [0, 2, 255, 0, 2, 255]


@pytest.mark.parametrize(("exif", "size"), [("apply", (6, 4)), ("ignore", (4, 6))])
def test_rotated_images_are_stored_as_they_are_read(exif, size, tmp_path):
    own_dataset(tmp_path, splits=("val",), names=("a",))
    rotation = Image.Exif()
    rotation[0x0112] = 6
    image_file(tmp_path / "images/val/a.jpg", exif=rotation)
    (tmp_path / "labels/val/a.png").write_bytes(encode_label(np.ones(size, int), SPACE))
    original = open_dataset(tmp_path, exif=exif)
    write_records(original, tmp_path / "records")
    (sample,) = open_dataset(tmp_path / "records").samples
    assert sample.read_image().shape[:2] == size
    assert np.array_equal(sample.read_image(), original.samples[0].read_image())


def test_many_splits_and_several_times(written, tmp_path):
    _, original = written
    write_records(original, tmp_path, split="train", shards=99)
    write_records(original, tmp_path, split="val", shards=1)
    assert recognize(tmp_path).splits == ("train", "val")
    assert len(list(tmp_path.glob("train-*-of-00005.tfrecord"))) == 5
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="records of the split val exist already"):
        write_records(original, tmp_path, split="val")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json: describes another dataset"):
        write_records(original, tmp_path, split="test")
    assert {path for path in tmp_path.iterdir() if path.name != "dataset.json"} == set(before) - {tmp_path / "dataset.json"}


@pytest.mark.parametrize("split", ["..", "../victim", "{}/victim", "a\\b", "a\0b"])
def test_records_stay_in_their_folder(split, written, tmp_path):
    (tmp_path / "victim.counts.json").write_text("precious")
    with pytest.raises(
        InputError, match="the records of the split .* cannot be written: a split's name is part of files' names"
    ):
        write_records(written[1], tmp_path / "records", split=split.format(tmp_path))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("victim.counts.json", "precious")]


def test_only_whole_pairs_are_written(tmp_path):
    own_dataset(tmp_path, splits=("val",), names=("a", "b"))
    image_file(tmp_path / "images/val/b.jpg", (6, 4))
    with pytest.raises(InputError, match=r"images/val/b\.jpg: the image is 4x6, its label 6x4"):
        write_records(open_dataset(tmp_path), tmp_path / "records", shards=1)
    assert not list((tmp_path / "records").glob("*.tfrecord"))  # half a shard is none
    (tmp_path / "labels/val/b.png").unlink()
    with pytest.raises(InputError, match=r"has problems; run doctor on it first: .*no label"):
        write_records(open_dataset(tmp_path, strict=False), tmp_path / "records")


def test_a_shard_is_read_back_before_it_appears(written, tmp_path, monkeypatch):
    right = tfrecords._raw_records
    monkeypatch.setattr(tfrecords, "_raw_records", lambda path: list(right(path))[1:])
    with pytest.raises(InputError, match="cannot be written: 0 records were read back of 1"):
        write_records(written[1], tmp_path, shards=5)
    assert not list(tmp_path.glob("*.tfrecord"))


def test_a_full_disk(written, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.io, "TFRecordWriter", Full)
    with pytest.raises(InputError, match=r"val-00000-of-00001\.tfrecord: cannot be written: No space left on device"):
        write_records(written[1], tmp_path, shards=1)


@pytest.mark.parametrize("shards", ['["val-00000-of-00002.tfrecord"]', '{"a": "3"}', "{" * 5000, '{"a": 1, "a": 2}', "3"])
def test_a_counts_file_of_another_kind(copied, shards):
    counts_path(copied, "val").write_text('{"format": 1, "shards": ' + shards + "}")
    with pytest.raises(InputError, match="val.counts.json: not a counts file"):
        open_dataset(copied)


def test_a_pipe_for_a_shard_is_never_waited_for(copied):
    shard(copied).unlink()
    os.mkfifo(shard(copied))
    with pytest.raises(InputError, match="val-00000-of-00002.tfrecord: cannot be read: it is not a file"):
        open_dataset(copied)


@pytest.fixture
def own_records_of_16_bits(tmp_path):
    """Records of one grey 16-bit picture, with 12 bits of content, and one photograph."""
    own_dataset(tmp_path / "own", splits=("train",), names=("a", "b"))
    (tmp_path / "own" / "images" / "train" / "a.jpg").unlink()
    Image.fromarray(np.full((4, 6), 4095, np.uint16)).save(tmp_path / "own" / "images" / "train" / "a.png")
    write_records(open_dataset(tmp_path / "own"), tmp_path / "records", shards=1)
    return tmp_path / "records"


def test_hidden_shards_are_ignored(copied):
    for name in ("._val-00000-of-00002.tfrecord", ".other.tfrecord"):
        (copied / name).write_bytes(b"\0\5\26\7")
    assert recognize(copied).splits == ("val",)
    assert len(open_dataset(copied).samples) == 5


def test_images_of_16_bits_in_records(own_records_of_16_bits):
    deep = find_deep(sample.image for sample in open_dataset(own_records_of_16_bits, "train").samples)
    assert str(deep).startswith(f"{own_records_of_16_bits / 'train-00000-of-00001.tfrecord'} at byte ")
    assert (deep.count, deep.low, deep.high) == (1, 4095, 4095)
