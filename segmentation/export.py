"""Networks as files for other programs: a TensorFlow SavedModel, or ONNX. The file is compared with the model before it stays.

What is written is the very graph that the tools run (:class:`dense_resnet.runner.CompiledRunner`): uint8 images go in, and
preprocessing, padding, enlarging and the choice of classes are inside. A description beside the graph says what it is, so
that an export serves wherever a model directory does, without its weights being read again.

==============  ======================================================  =================================================
                SavedModel                                              ONNX
==============  ======================================================  =================================================
on disk         a folder: saved_model.pb, assets.extra/model.json       one file
precision       "float32" or "bfloat16"                                 "float32"
runs in         every TensorFlow, or (`onednn`) with oneDNN alone       every runtime; those without optional inputs: below
called with     images (signature "serving_default"), or images and     images and `sizes`, which may be left out where any
                `sizes` (signature "sized")                             canvas is taken, unless `require_sizes`
description     assets.extra/model.json                                 metadata, under ``dense_resnet``
its sha256 is   of graph and description, in the description            of all bytes before it, in the last entry
==============  ======================================================  =================================================

`sizes` says what of each canvas is image. No input of an ONNX file is an initializer, of which ONNX Runtime would warn and
which OpenVINO would hide. ONNX has one other way to say that an input may be left out: its type is "optional". ONNX Runtime
knows it, most others do not; for them there is `require_sizes`, and files of one canvas are always so.

Nothing takes the target's place before it has been read back and has given the exact model's features and labels on
photographs (:func:`compare`), and the same again without this package, in fresh processes with TensorFlow's own settings
(:mod:`segmentation.foreign_run`). (``tests/test_export.py``)
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import dense_resnet
from dense_resnet import checkpoints, files, fused, geometry, machine, strict_json
from dense_resnet.backbone import Backbone
from dense_resnet.checkpoints.origin import Origin
from dense_resnet.errors import InputError, counted
from dense_resnet.images import placement, resize
from dense_resnet.laws import TOLERANCE, relative_error
from dense_resnet.plan import Plan
from dense_resnet.precision import AUTO, BFLOAT16, FLOAT32
from dense_resnet.preprocessing import preprocess
from dense_resnet.runner import (
    CELLS,
    FEATURES,
    IMAGES,
    LABELS,
    PROBABILITIES,
    SIZES,
    CompiledRunner,
    Outputs,
    Runner,
    SessionRunner,
)
from segmentation import model_directory
from segmentation.export_files import (  # noqa: F401 - some for those who look here
    DESCRIPTION,
    FORMATS,
    GRAPH,
    ONNX,
    SAVED_MODEL,
    SEAL_SIZE,
    SUFFIX,
    check_replaceable,
    check_request,
    is_exported,
    may_be_replaced,
    read_description,
)
from segmentation.export_files import require as _require
from segmentation.export_files import seal as _seal
from segmentation.foreign_run import ALONE, ONEDNN, SIZED, ForeignRunError, run_in_fresh_process
from segmentation.fused import takes_rates
from segmentation.heads import IMAGE, SKIP_STRIDE, HeadPlan, plan_head
from segmentation.labels import LabelSpace
from segmentation.model import SegmentationModel

KEY = "dense_resnet"  # of ONNX's metadata
OPSET = 17  # of ONNX's operators: read by every onnxruntime since 1.12
LARGEST_CANVAS = 513  # pixels: of the comparison, where an export takes any size
SMALL_CANVAS = 129  # pixels: of that in fresh processes, which only has to see that the file runs the same there
WHITE = 255  # lies beyond an image whose size is told, so that reading it would show


@dataclass(frozen=True)
class Tolerance:
    """What an export may differ from the exact model by."""

    feature_error: float  # max|a - b| / std(b)
    label_agreement: float  # share of pixels


TOLERANCES = {
    FLOAT32: Tolerance(TOLERANCE, 0.999),  # law 4 of builders; labels may flip only where two classes tie to that precision
    BFLOAT16: Tolerance(0.4, 0.95),  # 8 bits: single cells were seen to be off by up to a quarter of std, 1 % of labels
}
ADVICE = {
    FLOAT32: "Please report it, with the versions of what is installed.",
    BFLOAT16: "Untrained weights, whose classes nearly tie, may need --precision float32.",
}

# What the graphs are made of. None of it reads or writes files, calls other code, or keeps anything.
OPS = frozenset(
    """AddV2 AvgPool BatchToSpaceND BiasAdd Cast ConcatV2 Const Conv2D DepthwiseConv2dNative FloorDiv FloorMod FusedBatchNormV3
    GatherV2 Identity Less LogicalAnd MaxPool Mean Mul Pack Pad PadV2 Placeholder PlaceholderWithDefault Range RealDiv Relu
    ResizeBilinear SelectV2 Shape Softmax SpaceToBatchND StridedSlice Sub Sum TopKV2 Unpack ZerosLike""".split()
)

DOCUMENTED = {  # inputs and outputs of ONNX, for whoever opens a file
    IMAGES: "RGB pixels as they are decoded, 0 to 255: each image in the top left corner of its canvas.",
    SIZES: "(height, width) of each image in pixels, in this order: what of its canvas is image. At most the canvas's own.",
    FEATURES: "The backbone's features, one vector for each cell of output_stride pixels.",
    CELLS: "Logits of the classes, before they are enlarged to pixels.",
    LABELS: "The class of each pixel of the canvas; those beyond the image mean nothing.",
    PROBABILITIES: "The probability of each class, of each pixel of the canvas; those beyond the image mean nothing.",
}
OPTIONAL, REQUIRED = "optional", "required"  # whether `sizes` may be left out

v1 = tf.compat.v1


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


@dataclass(frozen=True)
class Exported:
    """An export, opened. What :class:`segmentation.model_directory.SavedModel` offers the tools, this does too."""

    path: Path
    kind: str  # one of FORMATS
    plan: Plan
    head: HeadPlan | None  # of a segmentation model
    space: LabelSpace | None  # likewise
    description: Mapping[str, Any]  # as it stands in the file
    network: Runner

    @property
    def side(self) -> int | None:
        """Of the only canvas that it takes."""
        return self.network.side

    @property
    def preprocessing(self) -> str:
        """A scheme of :func:`dense_resnet.preprocess`."""
        return self.network.preprocessing

    @property
    def weights_sha256(self) -> str:
        """Of the weights that it was made from."""
        return self.network.weights_sha256

    @property
    def size(self) -> int | None:
        """Side of the only canvas that it takes, else of that which the model was validated on, where it was."""
        return self.network.side or model_directory.validation_size(self.description["training"])

    @property
    def described(self) -> dict[str, Any]:
        """All that its answers depend on, for protocols."""
        return {**model_directory.answers(self.description), "export": self.kind}

    @property
    def inputs(self) -> dict[str, str]:
        """Types and shapes by name, for people."""
        batch, height, width, channels = _shapes(self.plan, self.head, self.network.side)[IMAGES]
        needed = "" if self.description.get("sizes") == REQUIRED else "; may be left out"
        return {
            IMAGES: f"uint8 [{batch}, {height}, {width}, {channels}]",
            SIZES: f"int32 [batch, 2], (height, width) of each image{needed}",
        }

    @property
    def least_canvas(self) -> int:
        """Pixels along each side of the smallest canvas that it takes."""
        return self.network.side or _least_canvas(self.plan, self.head)

    @property
    def outputs(self) -> dict[str, str]:
        """Likewise, of what it gives."""
        shapes = _shapes(self.plan, self.head, self.network.side)
        types = {LABELS: np.dtype(self.head.label_dtype).name} if self.head else {}
        return {name: f"{types.get(name, 'float32')} [{', '.join(map(str, shapes[name]))}]" for name in self.network.names}

    def runner(self, precision: str = AUTO) -> Runner:
        """The network. Its answers are those of the runner that it was written from.

        Raises:
            InputError: `precision` is neither "auto" nor the file's own.
        """
        own = self.network.precision
        if precision not in (AUTO, own):
            raise InputError(
                f"{self.path}: was exported in {own}, and cannot run in {precision!r}. "
                "Leave the precision out, or take the model directory that it was exported from."
            )
        return self.network


def export(
    network: Backbone | SegmentationModel,
    path: str | os.PathLike[str],
    images: Sequence[np.ndarray],
    *,
    to: str = SAVED_MODEL,
    precision: str = AUTO,
    side: int | None = None,
    onednn: bool = False,
    require_sizes: bool = False,
    space: LabelSpace | None = None,
    origin: Origin | None = None,
    training: Mapping[str, Any] | None = None,
) -> tuple[Exported, Agreement]:
    """Writes a network with the weights that it has now, reads it back, and compares it with the exact one.

    Args:
        network: its plan says the preprocessing.
        path: a folder for "savedmodel", a file named .onnx for "onnx". An older export there is replaced once the new one has
            passed; after a kill between those two steps it lies beside, and the next export puts it back.
        images: uint8 RGB ``[height, width, 3]``, photographs to compare on.
        to: "savedmodel" or "onnx".
        precision: "float32", "bfloat16", or "auto": what this processor is fast in; for "onnx" float32.
        side: of the only canvas that it will take; None takes any size.
        onednn: lets a SavedModel have operators that TensorFlow runs with oneDNN alone: one for each atrous depthwise
            convolution, where every TensorFlow needs three. Off x86, and with TF_ENABLE_ONEDNN_OPTS=0, it does not run then.
        require_sizes: makes `sizes` of an ONNX file that takes any canvas an input that must be given, for runtimes without
            optional inputs, such as OpenVINO and TensorRT.
        space: the classes of a segmentation model.
        origin, training: for the record, as :func:`segmentation.model_directory.save_model`.

    Returns:
        The export as it was read back, and how it compares.

    Raises:
        InputError: an argument does not fit, a package is missing, something else stands at `path`, the folder cannot be
            written to, or the export differs from the model by more than TOLERANCES, here or in a fresh process, or does not
            run there; then nothing has changed.
    """
    path = Path(path)
    plan = _plan_of(network)
    precision = check_request(plan, path, to, precision, side, onednn=onednn, require_sizes=require_sizes)
    if onednn and not takes_rates(tf.as_dtype(precision)):
        raise InputError(f"onednn: this TensorFlow runs without oneDNN. Where the processor is an x86, set {ONEDNN}=1.")
    is_model = isinstance(network, SegmentationModel)
    if is_model and (space is None or space.num_classes != network.head.num_classes):
        raise InputError(f"space must name the {counted(network.head.num_classes, 'class')} of the model.")
    head = network.head if is_model else None
    if side and side < (least := _least_canvas(plan, head)):
        raise InputError(f"size must be at least {least}: the head takes the image's mean over windows of that many pixels.")
    weights = network.weights
    files.probe_folder(path.parent, sum(value.nbytes for value in weights.values()))
    known: dict[str, Any] = {}  # a backbone's runner takes the fingerprint itself, and needs oneDNN for nothing
    if is_model:
        known = {"weights_sha256": checkpoints.fingerprint(weights), "onednn": onednn}
    del weights
    compiled = network.runner(precision, side=side, plain=True, **known)
    onednn = onednn and any(map(_needs_onednn, compiled.graph.as_graph_def().node))  # fcn and backbones have no such operator
    required = to == ONNX and (require_sizes or side is not None)
    description = model_directory.description_of(network, space, origin=origin, training=training) | {
        "export": to,
        "weights_sha256": compiled.weights_sha256,
        "precision": precision,
        "side": side,
        "onednn": onednn,
        "sizes": REQUIRED if required else OPTIONAL,
        "outputs": compiled.names,
        "versions": _versions(to),
    }
    checked: list[tuple[Exported, Agreement]] = []

    def check(written: Path) -> None:
        opened = open_exported(written)
        agreement, tolerance = compare(opened.network, network, images), TOLERANCES[precision]
        if not agreement.within(tolerance):
            raise InputError(
                f"{path}: not written, because the export is not the model: {agreement}. At most {tolerance.feature_error:g} "
                f"of their std and at least {tolerance.label_agreement:.1%} are right in {precision}. {ADVICE[precision]}"
            )
        _check_elsewhere(written, path, opened, next(_cases(images, plan, side, opened.least_canvas, SMALL_CANVAS)))
        check_replaceable(path, to)  # once more: that took a while
        checked.append((dataclasses.replace(opened, path=path), agreement))

    if to == SAVED_MODEL:
        with files.replacing_folder(path, lambda there: may_be_replaced(there, to)) as folder:
            _write_saved_model(folder, compiled, description)
            check(folder)
    else:
        with files.replacing(path, check) as temporary:
            _write_onnx(temporary, compiled, description, _shapes(plan, head, side))
    return checked[0]


def open_exported(path: str | os.PathLike[str]) -> Exported:
    """Reads an export of :func:`export`.

    A SavedModel is a program, and TensorFlow runs whatever it says. So before anything runs, the digest must fit, which finds
    damage and the files of other programs, and the graph may consist of OPS only, none of which touches a file, the network
    or other code. ONNX has no operators that do, but a made-up file may name further files to read weights from, below the
    working directory.

    The digest is no signature: whoever makes up an export can put any weights in it, and use up memory and time. Nor does
    it protect from holes in TensorFlow's and ONNX Runtime's own readers and kernels. Open only what you trust that far.

    Raises:
        InputError: the file is missing, damaged, or was not written by :func:`export`, or onnxruntime is missing.
    """
    path = Path(path)
    try:
        return _opened_saved_model(path) if path.is_dir() else _opened_onnx(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error


# -- comparing ---------------------------------------------------------------------------------------------------------


def compare(runner: Runner, network: Backbone | SegmentationModel, images: Sequence[np.ndarray]) -> Agreement:
    """Runs both on each image: whole, cut to odd sizes, lying and upright, alone and two together, told its size or not.

    Args:
        runner: gives features, and labels where the network does.
        network: the exact one; other code than the runner's preprocesses, cuts and pads for it.
        images: uint8 RGB ``[height, width, 3]``. Canvases are the runner's own, else such as hold the image, at most 513.
    """
    plan, errors, equal, pixels = _plan_of(network), [], 0, 0
    backbone = network.backbone if isinstance(network, SegmentationModel) else network
    head = network.head if isinstance(network, SegmentationModel) else None
    for canvases, sizes in _cases(images, plan, runner.side, _least_canvas(plan, head)):
        names = [FEATURES, LABELS][: 1 + isinstance(network, SegmentationModel)]
        found = runner(canvases, sizes, names)
        whole = [canvases.shape[1:3]] * len(canvases)
        for number, (height, width) in enumerate(whole if sizes is None else sizes):
            image = preprocess(canvases[number, :height, :width], plan.preprocessing)
            needed = (height, width) if _ends_with_image(network) else whole[number]
            exact = np.zeros((1, *plan.aligned_size(needed), image.shape[2]), np.float32)
            exact[0, :height, :width] = image
            features = backbone(exact)
            rows, columns = features.shape[1:3]
            errors.append(relative_error(found[FEATURES][number, :rows, :columns], features[0]))
            if isinstance(network, SegmentationModel):
                logits = network(image[None] if _ends_with_image(network) else exact)
                labels = np.argmax(logits[0, :height, :width], axis=-1)
                equal += int((found[LABELS][number, :height, :width] == labels).sum())
                pixels += labels.size
    return Agreement(float(np.max(errors)), equal / pixels if pixels else None)


def _ends_with_image(network: Backbone | SegmentationModel) -> bool:
    """Whether each image's maps end where it does, on canvases of any size."""
    return isinstance(network, SegmentationModel) and network.head.canvas == IMAGE


