"""Kills, full disks, forbidden folders, files that vanish, errors of reading and writing, two runs at once, signals.

Each verb that writes does a small job once without any trouble. Then it meets troubles, and after each of them

- every file under a final name is whole: what it was before, or what the undisturbed job has made;
- where the job says that it has succeeded, all files of the undisturbed job are there, and nothing beside them;
- where it did not, one message says why, without a traceback;
- the same command, once more, ends with the very files of the undisturbed job, and nothing beside them.

Compared are all bytes, but of TensorBoard's curves of a training, which are full of times; of Keras archives, which hold times
too, the weights; and of ONNX files what they compute, since tf2onnx leaves names and order to chance.

File systems are mounted where only this process and its children see them, so that they end with it however it ends. A user
who may not mount any does without: what that leaves out is among the figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import importlib.util
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from campaign import Campaign
from campaign.fork_server import BRIEFLY, Child, Ended, ForkServer
from dense_resnet import checkpoints
from dense_resnet.jobs.atomic_files import LOCK
from segmentation.saving.export.exporter import open_exported
from segmentation.saving.export.files import MODULES
from segmentation.saving.model_directory import load_model, save_model
from tools import terminal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="makes its troubles as Linux has them")

PAGE = resource.getpagesize()
MANY = 20  # cases among which each outcome has to occur
LEAST = 8192  # bytes that the messages themselves need
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18  # of Linux
PLAN = {"kind": "bottleneck_v2", "scope": "tiny", "blocks": [["block1", [[16, 8, 2]]], ["block2", [[24, 8, 1]]]]}
READING = ("train", "evaluate", "extract", "predict")  # verbs that read data while they write
COLORS = np.array([[90, 90, 90], [220, 40, 40], [40, 200, 60]])
FAST = ["--size", "65", "--batch", "1", "--precision", "float32"]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Job:
    """A command line without its output."""

    verb: str
    arguments: tuple[object, ...]
    target: str  # name of the output in the case's folder
    replaces: bool = False  # what another job has left there
    load: Callable[[Path], object] = lambda target: None  # raises where the output is not whole

    def command(self, folder: Path) -> tuple[object, ...]:
        return (self.verb, *self.arguments, "--out", folder / self.target)


def read(path: Path) -> None:
    if path.exists():
        checkpoints.read(path)


def load_directory(path: Path) -> None:
    if (path / "weights.safetensors").exists():
        load_model(path)


def load_export(path: Path) -> None:
    if path.exists():
        open_exported(path)


def load_training(out: Path) -> None:
    state = out / "training" / "state.safetensors"
    if state.exists():
        checkpoints.read(state)
    for folder in (out, out / "last"):
        if (folder / "weights.safetensors").exists():
            load_model(folder)


def load_any(path: Path) -> None:
    """That of a file of which nothing else is known, it is whole for whoever reads files of its kind."""
    assert path.stat().st_size, f"{path}: empty"
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix in (".png", ".jpg"):
        Image.open(path).load()


def write_dataset(folder: Path) -> None:
    """Six images of 65x65 pixels to train on and eight to validate, with a red and a green square on grey."""
    (folder / "plan.json").write_text(json.dumps(PLAN))
    (folder / "dataset.json").write_text(json.dumps({"name": "tiny", "classes": ["ground", "red", "green"]}))
    for split, count in (("train", 6), ("val", 8)):
        for number in range(count):
            generator = np.random.default_rng([count, number])
            label = np.zeros((65, 65), np.uint8)
            for index in (1, 2):
                row, column = generator.integers(0, 40, 2)
                label[row : row + 20, column : column + 20] = index
            image = np.clip(COLORS[label] + generator.normal(0, 20, (65, 65, 3)), 0, 255).astype(np.uint8)
            for kind, values in (("images", image), ("labels", label)):
                path = folder / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)


def training_of(data: Path) -> Job:
    recipe = "--head fcn --crop 33 --size 65 --batch 2 --lr 0.1 --steps 6 --validate-every 2 --save-every 2"
    return Job(
        "train",
        (data, "--model", data / "plan.json", "--output-stride", 8, *recipe.split()),
        "run",
        load=load_training,
    )


def jobs_of(data: Path, model: Path) -> dict[str, Job]:
    images = data / "images" / "val"
    found = {
        "train": training_of(data),
        "evaluate": Job("evaluate", (data, "--model", model, *FAST), "run"),
        "extract": Job("extract", (images, "--model", model, "--picture", *FAST), "run"),
        "predict": Job("predict", (images, "--model", model, "--overlay", "--save-probs", *FAST), "run"),
        "export to savedmodel": Job(
            "export", (model, "--to", "savedmodel", "--precision", "float32", "--size", 65), "model", True, load_export
        ),
        "export to onnx": Job("export", (model, "--to", "onnx", "--size", 65), "model.onnx", True, load_export),
        "export to openvino": Job(
            "export", (model, "--to", "openvino", "--precision", "float32", "--size", 65), "model", True, load_export
        ),
        "export to tflite": Job("export", (model, "--to", "tflite", "--size", 65), "model.tflite", True, load_export),
        "convert to model-dir": Job("convert", (model, "--to", "model-dir"), "model", True, load_directory),
        "convert to safetensors": Job("convert", (model, "--to", "safetensors"), "model.safetensors", True, read),
        "convert to keras": Job("convert", (model, "--to", "keras"), "model.keras", True, read),
        "convert to slim": Job("convert", (model, "--to", "slim"), "model.ckpt"),
    }
    for to, modules in MODULES.items():
        if not all(map(importlib.util.find_spec, modules)):
            del found[f"export to {to}"]
    return found


def is_hidden(name: str) -> bool:
    """Whether it is of what is being written, or was when a kill came."""
    return any(part.startswith(".") for part in Path(name).parts)


def contents(folder: Path) -> Files:
    """All files below, hidden ones too, by relative path, less what differs by design."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "training/tensorboard" in name:
            continue
        if path.is_dir():
            found[f"{name}/"] = b""
        elif is_hidden(name):
            found[name] = path.read_bytes()
        elif path.suffix == ".onnx":
            found[name] = digest_outputs(path.read_bytes())
        elif path.suffix == ".keras":
            found[name] = checkpoints.fingerprint(checkpoints.read(path)).encode()
        else:
            found[name] = path.read_bytes()
    return found


