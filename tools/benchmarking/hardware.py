"""What a measured time depends on besides the program: the processor, its load, its memory."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from dense_resnet.inference.cpu import MEMORY, PROCESSOR, _fields, cores, flags, name


def load() -> tuple[float, ...]:
    """Return the load averages of the last 1, 5 and 15 minutes; () if the system does not report them."""
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def describe() -> dict[str, Any]:
    """Return the machine, as far as the system reports it."""
    processor = _fields(PROCESSOR)
    return {
        "processor": name(),
        "megahertz": float(processor["cpu MHz"]) if "cpu MHz" in processor else None,
        "flags": flags(),
        "cores": cores(),
        "memory": _fields(MEMORY).get("MemTotal"),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def peak_memory() -> int:
    """Return the peak memory of this process so far, in bytes."""
    import resource

    status = _fields(Path("/proc/self/status"))
    if "VmHWM" in status:  # resource usage would include what the parent held at the time of the fork
        return int(status["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
