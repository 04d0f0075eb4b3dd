"""Convert weights between slim, DeepLab, Keras, PyTorch and safetensors (``dense-resnet convert``).

The names and shapes of a source's arrays identify the network. Exactly its variables are written, under canonical names and
bit for bit, so any file written here reads back as the same dictionary. (``tests/segmentation/saving/test_conversion.py``)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet import checkpoints
from dense_resnet.checkpoints.containers import keras_h5, safetensors
from dense_resnet.checkpoints.load_report import LoadReport, match
from dense_resnet.checkpoints.names import keras_applications
from dense_resnet.checkpoints.provenance import Origin
from dense_resnet.errors import InputError, pluralize
from dense_resnet.jobs import atomic_files
from dense_resnet.planning import variants
from dense_resnet.planning.plan import Plan
from dense_resnet.planning.schedule import check_root
from segmentation.data import label_tables
from segmentation.data.label_space import LabelClass, LabelSpace, voc_palette
from segmentation.heads.plan import PADDED, HeadOptions, options_of, plan_head
from segmentation.saving import model_directory
from segmentation.saving.description import WEIGHTS
from segmentation.saving.model_directory import is_model_directory

SLIM, SAFETENSORS, KERAS, MODEL_DIRECTORY = "slim", "safetensors", "keras", "model-dir"
KERAS_SUFFIX, CHECKPOINT = ".keras", ".ckpt"  # in file names; more may follow the latter
KNOWN_SPACES = {"voc": label_tables.VOC, "cityscapes": label_tables.CITYSCAPES, "ade20k": label_tables.ADE20K}


@dataclass(frozen=True)
class Network:
    """The network that a source's weights belong to."""

    plan: Plan
    weights: checkpoints.Weights = field(repr=False)  # its variables, all of them, under canonical names
    report: LoadReport
    head: HeadOptions | None
    image_pooling: Any = None  # of the head, if the source records it
    canvas: str = PADDED  # of the head, if recorded; weights of other programs were trained on all of it
    space: LabelSpace | None = None  # of the head's classes, if the source records it

    @property
    def origin(self) -> Origin | None:
        return self.report.origin


def open_network(
    source: Any,
    variant: str | dict[str, Any] | None = None,
    output_stride: int | None = None,
    *,
    multi_grid: Sequence[int] | None = None,
    root: str | None = None,
    classifier: bool = True,
) -> Network:
    """Read a source and identify the network that it belongs to.

    Args:
        source: see :func:`dense_resnet.checkpoints.open_source`; a model directory identifies itself.
        variant: of the network, if names and shapes do not identify it; also blocks, as
            :func:`dense_resnet.planning.variants.plan_from_config` takes them.
        output_stride, multi_grid: None is a model directory's own, otherwise the nominal stride and none.
        root: the root block; None is the one that the weights were trained with.
        classifier: whether to keep an ImageNet classifier.

    Raises:
        InputError: the source cannot be read, no variant fits it, or it lacks a variable.
    """
    check_request(source, variant, output_stride, multi_grid=multi_grid, root=root)
    opened = checkpoints.open_source(source)
    if variant and not is_model_directory(source):
        opened = opened.under(variants.plan_from_config(variant).scope)
    weights = opened.weights
    if not classifier:
        weights = {name: value for name, value in weights.items() if "/logits/" not in name or name.startswith("logits/")}
    if is_model_directory(source):
        plan = model_directory.read_plan(source, output_stride, multi_grid=multi_grid)
        return _of_model_directory(Path(source), plan, opened, weights)
    described = variant or opened.origin.variant
    if described is None:
        raise InputError(
            f"{opened.name}: no variant fits these weights, whose first names are {', '.join(sorted(weights)[:4]) or 'none'}. "
            "Pass the closest variant with --model, and the report says what differs; or a .json file with blocks."
        )
    scope = variants.plan_from_config(described).scope
    biases = weights.get(f"{scope}/logits/biases")
    first = next((value for name, value in weights.items() if name.startswith(f"{scope}/conv1") and value.ndim == 4), None)
    channels = 3 if first is None else first.shape[2]
    classes = None if biases is None else biases.shape[0]
    plan = variants.plan_from_config(described, output_stride, multi_grid, channels, root or opened.origin.root, classes)
    return _network(plan, weights, opened, options_of(weights))


