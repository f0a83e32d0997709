"""The explorer over HTTP: which address answers what, to whom, and in which form."""

from __future__ import annotations

import hmac
import json
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from cxr_embeddings.common import untrusted
from cxr_embeddings.errors import FAMILY, sentence
from cxr_embeddings.explorer.label_file import Conflict
from cxr_embeddings.explorer.session import Session

PAGE = pathlib.Path(__file__).parent / "page"
MOST_BYTES = 1 << 16  # of the body of a request
MOST_CHANGES = 2000  # that are told one by one
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# The report has its pictures and its style inside
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Numbers(NamedTuple):
    """Numbers for the page, little-endian, and what it should know of them."""

    values: np.ndarray
    facts: Mapping[str, object] = {}


Query = Mapping[str, str]
Answer = Numbers | Response | Mapping[str, object]


@untrusted.may_have_more
class _Label(TypedDict):
    row: int
    finding: str
    said: str
    chosen: str
    reader: str
    based_on: int
    tab: str


@untrusted.may_have_more
class _Tab(TypedDict):
    tab: str


@untrusted.may_have_more
class _Next(TypedDict):
    finding: str
    how: str
    skipped: int | None


@untrusted.may_have_more
class _Name(TypedDict):
    name: str


@untrusted.may_have_more
class _Home(TypedDict):
    name: str
    findings: list[str]


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
        schema, act = SAID[request.path_params["name"]]
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _refusal("the request is too large", 413)

        def work() -> Answer:
            return act(session, untrusted.read_json(body, schema, "the request", "load the page"))

        return await run_in_threadpool(_answer, work)

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
    if isinstance(found, Response):
        return found
    if isinstance(found, Numbers):
        values = np.ascontiguousarray(found.values)
        data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        facts = json.dumps(found.facts)
        return Response(
            data, headers=HEADERS | {"Facts": facts}, media_type="application/octet-stream"
        )
    return JSONResponse(found, headers=HEADERS)


def _refusal(said: str, status: int) -> Response:
    return JSONResponse({"error": said}, status, HEADERS)


def _row(session: Session, query: Query) -> int:
    row = query.get("row", "")
    if not (row.isascii() and row.isdigit() and int(row[:9]) < len(session.embeddings.image_id)):
        raise ValueError(f"there is no film {row[:20]!r}")
    return int(row)


def _state(session: Session, query: Query) -> Answer:
    """All that is small, and what has changed since a number of changes."""
    labels, since = session.labels, query.get("since", "")
    state = labels.state
    changes = labels.changes(int(since))[:MOST_CHANGES] if since.isdigit() else []
    return {
        "films": len(session.embeddings.image_id),
        "numbers": session.embeddings.embedding.shape[1],
        "has_films": session.films is not None,
        "films_found": session.films.found() if session.films else 0,
        "has_encoder": session.has_encoder,
        "has_held_out": session.held_out is not None,
        "held_out": 0 if session.held_out is None else int(session.held_out.sum()),
        "heads": session.heads,
        "findings": {name: session.counts(name) for name in labels.findings},
        "colourings": [
            {"title": one.title, "categories": one.categories}
            for one in session.colourings.values()
        ],
        "jobs": session.jobs,
        "reader": session.reader,
        "file": str(labels.path),
        "changes": state.changes,
        "problem": state.problem,
        "latest": [one._asdict() for one in changes],
    }


def _map(session: Session, query: Query) -> Answer:
    name = query.get("name", "")
    if name != "pca":
        return Numbers(session.coordinates(name))
    found = session.pca()
    facts = {"explained": found.explained.tolist(), "fitted_on": found.fitted_on}
    return Numbers(found.coordinates, facts)


def _values(session: Session, query: Query) -> Answer:
    return Numbers(session.values(query.get("name", ""), query.get("finding", "")))


def _film(session: Session, query: Query) -> Answer:
    """What is known of a film; no more of it than its ids."""
    row, labels = _row(session, query), session.labels
    name = session.embeddings.image_id[row]
    given = labels.given
    return {
        "row": row,
        "image_id": name,
        "patient_id": labels.patient_id[row],
        "held_out": bool(session.held_out is not None and session.held_out[row]),
        "said": {finding: labels.said(name, finding) for finding in labels.findings},
        "given": {
            finding: float(given.label[row, j])
            for j, finding in enumerate(given.findings)
            if given.mask[row, j]
        }
        if given
        else {},
    }


def _nearest(session: Session, query: Query) -> Answer:
    return {"films": session.nearest(_row(session, query))}