def differences(there: Files, wanted: Files) -> list[str]:
    """The names under which they hold different files, or only one of them any."""
    return sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))


def digest_outputs(data: bytes) -> bytes:
    """Digests of what an ONNX file gives, each of the operation, its attributes and the digests of what it takes."""
    import onnx

    def digest(*parts: object) -> str:
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    graph = onnx.load_from_string(data).graph
    values = {one.name: digest(onnx.numpy_helper.to_array(one).tobytes(), list(one.dims)) for one in graph.initializer}
    for node in graph.node:
        made = digest(node.op_type, sorted(map(str, node.attribute)), [values.get(name, name) for name in node.input])
        values |= {name: digest(made, number) for number, name in enumerate(node.output)}
    return json.dumps([(one.name, values[one.name]) for one in graph.output]).encode()


class World:
    """Data, models, jobs, and what they come to where nothing disturbs them."""

    def __init__(self, folder: Path, server: ForkServer, may_mount: bool) -> None:
        self.folder, self.server, self.may_mount = folder, server, may_mount
        self.numbers = itertools.count()
        self.data = folder / "data"
        self.data.mkdir()
        write_dataset(self.data)
        self._spans: dict[str, tuple[float, float]] = {}
        self._changes: dict[str, int] = {}
        self._results: dict[tuple[str, bool], Path] = {}
        training = training_of(self.data)
        self.model = self._run_undisturbed(training) / training.target
        self._results["train", False] = self.model.parent
        self.other_model = folder / "other"
        saved = load_model(self.model)
        saved.model.assign({name: value * np.float32(1.25) for name, value in saved.model.weights.items()})
        save_model(self.other_model, saved.model, saved.space)
        self.jobs = jobs_of(self.data, self.model)
        self._others = jobs_of(self.data, self.other_model)

    def result(self, name: str, other: bool = False) -> Path:
        """The folder that a job leaves, or that of the same job on the other model."""
        if (name, other) not in self._results:
            job = (self._others if other else self.jobs)[name]
            self._results[name, other] = self._run_undisturbed(job)
        return self._results[name, other]

    def changes(self, name: str) -> int:
        """How many changes of files a job makes."""
        if name not in self._changes:
            folder = self.new_folder()
            self._changes[name] = self.server.run(*self.jobs[name].command(folder), folder=str(folder), at=-1).changes
            assert self._changes[name] > 5
        return self._changes[name]

    def span(self, name: str) -> tuple[float, float]:
        """Seconds from a job's start to the first change in its folder, and to its end."""
        if name not in self._spans:
            folder, start = self.new_folder(), time.monotonic()
            with self.server.start(*self.jobs[name].command(folder)) as child:
                while not any(folder.iterdir()):
                    assert child.runs_for(BRIEFLY), child.end()
                first = time.monotonic() - start
                child.end()
            self._spans[name] = first, time.monotonic() - start
        return self._spans[name]

    def other(self, name: str) -> Job:
        return self._others[name]

    def _run_undisturbed(self, job: Job) -> Path:
        folder = self.new_folder()
        ended = self.server.run(*job.command(folder))
        assert ended.code == 0, ended.errors
        return folder

    def new_folder(self) -> Path:
        folder = self.folder / f"{next(self.numbers)}"
        folder.mkdir()
        return folder


