import contextlib
import csv
import errno
import fcntl
import json
import shutil

import numpy as np
import pytest
from running import is_intact, tree

from cxr_embeddings.common import files
from cxr_embeddings.input_pipeline import run_folder
from cxr_embeddings.input_pipeline.embeddings import output_plan, writer
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS
from cxr_embeddings.input_pipeline.films.film import InputFile, Rejected, Skipped

FILMS = [InputFile(f"/in/p{i % 3}/{i:02d}.dcm", f"p{i % 3}/{i:02d}") for i in range(10)]
IDENTITY = {"weights": "abc", "preset": "native", "views": ("AP", "PA")}


def vector(film):
    return np.full(4, int(film.key[-2:]), np.float32)


def outcome(film):
    if film.key.endswith("3"):
        return Rejected("truncated", "12 of 20 bytes")
    return Skipped("view", "LATERAL") if film.key.endswith("4") else vector(film)


def run(
    folder,
    layout="per_image",
    format="tfrecord",
    stop_after=None,
    films=FILMS,
    details=None,
    **identity,
):
    """Plays a run; `stop_after` leaves it, as a crash would, after so many films."""
    planned = output_plan.plan(films, layout, format, shards=3)
    with writer.open_run(str(folder), planned, IDENTITY | identity, details or {}) as opened:
        for film in opened.todo[:stop_after]:
            opened.add(film, outcome(film))
        if stop_after is None:
            opened.finish()
        return opened


def test_one_file_a_film_beside_manifest_tables_and_checksums(tmp_path):
    run(tmp_path)
    written = tree(tmp_path)
    tables = {"manifest.json", "rejected.csv", "skipped.csv", "SHA256SUMS.txt"}
    expected = {f"{f.key}.tfrecord" for f in FILMS if f.key[-1] not in "34"}
    assert set(written) == expected | tables
    (record,) = FORMATS["tfrecord"].decode(written["p1/01.tfrecord"])
    assert record.image_id == "/in/p1/01.dcm"
    np.testing.assert_array_equal(record.embedding, vector(FILMS[1]))
    rows = list(csv.reader(written["rejected.csv"].decode().splitlines()))
    assert rows == [
        ["image_id", "reason", "detail", "tries"],
        [FILMS[3].path, "truncated", "12 of 20 bytes", ""],
    ]
    rows = list(csv.reader(written["skipped.csv"].decode().splitlines()))
    assert rows[1:] == [[FILMS[4].path, "view", "LATERAL"]]
    manifest = json.loads(written["manifest.json"])
    counts = {k: manifest[k] for k in ("complete", "embedded", "skipped", "rejected")}
    assert counts == {"complete": True, "embedded": 8, "skipped": 1, "rejected": 1}
    assert is_intact(tmp_path)
    assert len(written["SHA256SUMS.txt"].splitlines()) == len(written) - 1


@pytest.mark.parametrize("format", FORMATS)
def test_shards_hold_their_films_in_order(tmp_path, format):
    run(tmp_path, "sharded", format)
    names = sorted(n for n in tree(tmp_path) if n.startswith("embeddings-"))
    suffix = FORMATS[format].suffix
    assert names == [f"embeddings-0000{i}-of-00003{suffix}" for i in range(3)]
    ids = [r.image_id for n in names for r in FORMATS[format].decode(tree(tmp_path)[n])]
    assert ids == [f.path for f in FILMS if f.key[-1] not in "34"]


@pytest.mark.parametrize("layout", output_plan.LAYOUTS)
@pytest.mark.parametrize("stop_after", range(11))
def test_stopped_anywhere_and_run_again_gives_the_same_folder(tmp_path, layout, stop_after):
    run(tmp_path / "whole", layout)
    run(tmp_path / "stopped", layout, stop_after=stop_after)
    assert not json.loads((tmp_path / "stopped/manifest.json").read_text())["complete"]
    again = run(tmp_path / "stopped", layout)
    assert again.done + len(again.todo) == len(FILMS)
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")


def test_a_film_that_can_be_read_at_last_joins_its_shard(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "outcome", lambda film: Rejected("unreadable", ""))
    run(tmp_path / "late", "sharded")
    monkeypatch.undo()
    run(tmp_path / "late", "sharded")
    run(tmp_path / "once", "sharded")
    assert tree(tmp_path / "late") == tree(tmp_path / "once")


@pytest.mark.parametrize("layout", output_plan.LAYOUTS)
def test_damaged_outputs_are_made_again(tmp_path, layout):
    run(tmp_path, layout)
    whole = tree(tmp_path)
    name = next(n for n in whole if n.endswith(".tfrecord"))
    for damage in (b"", whole[name][:-3], whole[name][:20] + b"\0" + whole[name][21:]):
        (tmp_path / name).write_bytes(damage)
        assert run(tmp_path, layout).damaged == 1 or (damage == b"" and layout == "sharded")
        assert tree(tmp_path) == whole
    (tmp_path / name).write_bytes(b"cut")
    assert run(tmp_path, layout, stop_after=0).damaged == 1
    assert not (tmp_path / name).exists(), "it is removed at once"


