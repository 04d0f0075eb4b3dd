"""Where weights come from, and what follows from it: the preprocessing of images, and the classes.

Arrays do not record it, and a network silently accepts wrongly scaled images: so safetensors files and load reports do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_resnet.errors import pluralize
from dense_resnet.planning import variants
from dense_resnet.planning.plan import Plan

OWN, SLIM, DEEPLAB = "dense_resnet", "TF-Slim", "DeepLab"
KERAS, TORCH, CAFFE = "Keras Applications", "torchvision / timm", "Caffe / Detectron"

ENTRY = "origin"  # in the description of a safetensors file
LABEL_ORDERS = {  # of published ImageNet classifiers, by their number of classes
    1000: "ILSVRC 2012, in the order of the WordNet ids",
    1001: "0 is the background, then ILSVRC 2012 in the order of the WordNet ids",
}
UNTOUCHED = 1e-4  # largest distance from 0 and 1 of statistics that no image has changed; Detectron's variances are 1 - epsilon
CAFFE_SCHEME = "caffe"
ORIGINAL = "resnet_v1_{}_original"  # the family with Caffe's strides


@dataclass(frozen=True)
class Origin:
    """What is known of where weights come from."""

    framework: str
    variant: str | None = None  # whose every variable is present; None if no variant fits
    preprocessing: str | None = None  # the scheme of dense_resnet.preprocess that they were trained with
    root: str | None = None  # the root block that they were trained with, if it is not the variant's own
    class_count: int | None = None  # of their ImageNet classifier
    label_order: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what :func:`from_json` reads."""
        return dataclasses.asdict(self)

    def notes(self, plan: Plan | None = None) -> tuple[str, ...]:
        """Return what a user of these weights has to know, one sentence each; `plan`: of the network that takes them."""
        notes = []
        if self.preprocessing:
            notes.append(f"Weights of {self.framework}: they expect dr.preprocess(images, {self.preprocessing!r}).")
            if plan and self.preprocessing != plan.preprocessing:
                own = f"this plan's own scheme is {plan.preprocessing!r}"
                notes.append(f"WARNING: {own}; these weights expect a different preprocessing scheme.")
        if self.root and plan and plan.root_name and self.root != plan.root_name:
            notes.append(f"They were trained with root={self.root!r}; with {plan.root_name!r} features near the border differ.")
        if self.class_count:
            order = f": {self.label_order}" if self.label_order else ""
            notes.append(f"Their classifier has {pluralize(self.class_count, 'class')}{order}.")
        return tuple(notes)


def origin_of(framework: str, weights: Mapping[str, np.ndarray]) -> Origin:
    """Identify the origin by names and shapes of canonical `weights`, given the framework that wrote them."""
    fitting = find_fitting_variants(weights)
    if not fitting:
        return Origin(framework)
    variant = variants.VARIANTS[fitting[0]]
    preprocessing = variant.family.preprocessing
    if framework == TORCH and has_untouched_statistics(weights):  # PyTorch updates them in any training
        framework, preprocessing = CAFFE, CAFFE_SCHEME
    logits = weights.get(f"{variant.scope}/logits/biases")
    class_count = logits.shape[0] if logits is not None and logits.ndim == 1 else None
    return Origin(
        framework=DEEPLAB if framework == SLIM and "logits/semantic/weights" in weights else framework,
        variant=variant.name,
        preprocessing=preprocessing,
        root="keras" if framework == KERAS and variant.family.preactivation else None,
        class_count=class_count,
        label_order=LABEL_ORDERS.get(class_count) if class_count else None,
    )


def has_untouched_statistics(weights: Mapping[str, np.ndarray], known: Origin | None = None) -> bool:
    """Return whether all moving means are 0 and all variances 1, although the offsets, which start at 0, were trained.

    This is so in weights of Caffe and Detectron, which fold the statistics into scales and offsets, and if training never
    updated them. If the variant is known, the statistics of heads are ignored.
    """
    within = f"{variants.VARIANTS[known.variant].scope}/" if known and known.variant in variants.VARIANTS else ""

    def differs(leaf: str, initial: float) -> list[bool]:
        found = (value for name, value in weights.items() if name.startswith(within) and name.endswith(f"/{leaf}"))
        return [not np.all(np.abs(value - initial) <= UNTOUCHED) for value in found]

    statistics = differs("moving_mean", 0), differs("moving_variance", 1)
    return all(found and not any(found) for found in statistics) and any(differs("beta", 0))


def caffe_variant(known: Origin) -> str | None:
    """Return the variant with the variables of `known.variant` and Caffe's strides, if there is one."""

    def variables(name: str) -> set[tuple[str, tuple[int, ...]]]:
        plan = variants.plan(name)
        return {(variable.name.removeprefix(plan.scope), variable.shape) for variable in plan.variables}

    if known.variant not in variants.VARIANTS:
        return None
    own = variables(known.variant)
    originals = (name for name, variant in variants.VARIANTS.items() if variant.family.name == ORIGINAL)
    return next((name for name in originals if variables(name) == own), None)


def doubts(weights: Mapping[str, np.ndarray], known: Origin) -> tuple[str, ...]:
    """Return doubts about what is `known` of the weights, from batch norm's statistics, one sentence each."""
    if not has_untouched_statistics(weights, known):
        return ()
    original = caffe_variant(known)
    if known.framework == CAFFE and known.variant == original:
        return ()
    strides = f" and a stride in each block's first 1x1 convolution, as in {original}, which also takes them"
    caffe = f"dr.preprocess(images, {CAFFE_SCHEME!r}) (BGR, 0..255 minus means){strides if original else ''}"
    found = "WARNING: all moving means are 0 and all variances 1"
    if known.framework == CAFFE:
        return (f"{found}, as in weights of Caffe and Detectron: they need {caffe}.",)
    return (
        f"{found}. Either the weights are of Caffe or Detectron and need {caffe}; "
        "or training did not run the updates of the moving averages (UPDATE_OPS), and features in inference are wrong.",
    )


def from_json(value: object) -> Origin | None:
    """Read what :meth:`Origin.as_json` wrote; return None for anything else, which files of other programs may contain."""
    keys = {field.name for field in dataclasses.fields(Origin)}
    if not isinstance(value, dict) or set(value) != keys or not isinstance(value["framework"], str):
        return None
    texts = (value[key] for key in ("variant", "preprocessing", "root", "label_order"))
    if not all(text is None or isinstance(text, str) for text in texts) or not isinstance(value["class_count"], int | None):
        return None
    return Origin(**value)


def find_fitting_variants(weights: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Find the variants whose every variable, except the classifier's, is in `weights` with its name and shape."""
    shapes = {name: value.shape for name, value in weights.items()}
    plans = ((name, variants.plan(name)) for name in variants.VARIANTS)
    return tuple(name for name, plan in plans if all(shapes.get(own.name) == own.shape for own in plan.variables))
