"""How good heads become with few labels: many trainings on small draws of the patients."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from cxr_embeddings.configs.schema import TrainingConfig

from . import select
from .select import SplitFilms
from .statistics import discrimination, metrics
from .statistics.results import DataEfficiency, Interval, SizePoint

ELLIPSIS, ALL = "...", "all"
FEWEST_DRAWS = 5  # with an interval


def parse_sizes(sizes: Sequence[str], films: int) -> list[int]:
    """Numbers of films from `8,16,...,all`: an ellipsis goes on doubling, `all` is all of them.

    Raises:
        ValueError: a size is none of these, not above the one before it, or above `films`.
    """
    found: list[int] = []
    for i, size in enumerate(sizes):
        if size == ELLIPSIS and found:
            after = next(iter(sizes[i + 1 :]), ALL)
            end = int(after) if after.isdigit() else films
            while 2 * found[-1] < end:
                found.append(2 * found[-1])
        elif size == ALL:
            found.append(films)
        elif size.isdigit() and int(size) > films:
            raise ValueError(f"sizes has {size}, train has {films} films: write `all` for those")
        elif size.isdigit() and int(size) > (found[-1] if found else 1):
            found.append(int(size))
        else:
            raise ValueError(
                f"sizes has {size!r}; expected growing numbers of at least 2, `...` to go on "
                "doubling, and `all`, such as 8,16,...,all"
            )
    return sorted({size for size in found if size <= films})


def draw(patient_id: Shaped[np.ndarray, " film"], size: int, seed: Sequence[int]) -> np.ndarray:
    """Positions of `size` films of patients in random order; the last patient's may be cut."""
    patient = np.array([p or f"\0{i}" for i, p in enumerate(patient_id)])  # unknown: alone
    names, of_film = np.unique(patient, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(names))
    return np.sort(np.argsort(rank[of_film], kind="stable")[:size])


def score_draw(
    embedding: Float[np.ndarray, "table dim"],
    films: SplitFilms,
    chosen: Int[np.ndarray, " draw"],
    tune: SplitFilms,
    test: SplitFilms,
    recipe: TrainingConfig,
    gain: Float32[np.ndarray, " dim"] | None = None,
) -> tuple[Float[np.ndarray, "test finding"], Int[np.ndarray, " known"]]:
    """Logits of test after training on the `chosen` films, and of which findings they tell.

    It is trained and chosen as the whole is, on all of tune. A finding counts if the draw and test
    have both its classes; the others are unknown, not gone: another number of them would be
    compiled anew.
    """
    some = SplitFilms(*(array[chosen] for array in films))
    usable = some.with_both_classes()
    if not (usable & tune.with_both_classes()).any():  # nothing to choose by
        return np.zeros(test.label.shape, np.float32), np.empty(0, np.int64)
    drawn, judge = (part._replace(mask=part.mask & usable) for part in (some, tune))
    trained = select.fit(embedding, drawn, judge, recipe, gain=gain)
    logit = select.score(trained, embedding, test.row)
    return logit, np.flatnonzero(usable & test.with_both_classes())


def measure(
    embedding: Float[np.ndarray, "table dim"],
    splits: tuple[SplitFilms, SplitFilms, SplitFilms],
    patient_id: Shaped[np.ndarray, " film"],
    recipe: TrainingConfig,
    sizes: Sequence[int],
    *,
    findings: Sequence[str],
    draws: int,
    seed: int,
    gain: Float32[np.ndarray, " dim"] | None = None,
    after_draw: Callable[[], object] = lambda: None,
) -> DataEfficiency:
    """AUROC on test after training on `sizes` films, for `draws` random draws of patients each.

    Each is as of `score_draw`; all films are one draw. An AUROC is the mean of the draws that
    count, with their 2.5 and 97.5 percentiles (None for fewer than five draws). The splits are
    train, tune and test; the patients are those of train; `gain` is as of `select.fit`.
    """
    films, tune, test = splits
    testable = test.with_both_classes()
    aurocs: list[np.ndarray] = []
    patients: list[float | None] = []
    for size in sizes:
        number = 1 if size == len(films.row) else draws
        values, counts = np.full((number, len(findings)), np.nan), []
        for i in range(number):
            chosen = draw(patient_id, size, (seed, size, i))
            counts.append(metrics.count_patients(patient_id[chosen])["patients"])
            logit, known = score_draw(embedding, films, chosen, tune, test, recipe, gain)
            for j in known:
                at = test.mask[:, j]
                values[i, j] = discrimination.auroc(logit[at, j], test.label[at, j])
            after_draw()
        aurocs.append(values)
        known = [count for count in counts if count is not None]
        patients.append(float(np.mean(known)) if len(known) == number else None)

    def curve(of_draws: Sequence[np.ndarray]) -> list[SizePoint]:
        return [
            {"size": size, "patients": count, "draws": len(known), "auroc": _interval(known)}
            for size, count, values in zip(sizes, patients, of_draws, strict=True)
            for known in [values[np.isfinite(values)]]
        ]

    of_testable = [values[:, testable] for values in aurocs]
    complete = [values[np.isfinite(values).all(1)].mean(1) for values in of_testable]
    return {
        "sizes": list(sizes),
        "draws": draws,
        "findings": {f: curve([v[:, j] for v in aurocs]) for j, f in enumerate(findings)},
        "mean": curve(complete),
    }


def _interval(values: np.ndarray) -> Interval | None:
    if not len(values):
        return None
    low = high = None
    if len(values) >= FEWEST_DRAWS:
        low, high = map(float, np.percentile(values, [2.5, 97.5]))
    return {"value": float(values.mean()), "low": low, "high": high}
