"""Write features to disk, and read them at pixels of the original image.

One safetensors file per image, with an array ``stride_16`` (``[rows, columns, channels]``) for each layer; its metadata
says where the cells are. Cell ``(i, j)`` of a map with stride ``s`` is on canvas pixel ``(i * s, j * s)``; the canvas is
the image, shrunk by ``scale`` and padded at the bottom and on the right, so on the original image it is at
``y = (i * s + 0.5) / scale_y - 0.5``, ``x = (j * s + 0.5) / scale_x - 0.5``, pixel centers at integers.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError
from dense_resnet.inference.canvas import Placement

FORMAT = 1
DTYPES = ("float32", "float16", "bfloat16")
PREFIX = "stride_"


@dataclass(frozen=True)
class Features:
    """The features of one image."""

    maps: dict[int, np.ndarray] = field(repr=False)  # {stride: [rows, columns, channels] float32}
    placement: Placement
    path: str  # of the image, relative

    def cell_centers(self, stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (y of each row, x of each column) on the original image; cells of the padding are outside of it."""
        rows, columns, _ = self.map(stride).shape
        longest = max(rows, columns)
        on_canvas = np.repeat(np.arange(longest)[:, None] * float(stride), 2, axis=1)
        xy = self.placement.to_original(on_canvas)
        return xy[:rows, 1], xy[:columns, 0]

    def map(self, stride: int | None = None) -> np.ndarray:
        """Return the map of that stride; None is the only one."""
        if stride is None and len(self.maps) == 1:
            return next(iter(self.maps.values()))
        if stride not in self.maps:
            raise InputError(f"stride must be one of {sorted(self.maps)} (not {stride!r}).")
        return self.maps[stride]


def write_features(
    path: str | os.PathLike[str], maps: Mapping[int, np.ndarray], placement: Placement, record: Mapping[str, Any]
) -> None:
    """Write one image's maps without changing their type; the metadata has `record` and the placement."""
    cells = "row i, column j sits on canvas pixel (i * stride, j * stride)"
    description = {"format": FORMAT, **record, **dataclasses.asdict(placement), "cells": cells}
    arrays = {f"{PREFIX}{stride}": values for stride, values in maps.items()}
    safetensors.write(Path(path), arrays, {"features": description})


def read_features(path: str | os.PathLike[str]) -> Features:
    """Read the features in a file that ``dense-resnet extract`` wrote; any other is an :class:`InputError`."""
    path = Path(path)
    arrays = safetensors.read(path)
    try:
        description = safetensors.metadata(path)["features"]
        placement = Placement(*(_pair(description[key], key) for key in ("original_size", "size", "padding")))
        maps = {int(name.removeprefix(PREFIX)): values for name, values in arrays.items()}
        maps = dict(sorted(maps.items()))
        if not maps or any(stride < 1 or values.ndim != 3 for stride, values in maps.items()):
            raise ValueError("its arrays are not maps")
        if not isinstance(description["path"], str):
            raise TypeError(f"path {description['path']!r:.80}")
        return Features(maps, placement, description["path"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a features file of dense-resnet extract ({error!r}).") from error


def image_sha256(path: str | os.PathLike[str]) -> str | None:
    """Return the sha256 of the image of a features file; None if the file is missing or incomplete."""
    try:
        return str(safetensors.metadata(Path(path))["features"]["sha256"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _pair(value: Any, name: str) -> tuple[int, int]:
    least = 0 if name == "padding" else 1
    if len(value) != 2 or not all(type(number) is int and number >= least for number in value):
        raise ValueError(f"{name} {value!r:.80}")
    return value[0], value[1]


def sample(features: Features, xy: Any, stride: int | None = None) -> np.ndarray:
    """Read features at pixels of the original image, bilinearly between the four cells around each.

    Args:
        features: of :func:`read_features`.
        xy: ``[points, 2]``, (x, y) in pixels of the original image, upright, pixel centers at integers.
        stride: which map, if there are several.

    Returns:
        ``[points, channels]`` float32. Points beyond the outermost cells get the nearest cell's features.

    Raises:
        InputError: a point outside the image, or no map of that stride.
    """
    if not isinstance(features, Features):
        raise InputError(f"features must be the result of dense_resnet.read_features (not {features!r:.80}).")
    points = np.asarray(xy, np.float64)
    points = points.reshape(0, 2) if points.shape == (0,) else np.atleast_2d(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"xy must have shape [points, 2] (not {list(points.shape)}).")
    height, width = features.placement.original_size
    inside = ((points >= -0.5) & (points <= np.array([width, height]) - 0.5)).all(axis=1)
    if not inside.all():
        x, y = points[~inside][0]
        raise InputError(f"point (x={x:g}, y={y:g}) is outside the image, which has {width} columns and {height} rows.")
    values = features.map(stride)
    stride = next(iter(features.maps)) if stride is None else stride
    last = np.array(values.shape[:2]) - 1
    cells = np.clip(features.placement.to_canvas(points)[:, ::-1] / stride, 0, last)
    low = np.minimum(cells.astype(int), np.maximum(last - 1, 0))
    high = np.minimum(low + 1, last)
    (fy, fx), (i, j), (k, m) = (cells - low).T[..., None], low.T, high.T
    top = values[i, j] * (1 - fx) + values[i, m] * fx
    bottom = values[k, j] * (1 - fx) + values[k, m] * fx
    return (top * (1 - fy) + bottom * fy).astype(np.float32)
