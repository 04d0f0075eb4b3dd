"""A verb's file as a script, from a checkout that need not be installed."""

import importlib
import sys
from pathlib import Path


def run(file: str) -> None:
    """Run the verb of `file`; the folder is a package only with its parent on the path, so nothing here is imported before."""
    here = Path(file).resolve()
    sys.path[0] = str(here.parent.parent)
    cli = importlib.import_module(f"{here.parent.name}.cli")
    raise SystemExit(cli.main([here.stem, *sys.argv[1:]]))
