"""Keep the state of a training, in memory and on disk: see the drawing in :mod:`segmentation.training.loop`.

Step, weights and what the optimizer keeps are the whole state, with averaged weights and an auxiliary head these too, since all
else is a function of (seed, position in the data). The file also has the protocol, which a resumed run must share, and the
figures that its outcome and its warnings depend on.

More steps continue a training, finished or not: a new *leg* starts at the step of the state, and the learning rate follows
the schedule of the new number of steps from there on, as if it had always been that long. The data continue in their
order. So the result differs from that of one long training by the rates of the earlier legs, and the protocol lists them
all: ``"legs": [{"from": 0, "steps": 4000}, {"from": 4000, "steps": 8000}]``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from dense_resnet.backbone import Backbone
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError
from dense_resnet.jobs import journal
from segmentation.heads.plan import PADDED
from segmentation.metrics.confusion import ConfusionMatrix
from segmentation.model import SegmentationModel
from segmentation.saving.description import DESCRIPTION, WEIGHTS, description_of, head_options
from segmentation.saving.model_directory import save_model
from segmentation.training.auxiliary import AuxiliaryHead
from segmentation.training.data import EXIF
from segmentation.training.optimizers import SLOTS
from segmentation.training.recipe import FOLDER, LAST, STATE, Recipe

if TYPE_CHECKING:
    from segmentation.training.loop import Training

LEGS, FROM, STEPS = "legs", "from", "steps"  # of a protocol
AVERAGE = "average/"  # before a variable's name
CHOSEN = ("plan", "output_stride", "multi_grid", "head", "validation_size", "recipe")  # of a protocol, by options


class State:
    """The state of a training, at first that of its model. Only the chief writes it."""

    def __init__(self, training: Training) -> None:
        self.training, self.model = training, training.model
        self.path = training.out / FOLDER / STATE
        recipe = training.recipe
        with training.strategy.scope():
            self.auxiliary = None
            if recipe.auxiliary:
                self.auxiliary = AuxiliaryHead(self.model.backbone.plan, self.model.head.num_classes, recipe.seed)
            own = self.auxiliary.trainable if self.auxiliary else {}
            self.trainable = self.model.trainable | own  # what a step changes by gradients
            self.kept = dict(own)  # what a resumed run needs besides the model's weights, by its name in the file
            for name, variable in self.trainable.items():
                for slot in SLOTS[recipe.optimizer]:
                    self.kept[slot + name] = tf.Variable(tf.zeros_like(variable), trainable=False, name=slot + name)
            if recipe.ema is not None:
                for name, value in training.initial.items():
                    self.kept[AVERAGE + name] = tf.Variable(value, trainable=False, name=AVERAGE + name)
        self._average = tf.function(self._move_averages, autograph=False)
        self.best: float | None = None  # mean IoU
        self.best_step: int | None = None
        self.scored: tuple[int, float | None] | None = None  # the step that was validated last, its mean IoU
        self.warnings: dict[str, str] = {}  # by kind, each reported once
        self.seen = ConfusionMatrix(self.model.head.num_classes, training.ignored)  # of training images since a validation
        self.legs = [{FROM: 0, STEPS: training.recipe.steps}]  # from which step on, under a schedule of how many
        self._saved_step = 0
        self._twin: SegmentationModel | None = None

    @property
    def protocol(self) -> dict[str, Any]:
        """The training's, with the legs that it has had."""
        return {**self.training.protocol, LEGS: self.legs}

    @property
    def saved_state_note(self) -> str:
        """What a run that stops at an error has saved, for its message."""
        if not self._saved_step:
            return "Nothing of this training has been saved yet"
        return f"The last good state, of step {self._saved_step}, is kept in {self.training.out}"

    def score(self, step: int) -> float | None:
        """Return the mean IoU of the model at `step`, where it has been validated."""
        return self.scored[1] if self.scored and self.scored[0] == step else None

    def is_exhausted(self, step: int) -> bool:
        """Return whether so many validations as the recipe's patience, the last one at `step`, have found no better model."""
        patience, best = self.training.recipe.patience, self.best_step
        if patience is None or best is None or self.scored is None or self.scored[0] != step:
            return False
        return step - best >= patience * self.training.recipe.validate_every

    # -- averaging ----------------------------------------------------------------------------------------------------

    def average(self, step: int) -> None:
        """Move the averaged weights, if there are any, towards the weights after `step`.

        Young averages move faster, by (1 + n) / (10 + n) after n steps, as those of ``tf.train.ExponentialMovingAverage``.
        """
        if (decay := self.training.recipe.ema) is not None:
            self._average(tf.constant(min(decay, (1 + step) / (10 + step)), tf.float32))

    def _move_averages(self, decay: tf.Tensor) -> None:
        for name, variable in self.model.named_variables.items():
            average = self.kept[AVERAGE + name]
            average.assign(decay * average + (1 - decay) * variable.read_value())

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights that are validated and saved: the averaged ones, or the model's. Every worker must ask for them."""
        if self.training.recipe.ema is None:
            return self.model.weights  # every worker takes part where moving averages are read
        return {name: self.kept[AVERAGE + name].numpy() for name in self.training.initial}

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(self, step: int) -> None:
        """Write the state that a resumed run starts from, and the last model."""
        weights, own = self.weights, self.model.weights
        if not self.training.chief:
            return
        model = self.copy_model(weights, step)
        self.write_model(self.training.out / LAST, model, step, self.score(step))
        if self.training.validation is None:
            self.write_model(self.training.out, model, step, None)
        self._write(own, step)

    def copy_model(self, weights: Mapping[str, np.ndarray], step: int) -> SegmentationModel:
        """Return the model once more, on one device, with these weights, if they are finite: to validate, and to write."""
        for name, value in weights.items():
            if not np.isfinite(value).all():
                raise InputError(
                    f"step {step}: {name} became NaN or infinite; this state was not saved. {self.saved_state_note}. "
                    "Lower --lr, or give --clip 1."
                )
        if self._twin is None:
            head = head_options(description_of(self.model, self.training.dataset.space))
            self._twin = SegmentationModel(Backbone(self.model.backbone.plan, seed=0), **head, seed=0)
        self._twin.assign(weights)
        return self._twin

    def write_model(self, folder: Path, model: SegmentationModel, step: int, mean: float | None) -> None:
        """Write a model directory that records how its model was trained."""
        training = self.training
        about = {"step": step, "validation_mean_iou": mean, **self.protocol}
        save_model(folder, model, training.dataset.space, preprocessing=training.preprocessing, training=about)

    def _write(self, weights: Mapping[str, np.ndarray], step: int) -> None:
        about = {
            "step": step, "best": self.best, "best_step": self.best_step, "scored": self.scored,
            "warnings": self.warnings, "seen": self.seen.counts.tolist(), "protocol": self.protocol,
        }  # fmt: skip
        kept = {name: variable.numpy() for name, variable in self.kept.items()}
        safetensors.write(self.path, {**weights, **kept}, about)
        self._saved_step = step

    # -- restoring ----------------------------------------------------------------------------------------------------

    def restore(self) -> int:
        """Take the state on disk, and return the step that it is at; if there is none, write the first, at step 0."""
        out = self.training.out
        if not self.path.exists():
            if there := next((name for name in (DESCRIPTION, WEIGHTS, LAST) if (out / name).exists()), None):
                raise InputError(
                    f"{out}: holds {there} but not the {FOLDER}/{STATE} that its training would resume from. "
                    "Choose another --out."
                )
            if self.training.chief:  # so that later files in the folder are known to belong to this training
                self._write(self.training.initial, 0)
            return 0
        arrays = safetensors.read(self.path)
        step, legs = self._take_figures(safetensors.metadata(self.path))
        kept = {name: arrays.pop(name, None) for name in self.kept}
        if lost := [name for name, value in kept.items() if value is None]:
            raise InputError(f"{self.path}: damaged: {lost[0]} is missing. Choose another --out.")
        self.model.assign(arrays, str(self.path))
        for name, variable in self.kept.items():
            variable.assign(kept[name])
        self._saved_step = step
        self._continue(legs, step, arrays)
        return step

    def _take_figures(self, about: Mapping[str, Any]) -> tuple[int, list[dict[str, int]]]:
        """Take a state's figures besides its arrays, and return its step and its legs."""
        try:
            protocol, step, warnings = about["protocol"], about["step"], about["warnings"]
            best, best_step, scored = about["best"], about.get("best_step"), about.get("scored")  # older states lack two
            kinds = (protocol, dict), (warnings, dict), (best, float | None), (best_step, int | None)
            if type(step) is not int or not all(isinstance(value, kind) for value, kind in kinds):
                raise TypeError("a value of another kind")
            if scored is not None:
                scored = int(scored[0]), None if scored[1] is None else float(scored[1])
            legs = _read_legs(protocol, step)
            self._check_protocol(protocol)  # before what its classes are counted in
            seen = np.array(about["seen"], object)
            if not all(type(count) is int for count in seen.flat):  # True would count as 1
                raise TypeError("counts that are not integers")
            seen = seen.astype(np.int64)
            if seen.shape != self.seen.counts.shape or min(step, seen.min()) < 0:
                raise ValueError("counts of another shape, or below 0")
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{self.path}: damaged: {error!r}. Choose another --out.") from error
        self.best, self.best_step, self.scored, self.warnings = best, best_step, scored, warnings
        self.seen.counts += seen
        return step, legs

    def _continue(self, legs: list[dict[str, int]], step: int, weights: Mapping[str, np.ndarray]) -> None:
        """Continue the `legs` of a state; more steps than the last one has start another, which is recorded at once."""
        out, steps = self.training.out, self.training.recipe.steps
        if steps < legs[-1][STEPS]:
            raise InputError(
                f"{out}: holds a training of {legs[-1][STEPS]} steps, {step} of them done; --steps {steps} is fewer, "
                f"and steps can only be added. Give --steps {legs[-1][STEPS]} to resume it, or choose another --out."
            )
        self.legs = legs
        if steps > legs[-1][STEPS]:
            self.legs = [leg for leg in legs if leg[FROM] < step] + [{FROM: step, STEPS: steps}]
            if self.training.chief:  # so that a model which is written before the next state is known to be of this leg
                self._write(weights, step)

    def _check_protocol(self, old: dict[str, Any]) -> None:
        """Refuse a state of another training."""
        new = json.loads(json.dumps(self.protocol))
        for protocol in (old, new):  # what may grow
            protocol.pop(LEGS, None)
            protocol["recipe"].pop(STEPS)
        for name in ("dataset", "validation"):
            if new[name] and isinstance(old.get(name), dict):
                old[name].setdefault(EXIF, new[name][EXIF])  # older states lack it
        old.setdefault("canvas", PADDED)
        _complete(old["recipe"])
        if differing := journal.format_differences(old, new):
            chosen = any(old.get(name) != new[name] for name in CHOSEN)
            before = "; or give the options of before, which resume it" if chosen else ""
            raise InputError(
                f"{self.training.out}: holds a training by another protocol ({differing}). Choose another --out"
                f"{self._describe_start(old, new)}{before}."
            )

    def _describe_start(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """Describe how a training of the `new` protocol starts from the model of the `old` one, if there is one that fits."""
        last = self.training.out / LAST
        if old["plan"] != new["plan"] or not (last / DESCRIPTION).exists():
            return ""
        whole = all(old[name] == new[name] for name in ("multi_grid", "head"))
        if whole and old["dataset"]["classes"] == new["dataset"]["classes"]:
            return f", where --init {last} starts from this one's model"
        return f", where --weights {last / WEIGHTS} starts from this one's backbone"


def _complete(recipe: dict[str, Any]) -> None:
    """Add the options that an older state lacks, which were off."""
    usual = json.loads(json.dumps(dataclasses.asdict(Recipe(steps=1))))
    del usual[STEPS]
    recipe["augmentation"] = usual.pop("augmentation") | recipe["augmentation"]
    for name, value in usual.items():
        recipe.setdefault(name, value)


def _read_legs(protocol: Mapping[str, Any], step: int) -> list[dict[str, int]]:
    """Return the legs in the protocol of a state that is at `step`; an older state, which lists none, has one."""
    steps = protocol["recipe"][STEPS]
    legs = [{FROM: int(leg[FROM]), STEPS: int(leg[STEPS])} for leg in protocol.get(LEGS, [{FROM: 0, STEPS: steps}])]
    starts = [leg[FROM] for leg in legs]
    if starts[0] != 0 or sorted(set(starts)) != starts or legs[-1][STEPS] != steps or not starts[-1] <= step <= steps:
        raise ValueError("legs that cannot be")
    return legs
