"""Stores of prepared films: planned, written by Beam, stopped, damaged, finished and read."""

import collections
import csv
import dataclasses
import errno
import functools
import gzip
import json
import os
import random
import re
import shutil

import fsspec
import mimic_store
import numpy as np
import pytest
from running import is_intact, tree

from cxr_embeddings.common import files
from cxr_embeddings.input_pipeline.films.decode import load
from cxr_embeddings.input_pipeline.films.film import Rejected
from cxr_embeddings.input_pipeline.mimic import selection
from cxr_embeddings.input_pipeline.store import dataset as store
from cxr_embeddings.input_pipeline.store import shards

SIZE, FILMS = 24, 40  # those of the fixture `mimic`

make = functools.partial(mimic_store.make, size=SIZE, films_per_shard=8)


@pytest.fixture(scope="module")
def whole(mimic, tmp_path_factory):
    """A store that Beam wrote; `make` writes the others without it."""
    folder = tmp_path_factory.mktemp("store") / "mimic_cxr" / "1.0.0"
    return str(folder), make(mimic, folder, write=mimic_store.write_by_beam)


@pytest.fixture
def copied(whole, tmp_path):
    """A store of one's own to do harm to."""
    shutil.copytree(whole[0], tmp_path / "copy")
    return tmp_path / "copy"


