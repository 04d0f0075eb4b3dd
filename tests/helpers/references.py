"""Other projects' metrics, for comparison."""

from __future__ import annotations

import importlib

IGNORE = 255


def mmseg_areas(labels, predictions, num_classes):
    """intersect_and_union in mmseg/evaluation/metrics/iou_metric.py."""
    torch = importlib.import_module("torch")
    labels, predictions = torch.from_numpy(labels), torch.from_numpy(predictions)
    mask = labels != IGNORE
    predictions, labels = predictions[mask], labels[mask]
    sets = predictions[predictions == labels], predictions, labels
    right, found, true = (torch.histc(own.float(), bins=num_classes, min=0, max=num_classes - 1) for own in sets)
    return right, found + true - right
