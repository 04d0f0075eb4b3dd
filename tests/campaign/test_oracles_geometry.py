"""Sizes, centres, fields, rates, costs of random plans against brute force along one axis.

Nothing of the library's arithmetic is used: what a network is, `networks.walk` says, and here it runs on integers, one
channel wide, its taps' weights drawn from their names, modulo a prime. Two such runs agree only if every path of taps reads the
same pixel in both.
"""

import math
import zlib
from collections import Counter

import numpy as np
import pytest

import dense_resnet as dr
from campaign.networks import ROOTS, Layer, Pool, random_network, walk
from dense_resnet.errors import InputError
from dense_resnet.planning import geometry, variants
from dense_resnet.planning.schedule import ROOTS as THEIR_ROOTS

PRIME = 2**31 - 1
SIZES = 2100


def pads_of(kernel, stride, rate, padding, size):
    """(before, after): half of what the taps span, or TensorFlow's SAME: as little as covers the size, the more behind."""
    span = (kernel - 1) * rate + 1
    if padding != "SAME":
        return (span - 1) // 2, span - 1 - (span - 1) // 2
    cells = math.ceil(size / stride)
    missing = max((cells - 1) * stride + span - size, 0)
    return missing // 2, missing - missing // 2


def windows_over(size, layer):
    """Indices ``[cells, taps]`` into the `size` cells that a layer lies over, -1 and less or `size` and more in its padding."""
    before, after = pads_of(layer.kernel, layer.stride, layer.rate, getattr(layer, "padding", None), size)
    span = (layer.kernel - 1) * layer.rate + 1
    first = np.arange(-before, size + after - span + 1, layer.stride)  # wherever it fits
    return first[:, None] + np.arange(layer.kernel) * layer.rate


class Line:
    """The operations of `walk` along one axis, on integers; what ran is in ``layers`` and ``lengths``, by name."""

    def __init__(self):
        self.layers, self.lengths, self.norms = {}, {}, {}

    def convolve(self, net, layer):
        taps = windows_over(len(net), layer)
        inside = (taps >= 0) & (taps < len(net))
        read = np.where(inside, net[taps.clip(0, len(net) - 1)], 0)
        weights = np.array([zlib.crc32(f"{layer.name} {tap}".encode()) for tap in range(layer.kernel)]) % PRIME
        self.layers[layer.name], self.lengths[layer.name] = layer, len(taps)
        return (read * weights % PRIME).sum(axis=1) % PRIME

    pool = convolve

    def normalize(self, net, scope, depth):
        self.norms[scope] = depth
        return net

    def subsample(self, net, stride):
        return net[::stride]

    def add(self, shortcut, residual, relu):
        assert len(shortcut) == len(residual)
        return (shortcut + residual) % PRIME


def run_of(plan, signal):
    """The same of the library's records, over which its builders loop."""
    line = Line()
    net = signal
    for layer in plan.root:
        net = line.convolve(net, convert_layer(layer))
    for unit in plan.units:
        shortcut = line.convolve(net, convert_layer(unit.shortcut)) if unit.shortcut else net[:: unit.stride]
        for conv in unit.convolutions:
            net = line.convolve(net, convert_layer(conv))
        net = line.add(shortcut, net, relu=True)
    return net


def convert_layer(layer):
    """A record of the library as `walk` would name it."""
    if layer.scope.endswith("pool1"):
        padding = "zeros" if layer.zeros else layer.padding
        return Pool(layer.scope, layer.kernel, layer.stride, layer.rate, layer.depth, padding)
    depths = layer.depth_in, layer.depth
    return Layer(layer.scope, layer.kernel, layer.stride, layer.rate, *depths, layer.batch_norm, layer.relu)


def on_the_path(layers):
    """Without the shortcuts, which have no taps beside their centre."""
    return [layer for layer in layers.values() if not layer.name.endswith("shortcut")]