def _least_canvas(plan: Plan, head: HeadPlan | None) -> int:
    """Side of the smallest canvas that a network takes: a head may pool over windows as large as its training crops."""
    pooled = head.image_pooling if head else None
    return (max(pooled) - 1) * plan.output_stride + 1 if pooled else 1


def _check_elsewhere(written: Path, path: Path, opened: Exported, case: tuple[np.ndarray, np.ndarray]) -> None:
    """Whether the file gives the same without this package and its settings.

    Args:
        written: the file.
        path: its name in messages.
        opened: what it is, open here.
        case: canvases and sizes to run.

    Raises:
        InputError: it does not run there, or gives something else.
    """
    network, tolerance = opened.network, TOLERANCES[opened.network.precision]
    names = [FEATURES, LABELS][: 1 + (opened.head is not None)]
    canvases, sizes = (values[:1] for values in case)
    calls = [{IMAGES: canvases, SIZES: sizes}, {IMAGES: canvases}][: 2 - (opened.description["sizes"] == REQUIRED)]
    expected = [network(call[IMAGES], call.get(SIZES), names) for call in calls]
    environments: list[dict[str, str]] = [{}]  # ONNX Runtime heeds none
    if opened.kind == SAVED_MODEL:
        environments = [{ONEDNN: "1"}] if opened.description["onednn"] else [{ONEDNN: "0"}, {}]
    program = "ONNX Runtime" if opened.kind == ONNX else "TensorFlow"
    for environment in environments:
        setting = " and ".join(f"{name}={value}" for name, value in environment.items()) or "no setting of ours"
        start = f"{path}: not written, because in a fresh process with {program} alone and {setting} the export"
        try:
            found = run_in_fresh_process(opened.kind, written, calls, names, environment)
        except ForeignRunError as error:
            raise InputError(f"{start} does not run: {error}") from error
        agreement = Agreement(
            max(float(relative_error(a[FEATURES], b[FEATURES])) for a, b in zip(found, expected, strict=True)),
            min(float(np.mean(a[LABELS] == b[LABELS])) for a, b in zip(found, expected, strict=True)) if opened.head else None,
        )
        if not agreement.within(tolerance):
            raise InputError(f"{start} gives something else than here: {agreement}. {ADVICE[network.precision]}")


