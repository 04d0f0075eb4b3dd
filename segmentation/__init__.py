"""Semantic segmentation on the backbones of :mod:`dense_resnet`."""
