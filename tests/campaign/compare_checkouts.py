"""Run the same commands in two checkouts and compare all that they write, for changes that must not change anything:

    python tests/campaign/compare_checkouts.py OLD_CHECKOUT NEW_CHECKOUT --out comparison/

Every command runs in a fresh process with the checkout on its PYTHONPATH, in a folder of the same name for both sides, on
drawn scenes, a photograph and the checkout's own small model. What each command wrote is kept, with its exit code and what
it printed, in ``comparison/old`` and ``comparison/new``, and compared by sha256. OLD_CHECKOUT may also be the folder ``old``
that an earlier run kept. Both sides need the same machine and packages: processors and versions change last digits.

A difference is another exit code, another file, or other bytes, but for what MASKS names. What is printed, the messages in
JSON and the words of a page may differ: that is shown and counted as wording. The exit code is 1 where there is a difference.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TRAIN = (
    "train scenes --model model/plan.json --weights model/weights.safetensors --head fcn --output-stride 8 --crop 65 --batch 2"
    " --validate-every 2 --save-every 2 --size 129 --out trained"
)


def cut(journal: str) -> Callable[[Path], object]:
    """Leave a journal as a kill would: its last line is half written."""
    return lambda room: os.truncate(room / journal, (room / journal).stat().st_size - 30)


def make_inputs(room: Path) -> None:
    """Make broken images, datasets and models, and PyTorch weights, from what the room already holds."""
    (room / "mixed").mkdir()
    photograph = (room / "photos/coffee.jpg").read_bytes()
    (room / "mixed/a.jpg").write_bytes(photograph)
    (room / "mixed/broken.jpg").write_bytes(photograph[: len(photograph) // 2])
    Image.open(room / "photos/coffee.jpg").resize((90, 60)).save(room / "mixed/small.png")

    for name in ("bad", "values"):  # 65x65: one of many faults, one of label values alone
        shutil.copytree(room / "scenes", room / name)
        for path in (room / name).rglob("*.png"):
            image = Image.open(path)
            palette = image.getpalette()
            image = Image.fromarray(np.asarray(image)[:65, :65])
            if palette:
                image.putpalette(palette)
            image.save(path)
        label = room / name / "labels/train/0001.png"
        pixels = np.array(Image.open(label))
        pixels[3, 4:9] = 77
        Image.fromarray(pixels).save(label)
    (room / "bad/labels/train/0000.png").unlink()
    (room / "bad/images/train/0002.png").write_bytes(photograph[:999])
    Image.open(room / "bad/labels/val/0000.png").convert("RGB").save(room / "bad/labels/val/0000.png")
    Image.open(room / "bad/labels/val/0001.png").crop((0, 0, 60, 65)).save(room / "bad/labels/val/0001.png")

    shutil.copytree(room / "values", room / "unnamed")
    (room / "unnamed/dataset.json").write_text('{"classes": [{"name": "ground", "color": [0, 0]}, {"name": "ground"}]}')


def make_torch_weights(room: Path) -> None:
    """Write torchvision's resnet18 with random weights as ``resnet18.pth``."""
    import torch

    random, state = np.random.default_rng(0), {}

    def convolution(name: str, norm: str, *shape: int) -> None:
        state[f"{name}.weight"] = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            state[f"{norm}.{part}"] = random.uniform(low, low + 1, shape[0])

    convolution("conv1", "bn1", 64, 3, 7, 7)
    for layer, (before, width) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block, inputs in enumerate((before, width)):
            unit = f"layer{layer}.{block}"
            convolution(f"{unit}.conv1", f"{unit}.bn1", width, inputs, 3, 3)
            convolution(f"{unit}.conv2", f"{unit}.bn2", width, width, 3, 3)
            if inputs != width:
                convolution(f"{unit}.downsample.0", f"{unit}.downsample.1", width, inputs, 1, 1)
    state |= {"fc.weight": random.normal(0, 0.05, (1000, 512)), "fc.bias": random.normal(0, 0.05, 1000)}
    torch.save({name: torch.from_numpy(np.float32(value)) for name, value in state.items()}, room / "resnet18.pth")


