"""How often the intervals hold the truth, and tests reject it, on simulated films.

Scores are normal, with the same spread in both classes; films of a patient share the label and half
the variance of the score. docs/statistics.md has the tables.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import special, stats

from cxr_embeddings.heads import similarity
from cxr_embeddings.heads.statistics import (
    auprc_interval,
    auroc_interval,
    bootstrap,
    calibration,
    discrimination,
    proportion,
    subgroups,
)

AUROCS, PATIENTS, PREVALENCES = (0.75, 0.86, 0.92, 0.98), (40, 100, 300), (0.1, 0.3)
EACH = {1: "1", 8: "1 to 8"}  # films a patient at most, and how a table says it
OF_AUPRC = ((0.75, 300, 8, 0.3), (0.86, 100, 1, 0.1), (0.92, 100, 8, 0.1), (0.98, 40, 1, 0.3))
OF_COMPARE = ((0.86, 40, 8, 0.1), (0.86, 40, 1, 0.3), (0.98, 100, 8, 0.1), (0.86, 300, 8, 0.3))
RESAMPLES = 200
Films = tuple[np.ndarray, np.ndarray, np.ndarray]  # score, label, patient
Limits = Sequence[float] | tuple[None, None] | None
COVERED = "coverage | width | none"


def sizes(random: np.random.Generator, patients: int, most: int) -> np.ndarray:
    """The patient of each film, of 1 to `most` films a patient."""
    return np.repeat(np.arange(patients), random.integers(1, most + 1, patients))


def noise(random: np.random.Generator, patient: np.ndarray) -> np.ndarray:
    """Noise of variance 1 and intraclass correlation 0.5."""
    shared = random.normal(size=patient.max() + 1)[patient]
    return np.sqrt(0.5) * (shared + random.normal(size=len(patient)))


def films(
    random: np.random.Generator, auroc: float, patients: int, most: int, prevalence: float
) -> Films:
    patient = sizes(random, patients, most)
    label = (random.random(patients) < prevalence).astype(np.int64)[patient]
    return noise(random, patient) + np.sqrt(2) * stats.norm.ppf(auroc) * label, label, patient


def three(*numbers: float) -> list[str]:
    return [f"{number:.3f}" for number in numbers]


def row(*cells: object) -> str:
    return " | ".join(map(str, cells))


def covered(intervals: Sequence[Limits], truth: float) -> list[str]:
    """The share of intervals that hold the truth, their width, and the share of samples without."""
    known = [one for one in intervals if one is not None and one[0] is not None]
    low, high = np.reshape(known, (-1, 2)).T
    none = 1 - len(known) / max(1, len(intervals))
    return three(np.mean((low <= truth) & (truth <= high)), np.mean(high - low), none)


def auroc(replications: int) -> Iterator[str]:
    yield f"AUROC | patients | films each | prevalence | {COVERED} | 3.92 SD | one class"
    for setting in itertools.product(AUROCS, PATIENTS, EACH, PREVALENCES):
        truth, patients, most, prevalence = setting
        random = np.random.default_rng([int(100 * one) for one in setting])
        values, found = [], []
        for _ in range(replications):
            score, label, patient = films(random, *setting)
            if not 0 < label.sum() < len(label):
                continue
            values.append(auroc_interval.rank(score, label).value)
            found.append(auroc_interval.interval(score, label, patient))
        scatter, one_class = three(3.92 * np.std(values)), replications - len(values)
        shares = covered(found, truth)
        yield row(truth, patients, EACH[most], prevalence, *shares, *scatter, one_class)


def auprc(replications: int) -> Iterator[str]:
    yield f"AUROC | patients | films each | prevalence | AUPRC | {COVERED}"
    for setting in OF_AUPRC:
        value, patients, most, prevalence = setting
        random, found = np.random.default_rng(1), []
        many = 2_000_000 // (most + 1)  # patients of a million films
        score, label, _ = films(random, value, many, most, prevalence)
        truth = auprc_interval.average_precision_score(label, score)
        for _ in range(replications):
            score, label, patient = films(random, *setting)
            if not 0 < label.sum() < len(label):
                continue
            rows, nothing = np.arange(len(label)), {"": np.zeros((len(label), 1))}
            draws = bootstrap.draw(patient.astype(str), RESAMPLES, 0)
            resampled = bootstrap.replicates(draws, rows, score, label, nothing)["auprc"]
            found.append(auprc_interval.measure(score, label, patient, resampled).limits)
        yield row(value, patients, EACH[most], prevalence, *three(truth), *covered(found, truth))


def rates(replications: int) -> Iterator[str]:
    yield f"patients | films each | share | {COVERED}"
    for patients, most, share in itertools.product((10, 20, 60), EACH, (0.5, 0.9, 0.98)):
        random, found = np.random.default_rng(2), []
        for _ in range(replications):
            patient = sizes(random, patients, most)
            hit = noise(random, patient) < stats.norm.ppf(share)
            found.append(proportion.interval(hit, patient))
        yield row(patients, EACH[most], share, *covered(found, share))


def calibrated(random: np.random.Generator, patient: np.ndarray, times: float) -> np.ndarray:
    """`calibration.columns` of films whose logits are `times` those of perfect probabilities."""
    true = 1.5 * noise(random, patient) - 1
    label = special.ndtr(noise(random, patient)) < special.expit(true)
    return calibration.columns(special.expit(times * true), label.astype(np.int64))


def ece(replications: int) -> Iterator[str]:
    yield f"films | films each | logits are times | ECE | mean | {COVERED}"
    for n, most, times in itertools.product((60, 200, 1000), EACH, (1.0, 1.2, 2.0)):
        random, found = np.random.default_rng(3), []
        columns = calibrated(random, np.arange(1_000_000), times)
        truth = float(calibration.expected_error(columns.sum(0, keepdims=True))[0])
        for _ in range(replications):
            patient = sizes(random, n, most)[:n]
            found.append(calibration.debiased(calibrated(random, patient, times), patient))
        mean = np.mean([one.value for one in found])
        shares = covered([one.limits for one in found], truth)
        yield row(n, EACH[most], times, *three(truth, mean), *shares)


def gap(replications: int) -> Iterator[str]:
    yield "groups | AUROC | patients a group | films each | excluded 0 | width"
    for groups, (value, patients, most) in itertools.product(
        (2, 4, 8), ((0.8, 50, 1), (0.92, 60, 8), (0.98, 60, 1))
    ):
        random, excluded = np.random.default_rng(4), []
        for _ in range(replications):
            score, label, patient = films(random, value, groups * patients, most, 0.4)
            rows, probability = np.arange(len(label)), special.expit(score)
            some = subgroups.FindingFilms(rows, score, label, probability, None)
            draws = bootstrap.draw(patient.astype(str), 1, 0)
            found = subgroups.measure({"": some}, (patient // patients).astype(str), draws)[1][""]
            if limits := found["auroc"]:
                excluded.append((limits["low"] > 0, limits["high"] - limits["low"]))
        yield row(groups, value, patients, EACH[most], *three(*np.mean(excluded, 0)))


def compare(replications: int) -> Iterator[str]:
    yield "AUROC | patients | films each | prevalence | rejects"
    for setting in OF_COMPARE:
        value, patients, most, prevalence = setting
        random, rejects = np.random.default_rng(5), []
        for _ in range(replications):
            score, label, patient = films(random, *setting)
            both = [score + 0.8 * noise(random, patient) for _ in range(2)]
            of_one = label[:, None], np.ones((len(label), 1), bool), *(s[:, None] for s in both)
            found = discrimination.compare([""], *of_one, patient)[""]
            if not found["undefined"]:
                rejects.append(found["p"] <= 0.05)
        yield row(value, patients, EACH[most], prevalence, *three(np.mean(rejects)))


PATTERNS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "3 each": lambda random, n: np.full(n, 3),
    "1 each": lambda random, n: np.ones(n, np.int64),
    "1 or 5": lambda random, n: np.where(random.random(n) < 0.5, 1, 5),
    "geometric": lambda random, n: random.geometric(0.3, n),
}


def near(replications: int) -> Iterator[str]:
    yield "films a patient | effect | rejects | no test"
    for (name, pattern), effect in itertools.product(PATTERNS.items(), (0.0, 1.5)):
        random, p = np.random.default_rng(6), []
        for _ in range(replications // 4 if effect else replications):
            patient = np.repeat(np.arange(40), pattern(random, 40))
            label = (random.random(40) < 0.3)[patient, None]
            embedding = 0.8 * random.normal(size=(40, 8))[patient]
            embedding += 0.6 * random.normal(size=embedding.shape)
            embedding[:, 0] += effect * label[:, 0]
            if label.any():
                found, _ = similarity.nearest(embedding, patient, 5)
                known = np.ones(label.shape, bool)
                shares, _ = similarity.sharing(
                    found, patient, [""], label * 1.0, known, permutations=99, seed=0
                )
                p.append(shares[""].p)
        tested = ~np.isnan(p)
        rejects = np.mean(np.array(p)[tested] <= 0.05)
        yield row(name, effect, *three(rejects, 1 - tested.mean()))


TABLES: dict[str, tuple[Callable[[int], Iterator[str]], int]] = {
    "auroc": (auroc, 2000),
    "auprc": (auprc, 2000),
    "rates": (rates, 2000),
    "ece": (ece, 400),
    "gap": (gap, 400),
    "compare": (compare, 2000),
    "neighbours": (near, 2000),
}


def run(table: str, replications: int = 0) -> None:
    """Prints one table.

    table: auroc, auprc, rates, ece, gap, compare or neighbours.
    replications: simulated samples a row; 0 is as many as docs/statistics.md has.
    """
    if table not in TABLES:
        raise SystemExit(f"error: found the table {table!r}; expected one of {', '.join(TABLES)}")
    rows, usual = TABLES[table]
    replications = replications or usual
    start = time.process_time()
    for i, line in enumerate(rows(replications)):
        print(f"| {line} |", flush=True)
        if not i:
            print("|" + " --- |" * (line.count(" | ") + 1))
    seconds = time.process_time() - start
    print(f"\n{replications} replications a row, {seconds:,.0f} s of one core")