def rows(folder, name):
    with open(f"{folder}/{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def mimic_rows(mimic, name):
    with gzip.open(next(mimic.glob(f"*{name}.csv.gz")), "rt", newline="") as file:
        return list(csv.DictReader(file))


def all_batches(opened, left_out=(), size=8):
    wanted = {film for films in opened.shards.values() for film in films}.difference(left_out)
    return list(store.batches(opened, list(opened.shards), size, wanted))


def test_every_listed_film_is_somewhere(mimic, whole):
    folder, outcome = whole
    kinds = {name: rows(folder, name) for name in ("films", "skipped", "rejected")}
    found = [row["image_id"] for some in kinds.values() for row in some]
    assert sorted(found) == sorted(row["path"] for row in mimic_rows(mimic, "record-list"))
    manifest = json.loads(files.read_bytes(f"{folder}/manifest.json"))
    counts = [manifest[name] for name in ("written", "skipped", "rejected")]
    assert counts == [len(some) for some in kinds.values()]
    assert sum(counts) == manifest["listed"] == len(found)
    assert (manifest["complete"], manifest["retryable"], outcome.before) == (True, 0, 0)
    assert sum(outcome.written.values()) == manifest["written"] == FILMS
    assert outcome.differences == [] and is_intact(folder)


def test_the_columns_are_those_of_the_tables(mimic, whole):
    split = {row["dicom_id"]: row["split"] for row in mimic_rows(mimic, "split")}
    metadata = {row["dicom_id"]: row for row in mimic_rows(mimic, "metadata")}
    for row in rows(whole[0], "films"):
        dicom_id = row["image_id"].rpartition("/")[2].removesuffix(".dcm")
        said = [metadata[dicom_id][name] for name in ("subject_id", "study_id", "ViewPosition")]
        assert [row[name] for name in ("patient_id", "study_id", "view_position")] == said
        assert row["split"] == split[dicom_id]
        assert row["shard"].startswith(f"mimic_cxr-{row['split']}.tfrecord-")


@pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS'
def test_tfds_reads_what_we_prepared(mimic, whole):
    import tensorflow_datasets as tfds

    folder, outcome = whole
    by_id = {row["image_id"]: row for row in rows(folder, "films")}
    builder = tfds.builder_from_directory(folder)
    assert builder.info.full_name == "mimic_cxr/1.0.0"
    loaded = tfds.load("mimic_cxr", data_dir=folder.rpartition("/mimic_cxr/")[0])
    assert {name: len(split) for name, split in loaded.items()} == dict(outcome.written)
    for split in loaded.values():
        for example in tfds.as_numpy(split):
            image_id = example["image_id"].decode()
            row = by_id.pop(image_id)
            for column in ("patient_id", "study_id", "view_position"):
                assert example[column].decode() == row[column]
            exact = load(f"{mimic}/{image_id}", "native", SIZE, None).image
            assert example["image"].dtype == np.uint16
            assert np.abs(example["image"] / 65535 - exact).max() <= 0.51 / 65535
    assert not by_id


@pytest.mark.parametrize(("storage", "step"), [("png16", 65535), ("png8", 255), ("jpeg95", 10)])
def test_batches_give_the_films_back(mimic, tmp_path, storage, step, monkeypatch):
    import tensorflow as tf

    tuned, start = [], tf.data.Dataset.as_numpy_iterator

    def noted(dataset):
        tuned.append(dataset.options().autotune.enabled)
        return start(dataset)

    monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", noted)
    make(mimic, tmp_path / "s", storage=storage)
    opened = store.open_store(str(tmp_path / "s"))
    wanted = {film for films in opened.shards.values() for film in films}
    left_out = min(wanted, key=lambda film: film.path)
    batches = all_batches(opened, [left_out], size=6)
    assert [len(batch.films) for batch in batches] == [6] * 6 + [3]
    assert {film for batch in batches for film in batch.films} == wanted - {left_out}
    for batch in batches:
        assert (batch.image.shape, batch.image.dtype) == ((6, SIZE, SIZE, 1), np.float32)
        for film, image in zip(batch.films, batch.image, strict=False):
            exact = load(f"{mimic}/{film.path}", "native", SIZE, None).image
            assert np.abs(image - exact).max() <= 0.51 / step
    assert not batches[-1].image[3:].any()
    again = all_batches(opened, [left_out], size=6)
    assert [b.films for b in again] == [b.films for b in batches], "always the same order"
    assert tuned == [False, False], "a tuner sleeps up to a minute, and the last batch waits for it"


def test_shards_are_cut_by_a_hash_and_evenly(tmp_path):
    films = [
        selection.FilmRecord(f"/in/{i}.dcm", f"{i}.dcm", str(i // 4), "", split, None, None)
        for split, count in (("train", 50), ("test", 3))
        for i in range(count)
    ]
    planned = shards.plan(films, "cxr", films_per_shard=20)
    assert [(s.name, len(s.films)) for s in planned] == [
        ("cxr-test.tfrecord-00000-of-00001", 3),
        ("cxr-train.tfrecord-00000-of-00003", 16),
        ("cxr-train.tfrecord-00001-of-00003", 17),
        ("cxr-train.tfrecord-00002-of-00003", 17),
    ]
    assert planned == shards.plan(films[::-1], "cxr", films_per_shard=20), "whatever the order"
    patients = [film.patient_id for film in planned[1].films]
    assert patients != sorted(patients), "neighbours should not be of one patient"
    assert collections.Counter(f for s in planned for f in s.films) == collections.Counter(films)
    plan, places = shards.encode_plan(planned)
    (tmp_path / ".shards").mkdir()
    (tmp_path / shards.PLAN).write_bytes(plan)
    assert [shards.read_shard(str(tmp_path), *place) for place in places] == planned


def test_a_broken_run_goes_on_with_what_is_missing(mimic, whole, tmp_path, monkeypatch):
    expected = tree(whole[0])
    write_shard, written = shards.write_shard, []

    def failing(settings, shard, films):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(shard.name)
        return write_shard(settings, shard, films)

    monkeypatch.setattr(shards, "write_shard", failing)
    with pytest.raises(OSError, match=r"No space left on device.*continues from here"):
        make(mimic, tmp_path / "s", write=mimic_store.write_by_beam)
    assert not os.path.exists(tmp_path / "s/dataset_info.json")
    with pytest.raises(ValueError, match=r"is not finished: run scripts/preprocess\.py again"):
        store.open_store(str(tmp_path / "s"))
    before = list(written)
    written.append("no more failures")
    outcome = make(mimic, tmp_path / "s")
    assert not set(before) & set(written[3:]), "no shard is made twice"
    assert 0 < outcome.before < FILMS
    assert tree(tmp_path / "s") == expected


@pytest.mark.parametrize("harm", ["cut", "gone", "summary cut", "summary gone", "clock"])
def test_what_is_damaged_is_made_again_and_nothing_else(mimic, whole, copied, harm, monkeypatch):
    name = sorted(n for n in os.listdir(copied) if ".tfrecord-" in n)[1]
    shard, summary = copied / name, copied / ".shards" / f"{name}.json"
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif harm == "gone":
        shard.unlink()
    elif harm == "summary cut":
        summary.write_bytes(summary.read_bytes()[:-5])
    elif harm == "summary gone":
        summary.unlink()
    else:  # file times from the past and the future say nothing
        os.utime(shard, (4e9, 4e9))
        os.utime(summary, (0, 0))
    made = []
    write_shard = shards.write_shard

    def noted(settings, shard, films):
        assert not (copied / "dataset_info.json").exists(), "TFDS would read it by old lengths"
        made.append(shard.name)
        return write_shard(settings, shard, films)

    monkeypatch.setattr(shards, "write_shard", noted)
    make(mimic, copied)
    assert made == ([] if harm == "clock" else [name])
    assert tree(copied) == tree(whole[0])


def test_films_that_may_come_back_are_tried_again_and_given_up_in_the_end(mimic, tmp_path):
    listed = selection.list_films(str(mimic))
    gone = listed.films[3]
    shutil.copytree(mimic, tmp_path / "in")
    os.rename(tmp_path / "in" / gone.image_id, tmp_path / "elsewhere")
    outcome = make(tmp_path / "in", tmp_path / "s")
    assert outcome.retryable == 1
    assert [gone.image_id, "rejected", "unreadable", "No such file or directory"] in outcome.dropped
    assert not json.loads((tmp_path / "s/manifest.json").read_text())["complete"]
    assert store.open_store(str(tmp_path / "s")).retryable == 1
    shutil.copytree(tmp_path / "s", tmp_path / "gone")
    for given_up in (0, 1, 1):
        outcome = make(tmp_path / "in", tmp_path / "gone")
        assert (outcome.retryable, outcome.given_up) == (1 - given_up, given_up)
        assert store.open_store(str(tmp_path / "gone")).given_up == given_up
    assert outcome.before == FILMS - 1, "the shard of a film that is given up is not made again"
    (tmp_path / "gone/rejected.csv").unlink()
    assert make(tmp_path / "in", tmp_path / "gone").retryable == 1
    os.rename(tmp_path / "elsewhere", tmp_path / "in" / gone.image_id)
    outcome = make(tmp_path / "in", tmp_path / "s")
    assert (outcome.retryable, sum(outcome.written.values())) == (0, FILMS)


def test_files_that_contradict_the_tables_are_named_and_kept(mimic, tmp_path):
    listed = selection.list_films(str(mimic))
    seen = next(film for film in listed.films if film.view == "PA")
    films = [
        film._replace(view="AP", size=(1, 2)) if film == seen else film for film in listed.films
    ]
    outcome = make(mimic, tmp_path / "s", dataclasses.replace(listed, films=films))
    assert [row[:3] for row in outcome.differences] == [
        [seen.image_id, "Rows x Columns", "1 x 2"],
        [seen.image_id, "ViewPosition", "AP"],
    ]
    assert rows(tmp_path / "s", "differences")[1]["file"] == "PA"
    assert sum(outcome.written.values()) == FILMS


@pytest.mark.parametrize("no_view", ["keep", "drop"])
def test_without_tables_the_headers_say_the_view(mimic, tmp_path, no_view):
    listed = selection.list_films(str(mimic / "files"), views=("AP", "PA"))
    unsaid = sum(not row["ViewPosition"] for row in mimic_rows(mimic, "metadata"))
    outcome = make(mimic, tmp_path / "s", listed, no_view=no_view)
    assert unsaid > 1
    kept = FILMS - (unsaid if no_view == "drop" else 0)
    assert dict(outcome.written) == {"unassigned": kept}
    whys = collections.Counter((kind, detail) for _, kind, _, detail in outcome.dropped)
    assert whys["skipped", "LATERAL"] + whys["skipped", "LL"] == 4
    assert whys["skipped", "not said"] == FILMS - kept
    views = collections.Counter(row["view_position"] for row in rows(tmp_path / "s", "films"))
    assert set(views) == {"AP", "PA"} | ({""} if no_view == "keep" else set())


@pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS'
def test_a_shard_of_nothing_but_damage_is_empty_and_reads(mimic, tmp_path):
    listed = selection.list_films(str(mimic))
    bad = [f for f in listed.films if isinstance(load(f.path, "native", SIZE, None), Rejected)]
    good = [f for f in listed.films if f not in bad]
    films = [f._replace(split="test") for f in bad] + [f._replace(split="train") for f in good]
    outcome = make(mimic, tmp_path / "s", dataclasses.replace(listed, films=films))
    assert dict(outcome.written) == {"test": 0, "train": FILMS}
    opened = store.open_store(str(tmp_path / "s"))
    assert sum(len(batch.films) for batch in all_batches(opened)) == FILMS
    import tensorflow_datasets as tfds

    dataset = tfds.builder_from_directory(tmp_path / "s").as_dataset(split="train")
    assert len(list(dataset)) == FILMS


def test_a_store_of_another_rule_is_refused_and_not_continued(mimic, copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    assert manifest["identity"].pop("preset_version") == 2
    (copied / "manifest.json").write_text(json.dumps(manifest))  # as before there were versions
    with pytest.raises(ValueError, match="version 1 of the preset native; expected version 2"):
        store.open_store(str(copied))
    with pytest.raises(ValueError, match="preset_version: 1 there, 2 asked for"):
        make(mimic, copied)


def test_another_store_is_refused(mimic, copied):
    before = tree(copied)
    for changes, message in [
        ({"size": 32}, "size: 24 there, 32 asked for"),
        ({"preset": "imagenet"}, "preset: 'native' there, 'imagenet' asked for"),
        ({"storage": "png8"}, "storage: 'png16' there, 'png8' asked for"),
        ({"films_per_shard": 9}, "films_per_shard: 8 there, 9 asked for"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(mimic, copied, **changes)
    listed = selection.list_films(str(mimic), limit=20)
    with pytest.raises(ValueError, match="films, or their splits and views: the input, a table"):
        make(mimic, copied, listed)
    (copied / "other-train.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(ValueError, match=r"would not make, such as other-train\.tfrecord"):
        make(mimic, copied)
    (copied / "other-train.tfrecord-00000-of-00001").unlink()
    assert tree(copied) == before
    (copied / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no manifest\.json says what made them"):
        make(mimic, copied)


def test_stores_that_cannot_be_read_are_refused(copied, tmp_path):
    name = sorted(n for n in os.listdir(copied) if "train.tfrecord-" in n)[0]
    data = (copied / name).read_bytes()
    for harm, message in {
        data[:-4]: rf"{name} has {len(data) - 4} bytes, expected {len(data)} bytes: cut short",
        None: f"{name} is gone",
    }.items():
        if harm is None:
            (copied / name).unlink()
        else:
            (copied / name).write_bytes(harm)
        with pytest.raises(ValueError, match=message):
            store.open_store(str(copied))
    (copied / name).write_bytes(data[:50] + b"\0\1\2\3" + data[54:])
    with pytest.raises(ValueError, match=r"a shard of .* cannot be read"):
        all_batches(store.open_store(str(copied)))
    made = '{"preset": "odd", "size": 9, "storage": "gif", "views": null}'
    for identity, message in {'{"weights": 1}': "a store made by", made: "stored as 'gif'"}.items():
        (copied / "manifest.json").write_text(
            f'{{"identity": {identity}, "runs": [], "complete": true}}'
        )
        with pytest.raises(ValueError, match=message):
            store.open_store(str(copied))
    assert not store.is_store(str(tmp_path)) and store.is_store(str(copied))


@pytest.mark.parametrize(
    "harm",
    [
        lambda table: table[: len(table) // 2],
        lambda table: table.replace(b"-00001-of-", b"-00002-of-", 1),
        lambda table: table.replace(b"mimic_cxr-train", b"another-train", 1),
        lambda table: re.sub(
            rb",(\d+)\n", lambda found: b",%d\n" % (int(found[1]) + 1), table, count=1
        ),
        lambda table: re.sub(rb",\d+\n", b",\n", table, count=1),
        lambda table: re.sub(rb",[^,]+\n", b"\n", table),
    ],
)
def test_a_table_of_films_that_was_changed_is_refused(copied, harm):
    table = (copied / "films.csv").read_bytes()
    (copied / "films.csv").write_bytes(harm(table))
    with pytest.raises(ValueError, match=r"films\.csv does not list the films"):
        store.open_store(str(copied))


@pytest.mark.parametrize("image_id", ["../x", "/etc/x", "a/../../x", "a//x", "file:///x"])
def test_ids_that_would_be_written_elsewhere_are_refused(copied, image_id):
    table = (copied / "films.csv").read_text().splitlines()
    table[1] = ",".join([image_id, *table[1].split(",")[1:]])
    (copied / "films.csv").write_text("\n".join(table) + "\n")
    with pytest.raises(ValueError, match=f"1 films in .*films.csv have an image id .*{image_id}"):
        store.open_store(str(copied))


def test_names_of_any_characters_from_films_to_embeddings(mimic, tmp_path):
    """The tables of a store are read back, and its films by their names."""
    names = ["new\nline", "cr\rlf", "\r\n", "a::b,c", 'quo"te', " blank ", "caf\udce9"]
    (tmp_path / "in::1").mkdir()
    source = sorted(mimic.rglob("*.dcm"))[0]
    for name in names:
        shutil.copy(source, tmp_path / "in::1" / f"{name}.dcm")
    folder = tmp_path / "out::2"
    listed = selection.list_films(str(tmp_path / "in::1"), views=None)
    outcome = make(tmp_path / "in::1", folder, listed, views=None)
    assert [row[:3] for row in outcome.dropped] == [["caf\udce9.dcm", "rejected", "name_not_utf8"]]
    opened = store.open_store(str(folder))
    (batch,) = all_batches(opened)
    assert {film.path for film in batch.films} == {f"{name}.dcm" for name in names[:-1]}


def test_a_shard_in_the_place_of_another_is_noticed(copied):
    names = sorted(n for n in os.listdir(copied) if "train.tfrecord-" in n)[:2]
    opened = store.open_store(str(copied))
    (copied / names[0]).write_bytes((copied / names[1]).read_bytes())
    with pytest.raises(ValueError, match="twice, or should not hold it"):
        all_batches(opened)


def test_a_store_in_another_file_system(mimic, whole, monkeypatch):
    """Written through fsspec, from films of a file system that fails at random."""
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(files, "RETRY_SECONDS", (0.0,) * 8)
    chance, failures = random.Random(2), []

    def open_input(path):
        if path.endswith(".dcm") and chance.random() < 0.3:
            failures.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return fsspec.open(path, "rb").open()

    monkeypatch.setattr(files, "open_input", open_input)
    make(mimic, "memory://stores/1.0.0")
    assert len(failures) > 5
    expected = tree(whole[0])
    found = {path.removeprefix("/stores/1.0.0/"): fs.cat_file(path) for path in fs.find("/stores")}
    assert found == expected
    assert store.open_store("memory://stores/1.0.0").shards == store.open_store(whole[0]).shards
    fs.rm("/stores", recursive=True)
