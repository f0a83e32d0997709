"""What docs/service.md deploys: the Dockerfile's steps, compose.yaml, and the unit of systemd."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import running
import yaml
from conftest import REPOSITORY
from services import ask, free_port, inline, predict, started

pytestmark = pytest.mark.slow  # the command is imported, and services are started

COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
SERVICE, ARCHIVE = COMPOSE["services"]["service"], COMPOSE["services"]["archive"]


def are_options(words):
    """Whether the command takes these words; with --help nothing is started."""
    return running.call("serve", *words, "--help").returncode == 0


def test_the_file_of_compose_is_closed_to_other_machines():
    for one in COMPOSE["services"].values():
        assert one["ports"] and all(port.startswith("127.0.0.1:") for port in one["ports"])
        assert one["healthcheck"]["test"][0] == "CMD"
        used = set(re.findall(r"/run/secrets/(\w+)", json.dumps(one)))
        assert used <= {*one["secrets"]} <= COMPOSE["secrets"].keys()
    assert re.fullmatch(r"\S+:\d+\.\d+\.\d+", ARCHIVE["image"])
    assert SERVICE["depends_on"] == {"archive": {"condition": "service_healthy"}}
    assert are_options(SERVICE["command"][1:]) and not are_options(["--no_such_option"])
    for needed in ("token_file", "tls_certificate", "tls_key", "allow=http://archive:8042/"):
        assert any(word.startswith(f"--{needed}") for word in SERVICE["command"]), needed
    folders = {secret["file"].split("/")[0] for secret in COMPOSE["secrets"].values()}
    for ignored in (".dockerignore", ".gitignore"):
        kept_out = (REPOSITORY / ignored).read_text().replace("/", "").split()
        assert folders <= {*kept_out}, ignored


def test_systemd_accepts_the_unit(tmp_path):
    (unit,) = re.findall(r"```ini\n(.*?)```", (REPOSITORY / "docs/service.md").read_text(), re.S)
    (words,) = re.findall(r"ExecStart=((?:.*\\\n)*.*)", unit)
    assert are_options(words.replace("\\\n", "").split()[1:])
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing")
    program = words.split()[0]
    path = tmp_path / "cxr-embeddings.service"
    path.write_text(unit.replace(program, sys.executable).replace("User=cxr-embeddings", ""))
    made = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert made.returncode == 0 and path.name not in made.stderr, made.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory, environment):
    """What the Dockerfile's steps leave: the folder of programs, the environment, the command.

    Nothing is downloaded: what is installed here counts as installed there.
    """
    root = tmp_path_factory.mktemp("image")
    programs = root / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    (site,) = root.glob("venv/lib/python*/site-packages")
    found = [path for path in sys.path if path.endswith("site-packages")]
    (site / "installed.pth").write_text("\n".join(found))
    for name, text in {"pip": 'exec python -m pip "$@"', "useradd": 'test "$1" = --uid'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    environment = environment | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        **dict.fromkeys(("PIP_NO_INDEX", "PIP_NO_DEPS"), "1"),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one the other way round
    }
    left_out = {*(REPOSITORY / ".dockerignore").read_text().split()}
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", "")
    for line in filter(None, text.splitlines()):
        step, rest = line.split(maxsplit=1)
        if step == "COPY":
            assert rest == ". ."
            shutil.copytree(
                REPOSITORY,
                root / "app",
                symlinks=True,
                ignore=lambda folder, names: left_out if folder == str(REPOSITORY) else (),
            )
        elif step == "RUN":
            subprocess.run(["sh", "-ec", rest], cwd=root / "app", env=environment, check=True)
        elif step == "ENV":
            environment |= dict(pair.split("=") for pair in shlex.split(rest))
        elif step == "CMD":
            command = json.loads(rest)
        else:
            assert step in ("#", "FROM", "WORKDIR", "USER", "EXPOSE"), line
    return programs, environment, command


def words_of(image, command, files):
    """A container's command as one of this machine; `files` stand for paths of the container."""
    words = [image[0] / command[0], *command[1:]]
    for there, here in files.items():
        words = [str(word).replace(there, str(here)) for word in words]
    return words


def test_the_image_serves_as_vertex_ai_starts_it(image, mimic):
    port, route = free_port(), "/v1/endpoints/7/deployedModels/8:predict"
    given = {"AIP_HTTP_PORT": str(port), "AIP_PREDICT_ROUTE": route, "AIP_HEALTH_ROUTE": "/alive"}
    assert image[1]["AIP_HTTP_PORT"] == "8080"
    command = words_of(image, image[2], {"/weights": REPOSITORY / "weights" / "demo"})
    url = f"http://127.0.0.1:{port}"
    with started(command, f"{url}/alive", image[1] | given):
        film = next((mimic / "files").rglob("*.dcm"))
        (found,) = predict(url, inline(film), path=route)
    assert len(found["general_img_emb"][0]) > 1000


def test_the_service_of_compose_is_healthy_and_asks_for_its_token(image, tmp_path, monkeypatch):
    port = free_port()
    names = {"certificate": "cert.pem", "key": "key.pem", "token": "token"}
    files = {f"/run/secrets/{name}": tmp_path / file for name, file in names.items()}
    make = re.search(r"openssl req(?:.*\\\n)+.*", (REPOSITORY / "docs/service.md").read_text())
    subprocess.run(["sh", "-ec", make[0]], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    (tmp_path / "token").write_text("a-token-of-some-length")
    (tmp_path / "token").chmod(0o400)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    files["/weights"] = REPOSITORY / "weights" / "demo"
    command = words_of(image, SERVICE["command"], files)
    url, environment = f"https://127.0.0.1:{port}", image[1] | {"AIP_HTTP_PORT": str(port)}
    with started(command, f"{url}/health", environment):
        check = words_of(image, SERVICE["healthcheck"]["test"][1:], {":8080": f":{port}"})
        subprocess.run(check, env=environment, check=True)
        body = {"instances": [{"dicomweb_uri": "http://archive:8042/x"}]}
        assert ask(f"{url}/predict", body)[0] == 401
        bearing = {"Authorization": "Bearer a-token-of-some-length"}
        assert ask(f"{url}/predict", body, **bearing)[0] == 200
