"""One explorer at work: what the page asks for, and what it says, from several tabs at once."""

from __future__ import annotations

import functools
import itertools
import pathlib
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from typing_extensions import TypedDict

from cxr_embeddings.common import machine
from cxr_embeddings.explorer import validation
from cxr_embeddings.explorer.choosing import Chooser
from cxr_embeddings.explorer.classifier import Classifier, Examples, Probe
from cxr_embeddings.explorer.colourings import Colouring
from cxr_embeddings.explorer.film_heat_map import HeatMaps, Shown
from cxr_embeddings.explorer.label_file import LabelFile
from cxr_embeddings.explorer.maps import Maps
from cxr_embeddings.explorer.pictures import Films
from cxr_embeddings.explorer.take_home import TakenHome, take_home
from cxr_embeddings.explorer.validation import Measured, Scored, Validation
from cxr_embeddings.heads import features
from cxr_embeddings.prediction import check_films_suffice

if TYPE_CHECKING:
    from cxr_embeddings.heads.statistics.results import Rates
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.loading import Encoder
    from cxr_embeddings.prediction import Head

NEAREST = 8  # films beside the one that is shown
LABEL = ("negative", "positive", "unknown")  # what the map's colours of labels stand for
SCORE = "score"
HELD_OUT = "held out"  # a way to choose: at random, of the films that were set aside
NAME = re.compile(r"[\w-][\w .-]{0,60}")  # of a folder that is taken home


class Neighbour(TypedDict):
    """A film near to another."""

    row: int
    image_id: str
    cosine: float


class Counts(TypedDict):
    """How many films of a finding are labelled."""

    positive: int
    negative: int
    unknown: int
    held_out: int  # of the first two


class Trained(NamedTuple):
    """A classifier of a finding, and the labels that it comes from."""

    changes: int  # of the labels
    examples: Examples
    probe: Probe | None  # None: there are no films of both labels


