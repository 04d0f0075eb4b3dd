"""Model directories: what goes in comes out, to the bit; and whatever is wrong with one is said."""

import dataclasses
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.datasets import FIVE_CLASSES
from helpers.folders import names, room_for
from helpers.networks import BLOCKS, images_of, small_model

import dense_resnet as dr
from dense_resnet import checkpoints
from dense_resnet.backbone import Backbone
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError
from segmentation.data.label_space import LabelClass, LabelSpace, reduce_zero_label
from segmentation.heads.plan import HEADS
from segmentation.model import SegmentationModel
from segmentation.saving.description import DESCRIPTION, WEIGHTS
from segmentation.saving.model_directory import load_backbone, load_model, read_outline, read_plan, save_model

IMAGES = images_of((40, 70))


def edit(folder, **changes):
    """Writes other values into model.json."""
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same(one, two):
    """Whether two models compute the same: plan, head and every bit of the weights."""
    weights, others = one.weights, two.weights
    return (
        (one.backbone.plan, one.head) == (two.backbone.plan, two.head)
        and weights.keys() == others.keys()
        and all(np.array_equal(value, others[name]) for name, value in weights.items())
    )


@pytest.fixture
def model():
    return small_model("fcn")


@pytest.fixture
def saved(model, tmp_path):
    """The folder of a small model."""
    save_model(tmp_path / "model", model, FIVE_CLASSES, training={"step": 7})
    return tmp_path / "model"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", [{}, {"separable": False, "image_pooling_crop": (65, 97)}, {"image_pooling_crop": 65}])
def test_a_saved_model_is_loaded_unchanged(head, options, tmp_path):
    model = small_model(head, **options)
    save_model(tmp_path, model, FIVE_CLASSES, preprocessing="torch", training={"step": 7})
    assert names(tmp_path) == [DESCRIPTION, WEIGHTS]
    loaded = load_model(tmp_path)
    plan = dataclasses.replace(model.backbone.plan, preprocessing="torch")
    assert loaded.model.backbone.plan == plan
    model.backbone.plan = plan
    assert same(loaded.model, model)
    assert loaded.space == FIVE_CLASSES
    assert (loaded.preprocessing, loaded.training, loaded.path) == ("torch", {"step": 7}, tmp_path)
    assert loaded.weights_sha256 == checkpoints.fingerprint(model.weights)


def test_logits_are_equal_to_the_bit(tmp_path):
    model = small_model("decoder", image_pooling_crop=(65, 97))
    save_model(tmp_path, model, FIVE_CLASSES)
    np.testing.assert_array_equal(load_model(tmp_path).model(IMAGES), model(IMAGES))


def test_a_variant_and_multi_grid(tmp_path):
    plan = dr.plan("resnet_v1_18", output_stride=8, multi_grid=(2, 4))
    model = SegmentationModel(Backbone(plan, seed=1), 5, "fcn", seed=1)
    save_model(tmp_path, model, FIVE_CLASSES)
    described = json.loads((tmp_path / DESCRIPTION).read_text())
    assert (described["plan"], described["output_stride"], described["multi_grid"]) == ("resnet_v1_18", 8, [2, 4])
    loaded = load_model(tmp_path)
    assert same(loaded.model, model)
    assert loaded.preprocessing == plan.preprocessing == "vgg"


def test_own_blocks_with_multi_grid_and_four_channels(tmp_path):
    plan = dr.plan(BLOCKS, output_stride=8, multi_grid=(2,), in_channels=4, scope="tiny", kind="bottleneck_v1")
    model = SegmentationModel(Backbone(plan, seed=1), 5, "aspp", seed=1)
    save_model(tmp_path, model, FIVE_CLASSES)
    assert same(load_model(tmp_path).model, model)


def test_a_classifier_beside_the_head(tmp_path):
    backbone = Backbone(dr.plan(BLOCKS, output_stride=16, scope="tiny", kind="bottleneck_v1", num_classes=10), seed=1)
    model = SegmentationModel(backbone, 5, "fcn", seed=1)
    save_model(tmp_path, model, FIVE_CLASSES)
    loaded = load_model(tmp_path)
    assert same(loaded.model, model)
    assert loaded.weights_sha256 == checkpoints.fingerprint(loaded.model.weights)


