"""Networks as files for other programs: a TensorFlow SavedModel, or ONNX. Each is compared with the model before it is kept.

The written graph is the one that the tools run (:class:`tensorflow_runner.CompiledRunner`): uint8 images go in, and
preprocessing, padding, enlarging and the choice of classes are inside. A description lets an export take a model directory's
place.

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

No input of an ONNX file is an initializer, of which ONNX Runtime would warn and which OpenVINO would hide. An input that may
be omitted is of the type "optional", which ONNX Runtime knows and most others do not; for them there is `require_sizes`, and
files of one canvas are always so. (``tests/segmentation/saving/test_export.py``)
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
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
from dense_resnet.inference.precision import AUTO
from dense_resnet.inference.tensorflow_runner import CompiledRunner
from dense_resnet.jobs import atomic_files
from segmentation.data.label_space import LabelSpace
from segmentation.model import SegmentationModel
from segmentation.saving.description import description_of
from segmentation.saving.export import agreement
from segmentation.saving.export.exported import OPTIONAL, REQUIRED, Exported, head_of, least_canvas, plan_of, shapes_of
from segmentation.saving.export.files import check_replaceable, check_request, may_be_replaced
from segmentation.saving.export.foreign_run import ONEDNN, ONNX, SAVED_MODEL
from segmentation.saving.export.onnx import open_onnx, write_onnx
from segmentation.saving.export.savedmodel import needs_onednn, open_saved_model, write_saved_model


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
) -> tuple[Exported, agreement.Agreement]:
    """Write a network with its current weights, read it back, and compare it with the exact one.

    Args:
        network: its plan names the preprocessing.
        path: a folder for "savedmodel", a file named .onnx for "onnx". An older export there is replaced once the new one has
            passed; after a kill between those steps it lies next to `path`, and the next export restores it.
        images: uint8 RGB ``[height, width, 3]``, photographs to compare on.
        to: "savedmodel" or "onnx".
        precision: "float32", "bfloat16", or "auto": what this processor is fast in; for "onnx" float32.
        side: of the only canvas that it will take; None takes any size.
        onednn: lets a SavedModel have operators that TensorFlow runs with oneDNN alone: one for each atrous depthwise
            convolution, where every TensorFlow needs three. Off x86, and with TF_ENABLE_ONEDNN_OPTS=0, it does not run then.
        require_sizes: makes `sizes` of an ONNX file that takes any canvas an input that must be given, for runtimes without
            optional inputs, such as OpenVINO and TensorRT.
        space: the classes of a segmentation model.
        origin, training: for the record, as :func:`segmentation.saving.model_directory.save_model`.

    Returns:
        The export as it was read back, and how it compares.

    Raises:
        InputError: an argument does not fit, a package is missing, something else is at `path`, the folder cannot be
            written to, or the export differs from the model by more than TOLERANCES, here or in a fresh process, or does not
            run there; then nothing has changed.
    """
    path = Path(path)
    plan = plan_of(network)
    precision = check_request(plan, path, to, precision, side, onednn=onednn, require_sizes=require_sizes)
    if onednn and not takes_rates(tf.as_dtype(precision)):
        raise InputError(f"onednn: this TensorFlow runs without oneDNN. Where the processor is an x86, set {ONEDNN}=1.")
    head = head_of(network)
    if head and (space is None or space.num_classes != head.num_classes):
        raise InputError(f"space must name the {pluralize(head.num_classes, 'class')} of the model.")
    if side and side < (least := least_canvas(plan, head)):
        raise InputError(f"size must be at least {least}: the head takes the image's mean over windows of that many pixels.")
    weights = network.weights
    atomic_files.probe_folder(path.parent, sum(value.nbytes for value in weights.values()))
    known: dict[str, Any] = {}  # a backbone's runner takes the fingerprint itself, and needs oneDNN for nothing
    if head:
        known = {"weights_sha256": checkpoints.fingerprint(weights), "onednn": onednn}
    del weights
    compiled = network.runner(precision, side=side, portable=True, **known)
    assert isinstance(compiled, CompiledRunner)  # no export is exact
    onednn = onednn and any(map(needs_onednn, compiled.graph.as_graph_def().node))  # fcn and backbones have no such operator
    required = to == ONNX and (require_sizes or side is not None)
    used = ("tensorflow", "tf2onnx", "onnx") if to == ONNX else ("tensorflow",)
    description = description_of(network, space, origin=origin, training=training) | {
        "export": to,
        "weights_sha256": compiled.weights_sha256,
        "precision": precision,
        "side": side,
        "onednn": onednn,
        "sizes": REQUIRED if required else OPTIONAL,
        "outputs": compiled.names,
        "versions": {"dense_resnet": dense_resnet.__version__, **{name: importlib.metadata.version(name) for name in used}},
    }
    checked: list[tuple[Exported, agreement.Agreement]] = []

    def check(written: Path) -> None:
        opened = open_exported(written)
        found, most = agreement.compare(opened.network, network, images), agreement.TOLERANCES[precision]
        if not found.within(most):
            raise InputError(
                f"{path}: not written, because the export is not the model: {found}. At most {most.feature_error:g} of their "
                f"std and at least {most.label_agreement:.1%} are right in {precision}. {most.advice}"
            )
        agreement.check_elsewhere(written, path, opened, images)
        check_replaceable(path, to)  # once more: that took a while
        checked.append((dataclasses.replace(opened, path=path), found))

    if to == SAVED_MODEL:
        with atomic_files.replace_folder(path, lambda there: may_be_replaced(there, to)) as folder:
            write_saved_model(folder, compiled, description)
            check(folder)
    else:
        with atomic_files.replace_file(path, check) as temporary:
            write_onnx(temporary, compiled, description, shapes_of(plan, head, side))
    return checked[0]


def open_exported(path: str | os.PathLike[str]) -> Exported:
    """Read an export of :func:`export`.

    A SavedModel is a program, and TensorFlow runs everything in it. So before anything runs, the digest must fit, which finds
    damage and the files of other programs, and the graph may consist of OPS only, none of which touches a file, the network
    or other code. ONNX has no operators that do, but a forged file may name further files to read weights from, below the
    working directory. The digest is not a signature: a forged export can hold any weights, use up memory and time, and exploit
    holes in the readers and kernels of TensorFlow and ONNX Runtime. Open only what you trust that far.

    Raises:
        InputError: the file is missing, damaged, or was not written by :func:`export`, or onnxruntime is missing.
    """
    path = Path(path)
    try:
        return open_saved_model(path) if path.is_dir() else open_onnx(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
