"""Detect predictions with another class numbering than the labels: labelIds scored as trainIds, or one-based classes.

Such predictions score near 0 however good they are, though no value is out of range; in the confusion matrix, their counts are
next to the diagonal if the predictions less 1 are right. The warning depends only on the counts and changes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segmentation.data.label_space import LabelSpace
from segmentation.data.label_tables import CITYSCAPES

EXPLAINED = 0.75  # least share of the disagreement: predictions are rarely all right in their own numbering either
SHIFTED_CLASSES = 2  # at least: a single confused class may be the system's error
EXAMPLES = 3
AS_IN_TRAINING = 'Read the labels as in training: see --label-map, and "mapping" and "reduce_zero_label" in dataset.json.'
EVERY_PIXEL = "Every pixel needs a class: only the ground truth has an ignore label."


@dataclass(frozen=True)
class _Numbering:
    """A way in which predictions may be numbered."""

    agrees: np.ndarray  # bool [label, prediction]: whether the two are the same class in this numbering
    renumbered: str  # the change that makes the predictions equal the labels
    looks: str  # the cause for a folder of predictions; a model has the classes that it was trained on
    remedy: str


def numbering_doubt(matrix: np.ndarray, space: LabelSpace, *, of_model: bool) -> str | None:
    """Say in which other numbering the predictions would be right, if there is one.

    Args:
        matrix: int64 ``[classes, classes]`` of the whole run; rows are the ground truth.
        of_model: whether a model has predicted; otherwise a folder contains the predictions.

    >>> space = LabelSpace.from_json({"classes": ["sky", "road", "car"]})
    >>> numbering_doubt(np.array([[0, 50, 0], [0, 1, 40], [0, 0, 0]]), space, of_model=False)
    'less 1, the predictions equal the labels on 98.9 % of the scored pixels (as they are: 1.1 %): they look one-based. ...'
    """
    truth, right = matrix.sum(axis=1), np.diag(matrix)
    total, own = truth.sum(), right.sum()
    for numbering in _numberings(matrix, space):
        agreeing = (matrix * numbering.agrees).sum(axis=1)
        shifted = (2 * agreeing > truth) & (2 * right < truth)
        if agreeing.sum() - own >= EXPLAINED * (total - own) and np.count_nonzero(shifted) >= SHIFTED_CLASSES:
            found, before = (f"{100 * pixels / total:.1f} %" for pixels in (agreeing.sum(), own))
            whose, looks, remedy = "the", numbering.looks, numbering.remedy
            if of_model:
                whose, looks, remedy = "the model's", "the labels are not numbered as its classes", AS_IN_TRAINING
            return (
                f"{numbering.renumbered}, {whose} predictions equal the labels on {found} of the scored pixels "
                f"(as they are: {before}): {looks}. {remedy}"
            )
    return None


def outside_cause(values: np.ndarray, space: LabelSpace) -> str:
    """Guess the cause of predictions outside the classes from all the values in a file."""
    present = set(np.unique(values).tolist())
    outside = {value for value in present if value >= space.num_classes}
    if present == {0, 255} and space.num_classes == 2:
        return "Is this a mask of 0 and 255? Save its classes as 0 and 1."
    if outside == {space.ignore_label}:
        return EVERY_PIXEL
    mapping = _file_mapping(space)
    if mapping and present - {space.ignore_label} <= mapping.keys():
        raw, classes, _ = _names(mapping)
        pairs = [(value, label) for value in sorted(present) if (label := mapping.get(value, -1)) in range(space.num_classes)]
        return f"Are these {raw}, not {classes}? {_conversion(pairs)}"
    if outside == {space.num_classes} and 0 not in present:
        return "The predictions look one-based: subtract 1 from each."
    return f"{EVERY_PIXEL} Are the classes one-based, or the values colors converted to gray?"


def _numberings(matrix: np.ndarray, space: LabelSpace) -> Iterator[_Numbering]:
    """Yield possible numberings, the most specific first."""
    size = space.num_classes
    if mapping := _file_mapping(space):
        raw, classes, mapped = _names(mapping)
        agrees = np.array([mapping.get(value, -1) for value in range(size)]) == np.arange(size)[:, None]
        looks, remedy = f"look like {raw}, not {classes}", _conversion(_pairs(agrees, matrix))
        if space.mapping is None:
            read = f"Read them with --label-map {raw}."
            yield _Numbering(agrees.T, f"with the labels {mapped}", f"the labels {looks}", read)
        else:
            remedy += f" Or, if the label files contain {classes} already, read them with --label-map trainIds."
        yield _Numbering(agrees, mapped, f"they {looks}", remedy)
    less, more = np.eye(size, k=1, dtype=bool), np.eye(size, k=-1, dtype=bool)
    yield _Numbering(less, "less 1", "they look one-based", "Subtract 1 from every prediction.")
    yield _Numbering(
        more,
        "plus 1",
        "the labels look one-based, or the predictions lack class 0",
        "Read one-based labels with --label-map reduce_zero_label, or add 1 to every prediction.",
    )
    numbers = np.arange(size)
    renamed = (matrix.argmax(axis=1)[:, None] == numbers) & (matrix.argmax(axis=0) == numbers[:, None])
    yield _Numbering(
        renamed,
        f"renumbered ({_format_pairs(_pairs(renamed, matrix))})",
        "their classes seem to be in another order",
        "Renumber the predictions, or reorder the classes in dataset.json.",
    )


def _file_mapping(space: LabelSpace) -> Mapping[int, int] | None:
    """Return the mapping from label files' values to labels: the space's own, or Cityscapes' labelIds for its classes."""
    return CITYSCAPES.mapping if space.mapping is None and space.names == CITYSCAPES.names else space.mapping


def _names(mapping: Mapping[int, int]) -> tuple[str, str, str]:
    """Return the names of the values before and after the mapping, and of the mapping."""
    if mapping == CITYSCAPES.mapping:
        return "labelIds", "trainIds", "mapped from labelIds to trainIds"
    return "raw values of the label files", "classes", "mapped as the label files are (by a label map or reduce_zero_label)"


def _pairs(agrees: np.ndarray, matrix: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs (prediction, class) that occur and differ."""
    return [(found, true) for found, true in np.argwhere((agrees & (matrix > 0)).T).tolist() if found != true]


def _conversion(pairs: Sequence[tuple[int, int]]) -> str:
    return f"Convert the predictions ({_format_pairs(pairs)}): --label-map maps the labels only."


def _format_pairs(pairs: Sequence[tuple[int, int]]) -> str:
    return ", ".join([f"{value} -> {label}" for value, label in pairs[:EXAMPLES]] + ["..."] * (len(pairs) > EXAMPLES))
