"""Damaged TFRecords, models, features, exports, and what runs leave behind to go on with: logs, manifests, states.

All but a record's bytes lie under checksums, so blind damage is refused or changes nothing. Who knows the format damages what
lies beneath one that then fits: what is accepted is worked out once more, from the damaged files, by a few lines here.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import images_of
from PIL import Image

from campaign import damage, isolated, mutations, pngs
from campaign.damage import Case, Format
from campaign.test_fuzz_data import array, plain, strictly, vocs_color, write_pairs
from dense_resnet import checkpoints
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.extraction.extract import Extraction
from dense_resnet.extraction.features import read_features, write_features
from dense_resnet.extraction.settings import Settings
from dense_resnet.image_io import discovery
from dense_resnet.inference.canvas import Placement
from dense_resnet.inference.runner import FEATURES, Runner
from segmentation.data.label_files import encode_label
from segmentation.data.label_space import LabelSpace
from segmentation.data.layouts import open_dataset
from segmentation.data.tfrecords import write_records
from segmentation.evaluation import results
from segmentation.evaluation.evaluate import Evaluation
from segmentation.evaluation.systems import SavedPredictions
from segmentation.saving.export.exporter import export, open_exported
from segmentation.saving.export.files import DESCRIPTION, GRAPH, MODULES, OPENVINO_DESCRIPTION, OPENVINO_FILES, SUFFIXES
from segmentation.saving.export.foreign_run import ONNX, OPENVINO, SAVED_MODEL, TFLITE
from segmentation.saving.model_directory import load_model, save_model
from segmentation.training import loop, recipe, state

pytestmark = pytest.mark.skipif(not isolated.HERE, reason="memory is limited as Linux does it")

CLASSES = ["sky", "road", "car", "tree", "wall"]
SPACE = LabelSpace.from_json({"classes": CLASSES})
SIZE = 9, 12
NAMES = ["a", "b", "more/a"]
JSON = mutations.falsify_json


def write_dataset(folder: Path, seed: int = 0) -> Path:
    """Small pairs, with classes in all labels."""
    random = np.random.default_rng(seed)
    write_pairs(folder, NAMES)
    for name in NAMES:
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / "images" / f"{name}.png")
        (folder / "labels" / f"{name}.png").write_bytes(encode_label(random.choice([0, 1, 2, 3, 255], SIZE), SPACE))
    (folder / "dataset.json").write_text(json.dumps({"name": "blobs", "classes": CLASSES}))
    return folder


def metadata_of(data: bytes) -> dict:
    """What is said in a safetensors file, by its bytes."""
    return json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["dense_resnet"])


def rewrite_description(data: bytes, change) -> bytes:
    """A safetensors file as this library writes it, with all checksums, that says of itself what `change` makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        path.write_bytes(data)
        about = {key: value for key, value in metadata_of(data).items() if key not in ("sha256", "header")}
        safetensors.write(path, safetensors.read(path), change(about))
        return path.read_bytes()


# -- TFRecords -----------------------------------------------------------------------------------------------------------


def make_records(place: Path) -> None:
    for number in range(2):
        dataset = open_dataset(write_dataset(place.parent / f"pairs-{number}", number))
        write_records(dataset, place / str(number), shards=2)


def read_records(folder: Path) -> list:
    dataset = open_dataset(folder)
    read = [
        (sample.image_bytes(), sample.label_bytes(), sample.read_image(), sample.read_label(dataset.space))
        for sample in dataset.samples
    ]
    return [
        (sample.name, image, label, plain(pixels), plain(labels))
        for sample, (image, label, pixels, labels) in zip(dataset.samples, read, strict=True)
    ]


def records_of(data: bytes) -> list[bytes]:
    """The records in a shard.

    Raises:
        ValueError: a checksum does not fit.
    """
    found, at = [], 0
    while at < len(data):
        length, of_length = struct.unpack_from("<QI", data, at)
        content = data[at + 12 : at + 12 + length]
        if mutations.masked_crc32c(data[at : at + 8]) != of_length or len(content) < length:
            raise ValueError("length")
        if struct.unpack_from("<I", data, at + 12 + length)[0] != mutations.masked_crc32c(content):
            raise ValueError("checksum")
        found.append(content)
        at += 16 + length
    return found


