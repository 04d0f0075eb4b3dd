"""Exports as files: check requests, recognize exports, and decide what a new one may replace, without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dense_resnet.errors import InputError
from dense_resnet.inference.precision import AUTO, BFLOAT16, FLOAT32, INT8, PRECISIONS, choose_precision
from dense_resnet.jobs import atomic_files, strict_json
from dense_resnet.planning import geometry
from dense_resnet.planning.plan import Plan
from segmentation.saving.description import Outline, explain_errors, outline_from
from segmentation.saving.export.foreign_run import ONNX, OPENVINO, OPENVINO_GRAPH, PROGRAMS, SAVED_MODEL, TFLITE

FORMATS = SAVED_MODEL, ONNX, OPENVINO, TFLITE
GRAPH, DESCRIPTION = "saved_model.pb", Path("assets.extra") / "model.json"  # of a SavedModel
OPENVINO_FILES = OPENVINO_GRAPH, "model.bin"  # graph and weights
OPENVINO_DESCRIPTION = Path("model.json")
WRITTEN = {  # all that an export's folder has
    SAVED_MODEL: {Path(GRAPH), DESCRIPTION.parent, DESCRIPTION},
    OPENVINO: {*map(Path, OPENVINO_FILES), OPENVINO_DESCRIPTION},
}
SUFFIXES = {ONNX: ".onnx", TFLITE: ".tflite"}  # of the formats that are one file
SEAL = "dense_resnet_sha256"  # of ONNX's metadata
MODULES = {ONNX: ("tf2onnx", "onnx", "onnxruntime"), OPENVINO: ("openvino",), TFLITE: ("ai_edge_litert",)}  # what formats need
PACKAGES = {"openvino": "openvino", "nncf": "dense-resnet[int8]", "ai_edge_litert": "dense-resnet[tflite]"}


def check_request(
    plan: Plan,
    path: str | os.PathLike[str],
    to: str,
    precision: str,
    side: int | None,
    *,
    onednn: bool,
    require_sizes: bool,
    calibrated: bool,
) -> str:
    """Check the arguments of :func:`segmentation.saving.export.exporter.export` before any work; return the precision."""
    path = Path(path)
    if to not in FORMATS:
        raise InputError(f"to must be one of {', '.join(map(repr, FORMATS))} (not {to!r}).")
    if precision not in (*PRECISIONS, INT8):
        raise InputError(f"precision must be one of {', '.join(map(repr, (*PRECISIONS, INT8)))} (not {precision!r}).")
    if to in SUFFIXES and precision == BFLOAT16:
        raise InputError(f"{PROGRAMS[to]} has no bfloat16 convolutions on processors: export to {to} in float32 or int8.")
    if to == SAVED_MODEL and precision == INT8:
        raise InputError("TensorFlow has no int8 convolutions on processors: export to openvino, onnx or tflite in int8.")
    if precision == INT8 and not calibrated:
        raise InputError("int8 takes the ranges of activations from images: --calibrate with a dataset, or images as yours.")
    if precision != INT8 and calibrated:
        raise InputError(f"--calibrate is for --precision int8 (not {precision!r}).")
    if to != SAVED_MODEL and onednn:
        raise InputError("--onednn is for --to savedmodel: other files leave the kernels to their runtime.")
    if to != ONNX and require_sizes:
        other = "a SavedModel has a signature with sizes and one without" if to == SAVED_MODEL else "others require them always"
        raise InputError(f"--require-sizes is for --to onnx: {other}.")
    if path.suffix != SUFFIXES.get(to) and (to in SUFFIXES or path.suffix in SUFFIXES.values()):
        ending = f"end in {SUFFIXES[to]}" if to in SUFFIXES else f"not end in {path.suffix}"
        raise InputError(f"{path}: the name must {ending} for {to!r}.")
    if to == TFLITE and side is None:
        raise InputError("size: a TensorFlow Lite file takes canvases of one size only. Pass it, such as --size 513.")
    if to in SUFFIXES:
        precision = FLOAT32 if precision == AUTO else precision
    require(*MODULES.get(to, ()), *(["nncf"] if to == OPENVINO and precision == INT8 else []))
    if side is not None:
        geometry.check_aligned("size", side, plan.nominal_stride)
    atomic_files.check_folder(path.parent)
    check_replaceable(path, to)
    return precision if precision == INT8 else choose_precision(precision)


def check_replaceable(path: Path, to: str) -> None:
    """Raise an :class:`InputError` if anything but an export of that format is at `path`."""
    if os.path.lexists(path) and not may_be_replaced(path, to):
        raise InputError(f"{path}: exists, and is not an export of the same format. Move it away, or choose another name.")


def is_exported(path: object) -> bool:
    """Whether `path` is that of a SavedModel's folder, a folder for OpenVINO or a file with one of SUFFIXES, of whomever."""
    if not isinstance(path, str | os.PathLike):
        return False
    path = Path(path)
    return (path / GRAPH).is_file() or is_for_openvino(path) or (path.suffix in SUFFIXES.values() and path.is_file())


