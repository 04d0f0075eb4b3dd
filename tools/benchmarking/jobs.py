"""Extraction and evaluation of files, each timed in turn with the bare forward pass of as many images in memory.

The job runs as the verb does where nothing is asked for: :mod:`tools.pace` chooses engine, precision and pace. The bare forward
pass is the function that ``compile`` gives of that engine and precision, one image at a time.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.backbone import Backbone
from dense_resnet.extraction.extract import Extraction
from dense_resnet.extraction.settings import PROTOCOL, Settings
from dense_resnet.image_io.decoding import opencv
from dense_resnet.image_io.discovery import find_images
from dense_resnet.inference.runner import Runner
from dense_resnet.inference.throughput import Pace
from dense_resnet.jobs.resumable import never
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import preprocess
from segmentation.data.layouts import open_dataset
from segmentation.data.synthetic import CLASSES, write_scenes
from segmentation.evaluation.evaluate import Evaluation
from segmentation.evaluation.systems import ModelPredictions
from segmentation.model import SegmentationModel
from segmentation.prediction.options import Inference
from segmentation.saving.description import description_of
from segmentation.saving.model_directory import SavedModel

from .. import options, pace
from .hardware import peak_memory
from .timing import Stopped, Timing, alternate, prepare
from .workload import Run, Workload

PAIRS = 3  # runs of a job and of the bare forward


@dataclass
class Job:
    """A job and the bare forward pass, timed in pairs."""

    bare: Timing
    job: Timing
    peaks: list[int]  # peak memory in bytes after each pair, of the process that does both
    system: dict[str, Any]  # engine, precision and pace of the job


def against_extraction(plan: Plan, size: int, images: int, stopped: Stopped = never) -> Job:
    """Time the bare forward, one image at a time, and the extraction of as many JPEG files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = folder / "photographs"
        photographs.mkdir()
        generator = np.random.default_rng(0)
        for number in range(images):
            coarse = generator.integers(0, 256, (24, 32, 3), np.uint8)
            pixels = opencv().resize(coarse, (640, 480), interpolation=opencv().INTER_CUBIC)
            opencv().imwrite(str(photographs / f"{number:03}.jpg"), pixels)
        found = find_images([str(photographs)])
        backbone = Backbone(plan, seed=0)
        runner, chosen = _start(backbone.runner, size, images, folder)
        forward, noise = backbone.compile(runner.precision, engine=runner.engine), Workload(plan, size, 1, folder).images()
        count = itertools.count()

        def bare() -> None:
            for _ in range(images):
                if not stopped():
                    forward(noise)

        def extract() -> None:
            settings = Settings(size, batch=chosen.batch)
            job = Extraction(runner, folder / str(next(count)), settings, threads=chosen.threads)
            job.run(found, stop=stopped)

        return _time_pairs("forward", bare, "extract", extract, images, runner, chosen, stopped)


def against_evaluation(plan: Plan, size: int, images: int, stopped: Stopped = never) -> Job:
    """Time (forward + upsampling + argmax) of images in memory, and their `evaluate` from files, with DeepLabv3's head."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scenes(folder / "scenes", 1, images, size=size)
        dataset = open_dataset(folder / "scenes", "val")
        model = SegmentationModel(Backbone(plan, seed=0), len(CLASSES), "aspp", seed=0)
        described = description_of(model, dataset.space) | {"weights_sha256": ""}
        saved = SavedModel(plan, model.head, dataset.space, None, None, folder, described, model, {})
        runner, chosen = _start(saved.runner, size, images, folder)
        system = ModelPredictions(saved, runner, Inference(size), chosen.batch)
        pictures = [preprocess(sample.read_image(), plan.preprocessing)[None] for sample in dataset.samples]
        logits = model.compile(runner.precision, engine=runner.engine)
        count = itertools.count()

        def bare() -> None:
            for picture in pictures:
                if not stopped():
                    np.argmax(logits(picture), axis=-1)

        def evaluate() -> None:
            Evaluation(system, dataset, folder / str(next(count)), threads=chosen.threads).run(report=False, stop=stopped)

        return _time_pairs("logits + argmax", bare, "evaluate", evaluate, images, runner, chosen, stopped)


def _start(make: pace.Make, side: int, images: int, folder: Path) -> tuple[Runner, Pace]:
    """Choose as a verb without options does."""
    parser = argparse.ArgumentParser()
    options.add_speed_options(parser)
    options.add_shard_options(parser)
    return pace.start(parser.parse_args([], argparse.Namespace(out=folder)), make, side, images, PROTOCOL)


def _time_pairs(
    forward: str, bare: Run, name: str, run: Run, images: int, runner: Runner, chosen: Pace, stopped: Stopped
) -> Job:
    system = {
        "engine": runner.engine, "precision": runner.precision, "batch": chosen.batch, "threads": chosen.threads,
    }  # fmt: skip
    pair = prepare(forward, lambda: bare, images), prepare(name, lambda: run, images)
    job = Job(pair[0][0], pair[1][0], [], system)
    for _ in range(PAIRS):
        alternate(pair, runs=1, burn_in=0, stopped=stopped)
        if stopped():
            break
        job.peaks.append(peak_memory())
    return job
