"""The bytes of an HDF5 file, read in plain Python: what h5py writes by default, the rest refused by name.

The HDF5 library follows links into other files, loads plug-ins, and loops forever on a dozen of 10,000 damaged files. Here
every byte belongs to one object (a second claim is an overlap or a cycle), and declared sizes are compared with stored ones
before anything is allocated. ``hdf5_nodes`` reads groups and attributes, ``hdf5_datasets`` arrays.

pyfive 1.3.0 could replace these files once it bounds what it allocates and follows, and once the lowest TensorFlow of
pyproject.toml allows NumPy 2 (2.16 and 2.17 do not). Behind a guard, 7 of 40,000 damaged files ended in a MemoryError, 21
arrays (here 7) came from other bytes, and small malicious files took 2 GiB or ran without end; a guard that passes has 220
lines.

Source: The HDF Group, "HDF5 File Format Specification Version 3.0", https://support.hdfgroup.org/documentation/.
"""

from __future__ import annotations

import bisect
from typing import BinaryIO

from dense_resnet.errors import InputError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1  # the address that means none

MOST_OBJECTS = 100_000  # groups and datasets opened
SMALL = 2**20  # bytes: up to this size, any compression ratio is accepted
COMPRESSION = 4  # at most, above


class Fields:
    """Little-endian fields of a run of bytes, one after the other."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.position = data, source, 0

    @property
    def rest(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        if count > self.rest:
            raise InputError(f"{self.source}: cut short, or damaged.")
        self.position += count
        return self.data[self.position - count : self.position]

    def take_number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def take_numbers(self, *sizes: int) -> tuple[int, ...]:
        return tuple(self.take_number(size) for size in sizes)

    def expect(self, wanted: bytes, what: str) -> None:
        found = self.take(len(wanted))
        if found != wanted:
            raise InputError(f"{self.source}: {what} must be {wanted!r} (not {found!r}): damaged, or of a newer format.")


class File:
    """An HDF5 file open for reading; `root` is the address of its root group."""

    def __init__(self, stream: BinaryIO, size: int, source: str) -> None:
        self.source, self.size = source, size
        self._stream = stream
        self._claims: list[tuple[int, int, str]] = []  # sorted: where a thing begins and ends, and what it is
        self._heaps: dict[int, dict[int, bytes]] = {}
        self._declared = self._objects = self._texts = 0
        self.root = self._read_superblock()

    def _error(self, reason: str) -> InputError:
        return InputError(f"{self.source}: {reason}")

    def take_fields(self, address: int, count: int, what: str) -> Fields:
        return Fields(self.take(address, count, what), f"{self.source}: {what}")

    def take(self, address: int, count: int, what: str) -> bytes:
        """Claim and read `count` bytes at `address`."""
        self.claim(address, count, what)
        return self.read(address, count)

    def read(self, address: int, count: int) -> bytes:
        """Read bytes that are claimed already."""
        self._stream.seek(address)
        data = self._stream.read(count)
        if len(data) != count:
            raise self._error("the file became shorter while it was read.")
        return data

    def claim(self, address: int, count: int, what: str) -> None:
        """Make bytes `what`'s own, and refuse bytes that are another's or not in the file."""
        if address + count > self.size:
            raise self._error(f"{what} lies at bytes {address} to {address + count} of a file of {self.size}: damaged.")
        if not count:
            return
        index = bisect.bisect_left(self._claims, (address,))
        for start, end, other in self._claims[max(index - 1, 0) : index + 1]:
            if start < address + count and address < end:
                raise self._error(f"{what} overlaps {other}, or a group contains itself: the file is corrupt or malicious.")
        self._claims.insert(index, (address, address + count, what))

    def declare(self, count: int, what: str) -> None:
        """Count the bytes that an array will take, and refuse more than the file can hold."""
        self._declared += count
        if self._declared > COMPRESSION * self.size + SMALL:
            raise self._error(
                f"with {what} the arrays are declared as {self._declared} bytes, too many for a file of "
                f"{self.size}: the file is corrupt or malicious."
            )

    def count_text(self, count: int, what: str) -> None:
        """Count the bytes of a string in a heap, to which others may point too."""
        self._texts += count
        if self._texts > COMPRESSION * self.size + SMALL:
            raise self._error(f"{what} repeats the strings that are stored: the file is malicious.")

    def count_object(self, what: str) -> None:
        """Count a group or dataset, and refuse too many."""
        self._objects += 1
        if self._objects > MOST_OBJECTS:
            raise self._error(f"more than {MOST_OBJECTS} groups and datasets, {what} among them: the file is malicious.")

    def read_heap_object(self, address: int, index: int, what: str) -> bytes:
        """Read a string of variable length from one of the file's global heaps."""
        if address not in self._heaps:
            name = f"the global heap at {address}"
            head = self.take_fields(address, 16, name)
            head.expect(b"GCOL\x01", "its signature")
            head.take(3)
            body = self.take_fields(address + 16, max(head.take_number(8) - 16, 0), name)
            objects = {}
            while body.rest >= 16:
                number, _, _, size = body.take_numbers(2, 2, 4, 8)
                if number == 0:  # what is left is free
                    break
                objects[number] = body.take(size)
                body.take(min(-size % 8, body.rest))
            self._heaps[address] = objects
        if index not in self._heaps[address]:
            raise self._error(f"{what} points to nothing in the global heap at {address}: damaged.")
        return self._heaps[address][index]

    def _read_superblock(self) -> int:
        """Return the root group's address."""
        head = self.take_fields(0, min(self.size, 9), "the superblock")
        if head.rest < 9 or head.take(8) != SIGNATURE:
            raise self._error("this is not an HDF5 file: its first bytes are not that format's.")
        version = head.take_number(1)
        if version > 1:
            raise self._error(
                f"an HDF5 file of the format's version {version}, which h5py writes with libver='latest'. "
                "What is read is the default version, as Keras writes it: copy the file's content with h5py into a new one, "
                "or save the weights again."
            )
        block = self.take_fields(9, 87 if version == 0 else 91, "the superblock")
        block.take(4)
        sizes = block.take(2)
        block.take(9 if version == 0 else 13)
        base, _, end, _ = block.take_numbers(8, 8, 8, 8)
        _, root, _, _, _ = block.take_numbers(8, 8, 4, 4, 16)
        if sizes != b"\x08\x08" or base:
            raise self._error(f"addresses of {sizes[0]} bytes from byte {base} on are not read, those of 8 from 0 are.")
        if end != self.size:
            raise self._error(f"the file has {self.size} bytes and declares {end}: cut short or damaged. Fetch it again.")
        return root
