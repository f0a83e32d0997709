"""How often the intervals hold the truth, and tests reject it, on simulated films.

python -m benchmarks.coverage auroc [replications]

prints a table of Markdown: `auroc`, `auprc`, `rates`, `ece`, `gap`, `compare` or `neighbours`, each
with what was done before, where that is cheap to repeat. docs/statistics.md has all of them. Scores
are normal, alike in spread; films of a patient share the label and half the variance of the score.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from heads import neighbours
from heads.statistics import (
    auprc_interval,
    auroc_interval,
    bootstrap,
    calibration,
    discrimination,
    proportion,
    subgroups,
)

AUROCS, PATIENTS, MOST_FILMS, PREVALENCES = (
    (0.75, 0.86, 0.92, 0.98),
    (40, 100, 300),
    (1, 8),
    (0.1, 0.3),
)
OF_AUPRC = ((0.75, 300, 8, 0.3), (0.86, 100, 1, 0.1), (0.92, 100, 8, 0.1), (0.98, 40, 1, 0.3))
OLD, RESAMPLES = 10, 200  # every tenth sample is measured in the old way, too, on so many resamples
Films = tuple[np.ndarray, np.ndarray, np.ndarray]  # score, label, patient


def sizes(random: np.random.Generator, patients: int, most: int) -> np.ndarray:
    """The patient of each film, of 1 to `most` films a patient."""
    return np.repeat(np.arange(patients), random.integers(1, most + 1, patients))


def noise(random: np.random.Generator, patient: np.ndarray) -> np.ndarray:
    """Of variance 1 and intraclass correlation 0.5."""
    shared = random.normal(size=patient.max() + 1)[patient]
    return np.sqrt(0.5) * (shared + random.normal(size=len(patient)))


def films(
    random: np.random.Generator, auroc: float, patients: int, most: int, prevalence: float
) -> Films:
    patient = sizes(random, patients, most)
    label = (random.random(patients) < prevalence).astype(np.int64)[patient]
    return noise(random, patient) + np.sqrt(2) * stats.norm.ppf(auroc) * label, label, patient


def percentiles(metric: str, score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> Any:
    """The bootstrap's limits, as they were."""
    draws, rows = bootstrap.draw(patient.astype(str), RESAMPLES, 0), np.arange(len(label))
    nothing = {"": np.zeros((len(label), 1))}
    of_resamples = bootstrap.replicates(draws, rows, score, label, nothing)[metric]
    found = bootstrap.interval(bootstrap.Measured(0.5, of_resamples))
    return None if found["low"] is None else (found["low"], found["high"])


class Tally:
    """Counts intervals that hold the truth, their widths, and samples without."""

    def __init__(self) -> None:
        self.held: list[bool] = []
        self.width: list[float] = []
        self.none = 0

    def add(self, limits: Sequence[float] | None, truth: float) -> None:
        if limits is None:
            self.none += 1
            return
        self.held.append(bool(limits[0] <= truth <= limits[1]))
        self.width.append(limits[1] - limits[0])

    def cells(self) -> list[str]:
        none = self.none / max(1, self.none + len(self.held))
        return [f"{np.mean(self.held):.3f}", f"{np.mean(self.width):.3f}", f"{none:.3f}"]


def auroc(replications: int) -> Iterator[list[str]]:
    yield (
        "AUROC, patients, films each, prevalence, before, width, none, now, "
        "width, none, 3.92 SD, one class"
    ).split(", ")
    for setting in itertools.product(AUROCS, PATIENTS, MOST_FILMS, PREVALENCES):
        random, values, one_class = (
            np.random.default_rng([int(100 * one) for one in setting]),
            [],
            0,
        )
        before, now = Tally(), Tally()
        for i in range(replications):
            score, label, patient = films(random, *setting)
            if not 0 < label.sum() < len(label):
                one_class += 1
                continue
            ranked = auroc_interval.rank(score, label)
            values.append(ranked.value)
            now.add(auroc_interval.interval(score, label, patient), setting[0])
            if setting[2] == 1:
                limits = tuple(discrimination.delong(ranked, label, patient).values())
                before.add(None if limits[0] is None else limits, setting[0])
            elif i % OLD == 0:
                before.add(percentiles("auroc", score, label, patient), setting[0])
        given = [f"{setting[0]}", f"{setting[1]}", "1" if setting[2] == 1 else "1 to 8"]
        scatter = f"{3.92 * np.std(values):.3f}"
        yield [*given, f"{setting[3]}", *before.cells(), *now.cells(), scatter, f"{one_class}"]


