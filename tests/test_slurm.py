"""The job files of docs/clusters.md on a Slurm of one node, which the tests start here."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import mimic_store
import numpy as np
import pytest
import running
from conftest import QUICK

from cxr_embeddings.input_pipeline.embeddings.table import read_table
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

FILMS = 120
TABLES = ("metadata", "split")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.environ["PATH"] + ":/usr/sbin"
missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}: slurm-wlm and munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd starts jobs as root only"),
]
CONFIG = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmUser=root
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
KillWait=2
MessageTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES
"""
SMALLER = {  # what the docs say -> what this machine has
    "source .venv/bin/activate": f"export PATH={pathlib.Path(sys.executable).parent}:$PATH",
    "python scripts/": "python tests/tiny.py scripts/",
    "--cpus-per-task=64": "--cpus-per-task=1",
    "--nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8": "--nodes=1 --ntasks=2",
    "--config.batch_size=128": "--config.batch_size=2 --config.encoder.engine=jax",
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Runs a command of Slurm, and gives what it prints."""
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    (folder / "spool").mkdir()
    (folder / "key").touch(0o600)
    (folder / "key").write_bytes(os.urandom(128))
    ports = {"controller": running.free_port(), "node": running.free_port()}
    said = CONFIG.format(host=socket.gethostname(), folder=folder, **ports)
    (folder / "slurm.conf").write_text(said)
    munge = [f"--{what}-file={folder}/munge.{what}" for what in ("pid", "log", "seed")]
    munge += [f"--socket={folder}/munge.sock", f"--key-file={folder}/key", "--force"]
    environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": PATH}
    environment["XLA_FLAGS"] = QUICK

    def call(*words):
        options = {"env": environment, "cwd": running.REPOSITORY, "text": True, "timeout": 60}
        return subprocess.run(words, check=True, capture_output=True, **options).stdout

    def is_idle():
        with contextlib.suppress(subprocess.CalledProcessError):
            return "idle" in call("sinfo", "--noheader", "--format=%t")

    with contextlib.ExitStack() as stack:
        for words in (["munged", "--foreground", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            log = folder / f"{words[0]}.log"
            stack.enter_context(running.background(words, log, env=environment))
            if words[0] == "munged":
                running.wait_for((folder / "munge.sock").exists)
        running.wait_for(is_idle)
        yield call


def submit(slurm, folder, word, changes):
    """Submits the job file of the docs that has a word in it; gives its number."""
    docs = (running.REPOSITORY / "docs/clusters.md").read_text()
    [text] = [b for b in re.findall(r"```sh\n(#!.*?)```", docs, re.S) if f"#SBATCH {word}" in b]
    for said, here in (SMALLER | changes).items():
        text = text.replace(said, str(here))
    (folder / "job.sh").write_text(text)
    log = f"--output={folder}/%x-%j.log"
    options = ("--parsable", log, "--export=ALL,part=p10", "--open-mode=append")
    return slurm("sbatch", *options, f"{folder}/job.sh").strip()


def states(slurm, job):
    """The states of a job, or of the jobs of an array."""
    return {*re.findall(r"JobState=(\w+)", slurm("scontrol", "show", "job", job))}


def finish(slurm, folder, job):
    """Waits until a job, with all of its array, has ended well."""
    running.wait_for(lambda: states(slurm, job) <= {"COMPLETED", "FAILED", "CANCELLED"}, 250)
    logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
    assert states(slurm, job) == {"COMPLETED"}, logs
    return logs


def without_runs(folder):
    """The files of a folder, without what says how and when they were made."""
    assert running.is_intact(folder)
    tree = running.tree(folder)
    manifest = json.loads(tree["manifest.json"])
    assert manifest["complete"]
    return tree | {"manifest.json": manifest | {"runs": []}, "SHA256SUMS.txt": b""}


def test_an_array_of_stores_is_cancelled_and_submitted_again(slurm, save_bundle, tmp_path):
    mimic, weights = tmp_path / "mimic", save_bundle("native", 32)
    write_mimic(mimic, films=60, laterals=4, damaged=0, seed=4, size_range=(300, 320))
    parts = sorted(path.name for path in (mimic / "files").iterdir())[:2]
    changes = {
        "--array=10-19": f"--array={','.join(part[1:] for part in parts)}",
        "/data/mimic-cxr-jpg": mimic,
        "/data/mimic-cxr": mimic,
        "/models/cxr-l2": weights,
        "/scratch": tmp_path,
        "--direct": "--config.output.films_per_shard=1 --direct",
    }
    job = submit(slurm, tmp_path, "--array", changes)
    done = ".shards/*.json"
    running.wait_for(lambda: len([*tmp_path.glob(f"mimic_cxr_p*/1.0.0/{done}")]) > 1, 100)
    slurm("scancel", job)
    running.wait_for(lambda: states(slurm, job) <= {"CANCELLED"})
    before = [*tmp_path.glob(f"mimic_cxr_p*/1.0.0/{done}")]
    finish(slurm, tmp_path, submit(slurm, tmp_path, "--array", changes))
    assert len(before) < len([*tmp_path.glob(f"mimic_cxr_p*/1.0.0/{done}")]), "cancelled too late"
    for part in parts:
        tables = [f"--config.input.{t}_path={mimic}/mimic-cxr-2.0.0-{t}.csv.gz" for t in TABLES]
        result = running.call(
            "preprocess", "--config=configs/mimic.py", f"--input={mimic}/files/{part}", *tables,
            f"--weights={weights}", f"--output={tmp_path}/{part}/1.0.0",
            "--config.output.films_per_shard=1",
            "--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        there = without_runs(tmp_path / f"mimic_cxr_{part}/1.0.0")
        assert there == without_runs(tmp_path / f"{part}/1.0.0")


def test_two_tasks_of_srun_find_one_another_and_are_requeued(slurm, tmp_path):
    """A larger network and two films a step, so that the job is met in the middle."""
    mimic = tmp_path / "mimic"
    write_mimic(mimic, films=FILMS, laterals=0, damaged=0, seed=3, size_range=(48, 64))
    mimic_store.make(mimic, tmp_path / "mimic_cxr_p10/1.0.0", size=128, films_per_shard=1)
    network = "random --config.encoder.variant=b0 --config.encoder.dtype=float32"
    job = submit(slurm, tmp_path, "--nodes", {"/models/cxr-l2": network, "/scratch": tmp_path})
    folder = tmp_path / "embeddings_p10"
    running.wait_for(lambda: len([*folder.glob("embeddings-*")]) > 2, 150)
    slurm("scontrol", "requeue", job)
    running.wait_for(lambda: states(slurm, job) == {"PENDING"})
    before = {p.name: p.read_bytes() for p in folder.glob("embeddings-*")}
    assert len(before) < FILMS, "requeued too late for this test to mean anything"
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm itself waits two minutes
    logs = finish(slurm, tmp_path, job)
    assert re.search(r"already done +[1-9]", logs), logs
    assert "host 0 of 2" in logs
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [run["hosts"] for run in manifest["runs"]] == [2]
    assert {name: (folder / name).read_bytes() for name in before} == before
    alone = (
        "--config=configs/mimic.py",
        "--config.encoder.engine=openvino",
        f"--weights={network}",
    )
    source = (f"--input={tmp_path}/mimic_cxr_p10/1.0.0", f"--output={tmp_path}/alone")
    result = running.call("embed", *source, *" ".join(alone).split())
    assert result.returncode == 0, result.stderr
    tables = [read_table(str(f), str(tmp_path / "cache")) for f in (folder, tmp_path / "alone")]
    assert tables[0].image_id.tolist() == tables[1].image_id.tolist()
    ours, expected = (np.asarray(table.embedding) for table in tables)
    assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()
    assert running.is_intact(folder)
