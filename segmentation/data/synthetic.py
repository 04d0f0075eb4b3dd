"""The embedded dataset, for demonstrations and tests, not for comparisons: drawn scenes of textured objects, with labels.

Colors come from one distribution for all classes, so that the color of a pixel carries almost no information about its class:
a network needs context. A scene depends only on (seed, split, index), and the splits share no random stream; another version
of NumPy or OpenCV, or another processor, may round a pixel differently. (``tests/segmentation/data/test_synthetic.py``)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.extraction.visualization import write_picture
from dense_resnet.image_io.decoding import opencv
from dense_resnet.jobs.atomic_files import write_bytes
from dense_resnet.jobs.resumable import Progress, quiet
from dense_resnet.planning.geometry import positive_integer
from segmentation.data.label_files import encode_label
from segmentation.data.label_space import LabelClass, LabelSpace
from segmentation.metrics.confusion import IGNORE_LABEL

CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (  # name, color of the label
    ("ground", (70, 74, 84)),
    ("bricks", (196, 78, 62)),
    ("stripes", (240, 165, 48)),
    ("checks", (238, 221, 104)),
    ("grass", (92, 166, 74)),
    ("dots", (46, 150, 146)),
    ("waves", (66, 124, 214)),
    ("rings", (134, 94, 190)),
    ("ball", (226, 120, 172)),
    ("scales", (150, 206, 226)),
)
SPACE = LabelSpace(tuple(LabelClass(name, color) for name, color in CLASSES), IGNORE_LABEL)
SPLITS = ("train", "val")
SIZE = 513  # pixels
SMALLEST = 65  # pixels: a scene must hold an object that shows its texture
OBJECTS = 5, 9  # in a scene of SIZE; others have as many per area
MOST = 255  # objects of the largest scenes: their numbers are bytes
DIAMETERS = 110, 290  # pixels, of the circle around an object
BORDER = 5  # pixels: side of the window that makes the ignored band, 4 wide
MARGIN = 28  # pixels around an object that its shadow may reach
TILE = 256  # pixels: period of the noise


def scene(split: str, index: int, size: int = SIZE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `index`, from 0 and without an upper limit, of the split "train" or "val".

    Args:
        size: side in pixels, at least 65. Objects keep their size as far as they fit; a smaller scene has fewer of them.
        seed: another seed is another dataset.

    Returns:
        (image, label): RGB uint8 ``[size, size, 3]``, and uint8 ``[size, size]`` of places in CLASSES and the ignore label.

    >>> image, label = scene("val", 0, size=129)
    >>> image.shape, label.shape, label.dtype.name
    ((129, 129, 3), (129, 129), 'uint8')
    """
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)} (not {split!r}).")
    if positive_integer("size", size) < SMALLEST:
        raise InputError(f"size must be at least {SMALLEST} pixels (not {size}).")
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise InputError(f"{name} must not be negative (not {value}).")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    towards = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(towards), np.sin(towards)])
    center = np.full(2, size / 2)
    canvas = _paint_texture(0, _sheet((size, size), center, size, light, rng), rng)
    instances = np.zeros((size, size), np.uint8)
    classes = np.zeros(256, np.uint8)
    for number, thing in enumerate(_things(size, rng), 1):
        classes[number] = thing.kind
        _draw(thing, number, canvas, instances, light, rng)
    return _simulate_camera(canvas, light, rng), _label(instances, classes)


@dataclass(frozen=True)
class Thing:
    """An object of a scene."""

    kind: int  # its class
    center: np.ndarray  # (x, y) in pixels
    radius: float  # pixels, of a circle around it
    outline: np.ndarray  # [points, 2] of (x, y) in pixels