def auprc(replications: int) -> Iterator[list[str]]:
    yield (
        "AUROC, patients, films each, prevalence, AUPRC, before, width, none, now, width, none"
    ).split(", ")
    for setting in OF_AUPRC:
        random, before, now = np.random.default_rng(1), Tally(), Tally()
        many = 2_000_000 // (setting[2] + 1)  # patients of a million films
        everyone = films(random, setting[0], many, *setting[2:])
        truth = auprc_interval.average_precision_score(everyone[1], everyone[0])
        for _ in range(replications):
            score, label, patient = films(random, *setting)
            if not 0 < label.sum() < len(label):
                continue
            draws, rows = bootstrap.draw(patient.astype(str), RESAMPLES, 0), np.arange(len(label))
            nothing = {"": np.zeros((len(label), 1))}
            of_resamples = bootstrap.replicates(draws, rows, score, label, nothing)["auprc"]
            measured = auprc_interval.measure(score, label, patient, of_resamples)
            now.add(None if measured.limits[0] is None else measured.limits, truth)
            old = bootstrap.interval(measured._replace(limits=None))
            before.add(None if old["low"] is None else (old["low"], old["high"]), truth)
        given = [f"{setting[0]}", f"{setting[1]}", "1" if setting[2] == 1 else "1 to 8"]
        yield [*given, f"{setting[3]}", f"{truth:.3f}", *before.cells(), *now.cells()]


def rates(replications: int) -> Iterator[list[str]]:
    yield ["patients", "films each", "share", "before", "width", "none", "now", "width", "none"]
    for patients, most, share in itertools.product((10, 20, 60), MOST_FILMS, (0.5, 0.9, 0.98)):
        random, before, now = np.random.default_rng(2), Tally(), Tally()
        for i in range(replications):
            patient = sizes(random, patients, most)
            hit = noise(random, patient) < stats.norm.ppf(share)
            now.add(proportion.interval(hit, patient), share)
            if i % OLD == 0:
                draws = bootstrap.draw(patient.astype(str), RESAMPLES, 0)
                weight = draws.count[:, draws.patient].astype(float)
                limits = np.percentile(weight @ hit / weight.sum(1), [2.5, 97.5])
                if 0 < hit.sum() < len(hit):
                    before.add(limits, share)
                else:
                    whole = proportion.wilson(float(hit.mean()), float(patients), 1.96)
                    before.add(whole, share)
        given = [f"{patients}", "1" if most == 1 else "1 to 8", f"{share}"]
        yield [*given, *before.cells(), *now.cells()]


def ece(replications: int) -> Iterator[list[str]]:
    yield (
        "films, films each, logits are times, ECE, mean before, mean now, "
        "before, width, none, now, width, none"
    ).split(", ")

    def calibrated(random: np.random.Generator, patient: np.ndarray, by: float) -> Any:
        true = 1.5 * noise(random, patient) - 1
        label = special.ndtr(noise(random, patient)) < special.expit(true)
        return special.expit(by * true), label.astype(np.int64)

    for n, most, by in itertools.product((60, 200, 1000), MOST_FILMS, (1.0, 1.2, 2.0)):
        random, before, now, means = np.random.default_rng(3), Tally(), Tally(), []
        columns = calibration.columns(*calibrated(random, np.arange(1_000_000), by))
        truth = float(calibration.expected_error(columns.sum(0, keepdims=True))[0])
        for i in range(replications):
            patient = sizes(random, n, most)[:n]
            columns = calibration.columns(*calibrated(random, patient, by))
            found = calibration.debiased(columns, patient)
            now.add(found.limits, truth)
            plain = float(calibration.expected_error(columns.sum(0, keepdims=True))[0])
            means.append((plain, found.value))
            if i % OLD == 0:
                draws = bootstrap.draw(patient.astype(str), RESAMPLES, 0)
                again = calibration.expected_error(draws.count[:, draws.patient] @ columns)
                low, high = np.percentile(again, [2.5, 97.5])
                before.add((max(0, 2 * plain - high), max(plain, 2 * plain - low)), truth)
        given = [f"{n}", "1" if most == 1 else "1 to 8", f"{by}", f"{truth:.3f}"]
        yield [
            *given,
            *(f"{mean:.3f}" for mean in np.mean(means, 0)),
            *before.cells(),
            *now.cells(),
        ]


def gap(replications: int) -> Iterator[list[str]]:
    yield ["groups", "AUROC", "patients a group", "films each", "excluded 0 before", "now", "width"]
    for groups, (value, patients, most) in itertools.product(
        (2, 4, 8), ((0.8, 50, 1), (0.92, 60, 8), (0.98, 60, 1))
    ):
        random, excluded, old = np.random.default_rng(4), [], []
        for i in range(replications):
            score, label, patient = films(random, value, groups * patients, most, 0.4)
            some = subgroups.Films(np.arange(len(label)), score, label, special.expit(score), None)
            again = RESAMPLES if i % OLD == 0 else 1
            draws, of = bootstrap.draw(patient.astype(str), again, 0), patient // patients
            _, gaps = subgroups.measure({"": some}, of.astype(str), draws)
            if not (found := gaps[""])["auroc"]:
                continue
            excluded.append(
                (found["auroc"]["low"] > 0, found["auroc"]["high"] - found["auroc"]["low"])
            )
            if again > 1:
                ends = []
                for end in ("largest", "smallest"):
                    rows = np.flatnonzero(of == int(found[end]))
                    nothing = {"": np.zeros((len(rows), 1))}
                    part = bootstrap.replicates(draws, rows, score[rows], label[rows], nothing)
                    ends.append(part["auroc"])
                old.append(np.nanpercentile(ends[0] - ends[1], 2.5) > 0)
        given = [f"{groups}", f"{value}", f"{patients}", "1" if most == 1 else "1 to 8"]
        yield [*given, f"{np.mean(old):.3f}", *(f"{mean:.3f}" for mean in np.mean(excluded, 0))]


