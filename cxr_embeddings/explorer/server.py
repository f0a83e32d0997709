"""The explorer over HTTP: who is answered, and in which form."""

from __future__ import annotations

import hmac
import json
import logging
import pathlib
from collections.abc import Callable

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from cxr_embeddings.errors import FAMILY, sentence
from cxr_embeddings.explorer.answers import ASKED, SAID, Answer, File, Numbers
from cxr_embeddings.explorer.label_file import Conflict
from cxr_embeddings.explorer.session import Session

PAGE = pathlib.Path(__file__).parent / "page"
FILES = tuple(path.name for path in PAGE.iterdir())
MOST_BYTES = 1 << 16  # of the body of a request
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# A report has its pictures and its style inside
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def application(session: Session, token: str) -> Starlette:
    """The web application: all its addresses begin with the token, and others are not there."""

    async def page(request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        if not _is_known(request, token) or name not in FILES:
            return _refusal("there is nothing here", 404)
        return FileResponse(PAGE / name, headers=HEADERS)

    async def ask(request: Request) -> Response:
        if not _is_known(request, token) or request.path_params["name"] not in ASKED:
            return _refusal("there is nothing here", 404)
        find = ASKED[request.path_params["name"]]
        return await run_in_threadpool(_answer, lambda: find(session, request.query_params))

    async def say(request: Request) -> Response:
        if not _is_known(request, token) or request.path_params["name"] not in SAID:
            return _refusal("there is nothing here", 404)
        if (origin := request.headers.get("origin")) != f"http://{request.headers.get('host')}":
            return _refusal(f"a page of {origin} may not ask for this", 403)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _refusal("the request is too large", 413)
        act = SAID[request.path_params["name"]]
        return await run_in_threadpool(_answer, lambda: act(session, body))

    return Starlette(
        routes=[
            Route("/{token}/", page),
            Route("/{token}/page/{name}", page),
            Route("/{token}/ask/{name}", ask),
            Route("/{token}/say/{name}", say, methods=["POST"]),
        ],
        exception_handlers={404: lambda *_: _refusal("there is nothing here", 404)},
    )


def _is_known(request: Request, token: str) -> bool:
    """Whether the address has the token, and this machine's own name: others can lead here, too."""
    host = (request.headers.get("host") or "").rpartition(":")[0]
    given = request.path_params["token"].encode("utf-8", "surrogateescape")
    return hmac.compare_digest(given, token.encode()) and host in ("127.0.0.1", "localhost")


def _answer(find: Callable[[], Answer]) -> Response:
    """What is found as a response; errors as sentences."""
    try:
        found = find()
    except Conflict as error:
        return _refusal(str(error), 409)
    except tuple(FAMILY) as error:
        return _refusal(sentence(error), 400)
    except Exception:
        logging.getLogger("cxr_embeddings").exception("the page asked, and this failed")
        return _refusal("this failed, and the terminal says why", 500)
    if isinstance(found, File):
        policy = {"Content-Security-Policy": REPORT_POLICY} if "html" in found.media_type else {}
        return Response(found.data, headers=HEADERS | policy, media_type=found.media_type)
    if isinstance(found, Numbers):
        values = np.ascontiguousarray(found.values)
        data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        headers = HEADERS | {"Facts": json.dumps(found.facts)}
        return Response(data, headers=headers, media_type="application/octet-stream")
    return JSONResponse(found, headers=HEADERS)


def _refusal(said: str, status: int) -> Response:
    return JSONResponse({"error": said}, status, HEADERS)
