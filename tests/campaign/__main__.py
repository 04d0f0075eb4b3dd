"""Keep the campaign's figures: ``python -m tests.campaign [DIR …]``.

``results.json`` holds the last figures of each test: a list of runs, each with commit, date, machine and versions, and for each
command the figures of its tests. The command above adds the files that ``--figures DIR`` wrote, and writes ``RESULTS.md`` from
all figures. (``tests/test_documents.py``)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE / "RESULTS.md"
ABOUT = ("commit", "date", "machine", "versions")  # keys of a run
HEAD = """\
# The campaign's results

The long form of `tests/campaign`, a row for each test. `results.json` holds the same figures with the commands that gave them;
`python -m tests.campaign` writes this page from it. What the campaign is and how to run it: [tests/README.md](../README.md).

What the words for damaged files (`test_damaged_files`) mean:

- **refused**: the reader stopped with an error that names the file.
- **identical**: the damaged file reads as the good one.
- **excepted**: the file reads as what its bytes now say, by a second reading in the test. The format has no checksum there, or
  the test made the checksums fit.
- **moved**: the address of an array was changed, so other bytes of the file were read under the right name and shape. HDF5 and
  the older PyTorch format store nothing that would show it.

A test fails, and gives no figures, if a damaged file crashes the reader, takes more than 5 s or 512 MiB of additional memory,
or is silently read as anything else. A **loss** is a file that was good before and is not good now, or a result that differs
in any bit from that of an undisturbed run. "Nothing" is an empty list.
"""


def entries_of(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry for each test, as ``--figures`` writes it."""
    return [
        {key: run[key] for key in ABOUT} | {"command": command, "test": test, "figures": figures}
        for run in runs
        for command, tests in run["commands"].items()
        for test, figures in tests.items()
    ]


def runs_of(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group the last entry of each test by run; the inverse of :func:`entries_of`."""
    last = {entry["test"]: entry for entry in entries}
    runs: dict[str, dict[str, Any]] = {}
    for test, entry in sorted(last.items()):
        about = {key: entry[key] for key in ABOUT}
        run = runs.setdefault(json.dumps(about, sort_keys=True), {**about, "commands": {}})
        run["commands"].setdefault(entry["command"], {})[test] = entry["figures"]
    return sorted(runs.values(), key=lambda run: (run["date"], run["commit"]))


def page(runs: Iterable[dict[str, Any]]) -> str:
    """Return the text of RESULTS.md."""
    return HEAD + "".join(f"\n{_section(run)}" for run in runs)


def _section(run: dict[str, Any]) -> str:
    machine, versions = run["machine"], ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    commit, _, changes = run["commit"].partition(" ")
    rows = sorted((test, figures) for tests in run["commands"].values() for test, figures in tests.items())
    return (
        f"## {run['date']}, commit {' '.join(filter(None, (commit[:7], changes)))}\n\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']} of memory, Python {machine['python']}; "
        f"{versions}.\n\n"
        "| test | figures |\n|---|---|\n" + "".join(f"| `{test}` | {_list_figures(figures)} |\n" for test, figures in rows)
    )


def _list_figures(figures: dict[str, Any]) -> str:
    """Format names and numbers: ``refused 9,812, identical 188``."""
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in figures.items() if name != "seconds")


def _number(value: Any) -> str:
    match value:
        case []:
            return "nothing"
        case dict():
            return f"({_list_figures(value)})"
        case float():
            return f"{value:.2g}" if abs(value) < 10 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
    return str(value)


def main(folders: Sequence[str]) -> None:
    """Add the figures in `folders`, and write both files."""
    entries = entries_of(json.loads(RESULTS.read_text()))
    for folder in folders:
        entries += [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    runs = runs_of(entries)
    RESULTS.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(runs))


if __name__ == "__main__":
    main(sys.argv[1:])
