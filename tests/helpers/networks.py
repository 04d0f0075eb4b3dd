"""Small networks, with weights that make no test vacuous."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from det_weights import det_weight

import dense_resnet as dr
from dense_resnet.inference.engines import has_openvino
from dense_resnet.planning.plan import make_plan
from dense_resnet.verification import laws
from segmentation.model import SegmentationModel

EXACT = {"precision": "exact"}
WAYS, LOW = (  # of running images: the slim graph and each engine; each engine in bfloat16
    [
        pytest.param({"precision": precision, "engine": engine}, id=f"{engine}-{precision}", marks=marks)
        for engine, marks in (("tensorflow", ()), ("openvino", pytest.mark.skipif(not has_openvino(), reason="no OpenVINO")))
    ]
    for precision in ("float32", "bfloat16")
)
WAYS.insert(0, pytest.param(EXACT, id="exact"))

BLOCKS = [("block1", [(8, 4, 1), (8, 4, 2)]), ("block2", [(12, 4, 2)]), ("block3", [(16, 4, 2)]), ("block4", [(16, 4, 1)])]

TWO_BLOCKS_PLAN = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], scope="tiny")
STRIDE_8_PLAN = dr.plan(
    [("block1", [(8, 4, 2)]), ("block2", [(8, 4, 2)]), ("block3", [(12, 4, 1)])], output_stride=8, scope="tiny"
)
TRAINING_PLAN = {"kind": "bottleneck_v2", "scope": "tiny", "blocks": [["block1", [[16, 8, 2]]], ["block2", [[24, 8, 1]]]]}
THREE_BLOCKS = [("block1", [(8, 4, 1), (8, 4, 2)]), ("block2", [(12, 4, 2)]), ("block3", [(16, 4, 1)])]
PLACEMENTS = {  # name: unit kind, the convolution with the stride, whether in a block's first unit, root
    "v2, last unit": ("bottleneck_v2", "conv2", False, "slim"),
    "v2, first unit, 1x1": ("bottleneck_v2", "conv1", True, "slim"),
    "v1, last unit": ("bottleneck_v1", "conv2", False, "slim"),
    "v1.5": ("bottleneck_v1", "conv2", True, "symmetric"),
    "v1 original": ("bottleneck_v1", "conv1", True, "slim"),
    "beta": ("bottleneck_v1", "conv2", False, "beta"),
    "basic": ("lite_bottleneck_v1", "conv2", False, "slim"),
    "basic v1.5": ("lite_bottleneck_v1", "conv1", True, "symmetric"),
}


def weights_of(plan):
    """Weights from the variables' names alone: batch-norm statistics are not trivial, gammas of both signs."""
    weights = {name: det_weight(name, shape) for name, shape, _ in plan.variables}
    for name, value in weights.items():
        if name.endswith("gamma"):
            value[::5] *= -1
    return weights


def images_of(size, channels=3, batch=1):
    """Noise images ``[batch, size, size, channels]``."""
    height, width = size if isinstance(size, tuple) else (size, size)
    return np.random.default_rng(0).standard_normal((batch, height, width, channels)).astype(np.float32)


def dilate_strided_units(steps):
    """The field's well-known mistake: the unit whose stride was suppressed takes the new rate itself."""
    return tuple(step._replace(input_rate=step.input_rate * step.suppressed) for step in steps)


def one_wrong_rate(steps):
    """The last unit runs at rate 1."""
    return (*steps[:-1], steps[-1]._replace(input_rate=1))


MISTAKES = (dilate_strided_units, one_wrong_rate)  # for a schedule


def small_plan(placement, output_stride, root_block=True, multi_grid=None):
    """Three blocks of two units, strides 2, 2, 2."""
    kind, stride_at, first, root = PLACEMENTS[placement]
    blocks = []
    for number, depth in enumerate((8, 12, 16), 1):
        depths = {"depth": depth} if kind == "lite_bottleneck_v1" else {"depth": depth, "depth_bottleneck": depth // 2}
        units = [dict(depths, stride=2 if (index == 0) == first else 1, stride_at=stride_at) for index in range(2)]
        blocks.append((f"block{number}", units))
    return make_plan(
        "small",
        blocks,
        kind,
        root=root if root_block else None,
        output_stride=output_stride,
        multi_grid=multi_grid,
        preprocessing="inception",
    )


def small_model(head, output_stride=16, num_classes=5, **arguments):
    """A head on a tiny backbone, with weights that are not trivial."""
    plan = dr.plan(BLOCKS, output_stride=output_stride, scope="tiny", kind="bottleneck_v1")
    model = SegmentationModel(laws.backbone_with(plan, weights_of(plan)), num_classes, head, **arguments)
    for name, variable in model._by_name.items():
        variable.assign(det_weight(name, variable.shape))
    return model


def hard_weights(plan):
    """Negative gammas, gammas of zero with a shift of either sign, and all that conftest's have."""
    weights = weights_of(plan)
    for name, value in weights.items():
        if name.endswith("gamma"):
            value[1::7] = 0
    return weights


def tiny_model(head="fcn", num_classes=5, output_stride=8):
    """A head on a tiny network, with weights that are not trivial."""
    plan = dr.plan(THREE_BLOCKS, output_stride=output_stride, scope="tiny", kind="bottleneck_v1")
    model = SegmentationModel(laws.backbone_with(plan, weights_of(plan)), num_classes, head)
    for name, variable in model._by_name.items():
        variable.assign(det_weight(name, variable.shape))
    weights, biases = (model._by_name[f"logits/semantic/{name}"] for name in ("weights", "biases"))
    cells = model.logits(image_of(129, 129)[None] / np.float32(127.5) - 1).numpy()
    spread = cells.std(axis=(0, 1, 2)) / 2
    weights.assign(weights / spread)
    biases.assign((biases - cells.mean(axis=(0, 1, 2))) / spread)  # so that no class is everywhere
    return model


def image_of(height, width, seed=0):
    """Blobs, so that classes change from place to place."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 12 + 2, width // 12 + 2, 3)).astype(np.float32)
    return np.clip(tf.image.resize(coarse, (height, width)).numpy(), 0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------------
# Statistics that no training leaves


def of_caffe(weights):
    """`weights` as Caffe's converters leave them: the statistics folded into scale and offset."""
    initial = {"moving_mean": 0.0, "moving_variance": 1.0 - 1e-5}  # the second as Detectron2 has it
    return {
        name: np.full_like(value, initial[leaf]) if (leaf := name.rpartition("/")[2]) in initial else value
        for name, value in weights.items()
    }