def is_for_openvino(path: Path) -> bool:
    """Whether `path` is a folder with one of the two files of a graph of OpenVINO's."""
    return any((path / name).is_file() for name in OPENVINO_FILES)


def read_export_description(folder: Path) -> dict[str, Any]:
    """Read the description in an export's folder; opening the export compares it with its digest."""
    path = description_in(folder)
    if not path.is_file():
        raise InputError(f"{folder}: has no {path.relative_to(folder)}, so it was not written by `export`, and is not run.")
    try:
        return dict(strict_json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged, or not written by `export`: {error!r}.") from error


def description_in(folder: Path) -> Path:
    """Return where the description in an export's folder is."""
    return folder / (OPENVINO_DESCRIPTION if is_for_openvino(folder) else DESCRIPTION)


def write_export_description(folder: Path, description: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write the description into an export's folder, with a digest of it and of the files `names`."""
    sealed = {**description, "sha256": _digest(description, *((folder / name).read_bytes() for name in names))}
    path = description_in(folder)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(sealed, indent=1) + "\n")


def read_sealed(folder: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[bytes]]:
    """Return an export's description and its files `names`; refuse them if their digest is another."""
    description = read_export_description(folder)
    data = [(folder / name).read_bytes() for name in names]
    if description.get("sha256") != _digest(description, *data):
        raise InputError(
            f"{folder}: {', '.join(names)} and {description_in(folder).relative_to(folder)} do not have the sha256 that was "
            "written with them: one of them is damaged, or was changed. Export again."
        )
    return description, data


def _digest(description: Mapping[str, Any], *files: bytes) -> str:
    """Return the SHA-256 of files and of the description without its digest."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    digest = hashlib.sha256()
    for data in (*files, json.dumps(rest, sort_keys=True).encode()):
        digest.update(data)
    return digest.hexdigest()


def read_export_outline(path: str | os.PathLike[str]) -> Outline | None:
    """Read an export's outline without TensorFlow; None for a file with one of SUFFIXES, which is read as a whole."""
    path = Path(path)
    if path.suffix in SUFFIXES.values():
        return None
    described = read_export_description(path)
    with explain_errors(description_in(path)):
        return outline_from(described)


def may_be_replaced(path: Path, to: str) -> bool:
    """Whether `path` is an export of that format with nothing else in it, or an empty folder."""
    if to in SUFFIXES:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(-min(SEAL_SIZE, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read().startswith(seal(b"")[: -len(hashlib.sha256().hexdigest())])
        return False
    if not path.is_dir():
        return False
    inside = {file.relative_to(path) for file in path.rglob("*")}
    return not inside or inside - {Path("variables")} == WRITTEN[to]  # TensorFlow leaves that folder empty


def seal(data: bytes | memoryview) -> bytes:
    """Return the digest of `data` as the last bytes of a file.

    Concatenated protocol buffers are read as one: in ONNX, these bytes are a model that has only an entry of metadata
    (field 14, an entry's key and value its fields 1 and 2). What follows a flatbuffer, as TensorFlow Lite's, is not read.
    """
    fields = (0x0A, SEAL.encode()), (0x12, hashlib.sha256(data).hexdigest().encode())
    entry = b"".join(bytes([tag, len(text)]) + text for tag, text in fields)
    return bytes([0x72, len(entry)]) + entry


SEAL_SIZE = len(seal(b""))


def read_sealed_file(path: Path) -> bytes:
    """Read a file that ends in its :func:`seal`; raise an :class:`InputError` if it does not."""
    data = path.read_bytes()
    if data[-SEAL_SIZE:] != seal(memoryview(data)[:-SEAL_SIZE]):
        raise InputError(
            f"{path}: does not end in the sha256 of what is before it: it is damaged or truncated, or is not a file of "
            "`export`, and is not run."
        )
    return data


def require(*modules: str) -> None:
    """Raise an :class:`InputError` that names the packages that a format needs and that are missing."""
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        needed = sorted({PACKAGES.get(module, "dense-resnet[onnx]") for module in missing})
        raise InputError(f"for this, {' and '.join(missing)} must be installed: pip install {' '.join(needed)}")
