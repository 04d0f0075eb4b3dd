"""PyTorch's ``.pth`` files, read without PyTorch and without running anything in them.

Such a file is a program for Python's pickle machine: it says which functions to call, and loading it calls them. Here a
machine of our own follows it (:class:`_Machine`). ``pickletools``, which only parses, tells it the instructions; it knows those
that saved tensors need and the few names in :data:`NAMES`, and these as inert values: nothing is imported, no foreign
object is made, no method of one is called. A tensor becomes a record of where its numbers lie, and numbers are read only when
the whole program has been followed and every record lies within its storage. Everything else is refused by name.

Two containers are read: the zip archive of PyTorch 1.6 and later (``NAME/data.pkl`` and a member ``NAME/data/KEY`` for each
storage, all with a CRC32, which is compared), and the one before (five pickles, then the storages in a row, without any
checksum). Source of both: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py. The limits below hold before
anything is allocated. (``tests/dense_resnet/checkpoints/test_torch_weights.py``)
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.checkpoints.names.averages import COUNTED, COUNTER, beside_entry, is_average
from dense_resnet.errors import InputError
from dense_resnet.image_io import file_types
from dense_resnet.jobs import atomic_files

SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # the last as in model_best.pth.tar, which is no tar archive
STARTS = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))  # of a pickle
ZIP_START = b"PK\x03\x04"

WRAPPED_IN = ("state_dict", "model", "model_state_dict")  # the first that holds tensors is read, then averages

MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # what a legacy file begins with, a pickle each

INSTRUCTIONS_LIMIT = 500_000  # a ResNet-152 with averages and an optimizer's state needs 150,000
PICKLE_LIMIT = 2**24  # bytes of all pickles of a file
DIRECTORY_LIMIT = 2**21  # bytes of an archive's directory, and of any read
DIMENSIONS_LIMIT = 16
CELLS_LIMIT = 2**40  # of a tensor, before its storage is known
EXPANSION, ALLOWANCE = 4, 2**20  # arrays may have as many times the file's bytes, and so many more

HINT = "Save the state dict alone: torch.save(model.state_dict(), 'weights.pth')."
FETCH = "The file is damaged or cut off. Fetch it again."

# --------------------------------------------------------------------------------------------------------------------
# What the machine knows

FLOATS = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # the last is the upper half of a float32
INTEGERS = {
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
BYTES = {name: np.dtype(code).itemsize for name, code in FLOATS.items()} | INTEGERS  # of an element

STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
STORAGE_TYPES = {
    "torch.storage.UntypedStorage": "uint8",
    **{f"{module}.{name}": kind for module in ("torch", "torch.cuda") for name, kind in STORAGES.items()},
}
ELEMENT_TYPES = {f"torch.{kind}": kind for kind in BYTES}

ORDERED_DICT, SIZE = "collections.OrderedDict", "torch.Size"
REBUILD_V1, REBUILD_V2, REBUILD_V3 = (f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
REBUILD_TYPED = "torch._tensor._rebuild_from_type_v2"  # of a tensor with attributes
PARAMETER = "torch.nn.parameter.Parameter"
REBUILD_PARAMETERS = ("torch._utils._rebuild_parameter", PARAMETER)  # the second in files of 2017
TENSOR_TYPES = ("torch.Tensor", "torch._tensor.Tensor", PARAMETER)

BESIDE = (  # what training leaves in a file beside the weights; never looked at
    "argparse.Namespace",
    "collections.Counter",
    "builtins.set",
    "__builtin__.set",
    "_codecs.encode",
    "torch.device",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)

NAMES = frozenset(
    {ORDERED_DICT, SIZE, REBUILD_V1, REBUILD_V2, REBUILD_V3, REBUILD_TYPED}.union(
        REBUILD_PARAMETERS, TENSOR_TYPES, STORAGE_TYPES, ELEMENT_TYPES, BESIDE
    )
)

LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES",
)  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _two_lines(stream: io.BytesIO) -> tuple[str, str]:
    """The module and name behind GLOBAL, of which pickletools would resolve escapes."""
    module, name = stream.readline(), stream.readline()
    return module.removesuffix(b"\n").decode("ascii"), name.removesuffix(b"\n").decode("ascii")


# What stands behind an instruction is parsed by these, and only when the instruction is one that the machine knows.
READERS = {opcode.name: opcode.arg.reader for opcode in pickletools.opcodes if opcode.arg} | {"GLOBAL": _two_lines}


@dataclass(frozen=True, eq=False)
class _Named:
    """A name of :data:`NAMES`, which stands for nothing but itself."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A row of numbers in the file."""

    key: str
    kind: str  # of BYTES
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * BYTES[self.kind]


