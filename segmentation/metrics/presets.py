"""Named switches for what evaluators disagree on, and the settings of each evaluator.

All but ``deeplab`` score label maps and do not say how logits become pixels, so they keep this library's way: native
size, and align_corners, which puts each feature cell on its pixel.
(``tests/segmentation/metrics/test_presets.py`` holds each against that evaluator.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dense_resnet.errors import InputError
from segmentation.metrics import ABSENT, SCOPES, scoped_mean_iou

SIZES = ("native", "input")
UPSAMPLES = ("align_corners", "half_pixel", "legacy")


@dataclass(frozen=True)
class Switches:
    """What evaluators disagree on. The defaults are this library's definition.

    >>> Switches(absent="one").scope
    'dataset'
    """

    absent: str = "exclude"  # how a class counts that is absent: see segmentation.metrics
    scope: str = "dataset"  # mean over classes of all images' counts; or over images; or over images and classes at once
    background: bool = True  # False leaves class 0 out of the mean
    size: str = "native"  # score pixels of the original image, or of the network's padded input
    upsample: str = "align_corners"  # of the logits; legacy is TensorFlow 1's bilinear without align_corners

    def __post_init__(self) -> None:
        for name, allowed in (("absent", ABSENT), ("scope", SCOPES), ("size", SIZES), ("upsample", UPSAMPLES)):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)} (not {value!r}).")
        if not isinstance(self.background, bool):
            raise InputError(f"background must be True or False (not {self.background!r}).")


PRESETS: dict[str, Switches] = {
    "voc": Switches(absent="nan"),
    "cityscapes": Switches(),
    "mmseg": Switches(),
    "keras": Switches(),
    "tf": Switches(),
    "detectron2": Switches(absent="gt_only"),
    "ade20k": Switches(absent="zero"),
    "torchmetrics": Switches(scope="image_class"),
    "deeplab": Switches(size="input"),
}

DESCRIPTIONS = {  # of each evaluator, for people
    "voc": "PASCAL VOC: the mean over all classes; undefined if one is absent",
    "cityscapes": "cityscapesScripts: absent classes are left out",
    "mmseg": "MMSegmentation's IoUMetric: absent classes are left out",
    "keras": "keras.metrics.MeanIoU: classes without a count are left out",
    "tf": "tf.compat.v1.metrics.mean_iou: classes without a count are left out",
    "detectron2": "SemSegEvaluator: only classes that the ground truth has, so that one which is predicted but absent only "
    "lowers the others' IoU",
    "ade20k": "ADE20K's own script: the mean over all classes; an absent one counts 0",
    "torchmetrics": "torchmetrics.segmentation.MeanIoU: the mean over every class of every image that either map has",
    "deeplab": "DeepLab's eval.py: classes without a count are left out; it scores the padded canvas, whose padding is ignored",
}


def preset(name: str) -> Switches:
    """Return the switches of an evaluator, one of PRESETS.

    >>> preset("ade20k")
    Switches(absent='zero', scope='dataset', background=True, size='native', upsample='align_corners')
    """
    if name not in PRESETS:
        raise InputError(f"a preset must be one of {', '.join(PRESETS)} (not {name!r}).")
    return PRESETS[name]


def mean_iou_under(matrices: Iterable[np.ndarray], switches: Switches) -> float:
    """Return the mean IoU of images' matrices as absent, scope and background of `switches` define it.

    The matrices, ``[classes, classes]``, are counted at the size and from the upsampling that `switches` names.

    >>> mean_iou_under([[[3, 1], [0, 4]], [[6, 2], [0, 0]]], preset("torchmetrics"))  # (3/4 + 4/5 + 3/4 + 0) / 4
    0.575
    """
    return scoped_mean_iou(matrices, switches.scope, switches.absent, background=switches.background)
