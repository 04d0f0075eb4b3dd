"""How the fuzz tests damage files: blindly, or so that checksums fit again and deeper code is reached.

Every function takes a ``numpy.random.Generator`` and nothing else that is random, so a seed replays a case.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

Ranges = Sequence[tuple[int, int]]  # begin and end
EXTREMES = (0, 1, -1, 2, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = ("<I", ">I", "<Q", ">Q")


def mutate(data: bytes, other: bytes, payload: Ranges, generator: np.random.Generator) -> bytes:
    """`data` after one to three blind mutations, most of them outside of `payload`; `other` is a file to splice with."""
    payload = sorted(payload)
    for _ in range(1 + int(generator.integers(6) == 0) + int(generator.integers(12) == 0)):
        operation = OPERATIONS[generator.integers(len(OPERATIONS))]
        data = operation(data, other, _position(data, payload, generator), generator)
    return data


def _position(data: bytes, payload: Ranges, generator: np.random.Generator) -> int:
    """A place in a file: one time in five anywhere, else outside of `payload`, and rather not where zeros fill gaps."""
    gaps, end = [], 0
    for begin, stop in [*payload, (len(data), len(data))]:
        if min(begin, len(data)) > end:
            gaps.append((end, min(begin, len(data))))
        end = max(end, stop)
    if not gaps or generator.integers(5) == 0:
        return int(generator.integers(max(1, len(data))))
    lengths = np.array([stop - begin for begin, stop in gaps])
    for _ in range(10):
        begin, stop = gaps[generator.choice(len(gaps), p=lengths / lengths.sum())]
        at = int(generator.integers(begin, stop))
        if data[at]:
            break
    return at


def _length(generator: np.random.Generator, longest: int) -> int:
    """Of a range: short ones are the most frequent."""
    return min(int(2 ** generator.uniform(0, 11)), max(1, longest))


def _flip(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << int(generator.integers(8))]) + data[at + 1 :] if data else b"\1"


def _set(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    return data[:at] + bytes([(0, 255, 127, 128, int(generator.integers(256)))[generator.integers(5)]]) + data[at + 1 :]


def _truncate(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    return data[:at]


def _extend(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    length = _length(generator, 2048)
    return data + (bytes(length), generator.bytes(length), data[-length:], other[:length])[generator.integers(4)]


def _delete(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    return data[:at] + data[at + _length(generator, len(data) - at) :]


def _insert(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    length = _length(generator, 2048)
    return data[:at] + (bytes(length), generator.bytes(length), data[at : at + length])[generator.integers(3)] + data[at:]


def _swap(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    """Two ranges change places."""
    length = _length(generator, len(data) // 2)
    one, two = sorted((at, int(generator.integers(len(data) + 1))))
    length = min(length, two - one)
    return data[:one] + data[two : two + length] + data[one + length : two] + data[one : one + length] + data[two + length :]


def _copy(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    """A range is written over another one."""
    source = int(generator.integers(len(data) + 1))
    part = data[source : source + _length(generator, len(data) - max(at, source))]
    return data[:at] + part + data[at + len(part) :]


def _integer(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    """An extreme value is written over what may be a length, an offset or a count."""
    word = WORDS[generator.integers(len(WORDS))]
    width = struct.calcsize(word)
    value = EXTREMES[generator.integers(len(EXTREMES))] % 2 ** (8 * width)
    if generator.integers(2):
        at -= at % width
    if at + width > len(data):
        return data
    if generator.integers(4) == 0:  # or one beside what stood there
        value = (struct.unpack_from(word, data, at)[0] + (-1, 1)[generator.integers(2)]) % 2 ** (8 * width)
    return data[:at] + struct.pack(word, value) + data[at + width :]


def _splice(data: bytes, other: bytes, at: int, generator: np.random.Generator) -> bytes:
    """The begin of one good file, the end of another; or a range of the other one."""
    if generator.integers(2):
        return data[:at] + other[at:]
    length = _length(generator, len(data) - at)
    return data[:at] + other[at : at + length] + data[at + length :]


OPERATIONS = (
    *(_flip, _set, _integer) * 3,
    *(_truncate, _extend, _delete, _insert, _swap, _copy, _splice),
)


# -- safetensors: a header that lies ---------------------------------------------------------------------------------


def falsify_header(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A safetensors file whose header, still JSON, says something else of an array."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = sorted(set(header) - {"__metadata__"})
    name, twin = (names[index] for index in generator.choice(len(names), 2, replace=False))
    entry, extreme = header[name], EXTREMES[generator.integers(len(EXTREMES))]
    match int(generator.integers(10)):
        case 0:
            entry["dtype"] = ("F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X", 7)[generator.integers(10)]
        case 1:
            entry["shape"] = entry["shape"][::-1]
        case 2:
            entry["shape"] = [(*entry["shape"], extreme), (extreme,), (), (0, extreme), (2**32, 2**32)][generator.integers(5)]
        case 3:
            entry["data_offsets"][generator.integers(2)] = extreme
        case 4:
            entry["data_offsets"], header[twin]["data_offsets"] = header[twin]["data_offsets"], entry["data_offsets"]
        case 5:
            header[name], header[twin] = header[twin], header[name]
        case 6:
            header[("", name.upper(), "__metadata__", "../" + name, "a\0b", name[:-1])[generator.integers(6)]] = header.pop(
                name
            )
        case 7:
            del header[name]
        case 8:
            entry[("dtype", "shape", "data_offsets", "more")[generator.integers(4)]] = (None, "x", {}, -1)[
                generator.integers(4)
            ]
        case 9:
            header["__metadata__"] = ({}, None, {"dense_resnet": "[]"}, {"dense_resnet": "{"}, {"a": "b"})[
                generator.integers(5)
            ]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


# -- TensorFlow's tables (V1 checkpoints, the index of V2 ones): damaged inside, checksums right --------------------

MAGIC = 0xDB4775248B80FB57
_TABLE = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = _value >> 1 ^ 0x82F63B78 * (_value & 1)
    _TABLE[_byte] = _value


def crc32c(data: bytes) -> int:
    """CRC-32C, slowly."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """As it is stored: a checksum of bytes that hold checksums is a poor one."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    """Seven bits a byte, the least first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """One block of a table, without sharing of prefixes."""
    out, restarts = b"", []
    for key, value in entries:
        restarts.append(len(out))
        out += varint(0) + varint(len(key)) + varint(len(value)) + key + value
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(
    entries: Sequence[tuple[bytes, bytes]], size: int, damage: Callable[[bytes], bytes] = bytes, method: int = 0
) -> bytes:
    """A table of blocks with `size` entries each; `damage` is done to each block before its checksum is made.

    `method` is how the blocks say that they are compressed, which they are not.
    """
    out, index = b"", []

    def add(content: bytes) -> bytes:
        nonlocal out
        content = damage(content) + bytes([method])
        handle = varint(len(out)) + varint(len(content) - 1)
        out += content + struct.pack("<I", masked_crc32c(content))
        return handle

    for begin in range(0, len(entries), size):
        part = entries[begin : begin + size]
        index.append((part[-1][0], add(block(part))))
    footer = add(block([])) + add(block(index))
    return out + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def damage_table(entries: Sequence[tuple[bytes, bytes]], generator: np.random.Generator) -> bytes:
    """A table with right checksums, whose entries or blocks are not what they were."""
    entries, damage = list(entries), bytes
    at = int(generator.integers(len(entries)))
    key, value = entries[at]

    def blindly(content: bytes) -> bytes:
        return mutate(content, content[::-1], (), generator) if generator.integers(3) == 0 else content

    match int(generator.integers(8)):
        case 0:
            damage = blindly
        case 1:
            del entries[at]
        case 2:
            entries.insert(int(generator.integers(len(entries))), entries[at])
        case 3:
            other = int(generator.integers(len(entries)))
            entries[at], entries[other] = (key, entries[other][1]), (entries[other][0], value)
        case 4:
            entries[at] = mutate(key, value, (), generator), value
            entries.sort()
        case _:
            entries[at] = key, mutate_message(value, generator)
    return table(entries, int(generator.choice([1, 2, 5, 1000])), damage, int(generator.integers(40) == 0))


