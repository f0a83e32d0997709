"""Services as their clients see them: one is started, asked, and its answers compared."""

import base64
import contextlib
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import running
from conftest import REPOSITORY


@contextlib.contextmanager
def serving(*options, environment):
    """A service on a free port; gives its address and its process."""
    port = free_port()
    command = running.command("serve", *options, f"--port={port}", "--engine=jax")
    url = f"http://127.0.0.1:{port}"
    with started(command, f"{url}/health", environment) as process:
        yield url, process


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def started(command, health, environment):
    """The process of a service that is healthy; it is ended as systems do it."""
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stderr=subprocess.PIPE)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                if ask(health)[0] == 200:
                    break
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def ask(url, body=None, **headers):
    """The status, the headers and the body of an answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def predict(url, *instances, path="/predict"):
    status, _, body = ask(url + path, {"instances": instances})
    assert status == 200, body
    return json.loads(body)["predictions"]


def inline(path):
    return {"input_bytes": base64.b64encode(pathlib.Path(path).read_bytes()).decode()}


def near(found, expected):
    return np.abs(np.float32(found) - expected).max() <= 1e-5 * np.abs(expected).max()
