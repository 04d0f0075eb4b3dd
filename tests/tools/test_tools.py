"""The command as a user meets it: verbs as scripts and installed, the commonest mistakes, no traceback."""

import argparse
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from helpers.command import SCENES_MODEL, run
from helpers.datasets import image_file, label_file, own_dataset
from helpers.networks import weights_of
from PIL import Image

import dense_resnet as dr
from dense_resnet import checkpoints
from dense_resnet.errors import InputError
from dense_resnet.image_io import decoding
from dense_resnet.inference import engines
from dense_resnet.planning.variants import plan_from_config
from tools import cli, synonyms, terminal


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    """A slim checkpoint and a safetensors file of resnet_v1_18."""
    folder = tmp_path_factory.mktemp("weights")
    weights = weights_of(dr.plan("resnet_v1_18", num_classes=1000))
    checkpoints.write(folder / "resnet_v1_18.ckpt", weights)
    checkpoints.write(folder / "resnet_v1_18.safetensors", weights)
    return folder


def test_describe_prints_the_table(capsys):
    code, out, _ = run(capsys, "describe", "resnet_v2_152", "--output-stride", 16, "--size", 513)
    assert code == 0
    assert out == dr.plan("resnet_v2_152", output_stride=16).describe((513, 513)) + "\n"
    assert "58,187,904 trainable parameters, 73.0 GMAC" in out


def test_describe_json(capsys):
    code, out, _ = run(capsys, "describe", "resnet_v1_50_beta", "--size", 97, 129, "--multi-grid", 1, 2, 4, "--json")
    assert code == 0
    described = json.loads(out)
    assert described["image_size"] == [97, 129]
    assert [row["rate"] for row in described["rows"][-3:]] == [1, 2, 4]


