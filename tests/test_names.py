"""Functions are named by verbs or by what they return: a bare participle says neither."""

import ast
import re

import pytest
from helpers import ROOT

IRREGULAR = "built chosen drawn found frozen kept left made meant said shown spelt told written".split()
NOUNS = {"preprocessing", "speed"}


@pytest.mark.parametrize("package", ["dense_resnet", "segmentation", "tools"])
def test_no_function_is_named_by_a_bare_participle(package):
    participles = []
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                name = node.name.strip("_")
                if name in IRREGULAR or (re.fullmatch(r"[a-z]+(ed|ing)", name) and name not in NOUNS):
                    participles.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert participles == []