@dataclass(frozen=True, eq=False)
class _Tensor:
    """Where a tensor's numbers lie in its storage, in elements."""

    storage: _Storage
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Beside:
    """A value that is no weight."""


IGNORED = _Beside()
Note = Callable[[str], object]
Key = str | int | None  # of dictionaries; others, and large numbers, could be made to cost any time to hash or compare


# --------------------------------------------------------------------------------------------------------------------
# The machine


class _RefusalError(Exception):
    """Why the program is not followed, and what to do."""

    def __init__(self, reason: str, advice: str = HINT) -> None:
        super().__init__(f"{reason}. {advice}")


class _Machine:
    """Follows pickles, one after the other, in `data`; `where` they are is said in messages."""

    def __init__(self, data: bytes, where: str) -> None:
        self._stream, self._where = io.BytesIO(data), where
        self._instructions = 0
        self.storages: dict[str, _Storage] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {
            "PROTO": self._protocol,
            "FRAME": lambda _: None,
            **dict.fromkeys(LITERALS, self._push),
            **{name: lambda _, value=value: self._push(value) for name, value in CONSTANTS.items()},
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "MARK": self._mark,
            "TUPLE": lambda _: self._push(tuple(self._since_mark())),
            "TUPLE1": lambda _: self._push(tuple(self._last(1))),
            "TUPLE2": lambda _: self._push(tuple(self._last(2))),
            "TUPLE3": lambda _: self._push(tuple(self._last(3))),
            "APPEND": lambda _: self._extend(self._last(1)),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._update(self._last(2)),
            "SETITEMS": lambda _: self._update(self._since_mark()),
            "BINPUT": self._memoize,
            "LONG_BINPUT": self._memoize,
            "MEMOIZE": lambda _: self._memoize(len(self._memo)),
            "BINGET": lambda index: self._push(self._memo[index]),
            "LONG_BINGET": lambda index: self._push(self._memo[index]),
            "GLOBAL": lambda names: self._name(*names),
            "STACK_GLOBAL": lambda _: self._name(*self._last(2)),
            "REDUCE": self._reduce,
            "NEWOBJ": self._reduce,
            "BUILD": self._build,
            "BINPERSID": self._storage,
        }

    @property
    def position(self) -> int:
        """The byte behind the last pickle."""
        return self._stream.tell()

    def follow(self) -> Any:
        """The value that the next pickle makes: plain Python values, and the records above."""
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}  # by index, as high as the file likes
        while True:
            at = self.position
            try:
                code = self._stream.read(1).decode("latin-1")
                name = pickletools.code2op[code].name
                if name == "STOP":
                    if self._marks or len(self._stack) != 1:
                        raise ValueError("something is left on the stack")
                    return self._stack[0]
                if name not in self._handlers:
                    raise _RefusalError(f"the instruction {name} is none that saved tensors need")
                self._instructions += 1
                if self._instructions > INSTRUCTIONS_LIMIT:
                    raise _RefusalError(f"more than {INSTRUCTIONS_LIMIT} instructions")
                self._handlers[name](READERS[name](self._stream) if name in READERS else None)
            except _RefusalError as reason:
                raise InputError(f"{self._where}: byte {at}: {reason}") from None
            except (ValueError, LookupError, TypeError, OverflowError) as error:
                raise InputError(f"{self._where}: byte {at}: no tensor was saved like this. {FETCH}") from error

    # -- instructions: what each does to the stack ----------------------------------------------------------------------

    def _protocol(self, number: int) -> None:
        if not 2 <= number <= 5:
            raise _RefusalError(f"pickle protocol {number}", FETCH)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _last(self, count: int) -> list[Any]:
        """The last `count` values, which leave the stack."""
        if len(self._stack) < count:
            raise IndexError
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marks.pop()
        return values

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _extend(self, values: list[Any]) -> None:
        if self._stack[-1] is not IGNORED:
            _of(list, self._stack[-1]).extend(values)

    def _update(self, values: list[Any]) -> None:
        if self._stack[-1] is not IGNORED:
            _put(_of(dict, self._stack[-1]), zip(values[::2], values[1::2], strict=True))

    def _name(self, module: Any, name: Any) -> None:
        dotted = f"{_of(str, module)}.{_of(str, name)}"
        if dotted not in NAMES:
            raise _RefusalError(f"the file asks for {ascii(dotted[:100])[1:-1]}, which is no tensor")
        self._push(_Named(dotted))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._last(2)
        self._instructions += sum(len(items) for items in _of(tuple, arguments) if isinstance(items, list))  # walked through
        self._push(_evaluate_call(_of(_Named, function).name, _of(tuple, arguments)))

    def _build(self, _: Any) -> None:
        """Attributes, which say nothing of a tensor's numbers."""
        (state,) = self._last(1)
        value = self._stack[-1]
        flags = isinstance(value, _Tensor) and isinstance(state, tuple) and len(state) == 3  # others would change its numbers
        if not (flags or isinstance(value, dict | _Beside)):
            raise _RefusalError("the file sets the state of what is no state dict")

    def _storage(self, _: Any) -> None:
        (reference,) = self._last(1)
        tag, kind, key, _location, count, *view = _of(tuple, reference)
        if tag != "storage":
            raise _RefusalError("the file holds more than storages of tensors")
        if view not in ([], [None]):
            raise _RefusalError("the file has storages that are views of others, as PyTorch wrote them before 2018")
        name = _of(_Named, kind).name
        if name not in STORAGE_TYPES:
            raise _RefusalError(f"{name} is no storage of tensors")
        storage = _Storage(_of(str, key), STORAGE_TYPES[name], _number(count))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _RefusalError(f"the storage {storage.key[:40]!r} has two types or sizes", FETCH)
        self._push(storage)