class Session:
    """What one page works on. All may be called from several threads.

    Attributes:
        embeddings, labels, films: as they were given; films is None without a folder of films.
        held_out: films that were set aside; None where none were.
        colourings: by name, of what the map may be coloured by beside labels and scores.
        maps: where films lie.
        heads: the colourings that are scores of heads -> the head, and which of its findings.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        labels: LabelFile,
        output: pathlib.Path,
        *,
        films: Films | None = None,
        load_encoder: Callable[[], Encoder] | None = None,
        head: Head | None = None,
        held_out: Bool[np.ndarray, " film"] | None = None,
        colourings: Sequence[Colouring] = (),
        reader: str = "",
        seed: int = 0,
    ) -> None:
        """Nothing large is computed yet.

        Args:
            output: folder in which heads are taken home.
            load_encoder: loads the encoder of the embeddings, for heat maps.
            head: whose scores and heat maps are shown.
            reader: name that the page offers.
            seed: of all that is drawn.
        """
        self.embeddings, self.labels, self.films = embeddings, labels, films
        self.held_out, self.reader, self.output = held_out, reader, output
        self.colourings = {one.title: one for one in colourings}
        self.has_encoder = load_encoder is not None and films is not None
        self.maps = Maps(embeddings.embedding, labels.patient_id, self.colourings, seed)
        self.heads: dict[str, tuple[Head, str]] = {}
        self._load_encoder, self._seed = load_encoder, seed
        self._trained: dict[str, Trained] = {}
        self._validated: dict[str, tuple[int, Validation, Scored | None]] = {}
        self._skipped: dict[str, set[int]] = {}
        self._fitting, self._validating = threading.RLock(), threading.Lock()
        self._seeing, self._taking = threading.Lock(), threading.Lock()
        if held_out is not None:
            aside, parts = held_out.astype(np.float32), ("the others", "set aside")
            self.colourings["set aside"] = Colouring("set aside", aside, parts)
        if head:
            self._add_head(head, "")

    def prepare(self) -> None:
        """Computes what the page asks for first, so that it finds it there."""
        self.maps.pca()
        with self._fitting:
            self._chooser  # noqa: B018  reads all embeddings once

    # Films

    def values(self, colouring: str, finding: str) -> Float32[np.ndarray, " film"]:
        """The number of every film in a colouring; of labels the place in `LABEL`.

        Raises ValueError where there is no such colouring or finding.
        """
        if colouring == SCORE:
            probe = self.trained(finding).probe
            films = len(self.labels.patient_id)
            return probe.logit if probe else np.full(films, np.float32(np.nan))
        if colouring == "label":
            return self._said(finding)
        if colouring not in self.colourings:
            raise ValueError(f"there is nothing called {colouring} to colour by")
        return self.colourings[colouring].values

    def _said(self, finding: str) -> Float32[np.ndarray, " film"]:
        self._check(finding)
        labels = self.labels.of(finding)
        values = np.where(labels.said, np.float32(LABEL.index("unknown")), np.float32(np.nan))
        values[labels.film] = labels.label
        return values

    def nearest(self, row: int) -> list[Neighbour]:
        """The films whose embeddings have the largest cosine, of other patients where known."""
        embedding, patient = self.embeddings.embedding, self.labels.patient_id
        one = embedding[row].astype(np.float32)
        cosine = np.empty(len(embedding), np.float32)
        for start in range(0, len(embedding), features.BLOCK):
            block = slice(start, start + features.BLOCK)
            np.matmul(embedding[block].astype(np.float32, copy=False), one, out=cosine[block])
        cosine /= np.maximum(self._lengths * np.linalg.norm(one), 1e-30)
        cosine[(patient == patient[row]) & (patient != "")] = -np.inf
        cosine[row] = -np.inf
        count = min(NEAREST, int(np.isfinite(cosine).sum()))
        near = np.argsort(-cosine, kind="stable")[:count].tolist()
        names = self.embeddings.image_id
        return [{"row": i, "image_id": names[i], "cosine": float(cosine[i])} for i in near]

    @functools.cached_property
    def _lengths(self) -> Float32[np.ndarray, " film"]:
        found = np.empty(len(self.embeddings.embedding), np.float32)
        for start in range(0, len(found), features.BLOCK):
            block = self.embeddings.embedding[start : start + features.BLOCK]
            found[start : start + features.BLOCK] = np.linalg.norm(np.float32(block), axis=1)
        return found

    def search(self, text: str, most: int = 20) -> list[int]:
        """Films whose ids hold a text, in upper or lower case."""
        wanted = text.strip().casefold()
        names = enumerate(self.embeddings.image_id)
        found = (i for i, name in names if wanted in name.casefold())
        return [*itertools.islice(found, most)] if wanted else []

    def heat_map(self, row: int, of: str, finding: str) -> Shown:
        """Where the classifier ("score"), or a head by the name of its colouring, sees a finding.

        Raises ValueError where there is no encoder, no classifier yet, or no such head.
        """
        if of != SCORE:
            if of not in self.heads:
                raise ValueError(f"there is no head called {of}")
            head, name = self.heads[of]
            with self._seeing:
                return self._heat_maps.of_head(row, head.saved, name)
        probe = self.trained(finding).probe
        if probe is None:
            raise ValueError("there is no classifier yet: label films of both kinds")
        with self._seeing:
            return self._heat_maps.of_probe(row, probe, self._classifier.standard)

    @functools.cached_property
    def _heat_maps(self) -> HeatMaps:
        if self._load_encoder is None or self.films is None:
            raise ValueError("heat maps need films and weights: start with --films and --weights")
        return HeatMaps(self._load_encoder(), self.films.path)

    # Labels

    def counts(self, finding: str) -> Counts:
        """How many films are labelled."""
        said = self._said(finding)
        aside = 0 if self.held_out is None else int((said[self.held_out] < 2).sum())
        negative, positive, unknown = (int((said == i).sum()) for i in range(len(LABEL)))
        return Counts(positive=positive, negative=negative, unknown=unknown, held_out=aside)

    def next(self, finding: str, how: str, skipped: int | None = None) -> int | None:
        """The film to label next; None where all are labelled, skipped or set aside.

        Args:
            finding: to be labelled.
            how: as of `Chooser.next`, or `HELD_OUT`; another one raises ValueError.
            skipped: a film that is not to be suggested again for this finding.
        """
        self._check(finding)
        with self._fitting:
            passed = self._skipped.setdefault(finding, set())
            if skipped is not None:
                passed.add(skipped)
            labels = self.labels.of(finding)
            free = ~labels.said
            free[list(passed)] = False
            if self.held_out is not None:
                free &= self.held_out == (how == HELD_OUT)
            elif how == HELD_OUT:
                raise ValueError("no films were set aside: start with --held_out=0.2")
            probe = self.trained(finding).probe if how in ("uncertain", "likely") else None
            how = "random" if how == HELD_OUT else how
            return self._chooser.next(how, free, labels.film, probe.logit if probe else None)

    def _check(self, finding: str) -> None:
        if finding not in self.labels.findings:
            raise ValueError(f"there is no finding {finding}")

    # The classifier

    @functools.cached_property
    def _classifier(self) -> Classifier:
        return Classifier(self.embeddings.embedding, self.labels.patient_id, self.held_out)

    @functools.cached_property
    def _chooser(self) -> Chooser:
        return Chooser(self.embeddings.embedding, self._classifier.standard, self._seed)

    def trained(self, finding: str) -> Trained:
        """The classifier of the labels as they are now. Raises ValueError as `values`."""
        self._check(finding)
        with self._fitting:
            now, known = self.labels.state.changes, self._trained.get(finding)
            if known and known.changes == now:
                return known
            examples = self._classifier.examples(self.labels.of(finding))
            pairs = zip(known.examples[:3], examples[:3], strict=True) if known else ()
            if known and all(np.array_equal(*pair) for pair in pairs):  # the same classifier
                found = known._replace(changes=now)
            else:
                found = Trained(now, examples, self._classifier.train(examples))
            self._trained[finding] = found
            return found

    def validation(self, finding: str) -> tuple[int, Validation]:
        """The labels' changes that are known to it, and what cross-validation says."""
        with self._validating:
            changes, examples, _ = self.trained(finding)
            known = self._validated.get(finding)
            if known is None or known[0] != changes:
                found, scored = validation.validate(examples, seed=self._seed)
                known = self._validated[finding] = changes, found, scored
            return known[:2]

    def rates(self, finding: str, threshold: float, held_out: bool) -> Rates | None:
        """What happens at a threshold of the logit; None where nothing can be measured."""
        if not held_out:
            self.validation(finding)
        scored = self._scored_aside(finding) if held_out else self._validated[finding][2]
        with machine.one_blas_thread():
            return validation.rates_at(scored, threshold) if scored else None

    def measured_held_out(self, finding: str) -> Measured | None:
        """What the films say that were set aside; None without a classifier or such labels."""
        scored = self._scored_aside(finding)
        return validation.measure(scored) if scored else None

    def _scored_aside(self, finding: str) -> Scored | None:
        if self.held_out is None:
            raise ValueError("no films were set aside: start with --held_out=0.2")
        probe, labels = self.trained(finding).probe, self.labels.of(finding)
        if probe is None or not self.held_out[labels.film].any():
            return None
        return validation.of_held_out(labels, probe, self._classifier.patient, self.held_out)

    # What is taken home

    def take_home(self, name: str, findings: Sequence[str]) -> TakenHome:
        """Trains a head on the labels, and writes it with all else to a new folder.

        Raises as `take_home.take_home`, and ValueError where the name is none for a folder, or a
        head is being trained already.
        """
        if not NAME.fullmatch(name) or name.endswith((".", " ")):
            raise ValueError(
                f"the folder cannot be called {name!r}: use letters, digits, - and _, at most 60"
            )
        for finding in findings:
            self._check(finding)
        if not self._taking.acquire(blocking=False):
            raise ValueError("a head is being trained already: wait for it")
        try:
            films = self.embeddings, self.labels, findings, self.maps.coordinates(), self.held_out
            taken = take_home(self.output / name, *films, seed=self._seed)
            self._add_head(taken.head, name)
            return taken
        finally:
            self._taking.release()

    def report(self, name: str) -> bytes:
        """The page of a head that was taken home. Raises ValueError where there is none."""
        page = self.output / name / "head" / "report.html"
        if not NAME.fullmatch(name) or not page.is_file():
            raise ValueError(f"there is no report of {name!r}")
        return page.read_bytes()

    def _add_head(self, head: Head, name: str) -> None:
        if head.saved.card["per_study"] != "none":
            raise ValueError(
                "the head scores studies, and the page shows films: train a head with "
                "--config.labels.per_study=none"
            )
        check_films_suffice(head.saved.card, "the page")
        predicted = head.predict(self.embeddings).iloc[: len(self.embeddings.image_id)]
        for finding in head.findings:
            title = f"head {name}: {finding}" if name else f"head: {finding}"
            values = predicted[f"{finding}_logit"].to_numpy(np.float32)
            self.colourings[title] = Colouring(title, values)
            self.heads[title] = head, finding

    def close(self) -> None:
        """Ends the processes that decode films."""
        if self.films:
            self.films.close()
