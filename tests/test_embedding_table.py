import errno
import os
import threading
import time

import fsspec
import numpy as np
import pytest
from published import IDENTITY, IDS, make_source
from published import vector as vector_of

from cxr_embeddings.common import files
from cxr_embeddings.common.identities import UNSAID
from cxr_embeddings.input_pipeline import tfrecord
from cxr_embeddings.input_pipeline.embeddings import formats
from cxr_embeddings.input_pipeline.embeddings import reader as embedding_files
from cxr_embeddings.input_pipeline.embeddings import table as embedding_table
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS, EmbeddingRecord
from cxr_embeddings.input_pipeline.embeddings.table import read_table

SHARD = "embeddings-train-00001-of-00003"
IN_SHARDS = [image_id for i in range(3) for image_id in IDS[i::3]]


def vector(seed, dim=6):
    return np.random.default_rng(seed).normal(size=dim).astype(np.float32)


def write(folder, name, *records):
    """Writes records, given as (image id, vector), into one file of the format its suffix says."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = FORMATS[path.suffix[1:]].encode
    path.write_bytes(encode([EmbeddingRecord(i, np.asarray(v, np.float32)) for i, v in records]))
    return path


def write_some(folder, suffix=".tfrecord"):
    """Five files of one film each."""
    return [write(folder, f"{i}{suffix}", (f"film {i}", vector(i))) for i in range(5)]


def example(**features):
    """A `tf.train.Example` of bytes and vectors as features."""
    named = {name.replace("image_", "image/"): value for name, value in features.items()}
    floats = {k: np.asarray(v, np.float32) for k, v in named.items() if not isinstance(v, bytes)}
    return tfrecord.encode_example(named | floats)


def framed(*payloads):
    return b"".join(part for payload in payloads for part in tfrecord.frame(payload))


def tables(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def assert_holds(table, ids, embedding):
    assert table.image_id.tolist() == list(ids)
    np.testing.assert_array_equal(table.embedding, embedding)


@pytest.fixture
def reads(monkeypatch):
    """The embedding files that were read, in the order in which that began."""
    names, read_bytes = [], files.read_bytes

    def counted(path):
        if formats.is_embedding_file(path):
            names.append(path)
        return read_bytes(path)

    monkeypatch.setattr(files, "read_bytes", counted)
    return names


@pytest.mark.parametrize("made", ["per_image npz", *(f"sharded {name}" for name in FORMATS)])
def test_every_layout_and_format_of_a_run_is_read(tmp_path, made):
    layout, format = made.split()
    make_source(tmp_path, layout=layout, format=format)
    table = read_table(str(tmp_path))
    ids = sorted(IDS) if layout == "per_image" else IN_SHARDS
    assert_holds(table, ids, [vector_of(image_id) for image_id in ids])
    assert isinstance(table.embedding, np.memmap) and not table.embedding.flags.writeable
    assert table.embedding.dtype == np.float32
    identity = IDENTITY | {"layout": layout, "format": format}
    assert (table.encoder, table.complete, table.rejected) == (identity, True, [])


def test_half_the_size_in_float16(tmp_path):
    write(tmp_path, "a.npz", ("x", [0.1, -65504]), ("nan", [1e9, np.nan]))
    half = read_table(str(tmp_path), dtype="float16").embedding
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, read_table(str(tmp_path)).embedding.astype(np.float16))
    with pytest.raises(ValueError, match="dtype is 'int8'; expected one of float32, float16"):
        read_table(str(tmp_path), dtype="int8")
    write(tmp_path, "b.npz", ("y", [1, 2]), ("z", [0, -65505]))
    with pytest.raises(ValueError, match=r"embedding of z holds 65505, .* choose dtype float32"):
        read_table(str(tmp_path), dtype="float16")
    assert len(read_table(str(tmp_path)).image_id) == 3


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({"image_id": b"gs://m/1.dcm", "image_format": b"png"}, "gs://m/1.dcm"),
        ({}, "p10/p1/s5/a-1"),
        ({"image_id": []}, "p10/p1/s5/a-1"),  # a feature of no bytes
    ],
)
def test_published_tfrecords_with_and_without_an_image_id(tmp_path, more, first):
    folder = tmp_path / "p10/p1/s5"
    folder.mkdir(parents=True)
    (folder / "a-1.tfrecord").write_bytes(framed(example(embedding=vector(1, 1376), **more)))
    (folder / "b-2.tfrecord").write_bytes(framed(example(embedding=vector(2, 1376))))
    (tmp_path / "SHA256SUMS.txt").write_text("")
    table = read_table(str(tmp_path))
    assert_holds(table, [first, "p10/p1/s5/b-2"], [vector(1, 1376), vector(2, 1376)])
    assert (table.encoder, table.complete) == (None, None)


def test_records_without_an_image_id_in_one_file_belong_to_nobody(tmp_path):
    np.savez(tmp_path / "a.npz", embedding=np.stack([vector(0), vector(1)]))
    (tmp_path / "b.tfrecord").write_bytes(
        framed(example(embedding=vector(2)), example(embedding=vector(3), image_id=b"known"))
    )
    table = read_table(str(tmp_path))
    assert_holds(table, ["known"], [vector(3)])
    why = "a record without an image id, in a file of several records"
    assert table.rejected == [(name, "damaged", why) for name in ("a.npz", "a.npz", "b.tfrecord")]


def test_what_is_read_and_what_is_left_alone(tmp_path, reads):
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    write(folder, "b.npz", ("b", vector(0)))
    write(folder, "x/a.tfrecord", ("a", vector(1)))
    for hidden in (".partial/c.npz", "x/.d.npz"):
        write(folder, hidden, ("hidden", vector(2)))
    (folder / "saved_model.pb").write_bytes(b"")
    write(elsewhere, "e.npz", ("e", vector(3)))
    links = {"in/loop": folder, "in/a link": folder / "x", "in/linked": elsewhere}
    for link, target in (links | {"elsewhere/back": folder}).items():
        (tmp_path / link).symlink_to(target, target_is_directory=True)
    assert_holds(read_table(str(folder)), "bea", [vector(0), vector(3), vector(1)])
    assert len(reads) == 3


def test_a_single_file(tmp_path, reads):
    make_source(tmp_path, format="parquet")
    for _ in range(2):
        table = read_table(str(tmp_path / f"{SHARD}.parquet"))
        assert_holds(table, IDS[1::3], [vector_of(image_id) for image_id in IDS[1::3]])
        assert table.encoder == IDENTITY | {"format": "parquet"}
        assert len(read_table(str(tmp_path)).image_id) == 10
        assert len(reads) == 4
    np.savez(tmp_path / "alone.npz", embedding=vector(0))
    assert read_table(str(tmp_path / "alone.npz")).image_id.tolist() == ["alone"]


def test_rows_are_in_order_whatever_the_threads_do(tmp_path, monkeypatch):
    ids = [f"{i}{x}" for i in range(40) for x in "ab"]
    for i in range(40):
        write(tmp_path, f"{i:02d}.npz", (f"{i}a", vector(2 * i)), (f"{i}b", vector(2 * i + 1)))
    expected = read_table(str(tmp_path))
    assert_holds(expected, ids, [vector(i) for i in range(80)])
    read_bytes, delay = files.read_bytes, np.random.default_rng(0)

    def slow(path):
        time.sleep(delay.uniform(0, 0.02))
        return read_bytes(path)

    monkeypatch.setattr(files, "read_bytes", slow)
    monkeypatch.setattr(embedding_files, "BLOCK_FILES", 1)
    table = read_table(str(tmp_path), cache=str(tmp_path / "other"))
    assert_holds(table, ids, expected.embedding)
    assert table.digest == expected.digest


def test_large_shards_are_not_held_together(tmp_path, monkeypatch):
    write_some(tmp_path, ".npz")
    running, most, read_bytes = [], [], files.read_bytes

    def watched(path):
        running.append(path)
        most.append(len(running))
        time.sleep(0.005)
        running.remove(path)
        return read_bytes(path)

    monkeypatch.setattr(files, "read_bytes", watched)
    monkeypatch.setattr(embedding_files, "BLOCK_BYTES", 100)
    monkeypatch.setattr(embedding_files, "BYTES_AHEAD", 100)
    assert read_table(str(tmp_path)).embedding.shape == (5, 6)
    assert max(most) == 1


def test_the_digest_is_of_the_ids_and_the_numbers(tmp_path):
    digests = []
    for name, image_id, seed in [("a", "x", 0), ("b", "x", 0), ("c", "y", 0), ("d", "x", 1)]:
        write(tmp_path / name, "1.npz", (image_id, vector(seed)))
        digests.append(read_table(str(tmp_path / name)).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert len(digests[0]) == 64


def test_a_second_start_reads_no_embedding_file(tmp_path, reads, capsys):
    make_source(tmp_path, layout="per_image")
    (tmp_path / "files/bad.npz").write_bytes(b"bad")
    first = read_table(str(tmp_path))
    assert len(reads) == 11
    assert "11/11 files" in capsys.readouterr().err
    second = read_table(str(tmp_path))
    assert len(reads) == 11
    assert capsys.readouterr().err == ""
    assert_holds(second, first.image_id, first.embedding)
    for name in ("digest", "encoder", "complete", "rejected"):
        assert getattr(second, name) == getattr(first, name)
    assert second.rejected == [("files/bad.npz", "damaged", "File is not a zip file")]


def test_any_change_makes_the_table_anew(tmp_path, reads):
    paths = write_some(tmp_path)

    def changed(**options):
        reads.clear()
        table = read_table(str(tmp_path), **options)
        return bool(reads), table

    assert changed()[0]
    write(tmp_path, "0.tfrecord", ("film 0", vector(9)))  # of the same size
    again, table = changed()
    assert again
    np.testing.assert_array_equal(table.embedding[0], vector(9))
    paths[1].unlink()
    assert changed()[1].image_id.tolist() == ["film 0", "film 2", "film 3", "film 4"]
    paths[2].rename(tmp_path / "7.tfrecord")
    assert changed()[1].image_id.tolist() == ["film 0", "film 3", "film 4", "film 2"]
    (tmp_path / "manifest.json").write_text(
        '{"identity": {"preset": "x"}, "runs": [], "complete": false}'
    )
    again, table = changed()
    assert again
    assert (table.encoder, table.complete) == ({"preset": "x"}, False)
    assert changed(dtype="float16")[0]
    assert not changed(dtype="float16")[0]
    assert not changed()[0]
    status = paths[0].stat()
    write(tmp_path, "0.tfrecord", ("film 0", vector(8)))
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))  # neither size nor time
    (tmp_path / "SHA256SUMS.txt").write_text(f"{'0' * 64}  0.tfrecord\n")
    np.testing.assert_array_equal(changed()[1].embedding[0], vector(8))
    np.testing.assert_array_equal(table.embedding[0], vector(9), "a table that is still open")


def test_one_cache_serves_several_folders_and_a_folder_moves_with_its_own(tmp_path, reads):
    for name in "ab":
        write(tmp_path / name, "1.npz", (name, vector(0)))
        read_table(str(tmp_path / name), cache=str(tmp_path / "cache"))
    read_table(str(tmp_path / "a"))
    reads.clear()
    for name in "ab":
        table = read_table(str(tmp_path / name), cache=str(tmp_path / "cache"))
        assert table.image_id.tolist() == [name]
    (tmp_path / "a").rename(tmp_path / "moved")
    assert read_table(str(tmp_path / "moved")).image_id.tolist() == ["a"]
    assert reads == []


def test_a_damaged_table_is_made_anew(tmp_path):
    write_some(tmp_path)
    ids = read_table(str(tmp_path)).image_id
    (name,) = tables(tmp_path / ".table")
    whole = (tmp_path / ".table" / name).read_bytes()
    for damaged in (b"", whole[:-1], whole[:50], whole[:-30] + bytes(30), whole[100:]):
        (tmp_path / ".table" / name).write_bytes(damaged)
        assert_holds(read_table(str(tmp_path)), ids, [vector(i) for i in range(5)])


def test_readers_at_once_wait_for_the_first_and_say_so(tmp_path, reads, capsys):
    write_some(tmp_path)
    found = []
    readers = [
        threading.Thread(target=lambda: found.append(read_table(str(tmp_path)))) for _ in range(4)
    ]
    (tmp_path / ".table").mkdir()
    with embedding_table.alone_in(str(tmp_path / ".table")):
        for thread in readers:
            thread.start()
        readers[0].join(0.2)
        assert readers[0].is_alive()
    for thread in readers:
        thread.join()
    assert len({table.digest for table in found}) == 1
    assert (len(found), len(reads)) == (4, 5)
    assert "waiting for it" in capsys.readouterr().err


def test_a_link_in_the_place_of_the_table_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_some(tmp_path / "films")
    (tmp_path / "films/.table").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"\.table is a link to .*elsewhere.*embeddings\.cache"):
        read_table(str(tmp_path / "films"))
    assert not tables(tmp_path / "elsewhere")


def test_a_file_that_cannot_be_read_is_no_damaged_file(tmp_path, monkeypatch):
    write_some(tmp_path)
    read_bytes = files.read_bytes

    def failing(path):
        if path.endswith("3.tfrecord"):
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(files, "read_bytes", failing)
    with pytest.raises(OSError, match=r"Input/output error: '.*/3\.tfrecord'"):
        read_table(str(tmp_path))
    assert tables(tmp_path / ".table") == []


def test_an_image_id_that_comes_twice_is_an_error(tmp_path):
    write(tmp_path, "a.npz", ("x", vector(0)), ("y", vector(1)), ("z", vector(2)))
    write(tmp_path, "b.tfrecord", ("x", vector(0)), ("z", vector(3)))
    message = (
        r"x has an embedding in a\.npz and in b\.tfrecord; in all 2 records repeat an image id, 1 "
        "of them with the same numbers"
    )
    with pytest.raises(ValueError, match=message):
        read_table(str(tmp_path))


def test_damaged_files_are_left_out_with_their_reasons(tmp_path):
    npz, parquet = (
        FORMATS[f].encode([EmbeddingRecord("x", vector(0))]) for f in ("npz", "parquet")
    )
    damaged = {
        "empty.npz": (b"", "not a zip file"),
        "cut.npz": (npz[:-9], "not a zip file"),
        "cut.parquet": (parquet[:-9], "Parquet magic bytes not found"),
        "cut.tfrecord": (framed(example(embedding=vector(0)))[:-1], "records from byte 0 on"),
        "short.tfrecord": (b"1234", "records from byte 0 on are lost: a damaged length"),
        "long.tfrecord": (framed(bytes(1))[:12] + b"x", "records from byte 0 on"),
        "other.tfrecord": (framed(b"\x07"), "the record at byte 0: no tf.train.Example"),
        "label.tfrecord": (framed(example(label=b"1")), "no floats `embedding` among label"),
        "nothing.tfrecord": (framed(b""), "no floats `embedding` among nothing"),
        "odd.tfrecord": (framed(example(embedding=[])), "no floats `embedding` among embedding"),
    }
    for name, value in {
        "nan.tfrecord": np.nan,
        "inf.tfrecord": np.inf,
        "-inf.npz": -np.inf,
    }.items():
        made = write(tmp_path, name, (name, [1, value]))
        damaged[name] = made.read_bytes(), "holds NaN or infinity"
    write_some(tmp_path)
    for name, (content, _) in damaged.items():
        (tmp_path / name).write_bytes(content)
    table = read_table(str(tmp_path))
    assert_holds(table, [f"film {i}" for i in range(5)], [vector(i) for i in range(5)])
    found = {one.image_id: one.detail for one in table.damaged}
    assert len(table.rejected) == len(found) == len(damaged)
    assert [name for name, (_, why) in damaged.items() if why not in found[name]] == []


def test_the_good_records_of_a_damaged_shard_are_kept(tmp_path):
    records = [example(embedding=vector(i), image_id=b"%d" % i) for i in range(6)]
    records[1] = example(image_id=b"1")
    content, start = bytearray(framed(*records)), len(framed(*records[:4]))
    content[start + 40] ^= 1
    (tmp_path / "x.tfrecord").write_bytes(content)
    table = read_table(str(tmp_path))
    assert_holds(table, "023", [vector(0), vector(2), vector(3)])
    first = f"the record at byte {len(framed(records[0]))}: no floats `embedding` among image/id"
    second = f"records from byte {start} on are lost: cut short or damaged"
    assert table.rejected == [("x.tfrecord", "damaged", why) for why in (first, second)]


def test_a_run_goes_on_in_a_folder_with_a_table(tmp_path):
    for failing, films in ((IDS[3], 9), ("", 10)):
        make_source(tmp_path, failing=failing)
        table = read_table(str(tmp_path))
        assert (len(table.image_id), table.complete) == (films, not failing)


def test_remote_folders(tmp_path, reads):
    fs = fsspec.filesystem("memory")
    make_source("memory://table")
    fs.pipe_file("/table/.hidden/x.npz", b"")
    with pytest.raises(ValueError, match=r"is remote: pass --config\.embeddings\.cache=FOLDER"):
        read_table("memory://table")
    with pytest.raises(ValueError, match="the cache memory://c is remote; expected a local"):
        read_table("memory://table", cache="memory://c")
    reads.clear()
    for _ in range(2):
        table = read_table("memory://table", cache=str(tmp_path))
        assert_holds(table, IN_SHARDS, [vector_of(image_id) for image_id in IN_SHARDS])
        assert table.encoder == IDENTITY
        assert len(reads) == 3
    name = f"{SHARD}.tfrecord"
    alone = read_table(f"memory://table/{name}", cache=str(tmp_path))
    assert alone.image_id.tolist() == IDS[1::3]
    fs.pipe_file(f"/table/{name}", fs.cat_file(f"/table/{name}"))
    reads.clear()
    read_table("memory://table", cache=str(tmp_path))
    assert len(reads) == 3
    fs.pipe_file("/table/x/published.tfrecord", framed(example(embedding=vector(0))))
    assert read_table("memory://table", cache=str(tmp_path)).image_id[-1] == "x/published"
    fs.rm("/table", recursive=True)
    with pytest.raises(FileNotFoundError, match="no embeddings in memory://table"):
        read_table("memory://table", cache=str(tmp_path))


def test_names_that_are_not_utf8_are_left_out_and_named(tmp_path):
    write_some(tmp_path)
    np.savez(tmp_path / "\udcff.npz", embedding=vector(0))
    for _ in range(2):
        table = read_table(str(tmp_path))
        assert len(table.image_id) == 5
        why = r"the image id '\udcff' is not UTF-8: rename the film"
        assert table.rejected == [(r"\udcff.npz", "damaged", why)]


def two_folders(tmp_path, **other):
    """Folders whose names hold a comma and a blank, of the halves of the films; and a list."""
    folders = [tmp_path / "site a,b", tmp_path / "c"]
    make_source(folders[0], IDS[:5], input="/a", views=["AP", "PA"])
    make_source(folders[1], IDS[5:], "npz", **{"input": "/b", "views": ["LL"]} | other)
    (tmp_path / "list.txt").write_text(f"site a,b\n\n{folders[1]}\n")
    return [str(folder) for folder in folders]


@pytest.mark.parametrize("listed", [False, True])
def test_folders_of_one_encoder_are_one_table(tmp_path, reads, listed):
    folders = two_folders(tmp_path)
    asked = str(tmp_path / "list.txt") if listed else folders
    table = read_table(asked)
    assert sorted(table.image_id) == sorted(IDS)
    assert_holds(table, table.image_id, [vector_of(image_id) for image_id in table.image_id])
    of_films = {"input", "format"}
    shared = {name: value for name, value in IDENTITY.items() if name not in of_films}
    assert table.encoder == shared | UNSAID | {"views": ["AP", "LL", "PA"]}
    assert table.complete is True and isinstance(table.embedding, np.memmap)
    read = len(reads)
    assert read_table(asked).digest == table.digest and len(reads) == read, "mapped, not read"
    assert read_table(folders[0]).encoder["input"] == "/a"


def test_views_are_all_where_one_folder_has_all_and_no_manifest_is_unknown(tmp_path):
    assert read_table(two_folders(tmp_path, views=None)).encoder["views"] is None
    folders = [tmp_path / name for name in ("x", "y")]
    for folder in folders:
        write(folder, "1.npz", (f"{folder.name}/film", vector(1)))
    table = read_table([str(folder) for folder in folders])
    assert (table.encoder, table.complete, len(table.image_id)) == (None, None, 2)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            "encoder",
            "are of different encoders, .*\n  preset: 'native' in the first, 'imagenet' in",
        ),
        ("version", "preset_version: 1 in the first, 2 in the second"),
        ("manifest", r"no manifest.json says which encoder made the embeddings in .*/c,"),
        ("twice", "are one place: name it once"),
        ("film", r"film 1 has an embedding in .*/d/x.npz and in .*/e/x.npz; in all 1 records"),
        ("list", "found no folder of embeddings in .*list.txt"),
    ],
)
def test_folders_that_are_no_one_table(tmp_path, harm, message):
    other = {"encoder": {"preset": "imagenet"}, "version": {"preset_version": 2}}.get(harm, {})
    folders = two_folders(tmp_path, **other)
    if harm == "manifest":
        (tmp_path / "c/manifest.json").unlink()
    elif harm == "twice":
        folders.append(f"{folders[0]}/")
    elif harm == "film":
        for i, name in enumerate(("d", "e")):
            write(tmp_path / name, "x.npz", ("film 1", vector(1)))
            folders[i] = str(tmp_path / name)
    elif harm == "list":
        (tmp_path / "list.txt").write_text("\n")
        folders = str(tmp_path / "list.txt")
    with pytest.raises(ValueError, match=message):
        read_table(folders)
