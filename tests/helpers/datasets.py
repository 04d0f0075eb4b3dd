"""Small datasets on disk, and the encoded images that they are made of."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from dense_resnet.jobs import journal
from helpers.networks import image_of
from segmentation.data.label_space import LabelSpace
from segmentation.prediction.options import Inference

# EVALUATION's fixture: four classes, 255 ignored
FIXTURE = [
    (np.array([[0, 0, 0, 0, 1, 1, 1, 255]]), np.array([[0, 0, 0, 1, 1, 1, 2, 0]])),
    (np.zeros((1, 8), int), np.array([[0, 0, 0, 0, 0, 0, 2, 2]])),
]

NAMES = ["sky", "road", "car", "tree", "[lamp]"]
FIVE_CLASSES = LabelSpace.from_json({"classes": ["sky", "road", "car", "tree", "wall"]})
BLOBS = LabelSpace.from_json({"classes": NAMES})
SIZES = {"a": (50, 60), "b": (33, 40), "more/a": (65, 65), "more/c": (97, 30), "z": (40, 70), "é": (20, 20)}
INFERENCE = Inference(size=65)

TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}

THREE = {"name": "mine", "classes": ["sky", "road", "car"]}
SPACE = LabelSpace.from_json({"classes": THREE["classes"]})


def image_file(path, size=(4, 6), seed=0, **options):
    """A small image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path, **options)


def label_file(path, values=((0, 1, 2),), size=(4, 6)):
    """A grey label of `values`, over and over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), size)).save(path)


def own_dataset(folder, splits=("train", "val"), names=("a", "b", "more/a")):
    """Two folders, images of noise that differ, and dataset.json."""
    seed = 0
    for split in splits:
        for name in names:
            image_file(folder / "images" / split / f"{name}.jpg", seed=seed)
            label_file(folder / "labels" / split / f"{name}.png")
            seed += 1
    (folder / "dataset.json").write_text(json.dumps(THREE))
    return folder


def encode(pixels, kind="PNG", **options):
    """The bytes of an image file."""
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


def write_pair(root, name, image, label):
    """PNG files under images/ and labels/."""
    for folder, pixels in (("images", image), ("labels", label)):
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def label_of(height, width, seed, num_classes=5):
    """Blocks of classes, some of which are ignored; no image has all."""
    generator = np.random.default_rng(seed)
    values = [*generator.permutation(num_classes)[:3], 255]
    return np.kron(generator.choice(values, (height // 9 + 1, width // 9 + 1)), np.ones((9, 9)))[:height, :width].astype(
        np.uint8
    )


def write_dataset(root):
    """Six images of five classes, of which the last is nowhere."""
    for seed, (name, size) in enumerate(SIZES.items()):
        write_pair(root, name, image_of(*size, seed), label_of(*size, seed, num_classes=4))
    (root / "dataset.json").write_text(json.dumps({"name": "blobs", "classes": NAMES}))
    return root


def lines_of(folder):
    """The log, in its order."""
    logged = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != journal.CHECKSUM} for line in logged]


def make_exif(orientation):
    """EXIF that says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def names(dataset):
    """The samples' names."""
    return [sample.name for sample in dataset.samples]
