import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_embeddings.heads import features


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    return (3 + generator.standard_normal((50, 7)) * np.arange(1, 8)).astype(np.float32)


def test_standardised_films_have_mean_0_and_deviation_1(table, monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 8)
    row = np.arange(0, 50, 2)
    mean, scale = features.standardisation(table, row)
    np.testing.assert_allclose(mean, table[row].mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale, table[row].std(0), rtol=1e-5)


def test_a_dimension_that_never_varies_is_left_in_its_unit(table):
    table[:, 3] = 0.1
    _, scale = features.standardisation(table, np.arange(50))
    assert scale[3] == 1
    table[:, 3] = 0
    assert features.standardisation(table, np.arange(50))[1][3] == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_few_films_and_many_give_the_same(table, dtype, monkeypatch):
    table, row = table.astype(dtype), np.array([4, 9, 2, 40])
    mean, scale = features.standardisation(table, row)
    few = features.select(table, row, mean, scale)
    monkeypatch.setattr(features, "IN_MEMORY", 0)
    many = features.select(table, row, mean, scale)
    assert few.row is None and many.row is not None and few.films == many.films == 4
    index = jnp.array([[3, 0], [1, 1]])
    np.testing.assert_allclose(features.take(few, index), features.take(many, index), atol=1e-6)
    expected = (table[row[np.array([[3, 0], [1, 1]])]].astype(np.float32) - mean) / scale
    np.testing.assert_allclose(features.take(few, index), expected, atol=1e-6)


def test_many_films_are_read_from_the_memory_map_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "IN_MEMORY", 0)
    np.save(tmp_path / "table.npy", np.ones((64, 16), np.float16))
    table = np.load(tmp_path / "table.npy", mmap_mode="r")
    films = features.select(table, np.arange(9), np.zeros(16, np.float32), np.ones(16, np.float32))
    assert films.embedding.unsafe_buffer_pointer() == table.ctypes.data


def test_few_films_are_not_copied_once_more(monkeypatch):
    made, aligned = [], features.aligned_array
    monkeypatch.setattr(
        features, "aligned_array", lambda *shape: made.append(aligned(*shape)) or made[0]
    )
    table = np.ones((1000, 100), np.float32)
    films = features.select(table, np.arange(999), table[0], table[0])
    assert films.embedding.unsafe_buffer_pointer() == made[0].ctypes.data


def test_positions_cover_every_film_and_repeat_the_last(monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 4)
    assert features.positions(3).tolist() == [[0, 1, 2]]
    assert features.positions(6).tolist() == [[0, 1, 2, 3], [4, 5, 5, 5]]


TENTH_OF_MIMIC = """
import re, sys, numpy
from cxr_embeddings.configs.schema import TrainingConfig
from cxr_embeddings.heads import select
shape, random = (40_000, 4096), numpy.random.default_rng(0)
table = numpy.lib.format.open_memmap(sys.argv[1], "w+", numpy.float16, shape)
for start in range(0, len(table), 4000):
    table[start : start + 4000] = random.standard_normal((4000, 4096), numpy.float32)
label = numpy.float32(table[:, :14] > 0)
films = select.SplitFilms(numpy.arange(len(table)), label, label >= 0)
train, tune = (select.SplitFilms(*(part[at] for part in films)) for at in
               (slice(37_000), slice(37_000, None)))
for how in ({}, {"hidden": (512, 256), "optimizer": "adamw", "epochs": 1}):
    trained = select.fit(table, train, tune, TrainingConfig(weight_decays=(1e-2, 1e-1), **how))
    assert max(one["tune_auroc"] for one in trained.candidates) > 0.65
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_a_tenth_of_mimic_fits_in_little_memory(tmp_path):
    """Of 0.33 GB in float16; 0.6 GB are the films of train in float32."""
    command = [sys.executable, "-c", TENTH_OF_MIMIC, tmp_path / "table.npy"]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2.0e6
