"""A process that imports TensorFlow once, runs nothing of it, and forks a child for each command line.

Starting TensorFlow takes seconds, which hundreds of killed runs cannot afford; a fork takes milliseconds, and a signal is as
real to it. A child has a process group of its own, its output goes to files, and it may be given a trouble:

    {"largest": BYTES}                   no file grows beyond that many bytes
    {"unprivileged": true}               permissions bind it, even where it is root
    {"folder": PATH, "at": N, ...}       right before the N-th change of a file there (opened to write, renamed, fsynced …)
        "error": ERRNO                   this change fails
        "remove": PATH                   that file vanishes
                                         or else it is killed
    {"reading": PATH, "error": ERRNO}    opening that very file fails
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LONGEST = 120  # seconds that a command may take; one that takes longer hangs
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CAPABILITIES = 0x20080522  # the version of the kernel's interface
MODULES = (
    "dense_resnet.extraction", "segmentation.conversion", "segmentation.evaluation", "segmentation.export",
    "segmentation.labelling", "segmentation.training",
)  # fmt: skip
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")


@dataclass(frozen=True)
class Ended:
    """How a child has ended."""

    code: int  # minus the signal, where one has killed it
    printed: str
    errors: str
    changes: int | None  # of files in "folder", where it got a trouble "at" some number


class Child:
    """A command that runs, or has run."""

    def __init__(self, server: ForkServer, pid: int, outputs: list[Path]) -> None:
        self._server, self.pid, self._outputs = server, pid, outputs
        self._handle = os.pidfd_open(pid)

    def runs_for(self, seconds: float) -> bool:
        """Waits so long; whether it still runs then."""
        return not select.select([self._handle], [], [], seconds)[0]

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
        printed, errors, changes = (path.read_text() if path.exists() else "" for path in self._outputs)
        for path in self._outputs:
            path.unlink(missing_ok=True)
        assert not hangs, f"hung for {LONGEST} s: {printed}{errors}"
        return Ended(code, printed, errors, int(changes) if changes else None)


class ForkServer:
    """Starts the process; it ends with the block.

    Args:
        folder: for the children's output.
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
        outputs = [self._folder / f"{number}.{kind}" for kind in ("out", "err", "changes")]
        request = {"arguments": list(map(str, arguments)), "outputs": list(map(str, outputs)), "trouble": trouble}
        return Child(self, self.ask(request), outputs)

    def run(self, *arguments: object, **trouble: Any) -> Ended:
        """Likewise, to its end."""
        return self.start(*arguments, **trouble).end()

    def ask(self, request: dict[str, Any]) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


# -- in the process ----------------------------------------------------------------------------------------------------


def serve() -> None:
    from tools import cli

    cli.start_tensorflow()
    for module in MODULES:
        importlib.import_module(module)

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif answer := os.fork():
            os.setpgid(answer, answer)
        else:
            run_command(**request)
        print(json.dumps(answer), flush=True)


def run_command(arguments: list[str], outputs: list[str], trouble: dict[str, Any]) -> None:
    """In a child; does not return."""
    from tools import cli

    os.setpgid(0, 0)
    printed, errors, changes = outputs
    for number, path in ((0, os.devnull), (1, printed), (2, errors)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), number)
    counted = None
    if "largest" in trouble:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble["largest"],) * 2)
    if "unprivileged" in trouble:
        header, nothing = struct.pack("=II", CAPABILITIES, 0), bytes(24)
        assert ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0, os.strerror(ctypes.get_errno())
    if "reading" in trouble:
        _fail_reading(trouble["reading"], trouble["error"])
    elif "at" in trouble:
        counted = _meet(**trouble)
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:  # what Python itself would do
        traceback.print_exc()
        code = 1
    if counted is not None:
        Path(changes).write_text(str(next(counted)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _meet(folder: str, at: int, error: int | None = None, remove: str | None = None) -> itertools.count:
    """Installs the trouble; gives what counts the changes."""
    counted = itertools.count()

    def change(path: object) -> None:
        if next(counted) != at:
            return
        if remove is not None:
            os.unlink(remove)
        elif error is not None:
            raise OSError(error, os.strerror(error), path)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def inside(path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(f"{folder}/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and inside(path):
                change(path)
        elif event in CHANGES and inside(arguments[0]):
            change(arguments[0])

    fsync = os.fsync

    def counted_fsync(handle: int) -> None:
        if inside(path := os.readlink(f"/proc/self/fd/{handle}")):
            change(path)
        fsync(handle)

    os.fsync = counted_fsync
    sys.addaudithook(hook)
    return counted


def _fail_reading(path: str, error: int) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike) and os.path.abspath(arguments[0]) == path:
            raise OSError(error, os.strerror(error), path)

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
