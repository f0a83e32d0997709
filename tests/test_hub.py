"""Downloads by the real huggingface_hub, from a small hub on loopback that notes what it sends."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import socket
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

from cxr_embeddings.encoder.sources import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAVED_MODEL = ("saved_model.pb", "variables/variables.index", "variables/variables.data-0-of-1")


class Hub(http.server.ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: name -> file -> content.
        refused: start of a path -> the status and headers it is answered with.
        fetched: the files whose content was sent.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refused: dict[str, tuple[int, dict[str, str]]] = {}
        self.fetched: list[str] = []


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        for start, (status, headers) in self.server.refused.items():
            if path.startswith(start):
                return self.reply(status, b"", headers)
        api = path.startswith("/api/models/")
        organisation, name, *rest = path.removeprefix("/api/models/").strip("/").split("/")
        files = self.server.repositories.get(f"{organisation}/{name}")
        if files is None:
            return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        if not api:
            return self.file(files, "/".join(rest[2:]))
        siblings = [{"rfilename": path} for path in files]
        info = {"id": f"{organisation}/{name}", "sha": COMMIT, "siblings": siblings}
        self.reply(200, json.dumps(info).encode())

    do_HEAD = do_GET

    def file(self, files: dict[str, bytes], name: str) -> None:
        if self.command == "GET":
            self.server.fetched.append(name)
        etag = hashlib.sha256(files[name]).hexdigest()
        self.reply(200, files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def forget_client() -> dict[str, object]:
    """Makes the next import of huggingface_hub a fresh one: it reads its variables only then."""
    names = [n for n in sys.modules if n.partition(".")[0] == "huggingface_hub"]
    return {name: sys.modules.pop(name) for name in names}


@contextlib.contextmanager
def client(endpoint: str, home: pathlib.Path, **variables: str) -> Iterator[None]:
    """huggingface_hub as a program started with these variables would import it."""
    variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    for name in ("XET", "TELEMETRY", "PROGRESS_BARS"):
        variables[f"HF_HUB_DISABLE_{name}"] = "1"
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("HF_", "HUGGING")):
                patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        before = forget_client()
        import huggingface_hub

        try:
            yield
        finally:
            huggingface_hub.close_session()
            forget_client()
            sys.modules.update(before)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with client(f"http://127.0.0.1:{server.server_port}", tmp_path_factory.mktemp("home")):
                yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serve(server, request):
    """Adds a repository to the hub and gives its name, another one for each test."""
    server.refused.clear()
    server.fetched.clear()

    def add(*names: str, **contents: bytes) -> str:
        name = "org/" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
        server.repositories[name] = {n: n.encode() for n in names} | contents
        return name

    return add


L2 = "elixr-c-v2-pooled"


@pytest.mark.parametrize(
    "source, path, needed, others",
    [
        (
            *("orbax", "", "card.json checkpoint/_METADATA checkpoint/d/0"),
            "README.md checkpoint.txt model.safetensors config.json",
        ),
        (
            *("orbax", "b5", "b5/card.json b5/checkpoint/d/0"),
            "card.json checkpoints/d/0 b5/film.png",
        ),
        (
            *("elixr_c", L2, " ".join(f"{L2}/{name}" for name in SAVED_MODEL)),
            f"README.md {L2}.tar.gz {L2}-2/x x/a.keras",
        ),
        ("timm", "", "config.json model.safetensors", ".git pytorch_model.bin b.weights.h5"),
        ("timm", "", "config.json pytorch_model.bin", "README.md sub/config.json"),
        ("keras", "b5.weights.h5", "b5.weights.h5", "model.safetensors tf_model.h5"),
        ("keras", "a/b5.keras", "a/b5.keras", "x.tar.gz card.json pytorch_model.bin"),
        ("tf", "noisy_student.tar.gz", "noisy_student.tar.gz", "config.json a.index"),
        (
            *("tf", "b5/m.index", "b5/checkpoint b5/m.data-0-of-2 b5/m.data-1-of-2 b5/m.index"),
            "b5/m.meta b5/m-2.data-0-of-1 checkpoint",
        ),
    ],
)
def test_each_kind_is_found_and_only_its_files_are_fetched(
    server, serve, source, path, needed, others
):
    needed = needed.split()
    repository = serve(*others.split(), *needed)
    found = hub.download(repository)
    assert (found.source, found.origin) == (source, f"hf:{repository}@{COMMIT[:12]}")
    assert sorted(server.fetched) == sorted(needed)
    cache = pathlib.Path(os.environ["HF_HOME"], "hub", f"models--{repository.replace('/', '--')}")
    snapshot = cache / "snapshots" / COMMIT
    assert found.path == snapshot / path
    for name in needed:
        assert (snapshot / name).read_text() == name


def test_what_the_cache_has_is_not_fetched_again(server, serve):
    repository = serve("b5.keras")
    first = hub.download(repository)
    assert hub.download(repository) == first
    assert server.fetched == ["b5.keras"]


@pytest.mark.parametrize(
    "source, files, marks, folder, path",
    [
        (
            *("orbax", "a/card.json a/checkpoint/d/0 b/card.json b/checkpoint/d/0"),
            *("a/card.json b/card.json", "b", "b"),
        ),
        (
            *("elixr_c", " ".join(f"{folder}/{name}" for folder in "ab" for name in SAVED_MODEL)),
            *("a/saved_model.pb b/saved_model.pb", "./a/", "a"),
        ),
        (
            *("timm", "a/config.json a/model.safetensors b/config.json b/pytorch_model.bin"),
            *("a/model.safetensors b/pytorch_model.bin", "b", "b"),
        ),
        ("keras", "a.weights.h5 b.keras", "a.weights.h5 b.keras", "b.keras", "b.keras"),
        ("tf", "a.tar.gz b/m.index b/m.data-0-of-1", "a.tar.gz b/m.index", "b", "b/m.index"),
    ],
)
def test_of_several_the_user_chooses(server, serve, source, files, marks, folder, path):
    repository, marks = serve(*files.split()), marks.split()
    several = f"2 checkpoints of the kind {source}: {marks[0]}, {marks[1]}; choose .*--input"
    with pytest.raises(ValueError, match=several):
        hub.download(repository)
    assert not server.fetched
    found = hub.download(repository, folder)
    assert found.source == source
    assert found.path.as_posix().endswith(f"{COMMIT}/{path}")
    assert hub.download(repository, next(m for m in marks if m.startswith(path))) == found


@pytest.mark.parametrize(
    "name", ["../x.keras", "a/../../x.keras", "/x.keras", "C:\\x.keras", "..\\x.keras", "C:x.keras"]
)
def test_names_that_lead_out_of_the_folder_are_refused(server, serve, name):
    with pytest.raises(ValueError, match=r"lists a file .* do not trust this repository"):
        hub.download(serve("b5.keras", name))
    assert not server.fetched


TOKEN = "a token of type Read .* by `hf auth login` or the variable HF_TOKEN"
GATED = f"gated: accept its terms at https://huggingface.co/org/[0-9a-f]+, give {TOKEN}"
REASON = "Please enable access to public gated repositories"


@pytest.mark.parametrize("where", ["/api/models/", "/"])
@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, GATED),
        (403, {"X-Error-Code": "GatedRepo"}, GATED),
        (403, {"X-Error-Message": REASON}, f"with this token .*{REASON}.*: give {TOKEN}"),
    ],
)
def test_a_repository_that_this_user_may_not_read(server, serve, where, status, headers, message):
    repository = serve("b5.keras")
    server.refused[f"{where}{repository}"] = (status, headers)
    with pytest.raises(PermissionError, match=message):
        hub.download(repository)


ELSEWHERE = "by other means and convert it by scripts/convert_weights.py --from SOURCE --input PATH"


def test_no_hub_at_all(tmp_path):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with client(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path):
            with pytest.raises(ConnectionError, match=f"ConnectError: .*refused.*{ELSEWHERE}"):
                hub.download("org/name")
