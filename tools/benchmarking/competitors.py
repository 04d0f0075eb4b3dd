"""The networks that a forward pass is timed against, each run as its framework does best, in its own process.

All compute the same on the same weights, except timm if the plan is not ``resnet_v1_5_N``: its units are as many and as wide,
with the stride in other convolutions. OpenVINO and ONNX Runtime get our folded float32 graph as an ONNX file with a fixed
image shape. What is timed: tools/benchmarking/README.md.
"""

from __future__ import annotations

import functools
import importlib.util
import math
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
from dense_resnet.planning.plan import Plan

from . import hardware
from .worker_process import Process

PRECISIONS = FLOAT32, BFLOAT16 = "float32", "bfloat16"
OWN = "dense_resnet"
TORCHVISION = ("", ".transforms", ".transforms.functional", ".datasets", ".ops", ".ops.misc")  # what timm imports of it
TIMM_STRIDES = (8, 16, 32)
ONNX = "network.onnx"

Run = Callable[[], Any]
Array = np.ndarray


@dataclass(frozen=True)
class Workload:
    """What every competitor has to compute."""

    plan: Plan  # with classes: compute their logits, else the features
    size: int  # side of the images
    batch: int
    folder: Path  # for files that competitors read

    @property
    def output(self) -> str:
        return "logits" if self.plan.logits else "features"

    def images(self) -> Array:
        """Return ``[batch, size, size, channels]`` float32."""
        shape = (self.batch, self.size, self.size, self.plan.in_channels)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def weights(self) -> dict[str, Array]:
        """Return weights by canonical name, the same in every process; no batch norm statistic is trivial."""
        generator = np.random.default_rng(0)
        values = {}
        for name, shape, _ in self.plan.variables:
            noise: Array = generator.standard_normal(shape, np.float32)
            leaf = name.rpartition("/")[2]
            if leaf == "weights":
                noise *= 1 / math.sqrt(math.prod(shape[:-1]))
            elif leaf == "gamma":
                noise = 1 + 0.2 * noise
                noise[::5] *= -1
            elif leaf == "moving_variance":
                noise = 1 + 0.2 * np.abs(noise)
            else:
                noise *= 0.1
            values[name] = noise
        return values


# --------------------------------------------------------------------------------------------------------------------
# TensorFlow


