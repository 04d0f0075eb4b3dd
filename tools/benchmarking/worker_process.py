"""An object in its own process, whose methods are called from here.

The child process starts empty, so it imports only what its object needs, its peak memory is its own, and no framework affects
the threads of another. Between calls it is suspended, as a shell suspends a job: the threads of many frameworks spin for a
while after their work is done, and would take time from the next competitor. Ctrl-C in a terminal goes to all its processes,
but what is to be stopped is for the parent to say, so that it can still ask for what was measured: children block the signals.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

TAIL = 2000  # characters of what a process that died had printed
PR_SET_PDEATHSIG = 1  # of Linux' prctl
FOR_PARENT = {signal.SIGINT, signal.SIGTERM}


class Process:
    """One process with one object: ``with Process(Worker, competitor, case) as process: process.call("run")``.

    Args:
        make: a function or class of a module; what it returns there is the object.
        arguments: for it; they travel as pickles.

    Raises:
        ImportError: `make` raised one: a package is missing there.
        RuntimeError: it raised something else, whose traceback is the message, or the process died.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._printed = tempfile.NamedTemporaryFile()  # noqa: SIM115  (close() closes it)
        self._process = spawn.Process(target=serve, args=(theirs, self._printed.name))
        resource_tracker.ensure_running()  # else start() does, which unblocks the signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_PARENT)
        try:
            self._process.start()  # inherits what is blocked
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        try:
            self.call(make, *arguments)
        except BaseException:
            self.close()
            raise

    def call(self, method: str | Callable[..., Any], *arguments: Any) -> Any:
        """Return what the object's method returns; raise as the constructor does, which first calls what makes the object."""
        assert self._process.pid is not None
        try:
            os.kill(self._process.pid, signal.SIGCONT)
            self._connection.send((method, arguments))
            error, result = self._connection.recv()
            os.kill(self._process.pid, signal.SIGSTOP)
        except (EOFError, OSError):
            self._process.join()
            words = self._printed.read().decode(errors="replace")[-TAIL:].strip() or "it printed nothing."
            raise RuntimeError(f"a process of the benchmark ended with code {self._process.exitcode}: {words}") from None
        if error:
            raise error(result)
        return result

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._printed.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(connection: Connection, printed: str) -> None:
    """Child process: create the object, then serve calls until the pipe closes; what is printed goes to a file."""
    if sys.platform == "linux":  # a suspended process cannot see the pipe close: the kernel ends it with its parent
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(printed, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    target: Any = None
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            what, arguments = connection.recv()
            error: type[Exception] | None = None
            try:
                if target is None:
                    target, result = what(*arguments), None
                else:
                    result = getattr(target, what)(*arguments)
            except ImportError as missing:
                error, result = ImportError, str(missing)
            except Exception:
                error, result = RuntimeError, traceback.format_exc()
            connection.send((error, result))
