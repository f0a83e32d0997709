"""`scripts/pretrain.py` as its user runs it: whole, killed and gone on, on two hosts, and wrong."""

import csv
import dataclasses
import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jax
import mimic_store
import numpy as np
import pandas
import pytest
import running
import tiny

from cxr_embeddings import report_labelling
from cxr_embeddings.configs.schema_pretraining import NetworkConfig
from cxr_embeddings.encoder import embedding_layers, random_weights, sharding, weights
from cxr_embeddings.encoder.card import load_card
from cxr_embeddings.pretraining import first_weights, tune_look

SIZE, BATCH, STEPS = 32, 16, 6
PROGRAM = f"""
import sys
sys.path.append({os.path.dirname(__file__)!r})
import pytest, tiny
tiny.one_stage(pytest.MonkeyPatch())
from cxr_embeddings.pretraining import tune_look
from cxr_embeddings.scripts import pretrain
tune_look.LEAST = 1  # there are few films
sys.exit(pretrain.main())
"""
ALONE = """
import functools, jax
from cxr_embeddings.encoder import sharding
sharding.make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
"""


@pytest.fixture(scope="module", autouse=True)
def one_stage():
    """The network of `PROGRAM`, and `ALONE`, on one device."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.one_stage(patch)
        alone = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
        patch.setattr(sharding, "make_mesh", alone)
        patch.setattr(tune_look, "LEAST", 1)
        yield


@pytest.fixture(scope="module")
def data(mimic, tmp_path_factory, one_stage):
    """A store of MIMIC-CXR's stand-in, labels made of its findings, and a bundle."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mimic").symlink_to(mimic)
    mimic_store.make(mimic, folder / "store", size=SIZE, films_per_shard=16, storage="png8")
    table = mimic / "mimic-cxr-2.0.0-chexpert.csv.gz"
    report_labelling.run(findings=table, output=folder / "abnormal.csv")
    labels = pandas.read_csv(folder / "abnormal.csv", dtype=str)
    labels["even"] = [str(row % 2) for row in labels.index]
    labels.to_csv(folder / "abnormal.csv", index=False)
    card = random_weights.random_card("tiny", SIZE, "native", (0.4,) * 3, (0.3,) * 3)
    variables = random_weights.random_variables(weights.model_for(card), seed=1)
    weights.save_bundle(folder / "first", variables, card)
    return folder


def options(data, output, changes=()):
    values = {
        "network.weights": str(data / "first"),
        "input.stores": (str(data / "store"),),
        "input.labels": (str(data / "abnormal.csv"),),
        "input.splits": (str(data / "mimic/mimic-cxr-2.0.0-split.csv.gz"),),
        "training.batch_size": BATCH,
        "training.steps": STEPS,
        "training.warmup_steps": 2,
        "training.average_decay": 0.9,
        "training.augmentation.blur": 0.0,  # quicker to compile
        "training.augmentation.noise": 0.0,
        "watch.questions": ("even",),
        "watch.log_steps": 1,
        "watch.evaluate_steps": 3,
        "watch.checkpoint_steps": 2,
        "output.path": str(output),
    } | dict(changes)
    return [
        f"--config.{name}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in values.items()
    ]


def call(data, output, changes=()):
    """A run in this process."""
    return running.call("pretrain", *options(data, output, changes))


def error(data, output, changes=()):
    result = call(data, output, changes)
    assert result.returncode == 1
    return result.stderr


def command(data, output, *more, before=""):
    return [sys.executable, "-c", before + PROGRAM, *options(data, output), *more]


def losses(folder):
    with (folder / "metrics.csv").open(newline="") as stream:
        return {int(row["step"]): row["loss"] for row in csv.DictReader(stream) if row["loss"]}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run that nothing disturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = call(data, folder)
    assert result.returncode == 0, result.stderr
    return folder, result


@pytest.fixture
def copy(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole[0], tmp_path / "run"))


