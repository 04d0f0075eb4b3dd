"""The alignment picture: an image with its cell centers, and its features in false colors, on the same pixels.

The features' three strongest principal components become red, green and blue. They are upsampled to the image with
align_corners, which matches the cells' positions: cell ``(i, j)`` on canvas pixel ``(i * stride, j * stride)``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dense_resnet.extraction.features import Features
from dense_resnet.image_io.decoding import opencv
from dense_resnet.inference.canvas import resize
from dense_resnet.jobs import atomic_files

DOT, RING = (255, 255, 255), (20, 20, 20)
MARGIN, CAPTION = 14, 34  # pixels
LEAST_WIDTH = 620  # of a panel
LONGEST_SIDE = 2000  # of a panel, unless the image is larger


def principal_colors(values: np.ndarray) -> np.ndarray:
    """Turn ``[cells, channels]`` features into ``[cells, 3]`` colors in [0, 1], by their three strongest components."""
    centered = values.astype(np.float64) - values.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    axes = axes[:3]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # a sign is arbitrary: fix it
    projected = np.zeros((len(values), 3))
    projected[:, : len(axes)] = centered @ axes.T
    low, high = np.percentile(projected, [2, 98], axis=0)
    return np.clip((projected - low) / np.maximum(high - low, 1e-12), 0, 1)


def alignment_picture(pixels: np.ndarray, features: Features) -> np.ndarray:
    """Draw `pixels`, ``[height, width, 3]`` uint8 RGB, with a dot on each cell of the coarsest map, then all maps as colors."""
    cv2 = opencv()
    height, width = features.placement.size
    zoom = max(1, min(-(-LEAST_WIDTH // width), LONGEST_SIDE // max(height, width)))
    small = resize(pixels, (height, width))
    image = cv2.resize(small, (width * zoom, height * zoom), interpolation=cv2.INTER_LINEAR)
    strides = sorted(features.maps)
    _draw_cells(image, strides[-1], zoom)
    panels = [_add_caption(image, f"{width} x {height} pixels, a dot on the center of each stride-{strides[-1]} cell")]
    for stride in strides:
        values = features.maps[stride]
        colors = _false_colors(values, features.placement.size, stride, zoom)
        if stride == strides[-1]:
            _draw_cells(colors, stride, zoom)
        rows, columns = ((side - 1) // stride + 1 for side in (height, width))
        panels.append(_add_caption(colors, f"stride {stride}: {columns} x {rows} cells, {values.shape[2]} channels as colors"))
    if len(panels) % 2:
        panels.append(np.full_like(panels[0], 255))
    panels = [_add_border(panel) for panel in panels]
    rows_of_two = [_add_border(np.concatenate(panels[i : i + 2], axis=1)) for i in range(0, len(panels), 2)]
    return _add_border(np.concatenate(rows_of_two))


def _false_colors(values: np.ndarray, size: tuple[int, int], stride: int, zoom: int) -> np.ndarray:
    """Upsample a map's cells to `size` pixels as colors, ``[height * zoom, width * zoom, 3]`` uint8."""
    cv2 = opencv()
    rows, columns = (min((side - 1) // stride + 1, cells) for side, cells in zip(size, values.shape[:2], strict=True))
    own = values[:rows, :columns].reshape(rows * columns, -1)
    colors = principal_colors(own).reshape(rows, columns, 3).astype(np.float32)
    y, x = (np.arange(side * zoom, dtype=np.float32) / (zoom * stride) for side in size)
    x, y = np.meshgrid(x, y)
    spread = cv2.remap(colors, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return (spread * 255).round().astype(np.uint8)


def _draw_cells(panel: np.ndarray, stride: int, zoom: int) -> None:
    cv2 = opencv()
    step = stride * zoom
    radius = max(1, step // 12)
    for y in range(0, panel.shape[0], step):
        for x in range(0, panel.shape[1], step):
            cv2.circle(panel, (x, y), radius + 1, RING, -1, cv2.LINE_AA)
            cv2.circle(panel, (x, y), radius, DOT, -1, cv2.LINE_AA)


def _add_border(panel: np.ndarray) -> np.ndarray:
    return np.pad(panel, ((MARGIN // 2, 0), (MARGIN // 2, MARGIN // 2), (0, 0)), constant_values=255)


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write ``[height, width, 3]`` uint8 RGB as a PNG."""
    written, data = opencv().imencode(".png", picture[..., ::-1])
    if not written:
        raise ValueError(f"{path}: the picture cannot be encoded")
    atomic_files.write_bytes(Path(path), data.tobytes())


def _add_caption(panel: np.ndarray, caption: str) -> np.ndarray:
    cv2 = opencv()
    panel = np.pad(panel, ((0, 0), (0, max(0, LEAST_WIDTH // 2 - panel.shape[1])), (0, 0)), constant_values=255)
    strip = np.full((CAPTION, panel.shape[1], 3), 255, np.uint8)
    scale = min(0.6, 0.6 * panel.shape[1] / cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)[0][0])
    cv2.putText(strip, caption, (2, CAPTION - 12), cv2.FONT_HERSHEY_SIMPLEX, scale, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([panel, strip], axis=0)