def _cases(
    images: Sequence[np.ndarray], plan: Plan, side: int | None, least: int, largest: int = LARGEST_CANVAS
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(canvases, sizes) as a runner takes them: of `side`, or of at most `largest`, but at least `least`."""
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


# -- SavedModel --------------------------------------------------------------------------------------------------------


class _SavedModelRunner(SessionRunner):
    """A SavedModel's graph in a session; the arguments are Runner's."""

    export = SAVED_MODEL

    def __init__(self, graph: tf.Graph, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.session = fused.session(graph)


def _write_saved_model(folder: Path, compiled: CompiledRunner, description: Mapping[str, Any]) -> None:
    with compiled.graph.as_default() as graph:
        tensors = {name: graph.get_tensor_by_name(f"{name}:0") for name in (IMAGES, SIZES, *compiled.names)}
        outputs = {name: tensors[name] for name in compiled.names if name != CELLS}
        signatures = {
            signature: v1.saved_model.predict_signature_def({name: tensors[name] for name in inputs}, outputs)
            for signature, inputs in ((ALONE, (IMAGES,)), (SIZED, (IMAGES, SIZES)))
        }
        try:
            builder = v1.saved_model.Builder(os.fspath(folder))
            builder.add_meta_graph_and_variables(compiled.session, [v1.saved_model.tag_constants.SERVING], signatures)
            builder.save()
        except tf.errors.OpError as error:
            raise OSError(error.message) from error
    path = folder / DESCRIPTION
    path.parent.mkdir()
    sealed = {**description, "sha256": _digest((folder / GRAPH).read_bytes(), description)}
    path.write_text(json.dumps(sealed, indent=1) + "\n")


def _digest(graph: bytes, description: Mapping[str, Any]) -> str:
    """The sha256 of both: of the description all but the digest itself."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(graph + json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _opened_saved_model(folder: Path) -> Exported:
    description = read_description(folder)
    data = (folder / GRAPH).read_bytes()
    try:
        fits = description["sha256"] == _digest(data, description)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / DESCRIPTION}: damaged, or not written by `export`: {error!r}.") from error
    if not fits:
        raise InputError(
            f"{folder}: {GRAPH} and {DESCRIPTION} do not have the sha256 that was written with them: one of them is damaged, "
            "or was changed. Export again."
        )
    try:
        (meta,) = saved_model_pb2.SavedModel.FromString(data).meta_graphs
        del data
        others = {node.op for node in meta.graph_def.node} - OPS
        if others or meta.graph_def.library.function:
            raise InputError(
                f"{folder / GRAPH}: has operations that no export has ({', '.join(sorted(others)) or 'functions'}), "
                "and is not run."
            )
        if any(map(_needs_onednn, meta.graph_def.node)) and not takes_rates(tf.as_dtype(description["precision"])):
            raise InputError(
                f"{folder}: has operators that TensorFlow runs with oneDNN alone, and it is off here. Where the processor is "
                f"an x86, set {ONEDNN}=1 before Python starts; else export the model again."
            )
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(meta.graph_def, name="")
    except InputError:
        raise
    except Exception as error:  # protocol buffers and TensorFlow raise what they please
        raise InputError(
            f"{folder / GRAPH}: cannot be read by TensorFlow {tf.__version__}: {error}. It was written by "
            f"{description.get('versions')}."
        ) from error
    return _opened(folder, SAVED_MODEL, description, lambda *of_network: _SavedModelRunner(graph, *of_network))


