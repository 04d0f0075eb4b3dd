"""A pickle machine for tensors: it follows the program that a ``.pth`` file is, and runs nothing of it.

``pickletools``, which only parses, gives the instructions. The machine knows those that saved tensors need and the few names in
:data:`NAMES`, each of which means only itself: nothing is imported, no foreign object is made, no method of one is called. A
tensor becomes a record of where its numbers are in its storage (:class:`Tensor`). Everything else is refused by name.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_resnet.errors import InputError

INSTRUCTIONS_LIMIT = 500_000  # a ResNet-152 with averages and an optimizer's state needs 150,000
DIMENSIONS_LIMIT = 16
CELLS_LIMIT = 2**40  # of a tensor, before its storage is known

HINT = "Save the state dict alone: torch.save(model.state_dict(), 'weights.pth')."
FETCH = "The file is damaged or cut off. Fetch it again."

FLOATS = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # the last is the upper half of a float32
INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
BYTES = {name: np.dtype(FLOATS.get(name, name)).itemsize for name in (*FLOATS, *INTEGERS)}  # of an element

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
    "argparse.Namespace", "collections.Counter", "builtins.set", "__builtin__.set", "_codecs.encode", "torch.device",
    "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
)  # fmt: skip

CALLED = (ORDERED_DICT, SIZE, REBUILD_V1, REBUILD_V2, REBUILD_V3, REBUILD_TYPED, *REBUILD_PARAMETERS)
NAMES = frozenset((*CALLED, *TENSOR_TYPES, *STORAGE_TYPES, *ELEMENT_TYPES, *BESIDE))

LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES",
)  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _read_two_lines(stream: io.BytesIO) -> tuple[str, str]:
    """Read the module and the name behind GLOBAL as they are: pickletools would resolve escapes in them."""
    module, name = stream.readline(), stream.readline()
    return module.removesuffix(b"\n").decode("ascii"), name.removesuffix(b"\n").decode("ascii")


# These parse the argument of an instruction, after the machine has found that it knows the instruction.
READERS = {opcode.name: opcode.arg.reader for opcode in pickletools.opcodes if opcode.arg} | {"GLOBAL": _read_two_lines}


@dataclass(frozen=True, eq=False)
class _Named:
    """A name of :data:`NAMES`, which means only itself."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A row of numbers in the file."""

    key: str
    kind: str  # of BYTES
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * BYTES[self.kind]


@dataclass(frozen=True, eq=False)
class Tensor:
    """Where a tensor's numbers lie in its storage, in elements."""

    storage: Storage
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


IGNORED = object()  # a value that is not a weight
Key = str | int | None  # of dictionaries; others, and large numbers, could be made to cost any time to hash or compare


class _RefusalError(Exception):
    """Why the program is not followed, and what to do."""

    def __init__(self, reason: str, advice: str = HINT) -> None:
        super().__init__(f"{reason}. {advice}")


class Machine:
    """Follow the pickles in `data`, one after the other; `where` names the data in messages."""

    def __init__(self, data: bytes, where: str) -> None:
        self._stream, self._where = io.BytesIO(data), where
        self._instructions = 0
        self.storages: dict[str, Storage] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {
            "PROTO": self._check_protocol,
            "FRAME": lambda _: None,
            **dict.fromkeys(LITERALS, self._push),
            **{name: lambda _, value=value: self._push(value) for name, value in CONSTANTS.items()},  # type: ignore[misc]
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "MARK": self._mark,
            "TUPLE": lambda _: self._push(tuple(self._pop_to_mark())),
            "TUPLE1": lambda _: self._push(tuple(self._pop(1))),
            "TUPLE2": lambda _: self._push(tuple(self._pop(2))),
            "TUPLE3": lambda _: self._push(tuple(self._pop(3))),
            "APPEND": lambda _: self._extend(self._pop(1)),
            "APPENDS": lambda _: self._extend(self._pop_to_mark()),
            "SETITEM": lambda _: self._update(self._pop(2)),
            "SETITEMS": lambda _: self._update(self._pop_to_mark()),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._memoize),
            "MEMOIZE": lambda _: self._memoize(len(self._memo)),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda index: self._push(self._memo[index])),
            "GLOBAL": lambda names: self._push_name(*names),
            "STACK_GLOBAL": lambda _: self._push_name(*self._pop(2)),
            **dict.fromkeys(("REDUCE", "NEWOBJ"), self._reduce),
            "BUILD": self._build,
            "BINPERSID": self._push_storage,
        }

    @property
    def position(self) -> int:
        """Return where the last pickle ends."""
        return self._stream.tell()

    def follow(self) -> Any:
        """Return the value that the next pickle makes: plain Python values, and the records above."""
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}  # by index, as high as the file likes
        while True:
            at = self.position
            try:
                code = self._stream.read(1).decode("latin-1")
                name = pickletools.code2op[code].name  # type: ignore[attr-defined]  # typeshed lacks it
                if name == "STOP":
                    if self._marks or len(self._stack) != 1:
                        raise ValueError("something is left on the stack")
                    return self._stack[0]
                if name not in self._handlers:
                    raise _RefusalError(f"the instruction {name} is not one that saved tensors need")
                self._instructions += 1
                if self._instructions > INSTRUCTIONS_LIMIT:
                    raise _RefusalError(f"more than {INSTRUCTIONS_LIMIT} instructions")
                self._handlers[name](READERS[name](self._stream) if name in READERS else None)
            except _RefusalError as reason:
                raise InputError(f"{self._where}: byte {at}: {reason}") from None
            except (ValueError, LookupError, TypeError, OverflowError) as error:
                raise InputError(f"{self._where}: byte {at}: malformed pickle data. {FETCH}") from error

    def _check_protocol(self, number: int) -> None:
        if not 2 <= number <= 5:
            raise _RefusalError(f"pickle protocol {number}", FETCH)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        """Remove the last `count` values from the stack, and return them."""
        if len(self._stack) < count:
            raise IndexError
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marks.pop()
        return values

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _extend(self, values: list[Any]) -> None:
        if self._stack[-1] is not IGNORED:
            _expect(list, self._stack[-1]).extend(values)

    def _update(self, values: list[Any]) -> None:
        if self._stack[-1] is not IGNORED:
            _put(_expect(dict, self._stack[-1]), zip(values[::2], values[1::2], strict=True))

    def _push_name(self, module: Any, name: Any) -> None:
        dotted = f"{_expect(str, module)}.{_expect(str, name)}"
        if dotted not in NAMES:
            raise _RefusalError(f"the file refers to {ascii(dotted[:100])[1:-1]}, which is not an allowed tensor type")
        self._push(_Named(dotted))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._pop(2)
        given = _expect(tuple, arguments)
        self._instructions += sum(len(items) for items in given if isinstance(items, list))  # walked through
        self._push(_record_call(_expect(_Named, function).name, given))

    def _build(self, _: Any) -> None:
        """Skip attributes, which do not change a tensor's numbers."""
        (state,) = self._pop(1)
        value = self._stack[-1]
        flags = isinstance(value, Tensor) and isinstance(state, tuple) and len(state) == 3  # others would change its numbers
        if not (flags or isinstance(value, dict) or value is IGNORED):
            raise _RefusalError("the file sets the state of an object that is not a state dict")

    def _push_storage(self, _: Any) -> None:
        (reference,) = self._pop(1)
        tag, kind, key, _location, count, *view = _expect(tuple, reference)
        if tag != "storage":
            raise _RefusalError("the file holds more than storages of tensors")
        if view not in ([], [None]):
            raise _RefusalError("the file has storages that are views of others, as PyTorch wrote them before 2018")
        name = _expect(_Named, kind).name
        if name not in STORAGE_TYPES:
            raise _RefusalError(f"{name} is not a storage of tensors")
        storage = Storage(_expect(str, key), STORAGE_TYPES[name], _check_number(count))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _RefusalError(f"the storage {storage.key[:40]!r} has two types or sizes", FETCH)
        self._push(storage)