def test_a_label_space_without_an_ignore_label_and_one_with_a_mapping(model, tmp_path):
    bare = LabelSpace(tuple(LabelClass(name, (1, 2, 3)) for name in FIVE_CLASSES.names), None)
    save_model(tmp_path, model, bare)
    assert load_model(tmp_path).space == bare
    save_model(tmp_path, model, reduce_zero_label(FIVE_CLASSES))  # how files are read is the dataset's affair
    assert load_model(tmp_path).space == FIVE_CLASSES
    assert list(json.loads((tmp_path / DESCRIPTION).read_text())) == [
        "format", "plan", "root", "output_stride", "multi_grid", "in_channels", "head", "canvas", "classes",
        "ignore_label", "preprocessing", "origin", "training", "weights_sha256",
    ]  # fmt: skip


def test_another_output_stride_keeps_the_weights_and_the_rates_follow(tmp_path):
    model = small_model("aspp", output_stride=16)
    save_model(tmp_path, model, FIVE_CLASSES)
    finer = load_model(tmp_path, 8)
    assert [branch[0].rate for branch in finer.model.head.branches] == [1, 12, 24, 36]
    assert finer.weights_sha256 == checkpoints.fingerprint(finer.model.weights) == load_model(tmp_path).weights_sha256
    assert same(finer.model, small_model("aspp", output_stride=8))
    for impossible, message in ((0, "must be a positive integer"), (7, "valid: 4, 8, 16, 32")):
        with pytest.raises(InputError, match=f"model.json: .*output_stride .*{message}"):
            load_model(tmp_path, impossible)


def test_batch_norm_decays_are_set_on_loading(saved):
    model = load_model(saved, batch_norm_decays=(0.5, 0.25)).model
    assert (model.backbone._decay, model._decay) == (0.5, 0.25)


def test_class_names_can_be_edited_by_hand(saved):
    described = json.loads((saved / DESCRIPTION).read_text())
    described["classes"][1] = {"name": "street", "color": [9, 9, 9]}
    (saved / DESCRIPTION).write_text(json.dumps(described))
    assert load_model(saved).space.classes[1] == LabelClass("street", (9, 9, 9))


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_flipped_byte_in_the_weights(saved, place):
    data = bytearray((saved / WEIGHTS).read_bytes())
    header = int.from_bytes(data[:8], "little")
    data[8 + header + int(place * (len(data) - header - 8))] ^= 4
    (saved / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match=r"weights.safetensors: .* does not match its checksum.* damaged"):
        load_model(saved)


def test_truncated_weights(saved):
    os.truncate(saved / WEIGHTS, (saved / WEIGHTS).stat().st_size // 2)
    with pytest.raises(InputError, match=r"weights.safetensors: cannot be read as safetensors"):
        load_model(saved)


def other_files(folder):
    """(what is taken for a model directory, what the message says that it is)."""
    (folder / "data").mkdir()
    (folder / "data" / "list.txt").write_text("a.png")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "model.ckpt-7.index").touch()
    (folder / "exported").mkdir()
    (folder / "exported" / "saved_model.pb").touch()
    (folder / "picture").write_bytes(b"\x89PNG\r\n")
    (folder / "w.pth").write_bytes(bytes(range(128, 256)))
    (folder / "other").write_bytes(bytes(range(128, 256)))
    (folder / "empty").mkdir()
    (folder / "models" / "a").mkdir(parents=True)
    (folder / "models" / "a" / DESCRIPTION).write_text("{}")
    yield "nothing", "nothing: no such folder. A model directory is expected"
    yield "resnet_v1_18", "resnet_v1_18: this is the name of a variant, which has no weights"
    yield "data", r"data: this is a folder of other files \(list.txt\), not a model directory"
    yield "checkpoints", "checkpoints: this is a folder of TensorFlow checkpoints, not"
    yield "checkpoints/model.ckpt-7", "model.ckpt-7: this is a file of weights, not"
    yield "exported", "exported: this is a SavedModel, not"
    yield "picture", "picture: this is a PNG picture, not"
    yield "w.pth", "w.pth: this is a file of weights, not"
    yield "other", "other: this is a file, not"
    yield "empty", "empty: this is an empty folder, not"
    yield "models", r"models: this is a folder that contains model directories \(a\), not"
    yield "models/a/model.json", "model.json: this is one file of a model directory. Pass the folder, models/a"


