"""Threads that keep the order: an ordered map, a prefetch, and a worker that runs tasks one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of `function`, in the items' order, with `threads` calls at a time.

    If `items` end in an error, the results of calls that have begun come first.

    >>> list(ordered_map(lambda n: n * n, [3, 1, 2], threads=2))
    [(3, 9), (1, 1), (2, 4)]
    """
    failure: Exception | None = None

    def items_before_failure() -> Iterator[Item]:
        nonlocal failure
        try:
            yield from items
        except Exception as error:
            failure = error

    with ThreadPoolExecutor(threads) as pool:
        for future in prefetch(pool, lambda item: (item, function(item)), items_before_failure(), ahead=threads - 1):
            yield future.result()
    if failure is not None:
        raise failure


def prefetch(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Future[Result], None, None]:
    """Yield the future of ``function(item)`` for each item, submitted to `pool` `ahead` items before it is needed.

    Closing the iterator cancels calls that have not begun.

    >>> with ThreadPoolExecutor() as pool:
    ...     [future.result() for future in prefetch(pool, abs, [-3, 1, -2], ahead=1)]
    [3, 1, 2]
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for future in pending:
            future.cancel()


class SerialWorker:
    """A background thread that runs tasks in order; after a failure, later tasks are not begun.

    The block ends when all tasks have ended, and raises the first error; so may :meth:`add`, which blocks while `ahead` tasks
    are queued or running.
    """

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(1)
        self._begun: deque[Future[None]] = deque()

    def __enter__(self) -> SerialWorker:
        return self

    def add(self, function: Callable[..., None], *arguments: Any) -> None:
        while len(self._begun) >= self._ahead:
            self._begun.popleft().result()
        before = self._begun[-1] if self._begun else None
        self._begun.append(self._pool.submit(_after, before, function, *arguments))

    def __exit__(self, kind: object, *_: object) -> None:
        with self._pool:  # which waits for all tasks, even after an error
            if kind is None:
                for work in self._begun:
                    work.result()


def _after(before: Future[None] | None, function: Callable[..., None], *arguments: Any) -> None:
    if before is not None:
        before.result()  # raises what it has raised
    function(*arguments)
