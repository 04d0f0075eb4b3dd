"""How a format is fuzzed: good files, damaged one at a time; what comes of each is told from what may come of it.

A reader's answer is sound if it is an :class:`~dense_resnet.errors.InputError` that names the damaged file, or the very answer
to the good files, or (``excepted``) what a judge of the test's own finds to be a right reading of the damaged ones.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from campaign import Campaign, mutations
from campaign.isolated import Worker

Contents = Mapping[str, bytes]  # of files, by path within the folder
Aware = Callable[[bytes, bytes, np.random.Generator], bytes]
MOST_SHOWN = 20  # failures


@dataclass(frozen=True)
class Case:
    """One set of files with one of them damaged."""

    folder: Path  # where they lie when they are read
    contents: Contents
    file: str  # the damaged one
    aware: bool  # whether it was damaged by who knows the format
    expected: Any  # what the good ones read as

    @property
    def data(self) -> bytes:
        """The damaged file."""
        return self.contents[self.file]


@dataclass(frozen=True)
class Format:
    """Files, what reads them, and what may come of it."""

    make: Callable[[Path], None]  # writes good files into subfolders of a folder, one a set
    read: Callable[[Path], Any]  # in the worker; its answers can be compared
    judge: Callable[[Any, Case], str]  # of an answer that is not the good one: what is wrong with it, "" if nothing
    damaged: Mapping[str, Aware | None]  # by patterns of names; None for blindly only
    short: int = 150
    most: int | None = None  # cases, where each takes long
    writes: bool = False  # whether reading leaves something in the folder
    refused: float = 0.5  # share of the cases that has to be, so that the damage is not beside the point
    named: tuple[
        str, ...
    ] = ()  # what a refusal may say in place of the file's name, where it names the folder for good reasons
    sees_all: bool = False  # whether what equals the good answer is judged too: no reader may pass over what was done


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(folder: Path, contents: Contents, there: Contents | None = None) -> None:
    """Makes a folder of these files and no others; `there` are those that it has already, None where that is not known."""
    if there is None:
        shutil.rmtree(folder, ignore_errors=True)
        there = {}
    for name in there.keys() - contents.keys():
        os.remove(os.path.join(folder, name))
    for name, data in contents.items():
        if there.get(name) is not data:
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)


def fuzz(format: Format, campaign: Campaign, worker: Worker, folder: Path) -> None:
    """Runs the campaign and reports how many cases came out how."""
    place = folder / "case"
    place.mkdir()
    format.make(place)
    goods = [contents_of(one) for one in sorted(place.iterdir())]
    place /= "0"
    expected = [warm_up(format, worker, place, good) for good in goods]
    counts, failures = Counter(), []
    there = None
    for number, random in itertools.islice(campaign.cases(format.short), format.most):
        case = draw_case(format, place, goods, expected, random)
        if worker.is_new:  # the last one died
            warm_up(format, worker, place, goods[0])
            there = None
        write(place, case.contents, there)
        there = None if format.writes else case.contents
        outcome = verdict(format, case, *worker.ask(format.read, place))
        if outcome in ("refused", "identical", "excepted"):
            counts[outcome] += 1
            continue
        kept = folder / f"failed-{number}"
        write(kept, case.contents)
        counts["failed"] += 1
        how = "aware" if case.aware else "blind"
        failures.append(f"case {number} ({how}, {case.file}), kept in {kept}:\n    {outcome[:600]}")
    cases = counts.total()
    assert not failures, f"{len(failures)} of {cases} cases failed:\n" + "\n".join(failures[:MOST_SHOWN])
    assert counts["refused"] >= cases * format.refused, counts
    campaign.report(**{"cases": cases, **counts})


def warm_up(format: Format, worker: Worker, place: Path, good: Contents) -> Any:
    """What good files read as."""
    write(place, good)
    return worker.warm(format.read, place)


def verdict(format: Format, case: Case, outcome: str, found: Any) -> str:
    """Of a worker's answer: "refused", "identical", "excepted", or what is wrong."""
    if outcome == "refused" and not any(name in found for name in (Path(case.file).name, *format.named)):
        return f"refused without the file's name: {found}"
    if outcome != "returned":
        return outcome if outcome == "refused" else f"{outcome}: {found}"
    identical = repr(found) == repr(case.expected)  # == would take False for 0
    if identical and not format.sees_all:
        return "identical"
    try:
        wrong = format.judge(found, case)
    except Exception as error:  # the case is kept, and the campaign goes on
        wrong = f"the judge failed: {error!r}"
    return wrong or ("identical" if identical else "excepted")


def draw_case(
    format: Format, place: Path, goods: Sequence[Contents], expected: Sequence[Any], random: np.random.Generator
) -> Case:
    """One that differs from all that is good."""
    while True:
        own, second = (int(random.integers(len(goods))) for _ in range(2))
        good, other = goods[own], goods[second]
        matching = [(name, aware) for name in good for pattern, aware in format.damaged.items() if fnmatch(name, pattern)]
        file, aware = matching[random.integers(len(matching))]
        before, twin = good[file], other.get(file, good[file][::-1])
        is_aware = aware is not None and random.integers(2) == 0
        data = aware(before, other.get(file, before), random) if is_aware else mutations.mutate(before, twin, (), random)
        if data not in (before, twin):
            return Case(place, {**good, file: data}, file, is_aware, expected[own])
