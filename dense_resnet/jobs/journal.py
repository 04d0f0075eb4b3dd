"""The files from which a long run resumes: one protocol per folder, and an append-only log with one line per image.

A line is on disk before the run moves on; an incomplete line left by a kill is cut off. Each ends with ``"crc32"``, a checksum
of the line without that key, which the lines of older logs lack. (``tests/dense_resnet/extraction/test_extraction.py``)
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dense_resnet.errors import InputError
from dense_resnet.jobs import atomic_files, strict_json

SUFFIX = ".jsonl"
OK, ERROR = "ok", "error"  # a line's status
CHECKSUM = "crc32"  # a line's last key
LIKE_CHECKSUM = re.compile(rb'": "[0-9a-f]{8}"}\n$')
FAIL, SKIP = "fail", "skip"  # what a bad image gets
DEEPEST = 50  # levels of nested keys that are compared one by one
MOST_SHOWN = 100  # characters of a value in a message


def log_name(stem: str, shard: tuple[int, int] = (0, 1)) -> str:
    """Return the file name of the log of a whole run, or of a shard (i, n)."""
    index, count = shard
    return f"{stem}{SUFFIX}" if count == 1 else f"{stem}.{index}-of-{count}{SUFFIX}"


def check_protocol(path: Path, protocol: Mapping[str, Any], stem: str, targets: Iterable[Path]) -> None:
    """Write the protocol to `path`, or compare it with the one there, so that later files are known to belong to it.

    Another protocol is an :class:`InputError`, and so are logs of that `stem`, or files among `targets`, without any.
    """
    text = json.dumps(protocol, indent=1) + "\n"
    if not path.exists():
        if logs := sorted(path.parent.glob(f"{stem}*{SUFFIX}")):
            raise InputError(
                f"{path.parent}: has {logs[0].name} but not the {path.name} that goes with it. Choose another --out."
            )
        if foreign := next((target for target in targets if os.path.lexists(target)), None):
            raise InputError(f"{foreign}: already exists, and was not written by this command. Choose another --out.")
        atomic_files.write_new(path, text.encode())
    try:
        there = strict_json.loads(path.read_bytes())
        if not isinstance(there, dict):
            raise ValueError(f"a {type(there).__name__}")
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}). Choose another --out.") from error
    if differing := format_differences(there, json.loads(text)):
        raise InputError(f"{path.parent}: holds results of another protocol ({differing}). Choose another --out.")


def read_protocol(path: Path) -> dict[str, Any]:
    """Read the protocol at `path`; return an empty one if it cannot be read, which :func:`check_protocol` will report."""
    try:
        there = strict_json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def format_differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe where two protocols differ; empty if they do not.

    >>> format_differences({"size": 513}, {"size": 257})
    'size: 513 there, 257 now'
    """
    return "; ".join(f"{key}: {format_value(old)} there, {format_value(new)} now" for key, old, new in differences(there, now))


def differences(first: Mapping[str, Any], second: Mapping[str, Any], depth: int = 0) -> list[tuple[str, Any, Any]]:
    """Return where two protocols differ: (key, the first's value, the second's), keys within keys joined by dots.

    >>> differences({"size": 513, "system": {"stride": 8}}, {"size": 513, "system": {"stride": 16}})
    [('system.stride', 8, 16)]
    """
    found = []
    for key in sorted(first.keys() | second.keys()):
        own, other = first.get(key), second.get(key)
        if isinstance(own, dict) and isinstance(other, dict) and depth < DEEPEST:
            found += [(f"{key}.{inner}", *values) for inner, *values in differences(own, other, depth + 1)]
        elif _differ(own, other):
            found.append((key, own, other))
    return found


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except RecursionError:  # nested deeper than Python compares, unlike any protocol of ours
        return True


def format_value(value: Any) -> str:
    """Format a value for a message, shortened if it is long."""
    try:
        text = repr(value)
    except RecursionError:
        return "(nested too deeply to show)"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


