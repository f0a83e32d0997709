"""`scripts/publish.py`: both layouts, and command lines that cannot work."""

import functools
import subprocess

import pytest
import running
from published import make_source, rows
from running import tree

call = functools.partial(running.call, "publish")


@pytest.mark.parametrize("layout", ["per_image", "parquet"])
def test_a_run_says_how_many_where_and_how_to_check_them(tmp_path, layout):
    source, copy = make_source(tmp_path / "source"), tmp_path / "copy"
    arguments = f"--embeddings={source}", f"--output={copy}", f"--layout={layout}"
    result = call(*arguments)
    assert result.returncode == 0, result.stderr
    assert f"10 embeddings in {source}" in result.stdout
    assert f"10 embeddings in {copy}, 0 of them there before" in result.stdout
    check = subprocess.run(result.stdout.splitlines()[-1], shell=True, cwd=copy)
    assert check.returncode == 0
    one, other = (rows(folder, tmp_path / "cache") for folder in (source, copy))
    assert one[0] == other[0] and one[1].tobytes() == other[1].tobytes()
    before = tree(copy)
    before_it = 0 if layout == "parquet" else 10
    assert f"{before_it} of them there before" in call(*arguments).stdout
    assert tree(copy) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embeddings=x", "--output=y", "--layout=csv"], "error: --layout is 'csv'; expected"),
        (["--embeddings=no", "--output=y", "--layout=parquet"], "do not exist; expected a folder"),
    ],
)
def test_command_lines_that_cannot_work(arguments, message):
    result = call(*arguments)
    assert result.returncode == 1 and message in result.stderr
