"""TensorFlow's tables: a checkpoint of the V1 format is one, and so is the index of a V2 one.

A table is a run of blocks, each followed by how it is compressed and by a checksum of both: data blocks with sorted keys,
a block that is empty here, an index block with where each data block lies, and a footer with where the last two lie.
Here the blocks must fill the file without a gap, so that every byte but the footer's is under a checksum, and the footer
has no choice. TensorFlow's own reader follows the footer where it leads, and takes the end of a list for granted.

The format lets a block be compressed. TensorFlow since 1.2 compresses no block of a checkpoint, so a compressed one is refused.

Source of the format: https://github.com/google/leveldb/blob/main/doc/table_format.md. What does not fit raises a ``ValueError``
that gives the reason without the file's name. (``tests/campaign/test_fuzz_weights.py``)
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
    """Where a block lies."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.size + TRAILER


def masked_checksum(data: bytes) -> int:
    """Return the CRC-32C as TensorFlow stores it."""
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of the table at `path`, in the order of the keys, with one block in memory at a time.

    Raises:
        ValueError: it is not a table, or is damaged; possibly after some entries.
    """
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
            if handle.offset != begin:
                raise ValueError(f"no block begins at byte {begin}")
            for key, content in _pairs(_block(file, handle, end)):
                if previous is not None and key <= previous:
                    raise ValueError("its keys are not in order")
                previous = key
                left -= len(key)
                if left < 0:
                    raise ValueError(f"its keys are of more than {EXPANSION} times its bytes")
                yield key, content
            begin = handle.end
        if (begin, empty.end, index.end) != (empty.offset, index.offset, end):
            raise ValueError("its blocks do not fill it")


def _block(file: BinaryIO, handle: Handle, end: int) -> bytes:
    """Read a block's contents and verify its checksum; all blocks lie before `end`."""
    if handle.end > end:
        raise ValueError(f"the block at byte {handle.offset} is cut")
    file.seek(handle.offset)
    stored = file.read(handle.size + 1)
    if masked_checksum(stored) != int.from_bytes(file.read(4), "little"):
        raise ValueError(f"the block at byte {handle.offset} does not match its checksum")
    if stored[-1]:
        raise ValueError(
            f"the block at byte {handle.offset} is compressed (method {stored[-1]}), and TensorFlow since 1.2 compresses no "
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
    return Handle(offset, size), at


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
