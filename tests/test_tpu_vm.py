"""scripts/tpu_vm.sh against a gcloud whose slices are a JSON file and whose workers are folders."""

import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY

WHERE = ("--name=films", "--zone=us-west4-a")
NEW = (*WHERE, "--type=v5litepod-16")
LABELS = "created-by=cxr-embeddings"

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="flock is not installed")


def fake_gcloud() -> None:
    """The commands of gcloud that the script calls."""
    folder = pathlib.Path(sys.argv[0]).parent
    # states of a new slice; then, for the one that is there: group, states to come, labels
    slices = json.loads((folder / "slices").read_text())
    words = [a for a in sys.argv[1:] if a[:2] != "--"][2:]
    options = dict(a[2:].partition("=")[::2] for a in sys.argv[1:] if a[:2] == "--")
    assert options["zone"] == "us-west4-a" and "quiet" in options
    with open(folder / "calls", "a") as calls:
        calls.write(" ".join(words) + "\n")
    group, verb = words[:2]
    if verb == "create":
        assert options["accelerator-type"] and options.get("version", options.get("node-id"))
        slices.append([group, list(slices[0]), options["labels"]])
    elif verb == "delete":
        slices[1:] = []
    elif verb == "describe":
        if not slices[1:] or slices[1][0] != group:
            sys.exit("ERROR: NOT_FOUND: Resource 'projects/p/locations/z/nodes/films' not found")
        states = slices[1][1]
        print(f"{states.pop(0) if states[1:] else states[0]},{slices[1][2].partition('=')[2]},2")
    for worker in range(2) if options.get("worker") == "all" else options.get("worker", ""):
        home = f"{folder}/worker-{worker}"
        if verb == "scp":
            source, target = (w.replace("films:", f"{home}/") for w in words[2:])
            subprocess.run(["cp", "-r", source, target], check=True)
        if verb == "ssh":
            path = f"{home}:{os.environ['PATH']}"
            names = {"HOME": home, "HOSTNAME": f"w-{worker}", "PATH": path}
            subprocess.run(["bash", "-c", options["command"]], cwd=home, env=names, check=True)
    (folder / "slices").write_text(json.dumps(slices))


def fake_python() -> None:
    """A python3 whose uv makes environments with a pip that does nothing."""
    if sys.argv[2] == "uv":
        os.makedirs(sys.argv[-1] + "/bin")
        os.symlink("/bin/true", sys.argv[-1] + "/bin/pip")


@pytest.fixture
def cloud(tmp_path):
    """A checkout, the programs that it finds, and `do`, which runs the script in it."""
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "tpu_vm.sh", checkout / "scripts")
    (checkout / "a file").write_text("tracked")
    (checkout / "secret").write_text("not tracked")
    for arguments in (["init", "--quiet"], ["add", "scripts", "a file"]):
        subprocess.run(["git", "-C", checkout, *arguments], check=True)
    programs = {f"worker-{worker}/python3": fake_python for worker in (0, 1)}
    for name, function in (programs | {"gcloud": fake_gcloud}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        modules = "import json, os, pathlib, subprocess, sys"
        body = f"{inspect.getsource(function)}\n{function.__name__}()\n"
        source = f"#!{sys.executable} -IS\n{modules}\n{body}"
        (tmp_path / name).write_text(source)
        (tmp_path / name).chmod(0o755)
    names = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CXR_POLL_SECONDS": "0.01"}

    def do(*arguments: str, code: int | None = 0) -> str:
        command = ["bash", "scripts/tpu_vm.sh", *arguments]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        run = subprocess.run(command, cwd=checkout, env=os.environ | names, timeout=60, **both)
        assert code in (None, run.returncode), run.stdout
        return run.stdout

    def slices(*content) -> None:
        (tmp_path / "slices").write_text(json.dumps(content))

    slices(["CREATING", "READY"])
    return tmp_path, do, slices


def test_a_command_runs_on_all_workers_and_its_logs_are_collected(cloud):
    folder, do, _ = cloud
    assert "films is ready, with 2 workers" in do("create", *NEW)
    command = "ls; pwd; command -v pip; until [ -e ~/go ]; do sleep 0.01; done; exit $1"
    said = do("run", *WHERE, "--", "bash", "-c", command, "name", "7")
    assert said.count(": started") == 2
    assert do("collect", *WHERE, code=3).count(": running") == 2
    assert "already" in do("run", *WHERE, "--", "true", code=1)  # and the code stays as it is
    for worker in (0, 1):
        (folder / f"worker-{worker}" / "go").touch()
    while ": running" in do("collect", *WHERE, code=None):
        time.sleep(0.05)
    assert do("collect", *WHERE, "--to=logs", code=4).count("ended with exit code 7") == 2
    for worker in (0, 1):
        log = (folder / f"checkout/logs/worker-{worker}/run/log").read_text()
        assert "a file\nscripts" in log and "secret" not in log and "venv/bin/pip" in log
    do("run", *WHERE, "--", "true")  # again, in the environment that is there
    do("delete", *WHERE)
    assert "nothing to delete" in do("delete", *WHERE)


def test_a_preempted_slice_is_made_anew_once(cloud):
    folder, do, slices = cloud
    slices(["READY"], ["tpu-vm", ["PREEMPTED"], LABELS])
    do("create", *NEW, "--spot")
    calls = (folder / "calls").read_text()
    assert calls.index("tpu-vm delete") < calls.index("tpu-vm create")
    slices(["WAITING_FOR_RESOURCES", "FAILED"])
    assert "is FAILED: try later" in do("create", *NEW, "--queued", code=5)
    assert "is FAILED: `create` makes it" in do("run", *WHERE, "--", "true", code=5)


def test_only_what_the_script_made_is_deleted(cloud):
    folder, do, slices = cloud
    slices([], ["tpu-vm", ["READY"], "created-by=somebody"])
    assert "did not make it" in do("delete", *WHERE, code=6)
    slices([], ["queued-resources", ["ACTIVE"], LABELS])
    do("delete", *WHERE)
    assert "queued-resources delete" in (folder / "calls").read_text()


def test_a_dry_run_calls_nothing_and_wrong_words_are_named(cloud):
    folder, do, _ = cloud
    assert "tpus queued-resources create" in do("create", *NEW, "--queued", "--dry-run")
    for verb in (["run", *WHERE, "--dry-run", "--", "x"], ["collect", *WHERE, "--dry-run"]):
        assert "+ gcloud compute tpus tpu-vm" in do(*verb)
    for words, said in {
        ("fly", *WHERE): "fly is unknown",
        ("collect", "--name=Films"): "--name is 'Films'",
        ("create", *WHERE, "--type=v9-8"): "Give --version",
        ("run", *WHERE): "needs a command",
        ("collect", *WHERE, "now"): "now is no option",
    }.items():
        assert said in do(*words, code=2)
    assert not (folder / "calls").exists()
