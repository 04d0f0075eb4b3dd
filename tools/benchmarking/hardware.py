"""What a measured time depends on besides the program: the processor, its load, its memory."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dense_resnet.inference.cpu import MEMORY, PROCESSOR, _fields, cores, flags, name

STATUS = Path("/proc/self/status")
INSTRUCTIONS = {  # for matrix products, the fastest first: by flag
    "amx_int8": "amx", "avx512_bf16": "avx512-bf16", "avx512_vnni": "avx512-vnni", "avx_vnni": "avx-vnni",
    "avx512f": "avx512", "avx2": "avx2",
}  # fmt: skip


def load() -> tuple[float, ...]:
    """Return the load averages of the last 1, 5 and 15 minutes; () if the system does not report them."""
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def short_name(processor: str, flags: Iterable[str]) -> str:
    """Return a name for the folder of a processor's figures.

    >>> short_name("AMD EPYC 7B13 64-Core Processor", ["avx", "avx2"])
    'amd-epyc-7b13-avx2'
    """
    words = re.findall(r"[a-z0-9]+", re.sub(r"\(\w+\)|\bcpu\b|\bprocessor\b|\w+-core\b|@.*", "", processor.lower()))
    instructions = next((name for flag, name in INSTRUCTIONS.items() if flag in {*flags}), None)
    return "-".join([*words, *filter(None, [instructions])])


def describe() -> dict[str, Any]:
    """Return the machine, as far as the system reports it."""
    processor = _fields(PROCESSOR)
    return {
        "processor": name(),
        "short_name": short_name(name(), flags()),
        "megahertz": float(processor["cpu MHz"]) if "cpu MHz" in processor else None,
        "flags": flags(),
        "cores": cores(),
        "memory": _fields(MEMORY).get("MemTotal"),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def peak_memory() -> int:
    """Return the peak of this process's resident memory so far, in bytes, with the libraries that it has in memory."""
    import resource

    status = _fields(STATUS)
    if "VmHWM" in status:  # resource usage would include what the parent held at the time of the fork
        return int(status["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