def _of(kind: type, value: Any) -> Any:
    """`value`, which must be a `kind`."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def _number(value: Any) -> int:
    """A count of elements."""
    if type(value) is not int or not 0 <= value <= CELLS_LIMIT:
        raise _RefusalError("a size, stride or offset is negative, too large or no number", FETCH)
    return value


def _numbers(values: Any) -> tuple[int, ...]:
    if len(_of(tuple, values)) > DIMENSIONS_LIMIT:
        raise _RefusalError(f"a tensor of more than {DIMENSIONS_LIMIT} dimensions")
    return tuple(_number(value) for value in values)


def _put(target: dict[Key, Any], items: Any) -> None:
    """Adds (key, value) pairs."""
    for key, value in items:
        if not isinstance(key, Key) or (isinstance(key, int) and abs(key) > CELLS_LIMIT):
            raise _RefusalError("a dictionary has keys that are no names or numbers")
        if key in target:
            raise _RefusalError(f"the name {str(key)[:100]!r} occurs twice", FETCH)
        target[key] = value


def _evaluate_call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What the function of that name would return, as a record."""
    if name in BESIDE:
        return IGNORED
    if name == ORDERED_DICT:
        made: dict[Key, Any] = {}
        for items in arguments:  # none, or one list of pairs, as Python 2 wrote them
            _put(made, _of(list, items))
        return made
    if name == SIZE:
        return _numbers(*arguments)
    if name in (REBUILD_V1, REBUILD_V2):
        return _tensor(_of(_Storage, arguments[0]).kind, *arguments[:4], *arguments[6:])
    if name == REBUILD_V3:
        return _tensor(_element_type(arguments[6]), *arguments[:4], *arguments[7:])
    if name in REBUILD_PARAMETERS:
        return _of(_Tensor, arguments[0])
    if name == REBUILD_TYPED:
        function, kind, inner, _state = arguments
        if _of(_Named, function).name in (REBUILD_V2, REBUILD_V3) and _of(_Named, kind).name in TENSOR_TYPES:
            return _evaluate_call(function.name, _of(tuple, inner))
    raise _RefusalError(f"the file calls {name}, which makes no tensor")


