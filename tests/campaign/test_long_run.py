"""Thousands of images through one process: memory and open files stay what they were, and going on takes seconds.

The jobs are those of `extract` and `evaluate`, over small images of every kind and tiny networks. Memory and open files are
read from the system at each image. The slope is that of the best line through the second half, when all that is made once
has been made. Something may grow with the images: the log keeps where each one's line is, and every job a list of them. Only
the long form, ``--cases 10000``, judges small leaks: over the short form's images the allocator's own noise is far larger.
``--seconds`` limits the making of the images alone, not the jobs.
"""

import json
import os
import sys
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import NAMES, encode, label_of
from helpers.networks import STRIDE_8_PLAN, image_of, tiny_model, weights_of
from PIL import Image

from dense_resnet.extraction.extract import Extraction
from dense_resnet.extraction.settings import Settings
from dense_resnet.image_io import discovery
from dense_resnet.verification import laws
from segmentation.data.label_files import encode_label
from segmentation.data.label_space import LabelSpace
from segmentation.data.layouts import open_dataset
from segmentation.evaluation.evaluate import Evaluation
from segmentation.evaluation.systems import ModelPredictions
from segmentation.prediction.options import Inference
from segmentation.saving.model_directory import load_model, save_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory and open files as Linux shows them")

MOST = 10_000  # images, whatever the seconds
DISTINCT = 48  # files of different sizes and kinds, under many names
SIDES = (40, 97)
SPACE = LabelSpace.from_json({"classes": NAMES})
BATCH, THREADS = 2, 2
KNOWN = 600  # bytes an image: its name, where its line is in the log, and what the job's lists keep; about 300 were measured
NOISE = 4 * 2**20  # bytes that the allocator may take or give back at any moment
AT_WORK = 6  # files that the threads may have open at one moment more than at another
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident():
    """This process's memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Watched:
    """Reads memory and open files whenever the job tells how far it is; keeps 24 bytes each time."""

    def __init__(self):
        self.phases = {}

    def __call__(self, what, done, total):
        phase = self.phases.setdefault(what, tuple(array("q") for _ in range(3)))
        for values, value in zip(phase, (done, resident(), len(os.listdir("/proc/self/fd"))), strict=True):
            values.append(value)

    def figures(self, what):
        """Of a phase: what is asserted and published."""
        done, memory, _ = map(np.array, self.phases[what])
        half = len(done) // 2
        slope, _ = np.polyfit(done[half:], memory[half:], 1)
        grown = slope * (done[-1] - done[half])
        every = np.concatenate([files for _, _, files in self.phases.values()])
        assert grown < KNOWN * (done[-1] - done[half]) + NOISE, f"{what}: {slope:.0f} bytes an image"
        assert every.max() - every.min() <= AT_WORK, f"{what}: {every.min()} to {every.max()} open files"
        return {
            "bytes_an_image": round(float(slope)),
            "megabytes_at_half": round(memory[half] / 2**20),
            "megabytes_at_end": round(memory[-1] / 2**20),
            "fewest_open_files": int(every.min()),
            "most_open_files": int(every.max()),
        }


def picture(number):
    """A file of some size and kind: (its bytes, its size)."""
    generator = np.random.default_rng(number)
    pixels = Image.fromarray(image_of(*generator.integers(*SIDES, 2), seed=number))
    kinds = [
        lambda: encode(pixels),
        lambda: encode(pixels, "JPEG"),
        lambda: encode(pixels.convert("L")),
        lambda: encode(pixels, "JPEG", progressive=True),
        lambda: encode(pixels.quantize(16)),
        lambda: encode(pixels.convert("CMYK"), "JPEG"),
        lambda: encode(pixels.convert("RGBA")),
        lambda: encode(np.asarray(pixels.convert("L")).astype(np.uint16) * 257),
    ]
    return kinds[number % len(kinds)](), pixels.size[::-1]


def dataset_of(root, campaign):
    """Image after image under ``images/``, its label under ``labels/``; how many there are."""
    originals = []
    for number in range(DISTINCT):
        data, size = picture(number)
        image, label = (root / "distinct" / f"{number}.{ending}" for ending in ("image", "label"))
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(data)
        label.write_bytes(encode_label(label_of(*size, number), SPACE))
        originals.append((image, label))
    (root / "dataset.json").write_text(json.dumps({"classes": NAMES}))
    count = 0
    for number, random in campaign.cases(short=150):
        if number == MOST:
            break
        for original, folder in zip(originals[int(random.integers(DISTINCT))], ("images", "labels"), strict=True):
            path = root / folder / "val" / f"{number // 100:03d}" / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(original, path)
        count += 1
    return count


def twice(job):
    """(seconds of a run, what was watched meanwhile, seconds of the same run again, its outcome)."""
    watched = Watched()
    start = time.monotonic()
    job(watched)
    between = time.monotonic()
    outcome = job(Watched())
    return between - start, watched, time.monotonic() - between, outcome


def test_extracting_ten_thousand_images(campaign, tmp_path):
    count = dataset_of(tmp_path, campaign)
    found = discovery.find_images([str(tmp_path / "images")])
    runner = laws.backbone_with(STRIDE_8_PLAN, weights_of(STRIDE_8_PLAN)).runner("float32")
    extraction = Extraction(runner, tmp_path / "out", Settings(size=65, batch=BATCH), threads=THREADS)
    seconds, watched, again, outcome = twice(lambda watched: extraction.run(found, progress=watched))
    assert (outcome.written, outcome.total, len(found)) == (0, count, count)
    figures = watched.figures("extracting")
    campaign.report(images=count, seconds_to_extract=round(seconds, 1), seconds_to_find_it_done=round(again, 1), **figures)


def test_evaluating_ten_thousand_images(campaign, tmp_path):
    count = dataset_of(tmp_path, campaign)
    save_model(tmp_path / "model", tiny_model(), SPACE)
    saved = load_model(tmp_path / "model")
    system = ModelPredictions(saved, saved.runner("float32"), Inference(size=65), BATCH)
    evaluation = Evaluation(system, open_dataset(tmp_path), tmp_path / "out", threads=THREADS)
    seconds, watched, again, outcome = twice(lambda watched: evaluation.run(progress=watched))
    assert (outcome.written, outcome.total, outcome.result["counts"]["images"]) == (0, count, count)
    figures = watched.figures("scoring")
    campaign.report(images=count, seconds_to_evaluate=round(seconds, 1), seconds_to_find_it_done=round(again, 1), **figures)