STEPS: list[str | Callable[[Path], object]] = [  # `> file` keeps what is printed as a file; "1:" exits with 1 and yet writes
    "demo --scenes 4 5 --out scenes",
    make_inputs,
    "describe resnet_v2_152 --output-stride 16 --json > describe.json",
    "describe resnet_v1_50_beta --size 97 129 --multi-grid 1 2 4",
    "describe model > describe.txt",
    "describe model/plan.json --size 65 --output-stride 4 --tensorboard graph",
    "convert model --to slim --out slim.ckpt --check",
    "convert slim.ckpt --to safetensors --model model/plan.json --out model.safetensors",
    "check model --size 65 --output-stride 8",
    "convert model --to keras --out model.keras",
    "convert model.keras --to model-dir --model model/plan.json --output-stride 8 --out converted",
    make_torch_weights,
    "convert resnet18.pth --to safetensors --out resnet18.safetensors --check",
    "extract scenes/images/val photos --model model --size 257 --layers 4 8 --dtype bfloat16 --out features --shard 0/2",
    cut("features/manifest.0-of-2.jsonl"),
    "extract scenes/images/val photos --model model --size 257 --layers 4 8 --dtype bfloat16 --out features",
    "extract mixed --model model --output-stride 16 --size 129 --exact --picture --on-error skip --out skipped",
    "doctor scenes --json doctor.json --records records",
    "1: doctor bad --json bad.json",
    f"{TRAIN} --steps 3",
    f"{TRAIN} --steps 5",
    "train scenes --init trained --crop 65 --batch 2 --steps 2 --lr 0.01 --class-weights balanced --hardest 0.5 --clip 1"
    " --jitter 0.2 --freeze-bn no --precision bfloat16 --validation none --out continued",
    "evaluate scenes --model model --size 257 --out evaluated --shard 0/2",
    cut("evaluated/images.0-of-2.jsonl"),
    "evaluate scenes --model model --size 257 --out evaluated",
    "evaluate scenes --model trained --tile 257 --scales 0.75 1 --flip --exact --no-report --out tiled",
    "predict photos scenes/images/val --model model --size 257 --overlay --save-probs --precision float32 --out predicted",
    "evaluate scenes --predictions predicted --preset cityscapes --out preset",
    "evaluate records --predictions predicted --split val --absent zero --scope image --background exclude --out means",
    "1: evaluate scenes --predictions predicted --merge --out unscored",
    "compare evaluated tiled --force --json compared.json",
    "export model --to savedmodel --size 129 --out exported",
    "export model --to onnx --out model.onnx",
    "predict photos --model model.onnx --size 129 --out by_onnx",
]
ERRORS = [  # each exits as before and writes nothing
    "extrct photos --model model --out new",
    "extract photos --model model --output new",
    "extract nowhere --model model --out new",
    "extract photos --model resnet_v2_51 --random-weights 0 --out new",
    "extract photos --model resnet_v2_50 --out new",
    "extract photos --model model --size 100 --out new",
    "extract photos --model model --dtype float64 --out new",
    "extract mixed --model model --out new",
    "extract scenes/images/val photos --model model --size 129 --out features",
    "describe resnet_v2_50 --output-stride 12",
    "check resnet_v1_18 --weights model/weights.safetensors",
    "convert nowhere.ckpt --to keras --out new.keras",
    "doctor nowhere --json new.json",
    "doctor unnamed --records new",
    "train values --model model/plan.json --crop 65 --steps 2 --out new",
    "train scenes --model model/plan.json --crop 100 --out new",
    f"{TRAIN} --steps 5 --lr 0.1",
    "evaluate scenes --model nowhere --out new",
    "evaluate scenes --model model --split test --out new",
    "evaluate scenes --predictions photos --out new",
    "compare evaluated tiled --json new.json",
    "compare evaluated nowhere",
    "predict photos --model resnet_v1_18 --out new",
    "export model --to onnx --out exported",
]
MESSAGES = {"message", "error", "warnings", "notes"}  # keys of JSON whose texts are words
PRINTED = [  # what is masked of the printed text; and the path of the checkout, by the word CHECKOUT
    ("progress bars", r"[━╸╺ ]*\d+/\d+ +([\d.]+ images/s)? *(\d+:\d\d:\d\d|-:--:--)", " PROGRESS"),
    ("seconds", r"\b\d+(\.\d+)? ?(s|ms|min|seconds?|minutes?)\b", "# s"),
    ("dates", r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?", "DATE"),
    ("runs of blanks", r" {2,}", " "),
]
START = """import sys, dense_resnet, segmentation
from tools import cli
checkout = sys.argv.pop(1) + "/"
assert all(module.__file__.startswith(checkout) for module in (dense_resnet, segmentation, cli)), "imported from elsewhere"
sys.exit(cli.main(sys.argv[1:]))"""


def run_side(checkout: Path, python: str, kept: Path) -> None:
    """Run every command in a fresh room, and keep what each wrote in a folder of its own."""
    room = kept.parent / "room"
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree(checkout / "tools/scenes_model", room / "model")
    (room / "photos").mkdir()
    shutil.copy(checkout / "tools/coffee.jpg", room / "photos")
    environment = os.environ | {"PYTHONPATH": str(checkout), "COLUMNS": "160"}
    for number, step in enumerate([*STEPS, *ERRORS]):
        if callable(step):
            try:
                step(room)
            except (ImportError, OSError) as error:  # the commands that need it then fail, on both sides or on one
                print(f"{kept.name}: {error}", file=sys.stderr)
            continue
        words, _, output = step.removeprefix("1: ").partition(" > ")
        before, begun = listing(room), time.monotonic()
        line = [python, "-c", START, str(checkout), *shlex.split(words)]
        done = subprocess.run(line, cwd=room, env=environment, capture_output=True, timeout=600)
        printed = {"stdout": done.stdout.decode(errors="replace"), "stderr": done.stderr.decode(errors="replace")}
        if output:
            (room / output).write_text(printed.pop("stdout"))
        after = listing(room)
        added = [name for name in after if after[name] != before.get(name)]
        folder, error = kept / f"{number:02}-{words.split()[0]}", number >= len(STEPS)
        folder.mkdir(parents=True)
        for name in added:
            target = folder / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(exist_ok=True) if (room / name).is_dir() else shutil.copy2(room / name, target)
        for name in reversed(added) if error else ():  # so that the next error is seen to write it too
            (room / name).rmdir() if (room / name).is_dir() else (room / name).unlink()
        removed = sorted(before.keys() - after.keys())
        record = {"command": step, "error": error, "code": done.returncode, "removed": removed, **printed}
        (folder / "record.json").write_text(json.dumps(record, indent=1).replace(str(checkout), "CHECKOUT"))
        print(f"{kept.name} {time.monotonic() - begun:5.1f} s  {done.returncode}  {step}", file=sys.stderr, flush=True)
    shutil.rmtree(room)


def listing(room: Path) -> dict[str, tuple[int, ...]]:
    """Size, time and inode of every file; nothing of a folder."""
    paths = {path.relative_to(room).as_posix(): path for path in sorted(room.rglob("*"))}
    return {
        name: () if path.is_dir() else (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino)
        for name, path in paths.items()
    }


def events_without_times(path: Path) -> bytes:
    """The events of a TensorBoard file as text, which sorts the attributes of a graph's nodes."""
    from tensorboard.compat.proto import event_pb2, graph_pb2

    data, place, texts = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])  # between checksums
        event.ClearField("wall_time")
        texts.append(str(graph_pb2.GraphDef.FromString(event.graph_def)))
        event.ClearField("graph_def")
        texts.append(str(event))
        place += length + 16
    return "".join(texts).encode()


