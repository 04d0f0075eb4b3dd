"""Writing files so that nothing good is lost: probe, write beside, fsync, read back, replace.

A file appears under its name complete or not at all; what stood there before survives a full disk, a kill and a failed
check. (``tests/test_files.py``)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dense_resnet.errors import InputError

PARTIAL = (".", ".partial")  # around the name of a file that is being written
LONGEST_NAME = 255  # bytes, on the usual file systems
UMASK = os.umask(0)
os.umask(UMASK)


def name_fits(path: Path) -> bool:
    """Whether `path` and its temporary twin have names that a file system takes."""
    return len(os.fsencode("".join((PARTIAL[0], path.name, PARTIAL[1])))) <= LONGEST_NAME


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends without an error.

    Args:
        path: the file to make or to replace.
        check: called with the temporary file once it is on disk; what it raises keeps the old file.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f"{PARTIAL[0]}{path.name}{PARTIAL[1]}")  # one a kill left behind is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if check:
            check(temporary)
        temporary.chmod(0o666 & ~UMASK)  # what any new file gets, whatever made this one
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or error}. What was there before is unchanged."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a small file under the rules of :func:`replacing`, and reads it back."""

    def check(written: Path) -> None:
        if written.read_bytes() != data:
            raise OSError("what was read back differs from what was written")

    with replacing(path, check) as temporary:
        temporary.write_bytes(data)


def write_new(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a small file unless another process was first; either way it is there, complete, when this returns."""
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.chmod(file.name, 0o666 & ~UMASK)
        try:
            os.link(file.name, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            write_bytes(path, data)
    _sync(path.parent)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A path beside `folder`, for a folder that takes its place when the block ends without an error."""
    temporary, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    try:
        if old.exists() and not folder.exists():  # a kill fell between the two steps below
            os.rename(old, folder)
        for left_behind in (temporary, old):
            shutil.rmtree(left_behind, ignore_errors=True)
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _sync(written)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror or error}. What was there before is unchanged."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not folder.exists():
            os.rename(old, folder)


def probe_folder(folder: str | os.PathLike[str], needed_bytes: int = 0) -> None:
    """Makes `folder` and finds out, before any work, that it can be written to and has room.

    Raises:
        InputError: it is a file, is read-only, or has less than `needed_bytes` free.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to: {error.strerror or error}. Choose a folder that you may write to."
        ) from error
    if free < needed_bytes:
        raise InputError(
            f"{folder}: {needed_bytes / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} MiB are free. "
            "Make room, or choose another disk."
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
