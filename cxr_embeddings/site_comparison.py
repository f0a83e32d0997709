"""Hospitals to a matrix of heads: the job of `scripts/compare_sites.py`, and `compare_sites`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cxr_embeddings import labelled_films
from cxr_embeddings.common import csv_tables, data_sets, paths, progress, writing
from cxr_embeddings.common.identities import differences
from cxr_embeddings.configs.schema import EmbeddingsConfig, LabelsConfig
from cxr_embeddings.configs.schema_sites import SiteConfig, SitesConfig
from cxr_embeddings.errors import translated
from cxr_embeddings.prediction import check_new

if TYPE_CHECKING:
    import pandas as pd

    from cxr_embeddings.heads.labels.label_table import Examples, LabelTable
    from cxr_embeddings.heads.sites import Compared
    from cxr_embeddings.heads.statistics.results import Note
    from cxr_embeddings.heads.statistics.site_results import SitesMeasured
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings

ATTRIBUTES = ("view", "sex", "age", "scanner")
UNTRAINED = (
    "The encoder is not known to be trained: the numbers may say nothing about chest X-rays."
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SiteComparison:
    """Heads across hospitals; `compare_sites` makes it.

    Attributes:
        metrics: what was measured, as metrics.json holds it: `heads[TRAINED_ON][SITE]` has
            `results` (as of `Head.metrics`), `difference`, `standardised` and `caught_up`;
            `sites[SITE]` and `told` the rest.
        predicted: a row for each head and test film.
        provenance: what it was made from.
        warnings: what a reader must know first, beside what is true of all comparisons.
    """

    metrics: SitesMeasured
    predicted: pd.DataFrame
    provenance: dict[str, object]
    warnings: list[str]

    @property
    def summary(self) -> str:
        """The AUROCs, and how well the embeddings tell the hospitals."""
        from cxr_embeddings.heads.report.site_page import lines

        return "\n".join(lines(self.metrics))

    @translated
    def report(self, folder: str | os.PathLike) -> None:
        """Writes report.html, metrics.json, predictions.csv and figures into a new folder.

        Raises:
            FileError: the folder is there already, or cannot be written.
        """
        from cxr_embeddings.heads import predictions
        from cxr_embeddings.heads.report import figures, site_figures, site_page

        place = paths.typed_local(os.fspath(folder), "output.path")
        check_new(place)
        with writing.whole_folder(place) as partial:
            svgs = figures.save(site_figures.draw(self.metrics), partial / "figures")
            whole = json.dumps(self.metrics, indent=2, allow_nan=False)
            (partial / "metrics.json").write_text(whole)
            (partial / "predictions.csv").write_bytes(predictions.encode(self.predicted))
            page = partial / "report.html"
            site_page.write(page, self.metrics, self.provenance, self.warnings, svgs)


@translated
def compare_sites(config: SitesConfig, *, progress: bool | None = None) -> SiteComparison:
    """Trains heads on each site and on all but one, and tests them on every other.

    Args:
        config: of `configs.schema_sites`: the sites, and how heads are trained and measured.
        progress: print what is done; None: in a terminal or a notebook.

    Raises:
        InputError: there are fewer than two sites, two share a name, films or patients, encoders
            differ, no finding is common, or a site lacks a class.
        FileError: embeddings or labels are not there.
    """
    return compare(config, progress)


def compare(config: SitesConfig, shown: bool | None) -> SiteComparison:
    """Runs the whole job; `config.output` does not count.

    Raises:
        ValueError, OSError: as the family of `compare_sites`.
    """
    from cxr_embeddings.heads import features, select, sites

    shown = progress.wanted(shown)
    say: Callable[[str], object] = print if shown else lambda line: None
    names = [site.name for site in config.sites]
    if len(names) < 2 or len({*names}) < len(names):
        raise ValueError(
            f"the sites are {', '.join(names) or 'none'}; expected two or more of different names: "
            "give a file such as configs/sites.py as --config"
        )
    select.check(config.training)
    for site in config.sites:
        if site.labels.covariates or {site.labels.prior, site.labels.per_study} != {"none"}:
            raise ValueError(
                f"site {site.name} sets covariates, prior or per_study; expected none of them: "
                "sites are compared by their films alone"
            )
    tables: dict[str, Embeddings] = {}
    for site in config.sites:
        say(f"site {site.name}")
        about = EmbeddingsConfig(site.embeddings, dtype=config.dtype)
        tables[site.name], _ = labelled_films.open_embeddings((), about, say, shown)
    _check_encoders(tables)
    labels, notes = _labels(config)
    examples = {
        site.name: _examples(site, tables[site.name], labels[site.name], config)
        for site in config.sites
    }
    _check_disjoint(config, examples)
    with tempfile.TemporaryFile() as file, features.on_cpu():
        embedding, examples = _stacked(file.fileno(), tables, examples)
        done: Compared = sites.compare(embedding, examples, config, notes, say)
    first = tables[names[0]]
    provenance: dict[str, object] = {
        "encoder": first.encoder,
        "embeddings_digests": {name: table.digest for name, table in tables.items()},
        "tables_digests": {
            name: labelled_films.origin(table.config)["tables_digests"]
            for name, table in labels.items()
        },
        "versions": labelled_films.origin(LabelsConfig())["versions"],
        "config": dataclasses.asdict(config),
    }
    trained = first.encoder and first.encoder.get("trained")
    warnings = [] if trained else [UNTRAINED]
    for site in config.sites:
        if site.labels.data_set and (said := data_sets.load(site.labels.data_set).caution):
            warnings.append(f"{site.name}: {said}")
    return SiteComparison(*done, provenance, warnings)


def _check_encoders(tables: Mapping[str, Embeddings]) -> None:
    """Raises ValueError where two sites have embeddings of different encoders."""
    from cxr_embeddings.heads.saved import ENCODER

    (name, first), *others = tables.items()
    for other, table in others:
        widths = first.embedding.shape[1], table.embedding.shape[1]
        known = first.encoder, table.encoder
        places = f"of {name}", f"of {other}"
        found = [f"numbers of an embedding: {widths[0]:,} {places[0]}, {widths[1]:,} {places[1]}"]
        found = found if widths[0] != widths[1] else []
        if (known[0] is None) != (known[1] is None):
            found.append("one has a manifest.json, the other none")
        elif known[0] is not None and known[1] is not None:
            found += differences(known[0], known[1], places, ENCODER)
        if found:
            said = "\n".join(found)
            raise ValueError(
                f"the embeddings of {name} and {other} are of different encoders:\n{said}\nEmbed "
                "the films of all sites with one encoder."
            )


def _labels(config: SitesConfig) -> tuple[dict[str, LabelTable], list[Note]]:
    """The tables of all sites with the same findings in the same order; and what was left out."""
    from cxr_embeddings.heads.labels.label_table import note, read_labels

    wanted = config.findings
    if wanted == ("all",):
        found = {
            site.name: read_labels(dataclasses.replace(_named(site), findings=("all",))).findings
            for site in config.sites
        }
        plain = {
            name: {csv_tables.plain(one): one for one in names} for name, names in found.items()
        }
        first, *others = plain.values()
        common = [key for key in first if all(key in other for other in others)]
        wanted = tuple(first[key] for key in common)
        notes = [
            one
            for name, names in plain.items()
            if (gone := [text for key, text in names.items() if key not in common])
            for one in note(f"findings of {name} that not all sites have, left out", gone)
        ]
        if not wanted:
            listed = "; ".join(f"{name}: {', '.join(names)}" for name, names in found.items())
            raise ValueError(
                f"no finding is in the tables of all sites ({listed}); expected one: name the "
                "columns alike, or say whose tables they are with labels.data_set"
            )
    else:
        notes = []
    tables = {}
    for site in config.sites:
        table = read_labels(dataclasses.replace(_named(site), findings=wanted))
        tables[site.name] = dataclasses.replace(table, findings=wanted)  # spelt as at the first
    return tables, notes


def _named(site: SiteConfig) -> LabelsConfig:
    """The config of the labels of a site, with the columns of view, sex, age and scanner."""
    labels = labelled_films.at_home(site.labels)
    columns = [getattr(site, name) or name for name in ATTRIBUTES]
    return dataclasses.replace(labels, subgroups=tuple(columns))


def _examples(
    site: SiteConfig, table: Embeddings, labels: LabelTable, config: SitesConfig
) -> Examples:
    """The films of a site, in three splits, with their attributes by these names."""
    from cxr_embeddings.heads.labels.join import join

    there = {
        name: column
        for name in ATTRIBUTES
        for column in [getattr(site, name) or name]
        if getattr(site, name) or csv_tables.alike(column, labels.columns)
    }
    options = labels.config
    split = options.split_path or options.fractions or "split" in labels.facts.values
    options = dataclasses.replace(
        options,
        subgroups=tuple(there.values()),
        fractions=options.fractions if split else config.fractions,
    )
    try:
        examples = join(table.image_id, dataclasses.replace(labels, config=options), config.seed)
    except ValueError as error:
        raise ValueError(f"site {site.name}: {error}") from error
    groups = {name: examples.groups[column] for name, column in there.items()}
    upper = {name: np.char.upper(values.astype(str)) for name, values in groups.items()}
    for name in {"sex"} & upper.keys():
        upper[name] = np.array([value[:1] for value in upper[name]])
    groups |= {name: upper[name].astype(object) for name in {"view", "sex"} & upper.keys()}
    return dataclasses.replace(examples, groups=groups)


def _check_disjoint(config: SitesConfig, examples: Mapping[str, Examples]) -> None:
    """Raises ValueError where two sites share films or patients."""
    import pandas as pd

    frames = {}
    for site in config.sites:
        some = examples[site.name]
        frame = frames[site.name] = pd.DataFrame(
            {"image_id": some.image_id, "patient_id": some.patient_id}
        )
        if site.labels.data_set:
            entry = data_sets.load(site.labels.data_set)
            frame.attrs |= {"data_set": entry.name, "films_of": entry.films_of}
    for (name_a, a), (name_b, b) in itertools.combinations(frames.items(), 2):
        data_sets.check_disjoint(name_a, a, name_b, b)


def _stacked(
    descriptor: int, tables: Mapping[str, Embeddings], examples: Mapping[str, Examples]
) -> tuple[np.memmap, dict[str, Examples]]:
    """The labelled films of all sites in one table in a file, and examples that are its rows."""
    from cxr_embeddings.heads import features

    films = sum(len(one.row) for one in examples.values())
    first = next(iter(tables.values())).embedding
    with os.fdopen(os.dup(descriptor), "r+b") as stream:
        whole = np.memmap(stream, first.dtype, "w+", shape=(films, first.shape[1]))
    start, moved = 0, {}
    for name, some in examples.items():
        moved[name] = dataclasses.replace(some, row=np.arange(start, start + len(some.row)))
        for block in features.blocks(tables[name].embedding, some.row):
            whole[start : start + len(block)] = block
            start += len(block)
    return whole, moved
