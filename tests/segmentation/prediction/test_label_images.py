"""Labelling folders of images: files that are read back, rotations undone, resume, and names that never clash."""

import errno
import json
import os
import signal

import numpy as np
import pytest
from helpers.command import run
from helpers.datasets import BLOBS, INFERENCE, NAMES, TURNS, label_of, lines_of, make_exif, write_dataset, write_pair
from helpers.folders import contents
from helpers.networks import image_of, tiny_model
from PIL import Image
from safetensors.numpy import load_file

from dense_resnet.errors import InputError
from dense_resnet.image_io import decoding, discovery
from segmentation.data.label_files import decode_label, encode_label
from segmentation.data.layouts import open_dataset
from segmentation.evaluation.evaluate import Evaluation
from segmentation.evaluation.systems import ModelPredictions, SavedPredictions
from segmentation.prediction.label_images import Labeling
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving.model_directory import load_model, save_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model directory."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_model(), BLOBS)
    return folder


@pytest.fixture(scope="module")
def saved(model_folder):
    return load_model(model_folder)


@pytest.fixture(scope="module")
def predictor(saved):
    """What labels should be."""
    return Predictor(saved.runner("exact"), saved.head, INFERENCE)


@pytest.fixture
def labelling(saved, predictor):
    """A Labelling of the tiny model, which is traced only once."""

    def make(out, **options):
        made = Labeling(saved, saved.runner("exact"), out, INFERENCE, **options)
        made._predictor = predictor
        return made

    return make


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes, a subfolder, JPEG and PNG."""
    for number, (name, size) in enumerate({"a.png": (40, 60), "more/a.png": (65, 65), "b.jpg": (33, 50)}.items()):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_of(*size, number)).save(path)
    return tmp_path / "images"


def find_images_in(folder):
    return discovery.find_images([str(folder)])


def labels_in(path):
    return decode_label(path, path.read_bytes(), BLOBS)


def test_label_files_equal_the_predictor(labelling, predictor, folder, tmp_path):
    outcome = labelling(tmp_path / "out").run(find_images_in(folder))
    assert (outcome.written, outcome.total, outcome.failed, outcome.stopped) == (3, 3, (), False)
    written = sorted(contents(tmp_path / "out"))
    assert written == ["a.png", "b.png", "more/a.png", "predictions.jsonl", "protocol.json"]
    for image in find_images_in(folder):
        labels = predictor(decoding.decode_image(image.path, image.path.read_bytes())).labels
        path = tmp_path / "out" / f"{os.path.splitext(image.relative)[0]}.png"
        assert np.array_equal(labels_in(path), labels)
        assert len(np.unique(labels)) > 1
        with Image.open(path) as picture:
            assert picture.mode == "P"
            assert np.array_equal(picture.convert("RGB"), BLOBS.colorize(labels))


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_is_applied_and_undone(orientation, labelling, predictor, tmp_path):
    stored = image_of(40, 60)
    (tmp_path / "images").mkdir()
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=make_exif(orientation))
    labelling(tmp_path / "out", overlay=True, probabilities=True).run(find_images_in(tmp_path / "images"))
    upright = np.ascontiguousarray(TURNS[orientation](stored))
    expected = predictor(upright).labels  # the network sees the image as a viewer shows it
    labels = labels_in(tmp_path / "out" / "a.png")
    assert labels.shape == (40, 60)
    assert np.array_equal(TURNS[orientation](labels), expected)
    probabilities = load_file(tmp_path / "out" / "a.probabilities.safetensors")["probabilities"]
    assert np.mean(probabilities.argmax(axis=-1) == labels) > 0.99
    with Image.open(tmp_path / "out" / "a.overlay.jpg") as picture:
        assert picture.size == upright.shape[1::-1]
        assert picture.getexif().get(0x0112, 1) == 1


def test_overlays_blend_image_and_colors(labelling, predictor, folder, tmp_path):
    labelling(tmp_path / "out", overlay=True).run(find_images_in(folder))
    pixels = image_of(40, 60)
    colors = BLOBS.colorize(predictor(pixels).labels)
    black = ~colors.any(-1)
    assert 0 < black.mean() < 1
    with Image.open(tmp_path / "out" / "a.overlay.jpg") as picture:
        own = np.asarray(picture, float)
    tinted = np.where(black[..., None], pixels, 0.45 * pixels + 0.55 * colors)  # the image stays visible under black
    assert np.abs(own - tinted).mean() < 8  # JPEG
    assert np.abs(own - pixels).mean() > 10


def test_probabilities_are_written_as_float16(labelling, predictor, folder, tmp_path):
    labelling(tmp_path / "out", probabilities=True).run(find_images_in(folder))
    expected = predictor(image_of(40, 60), keep_probabilities=True)
    own = load_file(tmp_path / "out" / "a.probabilities.safetensors")["probabilities"]
    assert (own.dtype, own.shape) == (np.float16, (40, 60, 5))
    np.testing.assert_allclose(own, expected.probabilities, atol=1e-3)
    assert np.array_equal(labels_in(tmp_path / "out" / "a.png"), expected.labels)


# -- resume ------------------------------------------------------------------------------------------------------------


def test_a_stopped_run_resumes_to_the_same_files(labelling, folder, tmp_path):
    found, seen = find_images_in(folder), []
    labelling(tmp_path / "whole").run(found)
    stopped = labelling(tmp_path / "parts").run(
        found, progress=lambda what, done, total: seen.append((what, done)), stop=lambda: ("labelling", 1) in seen
    )
    assert (stopped.stopped, stopped.written) == (True, 1)
    rest = labelling(tmp_path / "parts").run(found)
    assert (rest.written, rest.total) == (2, 3)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert labelling(tmp_path / "parts").run(found).written == 0
    assert labelling(tmp_path / "nothing").run(found, stop=lambda: True).stopped
    assert not (tmp_path / "nothing").exists()


def test_lost_changed_and_additional_files_are_made(labelling, folder, tmp_path):
    found, out = find_images_in(folder), tmp_path / "out"
    labelling(out).run(found)
    before = contents(out)
    (out / "more" / "a.png").unlink()
    assert labelling(out).run(found).written == 1
    assert contents(out) == before
    Image.fromarray(image_of(40, 60, seed=7)).save(folder / "a.png")
    assert labelling(out).run(found).written == 1
    assert {name for name, data in contents(out).items() if data != before[name]} == {"a.png", "predictions.jsonl"}
    assert labelling(out, overlay=True).run(found).written == 3
    assert labelling(out, overlay=True, probabilities=True).run(found).written == 3
    assert labelling(out).run(found).written == 0


def test_truncated_and_foreign_files_are_made_again(labelling, folder, tmp_path):
    found, out = find_images_in(folder), tmp_path / "out"
    labelling(out, overlay=True).run(found)
    before = contents(out)
    (out / "a.png").write_bytes(b"")
    (out / "b.overlay.jpg").write_bytes(before["a.overlay.jpg"])
    assert labelling(out, overlay=True).run(found).written == 2
    assert contents(out) == before


def test_files_of_an_older_image_are_removed(labelling, folder, tmp_path):
    found, out = find_images_in(folder), tmp_path / "out"
    labelling(out, overlay=True, probabilities=True).run(found)
    Image.fromarray(image_of(40, 60, seed=7)).save(folder / "a.png")
    assert labelling(out).run(found).written == 1
    assert {"b.overlay.jpg", "a.png"} <= contents(out).keys()
    assert not {"a.overlay.jpg", "a.probabilities.safetensors"} & contents(out).keys()
    assert labelling(out, overlay=True, probabilities=True).run(found).written == 1
    labelling(tmp_path / "fresh", overlay=True, probabilities=True).run(found)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["b.png", "b.overlay.jpg", "more/a.probabilities.safetensors"])
def test_existing_files_are_not_overwritten(name, labelling, folder, tmp_path):
    """Such as ground truth, where labels are to go to the wrong folder."""
    found, out = find_images_in(folder), tmp_path / "out"
    (folder / "b.jpg").write_bytes(b"no image")
    (out / name).parent.mkdir(parents=True)
    (out / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=f"{name}: already exists, and was not written by this command"):
        labelling(out).run(found, on_error="skip")
    assert {path: data for path, data in contents(out).items() if data} == {name: b"precious"}


def test_an_error_of_reading_takes_no_labels_away(labelling, folder, tmp_path, monkeypatch):
    """The image may be as it was: what was made of it stays, and is not made again when it can be read."""
    found, out = find_images_in(folder), tmp_path / "out"
    labelling(out, overlay=True).run(found)
    before = contents(out)
    read = decoding.open_file

    def fail(path):
        if path == folder / "a.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(decoding, "open_file", fail)
    outcome = labelling(out, overlay=True).run(found, on_error="skip")
    assert (outcome.written, outcome.total) == (0, 2)
    assert outcome.failed == (f"{folder / 'a.png'}: cannot be read: Input/output error.",)
    assert contents(out) == before
    monkeypatch.undo()
    assert labelling(out, overlay=True).run(found).written == 0


def test_shards_share_a_folder(labelling, folder, tmp_path):
    found = find_images_in(folder)
    labelling(tmp_path / "whole").run(found)
    for index in range(2):
        assert labelling(tmp_path / "out", shard=(index, 2)).run(found).total == 2 - index
    assert labelling(tmp_path / "out").run(found).written == 0
    whole, own = contents(tmp_path / "whole"), contents(tmp_path / "out")
    assert {name: own[name] for name in whole} == whole


def test_another_protocol_is_refused(labelling, saved, folder, tmp_path):
    found = find_images_in(folder)
    labelling(tmp_path / "out").run(found)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"results of another protocol \(inference.flip: False there, True now\)"):
        Labeling(saved, saved.runner("exact"), tmp_path / "out", Inference(size=65, flip=True)).run(found)
    assert contents(tmp_path / "out") == before


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_images_with_the_same_label_file_are_refused(labelling, folder, tmp_path):
    Image.fromarray(image_of(20, 20)).save(folder / "a.jpg")
    with pytest.raises(InputError, match=r"the labels of .*a\.jpg and .*a\.png would both be .*out/a\.png\. Rename one"):
        labelling(tmp_path / "out").run(find_images_in(folder))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_the_images(labelling, folder):
    before = contents(folder)
    for out in (folder, folder.parent):
        with pytest.raises(InputError, match="contains the images themselves"):
            labelling(out).run(find_images_in(folder))
    assert contents(folder) == before


def test_a_name_that_is_too_long(labelling, folder, tmp_path):
    (folder / "a.png").rename(folder / ("a" * 230 + ".png"))
    with pytest.raises(InputError, match="the name is too long"):
        labelling(tmp_path / "out").run(find_images_in(folder))


def test_a_bad_image_stops_the_job_before_it_starts_or_is_skipped(labelling, folder, tmp_path):
    found, out = find_images_in(folder), tmp_path / "out"
    labelling(out, overlay=True).run(found)
    data = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"1 of 3 images cannot be used; nothing was computed.*\n.*b\.jpg: cannot be decoded"):
        labelling(out).run(found)
    outcome = labelling(out).run(found, on_error="skip")
    assert (outcome.written, outcome.total, len(outcome.failed)) == (0, 2, 1)
    assert "b.png" not in contents(out)  # labels of what it was do not stay
    assert "b.overlay.jpg" not in contents(out)
    last = json.loads((out / "predictions.jsonl").read_text().splitlines()[-2])
    assert (last["path"], last["status"]) == ("b.jpg", "error")
    (folder / "b.jpg").write_bytes(data)
    assert labelling(out).run(found).written == 1
    with pytest.raises(InputError, match="on_error must be 'fail' or 'skip'"):
        labelling(out).run(found, on_error="never")


def test_an_image_that_breaks_after_the_check(labelling, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "check_image", lambda *_: decoding.Header("JPEG", (48, 64)))
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:500])
    with pytest.raises(InputError, match=r"b\.jpg: cannot be decoded"):
        labelling(tmp_path / "one").run(find_images_in(folder))
    assert "a.png" in contents(tmp_path / "one")
    outcome = labelling(tmp_path / "two").run(find_images_in(folder), on_error="skip")
    assert (outcome.written, len(outcome.failed)) == (2, 1)


def test_a_lower_limit_takes_nothing_away(labelling, folder, tmp_path):
    labelling(tmp_path / "out").run(find_images_in(folder))
    before = contents(tmp_path / "out")
    again = labelling(tmp_path / "out", max_pixels=1000).run(find_images_in(folder), on_error="skip")
    assert (again.written, again.total, again.failed) == (0, 3, ())
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_network_that_makes_nan(on_error, model_folder, folder, tmp_path):
    broken = load_model(model_folder)
    biases = broken.model._by_name["logits/semantic/biases"]
    biases.assign(biases * np.nan)
    with pytest.raises(InputError, match=r"a\.png: the network's logits are not finite"):
        Labeling(broken, broken.runner("exact"), tmp_path / "out", INFERENCE).run(find_images_in(folder), on_error=on_error)
    assert "a.png" not in contents(tmp_path / "out")


def test_a_full_disk_is_not_a_bad_image(labelling, folder, tmp_path, monkeypatch):
    from dense_resnet.jobs import atomic_files

    def full(path, data):
        raise InputError(f"{path}: cannot be written: No space left on device. What was there before is unchanged.")

    monkeypatch.setattr(atomic_files, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        labelling(tmp_path / "out").run(find_images_in(folder), on_error="skip")


# -- with the rest -----------------------------------------------------------------------------------------------------


def test_scoring_the_files_equals_scoring_the_model(labelling, saved, tmp_path):
    pairs = write_dataset(tmp_path / "pairs")
    dataset = open_dataset(pairs)
    labelling(tmp_path / "labels").run(find_images_in(pairs / "images"))
    folder = SavedPredictions(tmp_path / "labels", dataset.space, dataset.samples)
    one, two = (
        Evaluation(system, dataset, tmp_path / out).run(report=False).result
        for out, system in (("files", folder), ("model", ModelPredictions(saved, saved.runner("exact"), INFERENCE)))
    )
    assert one["mean_iou"] == two["mean_iou"]
    assert one["matrix"] == two["matrix"]
    assert one["classes"] == two["classes"]
    assert one["trimap"] == two["trimap"]


def test_scoring_the_files_of_turned_images(labelling, saved, tmp_path):
    """`predict` undoes each rotation, `--exif apply` does it again: to the label, which is as shown."""
    for number, turn in TURNS.items():
        stored, label = image_of(40, 60, number), label_of(40, 60, number)
        write_pair(tmp_path, str(number), stored, np.ascontiguousarray(turn(label)))
        Image.fromarray(stored).save(tmp_path / "images" / f"{number}.png", exif=make_exif(number))
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": NAMES}))
    dataset = open_dataset(tmp_path, exif="apply")
    labelling(tmp_path / "predicted").run(find_images_in(tmp_path / "images"))
    folder = SavedPredictions(tmp_path / "predicted", dataset.space, dataset.samples)
    logs = []
    for out, system in (("files", folder), ("model", ModelPredictions(saved, saved.runner("exact"), INFERENCE))):
        Evaluation(system, dataset, tmp_path / out).run(report=False)
        logs.append(lines_of(tmp_path / out))
    for one, two in zip(*logs, strict=True):
        assert all(one[key] == two[key] for key in ("path", "size", "scored", "matrix", "boundary", "trimap")), one["path"]
    assert len({str(line["matrix"]) for line in logs[0]}) == len(TURNS)
    described = json.loads((tmp_path / "files" / "protocol.json").read_text())["system"]
    assert described == {"predictions": str(tmp_path / "predicted"), "pixels": "stored"}

    path = tmp_path / "predicted" / "6.png"
    path.write_bytes(encode_label(np.zeros((60, 40), np.uint8), BLOBS))  # upright
    with pytest.raises(
        InputError, match=r"6\.png: the prediction is 40x60 pixels, the image 60x40 as it is stored \(it has EXIF"
    ):
        Evaluation(folder, dataset, tmp_path / "upright").run(report=False)


def test_command_writes_the_labels_of_a_folder(capsys, model_folder, predictor, folder, tmp_path):
    arguments = ["predict", folder, "--model", model_folder, "--size", 65, "--exact", "--out", tmp_path / "out"]
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert "1 of 4 images cannot be used; nothing was computed" in err
    assert not (tmp_path / "out").exists()
    code, out, _ = run(capsys, *arguments, "--on-error", "skip", "--overlay", "--save-probs")
    assert code == 0
    assert f"{tmp_path / 'out'}: labels of 3 images\n1 image skipped:\n" in out
    assert "broken.png: cannot be decoded" in out
    assert np.array_equal(labels_in(tmp_path / "out" / "a.png"), predictor(image_of(40, 60)).labels)
    assert {"a.overlay.jpg", "a.probabilities.safetensors"} <= set(contents(tmp_path / "out"))
    code, out, _ = run(capsys, *arguments, "--on-error", "skip")
    assert "labels of 3 images, 3 of them from an earlier run" in out
    code, out, _ = run(capsys, *arguments[:-1], tmp_path / "tiles", "--on-error", "skip", "--tile", 65)
    assert "note: near seams, labels may differ from those of whole images: windows overlap by 25 pixels" in out


def test_an_output_beside_the_images_is_not_labeled_itself(capsys, model_folder, folder):
    arguments = ["predict", folder, "--model", model_folder, "--size", 65, "--out", folder / "labels"]
    for earlier in ("", ", 3 of them from an earlier run"):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert out.endswith(f"{folder / 'labels'}: labels of 3 images{earlier}\n")


def test_a_signal_stops_the_command(capsys, model_folder, folder, tmp_path, monkeypatch):
    write = Labeling._write

    def stop(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return write(self, *arguments)

    monkeypatch.setattr(Labeling, "_write", stop)
    arguments = ["predict", folder, "--model", model_folder, "--size", 65, "--out", tmp_path / "out", "--threads", 1]
    code, out, _ = run(capsys, *arguments)
    assert code == 75
    assert out.endswith(f"{tmp_path / 'out'}: labels of 1 image\nstopped; the same command resumes from here\n")
    monkeypatch.undo()
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out.endswith(f"{tmp_path / 'out'}: labels of 3 images, 1 of them from an earlier run\n")


MISTAKES = {
    "no model": (["{folder}", "--model", "{out}"], "no such folder. A model directory is expected"),
    "a size": (["{folder}", "--model", "{model}", "--size", "512"], "size must be 16n+1 pixels (not 512); next: 513."),
    "a tile": (["{folder}", "--model", "{model}", "--tile", "100"], "tile must be 16n+1 pixels (not 100); next: 113."),
    "no images": (["{model}", "--model", "{model}"], "the folder contains no image"),
    "nothing there": (["/nowhere", "--model", "{model}"], "/nowhere: no such file or folder"),
    "a scale": (["{folder}", "--model", "{model}", "--scales", "0"], "scales must be factors from 0.1 to 10.0 (not (0.0,))"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_common_mistakes_are_refused_before_any_work(mistake, capsys, model_folder, folder, tmp_path):
    arguments, message = MISTAKES[mistake]
    places = {"folder": folder, "model": model_folder, "out": tmp_path / "out"}
    code, _, err = run(capsys, "predict", *(word.format(**places) for word in arguments), "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
