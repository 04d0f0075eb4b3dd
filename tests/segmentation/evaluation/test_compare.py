"""Comparing two evaluations: paired resamples of the same images, and nothing that does not compare."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers.command import run
from PIL import Image

from dense_resnet.errors import InputError
from segmentation import metrics
from segmentation.data.layouts import open_dataset
from segmentation.evaluation.evaluate import DEFINITION, Evaluation
from segmentation.evaluation.results import compare, read_result
from segmentation.evaluation.systems import SavedPredictions
from segmentation.metrics.presets import Switches

NAMES = ["sky", "road", "[lamp]"]  # of which the last is nowhere
IMAGES = 12


def prediction_of(label, seed, wrong):
    """`label` with a share of the pixels wrong."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(label.shape) < wrong, 1 - np.minimum(label, 1), np.minimum(label, 1)).astype(np.uint8)


def evaluate_predictions(root, name, wrong, switches=DEFINITION, keep=IMAGES):
    """Evaluates predictions of that badness."""
    for number in range(IMAGES):
        path = root / "pairs" / "labels" / f"{number:02}.png"
        if not path.exists():
            for folder in ("images", "labels"):
                (root / "pairs" / folder).mkdir(parents=True, exist_ok=True)
            label = np.random.default_rng(number).integers(0, 2, (20, 24)).astype(np.uint8)
            label[0] = 255
            Image.fromarray(label).save(path)
            Image.new("RGB", (24, 20)).save(root / "pairs" / "images" / path.name)
            (root / "pairs" / "dataset.json").write_text(json.dumps({"classes": NAMES}))
        (root / f"{name}-labels").mkdir(exist_ok=True)
        predicted = prediction_of(np.array(Image.open(path)), 100 + number, wrong)
        Image.fromarray(predicted).save(root / f"{name}-labels" / path.name)
    dataset = open_dataset(root / "pairs")
    folder = SavedPredictions(root / f"{name}-labels", dataset.space, dataset.samples)
    for path in list((root / "pairs" / "images").iterdir())[keep:]:
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    Evaluation(folder, dataset, root / name, switches).run(on_error="skip", report=False)
    return root / name


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three evaluations on the same images: "good", "bad", and "good" once more as "same"."""
    root = tmp_path_factory.mktemp("compare")
    made = {name: evaluate_predictions(root, name, wrong) for name, wrong in (("good", 0.1), ("bad", 0.2))}
    return made | {"same": evaluate_predictions(root, "same", 0.1)}


def test_identical_evaluations(folders):
    for other in ("good", "same"):
        found = compare(folders["good"], folders[other])
        mean = found["mean_iou"]
        assert mean["first"] == mean["second"] == read_result(folders["good"])[0]["mean_iou"]
        assert (mean["difference"], mean["interval"], mean["p_value"]) == (0, [0, 0], 1)
        assert [one["difference"] for one in found["classes"]] == [0, 0, None]
        assert found["differing"] == []
        assert found["images"] == IMAGES


def test_few_images_give_no_interval_and_no_p_value(capsys, tmp_path):
    """Of one image, the p-value was 0.0010 where the systems differ at all."""
    for keep in (1, 4):
        root = tmp_path / str(keep)
        one, two = (evaluate_predictions(root, name, wrong, keep=keep) for name, wrong in (("a", 0.1), ("b", 0.3)))
        code, out, _ = run(capsys, "compare", one, two, "--json", tmp_path / "c.json")
        assert code == 0
        found = json.loads((tmp_path / "c.json").read_text())
        mean = found["mean_iou"]
        assert mean["difference"] == mean["first"] - mean["second"] > 0
        assert (mean["interval"], mean["p_value"], mean["not_better"]) == (None, None, None)
        assert [each["interval"] for each in found["classes"]] == [None] * 3
        images = "1 image" if keep == 1 else "4 images"
        assert f"{images}: too few images to tell; intervals and a p-value need at least 5 with scored pixels" in out
        assert "p = " not in out
        assert "*" not in out


def test_a_class_of_few_images(capsys, tmp_path):
    for name, wrong in (("a", 0.1), ("b", 0.3)):
        evaluate_predictions(tmp_path, name, wrong)
    label = np.array(Image.open(tmp_path / "pairs" / "labels" / "00.png"))
    Image.fromarray(np.where(label == 1, 2, label)).save(tmp_path / "pairs" / "labels" / "00.png")
    dataset = open_dataset(tmp_path / "pairs")
    for name in "ab":
        folder = SavedPredictions(tmp_path / f"{name}-labels", dataset.space, dataset.samples)
        Evaluation(folder, dataset, tmp_path / name).run(report=False)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert [each["interval"] is None for each in found["classes"]] == [False, False, True]
    assert found["classes"][2]["difference"] == 0
    out = run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]
    assert "(two-sided)" in out
    assert "intervals need at least 5 images, and for a class, 5 that contain it" in out


def test_an_undefined_mean_has_no_p_value(capsys, tmp_path):
    nan = Switches(absent="nan")  # a class is nowhere
    one, two = (evaluate_predictions(tmp_path, name, wrong, nan) for name, wrong in (("a", 0.1), ("b", 0.3)))
    assert compare(one, two)["mean_iou"]["p_value"] is None
    out = run(capsys, "compare", one, two)[1]
    assert "12 images: a mean IoU is undefined, so there is no difference to judge" in out
    assert "p = " not in out


def test_a_better_system_differs_significantly(folders):
    found = compare(folders["good"], folders["bad"])
    good, bad = (read_result(folders[name])[0] for name in ("good", "bad"))
    mean = found["mean_iou"]
    assert (mean["first"], mean["second"]) == (good["mean_iou"], bad["mean_iou"])
    assert mean["difference"] == pytest.approx(good["mean_iou"] - bad["mean_iou"], abs=1e-12)
    assert 0.1 < mean["interval"][0] < mean["difference"] < mean["interval"][1]
    assert mean["not_better"] == 0
    assert mean["p_value"] == 2 / 2001
    for one, own, other in zip(found["classes"], good["classes"], bad["classes"], strict=True):
        assert (one["name"], one["first"], one["second"]) == (own["name"], own["iou"], other["iou"])
        assert (one["interval"] is None) == (own["iou"] is None)
    assert (found["resamples"], found["seed"]) == (2000, 0)
    back = compare(folders["bad"], folders["good"])["mean_iou"]
    assert back["difference"] == -mean["difference"]
    assert back["interval"] == pytest.approx([-end for end in mean["interval"][::-1]])
    assert back["not_better"] == 1


def test_the_difference_is_under_the_switches(tmp_path):
    zero = Switches(absent="zero")
    one, two = (evaluate_predictions(tmp_path, name, wrong, zero) for name, wrong in (("a", 0.1), ("b", 0.3)))
    found, result = compare(one, two), read_result(one)[0]
    assert found["mean_iou"]["first"] == result["mean_iou"] == metrics.mean_iou(result["matrix"], "zero")
    assert found["mean_iou"]["difference"] == pytest.approx(found["mean_iou"]["first"] - found["mean_iou"]["second"])
    assert found["classes"][2]["first"] is None  # by the definition


@pytest.mark.parametrize("scope", ["image", "image_class"])
def test_comparison_under_another_scope_is_noted(scope, capsys, tmp_path):
    """The dataset's counts are, and so not the figure that the evaluations gave."""
    switches = Switches(scope=scope)
    one, two = (evaluate_predictions(tmp_path, name, wrong, switches) for name, wrong in (("a", 0.1), ("b", 0.3)))
    found, result = compare(one, two), read_result(one)[0]
    assert found["scopes"] == [scope, scope]
    assert found["mean_iou"]["first"] == metrics.mean_iou(result["matrix"]) != result["mean_iou"]
    out = run(capsys, "compare", one, two)[1]
    assert f"│ dataset mean IoU │ {found['mean_iou']['first']:.4f} " in out
    assert f"the evaluations' own mean IoU has scope {scope}, which is another figure: what is compared is the mean" in out


