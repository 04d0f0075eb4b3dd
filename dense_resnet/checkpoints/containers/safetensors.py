"""Weights in safetensors files, with a checksum for every array and one for the metadata.

Source of the format: https://huggingface.co/docs/safetensors. The metadata has one entry, ``dense_resnet``, a JSON object: the
library writes several entries in any order, and equal arrays must give equal files. Its ``sha256`` maps names to digests of
arrays; its ``header``, which older files lack, is a digest of types, shapes and the other entries. Files of other programs
have no such entry, and nothing is compared.
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

from dense_resnet.checkpoints.containers import refuse_damaged
from dense_resnet.errors import InputError
from dense_resnet.jobs import atomic_files, strict_json

SUFFIX = ".safetensors"
ENTRY = "dense_resnet"
CHECKSUMS, HEADER = "sha256", "header"
ERRORS = (SafetensorError, ValueError, TypeError, AttributeError, RecursionError, OSError)  # of a damaged file


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the floating-point arrays of `path` as float32, and verify their checksums if the file has them."""
    atomic_files.check_there(path)
    weights, layout = {}, {}
    damaged = refuse_damaged(path, "safetensors", "The file is damaged or of another format.", ERRORS)
    with damaged, safe_open(path, framework="numpy") as file:
        about = _read_description(file)
        names = sorted(file.keys())
        if about and about.get(CHECKSUMS, {}).keys() != set(names):
            raise ValueError("its arrays are not those of its checksums")
        for name in names:
            value = file.get_tensor(name)
            if about and digest(value) != about[CHECKSUMS][name]:
                raise InputError(f"{path}: {name} does not match its checksum: the file is damaged. Download or copy it again.")
            layout[name] = _layout(value)
            if np.issubdtype(value.dtype, np.floating) or value.dtype.name == "bfloat16":
                weights[name] = value.astype(np.float32)
        if HEADER in about and about.pop(HEADER) != _header_digest(about, layout):
            raise InputError(f"{path}: damaged: its metadata does not match its checksum. Download or copy it again.")
    return weights


def metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that :func:`write` wrote, with the arrays' checksums; return {} for a file of another program."""
    with safe_open(path, framework="numpy") as file:
        return {key: value for key, value in _read_description(file).items() if key != HEADER}


def write(path: Path, weights: Mapping[str, np.ndarray], described: Mapping[str, Any] | None = None) -> None:
    """Write arrays with their checksums, and `described` as metadata; replace an older file in one step."""
    arrays = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    about = {**(described or {}), CHECKSUMS: {name: digest(value) for name, value in arrays.items()}}
    about = json.loads(json.dumps(about))  # as it will be read: without tuples and numeric keys
    about[HEADER] = _header_digest(about, {name: _layout(value) for name, value in arrays.items()})
    with atomic_files.replace_file(path, check=read) as temporary:
        try:
            save_file(arrays, temporary, metadata={ENTRY: json.dumps(about)})
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from error


def _read_description(file: Any) -> dict[str, Any]:
    entries = file.metadata() or {}
    if ENTRY not in entries and any(f'"{HEADER}": "' in value or f'"{CHECKSUMS}": {{' in value for value in entries.values()):
        raise ValueError(f"its metadata {ENTRY!r} has another name")
    about = strict_json.loads(entries.get(ENTRY, "{}"))
    if not isinstance(about, dict):
        raise ValueError(f"its metadata {ENTRY!r} is not an object")
    return about


def _layout(value: np.ndarray) -> str:
    return f"{value.dtype.name} {list(value.shape)}"


def _header_digest(about: Mapping[str, Any], layout: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([about, layout], sort_keys=True).encode()).hexdigest()


def digest(value: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).hexdigest()
