"""The networks that a forward pass is timed by, ours and others', each run as its framework does best, in its own process.

All compute the same on the same weights, except timm if the plan is not ``resnet_v1_5_N``: its units are as many and as wide,
with the stride in other convolutions. OpenVINO and ONNX Runtime get our folded float32 graph as an ONNX file with a fixed
image shape, or an 8-bit graph made of it. What is timed: tools/benchmarking/README.md.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.inference import cpu
from dense_resnet.inference.precision import AUTO, choose_precision
from dense_resnet.planning.plan import Plan

from . import hardware, network_files
from .worker_process import Process
from .workload import BFLOAT16, FLOAT32, INT8, Array, Run, Workload

OURS = TENSORFLOW, OPENVINO, OPENVINO_INT8 = "tensorflow", "openvino", "openvino-int8"
USUAL = (TENSORFLOW, OPENVINO)  # of ours, that take part unasked
TORCHVISION = ("", ".transforms", ".transforms.functional", ".datasets", ".ops", ".ops.misc")  # what timm imports of it
TORCH_STRIDES = (8, 16, 32)
HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}  # OpenVINO's names
CACHE_VARIABLE = "DENSE_RESNET_CACHE"


# --------------------------------------------------------------------------------------------------------------------
# TensorFlow


def tensorflow(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    from dense_resnet.verification.laws import backbone_with

    backbone, images = backbone_with(case.plan, weights), case.images()
    weights.clear()  # the backbone has them
    compiled = backbone.compile(precision, engine=TENSORFLOW, output=case.output)
    return lambda: compiled(images)


def function(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    import tensorflow as tf

    from dense_resnet.verification.laws import backbone_with

    backbone = backbone_with(case.plan, weights)
    return _trace_network(backbone.logits if case.plan.logits else backbone, tf.constant(case.images()))


def keras(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    """Run our Keras face: Keras Applications has no output_stride."""
    import tensorflow as tf

    from dense_resnet import keras_resnet

    shape = (case.size, case.size, case.plan.in_channels)
    model = keras_resnet.build(case.plan, input_shape=shape, weights=weights)
    return _trace_network(functools.partial(model, training=False), tf.constant(case.images()))


def _trace_network(network: Callable[[Any], Any], images: Any) -> Run:
    import tensorflow as tf

    traced = tf.function(network, autograph=False).get_concrete_function(tf.TensorSpec(images.shape, tf.float32))
    return lambda: traced(images).numpy()


def slim(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    import tensorflow as tf

    from dense_resnet.compat import slim as layers
    from dense_resnet.verification.parity import slim_network

    v1, plan, images = tf.compat.v1, case.plan, case.images()
    network = slim_network(plan)
    from tf_slim.nets import resnet_utils

    with tf.Graph().as_default() as graph, layers.arg_scope(resnet_utils.resnet_arg_scope()):
        placeholder = v1.placeholder(tf.float32, images.shape)
        net, _ = network(
            placeholder, plan.num_classes, is_training=False, global_pool=bool(plan.logits), output_stride=plan.output_stride
        )
        if plan.logits:
            net = tf.squeeze(net, [1, 2])
        initial = {variable.initializer: weights[variable.op.name] for variable in v1.global_variables()}
    session = v1.Session(graph=graph)
    session.run(list(initial), {assign.inputs[1]: value for assign, value in initial.items()})
    return lambda: session.run(net, {placeholder: images})


# --------------------------------------------------------------------------------------------------------------------
# PyTorch


def timm_name(plan: Plan) -> str:
    """Return the name of timm's network for a plan; raise an :class:`InputError` if it has none."""
    family, _, depth = plan.name.removesuffix("_original").rpartition("_")
    known = {"resnet_v2": "resnetv2_", "resnet_v1": "resnet", "resnet_v1_5": "resnet"}
    depths = (18, 34, 50, 101, 152) if family == "resnet_v2" else (18, 34, 50, 101, 152, 200)
    fits = family in known and depth in map(str, depths)
    if not fits or plan.multi_grid or plan.output_stride not in TORCH_STRIDES:
        raise InputError(f"timm has no {_describe(plan)} to compare with: leave timm out of --versus.")
    return known[family] + depth


def torchvision_absence(plan: Plan) -> str | None:
    """Return why torchvision does not have a plan's network; None if it does."""
    plain = has_torch_weights(plan) and not plan.multi_grid and plan.output_stride in TORCH_STRIDES and plan.in_channels == 3
    dilates = "_18" not in plan.name and "_34" not in plan.name
    return None if plain and (dilates or plan.output_stride == 32) else f"it has no {_describe(plan)}"


