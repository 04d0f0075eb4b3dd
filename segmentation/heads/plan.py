"""From features to logits: the heads of DeepLab, planned as integers and built on the slim face.

* `fcn`: one 1x1 convolution on the features: the light one.
* `aspp`, DeepLabv3: a 1x1, three atrous 3x3 and the image's mean, side by side, projected to 256 channels.
* `decoder`, DeepLabv3+: the same, upsampled to stride 4, joined with block1's activation there, two 3x3.

The atrous rates are computed: a head reads 96, 192 and 288 pixels apart at any stride, which is 6, 12, 18 cells at stride 16.

A canvas is often larger than its image. Under ``canvas="image"`` a head sees the map as if it ended where the image does:
zeros beyond before every 3x3, and a mean over the image's cells. Under "padded" it reads the whole canvas, as the original code
and others do; weights that were trained so answer otherwise on a canvas of another size (``test_canvases.py``).

Variables have the names of the original DeepLab code, so that its checkpoints load (``test_heads.py``).

Sources: "Rethinking Atrous Convolution", https://arxiv.org/abs/1706.05587 (aspp); "Encoder-Decoder with Atrous Separable
Convolution", https://arxiv.org/abs/1802.02611 (decoder, separable).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dense_resnet.errors import InputError
from dense_resnet.planning import geometry
from dense_resnet.planning.layers import Conv, Norm, Unit, Variable
from dense_resnet.planning.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

HEADS = ("fcn", "aspp", "decoder")
DEFAULT_HEAD = "aspp"
ATROUS_PIXELS = (96, 192, 288)  # between the taps of the atrous branches: rates 6, 12, 18 at stride 16
DEPTH = 256  # channels between features and logits
SKIP_DEPTH = 48  # channels of the decoder's stride-4 features
SKIP_STRIDE = 4
BATCH_NORM_DECAY = 0.9997  # of the moving averages in training
CANVASES = IMAGE, PADDED = "image", "padded"  # what a head takes for the whole map


@dataclass(frozen=True)
class DepthwiseConv:
    """A 3x3 convolution of each channel by itself, then batch norm and ReLU."""

    scope: str
    rate: int
    depth: int
    kernel: int = 3

    @property
    def norm(self) -> Norm:
        return Norm(f"{self.scope}/BatchNorm", self.depth)

    @property
    def variables(self) -> Iterator[Variable]:
        yield Variable(f"{self.scope}/depthwise_weights", (self.kernel, self.kernel, self.depth, 1), True)
        yield from self.norm.variables


Layer = Conv | DepthwiseConv
Uniform = Callable[..., "tf.Tensor"]  # of a shape and a dtype: numbers in [0, 1)


@dataclass(frozen=True)
class HeadPlan:
    """A head as immutable integers; made by :func:`plan_head`."""

    type: str  # one of HEADS
    num_classes: int
    separable: bool
    image_pooling: tuple[int, int] | None  # of a crop: cells to average over; None: the whole map
    image_projection: Conv | None  # of the image's mean
    branches: tuple[tuple[Layer, ...], ...]  # side by side on the features
    projection: Conv | None  # of all branches together
    skip: Unit | None  # whose last convolution, before the addition, the decoder reads
    skip_projection: Conv | None
    decoder: tuple[Layer, ...]
    logits: Conv
    output_stride: int  # pixels between two cells of the features
    canvas: str  # one of CANVASES

    @property
    def label_dtype(self) -> str:
        """Of label maps: uint8, or uint16 above 256 classes."""
        return "uint8" if self.num_classes <= 256 else "uint16"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All of them, in the order in which the original code makes them."""
        parts = [self.image_projection, *(layer for branch in self.branches for layer in branch), self.projection]
        parts += [self.skip_projection, *self.decoder, self.logits]
        return tuple(part for part in parts if part)

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(variable for layer in self.layers for variable in layer.variables)


