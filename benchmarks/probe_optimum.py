"""Linear probes beside scikit-learn's optimum: rare findings, and penalties down to 1e-6.

Embeddings are drawn as in benchmarks/heads.py. scikit-learn goes on to a gradient of 1e-10 in
float64. A row: both AUROCs on 4,000 other films, and how far our kernel is from theirs, in lengths
of theirs; the mean of the draws for the AUROCs, the largest for the differences.
"""

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cxr_embeddings.heads import logistic
from cxr_embeddings.heads.features import select, standardisation
from cxr_embeddings.heads.statistics.discrimination import auroc

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TEST, FACTORS = 4000, 256


def draw(films: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [films dim], and a score [films] whose largest are to have the finding."""
    world, generator = np.random.default_rng(1), np.random.default_rng(seed)
    factors = generator.standard_normal((films, FACTORS), np.float32)
    sizes = np.float32(1 / np.arange(1, FACTORS + 1))
    embedding = factors @ (
        world.standard_normal((FACTORS, dim)).astype(np.float32) * sizes[:, None]
    )
    embedding += 0.5 * generator.standard_normal(embedding.shape, np.float32)
    score = factors[:, :64] @ (0.3 * world.standard_normal(64)) + generator.logistic(size=films)
    return embedding, score


def label_of(score: np.ndarray, share: float) -> np.ndarray:
    label = np.zeros(len(score), np.float32)
    label[np.argsort(-score)[: round(share * len(score))]] = 1
    return label


def optimum(x: np.ndarray, label: np.ndarray, penalty: float) -> np.ndarray:
    """scikit-learn's kernel [dim], found among the combinations of the films."""
    basis = np.linalg.qr(x.T.astype(np.float64))[0]  # orthonormal, so that the penalty is the same
    model = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # float64 ends a little above 1e-10
        return basis @ model.fit(x @ basis, label).coef_[0]


def run(films: int = 1000, positives: int = 5, dim: int = 1376, draws: int = 3) -> None:
    """Prints a table, a row for each penalty.

    films: to train on.
    positives: of them, films with the finding.
    dim: width of the embeddings.
    draws: how many times all is drawn.
    """
    share, found, steps, seconds = positives / films, [], [], []
    for seed in range(draws):
        (x, score), (other, truth) = draw(films, dim, seed), draw(TEST, dim, 99)
        label, truth = label_of(score, share), label_of(truth, share)
        mean, scale = standardisation(x, np.arange(len(x)))
        x, other = (x - mean) / scale, (other - mean) / scale
        zero, one = np.zeros(dim, np.float32), np.ones(dim, np.float32)
        features, weight = select(x, np.arange(len(x)), zero, one), np.ones_like(label)[:, None]
        start = time.process_time()
        probe = logistic.fit(features, label[:, None], weight, PENALTIES)
        seconds.append(time.process_time() - start)
        steps.append(probe.steps)
        for ours, penalty in zip(np.asarray(probe.kernel)[:, 0], PENALTIES, strict=True):
            theirs = optimum(x, label, penalty)
            aurocs = (float(auroc(other @ kernel, truth)) for kernel in (theirs, ours))
            away = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
            found.append((*aurocs, away))
    table = np.array(found).reshape(draws, len(PENALTIES), 3)
    print(f"{positives} positives in {films:,} films of {dim:,} numbers")
    print("| penalty | scikit-learn | ours | largest difference | largest distance |")
    print("|---|---|---|---|---|")
    for penalty, rows in zip(PENALTIES, table.swapaxes(0, 1), strict=True):
        theirs, ours, _ = rows.mean(0)
        gap, away = np.abs(rows[:, 0] - rows[:, 1]).max(), rows[:, 2].max()
        print(f"| {penalty:g} | {theirs:.4f} | {ours:.4f} | {gap:.4f} | {away:.4f} |")
    print(f"steps {steps}, seconds of processor time {np.round(seconds, 1)}, compilation included")
