"""Graphs of the OpenVINO engine in the user's cache folder: the newest few, each with a checksum.

They are OpenVINO's own files, whose weights it maps into memory instead of reading them.
(``tests/dense_resnet/inference/test_openvino.py``)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import google_crc32c
import openvino as ov

from dense_resnet.inference.engines import OPENVINO, cache_folder

KEPT = 4  # graphs, each as large as its weights, or twice that
GRAPH, WEIGHTS, CHECKSUM = "graph.xml", "graph.bin", "crc32c"
CHUNK = 2**24  # bytes
ROOMS = ("dense_resnet/builders", "dense_resnet/inference", "segmentation/heads")  # whose code makes graphs


def folder_of(key: object) -> Path:
    """Return where the graph of a key lies: all that it depends on, besides this code."""
    name = hashlib.sha256(json.dumps([key, _code(), ov.__version__]).encode()).hexdigest()[:32]
    return cache_folder() / OPENVINO / name


@functools.cache
def _code() -> str:
    """Return a digest of the code that makes graphs: a checkout may change without a new version."""
    root = Path(__file__).parents[2]
    files = sorted(file for room in ROOMS for file in (root / room).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def read(folder: Path) -> Any | None:
    """Return a graph, an ``openvino.Model``; None if there is none, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if int((folder / CHECKSUM).read_text()) == _checksum(folder):
            os.utime(folder)  # it was used
            return ov.Core().read_model(folder / GRAPH)
    return None


def keep(model: Any, folder: Path) -> Any:
    """Write a graph, delete those that were not used for the longest, and return it as read, or as it is without the room."""
    shelf = folder.parent
    with contextlib.suppress(OSError, RuntimeError):
        shelf.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=shelf) as scratch:
            written = Path(scratch) / folder.name
            written.mkdir()
            ov.serialize(model, written / GRAPH, written / WEIGHTS)
            (written / CHECKSUM).write_text(str(_checksum(written)))
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            written.rename(folder)
        newest = sorted(shelf.iterdir(), key=lambda own: own.stat().st_mtime, reverse=True)
        for old in newest[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        return ov.Core().read_model(folder / GRAPH)
    return model


def _checksum(folder: Path) -> int:
    found = 0
    for name in (GRAPH, WEIGHTS):
        with open(folder / name, "rb") as file:
            while chunk := file.read(CHUNK):
                found = google_crc32c.extend(found, chunk)
    return int(found)
