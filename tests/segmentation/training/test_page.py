"""The page of a training: its advice follows the figures, and it shows predictions, curves and classes."""

import re

import pytest
from helpers.trainings import make, make_data

from segmentation.training.page import find_advice
from segmentation.training.recipe import FOLDER

RECIPE = {"steps": 300, "class_weights": None}


def validation(step, mean, seen=None, ious=(0.6, 0.6)):
    return {"step": step, "mean_iou": mean, "training_mean_iou": mean if seen is None else seen, "class_iou": list(ious)}


@pytest.mark.parametrize(
    ("validations", "warnings", "expected"),
    [
        ([validation(n, 0.3) for n in (100, 200, 300)], ["collapsed"], "collapsed to one class"),
        ([validation(n, 0.9) for n in (100, 200, 300)], ["collapsed"], "Nothing stands out"),  # it has recovered
        ([validation(100, 0.6), validation(200, 0.6), validation(300, 0.6, 0.9)], [], "it overfits"),
        ([validation(100, 0.4), validation(200, 0.5), validation(300, 0.6)], [], "--steps 600 continues it"),
        ([validation(100, 0.5), validation(200, 0.6), validation(300, 0.595)], [], "Nothing stands out"),
        ([validation(50, 0.4), validation(100, 0.5), validation(150, 0.6)], [], "This is step 150 of 300"),
        ([validation(n, 0.6, ious=(0.9, 0.2)) for n in (100, 200, 300)], [], "Far below the mean: cat.*--class-weights"),
        ([{**validation(100, 0.6), "mean_iou": None}], [], "No validation image has a labeled pixel"),
    ],
)
def test_advice_follows_the_figures(validations, warnings, expected):
    [advice] = find_advice(RECIPE, validations, ["dog", "cat"], [900, 100], warnings)
    assert re.search(expected, advice)


def test_classes_without_training_pixels_get_no_advice():
    found = find_advice(RECIPE, [validation(300, 0.6, ious=(0.9, 0.0))], ["dog", "cat"], [900, 0], [])
    assert found[0].startswith("Nothing stands out")


def test_the_page_of_a_run(tmp_path):
    data = make_data(tmp_path / "data")
    out = tmp_path / "out"
    make(data, out, validation="val", steps=20, validate_every=5, save_every=10).run()
    page = (out / FOLDER / "index.html").read_text()
    for anchor in ("next", "curves", "classes", "examples", "options"):
        assert f'id="{anchor}"' in page
    shown = set(re.findall(r'src="(pictures/[^"]+)"', page))
    assert {f"pictures/0-{name}.jpg" for name in ("image", "label", "000005", "000010", "000015", "000020")} <= shown
    assert all((out / FOLDER / name).is_file() for name in shown)
    assert page.count("<polyline") == 4  # two of mean IoU, the loss, the learning rate
    assert "<script" not in page
