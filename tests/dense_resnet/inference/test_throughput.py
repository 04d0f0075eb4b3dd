"""Batches in order, some at the same time; and a pace that is measured."""

import threading

import pytest

from dense_resnet.inference import throughput
from dense_resnet.jobs import pipeline


def test_results_come_in_the_order_of_their_items():
    waiting = [threading.Event() for _ in range(3)]

    def work(number):
        if number + 1 < len(waiting):
            waiting[number + 1].wait(10)  # for the next one
        waiting[number].set()
        return -number

    assert list(pipeline.ordered_map(work, range(3), threads=3)) == [(0, 0), (1, -1), (2, -2)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_items_are_taken_than_threads_can_work_on(threads):
    taken = []
    results = pipeline.ordered_map(lambda number: number, (taken.append(number) or number for number in range(9)), threads)
    next(results)
    assert len(taken) == threads
    next(results)
    assert len(taken) == threads + 1


def test_what_has_begun_comes_before_the_error_of_a_later_item():
    def items():
        yield from "ab"
        raise ValueError("c is broken")

    results = pipeline.ordered_map(str.upper, items(), threads=3)
    assert [next(results), next(results)] == [("a", "A"), ("b", "B")]
    with pytest.raises(ValueError, match="c is broken"):
        next(results)


def test_an_error_of_the_work_is_raised_at_its_turn():
    results = pipeline.ordered_map(lambda number: 1 / number, [1, 0, 1], threads=3)
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def a_machine(monkeypatch, seconds):
    """A clock on which a batch at a pace takes what `seconds` says; gives the run function."""
    monkeypatch.setattr(throughput, "cores", lambda: 4)
    speeds = []

    def time_batch(run, one):
        run(one.batch)
        speeds.append((one.threads, one.batch))
        return throughput.Pace(one.batch, one.threads, one.threads * one.batch / seconds(one))

    monkeypatch.setattr(throughput, "_time_run", time_batch)
    return speeds


def test_threads_then_batches_grow_while_that_is_faster(monkeypatch):
    tried = a_machine(monkeypatch, lambda one: max(1.0, one.threads / 2) * max(1.0, one.batch / 4))  # 2 x 4 at once, no more
    best = throughput.measure(lambda size: None)
    assert (best.threads, best.batch, best.images_per_second) == (2, 4, 8.0)
    assert tried == [(1, 1), (2, 1), (4, 1), (2, 2), (2, 4), (2, 8)]


def test_what_was_asked_for_is_kept(monkeypatch):
    tried = a_machine(monkeypatch, lambda one: 1.0)
    assert throughput.measure(lambda size: None, batch=3).batch == 3
    assert {batch for _, batch in tried} == {3}
    assert throughput.measure(lambda size: None, threads=2).threads == 2
    assert throughput.choose(lambda size: None, 10**6, batch=5, threads=3) == throughput.Pace(5, 3)


def test_nothing_is_measured_for_few_images(monkeypatch):
    tried = a_machine(monkeypatch, lambda one: 1.0)
    assert throughput.choose(lambda size: None, throughput.WORTH - 1) == throughput.Pace(1, 2)
    assert not tried
    assert throughput.choose(lambda size: None, throughput.WORTH).images_per_second
    assert tried


def test_a_speed_is_images_a_second(monkeypatch):
    monkeypatch.setattr(throughput, "SHORTEST", 0.0)
    sizes = []
    timed = throughput._time_run(sizes.append, throughput.Pace(batch=3, threads=2))
    assert sizes == [3] * 5  # once for the new shape, then twice a thread
    assert timed.images_per_second > 0


def test_work_in_one_thread_is_done_in_order():
    done = []
    with pipeline.SerialWorker(2) as thread:
        for number in range(10):
            thread.add(done.append, number)
    assert done == list(range(10))


def test_work_behind_a_failure_is_not_begun():
    """Not even what waits already when it fails."""
    go, done = threading.Event(), []

    def fail():
        go.wait()
        raise OSError("full")

    with pytest.raises(OSError, match="full"), pipeline.SerialWorker(9) as thread:  # noqa: PT012
        thread.add(done.append, 0)
        thread.add(fail)
        thread.add(done.append, 1)
        go.set()
    assert done == [0]


def test_queued_work_is_done_though_the_block_fails():
    done = []
    with pytest.raises(ValueError, match="another"), pipeline.SerialWorker(9) as thread:  # noqa: PT012
        for number in range(5):
            thread.add(done.append, number)
        raise ValueError("another")
    assert done == [0, 1, 2, 3, 4]
