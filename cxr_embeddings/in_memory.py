"""Films in memory, or named one by one, to embeddings in memory: `Encoder.embed`."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from cxr_embeddings.common import paths, progress, workers
from cxr_embeddings.input_pipeline import run_folder
from cxr_embeddings.input_pipeline.embeddings.table import Embeddings, LeftOut, of_arrays
from cxr_embeddings.input_pipeline.films import decode
from cxr_embeddings.input_pipeline.films.film import InputFile, Rejected, Skipped
from cxr_embeddings.input_pipeline.films.listing import list_inputs

if TYPE_CHECKING:
    from cxr_embeddings.loading import Encoder, Infer

    Given = str | os.PathLike | IO[bytes] | bytes | np.ndarray


def embed_films(
    encoder: Encoder,
    films: Given | Iterable[Given],
    image_ids: Sequence[str] | None,
    shown: bool | None,
    compiled: Callable[[int, str], Infer] | None = None,
) -> Embeddings:
    """As `Encoder.embed`; `shown` is its `progress`, and `compiled` in place of the encoder's."""
    compiled = compiled or encoder.compiled
    given = listed(films)
    ids = image_ids_of(given, image_ids)
    contents = ((InputFile(i, i), content_of(film)) for i, film in zip(ids, given, strict=True))
    bar = progress.bar(len(given), shown=shown)
    rejected: list[LeftOut] = []

    def drop(film: InputFile, why: Skipped | Rejected) -> None:
        rejected.append(LeftOut(film.path, why.reason, why.detail))
        bar.update()

    # powers of 2, so that few sizes are compiled
    films_a_step = encoder.films_a_step(1 << (len(given) - 1).bit_length())
    embedded: list[str] = []
    rows = [np.empty((0, np.prod(encoder.shape)), np.float32)]
    decoded = workers.in_order(contents, encoder.decoders, ahead=2 * films_a_step)
    with bar, encoder.lock, contextlib.closing(decoded):
        batches = ((b, b.image) for b in decode.batches(decoded, films_a_step, drop))
        for done, embeddings in compiled(films_a_step, encoder.layer)(batches):
            rows.append(check_finite(embeddings[: len(done.films)], done.films))
            embedded += (film.path for film in done.films)
            bar.update(len(done.films))
    identity = json.loads(json.dumps({"views": None} | encoder.identity))
    complete = not any(one.reason in run_folder.PASSING for one in rejected)
    return of_arrays(embedded, np.concatenate(rows), identity, complete, rejected)


def listed(films: Given | Iterable[Given]) -> list[Given]:
    """The films one by one."""
    if isinstance(films, str | os.PathLike):
        return [file.path for file in list_inputs(os.fspath(films)).files]
    if isinstance(films, bytes | np.ndarray | io.IOBase):
        return [films]  # type: ignore[list-item]  # a file is also an iterable of lines
    return list(films)


def check_finite(embeddings: np.ndarray, films: Sequence[InputFile]) -> np.ndarray:
    """The embeddings of films. Raises ValueError where a number is not finite."""
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the embedding of {films[finite.argmin()].path} is not finite: the weights are "
            "damaged, or too large for the dtype"
        )
    return embeddings


def image_ids_of(films: Sequence[Given], given: Sequence[str] | None) -> list[str]:
    """What the films are called. Raises ValueError where a film has no name of its own."""
    if not films:
        raise ValueError("no film is given; expected at least one")
    if given is not None and len(given) != len(films):
        raise ValueError(f"there are {len(given)} image_ids for {len(films)} films")
    ids = [str(i) for i in given] if given is not None else [*_names(films)]
    if len({*ids}) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise ValueError(f"two films have the image id {twice}: leave one out, or pass image_ids")
    return ids


def _names(films: Sequence[Given]) -> Iterator[str]:
    for i, film in enumerate(films):
        name = film if isinstance(film, str | os.PathLike) else getattr(film, "name", None)
        if isinstance(name, str | os.PathLike):
            yield paths.typed(os.fspath(name))
        else:
            yield str(i)


def content_of(film: Given) -> decode.Content:
    """What a decoder is given. Raises ValueError where it is no film."""
    if isinstance(film, str | os.PathLike):
        return paths.typed(os.fspath(film))
    if hasattr(film, "read"):
        film = film.read()
    if isinstance(film, np.ndarray) and film.ndim == 2 and film.dtype.str[1:] in ("u1", "u2"):
        return np.ascontiguousarray(film, film.dtype.newbyteorder("="))
    if not isinstance(film, bytes):
        what = f"a {type(film).__name__}"
        if isinstance(film, np.ndarray):
            what = f"an array of {film.dtype} {list(film.shape)}"
        raise ValueError(
            f"a film is {what}; expected a path, a file opened in binary mode, its bytes, or a "
            "uint8 or uint16 array [height width] of grey values, where 0 is black"
        )
    return film
