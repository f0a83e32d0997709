"""The service: the three protocols, the numbers of embed.py, batches, limits, and who may ask."""

import base64
import concurrent.futures
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
import running
from services import ask, inline, near, predict, serving

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline import tfrecord

pytestmark = pytest.mark.slow  # servers are started

FINDING = "Lung Opacity"


@pytest.fixture(scope="module")
def films(mimic, save_bundle):
    """Drawn films with their embeddings, one by one and eight at a time, by the encoder."""
    paths = [str(path) for path in sorted((mimic / "files").rglob("*.dcm"))][:24]
    encoder = cxr.load_encoder(save_bundle(), engine="jax")
    table = encoder.embed(paths, progress=False)
    return {"paths": [*table.image_id], "table": table, "bundle": save_bundle(), "bad": [
        one.image_id for one in table.rejected]}  # fmt: skip


@pytest.fixture(scope="module")
def head(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    names = films["table"].image_id
    patients = [name.split("/")[-3] for name in names]
    order = [*dict.fromkeys(patients)]
    parts = [("train", "tune", "test")[order.index(one) % 3] for one in patients]
    rows = {"image_id": names, FINDING: np.arange(len(names)) % 2, "split": parts}
    table = folder / "labels.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    cxr.train_head(films["table"], table, findings=[FINDING], progress=False).save(folder / "mine")
    return folder / "mine"


@pytest.fixture(scope="module")
def service(films, head, environment):
    options = (f"--weights={films['bundle']}", f"--head={head}", "--most_megabytes=2")
    with serving(*options, "--most_instances=30", environment=environment) as (url, process):
        yield url, process


def test_each_protocol_gets_the_numbers_of_the_encoder(service, films):
    url, path = service[0], films["paths"][0]
    (expected,) = cxr.load_encoder(films["bundle"], engine="jax").embed([path]).embedding
    data = pathlib.Path(path).read_bytes()
    example = tfrecord.encode_example({"image/encoded": data, "image/format": b"dcm"})
    toolkit = {"b64": base64.b64encode(example).decode()}
    place = "/v1/projects/p/locations/l/endpoints/e:predict"
    for route in ("/predict", place, "/v1/models/cxr:predict"):
        (numbers,), plain, image = (
            predict(url, one, path=route)[0]
            for one in (toolkit, inline(path), {"image": inline(path)})
        )
        assert near(numbers, expected)
        assert plain == {"general_img_emb": [numbers]}
        assert image == {"embedding": numbers, "input_type": "image"}


def test_a_bad_instance_is_no_error_of_its_batch(service, films):
    paths, table = films["paths"][:9], films["table"]
    bad = [{"input_bytes": "!"}, {"input_bytes": "AAAA"}, {}, {"b64": "AAAA"}, 7, {"text": "x"},
           {"image": {"image_url": "http://x"}}, {"prompt_query": "x"}, {"extensions": 1},
           {"input_bytes": "AAAA", "bearer_token": "x"}]  # fmt: skip
    found = predict(service[0], *bad[:5], *map(inline, paths), *bad[5:])
    good = found[5:14]
    for one, expected in zip(good, table.embedding, strict=False):
        assert near(one["general_img_emb"], expected)
    for one in found[:5] + found[14:]:
        assert one.keys() == {"error"} and 5 < len(one["error"]["description"]) < 300


def test_many_clients_get_what_each_would_alone(service, films):
    def one(i):
        return predict(service[0], inline(films["paths"][i % 20]))[0]["general_img_emb"]

    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        for i, found in enumerate(threads.map(one, range(60))):
            assert near(found, films["table"].embedding[i % 20])


@pytest.mark.parametrize(("sizes", "films_of_embed_py"), [("4", 20), ("1,4", 1)])
def test_one_size_gives_the_bits_of_embed_py(
    films, environment, tmp_path, sizes, films_of_embed_py
):
    paths = films["paths"][:films_of_embed_py]
    (tmp_path / "films.txt").write_text("\n".join(paths))
    made = running.run(
        "embed", f"--input={tmp_path / 'films.txt'}", f"--weights={films['bundle']}",
        f"--config.batch_size={min(4, films_of_embed_py)}",
        f"--output={tmp_path / 'made'}", "--config.encoder.engine=jax", env=environment,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    table = cxr.read_embeddings(tmp_path / "made")
    expected = dict(zip(table.image_id, table.embedding, strict=True))
    with serving(f"--weights={films['bundle']}", f"--sizes={sizes}", environment=environment) as (
        url,
        _,
    ):
        found = predict(url, *map(inline, paths))
        (alone,) = predict(url, inline(paths[0]))[0]["general_img_emb"]
    assert len(expected) == len(paths)
    for path, one in zip(paths, found, strict=True):
        assert np.array_equal(np.float32(one["general_img_emb"]), [expected[path]])
    assert np.array_equal(np.float32(alone), expected[paths[0]])


def test_heads_score_where_they_are_asked(service, films, head):
    asked = inline(films["paths"][1]) | {"extensions": {"heads": True, "heat_maps": True}}
    (found,) = predict(service[0], asked)
    assert "heads" in found, found
    said = found["heads"]["mine"]["findings"][FINDING]
    row = cxr.load_head(head).predict(films["table"]).iloc[1]
    assert said["probability"] == pytest.approx(row[f"{FINDING}_probability"], abs=1e-4)
    assert said["positive"] == bool(row[f"{FINDING}_positive"])
    assert found["heads"]["mine"]["out_of_distribution"] == bool(row["out_of_distribution"])
    (heat,) = cxr.explain([films["paths"][1]], cxr.load_encoder(films["bundle"], engine="jax"),
                          cxr.load_head(head)).maps  # fmt: skip
    assert [*said["heat_map_maximum"].values()] == [*heat.maximum]
    assert "heads" not in predict(service[0], inline(films["paths"][1]))[0]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b'{"instances": []}', 400), (b"[" * 9999, 400),
     (b'{"instances": [' + b"1," * 40 + b"1]}", 400), (b"x" * (3 << 20), 413)],
)  # fmt: skip
def test_a_bad_request_is_refused(service, body, status):
    code, _, said = ask(service[0] + "/predict", body)
    assert code == status and json.loads(said)["error"]


