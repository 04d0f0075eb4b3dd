"""Walk over a plan, once for every engine: which layer reads which tensor. What a layer does is an argument.

An engine is a class with the methods of :class:`Ops`, such as :class:`dense_resnet.inference.folding.Layers`; README.md of this
package says how to add one. The slim face does not walk here: its units are functions that users may replace.
(``tests/dense_resnet/builders/test_walk.py``)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from dense_resnet.planning.layers import Conv, Norm, Pool, Unit
from dense_resnet.planning.plan import Plan

OUTPUTS = FEATURES, PYRAMID, LOGITS = "features", "pyramid", "logits"  # what a backbone computes, of Activations

Mask = Callable[[Any, int, bool], Any]  # of a tensor, the pixels between its cells, and whether to fill with the lowest number


class Ops(Protocol):
    """What an engine does with a tensor `net`. Scopes are slim's, of the layer or what it is part of, for names of layers."""

    def conv(self, net: Any, conv: Conv) -> Any:
        """Convolve with symmetric padding, then apply the convolution's own batch norm or bias, and its ReLU if it has one."""

    def norm_relu(self, net: Any, norm: Norm) -> Any:
        """Apply a batch norm and a ReLU that no convolution precedes."""

    def pool(self, net: Any, pool: Pool) -> Any:
        """Take the maximum over each window."""

    def subsample(self, net: Any, factor: int, scope: str) -> Any:
        """Keep every `factor`-th row and column; return `net` itself for 1."""

    def add(self, shortcut: Any, branch: Any, scope: str) -> Any:
        """Return the sum of two tensors."""

    def relu(self, net: Any, scope: str) -> Any:
        """Replace negative values by 0."""

    def mean(self, net: Any, scope: str) -> Any:
        """Return the mean over rows and columns, which stay as sides of 1."""


@dataclass
class Activations:
    """What a network computes, as far as it was asked for."""

    features: Any
    pyramid: dict[int, Any] = field(default_factory=dict)  # {stride: the last activation at it}
    skip: Any = None  # a convolution's output before the residual sum
    logits: Any = None  # [batch, 1, 1, classes]: of the mean over the image, where the plan has a classifier


def run(
    plan: Plan, ops: Ops, images: Any, *, pyramid: bool = False, skip: str | None = None, mask: Mask | None = None
) -> Activations:
    """Build the whole network.

    Args:
        images: preprocessed, as a tensor of the engine.
        pyramid: whether each stride's last activation is wanted, which costs a block's last unit four times as much.
        skip: scope of the last convolution of a unit, whose output is wanted.
        mask: fills what is beyond the images on their canvases, before each kernel that would read it; the images
            themselves are 0 there. None: images fill their canvases.
    """
    fill = mask or (lambda net, stride, lowest: net)
    net, stride = images, 1
    for layer in plan.root:
        if stride > 1:
            net = fill(net, stride, isinstance(layer, Pool) and not layer.zeros)
        net = ops.pool(net, layer) if isinstance(layer, Pool) else ops.conv(net, layer)
        stride *= layer.stride
        if isinstance(layer, Pool):  # a window wholly beyond the image holds the lowest number
            net = fill(net, stride, False)
    found = Activations(net)
    deferred = plan.deferred_strides if pyramid else {}
    for unit in plan.units:
        factor = deferred.get(unit.scope, 1)
        net, branch = _run_unit(ops, net, unit.at_stride_1 if factor > 1 else unit, fill)
        if unit.convolutions[-1].scope == skip:
            found.skip = branch
        found.pyramid[unit.input_stride * unit.stride // factor] = net
        net = ops.subsample(net, factor, f"{unit.scope}/subsample")
    if plan.postnorm:  # a v2 unit ends in a bare sum
        net = ops.norm_relu(net, plan.postnorm)
    found.features = found.pyramid[plan.output_stride] = net
    found.pyramid = {stride: found.pyramid[stride] for stride in plan.pyramid} if pyramid else {}
    if plan.logits:
        found.logits = ops.conv(ops.mean(net, plan.scope), plan.logits)
    return found


def _run_unit(ops: Ops, net: Any, unit: Unit, fill: Mask) -> tuple[Any, Any]:
    """Return a residual unit's output, and that of its last convolution."""
    branch = ops.norm_relu(net, unit.preact) if unit.preact else net
    shortcut = ops.conv(branch, unit.shortcut) if unit.shortcut else ops.subsample(net, unit.stride, f"{unit.scope}/shortcut")
    stride = unit.input_stride
    for conv in unit.convolutions:
        if conv.kernel > 1:
            branch = fill(branch, stride, False)
        branch = ops.conv(branch, conv)
        stride *= conv.stride
    net = ops.add(shortcut, branch, unit.scope)
    return net if unit.preact else ops.relu(net, unit.scope), branch
