"""The films of the page: found by their ids, decoded by processes of their own."""

from __future__ import annotations

import functools
import io
import queue
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt16

from cxr_embeddings.input_pipeline.films import decode
from cxr_embeddings.nearest_films import find_films

Shown = Literal["standard", "network"]

SIDE = 1536  # pixels of the longer side, at most
THUMBNAIL = 144
PICTURES, THUMBNAILS = 12, 400  # kept in memory: about 60 and 6 MB
DECODERS = 2


class Picture(NamedTuple):
    """A film without the padding around it."""

    grey: UInt16[np.ndarray, "height width"]  # 0 is black
    film_height: int  # in the file
    film_width: int


class Films:
    """Pictures of films by their row. All may be called from several threads."""

    def __init__(
        self, image_id: Shaped[np.ndarray, " film"], path: str, network: tuple[str, int] | None
    ) -> None:
        """Finds the films.

        Args:
            image_id: of the embeddings.
            path: folder, glob or list of the films.
            network: preset and side of the network input; None: it is not known.

        Raises:
            ValueError: no film of the embeddings is there.
            OSError: the folder cannot be read.
        """
        self.path = find_films(image_id, path)
        self._network = network
        self._decoders: dict[Shown, queue.LifoQueue[decode.Decoder]] = {"standard": _queue()}
        for _ in range(DECODERS):
            self._decoders["standard"].put(decode.Decoder("native", SIDE, None, False))
        if network:
            self._decoders["network"] = _queue()
            self._decoders["network"].put(decode.Decoder(*network, None, False))
        self.picture = functools.lru_cache(PICTURES)(self._picture)
        self.thumbnail = functools.lru_cache(THUMBNAILS)(self._thumbnail)

    def found(self) -> int:
        """How many films of the embeddings are there."""
        return sum(map(bool, self.path))

    def _picture(self, row: int, shown: Shown) -> Picture:
        """The display values of the DICOM standard, or the network's input at its own size.

        Raises:
            ValueError: the film is missing or cannot be read.
        """
        if not self.path[row]:
            raise ValueError("this film is not in the folder of films")
        if shown not in self._decoders:
            raise ValueError("what the network sees is known with --weights only")
        idle = self._decoders[shown]
        decoder = idle.get()
        try:
            read = decoder(self.path[row])
        finally:
            idle.put(decoder)
        if not isinstance(read, decode.Prepared):
            raise ValueError(f"this film cannot be read: {read.reason.replace('_', ' ')}")
        return _cut(read)

    def _thumbnail(self, row: int) -> bytes:
        """A small PNG of a film. Raises ValueError as `picture`."""
        from PIL import Image

        picture = self.picture(row, "standard")
        image = Image.fromarray((picture.grey >> 8).astype(np.uint8))
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue()

    def close(self) -> None:
        """Ends the processes."""
        for idle in self._decoders.values():
            while not idle.empty():
                idle.get().stop()


def _queue() -> queue.LifoQueue[decode.Decoder]:
    return queue.LifoQueue()  # the last used is warm


def _cut(read: decode.Prepared) -> Picture:
    place = read.place
    assert place, "decoders of films know it"
    rows, columns = (
        slice(place.top, place.top + place.height),
        slice(place.left, place.left + place.width),
    )
    grey = np.rint(65535 * read.image[rows, columns, 0]).astype(np.uint16)
    return Picture(grey, place.film_height, place.film_width)