def test_what_else_is_answered(service):
    url, _ = service
    assert ask(url + "/predict")[0] == 405 and ask(url + "/x")[0] == 404
    endpoint = json.loads(ask(url + "/v1/projects/p/locations/l/endpoints/e")[2])
    assert endpoint["name"] == "projects/p/locations/l/endpoints/e" and endpoint["deployedModels"]
    model = json.loads(ask(url + "/v1/models/cxr")[2])
    assert model["model_version_status"][0]["state"] == "AVAILABLE"
    assert b"cxr_films_total" in ask(url + "/metrics")[2]
    assert b"cxr.connect" in ask(url + "/")[2]
    assert json.loads(ask(url + "/openapi.json")[2])["openapi"] == "3.1.0"


def test_connect_is_as_a_local_encoder(service, films):
    remote = cxr.connect(service[0])
    grey = np.random.default_rng(0).integers(0, 255, (60, 50), np.uint8)
    given = [*films["paths"][:3], pathlib.Path(films["paths"][3]).read_bytes(), grey]
    here = cxr.load_encoder(films["bundle"], engine="jax").embed(given, progress=False)
    there = remote.embed(given, progress=False)
    assert [*there.image_id] == [*here.image_id] and there.encoder == here.encoder
    assert near(there.embedding, here.embedding)
    broken = remote.embed([b"no film", films["paths"][0]], progress=False)
    assert [one.image_id for one in broken.rejected] == ["0"] and len(broken.image_id) == 1
    with pytest.raises(cxr.InputError, match="404"):
        cxr.connect(service[0] + "/x")
    with pytest.raises(cxr.InputError, match="http"):
        cxr.connect("localhost:1")


def test_a_decoder_that_dies_is_replaced(service, films):
    url, process = service
    predict(url, *map(inline, films["paths"][:4]))
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    assert children.stdout.split()
    for child in children.stdout.split():
        os.kill(int(child), signal.SIGKILL)
    found = predict(url, *map(inline, films["paths"][:6]))
    assert all(near(one["general_img_emb"], row)
               for one, row in zip(found, films["table"].embedding, strict=False))  # fmt: skip


class Archive(http.server.BaseHTTPRequestHandler):
    """A DICOMweb archive with one film; below /moved it sends to another place."""

    def do_GET(self):
        if "/moved/" in self.path:
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/secret/"))
            return self.end_headers()
        if self.headers["Authorization"] != "Bearer right":
            self.send_response(401)
            return self.end_headers()
        part = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + self.server.film + b"\r\n--b--"
        self.send_response(200)
        self.send_header(
            "Content-Type", 'multipart/related; type="application/dicom"; boundary="b"'
        )
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


