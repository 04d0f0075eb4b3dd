"""Read published weights: every source becomes ``{canonical name: float32 array}``.

The canonical name is TF-Slim's variable name, so any source works with any builder. A file's container gives arrays under their
own names, a framework's map canonical ones; ``load_report.match`` finds what a network takes from them. Nothing here unpickles.
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
    "MODEL_WEIGHTS", "SUFFIXES", "Source", "Weights", "check_source", "fingerprint", "open_source", "raw", "read", "write",
]  # fmt: skip
