"""The sharded forward pass and the loop around it, on eight CPU devices."""

import functools
import re

import jax
import numpy as np
import pytest
import tiny

from cxr_embeddings.encoder import efficientnet, inference, random_weights, sharding

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.two_stages(patch)
        model = efficientnet.EfficientNet("tiny", head_width=4096)
        yield model, random_weights.random_variables(model, seed=1)


@pytest.fixture(scope="module")
def images():
    brightness = np.linspace(0.2, 1, 16, dtype=np.float32).reshape(-1, 1, 1, 1)
    return brightness * np.random.default_rng(0).random((16, 32, 32, 1), np.float32)


@pytest.fixture(scope="module")
def program(network):
    """(devices, model_parallel, layer) -> the compiled program, its variables, and its mesh."""
    model, variables = network

    @functools.cache
    def make(devices, model_parallel=1, layer="head"):
        mesh = sharding.make_mesh(model_parallel, jax.devices()[:devices])
        placed = jax.device_put(variables, sharding.variable_shardings(mesh, variables))
        forward = inference.make_forward(model, placed, mesh, layer, MEAN, STD)
        shape = jax.ShapeDtypeStruct((16, 32, 32, 1), np.float32)
        return forward.lower(placed, shape).compile(), placed, mesh

    return make


@pytest.fixture(scope="module")
def run(program):
    def run(images, *how, **more):
        compiled, placed, mesh = program(*how, **more)
        return np.asarray(compiled(placed, sharding.put_rows(mesh, images)))

    return run


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def single(run, images):
    return run(images, 1)


def test_eight_devices_give_what_one_gives(run, images, single, record_property):
    difference = relative(run(images, 8), single)
    record_property("relative difference of 8 devices to 1", float(difference))
    assert difference < 1e-5
    spread = np.abs(single - single.mean(axis=0)).max() / np.abs(single).max()
    assert spread > 0.05, "equal embeddings of different images would make this test pass vacuously"
    assert relative(run(images, 8, 2), single) < 1e-5, "with weights over the axis model"


def test_no_collective_over_data(program):
    pattern = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    assert not re.findall(pattern, program(8)[0].as_text())
    # The same search finds the collectives where there must be some.
    assert re.findall(pattern, program(8, 2)[0].as_text())


def test_padding_changes_nothing(run, images, single):
    padded = images.copy()
    padded[5:] = 0
    np.testing.assert_array_equal(run(padded, 1)[:5], single[:5])


def test_channels_are_normalised_on_the_device_and_maps_flattened_row_by_row(
    network, run, images, single
):
    model, variables = network
    normalised = (np.repeat(images, 3, axis=-1) - np.float32(MEAN)) / np.float32(STD)
    expected, out = jax.jit(model.apply)(variables, normalised)
    assert relative(single, np.asarray(expected)) < 1e-5
    found = run(images, 1, layer="feature_map")
    assert relative(found, np.asarray(out["feature_map"]).reshape(16, -1)) < 1e-5


def test_the_loop_keeps_order_and_prepares_ahead():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    forward = jax.jit(lambda _, images: images.sum(axis=(1, 2, 3))[:, None])
    seen = []

    def batches():
        for i in range(5):
            seen.append(i)
            yield i, np.full((2, 3, 3, 1), i, np.float32)

    first_out = []
    for tag, embeddings in inference.embed(forward, {}, mesh, batches()):
        first_out.append((tag, len(seen)))
        np.testing.assert_array_equal(embeddings, np.full((2, 1), 9 * tag, np.float32))
    assert first_out == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]


def sums(images):
    return images.sum(axis=(1, 2, 3))[:, None]


def too_large_above(films):
    """A forward pass for which the memory is too small with more films; keeps how many it got."""
    tried = []

    def forward(_, images):
        tried.append(len(images))
        if len(images) > films:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return sums(images)

    return forward, tried


@pytest.mark.parametrize(("films", "pieces"), [(12, 1), (6, 2), (5, 3), (1, 12)])
def test_a_batch_that_is_too_large_is_computed_in_parts(images, films, pieces, caplog):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    forward, tried = too_large_above(films)
    batches = [(i, np.roll(images[:12], i, axis=0)) for i in range(4)]
    found = list(inference.embed(forward, {}, mesh, iter(batches)))
    assert [tag for tag, _ in found] == [0, 1, 2, 3]
    for (_, embeddings), (_, batch) in zip(found, batches, strict=True):
        np.testing.assert_allclose(embeddings, sums(batch), rtol=1e-5)
    assert tried[-pieces:] == [12 // pieces] * pieces, "the next batches start as small"
    assert len(caplog.records) == [1, 2, 3, 4, 6, 12].index(pieces)


def test_an_error_when_a_result_is_read_is_the_same(images, monkeypatch):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    read, failed = sharding.local_rows, []

    def fails_above_six(batch):
        if len(batch) > 6:
            failed.append(len(batch))
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return read(batch)

    monkeypatch.setattr(sharding, "local_rows", fails_above_six)
    batches = [(i, np.roll(images[:12], i, axis=0)) for i in range(4)]
    found = list(inference.embed(lambda _, x: sums(x), {}, mesh, batches))
    for (_, embeddings), (_, batch) in zip(found, batches, strict=True):
        np.testing.assert_allclose(embeddings, sums(batch), rtol=1e-5)
    assert failed == [12, 12], "the two that were under way"


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: one film", "INTERNAL: a broken device"])
def test_other_errors_and_a_single_film_are_not_tried_again(images, message):
    def forward(_, batch):
        raise jax.errors.JaxRuntimeError(message)

    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    batch = images[:1] if "one film" in message else images
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        list(inference.embed(forward, {}, mesh, [(0, batch)]))


def test_films_that_fit_fill_the_memory_that_is_free():
    card = random_weights.random_card("l2", 1280, "native", MEAN, STD)
    assert inference.films_that_fit(card, "float32", None) == 8, "a CPU"

    def of_gigabytes(number, dtype):
        memory = {"bytes_limit": int(number * 1e9), "bytes_in_use": 10**9}
        return inference.films_that_fit(card, dtype, memory)

    assert [of_gigabytes(n, "bfloat16") for n in (2, 6, 12, 24, 80)] == [1, 2, 4, 8, 32]
    assert [of_gigabytes(n, "float32") for n in (2, 6, 12, 24, 80)] == [1, 1, 2, 4, 16]
