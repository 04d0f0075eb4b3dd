"""Where weights come from, and what comes with them: how images are to be preprocessed, and what the classes are.

None of it stands in the arrays, and a network runs without a word on images of another scale. So it is bound to the source,
shown in the load report, kept in what :func:`dense_resnet.checkpoints.safetensors.write` describes a file with, and written
into model directories. (``tests/test_sources.py``)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_resnet import variants
from dense_resnet.plan import Plan

OWN, SLIM, DEEPLAB = "dense_resnet", "TF-Slim", "DeepLab"
KERAS, TORCH = "Keras Applications", "torchvision / timm"

ENTRY = "origin"  # in the description of a safetensors file
LABEL_ORDERS = {  # of published ImageNet classifiers, by their number of classes
    1000: "ILSVRC 2012, in the order of the WordNet ids",
    1001: "0 is the background, then ILSVRC 2012 in the order of the WordNet ids",
}


@dataclass(frozen=True)
class Origin:
    """What is known of a set of weights."""

    framework: str
    variant: str | None = None  # whose every variable is there; None where no variant fits
    preprocessing: str | None = None  # the scheme of dense_resnet.preprocess that they were trained with
    root: str | None = None  # the root block that they were trained with, where it is not the variant's own
    class_count: int | None = None  # of their ImageNet classifier
    label_order: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What :func:`from_json` reads."""
        return dataclasses.asdict(self)

    def notes(self, plan: Plan | None = None) -> tuple[str, ...]:
        """What a user of these weights has to know, a sentence each; `plan` is of the network that takes them, if known."""
        notes = []
        if self.preprocessing:
            notes.append(f"Weights of {self.framework}: they expect dr.preprocess(images, {self.preprocessing!r}).")
            if plan and self.preprocessing != plan.preprocessing:
                notes.append(
                    f"WARNING: this plan's own scheme is {plan.preprocessing!r}; "
                    "with it these weights would see images of another scale."
                )
        if self.root and plan and plan.root_name and self.root != plan.root_name:
            notes.append(f"They were trained with root={self.root!r}; with {plan.root_name!r} features near the border differ.")
        if self.class_count:
            order = f": {self.label_order}" if self.label_order else ""
            notes.append(f"Their classifier has {self.class_count} classes{order}.")
        return tuple(notes)


def origin_of(framework: str, weights: Mapping[str, np.ndarray]) -> Origin:
    """What names and shapes of canonical `weights` tell, given the framework that they were written by.

    >>> origin_of(SLIM, {}).variant is None
    True
    """
    fitting = fitting_variants(weights)
    if not fitting:
        return Origin(framework)
    variant = variants.VARIANTS[fitting[0]]
    logits = weights.get(f"{variant.scope}/logits/biases")
    class_count = logits.shape[0] if logits is not None and logits.ndim == 1 else None
    return Origin(
        framework=DEEPLAB if framework == SLIM and "logits/semantic/weights" in weights else framework,
        variant=variant.name,
        preprocessing=variant.family.preprocessing,
        root="keras" if framework == KERAS and variant.family.preactivation else None,
        class_count=class_count,
        label_order=LABEL_ORDERS.get(class_count) if class_count else None,
    )


def from_json(value: object) -> Origin | None:
    """What :meth:`Origin.as_json` wrote; None for anything else, since files of others may have whatever they like."""
    keys = {field.name for field in dataclasses.fields(Origin)}
    if not isinstance(value, dict) or set(value) != keys or not isinstance(value["framework"], str):
        return None
    texts = (value[key] for key in ("variant", "preprocessing", "root", "label_order"))
    if not all(text is None or isinstance(text, str) for text in texts) or not isinstance(value["class_count"], int | None):
        return None
    return Origin(**value)


def fitting_variants(weights: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The variants whose every variable, the classifier aside, is in `weights` under its name and with its shape."""
    shapes = {name: value.shape for name, value in weights.items()}
    return tuple(
        name
        for name in variants.VARIANTS
        if all(shapes.get(variable.name) == variable.shape for variable in variants.plan(name).variables)
    )