def _needs_onednn(node: Any) -> bool:
    """Whether it is an atrous depthwise convolution; all exports had some until `onednn` was an option."""
    return node.op == "DepthwiseConv2dNative" and any(rate > 1 for rate in node.attr["dilations"].list.i)


# -- ONNX --------------------------------------------------------------------------------------------------------------


class _OnnxRunner(Runner):
    """An ONNX file in ONNX Runtime; the arguments are Runner's."""

    export = ONNX

    def __init__(self, session: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._session = session

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        found = self._session.run(list(names), {IMAGES: np.ascontiguousarray(images), SIZES: sizes})
        return dict(zip(names, found, strict=True))


def _write_onnx(
    path: Path, compiled: CompiledRunner, description: Mapping[str, Any], shapes: Mapping[str, Sequence[int | str]]
) -> None:
    import logging

    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    graph, kernels = _kernels_apart(_with_sizes_given(compiled.graph.as_graph_def()))
    names = (IMAGES, SIZES, *compiled.names)
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        name=compiled.plan.name,
        input_names=[f"{name}:0" for name in (IMAGES, SIZES, *kernels)],
        output_names=[f"{name}:0" for name in compiled.names],
        opset=OPSET,
        tensors_to_rename={f"{name}:0": name for name in (*names, *kernels)},
    )
    _put_back(kernels, model.graph)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    for info in (*model.graph.input, *model.graph.output):
        for dimension, size in zip(info.type.tensor_type.shape.dim, shapes[info.name], strict=True):
            dimension.Clear()
            setattr(dimension, "dim_param" if isinstance(size, str) else "dim_value", size)
        info.doc_string = DOCUMENTED[info.name]
    if description["sizes"] == OPTIONAL:
        _let_sizes_be_left_out(model.graph)
    onnx.helper.set_model_props(model, {KEY: json.dumps(description)})
    data = model.SerializeToString()
    del model
    onnx.checker.check_model(data, full_check=True)
    with open(path, "wb") as file:
        file.write(data)
        file.write(_seal(data))