def compare(replications: int) -> Iterator[list[str]]:
    yield ["AUROC", "patients", "films each", "prevalence", "rejects before", "now"]
    for setting in (
        (0.86, 40, 8, 0.1),
        (0.86, 40, 1, 0.3),
        (0.98, 100, 8, 0.1),
        (0.86, 300, 8, 0.3),
    ):
        random, now, before = np.random.default_rng(5), [], []
        for i in range(replications):
            score, label, patient = films(random, *setting)
            a, b = (score + 0.8 * noise(random, patient) for _ in range(2))
            mask = np.ones((len(label), 1), bool)
            found = discrimination.compare(
                [""], label[:, None], mask, a[:, None], b[:, None], patient
            )[""]
            if found["undefined"]:
                continue
            now.append(found["p"] <= 0.05)
            if i % OLD == 0:
                draws = bootstrap.draw(patient.astype(str), RESAMPLES, 0)
                rows, nothing = np.arange(len(label)), {"": np.zeros((len(label), 1))}
                again = [
                    bootstrap.replicates(draws, rows, s, label, nothing)["auroc"] for s in (a, b)
                ]
                low, high = np.nanpercentile(again[1] - again[0], [2.5, 97.5])
                before.append(not low <= 0 <= high)
        given = [f"{setting[0]}", f"{setting[1]}", "1" if setting[2] == 1 else "1 to 8"]
        yield [*given, f"{setting[3]}", f"{np.mean(before):.3f}", f"{np.mean(now):.3f}"]


PATTERNS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "3 each": lambda random, n: np.full(n, 3),
    "1 each": lambda random, n: np.ones(n, np.int64),
    "1 or 5": lambda random, n: np.where(random.random(n) < 0.5, 1, 5),
    "geometric": lambda random, n: random.geometric(0.3, n),
}


def old_permutation(random: np.random.Generator, patient: np.ndarray) -> np.ndarray:
    """Labels laid down patient after patient, where films lie in another order of patients."""
    rank = [random.permutation(patient.max() + 1)[patient] for _ in range(2)]
    of_films, of_labels = (np.argsort(one, kind="stable") for one in rank)
    order = np.empty_like(of_films)
    order[of_films] = of_labels
    return order


def near(replications: int) -> Iterator[list[str]]:
    yield ["films a patient", "effect", "rejects before", "now", "no test"]
    for (name, pattern), effect in itertools.product(PATTERNS.items(), (0.0, 1.5)):
        random, p = np.random.default_rng(6), []
        for _ in range(replications // 4 if effect else replications):
            patient = np.repeat(np.arange(40), pattern(random, 40))
            label = (random.random(40) < 0.3)[patient, None]
            embedding = 0.8 * random.normal(size=(40, 8))[patient]
            embedding += 0.6 * random.normal(size=embedding.shape)
            embedding[:, 0] += effect * label[:, 0]
            if not label.any():
                continue
            known = np.ones(label.shape, bool)
            found, _ = neighbours.nearest(embedding, patient, 5)
            now, _ = neighbours.sharing(found, patient, [""], label * 1.0, known, 99, 0)
            share, again = now[""].share, []
            for _ in range(99):
                other = label[old_permutation(random, patient)]
                again.append(other[found].mean(1)[other].mean())
            p.append((now[""].p, (1 + np.sum(np.array(again) >= share - 1e-12)) / 100))
        new, old = np.array(p).T
        tested = ~np.isnan(new)
        cells = np.mean(old <= 0.05), np.mean(new[tested] <= 0.05), 1 - tested.mean()
        yield [name, f"{effect}", *(f"{cell:.3f}" for cell in cells)]


TABLES: dict[str, tuple[Callable[[int], Iterator[list[str]]], int]] = {
    "auroc": (auroc, 2000),
    "auprc": (auprc, 2000),
    "rates": (rates, 2000),
    "ece": (ece, 400),
    "gap": (gap, 300),
    "compare": (compare, 2000),
    "neighbours": (near, 1000),
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TABLES:
        raise SystemExit(
            f"expected one of {', '.join(TABLES)}, and a number of replications\n{__doc__}"
        )
    table, replications = TABLES[sys.argv[1]]
    replications = int(sys.argv[2]) if len(sys.argv) > 2 else replications
    start = time.process_time()
    for i, row in enumerate(table(replications)):
        print("| " + " | ".join(row) + " |", flush=True)
        if not i:
            print("|" + " --- |" * len(row))
    seconds = time.process_time() - start
    print(f"\n{replications} replications a row, {seconds:,.0f} s of one core")


if __name__ == "__main__":
    main()
