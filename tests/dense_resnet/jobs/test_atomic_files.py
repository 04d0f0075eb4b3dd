"""Nothing good is lost: full disk, read-only folder, a failed check, a kill in the middle."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from helpers.folders import names, room_for

from dense_resnet.errors import InputError
from dense_resnet.jobs import atomic_files


def test_replaces_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "new" / "file"
    atomic_files.write_bytes(target, b"one")
    with atomic_files.replace_file(target) as temporary:
        temporary.touch(0o600)
        temporary.write_bytes(b"two")
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["file"]
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_new_files_have_the_permissions_that_the_umask_allows(umask, tmp_path):
    before = os.umask(umask)
    try:
        atomic_files.write_bytes(tmp_path / "a", b"data")
        atomic_files.write_new(tmp_path / "b", b"data")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o666 & ~umask] * 2
    assert names(tmp_path) == ["a", "b"]


def test_importing_changes_nothing_of_the_process():
    code = "import os\ndef refuse(mask): raise AssertionError\nos.umask = refuse\nimport dense_resnet.jobs.atomic_files\n"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("wrong")])
def test_an_error_while_writing_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="No space left|wrong"), atomic_files.replace_file(target) as temporary:  # noqa: PT012
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
        with atomic_files.replace_file(target, check) as temporary:
            temporary.write_bytes(b"new")
    assert target.read_bytes() == b"old"


def test_a_full_disk(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with room_for(1000):
        with pytest.raises(InputError, match="cannot be written: File too large"):
            atomic_files.write_bytes(target, bytes(5000))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_under_weights(tmp_path):
    """safetensors reports it in its own way."""
    import numpy as np

    from dense_resnet.checkpoints.containers import safetensors

    target = tmp_path / "w.safetensors"
    safetensors.write(target, {"a": np.ones(3, np.float32)})
    with room_for(1000):
        with pytest.raises(InputError, match="cannot be written: .*What was there before is unchanged"):
            safetensors.write(target, {"a": np.ones(3000, np.float32)})
    assert safetensors.read(target)["a"].tolist() == [1, 1, 1]
    assert names(tmp_path) == ["w.safetensors"]


def test_only_the_first_of_two_makes_a_new_file(tmp_path):
    atomic_files.write_new(tmp_path / "file", b"one")
    atomic_files.write_new(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_kill_in_the_middle_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = (
        "import os, signal\nfrom dense_resnet.jobs import atomic_files as files\n"
        f"with files.replace_file({str(target)!r}) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"


def test_a_second_run_that_writes_the_same_file_is_refused(tmp_path):
    target = tmp_path / "file"
    with atomic_files.replace_file(target) as temporary:
        temporary.write_bytes(b"first")
        with pytest.raises(InputError, match=f"{target}: is locked by another run"):
            atomic_files.write_bytes(target, b"second")
        atomic_files.write_bytes(tmp_path / "other", b"other")
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["file", "other"]


def test_a_second_run_that_writes_the_same_folder_is_refused(tmp_path):
    target = tmp_path / "folder"
    with atomic_files.replace_folder(target, os.path.isdir) as temporary:
        temporary.mkdir()
        (temporary / "file").write_bytes(b"first")
        with pytest.raises(InputError, match=f"{target}: is locked by another run"):
            with atomic_files.replace_folder(target, os.path.isdir):
                pass
    assert (target / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_must_not_be_replaced_is_restored(tmp_path):
    """Asked when it has been moved aside: what came into it before that is seen."""
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(InputError, match="folder: was changed by another program during the write"):  # noqa: PT012
        with atomic_files.replace_folder(target, lambda there: not any(there.iterdir())) as temporary:
            temporary.mkdir()
            (target / "precious").write_bytes(b"kept")
    assert (target / "precious").read_bytes() == b"kept"
    assert names(tmp_path) == ["folder"]


def test_data_then_name_then_folder_reach_the_disk(tmp_path, monkeypatch):
    """The bytes before the name, the name before the folder's list; and the names of folders that were made on the way."""
    done = []
    sync, replace = atomic_files.sync, os.replace
    monkeypatch.setattr(atomic_files, "sync", lambda path: (done.append(("sync", path.name)), sync(path)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append(("replace", paths[1].name)), replace(*paths)))
    atomic_files.write_bytes(tmp_path / "new" / "folder" / "file", b"data")
    assert done == [
        ("sync", tmp_path.name), ("sync", "new"), ("sync", ".file.partial"), ("replace", "file"), ("sync", "folder"),
    ]  # fmt: skip


