"""The precision that a compiled network computes in."""

from __future__ import annotations

from dense_resnet.errors import InputError
from dense_resnet.inference import cpu

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
PRECISIONS = (AUTO, FLOAT32, BFLOAT16)
INT8 = "int8"  # of exported files alone, whose ranges are taken from images
FAST_IN_BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # Linux' names of the instructions that multiply bfloat16


def choose_precision(asked: str) -> str:
    """Return "float32" or "bfloat16": as asked, or for "auto" what this processor computes fast."""
    if asked not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(map(repr, PRECISIONS))} (not {asked!r}).")
    if asked != AUTO:
        return asked
    return BFLOAT16 if FAST_IN_BFLOAT16.intersection(cpu.flags()) else FLOAT32