def members_without_dates(path: Path) -> bytes:
    """The members of a ``.keras`` archive, without the date and without Keras' ids, which are addresses in memory."""
    with zipfile.ZipFile(path) as archive:
        members = [name.encode() + b"\0" + archive.read(name) for name in sorted(archive.namelist())]
    return re.sub(rb'"(date_saved|shared_object_id)": [^,}]*', b"", b"\0".join(members))


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """What a file holds, or what an exported network makes of the photograph."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    photograph = Path(__file__).parent.parent.parent / "tools/coffee.jpg"
    images = np.asarray(Image.open(photograph).resize((129, 129)))[None]
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"images": images}), strict=True))
    import tensorflow as tf

    run = tf.saved_model.load(str(path.parent)).signatures["serving_default"]
    return {name: values.numpy() for name, values in run(images=tf.constant(images)).items()}


def onnx_behaviour(path: Path) -> bytes:
    """Outputs and description of an ONNX file: tf2onnx names and orders the nodes otherwise each time."""
    import onnx

    model = onnx.load(path)
    description = {entry.key: entry.value for entry in model.metadata_props if "sha256" not in entry.key}
    faces = [*model.graph.input, *model.graph.output]
    arrays = arrays_of(path)
    return repr((description, faces)).encode() + b"".join(arrays[name].tobytes() for name in sorted(arrays))


MASKS = {  # of files that are not equal by sha256: what is masked, and what is compared instead
    "*.tfevents.*": ("times in TensorBoard files and their names, order of a node's attributes", events_without_times),
    "*.keras": ("the date in a .keras file, shared_object_id", members_without_dates),
    "*.onnx": ("names and order of an ONNX file's nodes: the outputs are compared", onnx_behaviour),
}


def without_words(path: Path) -> str:
    """A page with the numbers of its text alone; JSON without the texts of messages and what seals their lines."""
    text = path.read_text()
    if path.suffix == ".html":
        return re.sub(r">[^<]+<", lambda found: ">" + " ".join(re.findall(r"\d+(?:\.\d+)?", found[0])) + "<", text)
    whole = [text] if path.suffix == ".json" else text.splitlines()
    return repr([_without_messages(json.loads(part)) for part in whole])


def _without_messages(value: Any, message: bool = False) -> Any:
    if isinstance(value, dict):
        sealed = {"crc32"} if value.keys() & MESSAGES else set()
        return {key: _without_messages(item, key in MESSAGES) for key, item in value.items() if key not in sealed}
    if isinstance(value, list):
        return [_without_messages(item, message) for item in value]
    return "..." if message and isinstance(value, str) else value


def explain(old: Path, new: Path) -> str:
    """Say how two files differ."""
    if old.suffix in (".safetensors", ".onnx") or old.name == "saved_model.pb":
        a, b = arrays_of(old), arrays_of(new)
        if {name: (v.shape, v.dtype) for name, v in a.items()} != {name: (v.shape, v.dtype) for name, v in b.items()}:
            return f"arrays {sorted(a)} became {sorted(b)}, or other shapes or types"
        errors = {n: np.abs(a[n].astype(float) - b[n]).max() / (a[n].astype(float).std() + 1e-30) for n in a if a[n].size}
        worst = max(errors, key=lambda name: errors[name])
        return f"arrays differ by at most {errors[worst]:.2g} of their std ({worst})"
    if old.suffix in (".png", ".jpg"):
        a, b = (np.asarray(Image.open(path)).astype(int) for path in (old, new))
        return f"{np.mean(a != b):.2%} of the values differ" if a.shape == b.shape else f"size {a.shape} became {b.shape}"
    try:
        a, b = (path.read_text().replace("<", "\n<") for path in (old, new))
        return changed_lines(a, b)
    except UnicodeDecodeError:
        return f"{old.stat().st_size} bytes became {new.stat().st_size}, and others"


def changed_lines(old: str, new: str) -> str:
    """The first lines that differ."""
    lines = [line[:200] for line in difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")][2:]
    return "\n      ".join(line for line in lines if not line.startswith("@@"))[:2000]


def mask(text: str) -> str:
    """Printed text without what changes from run to run."""
    for _, pattern, instead in PRINTED:
        text = re.sub(pattern, instead, text)
    return text


def compare_files(old: Path, new: Path, seen: set[str]) -> tuple[str, bool] | None:
    """How two files differ, and whether in words alone; None where they do not, and `seen` then holds the mask that it took."""
    if old.is_dir() or new.is_dir():
        return None if old.is_dir() and new.is_dir() else ("a folder became a file, or a file a folder", False)
    if hashlib.sha256(old.read_bytes()).digest() == hashlib.sha256(new.read_bytes()).digest():
        return None
    for pattern, (what, compared) in MASKS.items():
        if old.match(pattern) and compared(old) == compared(new):
            seen.add(what)
            return None
    words = old.suffix in (".html", ".json", ".jsonl") and without_words(old) == without_words(new)
    return explain(old, new), words


def files_of(folder: Path) -> dict[str, Path]:
    """The kept files and empty folders by name, without time and process in the names of TensorBoard's."""
    paths = [path for path in sorted((folder / "files").rglob("*")) if path.is_file() or not any(path.iterdir())]
    return {re.sub(r"tfevents\.[^/]*", "tfevents", path.relative_to(folder / "files").as_posix()): path for path in paths}


