"""The maps of the page: PCA at once, and what takes minutes in the background."""

import threading

import numpy as np
from jaxtyping import Float, Float32, Shaped

from cxr_embeddings.errors import sentence
from cxr_embeddings.explorer import projection
from cxr_embeddings.explorer.colourings import Colouring
from cxr_embeddings.heads.statistics import bootstrap

UMAP, OUTLYING = "umap", "distance to the nearest film"


class Maps:
    """Where films lie, and how far off. All may be called from several threads.

    Attributes:
        jobs: what was started -> "working", "ready", or why it failed.
        colourings: by name; gets that by `OUTLYING`.
    """

    def __init__(
        self,
        embedding: Float[np.ndarray, "film dim"],
        patient_id: Shaped[np.ndarray, " film"],
        colourings: dict[str, Colouring],
        seed: int,
    ) -> None:
        self.jobs: dict[str, str] = {}
        self.colourings = colourings
        self._embedding, self._patient_id, self._seed = embedding, patient_id, seed
        self._pca: projection.Projection | None = None
        self._umap: Float32[np.ndarray, "film 2"] | None = None
        self._lock = threading.Lock()

    def pca(self) -> projection.Projection:
        """Films along the first two principal axes."""
        with self._lock:
            if self._pca is None:
                self._pca = projection.pca(self._embedding, seed=self._seed)
            return self._pca

    def coordinates(self) -> dict[str, Float32[np.ndarray, "film 2"]]:
        """Where films lie on the maps that are there, by name: "pca", and `UMAP` once it is."""
        found = {"pca": self.pca().coordinates}
        return found if self._umap is None else found | {UMAP: self._umap}

    def start(self, job: str) -> None:
        """Starts `UMAP` or `OUTLYING`, if it is neither started nor ready.

        Raises:
            ValueError: there is no such job.
        """
        if job not in (UMAP, OUTLYING):
            raise ValueError(f"there is no job {job}")
        with self._lock:
            if self.jobs.get(job) in ("working", "ready"):
                return
            self.jobs[job] = "working"
        threading.Thread(target=self._do, args=(job,), daemon=True).start()

    def _do(self, job: str) -> None:
        try:
            if job == UMAP:
                self._umap = projection.umap(self._embedding, self._seed)
            else:
                patient = bootstrap.patients(self._patient_id)
                found = projection.outlyingness(self._embedding, patient, self._seed)
                self.colourings[OUTLYING] = Colouring(OUTLYING, found)
            self.jobs[job] = "ready"
        except Exception as error:  # the page says it
            self.jobs[job] = sentence(error)
