"""What makes a ResNet dense, as integers. Needs the standard library alone (``tests/test_import_rules.py`` proves it)."""

from dense_resnet.planning.geometry import aligned_size
from dense_resnet.planning.plan import Plan
from dense_resnet.planning.variants import VARIANTS

__all__ = ["VARIANTS", "Plan", "aligned_size"]
