"""The OpenVINO engine: a network from plan and weights in OpenVINO's operators, compiled for this processor.

A graph takes any batch and canvas: OpenVINO plans its memory anew for each new shape, and the results are to the bit those of a
graph that was compiled for that shape. In float32, 3x3 convolutions of deep maps are computed by Winograd's algorithm. The
next process finds the compiled graph in the user's cache folder. (``tests/dense_resnet/inference/test_openvino.py``)
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from dense_resnet.builders.walk import FEATURES, LOGITS, PYRAMID
from dense_resnet.checkpoints import fingerprint
from dense_resnet.inference import cpu, openvino_cache, openvino_layers
from dense_resnet.inference.engines import OPENVINO
from dense_resnet.inference.folded_weights import Weights
from dense_resnet.inference.openvino_layers import Layers
from dense_resnet.inference.precision import BFLOAT16, FLOAT32, INT8, choose_precision
from dense_resnet.inference.runner import IMAGES, SIZES, Outputs, Runner
from dense_resnet.planning.plan import Plan

WINOGRAD = {256: 3}  # m by the least depth of a convolution; shallower ones are faster in the direct way
HINTS = {FLOAT32: "f32", BFLOAT16: "bf16", INT8: "f32"}  # OpenVINO's names, of what is not quantized

Nodes = Mapping[str, Any]

ov.Tensor(np.zeros(1, np.uint8)).data.sum()  # the first look at data, which two threads at once never finish (OpenVINO 2026.4)


class Graph:
    """A graph that is compiled when it is started or first run. Several threads may run it at the same time.

    Args:
        build: returns its parameters and its results, as nodes by name; not called where the graph is cached.
        inputs, outputs: names, in the order of a call's arguments and answers.
        key: all that the nodes depend on, as JSON takes it; None keeps the graph out of the cache.
        streams: runs that are computed at the same time, each with its share of the cores.
    """

    def __init__(
        self,
        build: Callable[[], tuple[Nodes, Nodes]],
        inputs: Sequence[str],
        outputs: Sequence[Any],
        precision: str,
        key: object,
        streams: int = 1,
    ) -> None:
        self._build, self._inputs, self._outputs, self._streams = build, tuple(inputs), tuple(outputs), streams
        self._settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": cpu.cores(),
            "ENABLE_CPU_PINNING": False,  # other processes may be at work
        }
        self._folder = openvino_cache.folder_of([key, self._outputs]) if key else None
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[Any] | None = None

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        requests = self.start()
        request = requests.get()
        try:
            request.infer([np.ascontiguousarray(values) for values in inputs])
            return [np.array(request.get_output_tensor(place).data) for place in range(len(self._outputs))]
        finally:
            requests.put(request)

    def start(self) -> queue.SimpleQueue[Any]:
        """Compile the graph if that is still to be done, and return what runs it."""
        with self._lock:
            if self._requests is None:
                model = self._make_model()
                del self._build  # and the weights that it holds
                _release_freed_memory()
                compiled = ov.Core().compile_model(model, "CPU", self._settings)
                self._requests = queue.SimpleQueue()
                for _ in range(self._streams):
                    self._requests.put(compiled.create_infer_request())
        return self._requests

    def _make_model(self) -> Any:
        """Return the graph as it is cached, or build it."""
        if self._folder and (cached := openvino_cache.read(self._folder)) is not None:
            return cached
        built = make_model(self._build(), self._inputs, self._outputs)
        return openvino_cache.keep(built, self._folder) if self._folder else built


def _release_freed_memory() -> None:
    """Give freed memory back to the system, which glibc else keeps: after building 152 layers, a third of the peak."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def make_model(built: tuple[Nodes, Nodes], inputs: Sequence[str], outputs: Sequence[Any]) -> Any:
    """Return parameters and results, as nodes by name, as a graph with its inputs and outputs in that order."""
    parameters, nodes = built
    return ov.Model([op.result(nodes[name]) for name in outputs], [parameters[name] for name in inputs])


def nodes_of(model: Any) -> tuple[Nodes, Nodes]:
    """Return a graph's parameters and results, as nodes by the names of its inputs and outputs."""
    parameters = {port.get_any_name(): port.get_node() for port in model.inputs}
    return parameters, {port.get_any_name(): port.get_node().input_value(0) for port in model.outputs}


def winograd_of(precision: str) -> dict[int, int]:
    """Return m of Winograd's F(m x m, 3 x 3) by the least depth of a convolution."""
    return WINOGRAD if precision == FLOAT32 else {}


