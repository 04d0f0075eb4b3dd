"""The notebook of a first model runs top to bottom, and shows its pictures."""

import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from helpers import ROOT


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def count_pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs_of(notebook))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Jupyter's own
def test_the_notebook_runs_top_to_bottom(tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "tools" / "first_model.ipynb", 4)
    nbformat.validate(notebook)
    assert count_pictures(notebook) == 3  # it is kept with them, for readers of the file
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert count_pictures(notebook) == 3
    printed = "".join(output.get("text", "") for output in outputs_of(notebook))
    assert "0 errors" in printed
    assert "mean IoU" in printed
