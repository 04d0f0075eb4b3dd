"""What a verb shows on a terminal, and how it takes signals: notes, outcomes, a progress bar."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dense_resnet.image_io.decoding import Encoded


STOPPED = 75  # EX_TEMPFAIL: run it again


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """SIGTERM does what SIGINT does: a KeyboardInterrupt, even where the extension that it came into raised another."""
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
    """SIGINT and SIGTERM go to `handle`; where whoever started us had one ignored, it stays so."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Output(io.FileIO):
    """A stream whose reader may go: what nobody reads is dropped, and the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)


def _outlive_readers() -> None:
    """Standard output and errors that no reader's end disturbs, and no name: what cannot be printed is spelt out."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # who calls has put something else there
        stream.flush()
        raw = _Output(stream.fileno(), "w", closefd=False)
        buffer = raw if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(raw)  # PYTHONUNBUFFERED, or not
        lasting = io.TextIOWrapper(
            buffer,  # type: ignore[arg-type]
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, lasting)


def _drop_output() -> None:
    """What is still in the output's buffer has nowhere to go."""
    with contextlib.suppress(OSError, ValueError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_note(message: str) -> None:
    """What is no mistake, and good to know."""
    from dense_resnet.errors import escape_control

    print(f"note: {escape_control(message)}")


def print_deep(pictures: Iterable[Encoded], max_pixels: int) -> None:
    """Which of the images to be read have 16 bits, and what of their range is used; nothing where none has."""
    from dense_resnet.errors import escape_control
    from dense_resnet.image_io.bit_depth import find_deep

    if deep := find_deep(pictures, max_pixels):
        print(f"{'warning' if deep.are_dark else 'note'}: {escape_control(str(deep))}")


def print_skipped(failed: Sequence[str]) -> None:
    """The messages of the images that were left out, if any."""
    from dense_resnet.errors import escape_control, pluralize

    if failed:
        print(f"{pluralize(len(failed), 'image')} skipped:")
        for message in failed:
            print(f"  {escape_control(message)}")


def print_outcome(outcome: Any, out: str, what: str) -> int:
    """What a run over images has written to `out`, what it left out, whether it was stopped; gives the exit code."""
    from dense_resnet.errors import pluralize

    earlier = outcome.total - outcome.written
    print(
        f"{out}: {what} of {pluralize(outcome.total, 'image')}"
        + (f", {earlier} of them from an earlier run" if earlier else "")
    )
    print_skipped(outcome.failed)
    if outcome.stopped:
        print("stopped; the same command goes on from here")
        return STOPPED
    return 0


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came; a second signal ends the process at once."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        with contextlib.suppress(OSError):  # nobody may read it any more
            print("stopping after what has begun; once more to end at once", file=sys.stderr)

    with _handle_signals(handle):
        yield lambda: bool(received)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[..., None]]:
    """A function of (what, done, total, note) that draws a bar with images/s and the time left; the note may be left out."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    from dense_resnet.errors import escape_control

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.2f} images/s" if task.speed else "")

    text, note = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[note]}"))
    columns = (text, BarColumn(20), MofNCompleteColumn(), Speed(), TimeRemainingColumn(), note)
    with Progress(*columns, speed_estimate_period=120) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int, note: str = "") -> None:
            what = escape_control(what)
            if what not in tasks:  # what came before has made room for it
                for task in tasks.values():
                    bar.remove_task(task)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total, completed=done, note=note)
            bar.update(tasks[what], completed=done, note=note)

        yield show
