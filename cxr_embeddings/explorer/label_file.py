"""The labels of all readers, in all tabs: one truth in memory, saved whole at every key."""

from __future__ import annotations

import datetime
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from cxr_embeddings.common import files, paths
from cxr_embeddings.common.finding_names import VALUES
from cxr_embeddings.errors import sentence
from cxr_embeddings.explorer import label_rows
from cxr_embeddings.explorer.label_rows import CELLS, CHOSEN, Row, Said
from cxr_embeddings.heads.labels import matching
from cxr_embeddings.labelled_films import LabelledFilms

GIVEN = "given"  # stands for how a film was chosen, where the label is of the user's own table


class Conflict(ValueError):
    """Another tab has labelled the film in the meantime; nothing was changed."""


class State(NamedTuple):
    """Where the labels are."""

    changes: int  # since the start
    problem: str | None  # why the file lacks the latest of them, which are safe in memory


class Change(NamedTuple):
    """What a film is called after a change."""

    number: int  # of the change, from 1
    image_id: str
    finding: str
    said: Said


class FindingLabels(NamedTuple):
    """The labels of one finding: those of the given table, then the readers' in their order."""

    film: Int64[np.ndarray, " labelled"]  # rows of the embeddings
    label: Float32[np.ndarray, " labelled"]  # 0 or 1
    chosen: Shaped[np.ndarray, " labelled"]  # one of `CHOSEN`, or `GIVEN`
    said: Bool[np.ndarray, " film"]  # which films have a label, or are called unknown


class _Step(NamedTuple):
    tab: str
    image_id: str
    finding: str
    before: Row | None
    after: Row