def _with_sizes_given(graph: Any) -> Any:
    """`graph` with `sizes` as an input that has no default, which would be an initializer in ONNX."""
    (node,) = (node for node in graph.node if node.name == SIZES)
    node.op = "Placeholder"
    del node.input[:]
    return graph


def _let_sizes_be_left_out(graph: Any) -> None:
    """Makes the type of an ONNX graph's `sizes` "optional"; images for which they are left out fill their canvases."""
    import onnx
    from onnx.helper import make_graph, make_node, make_optional_type_proto, make_value_info

    (info,) = (info for info in graph.input if info.name == SIZES)
    for node in graph.node:
        node.input[:] = [f"{SIZES}_or_canvas" if name == SIZES else name for name in node.input]
    known = make_value_info(f"{SIZES}_known", info.type)
    whole = make_value_info(f"{SIZES}_whole", info.type)
    branches = {
        "then_branch": make_graph([make_node("OptionalGetElement", [SIZES], [known.name])], "given", [], [known]),
        "else_branch": make_graph([make_node("Identity", ["canvas_size"], [whole.name])], "left_out", [], [whole]),
    }
    first = [
        make_node("OptionalHasElement", [SIZES], [f"{SIZES}_given"]),
        make_node("Shape", [IMAGES], ["canvas_height_width"], start=1, end=3),
        make_node("Cast", ["canvas_height_width"], ["canvas_size_of_all"], to=onnx.TensorProto.INT32),
        make_node("Unsqueeze", ["canvas_size_of_all", "canvas_axis"], ["canvas_size"]),
        make_node("If", [f"{SIZES}_given"], [f"{SIZES}_or_canvas"], **branches),
    ]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "canvas_axis"))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *rest])
    info.type.CopyFrom(make_optional_type_proto(info.type))


