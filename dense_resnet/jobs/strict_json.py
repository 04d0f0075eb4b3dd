"""JSON whose reader refuses what Python's own takes without a word: a key twice, ``NaN``, and numbers without end."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


def loads(text: str | bytes) -> Any:
    """What `text` says.

    Raises:
        ValueError: it is no JSON, has a key twice (of which the last would count), ``NaN`` or ``Infinity``, a number beyond
            what a float holds, or more brackets within brackets than can be followed.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("too many brackets within brackets") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {next(name for name in counts if counts[name] > 1)!r} is there twice")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse_constant(text)
    return value
