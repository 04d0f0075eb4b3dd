"""Read published weights: every source becomes ``{canonical name: float32 array}``.

The canonical name is TF-Slim's variable name, so any source works with any builder. A file is read in two steps: its
container (:mod:`~dense_resnet.checkpoints.containers`) gives arrays under their own names, and if these are a framework's, its
map (:mod:`~dense_resnet.checkpoints.names`) gives canonical ones. :func:`dense_resnet.checkpoints.load_report.match` reports
what a network takes from such a dictionary, and what is missing. Nothing here unpickles.
"""

from dense_resnet.checkpoints.sources import (
    MODEL_WEIGHTS,
    SUFFIXES,
    Source,
    Weights,
    check_source,
    fingerprint,
    open_source,
    raw,
    read,
    write,
)

__all__ = [
    "MODEL_WEIGHTS",
    "SUFFIXES",
    "Source",
    "Weights",
    "check_source",
    "fingerprint",
    "open_source",
    "raw",
    "read",
    "write",
]
