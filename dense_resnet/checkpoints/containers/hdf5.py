"""The tree of an HDF5 file in plain Python: groups, datasets, string attributes.

The HDF5 library reads everything that the format can say: links into other files, plug-ins found by a number in the
file, arrays declared larger than a disk; and on a damaged file it may loop for ever (a dozen of 10,000 mutated ones).
Weights need little of that: what h5py writes by default, which is the format's first version. This file reads that
much, and refuses the rest by its name.

Three rules bound what a file can do. Every byte belongs to one thing: what is read is claimed, a second claim is an
overlap or a cycle, so work and memory stay in proportion to the file. Nothing is allocated before its declared size was
compared with what is stored. And what is not known is refused, not skipped.

Source: The HDF Group, "HDF5 File Format Specification Version 3.0", https://support.hdfgroup.org/documentation/.
"""

from __future__ import annotations

import bisect
import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np

from dense_resnet.errors import InputError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1  # an address that stands for none

LONGEST_NAME = 1024  # bytes of a link, an attribute or a string in one
DEEPEST = 16  # groups within groups
MOST_OBJECTS = 100_000  # groups and datasets opened, and strings in an attribute
HIGHEST_RANK = 8
MOST_CELLS = 2**40  # of an array, empty sides counted as 1
SMALL = 2**20  # bytes: below, a dataset may compress as it likes
COMPRESSION = 4  # at most, above

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
IGNORED = (0x00, 0x04, 0x05, 0x0A, 0x0D, 0x0E, 0x12, 0x13, 0x16)  # padding, fill values, times, comments, tree sizes
DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3

FLOATS = {  # a datatype message without its version: class, bits, size; offset, precision, exponent, mantissa, bias
    bytes.fromhex("200f00 02000000 0000 1000 0a 05 00 0a 0f000000"): np.dtype("<f2"),
    bytes.fromhex("201f00 04000000 0000 2000 17 08 00 17 7f000000"): np.dtype("<f4"),
    bytes.fromhex("203f00 08000000 0000 4000 34 0b 00 34 ff030000"): np.dtype("<f8"),
}
CLASSES = (
    "integer",
    "float",
    "time",
    "string",
    "bit field",
    "opaque",
    "compound",
    "reference",
    "enumeration",
    "variable-length",
    "array",
)
INTEGER, FLOAT, STRING, VARIABLE_LENGTH = 0, 1, 3, 9