def centers_by(layers, size):
    """The pixel that each cell is centred on: its middle tap's, layer by layer."""
    centres = np.arange(size)
    for layer in layers:
        middle = windows_over(len(centres), layer)[:, layer.kernel // 2]
        assert ((middle >= 0) & (middle < len(centres))).all()
        centres = centres[middle]
    return centres


def field_by(layers):
    """Pixels that one cell sees on a line without end: the pixels that its taps read, one layer before another."""
    seen = np.array([0])
    for layer in reversed(layers):
        seen = np.unique(seen[:, None] * layer.stride + np.arange(layer.kernel) * layer.rate)
    return int(seen[-1] - seen[0] + 1)


def test_plans(campaign):
    counts, sizes = Counter(), set()
    for number, random in campaign.cases(short=250):
        network = random_network(random)
        size = tuple(int(side) for side in random.integers(1, random.choice([40, 200, 200, 600], 2) + 1))
        signals = [random.integers(1, PRIME, side) for side in size]
        lines = [Line() for _ in size]
        dense = [walk(network, line, signal) for line, signal in zip(lines, signals, strict=True)]
        rows = lines[0]
        message = f"case {number}: {network} at {size}"
        impossible = any(layer.stride > 1 and layer.rate > 1 for layer in rows.layers.values())
        if impossible:
            with pytest.raises(InputError, match="a convolution cannot have both"):
                network.plan()
            counts["refused"] += 1
            continue
        plan = network.plan()
        counts["plans"] += 1

        # strides, rates, depths, layer by layer
        convolutions = [conv for unit in plan.units for conv in (unit.shortcut, *unit.convolutions) if conv]
        ran = {layer.scope: convert_layer(layer) for layer in (*plan.root, *convolutions)}
        assert ran == rows.layers, message
        counts["layers"] += len(ran)
        counts["dilated_layers"] += sum(layer.rate > 1 for layer in ran.values())
        counts["dense_plans"] += plan.output_stride < plan.nominal_stride

        # dense = nominal, by what every cell reads
        factor = plan.nominal_stride // plan.output_stride
        for signal, values in zip(signals, dense, strict=True):
            nominal = walk(network.nominal, Line(), signal)
            own = run_of(plan, signal)
            assert np.array_equal(own[::factor], nominal), message
            assert np.array_equal(own, values), message
            counts["cells"] += len(own)

        # sizes, centres, alignment, field
        path = on_the_path(rows.layers)
        assert plan.feature_size(size) == tuple(map(len, dense)), message
        for side, grid in zip(size, plan.grids(size), strict=True):
            assert np.array_equal(grid.centers, centers_by(path, side)), message
        nominal_path = on_the_path(nominal_layers(network))
        for side, aligned in zip(size, plan.aligned_size(size), strict=True):
            assert corners(nominal_path, aligned), message
            assert corners(path, aligned), message
            assert aligned >= side
            between = int(random.integers(side, aligned + 1))
            assert between == aligned or not corners(nominal_path, between), message
            sizes.add(side)
        assert plan.receptive_field == field_by(path) == field_by(nominal_path), message

        assert_costs(plan, network, lines, size, message)
    assert counts["dense_plans"] >= counts["plans"] // 4
    assert counts["dilated_layers"] >= counts["layers"] // 20
    campaign.report(**counts, different_sizes=len(sizes))


def assert_costs(plan, network, lines, size, message):
    """Multiply-adds, memory and parameters, summed over what has run."""
    rows, columns = lines
    cells = {name: rows.lengths[name] * columns.lengths[name] for name in rows.layers}
    convolutions = [layer for layer in rows.layers.values() if not isinstance(layer, Pool)]
    kernels = {layer.name: layer.kernel**2 * layer.depth_in * layer.depth for layer in convolutions}
    macs = sum(cells[name] * weights for name, weights in kernels.items())
    memory = sum(4 * cells[layer.name] * layer.depth for layer in rows.layers.values())
    normalized = sum(rows.norms.values()) + sum(layer.depth for layer in convolutions if layer.norm)
    biases = sum(layer.depth for layer in convolutions if not layer.norm)
    parameters = sum(kernels.values()) + biases + 2 * normalized
    if classes := network.num_classes:  # of the map's mean
        weights = network.blocks[-1][1][-1]["depth"] * classes
        macs, memory, parameters = macs + weights, memory + 4 * classes, parameters + weights + classes
    analysis = plan.analyze(size)
    assert analysis.macs == plan.macs(size) == macs, message
    assert analysis.activation_bytes == memory, message
    assert analysis.parameters == plan.parameter_count == parameters, message
    assert sum(math.prod(shape) for _, shape, trained in plan.variables if trained) == parameters, message
    assert sum(math.prod(shape) for _, shape, _ in plan.variables) == parameters + 2 * normalized, message


def nominal_layers(network):
    line = Line()
    walk(network.nominal, line, np.zeros(64, int))
    return line.layers


def corners(layers, size):
    """Whether the first and the last cell sit on the first and the last pixel."""
    centres = centers_by(layers, size)
    return centres[0] == 0 and centres[-1] == size - 1


def test_sizes_of_the_named_networks(campaign):
    """Case n is at n + 1 pixels, up to 2100 and again: every family at every output stride, and aligned sizes by counting."""
    names = [family.name.format(min(family.depths)) for family in variants.FAMILIES]
    plans = [dr.plan(name, stride) for name in names for stride in (4, 8, 16, 32)]
    aligned = 0
    for number, random in campaign.cases(short=150):
        size = number % SIZES + 1, int(random.integers(1, SIZES + 1))
        for plan in plans:
            root = [convert_layer(layer) for layer in plan.root]
            behind = plan.output_stride // 4  # symmetric padding keeps every stride-th cell, whatever the kernel
            expected = [tuple(centers_by(root, side)[::behind].tolist()) for side in size]
            assert plan.feature_size(size) == tuple(map(len, expected)), (plan.name, size)
            assert [grid.centers for grid in plan.grids(size)] == expected, (plan.name, size)
            if size[0] % 32 == 1:
                assert expected[0] == tuple(range(0, size[0], plan.output_stride))
                aligned += 1
        side, stride = size[0], int(random.integers(1, 65))
        assert geometry.aligned_size(side) == next(one for one in range(side, side + 32) if one % 32 == 1)
        multiples = {stride * multiple + 1 for multiple in range(SIZES + 1)}
        assert geometry.aligned_size(side, stride) == min(one for one in multiples if one >= side)
        assert geometry.output_size(side, stride) == len(range(0, side, stride))
    campaign.report(sizes=min(number + 1, SIZES), grids_compared=2 * len(plans) * (number + 1), at_32n_plus_1=aligned)


def test_the_roots_are_all_there():
    assert set(ROOTS) == set(THEIR_ROOTS)