def example_in(record: bytes) -> dict[bytes, list[bytes]]:
    """The lists of bytes in a record, by their keys: https://protobuf.dev/programming-guides/encoding."""
    found = {}
    for entry in all_of(join_messages(record, 1), 1):
        key, feature = b"".join(all_of(entry, 1)[-1:]), join_messages(entry, 2)
        lists = [(number, value) for number, kind, value in mutations.fields_of(feature) if kind == 2 and number in (1, 2, 3)]
        others = [
            at for at, (number, _) in enumerate(lists, 1) if number != 1
        ]  # of numbers: they put an end to what was before
        found[key] = all_of(b"".join(value for _, value in lists[max(others, default=0) :]), 1)
    return found


def all_of(message: bytes, field: int) -> list[bytes]:
    """Every value of a field of bytes."""
    return [value for number, kind, value in mutations.fields_of(message) if (number, kind) == (field, 2)]


def join_messages(message: bytes, field: int) -> bytes:
    """The message in a field: where there are several, they are one."""
    return b"".join(all_of(message, field))


def shard_of(records: list[bytes], lengths: dict[int, int] | None = None) -> bytes:
    """Records with their checksums; `lengths` are others than theirs."""
    out = b""
    for number, content in enumerate(records):
        length = struct.pack("<Q", (lengths or {}).get(number, len(content)) % 2**64)
        out += length + struct.pack("<I", mutations.masked_crc32c(length))
        out += content + struct.pack("<I", mutations.masked_crc32c(content))
    return out


