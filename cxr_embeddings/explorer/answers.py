"""What the page asks for and what it says, by name: each a call of the session and its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from typing_extensions import TypedDict

from cxr_embeddings.common import untrusted
from cxr_embeddings.explorer.pictures import Films
from cxr_embeddings.explorer.session import Session

MOST_CHANGES = 2000  # that are told one by one


class Numbers(NamedTuple):
    """Numbers for the page, little-endian, and what it should know of them."""

    values: np.ndarray
    facts: Mapping[str, object] = {}


class File(NamedTuple):
    """A picture, or a page with its pictures and its style inside."""

    data: bytes
    media_type: str


Query = Mapping[str, str]
Answer = Numbers | File | Mapping[str, object]
Said = TypeVar("Said")


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


def _row(session: Session, query: Query) -> int:
    row = query.get("row", "")
    if not (row.isascii() and row.isdigit() and int(row[:9]) < len(session.embeddings.image_id)):
        raise ValueError(f"there is no film {row[:20]!r}")
    return int(row)


def _films(session: Session) -> Films:
    if session.films is None:
        raise ValueError("the page was started without films: start it with --films=FOLDER")
    return session.films


def _state(session: Session, query: Query) -> Answer:
    """All that is small, and what has changed since a number of changes."""
    labels, since = session.labels, query.get("since", "")
    changes = labels.changes(int(since))[:MOST_CHANGES] if since.isdigit() else []
    return {
        "films": len(session.embeddings.image_id),
        "numbers": session.embeddings.embedding.shape[1],
        "has_films": session.films is not None,
        "films_found": session.films.found() if session.films else 0,
        "has_encoder": session.has_encoder,
        "has_held_out": session.held_out is not None,
        "held_out": 0 if session.held_out is None else int(session.held_out.sum()),
        "heads": [*session.heads],
        "findings": {name: session.counts(name) for name in labels.findings},
        "colourings": [
            {"title": one.title, "categories": one.categories}
            for one in session.colourings.values()
        ],
        "jobs": session.maps.jobs,
        "reader": session.reader,
        "file": str(labels.path),
        "latest": [one._asdict() for one in changes],
        **labels.state._asdict(),
    }


def _map(session: Session, query: Query) -> Answer:
    name, maps = query.get("name", ""), session.maps.coordinates()
    if name not in maps:
        raise ValueError(f"there is no map {name}")
    found = session.maps.pca()
    facts = {"explained": found.explained.tolist(), "fitted_on": found.fitted_on}
    return Numbers(maps[name], facts if name == "pca" else {})


def _film(session: Session, query: Query) -> Answer:
    """What is known of a film; no more of it than its ids."""
    row, labels = _row(session, query), session.labels
    name, given = session.embeddings.image_id[row], dict[str, float]()
    if labels.given:
        _, label, mask, findings = labels.given
        given = {one: float(label[row, j]) for j, one in enumerate(findings) if mask[row, j]}
    return {
        "row": row,
        "image_id": name,
        "patient_id": labels.patient_id[row],
        "held_out": bool(session.held_out is not None and session.held_out[row]),
        "said": {finding: labels.said(name, finding) for finding in labels.findings},
        "given": given,
    }


def _search(session: Session, query: Query) -> Answer:
    names = session.embeddings.image_id
    found = session.search(query.get("text", ""))
    return {"films": [{"row": row, "image_id": names[row]} for row in found]}


def _pixels(session: Session, query: Query) -> Answer:
    shown = "network" if query.get("shown") == "network" else "standard"
    grey, height, width = _films(session).picture(_row(session, query), shown)
    facts = {"height": grey.shape[0], "width": grey.shape[1]}
    return Numbers(grey, facts | {"film_height": height, "film_width": width})


def _heat_map(session: Session, query: Query) -> Answer:
    found = session.heat_map(_row(session, query), query.get("of", ""), query.get("finding", ""))
    grid = found.grid
    facts = {"height": grid.shape[0], "width": grid.shape[1], "maximum": found.maximum}
    return Numbers(grid, facts | {"logit": found.logit, "bias": found.bias})


def _validation(session: Session, query: Query) -> Answer:
    changes, found = session.validation(query.get("finding", ""))
    return {"changes": changes, **found}


def _rates(session: Session, query: Query) -> Answer:
    try:
        threshold = float(query.get("threshold", ""))
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise ValueError("the threshold is not a number")
    aside = query.get("on") == "held_out"
    return {"rates": session.rates(query.get("finding", ""), threshold, aside)}


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


def _finding(session: Session, said: _Name) -> Answer:
    session.labels.add_finding(said["name"])
    return {"findings": session.labels.findings}


def _start(session: Session, said: _Name) -> Answer:
    session.maps.start(said["name"])
    return {"jobs": session.maps.jobs}


def _take_home(session: Session, said: _Home) -> Answer:
    taken = session.take_home(said["name"], said["findings"])
    return {
        "files": {name: str(path) for name, path in taken.files.items()},
        "summary": taken.head.summary,
        "heads": [*session.heads],
    }


def _said(
    schema: type[Said], act: Callable[[Session, Said], Answer]
) -> Callable[[Session, bytes], Answer]:
    """An entry of `SAID`: checks the body of a request, and acts on it."""
    return lambda session, body: act(
        session, untrusted.read_json(body, schema, "the request", "load the page")
    )


ASKED: dict[str, Callable[[Session, Query], Answer]] = {
    "film": _film,
    "heat_map": _heat_map,
    "held_out": lambda session, query: {
        "measured": session.measured_held_out(query.get("finding", ""))
    },
    "map": _map,
    "nearest": lambda session, query: {"films": session.nearest(_row(session, query))},
    "pixels": _pixels,
    "rates": _rates,
    "report": lambda session, query: File(session.report(query.get("name", "")), "text/html"),
    "search": _search,
    "state": _state,
    "thumbnail": lambda session, query: File(
        _films(session).thumbnail(_row(session, query)), "image/png"
    ),
    "validation": _validation,
    "values": lambda session, query: Numbers(
        session.values(query.get("name", ""), query.get("finding", ""))
    ),
}
SAID: dict[str, Callable[[Session, bytes], Answer]] = {
    "finding": _said(_Name, _finding),
    "label": _said(_Label, _label),
    "next": _said(
        _Next,
        lambda session, said: {"row": session.next(said["finding"], said["how"], said["skipped"])},
    ),
    "retry": _said(_Tab, lambda session, _: session.labels.retry()._asdict()),
    "start": _said(_Name, _start),
    "take_home": _said(_Home, _take_home),
    "undo": _said(_Tab, _undo),
}