def test_describe_tensorboard(capsys, tmp_path):
    code, _, _ = run(capsys, "describe", "resnet_v1_18", "--size", 33, "--tensorboard", tmp_path)
    assert code == 0
    assert b"resnet_v1_18/block4" in b"".join(path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_runs_as_a_script_from_anywhere(verb, tmp_path):
    result = subprocess.run(
        [sys.executable, "-S", ROOT / "tools" / f"{verb}.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: dense-resnet {verb}")


def test_the_verbs_come_in_the_order_of_the_work(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.strip().startswith(cli.VERBS)] == list(cli.VERBS)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["resnet_v1_18.ckpt", "resnet_v1_18.safetensors"])
def test_check_on_the_users_weights(file, capsys, small_weights):
    code, out, _ = run(capsys, "check", "resnet_v1_18", "--weights", small_weights / file, "--size", 65, "--output-stride", 8)
    assert code == 0
    assert out.count("holds") >= 4
    assert "FAILS" not in out
    assert "left out           2" in out


@pytest.mark.slow
def test_check_fails_where_a_law_fails(capsys, small_weights, monkeypatch):
    from dense_resnet import resnet_utils

    right = resnet_utils.schedule
    monkeypatch.setattr(
        resnet_utils, "schedule", lambda *a: tuple(s._replace(input_rate=s.input_rate * s.suppressed) for s in right(*a))
    )
    path = small_weights / "resnet_v1_18.ckpt"
    code, out, _ = run(capsys, "check", "resnet_v1_18", "--weights", path, "--size", 65, "--output-stride", 8)
    assert code == 1
    assert "FAILS" in out


@pytest.fixture(scope="module")
def image_folder(photographs, tmp_path_factory):
    """One photograph."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("one")
    Image.fromarray(photographs["cat"]).save(folder / "cat.jpg")
    return folder


@pytest.mark.slow
def test_extract_with_weights(capsys, small_weights, image_folder, tmp_path):
    arguments = ["--model", "resnet_v1_18", "--weights", small_weights / "resnet_v1_18.ckpt", "--size", 129]
    arguments += ["--layers", 4, 16, "--dtype", "bfloat16", "--picture"]
    code, out, _ = run(capsys, "extract", image_folder, *arguments, "--out", tmp_path, "--batch", 2, "--precision", "float32")
    assert code == 0, out
    assert "float32: 2 images at a time" in out
    assert "features of 1 image" in out
    assert dr.read_features(tmp_path / "cat.jpg.safetensors").map(16).shape == (9, 9, 512)
    assert decoding.check_image(tmp_path / "cat.jpg.alignment.png").format == "PNG"
    code, out, _ = run(capsys, "extract", image_folder, *arguments, "--out", tmp_path, "--precision", "float32")
    assert "float32: 2 images at a time" in out  # as before
    assert "1 of them from an earlier run" in out
    code, _, err = run(capsys, "extract", image_folder, *arguments, "--out", tmp_path, "--exact")
    assert "precision: 'float32' there, 'exact' now" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "--precision must be auto, float32 or bfloat16 (not 'int8')"),
        (["--batch", 0], "--batch must be a positive integer (not 0)"),
        (["--threads", -1], "--threads must be a positive integer (not -1)"),
        (["--engine", "tpu"], "engine must be one of 'auto', 'tensorflow', 'openvino' (not 'tpu')"),
        (["--engine", "openvino", "--exact"], "--exact runs the slim graph, in TensorFlow: leave --engine out"),
    ],
)
def test_invalid_speed_options_are_refused(arguments, message, capsys, image_folder, tmp_path):
    model = ["--model", "resnet_v1_18", "--random-weights", 0]
    code, _, err = run(capsys, "extract", image_folder, *model, "--out", tmp_path / "out", *arguments)
    assert (code, err) == (1, f"error: {message}.\n")
    assert not (tmp_path / "out").exists()


MISTAKES = {
    "no weights": (["--model", "resnet_v1_18"], "no weights: give --weights PATH, or --random-weights SEED"),
    "a wrong variant": (
        ["--model", "resnet152", "--random-weights", "0"],
        "unknown variant 'resnet152'. Did you mean 'resnet_v",
    ),
    "a wrong stride": (
        ["--model", "resnet_v1_18", "--random-weights", "0", "--output-stride", "12"],
        "The target output_stride cannot be reached. Got output_stride=12; valid: 4, 8, 16, 32",
    ),
    "a wrong size": (
        ["--model", "resnet_v1_18", "--random-weights", "0", "--size", "512"],
        "size must be 32n+1 pixels (not 512); next: 513",
    ),
    "a missing file": (
        ["--model", "resnet_v1_18", "--weights", "/nowhere/model.ckpt"],
        "/nowhere/model.ckpt: no such checkpoint",
    ),
    "weights of another variant": (["--model", "resnet_v1_34", "--weights", "{weights}"], "These weights fit: resnet_v1_18"),
    "a wrong layer": (
        ["--model", "resnet_v1_18", "--random-weights", "0", "--layers", "2"],
        "layers must be among 4, 8, 16 (not 2)",
    ),
    "a wrong shard": (
        ["--model", "resnet_v1_18", "--random-weights", "0", "--shard", "4/4"],
        "--shard must be I/N with 0 <= I < N",
    ),
    "a wrong type": (["--model", "resnet_v1_18", "--random-weights", "0", "--dtype", "half"], "dtype must be one of float32"),
    "no pixels": (
        ["--model", "resnet_v1_18", "--random-weights", "0", "--max-pixels", "0"],
        "max_pixels must be a positive integer",
    ),
    "a folder as weights": (
        ["--model", "resnet_v1_18", "--weights", "/tmp"],
        "/tmp: the folder has no readable 'checkpoint' file",
    ),
    "weights of another kind": (
        ["--model", "resnet_v1_18", "--weights", "model.onnx"],
        "model.onnx: .onnx files are not supported. Supported: slim checkpoints",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_common_mistakes_are_refused(mistake, capsys, small_weights, image_folder, tmp_path):
    arguments, message = MISTAKES[mistake]
    arguments = [argument.format(weights=small_weights / "resnet_v1_18.ckpt") for argument in arguments]
    code, _, err = run(capsys, "extract", image_folder, *arguments, "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


MODEL, RANDOM = ("--model", "resnet_v1_18"), ("--model", "resnet_v1_18", "--random-weights", "0")
TO = ("--out", "out")
EARLY = {  # what needs neither TensorFlow nor a network: a message of its own each, and the command line that gets it
    "nowhere: no such file or folder.": [
        ("extract", "nowhere", *RANDOM, *TO), ("predict", "nowhere", "--model", "{model}", *TO), ("doctor", "nowhere"),
        ("train", "nowhere", *MODEL, *TO), ("evaluate", "nowhere", "--model", "{model}", *TO),
    ],
    "nowhere: no such file or folder, and not a variant's name": [
        ("extract", "data", "--model", "nowhere", *TO), ("check", "nowhere"), ("describe", "nowhere"),
        ("export", "nowhere", "--to", "savedmodel", *TO), ("train", "data", "--model", "nowhere", *TO),
    ],
    "nowhere: no such folder. A model directory is expected": [
        ("predict", "data", "--model", "nowhere", *TO), ("evaluate", "data", "--model", "nowhere", *TO),
        ("train", "data", "--init", "nowhere", *TO),
    ],
    "resnet_v1_18: this is the name of a variant": [
        ("predict", "data", *MODEL, *TO), ("evaluate", "data", *MODEL, *TO), ("train", "data", "--init", *MODEL[1:], *TO),
    ],
    "data/dataset.json: this is text that begins": [
        ("predict", "data", "--model", "data/dataset.json", *TO), ("evaluate", "data", "--model", "data/dataset.json", *TO),
    ],
    "data: this is a folder of other files (dataset.json, images, labels), not a model directory": [
        ("extract", "data", "--model", "data", *TO), ("predict", "data", "--model", "data", *TO), ("check", "data"),
        ("describe", "data"), ("export", "data", "--to", "savedmodel", *TO),
    ],
    "this is a backbone without a segmentation head": [
        ("predict", "data", "--model", "backbone", *TO), ("evaluate", "data", "--model", "backbone", *TO),
        ("train", "data", "--init", "backbone", *TO),
    ],
    "unknown variant 'resnet50'. Did you mean": [
        ("extract", "data", "--model", "resnet50", *TO), ("train", "data", "--model", "resnet50", *TO),
        ("check", "resnet50"), ("describe", "resnet50"), ("benchmark", "--model", "resnet50"),
        ("export", "resnet50", "--to", "savedmodel", *TO),
        ("convert", "weights.ckpt", "--to", "model-dir", "--model", "resnet50", *TO),
    ],
    "size must be 32n+1 pixels (not 512); next: 513.": [
        ("extract", "data", *RANDOM, "--size", "512", *TO), ("predict", "data", "--model", "{model}", "--size", "512", *TO),
        ("extract", "data", "--model", "{model}", "--size", "512", *TO), ("check", *RANDOM[1:], "--size", "512"),
        ("evaluate", "scenes", "--model", "{model}", "--size", "512", *TO), ("train", "data", *MODEL, "--size", "512", *TO),
        ("export", *RANDOM[1:], "--to", "savedmodel", "--size", "512", *TO),
        ("predict", "data", "--model", "exported", "--size", "512", *TO),
        ("evaluate", "scenes", "--model", "exported", "--size", "512", *TO),
        ("benchmark", "--versus", "extract", "--size", "512"),
    ],
    "crop must be 32n+1 pixels (not 512); next: 513.": [("train", "data", *MODEL, "--crop", "512", *TO)],
    "tile must be 32n+1 pixels (not 100); next: 129.": [
        ("predict", "data", "--model", "{model}", "--tile", "100", *TO),
        ("evaluate", "scenes", "--model", "{model}", "--tile", "100", *TO),
    ],
    "this network was exported for canvases of 129 pixels: size cannot be 257.": [
        ("extract", "data", "--model", "exported", "--size", "257", *TO),
    ],
    "valid: 4, 8, 16, 32 or None.": [
        ("extract", "data", *RANDOM, "--output-stride", "12", *TO), ("train", "data", *MODEL, "--output-stride", "12", *TO),
        ("predict", "data", "--model", "{model}", "--output-stride", "12", *TO),
        ("evaluate", "scenes", "--model", "{model}", "--output-stride", "12", *TO),
        ("check", "{model}", "--output-stride", "12"), ("describe", "{model}", "--output-stride", "12"),
        ("export", "{model}", "--to", "savedmodel", "--output-stride", "12", *TO),
        ("convert", "weights.ckpt", "--to", "model-dir", *MODEL, "--output-stride", "12", *TO),
        ("convert", "{model}", "--to", "model-dir", "--output-stride", "12", *TO),
    ],
    "exported: was exported at output_stride 8.": [
        ("predict", "data", "--model", "exported", "--output-stride", "16", *TO),
        ("extract", "data", "--model", "exported", "--output-stride", "16", *TO),
    ],
    "layers must be among 4, 8, 16 (not 5).": [("extract", "data", *RANDOM, "--layers", "5", *TO)],
    "dtype must be one of float32": [("extract", "data", *RANDOM, "--dtype", "half", *TO)],
    "max_pixels must be a positive integer (not 0).": [
        ("extract", "data", *RANDOM, "--max-pixels", "0", *TO), ("doctor", "data", "--max-pixels", "0"),
        ("predict", "data", "--model", "{model}", "--max-pixels", "0", *TO),
        ("evaluate", "scenes", "--model", "{model}", "--max-pixels", "0", *TO),
    ],
    "seed must be at least 0": [
        ("extract", "data", *MODEL, "--random-weights", "-1", *TO), ("train", "data", *MODEL, "--seed", "-1", *TO),
    ],
    "nowhere.ckpt: no such checkpoint": [
        ("extract", "data", *MODEL, "--weights", "nowhere.ckpt", *TO), ("check", *MODEL[1:], "--weights", "nowhere.ckpt"),
        ("train", "data", *MODEL, "--weights", "nowhere.ckpt", *TO),
        ("export", *MODEL[1:], "--weights", "nowhere.ckpt", "--to", "savedmodel", *TO),
        ("convert", "nowhere.ckpt", "--to", "model-dir", *TO),
    ],
    "nowhere.pth: no such file.": [
        ("extract", "data", *MODEL, "--weights", "nowhere.pth", *TO), ("convert", "nowhere.pth", "--to", "model-dir", *TO),
    ],
    "data: the folder has no readable 'checkpoint' file": [("extract", "data", *MODEL, "--weights", "data", *TO)],
    "a.png: this is a PNG picture, not a file of weights.": [("extract", "data", *MODEL, "--weights", "a.png", *TO)],
    "keras:ResNet51: must be one of ResNet50": [("extract", "data", *MODEL, "--weights", "keras:ResNet51", *TO)],
    "a.png: cannot be written to: it is a file": [
        ("extract", "data", *RANDOM, "--out", "a.png"), ("predict", "data", "--model", "{model}", "--out", "a.png"),
        ("evaluate", "scenes", "--model", "{model}", "--out", "a.png"), ("train", "data", *MODEL, "--out", "a.png"),
        ("convert", "weights.ckpt", "--to", "model-dir", "--out", "a.png"), ("doctor", "data", "--records", "a.png"),
        ("export", *RANDOM[1:], "--to", "savedmodel", "--out", "a.png/b"),
        ("describe", "resnet_v1_18", "--tensorboard", "a.png"),
    ],
    "a.png/b: cannot be written to: a.png is a file": [
        ("extract", "data", *RANDOM, "--out", "a.png/b"), ("train", "data", *MODEL, "--out", "a.png/b"),
    ],
    ".: contains the images themselves (a.png)": [
        ("extract", "a.png", *RANDOM, "--out", "."), ("predict", "a.png", "--model", "{model}", "--out", "."),
    ],
    "contains the dataset itself": [
        ("train", "data", *MODEL, "--out", "data"), ("evaluate", "scenes", "--model", "{model}", "--out", "scenes"),
    ],
    "the model has 10 classes (ground, bricks, stripes, checks, grass, …), data has 3 classes (a, b, c)": [
        ("evaluate", "data", "--model", "{model}", *TO), ("evaluate", "data", "--model", "exported", *TO),
    ],
    "learning_rate must be above 0 (not -1.0).": [("train", "data", *MODEL, "--lr", "-1", *TO)],
    "head must be one of 'fcn', 'aspp', 'decoder'": [("train", "data", *MODEL, "--head", "psp", *TO)],
    "data: exists, and is not an export of the same format.": [
        ("export", *RANDOM[1:], "--to", "savedmodel", "--out", "data"),
    ],
    "out: the name must end in .onnx": [("export", *RANDOM[1:], "--to", "onnx", *TO)],
    "out.onnx: the name must not end in .onnx": [("export", *RANDOM[1:], "--to", "savedmodel", "--out", "out.onnx")],
    "out: the name of a slim checkpoint must have .ckpt": [("convert", "weights.ckpt", "--to", "slim", *TO)],
    "out: the name of a safetensors file must end in .safe": [("convert", "weights.ckpt", "--to", "safetensors", *TO)],
    "out: the name of a Keras model must end in .keras": [("convert", "weights.ckpt", "--to", "keras", *TO)],
    "data: is not a model directory, and contains dataset.json.": [
        ("convert", "weights.ckpt", "--to", "model-dir", "--out", "data"),
    ],
    "leave --model and --root out.": [("convert", "{model}", "--to", "slim", *MODEL, "--out", "out.ckpt")],
    "root must be one of 'slim'": [("convert", "weights.ckpt", "--to", "model-dir", "--root", "none", *TO)],
    "classes must be one of voc": [("convert", "weights.ckpt", "--to", "model-dir", "--classes", "none", *TO)],
    "nowhere: no such folder of predictions.": [("evaluate", "data", "--predictions", "nowhere", *TO)],
}  # fmt: skip
SCORED = ("evaluate", "data", "--predictions", "data/labels/val", "--out", "scored")
WITHOUT_TENSORFLOW = """
import contextlib, io, json, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tf_slim", "tf_keras", "keras"):
            raise SystemExit(f"{name} was imported")

sys.meta_path.insert(0, Refused())
from tools import cli

answers = []
for arguments in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = cli.main(arguments)
    except SystemExit as ended:
        code = ended.code
    answers.append((code, said.getvalue()))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def without_tensorflow(tmp_path_factory):
    """What becomes of every command line of EARLY in a process that cannot import TensorFlow: {it: (exit code, errors)}."""
    import numpy as np
    from PIL import Image

    from segmentation.data.synthetic import CLASSES

    root = tmp_path_factory.mktemp("early")
    for folder, names in (("data", ["a", "b", "c"]), ("scenes", [{"name": name, "color": color} for name, color in CLASSES])):
        for part in ("images/train", "images/val", "labels/train", "labels/val"):
            (root / folder / part).mkdir(parents=True)
            pixels = (
                np.zeros((65, 65, 3), np.uint8) if "images" in part else np.tile(np.arange(65, dtype=np.uint8) % 3, (65, 1))
            )
            Image.fromarray(pixels).save(root / folder / part / "a.png")
        (root / folder / "dataset.json").write_text(json.dumps({"classes": names}))
    Image.fromarray(np.zeros((65, 65, 3), np.uint8)).save(root / "a.png")
    (root / "weights.ckpt").write_bytes(bytes(range(128, 256)))
    described = json.loads((SCENES_MODEL / "model.json").read_text())
    (root / "backbone").mkdir()
    (root / "backbone" / "model.json").write_text(json.dumps({**described, "head": None}))
    (root / "exported" / "assets.extra").mkdir(parents=True)
    (root / "exported" / "saved_model.pb").touch()
    (root / "exported" / "assets.extra" / "model.json").write_text(json.dumps({**described, "side": 129}))
    commands = [SCORED, *(command for commands in EARLY.values() for command in commands)]
    asked = [[part.format(model=SCENES_MODEL) for part in command] for command in commands]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not (root / "out").exists()
    return dict(zip(commands, json.loads(result.stdout), strict=True))


def test_scoring_a_folder_of_predictions_imports_no_tensorflow(without_tensorflow):
    assert without_tensorflow[SCORED][0] == 0, without_tensorflow[SCORED]


@pytest.mark.parametrize("message", EARLY)
def test_mistakes_show_before_tensorflow_is_imported(message, without_tensorflow):
    for command in EARLY[message]:
        code, errors = without_tensorflow[command]
        assert code == 1, (command, code)
        assert errors.startswith("error: "), command
        assert message in errors, command


def test_a_wrong_folder(capsys):
    code, _, err = run(capsys, "extract", "/nowhere", "--model", "resnet_v1_18", "--random-weights", 0, "--out", "/tmp/out")
    assert (code, err) == (1, "error: /nowhere: no such file or folder.\n")


def test_a_read_only_output(capsys, image_folder):
    arguments = ["--model", "resnet_v1_18", "--random-weights", 0, "--size", 65, "--out", "/proc/self/out"]
    code, _, err = run(capsys, "extract", image_folder, *arguments)
    assert code == 1
    assert "error: /proc/self/out: cannot be written to" in err


def test_an_output_that_is_a_file(capsys, image_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    arguments = ["--model", "resnet_v1_18", "--random-weights", 0, "--size", 65, "--out", tmp_path / "file"]
    code, _, err = run(capsys, "extract", image_folder, *arguments)
    assert code == 1
    assert f"error: {tmp_path / 'file'}: cannot be written to" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_checking_the_nominal_network_is_refused(capsys):
    code, _, err = run(capsys, "check", "resnet_v1_18", "--random-weights", 0, "--output-stride", 32)
    assert code == 1
    assert "--output-stride 32 is the nominal network itself; check a finer one" in err


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 75, "interrupted"),
        (ImportError("tf-slim cannot run here"), 1, "error: tf-slim cannot run here"),
        (PermissionError(13, "Permission denied", "a/b"), 1, "error: a/b: Permission denied."),
    ],
)
def test_interrupts_and_import_errors_have_no_traceback(raised, code, message, capsys, monkeypatch):
    from tools import describe

    def fail(args):
        raise raised

    monkeypatch.setattr(describe, "main", fail)
    assert run(capsys, "describe", "resnet_v1_18")[::2] == (code, message + "\n")


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    from tools import describe

    monkeypatch.setattr(describe, "main", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["describe", "resnet_v1_18"])


