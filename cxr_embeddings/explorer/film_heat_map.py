"""Where in a film the page's classifier, or a head, sees a finding."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32

from cxr_embeddings.explorer.classifier import Probe
from cxr_embeddings.explorer.standard import Standard
from cxr_embeddings.heat_maps import HeatMap, check_layer, film_features, heat_maps

if TYPE_CHECKING:
    from cxr_embeddings.heads.saved import Saved
    from cxr_embeddings.input_pipeline.films.decode import Prepared
    from cxr_embeddings.loading import Encoder

SIDE = 256  # of a map that is sent, on the longer side of the film
FILMS = 24  # whose features are kept in memory


class Shown(NamedTuple):
    """A heat map for the page."""

    grid: Float32[np.ndarray, "height width"]  # over the whole film, at most `SIDE` long
    maximum: tuple[float, float]  # x and y as shares of the film's width and height
    logit: float
    bias: float


class HeatMaps:
    """Heat maps of films by their row. Calls wait for one another."""

    def __init__(self, encoder: Encoder, path: Sequence[str]) -> None:
        """Raises ValueError where the embedding is not the average of a map."""
        check_layer(encoder.layer)
        self._encoder, self._path = encoder, path
        self._features = functools.lru_cache(FILMS)(self._compute)

    def of_probe(self, row: int, probe: Probe, standard: Standard) -> Shown:
        """The map of the page's classifier: its average plus `bias` is the logit of the film."""
        film, features = self._features(row)
        weight = probe.kernel / standard.scale
        bias = probe.bias - float(standard.mean @ weight)
        grid = (features @ weight).astype(np.float32)
        return _shown(self._heat_map(row, film, grid, bias))

    def of_head(self, row: int, saved: Saved, finding: str) -> Shown:
        """The map of a finding of a head."""
        film, features = self._features(row)
        found = heat_maps(self._encoder.card, saved, self._path[row], film.place, features)
        return _shown(next(one for one in found if one.finding == finding))

    def _heat_map(self, row: int, film: Prepared, grid: np.ndarray, bias: float) -> HeatMap:
        from cxr_embeddings.encoder.embedding_layers import map_centres

        assert film.place
        logit = float(grid.mean(dtype=np.float64)) + bias
        centres = map_centres(self._encoder.card.resolution)
        return HeatMap(self._path[row], "", grid, bias, logit, math.nan, film.place, centres)

    def _compute(self, row: int) -> tuple[Prepared, Float32[np.ndarray, "row column channel"]]:
        """The film as network input, and the network's map of it."""
        from cxr_embeddings.input_pipeline.films.decode import Prepared

        with self._encoder.lock:
            film = self._encoder.decoders[0](self._path[row])
            if not isinstance(film, Prepared):
                raise ValueError(f"this film cannot be read: {film.reason.replace('_', ' ')}")
            return film, film_features(self._encoder, film)


def _shown(found: HeatMap) -> Shown:
    place = found.place
    shrink = min(1, SIDE / max(place.film_height, place.film_width))
    height, width = (max(1, round(n * shrink)) for n in (place.film_height, place.film_width))
    small = place._replace(film_height=height, film_width=width)
    x, y = found.maximum
    at = (x + 0.5) / place.film_width, (y + 0.5) / place.film_height
    drawn = dataclasses.replace(found, place=small).map
    return Shown(drawn, at, found.logit, found.bias)
