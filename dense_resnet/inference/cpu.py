"""What the processor offers: how many cores this process may use, and what they can do."""

from __future__ import annotations

import os
from pathlib import Path

PROCESSOR, MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flags() -> list[str]:
    """What the processor can do, in Linux' words; [] where the system does not say."""
    return _fields(PROCESSOR).get("flags", "").split()


def _fields(path: Path) -> dict[str, str]:
    """The first ``name: value`` of each name in a file of the kernel's; nothing where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":")[::2] for line in reversed(lines) if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}
