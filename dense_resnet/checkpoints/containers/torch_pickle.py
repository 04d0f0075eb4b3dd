"""PyTorch's ``.pth`` files, read without PyTorch and without running anything in them.

``pickle_machine`` follows the program that such a file has; here the state dict is chosen among what it makes, and the numbers
are read. PyTorch 1.6 and later write a zip archive (``NAME/data.pkl``, and ``NAME/data/KEY`` for each storage, with CRC32s),
earlier versions five pickles and then the storages in a row, without any checksum.

Source: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.checkpoints.containers import ARCHIVE_ERRORS, ZIP_START, refuse_damaged
from dense_resnet.checkpoints.containers.pickle_machine import BYTES, FLOATS, HINT, Key, Machine, Tensor
from dense_resnet.checkpoints.names.averages import COUNTED, COUNTER, beside_entry, is_average
from dense_resnet.errors import InputError
from dense_resnet.image_io import file_types
from dense_resnet.jobs import atomic_files

SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # the last as in model_best.pth.tar, which is not a tar archive
STARTS = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))  # of a pickle

WRAPPED_IN = ("state_dict", "model", "model_state_dict")  # the first that holds tensors is read, then averages

MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # what a legacy file begins with, a pickle each

PICKLE_LIMIT = 2**24  # bytes of all pickles of a file
DIRECTORY_LIMIT = 2**21  # bytes of an archive's directory, and of any read
EXPANSION, ALLOWANCE = 4, 2**20  # arrays may have as many times the file's bytes, and so many more

Note = Callable[[str], object]


def read(path: Path, note: Note = lambda sentence: None) -> dict[str, np.ndarray]:
    """Read the floating-point tensors of a PyTorch state dict as float32; integer ones, which count steps, are left out.

    The state dict is the whole file, or under one of :data:`WRAPPED_IN`, or averages under a name that says so; anything
    else (an epoch, an optimizer's state) is ignored. If there are averages, `note` is called with a sentence on what is read.
    """
    atomic_files.check_there(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(ZIP_START):
            return _read_archive(path, note)
        if start[:2] in STARTS:
            return _read_legacy(path, note)
        kind = _describe_start(start, path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    raise InputError(f"{path}: this is {kind}, no file of torch.save.")


def _describe_start(start: bytes, size: int) -> str:
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, which Keras' names end in .h5"
    if start[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote them before version 0.1.3 (load and save it again with a later one)"
    if start.startswith(b"\x93NUMPY"):
        return "a NumPy array"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
        return "a safetensors file (its name must end in .safetensors)"
    return file_types.describe(start) or "something else"


class _LimitedFile(io.FileIO):
    """A file of which only a little is read at once: zipfile would take in a directory of any size."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > DIRECTORY_LIMIT:
            raise zipfile.BadZipFile(f"its directory has {size} bytes")
        return super().read(-1 if size is None else size)


def _read_archive(path: Path, note: Note) -> dict[str, np.ndarray]:
    damaged = refuse_damaged(path, "a zip archive", "It is damaged or cut off; fetch it again.", ARCHIVE_ERRORS)
    with damaged, _LimitedFile(path) as file, zipfile.ZipFile(file) as archive:
        members = _check_members(path, archive)
        top = _find_top_folder(path, set(members))
        if (order := members.get(f"{top}byteorder")) and _read_member(archive, order) != b"little":
            raise InputError(f"{path}: it was saved on a big-endian machine, which is not read. Save it again elsewhere.")
        program = members[f"{top}data.pkl"]
        if program.file_size > PICKLE_LIMIT:
            raise InputError(f"{path}: its data.pkl has {program.file_size} bytes; at most {PICKLE_LIMIT} are read.")
        machine = Machine(_read_member(archive, program), f"{path}: data.pkl")
        wanted = _Wanted(path, machine.follow(), note)
        for storage in machine.storages.values():
            member = members.get(f"{top}data/{storage.key}")
            if member is None or member.file_size != storage.nbytes:
                found = f"has {member.file_size}" if member else "is not there"
                wanted_bytes = f"data/{storage.key[:40]} must have {storage.nbytes} bytes"
                raise InputError(f"{path}: {wanted_bytes} and {found}: the file is damaged.")
        keys = {f"{top}data/{key}": key for key in machine.storages}
        for name, member in members.items():  # all of them: reading compares the checksum
            content = _read_member(archive, member)
            if name in keys:
                wanted.fill(keys[name], content)
        return wanted.arrays


def _check_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, after a check of their names and declared sizes."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.orig_filename
        if name in members:
            raise InputError(f"{path}: {name[:100]!r} occurs twice.")
        if name.startswith("/") or "\0" in name or "\\" in name or ".." in name.split("/"):
            raise InputError(f"{path}: the member {name[:100]!r} would lie outside of the archive. Nothing was read.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise InputError(f"{path}: {name[:100]!r} is encrypted or packed in a way that PyTorch never uses.")
        members[name] = member
    declared, size = sum(member.file_size for member in members.values()), os.path.getsize(path)
    if declared > EXPANSION * size + ALLOWANCE:
        raise InputError(f"{path}: its {size} bytes claim to unpack to {declared}. Nothing was read.")
    return members


def _find_top_folder(path: Path, names: set[str]) -> str:
    """Return the folder of data.pkl, with its slash."""
    tops = sorted(name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
    if tops and any(name.startswith((f"{tops[0]}code/", f"{tops[0]}constants.pkl")) for name in names):
        raise InputError(
            f"{path}: this is a TorchScript archive, a program with weights. Save the weights alone: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    if len(tops) == 1:
        return tops[0]
    kind = "a zip archive without PyTorch's data.pkl"
    if tops:
        kind = f"an archive of {len(tops)} PyTorch files"
    elif any(name.endswith(".npy") for name in names):
        kind = "a NumPy .npz archive"
    elif any(name.endswith(".h5") for name in names):
        kind = "a Keras model (its name must end in .keras)"
    raise InputError(f"{path}: this is {kind}, no file of torch.save.")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a member's bytes, which must be as many as declared and match its checksum."""
    with archive.open(member) as file:
        content = b"".join(iter(lambda: file.read(DIRECTORY_LIMIT // 2), b""))
    if len(content) != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename[:100]!r} has {len(content)} bytes and declares {member.file_size}")
    return content


def _read_legacy(path: Path, note: Note) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        machine = Machine(file.read(PICKLE_LIMIT), str(path))
        if machine.follow() != MAGIC_NUMBER:
            raise InputError(f"{path}: this is a pickle that torch.save did not write. {HINT}")
        if machine.follow() != PROTOCOL_VERSION:
            raise InputError(f"{path}: its protocol is not {PROTOCOL_VERSION}, the one that is read: the file is damaged.")
        system = machine.follow()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise InputError(f"{path}: it was saved on a big-endian machine, or is damaged. Save it again elsewhere.")
        wanted = _Wanted(path, machine.follow(), note)
        keys = machine.follow()
        all_text = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not all_text or sorted(keys) != sorted(machine.storages):
            raise InputError(f"{path}: its list of storages is not that of its tensors: the file is damaged.")
        file.seek(machine.position)
        left = path.stat().st_size - machine.position
        for key in keys:
            storage = machine.storages[key]
            count = int.from_bytes(file.read(8), "little", signed=True)
            left -= 8 + storage.nbytes
            if count != storage.count or left < 0:
                raise InputError(
                    f"{path}: the storage {key[:40]!r} must have {storage.count} elements and has "
                    f"{count if left >= 0 else 'fewer'}: the file is damaged or cut off. Fetch it again."
                )
            wanted.fill(key, file.read(storage.nbytes))
        if left:
            raise InputError(f"{path}: {left} bytes follow the last storage: the file is damaged. Fetch it again.")
    return wanted.arrays


class _Wanted:
    """The state dict's tensors, to be filled storage by storage."""

    def __init__(self, path: Path, value: Any, note: Note) -> None:
        tensors = dict(_choose_state_dict(path, value, note))
        total = sum(4 * math.prod(tensor.size) for tensor in tensors.values())
        if total > EXPANSION * path.stat().st_size + ALLOWANCE:
            raise InputError(
                f"{path}: its tensors would take {total} bytes and it has {path.stat().st_size}: they repeat one another."
            )
        self.arrays: dict[str, Any] = dict.fromkeys(tensors)  # in the file's order
        self._of_storage: dict[str, list[tuple[str, Tensor]]] = {}
        for name, tensor in tensors.items():
            self._of_storage.setdefault(tensor.storage.key, []).append((name, tensor))

    def fill(self, key: str, content: bytes) -> None:
        """Make the arrays whose numbers are in the storage `key`."""
        for name, tensor in self._of_storage.get(key, ()):
            width = BYTES[tensor.kind]
            strides = tuple(step * width for step in tensor.stride)
            if 0 in tensor.size:
                values = np.zeros(tensor.size, FLOATS[tensor.kind])
            else:  # the records are checked; NumPy checks again
                values = np.ndarray(tensor.size, FLOATS[tensor.kind], content, tensor.offset * width, strides)
            if tensor.kind == "bfloat16":
                values = np.asarray(np.left_shift(values, 16, dtype=np.uint32)).view(np.float32)
            with np.errstate(all="ignore"):  # float64 values beyond float32 become infinite, which loading refuses
                self.arrays[name] = values.astype(np.float32, order="C")


def _choose_state_dict(path: Path, value: Any, note: Note) -> Iterator[tuple[str, Tensor]]:
    """Choose a state dict in what the file makes, and yield its names and tensors of floating-point numbers."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: it holds no state dict. {HINT}")
    wrapped = {f"[{name!r}]": value[name] for name in WRAPPED_IN if _count_tensors(value.get(name))}
    averaged = dict(_find_averages(value))
    own = {"": value} if _count_tensors(value) else {}  # a tensor or two beside averages are figures of the training
    most = max(map(_count_tensors, averaged.values()), default=0)
    entries = wrapped | (own if _count_tensors(value) >= most else {}) | averaged | own
    if not entries:
        held = ", ".join(ascii(str(name)[:40]) for name in list(value)[:8]) or "nothing"
        raise InputError(f"{path}: no tensors, also not under {', '.join(WRAPPED_IN)}; it has {held}. {HINT}")
    chosen, found = next(iter(entries.items()))
    for sentence in beside_entry(chosen, averaged):
        note(sentence)
    if COUNTER in found and not is_average(chosen):
        note(COUNTED)
    for name, tensor in found.items():
        if isinstance(tensor, Tensor) and tensor.kind in FLOATS:
            if not isinstance(name, str):
                raise InputError(f"{path}: a tensor's name is {ascii(name)[:40]}, no text. {HINT}")
            yield name, tensor


def _count_tensors(value: Any) -> int:
    """Count the tensors in a dictionary, without those in dictionaries within it."""
    return sum(isinstance(entry, Tensor) for entry in value.values()) if isinstance(value, dict) else 0


def _find_averages(value: dict[Key, Any]) -> Iterator[tuple[str, dict[Key, Any]]]:
    """Yield (indices, dictionary) of the averages in what a file makes; those with a decay or a count of updates lie deeper."""
    for name, entry in value.items():
        if is_average(name) and isinstance(entry, dict):
            inner = {"": entry} | {f"[{key!r}]": within for key, within in entry.items()}
            yield from ((f"[{name!r}]{index}", found) for index, found in inner.items() if _count_tensors(found))
