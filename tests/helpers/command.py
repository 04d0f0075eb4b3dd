"""The command, in this process."""

from __future__ import annotations

from helpers import ROOT
from tools import cli

SCENES_MODEL = ROOT / "tools" / "scenes_model"


def run(capsys, *arguments):
    """(exit code, what was printed, what went to the error stream) of ``dense-resnet`` in this process."""
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err
