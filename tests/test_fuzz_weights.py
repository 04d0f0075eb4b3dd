"""Damaged weight files: each is refused by name or reads as the good one; no crash, no hang, no silent success.

``pytest tests/test_fuzz_weights.py`` tries some hundred files a reader, ``--fuzz-cases 10000`` as many as that. A case is
made from its reader's name, its number and the good file alone; as some of these hold the date, a failing case's files are
kept, and the message says where.

A good file is damaged blindly (:func:`mutations.mutated`), or so that its checksums fit again and deeper code is reached:
then it is another good file, and what it reads as is not judged. Formats without checksums cannot tell other numbers from
the right ones: there, arrays may read as the numbers that now stand in their places. Nor can they tell other names: an array
that is missing then is what the load report is for. In HDF5 not even where an array lies is under a checksum: one in some
thousand damaged files reads as bytes from elsewhere in it, and no reader could know.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import mutations
import numpy as np
import pytest

from dense_resnet.checkpoints import safetensors, slim, table
from dense_resnet.errors import InputError

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does it")

SEED = 4
SECONDS = 5  # for a case
MEMORY = 2**29  # bytes that a case may take beyond what the process had
START = 120  # seconds for a worker to begin in
GOOD, OTHER = 0, 1
SOUND = ("refused", "identical", "excepted", "moved")

Arrays = dict[str, np.ndarray]
Aware = Callable[[bytes, bytes, np.random.Generator], bytes]


def arrays(which: int, more: int = 0) -> Arrays:
    """A few arrays under a network's names, of a few kilobytes; the two sets differ in every value."""
    generator = np.random.default_rng([SEED, which])
    shapes = {
        "tiny/block1/unit_1/conv1/weights": (1, 1, 8, 6),
        "tiny/block1/unit_1/conv2/weights": (3, 3, 6, 4),
        "tiny/conv1/weights": (3, 3, 3, 8),
        "tiny/logits/biases": (5,),
        "tiny/mean_rgb": (1,),
    } | {f"tiny/conv1/BatchNorm/{name}": (8,) for name in ("beta", "gamma", "moving_mean", "moving_variance")}
    if more:
        shapes["tiny/block1/unit_1/conv3/weights"] = (1, 1, more // 8, 8)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


# -- the readers, and a good file for each -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A reader, what it reads, and how that is damaged."""

    module: str  # of dense_resnet.checkpoints
    make: Callable[[Path, int], Path]  # (a new folder, GOOD or OTHER): writes a file or files there; what to read
    checksums: bool = True  # whether every array is under one
    blocks: bool = False  # whether they are of parts of the file, so that two good files' parts may make a third one
    damaged: dict[str, int] | None = None  # files that are mutated, with weights; None for what is read
    aware: Aware | None = None  # mutates with checksums that fit, one case in three
    aware_of: str | None = None  # the file that it mutates; None for what is read


def slim_v1(folder: Path, which: int, more: int = 0) -> Path:
    import tensorflow as tf

    values = arrays(which, more)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensors = [tf.constant(value) for value in values.values()] + [tf.constant(7, tf.int64)]
        session.run(tf.raw_ops.Save(filename=str(folder / "model.ckpt"), tensor_names=[*values, "step"], data=tensors))
    return folder / "model.ckpt"


def slim_v1_of_blocks(folder: Path, which: int) -> Path:
    return slim_v1(folder, which, more=70_000)  # a block is full with 256 KiB


def slim_v2(folder: Path, which: int) -> Path:
    slim.write(folder / "model.ckpt", arrays(which) | {"tiny/half": np.arange(which, which + 6).astype(np.float16)})
    return folder / "model.ckpt"


def slim_folder(folder: Path, which: int) -> Path:
    path = slim_v2(folder, which)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{path.name}"\nall_model_checkpoint_paths: "{path.name}"\n')
    return folder


def ours(folder: Path, which: int) -> Path:
    safetensors.write(folder / "a.safetensors", arrays(which), {"classes": ["road", "sky"]})
    return folder / "a.safetensors"


def foreign(folder: Path, which: int) -> Path:
    from safetensors.numpy import save_file

    save_file(arrays(which), folder / "a.safetensors", metadata={"format": "pt"})
    return folder / "a.safetensors"


def keras_model(which: int):
    import keras

    generator = np.random.default_rng([SEED, which])
    model = keras.Sequential(
        [
            keras.layers.Input((9, 9, 3), name="image"),
            keras.layers.Conv2D(6, 3, name="conv1_conv"),
            keras.layers.BatchNormalization(name="conv1_bn"),
            keras.layers.Conv2D(4, 1, use_bias=False, name="conv2_conv"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(5, name="predictions"),
        ],
        name="tiny",
    )
    model.set_weights([generator.standard_normal(value.shape).astype(np.float32) for value in model.get_weights()])
    return model


def keras_legacy(folder: Path, which: int) -> Path:
    """As Keras wrote weights before its version 3; ``keras.applications`` has such files."""
    import h5py

    model = keras_model(which)
    with h5py.File(folder / "a.h5", "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.4.0"
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = np.asarray(weight)
    return folder / "a.h5"


def keras_weights(folder: Path, which: int) -> Path:
    keras_model(which).save_weights(folder / "a.weights.h5")
    return folder / "a.weights.h5"


def keras_archive(folder: Path, which: int) -> Path:
    keras_model(which).save(folder / "a.keras")
    return folder / "a.keras"


def torch_file(folder: Path, which: int, archive: bool) -> Path:
    torch = pytest.importorskip("torch")
    state = {name.replace("/", "."): torch.from_numpy(value) for name, value in arrays(which).items()}
    torch.save(state, folder / "a.pth", _use_new_zipfile_serialization=archive)
    return folder / "a.pth"


def torch_archive(folder: Path, which: int) -> Path:
    return torch_file(folder, which, archive=True)


def torch_legacy(folder: Path, which: int) -> Path:
    return torch_file(folder, which, archive=False)


def table_of(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    return mutations.damaged_table(entries_of(data), generator)


@functools.cache
def entries_of(data: bytes) -> list[tuple[bytes, bytes]]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return list(table.entries(Path(file.name)))


INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
READERS = {
    "slim_v1": Reader("slim", slim_v1, aware=table_of),
    "slim_v1_of_blocks": Reader("slim", slim_v1_of_blocks, blocks=True),
    "slim_v2": Reader("slim", slim_v2, damaged={INDEX: 2, DATA: 1}, aware=table_of, aware_of=INDEX),
    "slim_folder": Reader("slim", slim_folder, damaged={"checkpoint": 1}),
    "safetensors": Reader("safetensors", ours, aware=mutations.lying_header),
    "safetensors_foreign": Reader("safetensors", foreign, checksums=False, aware=mutations.lying_header),
    "keras_legacy": Reader("hdf5", keras_legacy, checksums=False),
    "keras_weights": Reader("hdf5", keras_weights, checksums=False),
    "keras_archive": Reader("hdf5", keras_archive, aware=mutations.damaged_member),
    "torch_archive": Reader("pickled", torch_archive, aware=mutations.damaged_member),
    "torch_legacy": Reader("pickled", torch_legacy, checksums=False),
}


# -- the worker: a process of its own, so that a crash is seen and survived --------------------------------------------


def work(pipe, errors: Path) -> None:
    """Reads one path after the other, under a limit of memory, and answers what came of it."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    good = {}
    pipe.send(None)
    while True:
        module, path, original = pipe.recv()
        read = importlib.import_module(module).read
        if original not in good:
            good[original] = read(original)
        limited(MEMORY)
        try:
            found = read(path)
            answer = "read", None if same(found, good[original]) else found
        except InputError as error:
            answer = "refused" if str(path) in str(error) else "refused without the file's name", str(error)
        except BaseException as error:
            answer = "raised", repr(error)
        limited(None)
        pipe.send(answer)


def limited(more: int | None) -> None:
    """Lets this process take so many bytes more than it has; None for as many as it likes."""
    limit = resource.RLIM_INFINITY
    if more is not None:
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def same(one: Arrays, two: Arrays) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(equal(one[name], two[name]) for name in one)


def equal(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and one.tobytes() == two.tobytes()


class Worker:
    """Restarted whenever it dies or is stopped."""

    def __init__(self, errors: Path):
        self.errors, self.process = errors, None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=work, args=(child, self.errors), daemon=True)
        self.process.start()
        child.close()
        assert self.pipe.poll(START), "the worker does not start"
        self.pipe.recv()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None

    def read(self, module: str, path: Path, good: Path, seconds: float = SECONDS) -> tuple[str, str | Arrays | None]:
        """What came of it: what the worker answers, or "crashed" or "hung"."""
        if self.process is None:
            self.start()
        self.pipe.send((module, path, good))
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
            outcome = "hung", f"over {seconds} s"
        except EOFError:
            self.process.join()
            outcome = "crashed", f"exit code {self.process.exitcode}: {self.errors.read_text(errors='replace')[-300:]}"
        self.stop()
        return outcome


# -- the verdict -----------------------------------------------------------------------------------------------------


def places(data: bytes, good: Arrays) -> dict[str, tuple[int, int]]:
    """Where each array's bytes lie in a file, for those that do as they are and once."""
    found = {name: value.tobytes() for name, value in good.items()}
    return {name: (data.index(part), data.index(part) + len(part)) for name, part in found.items() if data.count(part) == 1}


def verdict(reader: Reader, answer, arrays: tuple[Arrays, Arrays], before: bytes, after: bytes, aware: bool) -> str:
    """One of :data:`SOUND`, or what is wrong.

    Args:
        answer: the worker's.
        arrays: of the good file, and of the one that it was spliced with.
        before, after: the file that was damaged, whole.
        aware: whether checksums were made to fit.
    """
    outcome, found = answer
    good, other = arrays
    if outcome == "refused":
        return outcome
    if outcome != "read":
        return f"{outcome}: {found}"
    if found is None:
        return "identical"
    if aware or same(found, other):  # it was spliced before anything that differs
        return "excepted"
    changed = {name for name in good if name not in found or not equal(found[name], good[name])}
    alike = found.keys() == good.keys() and all(found[name].shape == good[name].shape for name in good)
    if reader.blocks and alike and all(equal(found[name], other[name]) for name in changed):
        return "excepted"
    failure = f"silent success: changed or missing {sorted(changed)}, new {sorted(found.keys() - good.keys())}"
    if reader.checksums:
        return failure
    where = places(before, good)
    if alike and all(found[name].tobytes() == after[slice(*where[name])] for name in changed):
        return "excepted"
    if only_within(where.values(), before, after):
        return failure
    if alike:
        return "moved" if all(found[name].tobytes() in after for name in changed) else failure
    return "excepted" if any(name not in found or found[name].shape != good[name].shape for name in good) else failure


def only_within(ranges: Iterable[tuple[int, int]], before: bytes, after: bytes) -> bool:
    """Whether two files differ in these ranges and nowhere else."""
    if len(before) != len(after):
        return False
    differs = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    for begin, end in ranges:
        differs[begin:end] = False
    return not differs.any()


# -- the test --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("worker") / "errors.txt")
    yield worker
    worker.stop()


@pytest.fixture
def cases(request) -> int:
    return request.config.getoption("--fuzz-cases")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras', when it writes
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name, cases, worker, tmp_path):
    reader = READERS[name]
    paths = []
    for which in (GOOD, OTHER):
        folder = tmp_path / ("good", "other")[which]
        folder.mkdir()
        paths.append(reader.make(folder, which))
    module = f"dense_resnet.checkpoints.{reader.module}"
    good, other = (importlib.import_module(module).read(path) for path in paths)
    originals = {file.name: file.read_bytes() for file in (tmp_path / "good").iterdir()}
    others = {file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()}
    weights = reader.damaged or {paths[GOOD].name: 1}
    payloads = {file: list(places(originals[file], good).values()) for file in weights}
    if not reader.checksums:
        assert len(payloads[paths[GOOD].name]) == len(good)
    place = tmp_path / "case"
    path = place if paths[GOOD].is_dir() else place / paths[GOOD].name
    counts, failures, begun = Counter(), [], time.monotonic()
    for case in itertools.count():
        if sum(counts.values()) == cases:
            break
        generator = np.random.default_rng([SEED, zlib.crc32(name.encode()), case])
        aware = reader.aware is not None and bool(generator.integers(3) == 0)
        file = (
            (reader.aware_of or paths[GOOD].name)
            if aware
            else str(generator.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
        )
        if aware:
            data = reader.aware(originals[file], others[file], generator)
        else:
            data = mutations.mutated(originals[file], others[file], payloads[file], generator)
        if data in (originals[file], others[file]):
            continue  # a splice with itself, or nothing but zeros moved
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for sibling, content in originals.items():
            (place / sibling).write_bytes(data if sibling == file else content)
        answer = worker.read(module, path, paths[GOOD])
        said = verdict(reader, answer, (good, other), originals[file], data, aware)
        counts[said if said in SOUND else "failed"] += 1
        if said not in SOUND:
            kept = tmp_path / f"failed-{case}"
            shutil.copytree(place, kept)
            failures.append(f"case {case} ({'checksums fit' if aware else 'blind'}, {file}), kept in {kept}:\n    {said[:600]}")
    print(f"{name}: seed {SEED}, {cases} cases in {time.monotonic() - begun:.0f} s: {dict(counts)}")
    assert not failures, f"{name}: {len(failures)} of {cases} cases with seed {SEED} failed:\n" + "\n".join(failures[:20])
    assert counts["refused"] >= cases / 2  # the damage is not beside the point
    assert counts["moved"] <= cases / 1000


def read(path: Path) -> Arrays:
    """A reader that does what the file says."""
    match path.read_text():
        case "abort":
            os.abort()
        case "hang":
            while True:
                pass
        case "allocate":
            bytearray(2 * MEMORY)
        case "refuse":
            raise InputError(f"{path}: damaged")
        case "refuse without a name":
            raise InputError("damaged")
    return {"a": np.float32(len(path.read_text()))}


def test_what_the_worker_sees(worker, tmp_path):
    good = tmp_path / "good"
    good.write_text("good")
    for text, answer in {
        "good": ("read", None),
        "longer": ("read", {"a": 6}),
        "refuse": ("refused", f"{tmp_path / 'refuse'}: damaged"),
        "refuse without a name": ("refused without the file's name", "damaged"),
        "allocate": ("raised", "MemoryError()"),
        "hang": ("hung", "over 1 s"),
    }.items():
        (tmp_path / text).write_text(text)
        assert worker.read("test_fuzz_weights", tmp_path / text, good, seconds=60 if text != "hang" else 1) == answer
    (tmp_path / "abort").write_text("abort")
    outcome, why = worker.read("test_fuzz_weights", tmp_path / "abort", good, seconds=60)
    assert (outcome, why.split(":")[0]) == ("crashed", "exit code -6")
