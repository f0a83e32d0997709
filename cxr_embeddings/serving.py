"""The encoder as a web service: the job of `scripts/serve.py`."""

from __future__ import annotations

import logging
import math
import os
import pathlib
import socket
import stat
from collections.abc import Sequence

from cxr_embeddings.common import machine
from cxr_embeddings.configs.schema import EncoderConfig
from cxr_embeddings.heads.saved import check_encoder
from cxr_embeddings.loading import Encoder, open_encoder
from cxr_embeddings.prediction import Head, check_films_suffice, check_unit, load_head

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SIZES = (1, 2, 4, 8)  # films a batch and device; embed.py takes 8 on a CPU, 1 of a single film


def serve(
    config: EncoderConfig,
    heads: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token_file: str = "",
    tls_certificate: str = "",
    tls_key: str = "",
    allowed: Sequence[str] = (),
    sizes: Sequence[int] = (),
    wait: float = 0.01,
    queue: int = 256,
    most_instances: int = 128,
    most_megabytes: int = 64,
    seconds: float = 60.0,
) -> None:
    """Serves until the process is told to end; then it finishes what it has taken.

    The arguments are the options of `scripts/serve.py`.

    Raises:
        ValueError: the options contradict one another, or a head is of another encoder.
        OSError: a file cannot be read, or the port is in use.
    """
    import uvicorn

    from cxr_embeddings.service import connections, web
    from cxr_embeddings.service.batching import Batcher

    _check_limits(wait, queue, most_instances, most_megabytes, seconds)
    behind_vertex = "AIP_HTTP_PORT" in os.environ  # whose gateway has the certificate and asks
    predict, health = _route("AIP_PREDICT_ROUTE", "/predict"), _route("AIP_HEALTH_ROUTE", "/health")
    port, token = _port(port), _token(token_file)
    if host not in LOOPBACK and not behind_vertex and not (token and tls_certificate):
        raise ValueError(
            f"the service would answer anybody who reaches {host}: give --token_file, "
            "--tls_certificate and --tls_key, or keep --host=127.0.0.1 behind a gateway"
        )
    if bool(tls_certificate) != bool(tls_key):
        raise ValueError("expected both --tls_certificate and --tls_key")
    for place in allowed:
        if not place.startswith(("gs://", "https://", "http://")):
            raise ValueError(
                f"--allow is {place}; expected an address such as https://pacs/dicom-web"
            )
    if tls_certificate:
        connections.check_certificate(tls_certificate, tls_key)
    encoder = open_encoder(config, say=lambda text: print(text, flush=True))
    found = _heads(heads, encoder)
    sizes = sizes or [size * encoder.mesh.shape["data"] for size in SIZES]
    batcher = Batcher(encoder, sizes, wait, queue, machine.processors())
    limits = web.Limits(most_megabytes << 20, most_instances, seconds)
    service = web.Service(batcher, found, limits, token, allowed)
    application = web.application(service, predict, health)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = uvicorn.Config(
        application,
        http=connections.Impatient,
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=tls_certificate or None,
        ssl_keyfile=tls_key or None,
        timeout_graceful_shutdown=round(seconds),
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        print(f"encoder: {encoder.description}")
        address = f"{host}:{listener.getsockname()[1]}{predict}"
        print(f"http{'s' * bool(tls_certificate)}://{address}", flush=True)
        uvicorn.Server(server).run([listener])


def _check_limits(
    wait: float, queue: int, most_instances: int, most_megabytes: int, seconds: float
) -> None:
    """Raises ValueError for the first that would let nothing through."""
    given = {"wait": (wait, 0), "queue": (queue, 1), "most_instances": (most_instances, 1),
             "most_megabytes": (most_megabytes, 1), "seconds": (seconds, 1)}  # fmt: skip
    for name, (value, least) in given.items():
        if not least <= value < math.inf:
            raise ValueError(f"--{name} is {value}; expected at least {least}")


def _port(option: int) -> int:
    said = os.environ.get("AIP_HTTP_PORT", str(option))
    if not said.isdecimal() or int(said) > 65535:
        raise ValueError(f"the port is {said!r}; expected a number such as 8080")
    return int(said)


def _route(name: str, default: str) -> str:
    route = os.environ.get(name) or default
    if not route.startswith("/"):
        raise ValueError(f"the variable {name} is {route!r}; expected a path such as {default}")
    return route


def _token(file: str) -> str:
    """The text of a file that others cannot read."""
    if not file:
        return ""
    path = pathlib.Path(file)
    text = path.read_text().strip()
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ValueError(f"{file} can be read by others on this machine: chmod 600 {file}")
    if len(text) < 16 or not text.isascii() or not text.isprintable():
        raise ValueError(f"{file} holds no token; expected at least 16 letters and digits")
    return text


def _heads(folders: Sequence[str], encoder: Encoder) -> dict[str, Head]:
    """Heads by the names of their folders. Raises ValueError where one is of another encoder."""
    found: dict[str, Head] = {}
    for folder in folders:
        head = load_head(folder)
        check_unit(head.saved.card)
        check_films_suffice(head.saved.card, "the service")
        check_encoder(head.saved.card, encoder.identity, head.saved.card["width"])
        name = pathlib.Path(os.path.abspath(folder)).name
        if name in found:
            raise ValueError(f"two heads are called {name}: rename one of their folders")
        found[name] = head
    return found
