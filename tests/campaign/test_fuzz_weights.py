"""Damaged weight files: each is refused by name or reads as the good one; no crash, no hang, no silent success.

As some good files hold the date, a failing case's files are kept, and the message says where.

A good file is damaged blindly (:func:`mutations.mutate`), or so that its checksums fit again and deeper code is reached:
then it is another good file, and what it reads as is not judged. Formats without checksums cannot tell other numbers from
the right ones: there, arrays may read as the numbers that now stand in their places. Nor can they tell other names: an array
that is missing then is what the load report is for. In HDF5 not even where an array lies is under a checksum: one in some
thousand damaged files reads as bytes from elsewhere in it, and no reader could know.
"""

from __future__ import annotations

import functools
import importlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from campaign import isolated, mutations
from dense_resnet.checkpoints.containers import safetensors, tf_checkpoint, tf_table

pytestmark = pytest.mark.skipif(not isolated.HERE, reason="memory is limited as Linux does it")

SEED = 4
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

    module: str  # of dense_resnet.checkpoints.containers
    make: Callable[[Path, int], Path]  # (a new folder, GOOD or OTHER): writes a file or files there; what to read
    checksums: bool = True  # whether every array is under one
    blocks: bool = False  # whether they are of parts of the file, so that two good files' parts may make a third one
    damaged: dict[str, int] | None = None  # files that are mutated, with weights; None for what is read
    aware: Aware | None = None  # mutates as who knows the format, one case in three
    aware_of: str | None = None  # the file that it mutates; None for what is read
    fits: bool = True  # whether all checksums do then


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
    tf_checkpoint.write(folder / "model.ckpt", arrays(which) | {"tiny/half": np.arange(which, which + 6).astype(np.float16)})
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
    return mutations.damage_table(entries_of(data), generator)


@functools.cache
def entries_of(data: bytes) -> list[tuple[bytes, bytes]]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return list(tf_table.entries(Path(file.name)))


INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
READERS = {
    "slim_v1": Reader("tf_checkpoint", slim_v1, aware=table_of),
    "slim_v1_of_blocks": Reader("tf_checkpoint", slim_v1_of_blocks, blocks=True),
    "slim_v2": Reader("tf_checkpoint", slim_v2, damaged={INDEX: 2, DATA: 1}, aware=table_of, aware_of=INDEX),
    "slim_folder": Reader("tf_checkpoint", slim_folder, damaged={"checkpoint": 1}),
    "safetensors": Reader("safetensors", ours, aware=mutations.falsify_header, fits=False),
    "safetensors_foreign": Reader("safetensors", foreign, checksums=False, aware=mutations.falsify_header),
    "keras_legacy": Reader("keras_h5", keras_legacy, checksums=False),
    "keras_weights": Reader("keras_h5", keras_weights, checksums=False),
    "keras_archive": Reader("keras_h5", keras_archive, aware=mutations.damage_member),
    "torch_archive": Reader("torch_pickle", torch_archive, aware=mutations.damage_member),
    "torch_legacy": Reader("torch_pickle", torch_legacy, checksums=False),
}


def compare_with_good(path: Path, module: str, good: Path) -> Arrays | None:
    """In the worker: what `path` reads as; None where that is what the good file reads as."""
    read = importlib.import_module(module).read
    found = read(path)
    return None if same(found, read_good(module, good)) else found


@functools.cache
def read_good(module: str, good: Path) -> Arrays:
    return importlib.import_module(module).read(good)


def same(one: Arrays, two: Arrays) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(equal(one[name], two[name]) for name in one)


