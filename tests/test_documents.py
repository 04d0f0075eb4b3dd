"""What is generated from other files is up to date."""

import json

from campaign import __main__ as results


def test_the_results_page_is_what_the_generator_gives():
    runs = json.loads(results.RESULTS.read_text())
    assert results.page(runs) == results.PAGE.read_text(), "run `python -m tests.campaign`"


def test_grouping_results_by_run_loses_nothing():
    runs = json.loads(results.RESULTS.read_text())
    assert results.runs_of(results.entries_of(runs)) == runs


def test_new_figures_of_a_test_replace_its_old_ones():
    old = {"commit": "a", "date": "2026-01-01", "machine": {}, "versions": {}, "command": "c", "test": "t", "figures": {"x": 1}}
    other, new = old | {"test": "u"}, old | {"commit": "b", "figures": {"x": 2}}
    runs = results.runs_of([old, other, new])
    assert [(run["commit"], run["commands"]) for run in runs] == [("a", {"c": {"u": {"x": 1}}}), ("b", {"c": {"t": {"x": 2}}})]
