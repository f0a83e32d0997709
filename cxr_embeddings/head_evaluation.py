"""A head, embeddings and labels to a report: the job of `scripts/evaluate.py`, `Head.evaluate`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cxr_embeddings import labelled_films
from cxr_embeddings.common import paths, progress, writing
from cxr_embeddings.configs.schema import EvaluateConfig
from cxr_embeddings.errors import translated
from cxr_embeddings.prediction import Head, check_films_suffice, check_new, load_head

if TYPE_CHECKING:
    from cxr_embeddings.heads.evaluation import Past
    from cxr_embeddings.heads.experiment import Experiment
    from cxr_embeddings.heads.statistics.results import Measurements
    from cxr_embeddings.labelled_films import Given


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A head measured on films of another place; `Head.evaluate` makes it.

    Attributes:
        experiment: all that came out; `experiment.predicted` has a row for each film.
        provenance: what it was made from.
        warnings: what a reader must know first.
    """

    experiment: Experiment
    provenance: dict[str, object]
    warnings: Sequence[str]

    @property
    def metrics(self) -> Measurements:
        """What was measured, as `Head.metrics`; a finding may have `recalibration`, too."""
        return self.experiment.measured

    @property
    def summary(self) -> str:
        """What evaluate.py prints: films, AUROCs with intervals, recalibration, comparison."""
        from cxr_embeddings.heads.report import summary

        measured = self.metrics
        about = measured["counts"], measured["notes"], measured["definitions"]
        lines = summary.of_counts(*about)
        lines += [f"warning: {one}" for one in self.warnings]
        return "\n".join([*lines, *summary.of_results(measured)])

    @translated
    def report(self, folder: str | os.PathLike) -> None:
        """Writes report.html, metrics.json, predictions.csv, left_out.csv and figures.

        Raises:
            FileError: the folder is there already, or cannot be written.
        """
        from cxr_embeddings.heads import experiment

        place = paths.typed_local(os.fspath(folder), "output.path")
        check_new(place)
        title = f"Evaluation of {os.path.basename(str(self.provenance['head']))}"
        with writing.whole_folder(place) as partial:
            experiment.write_results(
                partial, self.experiment, title, self.provenance, self.warnings
            )


def evaluate(
    head: Head, config: EvaluateConfig, embeddings: Given = (), *, shown: bool | None = True
) -> Evaluation:
    """Runs the whole job; `config.head` and `config.output` do not count.

    Raises:
        ValueError, OSError: as the family of `Head.evaluate`.
    """
    from cxr_embeddings.heads import evaluation, features, inputs, predictions, saved
    from cxr_embeddings.heads.labels import studies
    from cxr_embeddings.heads.labels.join import join
    from cxr_embeddings.heads.labels.label_table import read_labels

    shown = progress.wanted(shown)
    say: Callable[[str], object] = print if shown else lambda line: None
    card = head.saved.card
    wanted = config.labels.findings
    findings = head.findings if wanted == ("all",) else tuple(dict.fromkeys(wanted))
    fitted, past = evaluation.fitted(head.saved, findings), _past(head)
    labels = labelled_films.at_home(dataclasses.replace(config.labels, findings=findings))
    about = dataclasses.replace(config.embeddings, dtype=card["embeddings_dtype"])
    table, about = labelled_films.open_embeddings(embeddings, about, say, shown)
    saved.check_encoder(card, table.encoder, table.embedding.shape[1])
    examples = join(table.image_id, read_labels(labels), config.seed, needed=("test",))
    examples = dataclasses.replace(examples, findings=findings)  # as the head calls them
    name = str(head.folder or "the head in memory")
    labels = inputs.asked_by(card.get("inputs"), labels, card["per_study"])
    embedding, examples, _ = inputs.for_examples(
        labels, table.embedding, examples, card.get("inputs")
    )
    embedding, examples = studies.merge(embedding, examples, card["per_study"])
    examples = evaluation.with_local(examples, config.local, config.seed)
    evaluation.check_new(examples, past, name)
    with features.on_cpu():
        done = evaluation.run(embedding, examples, fitted, past, config)
        if config.compare:
            place = paths.typed_local(config.compare, "compare")
            if (place / saved.CARD).is_file():
                other = load_head(place)
                saved.check_encoder(other.saved.card, table.encoder, table.embedding.shape[1])
                check_films_suffice(other.saved.card, "a comparison on the films of another head")
                if (theirs := other.saved.card["per_study"]) != card["per_study"]:
                    raise ValueError(
                        f"{place} was trained with labels.per_study={theirs}, and {name} with "
                        f"{card['per_study']}; expected the same: compare heads that judge films, "
                        "or heads that judge studies alike"
                    )
                evaluation.check_new(examples, _past(other), str(place))
                film = embedding[:, : card["width"]]
                against = evaluation.as_other(place.name, other.saved, film, examples)
            else:
                against = predictions.read(place)
            at = examples.split == "test"
            done.measured["comparison"] = predictions.compare(
                against, "test", examples.image_id[at], findings, done.tested
            )
    warnings = []
    if past.films is None:
        warnings.append(
            f"{name} does not say which films it was trained on, so nothing tells whether some of "
            "these are among them. The folder that train_head.py writes says it."
        )
    provenance = {
        "head": name,
        "encoder": table.encoder,
        "embeddings_digest": table.digest,
        "temperatures": {one: card["temperatures"][one] for one in findings},
        "trained_with": card.get("config"),
        **labelled_films.origin(labels),
        "config": dataclasses.asdict(dataclasses.replace(config, embeddings=about, labels=labels)),
    }
    damaged = [(one.detail, one.image_id) for one in table.damaged]
    done = done._replace(left_out=[*done.left_out, *damaged])
    return Evaluation(done, provenance, warnings)


def _past(head: Head) -> Past:
    """The films that a head knows: of a training in this program, or as its folder says."""
    from cxr_embeddings.heads import evaluation

    if head.experiment:
        return evaluation.Past(head.experiment.films, head.experiment.predicted)
    return evaluation.read_past(head.folder) if head.folder else evaluation.Past(None, None)