def mutate_message(message: bytes, generator: np.random.Generator, depth: int = 0) -> bytes:
    """A protocol buffer with one field changed, at any depth; the lengths around it are made to fit."""
    fields = fields_of(message)
    if not fields:
        return mutate(message, message[::-1], (), generator)
    at = int(generator.integers(len(fields)))
    number, kind, value = fields[at]
    choice = int(generator.integers(8))
    if choice == 0:
        del fields[at]
    elif choice == 1:
        fields.append(fields[at])
    elif choice == 2:
        fields[at] = int(generator.integers(1, 10)), kind, value
    elif kind == 0:
        fields[at] = number, kind, EXTREMES[generator.integers(len(EXTREMES))] % 2**64
    elif kind == 2 and choice > 3 and depth < 6:
        fields[at] = number, kind, mutate_message(value, generator, depth + 1)
    else:
        fields[at] = number, kind, mutate(value, value[::-1], (), generator)
    out = b""
    for number, kind, value in fields:
        out += varint(number << 3 | kind)
        out += varint(value) if kind == 0 else varint(len(value)) + value if kind == 2 else value
    return out


def fields_of(message: bytes) -> list[tuple[int, int, int | bytes]]:
    """(number, wire type, value) of each field; none where it is no protocol buffer."""
    fields, at = [], 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    try:
        while at < len(message):
            number, kind = divmod(read(), 8)
            length = {0: 0, 1: 8, 5: 4}.get(kind)
            if kind == 0:
                fields.append((number, kind, read()))
                continue
            if length is None:
                length = read() if kind == 2 else len(message) + 1
            if number == 0 or at + length > len(message):
                return []
            fields.append((number, kind, message[at : at + length]))
            at += length
    except IndexError:
        return []
    return fields


