"""The notebooks run from start to end, and what is committed of them is what their source says."""

import pathlib
import tempfile

import jupytext
import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NAMES = ("first_steps", "heads_on_mimic")


def source_of(notebook):
    """What a person wrote: kind and text of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name):
    notebook = jupytext.read(FOLDER / f"{name}.py")
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": FOLDER}}
    ).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_run_is_of_this_source_and_small(name):
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert source_of(committed) == source_of(jupytext.read(FOLDER / f"{name}.py"))
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < 1_000_000
    assert '"output_type": "error"' not in text
    for place in (FOLDER.parent, pathlib.Path.home(), tempfile.gettempdir()):
        assert f"{place}/" not in text, f"{name}.ipynb holds {place}"
