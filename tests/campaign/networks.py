"""Random ResNets as plain lists, and what they compute, read from the papers rather than from the library.

A network is its units' own strides and depths. How it runs densely needs no schedule: every layer of the dense network
stands where the nominal one's stands, so with n the nominal stride of a layer's input and o the output stride, the layer
runs at stride min(n * stride, o) / min(n, o) and its taps are n / min(n, o) cells apart.

:func:`walk` follows that with any operations: integers along one axis for the geometry, PyTorch's for the features.
"""

from __future__ import annotations

import math
from collections import namedtuple
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dense_resnet.planning.plan import make_plan

V1, BASIC, V2 = "bottleneck_v1", "lite_bottleneck_v1", "bottleneck_v2"
ROOTS = {  # name: (kernel, stride, depth) of the convolutions, the pooling's padding
    "slim": ([(7, 2, 64)], "SAME"),
    "symmetric": ([(7, 2, 64)], "symmetric"),
    "keras": ([(7, 2, 64)], "zeros"),
    "beta": ([(3, 2, 64), (3, 1, 64), (3, 1, 128)], "SAME"),
}

Layer = namedtuple("Layer", "name kernel stride rate depth_in depth norm relu")
Pool = namedtuple("Pool", "name kernel stride rate depth padding")


@dataclass(frozen=True)
class Network:
    """A ResNet as a user describes it."""

    kind: str
    blocks: list[tuple[str, list[dict[str, Any]]]]
    root: str | None
    output_stride: int | None
    multi_grid: tuple[int, ...] | None = None
    in_channels: int = 3
    num_classes: int | None = None

    @property
    def nominal_stride(self) -> int:
        return (4 if self.root else 1) * math.prod(unit["stride"] for _, units in self.blocks for unit in units)

    @property
    def nominal(self) -> Network:
        return replace(self, output_stride=None)

    def plan(self):
        """The library's."""
        arguments = {
            name: getattr(self, name) for name in ("root", "output_stride", "multi_grid", "in_channels", "num_classes")
        }
        return make_plan("net", self.blocks, self.kind, preprocessing="inception", **arguments)


def random_network(random, kinds=(V1, BASIC, V2), roots=(*ROOTS, None), most=(4, 4, 16), fewest=1, rates=True) -> Network:
    """Any network.

    Args:
        random: a NumPy generator.
        kinds, roots: to choose from.
        most: blocks, units a block, channels.
        fewest: channels.
        rates: whether units may have atrous rates of their own.
    """
    kind, root = kinds[random.integers(len(kinds))], roots[random.integers(len(roots))]
    carrier = ("conv1", "conv2", None)[random.integers(3)]  # of the strides, None: any
    blocks = []
    channels = (fewest, most[2] + 1)
    for number in range(1, random.integers(1, most[0] + 1) + 1):
        depth = int(random.integers(*channels))
        units = [random_unit(random, kind, depth, carrier, channels, rates) for _ in range(random.integers(1, most[1] + 1))]
        blocks.append((f"block{number}", units))
    grid = None
    if rates and random.random() < 0.3:
        grid = tuple(int(factor) for factor in random.choice([1, 1, 2, 3, 4], len(blocks[-1][1])))
        for unit in blocks[-1][1]:
            unit.pop("unit_rate", None)
    strides = np.cumprod([4 if root else 1, *[unit["stride"] for _, units in blocks for unit in units]])
    reachable = [None, *(int(stride) for stride in np.unique(strides) if stride <= 32)]
    return Network(
        kind,
        blocks,
        root,
        reachable[random.integers(len(reachable))],
        grid,
        int(random.choice([1, 3, 3, 5])),
        [None, 7][random.integers(2)],
    )


def random_unit(random, kind, depth, carrier, channels, rates):
    """Mostly of the block's depth, so that shortcuts are the input itself."""
    unit = {"depth": depth if random.random() < 0.8 else int(random.integers(*channels))}
    if kind != BASIC:
        unit["depth_bottleneck"] = int(random.integers(*channels))
    unit["stride"] = int(random.choice([1, 2, 3], p=[0.65, 0.3, 0.05]))
    unit["stride_at"] = carrier or ("conv1", "conv2")[random.integers(2)]
    if rates and random.random() < 0.05:
        unit["unit_rate"] = int(random.integers(2, 4))
    return unit


def walk(network, operations, net):
    """What the network makes of `net`.

    Args:
        network: at its output_stride.
        operations: an object with ``convolve(net, Layer)``, ``pool(net, Pool)``, ``normalize(net, scope, depth)`` (with its
            ReLU), ``subsample(net, stride)``, ``add(shortcut, residual, relu)``.
        net: what they take.
    """
    stop = network.output_stride or network.nominal_stride
    preactivation = network.kind == V2
    nominal, depth = 1, network.in_channels  # of net

    def convolve(net, name, kernel, stride, at, depths, factor=1, norm=True, relu=True):
        before = min(at, stop)
        own, rate = min(at * stride, stop) // before, (at // before * factor if kernel > 1 else 1)
        return operations.convolve(net, Layer(f"net/{name}", kernel, own, rate, *depths, norm, relu))

    if network.root:
        convolutions, padding = ROOTS[network.root]
        for number, (kernel, stride, out) in enumerate(convolutions, 1):
            name = "conv1" if len(convolutions) == 1 else f"conv1_{number}"
            how = {"norm": not preactivation, "relu": not preactivation}
            net = convolve(net, name, kernel, stride, nominal, (depth, out), **how)
            nominal, depth = nominal * stride, out
        net = operations.pool(net, Pool("net/pool1", 3, 2, 1, depth, padding))
        nominal *= 2

    for scope, units in network.blocks:
        for number, unit in enumerate(units, 1):
            name = f"{scope}/unit_{number}/{network.kind}"
            factor = unit.get("unit_rate", 1)
            if network.multi_grid and scope == network.blocks[-1][0]:
                factor = network.multi_grid[number - 1]
            out, stride = unit["depth"], unit["stride"]
            inside = operations.normalize(net, f"net/{name}/preact", depth) if preactivation else net
            if out == depth:
                shortcut = operations.subsample(net, min(nominal * stride, stop) // min(nominal, stop))
            else:
                how = {"norm": not preactivation, "relu": False}
                shortcut = convolve(inside, f"{name}/shortcut", 1, stride, nominal, (depth, out), **how)
            narrow = unit.get("depth_bottleneck")
            shape = [(3, out), (3, out)] if network.kind == BASIC else [(1, narrow), (3, narrow), (1, out)]
            for place, (kernel, wide) in enumerate(shape, 1):
                last = place == len(shape)
                own = stride if unit["stride_at"] == f"conv{place}" else 1
                how = {"factor": factor, "norm": not (last and preactivation), "relu": not last}
                inside = convolve(inside, f"{name}/conv{place}", kernel, own, nominal, (depth, wide), **how)
                nominal, depth = nominal * own, wide
            net = operations.add(shortcut, inside, not preactivation)
    return operations.normalize(net, "net/postnorm", depth) if preactivation else net
