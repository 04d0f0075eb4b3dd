"""Networks as files for other programs, each compared with the model before it is kept.

Uint8 images go in, and preprocessing, padding, enlarging and the choice of classes are inside. A description lets an export
take a model directory's place.

=============  ===========================  ===========================  ===========================  =======================
               SavedModel                   ONNX                         OpenVINO                     TensorFlow Lite
=============  ===========================  ===========================  ===========================  =======================
on disk        a folder: saved_model.pb,    one file                     a folder: model.xml,         one file
               assets.extra/model.json                                   model.bin, model.json
graph          that of the TensorFlow       the same                     that of the OpenVINO engine  that of the TensorFlow
               engine                                                                                 engine
precision      "float32" or "bfloat16"      "float32" or "int8"          "float32", "bfloat16" or     "float32" or "int8"
                                                                         "int8"
canvases       any, or one (`side`)         any, or one (`side`)         any, or one (`side`)         one, image by image
runs in        every TensorFlow, or         every runtime; those         OpenVINO, which must be      every runtime
               (`onednn`) with oneDNN       without optional inputs:     told the precision that is
               alone                        below                        in the graph
called with    images (signature            images and `sizes`, which    images and `sizes`           images and `sizes`
               "serving_default"), or       may be left out where any
               images and `sizes`           canvas is taken, unless
               (signature "sized")          `require_sizes`
its sha256 is  of graph and description,    of all bytes before it, in   of graph, weights and        of all bytes before it,
               in the description           the last entry               description, in that one     behind the flatbuffer
=============  ===========================  ===========================  ===========================  =======================

No input of an ONNX file is an initializer, of which ONNX Runtime would warn and which OpenVINO would hide. An input that may
be omitted is of the type "optional", which ONNX Runtime knows and most others do not; for them there is `require_sizes`, and
files of one canvas are always so. (``tests/segmentation/saving/test_export.py``, ``test_export_openvino.py``)

int8 is the float32 graph, quantized: that one is compared with the model, and what quantizing costs is measured on the user's
own images. (:mod:`search`, :mod:`price`; ``tests/segmentation/saving/test_quantized.py``)
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import dense_resnet
from dense_resnet import checkpoints
from dense_resnet.backbone import Backbone
from dense_resnet.checkpoints.provenance import Origin
from dense_resnet.errors import InputError, pluralize
from dense_resnet.inference.compiled import takes_rates
from dense_resnet.inference.precision import AUTO, FLOAT32, INT8
from dense_resnet.inference.runner import Runner
from dense_resnet.inference.tensorflow_runner import CompiledRunner
from dense_resnet.jobs import atomic_files
from segmentation.data.label_space import LabelSpace
from segmentation.model import SegmentationModel
from segmentation.saving.description import description_of, validation_size
from segmentation.saving.export import agreement
from segmentation.saving.export.calibration import Calibration, Calls, canvases_for
from segmentation.saving.export.exported import (
    OPTIONAL,
    REQUIRED,
    Exported,
    Graph,
    head_of,
    least_canvas,
    plan_of,
    shapes_of,
)
from segmentation.saving.export.files import (
    MODULES,
    SUFFIXES,
    check_replaceable,
    check_request,
    is_for_openvino,
    may_be_replaced,
    require,
)
from segmentation.saving.export.foreign_run import ONEDNN, ONNX, OPENVINO, SAVED_MODEL, TFLITE
from segmentation.saving.export.onnx import OnnxGraph, open_onnx
from segmentation.saving.export.price import MAX_DROP, Trial
from segmentation.saving.export.savedmodel import SavedModelGraph, open_saved_model
from segmentation.saving.export.search import find_affordable


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
    calibration: Calibration | None = None,
    max_drop: float = MAX_DROP,
    note: Callable[[str], object] = lambda message: None,
    space: LabelSpace | None = None,
    origin: Origin | None = None,
    training: Mapping[str, Any] | None = None,
) -> tuple[Exported, agreement.Agreement]:
    """Write a network with its current weights, read it back, and compare it with the exact one.

    Args:
        network: its plan names the preprocessing.
        path: a folder for "savedmodel" and "openvino", a file named .onnx for "onnx", .tflite for "tflite". An older export
            there is replaced once the new one has passed; after a kill between those steps it lies next to `path`, and the
            next export restores it.
        images: uint8 RGB ``[height, width, 3]``, photographs to compare on.
        to: "savedmodel", "onnx", "openvino" or "tflite".
        precision: "float32", "bfloat16", "int8", or "auto": what this processor is fast in, without images of yours; for
            "onnx" and "tflite" float32.
        side: of the only canvas that it will take; None takes any, and is not for "tflite".
        onednn: lets a SavedModel have operators that TensorFlow runs with oneDNN alone: one for each atrous depthwise
            convolution, where every TensorFlow needs three. Off x86, and with TF_ENABLE_ONEDNN_OPTS=0, it does not run then.
        require_sizes: makes `sizes` of an ONNX file that takes any canvas an input that must be given, for runtimes without
            optional inputs, such as OpenVINO and TensorRT.
        calibration: for int8, images like those that the network will see.
        max_drop: of mean IoU in int8, if the calibration has labels.
        note: called with messages about what stays in float32.
        space: the classes of a segmentation model.
        origin, training: for the record, as :func:`segmentation.saving.model_directory.save_model`.

    Returns:
        The export as it was read back, and how it compares; in int8, how its graph does before it is quantized. What that
        costs is ``description["price"]`` (:class:`segmentation.saving.export.price.Price`).

    Raises:
        InputError: an argument does not fit, a package is missing, something else is at `path`, the folder cannot be
            written to, or the export differs from the model by more than TOLERANCES, here or in a fresh process, or does not
            run there, or int8 costs too much; then nothing has changed.
    """
    path = Path(path)
    plan, head = plan_of(network), head_of(network)
    precision = check_request(
        plan, path, to, precision, side, onednn=onednn, require_sizes=require_sizes, calibrated=calibration is not None
    )
    if onednn and not takes_rates(tf.as_dtype(precision)):
        raise InputError(f"onednn: this TensorFlow runs without oneDNN. Where the processor is an x86, set {ONEDNN}=1.")
    if head and (space is None or space.num_classes != head.num_classes):
        raise InputError(f"space must name the {pluralize(head.num_classes, 'class')} of the model.")
    if calibration:
        calibration.check_classes(space)
    if side and side < (least := least_canvas(plan, head)):
        raise InputError(f"size must be at least {least}: the head takes the image's mean over windows of that many pixels.")
    weights = network.weights
    atomic_files.probe_folder(path.parent, sum(value.nbytes for value in weights.values()))
    known: dict[str, Any] = {"precision": FLOAT32 if precision == INT8 else precision, "side": side}
    if head:  # a backbone's runner takes the fingerprint itself, and needs oneDNN for nothing
        known["weights_sha256"] = checkpoints.fingerprint(weights)
    del weights
    canvases = canvases_for(plan, head, side, validation_size(training or {}))
    calls = Calls(calibration.ranges, plan, canvases) if calibration else None
    graph: Graph
    if to == OPENVINO:
        from segmentation.saving.export.openvino import OpenVINOGraph

        graph = OpenVINOGraph(network.runner(engine=OPENVINO, winograd=precision != INT8, **known), calls)
    else:
        known |= {"onednn": onednn} if head else {}
        runner = network.runner(portable=True, **known)
        assert isinstance(runner, CompiledRunner)  # no export is exact
        if to == ONNX:
            graph = OnnxGraph(runner, shapes_of(plan, head, side), calls, path)
        elif to == TFLITE:
            from segmentation.saving.export.tflite import TFLiteGraph

            graph = TFLiteGraph(runner, calls)
        else:
            graph = SavedModelGraph(runner, onednn)
    required = to == OPENVINO or (to in SUFFIXES and (require_sizes or side is not None))
    description = description_of(network, space, origin=origin, training=training) | {
        "export": to,
        "weights_sha256": graph.runner.weights_sha256,
        "precision": precision,
        "side": side,
        "sizes": REQUIRED if required else OPTIONAL,
        "outputs": graph.runner.names,
        **graph.description,
        "versions": {"dense_resnet": dense_resnet.__version__, **_versions(to, precision)},
    }
    checked: list[tuple[Exported, agreement.Agreement]] = []

    def quantize() -> tuple[agreement.Agreement, Runner]:
        assert calibration
        found = agreement.check_alike(path, graph.runner, network, images)
        affordable = find_affordable(path, graph, plan, head, Trial(graph.runner, head, calibration, canvases), max_drop, note)
        description["quantization"] = {**calibration.as_json(), "float32": dict(affordable.kept)}
        description["price"] = affordable.price.as_json()
        return found, affordable.runner

    def check(written: Path) -> None:
        opened = _open(written, to)
        if quantized:
            found, runner = quantized
            agreement.check_read_back(path, opened, runner, images)
        else:
            found = agreement.check_alike(path, opened.network, network, images)
        agreement.check_elsewhere(written, path, opened, images)
        check_replaceable(path, to)  # once more: that took a while
        checked.append((dataclasses.replace(opened, path=path), found))

    if to in SUFFIXES:
        with atomic_files.replace_file(path, check) as temporary:
            quantized = quantize() if precision == INT8 else None
            graph.write(temporary, description)
    else:
        with atomic_files.replace_folder(path, lambda there: may_be_replaced(there, to)) as temporary:
            quantized = quantize() if precision == INT8 else None
            graph.write(temporary, description)
            check(temporary)
    return checked[0]


def _versions(to: str, precision: str) -> dict[str, str]:
    """Return the versions of what an export is made by."""
    used = {
        SAVED_MODEL: ["tensorflow"],
        ONNX: ["tensorflow", "tf2onnx", "onnx"],
        OPENVINO: ["openvino"],
        TFLITE: ["tensorflow", "ai-edge-litert"],
    }[to]
    if precision == INT8:
        used += {OPENVINO: ["nncf"], ONNX: ["onnxruntime"], TFLITE: []}[to]
    return {name: importlib.metadata.version(name) for name in used}


def open_exported(path: str | os.PathLike[str]) -> Exported:
    """Read an export of :func:`export`.

    A SavedModel is a program, and TensorFlow runs everything in it. So before anything runs, the digest must fit, which finds
    damage and the files of other programs, and the graph may consist of OPS only, none of which touches a file, the network
    or other code. The others have no operators that do, but a forged ONNX file may name further files to read weights from,
    below the working directory. The digest is not a signature: a forged export can hold any weights, use up memory and time,
    and exploit holes in the readers and kernels of what runs it. Open only what you trust that far.

    Raises:
        InputError: the file is missing, damaged, or was not written by :func:`export`, or its runtime is missing.
    """
    path = Path(path)
    if path.is_dir():
        return _open(path, OPENVINO if is_for_openvino(path) else SAVED_MODEL)
    return _open(path, TFLITE if path.suffix == SUFFIXES[TFLITE] else ONNX)


def _open(path: Path, kind: str) -> Exported:
    try:
        if kind == OPENVINO:
            require(*MODULES[OPENVINO])
            from segmentation.saving.export.openvino import open_openvino

            return open_openvino(path)
        if kind == TFLITE:
            require(*MODULES[TFLITE])
            from segmentation.saving.export.tflite import open_tflite

            return open_tflite(path)
        return open_onnx(path) if kind == ONNX else open_saved_model(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
