"""Where in films a head sees its findings: `cxr.explain`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from cxr_embeddings.errors import translated

if TYPE_CHECKING:
    import numpy as np

    from cxr_embeddings.encoder.card import Card
    from cxr_embeddings.heads.saved import Saved
    from cxr_embeddings.input_pipeline.embeddings.table import LeftOut
    from cxr_embeddings.input_pipeline.films.decode import Batch, Prepared
    from cxr_embeddings.input_pipeline.films.film import InputFile
    from cxr_embeddings.input_pipeline.films.presets import Place
    from cxr_embeddings.loading import Encoder, Infer
    from cxr_embeddings.prediction import Head

    # A film, its heat maps, and its network input [side side 1]
    Take = Callable[[InputFile, "list[HeatMap]", np.ndarray], object]

MAP_OF = {"head": "head_map", "own_head": "head_map", "pooled": "feature_map"}  # averages of maps
MAP_BYTES = 1 << 29  # of the network's maps at a time
FLAT = 1e-5  # of the range of a map; what differs by less from its maximum is the maximum, too


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HeatMap:
    """Where in one film a head sees one finding.

    Attributes:
        image_id: of the film.
        finding: of the head.
        grid: the map as the network sees it, float32 [row column]. Its average plus `bias` is
            `logit`.
        bias: the share of no place in the logit. Of linear heads it is the same for all films.
        logit: log odds of `probability`: NAME_logit of `Head.predict`, divided by the temperature.
        probability: as NAME_probability of `Head.predict`.
        place: of the film in the network's input.
        centres: pixels of that input on which the rows and columns of `grid` lie.
    """

    image_id: str
    finding: str
    grid: np.ndarray
    bias: float
    logit: float
    probability: float
    place: Place
    centres: np.ndarray

    def __repr__(self) -> str:
        return f"<HeatMap of {self.finding} in {self.image_id}: {self.probability:.3f}>"

    @property
    def map(self) -> np.ndarray:
        """The map on the pixels of the film, float32 [height width], bilinear between `centres`.

        It is computed anew each time: that of a film of 3,000 x 2,500 pixels takes 30 MB.
        """
        import numpy as np

        from cxr_embeddings.input_pipeline.films.presets import input_positions

        steps = np.arange(len(self.centres))
        rows, columns = (
            np.maximum(0, 1 - abs(np.interp(at, self.centres, steps)[:, None] - steps))
            for at in input_positions(self.place)
        )
        return (rows @ self.grid).astype(np.float32) @ columns.T.astype(np.float32)

    @property
    def maximum(self) -> tuple[int, int]:
        """The place of the maximum in pixels of the film: x to the right, y down, from 0.

        It is the middle of all pixels with that value, as towards its borders a map is flat.
        """
        import numpy as np

        found = self.map
        y, x = np.nonzero(found >= found.max() - FLAT * np.ptp(found))
        return round(x.mean()), round(y.mean())


class Explained(NamedTuple):
    """What `explain` returns."""

    maps: list[HeatMap]  # film by film, the findings of each in the order of the head
    rejected: list[LeftOut]  # films that cannot be read: image_id, reason, detail


@translated
def explain(
    films: str | os.PathLike | Iterable[str | os.PathLike | IO[bytes] | bytes | np.ndarray],
    encoder: Encoder,
    head: Head,
    *,
    image_ids: Sequence[str] | None = None,
    progress: bool | None = None,
) -> Explained:
    """Shows where in films a head sees its findings.

    Of a linear head the map is exact: its average over `grid`, plus its `bias`, is the logit. Of a
    head with hidden layers it is the gradient times the activation at each place (HiResCAM).

    Args:
        films, image_ids, progress: as of `Encoder.embed`.
        encoder: the one that the head was trained on, with the embedding `head`, `own_head` or
            `pooled`.
        head: from `train_head` or `load_head`.

    Returns:
        The maps, one for each film and finding, and the films that cannot be read.

    Raises:
        InputError: the head was trained on another encoder, or its embedding is no average of a
            map; or as `Encoder.embed`.
    """
    from cxr_embeddings.in_memory import embed_films

    found: list[HeatMap] = []
    compiled = with_maps(encoder, head.saved, lambda film, maps, image: found.extend(maps))
    table = embed_films(encoder, films, image_ids, progress, compiled)
    return Explained(found, table.rejected)


def with_maps(encoder: Encoder, saved: Saved, take: Take) -> Callable[[int, str], Infer]:
    """In the place of `Encoder.compiled`: the same embeddings, and a film's heat maps to `take`.

    The network runs once: the embedding is the average of the map that it gives.

    Raises:
        ValueError: the head was trained on another encoder, or has no such maps.
    """
    from cxr_embeddings.encoder.embedding_layers import embedding_shape
    from cxr_embeddings.heads.saved import check_encoder
    from cxr_embeddings.prediction import check_films_suffice

    card, layer, shared = encoder.card, encoder.layer, encoder.mesh.shape["data"]
    check_layer(layer)
    check_encoder(saved.card, encoder.identity, math.prod(encoder.shape))
    check_films_suffice(saved.card, "a heat map, which is of one film,")
    if saved.card["per_study"] != "none":
        raise ValueError(
            "the head scores studies, and heat maps are of films: train a head with "
            "labels.per_study=none"
        )
    shape = embedding_shape(card.embeddings[layer], MAP_OF[layer], card.resolution)
    most = max(shared, MAP_BYTES // (4 * math.prod(shape)))

    def compiled(films: int, _: str) -> Infer:
        counts = range(shared, films + 1, shared)
        part = max(n for n in counts if films % n == 0 and n <= most)
        infer = encoder.compiled(part, MAP_OF[layer])

        def run(
            batches: Iterable[tuple[Batch, np.ndarray]],
        ) -> Iterator[tuple[Batch, np.ndarray]]:
            for batch, rows in infer(_pieces(batches, part)):
                maps = rows.reshape(-1, *shape)
                for i, film in enumerate(batch.films):
                    found = heat_maps(card, saved, film.path, batch.places[i], maps[i])
                    take(film, found, batch.image[i])
                yield batch, maps.mean((1, 2))

        return run

    return compiled


def _pieces(
    batches: Iterable[tuple[Batch, np.ndarray]], part: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """The same films in batches of so many, some of them nothing but padding."""
    from cxr_embeddings.input_pipeline.films.decode import Batch

    for batch, _ in batches:
        for start in range(0, len(batch.image), part):
            few = slice(start, start + part)
            piece = Batch(batch.image[few], batch.films[few], batch.places[few])
            yield piece, piece.image


def check_layer(layer: str) -> None:
    """Raises ValueError where an embedding is not the average of a map."""
    if layer not in MAP_OF:
        raise ValueError(
            f"the embedding {layer} is not the average of a map, so that there are no heat maps; "
            f"they need one of {', '.join(MAP_OF)}: train a head on embeddings of such a layer"
        )


def film_features(encoder: Encoder, film: Prepared) -> np.ndarray:
    """The network's map of one film, float32 [row column channel], by a pass of its own."""
    import numpy as np

    from cxr_embeddings.encoder.embedding_layers import embedding_shape
    from cxr_embeddings.input_pipeline.films.decode import Batch
    from cxr_embeddings.input_pipeline.films.film import InputFile

    check_layer(encoder.layer)
    layer, films = MAP_OF[encoder.layer], encoder.mesh.shape["data"]
    images = np.concatenate([film.image[None]] * films)
    batch = Batch(images, [InputFile("film", "film")], [film.place])
    ((_, rows),) = encoder.compiled(films, layer)([(batch, images)])
    width = encoder.card.embeddings[encoder.layer]
    shape = embedding_shape(width, layer, encoder.card.resolution)
    return np.array(rows[0], np.float32).reshape(shape)


def heat_maps(
    card: Card, saved: Saved, image_id: str, place: Place | None, features: np.ndarray
) -> list[HeatMap]:
    """The maps of a film, of its `features` [row column channel], which an encoder computed."""
    import numpy as np
    from scipy.special import expit

    from cxr_embeddings.encoder.embedding_layers import map_centres
    from cxr_embeddings.heads.activation_map import activation_map
    from cxr_embeddings.heads.features import on_cpu
    from cxr_embeddings.in_memory import check_finite
    from cxr_embeddings.input_pipeline.films.film import InputFile

    if place is None:
        raise ValueError(
            "a store does not say where a film lies in its image; expected the films themselves"
        )
    check_finite(features.reshape(1, -1), [InputFile(image_id, image_id)])
    with on_cpu():
        grids, biases = activation_map(saved, features)
    logits = grids.mean((0, 1), np.float64) + biases
    centres = map_centres(card.resolution)
    return [
        HeatMap(
            image_id=image_id,
            finding=finding,
            grid=grids[..., j],
            bias=float(biases[j]),
            logit=float(logits[j]),
            probability=float(expit(logits[j])),
            place=place,
            centres=centres,
        )
        for j, finding in enumerate(saved.card["findings"])
    ]
