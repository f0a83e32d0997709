"""The benchmark of the whole pipeline, with few small films: its numbers fit one another."""

import re

import jax
import pytest

from benchmarks import pipeline
from cxr_embeddings.encoder import sharding

STAGES = (
    "read the file",
    "decode the pixels",
    "window and resize",
    "forward pass",
    "encode and write",
)


@pytest.mark.slow
def test_stages_and_ratio_are_printed_and_plausible(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "SIDES", (64, 96))
    one_device = sharding.make_mesh(1, jax.devices()[:1])  # compiles in a third of the time
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: one_device)
    pipeline.run(1, resolution=32, batch_size=8, films=5, records=12)
    printed = capsys.readouterr().out
    assert printed.startswith("5 drawn films; b0 at 32 px, head (4,096), float32 by jax"), printed
    rows = {
        name: float(number)
        for name, number in re.findall(r"^(\w[\w ]+?)  +([\d.]+) +\d+%$", printed, re.MULTILINE)
    }
    assert [*rows] == [*STAGES, "sum", "end to end"], printed
    assert min(rows.values()) >= 0 and rows["decode the pixels"] > 0, printed
    assert rows["sum"] == pytest.approx(sum(rows[name] for name in STAGES), abs=0.3)
    assert "12 ready records of the same films" in printed
    table = printed.split("speed-up over bare forward pass\n")[1].splitlines()
    bare, whole = (
        float(line.removeprefix(name).split()[0])
        for line, name in zip(table, ("bare forward pass", "end to end"), strict=False)
    )
    kept = float(re.search(r"from ready records: ([\d.]+) of the bare forward pass", printed)[1])
    assert 0 < kept == pytest.approx(bare / whole, rel=0.02), printed


def test_a_folder_without_films_is_named(tmp_path):
    (tmp_path / "no_film.dcm").write_bytes(b"no film")
    with pytest.raises(SystemExit, match=f"no film in {tmp_path} gives an image"):
        pipeline.run(1, resolution=32, batch_size=8, input=str(tmp_path))
