"""The benchmark of the whole pipeline, with few small films: its numbers fit one another."""

import re

import jax
import pytest

from benchmarks import pipeline
from cxr_embeddings.encoder import sharding


@pytest.mark.slow
def test_the_ratio_is_that_of_the_times(monkeypatch, capsys):
    one_device = sharding.make_mesh(1, jax.devices()[:1])  # compiles in a third of the time
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: one_device)
    pipeline.run(1, resolution=32, batch_size=8, films=12)
    printed = capsys.readouterr().out
    assert printed.startswith("12 films; b0 at 32 px, head (4,096), float32 by jax"), printed
    bare, whole = (
        float(re.search(rf"^{name} +([\d.]+)", printed, re.MULTILINE)[1])
        for name in (pipeline.BARE, pipeline.WHOLE)
    )
    kept = float(re.search(r"end to end: ([\d.]+) of the bare forward pass", printed)[1])
    assert 0 < kept == pytest.approx(bare / whole, rel=0.02), printed
