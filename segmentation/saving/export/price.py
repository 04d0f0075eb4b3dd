"""What int8 costs: measured on images of the user's, before an export is kept.

On a dataset, mean IoU of float32 and int8 on the same images, and the interval of the difference, as `compare` has it. On any
images the share of equal labels, and how far features are off. (``tests/segmentation/saving/test_quantized.py``)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, pluralize
from dense_resnet.inference.runner import FEATURES, IMAGES, LABELS, SIZES, Runner
from segmentation import metrics
from segmentation.heads.plan import HeadPlan
from segmentation.metrics import intervals
from segmentation.metrics.confusion import image_counts
from segmentation.prediction.options import Inference
from segmentation.prediction.predictor import Predictor
from segmentation.saving.export.calibration import Calibration, Calls, Canvases

MAX_DROP = 0.01  # of mean IoU
FEW = 16  # images, whose features and labels are compared
# A wrong graph is off by all of its features' std, and int8 by 3 to 12 % of it in networks of 50 and 152 layers.
MOST_ERROR, LEAST_AGREEMENT = 0.5, 0.9


@dataclass(frozen=True)
class MeanIoU:
    """Mean IoU of both on the same images."""

    float32: float
    int8: float
    drop: float  # float32 less int8
    interval: tuple[float, float] | None  # of the drop, 95 %; None of few images: see metrics.intervals

    def __str__(self) -> str:
        interval = f", 95 %: {self.interval[0]:+.4f} to {self.interval[1]:+.4f}" if self.interval else ""
        return f"mean IoU {self.float32:.4f} in float32, {self.int8:.4f} in int8 (falls by {self.drop:+.4f}{interval})"


@dataclass(frozen=True)
class Price:
    """What int8 costs."""

    images: int
    source: str  # of the images
    held_out: bool  # whether the ranges are from other images
    feature_error: float  # rms(int8 - float32) / std(float32)
    label_agreement: float | None  # share of the pixels; None of a backbone alone
    mean_iou: MeanIoU | None = None  # of a dataset

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Price:
        return cls(**{**value, "mean_iou": MeanIoU(**value["mean_iou"]) if value["mean_iou"] else None})

    def __str__(self) -> str:
        parts = [str(self.mean_iou)] if self.mean_iou else []
        parts += [f"labels agree on {self.label_agreement:.3%} of the pixels"] if self.label_agreement is not None else []
        parts.append(f"features differ by {self.feature_error:.2g} of their std (rms)")
        own = "" if self.held_out else ", which the ranges are from too"
        return f"{'; '.join(parts)}; on {pluralize(self.images, 'image')} of {self.source}{own}"

    def excess(self, max_drop: float) -> str:
        """Say what is too high a price; "" if nothing is."""
        if self.mean_iou and not self.mean_iou.drop <= max_drop:
            return f"mean IoU falls by {self.mean_iou.drop:.4f}, and --max-drop is {max_drop:g}"
        if not self.feature_error <= MOST_ERROR:
            return f"features differ by {self.feature_error:.2g} of their std (rms), and at most {MOST_ERROR:g} is kept"
        if self.label_agreement is not None and not self.label_agreement >= LEAST_AGREEMENT:
            return f"labels agree on {self.label_agreement:.1%} of the pixels, and at least {LEAST_AGREEMENT:.0%} is kept"
        return ""


class Trial:
    """A trial of quantized networks against the same one in float32.

    Args:
        float32: the network.
        head: of a segmentation model.
        calibration: whose trials are run.
        canvases: for its images.
    """

    def __init__(self, float32: Runner, head: HeadPlan | None, calibration: Calibration, canvases: Canvases) -> None:
        self._float32, self._head, self._calibration, self._canvases = float32, head, calibration, canvases
        few = calibration.trials[:: math.ceil(len(calibration.trials) / FEW)]
        self._calls = Calls(few, float32.plan, canvases)
        self._sums: np.ndarray | None = None  # of float32

    def measure(self, int8: Runner) -> Price:
        own, plan, errors, equal, pixels = self._calibration, self._float32.plan, [], 0, 0
        names = [FEATURES, LABELS] if self._head else [FEATURES]
        for call in self._calls:
            one, other = (runner(call[IMAGES], call[SIZES], names) for runner in (int8, self._float32))
            height, width = map(int, call[SIZES][0])
            rows, columns = plan.feature_size(plan.aligned_size((height, width)))  # cells beyond mean nothing
            features, exact = (found[FEATURES][0, :rows, :columns] for found in (one, other))
            errors.append(float(np.sqrt(np.mean((features - exact) ** 2)) / max(np.std(exact), np.finfo(np.float32).tiny)))
            if self._head:
                alike = (one[LABELS] == other[LABELS])[0, :height, :width]
                equal, pixels = equal + int(alike.sum()), pixels + alike.size
        return Price(
            images=len(own.trials),
            source=own.trials_source,
            held_out=own.held_out,
            feature_error=float(np.mean(errors)),
            label_agreement=equal / pixels if pixels else None,
            mean_iou=self._mean_iou(int8),
        )

    def _mean_iou(self, int8: Runner) -> MeanIoU | None:
        if self._calibration.space is None or self._head is None:
            return None
        if self._sums is None:
            self._sums = self._score(self._float32, self._head, self._calibration)
        sums = self._score(int8, self._head, self._calibration)
        float32, quantized = (intervals.bootstrap_mean_iou(own, 1).mean.value for own in (self._sums, sums))
        found = intervals.paired_bootstrap(self._sums, sums).mean
        if math.isnan(found.value):
            raise InputError(
                f"{self._calibration.trials_source}: no labeled pixel in {len(sums)} images, so int8 has no price."
            )
        return MeanIoU(float32, quantized, found.value, None if math.isnan(found.low) else (found.low, found.high))

    def _score(self, runner: Runner, head: HeadPlan, calibration: Calibration) -> np.ndarray:
        """Return the class sums of each image, as `evaluate` has them; larger images than an only canvas come in tiles."""
        space = calibration.space
        assert space is not None
        predictor, sums = Predictor(runner, head, Inference(size=self._canvases.least, tile=runner.side)), []
        for sample in calibration.trials:
            label, predicted = sample.read_label(space), predictor(sample.read_image()).labels
            if label.shape != predicted.shape:
                raise InputError(f"{sample.label}: the label is not of the size of {sample.image}.")
            sums.append(
                metrics.class_sums(image_counts(label, predicted.astype(label.dtype), space.num_classes, space.ignore_label))
            )
        return np.stack(sums)