def _element_type(value: Any) -> str:
    name = _of(_Named, value).name
    if name not in ELEMENT_TYPES:
        raise _RefusalError(f"{name} is no type of numbers")
    return ELEMENT_TYPES[name]


def _tensor(kind: str, storage: Any, offset: Any, size: Any, stride: Any, metadata: Any = None) -> _Tensor:
    """The record of a tensor that lies within its storage."""
    tensor = _Tensor(_of(_Storage, storage), kind, _number(offset), _numbers(size), _numbers(stride))
    if metadata:
        raise _RefusalError("a tensor is a conjugate or negative view of its storage")
    if len(tensor.size) != len(tensor.stride) or math.prod(max(side, 1) for side in tensor.size) > CELLS_LIMIT:
        raise _RefusalError(f"a tensor's size {list(tensor.size)} does not go with its stride {list(tensor.stride)}", FETCH)
    if 0 in tensor.size:
        return tensor
    reach = 0  # of the axes so far: a step of the next one must lead beyond it
    for step, side in sorted(zip(tensor.stride, tensor.size, strict=True)):
        if side > 1 and step <= reach:
            raise _RefusalError("a tensor repeats its own elements (an expanded one: save it with .contiguous())")
        reach += (side - 1) * step
    if (tensor.offset + reach + 1) * BYTES[kind] > tensor.storage.nbytes:
        raise _RefusalError(
            f"a tensor of size {list(tensor.size)}, stride {list(tensor.stride)} and offset {tensor.offset} reaches "
            f"outside its storage of {tensor.storage.count} elements",
            FETCH,
        )
    return tensor


# --------------------------------------------------------------------------------------------------------------------
# The files


