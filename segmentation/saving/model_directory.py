"""A model on disk: ``model.json`` describes it, ``weights.safetensors`` contains its weights, and a copy of the description.

If a kill falls between the two files, the weights still identify their network.

    {"format": 1, "plan": "resnet_v2_50", "root": "slim", "output_stride": 16, "multi_grid": null, "in_channels": 3,
     "head": {"type": "aspp", "separable": true, "image_pooling": null}, "canvas": "image",
     "classes": [{"name": "background", "color": [0, 0, 0]}, …], "ignore_label": 255,
     "preprocessing": "inception", "origin": null, "weights_sha256": "…", "training": {…}}

For `plan` see :func:`dense_resnet.planning.variants.plan_config`, for `canvas` :func:`segmentation.heads.plan.plan_head`;
`origin` is the provenance of the weights. A backbone without a head has ``"head": null`` and no classes, and one with an
ImageNet classifier ``"num_classes"``.
(``tests/segmentation/saving/test_model_directory.py``)
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from dense_resnet import checkpoints
from dense_resnet.checkpoints import provenance
from dense_resnet.checkpoints.containers import safetensors, tf_checkpoint
from dense_resnet.checkpoints.provenance import Origin
from dense_resnet.errors import InputError
from dense_resnet.image_io import file_types
from dense_resnet.inference import engines
from dense_resnet.inference.precision import AUTO
from dense_resnet.jobs import atomic_files, strict_json
from dense_resnet.planning import variants
from dense_resnet.planning.plan import Plan
from segmentation.data.label_space import LabelSpace
from segmentation.heads.plan import BATCH_NORM_DECAY as HEAD_DECAY
from segmentation.heads.plan import HeadPlan
from segmentation.saving import description
from segmentation.saving.description import COPY, DESCRIPTION, WEIGHTS, OpenedModel, Outline, explain_errors

if TYPE_CHECKING:
    from dense_resnet.backbone import Backbone
    from dense_resnet.inference.runner import Runner
    from segmentation.model import SegmentationModel


MOST_NAMED = 5  # of a folder's files, in a message


@dataclass(frozen=True)
class SavedModel(OpenedModel):
    """The content of a model directory."""

    head: HeadPlan
    space: LabelSpace
    model: SegmentationModel
    training: Mapping[str, Any]  # the protocol of its training

    def runner(self, precision: str = AUTO, engine: str = engines.AUTO) -> Runner:
        """Return the model as a runner on uint8 images: see :meth:`segmentation.model.SegmentationModel.runner`."""
        return self.model.runner(precision, engine=engine, preprocessing=self.preprocessing, weights_sha256=self.weights_sha256)


def save_model(
    folder: str | os.PathLike[str],
    model: SegmentationModel,
    space: LabelSpace,
    *,
    preprocessing: str | None = None,
    origin: Origin | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a model directory; each file replaces an older one in one step.

    Args:
        folder: created if it does not exist.
        space: the classes of its labels.
        preprocessing: what the weights expect of images; None is the plan's own.
        origin: where the weights come from, if they were converted.
        training: how it was trained, for the record.

    Raises:
        InputError: the plan has no root block, or the folder cannot be written to or is full.
    """
    described = description.description_of(model, space, preprocessing=preprocessing, origin=origin, training=training)
    _write(Path(folder), model.weights, described)


def save_backbone(folder: str | os.PathLike[str], backbone: Backbone, origin: Origin | None = None) -> None:
    """Write a model directory without a head, for `extract`, `check` and ``train --weights``; errors as :func:`save_model`.

    Args:
        folder: created if it does not exist.
        origin: where the weights come from; its preprocessing overrides the plan's.
    """
    described = description.description_of(backbone, preprocessing=origin.preprocessing if origin else None, origin=origin)
    _write(Path(folder), backbone.weights, described)


def is_model_directory(path: object) -> bool:
    """Return whether `path` is a folder with a ``model.json``."""
    return isinstance(path, str | os.PathLike) and (Path(path) / DESCRIPTION).is_file()