def damage_records(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A shard whose checksums fit."""
    records, others = records_of(data), records_of(other)
    at = int(generator.integers(len(records)))
    match int(generator.integers(10)):
        case 0:
            del records[at]
        case 1:
            records.append(records[at])
        case 2:
            records.insert(at, others[generator.integers(len(others))])
        case 3:
            records[at] = others[generator.integers(len(others))]
        case 4:
            return shard_of(records, {at: mutations.EXTREMES[generator.integers(len(mutations.EXTREMES))]})
        case 5:
            records[at] = records[at].replace(b"image/encoded", b"image/filename"[:13])
            records[at] = records[at].replace(b"image/filename", b"image/segmentat"[:14])
        case _:
            records[at] = mutations.mutate_message(records[at], generator)
    return shard_of(records)


def judge_records(found: list, case: Case) -> str:
    shards = {name: data for name, data in case.contents.items() if name.endswith(".tfrecord")}
    try:
        records = {name: records_of(data) for name, data in shards.items()}
        counts = strictly(next(data for name, data in case.contents.items() if name.endswith("counts.json")))["shards"]
    except (ValueError, struct.error) as error:
        return f"silent success: {error}"
    if repr(sorted(counts.items())) != repr(sorted((name, len(own)) for name, own in records.items())):
        return f"silent success: counts {counts}"
    everything = [record for own in records.values() for record in own]
    if len(found) != len(everything) or len({one[0] for one in found}) < len(found):
        return f"silent success: {len(found)} records of {len(everything)}"
    for record, (name, image, label, pixels, labels) in zip(everything, found, strict=True):
        told = example_in(record)
        filenames = [re.sub(r"(?i)\.(png|jpe?g)$", "", os.path.normpath(os.fsdecode(one))) for one in told[b"image/filename"]]
        if ([name], [image], [label]) != (filenames, told[b"image/encoded"], told[b"image/segmentation/class/encoded"]):
            return f"silent success: {name} has other bytes in its record"
        exact = pngs.decode(label).samples[..., 0]
        if not np.array_equal(exact, array(labels)) or not np.array_equal(pngs.decode(image).rgb, array(pixels)):
            return f"silent success: a wrong image or label of {name}"
    return ""


# -- models --------------------------------------------------------------------------------------------------------------


def make_models(place: Path) -> None:
    from helpers.networks import small_model

    for number, head in enumerate(("fcn", "aspp")):
        save_model(place / str(number), small_model(head), SPACE, training={"step": number})


def read_model(folder: Path) -> tuple:
    saved = load_model(folder)
    return (
        json.loads(json.dumps({**saved.protocol, "in_channels": saved.plan.in_channels})),
        saved.space.as_json(),
        dict(saved.training),
        checkpoints.fingerprint(saved.model.weights),
    )


def judge_model(found: tuple, case: Case) -> str:
    described, space, trained, sha256 = found
    try:
        written = strictly(case.contents["model.json"])
    except ValueError as error:
        return f"silent success: no JSON: {error}"
    copy = metadata_of(case.contents["weights.safetensors"])["model"]
    if sha256 != written["weights_sha256"] or sha256 != case.expected[3]:
        return "silent success: other weights"
    for key in described:
        if not (repr(described[key]) == repr(written[key]) == repr(copy[key])):
            return f"silent success: {key} is {described[key]}"
    classes = [one if isinstance(one, dict) else {"name": one} for one in written["classes"]]
    classes = [{"name": one["name"], "color": one.get("color", vocs_color(number))} for number, one in enumerate(classes)]
    told = {"classes": classes, "ignore_label": written["ignore_label"]}, written["training"]
    read = space, trained
    return "" if repr(told) == repr(read) else f"silent success: {read}"


# -- features ------------------------------------------------------------------------------------------------------------


def make_features(place: Path) -> None:
    random = np.random.default_rng(3)
    for number in range(2):
        maps = {
            stride: random.standard_normal((33 // stride + 1, 33 // stride + 1, 3)).astype(np.float32) for stride in (8, 16)
        }
        write_features(
            place / str(number) / "a.jpg.safetensors", maps, Placement((20, 40), (16, 33), (17, 0)), {"path": "a.jpg"}
        )


def read_map(folder: Path) -> tuple:
    own = read_features(folder / "a.jpg.safetensors")
    place = own.placement
    return (
        {stride: plain(values) for stride, values in own.maps.items()},
        place.original_size,
        place.size,
        place.padding,
        own.path,
    )


def damage_features(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    def change(about: dict) -> dict:
        lying = json.loads(JSON(json.dumps(about).encode(), json.dumps(about).encode(), generator))
        return {key: value for key, value in lying.items() if isinstance(key, str)} if isinstance(lying, dict) else {}

    if generator.integers(2):
        return mutations.falsify_header(data, other, generator)
    try:
        return rewrite_description(data, change)
    except (ValueError, RecursionError):  # what was made up is no JSON
        return mutations.falsify_header(data, other, generator)


def judge_features(found: tuple, case: Case) -> str:
    maps, *pairs, path = found
    told = metadata_of(case.data)["features"]
    if not case.aware or maps != case.expected[0]:
        return "silent success"
    for key, pair in zip(("original_size", "size", "padding"), pairs, strict=True):
        if repr(list(pair)) != repr(told[key]) or not all(type(one) is int and one >= 0 for one in pair):
            return f"silent success: {key} is {pair}"
    return "" if isinstance(path, str) and path == told["path"] else f"silent success: path is {path!r}"


# -- logs ----------------------------------------------------------------------------------------------------------------


def renew_checksum(line: bytes) -> bytes:
    """A line of a log with a checksum that fits."""
    text = line.rstrip(b"\n").partition(b', "crc32": ')[0].rstrip(b"}") + b"}"
    return text[:-1] + f', "crc32": "{zlib.crc32(text):08x}"}}\n'.encode()


def damage_log(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A log whose checksums fit, or that has none, as logs had once."""
    bare, others = (b"".join(line.partition(b', "crc32": ')[0] + b"}\n" for line in log.splitlines()) for log in (data, other))
    lying = mutations.falsify_lines(bare, others, generator)
    if generator.integers(2):
        return lying
    return b"".join(renew_checksum(line) if line.rstrip().endswith(b"}") else line for line in lying.splitlines(keepends=True))


def make_evaluation(place: Path) -> None:
    for number in range(2):
        folder = place / "0"
        dataset = open_dataset(write_dataset(folder / "data"))
        random = np.random.default_rng(number)
        for sample in dataset.samples:
            path = folder / "predictions" / f"{sample.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_label(random.integers(0, 5, SIZE), SPACE))
        for shard in ((0, 2), (1, 2)):
            evaluation_of(folder, shard).run()
        if number:
            evaluation_of(folder).run(report=False)
            (folder / "out" / "images.0-of-2.jsonl").unlink()
            (folder / "out" / "images.1-of-2.jsonl").unlink()
        folder.rename(place / f"of-{number}")


def evaluation_of(folder: Path, shard: tuple[int, int] = (0, 1)) -> Evaluation:
    dataset = open_dataset(folder / "data")
    return Evaluation(SavedPredictions(folder / "predictions", SPACE, dataset.samples), dataset, folder / "out", shard=shard)


def read_evaluation(folder: Path) -> dict:
    """Goes on where a run has stopped."""
    evaluation_of(folder).run(report=False)
    return json.loads((folder / "out" / "evaluation.json").read_text())


def judge_evaluation(found: dict, case: Case) -> str:
    if not case.aware:
        return "silent success: another result"
    return find_contradiction(found, case.folder / "out" / "images.jsonl")


def find_contradiction(result: dict, log: Path) -> str:
    """Where a result differs from what the lines of its log make."""
    lines = {line["path"]: line for line in map(json.loads, log.read_text().splitlines())}
    matrix, edges = np.zeros((5, 5), int), np.zeros((5, 3), int)
    counts = dict.fromkeys(("scored", "ignored", "padded"), 0)
    for line in lines.values():
        own = np.zeros((5, 5), int)
        for row, column, count in line["matrix"]:
            own[row, column] += count
        for row, column, count in line["boundary"]:
            edges[row, column] += count
        if own.sum() != line["scored"] or line["scored"] + line["ignored"] != SIZE[0] * SIZE[1] or own.min() < 0:
            return f"silent success: {line['path']}"
        counts = {key: counts[key] + line[key] for key in counts}
        matrix += own
    right, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    with np.errstate(invalid="ignore"):
        iou, edge = right / union, edges[:, 0] / (edges[:, 1] + edges[:, 2] - edges[:, 0])
        accuracy = right / matrix.sum(1)
    told = [result[key] for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", "mean_boundary_iou")]
    told += [one[key] for key in ("iou", "accuracy", "boundary_iou", "pixels", "predicted") for one in result["classes"]]
    exact = [np.nanmean(iou), right.sum() / matrix.sum(), np.nanmean(accuracy), np.nanmean(edge)]
    exact = np.array([*exact, *iou, *accuracy, *edge, *matrix.sum(1), *matrix.sum(0)])
    told = np.array([np.nan if one is None else one for one in told])
    if result["matrix"] != matrix.tolist() or not np.allclose(told, exact, rtol=1e-12, atol=0, equal_nan=True):
        return f"silent success: {told} is {exact}"
    if any(result["counts"][key] != count for key, count in counts.items()) or result["counts"]["images"] != len(lines):
        return f"silent success: {result['counts']}"
    return ""


def make_comparison(place: Path) -> None:
    for number in range(2):
        folder = place / str(number)
        dataset = open_dataset(write_dataset(folder / "data"))
        for which, system in enumerate(("first", "second")):
            random = np.random.default_rng([number, which])
            for sample in dataset.samples:
                path = folder / system / f"{sample.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_label(random.integers(0, 5, SIZE), SPACE))
            one = Evaluation(SavedPredictions(folder / system, SPACE, dataset.samples), dataset, folder / f"of-{system}")
            one.run(report=False)
            shutil.rmtree(folder / system)
        shutil.rmtree(folder / "data")


def read_comparison(folder: Path) -> dict:
    return results.compare(folder / "of-first", folder / "of-second")


def judge_comparison(found: dict, case: Case) -> str:
    if not (case.aware and case.file.endswith(".jsonl")):
        return "silent success: another result"
    for system in ("first", "second"):
        path = case.folder / f"of-{system}"
        result = strictly((path / "evaluation.json").read_bytes())
        classes = [{**one, "iou": own[system]} for one, own in zip(result["classes"], found["classes"], strict=True)]
        result |= {"mean_iou": found["mean_iou"][system], "classes": classes}
        if wrong := find_contradiction(result, path / "images.jsonl"):
            return wrong
    return ""


class Fake(Runner):
    """Makes features of every eighth pixel."""

    def _run(self, pixels, sizes, names):
        return {FEATURES: np.repeat(pixels[:, ::8, ::8, :1].astype(np.float32), self.plan.depth, axis=3)}


def make_extraction(place: Path) -> None:
    for number in range(2):
        folder = place / str(number)
        write_dataset(folder / "data", number)
        shutil.rmtree(folder / "data" / "labels")
        shard = (0, 2) if number else (0, 1)
        extraction_of(folder, shard).run(discovery.find_images([str(folder / "data" / "images")]))


def extraction_of(folder: Path, shard: tuple[int, int] = (0, 1)) -> Extraction:
    from helpers.networks import STRIDE_8_PLAN as PLAN

    return Extraction(Fake(PLAN, "inception", "exact", "0" * 64, [FEATURES]), folder / "out", Settings(size=33), shard=shard)


def read_extraction(folder: Path) -> tuple:
    """Goes on where a run has stopped; the features that are there then, and the manifest."""
    extraction_of(folder).run(discovery.find_images([str(folder / "data" / "images")]))
    lines = lines_in((folder / "out" / "manifest.jsonl").read_bytes())
    for line in lines:
        read_features(folder / "out" / f"{line['path']}.safetensors")
    files = {name: data for name, data in damage.contents_of(folder / "out").items() if name.endswith(".safetensors")}
    return files, sorted(lines, key=lambda line: line["path"])


def lines_in(log: bytes) -> list[dict]:
    """The whole lines, less their checksums."""
    lines = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith(b"\n")]
    return [{key: value for key, value in line.items() if key != "crc32"} for line in lines]


def judge_extraction(found: tuple, case: Case) -> str:
    files, lines = found
    good = case.expected[1]
    if files != case.expected[0] or [line["path"] for line in lines] != [line["path"] for line in good]:
        return "silent success: other features"
    if not (case.aware and case.file.endswith(".jsonl")):
        return "silent success: another manifest"
    there = {line["path"]: line for line in lines_in(case.data)}  # the last ones
    for line, sound in zip(lines, good, strict=True):
        if repr(line) not in (repr(sound), repr(there.get(line["path"]))) or line["status"] != "ok":
            return f"silent success: {line}, neither as it stood there nor done again"
        if line["sha256"] != sound["sha256"]:
            return f"silent success: {line} is of another image"
    return ""


# -- a training's state --------------------------------------------------------------------------------------------------

STATE = f"out/{state.FOLDER}/{state.STATE}"


@functools.cache
def training_of(folder: Path) -> loop.Training:
    from helpers.networks import TRAINING_PLAN as SMALL

    from dense_resnet.backbone import Backbone
    from dense_resnet.planning import variants
    from segmentation.data.transforms import Augmentation
    from segmentation.model import SegmentationModel

    model = SegmentationModel(Backbone(variants.plan_from_config(SMALL, 8), seed=0), len(CLASSES), "fcn", seed=0)
    three_steps = recipe.Recipe(steps=3, batch=1, learning_rate=0.1, augmentation=Augmentation((33, 33), (0.8, 1.25)))
    return loop.Training(model, open_dataset(folder / "data"), None, folder / "out", three_steps, validation_size=49)


def make_states(place: Path) -> None:
    for number in range(2):
        folder = place / "0"
        write_dataset(folder / "data")
        own = training_of(folder)
        own.model.assign({name: value + number for name, value in own.initial.items()}, "")
        run = loop.TrainingRun(own, loop.quiet, print)
        run.state.best = 0.5 if number else None
        run.state._write(own.model.weights, number)
        folder.rename(place / f"of-{number}")


def read_state(folder: Path) -> tuple:
    own = training_of(folder)
    restored = loop.TrainingRun(own, loop.quiet, print).state
    step = restored.restore()
    counts = restored.seen.counts.tolist(), restored.warnings
    kept = checkpoints.fingerprint({name: variable.numpy() for name, variable in restored.kept.items()})
    return step, restored.best, counts, checkpoints.fingerprint(own.model.weights), kept


def damage_state(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    def change(about: dict) -> dict:
        return {**json.loads(JSON(json.dumps(about).encode(), json.dumps(about).encode(), generator))}

    try:
        return rewrite_description(data, change)
    except (ValueError, RecursionError, TypeError):  # what was made up is not an object
        return mutations.falsify_header(data, other, generator)


def judge_state(found: tuple, case: Case) -> str:
    step, best, (seen, warnings), *weights = found
    if not case.aware or weights != list(case.expected[3:]):
        return "silent success"
    told = metadata_of(case.data)
    read = step, best, seen, warnings
    exact = tuple(told[key] for key in ("step", "best", "seen", "warnings"))
    return "" if repr(read) == repr(exact) else f"silent success: {read} is {exact}"


# -- exports -------------------------------------------------------------------------------------------------------------


def make_exports(place: Path, to: str) -> None:
    from helpers.networks import small_model

    photograph = images_of((40, 50))[0]
    photograph = (255 / (1 + np.exp(-photograph))).astype(np.uint8)
    for number, head in enumerate(("fcn", "aspp")):
        path = place / str(number) / f"exported{SUFFIXES.get(to, '')}"
        path.parent.mkdir()
        side = 33 if to == TFLITE else None
        export(small_model(head), path, [photograph], to=to, side=side, space=SPACE, precision="float32")


def read_export(folder: Path) -> tuple:
    [path] = folder.iterdir()
    opened = open_exported(path)
    found = opened.network(np.full((1, 33, 33, 3), 99, np.uint8), None, ["labels", "features"])
    return json.dumps(opened.description), opened.space, {name: plain(values) for name, values in found.items()}


def judge_export(found: tuple, case: Case) -> str:
    return "silent success"


FORMATS = {
    "tfrecords": Format(
        make_records, read_records, judge_records, {"*.tfrecord": damage_records, "*.counts.json": JSON}, most=1500, short=40
    ),
    "model_directory": Format(
        make_models,
        read_model,
        judge_model,
        {"model.json": JSON, "weights.safetensors": mutations.falsify_header},
        most=1500,
        short=40,
    ),
    "features": Format(make_features, read_map, judge_features, {"*": damage_features}),
    "evaluation": Format(
        make_evaluation,
        read_evaluation,
        judge_evaluation,
        {"out/*.jsonl": damage_log, "out/protocol.json": JSON, "out/evaluation.json": JSON},
        writes=True,
        refused=0.3,
        named=("the log's line of ", "holds results of another protocol"),
        most=3000,
        short=60,
    ),
    "comparison": Format(
        make_comparison,
        read_comparison,
        judge_comparison,
        {"*/images.jsonl": damage_log, "*/evaluation.json": JSON},
        refused=0.3,
        named=("were evaluated by different protocols", "have different classes"),
    ),
    "extraction": Format(
        make_extraction,
        read_extraction,
        judge_extraction,
        {"out/*.jsonl": damage_log, "out/extraction.json": JSON, "out/*.safetensors": None},
        writes=True,
        refused=0.3,
        named=("holds results of another protocol", ".safetensors: no such file"),  # of an image that the manifest names
        most=2000,
        short=60,
    ),
    "training_state": Format(
        make_states,
        read_state,
        judge_state,
        {STATE: damage_state},
        named=("holds a training by another protocol",),
        most=1000,
        short=40,
    ),
    "saved_model": Format(
        lambda place: make_exports(place, SAVED_MODEL),
        read_export,
        judge_export,
        {f"*/{GRAPH}": None, f"*/{DESCRIPTION.as_posix()}": JSON},
        most=300,
        short=40,
    ),
    "openvino": Format(
        lambda place: make_exports(place, OPENVINO),
        read_export,
        judge_export,
        {**{f"*/{name}": None for name in OPENVINO_FILES}, f"*/{OPENVINO_DESCRIPTION}": JSON},
        most=300,
        short=40,
    ),
    "onnx": Format(lambda place: make_exports(place, ONNX), read_export, judge_export, {"*": None}, most=300, short=40),
    "tflite": Format(lambda place: make_exports(place, TFLITE), read_export, judge_export, {"*": None}, most=300, short=40),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, campaign, worker, tmp_path):
    if any(importlib.util.find_spec(module) is None for module in MODULES.get(name, ())):
        pytest.skip(f"{name} is not installed")
    damage.fuzz(FORMATS[name], campaign, worker, tmp_path)