def _describe(plan: Plan) -> str:
    return f"{plan.name} at output_stride {plan.output_stride}{' with multi_grid' if plan.multi_grid else ''}"


def has_torch_weights(plan: Plan) -> bool:
    """Return whether PyTorch's network is the same, so that its features must be the same too."""
    return plan.name.startswith("resnet_v1_5_")


def timm(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    import timm as models

    plan = case.plan
    model = models.create_model(
        timm_name(plan), num_classes=plan.num_classes or 0, in_chans=plan.in_channels, output_stride=plan.output_stride
    )
    return _run_torch(model, model if plan.logits else model.forward_features, case, weights, precision)


def torchvision(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    import torch
    from torchvision import models

    plan = case.plan
    dilated = [stride > plan.output_stride for stride in TORCH_STRIDES]  # of the last three blocks
    make = getattr(models, plan.name.replace("resnet_v1_5_", "resnet"))
    model = make(weights=None, num_classes=plan.num_classes or 1, replace_stride_with_dilation=dilated)
    forward = model if plan.logits else torch.nn.Sequential(*list(model.children())[:-2])  # without pooling and classifier
    return _run_torch(model, forward, case, weights, precision)


def _run_torch(model: Any, forward: Any, case: Workload, weights: dict[str, Array], precision: str) -> Run:
    """Return a run of `forward`, a part of `model`, which gets our weights if it is the same network."""
    import torch

    from dense_resnet.checkpoints.names import torch_resnet

    torch.set_num_threads(cpu.cores())
    if has_torch_weights(case.plan):
        state = model.state_dict()  # with counts of batches, which stay
        for ours, theirs in torch_resnet.names(case.plan).items():
            value = torch.from_numpy(weights[ours])
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value  # [depth out, depth in, height, width]
            state[theirs] = value.reshape(state[theirs].shape)  # a classifier has no height and width
        model.load_state_dict(state)
    dtype = getattr(torch, precision)
    model.eval().to(dtype=dtype, memory_format=torch.channels_last)
    images = torch.from_numpy(case.images()).permute(0, 3, 1, 2).to(dtype=dtype, memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: forward(images))


def _from_torch(output: Any) -> Array:
    values: Array = output.float().numpy()
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


# --------------------------------------------------------------------------------------------------------------------
# OpenVINO's operators, and runtimes of files


def openvino(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    """Run what `compile` runs, in a process without TensorFlow."""
    from dense_resnet.inference.openvino import compile_backbone

    images, run = case.images(), compile_backbone(case.plan, weights, precision, case.output)
    return lambda: run(images)


def openvino_file(case: Workload, weights: dict[str, Array], precision: str, file: Path) -> Run:
    import openvino as runtime

    hints = {"PERFORMANCE_HINT": "LATENCY"}
    if precision in HINTS:  # of 8 bits, OpenVINO itself chooses how the rest is computed
        hints["INFERENCE_PRECISION_HINT"] = HINTS[precision]
    request = runtime.Core().compile_model(str(file), "CPU", hints).create_infer_request()
    images = case.images()
    return lambda: request.infer([images], share_inputs=True, share_outputs=True)[0]


def onnxruntime(case: Workload, weights: dict[str, Array], precision: str, file: Path) -> Run:
    import onnxruntime as runtime

    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    images = {session.get_inputs()[0].name: case.images()}
    return lambda: session.run(None, images)[0]


# --------------------------------------------------------------------------------------------------------------------
# All of them


@dataclass(frozen=True)
class Competitor:
    """One way of running the network at one precision."""

    name: str
    precision: str
    make: Callable[..., Run]  # of the workload, its weights, the precision, and the file if it reads one
    modules: tuple[str, ...]  # imported before the clock starts; their versions are reported
    as_array: Callable[[Any], Array] = np.asarray  # what it computes, channels last
    write: Callable[[Workload], Path] | None = None  # the file that it reads
    has_cache: bool = False  # its second start finds what the first one compiled

    @property
    def label(self) -> str:
        return f"{self.name} {self.precision}" if self.precision == BFLOAT16 else self.name

    @property
    def is_ours(self) -> bool:
        return self.name in OURS

    def has_our_weights(self, plan: Plan) -> bool:
        return self.make is not timm or has_torch_weights(plan)

    def absence(self, plan: Plan) -> str | None:
        """Return why it cannot take part here; None if it can, should its packages be installed."""
        if self.precision == BFLOAT16 and choose_precision(AUTO) != BFLOAT16:
            return "this processor does not multiply bfloat16 numbers"
        return torchvision_absence(plan) if self.make is torchvision else None


_OURS = ("tensorflow", "dense_resnet.verification.laws")
COMPETITORS = (
    Competitor(TENSORFLOW, FLOAT32, tensorflow, _OURS),
    Competitor(TENSORFLOW, BFLOAT16, tensorflow, _OURS),
    Competitor(OPENVINO, FLOAT32, openvino, ("openvino", "dense_resnet.inference.openvino"), has_cache=True),
    Competitor(OPENVINO, BFLOAT16, openvino, ("openvino", "dense_resnet.inference.openvino"), has_cache=True),
    Competitor(OPENVINO_INT8, INT8, openvino_file, ("openvino",), write=network_files.openvino_int8),
    Competitor("function", FLOAT32, function, _OURS),
    Competitor("slim", FLOAT32, slim, ("tensorflow", "dense_resnet.verification.parity", "tf_slim")),
    Competitor("keras", FLOAT32, keras, ("tensorflow", "keras", "dense_resnet.keras_resnet")),
    Competitor("timm", FLOAT32, timm, ("torch", "timm"), _from_torch),
    Competitor("timm", BFLOAT16, timm, ("torch", "timm"), _from_torch),
    Competitor("torchvision", FLOAT32, torchvision, ("torch", "torchvision"), _from_torch),
    Competitor("torchvision", BFLOAT16, torchvision, ("torch", "torchvision"), _from_torch),
    Competitor("onnxruntime", FLOAT32, onnxruntime, ("onnxruntime",), write=network_files.onnx),
    Competitor("onnxruntime-int8", INT8, onnxruntime, ("onnxruntime",), write=network_files.onnx_int8),
    Competitor("openvino-from-onnx", FLOAT32, openvino_file, ("openvino",), write=network_files.onnx),
    Competitor("openvino-from-onnx", BFLOAT16, openvino_file, ("openvino",), write=network_files.onnx),
    Competitor("openvino-from-onnx-int8", INT8, openvino_file, ("openvino",), write=network_files.openvino_from_onnx_int8),
)
NAMES = tuple(dict.fromkeys(competitor.name for competitor in COMPETITORS if competitor.name not in USUAL))


class Worker:
    """A competitor at work in its process; making it raises an ImportError if its framework is not installed."""

    def __init__(self, competitor: Competitor, case: Workload) -> None:
        self._as_array = competitor.as_array
        if "timm" in competitor.modules and importlib.util.find_spec("torchvision") is None:
            # timm imports it for its data pipelines only
            sys.modules.update({f"torchvision{part}": mock.MagicMock() for part in TORCHVISION})
        modules = {name: importlib.import_module(name) for name in competitor.modules}
        self._versions = {name: str(module.__version__) for name, module in modules.items() if hasattr(module, "__version__")}
        self._imported = hardware.peak_memory()
        os.environ[CACHE_VARIABLE] = str(case.folder / competitor.label)  # empty at first, and not the user's
        arguments: list[Any] = [case, {} if competitor.write else case.weights(), competitor.precision]
        if competitor.write:
            with Process(Writer, competitor.write, case) as writer:  # needs more memory, and other packages
                arguments.append(writer.call("path"))
        start = time.perf_counter()
        self._run = competitor.make(*arguments)
        arguments.clear()  # the weights: each has a copy of its own
        self._first = self._run()
        self._seconds = time.perf_counter() - start
        self._rested = time.process_time()

    def ready(self) -> tuple[float, dict[str, str]]:
        """Return (seconds until its first answer, versions of its packages)."""
        return self._seconds, self._versions

    def take_first(self) -> Array:
        """Return what it computed first, float32, channels last, and forget it."""
        first, self._first = self._first, None
        return np.ascontiguousarray(self._as_array(first), np.float32)

    def run(self) -> tuple[float, float]:
        """Run once; return (seconds of the run, processor seconds used since the last one, during others' turns)."""
        busy = time.process_time() - self._rested
        start = time.perf_counter()
        self._run()
        seconds = time.perf_counter() - start
        self._rested = time.process_time()
        return seconds, busy

    def memory(self) -> tuple[int, int]:
        """Return the peak memory in bytes, of all and when no more than its packages had been imported."""
        return hardware.peak_memory(), self._imported


class Writer:
    """Writes the file that a competitor reads, in a process of its own."""

    def __init__(self, write: Callable[[Workload], Path], case: Workload) -> None:
        self._path = write(case)

    def path(self) -> Path:
        return self._path
