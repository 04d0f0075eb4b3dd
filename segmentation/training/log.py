"""Log the progress of a training: figures as lines of JSON, curves and pictures for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.jobs import atomic_files, strict_json

LOG, CURVES = "log.jsonl", "tensorboard"


class Log:
    """The log and the curves of a training; writes nothing before it is opened."""

    def __init__(self) -> None:
        self._file: Any = None
        self._curves: Any = None

    @contextlib.contextmanager
    def open(self, folder: Path, start: int) -> Iterator[None]:
        """Continue the log of a folder after step `start`."""
        self._curves = tf.summary.create_file_writer(os.fspath(folder / CURVES))
        cut_log(folder / LOG, start)
        with contextlib.closing(self._curves), open(folder / LOG, "a", encoding="utf-8") as file:
            self._file = file
            yield

    def record(self, line: Mapping[str, Any]) -> None:
        """Write a line of the log, if it is open."""
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def draw(self, step: int, points: Mapping[str, float]) -> None:
        """Add points to curves, by their names; NaN is left out."""
        if self._curves is not None:
            with self._curves.as_default(step=step):
                for name, value in points.items():
                    if not math.isnan(value):
                        tf.summary.scalar(name, value)

    def show(self, step: int, name: str, picture: np.ndarray) -> None:
        """Add a picture."""
        with self._curves.as_default(step=step):
            tf.summary.image(name, picture[None])


def read_log(log: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a log."""
    return [strict_json.loads(line) for line in log.read_bytes().splitlines(keepends=True) if _step_of(line) < math.inf]


def cut_log(log: Path, step: int) -> None:
    """Delete the lines of a log after `step`, and an incomplete one left by a kill: they will be written again."""
    if log.exists():
        lines = log.read_bytes().splitlines(keepends=True)
        atomic_files.write_bytes(log, b"".join(line for line in lines if _step_of(line) <= step))


def _step_of(line: bytes) -> float:
    try:
        return float(strict_json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError, OverflowError):
        return math.inf
