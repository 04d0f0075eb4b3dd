"""A process that imports TensorFlow once, runs nothing of it, and forks a child for each command line.

Starting TensorFlow takes seconds, which hundreds of killed runs cannot afford; a fork takes milliseconds, and a signal is as
real to it. A child has a folder of its own for its output and its temporary files, it ends with the block that it was started
for, and it may be given a trouble:

    {"largest": BYTES}                   no file grows beyond that many bytes
    {"unprivileged": true}               permissions bind it, even where it is root
    {"folder": PATH, "at": N, ...}       right before the N-th change of a file there (opened to write, renamed, fsynced …)
        "error": ERRNO                   this change fails
        "remove": PATH                   that file vanishes, if it is there; null: the one that was opened to write last
                                         without either it is killed
    {"reading": PATH, "error": ERRNO}    opening that very file fails

Changes and openings are those of Python's own; C++ and Rust open files unseen.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import itertools
import json
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LONGEST = 120  # seconds that a command may take; one that takes longer hangs
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CAPABILITIES = 0x20080522  # the version of the kernel's interface
PR_SET_PDEATHSIG = 1  # of prctl
PRINTED, ERRORS, CHANGED = "printed.txt", "errors.txt", "changes.txt"  # in a child's folder
BRIEFLY = 0.001  # seconds
MODULES = (
    "dense_resnet.extraction.extract", "segmentation.saving.conversion", "segmentation.evaluation.evaluate",
    "segmentation.saving.export.exporter", "segmentation.prediction.label_images", "segmentation.training.loop",
)  # fmt: skip
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")


@dataclass(frozen=True)
class Ended:
    """How a child has ended."""

    code: int  # minus the signal, where one has killed it
    printed: str
    errors: str
    changes: int | None  # of files in "folder", where it got a trouble "at" some number
    met: str = ""  # the path whose change has failed


class Child:
    """A command that runs, or has run; the block's end is its own."""

    def __init__(self, server: ForkServer, pid: int, folder: Path) -> None:
        self._server, self.pid, self._folder = server, pid, folder
        self._handle = os.pidfd_open(pid)
        self._ended = False

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self.send(signal.SIGKILL)
            self.end()

    def runs_for(self, seconds: float) -> bool:
        """Waits so long; whether it still runs then."""
        return not select.select([self._handle], [], [], seconds)[0]

    def handles(self, number: int) -> bool:
        """Waits until it has a handler for a signal; whether it got one before its end."""
        status = Path(f"/proc/{self.pid}/status")
        while self.runs_for(BRIEFLY):
            caught = next((line for line in status.read_text().splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
            if int(caught.split()[1], 16) >> (number - 1) & 1:
                return True
        return False

    def send(self, number: int) -> None:
        """A signal, which does no harm to what has ended."""
        os.kill(self.pid, number)  # nobody has waited for it, so the number is its own

    def end(self) -> Ended:
        """Waits for its end.

        Raises:
            AssertionError: it hangs.
        """
        hangs = self.runs_for(LONGEST)
        if hangs:
            self.send(signal.SIGKILL)
        os.close(self._handle)
        code = self._server.ask({"wait": self.pid})
        self._ended = True
        files = [self._folder / name for name in (PRINTED, ERRORS, CHANGED)]
        printed, errors, changes = (path.read_text() if path.exists() else "" for path in files)
        shutil.rmtree(self._folder)
        assert not hangs, f"hung for {LONGEST} s: {printed}{errors}"
        return Ended(code, printed, errors, *(json.loads(changes) if changes else [None]))


class ForkServer:
    """Starts the process; it ends with the block, and its children with it.

    Args:
        folder: for the children's folders.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count()

    def __enter__(self) -> ForkServer:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, *arguments: object, **trouble: Any) -> Child:
        """Runs ``dense-resnet ARGUMENTS`` in a child."""
        number = next(self._numbers)
        folder = self._folder / f"{number}"
        folder.mkdir()
        return Child(self, self.ask({"arguments": list(map(str, arguments)), "own": str(folder), "trouble": trouble}), folder)

    def run(self, *arguments: object, **trouble: Any) -> Ended:
        """Likewise, to its end."""
        with self.start(*arguments, **trouble) as child:
            return child.end()

    def ask(self, request: dict[str, Any]) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


# -- in the process ----------------------------------------------------------------------------------------------------


def serve() -> None:
    from tools import options

    options.start_tensorflow()
    for module in MODULES:
        importlib.import_module(module)

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif not (answer := os.fork()):
            run_command(**request)
        print(json.dumps(answer), flush=True)


def run_command(arguments: list[str], own: str, trouble: dict[str, Any]) -> None:
    """In a child; does not return."""
    from tools import cli

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ["TMPDIR"] = tempfile.tempdir = own  # who is killed leaves temporary files
    for number, path in ((0, os.devnull), (1, f"{own}/{PRINTED}"), (2, f"{own}/{ERRORS}")):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), number)
    counted, met = None, []
    if "largest" in trouble:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble["largest"],) * 2)
    if "unprivileged" in trouble:
        header, nothing = struct.pack("=II", CAPABILITIES, 0), bytes(24)
        assert ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0, os.strerror(ctypes.get_errno())
    if "reading" in trouble:
        _fail_reading(trouble["reading"], trouble["error"])
    elif "at" in trouble:
        counted = _meet(met, **trouble)
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:  # what Python itself would do
        traceback.print_exc()
        code = 1
    for number in (signal.SIGINT, signal.SIGTERM):  # what comes now does not meet the command any more
        signal.signal(number, signal.SIG_IGN)
    if counted is not None:
        Path(own, CHANGED).write_text(json.dumps([next(counted), *met]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _meet(met: list[str], folder: str, at: int, **what: Any) -> itertools.count:
    """Installs the trouble, which adds the path of the change that fails to `met`; gives what counts the changes."""
    counted, opened = itertools.count(), []

    def change(path: object) -> None:
        if next(counted) != at:
            return
        if "remove" in what:
            with contextlib.suppress(FileNotFoundError, IndexError):
                os.unlink(what["remove"] or opened[-1])
        elif "error" in what:
            met.append(os.path.abspath(os.fsdecode(path)))
            raise OSError(what["error"], os.strerror(what["error"]), path)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def inside(path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(f"{folder}/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and inside(path):
                change(path)
                opened.append(os.path.abspath(path))
        elif event in CHANGES and inside(arguments[0]):
            change(arguments[0])

    fsync = os.fsync

    def count_and_fsync(handle: int) -> None:
        if inside(path := os.readlink(f"/proc/self/fd/{handle}")):
            change(path)
        fsync(handle)

    os.fsync = count_and_fsync
    sys.addaudithook(hook)
    return counted


def _fail_reading(path: str, error: int) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike) and os.path.abspath(arguments[0]) == path:
            raise OSError(error, os.strerror(error), path)

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
