import json
import shutil

import numpy as np
import published
import pyarrow.parquet as pq
import pytest
from published import IDENTITY, IDS, Stopped, make_source, put, put_bytes, rows, vector
from running import is_intact, tree

from cxr_embeddings.heads import saved
from cxr_embeddings.input_pipeline import run_folder
from cxr_embeddings.input_pipeline.embeddings import relayout
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS, EmbeddingRecord
from cxr_embeddings.input_pipeline.embeddings.table import read_table

OUTSIDE = [
    *("gs://bucket/a.dcm", "C:/films/a.dcm", "/data//etc/a.dcm", "../a.dcm", "files/../../a.dcm"),
    *("/data/../etc/a.dcm", "files/./a.dcm", "files//a.dcm", "files/", ".partial/a.dcm"),
    *("files/.dcm", "a\0.dcm", "files\\..\\..\\a.dcm"),
]
LAYOUTS = ("per_image", "parquet")
BESIDE = {"manifest.json", "SHA256SUMS.txt"}
NONE_GIVEN_UP = {"films": 0, "after_tries": 3}


@pytest.fixture
def run(tmp_path):
    """Plays the command; `stop_after` leaves it, as a crash would, after so many films."""

    def play(source, folder, layout, stop_after=None, versions=None, refused=0):
        table = read_table(str(source), str(tmp_path / "cache"))
        versions = versions or {"cxr-embeddings": "1"}
        progress = published.progress(stop_after)
        before, left_out = relayout.publish(table, str(folder), layout, versions, progress)
        assert left_out == refused
        return before

    return play


def assert_same_rows(one, other, tmp_path):
    ids, embedding = rows(one, tmp_path / "cache")
    assert ids == sorted(IDS)
    assert embedding.tobytes() == np.stack([vector(i) for i in ids]).tobytes()
    found, again = rows(other, tmp_path / "cache")
    assert found == ids and again.tobytes() == embedding.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "made",
    [("sharded", "tfrecord"), ("sharded", "npz"), ("sharded", "parquet"), ("per_image", "npz")],
)
def test_the_copy_holds_the_same_ids_and_numbers(tmp_path, layout, made, run):
    source = make_source(tmp_path / "source", layout=made[0], format=made[1])
    assert run(source, tmp_path / "copy", layout) == 0
    assert_same_rows(source, tmp_path / "copy", tmp_path)
    assert is_intact(tmp_path / "copy")
    written = tree(tmp_path / "copy")
    assert len(written["SHA256SUMS.txt"].splitlines()) == len(written) - 1
    names = {"embeddings.parquet"}
    if layout == "per_image":
        names = {"skipped.csv", *(image_id.replace(".dcm", ".tfrecord") for image_id in IDS)}
        (record,) = FORMATS["tfrecord"].decode(written[IDS[4].replace(".dcm", ".tfrecord")])
        assert record.image_id == IDS[4]
    assert set(written) == names | BESIDE | {"rejected.csv"}