def _kernels_apart(graph: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """`graph` with a placeholder for each kernel of a convolution, and the kernels by the names of these.

    tf2onnx copies a graph at each of its many steps, so it is given one that weighs next to nothing.
    """
    convolved = {node.input[1] for node in graph.node if node.op == "Conv2D"}
    light, kernels = v1.GraphDef(versions=graph.versions), {}
    for node in graph.node:
        if node.name not in convolved:
            light.node.add().CopyFrom(node)
            continue
        kernels[node.name] = tf.make_ndarray(node.attr["value"].tensor)
        placeholder = light.node.add(name=node.name, op="Placeholder")
        placeholder.attr["dtype"].CopyFrom(node.attr["dtype"])
        placeholder.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
    return light, kernels


def _put_back(kernels: dict[str, np.ndarray], graph: Any) -> None:
    """Makes constants of the inputs of an ONNX graph that stand for `kernels`, each of which is then let go.

    A kernel's axes are height, width, input, output in TensorFlow, and output, input, height, width in ONNX. What tf2onnx has
    put between an input and its convolution brings the one into the other, and goes: it would have done so with a constant.
    """
    import onnx

    made = {output: node for node in graph.node for output in node.output}
    inputs = [info for info in graph.input if info.name not in kernels]
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        between, name = [], conv.input[1]
        while name in made:
            between.append(made[name])
            name = made[name].input[0]
        if name in kernels:  # depthwise ones are constants already
            value = np.ascontiguousarray(kernels.pop(name).transpose(3, 2, 0, 1))
            graph.initializer.append(onnx.numpy_helper.from_array(value, conv.input[1]))
            for node in between:
                graph.node.remove(node)
    del graph.input[:]
    graph.input.extend(inputs)


def _pad_explicitly(node: Any) -> None:
    """Says the padding of a convolution as numbers: ONNX Runtime cannot work it out for a dilated one."""
    import onnx

    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") != b"SAME_UPPER" or set(attributes["strides"]) != {1}:
        return
    kernels = zip(attributes["kernel_shape"], attributes["dilations"], strict=True)
    before, after = zip(*(geometry.symmetric_padding(kernel, rate) for kernel, rate in kernels), strict=True)
    kept = [attribute for attribute in node.attribute if attribute.name not in ("auto_pad", "pads")]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("pads", [*before, *after])])