class Case:
    """A job in a folder of its own, with or without what an earlier job has left there."""

    def __init__(self, world: World, name: str, number: int, folder: Path | None = None, *, over_another: bool = False) -> None:
        self.world, self.name, self.number = world, name, number
        self.job = world.jobs[name]
        self.folder = folder or world.new_folder()
        self.wanted = contents(world.result(name))
        self.before: Files = {}
        if over_another and self.job.replaces:
            shutil.copytree(world.result(name, other=True), self.folder, dirs_exist_ok=True)
            self.before = contents(self.folder)
        self.command = self.job.command(self.folder)

    def start(self) -> Child:
        return self.world.server.start(*self.command)

    def run(self, **trouble: object) -> Ended:
        return self.world.server.run(*self.command, **trouble)

    def check(self, ended: Ended, *results: Files) -> None:
        """That nothing is lost or half there, however it ended, and nothing missing where it succeeded.

        Args:
            ended: how it ended.
            results: what may be there where it succeeded, if not what the undisturbed job has made.
        """
        there = contents(self.folder)
        where = f"case {self.number}, {self.name}, ended by {ended.code}: {ended.errors}\n"
        aside = f".{self.job.target}.old/"
        if aside in there and f"{self.job.target}/" not in there:  # documented: the next export puts it back
            there |= {f"{self.job.target}/{name.removeprefix(aside)}": data for name, data in there.items() if aside in name}
        lost = [name for name in self.before if name not in there]
        assert not lost, f"{where}lost: {lost}"
        for name, data in there.items():
            if is_hidden(name) or data in (self.before.get(name), self.wanted.get(name)):
                continue
            if name.endswith(".jsonl"):
                assert self.wanted[name].startswith(data[: data.rfind(b"\n") + 1]), f"{where}{name}: {data!r}"
            elif not name.endswith("/"):
                assert self.job.verb == "train", f"{where}{name}: half written? {len(data)} bytes"
                load_any(self.folder / name)
        self.job.load(self.folder / self.job.target)
        if ended.code == 0:
            if is_hidden(ended.met.removeprefix(f"{self.folder}/")):  # what could not be removed, goes with the next run
                there = {name: data for name, data in there.items() if not is_hidden(name)}
            differing = [differences(there, result) for result in results or (self.wanted,)]
            assert [] in differing, f"{where}but differ: {differing}"
        self.before = {name: data for name, data in there.items() if not is_hidden(name)}

    def check_without(self, image: str) -> None:
        """That the results of all images but this one are there, as the undisturbed job has made them."""
        there, own = contents(self.folder), f"{self.job.target}/{Path(image).stem}."
        made = {name for name in self.wanted if not name.endswith((".json", ".jsonl"))}
        expected = {name: self.wanted[name] for name in made if not name.startswith(own)}
        assert len(expected) < len(made)
        found = {name: data for name, data in there.items() if not name.endswith((".json", ".jsonl"))}
        assert found == expected, f"case {self.number}, {self.name}, without {image}: {differences(found, expected)}"
        self.before = {}

    def check_refusal(self, ended: Ended, *words: str) -> None:
        """That it ended with one message, which says one of the words."""
        where = f"case {self.number}, {self.name}, ended by {ended.code}: {ended.printed}{ended.errors}\n"
        assert ended.code == 1, where
        assert "Traceback" not in ended.errors, where
        assert sum(line.startswith("error: ") for line in ended.errors.splitlines()) == 1, where
        assert any(word in ended.errors for word in words), where

    def finish(self) -> None:
        """That the same command ends with the files of the undisturbed job, and nothing beside them but the locks of files that
        it had no more to write.
        """
        if self.name == "convert to slim" and self.wanted.items() <= contents(self.folder).items():
            return  # what is complete is never written over
        ended = self.run()
        where = f"case {self.number}, {self.name}, at last: {ended.code} {ended.printed}{ended.errors}\n"
        assert ended.code == 0, where
        assert "Traceback" not in ended.errors, where
        there = {name: data for name, data in contents(self.folder).items() if not (is_hidden(name) and name.endswith(LOCK))}
        assert not differences(there, self.wanted), f"{where}differ: {differences(there, self.wanted)}"


