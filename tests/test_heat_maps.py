"""Heat maps: exact in their sum, on the right pixels of the film, refused where there are none."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny  # noqa: F401  the network of this name
from flax.traverse_util import flatten_dict, unflatten_dict

import cxr_embeddings as cxr
from cxr_embeddings import heat_map_files, heat_maps
from cxr_embeddings.encoder import efficientnet, embedding_layers, random_weights, weights
from cxr_embeddings.heads import distance
from cxr_embeddings.heads.network import HeadNetwork
from cxr_embeddings.heads.saved import Saved
from cxr_embeddings.heads.select import Trained
from cxr_embeddings.input_pipeline.films.film import Film, InputFile
from cxr_embeddings.input_pipeline.films.presets import (
    PRESETS,
    input_positions,
    network_input,
    place_in_input,
)

VARIANTS = efficientnet.VARIANTS
FINDINGS = ["Edema", "Lung Lesion", "Fracture"]
TINY = {"variant": "tiny", "resolution": 96, "preset": "native"}


def head_on(table, hidden=(), seed=0, **card) -> cxr.Head:
    """A head of random numbers, which standardises by these embeddings."""
    rng = np.random.default_rng(seed)
    width = table.embedding.shape[1]
    network = HeadNetwork(len(FINDINGS), hidden)
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, width), np.float32))
    leaves = {
        path: np.float32(rng.normal(path[-1] in ("scale", "var"), 0.1, leaf.shape))
        for path, leaf in flatten_dict(shapes).items()
    }
    mean, scale = table.embedding.mean(0), table.embedding.std(0) + np.float32(1e-3)
    trained = Trained(network, unflatten_dict(leaves), mean, scale, [], 0, "")
    axes = np.zeros((distance.axes_of(width), width), np.float32)
    spread = distance.Spread(mean, axes, np.ones(len(axes) + 1, np.float32))
    facts = {
        "findings": FINDINGS,
        "hidden": [*hidden],
        "width": width,
        "temperatures": dict(zip(FINDINGS, (0.7, 1.0, 2.5), strict=True)),
        "thresholds": {name: {"youden": 0.5} for name in FINDINGS},
        "encoder": table.encoder,
        "embeddings_dtype": "float32",
        "per_study": "none",
        "studies_from_paths": False,
    }
    return cxr.Head(Saved(trained, spread, facts | card))


def films_of(rng, *shapes):
    """Smooth random films, and darker and darker ones."""
    coarse = [rng.random((6, 5)) for _ in shapes]
    return [
        (60_000 / (i + 1) * np.kron(one, np.ones((9, 9)))[:h, :w]).astype(np.uint16)
        for i, (one, (h, w)) in enumerate(zip(coarse, shapes, strict=True))
    ]


SHAPES = (50, 41), (37, 44), (54, 45), (51, 20)


def largest_error(films, encoder, head):
    """Of sums of maps against `Head.predict`, on other ways; the maps are no constants."""
    found = cxr.explain(films, encoder, head)
    predicted = head.predict(encoder.embed(films)).set_index("image_id")
    assert [(one.image_id, one.finding) for one in found.maps] == [
        (str(i), name) for i in range(len(films)) for name in FINDINGS
    ]
    temperatures, errors = head.saved.card["temperatures"], []
    for one in found.maps:
        logit = predicted[f"{one.finding}_logit"][one.image_id] / temperatures[one.finding]
        errors.append(abs(one.grid.mean(dtype=np.float64) + one.bias - logit))
        assert one.logit == pytest.approx(one.grid.mean(dtype=np.float64) + one.bias, abs=1e-5)
        probability = predicted[f"{one.finding}_probability"][one.image_id]
        assert abs(one.probability - probability) <= errors[-1] + 1e-7
        assert one.grid.dtype == one.map.dtype == np.float32 and np.ptp(one.grid) > 1e-3
    return max(errors)


@pytest.fixture(scope="module")
def encoder():
    return cxr.load_encoder("random", engine="jax", batch_size=8, **TINY)


@pytest.fixture(scope="module")
def table(encoder):
    return encoder.embed(films_of(np.random.default_rng(0), *SHAPES * 3))


@pytest.mark.parametrize("engine", ["jax", "openvino"])
@pytest.mark.parametrize("layer", ["head", pytest.param("pooled", marks=pytest.mark.slow)])
def test_a_map_adds_up_to_the_logit(engine, layer, encoder, table):
    if engine == "openvino":
        pytest.importorskip("openvino")
    if (engine, layer) != ("jax", "head"):
        encoder = cxr.load_encoder("random", engine=engine, embedding=layer, **TINY)
        table = encoder.embed(films_of(np.random.default_rng(0), *SHAPES * 3))
    for seed, hidden in enumerate([(), (), (), (9,), (12, 7)]):
        films = films_of(np.random.default_rng(seed), *SHAPES)
        assert largest_error(films, encoder, head_on(table, hidden, seed)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["b0", "lite0", "l2"])
def test_maps_of_large_networks_add_up(variant):
    asked = {"variant": variant, "resolution": 65, "preset": "imagenet"}
    encoder = cxr.load_encoder("random", dtype="float32", **asked)
    films = films_of(np.random.default_rng(0), *SHAPES)
    assert largest_error(films, encoder, head_on(encoder.embed(films))) < 1e-4


def test_bfloat16_differs_by_its_rounding(table):
    pytest.importorskip("openvino")
    films = films_of(np.random.default_rng(0), *SHAPES)
    encoder = cxr.load_encoder("random", engine="openvino", dtype="bfloat16", **TINY)
    assert largest_error(films, encoder, head_on(encoder.embed(films))) < 0.1


def test_a_linear_head_has_the_map_of_its_kernel(encoder, table):
    """The bias is the same for all films, and the map is the kernel times the features."""
    head, features = head_on(table), []
    infer = encoder.compiled(8, "head_map")

    def spied(films, layer):
        assert (films, layer) == (8, "head_map")
        return lambda batches: (
            features.extend(rows) or (batch, rows) for batch, rows in infer(batches)
        )

    spy = dataclasses.replace(encoder, compiled=spied)
    found = cxr.explain(films_of(np.random.default_rng(1), *SHAPES), spy, head).maps
    trained, temperature = head.saved.trained, head.saved.card["temperatures"]["Fracture"]
    kernel = trained.variables["params"]["logit"]["kernel"][:, 2] / trained.scale / temperature
    mine = [one for one in found if one.finding == "Fracture"]
    assert len({one.bias for one in mine}) == 1 and len({one.logit for one in mine}) == len(SHAPES)
    for one, row in zip(mine, features, strict=False):
        np.testing.assert_allclose(one.grid, row.reshape(3, 3, -1) @ kernel, atol=1e-4)


@pytest.mark.slow
def test_films_are_computed_in_parts_that_fit(encoder, table, monkeypatch):
    films, head = films_of(np.random.default_rng(1), *SHAPES * 3), head_on(table)
    encoder = dataclasses.replace(encoder, batch_size=16)
    whole = cxr.explain([*films, b"no film"], encoder, head)
    monkeypatch.setattr(heat_maps, "MAP_BYTES", 1)
    parts = cxr.explain([*films, b"no film"], encoder, head)
    assert [one.image_id for one in parts.rejected] == ["12"] and parts.rejected == whole.rejected
    for one, other in zip(parts.maps, whole.maps, strict=True):
        assert (one.image_id, one.finding) == (other.image_id, other.finding)
        np.testing.assert_allclose(one.grid, other.grid, atol=1e-4)


def looking_at_middles(card):
    """Variables of a lite network whose maps are the brightness of the image, where they look.

    Its kernels average the channels and look at their middles. Those of stride 2 on an even side
    look at two pixels, as mirrored images make them: beside the middle, as there the padding is
    not the same on both sides.
    """
    sides = [card.resolution]
    for _ in range(5):
        sides.append(-(-sides[-1] // 2))
    halving = ["stem_conv", *(f"stage{i}_block1" for i in (2, 3, 4, 6))]
    side_of = dict(zip(halving, sides, strict=False))
    leaves = flatten_dict(random_weights.random_variables(weights.model_for(card)))
    for path, leaf in leaves.items():
        if path[-1] == "kernel":
            middle, leaves[path] = leaf.shape[0] // 2, np.zeros_like(leaf)
            is_even = leaf.shape[0] > 1 and side_of.get(path[1], 1) % 2 == 0
            looked_at = slice(middle - is_even, middle + 1)
            leaves[path][looked_at, looked_at] = 1 / leaf.shape[2] / (4 if is_even else 1)
    return unflatten_dict(leaves)


@pytest.fixture
def lite_card(monkeypatch):
    monkeypatch.setitem(efficientnet.VARIANTS, "tiny", VARIANTS["tiny"]._replace(lite=True))

    def card(size, preset="native"):
        rules = PRESETS[preset]
        facts = rules.mean, rules.std, rules.version
        return random_weights.random_card("tiny", size, preset, *facts)

    return card


SLOW = [pytest.param(size, marks=pytest.mark.slow) for size in (65, 97, 100, 190)]


@pytest.mark.parametrize("size", [64, *SLOW])
def test_a_number_of_a_map_lies_in_the_middle_of_what_it_looks_at(size, lite_card):
    card = lite_card(size)
    model, variables = weights.model_for(card), jax.device_put(looking_at_middles(card))
    centres = embedding_layers.map_centres(size)

    @jax.jit
    @jax.grad
    def gradient(images, row, column):
        return model.apply(variables, images)[1]["feature_map"][0, row, column].sum()

    images = jnp.full((1, size, size, 3), 0.1)
    for row, column in ((0, len(centres) - 1), (1, 0), (len(centres) - 1, 1)):
        seen = np.abs(gradient(images, row, column)).sum((0, 3))
        for axis, i in enumerate((row, column)):
            line = seen.sum(1 - axis)
            assert line @ np.arange(size) / line.sum() == pytest.approx(centres[i], abs=0.01)


def blob(shape, y, x, width, aspect=1.0):
    """A bright place with smooth edges on black; `y` and `x` are shares of the sides."""
    down, right = np.ogrid[: shape[0], : shape[1]]
    away = np.square((down - y * shape[0]) * aspect) + np.square(right - x * shape[1])
    return (60_000 * np.exp(-away / width**2)).astype(np.uint16)


ODD = ((331, 257), 1.0), ((200, 401), 1.0), ((97, 97), 1.0), ((150, 301), 1.7)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("shape", "aspect"), ODD)
def test_pixels_of_a_film_are_found_in_the_input(preset, shape, aspect):
    """Also where they are not square, and where the resize lays corners on one another."""
    for size, (y, x) in itertools.product((64, 225), ((0.4, 0.6), (0.52, 0.31))):
        film = Film(blob(shape, y, x, 0.06 * max(shape), aspect), 16, pixel_aspect=aspect)
        image = network_input(film, PRESETS[preset], size)[..., 0]
        place = place_in_input(shape, aspect, PRESETS[preset], size)
        for axis, (share, at) in enumerate(zip((y, x), input_positions(place), strict=True)):
            line = image.sum(1 - axis)
            expected = np.interp(share * shape[axis], np.arange(shape[axis]), at)
            assert line @ np.arange(size) / line.sum() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [224, 225])
def test_a_finding_is_found_where_it_is_drawn(preset, size, lite_card, tmp_path):
    """The whole way; the finding is brightness, and lies within half a step of the map."""
    card = lite_card(size, preset)
    weights.save_bundle(tmp_path / "weights", looking_at_middles(card), card)
    encoder = cxr.load_encoder(tmp_path / "weights")
    places = [(0.35, 0.6), (0.52, 0.71), (0.66, 0.3)]
    films = {
        (shape, place): blob(shape, *place, 0.3 * max(shape))
        for (shape, _), place in itertools.product(ODD, places)
    }
    head = head_on(encoder.embed(list(films.values())))
    head.saved.trained.variables["params"]["logit"]["kernel"][:] = 1
    found = [
        one for one in cxr.explain(list(films.values()), encoder, head).maps if "E" in one.finding
    ]
    for one, (shape, place) in zip(found, films, strict=True):
        assert one.map.shape == shape
        steps = 32 * shape[0] / one.place.height, 32 * shape[1] / one.place.width
        for at, share, side, step in zip(one.maximum[::-1], place, shape, steps, strict=True):
            assert abs(at - share * side) <= step / 2 + 1


def test_flat_maps_have_their_maximum_in_the_middle():
    place = place_in_input((41, 61), 1.0, PRESETS["cxr_foundation"], 224)
    centres = embedding_layers.map_centres(224)
    grid = np.zeros((7, 7), np.float32)
    heat = heat_maps.HeatMap("film", "finding", grid, 0, 0, 0, place, centres)
    assert heat.maximum == (30, 20)
    corner = grid.copy()
    corner[-1, 0] = 1
    x, y = dataclasses.replace(heat, grid=corner).maximum
    assert (x, y) == (2, 39), "of the flat part"


def test_what_has_no_maps_is_refused(encoder, table):
    film = films_of(np.random.default_rng(0), (50, 50))[0]
    head = head_on(table)
    with pytest.raises(cxr.InputError, match="heat maps are of films: train a head with"):
        cxr.explain(film, encoder, head_on(table, per_study="mean"))
    other = cxr.load_encoder("random", engine="jax", embedding="feature_map", **TINY)
    with pytest.raises(cxr.InputError, match="feature_map is not the average of a map"):
        cxr.explain(film, other, head)
    other = cxr.load_encoder("random", engine="jax", seed=1, **TINY)
    with pytest.raises(cxr.InputError, match="are of another encoder"):
        cxr.explain(film, other, head)


def test_files_have_safe_names_of_their_own(tmp_path):
    assert heat_map_files.names_of(["Edema", "No Finding"]) == ["Edema", "No_Finding"]
    assert heat_map_files.names_of(["a/../b", "a.b", "A_b"]) == ["0-a_b", "1-a_b", "2-A_b"]
    assert heat_map_files.names_of(["../" + 99 * "x"]) == ["_" + 39 * "x"]
    films = [InputFile(f"/films/a.{suffix}", "a") for suffix in ("png", "dcm")]
    for wrong, message in (
        (films, "of /films/a.png and /films/a.dcm would lie in one folder, a: rename"),
        ([InputFile("/films/a", 300 * "a")], "would have a name of 300 bytes"),
        ([InputFile("/films/a", "../a")], "would lie outside"),
        ([InputFile(f"{tmp_path}/a/Edema.png", "a")], "the folder for heat maps: choose another"),
    ):
        with pytest.raises(ValueError, match=message):
            heat_map_files.check(tmp_path, wrong, FINDINGS)
    heat_map_files.check(tmp_path, films[:1], FINDINGS)


def test_a_picture_shows_the_film_below_the_map():
    """Grey where the map is low, in colour where it is high; long films are made smaller."""
    film = np.full((2000, 500), 30_000, np.uint16)
    film[:, :250] = 0
    place = place_in_input(film.shape, 1.0, PRESETS["native"], 256)
    image = network_input(Film(film, 16), PRESETS["native"], 256)
    on_film = np.zeros(film.shape, np.float32)
    on_film[1000:] = 1
    picture = heat_map_files.draw(on_film, image, place)
    pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (1024, 256, 3)
    assert pixels[100, 10].tolist() == [0, 0, 0] and len({*pixels[100, 200]}) == 1
    assert abs(pixels[100, 200, 0] - 255 * 30_000 / 65_535) <= 1
    for row in pixels[900, [10, 200]]:
        assert row[1] - row[2] > 100, "yellow"