def test_films_are_fetched_from_the_list_of_places_alone(films, environment):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archive) as archive:
        archive.film = pathlib.Path(films["paths"][2]).read_bytes()
        threading.Thread(target=archive.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{archive.server_address[1]}"
        options = (
            f"--weights={films['bundle']}",
            f"--allow={place}/good",
            f"--allow={place}/moved",
        )
        uid = "studies/1.2/series/1.3/instances/1.4"
        own = environment | {"DICOMWEB_TOKEN": "right"}
        with serving(*options, environment=own) as (url, _):
            found = predict(
                url,
                {"dicomweb_uri": f"{place}/good/{uid}", "bearer_token": "right"},
                {"dicomweb_uri": f"{place}/good/{uid}", "bearer_token": "wrong"},
                {"dicomweb_uri": f"{place}/moved/{uid}", "bearer_token": "right"},
                {"dicomweb_uri": f"{place}/secret/{uid}", "bearer_token": "right"},
                {"dicomweb_uri": f"{place}/good/../secret/{uid}"},
                {"dicomweb_uri": f"{place}/good/%2e%2e/secret/{uid}"},
                {"dicomweb_uri": f"{place}/goodness/{uid}"},
                {"dicomweb_uri": "file:///etc/passwd"},
                {"gcs_uri": "gs://bucket/film.dcm"},
                *(
                    {"image": {"dicomweb_uri": f"{place}/good/{uid}", "access_credential": token}}
                    for token in ("right", "application_default")
                ),
            )
        archive.shutdown()
    assert near(found[0]["general_img_emb"], films["table"].embedding[2])
    assert near([one["embedding"] for one in found[-2:]], films["table"].embedding[2])
    texts = [one["error"]["description"] for one in found[1:-2]]
    assert "answered 401" in texts[0] and "answered 302" in texts[1]
    assert all("not fetch films from there" in texts[i] for i in (2, 5, 7))
    assert "plainly" in texts[3] and "plainly" in texts[4] and "not an address" in texts[6]


def test_a_full_queue_is_said_and_a_token_is_asked_for(films, environment, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    token.chmod(0o600)
    options = (f"--weights={films['bundle']}", "--queue=2", f"--token_file={token}")
    bearing = {"Authorization": "Bearer a-token-of-some-length"}
    with serving(*options, environment=environment) as (url, process):
        silent = socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=20)
        silent.sendall(b"GET /health HTTP/1.1\r\nHost: ")
        body = {"instances": [inline(films["paths"][0])]}
        assert ask(url + "/predict", body)[0] == 401
        assert ask(url + "/predict", body, Authorization="Bearer x")[0] == 401
        assert ask(url + "/metrics")[0] == 401 and ask(url + "/health")[0] == 200
        assert ask(url + "/predict", body, **bearing)[0] == 200
        full = {"instances": [inline(path) for path in films["paths"][:5]]}
        status, headers, _ = ask(url + "/predict", full, **bearing)
        assert status == 429 and headers["Retry-After"] == "1"
        for _ in range(200):
            if ask(url + "/predict", body, **bearing)[0] == 200:
                break
        assert len(
            cxr.connect(url, token="a-token-of-some-length").embed(films["paths"][:1]).image_id
        )
        with silent:
            assert silent.recv(1) == b""  # closed by the service, which waited in vain
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            last = threads.submit(ask, url + "/predict", body, **bearing)
            time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert last.result()[0] == 200
        assert process.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--host=0.0.0.0", "anybody who reaches 0.0.0.0"),
        ("--tls_key=x", "both --tls_certificate and --tls_key"),
        ("--tls_key=/nowhere --tls_certificate=/no", "expected a certificate and its key"),
        ("--allow=file:///", "expected an address"),
        ("--sizes=0", "batch sizes are 0"),
        ("--queue=0", "--queue is 0; expected at least 1"),
        ("--seconds=nan", "expected at least 1"),
        ("--port=70000", "the port is '70000'"),
        ("AIP_HTTP_PORT=x", "the port is 'x'"),
        ("AIP_PREDICT_ROUTE=predict", "expected a path such as /predict"),
        ("--token_file=/nowhere", "/nowhere"),
        ("--head=/nowhere", "/nowhere"),
        ("--weights=/nowhere", "/nowhere"),
        ("--weights=OTHER --head=HEAD", "another encoder"),
    ],
)
def test_a_wrong_start_is_a_sentence(films, head, save_bundle, monkeypatch, words, said):
    words = words.replace("OTHER", str(save_bundle(seed=1))).replace("HEAD", str(head)).split()
    if not words[0].startswith("--weights"):
        words.append(f"--weights={films['bundle']}")
    for word in [word for word in words if word.startswith("AIP_")]:
        monkeypatch.setenv(*word.split("="))
        words.remove(word)
    run = running.call("serve", *words)
    assert run.returncode == 1 and said in run.stderr and "Traceback" not in run.stderr