def own_mounts() -> bool:
    """Keeps what is mounted from now on to this process and its children; False for who may not mount."""
    system = ctypes.CDLL(None)
    return system.unshare(CLONE_NEWNS) == 0 == system.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "output").mkdir()
    may_mount = own_mounts()  # which the server's process then shares
    with ForkServer(folder / "output") as server:
        yield World(folder, server, may_mount)


Trial = Callable[[str, int, np.random.Generator], str]  # the job's name, the case's number, its random numbers; the outcome


def try_jobs(
    campaign: Campaign,
    names: Iterable[str],
    trial: Trial,
    *,
    short: int,
    outcome: str = "refused",
    share: float = 0,
    **more: object,
) -> None:
    """Tries the jobs in turn; what goes wrong in a case is told at the end, when the others have had theirs.

    Args:
        campaign: the test's.
        names: of the jobs.
        trial: a case; raises where anything is lost.
        short: how many in the short form.
        outcome, share: what at least so many of the cases have to come to, once there are enough of them.
        more: figures to keep beside the outcomes.
    """
    names, failures, outcomes = list(names), [], Counter()
    for number, random in campaign.cases(short):
        try:
            outcomes[trial(names[number % len(names)], number, random)] += 1
        except Exception as error:
            failures.append(str(error) if isinstance(error, AssertionError) else repr(error))
    assert not failures, f"{len(failures)} cases failed:\n" + "\n".join(failures)
    assert outcomes[outcome] >= share * outcomes.total() or outcomes.total() < MANY, outcomes
    campaign.report(**outcomes, **more, losses=len(failures))


