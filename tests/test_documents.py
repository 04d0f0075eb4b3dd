"""What the documents name exists, and what is generated is up to date."""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from campaign import __main__ as results
from helpers import ROOT
from PIL import Image

from segmentation.data.synthetic import write_scenes
from tools import cli

HERE = Path(__file__).parent
DOCUMENTS = (
    "README.md", "README.zh-CN.md", "SECURITY.md", "dense_resnet/README.md", "segmentation/README.md", "tests/README.md",
    "tools/benchmarking/README.md",
)  # fmt: skip


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


def fenced_blocks(document):
    """The fenced blocks of a document, in order, each as (language, text)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def test_the_readmes_in_both_languages_have_the_same_blocks():
    english, chinese = fenced_blocks("README.md"), fenced_blocks("README.zh-CN.md")
    assert english == chinese
    assert len(english) > 8


@pytest.mark.parametrize(("document", "other"), [("README.md", "README.zh-CN.md"), ("README.zh-CN.md", "README.md")])
def test_a_readme_is_short_and_links_the_other_language_at_its_top(document, other):
    lines = (ROOT / document).read_text().splitlines()
    assert len(lines) <= 250
    assert f"]({other})" in lines[0]


def anchors_of(text):
    """What links to a document's headings end in, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_exist(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            linked = path.parent / file if file else path
            assert linked.exists(), target
            assert not anchor or anchor in anchors_of(linked.read_text()), target


def command_lines():
    """Every line of the command in the documents' bash blocks and tables, as (document, words)."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        blocks = "".join(block for language, block in fenced_blocks(document) if language == "bash").replace("\\\n", "")
        lines = re.findall(r"^dense-resnet (.*)$", blocks, re.MULTILINE)
        for line in lines + re.findall(r"`dense-resnet ([a-z]+ [^`…]+ [^`…]+)`", text):
            words = shlex.split(line, comments=True)
            if words[0].islower():
                yield document, words


@pytest.mark.parametrize(("document", "words"), [*command_lines()])
def test_commands_in_the_documents_have_options_that_exist(document, words):
    verb = importlib.import_module(f"tools.{words[0]}")
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    verb.configure(parser)
    parser.parse_args(words[1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_python_blocks_of_the_readme_run(tmp_path, monkeypatch):
    """Blocks that need files, and so are not doctests; what they read is made by the commands above them."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "photos/a").mkdir(parents=True)
    photograph = Image.open(ROOT / "tools/coffee.jpg")
    photograph.resize((400, 300)).save(tmp_path / "photos/a/b.jpg")
    shutil.copytree(ROOT / "tools/scenes_model", tmp_path / "model")
    write_scenes(tmp_path / "mine", 2, 2, size=97)
    monkeypatch.chdir(tmp_path)
    for language, block in fenced_blocks("README.md"):
        for line in re.findall(r"^dense-resnet ((?:extract|export) .*)$", block, re.MULTILINE) if language == "bash" else ():
            if "--precision int8" in line and importlib.util.find_spec("nncf") is None:
                continue
            random = line.replace("--weights resnet_v2_152.ckpt", "--random-weights 0 --precision float32")
            assert cli.main(shlex.split(random, comments=True)) == 0, line
        if language == "python" and ">>>" not in block:
            exec(block, names := {})
            shape = names["vectors"].shape if "vectors" in names else names["labels"].shape
            assert shape == ((2, 2048) if "vectors" in names else (1, 300, 400))