class Fields:
    """Little-endian fields of a run of bytes, one after the other."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.position = data, source, 0

    @property
    def bytes_left(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        if count > self.bytes_left:
            raise InputError(f"{self.source}: cut short, or damaged.")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def numbers(self, *sizes: int) -> tuple[int, ...]:
        return tuple(self.number(size) for size in sizes)

    def expect(self, wanted: bytes, what: str) -> None:
        found = self.take(len(wanted))
        if found != wanted:
            raise InputError(f"{self.source}: {what} must be {wanted!r} (not {found!r}): damaged, or of a newer format.")


class File:
    """An HDF5 file open for reading.

    Args:
        stream: seekable.
        size: of it, in bytes.
        source: its name, for messages.

    Raises:
        InputError: it is none, or cut, or of a version that is not read.
    """

    def __init__(self, stream: BinaryIO, size: int, source: str) -> None:
        self.source, self.size = source, size
        self._stream = stream
        self._claims: list[tuple[int, int, str]] = []  # sorted: where a thing begins and ends, and what it is
        self._heaps: dict[int, dict[int, bytes]] = {}
        self._declared = self._objects = self._texts = 0
        self.root = Node(self, "", self._superblock(), 0)

    def fields(self, address: int, count: int, what: str) -> Fields:
        """`count` bytes at `address`, which become `what`'s own."""
        return Fields(self.take(address, count, what), f"{self.source}: {what}")

    def take(self, address: int, count: int, what: str) -> bytes:
        self.claim(address, count, what)
        return self.read_claimed(address, count)

    def read_claimed(self, address: int, count: int) -> bytes:
        """Bytes that somebody claimed before."""
        self._stream.seek(address)
        data = self._stream.read(count)
        if len(data) != count:
            raise InputError(f"{self.source}: the file became shorter while it was read.")
        return data

    def claim(self, address: int, count: int, what: str) -> None:
        if address + count > self.size:
            raise InputError(
                f"{self.source}: {what} lies at bytes {address} to {address + count} of a file of {self.size}: damaged."
            )
        if not count:
            return
        index = bisect.bisect_left(self._claims, (address,))
        for start, end, other in self._claims[max(index - 1, 0) : index + 1]:
            if start < address + count and address < end:
                raise InputError(f"{self.source}: {what} overlaps {other}, or a group holds itself: damaged, or made to harm.")
        self._claims.insert(index, (address, address + count, what))

    def declare(self, count: int, what: str) -> None:
        """Counts the bytes that an array will take, against the file's."""
        self._declared += count
        if self._declared > COMPRESSION * self.size + SMALL:
            raise InputError(
                f"{self.source}: with {what} the arrays are declared as {self._declared} bytes, too many for a file of "
                f"{self.size}: damaged, or made to harm."
            )

    def repeat(self, count: int, what: str) -> None:
        """Counts the bytes of a string in a heap, to which others may point too."""
        self._texts += count
        if self._texts > COMPRESSION * self.size + SMALL:
            raise InputError(f"{self.source}: {what} repeats the strings that are stored: made to harm.")

    def open(self, what: str) -> None:
        """Counts an object."""
        self._objects += 1
        if self._objects > MOST_OBJECTS:
            raise InputError(f"{self.source}: more than {MOST_OBJECTS} groups and datasets, {what} among them: made to harm.")

    def heap_object(self, address: int, index: int, what: str) -> bytes:
        """A string of variable length, from one of the file's global heaps."""
        if address not in self._heaps:
            name = f"the global heap at {address}"
            head = self.fields(address, 16, name)
            head.expect(b"GCOL\x01", "its signature")
            head.take(3)
            body = self.fields(address + 16, max(head.number(8) - 16, 0), name)
            objects = {}
            while body.bytes_left >= 16:
                number, _, _, size = body.numbers(2, 2, 4, 8)
                if number == 0:  # what is left is free
                    break
                objects[number] = body.take(size)
                body.take(min(-size % 8, body.bytes_left))
            self._heaps[address] = objects
        if index not in self._heaps[address]:
            raise InputError(f"{self.source}: {what} points to nothing in the global heap at {address}: damaged.")
        return self._heaps[address][index]

    def _superblock(self) -> int:
        """The root group's address."""
        head = self.fields(0, min(self.size, 9), "the superblock")
        if head.bytes_left < 9 or head.take(8) != SIGNATURE:
            raise InputError(f"{self.source}: this is no HDF5 file: its first bytes are not that format's.")
        version = head.number(1)
        if version > 1:
            raise InputError(
                f"{self.source}: an HDF5 file of the format's version {version}, which h5py writes with libver='latest'. "
                "What is read is the default version, as Keras writes it: copy the file's content with h5py into a new one, "
                "or save the weights again."
            )
        block = self.fields(9, 87 if version == 0 else 91, "the superblock")
        block.take(4)
        sizes = block.take(2)
        block.take(9 if version == 0 else 13)
        base, _, end, _ = block.numbers(8, 8, 8, 8)
        _, root, _, _, _ = block.numbers(8, 8, 4, 4, 16)
        if sizes != b"\x08\x08" or base:
            raise InputError(
                f"{self.source}: addresses of {sizes[0]} bytes from byte {base} on are not read, those of 8 from 0 are."
            )
        if end != self.size:
            raise InputError(
                f"{self.source}: the file has {self.size} bytes and says {end}: cut short or damaged. Fetch it again."
            )
        return root


