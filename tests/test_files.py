"""Nothing good is lost: full disk, read-only folder, a failed check, a kill in the middle."""

import contextlib
import os
import resource
import signal
import subprocess
import sys

import pytest

from dense_resnet import files
from dense_resnet.errors import InputError


def names(folder):
    """What the folder holds."""
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def room_for(size):
    """A disk on which no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_replaces_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "new" / "file"
    files.write_bytes(target, b"one")
    files.write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["file"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~files.UMASK


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("wrong")])
def test_an_error_while_writing_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="No space left|wrong"), files.replacing(target) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_failed_check_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def check(path):
        raise OSError("read back differently")

    with pytest.raises(InputError, match="cannot be written: read back differently. What was there before is unchanged"):
        with files.replacing(target, check) as temporary:
            temporary.write_bytes(b"new")
    assert target.read_bytes() == b"old"


def test_a_full_disk(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with room_for(1000):
        with pytest.raises(InputError, match="cannot be written: File too large"):
            files.write_bytes(target, bytes(5000))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_under_weights(tmp_path):
    """safetensors reports it in its own way."""
    import numpy as np

    from dense_resnet.checkpoints import safetensors

    target = tmp_path / "w.safetensors"
    safetensors.write(target, {"a": np.ones(3, np.float32)})
    with room_for(1000):
        with pytest.raises(InputError, match="cannot be written: .*What was there before is unchanged"):
            safetensors.write(target, {"a": np.ones(3000, np.float32)})
    assert safetensors.read(target)["a"].tolist() == [1, 1, 1]
    assert names(tmp_path) == ["w.safetensors"]


def test_only_the_first_of_two_makes_a_new_file(tmp_path):
    files.write_new(tmp_path / "file", b"one")
    files.write_new(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_kill_in_the_middle_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = (
        "import os, signal\nfrom dense_resnet import files\n"
        f"with files.replacing({str(target)!r}) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"


def test_probing(tmp_path):
    files.probe_folder(tmp_path / "a" / "b", 1000)
    assert names(tmp_path / "a" / "b") == []
    with pytest.raises(InputError, match="MiB are needed and .* are free"):
        files.probe_folder(tmp_path, 10**18)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written to"):
        files.probe_folder(tmp_path / "file")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write to")
def test_a_folder_that_cannot_be_written_to():
    with pytest.raises(InputError, match="cannot be written to"):
        files.probe_folder("/proc/self/new")
    with pytest.raises(InputError, match="/proc/self/new/file: cannot be written"):
        files.write_bytes("/proc/self/new/file", b"data")
