"""Views of a film: what is drawn, from what, and what never happens to a film."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_embeddings.configs.schema_pretraining import AugmentationConfig
from cxr_embeddings.encoder import augment

NOTHING = AugmentationConfig(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
RNG = np.random.default_rng(0)
FILM = jnp.asarray(RNG.uniform(0.2, 0.8, (24, 20, 1)).astype(np.float32))


@functools.partial(jax.jit, static_argnums=2)
def views(seeds, film, how):
    return jax.vmap(lambda seed: augment.view(jax.random.key(seed), film, how)[..., 0])(seeds)


def many(how, film=FILM, count=40):
    return np.asarray(views(jnp.arange(count), jnp.asarray(film), how))


def test_with_nothing_to_draw_a_view_is_the_film():
    np.testing.assert_allclose(many(NOTHING, count=2), [FILM[..., 0]] * 2, atol=1e-6)


def test_views_are_of_the_key_and_lie_in_the_range():
    film = (RNG.random((24, 20, 1)) < 0.5).astype(np.float32)  # black and white
    how = AugmentationConfig(mirror=True)
    found = many(how, film)
    assert found.min() == 0 and found.max() == 1
    np.testing.assert_array_equal(found, many(how, film))
    assert len({one.tobytes() for one in found}) == 40


@pytest.mark.parametrize("mirror", [False, True])
def test_the_heart_stays_on_its_side_unless_asked(mirror):
    """A film whose right half is bright, under the strongest rest of the defaults."""
    film = np.zeros((24, 20, 1), np.float32)
    film[:, 10:] = 0.6
    found = many(AugmentationConfig(mirror=mirror), film)
    kept = found[:, :, 10:].mean((1, 2)) > found[:, :, :10].mean((1, 2))
    assert kept.all() != mirror
    if mirror:
        assert 10 <= kept.sum() <= 30  # half of 40, by more than three deviations


def test_a_crop_shows_a_share_of_the_film_that_lies_within_it():
    """On a ramp: steps between pixels give the scale, the ends say where."""
    ramp = np.broadcast_to(np.linspace(0, 1, 20, dtype=np.float32)[None, :, None], (24, 20, 1))
    found = many(replace(NOTHING, crop=0.5), ramp, 200)
    # where the view reaches the outermost pixel's half, it mixes with the black beyond
    inner = found[:, 12, 2:-2]
    scale = np.diff(inner, axis=1).mean(1) * 19
    assert 0.5 <= scale.min() < 0.55 and 0.95 < scale.max() <= 1.001
    np.testing.assert_allclose(np.diff(inner, axis=1) * 19, scale[:, None] * np.ones(15), atol=1e-4)
    assert inner.min() >= 0 and inner.max() <= 1
    middle = inner.mean(1)
    assert middle.min() < 0.35 and middle.max() > 0.65 and abs(middle.mean() - 0.5) < 0.05


def test_a_rotation_is_of_so_many_degrees():
    """A bright line through the middle, whose angle is measured."""
    film = np.zeros((41, 41, 1), np.float32)
    film[20] = 1
    found = many(replace(NOTHING, rotation=10.0), film, 200)
    x = np.arange(41) - 20
    heights = (found * np.arange(41)[:, None]).sum(1) / found.sum(1) - 20
    degrees = np.rad2deg(np.arctan((heights * x).sum(1) / (x**2).sum()))
    assert -10.1 < degrees.min() < -9 and 9 < degrees.max() < 10.1
    assert abs(degrees.mean()) < 1.5


def test_grey_values_change_by_so_much():
    film = np.full((24, 20, 1), 0.4, np.float32)
    film[:12] = 0.6
    contrast = np.ptp(many(replace(NOTHING, contrast=0.3), film, 200), axis=(1, 2)) / 0.2
    assert 0.7 <= contrast.min() + 1e-5 < 0.73 and 1.27 < contrast.max() < 1.3001
    shift = many(replace(NOTHING, brightness=0.15), film, 200).mean((1, 2)) - 0.5
    assert -0.1501 < shift.min() < -0.14 and 0.14 < shift.max() < 0.1501
    noise = many(replace(NOTHING, noise=0.03), film, 200) - film[..., 0]
    assert 0.028 < noise.std((1, 2)).max() < 0.033 and noise.std((1, 2)).min() < 0.002


def test_blur_is_a_gaussian_that_keeps_the_sum():
    film = np.zeros((21, 21, 1), np.float32)
    film[10, 10] = 1
    found = many(replace(NOTHING, blur=1.0), film, 200)
    np.testing.assert_allclose(found.sum((1, 2)), 1, atol=1e-5)
    offset = np.arange(21) - 10
    deviation = np.sqrt((found.sum(1) * offset**2).sum(1))
    assert deviation.min() < 0.1 and 0.95 < deviation.max() < 1.0  # cut off after 3 pixels
