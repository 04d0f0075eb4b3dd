"""Slim checkpoints: name-based TensorFlow checkpoints of the V1 and V2 formats.

V1 is a single file (``resnet_v2_152.ckpt``); V2 is a prefix with an ``.index`` and ``.data-?????-of-?????`` files. Both
carry checksums, which TensorFlow's reader compares.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from dense_resnet import files
from dense_resnet.errors import InputError

READABLE = "slim checkpoints (V1 and V2) and .safetensors"
INDEX, DATA = ".index", ".data-00000-of-00001"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


def read(path: Path) -> dict[str, np.ndarray]:
    """The floating-point variables of the checkpoint at `path`, as float32."""
    prefix = str(_prefix(path))
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
        if OBJECT_GRAPH in shapes:
            raise InputError(
                f"{path}: this is an object-based checkpoint (tf.train.Checkpoint), whose names say nothing of slim's "
                "variables. Save the weights by name: Backbone.save, or tf.compat.v1.train.Saver."
            )
        return {name: reader.get_tensor(name).astype(np.float32) for name in sorted(shapes) if dtypes[name].is_floating}
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as a TensorFlow checkpoint: {reason}. It is damaged or of another kind; "
            f"what is read: {READABLE}."
        ) from error


def write(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes a V2 checkpoint under the prefix `path`, which must be new.

    The format is a pair of files that cannot be replaced in one step, so an existing one is never touched.
    """
    index, data = path.with_name(path.name + INDEX), path.with_name(path.name + DATA)
    for existing in (path, index, data):
        if existing.exists():
            raise InputError(
                f"{existing}: exists already, and a slim checkpoint's two files cannot be replaced in one step. "
                "Choose another name, or save as .safetensors."
            )
    names = sorted(weights)
    try:
        with files.replacing(index) as new_index, files.replacing(data) as new_data:  # data first: without an index it is none
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                prefix = Path(folder) / "checkpoint"
                try:
                    tf.raw_ops.SaveV2(
                        prefix=str(prefix),
                        tensor_names=names,
                        shape_and_slices=[""] * len(names),
                        tensors=[tf.constant(weights[name]) for name in names],
                    )
                except tf.errors.OpError as error:
                    raise OSError(error.message) from error
                back = read(prefix)
                if any(not np.array_equal(back[name], weights[name]) for name in names):
                    raise OSError("what was read back differs from what was written")
                prefix.with_name(prefix.name + DATA).replace(new_data)
                prefix.with_name(prefix.name + INDEX).replace(new_index)
    except BaseException:
        data.unlink(missing_ok=True)  # it was not there before
        raise


def _prefix(path: Path) -> Path:
    """The prefix or V1 file that `path` means."""
    if path.is_dir():
        try:
            state = tf.train.get_checkpoint_state(str(path))
        except (ValueError, tf.errors.OpError):
            state = None
        if state is None:
            found = sorted(index.name.removesuffix(".index") for index in path.glob("*.index"))
            raise InputError(
                f"{path}: the folder has no readable 'checkpoint' file that names one of its checkpoints. "
                f"Give the one to load by name; found: {', '.join(found) or 'none'}."
            )
        named = path / state.model_checkpoint_path  # stays as it is where absolute
        beside = path / named.name  # where the folder was moved since
        path = beside if beside.with_name(beside.name + INDEX).is_file() or beside.is_file() else named
    path = path.with_name(PART.sub("", path.name) or path.name)
    if path.with_name(path.name + INDEX).is_file() or path.is_file():
        return path
    nearby = sorted({PART.sub("", near.name) for pattern in ("*.index", "*.ckpt") for near in path.parent.glob(pattern)})
    raise InputError(
        f"{path}: no such checkpoint (neither this file nor {path.name}.index). "
        f"In that folder: {', '.join(nearby) or 'no checkpoint'}."
    )
