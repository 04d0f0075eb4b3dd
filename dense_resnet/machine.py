"""What a measured time depends on beside the program: the processor, its load, its memory."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

PROCESSOR, MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> tuple[float, ...]:
    """Processes that wanted a core, on average, in the last 1, 5 and 15 minutes; () where the system does not say."""
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def flags() -> list[str]:
    """What the processor can do, in Linux' words; [] where the system does not say."""
    return _fields(PROCESSOR).get("flags", "").split()


def described() -> dict[str, Any]:
    """The machine, as far as the system tells."""
    processor = _fields(PROCESSOR)
    return {
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "megahertz": float(processor["cpu MHz"]) if "cpu MHz" in processor else None,
        "flags": flags(),
        "cores": cores(),
        "memory": _fields(MEMORY).get("MemTotal"),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def _fields(path: Path) -> dict[str, str]:
    """The first ``name: value`` of each name in a file of the kernel's; nothing where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":")[::2] for line in reversed(lines) if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def peak_memory() -> int:
    """Bytes: the most that this process has held so far."""
    import resource

    status = _fields(Path("/proc/self/status"))
    if "VmHWM" in status:  # resource usage would count in what the parent held at the time of the fork
        return int(status["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