@pytest.mark.slow
def test_demo_writes_features_and_an_evaluation(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "demo.py"], cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "stride 16: 33 x 33 cells of 2048 channels" in result.stdout
    out = tmp_path / "demo_output"
    assert decoding.decode_image("p", (out / "features" / "coffee.jpg.alignment.png").read_bytes()).shape[1] > 1200
    assert (out / "evaluation" / "report" / "index.html").is_file()
    own, recorded = (json.loads((folder / "evaluation.json").read_text()) for folder in (out / "evaluation", SCENES_MODEL))
    assert own["mean_iou"] == pytest.approx(recorded["mean_iou"], abs=1e-3)
    assert own["mean_iou"] > 0.85
    assert own["counts"]["images"] == recorded["counts"]["images"] >= 50
    systems = own["protocol"]["system"], recorded["protocol"]["system"]
    assert {system.pop("precision") for system in systems} <= {"exact", "float32", "bfloat16"}
    assert (systems[0].pop("engine") or {"name": "tensorflow"})["name"] == engines.usual_engine()
    assert systems[0] == systems[1]


def test_the_shipped_model_is_small_and_never_saw_what_it_is_scored_on():
    assert sum(file.stat().st_size for file in SCENES_MODEL.iterdir()) < 10_000_000
    described = json.loads((SCENES_MODEL / "model.json").read_text())
    recorded = json.loads((SCENES_MODEL / "evaluation.json").read_text())
    assert described["weights_sha256"] == recorded["protocol"]["system"]["weights_sha256"]
    assert described["training"]["dataset"]["split"] == "train"
    assert described["training"]["validation"] is None  # nor was it chosen by them
    assert recorded["protocol"]["split"] == "val"


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal, time\nfrom tools.terminal import stop_signals\n"
        "with stop_signals() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    assert stop()\n    print('going on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    print('never', flush=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (128 + 15, "going on\n")
    assert "press Ctrl-C again to stop immediately" in result.stderr


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemError('bad argument')"])
def test_a_signal_ends_a_verb_in_its_middle(number, error):
    """Also inside of an extension, which may make another error of it."""
    code = (
        "import os, signal\nfrom tools import cli, convert\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\ndef main(args):\n"  # a shell's background job ignores it
        f"    try:\n        os.kill(os.getpid(), signal.{number})\n    except KeyboardInterrupt:\n        raise {error}\n"
        "convert.main = main\nraise SystemExit(cli.main(['convert', 'a', '--to', 'slim', '--out', 'b']))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (terminal.STOPPED, "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["describe", "resnet_v2_50", "--output_stride", "16"], "--output_stride 16. Did you mean --output-stride?"),
        (["extract", "a", "--model", "m", "--out", "o", "--bathc=2"], "Did you mean --batch?"),
        (["extract", "a", "--model", "m", "--out", "o", "--flip"], "--flip is an option of evaluate, predict."),
        (["describe", "resnet_v1_18", "--out", "16"], "--out is an option of convert, extract, "),
        (["check", "resnet_v1_18", "--random", "0"], "--random 0. Did you mean --random-weights?"),
        (["describe", "resnet_v2_50", "resnet_v2_101"], "unrecognized arguments: resnet_v2_101\n"),
        (["train", "d", "--epochs", "9", "--out", "o"], "Did you mean --steps? It counts batches: epochs x images / --batch."),
        (["train", "d", "--batch-size", "4", "--out", "o"], "--batch-size 4. Did you mean --batch?"),
        (["train", "d", "--output", "o"], "--output o. Did you mean --out?\n"),
        (["train", "d", "--output_dir=o", "-lr", "1"], "Did you mean --out? Did you mean --lr?\n"),
        (["train", "d", "--lr-schedule", "cosine", "--out", "o"], "Did you mean --schedule? poly or cosine."),
        (["train", "--data-dir", "d", "--out", "o"], "Did you mean DATASET? Pass it without an option name."),
        (["evaluate", "d", "--crop", "513", "--out", "o"], "--crop 513. Did you mean --size?"),
        (
            ["predict", "i", "--checkpoint", "m", "-o", "o"],
            "Did you mean --model? It is a model directory. Did you mean --out?",
        ),
        (["export", "m", "--format", "onnx", "--out", "o"], "--format onnx. Did you mean --to?"),
        (["train", "d", "--Steps", "3", "--out", "o"], "--Steps 3. Did you mean --steps?"),
    ],
)
def test_a_misspelled_option_gets_a_suggestion(arguments, hint, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    printed = capsys.readouterr().err
    assert hint in printed
    assert printed.startswith(f"usage: dense-resnet {arguments[0]} ")


def test_option_names_of_other_tools_suggest_ours():
    """Of some verb, which has no option of that name: no row hides another, and none is of an option that is gone."""
    own = []
    for verb in cli.VERBS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"tools.{verb}").configure(parser)
        own.append(set(parser._option_string_actions) | {str(action.metavar) for action in parser._actions})
    for option, names, _ in synonyms.ROWS:
        for name in names.split():
            assert any(
                synonyms.suggest_option(f"--{name}", options).startswith(f"Did you mean {option}?")
                and f"--{name}" not in options
                for options in own
            ), (option, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["descibe", "resnet_v2_50"], "unknown verb 'descibe'. Did you mean describe? Verbs: describe, check, "),
        (["resnet_v2_50"], "unknown verb 'resnet_v2_50'. Verbs: describe, "),
        (
            ["--output-stride", "16", "describe", "resnet_v2_50"],
            "--output-stride is before the verb; options follow it: dense-resnet describe … --output-stride",
        ),
        ([], "required: VERB"),
    ],
)
def test_unknown_verbs_are_refused_with_suggestions(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert message in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"dense-resnet {dr.__version__}\n"


def test_describe_takes_what_other_verbs_take(capsys, tmp_path):
    code, out, _ = run(capsys, "describe", SCENES_MODEL, "--output-stride", 8)
    described = json.loads((SCENES_MODEL / "model.json").read_text())
    assert code == 0
    plan = plan_from_config(described["plan"], 8, described["multi_grid"], root=described.get("root"))
    assert out == plan.describe((513, 513)) + "\n"
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(described["plan"]))
    assert run(capsys, "describe", path)[0] == 0


