"""What `train` chooses where no number is given, that it is printed as options, and that a resumed run keeps it."""

import json
import re
import shlex
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.trainings import make_data

from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.planning import variants
from segmentation.data.label_space import LabelClass, LabelSpace
from segmentation.training import choice
from segmentation.training.recipe import FOLDER, STATE
from tools import cli, train


@pytest.mark.parametrize(("memory", "batch"), [(2**40, 8), (2**33, 4), (2**20, 1)])
def test_the_batch_follows_the_memory(memory, batch):
    plan = variants.plan("resnet_v2_50", 16)
    step = choice.BACKWARD * plan.analyze((513, 513)).activation_bytes
    assert choice.choose_batch(plan, 513, memory) == batch
    assert batch == 1 or batch * step <= choice.MEMORY * memory


def test_free_memory_is_that_of_a_machine():
    assert 2**26 < choice.free_memory() < 2**45


def test_a_damaged_state_gives_no_choice(tmp_path):
    assert choice.read_choice(tmp_path) is None
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / STATE).write_bytes(b"\0" * 100)
    assert choice.read_choice(tmp_path) is None


@pytest.mark.slow
def test_train_without_numbers(tmp_path, capsys, monkeypatch):
    """It starts from the shipped model, chooses, prints what it chose, and trains; the printed options give the same run."""
    monkeypatch.setattr(choice, "FEWEST_STEPS", 20)
    monkeypatch.setattr(choice, "PASSES", 1)
    data = make_data(tmp_path / "data")
    assert cli.main(["train", str(data), "--out", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert "start: the small model that comes with this (--init scenes)" in printed
    assert "the model to start from has 10 other classes, so the last layer starts anew, with 3 classes" in printed
    [options] = re.findall("^as options: (.*)$", printed, re.MULTILINE)
    assert set(re.findall(r"--[\w-]+", options)) == {
        "--crop",
        "--size",
        "--batch",
        "--lr",
        "--clip",
        "--weight-decay",
        "--class-weights",
        "--steps",
    }
    for option in re.findall(r"--[\w-]+ \S+", options):
        assert re.search(rf"^  {re.escape(option)} +\S", printed, re.MULTILINE), option  # with the reason
    assert cli.main(["train", str(data), "--out", str(tmp_path / "two"), *shlex.split(options)]) == 0
    one, two = (safetensors.read(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert all(np.array_equal(value, two[name]) for name, value in one.items())
    capsys.readouterr()
    assert cli.main(["train", str(data), "--out", str(tmp_path / "one")]) == 0  # it is done, by the numbers of before
    printed = capsys.readouterr().out
    assert "done at step 20: more --steps continue it" in printed
    assert "as options" not in printed
    page = (tmp_path / "one" / FOLDER / "index.html").read_text()
    assert "What to try next" in page
    assert json.loads((tmp_path / "one" / "model.json").read_text())["training"]["recipe"]["steps"] == 20


def test_nothing_is_chosen_that_is_given(tmp_path):
    parser = train.argparse.ArgumentParser()
    train.configure(parser)
    asked = "data --out out --crop 65 --size 97 --batch 2 --lr 0.1 --weight-decay 0.1 --class-weights none --steps 9".split()
    args = parser.parse_args(asked)
    before = dict(vars(args))
    space = LabelSpace((LabelClass("ground", (0, 0, 0)), LabelClass("mark", (9, 9, 9))))
    labels = SimpleNamespace(sizes=Counter({(40, 60): 3}), pixels=np.array([99999, 1]), space=space)
    assert train._choose(args, variants.plan("resnet_v1_18", 16), labels) == {}
    assert vars(args) == before
