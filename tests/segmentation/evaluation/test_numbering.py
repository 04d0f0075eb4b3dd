"""Predictions in another numbering than the labels': which are noticed, and that a bad system is not taken for one."""

import json

import numpy as np
import pytest
from helpers.command import run
from PIL import Image

from dense_resnet.errors import InputError
from segmentation.data.label_space import LabelSpace
from segmentation.data.label_tables import ADE20K, CITYSCAPES
from segmentation.data.layouts import open_dataset
from segmentation.evaluation.evaluate import Evaluation
from segmentation.evaluation.numbering import numbering_doubt, outside_cause
from segmentation.evaluation.results import read_result
from segmentation.evaluation.systems import SavedPredictions
from segmentation.metrics.confusion import image_counts

NAMES = ["sky", "road", "car", "tree", "lamp"]
PLAIN = LabelSpace.from_json({"classes": NAMES})
MAPPED = LabelSpace.from_json({"classes": NAMES, "mapping": {"0": 255, "1": 3, "2": 2, "3": 0, "4": 1, "40": 4}})
TRAIN_IDS = LabelSpace(CITYSCAPES.classes)
RAW = dict(CITYSCAPES.mapping)


def matrix_of(space, renumber, accuracy=1.0, classes=(0, 1, 2), shares=(0.8, 0.15, 0.05)):
    """The matrix of predictions of that accuracy, whose classes are then renumbered."""
    generator = np.random.default_rng(0)
    label = generator.choice(classes, 4000, p=shares)
    found = np.where(generator.random(4000) < accuracy, label, generator.choice(classes, 4000))
    return image_counts(label, np.vectorize(renumber)(found), space.num_classes, 255)


@pytest.mark.parametrize("of_model", [False, True])
@pytest.mark.parametrize("accuracy", [1.0, 0.9])
@pytest.mark.parametrize(
    ("space", "renumber", "words", "remedy"),
    [
        (
            CITYSCAPES,
            lambda found: {0: 7, 1: 8, 2: 11}[found],
            "mapped from labelIds to trainIds",
            ": they look like labelIds, not trainIds. Convert the predictions (7 -> 0, 8 -> 1, 11 -> 2): --label-map maps the "
            "labels only. Or, if the label files contain trainIds already, read them with --label-map trainIds.",
        ),
        (
            TRAIN_IDS,
            lambda found: {0: 7, 1: 8, 2: 11}[found],
            "mapped from labelIds to trainIds",
            "they look like labelIds, not trainIds. Convert the predictions (7 -> 0, 8 -> 1, 11 -> 2): --label-map maps the "
            "labels only.",
        ),
        (
            MAPPED,
            lambda found: {0: 3, 1: 4, 2: 2}[found],
            "mapped as the label files are (by a label map or reduce_zero_label)",
            "they look like raw values of the label files, not classes. Convert the predictions (3 -> 0, 4 -> 1): --label-map",
        ),
        (ADE20K, lambda found: found + 1, "mapped as the label files are (by a label map or reduce_zero_label)", "(1 -> 0, 2"),
        (PLAIN, lambda found: found + 1, "less 1", "they look one-based. Subtract 1 from every prediction."),
        (PLAIN, lambda found: (found + 2) % 5, "renumbered (2 -> 0, 3 -> 1, 4 -> 2)", "their classes seem to be in another or"),
        (PLAIN, lambda found: {0: 1, 1: 0, 2: 2}[found], "renumbered (0 -> 1, 1 -> 0)", "their classes seem to be in another"),
    ],
)
def test_another_numbering_is_named(space, renumber, words, remedy, accuracy, of_model):
    matrix = matrix_of(space, renumber, accuracy)
    doubt = numbering_doubt(matrix, space, of_model=of_model)
    found = 100 * np.diag(matrix_of(space, lambda found: found, accuracy)).sum() / 4000
    own = 100 * np.diag(matrix).sum() / 4000
    whose = "the model's" if of_model else "the"
    start = f"{words}, {whose} predictions equal the labels on {found:.1f} % of the scored pixels (as they are: {own:.1f} %): "
    assert doubt.startswith(start)
    if of_model:
        assert doubt.removeprefix(start).startswith(
            "the labels are not numbered as its classes. Read the labels as in training"
        )
    else:
        assert remedy in doubt


def test_labels_in_another_numbering_are_named():
    matrix = matrix_of(PLAIN, lambda found: found - 1, classes=(1, 2, 3))
    doubt = numbering_doubt(matrix, PLAIN, of_model=False)
    assert doubt.startswith("plus 1, the predictions equal the labels on 100.0 % of the scored pixels (as they are: 0.0 %)")
    assert "Read one-based labels with --label-map reduce_zero_label" in doubt
    matrix = matrix_of(TRAIN_IDS, lambda found: {7: 0, 8: 1, 11: 2}[found], classes=(7, 8, 11))
    doubt = numbering_doubt(matrix, TRAIN_IDS, of_model=False)
    assert doubt.startswith("with the labels mapped from labelIds to trainIds, the predictions equal the labels on 100.0 %")
    assert doubt.endswith("the labels look like labelIds, not trainIds. Read them with --label-map labelIds.")


def test_inverted_masks():
    space = LabelSpace.from_json({"classes": ["background", "cell"]})
    for accuracy in (1.0, 0.9):
        matrix = matrix_of(space, lambda found: 1 - found, accuracy, (0, 1), (0.9, 0.1))
        assert "renumbered (0 -> 1, 1 -> 0), the predictions equal" in numbering_doubt(matrix, space, of_model=False)


