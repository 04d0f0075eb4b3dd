"""The table of SECURITY.md, from the figures that the long form kept: ``PYTHONPATH=tests python -m campaign``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parent.parent.parent / ".github" / "campaign"
HEAD = "| test | counted | date |\n|---|---|---|\n"


def table() -> str:
    """A row a test."""
    entries = [json.loads(path.read_text()) for path in FIGURES.glob("*.json")]
    assert entries, f"{FIGURES} has no figures"
    return HEAD + "".join(_row(entry) for entry in sorted(entries, key=lambda entry: entry["test"]))


def _row(entry: dict[str, Any]) -> str:
    return f"| `{entry['test']}` | {_said(entry['figures'])} | {entry['date']} |\n"


def _said(figures: dict[str, Any]) -> str:
    """Names and numbers: ``refused 9,812, identical 188``."""
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in figures.items() if name != "seconds")


def _number(value: Any) -> str:
    match value:
        case []:
            return "nothing"
        case dict():
            return f"({_said(value)})"
        case float():
            return f"{value:.2g}" if abs(value) < 10 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
    return str(value)


if __name__ == "__main__":
    print(table(), end="")
