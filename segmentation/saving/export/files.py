"""Exports as files: check requests, recognize exports, and decide what a new one may replace, without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from dense_resnet.errors import InputError
from dense_resnet.inference.precision import AUTO, BFLOAT16, FLOAT32, choose_precision
from dense_resnet.jobs import atomic_files, strict_json
from dense_resnet.planning import geometry
from dense_resnet.planning.plan import Plan
from segmentation.saving.description import Outline, explain_errors, outline_from
from segmentation.saving.export.foreign_run import ONNX, SAVED_MODEL

FORMATS = SAVED_MODEL, ONNX
GRAPH, DESCRIPTION = "saved_model.pb", Path("assets.extra") / "model.json"  # of a SavedModel
SUFFIX = ".onnx"
SEAL = "dense_resnet_sha256"  # of ONNX's metadata


def check_request(
    plan: Plan, path: str | os.PathLike[str], to: str, precision: str, side: int | None, *, onednn: bool, require_sizes: bool
) -> str:
    """Check the arguments of :func:`segmentation.saving.export.exporter.export` before any work; return the precision."""
    path = Path(path)
    if to not in FORMATS:
        raise InputError(f"to must be one of {', '.join(map(repr, FORMATS))} (not {to!r}).")
    if to == ONNX and precision == BFLOAT16:
        raise InputError("ONNX Runtime has no bfloat16 convolutions on processors: export to onnx in float32.")
    if to == ONNX and onednn:
        raise InputError("--onednn is for --to savedmodel: an ONNX file leaves the kernels to its runtime.")
    if to != ONNX and require_sizes:
        raise InputError("--require-sizes is for --to onnx: a SavedModel has a signature with sizes and one without.")
    if (path.suffix == SUFFIX) != (to == ONNX):
        raise InputError(f"{path}: the name must {'' if to == ONNX else 'not '}end in {SUFFIX} for {to!r}.")
    if to == ONNX:
        precision = FLOAT32 if precision == AUTO else precision
        require("tf2onnx", "onnx", "onnxruntime")
    if side is not None:
        geometry.check_aligned("size", side, plan.nominal_stride)
    atomic_files.check_folder(path.parent)
    check_replaceable(path, to)
    return choose_precision(precision)


def check_replaceable(path: Path, to: str) -> None:
    """Raise an :class:`InputError` if anything but an export of that format is at `path`."""
    if os.path.lexists(path) and not may_be_replaced(path, to):
        raise InputError(f"{path}: exists, and is not an export of the same format. Move it away, or choose another name.")


def is_exported(path: object) -> bool:
    """Whether `path` is that of a SavedModel's folder or an .onnx file, of whomever."""
    if not isinstance(path, str | os.PathLike):
        return False
    path = Path(path)
    return (path / GRAPH).is_file() or (path.suffix == SUFFIX and path.is_file())


def read_export_description(folder: Path) -> dict[str, Any]:
    """Read the description of a SavedModel of ours; opening the export compares it with its digest."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(f"{folder}: has no {DESCRIPTION}, so it was not written by `export`, and is not run.")
    try:
        return dict(strict_json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged, or not written by `export`: {error!r}.") from error


def read_export_outline(path: str | os.PathLike[str]) -> Outline | None:
    """Read an export's outline without TensorFlow; None for an ONNX file, whose description its runtime reads."""
    path = Path(path)
    if path.suffix == SUFFIX:
        return None
    described = read_export_description(path)
    with explain_errors(path / DESCRIPTION):
        return outline_from(described)


def may_be_replaced(path: Path, to: str) -> bool:
    """Whether `path` is an export of that format with nothing else in it, or an empty folder."""
    if to == ONNX:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(-min(SEAL_SIZE, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read().startswith(seal(b"")[: -len(hashlib.sha256().hexdigest())])
        return False
    if not path.is_dir():
        return False
    inside = {file.relative_to(path) for file in path.rglob("*")}
    written = {Path(GRAPH), DESCRIPTION.parent, DESCRIPTION}
    return not inside or inside - {Path("variables")} == written  # TensorFlow leaves that folder empty


def seal(data: bytes | memoryview) -> bytes:
    """Return the digest of `data` as the last bytes of an ONNX file.

    Concatenated protocol buffers are read as one: these bytes are a model that has
    only an entry of metadata (field 14, an entry's key and value its fields 1 and 2).
    """
    fields = (0x0A, SEAL.encode()), (0x12, hashlib.sha256(data).hexdigest().encode())
    entry = b"".join(bytes([tag, len(text)]) + text for tag, text in fields)
    return bytes([0x72, len(entry)]) + entry


SEAL_SIZE = len(seal(b""))


def require(*modules: str) -> None:
    """Raise an :class:`InputError` that names the packages that ONNX needs and that are missing."""
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise InputError(f"for ONNX, {' and '.join(missing)} must be installed: pip install dense-resnet[onnx]")
