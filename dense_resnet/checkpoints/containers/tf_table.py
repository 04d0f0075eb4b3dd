"""TensorFlow's tables: a checkpoint of the V1 format is one, and so is the index of a V2 one.

A table is data blocks with sorted keys, an empty block, an index of the data blocks and a footer with the places of the last
two; each block is followed by its compression and a checksum. Unlike TensorFlow's reader, this one wants blocks that fill the
file without a gap, so that every byte but the footer's is under a checksum and the footer cannot lead elsewhere.

Source: https://github.com/google/leveldb/blob/main/doc/table_format.md. Errors are ``ValueError``s without the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c

FOOTER, MAGIC = 48, (0xDB4775248B80FB57).to_bytes(8, "little")
TRAILER = 5  # bytes after a block: compression and checksum
EXPANSION, ALLOWANCE = 16, 2**20  # all keys may have as many times the file's bytes, and so many more
LONGEST_KEY = 4096  # bytes; keys share their beginnings, so that a small block could hold many long ones


class Handle(NamedTuple):
    """Where a block is, its trailer included."""

    begin: int
    end: int


def masked_checksum(data: bytes) -> int:
    """Return the CRC-32C as TensorFlow stores it."""
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of the table at `path`, one block in memory at a time; damage may show after some entries."""
    with open(path, "rb") as file:
        end = file.seek(0, 2) - FOOTER
        file.seek(max(0, end))
        footer = file.read(FOOTER)
        if not footer.endswith(MAGIC) or end < 0:
            raise ValueError("it does not end as a table does")
        empty, at = _handle(footer, 0)
        index, _ = _handle(footer, at)
        begin, previous, left = 0, None, EXPANSION * end + ALLOWANCE
        for _, value in _pairs(_block(file, index, end)):
            handle, _ = _handle(value, 0)
            if handle.begin != begin:
                raise ValueError(f"gap or overlap between blocks at byte {begin}")
            for key, content in _pairs(_block(file, handle, end)):
                if previous is not None and key <= previous:
                    raise ValueError("its keys are not in order")
                previous = key
                left -= len(key)
                if left < 0:
                    raise ValueError(f"its keys are of more than {EXPANSION} times its bytes")
                yield key, content
            begin = handle.end
        if (begin, empty.end, index.end) != (empty.begin, index.begin, end):
            raise ValueError("its blocks do not fill it")


def _block(file: BinaryIO, handle: Handle, end: int) -> bytes:
    """Read a block's contents and verify its checksum; all blocks lie before `end`."""
    if handle.end > end:
        raise ValueError(f"the block at byte {handle.begin} is cut")
    file.seek(handle.begin)
    stored = file.read(handle.end - handle.begin - 4)
    if masked_checksum(stored) != int.from_bytes(file.read(4), "little"):
        raise ValueError(f"the block at byte {handle.begin} does not match its checksum")
    if stored[-1]:
        raise ValueError(
            f"the block at byte {handle.begin} is compressed (method {stored[-1]}), and TensorFlow since 1.2 compresses no "
            "checkpoint: restore it with TensorFlow, and save it again"
        )
    return stored[:-1]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of a block's entries; each stores its shared prefix with the key before it, and the rest."""
    restarts = int.from_bytes(block[-4:], "little")  # places from where a reader may begin, at the block's end
    end = len(block) - 4 * (restarts + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        added, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or shared + added > LONGEST_KEY or at + added + size > end:
            raise ValueError("an entry leads out of its block")
        key = key[:shared] + block[at : at + added]
        at += added + size
        yield key, block[at - size : at]
    if at != end:
        raise ValueError("a block is too short")


def _handle(data: bytes, at: int) -> tuple[Handle, int]:
    """Return the handle at `at`, and the position after it."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return Handle(offset, offset + size + TRAILER), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at`, stored seven bits per byte, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise ValueError("it is cut within a number")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number in it has no end")
