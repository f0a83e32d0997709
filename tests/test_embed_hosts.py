"""`scripts/embed.py` on a store: by one process, by two of four devices each, and one is lost."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import mimic_store
import numpy as np
import pytest
import running

from cxr_embeddings.input_pipeline.embeddings.table import read_table
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

SIZE, FILMS = 32, 60


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """A stand-in of MIMIC-CXR."""
    folder = tmp_path_factory.mktemp("films") / "mimic"
    write_mimic(folder, films=FILMS, laterals=4, seed=3, size_range=(48, 64))
    return folder


@pytest.fixture(scope="module")
def store(mimic):
    """A store of its films, in shards of at most two."""
    mimic_store.make(mimic, mimic.parent / "store", size=SIZE, films_per_shard=2)
    return mimic.parent / "store"


def command(store, output, *options):
    given = ["--config=configs/mimic.py", f"--input={store}", f"--output={output}"]
    given += ["--weights=random", "--config.encoder.variant=b0", "--config.encoder.dtype=float32"]
    return [sys.executable, "scripts/embed.py", *given, "--config.encoder.engine=jax", *options]


def call(store, output, *options):
    """The same in this process, by what starts sooner, if `options` do not say otherwise."""
    quick = "--config.encoder.engine=openvino", "--config.encoder.variant=tiny"
    return running.call("embed", *command(store, output, *quick, *options)[2:])


def start_hosts(store, output, *options, environment, second=()):
    """Starts two processes of four devices each; the second one with further options."""
    one = command(store, output, "--config.distributed=true", *options)
    return running.start_hosts([one, [*one, *second]], environment, devices=4)


def run_hosts(*args, **options):
    processes = start_hosts(*args, **options)
    said = [process.communicate(timeout=200) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """What one process makes of the store."""
    folder = tmp_path_factory.mktemp("alone")
    result = call(store, folder)
    assert result.returncode == 0, result.stderr
    assert f"embedded     {FILMS:8}" in result.stdout
    return folder


@pytest.fixture(scope="module")
def of_b0(store, tmp_path_factory):
    """The same with a network that takes its time, as hosts have it here."""
    folder = tmp_path_factory.mktemp("b0")
    assert call(store, folder, "--config.encoder.variant=b0").returncode == 0
    return folder


def embeddings(folder, cache):
    table = read_table(str(folder), str(cache))
    order = np.argsort(table.image_id)
    return table.image_id[order], np.asarray(table.embedding)[order]


def shards(folder):
    return {path.name for path in pathlib.Path(folder).glob("embeddings-*")}


def assert_equal(folder, alone, tmp_path):
    """The same records, files and counts, numbers within 1e-5, and checksums that fit."""
    ids, found = embeddings(folder, tmp_path / "cache")
    expected_ids, expected = embeddings(alone, tmp_path / "cache")
    assert ids.tolist() == expected_ids.tolist()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    spread = np.abs(expected - expected.mean(axis=0)).max() / np.abs(expected).max()
    assert spread > 0.05, "equal embeddings of different films would make this pass vacuously"
    assert shards(folder) == shards(alone)
    manifests = [json.loads((f / "manifest.json").read_text()) for f in (folder, alone)]
    for name in ("complete", "embedded", "identity"):
        assert manifests[0][name] == manifests[1][name]
    listed = {line.split()[1] for line in (folder / "SHA256SUMS.txt").read_text().splitlines()}
    assert listed == shards(folder) | {"manifest.json", "skipped.csv", "rejected.csv"}
    assert running.is_intact(folder)


def test_a_store_gives_what_its_films_give_in_shards_like_its_own(mimic, store, alone, tmp_path):
    numbers = {re.sub(r".*-(\w+)\.tfrecord-", r"\1-", p.name) for p in store.glob("*.tfrecord-*")}
    assert shards(alone) == {f"embeddings-{number}.tfrecord" for number in numbers}
    options = ("--config.encoder.resolution=32", "--config.encoder.preset=native")
    result = call(mimic / "files", tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    ids, found = embeddings(tmp_path / "out", tmp_path / "cache")
    expected_ids, expected = embeddings(alone, tmp_path / "cache")
    assert ids.tolist() == [f"{mimic}/{image_id}" for image_id in expected_ids]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_two_hosts_with_split_weights_make_what_one_makes(store, of_b0, environment, tmp_path):
    """A mesh of 4 x 2: two devices share the weights. Without, see the next test."""
    options = ("--config.encoder.model_parallel=2",)
    (code, said, errors), other = run_hosts(
        store, tmp_path / "out", *options, environment=environment
    )
    assert (code, other[0]) == (0, 0), errors + other[2]
    assert f"embedded     {FILMS:8}" in said
    assert "films" not in other[1], "host 0 speaks for all"
    assert_equal(tmp_path / "out", of_b0, tmp_path)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["runs"][0]["hosts"] == 2


@pytest.mark.slow
def test_a_host_is_killed_and_the_job_is_run_again(store, of_b0, environment, tmp_path):
    folder = tmp_path / "out"
    processes = start_hosts(store, folder, environment=environment)
    deadline = time.monotonic() + 200  # as in `run_hosts`
    while len(shards(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)
    time.sleep(3)  # the other does what is its own, and would then wait for the lost one
    processes[0].send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=60)
    before = {name: (folder / name).read_bytes() for name in shards(folder)}
    assert 3 <= len(before) < len(shards(of_b0)), "killed too late for this test to mean anything"
    assert json.loads((folder / "manifest.json").read_text())["complete"] is False
    (code, said, errors), other = run_hosts(store, folder, environment=environment)
    assert (code, other[0]) == (0, 0), errors + other[2]
    assert re.search(r"already done +[1-9]", said)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert_equal(folder, of_b0, tmp_path)


@pytest.mark.slow
def test_hosts_that_differ_stop_together(store, of_b0, environment, tmp_path):
    """One host that must not write makes all of them end, none of them waiting."""
    (code, _, errors), other = run_hosts(
        store, of_b0, "--config.encoder.seed=1", environment=environment
    )
    assert (code, other[0]) == (1, 1)
    assert "was made by another run" in errors
    assert "host 0 failed" in other[2]
    ended = run_hosts(
        store, tmp_path / "out", environment=environment, second=("--config.batch_size=16",)
    )
    for code, _, errors in ended:
        assert (code, "differs between the hosts, [0, 16]" in errors) == (1, True), errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_host_that_fails_does_not_hold_the_others(store, environment, tmp_path):
    """A damaged shard is met by one of them in the middle of the work."""
    shutil.copytree(store, tmp_path / "store")
    shard = sorted((tmp_path / "store").glob("*.tfrecord-*"))[1]  # the second one's
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    first, (code, _, errors) = run_hosts(
        tmp_path / "store", tmp_path / "out", environment=environment
    )
    assert code == 1 and first[0] != 0
    assert "cannot be read (DataLossError): run `sha256sum -c" in errors


def test_what_a_store_lacks_for_now_keeps_the_embeddings_incomplete(store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    manifest = json.loads((tmp_path / "store/manifest.json").read_text())
    manifest |= {"complete": False, "retryable": 3}
    (tmp_path / "store/manifest.json").write_text(json.dumps(manifest))
    result = call(tmp_path / "store", tmp_path / "out")
    assert result.returncode == 1
    assert "lacks 3 films that failed temporarily" in result.stdout
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["complete"], manifest["retryable"]) == (False, 3)


def test_stores_that_do_not_fit_are_refused(store, save_bundle, tmp_path):
    bundle = (f"--weights={save_bundle('imagenet', 64)}", "--config.encoder.variant=tiny")
    for options, message in {
        bundle: "preset native at 32 px, but these weights expect imagenet at 64 px",
        ("--config.input.views=PA",): "the store was made with ('AP', 'PA')",
        ("--config.input.limit=3",): "a store is embedded whole",
    }.items():
        result = call(store, tmp_path / "out", *options)
        assert result.returncode == 1
        assert message in result.stderr


def test_hosts_that_nobody_names_are_asked_for(store, environment, tmp_path):
    given = command(store, tmp_path / "out", "--config.distributed=true")
    result = subprocess.run(given, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "the processes of this run" in result.stderr
    assert "Traceback" not in result.stderr