def compare(old: Path, new: Path) -> int:
    """Print what differs, and the counts; return the number of differences."""
    differences, wordings, count, seen = [], [], 0, set()
    folders = sorted(path.name for path in old.iterdir())
    if folders != sorted(path.name for path in new.iterdir()):
        sys.exit(f"{old} was kept by another version of this script: give the checkout instead")
    for name in folders:
        records = [json.loads((side / name / "record.json").read_text()) for side in (old, new)]
        command, found = records[0]["command"], []
        for key in ("command", "code", "removed"):
            if records[0][key] != records[1][key]:
                found.append(f"{key} {records[0][key]!r} became {records[1][key]!r}\n      {records[1]['stderr'][-1500:]}")
        ours, theirs = files_of(new / name), files_of(old / name)
        found += [f"{file}: only the old one writes it" for file in sorted(theirs.keys() - ours.keys())]
        found += [f"{file}: only the new one writes it" for file in sorted(ours.keys() - theirs.keys())]
        for file in sorted(theirs.keys() & ours.keys()):
            count += 1
            if how := compare_files(theirs[file], ours[file], seen):
                (wordings if how[1] else differences).append(f"{name}  {command}\n    {file}: {how[0]}")
        code = 1 if command.startswith("1: ") else 0
        if records[0]["error"]:
            found += [f"an error, and yet written: {file}" for file in sorted(ours.keys() | theirs.keys())]
            found += [f"{side['code']}: not an error" for side in records if side["code"] == 0]
        elif records[0]["code"] != code:
            found.append(f"code {records[0]['code']}, not {code}, in the old one:\n      {records[0]['stderr'][-1500:]}")
        differences += [f"{name}  {command}\n    {text}" for text in found]
        for stream in ("stdout", "stderr"):
            a, b = (mask(record.get(stream, "")) for record in records)
            if a != b:
                wordings.append(f"{name}  {command}\n    {stream}: {changed_lines(a, b)}")
    for title, texts in (("DIFFERENCE", differences), ("wording", wordings)):
        for text in texts:
            print(f"{title}  {text}")
    for what in sorted(seen):
        print(f"masked: {what}")
    print(
        f"{len(folders)} commands, {count} files compared, {len(differences)} differences, {len(wordings)} wording differences"
    )
    return len(differences)


def main() -> int:
    """Run both sides, one after the other, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout, or the folder `old` that an earlier run kept")
    parser.add_argument("new", type=Path, help="a checkout")
    parser.add_argument("--old-python", default=sys.executable, metavar="PYTHON", help="default: this one")
    parser.add_argument("--new-python", default=sys.executable, metavar="PYTHON", help="default: this one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="keeps what both wrote, in DIR/old and DIR/new")
    args = parser.parse_args()
    if not any((args.old / name).exists() for name in ("tools/cli.py", "00-demo")) or not (args.new / "tools/cli.py").is_file():
        parser.error("neither a checkout nor what an earlier run kept")
    out, sides = args.out.resolve(), {}
    for side, checkout, python in (("old", args.old, args.old_python), ("new", args.new, args.new_python)):
        if (checkout / "tools/cli.py").is_file():
            sides[side] = out / side
            shutil.rmtree(sides[side], ignore_errors=True)
            run_side(checkout.resolve(), python, sides[side])
        else:
            sides[side] = checkout.resolve()
    return 1 if compare(sides["old"], sides["new"]) else 0


if __name__ == "__main__":
    sys.exit(main())
