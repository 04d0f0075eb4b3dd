"""Runs one of tf-slim's own test files with its networks replaced by ours: ``redirected.py resnet_v2_test``."""

import importlib.util
import re
import sys
import types
import unittest
from pathlib import Path


def main():
    from dense_resnet import compat

    name = sys.argv.pop(1)
    source = Path(importlib.util.find_spec(f"{compat.slim.__name__}.nets.{name}").origin).read_text()
    source, redirected = re.subn(r"from tf_slim\.nets import", "from dense_resnet import", source)
    assert redirected == 2, "expected the imports of resnet_utils and of the network"
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    unittest.main(module=module)


if __name__ == "__main__":
    main()
