"""Measure what each choice of `train` does to mean IoU, for the table in segmentation/README.md.

    python tests/campaign/recipes.py SETS OUT [--minutes 2] [--seeds 3] [--jobs 2]

SETS is a folder of datasets: scenes (`dense-resnet demo --scenes 60 12 --out SETS/scenes`), and those of real_sets.py. Each
run is the command with its own defaults and one option changed. Its steps are what fits into the minutes, by a step that is
measured on all cores before anything else runs: runs of other options differ in steps, not in time. With `--jobs`, so many
run at once, each on its own core. OUT/runs.jsonl keeps every run, and the same command goes on with those that are missing.
At the end it prints the table: the difference from the defaults, seed by seed, with a 95 % interval of Student's t.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import queue
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from segmentation.training import choice
from segmentation.training.recipe import SGD

ROOT = Path(__file__).parents[2]
RANDOM = f"--model {ROOT / 'tools/scenes_model/plan.json'} --output-stride 8 --head fcn"  # the small model with random weights
DEFAULTS = "defaults"
SAME_STEP = {
    *("random weights", "rate x 4", "--schedule cosine", "--class-weights balanced"),
    *("--loss focal", "--loss dice", "--loss ce+dice"),
}  # their step takes as long as that of the defaults
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # by the number of seeds


def choices(crop: int, *, scenes: bool) -> dict[str, str]:
    """Return the options of each choice. On the scenes all start from random weights: the shipped model knows them."""
    rate = choice.choose_rate(SGD, choice.BATCHES[0], fits=False)
    other = choice.SMALLEST_CROP if crop > choice.SMALLEST_CROP else choice.LARGEST_CROP
    own = {
        DEFAULTS: "",
        "random weights": RANDOM,
        "rate x 4": f"--lr {rate * 4} --clip 1",
        f"--crop {other}": f"--crop {other}",
        "--freeze-bn yes": "--freeze-bn yes",
        "--optimizer adamw": "--optimizer adamw",
        "--schedule cosine": "--schedule cosine",
        "--loss focal": "--loss focal",
        "--loss dice": "--loss dice",
        "--loss ce+dice": "--loss ce+dice",
        "--loss lovasz": "--loss lovasz",
        "--class-weights balanced": "--class-weights balanced",
        "--ema 0.999": "--ema 0.999",
        "--auxiliary 0.4": "--auxiliary 0.4",
        "--augment 0.5": "--augment 0.5",
    }
    if scenes:
        del own["random weights"]
        return {name: f"{RANDOM} {options}" for name, options in own.items()}
    return own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets = {folder.name: choices(crop_of(folder), scenes=folder.name == "scenes") for folder in sorted(args.sets.iterdir())}
    seconds = measure(args.sets, args.out / "seconds.json", sets)
    kept = args.out / "runs.jsonl"
    done = {tuple(run[key] for key in ("set", "choice", "seed")) for run in read_lines(kept)}
    labels = dict.fromkeys(label for own in sets.values() for label in own)
    every = itertools.product(range(args.seeds), labels, sets)
    todo = [(name, label, seed) for seed, label, name in every if label in sets[name] and (name, label, seed) not in done]
    cores: queue.Queue[int] = queue.Queue()
    for core in range(args.jobs):
        cores.put(core)
    with ThreadPoolExecutor(args.jobs) as pool:
        for name, label, seed in todo:
            step = seconds[name][DEFAULTS if label in SAME_STEP else label]
            steps = max(10, int(60 * args.minutes / step) // 10 * 10)
            key = {"set": name, "choice": label, "seed": seed, "steps": steps}
            pool.submit(run, args.sets / name, sets[name][label], key, kept, cores if args.jobs > 1 else None)
    print_table(read_lines(kept), seconds, args.minutes)


def crop_of(folder: Path) -> int:
    """Return the crop that `train` chooses for a dataset."""
    sizes: dict[tuple[int, int], int] = {}
    for path in (folder / "images/train").iterdir():
        with Image.open(path) as image:
            size = (image.height, image.width)
        sizes[size] = sizes.get(size, 0) + 1
    return choice.choose_crop(sizes)


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools/train.py"), *map(str, arguments)]


def measure(folder: Path, kept: Path, sets: dict[str, dict[str, str]]) -> dict[str, dict[str, float]]:
    """Return the seconds of a step for each choice, as `train` itself measures and prints them."""
    seconds = json.loads(kept.read_text()) if kept.exists() else {}
    for name, own in sets.items():
        for label, options in own.items():
            if label in SAME_STEP or label in seconds.setdefault(name, {}):
                continue
            arguments = command(folder / name, *options.split())
            seconds[name][label] = min(measure_once(arguments) for _ in range(3))
            kept.write_text(json.dumps(seconds, indent=1))
            print(f"{name}: {label}: {seconds[name][label]} s a step", flush=True)
    return seconds


def measure_once(arguments: list[str]) -> float:
    """Return the seconds of a step that `train` prints before it begins, and end it."""
    with tempfile.TemporaryDirectory() as out:
        process = subprocess.Popen([*arguments, "--out", out], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = next(match for line in process.stdout or () if (match := re.search(r"([0-9.]+) s a step", line)))
        process.kill()
        process.wait()
    return float(found[1])


def run(folder: Path, options: str, key: dict[str, Any], kept: Path, cores: queue.Queue[int] | None) -> None:
    """Train once, and keep the mean IoU of the best model and of the last one."""
    core = cores.get() if cores else None
    out = kept.parent / f"run-{core}"
    shutil.rmtree(out, ignore_errors=True)
    pin = None if core is None else partial(os.sched_setaffinity, 0, [core])
    arguments = command(folder, "--out", out, "--steps", key["steps"], "--seed", key["seed"], *options.split())
    result = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=pin, check=False)
    found = re.search(r"best: .*?mean IoU ([0-9.]+) at step (\d+).*last: .*?mean IoU ([0-9.]+)", result.stdout)
    if found:
        line = key | {"best": float(found[1]), "at": int(found[2]), "last": float(found[3])}
    else:
        line = key | {"error": result.stderr[-500:]}
    with kept.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(line, flush=True)
    if cores and core is not None:
        cores.put(core)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows(runs: list[dict[str, Any]], seconds: dict[str, dict[str, float]]) -> Iterator[list[str]]:
    """Yield the cells of the table: a choice, and for each set the mean IoU or the difference from the defaults."""
    best = {(run["set"], run["choice"], run["seed"]): run.get("best", math.nan) for run in runs}
    sets = list(seconds)
    for label in dict.fromkeys(run["choice"] for run in runs):
        cells = [label]
        for name in sets:
            seeds = sorted(seed for (own, chosen, seed) in best if (own, chosen) == (name, label))
            values = [best[name, label, seed] - (0 if label == DEFAULTS else best[name, DEFAULTS, seed]) for seed in seeds]
            cells.append(describe(values, signed=label != DEFAULTS) if values else "")
        yield cells


def describe(values: list[float], *, signed: bool) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:{'+' if signed else ''}.3f}"
    half = T95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:{'+' if signed else ''}.3f} ± {half:.3f}"


def print_table(runs: list[dict[str, Any]], seconds: dict[str, dict[str, float]], minutes: float) -> None:
    print(f"\n{minutes:g} minutes\n\n| choice | {' | '.join(seconds)} |\n|{'---|' * (1 + len(seconds))}")
    for cells in rows(runs, seconds):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
