"""The explorer as a program: the job of `scripts/explore.py`, and `cxr.explore`."""

from __future__ import annotations

import html
import os
import pathlib
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cxr_embeddings.common import paths
from cxr_embeddings.embedding import read_embeddings
from cxr_embeddings.errors import translated

if TYPE_CHECKING:
    import uvicorn

    from cxr_embeddings.explorer.session import Session
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.loading import Encoder
    from cxr_embeddings.prediction import Head

HOST, PORT = "127.0.0.1", 8765
LABELS = "labels.csv"  # of the folder of what is made


class Explorer:
    """A page that is being served. See `explore`.

    Attributes:
        url: of the page, with its token.
        session: what the page works on; `session.take_home(NAME, FINDINGS)` is its last button.
    """

    def __init__(
        self, session: Session, server: uvicorn.Server, listening: socket.socket, url: str
    ):
        self.session, self.url, self._server = session, url, server
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, daemon=True, name="explorer"
        )
        self._thread.start()
        threading.Thread(target=session.prepare, daemon=True).start()

    def __repr__(self) -> str:
        return f"<Explorer at {self.url}>"

    def _repr_html_(self) -> str:
        address = html.escape(self.url)
        return f'<a href="{address}" target="_blank" rel="noopener">Open the explorer</a>'

    def wait(self) -> None:
        """Returns when the page is no longer served."""
        while self._thread.is_alive():
            self._thread.join(1)

    def stop(self) -> None:
        """Ends the server. All labels are in their file."""
        self._server.should_exit = True
        self._thread.join()
        self.session.close()


@translated
def explore(
    embeddings: Embeddings | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "explored",
    *,
    films: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    head: Head | str | os.PathLike[str] | None = None,
    findings: Sequence[str] = (),
    held_out: float = 0.0,
    reader: str = "",
    port: int = PORT,
    seed: int = 0,
) -> Explorer:
    """Serves a page on which films are seen as a map, labelled, and a classifier is trained.

    The page can be opened on this machine only, by those who know its address.

    Args:
        embeddings: of the films; or their folder, or several.
        output: folder for what is made: `labels.csv`, which is gone on with if it is there, and a
            folder for each head that is taken home.
        films: folder, glob or list of the films; None: the page shows no pictures.
        labels: CSV of labels, as of `train_head`, that is shown and learnt from, and never
            changed; its other columns colour the map.
        weights: bundle of the encoder that made the embeddings, for heat maps.
        head: whose scores and heat maps are shown; or its folder.
        findings: that can be labelled, beside those of `labels`; the page can add others.
        held_out: share of the patients, drawn at random, whose films are never trained on.
        reader: name that is written beside each label.
        port: of the page; 0: any that is free.
        seed: of all that is drawn.

    Returns:
        The page, which is served until `stop` is called or the program ends.

    Raises:
        InputError: the films, labels or weights are not those of the embeddings.
        FileError: something cannot be read, or the port is in use.
        MissingPackage: starlette or uvicorn is not installed.
    """
    import uvicorn

    from cxr_embeddings.explorer import choosing, colourings, server
    from cxr_embeddings.explorer.label_file import LabelFile
    from cxr_embeddings.explorer.pictures import Films
    from cxr_embeddings.explorer.session import Session
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.labelled_films import read_labelled_films

    place = paths.typed_local(os.fspath(output), "the folder of what is made")
    if not isinstance(embeddings, Embeddings):
        embeddings = read_embeddings(embeddings)
    names, given = embeddings.image_id, None
    found = colourings.of_folders(names)
    if labels is not None:
        table = paths.typed(os.fspath(labels))
        if pathlib.Path(table).resolve() == (place / LABELS).resolve():
            raise ValueError(
                f"{table} is the file that the page writes, and is gone on with by itself: leave "
                "out the labels, or choose another output"
            )
        given = read_labelled_films(names, table)
        found += colourings.of_table(names, table, given.findings)
    place.mkdir(parents=True, exist_ok=True)
    label_file = LabelFile(place / LABELS, names, findings, given)
    aside = choosing.held_out(names, label_file.patient_id, held_out, seed) if held_out else None
    network = _preset(embeddings)
    session = Session(
        embeddings,
        label_file,
        place,
        films=Films(names, os.fspath(films), network) if films is not None else None,
        load_encoder=_loader(embeddings, os.fspath(weights)) if weights is not None else None,
        head=_head(head),
        held_out=aside,
        colourings=found,
        reader=reader,
        seed=seed,
    )
    token = secrets.token_urlsafe(24)
    config = uvicorn.Config(
        server.application(session, token),
        log_level="warning",
        access_log=False,  # the addresses hold the token and ids
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    listening = _listen(port)
    url = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    return Explorer(session, uvicorn.Server(config), listening, url)


def _listen(port: int) -> socket.socket:
    """A socket on this machine alone. Raises OSError where the port is in use."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)  # who asks before the server is ready waits
    except (OSError, OverflowError) as error:
        listening.close()
        raise OSError(
            f"port {port} cannot be used ({error}): choose another, or 0 for any that is free"
        ) from error
    return listening


def _preset(embeddings: Embeddings) -> tuple[str, int] | None:
    """How films were prepared for the encoder of the embeddings; None where nobody says."""
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    said = embeddings.encoder or {}
    preset, side = said.get("preset"), said.get("resolution")
    return (preset, side) if preset in PRESETS and isinstance(side, int) else None


def _head(head: Head | str | os.PathLike[str] | None) -> Head | None:
    from cxr_embeddings.prediction import Head, load_head

    return head if head is None or isinstance(head, Head) else load_head(head)


def _loader(embeddings: Embeddings, weights: str) -> Callable[[], Encoder]:
    """What loads the encoder of the embeddings, which takes seconds.

    Raises:
        ValueError: the weights are not those of the embeddings.
    """
    from cxr_embeddings.card_check import read_card
    from cxr_embeddings.common.identities import differences
    from cxr_embeddings.configs.schema import EncoderConfig
    from cxr_embeddings.loading import open_encoder

    said = embeddings.encoder
    if said is None:
        raise ValueError(
            "the embeddings have no manifest.json that says which weights made them, so that "
            "heat maps could be of others: leave out the weights, or embed the films with them"
        )
    config = EncoderConfig(
        weights=weights, embedding=said["embedding"], dtype=said["dtype"], preset=said["preset"]
    )
    card = read_card(config, print)
    ours = {"weights_digest": card.digest, "resolution": card.resolution, "preset": card.preset}
    if found := differences(said, ours, ("of the embeddings", "of the weights"), ours):
        raise ValueError(
            f"{weights} are not the weights of the embeddings:\n" + "\n".join(found) + "\n"
            "Give the bundle that the films were embedded with, or leave out the weights."
        )
    return lambda: open_encoder(config, say=lambda _: None)
