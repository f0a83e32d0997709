"""Heads across hospitals: trained on each site, and on all but one, and tested on every other."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from cxr_embeddings.configs.schema import TrainingConfig
from cxr_embeddings.configs.schema_sites import SitesConfig

from . import data_efficiency, experiment, predictions, select, site_probe
from .labels.label_table import Examples, note
from .select import SplitFilms, Trained
from .statistics import bootstrap, case_mix, discrimination, metrics, proportion
from .statistics.results import ComparedFinding, DataEfficiency, Interval, Note, Results
from .statistics.site_results import HeadAtSite, SiteFacts, SitesMeasured, Told

FACTORS = ("view", "sex", "age")  # of the common mix


class Compared(NamedTuple):
    """What came out."""

    measured: SitesMeasured
    predicted: pd.DataFrame  # a row for each head and film of test


class _Head(NamedTuple):
    """A head, the films that it was chosen on, and which findings it has learnt."""

    trained: Trained
    tune: metrics.Scored
    usable: Bool[np.ndarray, " finding"]
    sources: list[str]


def compare(
    embedding: Float[np.ndarray, "table dim"],
    sites: Mapping[str, Examples],
    config: SitesConfig,
    notes: list[Note],
    after: Callable[[str], object] = lambda what: None,
) -> Compared:
    """Trains and tests all heads. Examples are rows of `embedding`, with the same findings.

    `after` is told what was done.

    Raises:
        ValueError: no finding has both classes in train, tune or test of a site.
    """
    findings = next(iter(sites.values())).findings
    films = {name: experiment.films_of(examples) for name, examples in sites.items()}
    for name, splits in films.items():
        for split, some in splits.items():
            if not some.with_both_classes().any():
                raise ValueError(
                    f"site {name}: no finding of {', '.join(findings)} has both classes among the "
                    f"{len(some.row)} films of {split}; expected positives and negatives of one: "
                    "leave the site out, choose other findings, or give it more films"
                )
    trained_on = {name: [name] for name in sites}
    if len(sites) > 2:
        trained_on |= {f"all but {name}": [s for s in sites if s != name] for name in sites}
    heads = {}
    for name, sources in trained_on.items():
        heads[name] = _train(embedding, [sites[one] for one in sources], sources, config.training)
        notes = notes + [
            one
            for j in np.flatnonzero(~heads[name].usable)
            for one in note(f"{findings[j]} is not learnt on {name}: one class only in train", 1)
        ]
        after(f"trained on {name}")
    factors = [
        one
        for one in FACTORS
        if all((x.groups.get(one, np.array([])) != "").any() for x in sites.values())
    ]
    strata = {
        name: case_mix.strata(x.groups, factors, len(x.row))[x.split == "test"]
        for name, x in sites.items()
    }
    mix = case_mix.common_mix([*strata.values()])
    measured: SitesMeasured = {
        "findings": [*findings],
        "notes": notes,
        "trained_on": trained_on,
        "sites": {},
        "heads": {name: {} for name in heads},
        "factors": factors,
        "common_mix": mix,
        "told": _tell(embedding, sites, config.seed),
    }
    after("asked how well the embeddings tell the sites")
    tables = []
    for site, examples in sites.items():
        curve = _local_labels(embedding, films[site], examples, config)
        measured["sites"][site] = _facts(examples, strata[site], mix, curve)
        scored = {
            name: {
                split: experiment.score(head.trained, embedding, examples, split)
                for split in ("train", "test")
            }
            for name, head in heads.items()
        }
        for name, head in heads.items():
            own = None if name == site else (scored[site]["test"], heads[site].usable)
            measured["heads"][name][site], some = _measure(
                head, scored[name], site, examples, own, (strata[site], mix), curve, config
            )
            tables.append(some.assign(trained_on=name, site=site))
        after(f"tested on {site}")
    return Compared(measured, pd.concat(tables, ignore_index=True))


def _train(
    embedding: np.ndarray, sites: Sequence[Examples], sources: list[str], recipe: TrainingConfig
) -> _Head:
    """A head on the films of some sites."""
    parts = [experiment.films_of(examples) for examples in sites]
    train, tune = (
        SplitFilms(*(np.concatenate(some) for some in zip(*(p[split] for p in parts), strict=True)))
        for split in ("train", "tune")
    )
    usable = np.asarray(train.with_both_classes())
    fitted, judge = (part._replace(mask=part.mask & usable) for part in (train, tune))
    if not judge.with_both_classes().any():
        raise ValueError(
            f"{', '.join(sources)}: no finding with both classes in train has both in tune: give "
            "more films, or other findings"
        )
    trained = select.fit(embedding, fitted, judge, recipe)
    logit = select.score(trained, embedding, tune.row)
    patients = np.concatenate([one.patient_id[one.split == "tune"] for one in sites])
    return _Head(trained, metrics.Scored(logit, tune.label, judge.mask, patients), usable, sources)


def _measure(
    head: _Head,
    scored: Mapping[str, metrics.Scored],
    site: str,
    examples: Examples,
    own: tuple[metrics.Scored, np.ndarray] | None,
    standard: tuple[np.ndarray, Mapping[str, float]],
    curve: DataEfficiency | None,
    config: SitesConfig,
) -> tuple[HeadAtSite, pd.DataFrame]:
    """A head on the test films of a site, and the table of its predictions.

    `standard` are the strata of these films and the common mix.
    """
    test, at = scored["test"], examples.split == "test"
    columns = np.flatnonzero(head.usable)
    names = [examples.findings[j] for j in columns]

    def of(part: metrics.Scored, rows: np.ndarray | slice = slice(None)) -> metrics.Scored:
        logit, label, mask = (one[rows][:, columns] for one in (part.logit, part.label, part.mask))
        return metrics.Scored(logit, label, mask, part.patient_id[rows])

    local = None
    if config.local and site not in head.sources:  # of the others a head knows the labels
        train = scored["train"]
        size = min(config.local, len(train.patient_id))
        local = of(train, data_efficiency.draw(train.patient_id, size, (config.seed,)))
    chosen = metrics.choose(names, of(head.tune))
    results = metrics.evaluate(
        names, of(head.tune), of(test), chosen, {},
        local=local, resamples=config.resamples, seed=config.seed,
    )  # fmt: skip
    difference: dict[str, ComparedFinding] = {}
    patient = bootstrap.patients(test.patient_id)
    if own:
        theirs, usable = own
        both = np.flatnonzero(head.usable & usable)
        difference = discrimination.compare(
            [examples.findings[j] for j in both],
            test.label[:, both],
            test.mask[:, both],
            test.logit[:, both],
            theirs.logit[:, both],
            patient,
        )
    draws = bootstrap.draw(test.patient_id, config.resamples, config.seed)
    standardised: dict[str, Interval | None] = {}
    for j, name in zip(columns, names, strict=True):
        rows = np.flatnonzero(test.mask[:, j])
        weight = case_mix.weights(standard[0][rows], standard[1])
        standardised[name] = case_mix.standardised(
            draws, rows, test.logit[rows, j], test.label[rows, j], weight
        )
    found: HeadAtSite = {
        "results": results,
        "difference": difference,
        "standardised": standardised,
        "caught_up": _caught_up(results, curve) if curve and site not in head.sources else {},
    }
    ids = {name: getattr(examples, name)[at] for name in predictions.IDS}
    temperatures = {name: one.temperature for name, one in chosen.items()}
    some = of(test)
    return found, predictions.table(
        ids, names, some.logit.astype(np.float32), temperatures, some.label, some.mask
    )


def _caught_up(results: Results, curve: DataEfficiency) -> dict[str, int | None]:
    """The first size whose mean AUROC over the draws reaches the head's."""
    found: dict[str, int | None] = {}
    for name, result in results["findings"].items():
        if "auroc" in result:
            there = result["auroc"]["value"]
            points = curve["findings"].get(name, [])
            reached = (p["size"] for p in points if p["auroc"] and p["auroc"]["value"] >= there)
            found[name] = next(reached, None)
    return found


