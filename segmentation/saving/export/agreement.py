"""Compare an export with the model it was made of, on photographs, here and in fresh processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dense_resnet.backbone import Backbone
from dense_resnet.errors import InputError
from dense_resnet.inference.canvas import placement, resize
from dense_resnet.inference.precision import BFLOAT16, FLOAT32, INT8
from dense_resnet.inference.runner import FEATURES, IMAGES, LABELS, SIZES, Runner
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import preprocess
from dense_resnet.verification.laws import TOLERANCE, relative_error
from segmentation.heads.plan import IMAGE, HeadPlan
from segmentation.model import SegmentationModel
from segmentation.saving.export.exported import REQUIRED, Exported, head_of, least_canvas, plan_of
from segmentation.saving.export.foreign_run import (
    ONEDNN,
    PROGRAMS,
    SAVED_MODEL,
    Arrays,
    ForeignRunError,
    run_in_fresh_process,
)

LARGEST_CANVAS = 513  # pixels: of the comparison, if an export takes any size
SMALL_CANVAS = 129  # pixels: of that in fresh processes, which only checks that the file runs the same there
WHITE = 255  # lies beyond an image whose size is given, so that reading it would be noticed


@dataclass(frozen=True)
class Tolerance:
    """What an export may differ from the exact model by."""

    feature_error: float  # max|a - b| / std(b)
    label_agreement: float  # share of pixels
    advice: str  # if it differs by more


UNTRAINED = "Untrained weights, whose classes nearly tie, may need --precision float32."
TOLERANCES = {  # float32: law 4 of builders; labels may flip only where two classes tie to that precision
    FLOAT32: Tolerance(TOLERANCE, 0.999, "Please report it, with the versions of what is installed."),
    # 8 bits: single cells were seen to be off by up to a quarter of std, 1 % of labels
    BFLOAT16: Tolerance(0.4, 0.95, UNTRAINED),
    INT8: Tolerance(0.4, 0.95, UNTRAINED),  # of what was written against what was quantized; the price is another matter
}


@dataclass(frozen=True)
class Agreement:
    """How an export compares with the exact model."""

    feature_error: float  # the largest of all images, max|a - b| / std(b)
    label_agreement: float | None  # share of all pixels; None of a backbone alone

    def within(self, tolerance: Tolerance) -> bool:
        agreement = 1.0 if self.label_agreement is None else self.label_agreement
        return self.feature_error <= tolerance.feature_error and agreement >= tolerance.label_agreement

    def __str__(self) -> str:
        text = f"features differ by at most {self.feature_error:.2g} of their std"
        if self.label_agreement is not None:
            text += f", labels agree on {self.label_agreement:.3%} of the pixels"
        return text


def compare(runner: Runner, network: Backbone | SegmentationModel, images: Sequence[np.ndarray]) -> Agreement:
    """Run both on each image: whole, cropped to odd sizes, landscape and portrait, alone and in pairs, with and without sizes.

    Args:
        runner: returns features, and labels if the network does.
        network: the exact one; other code than the runner's preprocesses, cuts and pads for it.
        images: uint8 RGB ``[height, width, 3]``. Canvases are the runner's own, else such as hold the image, at most 513.
    """
    plan, head, errors, equal, pixels = plan_of(network), head_of(network), [], 0, 0
    backbone = network.backbone if isinstance(network, SegmentationModel) else network
    ends_with_image = bool(head and head.canvas == IMAGE)  # whether each image's maps end where it does, on any canvas
    for canvases, sizes in comparison_cases(images, plan, runner.side, least_canvas(plan, head)):
        found = runner(canvases, sizes, _outputs_of(head))
        canvas = canvases.shape[1:3]
        for number, (height, width) in enumerate([canvas] * len(canvases) if sizes is None else sizes):
            image = preprocess(canvases[number, :height, :width], plan.preprocessing)
            needed = plan.aligned_size((height, width) if ends_with_image else canvas)
            exact = np.zeros((1, *needed, image.shape[2]), np.float32)
            exact[0, :height, :width] = image
            features = backbone(exact)
            rows, columns = features.shape[1:3]
            errors.append(relative_error(found[FEATURES][number, :rows, :columns], features[0]))
            if isinstance(network, SegmentationModel):
                logits = network(image[None] if ends_with_image else exact)
                labels = np.argmax(logits[0, :height, :width], axis=-1)
                equal += int((found[LABELS][number, :height, :width] == labels).sum())
                pixels += labels.size
    return Agreement(float(np.max(errors)), equal / pixels if pixels else None)


def _outputs_of(head: HeadPlan | None) -> list[str]:
    return [FEATURES, LABELS] if head else [FEATURES]


def check_alike(path: Path, runner: Runner, network: Backbone | SegmentationModel, images: Sequence[np.ndarray]) -> Agreement:
    """Return how a runner compares with the exact network; refuse it where it is not the same.

    Args:
        path: of the export, in messages.
    """
    found, most = compare(runner, network, images), TOLERANCES[runner.precision]
    if not found.within(most):
        raise InputError(
            f"{path}: not written, because the export is not the model: {found}. At most {most.feature_error:g} of their std "
            f"and at least {most.label_agreement:.1%} are right in {runner.precision}. {most.advice}"
        )
    return found


def check_elsewhere(written: Path, path: Path, opened: Exported, images: Sequence[np.ndarray]) -> None:
    """Check that the export `opened` gives the same outputs without this package and its settings, on one small canvas.

    Args:
        written: the file.
        path: its name in messages.
    """
    names, calls = _outputs_of(opened.head), _small_calls(opened, images)
    expected = [opened.network(call[IMAGES], call.get(SIZES), names) for call in calls]
    environments: list[dict[str, str]] = [{}]  # other runtimes heed none
    if opened.kind == SAVED_MODEL:
        environments = [{ONEDNN: "1"}] if opened.description["onednn"] else [{ONEDNN: "0"}, {}]
    for environment in environments:
        setting = " and ".join(f"{name}={value}" for name, value in environment.items()) or "no setting of ours"
        start = f"{path}: not written, because in a fresh process with {PROGRAMS[opened.kind]} alone and {setting} the export"
        try:
            found = run_in_fresh_process(opened.kind, written, calls, names, environment)
        except ForeignRunError as error:
            raise InputError(f"{start} does not run: {error}") from error
        _check_outputs(found, expected, opened, f"{start} gives other outputs than here")


def check_read_back(path: Path, opened: Exported, network: Runner, images: Sequence[np.ndarray]) -> None:
    """Check that the export `opened` gives what the quantized `network` gave before it was written, on one small canvas."""
    names, calls = _outputs_of(opened.head), _small_calls(opened, images)
    found, expected = ([runner(call[IMAGES], call.get(SIZES), names) for call in calls] for runner in (opened.network, network))
    _check_outputs(found, expected, opened, f"{path}: not written, because the export does not give what was quantized")


def _small_calls(opened: Exported, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    case = next(comparison_cases(images, opened.plan, opened.side, opened.least_canvas, SMALL_CANVAS))
    canvases, sizes = (np.asarray(values)[:1] for values in case)
    return [{IMAGES: canvases, SIZES: sizes}, {IMAGES: canvases}][: 2 - (opened.description["sizes"] == REQUIRED)]


def _check_outputs(found: Sequence[Arrays], expected: Sequence[Arrays], opened: Exported, start: str) -> None:
    agreement, tolerance = (
        Agreement(
            max(float(relative_error(a[FEATURES], b[FEATURES])) for a, b in zip(found, expected, strict=True)),
            min(float(np.mean(a[LABELS] == b[LABELS])) for a, b in zip(found, expected, strict=True)) if opened.head else None,
        ),
        TOLERANCES[opened.network.precision],
    )
    if not agreement.within(tolerance):
        raise InputError(f"{start}: {agreement}. {tolerance.advice}")


def comparison_cases(
    images: Sequence[np.ndarray], plan: Plan, side: int | None, least: int, largest: int = LARGEST_CANVAS
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield (canvases, sizes) as a runner takes them: of `side`, or of at most `largest`, but at least `least`."""
    for image in images:
        channels = np.arange(plan.in_channels) % image.shape[2]
        canvas = side or plan.aligned_size(max(least, min(max(image.shape[:2]), largest)))[0]
        whole = resize(np.ascontiguousarray(image[..., channels]), placement(image.shape[:2], canvas).size)
        lying = whole[: whole.shape[0] // 2 | 1, : whole.shape[1] * 2 // 3 | 1]
        upright = lying.swapaxes(0, 1)
        together = np.full((2, canvas, canvas, plan.in_channels), WHITE, np.uint8)
        sizes = np.array([part.shape[:2] for part in (whole, upright)], np.int32)
        for pixels, part, (height, width) in zip(together, (whole, upright), sizes, strict=True):
            pixels[:height, :width] = part
        yield together, sizes
        yield together[:1], None  # what is white belongs to the image
        if side is None:
            yield from ((part[None], None) for part in (whole, lying, upright) if min(part.shape[:2]) >= least)
