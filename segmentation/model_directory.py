"""A model on disk: ``model.json`` says what it is, ``weights.safetensors`` holds its weights.

Training writes it and every other tool reads it, so nobody passes the architecture twice. The weights file carries a copy
of the description: where a kill fell between the two files, the weights still say what they are.

    {"format": 1, "plan": "resnet_v2_50", "root": "slim", "output_stride": 16, "multi_grid": null, "in_channels": 3,
     "head": {"type": "aspp", "separable": true, "image_pooling": null}, "canvas": "image",
     "classes": [{"name": "background", "color": [0, 0, 0]}, …], "ignore_label": 255,
     "preprocessing": "inception", "origin": null, "weights_sha256": "…", "training": {…}}

`plan` is a variant's name, or ``{"scope", "kind", "blocks": [[name, [unit, …]], …]}`` for blocks of one's own, units as
slim dicts. `canvas` is what the head takes for the whole map, see :mod:`segmentation.heads`. A backbone alone has
``"head": null`` and no classes, and one with an ImageNet classifier ``"num_classes"``; `origin` is what is known of where
weights come from, see :mod:`dense_resnet.checkpoints.origin`. Exported files carry the same description
(:func:`description_of`). (``tests/test_model_directory.py``)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from dense_resnet import checkpoints, files, journal, kinds, strict_json, variants
from dense_resnet.checkpoints import safetensors
from dense_resnet.checkpoints.origin import Origin
from dense_resnet.errors import InputError, counted
from dense_resnet.plan import Plan
from dense_resnet.precision import AUTO
from dense_resnet.preprocessing import SCHEMES
from segmentation import heads
from segmentation.labels import LabelSpace

if TYPE_CHECKING:
    from dense_resnet.backbone import Backbone
    from dense_resnet.runner import Runner
    from segmentation.model import SegmentationModel

FORMAT = 1
DESCRIPTION, WEIGHTS = "model.json", checkpoints.MODEL_WEIGHTS
COPY = "model"  # the description's key in the weights' metadata
MOST_NAMED = 5  # of a folder's files, in a message
EDITABLE = ("classes", "ignore_label", "origin", "training")  # what of the description people may change


@dataclass(frozen=True)
class Outline:
    """What is known of a network without its weights."""

    plan: Plan  # the backbone's
    head: heads.HeadPlan | None = None  # of a segmentation model
    space: LabelSpace | None = None  # its classes
    side: int | None = None  # of the only canvas that it takes, where it was exported for one
    validation_size: int | None = None  # side of the canvas that it was validated on, where it was

    @property
    def size(self) -> int | None:
        """Side of the canvas that images are run on where no other is asked for."""
        return self.side or self.validation_size


@dataclass(frozen=True)
class SavedModel:
    """What a model directory holds."""

    model: SegmentationModel
    space: LabelSpace
    preprocessing: str  # a scheme of dense_resnet.preprocess
    training: Mapping[str, Any]  # the protocol that it was trained by
    weights_sha256: str
    path: Path

    @property
    def plan(self) -> Plan:
        """The backbone's."""
        return self.model.backbone.plan

    @property
    def head(self) -> heads.HeadPlan:
        """The model's."""
        return self.model.head

    def runner(self, precision: str = AUTO) -> Runner:
        """The model for images as they are decoded: see :meth:`segmentation.model.SegmentationModel.runner`."""
        return self.model.runner(precision, preprocessing=self.preprocessing, weights_sha256=self.weights_sha256)

    @property
    def size(self) -> int | None:
        """Side of the canvas that it was validated on, where it was."""
        return validation_size(self.training)

    @property
    def described(self) -> dict[str, Any]:
        """All that its answers depend on, for protocols."""
        description = description_of(self.model, self.space, preprocessing=self.preprocessing)
        return answers({**description, "weights_sha256": self.weights_sha256})