def test_killed_at_any_moment(campaign, world):
    """SIGKILL, up to three times in a row, at random moments: half of them of the whole run, half from its first change on."""
    landed, by_verb = Counter(), Counter()

    def trial(name, number, random):
        case = Case(world, name, number, over_another=bool(random.integers(2)))
        kills = 0
        for _ in range(random.choice([1, 1, 2, 3])):
            before = contents(case.folder)
            first_change, end = world.span(name)
            moment = random.uniform(random.choice([0, first_change]), end)
            with case.start() as child:
                child.runs_for(moment)
                child.send(signal.SIGKILL)
                ended = child.end()
            assert ended.code in (0, -signal.SIGKILL), ended
            case.check(ended)
            killed, changed = ended.code != 0, contents(case.folder) != before
            landed["after the end" if not killed else "in between" if changed else "before the first change"] += 1
            by_verb[case.job.verb] += killed
            kills += killed
        case.finish()
        return "killed" if kills else "done before"

    try_jobs(campaign, world.jobs, trial, short=3, outcome="killed", share=1 / 2, kills_by_verb=by_verb, moments=landed)
    assert landed["in between"] >= landed.total() / 4 or landed.total() < MANY, landed


def test_killed_before_any_change(campaign, world):
    """Killed right before one of the changes of files that the job makes."""
    by_verb = Counter()

    def trial(name, number, random):
        case = Case(world, name, number, over_another=bool(random.integers(2)))
        ended = case.run(folder=str(case.folder), at=int(random.integers(world.changes(case.name))))
        assert ended.code == -signal.SIGKILL, ended
        case.check(ended)
        case.finish()
        by_verb[case.job.verb] += 1
        return "killed"

    try_jobs(campaign, reversed(world.jobs), trial, short=2, outcome="killed", share=1, kills_by_verb=by_verb)


def test_a_change_that_fails(campaign, world):
    """A file that cannot be opened for writing, renamed or brought to the disk."""

    def trial(name, number, random):
        case = Case(world, name, number, over_another=bool(random.integers(2)))
        cause = int(random.choice([errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE]))
        ended = case.run(folder=str(case.folder), at=int(random.integers(world.changes(case.name))), error=cause)
        if ended.code:
            case.check_refusal(ended, f"{os.strerror(cause)}.")
            assert str(case.folder) in ended.errors, ended
        case.check(ended)
        case.finish()
        return "refused" if ended.code else "done without it"

    try_jobs(campaign, world.jobs, trial, short=1, share=1 / 2)


@contextlib.contextmanager
def mount_memory(folder: Path, size: int) -> Iterator[Callable[[str], None]]:
    """A file system in memory of so many bytes on `folder`; gives what changes its options."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

    mount(f"size={size}")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(campaign, world):
    """A small file system with room for nothing, some, or nearly all of what the job writes."""
    if not world.may_mount:
        pytest.skip("needs a user who may mount file systems")

    def trial(name, number, random):
        folder = world.new_folder()
        files = [path.stat().st_size for path in world.result(name).rglob("*") if path.is_file()]
        needed = sum(-(-size // PAGE) * PAGE for size in files)
        share = [0, random.uniform(0, 1), random.uniform(0.8, 1.2)][(number + number // len(world.jobs)) % 3]
        with mount_memory(folder, 2**24) as remount:
            case = Case(world, name, number, folder, over_another=bool(random.integers(2)))
            used = shutil.disk_usage(folder).used
            remount(f"size={max(PAGE, used + int(share * needed))}")
            ended = case.run()
            if ended.code:
                case.check_refusal(ended, "No space left on device", "MiB are needed and")
                assert str(folder) in ended.errors, ended
            case.check(ended)
            remount(f"size={2**24}")
            case.finish()
        return "refused" if ended.code else "had room enough"

    try_jobs(campaign, world.jobs, trial, short=2, share=1 / 2)


def test_a_limit_of_file_sizes(campaign, world):
    """No file may grow beyond a size, such as users' quotas have it."""

    def trial(name, number, random):
        case = Case(world, name, number, over_another=bool(random.integers(2)))
        files = [path.stat().st_size for path in world.result(case.name).rglob("*") if path.is_file()]
        ended = case.run(largest=int(random.integers(LEAST, max(*files, LEAST + 1))))
        if ended.code:
            case.check_refusal(ended, "File too large", "No space left on device")
        case.check(ended)
        case.finish()
        return "refused" if ended.code else "had room enough"

    try_jobs(campaign, world.jobs, trial, short=1, share=1 / 4)


