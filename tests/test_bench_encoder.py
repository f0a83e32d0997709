"""The benchmark of the network, with a tiny one: its numbers fit one another, and are kept."""

import functools
import itertools
import json
import statistics

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import encoder, peer_engines, peers, roofline, timing
from cxr_embeddings.encoder import efficientnet
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet, Variant

ROUNDS = 3


def doubled(variant, variables, images, dtype):
    """A peer that computes something else."""
    network = EfficientNet(variant, peers.head_width(variant))
    embeddings = 2 * np.asarray(jax.jit(network.apply)(variables, images)[0])
    return lambda: embeddings


def broken(variant, variables, images, dtype):
    raise MemoryError("no card\nin the slot")


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.1, 32))
    monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
    monkeypatch.setattr(peer_engines, "ENGINES", {"doubled": doubled, "broken": broken})
    ceilings = roofline.Ceilings(flops=1e12, bytes=1e11)
    monkeypatch.setattr(roofline, "measure_ceilings", lambda dtype: ceilings)
    settings = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in settings}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it keeps its folder


def written(folder):
    return json.loads((folder / "encoder.json").read_text())["timed"]


def test_what_is_measured_fits(tmp_path, capsys):
    encoder.run(ROUNDS, "tiny:32:2", output=str(tmp_path))
    assert "without broken: no card\n" in capsys.readouterr().out
    found = {one["engine"]: one for one in written(tmp_path)}
    ours = found[encoder.OURS]
    assert [*found] == [encoder.OURS, encoder.ENGINE, encoder.PLAIN, "doubled"]
    for one in found.values():
        median = statistics.median(one["seconds"])
        ratios = [a / b for a, b in zip(ours["seconds"], one["seconds"], strict=True)]
        assert len(ratios) == ROUNDS and one["speedup"] == statistics.median(ratios)
        assert one["images_per_second"] == pytest.approx(2 / median)
        assert one["ready_seconds"] > 0
        assert one["gflops"] / one["gbytes"] == pytest.approx(one["intensity"])
        assert one["of_floor"] * median == pytest.approx(
            ours["of_floor"] * statistics.median(ours["seconds"])
        )
        expected = 1 if one["engine"] == "doubled" else 0
        assert one["difference"] == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "encoder.md").read_text().count("\n| tiny at 32 px, batch 2") == len(found)
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_turns_are_drawn_and_settle_before_they_count(monkeypatch):
    calls = []
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: calls.append("clock") or next(clock))
    forms = {name: functools.partial(calls.append, name) for name in "ab"}
    assert timing.interleave(forms, 20, warmup=0, settle=1) == {"a": [1] * 20, "b": [1] * 20}
    turns = [calls[i : i + 4] for i in range(0, len(calls), 4)]
    assert all(turn == [turn[0], "clock", turn[0], "clock"] for turn in turns)
    firsts = {turn[0] for turn in turns[::2]}
    assert len(turns) == 40 and firsts == {"a", "b"}, "either may be the first of a round"


@pytest.fixture
def seconds_of(monkeypatch):
    """Batch -> seconds a round; the engines are none, and their times given."""
    seconds = {1: 1.0, 2: 1.0, 4: 4.0}
    rounds = [0.5, 1.0, 2.0]

    def ready(model, variables, images, dtype, others):
        names = (encoder.OURS, "other") if len(images) in seconds else ("other",)
        return {name: lambda: np.ones(3) for name in names}, dict.fromkeys(names, 1.0)

    def interleave(forms, repeats, **settings):
        batch = next(batches)
        return {name: [seconds[batch] * r for r in rounds] for name in forms}

    batches = iter([1, 2, 4])
    monkeypatch.setattr(encoder, "_ready", ready)
    monkeypatch.setattr(encoder, "interleave", interleave)
    return seconds


def test_the_best_batch_is_named_and_a_case_that_fails_left_out(tmp_path, seconds_of, capsys):
    encoder.run(3, "tiny:32:8,tiny:32:1,tiny:32:2,tiny:32:4", output=str(tmp_path))
    assert [one["case"]["batch"] for one in written(tmp_path)] == [1, 1, 2, 2, 4, 4]
    for text in (capsys.readouterr().out, (tmp_path / "encoder.md").read_text()):
        assert "\ntiny at 32 px, this project: at best 2 images/s, with batch 2\n" in text
        assert "\ntiny at 32 px, other: at best 2 images/s, with batch 2\n" in text


def test_without_any_case_it_fails(tmp_path, seconds_of):
    with pytest.raises(SystemExit, match="no case could be measured"):
        encoder.run(3, "tiny:32:8", output=str(tmp_path))


def test_what_was_measured_is_kept_when_the_next_case_is_stopped(tmp_path, seconds_of):
    del seconds_of[2]  # then the second case has no times
    with pytest.raises(KeyError):
        encoder.run(3, "tiny:32:1,tiny:32:4", output=str(tmp_path))
    assert len(written(tmp_path)) == 2


@pytest.mark.parametrize("case", ["l2", "l9:224:1", "l2:224:0", "l2:224:-1", "l2:224:1:2"])
def test_a_wrong_case_is_named(case):
    with pytest.raises(SystemExit, match=f"found the case '{case}'; expected VARIANT"):
        encoder.run(1, case)


def test_a_wrong_engine_is_named():
    with pytest.raises(SystemExit, match="no such engine: nope; expected plain Flax, doubled"):
        encoder.run(1, engines="nope")