def check_request(
    source: Any,
    variant: str | dict[str, Any] | None = None,
    output_stride: int | None = None,
    *,
    multi_grid: Sequence[int] | None = None,
    root: str | None = None,
) -> None:
    """Refuse what :func:`open_network` refuses, without TensorFlow and before weights are read; arguments as there."""
    if isinstance(source, str | os.PathLike):
        checkpoints.check_source(os.fspath(source))
    if root is not None:
        check_root(root)
    if is_model_directory(source):
        if variant or root:
            raise InputError(f"{source}: a model directory records its network: leave --model and --root out.")
        model_directory.read_plan(source, output_stride, multi_grid=multi_grid)
    elif variant:
        variants.plan_from_config(variant, output_stride, multi_grid, root=root)


def _of_model_directory(folder: Path, plan: Plan, opened: checkpoints.Source, weights: checkpoints.Weights) -> Network:
    if plan.num_classes and f"{plan.scope}/logits/biases" not in weights:
        plan = dataclasses.replace(plan, logits=None)
    head = options_of(weights)
    if head is None:
        model_directory.load_backbone(folder)  # checks that the two files belong together
        return _network(plan, weights, opened, None)
    saved = model_directory.load_model(folder)
    network = _network(plan, weights, opened, head._replace(separable=saved.head.separable))
    pooling = saved.model.image_pooling_crop
    return dataclasses.replace(network, image_pooling=pooling, canvas=saved.head.canvas, space=saved.space)


def _network(plan: Plan, weights: checkpoints.Weights, opened: checkpoints.Source, head: HeadOptions | None) -> Network:
    taken = match(plan, weights, opened.name)
    own = dict(taken.weights)
    if head:
        from segmentation.model import check_weights

        variables = plan_head(plan, head.num_classes, head.type, separable=head.separable).variables
        check_weights(variables, weights, opened.name, head.type)
        own |= {variable.name: weights[variable.name] for variable in variables}
    unexpected = tuple(name for name in taken.report.unexpected if name not in own)
    report = dataclasses.replace(taken.report, matched=tuple(own), unexpected=unexpected)
    return Network(plan, own, report.with_provenance(opened.origin, plan, opened.notes), head)


def find_known_space(name: str) -> LabelSpace:
    """Return the classes of a name in KNOWN_SPACES."""
    if name not in KNOWN_SPACES:
        raise InputError(f"classes must be one of {', '.join(KNOWN_SPACES)}, or a .json file (not {name!r}).")
    return KNOWN_SPACES[name]


def label_space(count: int, named: LabelSpace | str | None) -> LabelSpace:
    """Return the classes of a head: given, named ("voc", "cityscapes", "ade20k"), or numbered.

    >>> label_space(2, None).names, label_space(21, "voc").names[:2]
    (('class_0', 'class_1'), ('background', 'aeroplane'))
    """
    if isinstance(named, str):
        named = find_known_space(named)
    if named is None:
        colors = voc_palette(count).tolist()
        named = LabelSpace(tuple(LabelClass(f"class_{i}", tuple(color)) for i, color in enumerate(colors)))
    if named.num_classes != count:
        raise InputError(
            f"the head has {pluralize(count, 'class')}, the label space {named.num_classes} ({', '.join(named.names[:5])}, …)."
        )
    return named


