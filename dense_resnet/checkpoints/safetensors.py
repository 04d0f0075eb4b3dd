"""Weights in safetensors files, with a checksum for every array.

Source of the format: https://huggingface.co/docs/safetensors. The header's metadata has one entry, ``dense_resnet``, a JSON
object whose ``sha256`` maps array names to digests of their bytes (one, because the library writes several in any order, and
equal arrays shall make equal files). A file written elsewhere lacks it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dense_resnet import files
from dense_resnet.errors import InputError

SUFFIX = ".safetensors"
ENTRY = "dense_resnet"


def read(path: Path) -> dict[str, np.ndarray]:
    """The floating-point arrays of `path` as float32, their checksums compared where the file has them."""
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.")
    try:
        with safe_open(path, framework="numpy") as file:
            digests = _described(file).get("sha256", {})
            weights = {}
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                value = file.get_tensor(name)
                if name in digests and digest(value) != digests[name]:
                    raise InputError(f"{path}: {name} does not match its checksum: the file is damaged. Fetch it again.")
                if np.issubdtype(value.dtype, np.floating) or value.dtype.name == "bfloat16":
                    weights[name] = value.astype(np.float32)
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as safetensors: {error}. It is damaged or of another format.") from error
    return weights


def metadata(path: Path) -> dict[str, Any]:
    """What :func:`write` was told to describe the file with, and its checksums; empty for a file written elsewhere."""
    with safe_open(path, framework="numpy") as file:
        return _described(file)


def write(path: Path, weights: Mapping[str, np.ndarray], described: Mapping[str, Any] | None = None) -> None:
    """Writes arrays with their checksums, and `described` as metadata; an older file is replaced in one step."""
    arrays = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    about = {**(described or {}), "sha256": {name: digest(value) for name, value in arrays.items()}}
    with files.replacing(path, check=read) as temporary:
        try:
            save_file(arrays, temporary, metadata={ENTRY: json.dumps(about)})
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from error


def _described(file: Any) -> dict[str, Any]:
    about = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
    if not isinstance(about, dict):
        raise ValueError(f"its metadata {ENTRY!r} is no object")
    return about


def digest(value: np.ndarray) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8)).hexdigest()