def atrous_rates(output_stride: int) -> tuple[int, ...]:
    """Return the rates of the three atrous branches.

    >>> atrous_rates(16), atrous_rates(8), atrous_rates(32)
    ((6, 12, 18), (12, 24, 36), (3, 6, 9))
    """
    if any(pixels % output_stride for pixels in ATROUS_PIXELS):
        raise InputError(f"ASPP needs an output_stride that divides {ATROUS_PIXELS[0]} (not {output_stride}).")
    return tuple(pixels // output_stride for pixels in ATROUS_PIXELS)


def plan_head(
    plan: Plan,
    num_classes: int,
    head: str = DEFAULT_HEAD,
    *,
    separable: bool = True,
    image_pooling_crop: object | None = None,
    canvas: str | None = None,
) -> HeadPlan:
    """Plan a head, one of HEADS, on the features of `plan`.

    Args:
        separable: whether 3x3 convolutions are split into a depthwise and a 1x1.
        image_pooling_crop: (height, width) in pixels: the image's mean becomes that of every window of such a crop, as
            DeepLab ties it to its training crop; None takes the mean of the whole map.
        canvas: "image": the cells that the image covers are the whole map; "padded": the whole canvas is. None is "padded" with
            an `image_pooling_crop`, whose windows go with it, and "image" otherwise.
    """
    if head not in HEADS:
        raise InputError(f"head must be one of {', '.join(map(repr, HEADS))} (not {head!r}).")
    num_classes = geometry.positive_integer("num_classes", num_classes)
    if canvas is None:
        canvas = IMAGE if image_pooling_crop is None else PADDED
    if canvas not in CANVASES:
        raise InputError(f"canvas must be one of {', '.join(map(repr, CANVASES))} (not {canvas!r}).")
    stride = plan.output_stride
    if head == "fcn":
        logits = _logits(plan.depth, num_classes)
        return HeadPlan(head, num_classes, False, None, None, (), None, None, None, (), logits, stride, canvas)
    image = Conv("image_pooling", 1, 1, 1, plan.depth, DEPTH)
    branches: list[tuple[Layer, ...]] = [(Conv("aspp0", 1, 1, 1, plan.depth, DEPTH),)]
    for number, rate in enumerate(atrous_rates(stride), 1):
        branches.append(_three_by_three(f"aspp{number}", plan.depth, rate, separable))
    projection = Conv("concat_projection", 1, 1, 1, DEPTH * (len(branches) + 1), DEPTH)
    pooled = plan.feature_size(image_pooling_crop) if image_pooling_crop is not None else None
    if pooled and canvas == IMAGE:
        raise InputError(f"image_pooling_crop goes with canvas={PADDED!r}: its windows take the canvas for the whole map.")
    skip = skip_projection = None
    decoder: tuple[Layer, ...] = ()
    if head == "decoder":
        skip = skip_unit(plan)
        skip_projection = Conv("decoder/feature_projection0", 1, 1, 1, skip.convolutions[-1].depth, SKIP_DEPTH)
        names = ("conv0", "conv1") if separable else ("conv0/decoder_conv0_1", "conv0/decoder_conv0_2")
        first, second = (f"decoder/decoder_{name}" for name in names)
        decoder = _three_by_three(first, DEPTH + SKIP_DEPTH, 1, separable) + _three_by_three(second, DEPTH, 1, separable)
    return HeadPlan(
        head, num_classes, separable, pooled, image, tuple(branches), projection, skip, skip_projection, decoder,
        _logits(DEPTH, num_classes), stride, canvas,
    )  # fmt: skip


class HeadOptions(NamedTuple):
    """The options of :func:`plan_head`."""

    num_classes: int
    type: str
    separable: bool


def options_of(weights: Mapping[str, np.ndarray]) -> HeadOptions | None:
    """Infer the head from the names of its variables in `weights`; None if there are no logits.

    The variables do not show the size of the crops over which DeepLab pooled the image.
    """
    logits = weights.get("logits/semantic/weights")
    if logits is None:
        return None
    kind = "decoder" if any(name.startswith("decoder/") for name in weights) else "aspp"
    kind = kind if "concat_projection/weights" in weights else "fcn"
    return HeadOptions(logits.shape[-1], kind, "aspp1_depthwise/depthwise_weights" in weights)


def skip_unit(plan: Plan) -> Unit:
    """Return the unit whose residual branch the decoder reads: the last but one of the first block, at stride 4."""
    units = plan.blocks[0].units
    if len(units) < 2 or units[-2].input_stride * units[-2].stride != SKIP_STRIDE:
        raise InputError(f"the decoder reads the last but one unit of the first block at stride 4, which {plan.name} lacks.")
    return units[-2]


def _logits(depth_in: int, num_classes: int) -> Conv:
    return Conv("logits/semantic", 1, 1, 1, depth_in, num_classes, batch_norm=False, relu=False)


def _three_by_three(scope: str, depth_in: int, rate: int, separable: bool) -> tuple[Layer, ...]:
    if not separable:
        return (Conv(scope, 3, 1, rate, depth_in, DEPTH),)
    return DepthwiseConv(f"{scope}_depthwise", rate, depth_in), Conv(f"{scope}_pointwise", 1, 1, 1, depth_in, DEPTH)
