"""TFRecords in DeepLab's feature format, whose labels are gray PNGs of the classes; no record is silently lost.

All checksums are verified when a shard is opened; then a sample is a slice of a file, read without TensorFlow. A shard that
was cut between two records looks valid, so ``SPLIT.counts.json`` next to the shards records how many each has.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import JPEG_START, MAX_PIXELS, read_file
from dense_resnet.image_io.discovery import is_hidden
from dense_resnet.jobs import strict_json
from dense_resnet.jobs.atomic_files import probe_folder, replace_file, write_bytes
from dense_resnet.jobs.resumable import Progress, quiet
from segmentation.data.samples import Dataset, Sample, format_size
from segmentation.data.source import SPLIT_NAMES, Source, is_inside, is_split, without_suffix

BEFORE, AFTER = 12, 4  # bytes around a record's data: its length and two checksums
SHARD = re.compile(r"(?P<split>.+?)-(?P<index>\d+)(-of-(?P<count>\d+))?\.tfrecord")
IMAGE, LABEL, FILENAME = "image/encoded", "image/segmentation/class/encoded", "image/filename"
FORMAT = 1  # of the counts file
MOST_MISSING = 20  # shards listed in one message


def counts_path(folder: Path, split: str) -> Path:
    """Return the path of the file that records how many records each shard of a split has."""
    return folder / f"{split}.counts.json"


def find_shards(folder: Path) -> dict[str, list[Path]]:
    """Find the shards in a folder, by split; hidden files are ignored."""
    shards: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.glob("*.tfrecord") if not is_hidden(path.name)):
        match = SHARD.fullmatch(path.name)
        shards.setdefault(match["split"] if match else path.stem, []).append(path)
    return shards


def read_split(folder: Path, split: str) -> tuple[list[Sample], list[str]]:
    """Return (the valid records of a split, its problems); read every byte of every shard once."""
    shards = find_shards(folder).get(split, [])
    records: dict[str, Sample] = {}
    problems = _find_missing_shards(shards, split)
    counts: dict[str, int] = {}
    for shard in shards:
        counts[shard.name] = 0
        try:
            for offset, data in _raw_records(shard):
                counts[shard.name] += 1
                try:
                    record = _record(shard, offset, data)
                    if records.setdefault(record.name, record) is not record:
                        problems.append(f"{shard}: the record at byte {offset}: duplicate name {record.name!r}")
                except InputError as error:
                    problems.append(str(error))
        except InputError as error:
            problems.append(str(error))
            del counts[shard.name]
    problems += _compare_counts(counts_path(folder, split), counts, {shard.name for shard in shards})
    return list(records.values()), problems


def _find_missing_shards(shards: list[Path], split: str) -> list[str]:
    """Find missing shards from the names ``…-00000-of-00004.tfrecord``."""
    there: dict[str, set[int]] = {}
    for shard in shards:
        match = SHARD.fullmatch(shard.name)
        if match and match["count"]:
            there.setdefault(match["count"], set()).add(int(match["index"]))
    problems = []
    for text, indices in sorted(there.items()):
        count = int(text)
        absent = count - sum(index < count for index in indices)
        if absent:
            first = itertools.islice((index for index in itertools.count() if index not in indices), min(absent, MOST_MISSING))
            listed = ", ".join(map(str, first)) + (f" and {absent - MOST_MISSING} more" if absent > MOST_MISSING else "")
            problems.append(f"{shards[0].parent}: of {split}'s {count} shards, these are missing: {listed}")
    return problems


def _compare_counts(path: Path, counts: dict[str, int], there: set[str]) -> list[str]:
    """Return the differences between the counts file and what was read; [] without such a file."""
    if not path.exists():
        return []
    try:
        expected = strict_json.loads(read_file(path))["shards"]
        if not all(type(count) is int for count in expected.values()):
            raise TypeError("a count that is not an integer")
        problems = [f"{path}: the shard {name} is missing" for name in sorted(set(expected) - there)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):  # it cannot be read
            return [str(error)]
        return [f"{path}: not a counts file ({error!r}). Write the records again, or remove this file if they are correct"]
    for name, count in counts.items():
        if name not in expected:
            problems.append(f"{path.parent / name}: the shard is not in {path.name}: is it a remnant of another run?")
        elif expected[name] != count:
            differ = f"{count} records, and {path.name} says {expected[name]}"
            cut = "the shard was cut between two records, or replaced. Write it again"
            problems.append(f"{path.parent / name}: {differ}: {cut}")
    return problems


def _raw_records(shard: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, data) of each record, with checksums verified."""
    import tensorflow as tf

    if not os.path.isfile(shard):  # TensorFlow would wait for a pipe
        raise InputError(f"{shard}: cannot be read: it is not a file")
    offset = 0
    try:
        for record in tf.data.TFRecordDataset(str(shard)).take(_within(shard)):
            data = record.numpy()
            yield offset, data
            offset += BEFORE + len(data) + AFTER
        sound = offset == shard.stat().st_size  # TensorFlow mistakes a record that is cut in its first bytes for the end
    except tf.errors.DataLossError:
        sound = False
    except tf.errors.OpError as error:
        raise InputError(f"{shard}: cannot be read: {error.message}") from error
    if not sound:
        damaged = f"the record at byte {offset} is damaged: its checksum does not match, or it is cut"
        raise InputError(f"{shard}: {damaged}. The rest of the shard cannot be read. Copy or write it again")