@contextlib.contextmanager
def lock_folder(folder: Path, *, shared: bool) -> Iterator[None]:
    """Lock `folder` against other runs; shards exclude only runs of the whole."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        atomic_files.lock(handle, folder, shared=shared)
        yield
    finally:
        os.close(handle)


class Journal:
    """The append-only log, one line per image. One process at a time opens it; other logs of that `stem` are read too."""

    def __init__(self, path: Path, stem: str) -> None:
        self.path, self._stem = path, stem

    def __enter__(self) -> Journal:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(self.path, "a+b", buffering=0, opener=_own))  # a full disk is met at once
            atomic_files.lock(file.fileno(), self.path)
            if not atomic_files.has_name(file.fileno(), self.path):  # another run has just replaced it
                raise InputError(f"{self.path}: another run was writing here. Give the same command again.")
            atomic_files.sync_names(self.path.parent)
            self._file, self._own = file, _Log(self.path, file)
            file.truncate(self._own.end)
            others = [path for path in sorted(self.path.parent.glob(f"{self._stem}*{SUFFIX}")) if path != self.path]
            self._others = [_Log(path, stack.enter_context(open(path, "rb"))) for path in others]
            self._files = stack.pop_all()
        return self

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the record in an image's last line, in this log or a shard's; None if the image has no line."""
        for log in (self._own, *self._others):
            if line := log.line(name):
                return _parse_line(line)
        return None

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line and sync it to disk, unless it equals the image's last line; a full disk is an :class:`InputError`."""
        line = _encode_record(record)
        if line != self._own.line(record["path"]):
            self._own.append(record["path"], line)

    def __exit__(self, kind: object, *_: object) -> None:
        with self._files:
            stands = atomic_files.has_name(self._file.fileno(), self.path)
            if kind is None and not stands:
                raise InputError(
                    f"{self.path}: was removed or replaced while this run wrote to it. Give the same command again."
                )
            if stands and self._own.superseded:  # one line an image again
                with atomic_files.replace_file(self.path) as temporary, open(temporary, "wb") as file:
                    file.writelines(map(self._own.line, self._own.places))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the last record of each image from a log that no run is writing."""
    try:
        with open(path, "rb") as file:
            log = _Log(path, file)
            for name in log.places:
                yield _parse_line(log.line(name))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _own(path: str, flags: int) -> int:
    """Open a log, but not through a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class _Log:
    """Where each image's last line is in an open file: lines themselves are not kept in memory."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        self.end = 0  # of the last whole line: a kill can leave an incomplete one after it
        self.superseded = False  # whether there are superseded lines
        self.places: dict[str, tuple[int, int]] = {}  # (offset, length in bytes), in the order of images' first lines
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    self._place(_name(line, f"{path}, line {number}"), len(line))

    def line(self, name: str) -> bytes:
        """Return an image's last line with its newline; empty if the image has none."""
        offset, length = self.places.get(name, (0, 0))
        return os.pread(self._file.fileno(), length, offset)

    def append(self, name: str, line: bytes) -> None:
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self.end)
            raise InputError(
                f"{self.path}: cannot be written: {error.strerror or error}. "
                "Its content is kept; run the same command again to resume."
            ) from error
        self._place(name, len(line))

    def _place(self, name: str, length: int) -> None:
        self.superseded |= name in self.places
        self.places[name] = self.end, length
        self.end += length


def _encode_record(record: Mapping[str, Any]) -> bytes:
    """Encode a record as a line with its newline."""
    return _add_checksum(json.dumps(record).encode())


def _add_checksum(text: bytes) -> bytes:
    """Return the JSON object `text` with its checksum and a newline."""
    return text[:-1] + f', "{CHECKSUM}": "{zlib.crc32(text):08x}"}}\n'.encode()


def _parse_line(line: bytes) -> dict[str, Any]:
    """Return the record of a line, without its checksum."""
    record = dict(json.loads(line))
    record.pop(CHECKSUM, None)
    return record


def _name(line: bytes, where: str) -> str:
    """Return the name of a line's image, and verify the line."""
    try:
        record = strict_json.loads(line)
        if not (isinstance(record["path"], str) and record["status"] in (OK, ERROR)):
            raise ValueError("no path or status")
        if CHECKSUM in record:
            if line != _add_checksum(line[: -len(_add_checksum(b"}"))] + b"}"):
                raise ValueError("another checksum")
        elif LIKE_CHECKSUM.search(line):
            raise ValueError("a checksum under another name")
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{where}: damaged. Delete that line; its image will be processed again.") from None
    return str(record["path"])