def _expect(kind: type, value: Any) -> Any:
    """Return `value`, which must be a `kind`; :meth:`Machine.follow` turns the TypeError into a refusal."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def _check_number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= CELLS_LIMIT:
        raise _RefusalError("a size, stride or offset is negative, too large or no number", FETCH)
    return value


def _check_numbers(values: Any) -> tuple[int, ...]:
    if len(_expect(tuple, values)) > DIMENSIONS_LIMIT:
        raise _RefusalError(f"a tensor of more than {DIMENSIONS_LIMIT} dimensions")
    return tuple(_check_number(value) for value in values)


def _put(target: dict[Key, Any], items: Any) -> None:
    """Add (key, value) pairs to a dictionary, each key once."""
    for key, value in items:
        if not isinstance(key, Key) or (isinstance(key, int) and abs(key) > CELLS_LIMIT):
            raise _RefusalError("a dictionary has keys that are no names or numbers")
        if key in target:
            raise _RefusalError(f"the name {str(key)[:100]!r} occurs twice", FETCH)
        target[key] = value


def _record_call(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return a record of what the function of that name would return; the function is not called."""
    if name in BESIDE:
        return IGNORED
    if name == ORDERED_DICT:
        made: dict[Key, Any] = {}
        for items in arguments:  # none, or one list of pairs, as Python 2 wrote them
            _put(made, _expect(list, items))
        return made
    if name == SIZE:
        return _check_numbers(*arguments)
    if name in (REBUILD_V1, REBUILD_V2):
        return _make_tensor(_expect(Storage, arguments[0]).kind, *arguments[:4], *arguments[6:])
    if name == REBUILD_V3:
        kind = _expect(_Named, arguments[6]).name
        if kind not in ELEMENT_TYPES:
            raise _RefusalError(f"{kind} is not a type of numbers")
        return _make_tensor(ELEMENT_TYPES[kind], *arguments[:4], *arguments[7:])
    if name in REBUILD_PARAMETERS:
        return _expect(Tensor, arguments[0])
    if name == REBUILD_TYPED:
        function, tensor_type, inner, _state = arguments
        if _expect(_Named, function).name in (REBUILD_V2, REBUILD_V3) and _expect(_Named, tensor_type).name in TENSOR_TYPES:
            return _record_call(function.name, _expect(tuple, inner))
    raise _RefusalError(f"the file calls {name}, which makes no tensor")


def _make_tensor(kind: str, storage: Any, offset: Any, size: Any, stride: Any, metadata: Any = None) -> Tensor:
    """Return the record of a tensor, which must lie within its storage."""
    tensor = Tensor(_expect(Storage, storage), kind, _check_number(offset), _check_numbers(size), _check_numbers(stride))
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
        described = f"a tensor of size {list(tensor.size)}, stride {list(tensor.stride)} and offset {tensor.offset}"
        raise _RefusalError(f"{described} reaches outside its storage of {tensor.storage.count} elements", FETCH)
    return tensor
