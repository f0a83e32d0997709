"""The engine for CPUs against the network itself, layer by layer."""

import dataclasses
import os
import pathlib
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from parity import calibrate, compiled, difference, random_images, swap_two_leaves

from cxr_embeddings.encoder import (
    batch_norm,
    convert,
    efficientnet,
    embedding_layers,
    random_weights,
    weights,
)
from cxr_embeddings.encoder.efficientnet import VARIANTS, Variant

engine = pytest.importorskip(
    "cxr_embeddings.encoder.openvino_engine",
    reason="openvino is not installed",
    exc_type=ImportError,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def card_of(size, head_width=1280, projection=None):
    card = random_weights.random_card("tiny", size, "native", MEAN, STD)
    offered = embedding_layers.embedding_widths("tiny", head_width, projection is not None)
    return dataclasses.replace(
        card, head_width=head_width, projection=projection, embeddings=offered
    )


@pytest.fixture(scope="module", autouse=True)
def live():
    """Weights of three stages, five blocks, through which different images stay different."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:3])
        patch.setitem(VARIANTS, "tiny", Variant(0.25, 0.6, 64))
        model = weights.model_for(card_of(64))
        model = model.clone(conv_general_dilated=jax.lax.conv_general_dilated)
        variables = random_weights.random_variables(model, seed=1)
        yield jax.device_get(calibrate(model, variables, random_images(64, 8, seed=1)))


@pytest.fixture(scope="module")
def images():
    """Their last maps are small enough to be joined, the first are not."""
    return np.random.default_rng(0).random((4, 65, 65, 1), np.float32)


@pytest.fixture(scope="module")
def whole(live, images):
    """What the engine makes of the images."""
    return by_openvino(card_of(65), live, "own_head", images)


def by_jax(card, variables, images):
    """All embeddings by name, maps row by row."""
    normalised = (images - np.float32(MEAN)) / np.float32(STD)
    model = weights.model_for(card).clone(conv_general_dilated=jax.lax.conv_general_dilated)
    out = compiled(model)(variables, normalised)  # so it compiles sooner
    offered = out.keys() & {*card.embeddings, "head_map"}
    return {name: np.asarray(out[name]).reshape(len(images), -1) for name in offered}


def by_openvino(card, variables, layer, images, dtype="float32"):
    requests = engine.compile(card, variables, layer, dtype, len(images))
    ((_, embeddings),) = engine.embed(requests, [(None, images)])
    return embeddings


@pytest.mark.parametrize("size", [64, 65])
def test_it_gives_what_the_network_gives(live, size, monkeypatch):
    """Odd and even sizes; of these `pooled_map` leaves rows and columns out."""
    monkeypatch.setattr(engine, "films_a_call", lambda *_: 3)
    images = np.random.default_rng(0).random((3, size, size, 1), np.float32)
    card, variables = convert.add_projection(card_of(size), live, 0)
    expected = by_jax(card, variables, images)
    assert len(expected) == 6
    for layer, embeddings in expected.items():
        found = by_openvino(card, variables, layer, images)
        assert found.shape == embeddings.shape and found.dtype == np.float32
        assert difference(found, embeddings) < 1e-5, layer
        assert difference(embeddings[:1], embeddings[1:2]) > 0.01, "images are told apart"


@pytest.mark.slow
def test_a_lite_network(images, monkeypatch):
    """Its numbers reach 6, where ReLU6 differs from ReLU."""
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.6, 64, lite=True))
    card = card_of(65)
    model = weights.model_for(card)
    variables = random_weights.random_variables(model, seed=1)
    variables = jax.device_get(calibrate(model, variables, random_images(64, 8, seed=1)))
    wide = 6 * (images - 0.5)
    expected = by_jax(card, variables, wide)
    assert not any("squeeze_excite" in block for block in variables["params"].values())
    assert difference(by_openvino(card, variables, "own_head", wide), expected["own_head"]) < 1e-5
    assert difference(expected["own_head"][:1], expected["own_head"][1:2]) > 0.01


def test_a_network_without_head(live, images):
    headless = {
        tree: {name: leaves for name, leaves in layers.items() if not name.startswith("head")}
        for tree, layers in live.items()
    }
    expected = by_openvino(card_of(65), live, "pooled", images)
    found = by_openvino(card_of(65, None), headless, "pooled", images)
    np.testing.assert_array_equal(found, expected)


def test_parity_finds_deliberate_mistakes(live, images, whole, monkeypatch):
    card = card_of(65)
    assert difference(by_openvino(card, swap_two_leaves(live), "own_head", images), whole) > 1e-3
    monkeypatch.setattr(batch_norm, "EPSILON", 1e-5)
    assert difference(by_openvino(card, live, "own_head", images), whole) > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_neighbours_in_a_call_change_no_bit(live, images, dtype, monkeypatch):
    """So a run that was stopped, and goes on with other batches, ends as one in one go."""
    monkeypatch.setattr(engine, "films_a_call", lambda *_: len(images))
    requests = engine.compile(card_of(65), live, "own_head", dtype, len(images))
    orders = [np.roll(images, shift, axis=0) for shift in range(len(images))]
    found = [
        np.roll(rows, -shift, axis=0) for shift, rows in engine.embed(requests, enumerate(orders))
    ]
    assert difference(found[0][:1], found[0][1:2]) > 0.01
    for rows in found:
        np.testing.assert_array_equal(rows, found[0])


@pytest.mark.parametrize(("films", "a_call"), [(1, 1), (4, 1), (4, 2), (4, 4)])
def test_batches_come_back_in_order(live, images, whole, films, a_call, monkeypatch):
    card = card_of(65)
    monkeypatch.setattr(engine, "films_a_call", lambda *_: a_call)
    requests = engine.compile(card, live, "own_head", "float32", films)
    taken = []

    def batches():
        for i in range(6):
            taken.append(i)
            yield i, np.roll(images, i, axis=0)[:films]

    found = []
    for tag, embeddings in engine.embed(requests, batches()):
        assert len(taken) >= min(tag + 2, 6), "the next batch is there before one is waited for"
        assert embeddings.shape == (films, 1280)
        found.append(tag)
        if tag % 4 == 0:
            assert difference(embeddings[:1], whole[:1]) < 1e-6
        else:
            assert difference(embeddings[:1], whole[:1]) > 0.01
    assert found == [*range(6)]


@pytest.mark.parametrize(
    ("size", "dtype", "films", "cores", "mebibytes", "expected"),
    [
        (224, "float32", 8, 2, 500, 4),
        (224, "float32", 8, 2, 480, 2),
        (224, "float32", 8, 2, 32, 1),
        (224, "float32", 8, 2, 0, 1),  # unknown
        (224, "float32", 6, 2, 500, 3),
        (224, "float32", 7, 2, 500, 1),  # 7 is no sum of equal calls
        (224, "float32", 8, 16, 4800, 1),  # each core one
        (224, "float32", 1, 2, 500, 1),
        (320, "float32", 8, 2, 480, 1),
        (320, "bfloat16", 8, 2, 480, 2),
    ],
)
def test_a_call_is_as_large_as_the_cache_allows(
    monkeypatch, size, dtype, films, cores, mebibytes, expected
):
    """L2 was measured with 2 cores and 480 MiB; a film's largest map at 224 px is 21 MiB."""
    core = mock.Mock(get_property=lambda *_: (1, cores))
    monkeypatch.setattr(engine.openvino, "Core", lambda: core)
    monkeypatch.setattr(engine, "last_cache_bytes", lambda: mebibytes * 2**20)
    card = random_weights.random_card("l2", size, "native", MEAN, STD)
    assert engine.films_a_call(card, dtype, films) == expected


def test_the_last_cache_is_that_of_the_highest_level(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CACHES", tmp_path)
    assert engine.last_cache_bytes() == 0
    for level, size in enumerate(("32K\n", "48K\n", "2048K\n", "491520K\n")):
        (tmp_path / f"index{level}").mkdir()
        (tmp_path / f"index{level}/size").write_text(size)
    assert engine.last_cache_bytes() == 480 * 2**20


def test_an_error_of_a_film_is_raised(live, images):
    requests = engine.compile(card_of(65), live, "own_head", "float32", 2)
    with pytest.raises(RuntimeError, match="65"):
        list(engine.embed(requests, [(0, images[:, :64])]))


def test_nobody_is_told_that_it_is_used(tmp_path):
    """OpenVINO's telemetry keeps a number for its user in the home folder, and forks to send."""
    program = """
import os, sys
os.register_at_fork(before=lambda: print("forked"))
from cxr_embeddings.encoder import openvino_engine
print(*(name for name, module in sys.modules.items() if "openvino_telemetry" in name and module))
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert not [*tmp_path.iterdir()]


def test_bfloat16_is_near(live, images, whole):
    found = by_openvino(card_of(65), live, "own_head", images, "bfloat16")
    lengths = [np.linalg.norm(rows, axis=1) for rows in (found, whole)]
    cosine = (found * whole).sum(1) / lengths[0] / lengths[1]
    assert cosine.min() > 0.9995
