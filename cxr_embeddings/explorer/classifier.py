"""A linear probe for one finding, trained anew after every label, that scores all films.

It is logistic regression with a penalty on the kernel. The best kernel lies in the span of the
labelled films, so all that training needs are the products of these films with one another. They
are kept: a new label costs one row of them, a small problem, and one pass over all embeddings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, Shaped
from scipy import linalg, special

from cxr_embeddings.common import machine
from cxr_embeddings.explorer import standard
from cxr_embeddings.explorer.label_file import GIVEN, FindingLabels
from cxr_embeddings.heads.statistics import bootstrap

# Of those that `train_head` tries. For three findings of 621 films of ChestX-ray14, ten times
# more or less changed the AUROC on other films by 0.02 at most, with 20 to 600 labels.
PENALTY = 1.0
MOST = 2000  # labels that are trained on: the latest of readers, then some of the given table
_STEPS, _CLOSE = 100, 1e-6  # Newton's; and the largest change of a logit at which it ends


class Examples(NamedTuple):
    """The labels of a finding that may be trained on, in their order, and their films' products."""

    film: Int64[np.ndarray, " n"]
    label: Float32[np.ndarray, " n"]  # 0 or 1
    chosen: Shaped[np.ndarray, " n"]  # how the films were chosen
    patient: Int64[np.ndarray, " n"]
    gram: Float64[np.ndarray, "n n"]  # products of the standardised embeddings
    left_out: int  # labels beyond `MOST`
    unknown: int  # films whose patient is unknown, each of whom counts as another one


class Probe(NamedTuple):
    """A classifier of one finding."""

    logit: Float32[np.ndarray, " film"]  # of all films; above 0: more likely positive
    kernel: Float64[np.ndarray, " dim"]  # of the standardised embedding
    bias: float
    trained_on: int


class Classifier:
    """Trains probes on one table of embeddings. Not to be used by two threads at once."""

    def __init__(
        self,
        embedding: Float[np.ndarray, "film dim"],
        patient_id: Shaped[np.ndarray, " film"],
        held_out: Bool[np.ndarray, " film"] | None = None,
    ) -> None:
        """Reads all embeddings, to standardise them by statistics that then stay as they are.

        Args:
            embedding: of all films; may be a memory map.
            patient_id: "" where unknown.
            held_out: films that are never trained on; see `choosing.held_out`.
        """
        self.embedding, self.standard = embedding, standard.of_table(embedding)
        self.patient_id, self.patient = patient_id, bootstrap.patients(patient_id)
        self.held_out = np.zeros(len(embedding), bool) if held_out is None else held_out
        self._place: dict[int, int] = {}  # film -> its row in the next two
        self._rows = np.empty((0, embedding.shape[1]))
        self._gram = np.empty((0, 0))

    @machine.one_blas_thread()
    def examples(self, labels: FindingLabels) -> Examples:
        """The labels that are trained on, with the products of their films; nothing is trained."""
        free = np.flatnonzero(~self.held_out[labels.film])
        rank = np.random.default_rng(0).permutation(len(free)) + 1
        rank = np.where(labels.chosen[free] == GIVEN, rank, -np.arange(len(free)))  # latest first
        kept = np.sort(free[np.argsort(rank, kind="stable")[:MOST]])
        film = labels.film[kept]
        self._add([one for one in film.tolist() if one not in self._place])
        at = np.array([self._place[one] for one in film.tolist()], np.int64)
        gram = self._gram[np.ix_(at, at)]
        label, chosen = labels.label[kept], labels.chosen[kept]
        unknown = int((self.patient_id[film] == "").sum())
        left_out = len(free) - len(kept)
        return Examples(film, label, chosen, self.patient[film], gram, left_out, unknown)

    @machine.one_blas_thread()
    def train(self, examples: Examples, penalty: float = PENALTY) -> Probe | None:
        """The probe of some examples, and the logits of all films; None with one class only.

        `penalty` is as of `heads.logistic.fit`: the mean logistic loss + penalty / 2 * |kernel|^2
        is minimised, which is scikit-learn's LogisticRegression with C = 1 / (penalty * n).
        """
        if len(np.unique(examples.label)) < 2:
            return None
        dual, bias = solve(examples.gram, examples.label, penalty)
        at = [self._place[one] for one in examples.film.tolist()]
        kernel = dual @ self._rows[at]
        logit = standard.products(self.embedding, self.standard, kernel[:, None])[:, 0]
        return Probe(logit + np.float32(bias), kernel, bias, len(dual))

    def _add(self, films: list[int]) -> None:
        new = standard.rows(self.embedding, self.standard, np.array(films, np.int64))
        across = self._rows @ new.T
        self._gram = np.block([[self._gram, across], [across.T, new @ new.T]])
        self._rows = np.concatenate([self._rows, new])
        self._place |= {film: len(self._place) + i for i, film in enumerate(films)}


def solve(
    gram: Float64[np.ndarray, "n n"], label: Float32[np.ndarray, " n"], penalty: float
) -> tuple[Float64[np.ndarray, " n"], float]:
    """The weight of each film in the best kernel, and the bias, by Newton's method.

    Both labels must occur. A step solves the weighted least squares problem in the stable form of
    Rasmussen and Williams (Gaussian Processes for Machine Learning, 2006, algorithm 3.1), with a
    free bias; it is halved while it does not descend.
    """
    share = penalty * len(label)
    dual, bias = np.zeros(len(label)), float(special.logit(label.mean(dtype=np.float64)))
    logit = np.full(len(label), bias)

    def loss(dual: np.ndarray, bias: float, logit: np.ndarray) -> float:
        misfit = np.logaddexp(0, logit) - label * logit
        return float(misfit.sum() + share / 2 * (dual @ (logit - bias)))

    now = loss(dual, bias, logit)
    for _ in range(_STEPS):
        probability = special.expit(logit)
        root = np.sqrt(np.maximum(probability * (1 - probability), 1e-12))
        matrix = gram * np.outer(root, root)
        matrix[np.diag_indices_from(matrix)] += share
        sides = np.stack([root * logit + (label - probability) / root, root], 1)
        of_target, of_bias = linalg.cho_solve(linalg.cho_factor(matrix, lower=True), sides).T
        new_bias = (root @ of_target) / (root @ of_bias)
        along, up = root * (of_target - new_bias * of_bias) - dual, new_bias - bias
        slope, step = gram @ along + up, 1.0
        while (new := loss(dual + step * along, bias + step * up, logit + step * slope)) > now:
            if step < 1e-6:
                return dual, bias
            step /= 2
        dual, bias, logit, now = dual + step * along, bias + step * up, logit + step * slope, new
        if np.abs(step * slope).max() < _CLOSE:
            break
    return dual, float(bias)
