"""The explorer over HTTP: who is answered, with what, and what a film, a label and a score are."""

import contextlib
import csv
import http.client
import json
import urllib.parse

import numpy as np
import pytest
import running
from PIL import Image

import cxr_embeddings as cxr
from cxr_embeddings.explorer import projection
from cxr_embeddings.input_pipeline.films import decode

FINDING = "Lung Opacity"


@pytest.fixture(scope="module")
def films(mimic, save_bundle, tmp_path_factory):
    """Embeddings of drawn films by a small network, with what belongs to them."""
    folder, bundle = tmp_path_factory.mktemp("explored"), save_bundle()
    encoder = cxr.load_encoder(bundle)
    cxr.embed(mimic / "files", encoder, folder / "embeddings", views=["AP", "PA"], progress=False)
    return {
        "embeddings": folder / "embeddings",
        "films": mimic / "files",
        "weights": bundle,
        "labels": mimic / "mimic-cxr-2.0.0-chexpert.csv.gz",
    }


@pytest.fixture(scope="module")
def shown(films, tmp_path_factory):
    """A page on which nothing is labelled."""
    page = cxr.explore(**films, output=tmp_path_factory.mktemp("shown"), reader="Ann", port=0)
    yield page
    page.stop()


@pytest.fixture
def page(films, tmp_path):
    page = cxr.explore(**films, output=tmp_path / "made", held_out=0.2, reader="Ann", port=0)
    yield page
    page.stop()