def _within(shard: Path) -> int:
    """Count the records that end within a shard, by their lengths; TensorFlow crashes at a length such as 2**62 bytes."""
    count = end = 0
    try:
        with open(shard, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while end + BEFORE <= size:
                file.seek(end)
                end += BEFORE + int.from_bytes(file.read(8), "little") + AFTER
                count += end <= size
    except OSError as error:
        raise InputError(f"{shard}: cannot be read: {error.strerror or error}.") from error
    return count


def _record(shard: Path, offset: int, data: bytes) -> Sample:
    import tensorflow as tf

    where = f"{shard}: the record at byte {offset}"
    try:
        features = tf.train.Example.FromString(data).features.feature
    except Exception as error:  # protobuf's DecodeError, whose module differs between versions
        raise InputError(f"{where} is not a tf.train.Example") from error

    def value(key: str) -> bytes:
        values = features[key].bytes_list.value if key in features else ()
        return bytes(values[0]) if values else b""

    image, label, name = value(IMAGE), value(LABEL), value(FILENAME).decode("utf-8", "surrogateescape")
    for key, content in ((IMAGE, image), (LABEL, label), (FILENAME, name)):
        if not content:
            raise InputError(f"{where} has no {key}. Its features are {', '.join(sorted(features)) or 'none'}")
    if not is_inside(name):
        raise InputError(f"{where}: its name {name!r} leads out of the output folder, where files are named after it")

    def source(content: bytes) -> Source:  # an encoded Example contains the bytes unchanged
        return Source(shard, offset + BEFORE + data.index(content), len(content))

    return Sample(without_suffix(name), source(image), source(label))


def write_records(
    dataset: Dataset,
    folder: str | Path,
    split: str | None = None,
    shards: int = 4,
    max_pixels: int = MAX_PIXELS,
    progress: Progress = quiet,
) -> list[Path]:
    """Write a split as TFRecords, with its counts file and, for all splits together, dataset.json.

    Images keep their bytes (except that one with an EXIF rotation becomes a PNG, upright or as stored, as the dataset says);
    labels are stored after the mapping. What is read back has the same names, images and labels.

    `split` is another name for the split. The paths of its `shards` files, of about equal counts, are returned.

    Raises:
        InputError: the split exists already, its name cannot be part of files', the folder contains a dataset with other
            classes, sizes of a pair differ, or anything that reading a sample raises.
    """
    folder, split = Path(folder), split or dataset.split
    if dataset.problems:
        raise InputError(f"{dataset.name}, split {dataset.split} has problems; run doctor on it first: {dataset.problems[0]}")
    if not is_split(split):
        raise InputError(f"the records of the split {split!r:.80} cannot be written: {SPLIT_NAMES}. Give it another name.")
    if find_shards(folder).get(split):
        raise InputError(f"{folder}: records of the split {split} exist already. Choose another folder, or remove them.")
    probe_folder(folder)
    _describe(dataset, folder / "dataset.json")
    shards = max(1, min(shards, len(dataset.samples)))
    bounds = [len(dataset.samples) * index // shards for index in range(shards + 1)]
    counts = {}
    for index, (start, end) in enumerate(itertools.pairwise(bounds)):
        path = folder / f"{split}-{index:05d}-of-{shards:05d}.tfrecord"
        _write_shard(path, dataset, range(start, end), max_pixels, progress)
        counts[path.name] = end - start
    _write_json(counts_path(folder, split), {"format": FORMAT, "shards": counts})
    return [folder / name for name in counts]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def _describe(dataset: Dataset, path: Path) -> None:
    space = {key: value for key, value in dataset.space.as_json().items() if key not in ("mapping", "from_colors")}
    described = {"name": dataset.name, **space}
    if path.exists():
        with contextlib.suppress(ValueError):
            if strict_json.loads(read_file(path)) == described:
                return
        raise InputError(f"{path}: describes another dataset. Choose another folder.")
    _write_json(path, described)


def _write_shard(path: Path, dataset: Dataset, numbers: Sequence[int], max_pixels: int, progress: Progress) -> None:
    """Write the samples of these numbers."""
    import tensorflow as tf

    def check(written: Path) -> None:
        count = sum(1 for _ in _raw_records(written))
        if count != len(numbers):
            raise OSError(f"{count} records were read back of {len(numbers)}")

    with replace_file(path, check) as temporary:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for number in numbers:
                    example = _example(dataset.samples[number], dataset, max_pixels)
                    writer.write(example.SerializeToString(deterministic=True))
                    progress(f"writing {dataset.split}", number + 1, len(dataset.samples))
        except tf.errors.OpError as error:
            raise OSError(error.message) from error


def _example(sample: Sample, dataset: Dataset, max_pixels: int) -> Any:
    import tensorflow as tf

    data = sample.image_bytes()
    image = sample.decode_image(data, max_pixels)
    label = sample.read_label(dataset.space, max_pixels)
    if label.shape != image.shape[:2]:
        sizes = f"the image is {format_size(image.shape)}, its label {format_size(label.shape)}"
        raise InputError(f"{sample.image}: {sizes}.")
    if sample.orientation(data, max_pixels) != 1:
        data = _png(image)  # a reader of records need not know about EXIF
    kind = "jpeg" if data.startswith(JPEG_START) else "png"

    def feature(value: Any) -> Any:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        IMAGE: data,
        FILENAME: sample.name.encode("utf-8", "surrogateescape"),
        "image/format": kind.encode(),
        "image/height": image.shape[0],
        "image/width": image.shape[1],
        "image/channels": 3,
        LABEL: _png(label),
        "image/segmentation/class/format": b"png",
    }
    return tf.train.Example(features=tf.train.Features(feature={key: feature(value) for key, value in features.items()}))


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