def _things(size: int, rng: np.random.Generator) -> list[Thing]:
    """Place the objects of a scene, large ones first, so that small ones cover them."""
    count = max(2, round(rng.integers(OBJECTS[0], OBJECTS[1] + 1) * (size / SIZE) ** 2))
    largest = min(DIAMETERS[1], 0.55 * size)
    radii = np.sort(rng.uniform(min(DIAMETERS[0], largest), largest, min(count, MOST)) / 2)[::-1]
    things: list[Thing] = []
    for radius in radii:
        # of a few random places, the one that covers least of the others
        places = rng.uniform(0.6 * radius, size - 0.6 * radius, (6, 2))
        gaps = [min((np.hypot(*(place - other.center)) - other.radius for other in things), default=0) for place in places]
        center = places[int(np.argmax(gaps))]
        kind = int(rng.integers(1, len(CLASSES)))
        outline = _circle(rng) if CLASSES[kind][0] == "ball" else OUTLINES[rng.integers(len(OUTLINES))](rng)
        things.append(Thing(kind, center, radius, center + radius * outline))
    return things


def _circle(rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    return _rotate(_circle(rng) * [1, rng.uniform(0.6, 1)], rng.uniform(0, np.pi))


def _rectangle(rng: np.random.Generator) -> np.ndarray:
    half = np.array([1, rng.uniform(0.6, 1)])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half / np.hypot(*half)
    return _rotate(corners, rng.uniform(0, np.pi))


def _polygon(rng: np.random.Generator) -> np.ndarray:
    corners = rng.integers(5, 9)
    angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners + rng.uniform(0, np.pi)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.75, 1, (corners, 1))


def _blob(rng: np.random.Generator) -> np.ndarray:
    circle = _circle(rng)
    angles = np.arctan2(circle[:, 1], circle[:, 0])
    reach = 1 + sum(rng.uniform(0, 0.3) / n * np.cos(n * angles + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4, 5))
    return circle * (reach / reach.max())[:, None]


OUTLINES = (_ellipse, _rectangle, _polygon, _blob)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


@dataclass(frozen=True)
class Sheet:
    """What a texture is drawn on: coordinates turned and scaled at random, their origin at the object's center."""

    x: np.ndarray  # [height, width] float32, in pixels of scale 1
    y: np.ndarray
    radius: float  # the object's, in the same unit
    light: np.ndarray  # (x, y): the direction that the light comes from


def _sheet(shape: tuple[int, ...], center: np.ndarray, radius: float, light: np.ndarray, rng: np.random.Generator) -> Sheet:
    angle, scale = rng.uniform(-0.45, 0.45), rng.uniform(0.8, 1.5)
    c, s = (np.array([np.cos(angle), np.sin(angle)]) / scale).astype(np.float32)
    x = np.arange(shape[1], dtype=np.float32) - np.float32(center[0])
    y = (np.arange(shape[0], dtype=np.float32) - np.float32(center[1]))[:, None]
    return Sheet(c * x + s * y, c * y - s * x, float(radius / scale), _rotate(light, -angle))


# A texture is a field of 0..1 between two colors, over coordinates or a whole sheet.


