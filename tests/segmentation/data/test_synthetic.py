"""The embedded dataset: the same at every call, balanced, and not to be told by colour."""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import opencv
from segmentation import ConfusionMatrix, metrics
from segmentation.data.label_space import VOID_COLOR
from segmentation.data.synthetic import CLASSES, SMALLEST, SPLITS, scene, write_scenes
from segmentation.metrics.confusion import IGNORE_LABEL

NAMES = [name for name, _ in CLASSES]
BINS = 16  # a channel
MAX_COLOR_ONLY = 0.2  # mean IoU; measured 0.07


@pytest.fixture(scope="module")
def drawn():
    """Scenes of each split."""
    return {"train": [scene("train", index) for index in range(40)], "val": [scene("val", index) for index in range(40)]}


def test_a_scene_is_the_same_at_every_call(drawn):
    for split in SPLITS:
        for index in (7, 0):  # whatever was drawn before
            for first, second in zip(drawn[split][index], scene(split, index), strict=True):
                np.testing.assert_array_equal(first, second)


def test_scenes_differ():
    variants = [("train", 0), ("train", 1), ("val", 0), ("val", 1), ("train", 0, SMALLEST, 1), ("val", 0, SMALLEST, 1)]
    images = [scene(*[*variant, SMALLEST][:3], seed=1 if len(variant) > 2 else 0) for variant in variants]
    for part in (0, 1):
        assert len({image[part].tobytes() for image in images}) == len(variants)


@pytest.mark.parametrize("size", [SMALLEST, 200, 513, 700])
def test_shapes_and_values(size):
    image, label = scene("train", 3, size)
    assert image.shape == (size, size, 3)
    assert label.shape == (size, size)
    assert image.dtype == label.dtype == np.uint8
    assert image.flags.c_contiguous
    found = set(np.unique(label).tolist())
    assert found <= {*range(len(CLASSES)), IGNORE_LABEL}
    assert len(found) > 2


def test_every_class_has_its_share(drawn):
    labels = np.stack([label for _, label in drawn["val"]])
    ignored = np.mean(labels == IGNORE_LABEL)
    assert 0.01 < ignored < 0.12
    shares = {name: np.mean(labels == kind) / (1 - ignored) for kind, name in enumerate(NAMES)}
    assert min(shares.values()) > 0.03, shares
    assert shares["ground"] < 0.6, shares
    scenes_with = {name: np.mean([np.any(label == kind) for label in labels]) for kind, name in enumerate(NAMES)}
    assert min(scenes_with.values()) > 0.25, scenes_with
    assert 4 < np.mean([len(np.unique(label)) - 1 for label in labels]) < 8


def test_a_thin_band_parts_the_objects(drawn):
    labels = [label for _, label in drawn["val"]]
    for label in labels:
        for first, second in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            touching = (first != second) & (first != IGNORE_LABEL) & (second != IGNORE_LABEL)
            assert not touching.any()
    bands = [(label == IGNORE_LABEL).astype(np.uint8) for label in labels]
    wide = sum(opencv().erode(band, np.ones((5, 5), np.uint8)).sum() for band in bands)
    assert wide < 0.03 * np.sum(bands)  # 4 pixels wide but where bands meet: measured 0.012


def bins_of(image):
    """Each pixel's place in a histogram of colours."""
    r, g, b = np.moveaxis(image.astype(np.int64) * BINS // 256, -1, 0)
    return (r * BINS + g) * BINS + b


def test_colors_alone_predict_classes_poorly(drawn):
    counts = np.zeros((BINS**3, len(CLASSES)))
    for image, label in drawn["train"]:
        kept = label != IGNORE_LABEL
        pairs = bins_of(image)[kept] * len(CLASSES) + label[kept]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    for weights in (np.ones(len(CLASSES)), 1 / counts.sum(0)):  # right most often, or for rare classes too
        best = np.argmax(counts * weights, axis=1).astype(np.uint8)
        matrix = ConfusionMatrix(len(CLASSES))
        for image, label in drawn["val"]:
            matrix.update(label, best[bins_of(image)])
        assert metrics.mean_iou(matrix.counts) < MAX_COLOR_ONLY


def test_written_scenes_read_back(tmp_path):
    calls = []
    write_scenes(tmp_path, 3, 2, size=SMALLEST, seed=5, progress=lambda *call: calls.append(call))
    assert calls == [("drawing", done, 5) for done in range(6)]
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    files = [f"{split}/{index:04d}.png" for split, count in (("train", 3), ("val", 2)) for index in range(count)]
    assert names == ["dataset.json", *(f"{kind}/{file}" for kind in ("images", "labels") for file in files)]
    for file in files:
        split, index = file.removesuffix(".png").split("/")
        image, label = scene(split, int(index), SMALLEST, 5)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / file)), image)
        written = Image.open(tmp_path / "labels" / file)
        assert written.mode == "P"
        np.testing.assert_array_equal(np.asarray(written), label)
        colours = {**dict(enumerate(colour for _, colour in CLASSES)), IGNORE_LABEL: VOID_COLOR}
        expected = np.array([colours[kind] for kind in label.ravel()]).reshape(*label.shape, 3)
        np.testing.assert_array_equal(np.asarray(written.convert("RGB")), expected)
    about = json.loads((tmp_path / "dataset.json").read_text())
    assert about["name"] == "scenes"
    assert about["ignore_label"] == IGNORE_LABEL
    assert [(entry["name"], tuple(entry["color"])) for entry in about["classes"]] == list(CLASSES)


def test_another_dataset_in_the_folder_is_refused(tmp_path):
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "0000.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="contains another dataset, or part of one"):
        write_scenes(tmp_path, 1, 1, size=SMALLEST)
    (tmp_path / "dataset.json").write_text('{"classes": ["cat"]}')
    with pytest.raises(InputError, match="contains another dataset, or part of one"):
        write_scenes(tmp_path, 1, 1, size=SMALLEST)
    assert (tmp_path / "labels" / "train" / "0000.png").read_bytes() == b"mine"
    assert not (tmp_path / "images").exists()


def test_writing_again_overwrites(tmp_path):
    for seed in (0, 1):
        write_scenes(tmp_path, 1, 1, size=SMALLEST, seed=seed)
    written = np.asarray(Image.open(tmp_path / "images" / "val" / "0000.png"))
    np.testing.assert_array_equal(written, scene("val", 0, SMALLEST, 1)[0])


def test_classes_are_distinct():
    assert len(CLASSES) == len(set(NAMES)) == 10
    assert NAMES[0] == "ground"
    colours = sorted(colour for _, colour in CLASSES)
    assert all(first != second for first, second in pairwise(colours))
    assert VOID_COLOR not in colours


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", 0), "split must be one of train, val"),
        (("val", -1), "index must not be negative"),
        (("val", 0, 64), "size must be at least 65 pixels"),
        (("val", 0, 65.5), "size must be a positive integer"),
        (("val", 0, 65, -3), "seed must not be negative"),
    ],
)
def test_invalid_scene_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        scene(*arguments)
