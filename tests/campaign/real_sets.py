"""Two datasets of real pictures that PyPI packages carry, for `recipes.py`.

    python tests/campaign/real_sets.py OUT    downloads both packages and writes OUT/pebbles and OUT/bacteria

- pebbles: seven photographs of gravel with masks of single grains, from imagegrains 0.8.0 (BSD 3-Clause), as 28 tiles of
  256x256 pixels.
- bacteria: 40 brightfield micrographs with masks of single cells, from colicoords 0.1.5 (MIT): of each the quarter of 256x256
  pixels with most labeled ones. Cells in a clump or at the border are background.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Pair = tuple[str, np.ndarray, np.ndarray]  # a name, an image, its label
SIDE = 256
PACKAGES = {
    "imagegrains==0.8.0": "285361c52eb36f091ad91cc95dd75caea8652ed17c21ed223ace717d698f2bf4",
    "colicoords==0.1.5": "b9d4335751929c494fbe1f6ebebd0cc8f7addda86cccad01244f1edf00de0a4d",
}


def main(folder: Path) -> None:
    for package, read, name in zip(PACKAGES, (read_pebbles, read_bacteria), ("pebble", "bacterium"), strict=True):
        plural = {"pebble": "pebbles", "bacterium": "bacteria"}[name]
        with download(package) as archive:
            write_dataset(folder / plural, sorted(read(archive), key=lambda pair: pair[0]), name)
        print(folder / plural)


def download(package: str) -> tarfile.TarFile:
    """Return a package's source archive, whose digest is checked."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", scratch]
        subprocess.run([*command, "--no-build-isolation", package], check=True)
        (file,) = Path(scratch).iterdir()
        data = file.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != PACKAGES[package]:
        raise SystemExit(f"{package}: another archive than these figures are of ({digest}).")
    return tarfile.open(fileobj=io.BytesIO(data))


def read_tiff(archive: tarfile.TarFile, name: str) -> np.ndarray:
    """Return a TIFF file's pages, or its only one."""
    import tifffile

    return tifffile.imread(io.BytesIO(archive.extractfile(name).read()))


def read_pebbles(archive: tarfile.TarFile) -> Iterator[Pair]:
    for name in archive.getnames():
        if "/demo_data/FH/" in name and name.endswith("_mask.tif"):
            label = (read_tiff(archive, name) > 0).astype(np.uint8)
            photograph = archive.extractfile(name.replace("_mask.tif", ".jpg"))
            image = np.asarray(Image.open(photograph).convert("RGB"))
            stem = Path(name).name.removesuffix("_mask.tif")
            for (row, column), tile in quarters():
                yield f"{stem}_{row}{column}", image[tile], label[tile]


def read_bacteria(archive: tarfile.TarFile) -> Iterator[Pair]:
    root = archive.getnames()[0].partition("/")[0]
    pairs = []
    for name, number in (("stack", "02"), ("storm", "06")):
        files = (f"{root}/examples/data/{number}/{kind}_{name}.tif" for kind in ("brightfield", "binary"))
        images, labels = (read_tiff(archive, file) for file in files)
        pairs += [(f"{name}_{index:02d}", *pair) for index, pair in enumerate(zip(images, labels, strict=True))]
    for name, numbers in (("ds1", range(1, 11)), ("ds2", (66, 74))):
        for number in numbers:
            files = (f"brightfield/{number:05d}.tif", f"binary/{number:05d}_Probabilities_filtered.tif")
            image, label = (read_tiff(archive, f"{root}/test/test_data/{name}/{file}") for file in files)
            pairs.append((f"{name}_{number:02d}", image, label))
    for stem, image, label in pairs:
        low, high = np.percentile(image, (0.1, 99.9))
        gray = np.round(np.clip((image.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        tile = max((tile for _, tile in quarters()), key=lambda tile: np.count_nonzero(label[tile]))
        if label[tile].any():
            yield stem, gray[tile], (label[tile] > 0).astype(np.uint8)


def quarters() -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """Yield the quarters of an image of 512x512 pixels: row and column, and what cuts it out."""
    for row in range(2):
        for column in range(2):
            yield (row, column), (slice(row * SIDE, row * SIDE + SIDE), slice(column * SIDE, column * SIDE + SIDE))


def write_dataset(folder: Path, pairs: list[Pair], name: str) -> None:
    """Write the layout of two folders; every fourth image is for validation."""
    for index, (stem, image, label) in enumerate(pairs):
        split = "val" if index % 4 == 3 else "train"
        for kind, array in (("images", image), ("labels", label)):
            path = folder / kind / split / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (folder / "dataset.json").write_text(json.dumps({"classes": ["background", name], "ignore_label": 255}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