def _ground(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _read(0.5 + 0.14 * _noise(1.3, 1.3, rng) + 0.1 * _noise(9, 9, rng), x, y)


def _bricks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    row = np.floor(y / 19)
    along = x / 40 + 0.5 * row
    column = np.floor(along)
    joint = np.minimum(_to_edge(along) * 40, _to_edge(y / 19) * 19)
    shades = rng.uniform(0.65, 1, (8, 8)).astype(np.float32)
    return _edge(joint - 2) * shades[row.astype(np.int32) & 7, column.astype(np.int32) & 7]


def _stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _edge(20 * (_to_edge(x / 20) - rng.uniform(0.2, 0.3)))


def _checks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _edge(6 * np.sin(x * (np.pi / 17)) * np.sin(y * (np.pi / 17)))


def _grass(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blades = [_read(_noise(1.2, 8, rng), x + lean * y, y) for lean in (-0.3, 0.3)]
    return 0.3 + 0.3 * np.maximum(*blades)


def _dots(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    row = np.floor(y / 22)
    along = x / 25 + 0.5 * row
    dx, dy = 25 * (along - np.floor(along) - 0.5), y - 22 * (row + 0.5)
    return _edge(rng.uniform(6.5, 8.5) - np.sqrt(dx * dx + dy * dy))


def _waves(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.5 * np.sin((y + 8 * np.sin(x * (2 * np.pi / 44))) * (2 * np.pi / 21))


def _rings(sheet: Sheet, rng: np.random.Generator) -> np.ndarray:
    dx, dy = (rng.uniform(-0.2, 0.2, 2) * sheet.radius).astype(np.float32)
    x, y = sheet.x + dx, sheet.y + dy
    return _edge(2.5 * np.sin(np.sqrt(x * x + y * y) * np.float32(2 * np.pi / 17)))


def _ball(sheet: Sheet, rng: np.random.Generator) -> np.ndarray:
    x, y = sheet.x / np.float32(sheet.radius), sheet.y / np.float32(sheet.radius)
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    lit = 0.6 * (x * np.float32(sheet.light[0]) + y * np.float32(sheet.light[1])) + 0.8 * z
    return np.maximum(lit, 0)


def _scales(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    reach = 17  # a scale's radius; rows are half of it apart, and each overlaps the row before
    first = np.floor(y * (2 / reach))
    value = np.zeros_like(x)
    for row in (first, first + 1, first + 2):
        along = x / (2 * reach) + 0.5 * row
        dx, dy = 2 * reach * (along - np.floor(along) - 0.5), y - reach / 2 * row
        from_center = np.sqrt(dx * dx + dy * dy)
        value = np.where(from_center < reach, _edge(reach - 2.5 - from_center) * (0.35 + from_center / 26), value)
    return value


CENTERED = (_rings, _ball)  # on the object; the origin of other textures is random
TEXTURES: tuple[Callable[..., np.ndarray], ...] = (  # as CLASSES
    _ground, _bricks, _stripes, _checks, _grass, _dots, _waves, _rings, _ball, _scales,
)  # fmt: skip


def _edge(distance: np.ndarray) -> np.ndarray:
    """Return 1 where the signed distance in pixels is positive, 0 where it is negative, and a ramp one pixel wide between."""
    return np.clip(distance + 0.5, 0, 1)


def _to_edge(values: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest integer."""
    return np.abs(values - np.rint(values))


def _noise(sigma_x: float, sigma_y: float, rng: np.random.Generator) -> np.ndarray:
    """Return a periodic tile of Gaussian noise of standard deviation 1, smoothed over `sigma` pixels."""
    pad = int(3 * max(sigma_x, sigma_y)) + 1
    tile = np.pad(rng.standard_normal((TILE, TILE), np.float32), pad, mode="wrap")
    tile = opencv().GaussianBlur(tile, (0, 0), sigma_x, sigmaY=sigma_y)[pad:-pad, pad:-pad]
    return np.asarray(tile / tile.std())


def _read(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a tile's values at (x, y), repeated periodically."""
    return np.asarray(opencv().remap(tile, x, y, opencv().INTER_LINEAR, borderMode=opencv().BORDER_WRAP))


def _paint_texture(kind: int, sheet: Sheet, rng: np.random.Generator) -> np.ndarray:
    """Paint the texture in two colors: float32 ``[3, height, width]``."""
    texture = TEXTURES[kind]
    if texture in CENTERED:
        values = texture(sheet, rng)
    else:
        dx, dy = rng.uniform(0, TILE, 2).astype(np.float32)
        values = texture(sheet.x + dx, sheet.y + dy, rng)
    first, second = _two_colors(rng)
    if CLASSES[kind][0] == "ball" and first.sum() > second.sum():
        first, second = second, first  # its second color is the lit one
    return first[:, None, None] + (second - first)[:, None, None] * np.clip(values, 0, 1)


def _two_colors(rng: np.random.Generator) -> np.ndarray:
    """Draw two RGB colors ``[2, 3]`` in 0..255, a dark and a light one in either order, distributed alike for all classes."""
    hue = rng.uniform(0, 360) + np.array([0, rng.choice([-1, 1]) * rng.uniform(0, 150)])
    value = np.array([rng.uniform(0.2, 0.5), rng.uniform(0.75, 1)])
    hsv = np.stack([hue % 360, rng.uniform(0.1, 0.75, 2), rng.permutation(value)], 1).astype(np.float32)
    return 255 * opencv().cvtColor(hsv[None], opencv().COLOR_HSV2RGB)[0]


def _draw(
    thing: Thing, number: int, canvas: np.ndarray, instances: np.ndarray, light: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint an object and its shadow over the canvas."""
    cv2 = opencv()
    size = len(instances)
    low = np.maximum(np.floor(thing.outline.min(0)).astype(int) - MARGIN, 0)
    high = np.minimum(np.ceil(thing.outline.max(0)).astype(int) + MARGIN, size)
    window = slice(low[1], high[1]), slice(low[0], high[0])
    inside = np.zeros(tuple((high - low)[::-1]), np.uint8)
    cv2.fillPoly(inside, [np.rint((thing.outline - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    cover = inside * np.float32(1 / 255)
    soft = cv2.GaussianBlur(cover, (0, 0), 5)
    away = np.array([[1, 0, -9 * light[0]], [0, 1, -9 * light[1]]], np.float32)
    shadow = cv2.warpAffine(soft, away, inside.shape[::-1])
    below = canvas[(slice(None), *window)]
    below *= 1 - rng.uniform(0.35, 0.6) * shadow
    paint = _paint_texture(thing.kind, _sheet(inside.shape, thing.center - low, thing.radius, light, rng), rng)
    paint *= 0.6 + 0.4 * np.minimum(1.6 * soft - 0.6, 1)  # darker towards the outline, as if it were rounded
    paint -= below
    paint *= cover
    below += paint
    instances[window][inside > 127] = number


def _simulate_camera(canvas: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Render the scene under uneven light, with blur and sensor noise."""
    cv2 = opencv()
    size = canvas.shape[1]
    ramp = np.linspace(-0.15, 0.15, 5)
    coarse = 0.95 + light[0] * ramp + light[1] * ramp[:, None] + rng.uniform(-0.1, 0.1, (5, 5))
    canvas *= cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = rng.uniform(1, 5) * rng.standard_normal((size, size), np.float32)
    blur = rng.uniform(0.4, 1.0)
    planes = [cv2.GaussianBlur(plane, (0, 0), blur) + grain for plane in canvas]
    return np.asarray(cv2.merge([cv2.convertScaleAbs(np.maximum(plane, 0)) for plane in planes]))


def _label(instances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return classes from object numbers, with a band of the ignore label where two objects meet."""
    cv2 = opencv()
    window = np.ones((BORDER, BORDER), np.uint8)
    label = classes[instances]
    label[cv2.dilate(instances, window) != cv2.erode(instances, window)] = IGNORE_LABEL
    return label


def write_scenes(
    folder: str | os.PathLike[str], train: int, val: int, *, size: int = SIZE, seed: int = 0, progress: Progress = quiet
) -> None:
    """Write `train` and `val` scenes: ``images/{train,val}/0000.png``, ``labels/{train,val}/0000.png``, ``dataset.json``.

    Labels are palette images in the colors of CLASSES. Scenes that are there already are drawn again; a folder with another
    dataset, or with a part of one, is refused.
    """
    about = json.dumps({"name": "scenes", **SPACE.as_json()}, indent=1) + "\n"
    described = Path(folder) / "dataset.json"
    own = described.is_file() and described.read_bytes() == about.encode()
    if not own and any((Path(folder) / name).exists() for name in ("images", "labels", described.name)):
        raise InputError(
            f"{folder}: contains another dataset, or part of one, which would be overwritten. Choose another folder."
        )
    counts = {"train": positive_integer("train", train), "val": positive_integer("val", val)}
    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
    folder = Path(folder)

    def work(job: tuple[str, int]) -> None:
        split, index = job
        image, label = scene(split, index, size, seed)
        name = f"{index:04d}.png"
        write_picture(folder / "images" / split / name, image)
        write_bytes(folder / "labels" / split / name, encode_label(label, SPACE))

    progress("drawing", 0, len(jobs))
    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(work, jobs), 1):
            progress("drawing", done, len(jobs))
    write_bytes(described, about.encode())  # last: it marks the dataset as complete
