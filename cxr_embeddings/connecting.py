"""A service as if it were a local encoder: `cxr.connect`."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr_embeddings.common import progress
from cxr_embeddings.errors import translated
from cxr_embeddings.in_memory import content_of, image_ids_of, listed

if TYPE_CHECKING:
    from cxr_embeddings.in_memory import Given
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings

FILMS, TRIES, SECONDS = 8, 6, 120.0  # a request; of a request; for an answer
PASSING = (429, 502, 503, 504)


class RemoteEncoder:
    """A service that embeds films; `connect` makes it.

    Attributes:
        url: of the service.
        identity: which weights and settings make the embeddings, as in manifests.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url, self._token = url.rstrip("/"), token
        self.identity: dict[str, object] = self._ask("/v1/models/cxr")["identity"]

    def __repr__(self) -> str:
        return f"<RemoteEncoder at {self.url}; weights: {self.identity.get('weights')}>"

    @translated
    def embed(
        self,
        films: str | os.PathLike[str] | Iterable[Given],
        *,
        image_ids: Sequence[str] | None = None,
        progress: bool | None = None,
    ) -> Embeddings:
        """As `Encoder.embed`, by the service.

        Raises:
            InputError: as there, or the service refuses the request.
            FileError: the service does not answer.
        """
        return _embed(self, films, image_ids, progress)

    def predict(self, instances: Sequence[dict[str, str]]) -> list:
        """The predictions of instances. A service that is busy is asked again, later and later."""
        return self._ask("/predict", {"instances": instances})["predictions"]

    def _ask(self, path: str, body: object = None) -> dict:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(TRIES):
            request = urllib.request.Request(self.url + path, data, headers)
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(4096).decode("utf-8", "replace")
                if error.code not in PASSING or attempt == TRIES - 1:
                    raise ValueError(f"{self.url} answered {error.code}: {said}") from error
            except urllib.error.URLError as error:
                if attempt == TRIES - 1:
                    raise OSError(f"{self.url} does not answer: {error.reason}") from error
            time.sleep(min(8, 0.5 * 2**attempt))
        raise AssertionError


@translated
def connect(url: str, *, token: str = "") -> RemoteEncoder:
    """Connects to a service of `scripts/serve.py`.

    Args:
        url: such as "http://127.0.0.1:8080".
        token: that the service asks for.

    Raises:
        InputError: the address is another server's, or the token is wrong.
        FileError: nothing answers there.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the address is {url}; expected http://... or https://...")
    return RemoteEncoder(url, token)


def _embed(
    encoder: RemoteEncoder,
    films: str | os.PathLike[str] | Iterable[Given],
    image_ids: Sequence[str] | None,
    shown: bool | None,
) -> Embeddings:
    from cxr_embeddings.input_pipeline.embeddings.table import LeftOut, of_arrays

    given = listed(films)
    ids = image_ids_of(given, image_ids)
    embedded: list[str] = []
    rejected: list[LeftOut] = []
    rows: list[list[float]] = []
    with progress.bar(len(given), shown=shown) as bar:
        for start in range(0, len(given), FILMS):
            some = slice(start, start + FILMS)
            instances = [{"input_bytes": _base64(film)} for film in given[some]]
            for name, found in zip(ids[some], encoder.predict(instances), strict=True):
                if "error" in found:
                    rejected.append(LeftOut(name, "rejected", found["error"]["description"]))
                else:
                    embedded.append(name)
                    rows += found["general_img_emb"]
                bar.update()
    width = int(np.prod(encoder.identity["shape"]))  # type: ignore[call-overload]  # of JSON
    table = np.array(rows, np.float32).reshape(-1, width)
    return of_arrays(embedded, table, encoder.identity, True, rejected)


def _base64(film: Given) -> str:
    content = content_of(film)
    if isinstance(content, np.ndarray):
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(content).save(stream, "PNG")
        content = stream.getvalue()
    elif isinstance(content, str):
        from cxr_embeddings.common import files

        with files.open_input(content) as opened:
            content = opened.read()
    return base64.b64encode(content).decode()
