"""The engines that compute a network, and which of them is the fastest here.

What was measured is kept in the user's cache folder, by processor, cores, network and versions: see :func:`cache_folder`.
(``tests/dense_resnet/inference/test_engines.py``)
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dense_resnet.errors import InputError
from dense_resnet.inference import cpu
from dense_resnet.jobs import atomic_files, strict_json

AUTO, TENSORFLOW, OPENVINO = "auto", "tensorflow", "openvino"
ENGINES = (AUTO, TENSORFLOW, OPENVINO)
MEASURED = "engines.json"  # in the cache folder
RUNS = 3  # of each engine, in turn


def cache_folder() -> Path:
    """Return the folder for what can be computed again; DENSE_RESNET_CACHE names another than the system's."""
    import platformdirs

    return Path(os.environ.get("DENSE_RESNET_CACHE") or platformdirs.user_cache_dir("dense-resnet", appauthor=False))


def has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def check_engine(asked: str) -> str:
    """Return `asked` if it is an engine that is installed, or "auto"."""
    if asked not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(map(repr, ENGINES))} (not {asked!r}).")
    if asked == OPENVINO and not has_openvino():
        raise InputError("the engine 'openvino' is not installed: pip install openvino. 'tensorflow' needs nothing else.")
    return asked


def usual_engine(asked: str = AUTO) -> str:
    """Return the engine as asked, or for "auto" the one that is the fastest on most processors."""
    if check_engine(asked) != AUTO:
        return asked
    return OPENVINO if has_openvino() else TENSORFLOW


def engine_of_runner(asked: str, *, portable: bool) -> str:
    """Return the engine of a runner: a graph for a file is TensorFlow's, unless another is asked for by name."""
    return TENSORFLOW if portable and check_engine(asked) == AUTO else usual_engine(asked)


def describe_machine(precision: str) -> dict[str, Any]:
    """Return what the speed of engines depends on, but for the network."""
    packages = (TENSORFLOW, OPENVINO) if has_openvino() else (TENSORFLOW,)
    return {
        "processor": cpu.name(),
        "cores": cpu.cores(),
        "precision": precision,
        **{name: version(name) for name in packages},
    }


def recall(key: Mapping[str, Any]) -> dict[str, float]:
    """Return the measured seconds of each engine under a key; {} if there are none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return {str(engine): float(seconds) for engine, seconds in _read()[_name(key)].items()}
    return {}


def measure(runs: Mapping[str, Callable[[], Any]], key: Mapping[str, Any]) -> dict[str, float]:
    """Return the median seconds of a run of each engine, and keep them under `key`; a cache that cannot be written is left."""
    seconds: dict[str, list[float]] = {engine: [] for engine in runs}
    for run in runs.values():
        run()  # the first one of a shape is slower
    for _ in range(RUNS):
        for engine, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[engine].append(time.perf_counter() - start)
    found = {engine: statistics.median(values) for engine, values in seconds.items()}
    with contextlib.suppress(InputError, OSError):
        path = cache_folder() / MEASURED
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            known = _read()
        except (OSError, ValueError):
            known = {}
        atomic_files.write_bytes(path, json.dumps(known | {_name(key): found}, indent=1).encode())
    return found


def _read() -> dict[str, Any]:
    return dict(strict_json.loads((cache_folder() / MEASURED).read_bytes()))


def _name(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
