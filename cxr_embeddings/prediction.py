"""Heads as they are used: loaded, applied to embeddings or to films, saved, reported."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from cxr_embeddings.common import paths, writing
from cxr_embeddings.configs.schema import EvaluateConfig, LabelsConfig
from cxr_embeddings.embedding import read_embeddings
from cxr_embeddings.errors import translated
from cxr_embeddings.named_options import LabelOptions, check_all_taken, taken

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Unpack

    from cxr_embeddings.head_evaluation import Evaluation
    from cxr_embeddings.heads.experiment import Experiment
    from cxr_embeddings.heads.saved import HeadCard, Saved, WholeCard
    from cxr_embeddings.heads.statistics.results import Measurements, Note
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Head:
    """A head on embeddings: a score of each finding for each film. See `train_head`, `load_head`.

    Attributes:
        saved: what it computes with, and its card.
        metrics: what was measured when it was trained, as metrics.json holds it: `split`,
            `counts`, `notes`, `results`, `data_efficiency` and `comparison`. AUROCs are
            `metrics["results"]["findings"][NAME]["auroc"]`, with value, low and high. None where
            the folder of a loaded head does not say.
        folder: where a loaded head lies.
        experiment: all that came out, of a head that was trained in this program.
    """

    saved: Saved
    metrics: Measurements | None = None
    folder: pathlib.Path | None = None
    experiment: Experiment | None = None

    def __repr__(self) -> str:
        return f"<Head for {', '.join(self.findings)}>"

    @property
    def findings(self) -> tuple[str, ...]:
        """What it scores, in the order of its columns."""
        return tuple(self.saved.card["findings"])

    @property
    def summary(self) -> str:
        """What train_head.py prints of it: films, what was chosen, AUROCs with intervals."""
        from cxr_embeddings.heads import saved
        from cxr_embeddings.heads.report import summary

        if self.metrics is None:
            return f"a head for {', '.join(self.findings)}"
        metrics = self.metrics
        said = metrics.get("definitions", [])
        lines = summary.of_counts(metrics["counts"], metrics["notes"], said)
        if self.saved.card.keys() >= saved.WholeCard.__annotations__.keys():
            lines += summary.of_choice(cast("WholeCard", self.saved.card))
        return "\n".join([*lines, *summary.of_results(self.metrics)])

    @translated
    def predict(
        self,
        embeddings: Embeddings | str | os.PathLike | Sequence[str | os.PathLike],
        *,
        covariates: str | os.PathLike | None = None,
        metadata: str | os.PathLike | None = None,
    ) -> pd.DataFrame:
        """Scores films by their embeddings.

        Args:
            embeddings: from `Encoder.embed`, `embed` or `read_embeddings`; or their folder, or
                several.
            covariates: CSV of the patients' record, for a head that was trained with one.
            metadata: CSV of dates, times and views, for a head that was trained with a prior; the
                prior films must be among the embeddings.

        Returns:
            One row a film, or a study where the head is of studies, with the columns `image_id`;
            `ood_distance` (float32), the distance to the films that the head was trained on, and
            `out_of_distribution`, 1 where that is above 1: 99 % of the tune films are nearer, and
            the scores of the film cannot be relied on; for each finding NAME_logit (float32, which
            ranks films), NAME_probability (float64, 0 to 1, calibrated on the tune split) and
            NAME_positive (1 where that reaches the head's threshold, else 0); for each label of
            changes the probabilities of its classes and NAME_class (-1, 0, 1); `prior_days` since
            the prior film, for a head that knows it; and `reason`. Without a prior film labels of
            changes have no class. A film
            without an embedding has NA in place of numbers, and its reason. `attrs["notes"]` says
            what the tables lack of these films.

        Raises:
            InputError: the embeddings are of another encoder than the head was trained on, or a
                table is missing that the head needs, or another.
            FileError: there are none.
        """
        from cxr_embeddings.input_pipeline.embeddings.table import Embeddings

        check_unit(self.saved.card)
        if not isinstance(embeddings, Embeddings):
            embeddings = read_embeddings(embeddings, dtype=self.saved.card["embeddings_dtype"])
        beside = Beside(covariates, metadata)
        return predictions_of(self.saved, embeddings, embeddings.folders, beside)

    @translated
    def evaluate(
        self,
        embeddings: Embeddings | str | os.PathLike | Sequence[str | os.PathLike],
        labels: str | os.PathLike,
        *,
        findings: str | Sequence[str] = "all",
        local: float = 0.2,
        compare: str | os.PathLike = "",
        resamples: int = 1000,
        seed: int = 0,
        progress: bool | None = None,
        **options: Unpack[LabelOptions],
    ) -> Evaluation:
        """Measures the head on labelled films that it was not trained on, such as another place's.

        Args:
            embeddings, labels: as of `train_head`.
            findings: of the head, as its own table called them; "all": all of them.
            local: share of the patients on whose labels it is recalibrated; the rest is measured.
            compare: folder of another head for the same films, or of its own evaluation of them.
            resamples, seed, progress: as of `train_head`.
            **options: fields of `LabelsConfig`, such as subgroups, not_mentioned, and test, the
                name of the only split that is used.

        Returns:
            What was measured, in `metrics`; `summary` says it, `report(folder)` writes it.

        Raises:
            InputError: the embeddings are of another encoder, the labels lack a finding of the
                head, or the head was trained on some of the films or patients.
            FileError: there are no embeddings, or no table of labels.
        """
        from cxr_embeddings.head_evaluation import evaluate

        names = (findings,) if isinstance(findings, str) else tuple(findings)
        given: dict[str, object] = {"findings": names, "path": os.fspath(labels), **options}
        config = EvaluateConfig(
            labels=taken(LabelsConfig(), given),
            local=local,
            compare=os.fspath(compare),
            resamples=resamples,
            seed=seed,
        )
        check_all_taken("evaluate", given, LabelOptions)
        return evaluate(self, config, embeddings, shown=progress)

    @translated
    def save(self, folder: str | os.PathLike) -> None:
        """Writes the head, its card and its metrics into a new folder.

        A folder in which this same head lies is replaced.

        Raises:
            FileError: the folder holds something else, or cannot be written.
        """
        from cxr_embeddings.heads import saved

        with self._new_folder(folder) as partial:
            saved.save(partial, self.saved, self.metrics)

    @translated
    def report(self, folder: str | os.PathLike) -> None:
        """Writes all that `scripts/train_head.py` writes into a new folder.

        These are the head and its card, metrics.json, predictions.csv (of tune and test),
        left_out.csv, report.html and figures. A folder in which this same head lies is replaced.

        Raises:
            InputError: the head was loaded: its report lies in the folder it was trained into.
            FileError: the folder holds something else, or cannot be written.
        """
        from cxr_embeddings.heads import experiment

        if self.experiment is None:
            page = self.folder and self.folder / "report.html"
            place = f": it is {page}" if page and page.is_file() else ", if one was written"
            raise ValueError(
                "only a head that was trained in this program can write its report; this one was "
                f"loaded, and its report was made when it was trained{place}"
            )
        with self._new_folder(folder) as partial:
            experiment.write(partial, self.experiment, cast("WholeCard", self.saved.card))

    @contextlib.contextmanager
    def _new_folder(self, folder: str | os.PathLike) -> Iterator[pathlib.Path]:
        """A folder under a temporary name, which becomes `folder` when all went well."""
        place = paths.typed_local(os.fspath(folder), "the folder of a head")
        check_new(place, self.saved.card)
        try:
            with writing.whole_folder(place) as partial:
                yield partial
                if place.exists():  # empty, or this head
                    shutil.rmtree(place)
        except OSError as error:
            raise OSError(
                f"{place} cannot be written ({error.strerror or error}): choose another folder, or "
                "make room"
            ) from error


@translated
def load_head(folder: str | os.PathLike) -> Head:
    """Reads a head that train_head.py, `Head.save` or `Head.report` wrote.

    Raises:
        FileError: there is none.
        InputError: it is damaged, or of another version.
    """
    from cxr_embeddings.heads import saved

    place = paths.typed_local(os.fspath(folder), "the head")
    return Head(saved.load(place), saved.read_metrics(place), place)


def check_new(folder: pathlib.Path, card: HeadCard | None = None) -> None:
    """Raises FileExistsError where a folder holds something else than the head of this card."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    with contextlib.suppress(OSError, ValueError):
        if card and json.loads((folder / "card.json").read_text()) == card:
            return
    raise FileExistsError(f"{folder} exists already: remove it, or choose another folder")


def check_unit(card: HeadCard) -> None:
    """Raises ValueError where films alone do not tell what the head scores."""
    if card["per_study"] != "none" and not card["studies_from_paths"]:
        raise ValueError(
            "the head scores studies, but only the table of its training says which films belong "
            "to a study; the films themselves do not: train the head with labels.per_study=none"
        )


class Beside(NamedTuple):
    """Tables about the films to be scored, for heads that see more than the film."""

    covariates: str | os.PathLike | None = None
    metadata: str | os.PathLike | None = None


FILMS_ALONE = Beside()


def check_films_suffice(card: HeadCard, where: str) -> None:
    """Raises ValueError where a head sees more than the film; `where` is what cannot give it."""
    from cxr_embeddings.heads import inputs

    if needed := inputs.needs(card.get("inputs")):
        raise ValueError(
            f"the head needs {' and '.join(needed)} beside the film, which {where} cannot give it: "
            "use predict.py with --covariates and --metadata, or train a head without "
            "labels.covariates and labels.prior"
        )


def predictions_of(
    saved: Saved, table: Embeddings | None, folders: Sequence[str], beside: Beside = FILMS_ALONE
) -> pd.DataFrame:
    """The table of `Head.predict`; the `folders` of the runs say which films have no embedding."""
    import numpy as np
    import pandas as pd

    from cxr_embeddings.heads import changes, features, inputs, predictions
    from cxr_embeddings.heads import saved as store
    from cxr_embeddings.heads.labels import studies

    card = saved.card
    width, notes = inputs.width(card.get("inputs"), card["width"]), cast("list[Note]", [])
    names, embedding = np.empty(0, object), np.empty((0, width), np.float32)
    days: np.ndarray | None = None
    if table and len(table.image_id):
        store.check_encoder(card, table.encoder, table.embedding.shape[1])
        names = table.image_id
        embedding, days, notes = inputs.for_prediction(
            card.get("inputs"), table.embedding, names, card["per_study"], *beside
        )
        if card["per_study"] != "none":
            days = None if days is None else studies.first_by_path(days, names)
            embedding, names = studies.merge_by_path(embedding, names, card["per_study"])
    with features.on_cpu():
        found = predictions.predict(saved, embedding, names)
    if days is not None:
        found = changes.with_prior(found, card["findings"], days)
    without = without_embedding(table, folders)
    left_out = pd.DataFrame({"image_id": [*without], "reason": [*without.values()]}, dtype=object)
    found["reason"] = ""
    if without:
        found = pd.concat([found, left_out], ignore_index=True)[found.columns]
    found.attrs["notes"] = notes
    return found


def without_embedding(table: Embeddings | None, folders: Sequence[str]) -> dict[str, str]:
    """Films that have none, and why; a later folder's reason counts."""
    from cxr_embeddings.input_pipeline import run_folder
    from cxr_embeddings.input_pipeline.embeddings.table import DAMAGED

    def said(reason: str, detail: str) -> str:
        if reason == DAMAGED:
            return f"damaged embedding: {detail}"
        kind = "failed" if reason in run_folder.PASSING else "rejected"
        return f"{kind}, {reason}: {detail}"

    there = {*table.image_id} if table else set()
    without = (
        {one.image_id: said(one.reason, one.detail) for one in table.rejected} if table else {}
    )
    for folder in folders:
        for row in run_folder.read_dropped(folder, "rejected"):
            without[row["image_id"]] = said(row["reason"], row["detail"])
        for row in run_folder.read_dropped(folder, "skipped"):
            without[row["image_id"]] = f"skipped, {row['reason']} {row['detail']}"
    return {name: why for name, why in without.items() if name not in there}