def test_the_manifest_names_every_kind_of_run_that_made_something(tmp_path, monkeypatch):
    def runs():
        return json.loads((tmp_path / "manifest.json").read_text())["runs"]

    first = {"version": 1, "input": "caf\udce9"}
    run(tmp_path, stop_after=4, details=first)
    run(tmp_path, stop_after=1, details=first)
    run(tmp_path, details={"version": 2})
    made = [{"version": 1, "input": r"caf\udce9"}, {"version": 2}]
    assert runs() == made
    run(tmp_path, details={"version": 3})
    assert runs() == made, "the third run made nothing"
    monkeypatch.setitem(globals(), "outcome", lambda film: Rejected("unreadable", ""))
    run(tmp_path, details={"version": 4})
    assert runs() == made, "nor did the fourth, which is incomplete"


@pytest.mark.parametrize("failure", [ImportError("pyarrow is broken"), MemoryError()])
def test_a_reader_that_fails_for_another_reason_costs_no_output(tmp_path, monkeypatch, failure):
    run(tmp_path, "sharded", "parquet")
    before = tree(tmp_path)

    def broken(_):
        raise failure

    monkeypatch.setitem(FORMATS, "parquet", FORMATS["parquet"]._replace(decode=broken))
    with pytest.raises(type(failure)):
        run(tmp_path, "sharded", "parquet")
    assert tree(tmp_path) == before


def test_a_film_is_given_up_after_some_runs_that_ended_and_may_still_come_back(tmp_path):
    def one(reason, **options):
        """Plays a run in which one film fails; gives the manifest and the film's row."""
        bad = FILMS[3].path
        with pytest.MonkeyPatch.context() as patch:
            why = Rejected(reason, "") if reason else vector(FILMS[3])
            patch.setitem(globals(), "outcome", lambda f: why if f.path == bad else vector(f))
            run(tmp_path, **options)
        rows = run_folder.read_dropped(str(tmp_path), "rejected")
        assert len(rows) == bool(reason)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        found = [manifest[k] for k in ("complete", "retryable", "given_up")] if reason else []
        return *found, *(row["tries"] for row in rows)

    def given_up(films):
        return {"films": films, "after_tries": 3}

    assert one("unreadable") == (False, 1, given_up(0), "1")
    assert one("crashed") == (False, 1, given_up(0), "2")
    with pytest.raises(KeyError):  # the manifest of a run that was stopped has no counts
        one("crashed", stop_after=1)
    assert one("crashed") == (True, 0, given_up(1), "3")
    assert one("crashed") == (True, 0, given_up(1), "4")
    assert one("truncated") == (True, 0, given_up(0), "")
    assert one("crashed") == (False, 1, given_up(0), "1")
    (tmp_path / "rejected.csv").write_text("image_id,reason,detail\n/in/p0/03.dcm,crashed,\n")
    assert one("crashed")[3] == "2", "a table of an earlier version, which has no tries"
    (tmp_path / "rejected.csv").unlink()
    assert one("crashed")[3] == "1"
    with pytest.MonkeyPatch.context() as patch:  # where so many fail, it is not for the films
        patch.setattr(run_folder, "OUTAGE", 0)
        assert one("unreadable") == (False, 1, given_up(0), "1")
    assert one(None) == ()


def test_a_stranger_manifest_is_refused(tmp_path):
    for content in ("", "[]", '{"name": "web app"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=r"manifest\.json: .* is not a manifest of this"):
            run(tmp_path)


def test_another_identity_is_refused_and_named(tmp_path):
    run(tmp_path, stop_after=5)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="weights: 'abc' there, 'xyz' asked for"):
        run(tmp_path, weights="xyz")
    with pytest.raises(ValueError, match="preset: 'native' there, 'imagenet' asked for"):
        run(tmp_path, preset="imagenet")
    with pytest.raises(ValueError, match="preset_version: 1 there, 2 asked for"):
        run(tmp_path, preset_version=2)
    assert tree(tmp_path) == before
    run(tmp_path, preset_version=1)  # what a manifest means that does not say


