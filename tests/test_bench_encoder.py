"""The benchmark of the network, with a tiny one: its numbers fit one another, and are kept."""

import json
import statistics

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from encoder import depthwise
from encoder.efficientnet import VARIANTS, Variant
from scripts import bench_encoder, peer_engines, roofline

CEILINGS = roofline.Ceilings(flops=1e12, bytes=1e11)
ROUNDS = 3


def doubled(variant, variables, images, dtype):
    """A peer that computes something else."""
    network = bench_encoder.EfficientNet(variant, bench_encoder.NATIVE_HEADS[variant])
    embeddings = 2 * np.asarray(jax.jit(network.apply)(variables, images)[0])
    return lambda: embeddings


def broken(variant, variables, images, dtype):
    raise MemoryError("no card\nin the slot")


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.1, 32))
    monkeypatch.setitem(bench_encoder.NATIVE_HEADS, "tiny", 320)
    monkeypatch.setattr(peer_engines, "ENGINES", {"doubled": doubled, "broken": broken})
    monkeypatch.setattr(roofline, "measure_ceilings", lambda dtype: CEILINGS)
    settings = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in settings}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it keeps its folder


def test_what_is_printed_and_written_fits(tmp_path, capsys):
    bench_encoder.run(ROUNDS, "tiny:32:1,tiny:32:4", output=str(tmp_path))
    printed = capsys.readouterr().out
    assert printed.count("without broken: no card\n") == 2
    found = json.loads((tmp_path / "encoder.json").read_text())["timed"]
    engines = [bench_encoder.OURS, bench_encoder.ENGINE, bench_encoder.PLAIN, "doubled"]
    assert [(one["case"]["batch"], one["engine"]) for one in found] == [
        (batch, engine) for batch in (1, 4) for engine in engines
    ]
    for one, ours in zip(found, [found[0]] * 4 + [found[4]] * 4, strict=True):
        median = statistics.median(one["seconds"])
        assert len(one["seconds"]) == ROUNDS and one["ready_seconds"] > 0
        assert one["images_per_second"] == pytest.approx(one["case"]["batch"] / median)
        assert one["speedup"] == statistics.median(
            a / b for a, b in zip(ours["seconds"], one["seconds"], strict=True)
        )
        assert one["gflops"] / one["gbytes"] == pytest.approx(one["intensity"])
        assert one["of_floor"] == pytest.approx(
            ours["of_floor"] * statistics.median(ours["seconds"]) / median
        )
        expected = 1 if one["engine"] == "doubled" else 0
        assert one["difference"] == pytest.approx(expected, abs=1e-5)
    table = (tmp_path / "encoder.md").read_text()
    assert table.count("\n| tiny at 32 px, batch ") == len(found)
    for engine in engines:
        best = max((one for one in found if one["engine"] == engine), key=images_per_second)
        line = (
            f"tiny at 32 px, {engine}: at best {images_per_second(best):.3g} images/s, with batch "
        )
        assert f"{line}{best['case']['batch']}\n" in table and line in printed
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def images_per_second(one):
    return one["images_per_second"]


def test_a_case_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    def compile_forms(program, variables, images, names):
        if len(images) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return {name: jax.jit(program(depthwise.conv_general_dilated)) for name in names}

    monkeypatch.setattr(bench_encoder, "compile_forms", compile_forms)
    bench_encoder.run(1, "tiny:32:2,tiny:32:1", engines="doubled", output=str(tmp_path))
    assert "without this project: RESOURCE_EXHAUSTED" in capsys.readouterr().out
    found = json.loads((tmp_path / "encoder.json").read_text())["timed"]
    assert {tuple(one["case"].values()) for one in found} == {("tiny", 32, 1)}


def test_what_was_measured_is_kept_when_the_next_case_is_stopped(tmp_path, monkeypatch):
    compare = bench_encoder._compare

    def stopped(case, *rest):
        if case.batch == 2:
            raise KeyboardInterrupt
        return compare(case, *rest)

    monkeypatch.setattr(bench_encoder, "_compare", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench_encoder.run(1, "tiny:32:1,tiny:32:2", engines="doubled", output=str(tmp_path))
    assert len(json.loads((tmp_path / "encoder.json").read_text())["timed"]) == 3


@pytest.mark.parametrize("case", ["l2", "l9:224:1", "l2:224:0", "l2:224:-1", "l2:224:1:2"])
def test_a_wrong_case_is_named(case):
    with pytest.raises(SystemExit, match=f"found the case '{case}'; expected VARIANT"):
        bench_encoder.run(1, case)


def test_a_wrong_engine_is_named():
    with pytest.raises(SystemExit, match="no such engine: nope; expected plain Flax, doubled"):
        bench_encoder.run(1, engines="nope")