@pytest.mark.parametrize("space", [PLAIN, CITYSCAPES, TRAIN_IDS, MAPPED, ADE20K])
def test_a_bad_system_is_not_taken_for_a_renumbered_one(space):
    generator = np.random.default_rng(1)
    used = [
        matrix_of(space, lambda found: found),  # all right
        matrix_of(space, lambda found: found, 0.4),
        matrix_of(space, lambda found: 0 * found),  # collapsed to the background
        matrix_of(space, lambda found: 0 * found + 1),
        matrix_of(space, lambda found: min(found, 1)),  # one class always taken for another
        matrix_of(space, lambda found: {0: 0, 1: 2, 2: 2}[found]),
        matrix_of(space, lambda found: int(generator.integers(0, 5))),
        matrix_of(space, lambda found: found + 1, classes=(0, 1), shares=(1, 0)),  # of one class, it shows nothing
        np.zeros((space.num_classes,) * 2, np.int64),
    ]
    for number, matrix in enumerate(used):
        for of_model in (False, True):
            assert numbering_doubt(matrix, space, of_model=of_model) is None, number


@pytest.mark.parametrize(
    ("space", "values", "cause"),
    [
        (
            CITYSCAPES,
            [7, 8, 26],
            "Are these labelIds, not trainIds? Convert the predictions (7 -> 0, 8 -> 1, 26 -> 13): --label",
        ),
        (
            TRAIN_IDS,
            [7, 8, 26, 255],
            "Are these labelIds, not trainIds? Convert the predictions (7 -> 0, 8 -> 1, 26 -> 13): --",
        ),
        (
            MAPPED,
            [3, 40],
            "Are these raw values of the label files, not classes? Convert the predictions (3 -> 0, 40 -> 4): --",
        ),
        (PLAIN, [1, 2, 5], "The predictions look one-based: subtract 1 from each."),
        (PLAIN, [0, 2, 255], "Every pixel needs a class: only the ground truth has an ignore label."),
        (CITYSCAPES, [0, 255], "Every pixel needs a class: only the ground truth has an ignore label."),
        (
            PLAIN,
            [0, 7, 90],
            "Every pixel needs a class: only the ground truth has an ignore label. Are the classes one-based",
        ),
        (LabelSpace(PLAIN.classes[:2]), [0, 255], "Is this a mask of 0 and 255? Save its classes as 0 and 1."),
    ],
)
def test_the_cause_of_values_outside(space, values, cause):
    assert outside_cause(np.array([values]), space).startswith(cause)


# -- the run -----------------------------------------------------------------------------------------------------------


def write_cityscapes(root, count=6, classes=(7, 8, 11)):
    """Labels as labelIds, and predictions beside them that are equal to the files."""
    for number in range(count):
        label = np.random.default_rng(number).choice(np.array(classes, np.uint8), (12, 16))
        name = f"city/city_{number:06}_000019"
        for path, pixels in (
            (f"data/leftImg8bit/val/{name}_leftImg8bit.png", np.zeros((12, 16, 3), np.uint8)),
            (f"data/gtFine/val/{name}_gtFine_labelIds.png", label),
            (f"predictions/{name}.png", label),
        ):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / path)
    dataset = open_dataset(root / "data", "val")
    return dataset, SavedPredictions(root / "predictions", dataset.space, dataset.samples)


def test_label_ids_are_noticed_by_the_command_and_on_the_page(capsys, tmp_path):
    write_cityscapes(tmp_path)
    arguments = ["evaluate", tmp_path / "data", "--predictions", tmp_path / "predictions", "--out", tmp_path / "out"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    [warning] = json.loads((tmp_path / "out" / "evaluation.json").read_text())["warnings"]
    assert "equal the labels on 100.0 % of the scored pixels (as they are: 0.0 %): they look like labelIds" in warning
    assert f"warning: {warning}\n" in out
    assert "mean IoU 0.0000" in out
    assert warning.partition(" (7 ->")[0] in (tmp_path / "out" / "report" / "index.html").read_text()
    for shard in ("0/2", "1/2"):
        assert run(capsys, *arguments[:-1], tmp_path / "shards", "--shard", shard)[0] == 0
    assert f"warning: {warning}\n" in run(capsys, *arguments[:-1], tmp_path / "shards", "--merge")[1]


def test_the_warning_is_of_the_whole_run(tmp_path):
    """However it was stopped; and an image alone, which may look right, does not take it back."""
    dataset, folder = write_cityscapes(tmp_path)
    whole = Evaluation(folder, dataset, tmp_path / "whole").run(report=False).result
    asked = []
    stopped = Evaluation(folder, dataset, tmp_path / "out").run(stop=lambda: asked.append(0) or len(asked) > 15, report=False)
    assert stopped.stopped
    assert Evaluation(folder, dataset, tmp_path / "out").run(report=False).result == whole
    assert whole["warnings"] == read_result(tmp_path / "out")[0]["warnings"] != []


def test_label_ids_outside_the_classes_are_named(tmp_path):
    dataset, folder = write_cityscapes(tmp_path, classes=(7, 8, 26))
    with pytest.raises(
        InputError, match=r"000000_000019\.png: prediction value 26 .* is outside 0\.\.18\. Are these labelIds, n"
    ):
        Evaluation(folder, dataset, tmp_path / "out").run()


def test_no_warning_where_there_is_no_doubt(tmp_path):
    dataset, folder = write_cityscapes(tmp_path)
    for path in (tmp_path / "predictions").rglob("*.png"):
        Image.fromarray(np.vectorize(RAW.get)(np.array(Image.open(path))).astype(np.uint8)).save(path)
    result = Evaluation(folder, dataset, tmp_path / "out").run(report=False).result
    assert (result["mean_iou"], result["warnings"]) == (1, [])
