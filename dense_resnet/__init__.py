"""ResNet backbones for dense prediction: exact atrous geometry on TensorFlow and TF-Slim.

    import dense_resnet as dr

    plan = dr.plan("resnet_v2_152", output_stride=16)   # no TensorFlow up to here
    backbone = dr.Backbone(plan)                        # TensorFlow starts here
    backbone.load("resnet_v2_152.ckpt")
    features = backbone(dr.preprocess(images, plan.preprocessing))

Planning is plain Python. Everything else is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from dense_resnet.errors import InputError
from dense_resnet.geometry import aligned_size
from dense_resnet.plan import Plan
from dense_resnet.variants import VARIANTS, plan

__version__ = "0.1.0"

_LAZY = {  # name: the module that it is handed on from
    "Backbone": "dense_resnet.backbone",
    "preprocess": "dense_resnet.preprocessing",
    "read_features": "dense_resnet.features",
    "sample": "dense_resnet.features",
}
_MODULES = ("checkpoints", "keras_resnet", "resnet_utils", "resnet_v1", "resnet_v2")

__all__ = ["VARIANTS", "InputError", "Plan", "aligned_size", "plan", *_LAZY, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"dense_resnet.{name}")
    raise AttributeError(f"module 'dense_resnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
