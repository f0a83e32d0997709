import json

import numpy as np
import published
import pytest
from published import IDS, make_source, put, put_bytes, vector

from cxr_embeddings.input_pipeline.embeddings.verified import open_source, read_ids

SHARD = "embeddings-train-00001-of-00003.tfrecord"


def read(folder):
    return read_ids(open_source(str(folder)), published.progress())


@pytest.mark.parametrize("format", ["tfrecord", "npz", "parquet"])
def test_the_ids_of_every_file(tmp_path, format):
    ids = read(make_source(tmp_path, format=format))
    names = [f"embeddings-train-0000{j}-of-00003.{format}" for j in range(3)]
    assert ids == {name: IDS[j::3] for j, name in enumerate(names)}


def test_a_folder_without_embeddings(tmp_path):
    with pytest.raises(FileNotFoundError, match="no embeddings in"):
        open_source(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="do not exist"):
        open_source(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "manifest", [None, {"identity": {"storage": "png16"}, "runs": [], "complete": True}]
)
def test_a_folder_that_does_not_say_what_made_it(tmp_path, manifest):
    (make_source(tmp_path) / "manifest.json").unlink()
    if manifest:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="that says what made its embeddings; expected a folder"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("change", [{"complete": False}, {"embedded": 0}])
def test_an_incomplete_source_is_refused_with_what_to_do(tmp_path, change):
    make_source(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ValueError, match=r"not complete.*: run scripts/embed\.py again"):
        open_source(str(tmp_path))


def test_missing_and_foreign_shards_are_named(tmp_path):
    (make_source(tmp_path) / SHARD).rename(tmp_path / "other.tfrecord")
    with pytest.raises(ValueError, match=r"1 embedding files of .*other\.tfrecord, are not in its"):
        open_source(str(tmp_path))
    (tmp_path / "other.tfrecord").unlink()
    with pytest.raises(ValueError, match=f"1 embedding files of .*{SHARD}, are missing"):
        open_source(str(tmp_path))
    (tmp_path / "SHA256SUMS.txt").unlink()
    with pytest.raises(ValueError, match=r"2 embedding files .* not in its SHA256SUMS\.txt"):
        open_source(str(tmp_path))


def test_a_shard_that_is_not_the_one_written_is_named(tmp_path):
    whole = (make_source(tmp_path) / SHARD).read_bytes()
    other = (tmp_path / SHARD.replace("1-", "2-")).read_bytes()
    for damaged in (b"", whole[:-1], whole[:50] + b"\0" + whole[51:], other):
        (tmp_path / SHARD).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{SHARD} is damaged: its SHA-256"):
            read(tmp_path)


def test_a_damaged_record_is_refused_though_its_checksum_is_right(tmp_path):
    whole = (make_source(tmp_path) / SHARD).read_bytes()
    put_bytes(tmp_path, SHARD, whole[:-1])
    with pytest.raises(ValueError, match=f"{SHARD} holds a damaged record: records from byte"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("image_id", "numbers", "message"),
    [
        ("a.dcm", np.ones(5, np.float32), "5 numbers for 'a.dcm'.*; expected 6 finite ones"),
        ("a.dcm", np.full(6, np.nan, np.float32), "not finite; expected 6 finite ones"),
        ("a.dcm", np.array([1, 2, 3, 4, 5, np.inf], np.float32), "not finite"),
        ("", np.ones(6, np.float32), "a record without image id"),
    ],
)
def test_a_record_that_is_no_embedding_of_a_film(tmp_path, image_id, numbers, message):
    put(make_source(tmp_path), SHARD, ("sound.dcm", vector("sound.dcm")), (image_id, numbers))
    with pytest.raises(ValueError, match=f"{SHARD} holds .*{message}"):
        read(tmp_path)


@pytest.mark.parametrize("repeated", [IDS[0], IDS[1]])  # in another shard, and in this one
def test_repeated_ids_are_refused(tmp_path, repeated):
    records = [(i, vector(i)) for i in (*IDS[1::3], repeated)]
    put(make_source(tmp_path), SHARD, *records)
    with pytest.raises(ValueError, match=f"{repeated} has an embedding in .* and another in"):
        read(tmp_path)


@pytest.mark.parametrize(("ids", "count"), [(IDS[1:7:3], 9), ([*IDS[1::3], "one more.dcm"], 11)])
def test_the_number_of_embeddings_is_that_of_the_manifest(tmp_path, ids, count):
    put(make_source(tmp_path), SHARD, *((i, vector(i)) for i in ids))
    with pytest.raises(ValueError, match=f"holds {count} embeddings, .* says 10"):
        read(tmp_path)