def own(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    from dense_resnet.verification.laws import backbone_with

    images, compiled = case.images(), backbone_with(case.plan, weights).compile(precision, output=case.output)
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
    if not fits or plan.multi_grid or plan.output_stride not in TIMM_STRIDES:
        what = f"{plan.name} at output_stride {plan.output_stride}{' with multi_grid' if plan.multi_grid else ''}"
        raise InputError(f"timm has no {what} to compare with: leave timm out of --versus.")
    return known[family] + depth


def has_timms_weights(plan: Plan) -> bool:
    """Return whether timm's network is the same, so that its features must be the same too."""
    return plan.name.startswith("resnet_v1_5_")


def timm(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    import timm as models
    import torch

    from dense_resnet.checkpoints.names import torch_resnet

    plan = case.plan
    torch.set_num_threads(cpu.cores())
    model = models.create_model(
        timm_name(plan), num_classes=plan.num_classes or 0, in_chans=plan.in_channels, output_stride=plan.output_stride
    )
    if has_timms_weights(plan):
        state = model.state_dict()  # with counts of batches, which stay
        for ours, theirs in torch_resnet.names(plan).items():
            value = torch.from_numpy(weights[ours])
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value  # [depth out, depth in, height, width]
            state[theirs] = value.reshape(state[theirs].shape)  # a classifier has no height and width
        model.load_state_dict(state)
    dtype = getattr(torch, precision)
    model = model.eval().to(dtype=dtype, memory_format=torch.channels_last)
    images = torch.from_numpy(case.images()).permute(0, 3, 1, 2).to(dtype=dtype, memory_format=torch.channels_last)
    forward = model if plan.logits else model.forward_features
    return torch.inference_mode()(lambda: forward(images))


def _from_torch(output: Any) -> Array:
    values: Array = output.float().numpy()
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


# --------------------------------------------------------------------------------------------------------------------
# Runtimes of ONNX


def write_onnx(case: Workload, path: Path) -> None:
    """Write our folded float32 graph with a fixed image shape."""
    import tensorflow as tf
    import tf2onnx

    from dense_resnet.inference import folding

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        images = v1.placeholder(tf.float32, case.images().shape, name="images")
        layers = folding.Layers(case.weights(), FLOAT32)
        tf.identity(getattr(folding.network(layers, case.plan, images), case.output), name="output")
    tf2onnx.convert.from_graph_def(
        graph.as_graph_def(), input_names=["images:0"], output_names=["output:0"], opset=17, output_path=str(path)
    )


def openvino(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    import openvino as runtime

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": {FLOAT32: "f32", BFLOAT16: "bf16"}[precision]}
    request = runtime.Core().compile_model(str(case.folder / ONNX), "CPU", hints).create_infer_request()
    images = case.images()
    return lambda: request.infer([images], share_inputs=True, share_outputs=True)[0]


def onnxruntime(case: Workload, weights: dict[str, Array], precision: str) -> Run:
    import onnxruntime as runtime

    session = runtime.InferenceSession(str(case.folder / ONNX), providers=["CPUExecutionProvider"])
    images = {session.get_inputs()[0].name: case.images()}
    return lambda: session.run(None, images)[0]


# --------------------------------------------------------------------------------------------------------------------
# All of them


@dataclass(frozen=True)
class Competitor:
    """One way of running the network at one precision."""

    name: str
    precision: str
    make: Callable[[Workload, dict[str, Array], str], Run]
    modules: tuple[str, ...]  # imported before the clock starts; their versions are reported
    as_array: Callable[[Any], Array] = np.asarray  # what it computes, channels last
    onnx: bool = False  # reads our ONNX file

    @property
    def label(self) -> str:
        return self.name if self.precision == FLOAT32 else f"{self.name} {self.precision}"

    def has_our_weights(self, plan: Plan) -> bool:
        return self.make is not timm or has_timms_weights(plan)


COMPETITORS = (
    Competitor(OWN, FLOAT32, own, ("tensorflow", "dense_resnet.verification.laws")),
    Competitor(OWN, BFLOAT16, own, ("tensorflow", "dense_resnet.verification.laws")),
    Competitor("function", FLOAT32, function, ("tensorflow", "dense_resnet.verification.laws")),
    Competitor("slim", FLOAT32, slim, ("tensorflow", "dense_resnet.verification.parity", "tf_slim")),
    Competitor("keras", FLOAT32, keras, ("tensorflow", "keras", "dense_resnet.keras_resnet")),
    Competitor("timm", FLOAT32, timm, ("torch", "timm"), _from_torch),
    Competitor("timm", BFLOAT16, timm, ("torch", "timm"), _from_torch),
    Competitor("openvino", FLOAT32, openvino, ("openvino",), onnx=True),
    Competitor("openvino", BFLOAT16, openvino, ("openvino",), onnx=True),
    Competitor("onnxruntime", FLOAT32, onnxruntime, ("onnxruntime",), onnx=True),
)
NAMES = tuple(dict.fromkeys(competitor.name for competitor in COMPETITORS if competitor.name != OWN))


class Worker:
    """A competitor at work in its process; making it raises an ImportError if its framework is not installed."""

    def __init__(self, competitor: Competitor, case: Workload) -> None:
        self._as_array = competitor.as_array
        if "timm" in competitor.modules and importlib.util.find_spec("torchvision") is None:
            # timm imports it for its data pipelines only
            sys.modules.update({f"torchvision{part}": mock.MagicMock() for part in TORCHVISION})
        modules = {name: importlib.import_module(name) for name in competitor.modules}
        self._versions = {name: str(module.__version__) for name, module in modules.items() if hasattr(module, "__version__")}
        if competitor.onnx and not (path := case.folder / ONNX).exists():
            Process(write_onnx, case, path).close()  # neither runtime needs TensorFlow
        weights = {} if competitor.onnx else case.weights()
        start = time.perf_counter()
        self._run = competitor.make(case, weights, competitor.precision)
        self._first = self._run()
        self._seconds = time.perf_counter() - start
        self._rested = time.process_time()

    def ready(self) -> tuple[float, dict[str, str]]:
        """Return (seconds until its first answer, versions of its packages)."""
        return self._seconds, self._versions

    def first(self) -> Array:
        """Return what it computes, float32, channels last."""
        return np.ascontiguousarray(self._as_array(self._first), np.float32)

    def run(self) -> tuple[float, float]:
        """Run once; return (seconds of the run, processor seconds used since the last one, during others' turns)."""
        busy = time.process_time() - self._rested
        start = time.perf_counter()
        self._run()
        seconds = time.perf_counter() - start
        self._rested = time.process_time()
        return seconds, busy

    def peak_memory(self) -> int:
        """Return the peak memory in bytes."""
        return hardware.peak_memory()
