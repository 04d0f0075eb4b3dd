"""The arrays of an HDF5 file: where they are stored, and their values; source of the format: see ``hdf5``.

An array is stored in its object's header, in one piece, or in chunks that a B-tree lists and filters may have packed. Its type,
its size and the places of its chunks are checked before a value is read.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from dense_resnet.checkpoints.containers.hdf5 import COMPRESSION, SMALL, UNDEFINED, Fields
from dense_resnet.checkpoints.containers.hdf5_nodes import CHUNKS, DATATYPE, FILTERS, FLOAT, LAYOUT, Node, class_name
from dense_resnet.errors import InputError

MOST_CELLS = 2**40  # of an array, empty sides counted as 1

COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)  # how an array is stored
DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3

INTEGER = 0
# A datatype message behind class and version: bits, size; offset, precision, exponent, mantissa, bias.
FLOATS: dict[bytes, np.dtype] = {
    bytes.fromhex("200f00 02000000 0000 1000 0a 05 00 0a 0f000000"): np.dtype("<f2"),
    bytes.fromhex("201f00 04000000 0000 2000 17 08 00 17 7f000000"): np.dtype("<f4"),
    bytes.fromhex("203f00 08000000 0000 4000 34 0b 00 34 ff030000"): np.dtype("<f8"),
}


@dataclass(frozen=True)
class Array:
    """A dataset's values, checked and not yet read; what is stored in one piece is one chunk."""

    node: Node
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]  # the shape of one
    chunks: dict[tuple[int, ...], tuple[int, int] | bytes]  # address and size, or the data, by corner
    filters: tuple[int, ...] = ()

    def read(self) -> np.ndarray:
        values = np.empty(self.shape, self.dtype)
        for corner, place in self.chunks.items():
            unpacked = self._unpack(place if isinstance(place, bytes) else self.node.file.read(*place), corner)
            sides = zip(corner, self.chunk, self.shape, strict=True)
            part = tuple(slice(at, min(at + side, whole)) for at, side, whole in sides)
            values[part] = unpacked[tuple(slice(0, one.stop - one.start) for one in part)]
        return values

    def _unpack(self, data: bytes, corner: tuple[int, ...]) -> np.ndarray:
        """Undo the filters of a chunk, the last first."""
        source = f"{self.node.source}: its chunk at {list(corner)}"
        size = math.prod(self.chunk) * self.dtype.itemsize
        for number in reversed(self.filters):
            if number == FLETCHER32:
                data, stored = data[:-4], data[-4:]
                if fletcher32(data) != stored:
                    raise InputError(f"{source} does not match its checksum: damaged. Fetch the file again.")
            elif number == SHUFFLE:
                data = unshuffle(data, self.dtype.itemsize)
            else:
                try:
                    data = zlib.decompressobj().decompress(data, size + 4 * self.filters.count(FLETCHER32) + 1)
                except zlib.error as error:
                    raise InputError(f"{source} cannot be unpacked ({error}): damaged. Fetch the file again.") from error
        if len(data) != size:
            raise InputError(f"{source} does not have the {size} bytes that it must have: damaged.")
        return np.frombuffer(data, self.dtype).reshape(self.chunk)


def _read_dtype(node: Node) -> np.dtype | None:
    """Return float16, float32 or float64; None for integers. Every other type raises an InputError."""
    message = node.require(DATATYPE).data
    kind, size = node.read_type(message)
    if kind == INTEGER:
        return None
    if kind == FLOAT and message[0] >> 4 in (1, 2, 3) and message[1:20] in FLOATS:
        return FLOATS[message[1:20]]
    raise InputError(
        f"{node.source}: its values are of the type {class_name(kind)} of {size} bytes; float16, float32 and "
        "float64 (little-endian) are read."
    )


def locate(node: Node) -> Array | None:
    """Return where a dataset's values are stored, once they are checked; None for integers."""
    dtype = _read_dtype(node)
    if dtype is None:
        return None
    layout = node.require(LAYOUT)
    version, kind = layout.take_numbers(1, 1)
    if (version, kind) == (4, VIRTUAL):
        node.refuse("a virtual dataset (its values stand elsewhere)")
    if version != 3 or kind > CHUNKED:
        node.refuse(f"a storage layout of version {version}, kind {kind}")
    shape = node.shape
    declared = math.prod(shape) * dtype.itemsize
    node.file.declare(declared, node.what)
    if math.prod(max(side, 1) for side in shape) > MOST_CELLS:  # an empty array may say anything of its other sides
        raise InputError(f"{node.source}: no array can have the shape {list(shape)}: damaged.")
    filters = _read_filters(node) if node.find(FILTERS) is not None else ()
    if kind == CHUNKED:
        return _locate_chunks(node, layout, shape, dtype, filters)
    if filters:
        raise InputError(f"{node.source}: filters go with chunks: damaged.")
    corner = (0,) * len(shape)
    if kind == COMPACT:
        data = layout.take(layout.take_number(2))
        _compare(node, shape, declared, len(data), 1)
        return Array(node, shape, dtype, shape, {corner: data})
    address, size = layout.take_numbers(8, 8)
    _compare(node, shape, declared, 0 if address == UNDEFINED else size, 1)
    node.file.claim(address if size else 0, size, node.what)
    return Array(node, shape, dtype, shape, {corner: (address, size)} if size else {})


