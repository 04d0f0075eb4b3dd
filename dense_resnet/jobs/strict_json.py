"""Strict JSON: rejects duplicate keys, NaN, Infinity and numbers beyond a float, which Python's reader accepts."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


def loads(text: str | bytes) -> Any:
    """Parse `text`; what is not strict JSON, or nested too deeply, is a :class:`ValueError`."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"duplicate key {next(name for name in counts if counts[name] > 1)!r}")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not valid JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse_constant(text)
    return value
