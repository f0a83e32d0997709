"""scripts/tpu_vm.sh against a gcloud that keeps its slices in a file and its workers in folders."""

import fcntl
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "scripts" / "tpu_vm.sh"
USAGE, RUNNING, FAILED, QUOTA, CAPACITY, GONE, WORKER, FOREIGN, GCLOUD, LATE, PYTHON, ABSENT = (
    range(2, 14)
)
SLICE = ("--name=films", "--zone=us-west4-a")
NEW = (*SLICE, "--type=v5litepod-8")
TOOLS = (
    "bash cat cp cut date env flock git gzip mkdir mv nohup rm sed sleep tail tar tr touch".split()
)

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="flock is not installed")

# As gcloud and the Cloud TPU API word them.
NO_QUOTA = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.create) RESOURCE_EXHAUSTED: Quota limit "
    "'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone us-west4-a."
)
NO_CAPACITY = (
    'ERROR: (gcloud.compute.tpus.tpu-vm.create) {\n  "code": 8,\n  "message": "There is no more '
    'capacity in the zone \\"us-west4-a\\"; you can try in another zone where Cloud TPU Nodes are '
    'offered (see https://cloud.google.com/tpu/docs/regions) [EID: 0xe1d1ce9f2eae7a03]"\n}'
)
NO_LOGIN = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) You do not currently have an active "
    "account selected.\nPlease run:\n\n  $ gcloud auth login\n\nto obtain new credentials."
)
NO_PROJECT = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) The required property [project] is "
    "not currently set.\nIt can be set on a per-command basis by re-running your command with the "
    "[--project] flag."
)
NO_RIGHTS = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) PERMISSION_DENIED: Permission "
    "'tpu.nodes.get' denied on 'projects/p/locations/us-west4-a/nodes/films'"
)
NO_AGENT = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.scp) SSH Key is not present in the SSH agent. Please run "
    '"ssh-add /home/me/.ssh/google_compute_engine" to add it, and try again.'
)