def _search(session: Session, query: Query) -> Answer:
    names = session.embeddings.image_id
    found = session.search(query.get("text", ""))
    return {"films": [{"row": row, "image_id": names[row]} for row in found]}


def _pixels(session: Session, query: Query) -> Answer:
    if session.films is None:
        raise ValueError("the page was started without films: start it with --films=FOLDER")
    shown = "network" if query.get("shown") == "network" else "standard"
    grey, height, width = session.films.picture(_row(session, query), shown)
    facts = {"height": grey.shape[0], "width": grey.shape[1]}
    return Numbers(grey, facts | {"film_height": height, "film_width": width})


def _thumbnail(session: Session, query: Query) -> Answer:
    if session.films is None:
        raise ValueError("the page was started without films: start it with --films=FOLDER")
    data = session.films.thumbnail(_row(session, query))
    return Response(data, headers=HEADERS, media_type="image/png")


def _heat_map(session: Session, query: Query) -> Answer:
    found = session.heat_map(_row(session, query), query.get("of", ""), query.get("finding", ""))
    grid = found.grid
    facts = {"height": grid.shape[0], "width": grid.shape[1], "maximum": found.maximum}
    return Numbers(grid, facts | {"logit": found.logit, "bias": found.bias})


def _validation(session: Session, query: Query) -> Answer:
    changes, found = session.validation(query.get("finding", ""))
    return {"changes": changes, **found}


def _threshold(query: Query) -> float:
    try:
        found = float(query.get("threshold", ""))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("the threshold is not a number")
    return found


def _rates(session: Session, query: Query) -> Answer:
    aside = query.get("on") == "held_out"
    return {"rates": session.rates(query.get("finding", ""), _threshold(query), aside)}


def _held_out(session: Session, query: Query) -> Answer:
    return {"measured": session.measured_held_out(query.get("finding", ""))}


def _report(session: Session, query: Query) -> Answer:
    page = session.report(query.get("name", ""))
    headers = HEADERS | {"Content-Security-Policy": REPORT_POLICY}
    return Response(page, headers=headers, media_type="text/html")


def _label(session: Session, said: _Label) -> Answer:
    if not 0 <= said["row"] < len(session.embeddings.image_id):
        raise ValueError(f"there is no film {said['row']}")
    state = session.labels.say(
        session.embeddings.image_id[said["row"]],
        said["finding"],
        said["said"],
        chosen=said["chosen"],
        reader=said["reader"],
        based_on=said["based_on"],
        tab=said["tab"],
    )
    return state._asdict() | {"counts": session.counts(said["finding"])}


def _undo(session: Session, said: _Tab) -> Answer:
    change = session.labels.undo(said["tab"])
    if change is None:
        return {"undone": None, **session.labels.state._asdict()}
    undone = {"row": session.labels.row_of(change.image_id), **change._asdict()}
    counts = session.counts(change.finding)
    return {"undone": undone, "counts": counts, **session.labels.state._asdict()}


def _next(session: Session, said: _Next) -> Answer:
    return {"row": session.next(said["finding"], said["how"], said["skipped"])}


def _finding(session: Session, said: _Name) -> Answer:
    session.labels.add_finding(said["name"])
    return {"findings": session.labels.findings}


def _retry(session: Session, said: _Tab) -> Answer:
    return session.labels.retry()._asdict()


def _start(session: Session, said: _Name) -> Answer:
    session.start(said["name"])
    return {"jobs": session.jobs}


def _take_home(session: Session, said: _Home) -> Answer:
    taken = session.take_home(said["name"], said["findings"])
    return {
        "files": {name: str(path) for name, path in taken.files.items()},
        "summary": taken.head.summary,
        "heads": session.heads,
    }


FILES = tuple(path.name for path in PAGE.iterdir())
ASKED: dict[str, Callable[[Session, Query], Answer]] = {
    "film": _film,
    "heat_map": _heat_map,
    "held_out": _held_out,
    "map": _map,
    "nearest": _nearest,
    "pixels": _pixels,
    "rates": _rates,
    "report": _report,
    "search": _search,
    "state": _state,
    "thumbnail": _thumbnail,
    "validation": _validation,
    "values": _values,
}
SAID: dict[str, tuple[type, Callable[[Session, Any], Answer]]] = {  # each with its own schema
    "finding": (_Name, _finding),
    "label": (_Label, _label),
    "next": (_Next, _next),
    "retry": (_Tab, _retry),
    "start": (_Name, _start),
    "take_home": (_Home, _take_home),
    "undo": (_Tab, _undo),
}
