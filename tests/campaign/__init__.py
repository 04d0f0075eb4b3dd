"""The campaign: tests that look for what nobody thought of, and count.

Each tries as many random cases as ``--cases`` says, or as fit into ``--seconds``; without them a short form, for every change:

    pytest tests/campaign/test_oracles_metrics.py --cases 10000 --figures figures -s

A case is made from its test's name and its own number, so that a failing one comes again (a moment of time, at which a
process is killed, aside). What was counted is printed, and ``--figures`` keeps it, with the date, the command and the machine,
a JSON file a test. ``python -m tests.campaign figures`` adds them to ``results.json`` and writes ``RESULTS.md``.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
import shlex
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
from rich.progress import track

from tools.benchmarking import hardware

ROOT = Path(__file__).parent.parent.parent
OTHERS = ("tensorflow", "keras", "tf-slim", "numpy", "torch", "pillow", "opencv-python", "opencv-python-headless")


class Campaign:
    """One test's cases and figures.

    Args:
        test: its name.
        file: that it stands in, from the folder of tests.
        cases, seconds: as asked for on the command line.
        figures: the folder that keeps them.
    """

    def __init__(self, test: str, file: str, cases: int | None, seconds: float | None, figures: Path | None):
        self.test, self.file, self.figures = test, file, figures
        self._cases, self._seconds = cases, seconds
        self._begun = time.monotonic()
        self._done = 0

    def cases(self, short: int) -> Iterator[tuple[int, np.random.Generator]]:
        """Numbers from 0, each with its own random generator.

        Args:
            short: how many without ``--cases`` and ``--seconds``.
        """
        end = self._cases
        if end is None and self._seconds is None:
            end = short
        numbers = range(end) if end is not None else itertools.count()
        self._begun = time.monotonic()
        for number in track(numbers, self.test, total=end, disable=not sys.stderr.isatty()):
            if self._seconds is not None and time.monotonic() - self._begun > self._seconds:
                break
            yield number, np.random.default_rng([zlib.crc32(self.test.encode()), number])
            self._done = number + 1

    def report(self, **figures: object) -> None:
        """Call it last, when all has held: prints the figures, and keeps them where ``--figures`` says."""
        figures = {"cases": self._done, "seconds": round(time.monotonic() - self._begun, 1)} | figures
        print(f"{self.test}: {', '.join(f'{name} {value}' for name, value in figures.items())}")
        if self.figures is None:
            return
        self.figures.mkdir(parents=True, exist_ok=True)
        entry = {
            "test": f"{self.file}::{self.test}",
            "figures": figures,
            "date": datetime.date.today().isoformat(),
            "command": shlex.join(["pytest", *sys.argv[1:]]),
            "commit": _git("rev-parse", "HEAD")
            + ("" if not _git("status", "--porcelain", "--untracked-files=no") else " and changes"),
            "machine": {name: value for name, value in hardware.describe().items() if name != "flags"},
            "versions": {name: version for name in OTHERS if (version := _version(name)) is not None},
        }
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{Path(self.file).stem} {self.test}".replace("test_", "")).strip("-")
        (self.figures / f"{name}.json").write_text(json.dumps(entry, indent=1, sort_keys=True, default=_plain) + "\n")


def _plain(number: np.generic) -> int | float:
    return number.item()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