class GraphRunner(Runner):
    """A graph on uint8 images.

    Args:
        build: returns its parameters, :data:`IMAGES` and :data:`SIZES`, and its results, as nodes by name.
        key: as :class:`Graph`.
        of_network: the arguments of :class:`Runner`.
    """

    engine = OPENVINO

    def __init__(self, build: Callable[[], tuple[Nodes, Nodes]], key: object, *of_network: Any) -> None:
        super().__init__(*of_network)
        self._build, self._key = build, key
        self._graphs: dict[tuple[str, ...], Graph] = {}
        self._streams = 1

    def prepare(self, threads: int) -> None:
        if threads != self._streams:
            self._graphs, self._streams = {}, threads

    def _run(self, images: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> Outputs:
        new = Graph(self._build, (IMAGES, SIZES), names, self.precision, self._key, self._streams)
        graph = self._graphs.setdefault(names, new)  # threads may get here at the same time
        return dict(zip(names, graph(images, sizes), strict=True))


class OpenVINORunner(GraphRunner):
    """A network on uint8 images.

    Args:
        build: from the layers, preprocessed canvases of an aligned size, int64 (height, width) of the images array, each
            ``[1]``, and ``[batch or 1, 2]``, those of each image, to the outputs by name.
        names: of the outputs.
        key: all that they depend on besides weights, plan and preprocessing.
        side: of the only canvas that it takes; None takes any.
        winograd: whether convolutions that are faster by it are computed by Winograd's algorithm.
    """

    def __init__(
        self,
        build: Callable[[Layers, Any, tuple[Any, Any], Any], Nodes],
        weights: Weights,
        plan: Plan,
        preprocessing: str,
        precision: str,
        weights_sha256: str,
        names: Sequence[str],
        key: object = None,
        side: int | None = None,
        winograd: bool = True,
    ) -> None:
        precision = choose_precision(precision)
        self._winograd = winograd_of(precision) if winograd else {}

        def build_outputs() -> tuple[Nodes, Nodes]:
            images = op.parameter([-1, side or -1, side or -1, plan.in_channels], np.uint8, name=IMAGES)
            asked = op.parameter([-1, 2], np.int32, name=SIZES)
            sizes = op.convert(asked, "i64")
            canvases = openvino_layers.canvases(images, sizes, plan, preprocessing)
            canvas = openvino_layers.length(images, 1), openvino_layers.length(images, 2)
            return {IMAGES: images, SIZES: asked}, build(Layers(weights, self._winograd), canvases, canvas, sizes)

        of_all = [weights_sha256, repr(plan), preprocessing, repr(key), self._winograd, side]
        super().__init__(build_outputs, of_all, plan, preprocessing, precision, weights_sha256, names, side)

    @property
    def engine_protocol(self) -> dict[str, Any]:
        return {"name": self.engine, "winograd": {str(depth): m for depth, m in self._winograd.items()}}

    def make_model(self) -> Any:
        """Return the graph of all outputs, for a file; each of its nodes has a name that is the same in every run."""
        model = make_model(self._build(), (IMAGES, SIZES), self.names)
        model.set_friendly_name(self.plan.name)
        for port, name in zip((*model.inputs, *model.outputs), (IMAGES, SIZES, *self.names), strict=True):
            port.get_tensor().set_names({name})
        seen = set()
        for number, node in enumerate(model.get_ordered_ops()):
            name = node.get_friendly_name()
            if name == node.get_name():  # it has none, and this one counts what the process has made
                name = f"{node.get_type_name()}_{number}"
            node.set_friendly_name(f"{name}_{number}" if name in seen else name)
            seen.add(name)
        return model


def compile_backbone(
    plan: Plan, weights: Weights, precision: str, output: str
) -> Callable[[np.ndarray], np.ndarray | dict[int, np.ndarray]]:
    """Return a backbone as a function of preprocessed images: see :meth:`dense_resnet.Backbone.compile`."""

    def build(layers: Layers, images: Any) -> dict[Any, Any]:
        found = openvino_layers.network(layers, plan, images, pyramid=output == PYRAMID)
        if output == LOGITS:
            return {output: openvino_layers.channels_alone(found.logits)}
        maps = found.pyramid if output == PYRAMID else {output: found.features}
        return {name: openvino_layers.channels_last(values) for name, values in maps.items()}

    names = tuple(plan.pyramid) if output == PYRAMID else (output,)
    run = compile_function(build, names, weights, plan, precision, output)
    return run if output == PYRAMID else lambda images: run(images)[output]


def backbone_runner(
    plan: Plan,
    weights: Weights,
    precision: str,
    weights_sha256: str,
    finer: Mapping[str, int],
    side: int | None,
    winograd: bool,
) -> OpenVINORunner:
    """Return a backbone as a runner of decoded images, with finer activations of its pyramid by name."""

    def build(layers: Layers, canvases: Any, canvas: Any, sizes: Any) -> dict[str, Any]:
        found = openvino_layers.network(layers, plan, canvases, pyramid=bool(finer))
        wanted = {FEATURES: found.features} | {name: found.pyramid[stride] for name, stride in finer.items()}
        return {name: openvino_layers.channels_last(values) for name, values in wanted.items()}

    known = weights_sha256, (FEATURES, *finer)
    return OpenVINORunner(build, weights, plan, plan.preprocessing, precision, *known, side=side, winograd=winograd)


def compile_function(
    build: Callable[[Layers, Any], Nodes], names: Sequence[Any], weights: Weights, plan: Plan, precision: str, key: object
) -> Callable[[np.ndarray], dict[Any, np.ndarray]]:
    """Return a network as a function of preprocessed images ``[batch, height, width, channels]`` float32.

    Args:
        build: from the layers and the images to the outputs by name.
        names: of the outputs.
        key: all that they depend on besides plan and weights.
    """

    def build_graph() -> tuple[Nodes, Nodes]:
        images = op.parameter([-1, -1, -1, plan.in_channels], np.float32, name=IMAGES)
        return {IMAGES: images}, build(Layers(weights, winograd_of(precision)), images)

    known = [fingerprint(weights), repr(plan), repr(key), winograd_of(precision)]
    graph = Graph(build_graph, (IMAGES,), names, precision, known)
    graph.start()
    return lambda images: dict(zip(names, graph(images), strict=True))
