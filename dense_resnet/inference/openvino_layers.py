"""A network's layers as OpenVINO's operators, for any size: the :class:`dense_resnet.builders.walk.Ops` of that engine.

Convolutions of OpenVINO have channels in the second axis, matrix products and Winograd's tiles in the last one. A map stays as
the layer before has left it, until a layer needs the other order. In the latter its cells are the rows of a matrix: with four
axes, OpenVINO would take the second for the channels, and move them for every sum.
(``tests/dense_resnet/inference/test_openvino.py``)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from openvino import opset13 as op
from openvino.opset1 import max_pool  # later ones return places too

from dense_resnet.builders import walk
from dense_resnet.inference import winograd
from dense_resnet.inference.folded_weights import FoldedWeights, Weights
from dense_resnet.planning import geometry
from dense_resnet.planning.layers import Conv, Norm, Pool
from dense_resnet.planning.plan import Plan
from dense_resnet.preprocessing import SCHEMES

BELOW_ALL = np.float32(-1e9)  # activations
LARGEST_RATE = 4  # of Winograd's convolutions: the phases of a larger one have so few cells that tiles are mostly empty


@dataclass(frozen=True)
class Map:
    """Activations: ``[batch, depth, rows, columns]``, or a row for each cell, ``[batch * rows * columns, depth]``."""

    node: Any  # of OpenVINO
    size: Any = None  # int64 [3], (batch, rows, columns), if its cells are rows
    stride: int = 1  # pixels from a cell to the next

    @property
    def in_rows(self) -> bool:
        return self.size is not None

    @property
    def depth(self) -> int:
        return int(self.node.get_output_partial_shape(0)[1].get_length())

    def then(self, node: Any) -> Map:
        """Return what `node` makes of it, in the same order and on the same cells."""
        return dataclasses.replace(self, node=node)

    def with_name(self, name: str) -> Map:
        """Name its node after the layer that it is part of, by which layers are found in a graph."""
        self.node.set_friendly_name(name)
        return self


def integers(*values: Any) -> Any:
    return op.constant(np.array(values, np.int64).reshape(-1))


def floats(values: Any) -> Any:
    return op.constant(np.ascontiguousarray(values, np.float32))


def length(node: Any, axis: int) -> Any:
    """Return the length of an axis, ``[1]`` int64."""
    return op.gather(op.shape_of(node, "i64"), integers(axis), integers(0))


def size_of(net: Map) -> Any:
    """Return (batch, rows, columns), ``[3]`` int64."""
    return net.size if net.in_rows else op.gather(op.shape_of(net.node, "i64"), integers(0, 2, 3), integers(0))


def cells_in_rows(net: Map) -> Map:
    if net.in_rows:
        return net
    node = op.reshape(op.transpose(net.node, integers(0, 2, 3, 1)), integers(-1, net.depth), False)
    return Map(node, size_of(net), net.stride)


def channels_last(net: Map) -> Any:
    """Return ``[batch, rows, columns, depth]``."""
    if not net.in_rows:
        return op.transpose(net.node, integers(0, 2, 3, 1))
    return op.reshape(net.node, op.concat([net.size, integers(net.depth)], 0), False)


def channels_second(net: Map) -> Map:
    return Map(op.transpose(channels_last(net), integers(0, 3, 1, 2)), None, net.stride) if net.in_rows else net


def channels_alone(net: Map) -> Any:
    """Return a map of one cell as ``[batch, depth]``."""
    return op.squeeze(channels_second(net).node, integers(2, 3))


class Layers(FoldedWeights):
    """Layers with folded weights.

    Args:
        m: of Winograd's F(m x m, 3 x 3) by the depth of a convolution: the largest depth that is not above it counts.
    """

    def __init__(self, weights: Weights, m: dict[int, int]) -> None:
        super().__init__(weights)
        self._m = m
        self._tilings: dict[tuple[int, int, int], Tiling] = {}

    def conv(self, net: Map, conv: Conv) -> Map:
        kernel, bias = self.fold_batch_norm(conv)
        stride = conv.stride
        if conv.kernel == 1:
            net, stride = self.subsample(net, stride), 1
        m = self._m_of(conv) if conv.kernel == winograd.TAPS and stride == 1 and conv.rate <= LARGEST_RATE else 0
        if m:
            net = cells_in_rows(net)
            net = net.then(convolve_by_winograd(net.node, kernel, m, self._tile(net, m, conv.rate)))
        elif conv.kernel == 1 and net.in_rows:
            net = net.then(op.matmul(net.node, floats(kernel[0, 0]), False, False))
        else:
            pads = geometry.symmetric_padding(conv.kernel, conv.rate)
            net = channels_second(net)
            node = op.convolution(
                net.node, floats(kernel.transpose(3, 2, 0, 1)), [stride] * 2, [pads[0]] * 2, [pads[1]] * 2, [conv.rate] * 2
            )
            net = Map(node, None, net.stride * stride)
        net = net.with_name(conv.scope)
        net = net.then(op.add(net.node, _per_channel(bias, net))).with_name(f"{conv.scope}/bias")
        return self.relu(net, conv.scope) if conv.relu else net

    def _tile(self, net: Map, m: int, rate: int) -> Tiling:
        """Return the tiling of maps at the stride of `net`, which all have one size."""
        key = net.stride, m, rate
        if key not in self._tilings:
            self._tilings[key] = tile(net.size, m, rate)
        return self._tilings[key]

    def _m_of(self, conv: Conv) -> int:
        return next((m for depth, m in sorted(self._m.items(), reverse=True) if min(conv.depth_in, conv.depth) >= depth), 0)

    def norm_relu(self, net: Map, norm: Norm) -> Map:
        scale, shift = (_per_channel(value, net) for value in self.scale_and_shift(norm))
        net = net.then(op.multiply(net.node, scale)).with_name(f"{norm.scope}/scale")
        return self.relu(net.then(op.add(net.node, shift)).with_name(f"{norm.scope}/shift"), norm.scope)

    def pool(self, net: Map, pool: Pool) -> Map:
        node = channels_second(net).node
        before, after, rule = 0, 0, "same_upper"
        if pool.padding != geometry.SAME:
            (before, after), rule = geometry.symmetric_padding(pool.kernel), "explicit"
            if pool.zeros:
                pads = integers(0, 0, before, before), integers(0, 0, after, after)
                node, before, after = op.pad(node, *pads, "constant", op.constant(np.float32(0))), 0, 0
        found = max_pool(node, [pool.stride] * 2, [before] * 2, [after] * 2, [pool.kernel] * 2, "floor", rule)
        return Map(found, None, net.stride * pool.stride).with_name(pool.scope)

    def subsample(self, net: Map, factor: int, scope: str = "") -> Map:
        if factor == 1:
            return net
        node, first = (channels_last(net), 1) if net.in_rows else (net.node, 2)
        for axis in (
            first,
            first + 1,
        ):  # not by a slice with a step, behind which OpenVINO 2026.4 takes the old size for the new
            kept = op.range(_scalar(0), op.squeeze(length(node, axis), integers(0)), _scalar(factor), "i64")
            node = op.gather(node, kept, integers(axis))
        if not net.in_rows:
            return Map(node, None, net.stride * factor)
        size = op.gather(op.shape_of(node, "i64"), integers(0, 1, 2), integers(0))
        return Map(op.reshape(node, integers(-1, net.depth), False), size, net.stride * factor)

    def add(self, shortcut: Map, branch: Map, scope: str) -> Map:
        shortcut = cells_in_rows(shortcut) if branch.in_rows else channels_second(shortcut)
        return branch.then(op.add(shortcut.node, branch.node)).with_name(f"{scope}/sum")

    def relu(self, net: Map, scope: str) -> Map:
        return net.then(op.relu(net.node)).with_name(f"{scope}/relu")

    def mean(self, net: Map, scope: str) -> Map:
        return Map(op.reduce_mean(channels_second(net).node, integers(2, 3), True), None, net.stride)


class ImageEnds:
    """The ends of a batch's maps: what of each the images cover; see :func:`canvas_ops.coverage_mask`.

    Args:
        sizes: int64 ``[batch, 2]``, (height, width) of each image, which begins in the top left corner of its canvas.
    """

    def __init__(self, sizes: Any) -> None:
        self._sizes = sizes
        self._inside: dict[tuple[int, bool], Any] = {}

    def inside(self, net: Map) -> Any:
        """Return 1 for each cell of `net` that an image covers, and 0 for the others, with an axis of one channel."""
        key = net.stride, net.in_rows
        if key not in self._inside:
            size, axes = size_of(net), []
            for axis in (0, 1):
                count = op.squeeze(op.gather(size, integers(axis + 1), integers(0)), integers(0))
                cells = op.range(_scalar(0), count, _scalar(1), "i64")
                before = op.multiply(op.subtract(cells, integers(1)), integers(net.stride))  # the cell before, in pixels
                end = op.subtract(op.gather(self._sizes, integers(axis), integers(1)), integers(1))
                covered = op.convert(op.less(op.unsqueeze(before, integers(0)), end), "f32")
                axes.append(op.unsqueeze(covered, integers(1, 3 - axis)))  # [batch or 1, 1, rows, columns], one of which is 1
            inside = op.multiply(*axes)
            if net.in_rows:
                batch = op.gather(size, integers(0), integers(0))
                inside = op.broadcast(inside, op.concat([batch, integers(1), op.gather(size, integers(1, 2), integers(0))], 0))
                inside = op.reshape(inside, integers(-1, 1), False)
            self._inside[key] = inside
        return self._inside[key]

    def mask(self, net: Map, stride: int, lowest: bool = False) -> Map:
        """Put 0, or a number below all activations, where `net` is beyond the images."""
        inside, name = self.inside(net), f"{net.node.get_friendly_name()}/mask"
        if lowest:
            return net.then(op.select(op.convert(inside, "boolean"), net.node, op.constant(BELOW_ALL))).with_name(name)
        return net.then(op.multiply(net.node, inside)).with_name(name)


def _per_channel(values: np.ndarray, net: Map) -> Any:
    return floats(values.reshape((1, -1) if net.in_rows else (1, -1, 1, 1)))


@dataclass(frozen=True)
class Tiling:
    """How maps of one size are cut into tiles of m x m outputs: see :mod:`dense_resnet.inference.winograd`."""

    reads: Any  # [n * n * tiles] int32: the cell that each place of each tile reads; beyond the map, the one behind the last
    writes: Any  # [cells] int32: where each cell's output is among [m * m * tiles]


def convolve_by_winograd(cells: Any, kernel: np.ndarray, m: int, tiling: Tiling) -> Any:
    """Convolve ``[cells, depth_in]`` by ``[3, 3, depth_in, depth]`` at the rate of `tiling`; return ``[cells, depth]``.

    Between the two gathers, which are all that moves values, there are matrix products alone.
    """
    places, depth_in, depth = (m + winograd.TAPS - 1) ** 2, kernel.shape[2], kernel.shape[3]
    cells = op.concat([cells, floats(np.zeros((1, depth_in)))], 0)
    tiles = op.reshape(op.gather(cells, tiling.reads, integers(0)), integers(places, -1), False)
    inputs = op.reshape(
        op.matmul(floats(winograd.transform_tiles(m)), tiles, False, False), integers(places, -1, depth_in), False
    )
    products = op.matmul(inputs, floats(winograd.transform_kernel(kernel, m)), False, False)
    outputs = op.matmul(floats(winograd.transform_back(m)), op.reshape(products, integers(places, -1), False), False, False)
    return op.gather(op.reshape(outputs, integers(-1, depth), False), tiling.writes, integers(0))


def tile(size: Any, m: int, rate: int) -> Tiling:
    """Tile maps of a size, int64 ``[3]`` of (batch, rows, columns), each phase of the rate by itself."""
    batch, *sides = (op.gather(size, integers(axis), integers(0)) for axis in range(3))
    rows, columns = (_cut_axis(side, m, rate) for side in sides)
    numbers = _axis(op.range(_scalar(0), op.squeeze(batch, integers(0)), _scalar(1), "i64"), 2)
    row_reads, column_reads = _axis(rows.reads, 0, 3), _axis(columns.reads, 1, 4)  # of [n, n, batch, tiles down, tiles across]
    reads = op.add(op.multiply(op.add(op.multiply(numbers, sides[0]), row_reads), sides[1]), column_reads)
    inside = op.logical_and(_within(row_reads, sides[0]), _within(column_reads, sides[1]))
    cells = op.multiply(op.multiply(batch, sides[0]), sides[1])
    reads = op.select(inside, reads, cells)
    numbers = op.reshape(numbers, integers(-1, 1, 1), False)  # of [batch, rows, columns]
    row_place, row_tile = (op.unsqueeze(values, integers(0, 2)) for values in (rows.place, rows.tile))
    place = op.add(op.multiply(row_place, integers(m)), columns.place)
    tiles = op.multiply(op.add(op.multiply(op.add(op.multiply(place, batch), numbers), rows.tiles), row_tile), columns.tiles)
    writes = op.add(tiles, columns.tile)
    return Tiling(*(op.convert(op.reshape(values, integers(-1), False), "i32") for values in (reads, writes)))


class _Axis(NamedTuple):
    """An axis, cut into tiles."""

    reads: Any  # [n, tiles]: cells, of which those beyond the axis do not exist
    tiles: Any  # [1], their number
    tile: Any  # of each cell, whose output it is
    place: Any  # and where in it


def _cut_axis(count: Any, m: int, rate: int) -> _Axis:
    """Cut an axis of `count` cells into tiles of m outputs that lie `rate` cells apart; each phase has equally many."""
    of_phase = op.divide(op.add(count, integers(rate * m - 1)), integers(rate * m))
    starts = op.multiply(op.range(_scalar(0), op.squeeze(of_phase, integers(0)), _scalar(1), "i64"), integers(rate * m))
    starts = op.reshape(op.add(op.constant(np.arange(rate)[:, None]), starts), integers(1, -1), False)
    reads = op.add(starts, op.constant(rate * (np.arange(m + winograd.TAPS - 1)[:, None] - 1)))
    cells = op.range(_scalar(0), op.squeeze(count, integers(0)), _scalar(1), "i64")
    in_phase = op.divide(cells, integers(rate))
    tile = op.add(op.multiply(op.floor_mod(cells, integers(rate)), of_phase), op.divide(in_phase, integers(m)))
    return _Axis(reads, op.multiply(of_phase, integers(rate)), tile, op.floor_mod(in_phase, integers(m)))


def _scalar(value: int) -> Any:
    return op.constant(np.int64(value))


def _axis(values: Any, *axes: int) -> Any:
    """Return `values` with their axes at `axes` of five."""
    return op.unsqueeze(values, integers(*(axis for axis in range(5) if axis not in axes)))


def _within(cells: Any, count: Any) -> Any:
    return op.logical_and(op.greater_equal(cells, integers(0)), op.less(cells, count))


def network(
    layers: Layers, plan: Plan, images: Any, *, pyramid: bool = False, skip: str | None = None, ends: ImageEnds | None = None
) -> walk.Activations:
    """Build the operators of a whole network, as :func:`walk.run`; maps end at `ends`, beyond which `images` are 0.

    Args:
        images: preprocessed, ``[batch, rows, columns, channels]``.
    """
    first = Map(op.transpose(images, integers(0, 3, 1, 2)))
    return walk.run(plan, layers, first, pyramid=pyramid, skip=skip, mask=ends.mask if ends else None)


def canvases(images: Any, sizes: Any, plan: Plan, preprocessing: str) -> Any:
    """Preprocess uint8 images ``[batch, height, width, channels]``, put 0 beyond each, and pad to the next aligned size."""
    scheme = SCHEMES[preprocessing]
    values = op.convert(images, "f32")
    if scheme.reverse:
        values = op.gather(values, integers(*reversed(range(plan.in_channels))), integers(3))
    values = op.divide(op.subtract(values, floats(scheme.mean)), floats(scheme.std))
    inside = op.transpose(ImageEnds(sizes).inside(Map(op.transpose(values, integers(0, 3, 1, 2)))), integers(0, 2, 3, 1))
    return pad_to_canvas(op.multiply(values, inside), plan)


def pad_to_canvas(values: Any, plan: Plan) -> Any:
    """Pad preprocessed images with 0 to the next aligned size."""
    below, right = (op.subtract(align(length(values, axis), plan.nominal_stride), length(values, axis)) for axis in (1, 2))
    after = op.concat([integers(0), below, right, integers(0)], 0)
    return op.pad(values, integers(0, 0, 0, 0), after, "constant", op.constant(np.float32(0)))


def align(sides: Any, stride: int) -> Any:
    """Return :func:`geometry.aligned_size` of int64 sides."""
    return op.add(op.multiply(op.divide(op.add(sides, integers(stride - 2)), integers(stride)), integers(stride)), integers(1))


def resize_align_corners(net: Map, rows: Any, columns: Any, stride: int = 1) -> Map:
    """Return `net` on a grid of cells that are `stride` pixels apart, corner on corner, with channels in the second axis."""
    net = channels_second(net)
    node = op.interpolate(
        net.node, op.concat([rows, columns], 0), "linear_onnx", "sizes",
        coordinate_transformation_mode="align_corners", axes=integers(2, 3),
    )  # fmt: skip
    return Map(node, None, stride)