def test_paths_other_than_model_directories_are_identified(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, message in other_files(tmp_path):
        for load in (load_model, load_backbone, read_plan, read_outline):
            with pytest.raises(InputError, match=message):
                load(path)


def test_outline_and_plan_are_read_without_the_weights(saved, model):
    """From model.json, or from the weights' copy: where there is no model.json, and where a kill left an older one."""
    expected = load_model(saved)
    for change in (lambda: None, lambda: edit(saved, weights_sha256="0", output_stride=8), (saved / DESCRIPTION).unlink):
        change()
        outline = read_outline(saved)
        assert (outline.plan, outline.head, outline.space) == (expected.plan, expected.head, expected.space)
        assert read_plan(saved) == expected.plan
    assert read_outline(saved, 8).plan.output_stride == 8
    safetensors.write(saved / WEIGHTS, model.weights)
    with pytest.raises(InputError, match=r"has no model\.json, and weights\.safetensors does not record its network either"):
        read_outline(saved)


def test_missing_weights(saved):
    (saved / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"weights.safetensors: no such file"):
        load_model(saved)


def test_without_model_json_the_copy_in_the_weights_takes_over(saved, model):
    (saved / DESCRIPTION).unlink()
    loaded = load_model(saved)
    assert same(loaded.model, model)
    assert loaded.space == FIVE_CLASSES


@pytest.mark.parametrize("content", [b"", b'{"format": 1,', b"[1, 2]", b"\xff\xfe", b"null"])
def test_a_damaged_model_json_error_says_what_to_do(saved, content):
    (saved / DESCRIPTION).write_bytes(content)
    message = r"model.json: damaged: .*Delete model.json to use the copy in weights.safetensors"
    with pytest.raises(InputError, match=message):
        load_model(saved)


def test_another_format_version(saved):
    edit(saved, format=2)
    with pytest.raises(InputError, match="model.json: format 2 is not read by this version, which reads 1"):
        load_model(saved)


def test_a_kill_between_the_two_files(saved):
    """New weights of another network beside the old model.json: the weights say what they are."""
    old = (saved / DESCRIPTION).read_bytes()
    other = small_model("aspp", num_classes=3)
    space = LabelSpace.from_json({"classes": ["a", "b", "c"]})
    save_model(saved, other, space)
    (saved / DESCRIPTION).write_bytes(old)
    loaded = load_model(saved)
    assert loaded.space == space
    assert same(loaded.model, other)


def test_a_full_disk_keeps_the_old_model(saved, model):
    with room_for(1000):
        with pytest.raises(InputError, match=r"weights.safetensors: cannot be written: .*before is unchanged"):
            save_model(saved, small_model("aspp"), FIVE_CLASSES)
    assert same(load_model(saved).model, model)
    assert names(saved) == [DESCRIPTION, WEIGHTS]


def test_too_little_room_is_found_before_anything_is_written(saved, model, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    before = (saved / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="MiB are needed and 0 MiB are free"):
        save_model(saved, model, FIVE_CLASSES)
    assert (saved / WEIGHTS).read_bytes() == before


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write to")
def test_a_read_only_folder(model):
    with pytest.raises(InputError, match="/proc/self/new: cannot be written to"):
        save_model("/proc/self/new", model, FIVE_CLASSES)


def test_weights_of_another_model(saved, tmp_path):
    """Copied in from elsewhere, without a description of their own."""
    other = small_model("fcn", num_classes=3).weights
    safetensors.write(saved / WEIGHTS, other)
    with pytest.raises(InputError, match=r"model.json: was written for other weights than those of weights.safetensors"):
        load_model(saved)
    edit(saved, weights_sha256=checkpoints.fingerprint(other))
    message = r"weights.safetensors: logits/semantic/\w+ has shape \[.*3\]; this model needs \[.*5\]"
    with pytest.raises(InputError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": {"scope": "tiny", "kind": "bottleneck_v1", "blocks": [["block1", [[40_000, 40_000, 2]]]]}}, "block1.*40000"),
        ({"in_channels": 10**9}, r"has shape \[7, 7, 3, 64\]; this model needs \[7, 7, 1000000000, 64\]"),
        ({"num_classes": 10**9}, r"logits/weights is missing; this model needs \[1, 1, 16, 1000000000\]"),
    ],
)
@pytest.mark.parametrize("load", [load_model, load_backbone])
def test_descriptions_larger_than_the_weights_are_refused_early(load, changes, message, saved, model, monkeypatch):
    safetensors.write(saved / WEIGHTS, model.weights)  # without a description of their own
    edit(saved, output_stride=8, **changes)
    monkeypatch.setattr("dense_resnet.backbone.Backbone", None)
    with pytest.raises(InputError, match=rf"weights\.safetensors: tiny/.*{message}"):
        load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": "resnet_v9"}, "unknown variant 'resnet_v9'"),
        ({"plan": {"blocks": 5}}, "model.json: "),
        ({"plan": None}, "a plan must be a variant's name, or an object of blocks"),
        ({"head": {"type": "psp", "separable": True, "image_pooling": None}}, "head must be one of 'fcn', 'aspp', 'decoder'"),
        ({"head": {"type": "aspp", "separable": True, "image_pooling": [1, 2, 3]}}, "size must be"),
        ({"head": "fcn"}, "damaged, or edited by mistake"),
        ({"head": {}}, "damaged, or edited by mistake: KeyError"),
        ({"classes": []}, "num_classes must be a positive integer"),
        ({"classes": "abcde"}, '"classes" must be a list'),
        ({"classes": ["a", "b", "c", "d", "a"]}, "two classes are named 'a'"),
        ({"ignore_label": 2}, "ignore_label 2 is the label of the class 'car'"),
        ({"preprocessing": "none"}, "preprocessing must be one of inception, vgg, caffe, torch"),
        ({"preprocessing": ["vgg"]}, "model.json: "),
        ({"training": 5}, "damaged, or edited by mistake"),
        ({"output_stride": "x"}, "model.json: "),
        ({"in_channels": 0}, "in_channels must be a positive integer"),
        ({"multi_grid": [1, 2, 3]}, "multi_grid"),
        (
            {"classes": ["a", "b", "c", "d"]},
            r"model\.json: damaged, or .*: it has 4 classes, and weights\.safetensors has 5\.",
        ),
    ],
)
def test_invalid_edits_of_model_json_are_refused(saved, changes, message):
    edit(saved, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)
    assert str(caught.value).count(DESCRIPTION) <= 1


