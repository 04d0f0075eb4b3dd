"""Makes tf-slim run on today's TensorFlow; the only file that touches tf-keras' private modules.

Its ``batch_norm`` imports, through TensorFlow, ``tf_keras.legacy_tf_layers``, which tf-keras has as
``tf_keras.src.legacy_tf_layers``: the second is registered under the first's name, and nothing else is changed.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib import metadata

TESTED = "TensorFlow 2.16 to 2.21, tf-keras of the same version as TensorFlow, tf-slim 1.1"
LEGACY = "tf_keras.legacy_tf_layers"
LEGACY_SOURCE = "tf_keras.src.legacy_tf_layers"
LEGACY_MODULES = ("base", "convolutional", "core", "normalization", "pooling")


def _find_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


# What TensorFlow says to tf-slim's authors at every layer. The filters are the process's, since users build layers too, and
# `warnings.catch_warnings()` is not safe in the threads that build replicas: it could leave a user's filters changed.
NOISE = ("`layer.apply` is deprecated", "`layer.updates` will be removed", "`layer.add_variable` is deprecated")
for message in NOISE:
    warnings.filterwarnings("ignore", message=message, category=UserWarning)


try:
    if LEGACY not in sys.modules:
        sys.modules[LEGACY] = importlib.import_module(LEGACY_SOURCE)
        for name in LEGACY_MODULES:
            sys.modules[f"{LEGACY}.{name}"] = importlib.import_module(f"{LEGACY_SOURCE}.{name}")
    slim = importlib.import_module("tf_slim")
except (ImportError, AttributeError) as error:
    versions = ", ".join(f"{name} {_find_version(name)}" for name in ("tensorflow", "tf-keras", "tf-slim"))
    raise ImportError(
        f"tf-slim cannot run here ({versions}): {error}. Versions that work together: {TESTED}. "
        "The likely fix: pip install tf-slim 'tf-keras~=' followed by TensorFlow's own version."
    ) from error
