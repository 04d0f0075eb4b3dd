"""The dataset of a newcomer: 60 pictures of 200 to 700 pixels, in which brick, grass and gravel lie on photographs.

    python tests/campaign/newcomer.py OUT    writes it, for the four commands of README.md

Photographs and textures are scikit-image's. Each image shows one photograph, with the shapes of one to four textures on it at
random scales and brightnesses; the label says which texture a pixel has.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("photograph", "brick", "grass", "gravel")
IMAGES = {"train": 45, "val": 15}


def write_dataset(folder: Path, seed: int = 0) -> Path:
    """Write the dataset in the layout of two folders, and return the folder."""
    from skimage import data

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    textures = [np.repeat(picture[..., None], 3, 2) for picture in (data.brick(), data.grass(), data.gravel())]
    generator = np.random.default_rng(seed)
    for split, count in IMAGES.items():
        for number in range(count):
            image, label = draw(generator, photographs, textures)
            for kind, values, suffix in (("images", image, ".jpg"), ("labels", label, ".png")):
                path = folder / kind / split / f"{number:02d}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (folder / "dataset.json").write_text(json.dumps({"classes": list(CLASSES)}))
    return folder


def draw(
    generator: np.random.Generator, photographs: list[np.ndarray], textures: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image, uint8 ``[height, width, 3]``, and its label."""
    width, height = (int(side) for side in generator.integers(200, 701, 2))
    image = cut(generator, photographs[generator.integers(len(photographs))], (width, height))
    label = np.zeros((height, width), np.uint8)
    for _ in range(generator.integers(1, 5)):
        index = int(generator.integers(len(textures)))
        tint = generator.uniform(0.6, 1.3) * generator.uniform(0.8, 1.2, 3)
        own = np.clip(cut(generator, textures[index], (width, height)) * tint, 0, 255).astype(np.uint8)
        shape = Image.new("1", (width, height))
        center, radius = generator.uniform(0.1, 0.9, 2) * (width, height), generator.uniform(0.12, 0.35) * max(width, height)
        angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 9)))
        corners = center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        ImageDraw.Draw(shape).polygon([tuple(corner) for corner in corners], fill=1)
        inside = np.asarray(shape)
        image = np.where(inside[..., None], own, image)
        label[inside] = index + 1
    return image, label


def cut(generator: np.random.Generator, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut a random part out of a picture, and resize it to `size` (width, height) by at most a factor of two."""
    scale = max(size[0] / picture.shape[1], size[1] / picture.shape[0], generator.uniform(0.5, 2))
    own = [max(1, min(side, round(want / scale))) for side, want in zip(picture.shape, size[::-1], strict=False)]
    top, left = (int(generator.integers(0, side - part + 1)) for side, part in zip(picture.shape, own, strict=False))
    part = Image.fromarray(picture[top : top + own[0], left : left + own[1]])
    return np.asarray(part.resize(size, Image.BILINEAR))


if __name__ == "__main__":
    print(write_dataset(Path(sys.argv[1])))