def _opened_onnx(path: Path) -> Exported:
    data = path.read_bytes()
    if data[-SEAL_SIZE:] != _seal(memoryview(data)[:-SEAL_SIZE]):
        raise InputError(
            f"{path}: does not end in the sha256 of what is before it: it is damaged or truncated, or is no ONNX file of "
            "`export`, and is not run."
        )
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = machine.cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: earlier exports have an input with a default, of which it warns
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        description = strict_json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    except Exception as error:  # onnxruntime has no common kind
        raise InputError(f"{path}: cannot be run by ONNX Runtime {onnxruntime.__version__}: {error}") from error
    return _opened(path, ONNX, description, lambda *of_network: _OnnxRunner(session, *of_network))


# -- what both share ---------------------------------------------------------------------------------------------------


def _opened(path: Path, kind: str, description: Mapping[str, Any], make: Any) -> Exported:
    """`make` makes the runner from Runner's arguments."""
    try:
        plan = model_directory.plan_from(description)
        head = space = None
        if description["head"]:
            head = plan_head(plan, **model_directory.head_options(description))
            space = model_directory.space_from(description)
        of_network = (
            plan,
            plan.preprocessing,
            description["precision"],
            description["weights_sha256"],
            description["outputs"],
            description["side"],
        )
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        said = error if isinstance(error, InputError) else f"{error!r}."
        raise InputError(f"{path}: its description is not one of `export`: {said}") from error
    return Exported(path, kind, plan, head, space, description, make(*of_network))


