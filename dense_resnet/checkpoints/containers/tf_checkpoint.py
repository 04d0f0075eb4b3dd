"""Slim checkpoints: name-based TensorFlow checkpoints of the V1 and V2 formats.

V1 is a single file (``resnet_v2_152.ckpt``); V2 is a prefix with an ``.index`` and ``.data-?????-of-?????`` files. TensorFlow
aborts the whole program at inconsistent messages, so it does not read them here. Sources of the formats:
``tensorflow/core/protobuf/tensor_bundle.proto`` and ``tensorflow/core/util/saved_tensor_slice.proto``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from dense_resnet.checkpoints.containers import refuse_damaged
from dense_resnet.checkpoints.containers.tf_table import entries, masked_checksum
from dense_resnet.errors import InputError
from dense_resnet.jobs import atomic_files

ADVICE = "It is damaged or of another type; supported: slim checkpoints (V1 and V2) and .safetensors."
INDEX, DATA = ".index", ".data-00000-of-00001"
STATE = "checkpoint"  # the file that lists a folder's checkpoints
SLICE = b"\0"  # first byte of the keys of slices; their variable has an ordinary key
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
LISTS = {"float32": ("float_val", "<f4"), "float64": ("double_val", "<f8")}  # the field of a V1 file's numbers
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the floating-point variables of the checkpoint at `path`, as float32."""
    with refuse_damaged(path, "a TensorFlow checkpoint", ADVICE, (ValueError, TypeError, DecodeError, OSError)):
        prefix = _prefix(path)
        index = prefix.with_name(prefix.name + INDEX)
        with np.errstate(over="ignore", invalid="ignore"):  # loading refuses infinite values
            return dict(sorted(_variables(prefix, index) if index.is_file() else _variables_v1(prefix)))


def _variables(prefix: Path, index: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, value) of the floating-point variables of a V2 checkpoint: each is a range of a data file."""
    import tensorflow as tf
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto

    found = {key.decode(): value for key, value in entries(index) if key[:1] != SLICE}
    if OBJECT_GRAPH in found:
        raise InputError(
            f"{prefix}: this is an object-based checkpoint (tf.train.Checkpoint), whose names do not identify slim's "
            "variables. Save the weights by name: Backbone.save, or tf.compat.v1.train.Saver."
        )
    header = BundleHeaderProto.FromString(found.pop("", b""))
    if header.endianness != BundleHeaderProto.LITTLE:
        raise ValueError("big-endian checkpoints are not supported")
    opened: dict[int, BinaryIO] = {}
    unclaimed: dict[int, int] = {}  # bytes of each data file
    with contextlib.ExitStack() as stack:
        for name, value in found.items():
            entry = BundleEntryProto.FromString(value)
            dtype = tf.as_dtype(entry.dtype)
            if not dtype.is_floating:
                continue
            shape = _shape(name, entry.shape, len(entry.slices) + 1)
            if entry.size != math.prod(shape) * dtype.size:
                raise ValueError(f"{name} has {entry.size} bytes, which cannot be {dtype.name} of shape {shape}")
            shard = entry.shard_id
            if shard not in opened:
                data = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{header.num_shards:05d}")
                if not data.is_file():
                    raise InputError(f"{data}: is missing. A checkpoint consists of its .index and .data files, in one folder.")
                opened[shard] = stack.enter_context(open(data, "rb"))
                unclaimed[shard] = opened[shard].seek(0, 2)
            unclaimed[shard] -= entry.size
            if unclaimed[shard] < 0:
                raise ValueError(f"{opened[shard].name} is too short for {name}")
            opened[shard].seek(entry.offset)
            numbers = opened[shard].read(entry.size)
            if masked_checksum(numbers) != entry.crc32c:
                raise ValueError(f"{name} does not match its checksum")
            yield name, np.frombuffer(numbers, dtype.as_numpy_dtype).reshape(shape).astype(np.float32)


def _variables_v1(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, value) of the floating-point variables of a V1 checkpoint: the table's first entry lists them."""
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.util.saved_tensor_slice_pb2 import SavedTensorSlices

    expected: dict[str, tuple[tuple[int, ...], str, str]] = {}
    for key, value in entries(path):
        saved = SavedTensorSlices.FromString(value)
        if not key:
            for meta in saved.meta.tensor:
                dtype = tf.as_dtype(meta.type)
                if dtype.is_floating:
                    if dtype.name not in LISTS:
                        raise ValueError(f"{meta.name} is {dtype.name}, which is not supported in the V1 format")
                    expected[meta.name] = (_shape(meta.name, meta.shape, len(meta.slice)), *LISTS[dtype.name])
        elif saved.data.name in expected:
            name, tensor = saved.data.name, saved.data.data
            shape, field, code = expected.pop(name)
            only = TensorProto()
            getattr(only, field).MergeFrom(getattr(tensor, field))
            size = np.dtype(code).itemsize * len(getattr(tensor, field))
            packed = only.SerializeToString()  # ends with the numbers as in memory; converting a list would take seconds
            yield name, np.frombuffer(packed[len(packed) - size :], code).reshape(shape).astype(np.float32)
    if expected:
        raise ValueError(f"{len(expected)} of its variables are missing, such as {min(expected)}")


