"""Films for pretraining: where they lie, which of them each step takes, and what is read."""

import collections
import dataclasses
import functools
import os
import shutil
import threading
import zlib

import fsspec
import mimic_store
import numpy as np
import pytest
from published import progress

from cxr_embeddings.common import files
from cxr_embeddings.input_pipeline import tfrecord
from cxr_embeddings.input_pipeline.films.decode import Prepared
from cxr_embeddings.input_pipeline.mimic import selection
from cxr_embeddings.input_pipeline.store import build, dataset, random_access, shards

SIZE = 24


def picture(image_id):
    """A film of noise, another for each id."""
    generator = np.random.default_rng(zlib.crc32(image_id.encode()))
    return generator.random((SIZE, SIZE, 1), np.float32)


def drawn(path, *_):
    return Prepared(picture(path.removeprefix("/in/")), "PA", (SIZE, SIZE))


def write_store(folder, ids, storage):
    """A store of `picture`s."""
    films = [
        selection.FilmRecord(f"/in/{name}", name, name, "s", "train", "PA", None) for name in ids
    ]
    listed = selection.FilmList(films, [], collections.Counter(), [], True)
    settings = {"folder": str(folder), "source": "/in", "name": "films", "films_per_shard": 8}
    settings |= {"preset": "native", "size": SIZE, "storage": storage, "views": ("PA",)}
    settings["no_view"] = "keep"

    write = functools.partial(mimic_store.write_here, load=drawn)
    build.make_store(listed, shards.Settings(**settings), {}, write, progress)
    return dataset.open_store(str(folder))


