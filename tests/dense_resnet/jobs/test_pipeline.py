"""What is read ahead: in order, few at a time, and no more once nobody asks."""

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dense_resnet.jobs import pipeline


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_few_items_are_read_ahead(ahead):
    begun, lock, reached = itertools.count(), threading.Lock(), []

    def read(item):
        with lock:
            reached.append(next(begun))
        return item

    with ThreadPoolExecutor(2) as pool:
        for number, future in enumerate(pipeline.prefetch(pool, read, range(20), ahead)):
            assert future.result() == number
            time.sleep(0.005)
            assert len(reached) <= number + 1 + ahead
    assert len(reached) == 20


def test_an_error_is_its_item_s_own():
    with ThreadPoolExecutor(2) as pool:
        one, two, three = pipeline.prefetch(pool, lambda number: 1 / number, [1, 0, 2], ahead=2)
        assert (one.result(), three.result()) == (1, 0.5)
        with pytest.raises(ZeroDivisionError):
            two.result()


def test_what_has_not_begun_is_cancelled_once_nobody_asks():
    go, read = threading.Event(), []

    def wait(item):
        go.wait(10)
        read.append(item)

    with ThreadPoolExecutor(1) as pool:
        with contextlib.closing(pipeline.prefetch(pool, wait, range(9), ahead=5)) as coming:
            next(coming)
        go.set()
    assert read == [0]