@pytest.mark.slow
def test_a_run_leaves_weights_with_a_card(data, whole):
    folder, result = whole
    card = load_card(folder / "weights")
    assert card.trained and card.preset == "native" and card.resolution == SIZE
    assert card.settings["objective"] == "supcon" and card.settings["temperature"] == "0.1"
    assert card.settings["findings"] == "abnormal"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert card.settings.items() > manifest["identity"].items() and manifest["complete"]
    assert f"those of step {card.settings['best_step']}, whose score was best" in result.stdout
    assert card.licence == "none: random numbers" and card.source.endswith("from random")
    assert f"40 films in {data / 'store'}, 33 of them with label and split\n  " in result.stdout
    assert "Note(" not in result.stdout
    assert "step 3: loss" in result.stderr + result.stdout
    assert "step 0: score" in result.stderr + result.stdout
    variables = weights.load_variables(folder / "weights", card)  # which compares the digest
    assert set(variables) == {"params", "batch_stats"}
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if b"/p1000" in path.read_bytes()], "no film is named"


@pytest.mark.slow
def test_curves_are_written(whole):
    folder, _ = whole
    with (folder / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == list(range(STEPS + 1))
    assert float(rows[-1]["films"]) == STEPS * BATCH
    measured = "score", "probe_abnormal", "probe_even", "effective_rank", "tune_alignment"
    for row in rows:
        assert {row[name] != "" for name in measured} == {int(row["step"]) % 3 == 0}
    looks = {int(row["step"]): row for row in rows if row["score"]}
    for row in looks.values():
        score, *probes = (float(row[name]) for name in measured[:3])
        assert score == pytest.approx(np.mean(probes), abs=1e-5)
        assert float(row["effective_rank"]) > 1 and 0 < float(row["tune_alignment"]) < 4
    best = max(looks, key=lambda step: (float(looks[step]["score"]), step))
    assert load_card(folder / "weights").settings["best_step"] == str(best)
    [events] = (folder / "tensorboard").iterdir()
    assert b"probe_even" in events.read_bytes()
    assert (folder / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_killed_it_goes_on_with_the_same_losses(data, whole, tmp_path):
    folder = tmp_path / "run"
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command(data, folder, before=ALONE), **both)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints/2").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "weights").exists()
    result = call(data, folder)
    assert result.returncode == 0, result.stderr
    assert "goes on after step" in result.stdout
    assert losses(folder) == losses(whole[0])
    digests = {load_card(one / "weights").digest for one in (folder, whole[0])}
    assert len(digests) == 1
    again = call(data, folder)
    assert again.returncode == 0 and "this run is finished" in again.stdout


@pytest.mark.slow
def test_it_goes_on_after_the_last_step(data, whole, copy):
    """Ended between the last checkpoint and the bundle: the weights are those that were trained."""
    (copy / "weights").rename(copy / ".weights.partial-1")
    result = call(data, copy)
    assert result.returncode == 0, result.stderr
    assert load_card(copy / "weights").digest == load_card(whole[0] / "weights").digest
    assert not [*copy.glob(".weights.partial-*")]
    assert len(json.loads((copy / "manifest.json").read_text())["runs"]) == 2


def run_on_two_hosts(command, environment):
    """Both processes' outputs and errors."""
    environment = environment | {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    processes = running.start_hosts([command] * 2, environment, devices=2)
    outputs = [process.communicate(timeout=250) for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.mark.slow
def test_two_hosts_train_as_one_and_go_on(data, whole, tmp_path, environment):
    folder = tmp_path / "run"
    options = ["--config.distributed", "--config.network.fully_sharded"]
    codes, outputs = run_on_two_hosts(command(data, folder, *options), environment)
    assert codes == [0, 0], outputs
    found, expected = losses(folder), losses(whole[0])
    for step in expected:
        assert float(found[step]) == pytest.approx(float(expected[step]), rel=1e-3)
    digest = load_card(folder / "weights").digest
    shutil.rmtree(folder / "weights")
    shutil.rmtree(folder / f"checkpoints/{STEPS}")
    codes, outputs = run_on_two_hosts(command(data, folder, *options), environment)
    assert codes == [0, 0], outputs
    assert f"goes on after step {STEPS - 2}" in outputs[0][0]
    assert losses(folder) == found and load_card(folder / "weights").digest == digest


@pytest.mark.slow
def test_two_hosts_that_disagree_end_with_a_sentence(data, tmp_path, environment):
    """One of them sees a folder of another run: a setting was changed on the other."""
    changed = "--config.training.temperature=0.${JAX_PROCESS_ID}5"
    line = " ".join(shlex.quote(word) for word in command(data, tmp_path / "run"))
    line = ["bash", "-c", f"exec {line} --config.distributed {changed}"]
    codes, outputs = run_on_two_hosts(line, environment)
    assert codes == [1, 1], outputs
    assert "error: host 1 failed; see its log" in outputs[0][1]
    assert "temperature: '0.05' there, '0.15' asked for" in outputs[1][1]


def test_a_file_in_the_place_of_a_folder_is_named(data, tmp_path):
    table = str(data / "abnormal.csv")
    said = error(data, tmp_path / "run", {"input.stores": (table,)})
    assert f"{table} holds no manifest.json" in said
    assert f"the folder {table} cannot be made (a file has this name)" in error(data, table)


@pytest.mark.slow
def test_other_films_of_tune_are_another_run(data, copy, tmp_path):
    """They choose the weights that are kept."""
    table = pandas.read_csv(data / "mimic/mimic-cxr-2.0.0-split.csv.gz", dtype=str)
    table = table.drop(table.index[table.split == "validate"][0])
    table.to_csv(tmp_path / "splits.csv", index=False)
    said = error(data, copy, {"input.splits": str(tmp_path / "splits.csv")})
    assert "films, or their splits" in said


def test_a_full_disk_is_said_before_the_first_step(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said = error(data, tmp_path / "run")
    assert re.search("checkpoints needs .* GB for 3 checkpoints, its disk has 0.00 GB", said)
    assert "Traceback" not in said


def test_findings_with_films_of_both_classes_are_trained_on(data, tmp_path):
    table = pandas.read_csv(data / "abnormal.csv", dtype=str)
    table.assign(abnormal="1").to_csv(tmp_path / "ones.csv", index=False)
    said = error(data, tmp_path / "run", {"input.labels": (str(tmp_path / "ones.csv"),)})
    assert "films of train have 'abnormal', 0 have not; expected films of both classes" in said


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused(data, copy):
    changed = {"training.temperature": 0.2}
    assert "temperature: '0.1' there, '0.2' asked for" in error(data, copy, changed)
    manifest = copy / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"temperature": "0.1"', '"temperature": "0.2"')
    )
    shutil.rmtree(copy / "weights")
    assert "checkpoints is of another run" in error(data, copy, changed)
    manifest.write_text("{")
    assert "is not a manifest of this program" in error(data, copy, changed)
    manifest.unlink()
    assert "it is not a run of this command" in error(data, copy, changed)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(data, copy):
    shutil.rmtree(copy / "weights")
    for file in (copy / f"checkpoints/{STEPS}/state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert re.search(f"checkpoints/{STEPS} cannot be read .* move that folder", error(data, copy))


@pytest.mark.slow
def test_it_starts_from_a_bundle(whole, tmp_path, capsys):
    """With another head, which then is made of random numbers."""
    card = load_card(whole[0] / "weights")
    variables = weights.load_variables(whole[0] / "weights", card)
    for name in ("head_conv", "head_bn"):
        del variables["params"][name]
    del variables["batch_stats"]["head_bn"]
    offered = embedding_layers.embedding_widths("tiny", None)
    other = dataclasses.replace(card, head_width=None, embeddings=offered)
    other = weights.save_bundle(tmp_path / "headless", variables, other)
    network = NetworkConfig(weights=str(tmp_path / "headless"))
    store = {"preset": "native", "size": SIZE}
    made, _, first, random = first_weights.load(first_weights.resolved(network), 0, store, print)
    assert random == {"head_bn": 0, "head_conv": 0}
    assert "from random numbers: head_bn from channel 0 on, head_conv" in capsys.readouterr().out
    assert made.digest == other.digest and made.embeddings["head"] == 4096
    stem = first["params"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(stem, variables["params"]["stem_conv"]["kernel"])
    kernel = first["params"]["head_conv"]["kernel"]
    assert np.ptp(kernel) > 0
    maps = np.random.default_rng(0).normal(2, 3, (400, kernel.shape[2])).astype(np.float32)
    statistics = first_weights.calibrated(first, 9, maps)["batch_stats"]["head_bn"]
    channels = maps @ kernel[0, 0]
    np.testing.assert_allclose(statistics["mean"][9:], channels.mean(0)[9:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(statistics["var"][9:], channels.var(0)[9:], rtol=1e-4)
    assert (statistics["mean"][:9] == 0).all() and (statistics["var"][:9] == 1).all()
    network = NetworkConfig(weights=str(tmp_path / "headless"), variant="b0")
    with pytest.raises(ValueError, match=r"network.variant is 'b0', but the card .* says 'tiny'"):
        first_weights.load(first_weights.resolved(network), 0, store, print)