def ids(letter, count):
    return [f"{letter}/{i:03d}.dcm" for i in range(count)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One for each storage."""
    folder = tmp_path_factory.mktemp("stores")
    return [
        write_store(folder / "first", ids("a", 30), "png16"),
        write_store(folder / "second", ids("b", 11), "png8"),
        write_store(folder / "third", ids("c", 9), "jpeg95"),
    ]


def read(stores, rows, workers=2):
    """Images of films, in batches of 7 and less."""
    chunks = np.split(np.array(rows), range(7, len(rows), 7))
    places = random_access.find_films(stores)
    found = random_access.batches(stores, places, chunks.__getitem__, 0, len(chunks), workers)
    return np.concatenate([image for _, image in found])


def test_every_film_is_found_once_where_it_lies(stores):
    places = random_access.find_films(stores)
    assert len(places.image_id) == 50
    assert sorted(places.image_id) == ids("a", 30) + ids("b", 11) + ids("c", 9)
    assert np.bincount(places.store).tolist() == [30, 11, 9]
    assert len(set(places.path)) == 4 + 2 + 2
    for path, index in zip(places.path, places.store, strict=True):
        assert path.startswith(f"{stores[index].folder}/films-train.tfrecord-")
    for path in set(places.path):
        mine = places.path == path
        ends = (places.offset + places.length)[mine] + 16
        assert ends[-1] == len(files.read_bytes(path))
        assert places.offset[mine].tolist() == [0, *ends[:-1]]


def test_films_are_bit_for_bit_those_that_whole_stores_give(stores):
    places = random_access.find_films(stores)
    expected = {}
    for one in stores:
        wanted = {film for films in one.shards.values() for film in films}
        for batch in dataset.batches(one, list(one.shards), 5, wanted):
            pairs = zip(batch.films, batch.image, strict=False)
            expected |= {film.path: image for film, image in pairs}
    rows = np.random.default_rng(0).permutation(50).tolist()
    for workers in (1, 3):
        found = read(stores, rows, workers)
        assert (found.dtype, found.shape) == (np.float32, (50, SIZE, SIZE, 1))
        for row, image in zip(rows, found, strict=True):
            np.testing.assert_array_equal(image, expected[places.image_id[row]])
    exact = picture("a/007.dcm")
    image = read(stores, [places.image_id.tolist().index("a/007.dcm")])[0]
    assert 0 < np.abs(image - exact).max() <= 0.51 / 65535


def test_a_store_in_another_file_system(stores):
    fs = fsspec.filesystem("memory")
    fs.put(stores[0].folder, "/training", recursive=True)
    there = dataset.open_store("memory://training")
    np.testing.assert_array_equal(read([there], [29, 3, 11]), read(stores, [29, 3, 11]))
    fs.rm("/training", recursive=True)


def test_steps_come_in_order_from_any_of_them_on(stores):
    places = random_access.find_films(stores)
    label = np.int32(np.arange(50) % 3 == 0)[:, None]
    schedule = random_access.make_schedule(label, 6, seed=5)
    arguments = stores, places, schedule
    whole = list(random_access.batches(*arguments, 0, 20, 2))
    assert [step for step, _ in whole] == list(range(20))
    later = list(random_access.batches(*arguments, 13, 20, 3))
    assert [step for step, _ in later] == list(range(13, 20))
    for (_, expected), (_, found) in zip(whole[13:], later, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(whole[12][1], whole[13][1])
    assert list(random_access.batches(*arguments, 7, 7, 1)) == []


def test_only_so_many_batches_are_read_ahead_and_threads_end(stores):
    asked, places = [], random_access.find_films(stores)

    def rows_of_step(step):
        asked.append(step)
        return np.arange(step, step + 4)

    reading = random_access.batches(stores, places, rows_of_step, 0, 40, 2)
    assert not asked, "nothing begins before the first batch is asked for"
    assert next(reading)[0] == 0
    assert next(reading)[0] == 1
    assert asked == [0, 1, 2, 3]
    assert any(thread.name.startswith("worker") for thread in threading.enumerate())
    reading.close()
    assert not any(thread.name.startswith("worker") for thread in threading.enumerate())


LABEL = np.int32(np.random.default_rng(1).random(103) < 0.3)[:, None]


SETS = np.random.default_rng(2).choice([-1, 0, 1], (120, 4), p=[0.2, 0.6, 0.2]).astype(np.int32)


@pytest.mark.parametrize(
    ("label", "batch_size"),
    [*((LABEL, size) for size in (4, 7, 51, 103)), (SETS, 20), (SETS, 61)],
)
def test_batches_hold_the_classes_in_their_shares(label, batch_size):
    """Of sets of findings those of the first; rare sets come now and then."""
    schedule = random_access.make_schedule(label, batch_size, seed=3)
    steps = random_access.steps_per_epoch(len(label), batch_size)
    epochs = np.split(np.stack([schedule(step) for step in range(8 * steps)]), 8)
    for rows in epochs:
        assert rows.shape == (steps, batch_size)
        assert len(set(rows.ravel())) == rows.size, "no film comes twice in an epoch"
        for value in np.unique(label[:, 0]):
            share, taken = batch_size * (label[:, 0] == value).mean(), label[rows, 0] == value
            assert np.abs(taken.sum(axis=1) - share).max() < 1
            assert np.abs(taken.sum() - steps * share) < 1, "nor do the classes drift"
    assert len(set(np.ravel(epochs))) == len(label)


@pytest.mark.parametrize("seed", range(4))
def test_no_class_runs_out_of_films(seed):
    """Every size of batch for a few films of each class, so that all are taken or nearly so."""
    generator = np.random.default_rng(seed)
    label = np.repeat(np.int32([[0], [1]]), generator.integers(3, 30, 2), axis=0)
    for batch_size in range(1, len(label) + 1):
        schedule = random_access.make_schedule(label, batch_size, seed)
        steps = random_access.steps_per_epoch(len(label), batch_size)
        rows = np.concatenate([schedule(step) for step in range(steps)])
        assert len(set(rows)) == steps * batch_size


def test_epochs_differ_and_leave_out_others():
    schedule = random_access.make_schedule(LABEL, 10, seed=0)
    epochs = [np.concatenate([schedule(10 * e + i) for i in range(10)]) for e in range(60)]
    assert not np.array_equal(epochs[0], epochs[1])
    left = collections.Counter(row for rows in epochs for row in set(range(103)) - set(rows))
    assert sum(left.values()) == 60 * 3
    assert len(left) > 70 and max(left.values()) <= 9
    neighbours = collections.Counter(frozenset(rows[:2]) for rows in epochs)
    assert len(neighbours) > 50, "films meet others in each epoch"
    first = LABEL[[schedule(step)[0] for step in range(600)]].mean()
    assert abs(first - LABEL.mean()) < 0.08, "a batch's classes are mixed, for devices share it"


def test_a_step_is_a_function_of_the_seed_and_nothing_else():
    schedule = random_access.make_schedule(LABEL, 10, seed=0)
    expected = [schedule(step).tolist() for step in range(50)]
    other = random_access.make_schedule(LABEL, 10, seed=0)
    for step in (49, 3, 30, 12, 0, 49):
        assert other(step).tolist() == expected[step]
    assert random_access.make_schedule(LABEL, 10, seed=1)(0).tolist() != expected[0]
    # Resuming with another NumPy must go on in the same order.
    few = random_access.make_schedule(np.int32([0, 1, 0, 1, 0, 0, 1])[:, None], 3, seed=7)
    assert [few(step).tolist() for step in range(4)] == [[3, 6, 5], [0, 2, 1], [2, 0, 1], [6, 3, 4]]
    # Sums of the products of counts would overflow 32 bits.
    label = np.int32(np.arange(400_000) % 5 > 1)[:, None]
    schedule = random_access.make_schedule(label, 1024, seed=0)
    assert label[schedule(389)].sum() in (614, 615)


def test_stores_that_do_not_fit_are_refused(stores):
    for changes in ({"preset": "imagenet"}, {"size": SIZE + 8}):
        identity = dict(stores[1].identity) | changes
        other = dataclasses.replace(stores[1], folder="/other", identity=identity)
        message = "other were prepared by the preset {preset} .*at {size} px, .*first by native"
        with pytest.raises(ValueError, match=message.format(**identity)):
            random_access.find_films([stores[0], other])
    with pytest.raises(ValueError, match=r"film a/\d+\.dcm is in .*first and again in .*first"):
        random_access.find_films([stores[0], stores[1], stores[0]])


def harmed(stores, folder, harm):
    """Reads all of a store whose second shard was changed."""
    shutil.copytree(stores[0].folder, folder / "s")
    opened = dataset.open_store(str(folder / "s"))
    path = f"{opened.folder}/{sorted(opened.shards)[1]}"
    data = files.read_bytes(path)
    os.unlink(path)
    if harm is not None:
        with open(path, "wb") as file:
            file.write(harm(data))
    return read([opened], list(range(30)))


def swapped(data):
    """The shard's first two records, of one size, in each other's place."""
    records = [b"".join(tfrecord.frame(payload)) for _, payload in tfrecord.unframe(data)]
    assert len(records[0]) == len(records[1])
    return b"".join([records[1], records[0], *records[2:]])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: data[:100] + b"\0\1\2\3" + data[104:], r"from byte 0 on was altered or cut"),
        (lambda data: b"\7" + data[1:], r"record of a/\d+\.dcm in .*00001-of.* from byte 0 on was"),
        (lambda data: data[:-9], r"from byte [1-9]\d+ on was altered or cut short: remove that"),
        (swapped, r"00001-of-.* holds a/\d+\.dcm at byte 0; expected a/\d+\.dcm: remove that"),
    ],
)
def test_damaged_records_are_refused(stores, tmp_path, harm, message):
    with pytest.raises(ValueError, match=message):
        harmed(stores, tmp_path, harm)
