"""The frame of a job: order, batches, resume, skip, fail, stop, and a kill between compute and write."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.folders import contents

from dense_resnet.errors import InputError
from dense_resnet.jobs import journal, resumable
from dense_resnet.jobs.resumable import Outcome, Run, claim, cut

PROTOCOL = {"format": 1}


class Squares:
    """A job: a file for each number, which holds its square; 13 cannot be read, and any number in `bad` cannot be used."""

    def __init__(self, out, *, batch=1, threads=1, shard=(0, 1), bad=()):
        self.out, self.batch, self.threads, self.shard, self.bad = Path(out), batch, threads, shard, bad
        self.computed = []  # batches

    def run(self, numbers, *, on_error="fail", progress=resumable.quiet, stop=resumable.never):
        run = Run("squaring", on_error, progress, stop)
        numbers = numbers[self.shard[0] :: self.shard[1]]
        run.check(numbers, self.check, "number")
        if run.stopped:
            return run.outcome
        targets = map(self.path_of, numbers)
        with claim(self.out, "protocol.json", PROTOCOL, "log", self.shard, targets) as log, log:
            done = run.find_done(numbers, log, str, lambda number, line: self.path_of(number).exists())
            run.work(
                [batch for batch in cut(numbers, self.batch) if not done.issuperset(batch)],
                done,
                read=self.read,
                compute=self.compute,
                write=lambda number, square: self.write(number, square, log),
                fail=lambda number, error: log.add({"path": str(number), "status": "error", "error": str(error)}),
                threads=self.threads,
            )
        return run.outcome

    def path_of(self, number):
        return self.out / f"{number}.txt"

    def check(self, number):
        if number in self.bad:
            raise InputError(f"{number}: cannot be used.")

    def read(self, number):
        if number == 13:
            raise InputError("13: cannot be read.")
        return number

    def compute(self, batch):
        self.computed.append(list(batch))
        return [number**2 for number in batch]

    def write(self, number, square, log):
        self.path_of(number).write_text(str(square))
        log.add({"path": str(number), "status": "ok"})


def lines(out, name="log.jsonl"):
    return [(line["path"], line["status"]) for line in journal.read(out / name)]


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_results_are_written_in_the_order_of_the_items(batch, threads, tmp_path):
    job = Squares(tmp_path, batch=batch, threads=threads)
    assert job.run([5, 3, 9, 1, 7]) == Outcome(5, 5, (), stopped=False)
    assert lines(tmp_path) == [(name, "ok") for name in "53917"]
    assert job.path_of(9).read_text() == "81"
    assert sorted(job.computed) == sorted(map(list, cut([5, 3, 9, 1, 7], batch)))


def test_reading_computing_and_writing_go_on_at_the_same_time(tmp_path):
    """Each waits for the other two."""
    at_work = threading.Barrier(3, timeout=30)

    class Waiting(Squares):
        def read(self, number):
            if number == 3:
                at_work.wait()
            return number

        def compute(self, batch):
            if batch == [2]:
                at_work.wait()
            return super().compute(batch)

        def write(self, number, square, log):
            if number == 1:
                at_work.wait()
            super().write(number, square, log)

    assert Waiting(tmp_path).run([1, 2, 3]).written == 3


def test_few_items_wait_to_be_computed_or_written(tmp_path):
    """Which is what bounds the memory."""
    begun, written = [], []

    class Counting(Squares):
        def read(self, number):
            begun.append(number)
            return number

        def write(self, number, square, log):
            assert len(begun) - len(written) <= 2 * 2 * resumable.BATCHES_AHEAD + 2 * self.batch
            super().write(number, square, log)
            written.append(number)

    Counting(tmp_path, batch=2).run(list(range(14, 40)))
    assert written == begun == list(range(14, 40))


def test_progress_counts_what_is_done_and_what_is_left_out(tmp_path):
    Squares(tmp_path).run([1])
    seen = []
    Squares(tmp_path).run([1, 13, 2], on_error="skip", progress=lambda *report: seen.append(report))
    assert seen == [
        *(("checking", number, 3) for number in range(3)),
        *(("comparing", number, 3) for number in range(3)),
        *(("squaring", number, 3) for number in (1, 3, 3)),
    ]


# -- resume ------------------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(tmp_path):
    Squares(tmp_path).run([1, 2, 3])
    before = contents(tmp_path)
    again = Squares(tmp_path)
    assert again.run([1, 2, 3]) == Outcome(0, 3, (), stopped=False)
    assert again.computed == []
    assert contents(tmp_path) == before
    again.path_of(2).unlink()  # its line fits no more
    assert again.run([1, 2, 3]) == Outcome(1, 3, (), stopped=False)
    assert again.computed == [[2]]
    assert contents(tmp_path) == before


def test_what_is_done_may_be_computed_with_its_batch_but_is_not_written(tmp_path):
    Squares(tmp_path).run([1, 2, 3])
    again = Squares(tmp_path, batch=2)
    again.path_of(1).write_text("mine")
    again.path_of(2).unlink()
    assert again.run([1, 2, 3]) == Outcome(1, 3, (), stopped=False)
    assert again.computed == [[1, 2]]
    assert again.path_of(1).read_text() == "mine"


def test_what_cannot_be_compared_is_not_done(tmp_path):
    Squares(tmp_path).run([1, 2])
    run = Run("squaring", "skip", resumable.quiet, resumable.never)

    def is_done(number, line):
        raise InputError(f"{number}: cannot be read.")

    with claim(tmp_path, "protocol.json", PROTOCOL, "log", (0, 1), ()) as log, log:
        assert run.find_done([1, 2], log, str, is_done) == set()


@pytest.mark.parametrize("batch", [1, 2])
def test_a_stop_finishes_what_has_begun(batch, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Squares(whole, batch=batch).run([1, 2, 3, 4, 5])
    seen = []
    stopped = Squares(parts, batch=batch).run(
        [1, 2, 3, 4, 5],
        progress=lambda what, done, total: seen.append((what, done)),
        stop=lambda: ("squaring", 2) in seen,
    )
    assert stopped == Outcome(2, 2, (), stopped=True)
    assert lines(parts) == [("1", "ok"), ("2", "ok")]
    assert Squares(parts, batch=batch).run([1, 2, 3, 4, 5]) == Outcome(3, 5, (), stopped=False)
    assert contents(parts) == contents(whole)


def test_a_stop_before_it_works(tmp_path):
    assert Squares(tmp_path / "new").run([1, 2], stop=lambda: True) == Outcome(0, 0, (), stopped=True)
    assert not (tmp_path / "new").exists()
    Squares(tmp_path).run([1, 2])
    seen = []
    stopped = Squares(tmp_path).run(
        [1, 2, 3],
        progress=lambda what, done, total: seen.append((what, done)),
        stop=lambda: ("comparing", 1) in seen,
    )
    assert stopped == Outcome(0, 2, (), stopped=True)


def test_a_stop_while_it_checks_blames_nobody(tmp_path):
    """Even where what was checked so far cannot be used."""
    seen = []
    job = Squares(tmp_path / "new", bad=[1])
    assert job.run([1, 2], progress=lambda *report: seen.append(report), stop=lambda: bool(seen)).stopped


@pytest.mark.parametrize("batch", [1, 2])
def test_a_kill_between_compute_and_write_resumes_to_the_same_files(batch, tmp_path):
    code = (
        "import os, signal, sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}, {str(Path(__file__).parent)!r}]\n"
        "from test_resumable import Squares\n"
        "class Killed(Squares):\n"
        "    def write(self, number, square, log):\n"
        "        if number == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super().write(number, square, log)\n"
        f"Killed({str(tmp_path / 'parts')!r}, batch={batch}).run([1, 2, 3, 4, 5])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert lines(tmp_path / "parts") == [("1", "ok"), ("2", "ok")]
    assert Squares(tmp_path / "parts", batch=batch).run([1, 2, 3, 4, 5]) == Outcome(3, 5, (), stopped=False)
    Squares(tmp_path / "whole", batch=batch).run([1, 2, 3, 4, 5])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


# -- what cannot be used -----------------------------------------------------------------------------------------------


def test_all_that_cannot_be_used_is_named_before_anything_is_computed(tmp_path):
    job = Squares(tmp_path / "new", bad=[2, 4])
    with pytest.raises(InputError) as error:
        job.run([1, 2, 3, 4])
    assert str(error.value).splitlines() == [
        "2 of 4 numbers cannot be used; nothing was computed. --on-error skip leaves them out.",
        "  2: cannot be used.",
        "  4: cannot be used.",
    ]
    assert job.computed == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("threads", [1, 3])
def test_what_cannot_be_read_stops_the_run_and_what_came_before_is_written(threads, tmp_path):
    with pytest.raises(InputError, match="13: cannot be read"):
        Squares(tmp_path, threads=threads).run([1, 2, 13, 4])
    assert lines(tmp_path) == [("1", "ok"), ("2", "ok")]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_or_is_skipped_and_listed(batch, tmp_path):
    numbers = [1, 13, 2, 3]
    expected = Outcome(3, 3, ("13: cannot be read.",), stopped=False)
    assert Squares(tmp_path, batch=batch).run(numbers, on_error="skip") == expected
    assert dict(lines(tmp_path)) == {"1": "ok", "13": "error", "2": "ok", "3": "ok"}
    assert Squares(tmp_path).run(numbers, on_error="skip") == Outcome(0, 3, expected.failed, stopped=False)


def test_nothing_but_what_cannot_be_read(tmp_path):
    job = Squares(tmp_path, batch=2)
    assert job.run([13, 13], on_error="skip") == Outcome(0, 0, ("13: cannot be read.",) * 2, stopped=False)
    assert job.computed == []


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_an_error_of_the_work_is_never_skipped(on_error, tmp_path):
    class Broken(Squares):
        def compute(self, batch):
            if 3 in batch:
                raise InputError("the network is broken")
            return super().compute(batch)

    with pytest.raises(InputError, match="the network is broken"):
        Broken(tmp_path).run([1, 2, 3, 4], on_error=on_error)
    assert lines(tmp_path) == [("1", "ok"), ("2", "ok")]


def test_nothing_is_written_behind_what_could_not_be(tmp_path):
    class Full(Squares):
        def write(self, number, square, log):
            if number == 2:
                raise InputError("the disk is full")
            super().write(number, square, log)

    with pytest.raises(InputError, match="the disk is full"):
        Full(tmp_path).run([1, 2, 3, 4], on_error="skip")
    assert lines(tmp_path) == [("1", "ok")]


def test_a_word_that_on_error_does_not_know(tmp_path):
    with pytest.raises(InputError, match=r"on_error must be 'fail' or 'skip' \(not 'never'\)"):
        Squares(tmp_path).run([1], on_error="never")


# -- the folder --------------------------------------------------------------------------------------------------------


def test_shards_have_logs_of_their_own_which_the_whole_takes_over(tmp_path):
    for index in range(2):
        assert Squares(tmp_path, shard=(index, 2)).run([1, 2, 3]).total == 2 - index
    assert lines(tmp_path, "log.0-of-2.jsonl") == [("1", "ok"), ("3", "ok")]
    assert Squares(tmp_path).run([1, 2, 3]) == Outcome(0, 3, (), stopped=False)
    assert lines(tmp_path) == [("1", "ok"), ("2", "ok"), ("3", "ok")]


@pytest.mark.parametrize("shard", [(0, 1), (0, 2)])
def test_a_second_run_is_refused(shard, tmp_path):
    refused = []

    def intrude(what, done, total):
        if what == "squaring" and not refused:
            with pytest.raises(InputError, match="is locked by another run"):
                Squares(tmp_path, shard=shard).run([1, 2])
            refused.append(True)

    assert Squares(tmp_path).run([1, 2], progress=intrude).written == 2
    assert refused


def test_another_protocol_is_refused(tmp_path):
    Squares(tmp_path).run([1])
    (tmp_path / "protocol.json").write_text(json.dumps({"format": 2}))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"another protocol \(format: 2 there, 1 now\)"):
        Squares(tmp_path).run([1])
    assert contents(tmp_path) == before


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "2.txt").write_text("precious")
    with pytest.raises(InputError, match=r"2\.txt: already exists, and was not written by this command"):
        Squares(tmp_path).run([1, 2])
    assert contents(tmp_path) == {"2.txt": b"precious"}