def end_jobs(folder: str) -> None:
    """Kills what runs on the workers of a folder, each of which has its home there."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as environment:
                if f"\0HOME={folder}/".encode() in b"\0" + environment.read():
                    os.kill(int(process), 9)
        except OSError:  # it has ended, or is somebody else's
            pass


def fake_gcloud() -> None:
    """The commands of gcloud that the script needs, on the files beside it."""
    folder = os.path.dirname(os.path.abspath(sys.argv[0]))
    arguments = sys.argv[1:]
    with open(f"{folder}/calls", "a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    lock = open(f"{folder}/lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(f"{folder}/state.json") as stream:
        state = json.load(stream)
    options = dict(a.removeprefix("--").partition("=")[::2] for a in arguments if a[:2] == "--")
    words = [a for a in arguments if a[:2] != "--"]
    assert words[:2] == ["compute", "tpus"] and "zone" in options and "quiet" in options
    group, verb, *words = words[2:]
    track = f"(gcloud.compute.tpus.{group}.{verb})"

    def end(code: int, error: str = "") -> None:
        with open(f"{folder}/state.json", "w") as stream:
            json.dump(state, stream)
        print(error, file=sys.stderr)
        sys.exit(code)

    def make_node(name: str, states: list[str], labels: dict[str, str], request=None) -> None:
        endpoints = [{"ipAddress": f"10.0.0.{i}"} for i in range(state["size"])]
        state["tpu-vm"][name] = {
            "states": states,
            "health": "HEALTHY",
            "labels": labels,
            "networkEndpoints": endpoints,
            "queuedResource": request,
        }
        for worker in range(state["size"]):
            os.makedirs(f"{folder}/{name}/{worker}")

    def drop_node(name: str) -> None:
        end_jobs(f"{folder}/{name}")
        state["tpu-vm"].pop(name, None)
        os.system(f"rm -rf '{folder}/{name}'")

    if f"{group} {verb}" in state["errors"]:
        end(1, state["errors"][f"{group} {verb}"])
    name = words[0] if verb != "scp" else next(w for w in words if ":" in w).partition(":")[0]
    if verb != "create" and name not in state[group]:
        end(
            1, f"ERROR: {track} NOT_FOUND: Resource 'projects/p/locations/z/nodes/{name}' not found"
        )
    labels = dict([options["labels"].split("=")]) if "labels" in options else {}
    if verb == "create" and group == "tpu-vm":
        assert options["accelerator-type"] and options["version"]
        make_node(name, list(state["new"]), labels)
    elif verb == "create":
        assert options["accelerator-type"] and options["runtime-version"] and options["node-id"]
        node = {"nodeId": options["node-id"], "node": {"labels": labels}}
        state[group][name] = {"states": list(state["new"]), "tpu": {"nodeSpec": [node]}}
        state[group][name]["failure"] = state["failure"]
    elif verb == "delete":
        assert group == "tpu-vm" or "force" in options
        drop_node(name)
        state[group].pop(name, None)
    elif verb == "describe":
        thing = state[group][name]
        now = thing["states"].pop(0) if len(thing["states"]) > 1 else thing["states"][0]
        shown = thing | {"state": now}
        if group == "queued-resources":
            shown["state"] = {"state": now}
            if now == "FAILED":
                shown["state"]["failedData"] = {"error": {"message": thing["failure"]}}
            if now == "ACTIVE" and name not in state["tpu-vm"]:
                labels = thing["tpu"]["nodeSpec"][0]["node"]["labels"]
                make_node(name, ["READY"], labels, f"projects/1/locations/z/queuedResources/{name}")
            if now == "SUSPENDED":
                drop_node(name)
        fields = re.fullmatch(r'value\[separator=","\]\((.*)\)', options["format"])[1]
        values = []
        for field in fields.split(","):
            value = shown
            for key in re.findall(r"\w[\w-]*(?:\(\))?", field):
                if key == "len()":
                    value = len(value or "")
                elif isinstance(value, list):
                    value = value[int(key)]
                else:
                    value = (value or {}).get(key)
            values.append("" if value is None else str(value))
        print(",".join(values))
    elif state["tpu-vm"][name]["states"][0] in ("PREEMPTED", "TERMINATED"):
        what = state["tpu-vm"][name]["states"][0]
        end(
            1, f'ERROR: {track} This TPU has terminal state "{what}", so it cannot be used anymore.'
        )
    else:
        if "on-worker status" in options.get("command", "") and state["preempt_after"]:
            state["preempt_after"] -= 1
            if not state["preempt_after"]:
                state["tpu-vm"][name]["states"] = ["PREEMPTED"]
        import subprocess  # here, because the other commands are many and should be quick

        one = options["worker"]
        workers = range(state["size"]) if one == "all" else [int(one)]
        codes, jobs = [0], []
        for worker in workers:
            home = f"{folder}/{name}/{worker}"
            tries = 10 if worker in state["missing"] else 1
            for _ in range(tries):
                kind = verb.upper()
                print(f"{kind}: Attempting to connect to worker {worker}...", file=sys.stderr)
            if worker in state["missing"]:
                error = f"[/usr/bin/{verb}] exited with return code [255]."
                print(f"Retrying: {kind} command error: {error}", file=sys.stderr)
                codes.append(255)
            elif verb == "scp":
                *sources, target = words
                for source in sources:
                    source, to = (
                        (f"{home}/{source.partition(':')[2]}", target)
                        if ":" in source
                        else (source, f"{home}/{target.partition(':')[2]}")
                    )
                    subprocess.run(["cp", "-r", source, to], check=True)
            else:
                environment = {
                    "HOME": home,
                    "PATH": f"{folder}/worker-bin",
                    "HOSTNAME": f"t1v-n-0-w-{worker}",
                }
                job = subprocess.Popen(  # ssh hands the remote shell one string
                    ["bash", "-c", options["command"]],
                    cwd=home,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                jobs.append(job)
        for job in jobs:  # as ssh: until the remote shell's pipes are closed
            output, errors = job.communicate(timeout=20)
            sys.stdout.write(output)
            sys.stderr.write(errors)
            codes.append(job.returncode)
        sys.stdout.flush()
        end(next((code for code in codes if code), 0))
    end(0)


def fake_python() -> None:
    """A python of the version in its name, whose venv, pip and uv only leave traces."""
    program = os.path.realpath(sys.argv[0])
    name = os.path.basename(program)
    with open(os.environ["PATH"].split(":")[-1] + "/version") as image:
        version = name.removeprefix("python") if "." in name else image.read()
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"Python {version}")
    elif arguments[0] == "-c" and "version_info" in arguments[1]:
        sys.version_info = tuple(map(int, version.split(".")))
        exec(arguments[1])
    elif arguments[:2] in (["-m", "venv"], ["-m", "uv"]):
        os.makedirs(f"{arguments[-1]}/bin")
        made = "3.12" if arguments[1] == "uv" else version
        os.system(f"cp '{program}' {arguments[-1]}/bin/python{made}")
        os.symlink(f"python{made}", f"{arguments[-1]}/bin/python")
        os.system(f"cp '{program}' {arguments[-1]}/bin/pip")
    elif arguments[:2] == ["-m", "pip"]:
        if "uv" in arguments and os.path.exists(f"{os.environ['HOME']}/no-network"):
            sys.exit("ERROR: Could not find a version that satisfies the requirement uv")
        with open(f"{os.environ['HOME']}/pip", "a") as log:
            log.write(json.dumps([os.getcwd(), version, *arguments]) + "\n")
    else:
        os.execv(sys.executable, [sys.executable, "-IS", *arguments])


def write_program(path: pathlib.Path, *functions) -> None:
    """A program of functions of this file, which calls the last of them."""
    sources = "\n\n".join(map(inspect.getsource, functions))
    head = f"#!{sys.executable} -IS\nimport fcntl, json, os, re, sys\n"
    path.write_text(f"{head}\n\n{sources}\n\n{functions[-1].__name__}()\n")
    path.chmod(0o755)


class Cloud:
    """A checkout of the script, the gcloud that it finds, and what is there."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.checkout = folder / "cloud", folder / "checkout"

    def make(self) -> None:
        bin = self.folder / "worker-bin"
        bin.mkdir(parents=True)
        write_program(self.folder / "gcloud", end_jobs, fake_gcloud)
        for tool in TOOLS:
            os.symlink(shutil.which(tool), bin / tool)
        write_program(bin / "python3", fake_python)
        (bin / "version").write_text("3.12")
        (self.checkout / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPT, self.checkout / "scripts")
        (self.checkout / "a file.txt").write_text("tracked")
        (self.checkout / "weights").write_text("not tracked")
        git = ("git", "-C", str(self.checkout))
        subprocess.run([*git, "init", "--quiet"], check=True)
        subprocess.run([*git, "add", "scripts", "a file.txt"], check=True)
        self.write(
            {
                "tpu-vm": {},
                "queued-resources": {},
                "size": 2,
                "new": ["READY"],
                "failure": "",
                "errors": {},
                "missing": [],
                "preempt_after": 0,
            }
        )

    def read(self) -> dict:
        return json.loads((self.folder / "state.json").read_text())

    def write(self, state: dict) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    def change(self, **values) -> None:
        self.write(self.read() | values)

    def calls(self) -> list[list[str]]:
        log = self.folder / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def verbs(self) -> list[str]:
        """The calls that change something, such as `tpu-vm create`, in order."""
        return [f"{c[2]} {c[3]}" for c in self.calls() if c[3] not in ("describe", "ssh", "scp")]

    def home(self, worker: int = 0) -> pathlib.Path:
        return self.folder / "films" / str(worker)

    def start(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs the script; its output and its errors are mixed, as on a terminal."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "CXR_POLL_SECONDS": "0.1",
            **environment,
        }
        return subprocess.run(
            ["bash", "scripts/tpu_vm.sh", *arguments],
            env=environment,
            cwd=self.checkout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )

    def do(self, *arguments: str, code: int = 0) -> str:
        """Runs the script, expects its exit code and gives what it wrote."""
        done = self.start(*arguments)
        assert done.returncode == code, f"exit code {done.returncode}:\n{done.stdout}"
        return done.stdout

    def watch_to_the_end(self) -> subprocess.CompletedProcess:
        for _ in range(100):
            if (done := self.start("watch", *SLICE)).returncode != RUNNING:
                break
        return done


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Folders of a cloud without a slice, and of one with a slice that has everything."""
    empty, installed = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("installed")
    Cloud(empty).make()
    cloud = Cloud(installed)
    cloud.make()
    cloud.do("create", *NEW)
    cloud.do("install", *SLICE)
    return {"empty": empty, "installed": installed}


def copy_of(template, folder):
    shutil.copytree(template, folder, symlinks=True, dirs_exist_ok=True)
    yield Cloud(folder)
    end_jobs(f"{folder}/cloud")


@pytest.fixture
def cloud(templates, tmp_path):
    yield from copy_of(templates["empty"], tmp_path)


@pytest.fixture
def installed(templates, tmp_path):
    yield from copy_of(templates["installed"], tmp_path)


def python(program: str, *arguments: str) -> tuple[str, ...]:
    return ("--", "python", "-c", program, *arguments)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    check = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_help_shows_an_example_and_the_exit_codes(cloud):
    text = cloud.do("--help")
    assert "up --name=films" in text and "13 there is no such slice" in text
    assert cloud.do("create", "--help") == text
    assert not cloud.calls()


def test_dry_run_prints_every_command_and_calls_nothing(cloud):
    text = cloud.do("up", *NEW, "--spot", "--dry-run", "--", "python", "a b.py")
    commands = [line for line in text.splitlines() if line.startswith("+ gcloud compute tpus ")]
    ssh = "+ gcloud compute tpus tpu-vm ssh films --zone=us-west4-a --quiet --worker=all"
    for part in (
        "tpu-vm create films --version=v2-alpha-tpuv5-lite --zone=us-west4-a --quiet "
        "--accelerator-type=v5litepod-8 --labels=created-by=cxr-embeddings --spot",
        "cxr-embeddings.tgz films: --zone=us-west4-a --quiet --worker=all",
        "on-worker install'",
        r"on-worker start python '\''a b.py'\'''",  # a worker's shell reads it once more
        "on-worker status'",
    ):
        assert any(part in command for command in commands), f"{part}\n{text}"
    assert sum(command.startswith(ssh) for command in commands) >= 3
    queued = cloud.do("create", *NEW, "--queued", "--project=mine", "--dry-run")
    assert "queued-resources create films --node-id=films --runtime-version=v2-alpha" in queued
    assert "--project=mine" in queued
    for what, verb in (("collect", "scp"), ("delete", "delete"), ("watch", "ssh")):
        assert f"+ gcloud compute tpus tpu-vm {verb}" in cloud.do(what, *SLICE, "--dry-run")
    assert not cloud.calls()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to do"),
        (("creat", *SLICE), "nothing to do"),
        (("create", "--zone=us-west4-a"), "--name is ''"),
        (("create", "--name=films"), "--zone is ''"),
        (("create", "--name=films; rm -rf ~", "--zone=us-west4-a"), "--name is 'films; rm -rf ~'"),
        (("create", "--name=-films", "--zone=us-west4-a"), "--name is -films"),
        (("create", "--name=Films", "--zone=us-west4-a"), "--name is Films"),
        (("create", "--name=films\n", "--zone=us-west4-a"), "--name is 'films\n'"),
        (("create", f"--name={'f' * 63}", "--zone=us-west4-a"), "--name is fff"),
        (("create", "--name=films", "--zone=us-west4"), "--zone is us-west4"),
        (("create", *SLICE, "--type=v6e 256"), "--type is 'v6e 256'"),
        (("create", *SLICE, "--type=v7x-256"), "say --version"),
        (("create", *SLICE, "--wait-minutes=soon"), "--wait-minutes is soon"),
        (("create", *SLICE, "--name"), "--name is no option"),
        (("create", *SLICE, "--force=1"), "--force=1 is no option"),
        (("install", *SLICE, "--repo=-oProxyCommand=x"), "--repo is -oProxyCommand=x"),
        (("install", *SLICE, "--ref=--upload-pack=x"), "--ref is --upload-pack=x"),
        (("run", *SLICE), "run needs a command"),
        (("up", *NEW, "--"), "up needs a command"),
        (("delete", *SLICE, "--", "now"), "delete takes nothing"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_called(cloud, arguments, said):
    assert said in cloud.do(*arguments, code=USAGE)
    assert not cloud.calls()


def test_create_twice_makes_one_slice(cloud):
    cloud.change(new=["CREATING", "CREATING", "READY"])
    assert "films: READY, HEALTHY, 2 workers" in cloud.do("create", *NEW)
    assert "films: READY, HEALTHY, 2 workers" in cloud.do("create", *NEW)
    assert cloud.verbs() == ["tpu-vm create"]
    assert cloud.read()["tpu-vm"]["films"]["labels"] == {"created-by": "cxr-embeddings"}


def test_create_needs_a_type_only_to_make_a_slice(cloud):
    assert "of which --type" in cloud.do("create", *SLICE, code=USAGE)
    cloud.do("create", *NEW)
    cloud.do("create", *SLICE)


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED"])
def test_create_makes_a_preempted_slice_anew(cloud, state):
    cloud.change(new=[state])
    assert f"films was made, and now: {state}" in cloud.do("create", *NEW, code=GONE)
    cloud.change(new=["READY"])
    assert "deleted and made anew" in cloud.do("create", *NEW)
    assert cloud.verbs() == ["tpu-vm create", "tpu-vm delete", "tpu-vm create"]


def test_what_has_no_label_of_ours_is_not_deleted(cloud):
    cloud.do("create", *NEW)
    state = cloud.read()
    for labels in ({}, {"created-by": "somebody"}):
        state["tpu-vm"]["films"] |= {"labels": labels, "states": ["READY"]}
        cloud.write(state)
        assert "has no label created-by=cxr-embeddings" in cloud.do("delete", *SLICE, code=FOREIGN)
        cloud.do("create", *NEW)
        state["tpu-vm"]["films"]["states"] = ["PREEMPTED"]
        cloud.write(state)
        cloud.do("create", *NEW, code=FOREIGN)
    assert cloud.verbs() == ["tpu-vm create"]


def test_a_queued_resource_of_others_is_not_deleted_with_its_node(cloud):
    cloud.change(new=["ACTIVE"])
    cloud.do("create", *NEW, "--queued")
    state = cloud.read()
    state["queued-resources"]["films"]["tpu"]["nodeSpec"][0]["node"] = {}
    cloud.write(state)
    cloud.do("delete", *SLICE, code=FOREIGN)
    assert "films" in cloud.read()["tpu-vm"]


def test_delete(cloud):
    assert "nothing to delete" in cloud.do("delete", *SLICE)
    cloud.do("create", *NEW)
    cloud.do("delete", *SLICE)
    assert cloud.verbs() == ["tpu-vm create", "tpu-vm delete"]
    assert not cloud.read()["tpu-vm"]


def test_a_queued_slice_is_waited_for_until_it_is_active(cloud):
    cloud.change(new=["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    text = cloud.do("create", *NEW, "--queued", "--spot")
    assert "queued resource WAITING_FOR_RESOURCES, no node yet; looking again" in text
    assert "queued resource ACTIVE, READY, HEALTHY, 2 workers" in text
    (made,) = [call for call in cloud.calls() if call[3] == "create"]
    assert made[2] == "queued-resources" and "--spot" in made
    cloud.do("delete", *SLICE)  # knows by itself that it is queued
    assert cloud.verbs()[-1] == "queued-resources delete" and not cloud.read()["tpu-vm"]


def test_waiting_has_an_end_and_goes_on_later(cloud):
    cloud.change(new=["WAITING_FOR_RESOURCES"])
    text = cloud.do("create", *NEW, "--queued", "--wait-minutes=0", code=LATE)
    assert "not ready after 0 minutes (queued resource WAITING_FOR_RESOURCES" in text
    cloud.do("create", *NEW, "--queued", "--wait-minutes=0", code=LATE)
    assert cloud.verbs() == ["queued-resources create"]
    cloud.do("run", *SLICE, "--", "true", code=LATE)


def test_a_suspended_queued_resource_is_made_anew(cloud):
    cloud.change(new=["SUSPENDING", "SUSPENDED", "SUSPENDED"])
    cloud.do("create", *NEW, "--queued", code=GONE)
    cloud.change(new=["ACTIVE"])
    cloud.do("create", *NEW, "--queued")
    assert cloud.verbs() == [f"queued-resources {v}" for v in ("create", "delete", "create")]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NO_QUOTA, QUOTA, "ask for more of the one named above"),
        (NO_CAPACITY, CAPACITY, "no free v5litepod-8 in us-west4-a now"),
        ("ERROR: (gcloud.compute.tpus.tpu-vm.create) INVALID_ARGUMENT: no such type", 1, "above"),
    ],
)
def test_what_hinders_the_making_of_a_slice_has_a_sentence(cloud, error, code, said):
    cloud.change(errors={"tpu-vm create": error})
    text = cloud.do("create", *NEW, code=code)
    assert said in text and error in text


def test_a_queued_resource_that_fails_says_why(cloud):
    reason = "Quota 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' exhausted. Limit 4, in us-west4-a"
    cloud.change(new=["WAITING_FOR_RESOURCES", "FAILED"], failure=reason)
    assert reason in cloud.do("create", *NEW, "--queued", code=QUOTA)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NO_LOGIN, "not logged in"),
        (NO_PROJECT, "say --project=PROJECT"),
        (NO_RIGHTS, "roles/tpu.admin"),
    ],
)
def test_a_gcloud_that_is_not_ready_has_a_sentence(cloud, error, said):
    cloud.change(errors={"tpu-vm describe": error})
    for arguments in (("create", *NEW), ("delete", *SLICE), ("up", *NEW, "--", "true")):
        text = cloud.do(*arguments, code=GCLOUD)
        assert said in text and error.splitlines()[0] in text
    assert not cloud.verbs()


def test_a_missing_gcloud_is_said(cloud):
    tools = cloud.folder / "worker-bin"
    os.symlink(shutil.which("dirname"), tools / "dirname")
    done = cloud.start("create", *NEW, PATH=str(tools))
    assert done.returncode == GCLOUD and "gcloud is not installed" in done.stdout


def test_install_copies_what_git_tracks_to_all_workers(installed):
    for worker in (0, 1):
        base = installed.home(worker) / "cxr-embeddings"
        assert (base / "source/a file.txt").read_text() == "tracked"
        assert not (base / "source/weights").exists() and not (base / "incoming").exists()
        (pip,) = (installed.home(worker) / "pip").read_text().splitlines()
        folder, version, *arguments = json.loads(pip)
        assert folder.endswith("/cxr-embeddings/source") and version == "3.12"
        assert arguments[-4:] == ["--constraint", "constraints.txt", "--editable", ".[tpu,gcs]"]


def test_install_again_brings_the_files_of_now_and_keeps_the_environment(installed):
    (installed.checkout / "a file.txt").write_text("changed")
    mark = installed.home() / "cxr-embeddings/venv/mark"
    mark.touch()
    installed.do("install", *SLICE)
    source = installed.home(1) / "cxr-embeddings/source"
    assert (source / "a file.txt").read_text() == "changed" and mark.exists()


def test_install_clones_a_repository_at_a_reference(cloud):
    cloud.do("create", *NEW)
    git = ("git", "-C", str(cloud.checkout), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run([*git, "commit", "--quiet", "-m", "first"], check=True)
    subprocess.run([*git, "tag", "v1"], check=True)
    (cloud.checkout / "a file.txt").write_text("later")
    subprocess.run([*git, "commit", "--quiet", "-a", "-m", "second"], check=True)
    cloud.do("install", *SLICE, f"--repo={cloud.checkout.as_uri()}", "--ref=v1")
    assert (cloud.home(1) / "cxr-embeddings/source/a file.txt").read_text() == "tracked"


def test_an_image_with_an_old_python_gets_another_or_a_sentence(cloud):
    (cloud.folder / "worker-bin/version").write_text("3.10")
    cloud.do("create", *NEW)
    (cloud.home(1) / "no-network").touch()
    text = cloud.do("install", *SLICE, code=PYTHON)
    assert "the image has Python 3.10;" in text and "install -y python3.11" in text
    (cloud.home(1) / "no-network").unlink()
    cloud.do("install", *SLICE)
    *_, pip = map(json.loads, (cloud.home(1) / "pip").read_text().splitlines())
    assert pip[1] == "3.12" and ".[tpu,gcs]" in pip


def test_a_python_that_suits_is_taken_before_one_that_is_too_new(cloud):
    tools = cloud.folder / "worker-bin"
    (tools / "version").write_text("3.14")
    shutil.copy(tools / "python3", tools / "python3.11")
    cloud.do("create", *NEW)
    assert "fetching" not in cloud.do("install", *SLICE)
    assert json.loads((cloud.home() / "pip").read_text())[1] == "3.11"


def test_the_command_arrives_on_the_workers_word_for_word(installed):
    words = ["two  words", "it's", '"', "$HOME `id` $(id)", "a\\b", "*", "", "-x", "1\n2", "é;&|!"]
    program = "import json, os, sys; json.dump([*sys.argv[1:], os.getcwd()], open('argv', 'w'))"
    installed.do("run", *SLICE, *python(program, *words))
    assert installed.watch_to_the_end().returncode == 0
    for worker in (0, 1):
        source = installed.home(worker) / "cxr-embeddings/source"
        assert json.loads((source / "argv").read_text()) == [*words, str(source)]


def test_a_command_that_runs_is_not_started_again(installed):
    run = ("run", *SLICE, *python("import time; print('begun', flush=True); time.sleep(60)"))
    installed.do(*run)
    assert installed.do(*run).count("running already, not started again") == 2
    assert "is running another command" in installed.do("run", *SLICE, "--", "true", code=1)
    assert "what is installed stays" in installed.do("install", *SLICE)
    text = installed.do("watch", *SLICE, code=RUNNING)
    assert "w-0: running\n    begun\n" in text and "w-1: running\n    begun\n" in text
    for worker in (0, 1):
        log = installed.home(worker) / "cxr-embeddings/run/log"
        assert log.read_text().count("\nbegun\n") == 1


def test_watch_tells_done_from_failed_and_never_started(installed):
    assert "nothing was started" in installed.do("watch", *SLICE, code=FAILED)
    program = "import os, sys; print('1\\rbar'); sys.exit(os.environ['HOSTNAME'].endswith('w-1'))"
    installed.do("run", *SLICE, *python(program))
    done = installed.watch_to_the_end()
    assert done.returncode == FAILED and "on 1 of 2 workers the command failed" in done.stdout
    assert "w-0: ended with exit code 0" in done.stdout and "\n    bar\n" in done.stdout
    assert "w-1: ended with exit code 1" in done.stdout
    installed.do("run", *SLICE, "--", "true")
    assert installed.watch_to_the_end().returncode == 0
    installed.do("run", *SLICE, "--", "no-such-program")
    done = installed.watch_to_the_end()
    assert done.returncode == FAILED and "exit code 127" in done.stdout
    assert "no-such-program: command not found" in done.stdout


def test_a_killed_command_counts_as_failed(installed):
    installed.do("run", *SLICE, "--", "sleep", "60")
    installed.do("watch", *SLICE, code=RUNNING)
    end_jobs(f"{installed.folder}/films")
    done = installed.watch_to_the_end()
    assert done.returncode == FAILED and done.stdout.count("ended without an exit code") == 2
    installed.do("run", *SLICE, "--", "true")
    assert installed.watch_to_the_end().returncode == 0


def test_what_a_command_leaves_behind_does_not_count_as_running(installed):
    installed.do("run", *SLICE, "--", "bash", "-c", "sleep 60 &")
    assert installed.watch_to_the_end().returncode == 0


def test_a_command_that_still_runs_on_some_workers_is_not_started_on_the_others(installed):
    program = "import os, time; time.sleep(60 * os.environ['HOSTNAME'].endswith('w-1'))"
    run = ("run", *SLICE, *python(program))
    installed.do(*run)
    for _ in range(100):
        if "w-0: ended with exit code 0" in installed.do("watch", *SLICE, code=RUNNING):
            break
    assert "on 1 of 2 workers the last command" in installed.do(*run, code=RUNNING)
    installed.do("install", *SLICE, code=RUNNING)


def test_nothing_installed_and_nothing_there_have_sentences(cloud):
    for what, *command in (("watch",), ("install",), ("collect",), ("run", "--", "true")):
        text = cloud.do(what, *SLICE, *command, code=ABSENT)
        assert "there is no films in us-west4-a (it is not there)" in text
    cloud.do("create", *NEW)
    assert "run `install` first" in cloud.do("run", *SLICE, "--", "true", code=1)
    assert "run `install` first" in cloud.do("watch", *SLICE, code=1)


def test_a_worker_that_cannot_be_reached_is_named(installed):
    installed.do("run", *SLICE, "--", "true")
    installed.change(missing=[1])
    for what, *command in (("watch",), ("install",), ("run", "--", "true")):
        text = installed.do(what, *SLICE, *command, code=WORKER)
        assert "error: worker 1 of films cannot be reached" in text
    text = installed.do("collect", *SLICE, code=WORKER)
    assert "not all came from worker 1," in text
    assert (installed.checkout / "films-logs/worker-0/run/log").exists()


def test_an_ssh_key_outside_the_agent_has_a_sentence(cloud):
    cloud.do("create", *NEW)
    cloud.change(errors={"tpu-vm scp": NO_AGENT})
    assert "ssh-add ~/.ssh" in cloud.do("install", *SLICE, code=GCLOUD)


def test_collect_fetches_logs_and_files_of_all_workers(installed):
    installed.do("run", *SLICE, *python("print('hello'); open('made.txt', 'w').write('made')"))
    assert installed.watch_to_the_end().returncode == 0
    for _ in range(2):
        file = "cxr-embeddings/source/made.txt"
        installed.do("collect", *SLICE, "--to=my logs", "--", file)
    for worker in (0, 1):
        folder = installed.checkout / "my logs" / f"worker-{worker}"
        assert "hello" in (folder / "run/log").read_text()
        assert (folder / "run/exit_code").read_text() == "0\n"
        assert (folder / "made.txt").read_text() == "made"


def test_up_goes_all_the_way_and_again(cloud):
    up = ("up", *NEW, *python("import time; time.sleep(0.5); print('all embedded')"))
    for times in (1, 2):
        text = cloud.do(*up)
        assert "all embedded" in text and "done on all workers" in text
        log = (cloud.home() / "cxr-embeddings/run/log").read_text()
        assert log.count("\nall embedded\n") == times
    assert cloud.verbs() == ["tpu-vm create"]


def test_up_joins_a_command_that_runs(installed):
    """It ends at the eighth ssh: 2 have installed, 2 run it, 3 are of up before it watches."""
    program = (
        "import sys, time\n"
        "while open(sys.argv[1]).read().count('\"ssh\"') < 8: time.sleep(0.05)\n"
        "print('one run')\n"
    )
    command = python(program, str(installed.folder / "calls"))
    installed.do("run", *SLICE, *command)
    text = installed.do("up", *SLICE, *command)
    assert "running already" in text and "done on all workers" in text
    log = (installed.home() / "cxr-embeddings/run/log").read_text()
    assert log.count("\none run\n") == 1


def test_up_ends_with_the_failure_of_the_command(cloud):
    text = cloud.do(
        "up", *NEW, *python("import sys; sys.exit('error: no such bucket')"), code=FAILED
    )
    assert "    error: no such bucket" in text
    assert cloud.verbs() == ["tpu-vm create"]


@pytest.mark.parametrize("queued", [(), ("--queued",)])
def test_up_makes_a_preempted_slice_anew_and_goes_on(cloud, tmp_path, queued):
    """The first slice is preempted in the middle; what it had done lies in a bucket."""
    cloud.change(preempt_after=5, new=["ACTIVE" if queued else "READY"])
    program = (
        "import os, pathlib, sys, time\n"
        "done = pathlib.Path(sys.argv[1], os.environ['HOSTNAME'])\n"
        "before = done.exists()\n"
        "done.touch()\n"
        "print('resumed' if before else 'begun', flush=True)\n"
        "time.sleep(0 if before else 60)\n"
    )
    text = cloud.do("up", *NEW, *queued, "--spot", *python(program, str(tmp_path)))
    kind = "queued-resources" if queued else "tpu-vm"
    assert cloud.verbs() == [f"{kind} {verb}" for verb in ("create", "delete", "create")]
    assert "PREEMPTED, HEALTHY: it is deleted and made anew" in text
    assert text.count("    resumed") == 2 and "done on all workers" in text


def test_up_does_not_bring_back_what_was_deleted(installed):
    """While it watches, somebody else deletes the slice."""
    state = installed.read()
    state["tpu-vm"]["films"]["states"] = ["READY"] * 5 + ["DELETING"]
    installed.write(state)
    text = installed.do("up", *NEW, "--", "sleep", "60", code=ABSENT)
    assert "there is no films in us-west4-a (DELETING, HEALTHY)" in text
    assert installed.verbs() == ["tpu-vm create"]


def test_up_waits_for_maintenance_and_starts_again(installed):
    state = installed.read()
    state["tpu-vm"]["films"]["states"] = ["READY"] * 3 + ["REPAIRING"] * 3 + ["READY"]
    installed.write(state)
    text = installed.do("up", *NEW, "--", "true")
    assert "not ready (REPAIRING, HEALTHY)" in text and "done on all workers" in text
    assert installed.verbs() == ["tpu-vm create"]
