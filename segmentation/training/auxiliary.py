"""The auxiliary head: a second loss, nearer to the start of the network, of training alone.

A 3x3 convolution and a 1x1 on the block before the last, as in PSPNet, https://arxiv.org/abs/1612.01105, which weighs its loss
by 0.4. It normalizes by the batch always, because no one has trained its moving averages.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dense_resnet.builders.slim_module import SlimModule
from dense_resnet.compat import slim
from dense_resnet.errors import InputError
from dense_resnet.inference.canvas_ops import resize_align_corners
from dense_resnet.planning.layers import Conv
from dense_resnet.planning.plan import Plan
from dense_resnet.resnet_utils import convolve, resnet_arg_scope
from segmentation.heads.plan import DEPTH

SCOPE = "auxiliary"


class AuxiliaryHead(SlimModule):
    """A head on the last but one of a network's blocks."""

    _output = SCOPE

    def __init__(self, plan: Plan, num_classes: int, seed: int) -> None:
        if len(plan.blocks) < 2:
            raise InputError(f"an auxiliary head reads the last block but one, and {plan.name} has one block. Leave it out.")
        block = plan.blocks[-2]
        self._end_point = f"{plan.scope}/{block.scope}"
        self._convolutions = (
            Conv(f"{SCOPE}/conv", 3, 1, 1, block.units[-1].depth, DEPTH),
            Conv(f"{SCOPE}/logits", 1, 1, 1, DEPTH, num_classes, batch_norm=False, relu=False),
        )
        variables = [variable for conv in self._convolutions for variable in conv.variables]
        super().__init__(SCOPE, variables, block.units[-1].depth, plan.preprocessing, seed)

    def logits(self, end_points: dict[str, tf.Tensor], size: tf.Tensor) -> tf.Tensor:
        """Return logits on the pixels of a crop of `size`, ``[batch, height, width, classes]``."""
        return resize_align_corners(self._ops(SCOPE, end_points[self._end_point], True), size)

    def _build(self, output: str, images: tf.Tensor, training: bool) -> Any:
        with self._own_variables(), slim.arg_scope(resnet_arg_scope(0.0, is_training=training)):
            net = images
            for conv in self._convolutions:
                net = convolve(net, conv)
            return net
