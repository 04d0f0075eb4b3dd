"""A head in OpenVINO's operators, and what a model gives on its images' pixels.

(``tests/segmentation/heads/test_openvino.py``)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from openvino import opset13 as op

from dense_resnet.checkpoints import fingerprint
from dense_resnet.inference import openvino_layers
from dense_resnet.inference.folded_weights import Weights
from dense_resnet.inference.openvino import OpenVINORunner, compile_function
from dense_resnet.inference.openvino_layers import (
    ImageEnds,
    Layers,
    Map,
    channels_last,
    channels_second,
    floats,
    integers,
    length,
)
from dense_resnet.inference.runner import COARSE_LOGITS, FEATURES, LABELS, PROBABILITIES
from dense_resnet.planning import geometry
from dense_resnet.planning.layers import Conv
from dense_resnet.planning.plan import Plan
from segmentation.heads.build import wire_head
from segmentation.heads.plan import IMAGE, SKIP_STRIDE, DepthwiseConv, HeadPlan


def build_outputs(
    layers: Layers, plan: Plan, head: HeadPlan, canvases: Any, canvas: tuple[Any, Any], sizes: Any
) -> dict[str, Any]:
    """Build a model: all that :class:`dense_resnet.inference.runner.Runner` gives of one, by name.

    Args:
        layers: with the weights of the backbone and the head.
        canvases: preprocessed images on canvases of an aligned size.
        canvas: (height, width) of the images array, each ``[1]`` int64.
        sizes: int64 ``[batch or 1, 2]``, (height, width) of each image.
    """
    features, cells = _build_cells(layers, plan, head, canvases, sizes)
    logits = _on_pixels(cells, canvases, canvas)
    highest = op.topk(logits, op.constant(np.int64(1)), 1, "max", "value", "i32", stable=True)  # the lowest class on ties
    labels = op.convert(op.squeeze(highest.output(1), integers(1)), {"uint8": "u8", "uint16": "u16"}[head.label_dtype])
    return {
        FEATURES: channels_last(features),
        COARSE_LOGITS: channels_last(cells),
        LABELS: labels,
        PROBABILITIES: op.transpose(op.softmax(logits, 1), integers(0, 2, 3, 1)),
    }


def _build_cells(
    layers: Layers, plan: Plan, head: HeadPlan, canvases: Any, sizes: Any | None, *, ends: bool = True
) -> tuple[Map, Map]:
    """Build (features, logits of cells).

    Args:
        sizes: of the images; None if they fill their canvases.
        ends: whether all maps end where their images do, not the head's alone.
    """
    alone = sizes is not None and head.canvas == IMAGE
    skip = head.skip.convolutions[-1].scope if head.skip else None
    aligned = ImageEnds(openvino_layers.align(sizes, plan.nominal_stride)) if alone and ends else None
    found = openvino_layers.network(layers, plan, canvases, skip=skip, ends=aligned)
    cells = wire_head(head, _Ops(layers, ImageEnds(sizes) if alone else None), found.features, found.skip)
    if aligned:
        cells = aligned.mask(cells, SKIP_STRIDE if head.skip else head.output_stride)
    return found.features, cells


def _on_pixels(cells: Map, canvases: Any, size: Sequence[Any]) -> Any:
    """Enlarge logits of cells to canvases, and crop them to (height, width); the classes are the second axis."""
    logits = openvino_layers.resize_align_corners(cells, length(canvases, 1), length(canvases, 2)).node
    return op.slice(logits, integers(0, 0), op.concat([*size], 0), integers(1, 1), integers(2, 3))


class _Ops:
    """The :class:`segmentation.heads.build.HeadOps` of this engine."""

    def __init__(self, layers: Layers, ends: ImageEnds | None) -> None:
        self._layers, self._ends = layers, ends
        self.conv = layers.conv

    def depthwise(self, net: Map, layer: DepthwiseConv) -> Map:
        scale, shift = self._layers.scale_and_shift(layer.norm)
        kernel = np.float64(self._layers.weights[f"{layer.scope}/depthwise_weights"]) * scale[:, None]
        pads = [geometry.symmetric_padding(layer.kernel, layer.rate)[0]] * 2
        kernels = floats(kernel.transpose(2, 3, 0, 1)[:, None])
        net = channels_second(net)
        node = op.group_convolution(net.node, kernels, [1, 1], pads, pads, [layer.rate] * 2)
        net = net.then(node).with_name(layer.scope)
        net = net.then(op.add(node, floats(shift.reshape(1, -1, 1, 1)))).with_name(f"{layer.scope}/bias")
        return self._layers.relu(net, layer.scope)

    def mask(self, net: Map, stride: int) -> Map:
        return self._ends.mask(net, stride) if self._ends else net

    def project_mean(self, net: Map, conv: Conv, window: tuple[int, int] | None, stride: int) -> Map:
        net = channels_second(net)
        if window is not None:
            pooled = op.avg_pool(net.node, [1, 1], [0, 0], [0, 0], list(window), True)
            return self._layers.conv(Map(pooled), conv)
        mean = self._layers.mean(net, conv.scope)
        if self._ends:
            share = op.reduce_mean(self._ends.inside(net), integers(2, 3), True)
            mean = mean.then(op.divide(mean.node, share))
        return self._layers.conv(mean, conv)

    def resize(self, net: Map, like: Map) -> Map:
        rows, columns = (op.gather(openvino_layers.size_of(like), integers(axis), integers(0)) for axis in (1, 2))
        return openvino_layers.resize_align_corners(net, rows, columns, like.stride)

    def concat(self, parts: list[Map]) -> Map:
        parts = [channels_second(part) for part in parts]
        return parts[0].then(op.concat([part.node for part in parts], 1))

    def dropout(self, net: Map) -> Map:
        return net


def make_runner(
    weights: Weights,
    plan: Plan,
    head: HeadPlan,
    preprocessing: str,
    precision: str,
    weights_sha256: str,
    side: int | None,
    winograd: bool,
) -> OpenVINORunner:
    """Return a model as a runner of decoded images: see :meth:`segmentation.SegmentationModel.runner`."""

    def build(layers: Layers, canvases: Any, canvas: tuple[Any, Any], sizes: Any) -> dict[str, Any]:
        return build_outputs(layers, plan, head, canvases, canvas, sizes)

    names, sha256 = (FEATURES, COARSE_LOGITS, LABELS, PROBABILITIES), weights_sha256 or fingerprint(weights)
    return OpenVINORunner(build, weights, plan, preprocessing, precision, sha256, names, head, side, winograd)


def compile_model(
    weights: Weights, plan: Plan, head: HeadPlan, precision: str, *, enlarge: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a model as a function of preprocessed images; `enlarge`: see :meth:`segmentation.SegmentationModel.compile`."""
    logits = "pixels" if enlarge else COARSE_LOGITS

    def build(layers: Layers, images: Any) -> dict[str, Any]:
        if not enlarge:
            return {logits: channels_last(_build_cells(layers, plan, head, images, None)[1])}
        size = [length(images, axis) for axis in (1, 2)]
        sizes = op.unsqueeze(op.concat(size, 0), integers(0))
        canvases = openvino_layers.pad_to_canvas(images, plan)
        _, cells = _build_cells(layers, plan, head, canvases, sizes, ends=False)
        return {logits: op.transpose(_on_pixels(cells, canvases, size), integers(0, 2, 3, 1))}

    run = compile_function(build, [logits], weights, plan, precision, [head, logits])
    return lambda images: run(images)[logits]