def _local_labels(
    embedding: np.ndarray, films: Mapping[str, SplitFilms], examples: Examples, config: SitesConfig
) -> DataEfficiency | None:
    """Heads on few of a site's own labels."""
    train = films["train"]
    sizes = data_efficiency.parse_sizes(config.sizes, len(train.row))
    if not sizes:
        return None
    return data_efficiency.measure(
        embedding,
        (train, films["tune"], films["test"]),
        examples.patient_id[examples.split == "train"],
        config.training,
        sizes,
        findings=examples.findings,
        draws=config.draws,
        seed=config.seed,
    )


def _facts(
    examples: Examples,
    strata: np.ndarray,
    mix: Mapping[str, float],
    curve: DataEfficiency | None,
) -> SiteFacts:
    patient = bootstrap.patients(examples.patient_id)
    prevalence: dict[str, Interval | None] = {}
    for j, name in enumerate(examples.findings):
        known = examples.mask[:, j]
        positive = examples.label[known, j] > 0
        prevalence[name] = None
        if known.any():
            low, high = proportion.interval(positive, patient[known])
            prevalence[name] = {"value": float(positive.mean()), "low": low, "high": high}
    return {
        "counts": experiment.count(examples),
        "definitions": examples.definitions,
        "notes": examples.notes,
        "prevalence": prevalence,
        "mix": {name: case_mix.shares(values, patient) for name, values in examples.groups.items()},
        "covered": float(np.isin(strata.astype(str), [*mix]).mean()),
        "local_labels": curve,
    }


def _tell(embedding: np.ndarray, sites: Mapping[str, Examples], seed: int) -> list[Told]:
    """Each pair of sites; and at each site each value of its columns against all others."""
    told, names = [], [*sites]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            rows = [sites[name].row for name in (one, other)]
            label = np.repeat([True, False], [*map(len, rows)])
            ids = [
                f"{name}/{x}" if x else "" for name in (one, other) for x in sites[name].patient_id
            ]
            what = f"{one} against {other}"
            told.append(
                site_probe.tell(
                    embedding, np.concatenate(rows), label, np.array(ids, object), what, seed
                )
            )
    for name, examples in sites.items():
        for column, values in examples.groups.items():
            known = values != ""
            there = [str(x) for x in np.unique(values[known].astype(str))]
            for value in there if len(there) > 2 else there[:1] * (len(there) > 1):
                what = f"{column} {value} at {name}"
                row, patients = examples.row[known], examples.patient_id[known]
                told.append(
                    site_probe.tell(embedding, row, values[known] == value, patients, what, seed)
                )
    return told
