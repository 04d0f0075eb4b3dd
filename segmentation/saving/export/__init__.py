"""Networks as files for other programs: a TensorFlow SavedModel, ONNX, or TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_resnet import import_lazily

if TYPE_CHECKING:
    from segmentation.saving.export.exported import Exported
    from segmentation.saving.export.exporter import export, open_exported
    from segmentation.saving.export.files import is_exported

__all__ = ["Exported", "export", "is_exported", "open_exported"]

__getattr__ = import_lazily(__name__, Exported="exported", export="exporter", is_exported="files", open_exported="exporter")
