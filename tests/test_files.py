import gzip
import os

import fsspec
import pytest

from cxr_embeddings.common import files, paths, writing
from cxr_embeddings.input_pipeline.films.listing import list_inputs


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def keys(path, **options):
    return [film.key for film in list_inputs(str(path), **options).files]


def test_a_folder_is_searched_recursively_and_what_is_left_out_is_counted(tmp_path):
    touch(tmp_path, "b/2.dcm", "a/1.DCM", "a/scan", "a/1.2.840.113", "a/x.png", "a/.hidden.dcm")
    touch(tmp_path, "a/report.txt", "b/report.txt", "b/index.html", ".git/c.dcm")
    listing = list_inputs(str(tmp_path))
    assert [f.key for f in listing.files] == ["a/1", "a/1.2.840.113", "a/scan", "a/x", "b/2"]
    assert listing.files[0].path == str(tmp_path / "a/1.DCM")
    assert listing.ignored == {".txt": 2, ".html": 1}
    assert keys(tmp_path, limit=2) == ["a/1", "a/1.2.840.113"]
    assert keys(tmp_path / "b/2.dcm") == ["2"], "a film alone"


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "far/a.dcm", "near/b.dcm")
    (tmp_path / "near/link").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "near")
    (tmp_path / "near/same").symlink_to(tmp_path / "far")
    assert keys(tmp_path / "near") in (["b", "link/a"], ["b", "same/a"])


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".csv.gz"])
def test_lists_name_films_relative_to_themselves(tmp_path, suffix):
    touch(tmp_path, "files/p10/a.dcm", "files/p11/b.dcm")
    rows = ["files/p11/b.dcm", " files/p10/a.dcm\t", "files/p10/a.dcm"]
    text = "\n".join(rows if suffix == ".txt" else ["subject_id,path", *(f"1,{r}" for r in rows)])
    data = gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode()
    (tmp_path / f"list{suffix}").write_bytes(data)
    listing = list_inputs(str(tmp_path / f"list{suffix}"))
    assert [f.key for f in listing.files] == ["files/p10/a", "files/p11/b"]
    assert listing.repeated == 1


def test_a_list_of_films_elsewhere_keeps_their_common_tree(tmp_path):
    (tmp_path / "lists").mkdir()
    paths = [f"{tmp_path}/data/x/a.dcm", "../data/y/../y/b.dcm", f"{tmp_path}/data/xy/c.dcm"]
    (tmp_path / "lists/list.txt").write_text("\n".join(paths))
    assert keys(tmp_path / "lists/list.txt") == ["x/a", "xy/c", "y/b"]


def test_remote_addresses():
    fs = fsspec.filesystem("memory")
    for name in ("p10/a.dcm", "p11/b.dcm", "p11/.c.dcm", "p11/x.txt", ".d/e.dcm", "p::/f.dcm"):
        fs.pipe_file(f"/films/{name}", b"film")
    listing = list_inputs("memory://films")
    assert [f.key for f in listing.files] == ["p10/a", "p11/b", "p::/f"]
    assert files.read_bytes(listing.files[2].path) == files.read_range(listing.files[2].path, 0, 9)
    assert all(paths.is_remote(f.path) for f in listing.files)
    assert files.read_bytes(listing.files[0].path) == b"film"
    assert keys("memory://films/p1*/*.dcm") == ["p10/a", "p11/b"]
    fs.pipe_file("/films/list.txt", b"p11/b.dcm\np10/../p10/a.dcm\n")
    assert keys("memory://films/list.txt") == ["p10/a", "p11/b"]
    fs.rm("/films", recursive=True)


def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.dcm", "b/2.dcm")
    scandir = os.scandir

    def forbidden(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(PermissionError, match="Permission denied"):
        list_inputs(str(tmp_path))


def test_what_is_not_there_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("it is"))
    for path in ("memory://none", str(tmp_path / "none")):
        with pytest.raises(FileNotFoundError):
            files.read_bytes(path)


def test_what_keeps_failing_is_an_error_in_the_end(monkeypatch):
    waited, whys = [], iter("abcdefgh")
    monkeypatch.setattr(files.time, "sleep", waited.append)

    def read():
        raise OSError(next(whys))

    with pytest.raises(OSError, match="d"):
        files.retry(read)
    for seconds, planned in zip(waited, files.RETRY_SECONDS, strict=True):
        assert planned / 2 <= seconds <= planned * 1.5


def test_requester_pays_buckets_are_billed_to_the_project(monkeypatch):
    monkeypatch.setattr(fsspec.config, "conf", dict(fsspec.config.conf))
    monkeypatch.setenv("FSSPEC_GS_REQUESTER_PAYS", "")
    monkeypatch.delenv("FSSPEC_GS_REQUESTER_PAYS")
    for project in (None, "my-project"):
        paths.bill(project)
        assert fsspec.config.conf.get("gs", {}).get("requester_pays") == project
        assert os.environ.get("FSSPEC_GS_REQUESTER_PAYS") == project, "for decoders and workers"


def test_a_file_being_written_is_not_there_when_it_fails(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for path in (f"{tmp_path}/out/a.bin", "memory://written/a.bin"):
        with pytest.raises(KeyError), writing.whole_file(path, str(scratch)) as stream:
            stream.write(b"half of it")
            raise KeyError
        fs, inner = fsspec.core.url_to_fs(path)
        assert not fs.exists(inner)
        with writing.whole_file(path, str(scratch)) as stream:
            stream.write(b"all ")
            stream.write(b"of it")
        assert fs.cat_file(inner) == b"all of it"
    assert not list(scratch.iterdir())
