"""Weights on disk: one file here per source, each to and from ``{canonical name: float32 array}``.

The canonical name is TF-Slim's variable name, so any source works with any builder. What a network takes from such a
dictionary, and what is missing, is :func:`dense_resnet.checkpoints.report.match`'s to say. Nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dense_resnet.checkpoints import safetensors, slim
from dense_resnet.errors import InputError

Weights = dict[str, np.ndarray]

OTHERS = (".h5", ".hdf5", ".keras", ".pth", ".pt", ".bin", ".npz", ".npy", ".pb", ".onnx", ".tflite", ".pkl")


def read(path: str | os.PathLike[str]) -> Weights:
    """All floating-point arrays of a weights file, as float32.

    Args:
        path: a ``.safetensors`` file, or a slim checkpoint: a file of the V1 format, the prefix of a V2 one
            (``model.ckpt-1000``, or one of its files), or a folder with a ``checkpoint`` file.

    Raises:
        InputError: there is no such file, or it is damaged, or of another kind.
    """
    path = Path(path)
    if path.suffix == safetensors.SUFFIX:
        return safetensors.read(path)
    if path.suffix in OTHERS:
        raise InputError(f"{path}: {path.suffix} files are not read; {slim.READABLE} are.")
    return slim.read(path)


def write(path: str | os.PathLike[str], weights: Mapping[str, np.ndarray]) -> None:
    """Writes `weights` to a ``.safetensors`` file, or to a slim checkpoint of the V2 format where ".ckpt" is in the name."""
    path = Path(path)
    if path.suffix != safetensors.SUFFIX and ".ckpt" not in path.name:
        raise InputError(f"{path}: the name must end in .safetensors, or have .ckpt in it for a slim checkpoint.")
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise InputError(f"{path}: not written: {name} has values that are not finite.")
    if path.suffix == safetensors.SUFFIX:
        safetensors.write(path, weights)
    else:
        slim.write(path, weights)


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names and values of `weights`, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape} {safetensors.digest(weights[name])}\n".encode())
    return digest.hexdigest()
