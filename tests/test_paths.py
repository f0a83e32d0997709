"""A local path is a path, whatever characters it has; a name from a file stays in its folder."""

import os
import socket

import fsspec
import fsspec.implementations.memory
import pytest

from cxr_embeddings.common import files, paths
from cxr_embeddings.input_pipeline.films.decode import load
from cxr_embeddings.input_pipeline.films.film import Rejected
from cxr_embeddings.input_pipeline.films.listing import list_inputs

ODD = [
    "a::b", "memory::c", "~", "~root", "d~e", "new\nline", "cr\rlf", " blank ", "films [2020]",
    "*?", "C:", "back\\slash", 'comma, "quote"', "\u2028\x85\x1c", os.fsdecode(b"caf\xe9"),
    "n" * 255,
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_local_name_is_a_name_whatever_characters_it_has(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for key in ("a", "p/b"):
        files.write_whole(f"{folder}/{key}.dcm", key.encode())
    listing = list_inputs(str(folder))
    assert [film.path for film in listing.files] == [f"{folder}/a.dcm", f"{folder}/p/b.dcm"]
    assert list_inputs(f"file://{folder}") == listing
    assert [files.read_bytes(film.path) for film in listing.files] == [b"a", b"p/b"]
    assert paths.files_below(str(folder)).keys() == {"a.dcm", "p/b.dcm"}
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "table"),
    [(n[:240], t) for n in ODD for t in (0, 1) if paths.is_text(n) and (t or "\n" not in n)],
)
def test_a_list_names_films_of_any_name(tmp_path, name, table):
    (tmp_path / f"{name}.dcm").write_bytes(b"x")
    quoted = '"{}"'.format(f"{name}.dcm".replace('"', '""'))
    text = f"id,path\n1,{quoted}\n" if table else f"\n{name}.dcm\r\n"
    (tmp_path / f"list.{'csv' if table else 'txt'}").write_text(text, newline="")
    (film,) = list_inputs(f"{tmp_path}/list.{'csv' if table else 'txt'}").files
    assert film.path == f"{tmp_path}/{name}.dcm"


def test_a_home_folder_is_meant_only_where_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert paths.typed("~/a") == f"{tmp_path}/home/a"
    assert paths.typed("x/~/a") == paths.joined(str(tmp_path), "x/~/a") == f"{tmp_path}/x/~/a"
    assert paths.joined(str(tmp_path), "~/a") == f"{tmp_path}/~/a"
    assert paths.typed("file:///x/~") == paths.joined("/y", "file:///x/~") == "/x/~"
    assert paths.typed("//x/./y//z/") == "/x/y/z"
    (tmp_path / "far/deep").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far/deep")
    assert paths.typed("near/../x") == f"{tmp_path}/far/x", "above the target of the link"
    with pytest.raises(ValueError, match=r"--output is gs://b/x; expected a local path"):
        paths.typed_local("gs://b/x", "--output")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("../x", "the part '..'"),
        ("a/./x", "the part '.'"),
        ("a//x", "an empty part"),
        ("", "an empty part"),
        ("/x", "an absolute path"),
        ("file:///x", "an address"),
        ("a\0b", "a zero byte"),
        ("a::b/..c/~/.d", ""),
    ],
)
def test_a_name_from_a_file_stays_in_its_folder(key, why):
    assert why in paths.why_outside(key) and bool(why) == bool(paths.why_outside(key))
    if why:
        with pytest.raises(ValueError, match=f"would lie outside /out: .*{why}"):
            paths.inside("/out", key)
    else:
        assert paths.inside("/out", key) == f"/out/{key}"


def test_remote_keys_that_would_be_written_elsewhere_are_refused(monkeypatch):
    fs, odd = fsspec.filesystem("memory"), ["a//x.dcm", "../x.dcm", "p/../../x.dcm", "./x.dcm"]
    film = fsspec.implementations.memory.MemoryFile(fs, "x.dcm", b"x")
    monkeypatch.setattr(type(fs), "store", {f"/keys/{key}": film for key in (*odd, "good.dcm")})
    with pytest.raises(ValueError, match="4 films have a name that would lie outside"):
        list_inputs("memory://keys")


def test_remote_folders_that_cannot_be_read_are_an_error(monkeypatch):
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(type(fs), "store", {})
    fs.pipe({"/far/a.dcm": b"x", "/far/p/b.dcm": b"x"})
    monkeypatch.setattr(type(fs), "find", fsspec.AbstractFileSystem.find)  # as one of real folders
    assert len(list_inputs("memory://far").files) == 2
    ls = type(fs).ls

    def broken(self, path, **options):
        if path.endswith("/p"):
            raise OSError("connection lost")
        return ls(self, path, **options)

    monkeypatch.setattr(type(fs), "ls", broken)
    with pytest.raises(OSError, match="connection lost"):
        list_inputs("memory://far")


def test_globs_of_local_names(tmp_path):
    for name in ("f [1]/x.dcm", "f 1/x.dcm", "g::h/p/y.dcm", "g::h/.z/y.dcm", "g::h/p/.w.dcm",
                 "g::h/q/[z].dcm", "g::h/q/z.dcm"):  # fmt: skip
        files.write_whole(f"{tmp_path}/{name}", b"")
    (tmp_path / "g::h/p/loop").symlink_to(tmp_path / "g::h")
    (tmp_path / "g::h/p/round").symlink_to(tmp_path / "g::h/p")

    def found(pattern):
        films = list_inputs(f"{tmp_path}/{pattern}").files
        return [(film.path.removeprefix(f"{tmp_path}/"), film.key) for film in films]

    assert found("f [1]/*.dcm") == [("f [1]/x.dcm", "x")]
    assert found("f ?/*.dcm") == [("f 1/x.dcm", "f 1/x")]
    assert found("g::h/**/y*.dcm") == found("g::h/**/y*") == [("g::h/p/y.dcm", "p/y")]
    assert found("*/q/[z].dcm") == [("g::h/q/[z].dcm", "g::h/q/[z]")]
    assert found("*/**/[xy].dcm")[-1] == ("g::h/p/y.dcm", "g::h/p/y")


def test_pipes_sockets_and_devices_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("they are"))
    os.mkfifo(tmp_path / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket.dcm"))
    (tmp_path / "device.dcm").symlink_to("/dev/zero")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "pipe.dcm")
    for film in list_inputs(str(tmp_path)).files:
        why = load(film.path, "native", 64, None)
        assert isinstance(why, Rejected) and why.reason == "not_a_file", film
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(files.NotAFile, match="not a regular file"):
        list_inputs(f"{tmp_path}/list.txt")