def test_forbidden_folders_and_files(campaign, world):
    """A disk that may only be read; a folder, or a file in it, of which the user has only that right."""
    ways = ("disk", "folder", "file") if world.may_mount else ("folder", "file")
    by_way = Counter()

    def trial(name, number, random):
        way = ways[(number + number // len(world.jobs)) % len(ways)]
        with contextlib.ExitStack() as stack:
            case = Case(world, name, number, over_another=bool(random.integers(2)))
            earlier = shutil.copytree(case.folder, world.new_folder(), dirs_exist_ok=True)
            with contextlib.ExitStack() as forbidden:
                if way == "disk":
                    remount = stack.enter_context(mount_memory(case.folder, 2**24))
                    shutil.copytree(earlier, case.folder, dirs_exist_ok=True)
                    remount("ro")
                    forbidden.callback(remount, "rw")
                elif way == "folder":
                    case.folder.chmod(0o555)
                    forbidden.callback(case.folder.chmod, 0o755)
                else:
                    shutil.copytree(world.result(case.name), case.folder, dirs_exist_ok=True)
                    case.before = contents(case.folder)
                    for path in case.folder.rglob("*"):
                        if path.is_file() and "tensorboard" not in str(path):
                            path.chmod(0o444)
                            forbidden.callback(path.chmod, 0o644)
                ended = case.run(unprivileged=True)
                if ended.code or way != "file":
                    case.check_refusal(ended, "Read-only file system", "Permission denied", "exists already")
                    assert str(case.folder) in ended.errors, ended
                case.check(ended)
            case.finish()
        by_way[way] += ended.code != 0
        return "refused" if ended.code else "done"

    left_out = [] if world.may_mount else ["disk"]
    try_jobs(campaign, world.jobs, trial, short=1, share=1 / 2, refused_by_way=by_way, left_out=left_out)


def test_files_that_vanish(campaign, world):
    """An image, a label, a part of the model, the log of what is done, or the file being written, while the job is at work.

    Nothing can be promised of who removes a file from a hidden folder right before that takes its name, as a SavedModel's and
    OpenVINO's do.
    """
    names = [name for name in world.jobs if name not in ("export to savedmodel", "export to openvino")]

    def trial(name, number, random):
        with contextlib.ExitStack() as stack:
            case = Case(world, name, number)
            at, victim = int(random.integers(world.changes(case.name))), None
            if case.job.verb in READING and (number // len(names)) % 3:
                at //= 2  # what has been read already is not missed
                read = [*world.data.rglob("*.png" if case.job.verb == "train" else "val/*.png"), *world.model.glob("*.*")]
                logs = [case.folder / name for name in case.wanted if name.endswith(".jsonl") and case.job.verb != "train"]
                victim = logs[0] if logs and random.integers(2) else read[int(random.integers(len(read)))]
                if victim.exists():
                    stack.callback(victim.write_bytes, victim.read_bytes())
            ended = case.run(folder=str(case.folder), at=at, remove=victim and str(victim))
            if ended.code:
                case.check_refusal(ended, *((victim.name, str(victim.parent)) if victim else (str(case.folder),)))
            case.check(ended)
            stack.close()
            case.finish()
        return "refused" if ended.code else "done"

    try_jobs(campaign, names, trial, short=1, share=1 / 4)


def test_files_that_cannot_be_read(campaign, world):
    """Errors of the disk and of the network on opening and on reading, a folder or a pipe in a file's place."""

    def trial(name, number, random):
        with contextlib.ExitStack() as stack:
            case = Case(world, name, number)
            reads = [world.model / "weights.safetensors", world.model / "model.json"]
            if case.job.verb in READING and random.integers(4):
                reads = [*world.data.rglob("*.png"), world.data / "dataset.json"]
            victim = reads[int(random.integers(len(reads)))]
            way = ("opening", "reading", "a folder", "a pipe")[int(random.integers(4))]
            trouble = {"reading": str(victim), "error": int(random.choice([errno.EIO, errno.ESTALE, errno.EACCES]))}
            if way != "opening":
                trouble = {}
                stack.enter_context(in_the_place_of(victim, way, world.folder / "aside"))
            ended = case.run(**trouble)
            if ended.code:
                case.check_refusal(ended, str(victim), victim.name, str(victim.parent))
            smaller = way == "a folder" and ended.code == 0 and victim.parent == world.data / "images" / "val"
            if smaller and case.job.verb in ("extract", "predict"):  # images are looked for in folders of any name
                case.check_without(victim.name)
            else:
                case.check(ended)
            stack.close()
            case.finish()
        return "refused" if ended.code else "a folder without images" if smaller else "done without it"

    try_jobs(campaign, world.jobs, trial, short=2, share=1 / 4)


@contextlib.contextmanager
def in_the_place_of(victim: Path, way: str, aside: Path) -> Iterator[None]:
    """Something else under a file's name; the file comes back with the end of the block."""
    victim.rename(aside)
    try:
        if way == "reading":
            victim.symlink_to("/proc/self/mem")  # whose first bytes are an error of input and output
        elif way == "a folder":
            victim.mkdir()
        else:
            os.mkfifo(victim)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            victim.rmdir() if victim.is_dir() else victim.unlink()
        aside.rename(victim)


def test_two_runs_at_once(campaign, world):
    """The same command twice, the second a little later or at the same moment; where the target is replaced, on two models."""

    def trial(name, number, random):
        case = Case(world, name, number)
        second = world.other(case.name) if case.job.replaces else case.job
        case.before = contents(world.result(case.name, other=True)) if case.job.replaces else {}
        moment = random.choice([0, 0, 0.05, random.uniform(0, world.span(name)[1])])
        with case.start() as first:
            first.runs_for(moment)
            with world.server.start(*second.command(case.folder)) as child:
                both = [first.end(), child.end()]
        for ended in both:
            if ended.code:
                case.check_refusal(ended, "another run", "exists already")
        makes = (case.wanted, case.before or case.wanted)
        results = [files for ended, files in zip(both, makes, strict=True) if ended.code == 0]
        assert results, both
        for ended in both:
            case.check(ended, *results)
        case.finish()
        return "both done" if len(results) == 2 else "one refused"

    try_jobs(campaign, world.jobs, trial, short=2, outcome="one refused", share=1 / MANY)


def test_signals_at_any_moment(campaign, world):
    """SIGTERM or SIGINT: the exit code says that the same command goes on."""

    def trial(name, number, random):
        case = Case(world, name, number, over_another=bool(random.integers(2)))
        moment = random.uniform(0, world.span(name)[1])
        with case.start() as child:
            assert child.handles(signal.SIGTERM)
            child.runs_for(moment)
            child.send(random.choice([signal.SIGTERM, signal.SIGINT]))
            ended = child.end()
        assert ended.code in (0, terminal.STOPPED), ended
        assert "Traceback" not in ended.errors, ended
        left = [name for name in contents(case.folder) if is_hidden(name)]
        assert not left, f"case {number}, {case.name}: left behind: {left}"
        case.check(ended)
        case.finish()
        return "stopped" if ended.code else "done"

    try_jobs(campaign, world.jobs, trial, short=2, outcome="stopped", share=1 / MANY)