def _plan_of(network: Backbone | SegmentationModel) -> Plan:
    return network.backbone.plan if isinstance(network, SegmentationModel) else network.plan


def _shapes(plan: Plan, head: HeadPlan | None, side: int | None) -> dict[str, tuple[int | str, ...]]:
    """Of everything that goes in and comes out, by name; what is free has a name. Equal names are equal sizes."""
    of_image, of_features, of_cells = ("height", "width"), ("rows", "columns"), ("cell_rows", "cell_columns")
    sizes: dict[tuple[str, str], tuple[int | str, int | str]] = {key: key for key in (of_image, of_features, of_cells)}
    if side:
        stride = SKIP_STRIDE if head and head.skip else plan.output_stride
        cells = geometry.output_size(side, stride)
        sizes = {of_image: (side, side), of_features: plan.feature_size(side), of_cells: (cells, cells)}
    shapes: dict[str, tuple[int | str, ...]] = {
        IMAGES: ("batch", *sizes[of_image], plan.in_channels),
        SIZES: ("batch_or_1", 2),
        FEATURES: ("batch", *sizes[of_features], plan.depth),
    }
    if head:
        shapes[CELLS] = ("batch", *sizes[of_cells], head.num_classes)
        shapes[LABELS] = ("batch", *sizes[of_image])
        shapes[PROBABILITIES] = ("batch", *sizes[of_image], head.num_classes)
    return shapes


def _versions(to: str) -> dict[str, str]:
    """Of what writes the file."""
    used = ("tensorflow", "tf2onnx", "onnx") if to == ONNX else ("tensorflow",)
    return {"dense_resnet": dense_resnet.__version__, **{name: importlib.metadata.version(name) for name in used}}