def read(path: Path, note: Note = lambda sentence: None) -> dict[str, np.ndarray]:
    """The floating-point tensors of a PyTorch state dict as float32 arrays; integer ones, which count steps, are left out.

    The file holds the state dict itself, or a dictionary with it under one of :data:`WRAPPED_IN`, or averages under a name
    that says so; whatever else stands there (an epoch, an optimizer's state) is ignored.

    Args:
        path: a file of ``torch.save(model.state_dict(), path)``, of either container.
        note: called with a sentence where the file has averages: which of them and the weights is read.

    Raises:
        InputError: the file is missing, damaged or of another kind, or has anything in it that is no tensor or plain value.
    """
    atomic_files.check_there(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(ZIP_START):
            return _read_archive(path, note)
        if start[:2] in STARTS:
            return _read_legacy(path, note)
        kind = _kind_of(start, path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    raise InputError(f"{path}: this is {kind}, no file of torch.save.")


def _kind_of(start: bytes, size: int) -> str:
    """What a file is, by its first bytes."""
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, which Keras' names end in .h5"
    if start[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote them before version 0.1.3 (load and save it again with a later one)"
    if start.startswith(b"\x93NUMPY"):
        return "a NumPy array"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
        return "a safetensors file (its name must end in .safetensors)"
    return file_types.describe(start) or "something else"


class _Sparing(io.FileIO):
    """A file of which only a little is read at once: zipfile would take in a directory of any size."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > DIRECTORY_LIMIT:
            raise zipfile.BadZipFile(f"its directory has {size} bytes")
        return super().read(-1 if size is None else size)


def _read_archive(path: Path, note: Note) -> dict[str, np.ndarray]:
    try:
        with _Sparing(path) as file, zipfile.ZipFile(file) as archive:
            members = _check_members(path, archive)
            top = _top_folder(path, set(members))
            if (order := members.get(f"{top}byteorder")) and _content(archive, order) != b"little":
                raise InputError(f"{path}: it was saved on a big-endian machine, which is not read. Save it again elsewhere.")
            program = members[f"{top}data.pkl"]
            if program.file_size > PICKLE_LIMIT:
                raise InputError(f"{path}: its data.pkl has {program.file_size} bytes; at most {PICKLE_LIMIT} are read.")
            machine = _Machine(_content(archive, program), f"{path}: data.pkl")
            wanted = _Wanted(path, machine.follow(), note)
            for storage in machine.storages.values():
                member = members.get(f"{top}data/{storage.key}")
                if member is None or member.file_size != storage.nbytes:
                    found = f"has {member.file_size}" if member else "is not there"
                    raise InputError(
                        f"{path}: data/{storage.key[:40]} must have {storage.nbytes} bytes and {found}: the file is damaged."
                    )
            keys = {f"{top}data/{key}": key for key in machine.storages}
            for name, member in members.items():  # all of them: reading compares the checksum
                content = _content(archive, member)
                if name in keys:
                    wanted.fill(keys[name], content)
            return wanted.arrays
    except InputError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path}: cannot be read as a zip archive: {error}. It is damaged or cut off; fetch it again."
        ) from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name, once their names and declared sizes are plausible."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.orig_filename
        if name in members:
            raise InputError(f"{path}: {name[:100]!r} stands in it twice.")
        if name.startswith("/") or "\0" in name or "\\" in name or ".." in name.split("/"):
            raise InputError(f"{path}: the member {name[:100]!r} would lie outside of the archive. Nothing was read.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise InputError(f"{path}: {name[:100]!r} is encrypted or packed in a way that PyTorch never uses.")
        members[name] = member
    declared, size = sum(member.file_size for member in members.values()), os.path.getsize(path)
    if declared > EXPANSION * size + ALLOWANCE:
        raise InputError(f"{path}: its {size} bytes claim to unpack to {declared}. Nothing was read.")
    return members


def _top_folder(path: Path, names: set[str]) -> str:
    """The folder of data.pkl with its slash."""
    tops = sorted(name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
    top = tops[0] if tops else ""
    if tops and any(name.startswith((f"{top}code/", f"{top}constants.pkl")) for name in names):
        raise InputError(
            f"{path}: this is a TorchScript archive, a program with weights. Save the weights alone: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    if len(tops) == 1:
        return top
    kind = "a zip archive without PyTorch's data.pkl"
    if tops:
        kind = f"an archive of {len(tops)} PyTorch files"
    elif any(name.endswith(".npy") for name in names):
        kind = "a NumPy .npz archive"
    elif any(name.endswith(".h5") for name in names):
        kind = "a Keras model (its name must end in .keras)"
    raise InputError(f"{path}: this is {kind}, no file of torch.save.")


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes, as many as declared and of its checksum."""
    with archive.open(member) as file:
        content = b"".join(iter(lambda: file.read(DIRECTORY_LIMIT // 2), b""))
    if len(content) != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename[:100]!r} has {len(content)} bytes and declares {member.file_size}")
    return content


def _read_legacy(path: Path, note: Note) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        machine = _Machine(file.read(PICKLE_LIMIT), str(path))
        if not _is(MAGIC_NUMBER, machine.follow()):
            raise InputError(f"{path}: this is a pickle that torch.save did not write. {HINT}")
        if not _is(PROTOCOL_VERSION, machine.follow()):
            raise InputError(f"{path}: its protocol is not {PROTOCOL_VERSION}, the one that is read: the file is damaged.")
        system = machine.follow()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise InputError(f"{path}: it was saved on a big-endian machine, or is damaged. Save it again elsewhere.")
        wanted = _Wanted(path, machine.follow(), note)
        keys = machine.follow()
        if (
            not isinstance(keys, list)
            or not all(isinstance(key, str) for key in keys)
            or sorted(keys) != sorted(machine.storages)
        ):
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


def _is(number: int, value: Any) -> bool:
    return type(value) is int and value == number


class _Wanted:
    """The state dict's tensors, to be filled storage by storage."""

    def __init__(self, path: Path, value: Any, note: Note) -> None:
        tensors = dict(_state_dict(path, value, note))
        total = sum(4 * math.prod(tensor.size) for tensor in tensors.values())
        if total > EXPANSION * path.stat().st_size + ALLOWANCE:
            raise InputError(
                f"{path}: its tensors would take {total} bytes and it has {path.stat().st_size}: they repeat one another."
            )
        self.arrays: dict[str, np.ndarray] = dict.fromkeys(tensors)  # in the file's order
        self._of_storage: dict[str, list[tuple[str, _Tensor]]] = {}
        for name, tensor in tensors.items():
            self._of_storage.setdefault(tensor.storage.key, []).append((name, tensor))

    def fill(self, key: str, content: bytes) -> None:
        """Makes the arrays whose numbers the storage `key` has."""
        for name, tensor in self._of_storage.get(key, ()):
            width = BYTES[tensor.kind]
            strides = tuple(step * width for step in tensor.stride)
            if 0 in tensor.size:
                values = np.zeros(tensor.size, FLOATS[tensor.kind])
            else:  # the records are checked; NumPy checks again
                values = np.ndarray(tensor.size, FLOATS[tensor.kind], content, tensor.offset * width, strides)
            if tensor.kind == "bfloat16":
                values = np.asarray(np.left_shift(values, 16, dtype=np.uint32)).view(np.float32)
            with np.errstate(all="ignore"):  # float64 values beyond float32 become infinite, which whoever takes them refuses
                self.arrays[name] = values.astype(np.float32, order="C")


def _state_dict(path: Path, value: Any, note: Note) -> Iterator[tuple[str, _Tensor]]:
    """The names and tensors of floating-point numbers in what the file makes."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: it holds no state dict. {HINT}")
    wrapped = {f"[{name!r}]": value[name] for name in WRAPPED_IN if _tensors_in(value.get(name))}
    averaged = dict(_averages(value))
    own = {"": value} if _tensors_in(value) else {}  # a tensor or two beside averages are figures of the training
    most = max(map(_tensors_in, averaged.values()), default=0)
    entries = wrapped | (own if _tensors_in(value) >= most else {}) | averaged | own
    if not entries:
        held = ", ".join(ascii(str(name)[:40]) for name in list(value)[:8]) or "nothing"
        raise InputError(f"{path}: no tensors, also not under {', '.join(WRAPPED_IN)}; it has {held}. {HINT}")
    chosen, found = next(iter(entries.items()))
    for sentence in beside_entry(chosen, averaged):
        note(sentence)
    if COUNTER in found and not is_average(chosen):
        note(COUNTED)
    for name, tensor in found.items():
        if isinstance(tensor, _Tensor) and tensor.kind in FLOATS:
            if not isinstance(name, str):
                raise InputError(f"{path}: a tensor's name is {ascii(name)[:40]}, no text. {HINT}")
            yield name, tensor


def _tensors_in(value: Any) -> int:
    """How many tensors a dictionary has, not counting those further in."""
    return sum(isinstance(entry, _Tensor) for entry in value.values()) if isinstance(value, dict) else 0


def _averages(value: dict[Key, Any]) -> Iterator[tuple[str, dict[Key, Any]]]:
    """(indices, dictionary) of the averages in what a file makes: with their decay or a count of updates, they lie deeper."""
    for name, entry in value.items():
        if is_average(name) and isinstance(entry, dict):
            inner = {"": entry} | {f"[{key!r}]": within for key, within in entry.items()}
            yield from ((f"[{name!r}]{index}", found) for index, found in inner.items() if _tensors_in(found))