def _compare(node: Node, shape: tuple[int, ...], declared: int, stored: int, allowed: int) -> None:
    """Refuse more bytes than `allowed` times those stored, and where `allowed` is 1, fewer too."""
    if declared > stored * allowed or (allowed == 1 and declared != stored):
        raise InputError(
            f"{node.source}: an array of {list(shape)} is declared, {declared} bytes, and {stored} bytes are stored: "
            "the file is corrupt or malicious."
        )


def _read_filters(node: Node) -> tuple[int, ...]:
    """Return the filters' numbers in the order in which they packed the chunks."""
    fields = node.require(FILTERS)
    version, count = fields.take_numbers(1, 1)
    if version not in (1, 2):
        node.refuse(f"filters of version {version}")
    fields.take(6 if version == 1 else 0)
    found: list[int] = []
    for _ in range(count):
        number = fields.take_number(2)
        if number not in (DEFLATE, SHUFFLE, FLETCHER32):
            raise InputError(
                f"{node.source}: it is packed by the filter {number}; gzip, shuffle and fletcher32 are read, and no "
                "plug-in is loaded."
            )
        if number in found:
            raise InputError(f"{node.source}: it is packed by the filter {number} twice: the file is malicious.")
        name_length = fields.take_number(2) if version == 1 else 0
        _, values = fields.take_numbers(2, 2)
        fields.take(name_length + 4 * values + (4 * (values % 2) if version == 1 else 0))
        found.append(number)
    return tuple(found)


def _locate_chunks(node: Node, layout: Fields, shape: tuple[int, ...], dtype: np.dtype, filters: tuple[int, ...]) -> Array:
    """Return where the chunks are stored: all of them, each in its place."""
    rank = layout.take_number(1)
    address, *sides = layout.take_numbers(8, *[4] * rank)
    *chunk, itemsize = sides or [0]
    fits = rank == len(shape) + 1 and itemsize == dtype.itemsize
    if not fits or not all(0 < side <= whole for side, whole in zip(chunk, shape, strict=True)):
        raise InputError(f"{node.source}: its chunks of {chunk} do not fit its shape {list(shape)}: damaged.")
    wanted = math.prod(-(-whole // side) for side, whole in zip(chunk, shape, strict=True))
    chunks: dict[tuple[int, ...], tuple[int, int] | bytes] = {}
    stored = 0
    a_chunk = f"{node.what}: a chunk"  # one string for all claims
    for key, child in node.read_tree(address, CHUNKS, 8 * (rank + 1)):
        size, mask, *corner = Fields(key, node.source).take_numbers(4, 4, *[8] * rank)
        where = tuple(corner[:-1])
        inside = all(at % side == 0 and at < whole for at, side, whole in zip(where, chunk, shape, strict=True))
        if mask or not inside or where in chunks:
            raise InputError(f"{node.source}: its chunk at {list(where)} has no place in it: damaged.")
        node.file.claim(child, size, a_chunk)
        chunks[where] = (child, size)
        stored += size
    if len(chunks) != wanted:
        raise InputError(f"{node.source}: {len(chunks)} of its {wanted} chunks are stored: not all was written.")
    declared = math.prod(shape) * dtype.itemsize
    if declared > SMALL:
        _compare(node, shape, declared, stored, COMPRESSION)
    return Array(node, shape, dtype, tuple(chunk), chunks, filters)


def fletcher32(data: bytes) -> bytes:
    """Return the checksum that HDF5 stores behind a chunk: two sums modulo 65535 over big-endian words, 0 only for no words."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    first, second = int(words.sum()), int((words * weights).sum())
    return struct.pack("<HH", *(value % 65535 or 65535 * bool(value) for value in (first, second)))


def unshuffle(data: bytes, itemsize: int) -> bytes:
    """Put bytes back in their order: the filter puts all first bytes of the values before all second ones."""
    whole = len(data) // itemsize * itemsize
    return np.frombuffer(data[:whole], np.uint8).reshape(itemsize, -1).T.tobytes() + data[whole:]