def test_protocols_that_differ(tmp_path):
    one = evaluate_predictions(tmp_path, "one", 0.1)
    two = evaluate_predictions(tmp_path, "two", 0.2, Switches(absent="zero"))
    with pytest.raises(
        InputError, match=r"different protocols \(switches.absent: 'exclude' and 'zero'\)\. .*--force compares them anyway"
    ):
        compare(one, two)
    found = compare(one, two, force=True)
    assert found["differing"] == ["switches.absent: 'exclude' and 'zero'"]
    assert found["mean_iou"]["second"] == pytest.approx(metrics.mean_iou(read_result(two)[0]["matrix"]))


def test_long_values_that_differ_are_marked(tmp_path):
    one, two = evaluate_predictions(tmp_path, "one", 0.1), evaluate_predictions(tmp_path, "two", 0.2)
    copy_edited(two, tmp_path / "three", lambda result: result["protocol"].update(split="x" * 200))
    with pytest.raises(InputError, match=r"\(split: 'all' and 'x{99}…\)"):
        compare(one, tmp_path / "three")


def test_images_that_differ(tmp_path):
    one = evaluate_predictions(tmp_path, "one", 0.1)
    two = evaluate_predictions(tmp_path, "two", 0.2, keep=9)
    with pytest.raises(InputError, match=r"different protocols \(split_sha256: other images\)"):
        compare(one, two)
    found = compare(one, two, force=True)
    assert found["images"] == 9
    assert found["mean_iou"]["second"] == pytest.approx(read_result(two)[0]["mean_iou"])
    assert found["mean_iou"]["first"] != read_result(one)[0]["mean_iou"]


