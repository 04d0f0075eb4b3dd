"""The frame of a job over many items: check, claim the folder, skip what is done, read ahead, compute, write in order.

    run = Run("extracting", on_error, progress, stop)
    bad = run.check(items, check, "image")                    every header, before any compute
    with claim(out, ...) as log, log:                         no other run, no other protocol
        done = run.find_done(items, log, name, is_done)       by an earlier run
        run.work(batches, done, read=..., compute=..., write=..., fail=..., threads=...)
    return run.outcome

An item is done once its line is in the log, which is written last, so a job that was stopped or killed resumes with the same
command. (``tests/dense_resnet/jobs/test_resumable.py``)
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dense_resnet.errors import InputError, format_list, pluralize
from dense_resnet.jobs import atomic_files, journal
from dense_resnet.jobs.journal import FAIL, OK, SKIP, Journal
from dense_resnet.jobs.pipeline import SerialWorker, ordered_map, prefetch

READERS = 2
BATCHES_AHEAD = 2  # read, and as many waiting to be written: what bounds the memory

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]  # (what is being done, items done, items in all)


def quiet(what: str, done: int, total: int) -> None:
    """Report no progress."""


def never() -> bool:
    """Let a run come to its end."""
    return False


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    written: int  # items, in this run
    total: int  # of the run's items, those that are done now
    failed: tuple[str, ...]  # messages
    stopped: bool  # by `stop`, before the end


@contextlib.contextmanager
def claim(
    folder: Path, protocol_name: str, protocol: Mapping[str, Any], stem: str, shard: tuple[int, int], targets: Iterable[Path]
) -> Iterator[Journal]:
    """Keep other runs out of `folder`, which is made if it is missing, and yield the log of this one, still to be opened.

    Args:
        protocol_name: of the file with the `protocol`, which is all that results depend on.
        shard: (i, n) has a log of its own, and keeps out only runs of the whole.
        targets: what the run may write: if any of it is there, but no protocol, it is an :class:`InputError`.
    """
    atomic_files.probe_folder(folder)
    with journal.lock_folder(folder, shared=shard[1] > 1):
        journal.check_protocol(folder / protocol_name, protocol, stem, targets)
        yield Journal(folder / journal.log_name(stem, shard), stem)


def cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut items into batches.

    >>> cut([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


class Run(Generic[Item]):
    """One run of a job, and how far it has come.

    Args:
        doing: what its progress says while it works.
        on_error: "fail" stops at an item that cannot be used; "skip" lists it and continues.
        progress: called with the task, and the items done, those of earlier runs included, and in all.
        stop: asked before each item or batch; True finishes what has begun.
    """

    def __init__(self, doing: str, on_error: str, progress: Progress, stop: Callable[[], bool]) -> None:
        if on_error not in (FAIL, SKIP):
            raise InputError(f"on_error must be {FAIL!r} or {SKIP!r} (not {on_error!r}).")
        self._doing, self._on_error, self._progress, self._stop = doing, on_error, progress, stop
        self._items = self._done = self._written = 0  # in all, done by earlier runs, by this one
        self._failed: list[str] = []
        self.stopped = False

    @property
    def outcome(self) -> Outcome:
        return Outcome(self._written, self._done + self._written, tuple(self._failed), self.stopped)

    def check(self, items: Sequence[Item], check: Callable[[Item], object], thing: str) -> dict[Item, InputError]:
        """Return what `check` raises, by item, or raise all of it at once under "fail"; messages call an item `thing`."""
        bad = {}
        for item in self._each("checking", items):
            try:
                check(item)
            except InputError as error:
                bad[item] = error
        if bad and self._on_error == FAIL and not self.stopped:
            raise InputError(
                f"{len(bad):,} of {pluralize(len(items), thing)} cannot be used; nothing was computed. "
                f"--on-error skip leaves them out.{format_list(map(str, bad.values()))}"
            )
        return bad

    def find_done(
        self, items: Sequence[Item], log: Journal, name: Callable[[Item], str], is_done: Callable[[Item, dict[str, Any]], bool]
    ) -> set[Item]:
        """Return the items whose line, in this log or a shard's, still fits by `is_done`; this log then has it too."""
        done = set()
        for item in self._each("comparing", items):
            line = log.find(name(item))
            if line is None or line["status"] != OK:
                continue
            try:
                fits = is_done(item, line)
            except InputError:  # which reading it will meet again
                continue
            if fits:
                log.add(line)
                done.add(item)
        self._items, self._done = len(items), len(done)
        return done

    def skip(self, error: InputError) -> None:
        """List an item that is left out."""
        self._failed.append(str(error))

    def work(
        self,
        batches: Sequence[Sequence[Item]],
        done: Collection[Item],
        *,
        read: Callable[[Item], Ready],
        compute: Callable[[Sequence[Ready]], Sequence[Result]],
        write: Callable[[Ready, Result], None],
        fail: Callable[[Item, InputError], None],
        threads: int,
    ) -> None:
        """Read, compute and write what the batches hold, in their order; at an error, what came before it is written.

        Args:
            batches: what is computed together, cut from the items that :meth:`find_done` was given.
            done: items of the batches that are computed with them, but not written again.
            read: gives what an item is computed from, in READERS threads.
            compute: gives the result of each of a batch, in `threads` threads.
            write: brings a result to the disk, its line of the log last; always in the same thread, as `fail`.
            fail: takes note of an item that cannot be read, under "skip".
        """
        ahead = BATCHES_AHEAD * max(map(len, batches), default=0)
        items = itertools.chain.from_iterable(batches)
        self._report()
        with (
            ThreadPoolExecutor(READERS) as readers,
            contextlib.closing(prefetch(readers, read, items, ahead)) as coming,
            SerialWorker(ahead) as writer,
        ):

            def read_batches() -> Iterator[list[tuple[Item, Ready]]]:
                for batch in batches:
                    if self._is_stopping():
                        return
                    ready = []
                    for item in batch:
                        try:
                            ready.append((item, next(coming).result()))
                        except InputError as error:
                            if self._on_error == FAIL:
                                raise
                            self.skip(error)
                            writer.add(fail, item, error)
                    if ready:
                        yield ready

            for batch, results in ordered_map(lambda pairs: compute([ready for _, ready in pairs]), read_batches(), threads):
                for (item, ready), result in zip(batch, results, strict=True):
                    if item not in done:
                        writer.add(write, ready, result)
                        self._written += 1
                self._report()
        self._report()

    def _each(self, what: str, items: Sequence[Item]) -> Iterator[Item]:
        """Yield the items up to where the run is stopped."""
        for number, item in enumerate(items):
            if self._is_stopping():
                return
            self._progress(what, number, len(items))
            yield item

    def _is_stopping(self) -> bool:
        self.stopped = self.stopped or self._stop()
        return self.stopped

    def _report(self) -> None:
        self._progress(self._doing, self._done + self._written + len(self._failed), self._items)