def equal(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and one.tobytes() == two.tobytes()


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
        aware: whether it was damaged by who knows the format.
    """
    outcome, found = answer
    good, other = arrays
    if outcome == "refused":
        return outcome
    if outcome != "returned":
        return f"{outcome}: {found}"
    if found is None:
        return "identical"
    if (aware and reader.fits) or same(found, other):  # it was spliced before anything that differs
        return "excepted"
    changed = {name for name in good if name not in found or not equal(found[name], good[name])}
    alike = found.keys() == good.keys() and all(found[name].shape == good[name].shape for name in good)
    if reader.blocks and alike and all(equal(found[name], other[name]) for name in changed):
        return "excepted"
    failure = f"silent success: changed or missing {sorted(changed)}, new {sorted(found.keys() - good.keys())}"
    if reader.checksums:
        return failure
    where = places(before, good)
    whole = {name for name in changed if name in found and found[name].shape == good[name].shape}
    elsewhere = {name for name in whole if found[name].tobytes() != after[slice(*where[name])]}
    if alike and not elsewhere:
        return "excepted"
    if only_within(where.values(), before, after):
        return failure
    if not changed or not all(found[name].tobytes() in after for name in elsewhere):
        return failure
    return "moved" if elsewhere else "excepted"


def only_within(ranges: Iterable[tuple[int, int]], before: bytes, after: bytes) -> bool:
    """Whether two files differ in these ranges and nowhere else."""
    if len(before) != len(after):
        return False
    differs = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    for begin, end in ranges:
        differs[begin:end] = False
    return not differs.any()


# -- the test --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras', when it writes
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name, campaign, worker, tmp_path):
    reader = READERS[name]
    paths = []
    for which in (GOOD, OTHER):
        folder = tmp_path / ("good", "other")[which]
        folder.mkdir()
        paths.append(reader.make(folder, which))
    module = f"dense_resnet.checkpoints.containers.{reader.module}"
    good, other = (importlib.import_module(module).read(path) for path in paths)
    assert worker.warm(compare_with_good, paths[GOOD], module, paths[GOOD]) is None
    originals = {file.name: file.read_bytes() for file in (tmp_path / "good").iterdir()}
    others = {file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()}
    weights = reader.damaged or {paths[GOOD].name: 1}
    payloads = {file: list(places(originals[file], good).values()) for file in weights}
    if not reader.checksums:
        assert len(payloads[paths[GOOD].name]) == len(good)
    place = tmp_path / "case"
    path = place if paths[GOOD].is_dir() else place / paths[GOOD].name

    def damage(generator: np.random.Generator) -> tuple[bool, str, bytes]:
        """(whether by who knows the format, the file that is damaged, what it then holds)."""
        if reader.aware is not None and generator.integers(3) == 0:
            file = reader.aware_of or paths[GOOD].name
            return True, file, reader.aware(originals[file], others[file], generator)
        file = str(generator.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
        return False, file, mutations.mutate(originals[file], others[file], payloads[file], generator)

    counts, failures = Counter(), []
    for case, generator in campaign.cases(short=200):
        aware, file, data = damage(generator)
        while data in (originals[file], others[file]):  # a splice with itself, or nothing but zeros moved
            aware, file, data = damage(generator)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for sibling, content in originals.items():
            (place / sibling).write_bytes(data if sibling == file else content)
        if worker.is_new:  # the last one died
            worker.warm(compare_with_good, paths[GOOD], module, paths[GOOD])
        answer = worker.ask(compare_with_good, path, module, paths[GOOD])
        said = verdict(reader, answer, (good, other), originals[file], data, aware)
        counts[said if said in SOUND else "failed"] += 1
        if said not in SOUND:
            kept = tmp_path / f"failed-{case}"
            shutil.copytree(place, kept)
            failures.append(f"case {case} ({'aware' if aware else 'blind'}, {file}), kept in {kept}:\n    {said[:600]}")
    cases = counts.total()
    assert not failures, f"{name}: {len(failures)} of {cases} cases failed:\n" + "\n".join(failures[:20])
    assert counts["refused"] >= cases / 2  # the damage is not beside the point
    assert counts["moved"] <= max(1, cases / 1000)
    campaign.report(**counts)
