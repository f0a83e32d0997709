"""Files and folders are whole under their names, or not there; tables are read back as written."""

import csv
import io
import os
import subprocess
import sys

import pandas as pd
import pytest

from cxr_embeddings.common import writing

NAMES = ["a,b", 'q"', "new\nline", "cr\rlf", "\r\n", " blank ", "", "\u2028", "caf\udce9"]


def test_a_table_is_read_back_as_it_was_written():
    rows = [[name, str(i)] for i, name in enumerate(NAMES)]
    data = writing.encode_table(["image_id", "n"], rows)
    text = data.decode("utf-8", "surrogateescape")
    assert [*csv.reader(io.StringIO(text, newline=""), strict=True)] == [["image_id", "n"], *rows]
    data = writing.encode_table(["image_id", "n"], rows[:-1])  # pandas wants UTF-8
    table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    assert table.to_numpy().tolist() == rows[:-1]
    assert writing.encode_table(["a"], [[None], [float("nan")], [0.1]]) == b'a\n""\n""\n0.1\n'


@pytest.mark.parametrize("mask", [0o027, 0o002])
def test_rights_are_what_the_umask_leaves(tmp_path, mask):
    old = os.umask(mask)
    try:
        with writing.whole_file(tmp_path / "file"), writing.whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("kind", ["whole_file", "whole_folder"])
@pytest.mark.parametrize("name", ["x", "n" * 255])
def test_what_a_killed_writer_left_goes_and_what_another_writes_stays(tmp_path, kind, name):
    killed = subprocess.run(
        [sys.executable, "-c", "import os, sys; from cxr_embeddings.common import writing\n"
         f"with writing.{kind}(sys.argv[1]): os.kill(os.getpid(), 9)", tmp_path / name],
    )  # fmt: skip
    assert killed.returncode == -9
    (left,) = os.listdir(tmp_path)
    write = getattr(writing, kind)
    with write(tmp_path / name):
        (mine,) = os.listdir(tmp_path)
        assert mine != left
        with write(tmp_path / name):
            assert mine in os.listdir(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_links_that_look_like_leftovers_and_what_is_no_file_stay(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / ".pipe.partial-1").symlink_to(tmp_path / "far")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="a folder or a device has this name"):
            with writing.whole_file(tmp_path / name):
                pass
    with writing.whole_file(tmp_path / "file"):
        assert len(os.listdir(tmp_path)) == 5
    assert sorted(os.listdir(tmp_path)) == [".pipe.partial-1", "device", "far", "file", "pipe"]


def test_a_folder_that_failed_is_gone(tmp_path):
    with pytest.raises(KeyError), writing.whole_folder(tmp_path / "deep/x") as partial:
        (partial / "half").write_bytes(b"")
        raise KeyError
    assert not os.listdir(tmp_path / "deep")
    (tmp_path / "deep/x").mkdir()
    with writing.whole_folder(tmp_path / "deep/x") as partial:
        (partial / "all").write_bytes(b"")
    assert os.listdir(tmp_path / "deep/x") == ["all"]
    with pytest.raises(OSError), writing.whole_folder(tmp_path / "deep/x"):
        pass
    assert os.listdir(tmp_path / "deep/x") == ["all"]