def test_a_plan_without_root_block_is_not_saved(tmp_path):
    plan = dr.plan([("block1", [(8, 4, 2)])], include_root_block=False, scope="tiny")
    with pytest.raises(InputError, match="without root block"):
        save_model(tmp_path, SegmentationModel(Backbone(plan, seed=0), 5, "fcn", seed=0), FIVE_CLASSES)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "changes", [{"output_stride": 8}, {"preprocessing": "torch"}, {"multi_grid": [2]}, {"root": "symmetric"}]
)
def test_a_description_of_another_network_that_the_weights_would_fit(saved, changes):
    edit(saved, **changes)
    for load in (load_model, load_backbone):
        with pytest.raises(
            InputError, match=f"model.json: damaged, or edited by mistake: its {next(iter(changes))} is .* in the copy"
        ):
            load(saved)
    (saved / DESCRIPTION).unlink()
    assert load_model(saved).plan.output_stride == 16


@pytest.mark.parametrize("text", ['{"format": 1, "format": 1', "[" * 100_000, '{"a": NaN}'])
def test_invalid_model_json_is_refused(saved, text):
    (saved / DESCRIPTION).write_text(text)
    with pytest.raises(InputError, match="model.json: damaged: "):
        load_model(saved)


def test_an_error_while_the_description_is_read_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "model.json").write_text("{}")

    def fails(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.read_bytes", fails)
    with pytest.raises(InputError, match=r"model\.json: cannot be read: Input/output error"):
        read_plan(tmp_path)
