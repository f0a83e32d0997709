"""Training on as many films as MIMIC-CXR has, in float16 on the disk: time and peak memory."""

import dataclasses
import re
import tempfile
import time

import numpy as np

from cxr_embeddings.configs.schema import TrainingConfig
from cxr_embeddings.heads import select
from cxr_embeddings.heads.select import SplitFilms

FILMS, TUNE, DIM, FINDINGS = 368_960, 2_991, 4_096, 14
LINEAR = TrainingConfig(
    optimizer="lbfgs", weight_decays=(1e-4, 1e-2), batch_size=512, epochs=1, patience=0
)
MLP = dataclasses.replace(LINEAR, hidden=(512, 256), optimizer="adamw", weight_decays=(0.1,))


def draw(films: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [films dim] with mean 0 and deviation near 1, and labels [films finding].

    256 factors, whose sizes fall as 1 / k like the spectrum of real embeddings, lie in noise; the
    findings depend on some of them.
    """
    world, generator = np.random.default_rng(1), np.random.default_rng(seed)
    factors = generator.standard_normal((films, 256), np.float32)
    sizes = np.float32(1 / np.arange(1, 257))
    embedding = factors @ (world.standard_normal((256, DIM)).astype(np.float32) * sizes[:, None])
    embedding += 0.5 * generator.standard_normal(embedding.shape, np.float32)
    embedding /= np.sqrt(np.square(sizes).sum() + 0.25, dtype=np.float32)
    odds = factors[:, :64] @ world.standard_normal((64, FINDINGS)).astype(np.float32) * 0.3 - 2
    return embedding, np.float32(generator.random(odds.shape) < 1 / (1 + np.exp(-odds)))


def peak_gigabytes() -> float:
    """Largest resident memory of this process; ru_maxrss begins with that of its parent (Linux)."""
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) / 1e6


def run(films: int = FILMS) -> None:
    """Prints seconds and the largest resident memory of each training, in order."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        shape = (films + TUNE, DIM)
        table = np.lib.format.open_memmap(file.name, "w+", np.float16, shape)
        label = np.empty((len(table), FINDINGS), np.float32)
        for i, start in enumerate(range(0, len(table), 8192)):
            some = slice(start, min(start + 8192, len(table)))
            table[some], label[some] = draw(some.stop - some.start, seed=i)
        table.flush()
        del table
        table = np.load(file.name, mmap_mode="r")
        print(f"{films:,} films x {DIM:,}, float16, {table.nbytes / 1e9:.2f} GB on disk")
        row, mask = np.arange(len(table)), np.ones(label.shape, bool)
        train, tune = (
            SplitFilms(row[at], label[at], mask[at]) for at in (slice(films), slice(films, None))
        )
        for name, recipe in (("linear probe, 2 penalties", LINEAR), ("MLP, one epoch", MLP)):
            start = time.perf_counter()
            trained = select.fit(table, train, tune, recipe)
            seconds = time.perf_counter() - start
            peak = peak_gigabytes()
            auroc = trained.candidates[trained.chosen]["tune_auroc"]
            print(
                f"{name:28} {FINDINGS} findings  {seconds:8.1f} s   peak {peak:.2f} GB"
                f"   tune AUROC {auroc:.3f}",
                flush=True,
            )
