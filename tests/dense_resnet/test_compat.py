"""What a user is told where tf-slim cannot run, and that the oldest versions under test are the oldest allowed."""

import re
import subprocess
import sys

from helpers import ROOT


def test_the_error_names_versions_that_work():
    code = "import sys; sys.modules['tf_keras'] = None\nimport dense_resnet.compat"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tf-slim cannot run here (tensorflow 2.")
    assert "TensorFlow 2.16 to 2.21" in last
    assert "pip install" in last


def test_the_oldest_versions_are_the_lowest_that_pyproject_allows():
    required = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("\n]\n")[0]
    allowed = dict(re.findall(r'"([a-z0-9-]+)>=([0-9.]+)', required))
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+)$", (ROOT / ".ci" / "oldest.txt").read_text(), re.MULTILINE))
    assert pinned.keys() - allowed.keys() == {"opencv-python-headless"}
    assert allowed.keys() <= pinned.keys()
    for package, lowest in allowed.items():
        assert f"{pinned[package]}.0.0".startswith(f"{lowest}."), package