def save_model(
    folder: str | os.PathLike[str],
    model: SegmentationModel,
    space: LabelSpace,
    *,
    preprocessing: str | None = None,
    origin: Origin | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model directory; each file replaces an older one in one step.

    Args:
        folder: made where it does not exist.
        model: its plan, head and weights.
        space: the classes of its labels.
        preprocessing: what the weights expect of images; None is the plan's own.
        origin: where the weights come from, where they were converted.
        training: how it was trained, for the record.

    Raises:
        InputError: the plan has no root block, or the folder cannot be written to or is full.
    """
    described = description_of(model, space, preprocessing=preprocessing, origin=origin, training=training)
    _write(Path(folder), model.weights, described)


def save_backbone(folder: str | os.PathLike[str], backbone: Backbone, origin: Origin | None = None) -> None:
    """Writes a model directory without a head: what `extract`, `check` and ``train --weights`` take.

    Args:
        folder: made where it does not exist.
        backbone: its plan, with an ImageNet classifier or without, and weights.
        origin: where the weights come from; what it says of preprocessing outweighs the plan.

    Raises:
        InputError: as :func:`save_model`.
    """
    described = description_of(backbone, preprocessing=origin and origin.preprocessing, origin=origin)
    _write(Path(folder), backbone.weights, described)


def is_model_directory(path: object) -> bool:
    """Whether `path` is that of a folder with a ``model.json``."""
    return isinstance(path, str | os.PathLike) and (Path(path) / DESCRIPTION).is_file()


def _write(folder: Path, weights: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> None:
    described = {**described, "weights_sha256": checkpoints.fingerprint(weights)}
    files.probe_folder(folder, sum(value.nbytes for value in weights.values()))
    safetensors.write(folder / WEIGHTS, weights, {COPY: described, checkpoints.origin.ENTRY: described["origin"]})
    files.write_bytes(folder / DESCRIPTION, (json.dumps(described, indent=1) + "\n").encode())


def load_model(
    folder: str | os.PathLike[str], output_stride: int | None = None, *, batch_norm_decays: tuple[float, float] | None = None
) -> SavedModel:
    """Reads a model directory.

    Args:
        folder: with ``model.json`` and ``weights.safetensors``.
        output_stride: another one than the model was trained at; the head's rates follow.
        batch_norm_decays: of the backbone's and the head's moving averages, where the model is to be trained on.

    Raises:
        InputError: a file is missing or damaged, the two do not belong together, or the output_stride cannot be.
    """
    from dense_resnet.backbone import Backbone
    from dense_resnet.resnet_utils import BATCH_NORM_DECAY
    from segmentation.model import SegmentationModel, check_weights

    folder = Path(folder)
    weights, sha256, described = _read(folder)
    backbone_decay, head_decay = batch_norm_decays or (BATCH_NORM_DECAY, heads.BATCH_NORM_DECAY)
    with explained(folder / DESCRIPTION):
        outline = outline_from(described, output_stride)
        check_head(outline)
        training = dict(described["training"])
    _compare_with_copy(folder, described, outline.space)
    check_weights((*outline.plan.variables, *outline.head.variables), weights, str(folder / WEIGHTS))
    backbone = Backbone(outline.plan, seed=0, batch_norm_decay=backbone_decay)
    model = SegmentationModel(backbone, **head_options(described), seed=0, batch_norm_decay=head_decay)
    model.assign(weights, str(folder / WEIGHTS))
    return SavedModel(model, outline.space, described["preprocessing"], training, sha256, folder)


def load_backbone(
    folder: str | os.PathLike[str], output_stride: int | None = None, *, multi_grid: Sequence[int] | None = None
) -> Backbone:
    """The backbone of a model directory, whether it has a head or not.

    Args:
        folder: with ``model.json`` and ``weights.safetensors``.
        output_stride, multi_grid: other ones than it was saved with.

    Raises:
        InputError: as :func:`load_model`.
    """
    from dense_resnet.backbone import Backbone
    from segmentation.model import check_weights

    folder = Path(folder)
    weights, _, described = _read(folder)
    with explained(folder / DESCRIPTION):
        plan = plan_from(described, output_stride, multi_grid)
    _compare_with_copy(folder, described)
    check_weights(plan.variables, weights, str(folder / WEIGHTS))
    backbone = Backbone(plan, seed=0)
    backbone.assign(weights, str(folder / WEIGHTS))
    return backbone


def saved_plan(
    folder: str | os.PathLike[str], output_stride: int | None = None, *, multi_grid: Sequence[int] | None = None
) -> Plan:
    """The plan of :func:`load_backbone`, from :func:`read_description` alone.

    Raises:
        InputError: the description is missing or damaged, or the output_stride cannot be.
    """
    folder = Path(folder)
    described = read_description(folder)
    with explained(folder / DESCRIPTION):
        return plan_from(described, output_stride, multi_grid)


def saved_outline(folder: str | os.PathLike[str], output_stride: int | None = None) -> Outline:
    """The outline of :func:`load_model`, from :func:`read_description` alone.

    Raises:
        InputError: the description is missing or damaged, or the output_stride cannot be.
    """
    folder = Path(folder)
    described = read_description(folder)
    with explained(folder / DESCRIPTION):
        return outline_from(described, output_stride)


def read_description(folder: Path) -> dict[str, Any]:
    """What a model directory says of itself: ``model.json``, or the weights' copy where a kill fell between the two files.

    TensorFlow is not needed for it. Whether the weights' values belong to it is not looked at: loading does that.

    Raises:
        InputError: it is not a model directory, or what it says is damaged.
    """
    check_model_directory(folder)
    copy = None
    with contextlib.suppress(SafetensorError, ValueError, OSError):  # loading says what is wrong with it
        copy = safetensors.metadata(folder / WEIGHTS).get(COPY)
    path = folder / DESCRIPTION
    with explained(path):
        described = dict(strict_json.loads(path.read_bytes())) if path.is_file() else {}
    if isinstance(copy, dict) and copy.get("weights_sha256") != described.get("weights_sha256"):
        return copy
    if not described:
        raise InputError(f"{folder}: has no {DESCRIPTION}, and {WEIGHTS} does not say either which network it is of.")
    return described


def check_model_directory(path: str | os.PathLike[str]) -> None:
    """Refuses what is not a model directory, and says what it is.

    Raises:
        InputError: nothing is at `path`, or something else.
    """
    path = Path(path)
    if (path / DESCRIPTION).is_file() or (path / WEIGHTS).is_file():
        return
    written = "`train` and `convert --to model-dir` write model directories"
    if path.name in (DESCRIPTION, WEIGHTS) and path.is_file():
        raise InputError(f"{path}: this is one file of a model directory: give the folder, {path.parent}.")
    if path.exists() or path.with_name(f"{path.name}{checkpoints.slim.INDEX}").exists():
        raise InputError(f"{path}: this is {_kind_of(path)}, not a model directory. {written}.")
    if str(path) in variants.VARIANTS:
        raise InputError(f"{path}: this is the name of a variant, which has no weights, and a model is expected. {written}.")
    raise InputError(f"{path}: no such folder. A model directory is expected: {written}.")


def _kind_of(path: Path) -> str:
    """What `path` is instead of a model directory."""
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir())
        if "saved_model.pb" in inside:
            return "a SavedModel"
        if models := [name for name in inside if is_model_directory(path / name)]:
            return f"a folder with model directories in it ({', '.join(models[:MOST_NAMED])})"
        if checkpoints.slim.STATE in inside or any(name.endswith(checkpoints.slim.INDEX) for name in inside):
            return "a folder of TensorFlow checkpoints"
        return f"a folder of other files ({', '.join(inside[:MOST_NAMED])})" if inside else "an empty folder"
    kind = None
    with contextlib.suppress(OSError), path.open("rb") as file:
        kind = kinds.kind_of(file.read(kinds.LENGTH))
    holds_weights = ".ckpt" in path.name or path.suffix in checkpoints.SUFFIXES or not path.exists()
    return kind or ("a file of weights" if holds_weights else "a file")


def _read(folder: Path) -> tuple[checkpoints.Weights, str, dict[str, Any]]:
    """The weights, their fingerprint, and the description that belongs to them."""
    check_model_directory(folder)
    weights = safetensors.read(folder / WEIGHTS)
    sha256 = checkpoints.fingerprint(weights)
    return weights, sha256, _description(folder, sha256)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Names the description at `path` in the error of whatever is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:  # of reading, which does not know the file's name
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged, or edited by mistake: {error!r}.") from error


def _description(folder: Path, weights_sha256: str) -> dict[str, Any]:
    """``model.json`` where it belongs to the weights, else their own copy of it."""
    path = folder / DESCRIPTION
    try:
        written = strict_json.loads(path.read_bytes()) if path.is_file() else {}
        copy = safetensors.metadata(folder / WEIGHTS).get(COPY, {})
        for described in (written, copy):
            if described.get("weights_sha256") == weights_sha256:
                return dict(described)
    except (ValueError, AttributeError, OSError) as error:
        raise InputError(
            f"{path}: damaged: {error}. The copy in {WEIGHTS} takes over once {DESCRIPTION} is deleted."
        ) from error
    raise InputError(
        f"{path}: was written for other weights than those of {WEIGHTS} (their sha256 is {weights_sha256}, it says "
        f"{written.get('weights_sha256')!r}). Put back the file that belongs to them."
    )


def _compare_with_copy(folder: Path, described: Mapping[str, Any], space: LabelSpace | None = None) -> None:
    """Refuses a ``model.json`` that tells of another network than the weights do. Classes may be renamed and recoloured."""
    copy = safetensors.metadata(folder / WEIGHTS).get(COPY)
    if not isinstance(copy, dict) or copy.get("weights_sha256") != described["weights_sha256"]:
        return  # it is of a writer who knows of none
    own, other = ({key: value for key, value in one.items() if key not in EDITABLE} for one in (copy, described))
    if differing := journal.differences(own, other):
        key, value, edited = differing[0]
        raise InputError(
            f"{folder / DESCRIPTION}: damaged, or edited by mistake: its {key} is {edited!r:.80}, and {value!r:.80} in the "
            f"copy that {WEIGHTS} has. The copy takes over once {DESCRIPTION} is deleted."
        )
    classes = copy.get("classes")
    if space is not None and (not isinstance(classes, list) or space.num_classes != len(classes)):
        raise InputError(
            f"{folder / DESCRIPTION}: damaged, or edited by mistake: it names {counted(space.num_classes, 'class')}, and "
            f"{WEIGHTS} are of {len(classes) if isinstance(classes, list) else 'none'}. Classes may be renamed, not added or "
            "left out."
        )


# -- descriptions ------------------------------------------------------------------------------------------------------


def description_of(
    network: Backbone | SegmentationModel,
    space: LabelSpace | None = None,
    *,
    preprocessing: str | None = None,
    origin: Origin | None = None,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a network is, for JSON: all but its weights. A backbone alone has no `space`; see :func:`save_model`."""
    from segmentation.model import SegmentationModel

    backbone = network.backbone if isinstance(network, SegmentationModel) else network
    plan = backbone.plan
    description = {
        "format": FORMAT,
        "plan": variants.described(plan),
        "root": plan.root_name,
        "output_stride": plan.output_stride,
        "multi_grid": plan.multi_grid,
        "in_channels": plan.in_channels,
        "head": None,
    }
    if plan.num_classes:
        description["num_classes"] = plan.num_classes
    if isinstance(network, SegmentationModel):
        head = network.head
        description["head"] = {
            "type": head.type, "separable": head.separable, "image_pooling": network.image_pooling_crop,
        }  # fmt: skip
        description["canvas"] = head.canvas
        # how label files were read is the dataset's affair
        description |= LabelSpace(space.classes, space.ignore_label).as_json()
    return description | {
        "preprocessing": preprocessing or plan.preprocessing,
        "origin": origin.as_json() if origin else None,
        "training": dict(training or {}),
    }


def answers(description: Mapping[str, Any]) -> dict[str, Any]:
    """What of a description, with the weights' fingerprint in it, a network's answers depend on, for protocols."""
    keys = ("weights_sha256", "plan", "root", "output_stride", "multi_grid", "head", "canvas", "preprocessing")
    canvas = canvas_of(description) if description.get("head") else None
    return {**{key: description.get(key) for key in keys}, "canvas": canvas}


def plan_from(
    description: Mapping[str, Any], output_stride: int | None = None, multi_grid: Sequence[int] | None = None
) -> Plan:
    """The backbone's plan, at its own output_stride and multi_grid or others.

    Raises:
        InputError: the description is of another format, or does not fit; KeyError, TypeError, ValueError or AttributeError
            where it is none.
    """
    if description["format"] != FORMAT:
        raise InputError(f"format {description['format']!r} is not read by this version, which reads {FORMAT}.")
    if description["preprocessing"] not in SCHEMES:
        raise InputError(f"preprocessing must be one of {', '.join(SCHEMES)} (not {description['preprocessing']!r}).")
    plan = variants.from_description(
        description["plan"],
        description["output_stride"] if output_stride is None else output_stride,
        description["multi_grid"] if multi_grid is None else multi_grid,
        description["in_channels"],
        root=description.get("root"),
        num_classes=description.get("num_classes"),
    )
    return dataclasses.replace(plan, preprocessing=description["preprocessing"])


def outline_from(description: Mapping[str, Any], output_stride: int | None = None) -> Outline:
    """The network that a description is of. Errors as :func:`plan_from`."""
    plan, head, space = plan_from(description, output_stride), None, None
    if description["head"] is not None:
        head = heads.plan_head(plan, **head_options(description))
        space = space_from(description)
    return Outline(plan, head, space, description.get("side"), validation_size(description["training"]))


def check_head(outline: Outline) -> None:
    """Raises an :class:`InputError` for a backbone alone."""
    if outline.head is None:
        raise InputError(
            "this is a backbone without a segmentation head: `extract` takes it, and `train --weights` starts from it."
        )


def head_options(description: Mapping[str, Any]) -> dict[str, Any]:
    """What :class:`segmentation.model.SegmentationModel` and :func:`segmentation.heads.plan_head` are told of a head."""
    head = description["head"]
    return {
        "num_classes": len(description["classes"]),
        "head": head["type"],
        "separable": head["separable"],
        "image_pooling_crop": head["image_pooling"],
        "canvas": canvas_of(description),
    }


def validation_size(training: Mapping[str, Any]) -> int | None:
    """Side of the canvas that a model was validated on, by the protocol of its training; None where it was not."""
    size = training.get("validation_size")
    return size if isinstance(size, int) and training.get("validation") else None


def canvas_of(description: Mapping[str, Any]) -> str:
    """What the head takes for the whole map.

    Descriptions of before do not say it: models that were trained here answer better by today's rule, converted ones were
    trained elsewhere, and the graph of an export has the rule of its time.
    """
    if "canvas" in description:
        return str(description["canvas"])
    trained_here = bool(description["training"]) and "export" not in description
    return heads.IMAGE if trained_here and description["head"]["image_pooling"] is None else heads.PADDED


def space_from(description: Mapping[str, Any]) -> LabelSpace:
    """The classes of a segmentation model.

    Raises:
        InputError: as :meth:`segmentation.labels.LabelSpace.from_json`.
    """
    return LabelSpace.from_json({key: description[key] for key in ("classes", "ignore_label")}, "classes")
