"""Choose the numbers of a training that nobody gave, from the images, the labels, the network and a measured step.

The rules come from the measurements in segmentation/README.md: small machines and small datasets, where each of these numbers
decides whether a first model is useful. (``tests/segmentation/training/test_choice.py``)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.inference import cpu
from dense_resnet.planning import geometry
from dense_resnet.planning.plan import Plan
from segmentation.prediction.options import SIZE
from segmentation.training.recipe import ADAMW, FOLDER, SGD, STATE

CROP_SHARE = 0.5  # of the images' shorter sides: twice the side takes four times the time, which more views use better
SMALLEST_CROP, LARGEST_CROP = 129, 257  # pixels: below, a view shows too little; above, a step takes too long on a CPU
BATCHES = (8, 4, 2, 1)  # largest first
MEMORY = 0.5  # share of the free memory that a step may take
BACKWARD = 3  # times the activations of a forward pass that a step keeps
PASSES = 60  # over the images' pixels
FEWEST_STEPS, MOST_STEPS = 200, 30000
MINUTES = 6  # of training, unless so few steps would be below FEWEST_STEPS
RATES = {SGD: (0.02, 0.1), ADAMW: (0.0005, 0.002)}  # at a batch of 8, from weights that fit and from others
CLIP = 1.0  # of the gradients, with such a rate: without it, one odd batch can destroy the weights
WEIGHT_DECAYS = {SGD: 0.0001, ADAMW: 0.01}
RARE = 0.1  # a present class's share of an even share, below which classes are weighted


def choose_crop(sizes: Mapping[tuple[int, int], int]) -> int:
    """Return the side of views: half of the images' median shorter side, on the next 32n+1 within bounds.

    `sizes` are numbers of images by (height, width).

    >>> choose_crop({(300, 400): 3, (500, 700): 1}), choose_crop({(60, 90): 1}), choose_crop({(1024, 2048): 9})
    (161, 129, 257)
    """
    shorter = np.repeat([min(size) for size in sizes], list(sizes.values()))
    return geometry.aligned_size(int(np.clip(CROP_SHARE * np.median(shorter), SMALLEST_CROP, LARGEST_CROP)))


def choose_size(sizes: Mapping[tuple[int, int], int]) -> int:
    """Return the side of the canvas for validation, on which most images fit: larger ones run on their own.

    >>> choose_size({(200, 300): 30, (500, 700): 1}), choose_size({(1024, 2048): 9})
    (321, 513)
    """
    longer = np.repeat([max(size) for size in sizes], list(sizes.values()))
    return geometry.aligned_size(min(SIZE, int(np.percentile(longer, 90, method="higher"))))


def choose_batch(plan: Plan, crop: int, memory: int) -> int:
    """Return the largest batch whose step fits into the share :data:`MEMORY` of `memory` bytes."""
    step = BACKWARD * plan.analyze((crop, crop)).activation_bytes
    return next((batch for batch in BATCHES if batch * step <= MEMORY * memory), BATCHES[-1])


def choose_rate(optimizer: str, batch: int, *, fits: bool) -> float:
    """Return the learning rate, in proportion to the batch.

    `fits` says whether the weights to start from are of pictures like these: random ones are not, nor those of drawn scenes.

    >>> choose_rate("sgd", 8, fits=True), choose_rate("sgd", 4, fits=False)
    (0.02, 0.05)
    """
    return RATES[optimizer][0 if fits else 1] * batch / BATCHES[0]


def find_rare(pixels: np.ndarray) -> int | None:
    """Return the class that is so rare that classes should be weighted, if one is. `pixels` are those of each class.

    >>> find_rare(np.array([900, 100])), find_rare(np.array([990, 10])), find_rare(np.array([5, 0]))
    (None, 1, None)
    """
    present = np.flatnonzero(pixels)
    rarest = min(present, key=pixels.__getitem__, default=None)
    if rarest is None or pixels[rarest] * len(present) >= RARE * pixels.sum():
        return None
    return int(rarest)


def choose_steps(sizes: Mapping[tuple[int, int], int], crop: int, batch: int, seconds: float) -> int:
    """Return the steps of a training: views that cover the images PASSES times, or as many as MINUTES allow.

    `sizes` are numbers of images by (height, width); `seconds` are those of a step.

    >>> choose_steps({(250, 250): 30}, 129, 8, 0.2), choose_steps({(500, 500): 60}, 129, 8, 0.2)
    (840, 1800)
    >>> choose_steps({(500, 500): 60}, 129, 8, 75.0)
    200
    """
    pixels = sum(number * height * width for (height, width), number in sizes.items())
    wanted = min(max(FEWEST_STEPS, PASSES * pixels / (batch * crop**2)), MOST_STEPS)
    return max(FEWEST_STEPS, int(min(wanted, 60 * MINUTES / seconds))) // 10 * 10


def free_memory() -> int:
    """Return the bytes that the system has free for programs."""
    available = cpu._fields(cpu.MEMORY).get("MemAvailable", "").split()
    if available:
        return 1024 * int(available[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # not Linux


def read_choice(out: Path) -> dict[str, Any] | None:
    """Return the numbers of the training in a folder, by option; None without a training that can be read."""
    path = out / FOLDER / STATE
    if not path.exists():
        return None
    with contextlib.suppress(*safetensors.ERRORS, LookupError):  # resuming it says what is wrong with it
        protocol = safetensors.metadata(path)["protocol"]
        recipe = protocol["recipe"]
        same = ("batch", "steps", "weight_decay", "clip", "validate_every", "save_every")
        return {name: recipe[name] for name in same} | {
            "crop": recipe["augmentation"]["crop"][0],
            "size": protocol["validation_size"],
            "lr": recipe["learning_rate"],
            "class_weights": recipe["class_weights"] or ["none"],
        }
    return None
