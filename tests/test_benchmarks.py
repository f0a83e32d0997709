"""The benchmarks: every subject can be started, and small cases give numbers that fit together."""

import functools
import importlib
import inspect
import itertools
import json

import pytest
import tiny

from benchmarks import (
    default_recipe,
    encoder,
    gpu,
    peers,
    run,
    timing,
)


@pytest.mark.parametrize("subject", run.SUBJECTS)
def test_every_subject_can_be_started(subject):
    function = importlib.import_module(f"benchmarks.{subject}").run
    options = inspect.signature(function).parameters.values()
    argv = [option.name for option in options if option.default is option.empty]
    given = run.arguments_of(function, subject, argv)
    assert given == {o.name: o.name if o.default is o.empty else o.default for o in options}


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


def doubled(variant, variables, images, dtype):
    """A peer that computes something else."""
    form = encoder.own_engines()[encoder.OURS](variant, variables, images, dtype)
    return lambda: 2 * form()


def broken(variant, variables, images, dtype):
    raise MemoryError("no card\nin the slot")


@pytest.fixture
def engines(monkeypatch):
    tiny.two_stages(monkeypatch)
    monkeypatch.setattr(peers, "ENGINES", {"doubled": doubled, "broken": broken})


def test_engines_are_compared_and_one_that_fails_is_left_out(engines, capsys):
    encoder.run(3, "tiny:32:2")
    printed = capsys.readouterr().out
    assert "without broken: no card\n" in printed
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    names, _, *rows = cells[-5:]
    found = {row["engine"]: row for row in (dict(zip(names, row, strict=True)) for row in rows)}
    assert [*found] == [encoder.OURS, encoder.ENGINE, "doubled"]
    assert found[encoder.OURS]["times as fast as ours"] == "1"
    for name, row in found.items():
        assert float(row["differs"]) == pytest.approx(float(name == "doubled"), abs=1e-5)
        assert float(row["images/s"]) > 0 and float(row["ready after s"]) > 0


@pytest.mark.slow
def test_each_result_of_a_gpu_is_written_when_it_is_done(engines, tmp_path, monkeypatch):
    monkeypatch.setitem(peers.ENGINES, "torch.compile", broken)
    for name in gpu.STEPS:
        gpu.measure(name, tmp_path, "tiny:32:2")
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    steps = {name: [row for row in rows if row["step"] == name] for name in gpu.STEPS}
    for row in steps["parity"]:
        exact = row["dtype"] == "float32"
        assert row["1 - least cosine"] < (1e-9 if exact else 1e-3)
        assert row["error by the distance of two films"] < (1e-4 if exact else 0.5)
    assert [row["engine"] for row in steps["b0"]] == [encoder.OURS, encoder.ENGINE, "torch.compile"]
    assert "not measured" in steps["b0"][2]["note"]
    assert all(row["images/s"] > 0 for row in (*steps["b0"][:2], *steps["larger"]))
    assert all(row["share of the floor"] > 0 for row in steps["b0"][:2])
    assert steps["too_large"][0]["films"] == steps["too_large"][0]["computed at once"] == 2
    assert [row["from"] for row in steps["fed"]] == ["DICOM files", "a PNG16 store"]
    assert all(row["films/s"] > 0 for row in steps["fed"])
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name}\n" in table for name in ("machine", *gpu.STEPS))


@pytest.mark.slow
def test_the_default_recipe_keeps_what_its_start_knew(tmp_path, capfd):
    small = {"films": 400, "steps": 10, "size": 64, "least_rank": 15, "noise": 0.1}
    default_recipe.run("weights/demo", str(tmp_path), **small)
    assert "Support Devices" in capfd.readouterr().out