class LabelFile:
    """See `say`, `undo`, `retry` and `of`. All may be called from several threads.

    Attributes:
        path: of the file.
        findings: what can be labelled: those of the given table and of the file, and those added.
        patient_id: of every film, from the given table or from MIMIC-CXR's folders; "" if unknown.
        given: the user's own table, which is only read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_id: Shaped[np.ndarray, " film"],
        findings: Sequence[str] = (),
        given: LabelledFilms | None = None,
    ) -> None:
        """Goes on with the file if it is there. Raises as `label_rows.read` and `add_finding`."""
        self.path = paths.typed_local(os.fspath(path), "the file of labels")
        self.given = given
        self.patient_id = given.patient_id if given else matching.film_ids(image_id).patient
        self.findings: list[str] = []
        self._lock = threading.RLock()
        self._film = {name: i for i, name in enumerate(image_id)}
        self._history: list[_Step] = []
        self._log: list[Change] = []
        self._problem: str | None = None
        self._saved = _signature(self.path)
        self._rows, found = label_rows.read(self.path, image_id) if self._saved else ({}, [])
        for name in (*(given.findings if given else ()), *found, *findings):
            self.add_finding(name)

    @property
    def state(self) -> State:
        return State(len(self._log), self._problem)

    def add_finding(self, name: str) -> None:
        """One more finding that can be labelled. Raises as `label_rows.check_finding`."""
        with self._lock:
            if name not in self.findings:
                label_rows.check_finding(name, self.findings, self._rows.values())
                self.findings.append(name)

    def say(
        self,
        image_id: str,
        finding: str,
        said: str,
        *,
        chosen: str,
        reader: str = "",
        based_on: int | None = None,
        tab: str = "",
    ) -> State:
        """Labels a film, and saves all labels.

        Args:
            image_id, finding: what is labelled.
            said: "positive", "negative", "unknown", or "" to take the label back.
            chosen: how the film was chosen, one of `CHOSEN`.
            reader: who says so.
            based_on: so many changes the tab knows; None: the last one to speak wins.
            tab: who may undo this.

        Returns:
            The state. Its `problem` says why the file could not be written. The labels are in
            memory all the same, and `retry` or a later change saves them.

        Raises:
            Conflict: another tab has called the film something else after `based_on`, or that was
                before the server was started anew.
            ValueError: an argument is unknown.
        """
        for what, value, known in (
            ("image_id", image_id, self._film),
            ("finding", finding, self.findings),
            ("said", said, CELLS),
            ("chosen", chosen, CHOSEN),
        ):
            if value not in known:
                raise ValueError(f"{what} is {value!r}, which is not known here")
        if reader and (reader in VALUES or not reader.isprintable()):
            raise ValueError(f"reader is {reader!r}; expected a name")
        with self._lock:
            before = self._rows.get(image_id)
            now = label_rows.said(before, finding)
            if now == said:
                return self.state
            if based_on is not None and based_on > len(self._log):
                raise Conflict("the server was started anew: load the page again")
            missed = () if based_on is None else self._log[based_on:]
            if any(one.image_id == image_id and one.finding == finding for one in missed):
                raise Conflict(f"{image_id} was called {now or 'nothing'} meanwhile: look again")
            time = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            patient_id = self.patient_id[self._film[image_id]]
            about = {"image_id": image_id, "patient_id": patient_id, "reader": reader, "time": time}
            after = label_rows.changed(before, finding, said, chosen, about)
            self._history.append(_Step(tab, image_id, finding, before, after))
            self._set(image_id, finding, after)
            return self.state

    def undo(self, tab: str = "") -> Change | None:
        """Takes back the last change of a tab that is left; None where there is none.

        Raises:
            Conflict: another tab has labelled the film since, so that this can no longer be undone.
        """
        with self._lock:
            mine = [i for i, step in enumerate(self._history) if step.tab == tab]
            if not mine:
                return None
            _, image_id, finding, before, after = self._history.pop(mine[-1])
            if self._rows.get(image_id) is not after:
                raise Conflict(f"another tab has labelled {image_id} since: look again")
            self._set(image_id, finding, before)
            return self._log[-1]

    def retry(self) -> State:
        """Saves all labels. What another program made of the file is kept beside it."""
        with self._lock:
            self._save(keep_other=True)
            return self.state

    def row_of(self, image_id: str) -> int:
        """Where a film stands among the embeddings."""
        return self._film[image_id]

    def changes(self, since: int) -> list[Change]:
        """The changes after so many: what a tab has missed."""
        return self._log[since:]

    def said(self, image_id: str, finding: str) -> Said:
        """What a reader calls a film; "" where only the given table may say something."""
        return label_rows.said(self._rows.get(image_id), finding)

    def of(self, finding: str) -> FindingLabels:
        """All labels of a finding, as they are now. A reader's win over the given table's."""
        said, label = np.zeros(len(self._film), bool), np.zeros(len(self._film), np.float32)
        if self.given and finding in self.given.findings:
            j = self.given.findings.index(finding)
            said, label = self.given.mask[:, j].copy(), self.given.label[:, j]
        with self._lock:
            rows = [row for name, row in self._rows.items() if name in self._film]
        own = [(self._film[row["image_id"]], label_rows.said(row, finding), row) for row in rows]
        own = [one for one in own if one[1]]
        by_readers = [film for film, _, _ in own]
        given = np.setdiff1d(np.flatnonzero(said), by_readers)
        said[by_readers] = True
        own = [one for one in own if one[1] != "unknown"]
        film = np.array([film for film, _, _ in own], np.int64)
        answer = np.array([word == "positive" for _, word, _ in own], np.float32)
        chosen = np.array([row["chosen"] for _, _, row in own], object)
        return FindingLabels(
            np.concatenate([given, film]),
            np.concatenate([label[given], answer]),
            np.concatenate([np.full(len(given), GIVEN, object), chosen]),
            said,
        )

    def _set(self, image_id: str, finding: str, row: Row | None) -> None:
        if row is None:
            del self._rows[image_id]
        else:
            self._rows[image_id] = row
        said = label_rows.said(row, finding)
        self._log.append(Change(len(self._log) + 1, image_id, finding, said))
        self._save()

    def _save(self, keep_other: bool = False) -> None:
        """Writes the whole file, unless another program has changed it."""
        try:
            found = _signature(self.path)
            if found and found != self._saved:
                if not keep_other:
                    self._problem = (
                        f"another program has changed {self.path}. Your labels are safe in memory: "
                        "retry writes them all, and keeps the changed file under another name"
                    )
                    return
                files.write_whole(_free_name(self.path), self.path.read_bytes())
            rows = label_rows.encode(self._rows.values(), self.findings)
            files.write_whole(str(self.path), rows)
            self._saved, self._problem = _signature(self.path), None
        except OSError as error:
            self._problem = f"the labels cannot be saved, and are safe in memory: {sentence(error)}"


def _signature(path: pathlib.Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _free_name(path: pathlib.Path) -> str:
    number = 1
    while (place := path.with_name(f"{path.stem}.changed-{number}{path.suffix}")).exists():
        number += 1
    return str(place)
