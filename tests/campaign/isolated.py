"""A process of its own for what may crash, hang or take all memory: it is seen, said, and the next case gets a new one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dense_resnet.errors import InputError

HERE = Path("/proc/self/statm").exists()  # whether memory can be limited, which is done as Linux does it
SECONDS = 5  # for a case
MEMORY = 2**29  # bytes that a case may take beyond what the process had
START = 120  # seconds for a worker to begin in
LENGTH = 300  # characters of what a worker said before its end

Answer = tuple[str, Any]


def work(pipe, errors: Path) -> None:
    """Calls one function after the other, under a limit of memory, and answers what came of it."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(errors.parent)  # so that what it leaves when it is killed is cleared away
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    pipe.send(None)
    while True:
        function, path, arguments, memory = pipe.recv()
        limit_memory(memory)
        try:
            answer = "returned", function(path, *arguments)
        except InputError as error:
            answer = "refused" if str(path) in str(error) else "refused without the file's name", str(error)
        except BaseException as error:
            answer = "raised", repr(error)
        limit_memory(None)
        pipe.send(answer)


def limit_memory(more: int | None) -> None:
    """Lets this process take so many bytes more than it has; None for as many as it likes."""
    limit = resource.RLIM_INFINITY
    if more is not None:
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


class Worker:
    """Restarted whenever it dies or is stopped; a new one has nothing loaded, so it is to be warmed before a case."""

    def __init__(self, errors: Path):
        self.errors, self.process = errors, None

    @property
    def is_new(self) -> bool:
        """Whether the next call is a new process's first."""
        return self.process is None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=work, args=(child, self.errors), daemon=True)
        self.process.start()
        child.close()
        assert self.pipe.poll(START), "the worker does not start"
        self.pipe.recv()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None

    def warm(self, function: Callable[..., Any], path: Path, *arguments: Any) -> Any:
        """What a good file reads as; this loads what the function needs, for which a case has no time."""
        outcome, found = self.ask(function, path, *arguments, seconds=START, memory=None)
        assert outcome == "returned", (outcome, found)
        return found

    def ask(
        self,
        function: Callable[..., Any],
        path: Path,
        *arguments: Any,
        seconds: float = SECONDS,
        memory: int | None = MEMORY,
    ) -> Answer:
        """What came of ``function(path, *arguments)``.

        Returns:
            ("returned", its value), ("refused", the message) for an :class:`InputError` that names `path` or what is in it,
            ("refused without the file's name", …), ("raised", …) for anything else, ("hung", …) or ("crashed", …).
        """
        if self.is_new:
            self.start()
        self.pipe.send((function, path, arguments, memory))
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
            outcome = "hung", f"over {seconds} s"
        except EOFError:
            self.process.join()
            outcome = "crashed", f"exit code {self.process.exitcode}: {self.errors.read_text(errors='replace')[-LENGTH:]}"
        self.stop()
        return outcome


@contextlib.contextmanager
def worker(folder: Path):
    """A worker that ends with the block."""
    own = Worker(folder / "errors.txt")
    try:
        yield own
    finally:
        own.stop()