# -- zip archives: damaged inside, checksums right -------------------------------------------------------------------


def damage_member(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A zip archive with one member mutated before it is packed again, so that its checksum fits."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(io.BytesIO(other)) as second:
        contents = {name: archive.read(name) for name in archive.namelist()}
        others = {name: second.read(name) for name in second.namelist()}
    names = sorted(contents)
    largest = sorted(names, key=lambda name: -len(contents[name]))[:2]  # the pickle, the weights, the configuration
    pool = names if generator.integers(4) == 0 else largest
    name = pool[generator.integers(len(pool))]
    twin = names[generator.integers(len(names))]
    match int(generator.integers(12)):
        case 0:
            del contents[name]
        case 1:
            contents[f"../{name}"] = contents.pop(name)
        case 2:
            contents[name], contents[twin] = contents[twin], contents[name]
        case _:
            contents[name] = mutate(contents[name], others.get(name, b""), (), generator)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[generator.integers(2)]) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return packed.getvalue()


# -- JSON: values, keys and spellings that nobody expects --------------------------------------------------------------

ODD = (  # values as they are written
    *("null", "true", "false", "0", "1", "-1", "1.0", "0.5", "255", "256", "65536", "1e3", "1e999", "-0", "9" * 40, "9" * 5000),
    *("NaN", "Infinity", "-Infinity", '""', '"a"', '"a\\u0000b"', '"\\ud800"', '"\\u0661"', '"../a"', '"/a"', '"é"'),
    *("[]", "{}", "[[]]", "[1,2,3]", "[1,2,3,4]", '{"a":1,"a":2}', "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000),
)
ENCODINGS = ("utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1")
MARK = "\ue000"  # where something else is written


def falsify_json(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """JSON, more or less, that says something else."""
    value, more = json.loads(data), json.loads(other)
    if generator.integers(12) == 0:
        return json.dumps(value, ensure_ascii=False).encode(ENCODINGS[generator.integers(len(ENCODINGS))], "replace")
    spots = list(_spots(value))
    holder, key = spots[generator.integers(len(spots))]
    raw = ODD[generator.integers(len(ODD))]
    match int(generator.integers(8)):
        case 0:
            del holder[key]
        case 1:
            others = list(_spots(more))
            strange, place = others[generator.integers(len(others))]
            raw = json.dumps(strange[place])
            holder[key] = MARK
        case 2 if isinstance(holder, dict):  # a key twice
            names = list(holder)
            twice = str(names[generator.integers(len(names))])
            if generator.integers(2):
                raw = json.dumps(holder[key])
            return _twice(value, holder, twice, raw)
        case 3 if isinstance(holder, dict):
            names = ("", "a", "0" + str(key), str(key).upper(), f" {key}", "\u0661", "1_0", "-1", "99999999999999999999")
            holder[names[generator.integers(len(names))]] = holder.pop(key)
        case 4 if isinstance(holder, list):
            holder.insert(int(generator.integers(len(holder) + 1)), holder[key])
        case 5 if isinstance(holder[key], int) and not isinstance(holder[key], bool):
            raw = str(holder[key] + int(generator.choice([-1, 1])))
            holder[key] = MARK
        case 6 if isinstance(holder, list):
            twin = int(generator.integers(len(holder)))
            holder[key], holder[twin] = holder[twin], holder[key]
        case _:
            holder[key] = MARK
    return json.dumps(value).replace(json.dumps(MARK), raw).encode()


def _twice(value: object, holder: dict, name: str, raw: str) -> bytes:
    """JSON of `value`, in which `holder`, a part of it, has a key for a second time."""
    holder[MARK] = MARK
    mark = json.dumps(MARK)
    return json.dumps(value).replace(f"{mark}: {mark}", f"{json.dumps(name)}: {raw}").encode()


def _spots(value: object):
    """(what holds it, under which key) of everything within a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _spots(value[key])


def falsify_lines(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A file of a JSON object a line, of which lines are not what they were."""
    lines, others = data.splitlines(keepends=True), other.splitlines(keepends=True)
    at, twin = (int(generator.integers(len(lines))) for _ in range(2))
    match int(generator.integers(8)):
        case 0:
            del lines[at]
        case 1:
            lines.append(lines[at])
        case 2:
            lines[at], lines[twin] = lines[twin], lines[at]
        case 3:
            lines.insert(at, others[generator.integers(len(others))])
        case 4:
            lines[-1] = lines[-1][: int(generator.integers(len(lines[-1])))]
        case _:
            lines[at] = falsify_json(lines[at], lines[twin], generator) + b"\n"
    return b"".join(lines)


# -- lists ---------------------------------------------------------------------------------------------------------------

NAMES = (
    *(b"", b".", b"..", b"/", b"../a.png", b"/etc/passwd", b"a/../../a.png", b"a\0b.png", b"./a.png", b"a.png/", b"~/a.png"),
    *(b"x" * 300, b"x/" * 3000, b"\xff.png", "\u2028".encode(), b"a\x0bb.png", b"a\x1cb.png", b"\xc2\x85", b"#", b'"'),
    *(b"a.png,", b"a.png,b.png,c,d", b"," * 5000, b"x" * 200_000, b"-", b"*", b"b.png", b" a.png ", b"C:\\a.png", b"A.PNG"),
    b'"a.png',
)


def falsify_list(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A list of which a line, or a column of it, is another one."""
    lines = data.splitlines(keepends=True)
    at = int(generator.integers(len(lines)))
    name = NAMES[generator.integers(len(NAMES))]
    match int(generator.integers(7)):
        case 0:
            lines.insert(at, name + b"\n")
        case 1:
            lines.insert(at, lines[generator.integers(len(lines))])
        case 2:
            lines[at] = lines[at].rstrip(b"\n") + (b"\r\n", b"\r", b"\x0b", b"\x0c", b"\x85", b"\n\n")[generator.integers(6)]
        case 3:
            text = data.decode("utf-8", "surrogateescape")
            return text.encode(ENCODINGS[generator.integers(len(ENCODINGS))], "replace")
        case 4:
            lines[at] = name + b"\n"
        case _:
            columns = lines[at].rstrip(b"\n").split(b",")
            columns[generator.integers(len(columns))] = name
            lines[at] = b",".join(columns) + b"\n"
    return b"".join(lines)
