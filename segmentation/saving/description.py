"""Write and read what describes a model: ``model.json``, and its copy inside the weights' file."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_resnet import checkpoints
from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.checkpoints.provenance import Origin
from dense_resnet.errors import InputError, pluralize
from dense_resnet.inference import engines
from dense_resnet.inference.precision import AUTO
from dense_resnet.jobs import journal, strict_json
from dense_resnet.planning import variants
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import SCHEMES
from segmentation.data.label_space import LabelSpace
from segmentation.heads.plan import IMAGE, PADDED, HeadPlan, plan_head

if TYPE_CHECKING:
    from dense_resnet.backbone import Backbone
    from dense_resnet.inference.runner import Runner
    from segmentation.model import SegmentationModel

DESCRIPTION, WEIGHTS = "model.json", checkpoints.MODEL_WEIGHTS
COPY = "model"  # the description's key in the weights' metadata
FORMAT = 1
NETWORK = ("output_stride", "multi_grid", "head", "canvas", "preprocessing")  # keys that results depend on, besides the plan
EDITABLE = ("classes", "ignore_label", "origin", "training")  # keys of the description that users may change


@dataclass(frozen=True)
class Outline:
    """What is known of a network without its weights."""

    plan: Plan  # the backbone's
    head: HeadPlan | None  # of a segmentation model
    space: LabelSpace | None  # its classes
    side: int | None  # of the only canvas that it takes, if it was exported for one
    validation_size: int | None  # side of the canvas that it was validated on, if it was

    @property
    def size(self) -> int | None:
        """Side of the canvas that images are run on by default."""
        return self.side or self.validation_size


@dataclass(frozen=True)
class OpenedModel(Outline):
    """A network with its weights, as the tools take it: of a model directory, or of an exported file."""

    path: Path  # where it was read from
    description: Mapping[str, Any]  # at the output_stride that it was opened at, with the weights' fingerprint

    @property
    def preprocessing(self) -> str:
        """A scheme of :func:`dense_resnet.preprocess`."""
        return self.description["preprocessing"]

    @property
    def weights_sha256(self) -> str:
        """Fingerprint of the weights."""
        return self.description["weights_sha256"]

    @property
    def protocol(self) -> dict[str, Any]:
        """All that its results depend on, for protocols."""
        found = {key: self.description.get(key) for key in ("weights_sha256", "plan", "root", *NETWORK)}
        return found | {"canvas": canvas_of(self.description) if self.head else None}

    def runner(self, precision: str = AUTO, engine: str = engines.AUTO) -> Runner:
        """Return the network for images as they are decoded."""
        raise NotImplementedError


@contextlib.contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Turn the errors that a description of another format, or none, causes into InputErrors that name the file `path`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:  # an error of reading that does not name the file
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged, or edited by mistake: {error!r}.") from error


def read_matching_description(folder: Path, weights_sha256: str) -> dict[str, Any]:
    """Return ``model.json`` if it belongs to the weights, or else their own copy of it."""
    path = folder / DESCRIPTION
    try:
        written = strict_json.loads(path.read_bytes()) if path.is_file() else {}
        copy = safetensors.metadata(folder / WEIGHTS).get(COPY, {})
        for described in (written, copy):
            if described.get("weights_sha256") == weights_sha256:
                return dict(described)
    except (ValueError, AttributeError, OSError) as error:
        raise InputError(f"{path}: damaged: {error}. Delete {DESCRIPTION} to use the copy in {WEIGHTS}.") from error
    raise InputError(
        f"{path}: was written for other weights than those of {WEIGHTS} (their sha256 is {weights_sha256}, it records "
        f"{written.get('weights_sha256')!r}). Restore the file that belongs to them."
    )


def compare_with_copy(folder: Path, described: Mapping[str, Any], space: LabelSpace | None = None) -> None:
    """Refuse a ``model.json`` of another network than the weights'. Classes may be renamed and recolored."""
    copy = safetensors.metadata(folder / WEIGHTS).get(COPY)
    if not isinstance(copy, dict) or copy.get("weights_sha256") != described["weights_sha256"]:
        return  # its writer stored no copy
    own, other = ({key: value for key, value in one.items() if key not in EDITABLE} for one in (copy, described))
    if differing := journal.differences(own, other):
        key, value, edited = differing[0]
        raise InputError(
            f"{folder / DESCRIPTION}: damaged, or edited by mistake: its {key} is {edited!r:.80}, and {value!r:.80} in the "
            f"copy in {WEIGHTS}. Delete {DESCRIPTION} to use the copy."
        )
    classes = len(copy["classes"]) if isinstance(copy.get("classes"), list) else "none"
    if space is not None and space.num_classes != classes:
        raise InputError(
            f"{folder / DESCRIPTION}: damaged, or edited by mistake: it has {pluralize(space.num_classes, 'class')}, and "
            f"{WEIGHTS} has {classes}. Classes may be renamed, not added or left out."
        )


