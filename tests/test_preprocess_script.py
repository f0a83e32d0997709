"""`scripts/preprocess.py`: in this process, and stopped in processes with two Beam workers."""

import json
import os
import signal
import subprocess
import time

import pytest
import running
from running import tree

from cxr_embeddings import preparing
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

LARGE = ("--config.image.size=640", "--config.output.films_per_shard=4")
ALONE = ("--direct_num_workers=1", "--direct_running_mode=in_memory")
WORKERS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def options(mimic, output, *more):
    return [
        "--config=configs/mimic.py",
        f"--input={mimic}",
        f"--output={output}",
        "--config.image.preset=native",
        "--runner=FnApiRunner",
        *more,
    ]


def call(*args):
    """Runs the command in this process."""
    return running.call("preprocess", *options(*args, "--config.image.size=32", *ALONE))


def test_a_run_says_what_it_did_and_may_be_repeated(mimic, tmp_path):
    folder = tmp_path / "store"
    result = call(mimic, folder)
    assert result.returncode == 0, result.stderr
    printed = result.stdout.splitlines()
    assert printed[0].startswith("42 of 46 films in ")
    assert any(line.split() == ["films", "listed", "46", "377,110"] for line in printed)
    assert any(line.startswith(f"{'written':13}{40:8}   ") for line in printed)
    assert any(line.startswith(f"{'skipped':13}{4:8}   view L") for line in printed)
    assert f"{'rejected':13}{2:8}   truncated 1, not_an_image 1" in printed
    assert str(folder) in printed[-1]
    assert "Traceback" not in result.stderr and "WARNING" not in result.stderr
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["runs"][0]["beam"] == ["--runner=FnApiRunner", *ALONE]
    assert manifest["runs"][0]["versions"]["apache-beam"]
    before = tree(folder)
    assert f"{'already done':13}{40:8}" in call(mimic, folder).stdout
    assert tree(folder) == before


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A stand-in of MIMIC-CXR; its films are large enough to be met in the middle of the work."""
    folder = tmp_path_factory.mktemp("large")
    write_mimic(folder, films=120, laterals=6, damaged=3, seed=4, size_range=(300, 320))
    return folder


def start(*args):
    """The command in a process of its own, with Beam's workers."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = running.command("preprocess", *options(*args, *LARGE, *WORKERS))
    return subprocess.Popen(words, cwd=running.REPOSITORY, **both)


def started(large, folder):
    """A run in the middle of its work."""
    process, deadline = start(large, folder), time.monotonic() + 60
    while len(list(folder.glob(".shards/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def whole(large, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    process = start(large, folder)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on(large, whole, tmp_path, stop):
    folder, summaries = tmp_path / "store", tmp_path / "store/.shards"
    process = started(large, folder)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0, "it was stopped too late for this test to mean anything"
    if stop == signal.SIGINT:
        assert "stopped: the same command continues from here" in errors
        assert "Traceback" not in errors
    deadline = time.monotonic() + 20  # the workers of a killed launcher end by themselves
    while (count := len(list(folder.glob("*.tfrecord-*")))) and time.monotonic() < deadline:
        time.sleep(1)
        if count == len(list(folder.glob("*.tfrecord-*"))):
            break
    before = {p.name: p.stat().st_mtime_ns for p in summaries.glob("*.json")}
    assert 3 <= len(before) < 36
    process = start(large, folder)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    kept = {p.name: p.stat().st_mtime_ns for p in summaries.glob("*.json") if p.name in before}
    assert kept == before, "a finished shard was made again"
    expected, found = tree(whole), tree(folder)
    differing = {name for name in expected | found if found.get(name) != expected.get(name)}
    assert differing <= {"manifest.json", "SHA256SUMS.txt"}, "whose config names the output"


def test_passwords_among_beams_options_are_not_written_down():
    options = ["--s3_secret_access_key=SECRET", "--runner=FnApiRunner", "--streaming"]
    shown = [preparing.shown(option) for option in options]
    assert shown == ["--s3_secret_access_key", "--runner=FnApiRunner", "--streaming"]


def test_a_store_of_no_film_is_no_success(mimic, tmp_path):
    given = (f"--input={mimic}/files", "--config.input.views=XX", "--config.input.no_view=drop")
    result = call(mimic, tmp_path / "out", *given)
    assert (result.returncode, f"{'in the store':13}{0:8}" in result.stdout) == (1, True)


def test_the_card_of_the_weights_says_how(mimic, save_bundle, tmp_path):
    bundle = save_bundle("imagenet", 32)
    result = call(mimic, tmp_path / "no", f"--weights={bundle}")
    assert "the card of" in result.stderr and "says ('imagenet', 32)" in result.stderr
    result = running.call(
        "preprocess", f"--input={mimic}", f"--weights={bundle}", f"--output={tmp_path}/out",
        "--config.input.limit=3", *ALONE,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    identity = json.loads((tmp_path / "out/manifest.json").read_text())["identity"]
    assert (identity["preset"], identity["size"]) == ("imagenet", 32)
    assert identity["preset_version"] == 2
    assert "note: the weights are of version 1 of the preset imagenet" in result.stdout
    assert (tmp_path / "out/films.csv").exists()


@pytest.mark.slow
def test_a_worker_that_dies_is_not_waited_for(large, tmp_path):
    folder = tmp_path / "store"
    process = started(large, folder)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    found = [int(pid) for pid in workers.stdout.split()]
    assert len(found) == 2, "as many as asked for"
    os.kill(found[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a Beam worker died (Worker subprocess exited with return code -9)" in errors
    assert json.loads((folder / "manifest.json").read_text())["complete"] is False