def _shape(name: str, shape: Any, slices: int) -> tuple[int, ...]:
    """Return a TensorShapeProto as a tuple; refuse a variable in several slices."""
    sizes = tuple(dimension.size for dimension in shape.dim)
    if shape.unknown_rank or min(sizes, default=0) < 0:
        raise ValueError(f"{name} has an invalid shape")
    if slices != 1:
        raise ValueError(f"{name} is stored in slices (a partitioned variable). Restore it and save it in one piece")
    return sizes


def write(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write a V2 checkpoint under the prefix `path`, which must be new: its two files cannot be replaced in one step."""
    import tensorflow as tf

    index, data = path.with_name(path.name + INDEX), path.with_name(path.name + DATA)
    names, claimed = sorted(weights), False
    was_killed = atomic_files.temporary_of(index).exists()
    try:
        with atomic_files.replace_file(index) as new_index:
            existing = [file for file in (path, index, data) if file.exists()]
            if existing and not (existing == [data] and was_killed):  # otherwise a kill fell between the two files
                raise InputError(
                    f"{existing[0]}: exists already, and a slim checkpoint's two files cannot be replaced in one step. "
                    "Choose another name, or save as .safetensors."
                )
            claimed = True  # the data file is absent, or a remnant of a kill
            with atomic_files.replace_file(data) as new_data, atomic_files.scratch(path) as folder:
                prefix = folder / "checkpoint"
                tensors = [tf.constant(weights[name]) for name in names]
                try:
                    tf.raw_ops.SaveV2(
                        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
                    )
                except tf.errors.OpError as error:
                    raise OSError(error.message) from error
                back = read(prefix)
                if any(not np.array_equal(back[name], weights[name]) for name in names):
                    raise OSError("the file differs from what was written when read back")
                prefix.with_name(prefix.name + DATA).replace(new_data)
                prefix.with_name(prefix.name + INDEX).replace(new_index)
    except BaseException:
        if claimed and not index.exists():
            data.unlink(missing_ok=True)  # data files are written first: without an index they are not a checkpoint
        raise


def check_there(path: Path) -> None:
    """Raise an :class:`InputError` if `path` is not a checkpoint, by names and without TensorFlow."""
    if not (path / STATE).is_file():  # TensorFlow reads it
        _prefix(path)


def _prefix(path: Path) -> Path:
    """Return the prefix or V1 file that `path` refers to."""
    if path.is_dir():
        state = _state(path)
        if state is None:
            if (path / "saved_model.pb").is_file():
                raise InputError(
                    f"{path}: this is a SavedModel, a program whose weights have unknown names. Save them by "
                    "name: Backbone.save, or tf.compat.v1.train.Saver."
                )
            found = sorted(index.name.removesuffix(".index") for index in path.glob("*.index"))
            raise InputError(
                f"{path}: the folder has no readable 'checkpoint' file that lists one of its checkpoints. "
                f"Pass the one to load by name; found: {', '.join(found) or 'none'}."
            )
        named = path / state.model_checkpoint_path  # unchanged if absolute
        beside = path / named.name  # if the folder was moved
        path = beside if beside.with_name(beside.name + INDEX).is_file() or beside.is_file() else named
    path = path.with_name(PART.sub("", path.name) or path.name)
    if path.with_name(path.name + INDEX).is_file() or path.is_file():
        return path
    nearby = sorted({PART.sub("", near.name) for pattern in ("*.index", "*.ckpt") for near in path.parent.glob(pattern)})
    raise InputError(
        f"{path}: no such checkpoint (neither this file nor {path.name}.index). "
        f"In that folder: {', '.join(nearby) or 'no checkpoint'}."
    )


def _state(folder: Path) -> Any:
    """Read the folder's list of checkpoints; return None if there is no readable one."""
    if not (folder / STATE).is_file():
        return None
    import tensorflow as tf

    try:
        return tf.train.get_checkpoint_state(str(folder))
    except (ValueError, tf.errors.OpError):
        return None
