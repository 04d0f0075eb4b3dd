"""The numbers that a compiled network computes in."""

from __future__ import annotations

from dense_resnet.errors import InputError
from dense_resnet.inference import cpu

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
PRECISIONS = (AUTO, FLOAT32, BFLOAT16)
FAST_IN_BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # as Linux calls what multiplies such numbers


def choose_precision(asked: str) -> str:
    """What was asked for, "float32" or "bfloat16"; with "auto" what this processor is fast in."""
    if asked not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(map(repr, PRECISIONS))} (not {asked!r}).")
    if asked != AUTO:
        return asked
    return BFLOAT16 if FAST_IN_BFLOAT16.intersection(cpu.flags()) else FLOAT32
