"""Slim checkpoints: name-based TensorFlow checkpoints of the V1 and V2 formats.

V1 is a single file (``resnet_v2_152.ckpt``); V2 is a prefix with an ``.index`` and ``.data-?????-of-?????`` files. Both
carry checksums, which TensorFlow's reader compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from dense_resnet import files
from dense_resnet.errors import InputError

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
            f"{path}: cannot be read as a TensorFlow checkpoint: {reason}. It is damaged or of another kind."
        ) from error


def write(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes a V2 checkpoint under the prefix `path`, which must be new.

    The format is a pair of files that cannot be replaced in one step, so an existing one is never touched.
    """
    index = path.with_name(path.name + ".index")
    data = path.with_name(path.name + ".data-00000-of-00001")
    for existing in (path, index, data):
        if existing.exists():
            raise InputError(
                f"{existing}: exists already, and a slim checkpoint's two files cannot be replaced in one step. "
                "Choose another name, or save as .safetensors."
            )
    with files.replacing(index) as new_index:
        prefix = new_index.with_name(new_index.name + ".slim")
        parts = [prefix.with_name(prefix.name + suffix) for suffix in (".index", ".data-00000-of-00001")]
        try:
            names = sorted(weights)
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
            parts[1].replace(data)  # without its index it is no checkpoint yet
            parts[0].replace(new_index)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


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
        path = path / state.model_checkpoint_path  # stays as it is where absolute
    path = path.with_name(PART.sub("", path.name))
    if path.with_name(path.name + ".index").is_file() or path.is_file():
        return path
    nearby = sorted(
        {PART.sub("", near.name) for near in path.parent.glob("*.index")} | {n.name for n in path.parent.glob("*.ckpt")}
    )
    raise InputError(
        f"{path}: no such checkpoint (neither this file nor {path.name}.index). "
        f"In that folder: {', '.join(nearby) or 'no checkpoint'}."
    )
