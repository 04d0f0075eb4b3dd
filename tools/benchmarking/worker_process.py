"""An object in its own process, whose methods are called from here.

    with Process(Worker, competitor, case) as process:
        process.call("run")

The child process starts empty, so it imports only what its object needs, its peak memory is its own, and no framework affects
the threads of another. Between calls it is suspended, as a shell suspends a job: the threads of many frameworks spin for a
while after their work is done, and would take time from the next competitor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
TAIL = 2000  # characters of what a process that died had printed
PR_SET_PDEATHSIG = 1  # of Linux' prctl
SERVE = f"import sys; from {__name__} import serve; serve(int(sys.argv[1]))"


class Process:
    """One process with one object.

    Args:
        make: a function or class of a module; what it returns there is the object.
        arguments: for it; they travel as pickles.
        environment: variables of the process in addition to ours.

    Raises:
        ImportError: `make` raised one: a package is missing there.
        RuntimeError: it raised something else, whose traceback is the message, or the process died.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        inherited = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": path}
        self._connection, theirs = Pipe()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            env=inherited | (environment or {}),
        )
        theirs.close()
        try:
            self._ask(make, arguments)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the object's method returns; raise as the constructor does."""
        return self._ask(method, arguments)

    def _ask(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        try:
            self._process.send_signal(signal.SIGCONT)
            self._connection.send((what, arguments))
            error, result = self._connection.recv()
            self._process.send_signal(signal.SIGSTOP)
        except (EOFError, OSError):
            code = self._process.wait()
            raise RuntimeError(f"a process of the benchmark ended with code {code}: {self._last_words()}") from None
        if error:
            raise error(result)
        return result

    def _last_words(self) -> str:
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace")[-TAIL:].strip() or "it printed nothing."

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._printed.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(handle: int) -> None:
    """Child process: create the object, then serve calls until the pipe closes."""
    if sys.platform == "linux":  # a suspended process cannot see the pipe close: the kernel ends it with its parent
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    connection = Connection(handle)
    target: Any = None
    answer: tuple[type[Exception] | None, Any]
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            what, arguments = connection.recv()
            try:
                if target is None:
                    target = what(*arguments)
                    answer = None, None
                else:
                    answer = None, getattr(target, what)(*arguments)
            except ImportError as error:
                answer = ImportError, str(error)
            except Exception:
                answer = RuntimeError, traceback.format_exc()
            connection.send(answer)