@pytest.mark.parametrize("arguments", [["describe", "nosuch/"], ["describe", "m.json"], ["export", "nosuch", "--to", "onnx"]])
def test_a_path_that_is_not_there(arguments, capsys, tmp_path):
    out = ["--out", tmp_path / "m.onnx"] if arguments[0] == "export" else []
    code, _, err = run(capsys, *arguments, *out)
    assert (code, err) == (1, f"error: {arguments[1]}: no such file or folder, and not a variant's name.\n")


@pytest.mark.parametrize("seed", [99999999999999999999, 2**63, 2**31, -1])
def test_invalid_seeds_are_refused(seed, capsys):
    code, _, err = run(capsys, "check", "resnet_v1_18", "--random-weights", seed)
    assert (code, err) == (1, f"error: seed must be at least 0 and below 2147483648 (not {seed}).\n")


def test_empty_names_are_refused(capsys, tmp_path):
    for arguments in (
        ["extract", "", "--model", "resnet_v1_18", "--random-weights", 0, "--out", tmp_path],
        ["extract", tmp_path, "--model", "resnet_v1_18", "--random-weights", 0, "--out", ""],
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 1
        assert err.endswith("is empty. Is a shell variable unset?\n")


def test_a_quoted_tilde_is_the_home_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = run(capsys, "doctor", "~/mine")
    assert code == 1
    assert err == f"error: {tmp_path / 'mine'}: no such file or folder.\n"


def test_a_path_instead_of_a_variant_is_refused(capsys, small_weights, tmp_path):
    for name in ("resnet_v1_18.ckpt", "resnet_v1_18.safetensors"):
        code, _, err = run(capsys, "check", small_weights / name, "--random-weights", 0)
        assert code == 1
        assert "is a file, not a variant's name. If it holds weights, pass the VARIANT" in err
    code, _, err = run(capsys, "check", tmp_path / "model", "--random-weights", 0)
    assert code == 1
    assert err == f"error: {tmp_path / 'model'}: no such file or folder, and not a variant's name.\n"
    code, _, err = run(capsys, "train", tmp_path, "--model", tmp_path, "--out", tmp_path / "model")
    assert code == 1
    assert "is a folder, not a variant's name. If it is a model directory: --init" in err


def test_a_size_of_0_is_refused(capsys, small_weights, image_folder, tmp_path):
    weights = ["--model", "resnet_v1_18", "--weights", small_weights / "resnet_v1_18.ckpt"]
    code, _, err = run(capsys, "extract", image_folder, *weights, "--size", 0, "--out", tmp_path / "out")
    assert (code, err) == (1, "error: size must be a positive integer (not 0).\n")
    code, _, err = run(capsys, "predict", image_folder, "--model", SCENES_MODEL, "--size", 0, "--out", tmp_path / "out")
    assert (code, err) == (1, "error: size must be a positive integer (not 0).\n")
    code, _, err = run(capsys, "benchmark", "--burn-in", -1)
    assert (code, err) == (1, "error: --burn-in must be at least 0 (not -1).\n")


def test_a_full_disk_behind_the_output_is_no_traceback(capsys, monkeypatch):
    def full(args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tools.describe.main", full)
    code, _, err = run(capsys, "describe", "resnet_v2_50")
    assert (code, err) == (1, "error: the output: No space left on device.\n")


def test_a_full_disk_or_a_gone_reader_behind_a_buffer(tmp_path):
    """The output is met at the end only, where nobody waits for it line by line."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, ROOT / "tools" / "describe.py", "resnet_v1_18"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=own, check=False)
    assert (result.returncode, result.stderr) == (1, "error: the output: No space left on device.\n")
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=own, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")


def test_work_continues_after_its_reader_is_gone():
    """A stop's exit code is its own then too: nothing that is unfinished ends with 0."""
    code = (
        "import os, signal\nfrom rich.console import Console\nfrom tools import cli, describe, terminal\n"
        "def main(args):\n"
        "    print('x' * 100_000, flush=True)\n    Console().print('y' * 100_000, highlight=False)\n"
        "    with terminal.stop_signals() as stop:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n        return terminal.STOPPED if stop() else 0\n"
        "describe.main = main\nraise SystemExit(cli.main(['describe', 'resnet_v1_18']))\n"
    )
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=write, check=False)
    os.close(write)
    assert result.returncode == terminal.STOPPED


def test_control_characters_in_names_are_escaped(capsys, tmp_path):
    folder, escape = tmp_path / "images", "\x1b[31m"
    folder.mkdir()
    (folder / f"a{escape}.png").write_bytes(b"no image")
    code, out, err = run(capsys, "extract", folder, "--model", "resnet_v1_18", "--random-weights", 0, "--out", tmp_path / "out")
    assert code == 1
    assert "1 of 1 image cannot be used" in err
    assert "a\\x1b[31m.png: not a PNG or JPEG image" in err
    assert "\x1b" not in out + err


def test_ignored_signals_stay_ignored():
    code = (
        "import os, signal\nfrom tools import cli, describe\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "describe.main = lambda args: os.kill(os.getpid(), signal.SIGINT) or 0\n"
        "raise SystemExit(cli.main(['describe', 'resnet_v1_18']))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_variants_name_wins_over_a_file_of_that_name(capsys, small_weights, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet_v1_18.index").touch()
    weights = ["--model", "resnet_v1_18", "--weights", small_weights / "resnet_v1_18.ckpt", "--size", 65]
    for _ in range(2):  # once into a new folder, once into the one that is there
        code, _, err = run(capsys, "extract", image_folder, *weights, "--out", "resnet_v1_18")
        assert code == 0, err
    code, _, err = run(capsys, "train", tmp_path, "--model", "resnet_v1_18", "--out", "resnet_v1_18")
    assert "is a folder, not a variant's name" not in err


def test_a_plan_file_with_duplicate_keys_is_refused(capsys, tmp_path):
    path = tmp_path / "plan.json"
    for text, message in (
        ('{"scope": "a", "scope": "b"}', "duplicate key 'scope'"),
        ("[" * 99_999, "nested too deeply"),
    ):
        path.write_text(text)
        code, _, err = run(capsys, "train", tmp_path, "--model", path, "--out", tmp_path / "out")
        assert code == 1
        assert f"{path}: is not JSON: {message}" in err


def test_compare_refuses_paths_without_an_evaluation(capsys, tmp_path):
    other = tmp_path / "picture.png"
    other.write_bytes(b"{" + bytes(range(128, 256)) * 100)
    for path, message in ((tmp_path, "contains no evaluation.json"), (other, "is not an evaluation, or is damaged")):
        code, _, err = run(capsys, "compare", path, path)
        assert code == 1
        assert message in err
        assert len(err) < 400  # not the whole file


def test_a_module_that_is_not_installed_names_the_python(capsys, monkeypatch):
    def lacks(args):
        raise ModuleNotFoundError("No module named 'rich'")

    monkeypatch.setattr("tools.describe.main", lacks)
    code, _, err = run(capsys, "describe", "resnet_v2_50")
    assert code == 1
    assert err.startswith(
        f"error: No module named 'rich', in the Python {sys.executable}. Install the dependencies with `pip install .`"
    )


def test_ctrl_c_while_the_verbs_are_imported(capsys, monkeypatch):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupt)
    code, _, err = run(capsys, "describe", "resnet_v2_50")
    assert (code, err) == (75, "interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("train", "--model", "resnet_v1_18", "--split", "x", "--out", "m"),
        ("evaluate", "--split", "x", "--out", "e"),
    ],
)
def test_assumed_classes_are_the_first_line(arguments, capsys, tmp_path):
    verb, *options = arguments
    image_file(tmp_path / "images" / "ADE_val_00000001.jpg")
    label_file(tmp_path / "annotations" / "ADE_val_00000001.png", [[0, 1, 150]])
    options += ["--predictions", tmp_path] if verb == "evaluate" else []
    _, out, _ = run(capsys, verb, tmp_path, *options)
    assert out.startswith(f"note: {tmp_path}: dataset.json not found, and the labels look like those of ADE20K (names such as ")
    shutil.rmtree(tmp_path / "annotations")
    label_file(tmp_path / "annotations" / "ADE_val_00000001.png", [[0, 1]])
    code, out, err = run(capsys, verb, tmp_path, *options)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path}: dataset.json not found (it defines the classes), and the labels (")


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("doctor", ()),
        ("extract", ("--model", "nowhere", "--random-weights", 0)),
        ("predict", ("--model", "nowhere")),
        ("train", ("--model", "resnet_v1_18")),
        ("evaluate", ("--model", "nowhere")),
        ("evaluate", ("--predictions", "nowhere")),
    ],
)
def test_every_verb_says_what_it_reads_of_16_bits(verb, options, capsys, tmp_path, monkeypatch):
    def end():
        raise InputError("before TensorFlow")

    monkeypatch.setattr("tools.options.start_tensorflow", end)
    own_dataset(tmp_path / "own", splits=("val",), names=("a", "b"))
    for name in ("a", "b"):
        (tmp_path / "own" / "images" / "val" / f"{name}.jpg").unlink()
        Image.fromarray(np.full((4, 6), 4095, np.uint16)).save(tmp_path / "own" / "images" / "val" / f"{name}.png")
    out = () if verb == "doctor" else ("--out", tmp_path / "out")
    source = tmp_path / "own" / "images" if verb in ("extract", "predict") else tmp_path / "own"
    _, printed, _ = run(capsys, verb, source, *options, *out)
    first = tmp_path / "own" / "images" / "val" / "a.png"
    (line,) = [line for line in printed.splitlines() if "16-bit" in line]
    assert line.startswith("warning: ")
    assert (
        f"{first} and 1 other image: 16-bit, with values 4095 to 4095 of 65535; read as value / 256, which is 15 to 15" in line
    )
