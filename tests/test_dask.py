"""`scripts/preprocess.py` on a Dask cluster: a scheduler, and two workers whose nannies watch."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import running

from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

pytest.importorskip("distributed", reason="Dask is not installed: it comes with the extra dask")
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def cluster(folder):
    """The address of a scheduler; the process of its two workers, each of them below a nanny."""
    said, python = folder / "scheduler.json", (sys.executable, "-m")
    scheduler = ["distributed.cli.dask_scheduler", "--host=127.0.0.1", "--port=0"]
    worker = ["distributed.cli.dask_worker", f"--scheduler-file={said}", "--nworkers=2"]
    worker += ["--nthreads=1", f"--local-directory={folder}", "--no-dashboard", "--nanny"]
    scheduler += [f"--scheduler-file={said}", "--dashboard-address=127.0.0.1:0"]
    with (
        running.background([*python, *scheduler], folder / "scheduler.log"),
        running.background([*python, *worker], folder / "workers.log") as workers,
    ):
        running.wait_for(said.exists)
        yield json.loads(said.read_text())["address"], workers.pid


def children(process):
    """The processes that a process has started, by their ids."""
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True).stdout
    return [*map(int, found.split())]


def busy_worker(nanny):
    """A worker that has a decoder process just now; None: there is none."""
    return next((worker for worker in children(nanny) if children(worker)), None)


def test_a_worker_is_killed_and_the_store_is_that_of_one_machine(tmp_path):
    mimic = tmp_path / "mimic"
    write_mimic(mimic, films=80, laterals=4, damaged=2, seed=4, size_range=(300, 320))
    given = [f"--input={mimic}", "--config.image.preset=native", "--config.image.size=320"]
    given += ["--config=configs/mimic.py", "--config.output.films_per_shard=4"]
    alone = ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1")
    result = running.call("preprocess", *given, f"--output={tmp_path}/alone", *alone)
    assert result.returncode == 0, result.stderr

    store = tmp_path / "store"
    with cluster(tmp_path) as (address, nanny):
        asked = (f"--output={store}", "--runner=DaskRunner", f"--dask_client_address={address}")
        words = running.command("preprocess", *given, *asked)
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(words, cwd=running.REPOSITORY, **both) as process:
            running.wait_for(lambda: len([*store.glob(".shards/*.json")]) >= 3, 100, process)
            os.kill(running.wait_for(lambda: busy_worker(nanny), 30, process), signal.SIGKILL)
            left = 20 - len([*store.glob(".shards/*.json")])
            said, errors = process.communicate(timeout=200)
    assert left > 5, "it was killed too late for this test to mean anything"
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors
    assert f"{'written':13}{80:8}" in said
    log = (tmp_path / "workers.log").read_text()
    assert "was killed by signal 9" in log and "Restarting worker" in log

    found, expected = running.tree(store), running.tree(tmp_path / "alone")
    for tree in (found, expected):
        tree["manifest.json"] = json.loads(tree["manifest.json"]) | {"runs": "name the runner"}
        del tree["SHA256SUMS.txt"]
    assert found == expected
    assert running.is_intact(store)


def test_options_of_dask_are_known_with_its_runner():
    from cxr_embeddings.input_pipeline.store.beam_job import parse_options

    with pytest.raises(ValueError, match="knows no option --dask_client_adress"):
        parse_options(["--runner=DaskRunner", "--dask_client_adress=tcp://10.0.0.1:8786"])
    some = parse_options(["--runner=DaskRunner", "--dask_npartitions=8"]).get_all_options(True)
    assert some["npartitions"] == 8 and "partition_size" not in some
