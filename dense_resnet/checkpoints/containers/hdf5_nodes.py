"""Groups, object headers and string attributes of an HDF5 file; source of the format: see ``hdf5``.

An object's header says in messages what the object is. A group lists its members in a B-tree or in link messages.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from dense_resnet.checkpoints.containers.hdf5 import UNDEFINED, Fields, File
from dense_resnet.errors import InputError

LONGEST_NAME = 1024  # bytes of a link, an attribute or a string in one
DEEPEST = 16  # groups within groups
HIGHEST_RANK = 8

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
KNOWN = (DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS, ATTRIBUTE, SYMBOL_TABLE, ATTRIBUTE_INFO)
IGNORED = (0x00, 0x04, 0x05, 0x0A, 0x0D, 0x0E, 0x12, 0x13, 0x16)  # padding, fill values, times, comments, tree sizes
GROUPS, CHUNKS = 0, 1  # what a B-tree lists

CLASSES = (
    "integer", "float", "time", "string", "bit field", "opaque", "compound", "reference", "enumeration", "variable-length",
    "array",
)  # fmt: skip
FLOAT, STRING, VARIABLE_LENGTH = 1, 3, 9


@dataclass(frozen=True)
class Attribute:
    """An attribute, not yet decoded."""

    datatype: bytes
    dataspace: bytes
    data: bytes


class Node:
    """A group or a dataset of a :class:`File`; messages name it as `what`, and with its file as `source`."""

    def __init__(self, file: File, path: str, address: int, depth: int) -> None:
        self.file, self.path, self._depth = file, path, depth
        self.what = path or "the root group"
        self.source = f"{file.source}: {self.what}"
        if depth > DEEPEST or len(path) > LONGEST_NAME:
            raise InputError(f"{file.source}: {self.what[:80]}: groups lie more than {DEEPEST} deep, or names are too long.")
        file.count_object(self.what)
        self._opened: dict[str, Node] = {}
        self._messages = list(self._read_header(address))
        for kind, name in ((EXTERNAL_FILES, "its data in other files"), (ATTRIBUTE_INFO, "attributes in the newer format")):
            if self.find(kind) is not None:
                self.refuse(name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.read_dimensions(self.require(DATASPACE))

    def _read_header(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Yield the object's messages: their kind and bytes."""
        head = self.file.take_fields(address, 16, self.what)
        head.expect(b"\x01", "the object header's version")
        _, count, _, size, _ = head.take_numbers(1, 2, 4, 4, 4)
        blocks = [(address + 16, size)]
        for block in blocks:  # grows by continuations
            fields = self.file.take_fields(*block, self.what)
            while fields.rest >= 8 and count:
                count -= 1
                kind, length, flags, _ = fields.take_numbers(2, 2, 1, 3)
                message = fields.take(length)
                if kind == CONTINUATION:
                    place = Fields(message, self.source)
                    blocks.append((place.take_number(8), place.take_number(8)))
                elif kind in IGNORED:
                    continue
                elif kind not in KNOWN:
                    self.refuse(f"a header message of kind {kind}")
                elif flags & 2:
                    self.refuse("a shared (committed) datatype")
                else:
                    yield kind, message
        if count:
            raise InputError(f"{self.source}: {count} messages of its header are missing: damaged.")

    def refuse(self, found: str) -> NoReturn:
        """Raise an InputError: the object has `found`, which is part of the format but not read."""
        raise InputError(f"{self.source}: it has {found}, which is not read here. Save the weights with Keras.")

    def find(self, kind: int) -> bytes | None:
        """Return the header's message of a kind, or None."""
        found = [message for number, message in self._messages if number == kind]
        if len(found) > 1 and kind not in (ATTRIBUTE, LINK):
            raise InputError(f"{self.source}: message {kind} occurs twice in its header: damaged.")
        return found[0] if found else None

    def require(self, kind: int) -> Fields:
        """Return the fields of the header's message of a kind, which must be there."""
        if (message := self.find(kind)) is None:
            raise InputError(f"{self.source}: message {kind} is missing in its header: damaged.")
        return Fields(message, self.source)

    @cached_property
    def addresses(self) -> dict[str, int]:
        """The group's members, by name. A member that is not a hard link raises an InputError."""
        if self.find(LAYOUT) is not None:
            raise InputError(f"{self.source}: found a dataset where a group is expected.")
        members: dict[str, int] = {}
        for name, address in self._read_links():
            if name in members:
                raise InputError(f"{self.source}: the name {name!r} occurs twice in it: damaged.")
            members[name] = address
        return members

    def open(self, path: str) -> Node:
        """Return the member of that name, or of a group within the group: ``"a/b"``."""
        name, _, rest = path.partition("/")
        if name not in self._opened:
            if name not in self.addresses:
                raise InputError(f"{self.source}: {name!r} is missing in it: damaged, or not what Keras writes.")
            self._opened[name] = Node(self.file, f"{self.path}/{name}".lstrip("/"), self.addresses[name], self._depth + 1)
        return self._opened[name].open(rest) if rest else self._opened[name]

    def _read_links(self) -> Iterator[tuple[str, int]]:
        for kind, message in self._messages:
            if kind == LINK:
                yield self._read_link(Fields(message, self.source))
            elif kind == LINK_INFO:
                info = Fields(message, self.source)
                _, flags = info.take_numbers(1, 1)
                info.take(8 * (flags & 1))
                if info.take_number(8) != UNDEFINED:
                    self.refuse("a group in the newer format (links in a fractal heap)")
        if self.find(SYMBOL_TABLE) is not None:
            tree, heap = self.require(SYMBOL_TABLE).take_numbers(8, 8)
            head = self.file.take_fields(heap, 32, f"{self.what}: its local heap")
            head.expect(b"HEAP\x00", "its signature")
            head.take(3)
            size, _, address = head.take_numbers(8, 8, 8)
            names = self.file.take(address, size, f"{self.what}: its names")
            for _, node in self.read_tree(tree, GROUPS, 8):
                yield from self._read_symbols(node, names)

    def read_tree(self, address: int, kind: int, key_size: int, level: int | None = None) -> Iterator[tuple[bytes, int]]:
        """Yield (key, address) of what a version 1 B-tree lists: :data:`GROUPS` or :data:`CHUNKS`."""
        what = f"{self.what}: its B-tree"
        head = self.file.take_fields(address, 24, what)
        head.expect(b"TREE" + bytes([kind]), "its signature")
        own_level, used, _, _ = head.take_numbers(1, 2, 8, 8)
        if level is not None and own_level != level:
            raise InputError(f"{self.source}: its B-tree's levels are in disorder: damaged.")
        body = self.file.take_fields(address + 24, used * (key_size + 8), what)
        for _ in range(used):
            key, child = body.take(key_size), body.take_number(8)
            if own_level:
                yield from self.read_tree(child, kind, key_size, own_level - 1)
            else:
                yield key, child

    def _read_symbols(self, address: int, names: bytes) -> Iterator[tuple[str, int]]:
        """Yield (name, address) of the members in one leaf of a group's B-tree."""
        what = f"{self.what}: a list of its members"
        head = self.file.take_fields(address, 8, what)
        head.expect(b"SNOD\x01\x00", "its signature")
        entries = self.file.take_fields(address + 8, 40 * head.take_number(2), what)
        while entries.rest:
            start, header, cached, _ = entries.take_numbers(8, 8, 4, 4)
            entries.take(16)
            end = names.find(b"\0", start, start + LONGEST_NAME + 1)
            if end < 0:
                raise InputError(f"{self.source}: a member's name has no end within {LONGEST_NAME} bytes: damaged.")
            name = self._decode(names[start:end])
            if cached == 2:
                raise InputError(f"{self.source}: {name!r} is a soft link; only arrays of the file itself are read.")
            yield name, header

    def _read_link(self, link: Fields) -> tuple[str, int]:
        """Return name and address in a link message of the newer format; h5py writes it beside an external link."""
        _, flags = link.take_numbers(1, 1)
        kind = link.take_number(1) if flags & 8 else 0
        link.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
        name = self._decode(link.take(link.take_number(1 << (flags & 3))))
        if kind:
            found = "a soft" if kind == 1 else "an external"
            raise InputError(f"{self.source}: {name!r} is {found} link; only arrays of the file itself are read.")
        return name, link.take_number(8)

    def _decode(self, data: bytes, what: str = "a member's name") -> str:
        """Return a name as text: short UTF-8 without control characters, which does not lead out of its group."""
        if len(data) > LONGEST_NAME:
            raise InputError(f"{self.source}: {what} has {len(data)} bytes; {LONGEST_NAME} are the most.")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.source}: {what} is not UTF-8 text: {data[:80]!r}.") from None
        if not text or not text.isprintable() or {"", ".", ".."} & set(text.split("/")):
            raise InputError(f"{self.source}: {what} must be a name without control characters and '..' (not {text[:80]!r}).")
        return text

    @cached_property
    def _attributes(self) -> dict[str, Attribute]:
        found: dict[str, Attribute] = {}
        for kind, message in self._messages:
            if kind != ATTRIBUTE:
                continue
            fields = Fields(message, f"{self.source}: an attribute")
            version, flags, *sizes = fields.take_numbers(1, 1, 2, 2, 2)
            if version not in (1, 2, 3) or (version > 1 and flags):
                self.refuse(f"an attribute of version {version} with flags {flags}")
            fields.take(1 if version == 3 else 0)
            written, datatype, dataspace = (fields.take(size + (-size % 8 if version == 1 else 0))[:size] for size in sizes)
            name = self._decode(written.rstrip(b"\0"), "an attribute's name")
            found[name] = Attribute(datatype, dataspace, fields.take(fields.rest))
        return found

    def read_strings(self, name: str) -> list[str] | None:
        """Read the strings of an attribute, or of its parts NAME0, NAME1, … which Keras makes of a long one; else None."""
        if name in self._attributes:
            return self._read_strings(name)
        parts = itertools.takewhile(self._attributes.__contains__, (f"{name}{number}" for number in itertools.count()))
        joined = [text for part in parts for text in self._read_strings(part)]
        return joined or None

    def _read_strings(self, name: str) -> list[str]:
        attribute, what = self._attributes[name], f"its attribute {name!r}"
        count = math.prod(self.read_dimensions(Fields(attribute.dataspace, f"{self.source}: {what}")))
        kind, size = self.read_type(attribute.datatype)
        data = Fields(attribute.data, f"{self.source}: {what}")
        if kind == FLOAT and count == 0:  # how h5py writes an empty list
            return []
        if kind == STRING:
            if not 0 < size <= LONGEST_NAME:
                raise InputError(f"{self.source}: {what} declares {count} strings of {size} bytes: damaged.")
            return [self._decode(data.take(size).split(b"\0")[0], what) for _ in range(count)]
        if kind != VARIABLE_LENGTH or attribute.datatype[1] & 15 != 1:
            raise InputError(f"{self.source}: {what} must be strings (not {class_name(kind)} values).")
        texts = []
        for _ in range(count):
            length, address, index = data.take_numbers(4, 8, 4)
            stored = self.file.read_heap_object(address, index, f"{self.what}: {what}")
            if length > len(stored):
                raise InputError(f"{self.source}: {what} is longer than what is stored of it: damaged.")
            self.file.count_text(length, f"{self.what}: {what}")
            texts.append(self._decode(stored[:length].rstrip(b"\0"), what))
        return texts

    def read_type(self, message: bytes) -> tuple[int, int]:
        """Return the class and the size in bytes that a datatype message says."""
        head, _, size = Fields(message, f"{self.source}: its type").take_numbers(1, 3, 4)
        return head & 15, size

    def read_dimensions(self, space: Fields) -> tuple[int, ...]:
        """Return the shape that a dataspace message says."""
        version, rank = space.take_numbers(1, 1)
        space.take(6 if version == 1 else 2)
        if version not in (1, 2) or rank > HIGHEST_RANK:
            self.refuse(f"a dataspace of version {version} with {rank} dimensions")
        return space.take_numbers(*[8] * rank)


def class_name(number: int) -> str:
    return CLASSES[number] if number < len(CLASSES) else f"class {number}"
