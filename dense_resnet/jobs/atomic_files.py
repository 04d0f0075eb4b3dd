"""Write files without losing good data: probe, write to a temporary file, fsync, read back, replace.

A file appears under its name complete or not at all; the earlier file survives a full disk, a kill and a failed check. After
a kill, the unfinished file has a hidden name, and is deleted when the same file is written again.
(``tests/dense_resnet/jobs/test_atomic_files.py``)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from dense_resnet.errors import InputError

PARTIAL = (".", ".partial")  # around the name of a file that is being written
LOCK, SCRATCH = ".lock", ".scratch"  # in place of .partial: a lock, a folder for names chosen by callers
LONGEST_NAME = 255  # bytes, on the usual file systems
ATTEMPTS = 100  # to lock a file, while other runs end and delete their locks
UNLOCKED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # from file systems that have no locks
UNSYNCED = (errno.EINVAL, errno.EOPNOTSUPP)  # from those that sync names by themselves


def temporary_of(path: Path) -> Path:
    """Return the path that holds unfinished data of `path` during a write, and after a kill until the next write."""
    return path.with_name(f"{PARTIAL[0]}{path.name}{PARTIAL[1]}")


def name_fits(path: Path) -> bool:
    """Whether `path` and its temporary twin have names that a file system takes."""
    return len(os.fsencode(temporary_of(path).name)) <= LONGEST_NAME


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str], check: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which replaces it if the block ends without an error.

    `check` is called with the temporary file once it is on disk; what it raises keeps the old file. A read-only folder, a full
    disk, another run that is writing the file, and a `path` that is not a file, are :class:`InputError`.
    """
    path = Path(path)
    check_target(path)
    temporary = temporary_of(path)
    with _prepare_writing(path):
        try:
            temporary.unlink(missing_ok=True)  # left by a kill, or a link to something else
            temporary.touch(exist_ok=False)
            mode = stat.S_IMODE(temporary.stat().st_mode)  # of new files: to read its umask, a process would have to set it
            temporary.unlink()
            yield temporary
            sync(temporary)
            if check:
                check(temporary)
            temporary.chmod(mode)  # whichever program made this one
            os.replace(temporary, path)
            _sync_replaced(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Create an empty folder next to `path` for the block: for writers that must choose the names of their files."""
    folder = path.with_name(f"{PARTIAL[0]}{path.name}{SCRATCH}")
    _remove(folder)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file under the rules of :func:`replace_file`, and read it back."""

    def check(written: Path) -> None:
        if written.read_bytes() != data:
            raise OSError("what was read back differs from what was written")

    with replace_file(path, check) as temporary:
        temporary.write_bytes(data)


def write_new(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file unless another process was first; in both cases it is complete when this returns."""
    path = Path(path)
    twin = path.with_name(f"{PARTIAL[0]}{path.name}.{uuid.uuid4().hex}{PARTIAL[1]}")
    try:
        twin.write_bytes(data)
        sync(twin)
        try:
            os.link(twin, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links: the last one wins, with a complete file too
            if not path.exists():
                os.replace(twin, path)
    finally:
        twin.unlink(missing_ok=True)
    sync_names(path.parent)


@contextlib.contextmanager
def replace_folder(folder: Path, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a path next to `folder` for a new folder, which replaces it if the block ends without an error.

    `replaceable` says whether the existing folder may be replaced. It is called after that has been moved aside, when no other
    program can change it under its name. Errors as :func:`replace_file`.
    """
    _check_no_link(folder)
    temporary, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    with _prepare_writing(folder):
        try:
            if old.exists() and not folder.exists():  # a kill came between the two steps below
                os.rename(old, folder)
            _remove(temporary)
            _remove(old)
            yield temporary
            for written in (*temporary.rglob("*"), temporary):
                sync(written)
            if folder.exists():
                os.rename(folder, old)
                if not replaceable(old):  # the block's end puts it back
                    raise InputError(f"{folder}: was changed by another program during the write. Choose another name.")
            os.rename(temporary, folder)
            _sync_replaced(folder)
            _remove(old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists() and not folder.exists():
                os.rename(old, folder)


def check_there(path: Path) -> None:
    """Raise an :class:`InputError` if nothing is at `path`, or a folder."""
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.")


def check_target(path: Path) -> None:
    """Raise an :class:`InputError` if `path` is a folder, a link, a pipe or a device, which no file may replace."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder: give the name of a file in it.")
    _check_no_link(path)
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is a pipe or a device, which cannot be replaced by a file.")


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        target = os.readlink(path)
        raise InputError(f"{path}: is a symbolic link to {target}. Pass {target} itself.")


def probe_file(path: str | os.PathLike[str]) -> None:
    """Check, before any work, that a file can be written; errors as :func:`check_target` and :func:`probe_folder`."""
    check_target(Path(path))
    probe_folder(Path(path).parent)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise an :class:`InputError` if `folder`, or one that it would be in, is a file or read-only; create nothing."""
    folder = Path(folder)
    there = next((path for path in (folder, *folder.parents) if os.path.exists(path)), folder)
    if not there.is_dir():
        raise _unwritable(folder, "it is a file" if there == folder else f"{there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(folder, os.strerror(errno.EACCES))


def probe_folder(folder: str | os.PathLike[str], needed_bytes: int = 0) -> None:
    """Create `folder` and check, before any work, that it is writable and has `needed_bytes` free."""
    folder = Path(folder)
    check_folder(folder)
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    if free < needed_bytes:
        raise InputError(
            f"{folder}: {needed_bytes / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} MiB are free. "
            "Make room, or choose another disk."
        )


def _unwritable(folder: Path, reason: str) -> InputError:
    return InputError(f"{folder}: cannot be written to: {reason}. Choose a folder that you may write to.")


def lock(handle: int, path: Path, *, shared: bool = False) -> None:
    """Lock an open file or folder until it is closed, if the file system has locks; another run's is an :class:`InputError`."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: is locked by another run. Wait for it to finish, or choose another folder.") from None
    except OSError as error:
        if error.errno not in UNLOCKED:
            raise


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, and sync their names to disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_names(folder.parent)


def sync(path: Path) -> None:
    """Sync the content of a file to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_names(folder: Path) -> None:
    """Sync the names in a folder to disk, if the file system supports it."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise


def has_name(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `path` is somewhere in `folder`, links followed; ``Path.resolve`` fails at a loop of links."""
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _sync_replaced(path: Path) -> None:
    try:
        sync_names(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: is written, but the disk does not confirm it: {reason}. Run it again.") from error


def _remove(left_behind: Path) -> None:
    """Remove a folder as far as possible, or the symbolic link in its place."""
    if left_behind.is_symlink():
        left_behind.unlink()
    else:
        shutil.rmtree(left_behind, ignore_errors=True)


def _open_locked(beside: Path, path: Path) -> int:
    """Open and lock the file `beside` for writing `path`."""
    for _ in range(ATTEMPTS):
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, handle)
            lock(handle, path)
            if has_name(handle, beside):  # or another run has ended, and taken its lock along, since it was opened
                stack.pop_all()
                return handle
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


@contextlib.contextmanager
def _prepare_writing(path: Path) -> Iterator[None]:
    """Create the folder of `path`, lock `path` against other runs, and turn OSErrors into messages."""
    beside = path.with_name(f"{PARTIAL[0]}{path.name}{LOCK}")
    try:
        make_folder(path.parent)
        handle = _open_locked(beside, path)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
            os.close(handle)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or error}. What was there before is unchanged."
        ) from error