def description_of(
    network: Backbone | SegmentationModel,
    space: LabelSpace | None = None,
    *,
    preprocessing: str | None = None,
    origin: Origin | None = None,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a network for JSON, without its weights. A backbone without a head has no `space`; see :func:`save_model`."""
    from segmentation.model import SegmentationModel

    backbone = network.backbone if isinstance(network, SegmentationModel) else network
    plan = backbone.plan
    description = {
        "format": FORMAT,
        "plan": variants.plan_config(plan),
        "root": plan.root_name,
        "output_stride": plan.output_stride,
        "multi_grid": plan.multi_grid,
        "in_channels": plan.in_channels,
        "head": None,
    }
    if plan.num_classes:
        description["num_classes"] = plan.num_classes
    if isinstance(network, SegmentationModel):
        head, pooling = network.head, network.image_pooling_crop
        description["head"] = {"type": head.type, "separable": head.separable, "image_pooling": pooling}
        description["canvas"] = head.canvas
        assert space is not None  # every model has its classes
        description |= LabelSpace(space.classes, space.ignore_label).as_json()  # how label files were read is the dataset's
    return description | {
        "preprocessing": preprocessing or plan.preprocessing,
        "origin": origin.as_json() if origin else None,
        "training": dict(training or {}),
    }


def plan_from(
    description: Mapping[str, Any], output_stride: int | None = None, multi_grid: Sequence[int] | None = None
) -> Plan:
    """Return the backbone's plan, at its own output_stride and multi_grid or others; see :func:`explain_errors` for errors."""
    if description["format"] != FORMAT:
        raise InputError(f"format {description['format']!r} is not read by this version, which reads {FORMAT}.")
    if description["preprocessing"] not in SCHEMES:
        raise InputError(f"preprocessing must be one of {', '.join(SCHEMES)} (not {description['preprocessing']!r}).")
    stride = description["output_stride"] if output_stride is None else output_stride
    grid = description["multi_grid"] if multi_grid is None else multi_grid
    plan = variants.plan_from_config(
        description["plan"], stride, grid, description["in_channels"], description.get("root"), description.get("num_classes")
    )
    return dataclasses.replace(plan, preprocessing=description["preprocessing"])


def outline_from(description: Mapping[str, Any], output_stride: int | None = None) -> Outline:
    """Return the network that a description describes; see :func:`explain_errors` for errors."""
    plan, head, space = plan_from(description, output_stride), None, None
    if description["head"] is not None:
        head = plan_head(plan, **head_options(description))
        space = LabelSpace.from_json({key: description[key] for key in ("classes", "ignore_label")}, "classes")
    return Outline(plan, head, space, description.get("side"), validation_size(description["training"]))


def check_head(network: Outline) -> HeadPlan:
    """Return the head; refuse a backbone without one, by an error that does not name its path: see :func:`explain_errors`."""
    if network.head is None:
        raise InputError(
            "this is a backbone without a segmentation head: use it with `extract`, or start from it with `train --weights`."
        )
    return network.head


def head_options(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head's arguments of :class:`SegmentationModel` and :func:`segmentation.heads.plan.plan_head`."""
    head = description["head"]
    return {
        "num_classes": len(description["classes"]),
        "head": head["type"],
        "separable": head["separable"],
        "image_pooling_crop": head["image_pooling"],
        "canvas": canvas_of(description),
    }


def validation_size(training: Mapping[str, Any]) -> int | None:
    """Return the side of the canvas that a model was validated on, by its training's protocol; None if it was not."""
    size = training.get("validation_size")
    return size if isinstance(size, int) and training.get("validation") else None


def canvas_of(description: Mapping[str, Any]) -> str:
    """Return what the head takes for the whole map.

    Older descriptions do not record it: models that were trained here predict better by today's rule, converted ones were
    trained elsewhere, and the graph of an export has the rule of its time.
    """
    if "canvas" in description:
        return str(description["canvas"])
    trained_here = bool(description["training"]) and "export" not in description
    return IMAGE if trained_here and description["head"]["image_pooling"] is None else PADDED