def test_other_films_are_refused(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(ValueError, match=r"3 files that this run would not make, such as"):
        run(tmp_path / "a", films=FILMS[:7])
    run(tmp_path / "b", "sharded")
    with pytest.raises(ValueError, match="which this run would not put there"):
        run(tmp_path / "b", "sharded", films=FILMS[:7])
    run(tmp_path / "c", films=FILMS[:7])
    assert run(tmp_path / "c").done == 5, "more films of the same input may follow"
    (tmp_path / "c/manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds 8 files .*no manifest\.json says what made"):
        run(tmp_path / "c")


def test_two_runs_at_once_are_refused(tmp_path):
    with run_folder.claim(str(tmp_path)), pytest.raises(BlockingIOError, match="another run"):
        run(tmp_path)
    run(tmp_path)


def test_the_lock_of_a_run_that_ends_meanwhile_is_not_taken_for_ours(tmp_path, monkeypatch):
    """The last owner removes the lock file between another's opening it and locking it."""
    flock, ending = fcntl.flock, contextlib.ExitStack()
    ending.enter_context(run_folder.claim(str(tmp_path)))

    def late(*arguments):
        ending.close()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with run_folder.claim(str(tmp_path)):
        with pytest.raises(BlockingIOError, match="another run"):
            run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run(tmp_path)
    assert "has no locks (No locks available): make sure that no other" in capsys.readouterr().err


@pytest.mark.parametrize("link", [".partial", ".lock", ".table", "p1", "p0/deep", "manifest.json"])
def test_links_that_lead_out_of_the_folder_are_refused(tmp_path, link):
    """They were followed, and the files where they lead removed as leftovers."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "out"
    (elsewhere / "sub").mkdir(parents=True)
    (elsewhere / "sub/precious").write_text("years of work")
    run(folder)
    (folder / "p0").mkdir(exist_ok=True)
    shutil.rmtree(folder / "p1")
    (folder / "manifest.json").rename(folder / "p0/manifest.json")
    (folder / link).symlink_to(elsewhere / "sub/precious" if "." in link[1:] else elsewhere / "sub")
    with pytest.raises(ValueError, match=rf"{link} is a link to {elsewhere}.*: remove the link"):
        run(folder)
    assert tree(elsewhere) == {"sub/precious": b"years of work"}
    (folder / link).unlink()
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be one, and links within it
    (folder / "p9").symlink_to(folder / "p0")
    with run_folder.claim(str(tmp_path / "link")):
        pass


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".partial/folder").mkdir(parents=True)
    (tmp_path / ".partial/folder/file").write_text("half")
    (tmp_path / ".lock").write_text("")
    run(tmp_path)
    assert not [name for name in tree(tmp_path) if name.startswith(".")]


def test_a_full_disk_stops_the_run_and_what_is_there_stays_whole(tmp_path, monkeypatch):
    write_whole, written = files.write_whole, []

    def full(path, data, scratch):
        written.append(path)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write_whole(path, data, scratch)

    monkeypatch.setattr(files, "write_whole", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(tmp_path)
    monkeypatch.undo()
    again = run(tmp_path)
    assert (again.done, again.damaged) == (3, 0)
    assert len(list(tmp_path.rglob("*.tfrecord"))) == 8 and is_intact(tmp_path)


@pytest.mark.parametrize(
    ("keys", "why"),
    [("aa", "would write one output, a.npz"), (("a", "a.npz/b"), "needs as a folder")],
)
def test_two_films_of_one_place_are_refused(keys, why):
    films = [InputFile(f"/in/{i}.dcm", key) for i, key in enumerate(keys)]
    with pytest.raises(ValueError, match=why):
        output_plan.plan(films, "per_image", "npz", shards=1)
    assert output_plan.plan(films, "sharded", "npz", shards=1)


@pytest.mark.parametrize(("layout", "format"), [("per_image", "npz"), ("sharded", "parquet")])
@pytest.mark.parametrize("fine", [["a", "new\nline", "back\\slash\r", "x" * 251, "y/" * 99], []])
def test_names_that_no_output_can_hold_are_rejected_from_the_start(tmp_path, layout, format, fine):
    expected = {"caf\udce9": "name_not_utf8"}
    if layout == "per_image":
        expected |= dict.fromkeys(("x" * 252, "z/" * 2100 + "z"), "name_too_long")
    names = [name.rstrip("/") for name in [*fine, *expected]]
    films = [InputFile(f"/in/{name}.dcm", name) for name in names]
    kept, refused = output_plan.part_out(films, str(tmp_path / "not" / "there"), layout, format)
    assert {film.key: why.reason for film, why in refused.items()} == expected
    planned, identity = output_plan.plan(kept, layout, format, shards=1), {"input": "caf\udce9"}
    for done in (0, len(fine)):
        with writer.open_run(str(tmp_path), planned, identity, {}, refused=refused) as opened:
            assert opened.done == done
            for film in opened.todo:
                opened.add(film, np.ones(4, np.float32))
            counts = opened.finish()
        said = [counts[name] for name in ("embedded", "rejected", "retryable")]
        assert said == [len(fine), len(refused), 0]
    rejected = run_folder.read_dropped(str(tmp_path), "rejected")
    assert {r["image_id"][4:-4]: r["reason"] for r in rejected} == expected
    assert is_intact(tmp_path)
