"""The number of cores that this process may use, and the processor's flags."""

from __future__ import annotations

import os
import platform
from pathlib import Path

PROCESSOR, MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def name() -> str:
    """Return the processor's name as Linux reports it, or else what Python knows of it."""
    return _fields(PROCESSOR).get("model name") or platform.processor() or platform.machine()


def flags() -> list[str]:
    """Return the processor's flags as Linux reports them; [] on other systems."""
    return _fields(PROCESSOR).get("flags", "").split()


def _fields(path: Path) -> dict[str, str]:
    """Return the first ``name: value`` of each name in a file of the kernel; {} without the file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":")[::2] for line in reversed(lines) if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}