def copy_edited(folder, out, edit, file="evaluation.json"):
    """A copy whose JSON (for the log: its first line) has been changed."""
    shutil.copytree(folder, out)
    first, *rest = (out / file).read_text().splitlines() if file.endswith("l") else [(out / file).read_text()]
    value = json.loads(first)
    edit(value)
    (out / file).write_text("\n".join([json.dumps(value), *rest]) + "\n")
    return out


def test_labels_or_images_or_classes_that_differ(folders, tmp_path):
    def other_labels(line):
        line["matrix"] = sorted([1 - true, found, count] for true, found, count in line["matrix"])
        line["boundary"] = line["trimap"] = []
        line.pop("crc32")

    def their_sum(result):
        result["matrix"] = np.sum([dense(line["matrix"]) for line in lines(tmp_path / "labels")], axis=0).tolist()

    copy_edited(folders["good"], tmp_path / "labels", other_labels, "images.jsonl")
    copy_edited(tmp_path / "labels", tmp_path / "both", their_sum)
    with pytest.raises(InputError, match=r"have scored different labels of 00, so they are not comparable"):
        compare(folders["good"], tmp_path / "both")
    copy_edited(folders["good"], tmp_path / "classes", lambda result: result["classes"][0].update(name="night"))
    with pytest.raises(InputError, match=r"different classes: sky, road, \[lamp\]; and night, road, \[lamp\]"):
        compare(folders["good"], tmp_path / "classes", force=True)
    shutil.copytree(folders["good"], tmp_path / "names")
    log = tmp_path / "names" / "images.jsonl"
    log.write_text(re.sub(', "crc32": "[0-9a-f]*"', "", log.read_text().replace('{"path": "', '{"path": "other/')))
    with pytest.raises(InputError, match="have no scored image in common"):
        compare(folders["good"], tmp_path / "names")


def test_labels_that_differ_in_any_image(folders, tmp_path):
    shutil.copytree(folders["good"], tmp_path / "out")
    log = tmp_path / "out" / "images.jsonl"
    each = lines(tmp_path / "out")
    each[7]["matrix"] = sorted([1 - true, found, count] for true, found, count in each[7]["matrix"])
    each[7]["boundary"] = each[7]["trimap"] = []
    each[7].pop("crc32")
    log.write_text("".join(json.dumps(line) + "\n" for line in each))
    total = np.sum([dense(line["matrix"]) for line in each], axis=0).tolist()
    copy_edited(tmp_path / "out", tmp_path / "both", lambda result: result.update(matrix=total))
    with pytest.raises(InputError, match=r"have scored different labels of 07, so they are not comparable"):
        compare(folders["good"], tmp_path / "both")


def lines(folder):
    return [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]


