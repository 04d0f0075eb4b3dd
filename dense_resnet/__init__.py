"""ResNet backbones for dense prediction: exact atrous geometry on TensorFlow and TF-Slim.

    import dense_resnet as dr

    plan = dr.plan("resnet_v2_152", output_stride=16)   # without TensorFlow so far
    backbone = dr.Backbone(plan)                        # imports TensorFlow
    backbone.load("resnet_v2_152.ckpt")
    features = backbone(dr.preprocess(images, plan.preprocessing))

Planning is plain Python. Everything else is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dense_resnet.errors import InputError
from dense_resnet.planning.geometry import aligned_size
from dense_resnet.planning.plan import Plan
from dense_resnet.planning.variants import VARIANTS, plan

if TYPE_CHECKING:
    from dense_resnet import checkpoints, keras_resnet, resnet_utils, resnet_v1, resnet_v2
    from dense_resnet.backbone import Backbone
    from dense_resnet.extraction import read_features, sample
    from dense_resnet.inference.canvas_ops import upsample
    from dense_resnet.preprocessing import preprocess

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "Backbone",
    "InputError",
    "Plan",
    "aligned_size",
    "checkpoints",
    "keras_resnet",
    "plan",
    "preprocess",
    "read_features",
    "resnet_utils",
    "resnet_v1",
    "resnet_v2",
    "sample",
    "upsample",
]


def import_lazily(package: str, *modules: str, **names: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of `package` that imports its `modules`, and name=module, when they are first asked for."""

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name in names:
            return getattr(importlib.import_module(f"{package}.{names[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get


MODULES = ("checkpoints", "keras_resnet", "resnet_utils", "resnet_v1", "resnet_v2")
__getattr__ = import_lazily(
    __name__,
    *MODULES,
    Backbone="backbone",
    preprocess="preprocessing",
    read_features="extraction",
    sample="extraction",
    upsample="inference.canvas_ops",
)


def __dir__() -> list[str]:
    return __all__