def test_a_folder_whose_names_cannot_be_brought_to_the_disk(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def fail(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(cause, os.strerror(cause))
        fsync(handle)

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", fail)
    cause = errno.EINVAL  # some file systems have nothing to do there
    atomic_files.write_bytes(tmp_path / "file", b"new")
    cause = errno.EIO
    with pytest.raises(InputError, match="file: is written, but the disk does not confirm it: Input/output error"):
        atomic_files.write_bytes(tmp_path / "file", b"newer")
    assert (tmp_path / "file").read_bytes() == b"newer"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_nothing_is_written_through_a_link_in_the_place_of_a_temporary_file(link, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    link(victim, tmp_path / ".file.partial")
    atomic_files.write_bytes(tmp_path / "file", b"data")
    assert victim.read_bytes() == b"precious"
    assert victim.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file", "victim"]


def test_links_in_the_place_of_folders_and_locks(tmp_path):
    (tmp_path / "victim").mkdir()
    for name in (".folder.partial", ".folder.old", ".file.scratch"):
        (tmp_path / name).symlink_to("victim")
    with atomic_files.replace_folder(tmp_path / "folder", os.path.isdir) as temporary:
        temporary.mkdir()
    with atomic_files.scratch(tmp_path / "file") as scratch:
        (scratch / "draft").write_bytes(b"draft")
    assert names(tmp_path / "victim") == []
    (tmp_path / ".file.lock").symlink_to("made")
    with pytest.raises(InputError, match="file: cannot be written: Too many levels of symbolic links"):
        atomic_files.write_bytes(tmp_path / "file", b"data")
    assert not (tmp_path / "made").exists()


def test_pipes_links_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "folder").mkdir()
    for name, why in (
        ("pipe", "a pipe or a device"),
        ("link", "a symbolic link to elsewhere"),
        ("folder", "a folder"),
        ("..", "a folder"),
    ):
        for write in (atomic_files.probe_file, lambda path: atomic_files.write_bytes(path, b"data")):
            with pytest.raises(InputError, match=f"{name}: is {why}"):
                write(tmp_path / name)
    for path in (".", "/", "/dev/null"):
        with pytest.raises(InputError, match=f"{path}: is a"):
            atomic_files.probe_file(path)
    assert names(tmp_path) == ["folder", "link", "pipe"]


def test_a_lock_removed_by_its_owner_is_taken_anew(tmp_path, monkeypatch):
    """Another run ends between our opening its lock and our locking it."""
    lock = tmp_path / ".file.lock"
    flock, first = fcntl.flock, []

    def later(handle, how):
        if not first:
            first.append(lock.unlink())
        return flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", later)
    with atomic_files.replace_file(tmp_path / "file") as temporary:
        temporary.write_bytes(b"one")
        assert lock.exists()
        with pytest.raises(InputError, match="another run"):
            atomic_files.write_bytes(tmp_path / "file", b"two")


def test_many_at_once_write_one_file_after_another(tmp_path):
    """Whoever is not refused has written it whole."""
    written = []

    def write(number):
        for _ in range(50):
            with contextlib.suppress(InputError):
                atomic_files.write_bytes(tmp_path / "file", bytes([number]) * 1000)
                written.append(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert written
    assert len(set((tmp_path / "file").read_bytes())) == 1
    assert names(tmp_path) == ["file"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(errno.ENOSYS, "Function not implemented")))
    atomic_files.write_bytes(tmp_path / "file", b"data")
    assert names(tmp_path) == ["file"]
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(InputError, match="file: cannot be written: Input/output error"):
        atomic_files.write_bytes(tmp_path / "file", b"new")


def test_leftovers_of_a_kill_are_hidden_and_removed(tmp_path):
    """Right before its last step, the new file has been written and checked."""
    target = tmp_path / "file"
    code = (
        "import os, signal\nfrom dense_resnet.jobs import atomic_files as files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"with files.replace_file({str(target)!r}) as temporary, files.scratch(files.Path({str(target)!r})) as folder:\n"
        "    (folder / 'draft').write_bytes(b'draft')\n"
        "    temporary.write_bytes(b'new')\n"
    )
    stop = code.replace("'new')", "'new'); os.replace()")
    assert subprocess.run([sys.executable, "-c", stop], check=False).returncode == -signal.SIGKILL
    assert names(tmp_path) == [".file.lock", ".file.partial", ".file.scratch"]
    with atomic_files.replace_file(target) as temporary, atomic_files.scratch(target) as folder:
        assert names(folder) == []
        temporary.write_bytes(b"whole")
    assert names(tmp_path) == ["file"]


def test_a_kill_while_writing_a_new_file_leaves_a_hidden_name(tmp_path):
    code = (
        "import os, signal\nfrom dense_resnet.jobs import atomic_files as files\n"
        "os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"files.write_new({str(tmp_path / 'file')!r}, b'data')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [name.startswith(".file.") and name.endswith(".partial") for name in names(tmp_path)] == [True]


def test_a_file_system_without_links_takes_the_first_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(errno.EPERM, "Operation not permitted")))
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(atomic_files.write_new, tmp_path / "file", b"data" * 1000) for _ in range(40)]:
            done.result()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"data" * 1000
    atomic_files.write_new(tmp_path / "file", b"later")
    assert (tmp_path / "file").read_bytes() == b"data" * 1000


def test_probing_a_folder_checks_space_and_permission(tmp_path):
    atomic_files.probe_folder(tmp_path / "a" / "b", 1000)
    assert names(tmp_path / "a" / "b") == []
    with pytest.raises(InputError, match="MiB are needed and .* are free"):
        atomic_files.probe_folder(tmp_path, 10**18)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written to"):
        atomic_files.probe_folder(tmp_path / "file")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write to")
def test_a_folder_that_cannot_be_written_to():
    with pytest.raises(InputError, match="cannot be written to"):
        atomic_files.probe_folder("/proc/self/new")
    with pytest.raises(InputError, match="/proc/self/new/file: cannot be written"):
        atomic_files.write_bytes("/proc/self/new/file", b"data")


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="file: cannot be written to: it is a file"):
        atomic_files.probe_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_an_impossible_folder_is_refused_and_not_made(tmp_path):
    (tmp_path / "file").touch()
    atomic_files.check_folder(tmp_path / "new" / "newer")
    for path, reason in (("file", "it is a file"), ("file/new/newer", f"{tmp_path / 'file'} is a file")):
        with pytest.raises(InputError, match=f"{path}: cannot be written to: {reason}"):
            atomic_files.check_folder(tmp_path / path)
        with pytest.raises(InputError, match=f"{path}: cannot be written to: {reason}"):
            atomic_files.probe_folder(tmp_path / path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
