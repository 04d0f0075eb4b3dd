"""Terminal output and signals of a verb: notes, outcomes, a progress bar."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dense_resnet.errors import escape_control, pluralize

if TYPE_CHECKING:
    from dense_resnet.image_io.decoding import Encoded


STOPPED = 75  # EX_TEMPFAIL: run it again


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM as on SIGINT, even if an interrupted extension raises another error."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        with _handle_signals(handle):
            yield
    except Exception as error:
        if received:
            raise KeyboardInterrupt from error
        raise


@contextlib.contextmanager
def _handle_signals(handle: Callable[[int, object], None]) -> Iterator[None]:
    """Send SIGINT and SIGTERM to `handle`; a signal that the parent process had ignored stays ignored."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Output(io.FileIO):
    """Output stream that ignores broken pipes."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)


def _outlive_readers() -> None:
    """Make standard output and error ignore broken pipes and escape what their encoding cannot print."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # the caller has replaced it
        stream.flush()
        raw = _Output(stream.fileno(), "w", closefd=False)
        buffer = raw if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(raw)  # PYTHONUNBUFFERED, or not
        how: dict[str, Any] = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", **how))


def _drop_output() -> None:
    """Drop what is still in the output's buffer."""
    with contextlib.suppress(OSError, ValueError):  # it is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_note(message: str) -> None:
    """Print information that is not an error."""
    print(f"note: {escape_control(message)}")


def print_table(rows: Iterable[Sequence[object]], *headings: str) -> None:
    """Print rows as a table; under headings, all columns but the first are aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, show_header=bool(headings))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(Text(escape_control(str(cell))) for cell in row))
    Console().print(table)


def print_deep(pictures: Iterable[Encoded], max_pixels: int) -> None:
    """Report which of the images have 16 bits, and how much of their range is used; print nothing if none has."""
    from dense_resnet.image_io.bit_depth import find_deep

    if deep := find_deep(pictures, max_pixels):
        print(f"{'warning' if deep.are_dark else 'note'}: {escape_control(str(deep))}")


def print_skipped(failed: Sequence[str]) -> None:
    """Print the messages of the skipped images, if any."""
    if failed:
        print(f"{pluralize(len(failed), 'image')} skipped:")
        for message in failed:
            print(f"  {escape_control(message)}")


def print_outcome(outcome: Any, out: str, what: str) -> int:
    """Report what a run over images wrote to `out` and skipped, and whether it was stopped; return the exit code."""
    earlier = outcome.total - outcome.written
    by_whom = f", {earlier} of them from an earlier run" if earlier else ""
    print(f"{out}: {what} of {pluralize(outcome.total, 'image')}{by_whom}")
    print_skipped(outcome.failed)
    if outcome.stopped:
        print("stopped; the same command resumes from here")
        return STOPPED
    return 0


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM came; a second signal ends the process at once."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        with contextlib.suppress(OSError):  # its reader may be gone
            print("finishing current work; press Ctrl-C again to stop immediately", file=sys.stderr)

    with _handle_signals(handle):
        yield lambda: bool(received)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[..., None]]:
    """Yield a function of (what, done, total, note) that draws a bar with images/s and the time left; note is optional."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.2f} images/s" if task.speed else "")

    text, note = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[note]}"))
    columns = (text, BarColumn(20), MofNCompleteColumn(), Speed(), TimeRemainingColumn(), note)
    with Progress(*columns, speed_estimate_period=120) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int, note: str = "") -> None:
            what = escape_control(what)
            if what not in tasks:  # a new task replaces the finished one
                for task in tasks.values():
                    bar.remove_task(task)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total, completed=done, note=note)
            bar.update(tasks[what], completed=done, note=note)

        yield show
