"""Which film to label next, and which films are set aside and never suggested."""

import hashlib

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from cxr_embeddings.explorer import standard
from cxr_embeddings.explorer.standard import Standard

AT_ONCE = 64  # labelled films whose distances to all others are in memory


def held_out(
    image_id: Shaped[np.ndarray, " film"],
    patient_id: Shaped[np.ndarray, " film"],
    share: float,
    seed: int = 0,
) -> Bool[np.ndarray, " film"]:
    """Which films are set aside: those of about a share of the patients, drawn at random.

    A patient's lot depends on the id and the seed alone, so that it stays when films are added. A
    film of an unknown patient ("") has a lot of its own.

    Raises:
        ValueError: the share is not between 0 and 1, or it takes all films or none.
    """

    def lot(name: str) -> float:
        digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:6]) / 2**48

    names = [patient or f"\0{image}" for patient, image in zip(patient_id, image_id, strict=True)]
    lots = {name: lot(name) for name in {*names}}
    aside = np.array([lots[name] < share for name in names])
    if not 0 < share < 1 or aside.all() or not aside.any():
        raise ValueError(
            f"a share of {share} sets {aside.sum()} of {len(aside)} films aside; expected a share "
            "between 0 and 1 that leaves some of both: set nothing aside where films are few"
        )
    return aside


class Chooser:
    """Chooses among the films that it is offered, the same for the same seed.

    Not to be used by two threads at once.
    """

    def __init__(
        self, embedding: Float[np.ndarray, "film dim"], about: Standard, seed: int = 0
    ) -> None:
        """`about` is the standardisation of the embeddings, such as `Classifier.standard`."""
        self._embedding, self._about = embedding, about
        self._order = np.random.default_rng(seed).permutation(len(embedding))
        self._square: Float32[np.ndarray, " film"] | None = None  # of the standardised lengths
        self._seen: set[int] = set()  # the films that the next one knows
        self._nearest = np.full(len(embedding), np.inf, np.float32)  # squared distance to these

    def next(
        self,
        how: str,
        free: Bool[np.ndarray, " film"],
        labelled: Int64[np.ndarray, " labelled"],
        logit: Float32[np.ndarray, " film"] | None = None,
    ) -> int | None:
        """The row of the film to label next; None where none is free.

        Args:
            how: "uncertain": the logit nearest to 0. "likely": the highest logit. "random": the
                next in an order that was drawn once. "diverse": the film farthest from all that
                are labelled, in the standardised embedding; at first the most central one.
            free: the films to choose from: those neither labelled, nor skipped, nor set aside.
            labelled: those that "diverse" keeps away from.
            logit: of the probe; without one "uncertain" and "likely" choose as "diverse" does.

        Raises:
            ValueError: `how` is none of these.
        """
        if how not in ("uncertain", "likely", "random", "diverse"):
            raise ValueError(f"how is {how!r}; expected uncertain, likely, random or diverse")
        if not free.any():
            return None
        if how == "random":
            return int(self._order[free[self._order].argmax()])
        if how == "diverse" or logit is None:
            merit = self._away_from(labelled.tolist())
        else:
            merit = logit if how == "likely" else -np.abs(logit)
        return int(np.where(free, merit, -np.inf).argmax())

    def _away_from(self, labelled: list[int]) -> Float32[np.ndarray, " film"]:
        """Squared distances to the nearest of these; of none, the less the farther from the mean.

        Only films that were not there the last time cost a pass over the embeddings.
        """
        if self._square is None:
            self._square = standard.squares(self._embedding, self._about)
        if not self._seen <= {*labelled}:
            self._seen, self._nearest = set(), np.full_like(self._nearest, np.inf)
        new = [film for film in labelled if film not in self._seen]
        for start in range(0, len(new), AT_ONCE):
            some = np.array(new[start : start + AT_ONCE])
            vectors = standard.rows(self._embedding, self._about, some).T
            product = standard.products(self._embedding, self._about, vectors)
            distance = self._square[:, None] + self._square[some] - 2 * product
            self._nearest = np.minimum(self._nearest, distance.min(axis=1))
        self._seen |= {*new}
        return self._nearest if labelled else -self._square
