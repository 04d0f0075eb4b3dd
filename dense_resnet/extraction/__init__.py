"""Features of a folder of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from dense_resnet.extraction.extract import Extraction
    from dense_resnet.extraction.features import Features, read_features, sample
    from dense_resnet.extraction.settings import Settings

__all__ = ["Extraction", "Features", "Settings", "read_features", "sample"]

__getattr__ = import_lazily(
    __name__, Extraction="extract", Features="features", Settings="settings", read_features="features", sample="features"
)
