"""How a model is trained: the options, checked without TensorFlow. :mod:`segmentation.training` trains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dense_resnet.errors import InputError, pluralize
from dense_resnet.inference.precision import BFLOAT16, FLOAT32
from dense_resnet.planning import geometry
from segmentation.data.transforms import Augmentation

# Images below which batch statistics are harmful: DeepLab's advice. Batch norm over pooled features has one value an image, of
# which few have a variance far from that of all images (0 for one), and inference divides by its root. So with fewer images
# a device, that one layer is normalized by its moving averages in training too, regardless of the others.
SMALLEST_BATCH = 12

OPTIMIZERS = SGD, ADAMW = "sgd", "adamw"
SCHEDULES = POLY, COSINE = "poly", "cosine"
LOSSES = CE, FOCAL, DICE, LOVASZ, CE_DICE = "ce", "focal", "dice", "lovasz", "ce+dice"
PIXEL_LOSSES = CE, FOCAL, CE_DICE  # which class weights can weigh
FOLDER, LAST, STATE = "training", "last", "state.safetensors"  # in the folder of a training


@dataclass(frozen=True)
class Recipe:
    """How to train. All of it is recorded, and a run resumes only under the same."""

    steps: int
    batch: int = 8  # images a step, of all devices together
    learning_rate: float = 0.007
    head_rate: float = 1.0  # factor on the head's learning rate
    warmup: int = 0  # steps of a rate that grows from 0
    power: float = 0.9  # of the poly schedule: rate * (1 - step / steps) ** power
    momentum: float = 0.9  # of AdamW: its first beta
    weight_decay: float = 0.0001  # of the convolutions' weights: L2 as slim counts it, of AdamW apart from the gradient
    clip: float | None = None  # the gradients' greatest global norm
    freeze_batch_norm: bool = False
    class_weights: tuple[float, ...] | None = None
    hardest: float = 1.0  # share of each image's pixels that count
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    precision: str = FLOAT32
    validate_every: int = 500  # steps; and at the end
    save_every: int = 500
    optimizer: str = SGD
    schedule: str = POLY
    loss: str = CE
    ema: float | None = None  # decay of the averaged weights that are validated and saved
    auxiliary: float = 0.0  # weight of the loss of a second head, on the block before the last
    patience: int | None = None  # validations without a better model after which training ends

    def check(self, num_classes: int) -> None:
        """Raise an :class:`InputError` if a value is invalid."""
        for name in ("steps", "batch", "validate_every", "save_every"):
            geometry.positive_integer(name, getattr(self, name))
        for name, valid, expected in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("head_rate", 0 < self.head_rate < math.inf, "above 0"),
            ("power", 0 < self.power < math.inf, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("weight_decay", 0 <= self.weight_decay < 1, "at least 0 and below 1"),
            ("warmup", 0 <= self.warmup < self.steps, f"at least 0 and below the {pluralize(self.steps, 'step')}"),
            ("clip", self.clip is None or 0 < self.clip < math.inf, "above 0"),
            ("hardest", 0 < self.hardest <= 1, "a share above 0 and up to 1"),
            ("precision", self.precision in (FLOAT32, BFLOAT16), f"{FLOAT32!r} or {BFLOAT16!r}"),
            ("optimizer", self.optimizer in OPTIMIZERS, _one_of(OPTIMIZERS)),
            ("schedule", self.schedule in SCHEDULES, _one_of(SCHEDULES)),
            ("loss", self.loss in LOSSES, _one_of(LOSSES)),
            ("ema", self.ema is None or 0 < self.ema < 1, "above 0 and below 1"),
            ("auxiliary", 0 <= self.auxiliary < math.inf, "at least 0"),
            ("patience", self.patience is None or (type(self.patience) is int and self.patience > 0), "an integer above 0"),
        ):
            if not valid:
                raise InputError(f"{name} must be {expected} (not {getattr(self, name)!r}).")
        geometry.check_seed(self.seed)
        weights = self.class_weights
        if weights is not None and not (
            len(weights) == num_classes and all(0 <= weight < math.inf for weight in weights) and any(weights)
        ):
            raise InputError(
                f"class_weights must be one number of at least 0 for each of the {pluralize(num_classes, 'class')}, not all 0 "
                f"(not {' '.join(f'{weight:g}' for weight in weights):.80})."
            )
        for name, given, losses in (
            ("class_weights", weights is not None, PIXEL_LOSSES),
            ("hardest", self.hardest < 1, (CE, CE_DICE)),
        ):
            if given and self.loss not in losses:
                raise InputError(f"{name} goes with a loss over pixels ({_one_of(losses)}), not with {self.loss!r}.")
        self.augmentation.check()

    def rate(self, step: int) -> float:
        """Return the backbone's learning rate at `step`.

        The cosine schedule is that of Loshchilov and Hutter, https://arxiv.org/abs/1608.03983, without restarts.

        >>> Recipe(steps=100, warmup=10, learning_rate=1.0).rate(4), Recipe(steps=4, power=1.0, learning_rate=1.0).rate(3)
        (0.4..., 0.25)
        """
        done = step / self.steps
        falling = (1 - done) ** self.power if self.schedule == POLY else (1 + math.cos(math.pi * done)) / 2
        rate = self.learning_rate * falling
        return rate * min(1.0, (step + 1) / self.warmup) if self.warmup else rate


def _one_of(names: Sequence[str]) -> str:
    """Return names for a message.

    >>> print(_one_of(OPTIMIZERS))
    'sgd' or 'adamw'
    """
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}"


def batch_norm_decay(usual: float, steps: int) -> float:
    """Return a decay with which a moving average has forgotten its start after `steps` steps.

    >>> batch_norm_decay(0.997, 200), batch_norm_decay(0.997, 30000)
    (0.95, 0.997)
    """
    return min(usual, max(0.0, 1 - 10 / steps))
