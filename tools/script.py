"""A verb's file as a script, from a checkout that need not be installed."""

import importlib
import sys
from pathlib import Path


def run(file: str) -> None:
    """Run the verb of `file`, which calls this before the imports that need the package's parent on the path."""
    here = Path(file).resolve()
    sys.path[0] = str(here.parent.parent)
    cli = importlib.import_module(f"{here.parent.name}.cli")
    sys.modules["__main__"].__spec__ = cli.__spec__  # what processes that multiprocessing starts import
    raise SystemExit(cli.main([here.stem, *sys.argv[1:]]))