@dataclass(frozen=True)
class Attribute:
    """An attribute, not yet decoded."""

    datatype: bytes
    dataspace: bytes
    data: bytes


class Node:
    """A group or a dataset of a :class:`File`; `path` names it in messages."""

    def __init__(self, file: File, path: str, address: int, depth: int) -> None:
        self.file, self.path, self._depth = file, path, depth
        self.what = path or "the root group"
        if depth > DEEPEST or len(path) > LONGEST_NAME:
            raise InputError(f"{file.source}: {self.what[:80]}: groups lie more than {DEEPEST} deep, or names are too long.")
        file.open(self.what)
        self._opened: dict[str, Node] = {}
        self._messages = list(self._header(address))
        for kind, name in ((EXTERNAL_FILES, "its data in other files"), (ATTRIBUTE_INFO, "attributes in the newer format")):
            if self._message(kind) is not None:
                self._refuse(name)

    @cached_property
    def _list(self) -> str:
        return f"{self.what}: a list of its members"

    @cached_property
    def _tree(self) -> str:
        return f"{self.what}: its B-tree"

    @property
    def is_group(self) -> bool:
        return self._message(LAYOUT) is None

    # -- headers ------------------------------------------------------------------------------------------------------

    def _header(self, address: int) -> Iterator[tuple[int, bytes]]:
        """The object's messages: their kind and bytes."""
        head = self.file.fields(address, 16, self.what)
        head.expect(b"\x01", "the object header's version")
        _, count, _, size, _ = head.numbers(1, 2, 4, 4, 4)
        blocks = [(address + 16, size)]
        for block in blocks:  # grows by continuations
            fields = self.file.fields(*block, self.what)
            while fields.bytes_left >= 8 and count:
                count -= 1
                kind, length, flags, _ = fields.numbers(2, 2, 1, 3)
                message = fields.take(length)
                if kind == CONTINUATION:
                    blocks.append(Fields(message, self._source).numbers(8, 8))
                elif kind in IGNORED:
                    continue
                elif kind not in KNOWN:
                    self._refuse(f"a header message of kind {kind}")
                elif flags & 2:
                    self._refuse("a shared (committed) datatype")
                else:
                    yield kind, message
        if count:
            raise InputError(f"{self._source}: {count} messages of its header are missing: damaged.")

    @property
    def _source(self) -> str:
        return f"{self.file.source}: {self.what}"

    def _refuse(self, found: str) -> None:
        raise InputError(f"{self._source}: it has {found}, which is not read here. Save the weights with Keras.")

    def _message(self, kind: int) -> bytes | None:
        found = [message for number, message in self._messages if number == kind]
        if len(found) > 1 and kind not in (ATTRIBUTE, LINK):
            raise InputError(f"{self._source}: message {kind} stands twice in its header: damaged.")
        return found[0] if found else None

    def _require_message(self, kind: int) -> Fields:
        message = self._message(kind)
        if message is None:
            raise InputError(f"{self._source}: message {kind} is missing in its header: damaged.")
        return Fields(message, self._source)

    # -- groups -------------------------------------------------------------------------------------------------------

    @cached_property
    def addresses(self) -> dict[str, int]:
        """The group's members, by name; InputError where one is no hard link."""
        if not self.is_group:
            raise InputError(f"{self._source}: a dataset stands where a group should.")
        members: dict[str, int] = {}
        for name, address in self._links():
            if name in members:
                raise InputError(f"{self._source}: the name {name!r} stands twice in it: damaged.")
            members[name] = address
        return members

    def child(self, path: str) -> Node:
        """The member of that name, or of a group within the group: ``"a/b"``."""
        name, _, rest = path.partition("/")
        if name not in self._opened:
            if name not in self.addresses:
                raise InputError(f"{self._source}: {name!r} is missing in it: damaged, or not what Keras writes.")
            self._opened[name] = Node(self.file, f"{self.path}/{name}".lstrip("/"), self.addresses[name], self._depth + 1)
        return self._opened[name].child(rest) if rest else self._opened[name]

    def _links(self) -> Iterator[tuple[str, int]]:
        for kind, message in self._messages:
            if kind == LINK:
                yield self._link(Fields(message, self._source))
            elif kind == LINK_INFO:
                info = Fields(message, self._source)
                _, flags = info.numbers(1, 1)
                info.take(8 * (flags & 1))
                if info.number(8) != UNDEFINED:
                    self._refuse("a group in the newer format (links in a fractal heap)")
        if self._message(SYMBOL_TABLE) is not None:
            tree, heap = self._require_message(SYMBOL_TABLE).numbers(8, 8)
            head = self.file.fields(heap, 32, f"{self.what}: its local heap")
            head.expect(b"HEAP\x00", "its signature")
            head.take(3)
            size, _, address = head.numbers(8, 8, 8)
            names = self.file.take(address, size, f"{self.what}: its names")
            for _, node in self._tree_leaves(tree, 0, 8):
                yield from self._symbols(node, names)

    def _tree_leaves(self, address: int, kind: int, key_size: int, level: int | None = None) -> Iterator[tuple[bytes, int]]:
        """(key, address) of what the leaves of a version 1 B-tree hold: of `kind` 0 a group's members, of 1 chunks."""
        what = self._tree
        head = self.file.fields(address, 24, what)
        head.expect(b"TREE" + bytes([kind]), "its signature")
        own_level, used, _, _ = head.numbers(1, 2, 8, 8)
        if level is not None and own_level != level:
            raise InputError(f"{self._source}: its B-tree's levels are in disorder: damaged.")
        body = self.file.fields(address + 24, used * (key_size + 8), what)
        for _ in range(used):
            key, child = body.take(key_size), body.number(8)
            if own_level:
                yield from self._tree_leaves(child, kind, key_size, own_level - 1)
            else:
                yield key, child

    def _symbols(self, address: int, names: bytes) -> Iterator[tuple[str, int]]:
        what = self._list
        head = self.file.fields(address, 8, what)
        head.expect(b"SNOD\x01\x00", "its signature")
        entries = self.file.fields(address + 8, 40 * head.number(2), what)
        while entries.bytes_left:
            start, header, cached, _ = entries.numbers(8, 8, 4, 4)
            entries.take(16)
            end = names.find(b"\0", start, start + LONGEST_NAME + 1)
            if end < 0:
                raise InputError(f"{self._source}: a member's name has no end within {LONGEST_NAME} bytes: damaged.")
            name = self._name(names[start:end])
            if cached == 2:
                raise InputError(f"{self._source}: {name!r} is a soft link; only arrays of the file itself are read.")
            yield name, header

    def _link(self, link: Fields) -> tuple[str, int]:
        """A link message of the newer format: h5py writes it where a group holds an external link."""
        _, flags = link.numbers(1, 1)
        kind = link.number(1) if flags & 8 else 0
        link.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
        name = self._name(link.take(link.number(1 << (flags & 3))))
        if kind:
            raise InputError(
                f"{self._source}: {name!r} is {'a soft' if kind == 1 else 'an external'} link; only arrays of the file "
                "itself are read."
            )
        return name, link.number(8)

    def _name(self, data: bytes) -> str:
        return self._text(data, "a member's name")

    def _text(self, data: bytes, what: str) -> str:
        """A name: short UTF-8 without control characters, and no way out of its group."""
        if len(data) > LONGEST_NAME:
            raise InputError(f"{self._source}: {what} has {len(data)} bytes; {LONGEST_NAME} are the most.")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise InputError(f"{self._source}: {what} is no UTF-8 text: {data[:80]!r}.") from None
        if not text or not text.isprintable() or {"", ".", ".."} & set(text.split("/")):
            raise InputError(f"{self._source}: {what} must be a name without control characters and '..' (not {text[:80]!r}).")
        return text

    # -- attributes ---------------------------------------------------------------------------------------------------

    @cached_property
    def _attributes(self) -> dict[str, Attribute]:
        found: dict[str, Attribute] = {}
        for kind, message in self._messages:
            if kind != ATTRIBUTE:
                continue
            fields = Fields(message, f"{self._source}: an attribute")
            version, flags, *sizes = fields.numbers(1, 1, 2, 2, 2)
            if version not in (1, 2, 3) or (version > 1 and flags):
                self._refuse(f"an attribute of version {version} with flags {flags}")
            fields.take(1 if version == 3 else 0)
            name, datatype, dataspace = (self._padded(fields, size, version) for size in sizes)
            found[self._text(name.rstrip(b"\0"), "an attribute's name")] = Attribute(
                datatype, dataspace, fields.take(fields.bytes_left)
            )
        return found

    @staticmethod
    def _padded(fields: Fields, size: int, version: int) -> bytes:
        data = fields.take(size)
        fields.take(-size % 8 if version == 1 else 0)
        return data

    def strings(self, name: str) -> list[str] | None:
        """The strings of an attribute, or of its parts NAME0, NAME1, … which Keras makes of a long one; None without it."""
        if name in self._attributes:
            return self._strings(name)
        parts = itertools.takewhile(self._attributes.__contains__, (f"{name}{number}" for number in itertools.count()))
        joined = [text for part in parts for text in self._strings(part)]
        return joined or None

    def _strings(self, name: str) -> list[str]:
        attribute, what = self._attributes[name], f"its attribute {name!r}"
        count = math.prod(self._dimensions(Fields(attribute.dataspace, f"{self._source}: {what}")))
        kind, size = self._datatype(attribute.datatype)
        data = Fields(attribute.data, f"{self._source}: {what}")
        if kind == FLOAT and count == 0:  # how h5py writes an empty list
            return []
        if kind == STRING:
            if not 0 < size <= LONGEST_NAME or count > MOST_OBJECTS:
                raise InputError(f"{self._source}: {what} declares {count} strings of {size} bytes: damaged.")
            return [self._text(data.take(size).split(b"\0")[0], what) for _ in range(count)]
        if kind != VARIABLE_LENGTH or attribute.datatype[1] & 15 != 1:
            raise InputError(f"{self._source}: {what} must be strings (not {_class_name(kind)} values).")
        if count * 16 > data.bytes_left:
            raise InputError(f"{self._source}: {what} declares {count} strings and is too short: damaged.")
        texts = []
        for _ in range(count):
            length, address, index = data.numbers(4, 8, 4)
            stored = self.file.heap_object(address, index, f"{self.what}: {what}")
            if length > len(stored):
                raise InputError(f"{self._source}: {what} is longer than what is stored of it: damaged.")
            self.file.repeat(length, f"{self.what}: {what}")
            texts.append(self._text(stored[:length].rstrip(b"\0"), what))
        return texts

    # -- datasets -----------------------------------------------------------------------------------------------------

    def _datatype(self, message: bytes) -> tuple[int, int]:
        """(class, size in bytes)."""
        head, _, size = Fields(message, f"{self._source}: its type").numbers(1, 3, 4)
        return head & 15, size

    def _dimensions(self, space: Fields) -> tuple[int, ...]:
        version, rank = space.numbers(1, 1)
        space.take(6 if version == 1 else 2)
        if version not in (1, 2) or rank > HIGHEST_RANK:
            self._refuse(f"a dataspace of version {version} with {rank} dimensions")
        return space.numbers(*[8] * rank)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self._dimensions(self._require_message(DATASPACE))

    @cached_property
    def dtype(self) -> np.dtype | None:
        """float16, float32 or float64; None for integers. InputError for every other type."""
        message = self._require_message(DATATYPE).data
        kind, size = self._datatype(message)
        if kind == INTEGER:
            return None
        for floats, dtype in FLOATS.items():
            if kind == FLOAT and message[1 : 1 + len(floats)] == floats and message[0] >> 4 in (1, 2, 3):
                return dtype
        raise InputError(
            f"{self._source}: its values are of the type {_class_name(kind)} of {size} bytes; float16, float32 and float64 "
            "(little-endian) are read."
        )

    def array(self) -> Array:
        """Where the dataset's values stand, everything checked that can be before they are read."""
        layout = self._require_message(LAYOUT)
        version, kind = layout.numbers(1, 1)
        if (version, kind) == (4, 3):
            self._refuse("a virtual dataset (its values stand elsewhere)")
        if version != 3 or kind > 2:
            self._refuse(f"a storage layout of version {version}, kind {kind}")
        assert self.dtype is not None
        declared = math.prod(self.shape) * self.dtype.itemsize
        self.file.declare(declared, self.what)
        if math.prod(max(side, 1) for side in self.shape) > MOST_CELLS:  # an empty array may say anything of its other sides
            raise InputError(f"{self._source}: no array can have the shape {list(self.shape)}: damaged.")
        filters = self._filters() if self._message(FILTERS) is not None else ()
        if kind != 2 and filters:
            raise InputError(f"{self._source}: filters go with chunks: damaged.")
        if kind == 0:
            data = layout.take(layout.number(2))
            self._compare(declared, len(data), 1)
            return Array(self, compact=data)
        if kind == 1:
            address, size = layout.numbers(8, 8)
            self._compare(declared, 0 if address == UNDEFINED else size, 1)
            self.file.claim(address if size else 0, size, self.what)
            return Array(self, address=address)
        return self._locate_chunks(layout, declared, filters)

    def _compare(self, declared: int, stored: int, allowed: int) -> None:
        if declared > stored * allowed or (allowed == 1 and declared != stored):
            raise InputError(
                f"{self._source}: an array of {list(self.shape)} is declared, {declared} bytes, and {stored} bytes are stored: "
                "damaged, or made to harm."
            )

    def _filters(self) -> tuple[int, ...]:
        fields = self._require_message(FILTERS)
        version, count = fields.numbers(1, 1)
        if version not in (1, 2):
            self._refuse(f"filters of version {version}")
        fields.take(6 if version == 1 else 0)
        found = []
        for _ in range(count):
            number = fields.number(2)
            if number not in (DEFLATE, SHUFFLE, FLETCHER32):
                raise InputError(
                    f"{self._source}: it is packed by the filter {number}; gzip, shuffle and fletcher32 are read, and no "
                    "plug-in is loaded."
                )
            if number in found:
                raise InputError(f"{self._source}: it is packed by the filter {number} twice: made to harm.")
            name_length = fields.number(2) if version == 1 else 0
            _, values = fields.numbers(2, 2)
            fields.take(name_length + 4 * values + (4 * (values % 2) if version == 1 else 0))
            found.append(number)
        return tuple(found)

    def _locate_chunks(self, layout: Fields, declared: int, filters: tuple[int, ...]) -> Array:
        rank = layout.number(1)
        address, *sides = layout.numbers(8, *[4] * rank)
        *chunk, itemsize = sides or [0]
        assert self.dtype is not None
        fits = rank == len(self.shape) + 1 and itemsize == self.dtype.itemsize
        if not fits or not all(0 < side <= whole for side, whole in zip(chunk, self.shape, strict=True)):
            raise InputError(f"{self._source}: its chunks of {chunk} do not fit its shape {list(self.shape)}: damaged.")
        wanted = math.prod(-(-whole // side) for side, whole in zip(chunk, self.shape, strict=True))
        chunks: dict[tuple[int, ...], tuple[int, int]] = {}
        a_chunk = f"{self.what}: a chunk"  # one string for all claims
        for key, child in self._tree_leaves(address, 1, 8 * (rank + 1)):
            size, mask, *corner = Fields(key, self._source).numbers(4, 4, *[8] * rank)
            where = tuple(corner[:-1])
            inside = all(at % side == 0 and at < whole for at, side, whole in zip(where, chunk, self.shape, strict=True))
            if mask or not inside or where in chunks:
                raise InputError(f"{self._source}: its chunk at {list(where)} has no place in it: damaged.")
            self.file.claim(child, size, a_chunk)
            chunks[where] = (child, size)
        if len(chunks) != wanted:
            raise InputError(f"{self._source}: {len(chunks)} of its {wanted} chunks are stored: not all was written.")
        if declared > SMALL:
            self._compare(declared, sum(size for _, size in chunks.values()), COMPRESSION)
        return Array(self, chunks=chunks, chunk=tuple(chunk), filters=filters)


KNOWN = (DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS, ATTRIBUTE, SYMBOL_TABLE, ATTRIBUTE_INFO)


@dataclass(frozen=True)
class Array:
    """A dataset's values, checked and not yet read; one of the three ways that they are stored."""

    node: Node
    compact: bytes | None = None
    address: int | None = None
    chunks: dict[tuple[int, ...], tuple[int, int]] | None = None
    chunk: tuple[int, ...] = ()
    filters: tuple[int, ...] = ()

    def read(self) -> np.ndarray:
        node = self.node
        dtype, shape = node.dtype, node.shape
        assert dtype is not None
        if self.chunks is None:
            data = self.compact
            if data is None:
                size = math.prod(shape) * dtype.itemsize
                data = node.file.read_claimed(self.address, size) if size else b""
            return np.frombuffer(data, dtype).reshape(shape)
        values = np.empty(shape, dtype)
        for corner, (address, size) in self.chunks.items():
            unpacked = self._unpack_chunk(node.file.read_claimed(address, size), corner, dtype)
            part = tuple(slice(at, min(at + side, whole)) for at, side, whole in zip(corner, self.chunk, shape, strict=True))
            values[part] = unpacked[tuple(slice(0, one.stop - one.start) for one in part)]
        return values

    def _unpack_chunk(self, data: bytes, corner: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        source = f"{self.node.file.source}: {self.node.what}: its chunk at {list(corner)}"
        size = math.prod(self.chunk) * dtype.itemsize
        for number in reversed(self.filters):
            if number == FLETCHER32:
                data, stored = data[:-4], data[-4:]
                if fletcher32(data) != stored:
                    raise InputError(f"{source} does not match its checksum: damaged. Fetch the file again.")
            elif number == SHUFFLE:
                data = _unshuffle(data, dtype.itemsize)
            else:
                try:
                    data = zlib.decompressobj().decompress(data, size + 4 * self.filters.count(FLETCHER32) + 1)
                except zlib.error as error:
                    raise InputError(f"{source} cannot be unpacked ({error}): damaged. Fetch the file again.") from error
        if len(data) != size:
            raise InputError(f"{source} does not have the {size} bytes that it must have: damaged.")
        return np.frombuffer(data, dtype).reshape(self.chunk)


def fletcher32(data: bytes) -> bytes:
    """The checksum that HDF5 stores behind a chunk: two sums modulo 65535 over big-endian words, 0 only for no words."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    first, second = int(words.sum()), int((words * weights).sum())
    return struct.pack("<HH", *(value % 65535 or 65535 * bool(value) for value in (first, second)))


def _unshuffle(data: bytes, itemsize: int) -> bytes:
    """Bytes back in their order: the filter puts all first bytes of the values before all second ones."""
    whole = len(data) // itemsize * itemsize
    return np.frombuffer(data[:whole], np.uint8).reshape(itemsize, -1).T.tobytes() + data[whole:]


def _class_name(number: int) -> str:
    return CLASSES[number] if number < len(CLASSES) else f"class {number}"