def ask(page, path, body=None, headers=None, token=None):
    """The status, the headers and the body that a request is answered with."""
    address = urllib.parse.urlsplit(page.url)
    connection = http.client.HTTPConnection(address.netloc, timeout=60)
    token = address.path.strip("/") if token is None else token
    origin = {} if body is None else {"Origin": f"http://{address.netloc}"}
    method = "GET" if body is None else "POST"
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request(method, f"/{token}/{path}", data, origin | (headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def found(page, asked, /, **query):
    status, headers, data = ask(page, f"ask/{asked}?{urllib.parse.urlencode(query)}")
    assert status == 200, data
    if "Facts" in headers:
        kind = "<u2" if asked == "pixels" else "<f4"
        return np.frombuffer(data, kind), json.loads(headers["Facts"])
    return json.loads(data) if headers["Content-Type"] == "application/json" else data


def say(page, said, expected=200, /, **body):
    status, _, data = ask(page, f"say/{said}", body)
    assert status == expected, data
    return json.loads(data)


def label(page, row, said, expected=200, **more):
    known = {"finding": FINDING, "chosen": "random", "reader": "Ann", "tab": "a"}
    known |= {"row": row, "said": said, "based_on": page.session.labels.state.changes}
    return say(page, "label", expected, **known | more)


def test_only_who_knows_the_address_is_answered(shown):
    for token in ("", "x", "x" * 32, "%2e%2e", "é"):
        for path in ("", "page/main.js", "ask/state"):
            assert ask(shown, path, token=urllib.parse.quote(token, safe="%"))[0] == 404
    strange = {"Host": "attacker.example"}
    assert ask(shown, "ask/state", headers=strange)[0] == 404
    assert ask(shown, "ask/state")[0] == 200


def test_a_page_of_another_origin_cannot_say_anything(shown):
    body = {"name": "Mass"}
    for origin in ("http://attacker.example", "null", ""):
        assert ask(shown, "say/finding", body, {"Origin": origin})[0] == 403
    assert ask(shown, "say/finding", token="x", body=body)[0] == 404
    assert "Mass" not in shown.session.labels.findings


def test_nothing_is_loaded_from_elsewhere_or_kept(shown):
    for path in ("", "page/style.css", "ask/state", "ask/map?name=pca", "ask/film?row=x"):
        _, headers, _ = ask(shown, path)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        assert (
            headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        )
        assert headers["X-Content-Type-Options"] == "nosniff" and "Server" not in headers


def test_paths_and_strange_questions_lead_nowhere(shown):
    for path in (
        "page/..%2fserver.py",
        "page/%2e%2e/server.py",
        "page//etc/passwd",
        "page/%2fetc%2fpasswd",
        "ask/..%2fstate",
        "ask/report?name=..%2f..%2fx",
        "ask/report?name=%00",
        "ask/pixels?row=-1",
        "ask/pixels?row=99999",
        "ask/pixels?row=%D9%A1",
        "ask/heat_map?row=0&of=head&finding=x",
        "ask/values?name=x&finding=x",
        "ask/map?name=../x",
        "ask/rates?finding=x&threshold=nan",
    ):
        status, _, data = ask(shown, path)
        assert status in (400, 404) and json.loads(data)["error"], path
        assert b"root:" not in data and b"import" not in data


def test_a_strange_body_is_refused(shown):
    for body in (b"", b"[]", b"{", b'{"row": 1e400}', b"0" * 70_000):
        code, _, data = ask(shown, "say/label", body)
        assert code == (400 if len(body) < 100 else 413) and json.loads(data)["error"], body[:20]


def test_films_are_told_by_their_ids_alone(shown, films):
    state, names = found(shown, "state"), cxr.read_embeddings(films["embeddings"]).image_id
    assert state["films"] == state["films_found"] == len(names) == 40
    assert FINDING in state["findings"] and state["has_encoder"] and state["reader"] == "Ann"
    film = found(shown, "film", row=3)
    assert film["image_id"] == names[3] and len(film["patient_id"]) == 8
    assert film.keys() == {"row", "image_id", "patient_id", "held_out", "said", "given"}
    assert found(shown, "search", text=names[3][-12:].upper())["films"][0]["row"] == 3
    assert found(shown, "search", text=" ")["films"] == []


def test_pixels_are_those_of_the_decoder(shown):
    path = shown.session.films.path[5]
    for kind, preset, side in (("standard", "native", 1536), ("network", "native", 32)):
        values, facts = found(shown, "pixels", row=5, shown=kind)
        read = decode.load(path, preset, side, None)
        at = read.place
        film = read.image[at.top : at.top + at.height, at.left : at.left + at.width, 0]
        assert (facts["height"], facts["width"]) == film.shape
        assert (facts["film_height"], facts["film_width"]) == read.shape
        assert np.array_equal(values, np.rint(65535 * film).astype(np.uint16).ravel())
    assert found(shown, "thumbnail", row=5)[:4] == b"\x89PNG"


def test_near_films_are_of_other_patients(shown, films):
    table, labels = cxr.read_embeddings(films["embeddings"]), shown.session.labels
    unit = table.embedding / np.linalg.norm(table.embedding, axis=1, keepdims=True)
    for row in range(3):
        cosine = np.where(labels.patient_id == labels.patient_id[row], -2, unit @ unit[row])
        expected = np.argsort(-cosine)[:8]
        near = found(shown, "nearest", row=row)["films"]
        assert [one["row"] for one in near] == expected.tolist()
        assert np.allclose([one["cosine"] for one in near], cosine[expected], atol=1e-5)


def test_a_label_is_saved_scored_and_taken_back(page):
    session, path = page.session, page.session.labels.path
    given = session.counts(FINDING)
    row = 0
    was = session.labels.of(FINDING)
    known = {film: value for film, value in zip(was.film.tolist(), was.label, strict=True)}
    said = "negative" if known.get(row) else "positive"
    answer = label(page, row, said)
    assert answer["problem"] is None and answer["changes"] == 1
    assert answer["counts"][said] == given[said] + 1
    with open(path, newline="") as stream:
        (written,) = csv.DictReader(stream)
    assert written[FINDING] == str(int(said == "positive")) and written["reader"] == "Ann"
    values, _ = found(page, "values", name="label", finding=FINDING)
    assert values[row] == (said == "positive")
    assert say(page, "undo", tab="b")["undone"] is None
    undone = say(page, "undo", tab="a")["undone"]
    assert (undone["row"], undone["said"]) == (row, "") and session.counts(FINDING) == given


def test_two_tabs_do_not_lose_labels(page):
    label(page, 0, "positive")
    refused = label(page, 0, "negative", expected=409, based_on=0, tab="b")
    assert "called positive meanwhile" in refused["error"]
    latest = found(page, "state", since=0)["latest"]
    assert [(one["finding"], one["said"]) for one in latest] == [(FINDING, "positive")]


def test_the_score_is_the_classifiers_and_its_heat_map_adds_up(shown):
    score, _ = found(shown, "values", name="score", finding=FINDING)
    probe = shown.session.trained(FINDING).probe
    assert np.array_equal(score, probe.logit)
    for row in (0, 7):
        grid, facts = found(shown, "heat_map", row=row, of="score", finding=FINDING)
        assert facts["logit"] == pytest.approx(float(score[row]), abs=1e-4)
        assert grid.size == facts["height"] * facts["width"]
        assert all(0 < share < 1 for share in facts["maximum"])


def test_what_is_measured_is_of_the_labels_as_they_are(page):
    before = found(page, "validation", finding=FINDING)
    free = np.flatnonzero(~page.session.held_out & ~page.session.labels.of(FINDING).said)
    row = int(free[0]) if len(free) else int(np.flatnonzero(~page.session.held_out)[0])
    was = page.session.labels.of(FINDING)
    said = "negative" if was.label[was.film == row].any() else "positive"
    label(page, row, said)
    after = found(page, "validation", finding=FINDING)
    assert (before["changes"], after["changes"]) == (0, 1)
    assert after["labels"] == before["labels"] + (len(free) > 0)
    rates = found(page, "rates", finding=FINDING, threshold=0.0)["rates"]
    assert sum(rates[cell] for cell in ("tp", "fp", "tn", "fn")) == after["labels"]
    aside = found(page, "held_out", finding=FINDING)["measured"]
    assert aside["labels"] == page.session.counts(FINDING)["held_out"] > 0


@pytest.mark.parametrize("how", ["uncertain", "held out"])
def test_what_is_next_is_free(films, tmp_path, how):
    films = films | {"labels": None, "weights": None}
    page = cxr.explore(**films, output=tmp_path, findings=["Mass"], held_out=0.3, port=0)
    rows = set()
    for _ in range(4):
        row = say(page, "next", finding="Mass", how=how, skipped=max(rows, default=None))["row"]
        assert row not in rows and page.session.held_out[row] == (how == "held out")
        rows.add(row)
        label(page, row, "positive" if len(rows) % 2 else "negative", finding="Mass")
    assert "not known here" in label(page, 0, "yes", expected=400)["error"]
    page.stop()


def test_colourings_are_columns_and_folders(films, mimic, tmp_path):
    names = cxr.read_embeddings(films["embeddings"]).image_id
    table = tmp_path / "labels.csv"
    with open(table, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_id", "Edema", "hospital", "age", "comment"])
        writer.writerows(
            [name, i % 2, "AB"[i % 2], "" if i == 3 else 20 + i, f"text {i}"]
            for i, name in enumerate(names)
        )
    page = cxr.explore(films["embeddings"], tmp_path / "made", labels=table, port=0)
    said = {one["title"]: one["categories"] for one in found(page, "state")["colourings"]}
    assert said["hospital"] == ["A", "B"] and said["age"] == [] and "comment" not in said
    age, _ = found(page, "values", name="age", finding="Edema")
    assert np.isnan(age[3]) and age[5] == 25
    state = found(page, "state")
    assert not state["has_films"] and not state["has_encoder"]
    status, _, data = ask(page, "ask/pixels?row=0")
    assert status == 400 and b"--films" in data
    page.stop()


def test_a_film_that_is_gone_is_said(films, tmp_path):
    few = tmp_path / "films.txt"
    listed = sorted(map(str, films["films"].rglob("*.dcm")))
    few.write_text("\n".join(listed[:20]))
    page = cxr.explore(films["embeddings"], tmp_path / "made", films=few, port=0)
    assert 0 < found(page, "state")["films_found"] < 40
    row = page.session.films.path.index("")
    status, _, data = ask(page, f"ask/pixels?row={row}")
    assert status == 400 and b"not in the folder" in data
    page.stop()


@pytest.mark.slow
def test_a_head_that_is_taken_home_is_the_one_of_the_page(page, films):
    taken = say(page, "take_home", name="first", findings=[FINDING])
    assert "AUROC" in taken["summary"] and taken["heads"] == [f"head first: {FINDING}"]
    score, _ = found(page, "values", name=taken["heads"][0], finding=FINDING)
    head = cxr.load_head(page.session.output / "first" / "head")
    predicted = head.predict(films["embeddings"])
    assert np.array_equal(score, predicted[f"{FINDING}_logit"].iloc[:40].to_numpy(np.float32))
    grid, facts = found(page, "heat_map", row=2, of=taken["heads"][0], finding=FINDING)
    probability = predicted[f"{FINDING}_probability"][2]
    assert 1 / (1 + np.exp(-facts["logit"])) == pytest.approx(probability, abs=1e-5)
    report = found(page, "report", name="first")
    assert b"<!DOCTYPE html>" in report[:20] and grid.any()
    assert (
        "exists already" in say(page, "take_home", 400, name="first", findings=[FINDING])["error"]
    )
    for name in ("../x", "", "a/b", "a.", "x" * 90):
        error = say(page, "take_home", 400, name=name, findings=[FINDING])["error"]
        assert "cannot be called" in error


def test_umap_and_outlyingness_arrive_later(page, monkeypatch):
    monkeypatch.setattr(projection, "umap", lambda embedding, seed: np.ones((40, 2), np.float32))
    for name in ("umap", "distance to the nearest film"):
        say(page, "start", name=name)
        for _ in range(200):
            if (job := found(page, "state")["jobs"][name]) != "working":
                break
        assert job == "ready"
    assert (found(page, "map", name="umap")[0] == 1).all()
    assert (found(page, "values", name="distance to the nearest film", finding="")[0] > 0).all()
    assert "no job" in say(page, "start", 400, name="x")["error"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"embeddings": "/nowhere"}, "/nowhere"),
        ({"films": "/nowhere"}, "/nowhere"),
        ({"labels": "/nowhere.csv"}, "/nowhere.csv"),
        ({"weights": "demo"}, "not the weights of the embeddings"),
        ({"head": "/nowhere"}, "/nowhere"),
        ({"held_out": "1.5"}, "1.5"),
        ({"port": "99999"}, "port 99999 cannot be used"),
        ({"findings": "a|b"}, "cannot name a finding"),
        ({"output": "/proc/x"}, "/proc/x"),
    ],
)
def test_a_wrong_start_is_a_sentence(films, tmp_path, changed, said):
    options = {"output": str(tmp_path / "made"), "port": "0"} | films | changed
    run = running.call("explore", *(f"--{name}={value}" for name, value in options.items()))
    assert run.returncode == 1 and said in run.stderr and "Traceback" not in run.stderr


def test_the_file_that_is_written_is_not_taken_for_the_given_table(films, tmp_path):
    (tmp_path / "labels.csv").write_text("image_id,Edema\n")
    with pytest.raises(cxr.InputError, match="the file that the page writes"):
        cxr.explore(films["embeddings"], tmp_path, labels=tmp_path / "labels.csv", port=0)


def test_one_film_is_enough(tmp_path):
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(tmp_path / "one.png")
    encoder = cxr.load_encoder("random", variant="tiny", resolution=32, preset="native")
    table = encoder.embed([tmp_path / "one.png"], progress=False)
    page = cxr.explore(table, tmp_path / "made", films=tmp_path, findings=["Mass"], port=0)
    assert found(page, "map", name="pca")[0].tolist() == [0, 0]
    assert found(page, "nearest", row=0)["films"] == []
    assert say(page, "next", finding="Mass", how="uncertain", skipped=None)["row"] == 0
    label(page, 0, "positive", finding="Mass")
    assert say(page, "next", finding="Mass", how="random", skipped=None)["row"] is None
    assert found(page, "validation", finding="Mass")["auroc"] is None
    page.stop()
