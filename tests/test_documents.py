"""What the documents name exists, and what is generated is up to date."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from campaign import __main__ as results
from helpers import ROOT

HERE = Path(__file__).parent


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


def test_every_test_that_faults_md_names_exists():
    sources = defaultdict(str)
    for path in HERE.rglob("*.py"):
        sources[path.name] += path.read_text()
    file, named = None, 0
    for word in (HERE / "FAULTS.md").read_text().split("`"):
        place, separator, test = word.partition("::")
        if separator:
            file = Path(place).name or file
            assert f"def {test.partition('[')[0]}(" in sources[file], word
            named += 1
    assert named > 20


def list_tree(package):
    """The files and folders that the drawing in a package's README names, a folder without contents for all that it holds."""
    text = (ROOT / package / "README.md").read_text()
    named, folders = set(), [(-1, Path())]
    for line in re.search(rf"^```\n({package}/\n.*?)^```", text, re.DOTALL | re.MULTILINE)[1].splitlines():
        if not line.strip():
            continue
        indent, names = len(line) - len(line.lstrip()), re.split(r" {2,}", line.strip())[0]
        while folders[-1][0] >= indent:
            folders.pop()
        for name in names.split(", "):
            named.add(folders[-1][1] / name)
            if name.endswith("/"):
                folders.append((indent, folders[-1][1] / name))
    return named


@pytest.mark.parametrize("package", ["dense_resnet", "segmentation"])
def test_the_drawing_of_a_package_is_its_tree(package):
    named = list_tree(package)
    assert [path for path in named if not (ROOT / path).exists()] == []
    whole = {path for path in named if path.suffix == "" and not any(other.parent == path for other in named)}
    files = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    assert [file for file in files if file not in named and not whole.intersection(file.parents)] == []