def _write(folder: Path, weights: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> None:
    described = {**described, "weights_sha256": checkpoints.fingerprint(weights)}
    atomic_files.probe_folder(folder, sum(value.nbytes for value in weights.values()))
    safetensors.write(folder / WEIGHTS, weights, {COPY: described, provenance.ENTRY: described["origin"]})
    atomic_files.write_bytes(folder / DESCRIPTION, (json.dumps(described, indent=1) + "\n").encode())


def load_model(
    folder: str | os.PathLike[str], output_stride: int | None = None, *, batch_norm_decays: tuple[float, float] | None = None
) -> SavedModel:
    """Read a model directory.

    Args:
        output_stride: None is the one that the model was trained at; the head's rates follow.
        batch_norm_decays: of the backbone's and the head's moving averages, if the model is trained further.

    Raises:
        InputError: a file is missing or damaged, the two do not belong together, or the output_stride is invalid.
    """
    from dense_resnet.backbone import Backbone
    from dense_resnet.resnet_utils import BATCH_NORM_DECAY
    from segmentation.model import SegmentationModel, check_weights

    folder = Path(folder)
    weights, described = _read(folder)
    with explain_errors(folder / DESCRIPTION):
        outline = description.outline_from(described, output_stride)
        head = description.check_head(outline)
        training = dict(described["training"])
    description.compare_with_copy(folder, described, outline.space)
    check_weights((*outline.plan.variables, *head.variables), weights, str(folder / WEIGHTS))
    backbone_decay, head_decay = batch_norm_decays or (BATCH_NORM_DECAY, HEAD_DECAY)
    backbone = Backbone(outline.plan, seed=0, batch_norm_decay=backbone_decay)
    model = SegmentationModel(backbone, **description.head_options(described), seed=0, batch_norm_decay=head_decay)
    model.assign(weights, str(folder / WEIGHTS))
    own = description.description_of(model, outline.space, preprocessing=described["preprocessing"], training=training)
    own["weights_sha256"] = described["weights_sha256"]
    return SavedModel(**vars(outline), path=folder, description=own, model=model, training=training)


def load_backbone(
    folder: str | os.PathLike[str], output_stride: int | None = None, *, multi_grid: Sequence[int] | None = None
) -> Backbone:
    """Read the backbone of a model directory, whether it has a head or not; errors as :func:`load_model`.

    Args:
        output_stride, multi_grid: None is the one that it was saved with.
    """
    from dense_resnet.backbone import Backbone
    from segmentation.model import check_weights

    folder = Path(folder)
    weights, described = _read(folder)
    with explain_errors(folder / DESCRIPTION):
        plan = description.plan_from(described, output_stride, multi_grid)
    description.compare_with_copy(folder, described)
    check_weights(plan.variables, weights, str(folder / WEIGHTS))
    backbone = Backbone(plan, seed=0)
    backbone.assign(weights, str(folder / WEIGHTS))
    return backbone


def read_plan(
    folder: str | os.PathLike[str], output_stride: int | None = None, *, multi_grid: Sequence[int] | None = None
) -> Plan:
    """Return the plan of :func:`load_backbone` from the description alone; errors as there."""
    folder = Path(folder)
    described = read_model_description(folder)
    with explain_errors(folder / DESCRIPTION):
        return description.plan_from(described, output_stride, multi_grid)


def read_outline(folder: str | os.PathLike[str], output_stride: int | None = None) -> Outline:
    """Return the outline of :func:`load_model` from the description alone; errors as there."""
    folder = Path(folder)
    described = read_model_description(folder)
    with explain_errors(folder / DESCRIPTION):
        return description.outline_from(described, output_stride)


def read_model_description(folder: Path) -> dict[str, Any]:
    """Read a model directory's description: ``model.json``, or the weights' copy if a kill fell between the two files.

    TensorFlow is not needed. Whether the weights' values belong to it is checked only when they are loaded.
    """
    check_model_directory(folder)
    copy = None
    with contextlib.suppress(SafetensorError, ValueError, OSError):  # loading reports what is wrong with it
        copy = safetensors.metadata(folder / WEIGHTS).get(COPY)
    path = folder / DESCRIPTION
    with explain_errors(path):
        described = dict(strict_json.loads(path.read_bytes())) if path.is_file() else {}
    if isinstance(copy, dict) and copy.get("weights_sha256") != described.get("weights_sha256"):
        return copy
    if not described:
        raise InputError(f"{folder}: has no {DESCRIPTION}, and {WEIGHTS} does not record its network either.")
    return described


def check_model_directory(path: str | os.PathLike[str]) -> None:
    """Raise an :class:`InputError` that says what `path` is, if it is not a model directory."""
    path = Path(path)
    if (path / DESCRIPTION).is_file() or (path / WEIGHTS).is_file():
        return
    written = "`train` and `convert --to model-dir` write model directories"
    if path.name in (DESCRIPTION, WEIGHTS) and path.is_file():
        raise InputError(f"{path}: this is one file of a model directory. Pass the folder, {path.parent}.")
    if path.exists() or path.with_name(f"{path.name}{tf_checkpoint.INDEX}").exists():
        raise InputError(f"{path}: this is {_kind_of(path)}, not a model directory. {written}.")
    if str(path) in variants.VARIANTS:
        raise InputError(f"{path}: this is the name of a variant, which has no weights; a model is expected. {written}.")
    raise InputError(f"{path}: no such folder. A model directory is expected: {written}.")


def _kind_of(path: Path) -> str:
    """Say what `path` is instead of a model directory."""
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir())
        if "saved_model.pb" in inside:
            return "a SavedModel"
        if models := [name for name in inside if is_model_directory(path / name)]:
            return f"a folder that contains model directories ({', '.join(models[:MOST_NAMED])})"
        if tf_checkpoint.STATE in inside or any(name.endswith(tf_checkpoint.INDEX) for name in inside):
            return "a folder of TensorFlow checkpoints"
        return f"a folder of other files ({', '.join(inside[:MOST_NAMED])})" if inside else "an empty folder"
    kind = None
    with contextlib.suppress(OSError), path.open("rb") as file:
        kind = file_types.describe(file.read(file_types.LENGTH))
    holds_weights = ".ckpt" in path.name or path.suffix in checkpoints.SUFFIXES or not path.exists()
    return kind or ("a file of weights" if holds_weights else "a file")


def _read(folder: Path) -> tuple[checkpoints.Weights, dict[str, Any]]:
    """Read the weights, and the description that belongs to them."""
    check_model_directory(folder)
    weights = safetensors.read(folder / WEIGHTS)
    return weights, description.read_matching_description(folder, checkpoints.fingerprint(weights))