def check_out(to: str, out: str | os.PathLike[str]) -> None:
    """Refuse what :func:`write` refuses as a target, without TensorFlow and before weights are read."""
    out = Path(out)
    if to == MODEL_DIRECTORY:
        atomic_files.check_folder(out)
        if out.is_dir() and not is_model_directory(out):  # an interrupted write leaves weights and hidden files
            others = sorted(entry.name for entry in out.iterdir() if entry.name != WEIGHTS and entry.name[0] != ".")
            if others:
                raise InputError(f"{out}: is not a model directory, and contains {others[0]}. Choose another folder for --out.")
        return
    if to == KERAS and out.suffix != KERAS_SUFFIX:
        raise InputError(f"{out}: the name of a Keras model must end in {KERAS_SUFFIX}.")
    if to == SAFETENSORS and out.suffix != safetensors.SUFFIX:
        raise InputError(f"{out}: the name of a safetensors file must end in {safetensors.SUFFIX}.")
    if to == SLIM and CHECKPOINT not in out.name:
        raise InputError(f"{out}: the name of a slim checkpoint must have {CHECKPOINT} in it.")
    atomic_files.check_folder(out.parent)


def write(network: Network, to: str, out: str | os.PathLike[str], *, space: LabelSpace | str | None = None) -> tuple[str, ...]:
    """Write `network` and read it back.

    Args:
        to: "slim" (a checkpoint of the V2 format, `out` with .ckpt in its name, never over an existing one), "safetensors",
            "keras" (a ``.keras`` model of the backbone) or "model-dir".
        out: the file or folder; replaced in one step, except a slim checkpoint.
        space: of the head's classes, in a model directory; see :func:`label_space`.

    Returns:
        What was not written, one sentence each.

    Raises:
        InputError: `out` cannot be written, has the ending of another format, or is a folder of something else.
    """
    out = Path(out)
    check_out(to, out)
    if to == MODEL_DIRECTORY:
        return _write_model_directory(network, out, space)
    atomic_files.probe_folder(out.parent, sum(value.nbytes for value in network.weights.values()))
    if to == KERAS:
        return _write_keras(network, out)
    checkpoints.write(out, network.weights, network.origin)
    return ("A slim checkpoint cannot record where its weights come from: keep the lines above.",) if to == SLIM else ()


def _write_keras(network: Network, out: Path) -> tuple[str, ...]:
    from dense_resnet import keras_resnet  # imported here because its backend may be missing

    plan = network.plan
    backbone = {variable.name: network.weights[variable.name] for variable in plan.variables}
    model = keras_resnet.build(plan, input_shape=(None, None, plan.in_channels), weights=backbone)

    def check(path: Path) -> None:
        back = keras_applications.canonical(keras_h5.read(path), str(path))
        if back.keys() != backbone.keys() or any(not np.array_equal(back[name], backbone[name]) for name in back):
            raise OSError("the file differs from what was written when read back")

    with atomic_files.replace_file(out, check) as temporary, atomic_files.scratch(out) as folder:
        saved = folder / out.name  # Keras chooses the format by the ending
        model.save(saved)
        saved.replace(temporary)
    return ("The head was not written: a Keras model contains only the backbone.",) if network.head else ()


def _write_model_directory(network: Network, out: Path, space: LabelSpace | str | None) -> tuple[str, ...]:
    from dense_resnet.verification import laws
    from segmentation.model import SegmentationModel

    backbone = laws.backbone_with(network.plan, network.weights)
    if network.head is None:
        model_directory.save_backbone(out, backbone, network.origin)
        return ("It has no segmentation head: use it with `extract`, `check` and `train --weights`.",)
    model = SegmentationModel(
        backbone, network.head.num_classes, network.head.type,
        separable=network.head.separable, image_pooling_crop=network.image_pooling, canvas=network.canvas,
    )  # fmt: skip
    model.assign(network.weights, network.report.source)
    classes = label_space(network.head.num_classes, space or network.space)
    preprocessing = network.origin.preprocessing if network.origin else None
    model_directory.save_model(out, model, classes, preprocessing=preprocessing, origin=network.origin)
    assumed = [] if space or network.space else ["The classes are numbered, because weights do not name them: see --classes."]
    if network.image_pooling is None and network.head.type != "fcn":
        assumed.append("The image's mean is taken over the whole map; DeepLab takes it over its training crop.")
    return tuple(assumed)
