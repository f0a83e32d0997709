"""The notebooks run from start to end, and the committed runs are clean and small."""

import pathlib
import tempfile

import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NAMES = ("first_steps", "heads_on_mimic")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": FOLDER}}
    ).execute()


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_run_is_whole_and_small(name):
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < 1_000_000
    assert '"output_type": "error"' not in text
    for place in (FOLDER.parent, pathlib.Path.home(), tempfile.gettempdir()):
        assert f"{place}/" not in text, f"{name}.ipynb holds {place}"
