"""Say what a reader of a training should know: before its first step, and of the figures of a validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dense_resnet.errors import pluralize
from dense_resnet.planning import geometry
from dense_resnet.planning.plan import Plan
from segmentation.heads.plan import HeadPlan
from segmentation.training.recipe import SMALLEST_BATCH
from segmentation.training.state import FROM, STEPS

if TYPE_CHECKING:
    from segmentation.training.loop import Training

COLLAPSED = 0.99  # share of the predicted pixels in one class
FAR_APART = 0.3  # half the sum of differences between two label histograms


def describe_start(training: Training, legs: Sequence[Mapping[str, int]]) -> Iterator[str]:
    """Give what a reader should know before the first step of the last of the `legs`."""
    recipe, model = training.recipe, training.model
    if start := legs[-1][FROM]:
        yield (
            f"more steps, {recipe.steps} instead of {legs[-2][STEPS]}: from here on the learning rate follows the schedule of "
            f"{recipe.steps} steps, {recipe.rate(start):.3g} at step {start}, and so does batch norm's decay; model.json "
            "lists the legs"
        )
    if training.freeze_image_pooling:
        images = recipe.batch // training.strategy.num_replicas_in_sync
        yield (
            f"image pooling: its batch norm uses its moving averages in training too: with {pluralize(images, 'image')} "
            f"a device it has {pluralize(images, 'value')} a channel, too few for a variance (from {SMALLEST_BATCH} on "
            "it uses the batch's)"
        )
    if line := describe_unreached_rates(model.backbone.plan, model.head, recipe.augmentation.crop):
        yield line


def describe_unreached_rates(plan: Plan, head: HeadPlan, crop: tuple[int, int]) -> str | None:
    """Say which atrous branches a crop is too small for: their outer taps touch no cell of an image; None where all touch.

    >>> from dense_resnet.planning import variants
    >>> from segmentation.heads.plan import plan_head
    >>> plan = variants.plan("resnet_v1_18", 16)
    >>> print(describe_unreached_rates(plan, plan_head(plan, 2), (129, 129)).partition(":")[0])
    crop 129 is 9x9 cells at output_stride 16
    >>> describe_unreached_rates(plan, plan_head(plan, 2), (289, 289))
    """
    cells = plan.feature_size(crop)
    rates = sorted({layer.rate for branch in head.branches for layer in branch if layer.kernel > 1})
    beyond = [str(rate) for rate in rates if rate >= min(cells)]
    if not beyond:
        return None
    fitting = geometry.aligned_size(rates[-1] * plan.output_stride + 1, plan.nominal_stride)
    sides = "x".join(str(side) for side in dict.fromkeys(crop))
    named = f"rate {beyond[0]}" if len(beyond) == 1 else f"rates {', '.join(beyond[:-1])} and {beyond[-1]}"
    return (
        f"crop {sides} is {cells[0]}x{cells[1]} cells at output_stride {plan.output_stride}: the outer taps of ASPP's {named} "
        f"never touch an image there, and stay untrained. --crop {fitting} trains them, at any output_stride; for images that "
        "are smaller, --head fcn has no such taps"
    )


def find_doubts(names: Sequence[str], counts: np.ndarray, labeled_pixels: np.ndarray) -> Iterator[tuple[str, str]]:
    """Give what looks wrong in a validation's `counts`, as (kind, warning); `labeled_pixels` are the training split's."""
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    top = int(predicted.argmax())
    if predicted[top] > COLLAPSED * predicted.sum() > 0 and truth[top] <= COLLAPSED * truth.sum():
        yield (
            "collapsed",
            f"over {COLLAPSED:.0%} of the predictions are {names[top]!r}: the model predicts a single class. This is normal "
            "early on; if it persists: a lower --lr, --class-weights balanced, or weights to start from.",
        )
    elif missing := [name for name, own, found in zip(names, truth, predicted, strict=True) if own and not found]:
        yield (
            "never",
            f"never predicted, though the labels have them: {', '.join(missing)}. --class-weights balanced may help.",
        )
    if labeled_pixels.sum() and truth.sum():
        trained, validated = labeled_pixels / labeled_pixels.sum(), truth / truth.sum()
        apart = np.abs(trained - validated)
        if apart.sum() / 2 > FAR_APART:
            far = int(apart.argmax())
            yield (
                "far",
                f"the classes' shares of the training labels are far from those of the validation labels ({names[far]!r}: "
                f"{trained[far]:.1%} and {validated[far]:.1%}). Do the two splits have the same label map?",
            )