def test_a_table_is_written_by_row_groups(tmp_path, monkeypatch, run):
    monkeypatch.setattr(relayout, "ROW_GROUP_BYTES", 4 * 6 * 4)
    source = make_source(tmp_path / "source")
    run(source, tmp_path / "copy", "parquet")
    file = pq.ParquetFile(tmp_path / "copy" / "embeddings.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]
    assert str(file.schema_arrow.field("image_id").type) == "string"
    vectors = file.schema_arrow.field("embedding").type
    assert vectors.list_size == 6 and str(vectors.value_type) == "float"
    assert_same_rows(source, tmp_path / "copy", tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_films_that_were_given_up_are_named_in_the_copy(tmp_path, layout, run):
    source = make_source(tmp_path / "source", [*IDS, "gone.dcm"], failing="gone.dcm")
    for _ in range(2):
        with pytest.raises(ValueError, match="A film that fails each time is given up after 3 ru"):
            run(source, tmp_path / "copy", layout)
        make_source(source, [*IDS, "gone.dcm"], failing="gone.dcm")
    for copy in ("copy", "again"):
        run(source, tmp_path / copy, layout)
        manifest = json.loads((tmp_path / copy / "manifest.json").read_text())
        said = [manifest[key] for key in ("complete", "embedded", "given_up")]
        assert said == [True, 10, {"films": 1, "after_tries": 3}]
        expected = "image_id,reason,detail,tries\ngone.dcm,unreadable,No such file,3\n"
        assert (tmp_path / copy / "rejected.csv").read_text() == expected
        source = tmp_path / copy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_manifest_carries_what_made_the_embeddings(tmp_path, layout, run):
    source = make_source(tmp_path / "source")
    run(source, tmp_path / "copy", layout)
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert (manifest["complete"], manifest["embedded"]) == (True, 10)
    found = manifest["identity"]
    differing = {key for key in found.keys() | IDENTITY if found[key] != IDENTITY.get(key)}
    assert differing - {"format"} == {"layout", "source_digest"}
    (made_by,) = manifest["runs"]
    assert made_by["versions"] == {"cxr-embeddings": "1"}
    before = {"embedded": 10, "skipped": 0, "rejected": 0, "given_up": NONE_GIVEN_UP}
    before |= {"runs": [{"batch_size": 8}], "not_chest": 0}
    assert made_by["source"] == before
    table = read_table(str(tmp_path / "copy"))
    saved.check_encoder({"width": 6, "encoder": IDENTITY}, table.encoder, 6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stop_after", [1, 5, 10])
def test_stopped_anywhere_and_run_again_gives_the_same_folder(
    tmp_path, layout, stop_after, monkeypatch, run
):
    monkeypatch.setattr(relayout, "ROW_GROUP_BYTES", 1)
    source = make_source(tmp_path / "source")
    run(source, tmp_path / "whole", layout)
    with pytest.raises(Stopped):
        run(source, tmp_path / "stopped", layout, stop_after)
    assert not json.loads((tmp_path / "stopped/manifest.json").read_text())["complete"]
    assert run(source, tmp_path / "stopped", layout) == (0 if layout == "parquet" else stop_after)
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")
    assert not (tmp_path / "stopped/.partial").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_run_again_it_makes_what_is_missing_or_damaged(tmp_path, layout, run):
    source = make_source(tmp_path / "source")
    run(source, tmp_path / "copy", layout)
    before, films = tree(tmp_path / "copy"), layout == "per_image"
    assert run(source, tmp_path / "copy", layout) == 10 * films
    assert tree(tmp_path / "copy") == before
    name = next(n for n in before if n.endswith((".tfrecord", ".parquet")))
    for damaged in (b"", before[name][:-1], before[name][:60] + b"\0" + before[name][61:], None):
        (tmp_path / "copy" / name).unlink()
        if damaged is not None:
            (tmp_path / "copy" / name).write_bytes(damaged)
        assert run(source, tmp_path / "copy", layout) == 9 * films
        assert tree(tmp_path / "copy") == before
    unfinished = before["manifest.json"].replace(b'"complete": true', b'"complete": false')
    (tmp_path / "copy/manifest.json").write_bytes(unfinished)
    run(source, tmp_path / "copy", layout)
    assert tree(tmp_path / "copy") == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_folder_of_something_else_is_refused_and_stays(tmp_path, layout, run):
    source, copy = make_source(tmp_path / "source"), tmp_path / "copy"
    run(source, copy, layout)
    before = tree(copy)
    other = make_source(tmp_path / "other", weights_digest="xyz")
    with pytest.raises(ValueError, match="weights_digest: 'abc' there, 'xyz' asked for"):
        run(other, copy, layout)
    same_settings = make_source(tmp_path / "more", ids=[*IDS, "one/more.dcm"])
    with pytest.raises(ValueError, match=r"source_digest: .* there, .* asked for"):
        run(same_settings, copy, layout)
    with pytest.raises(ValueError, match=r"layout: .* there, .* asked for"):
        run(source, copy, next(name for name in LAYOUTS if name != layout))
    with run_folder.claim(str(copy)), pytest.raises(BlockingIOError, match="another run"):
        run(source, copy, layout)
    assert tree(copy) == before


@pytest.mark.parametrize("root", ["/data/films", "gs://bucket/films"])
def test_films_with_addresses_are_published_below_their_input(tmp_path, root, run):
    ids = [f"{root}/p10/{i}.dcm" for i in range(4)]
    source = make_source(tmp_path / "source", ids, input=root)
    run(source, tmp_path / "copy", "per_image")
    names = {n for n in tree(tmp_path / "copy") if n.endswith(".tfrecord")}
    assert names == {f"p10/{i}.tfrecord" for i in range(4)}
    assert rows(tmp_path / "copy", tmp_path / "cache")[0] == ids


@pytest.mark.parametrize(
    ("image_id", "input", "expected"),
    [
        ("files/p10/s5/a-b.dcm", "/data/mimic", "files/p10/s5/a-b"),
        ("files/1.2.840", "/data/mimic", "files/1.2.840"),
        ("a.b/c d.PNG", "", "a.b/c d"),
        ("/data/mimic/files/a.dcm", "/data/mimic/", "files/a"),
        ("/a.dcm", "/", "a"),
        ("gs://bucket/x/a.dcm", "gs://bucket", "x/a"),
        ("c:a\\b::\n.dcm", "", "c:a\\b::\n"),
    ],
)
def test_places(image_id, input, expected):
    assert relayout.place(image_id, input) == expected


@pytest.mark.parametrize(
    ("image_id", "input"),
    [
        ("/elsewhere/a.dcm", "/data"),
        ("/data2/a.dcm", "/data"),
        ("/data/x/a.dcm", "/data/*/a.dcm"),
        ("/a.dcm", ""),
        *((image_id, "/data") for image_id in OUTSIDE),
    ],
)
def test_places_outside_the_folder(image_id, input):
    with pytest.raises(ValueError, match=r"does not say where to publish it; expected a relative"):
        relayout.place(image_id, input)


def test_nothing_is_written_of_what_cannot_be_published(tmp_path, run):
    published.put(
        make_source(tmp_path / "source", IDS[:4], shards=1),
        "embeddings-train-00000-of-00001.tfrecord",
        *((i, vector(i)) for i in (*IDS[:3], "../a.dcm")),
    )
    with pytest.raises(ValueError, match="does not say where to publish it"):
        run(tmp_path / "source", tmp_path / "copy", "per_image")
    assert not (tmp_path / "copy").exists()


def test_remote_folders(tmp_path, run):
    import fsspec

    fs = fsspec.filesystem("memory")
    source = make_source(tmp_path / "source")
    fs.put(str(source) + "/", "/source", recursive=True)
    for layout in LAYOUTS:
        run("memory://source", f"memory://{layout}", layout)
        run("memory://source", f"memory://{layout}", layout)
        fs.get(f"/{layout}", str(tmp_path / layout), recursive=True)
        assert_same_rows(source, tmp_path / layout, tmp_path)
        fs.rm(f"/{layout}", recursive=True)
    fs.rm("/source", recursive=True)
    shutil.rmtree(source)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("made", ["sharded", "per_image"])
def test_names_of_any_characters_are_published_or_named(tmp_path, layout, made, run):
    """A copy leaves out what it cannot hold, says so, and is a source again."""
    fine = ["a::b.dcm", "new\nline.dcm", "cr\r.dcm", "back\\slash.dcm", " ~ .dcm"]
    bad = {}
    if made == "sharded" and layout == "per_image":
        bad["x" * 250 + ".dcm"] = "name_too_long"
    source = make_source(tmp_path / "source", [*fine, *bad], layout=made, format="npz")
    for done in (0, len(fine)):
        found = run(source, tmp_path / "copy", layout, refused=len(bad))
        assert found == (0 if layout == "parquet" else done)
    assert sorted(rows(tmp_path / "copy", tmp_path / "cache")[0]) == sorted(fine)
    dropped = run_folder.read_dropped(str(tmp_path / "copy"), "rejected")
    assert {row["image_id"]: row["reason"] for row in dropped} == bad
    assert run(tmp_path / "copy", tmp_path / "again", layout) == 0


SHARD = "embeddings-train-00001-of-00003.tfrecord"


def without_identity(folder):
    manifest = {"identity": {"storage": "png16"}, "runs": [], "complete": True}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def changed(**facts):
    def change(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | facts))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "that says what made its embeddings; expected"),
        (without_identity, "that says what made its embeddings; expected a folder"),
        (changed(complete=False), r"is not complete.*: run scripts/embed\.py on it again"),
        (changed(embedded=0), r"is not complete, or holds no embedding"),
        (lambda f: (f / SHARD).unlink(), "holds 7 embeddings, but its .* says 10"),
        (lambda f: put(f, "more.npz", ("one more", vector("x"))), "holds 11 embeddings, but"),
        (lambda f: put_bytes(f, SHARD, (f / SHARD).read_bytes()[:-1]), "1 records .* are damaged"),
        (lambda f: (f / SHARD).write_bytes((f / SHARD.replace("1-", "2-")).read_bytes()), "twice"),
    ],
)
def test_a_source_that_is_not_whole_is_refused(tmp_path, change, message, run):
    change(make_source(tmp_path / "source"))
    message = "has an embedding in" if message == "twice" else message
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "source", tmp_path / "copy", "parquet")
    assert not (tmp_path / "copy").exists()


def test_a_source_with_other_numbers_than_were_written_is_refused(tmp_path, run):
    records = [(i, vector(f"{i} ")) for i in IDS[1::3]]
    data = FORMATS["tfrecord"].encode([EmbeddingRecord(*record) for record in records])
    (make_source(tmp_path / "source") / SHARD).write_bytes(data)
    with pytest.raises(ValueError, match=f"{SHARD} is damaged: its SHA-256 is not the one in"):
        run(tmp_path / "source", tmp_path / "copy", "per_image")


@pytest.mark.parametrize("inner", ["", "/copy"])
def test_the_source_itself_is_not_written_to(tmp_path, inner, run):
    source = make_source(tmp_path / "source")
    before = tree(source)
    with pytest.raises(ValueError, match="lies in the folder of the embeddings"):
        run(source, f"{source}{inner}", "per_image")
    assert tree(source) == before