def dense(entries):
    counts = np.zeros((3, 3), int)
    for true, found, count in entries:
        counts[true, found] = count
    return counts


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda result: result.pop("mean_iou"), r"is not an evaluation, or is damaged \(KeyError\('mean_iou'\)\)"),
        (lambda result: result.pop("protocol"), "is not an evaluation, or is damaged"),
        (lambda result: result["protocol"]["switches"].update(absent="maybe"), "is not an evaluation, or is damaged"),
        (lambda result: result["protocol"]["switches"].update(more=1), "is not an evaluation, or is damaged"),
        (lambda result: result.update(classes=[]), "is not an evaluation, or is damaged"),
        (lambda result: result["classes"][1].update(name=7), "is not an evaluation, or is damaged"),
        (lambda result: result.update(format=2), "format 2 is not read by this version, which reads 1"),
    ],
)
def test_a_damaged_result(edit, message, folders, tmp_path):
    copy_edited(folders["good"], tmp_path / "out", edit)
    with pytest.raises(InputError, match=rf"out/evaluation\.json: {message}"):
        compare(tmp_path / "out", folders["bad"])


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_invalid_result_files_are_refused(text, folders, tmp_path):
    (tmp_path / "evaluation.json").write_bytes(text)
    with pytest.raises(InputError, match=r"evaluation\.json: is not an evaluation, or is damaged .*Run evaluate again"):
        compare(folders["bad"], tmp_path / "evaluation.json")
    with pytest.raises(InputError, match=r"nowhere: cannot be read: No such file"):
        compare(folders["bad"], tmp_path / "nowhere")


def test_a_log_that_is_not_what_the_result_was_made_of(folders, tmp_path):
    shutil.copytree(folders["good"], tmp_path / "out")
    log = tmp_path / "out" / "images.jsonl"
    text = log.read_text()
    log.write_text("".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"images\.jsonl: its counts are not those of evaluation\.json\. Run evaluate again"):
        compare(tmp_path / "out", folders["bad"])
    log.write_text(text + "{broken\n")
    with pytest.raises(InputError, match=r"images\.jsonl, line 13: damaged\. Delete that line"):
        compare(tmp_path / "out", folders["bad"])
    log.write_text(text.replace('"scored": 4', '"scored": 5', 1))
    with pytest.raises(InputError, match=r"images\.jsonl, line 1: damaged\. Delete that line"):
        compare(tmp_path / "out", folders["bad"])
    log.unlink()
    with pytest.raises(InputError, match=r"images\.jsonl: cannot be read: No such file"):
        compare(tmp_path / "out", folders["bad"])


def test_command_prints_the_figures_of_compare(capsys, folders, tmp_path):
    code, out, _ = run(capsys, "compare", folders["good"], folders["bad"], "--json", tmp_path / "c.json")
    assert code == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert found == compare(folders["good"], folders["bad"])
    assert found["scopes"] == ["dataset", "dataset"]
    assert "scope" not in out
    mean = found["mean_iou"]
    row = next(line for line in out.splitlines() if "mean IoU" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    low, high = mean["interval"]
    figures = [f"{mean['first']:.4f}", f"{mean['second']:.4f}", f"{mean['difference']:+.4f}", f"{low:+.4f} to {high:+.4f} *"]
    assert cells == ["mean IoU", *figures]
    assert "[lamp]" in out
    assert "12 images, 2000 resamples; p = 0.0010 (two-sided) for the difference of the mean IoUs" in out
    row = next(line for line in run(capsys, "compare", folders["good"], folders["same"])[1].splitlines() if "mean IoU" in line)
    assert "+0.0000 to +0.0000" in row
    assert "*" not in row


def test_command_refuses_other_protocols_unless_forced(capsys, folders, tmp_path):
    copy_edited(folders["bad"], tmp_path / "bad", lambda result: result["protocol"].update(split="test"))
    code, out, err = run(capsys, "compare", folders["good"], tmp_path / "bad")
    assert (code, out) == (1, "")
    assert "were evaluated by different protocols (split: 'all' and 'test')" in err
    code, out, _ = run(capsys, "compare", folders["good"], tmp_path / "bad", "--force")
    assert code == 0
    assert "protocols differ: split: 'all' and 'test'" in out
    code, _, err = run(capsys, "compare", folders["good"], tmp_path)
    assert code == 1
    assert err.startswith(f"error: {tmp_path}: contains no evaluation.json")
