"""A segmentation model: a backbone, a head, and the way from an image of any size to logits on its pixels.

Inputs are padded at the bottom and on the right with 0, which after preprocessing is the mean colour, to the next aligned
size; there every cell sits exactly on a pixel, so the logits are enlarged with align_corners on that canvas, and the
padding is cropped off. (``tests/test_heads.py``)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.backbone import Backbone
from dense_resnet.slim_module import SlimModule
from segmentation.heads import build_head, plan_head


class SegmentationModel(SlimModule):
    """Backbone + head.

    Args:
        backbone: with its weights; its output_stride decides the head's atrous rates.
        num_classes: of the labels.
        head: "fcn", "aspp" (DeepLabv3) or "decoder" (DeepLabv3+).
        separable: whether the head's 3x3 convolutions are split into a depthwise and a 1x1.
        image_pooling_crop: see :func:`segmentation.heads.plan_head`.
        seed: of the head's initial weights.

    Raises:
        InputError: (a ValueError) an argument does not fit; the message names the valid values.

    >>> model = SegmentationModel(Backbone("resnet_v1_18", output_stride=16), num_classes=5, head="fcn")
    >>> model(tf.zeros([1, 40, 70, 3])).shape, model.logits(tf.zeros([1, 65, 97, 3])).shape
    (TensorShape([1, 40, 70, 5]), TensorShape([1, 5, 7, 5]))
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        head: str = "aspp",
        *,
        separable: bool = True,
        image_pooling_crop: object | None = None,
        seed: int | None = None,
    ) -> None:
        plan = plan_head(backbone.plan, num_classes, head, separable=separable, image_pooling_crop=image_pooling_crop)
        super().__init__("segmentation_model", plan.variables, backbone.plan.in_channels, seed)
        self.backbone, self.head = backbone, plan
        # What tf.saved_model.save finds: a function with a signature, so that the loaded object can be called.
        self.__call__ = self._traced.function("pixels", training=False)

    def __call__(self, images: Any, training: bool = False) -> tf.Tensor:
        """Logits on the image's own pixels.

        Args:
            images: ``[batch, height, width, channels]``, preprocessed, of any size.
            training: batch norm's mode; True also updates the moving averages and drops activations.

        Returns:
            ``[batch, height, width, num_classes]`` float32.
        """
        return self._run("pixels", images, training)

    def logits(self, images: Any, training: bool = False) -> tf.Tensor:
        """Logits before they are enlarged, one a cell; nothing is padded or cropped."""
        return self._run("cells", images, training)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The backbone's and the head's variables, float32, under their canonical names."""
        return self.backbone.weights | super().weights

    def _build(self, output: str, images: tf.Tensor, training: bool) -> tf.Tensor:
        if output == "cells":
            return self._cells(images, training)
        height, width = (_size(images, axis) for axis in (1, 2))
        stride = self.backbone.plan.nominal_stride
        below, right = (_aligned(side, stride) - side for side in (height, width))
        canvas = tf.pad(images, [[0, 0], [0, below], [0, right], [0, 0]])
        cells = self._cells(canvas, training)
        enlarged = tf.compat.v1.image.resize_bilinear(cells, [height + below, width + right], align_corners=True)
        return enlarged[:, :height, :width]

    def _cells(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        skip = None
        if self.head.skip:
            end_points = self.backbone.end_points(images, training)
            features, skip = end_points["features"], end_points[self.head.skip.convolutions[-1].scope]
        else:
            features = self.backbone(images, training)
        with self._own_variables():
            return build_head(self.head, features, skip, training)


def _size(images: tf.Tensor, axis: int) -> Any:
    """A static size where there is one."""
    static = images.shape[axis]
    return tf.shape(images)[axis] if static is None else static


def _aligned(size: Any, stride: int) -> Any:
    """:func:`dense_resnet.geometry.aligned_size` of a number or a tensor."""
    return (size + stride - 2) // stride * stride + 1
