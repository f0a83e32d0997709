"""Films of a DICOMweb archive: all pages, each film as its file, and what an archive refuses."""

import http.server
import json
import re
import threading
import time
import urllib.parse
import warnings

import google.auth
import google.auth.credentials
import google.auth.exceptions
import numpy as np
import pandas as pd
import pydicom
import pytest
import requests
import running

import cxr_embeddings as cxr
from cxr_embeddings import prediction_files, structured_reports
from cxr_embeddings.common import dicomweb, dicomweb_credentials, files
from cxr_embeddings.input_pipeline.films.film import InputFile
from cxr_embeddings.input_pipeline.films.listing import list_inputs


class Archive(http.server.BaseHTTPRequestHandler):
    """Answers as an archive does; `server.films` are files by study, series and instance."""

    def do_GET(self):
        server, (path, _, query) = self.server, self.path.partition("?")
        asked = {name: values[0] for name, values in urllib.parse.parse_qs(query).items()}
        server.asked.append(self.path)
        server.cookies.append(self.headers["Cookie"])
        status = server.failing.pop(0) if server.failing else 200
        time.sleep(server.slow.pop(0) if server.slow else 0)
        if self.headers["Authorization"] != "Bearer right":
            status = 401
        if status != 200:
            self.send_response(status)
            return self.end_headers()
        if found := re.fullmatch(r"/pacs/studies/(.+)/series/(.+)/instances/(.+)", path):
            film = server.films[found.groups()]
            body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + film + b"\r\n--b--\r\n"
            return self.answer(body, 'multipart/related; type="application/dicom"; boundary=b')
        rows = sorted({(study, "", "") for study, _, _ in server.films})
        if found := re.fullmatch(r"/pacs/studies/(.+)/instances", path):
            rows = [uids for uids in server.films if uids[0] == found[1]]
        start = int(asked.get("offset", 0))
        page = rows[start : start + min(int(asked.get("limit", 99)), server.page)]
        tags = ("0020000D", "0020000E", "00080018")
        body = [{tag: {"vr": "UI", "Value": [uid]} for tag, uid in zip(tags, one, strict=True)}
                for one in page]  # fmt: skip
        self.answer(json.dumps(body).encode(), "application/dicom+json")

    def do_POST(self):
        self.server.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(json.dumps(self.server.says).encode(), "application/dicom+json")

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Set-Cookie", "client=first")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(mimic, monkeypatch):
    paths = sorted((mimic / "files").rglob("*.dcm"))[:12]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archive) as server:
        server.films = {(f"1.{i // 3}", f"2.{10 + i}", f"3.{10 + i}"): path.read_bytes()
                        for i, path in enumerate(paths)}  # fmt: skip
        server.asked, server.failing, server.page = [], [], dicomweb.PAGE
        server.slow, server.taken, server.cookies = [], [], []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.address = f"dicomweb+http://127.0.0.1:{server.server_address[1]}/pacs"
        monkeypatch.setenv("DICOMWEB_TOKEN", "right")
        yield server
        server.shutdown()


def test_all_pages_are_read_and_filters_are_asked_for(archive, monkeypatch):
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    archive.page = 2
    found = dicomweb.films(f"{archive.address}?ModalitiesInStudy=DX,CR&StudyDate=20260101-")
    assert found == [f"{archive.address}/studies/1.{i // 3}/series/2.{10 + i}/instances/3.{10 + i}"
                     for i in range(12)]  # fmt: skip
    studies = [one for one in archive.asked if "/studies?" in one]
    assert sum("ModalitiesInStudy=DX" in one for one in studies) == 3
    assert all("StudyDate=20260101-" in one for one in studies)
    assert {*archive.cookies} == {None}  # a cookie for one client's token is no other client's


def test_films_of_an_archive_are_embedded_as_their_files(archive, save_bundle, tmp_path):
    encoder = cxr.load_encoder(save_bundle())
    address = f"{archive.address}?StudyDate=2026-"
    table = cxr.embed(address, encoder, tmp_path / "made", progress=False)
    expected = encoder.embed([*archive.films.values()], progress=False)
    found = {name.rpartition("/")[2]: row for name, row in zip(table.image_id, table.embedding)}  # noqa: B905
    good = [uids[2] for i, uids in enumerate(archive.films) if str(i) in expected.image_id]
    assert [*found] == good and len(table.rejected) == len(expected.rejected)
    assert np.allclose([found[uid] for uid in good], expected.embedding, atol=1e-6)
    before = len(archive.asked)
    again = cxr.embed(address, encoder, tmp_path / "made", progress=False)
    assert [*again.image_id] == [*table.image_id]
    assert not any("/instances/" in one for one in archive.asked[before:])
    manifest = (tmp_path / "made/manifest.json").read_text()
    assert "right" not in manifest and "Bearer" not in manifest


@pytest.mark.parametrize(
    ("how", "why", "said"), [("failing", 503, "answered 503"), ("slow", 0.6, "does not answer")]
)
def test_a_busy_or_slow_archive_is_asked_again(archive, monkeypatch, how, why, said):
    monkeypatch.setattr(files, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(dicomweb, "SECONDS", 0.3)
    (film, *_) = dicomweb.films(archive.address)
    getattr(archive, how).extend([why, why])
    before = len(archive.asked)
    assert files.read_bytes(film) == next(iter(archive.films.values()))
    assert len(archive.asked) == before + 3
    getattr(archive, how).extend([why, why, why])
    with pytest.raises(OSError, match=said):
        files.read_bytes(film)


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, FileNotFoundError, "404"),
        (302, FileNotFoundError, "302"),
        (403, PermissionError, "403"),
        (401, PermissionError, r"answered 401.*DICOMWEB_TOKEN"),
    ],
)
def test_what_is_refused_is_not_asked_for_again(archive, status, kind, said):
    (film, *_) = dicomweb.films(archive.address)
    archive.failing, before = [status], len(archive.asked)
    with pytest.raises(kind, match=said):
        files.read_bytes(film)
    assert len(archive.asked) == before + 1


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("{}?x", "expected NAME=VALUE"),
        ("{}?a/b=1", "no attribute of DICOM"),
        ("dicomweb+http://me:secret@127.0.0.1:1/x", "holds a password"),
        ("dicomweb+http://127.0.0.1:1/x", "does not answer"),
    ],
)
def test_a_wrong_address_is_a_sentence(archive, save_bundle, tmp_path, monkeypatch, address, said):
    monkeypatch.setattr(files, "RETRY_SECONDS", ())
    run = running.call("embed", f"--input={address.format(archive.address)}",
                       f"--weights={save_bundle()}", f"--output={tmp_path / 'made'}")  # fmt: skip
    assert run.returncode == 1 and said in run.stderr and "secret" not in run.stderr


@pytest.mark.parametrize(
    ("text", "expected", "repeated"),
    [
        ("StudyInstanceUID,label; 1.1,x; 1.0,y; 1.1,x",
         [f"1.{i // 3}/2.{10 + i}/3.{10 + i}" for i in range(6)], 1),
        ("study_instance_uid,Series Instance UID; 1.0,2.11; 1.2,", [
            "1.0/2.11/3.11", *(f"1.2/2.{i}/3.{i}" for i in (16, 17, 18))], 0),
        ("StudyInstanceUID,SOPInstanceUID; 1.3,3.20; 1.3,3.2; 1.3,", [
            "1.3//3.2", *(f"1.3/2.{i}/3.{i}" for i in (19, 20, 21))], 0),
        ("StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID; 1.9,2.9,3.9; 1.8,,",
         ["1.8//", "1.9/2.9/3.9"], 0),
    ],
)  # fmt: skip
def test_a_table_of_studies_names_the_films(archive, table, text, expected, repeated):
    listing = list_inputs(f"{archive.address}#{table(text)}")
    levels = ("studies", "series", "instances")
    keys = ["/".join(f"{level}/{uid}" for level, uid in zip(levels, one.split("/"), strict=True)
                     if uid) for one in expected]  # fmt: skip
    assert sorted(film.key for film in listing.files) == sorted(keys)
    assert all(film.path == f"{archive.address}/{film.key}" for film in listing.files)
    assert listing.repeated == repeated
    assert not any("1.9" in one for one in archive.asked)  # what is named whole is not searched


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,SOPInstanceUID; 7,3.10", "expected StudyInstanceUID"),
        ("StudyInstanceUID,patient; 1.0,6; ,7", "has '' as StudyInstanceUID, and 1 rows"),
        ("StudyInstanceUID,SOPInstanceUID; 1.0,../3.1", "3.1' as SOPInstanceUID"),
        ("StudyInstanceUID", "no rows"),
    ],
)
def test_a_wrong_table_of_studies_is_refused(archive, table, text, said):
    with pytest.raises(ValueError, match=said):
        list_inputs(f"{archive.address}#{table(text)}")
    with pytest.raises(ValueError, match="filters and a table"):
        list_inputs(f"{archive.address}?StudyDate=2026-#{table(text)}")


def test_what_an_archive_does_not_take_is_said(archive):
    archive.says = {"00081198": {"vr": "SQ"}, "00081199": {"vr": "SQ"}}
    with pytest.raises(PermissionError, match="did not take"):
        dicomweb.store(archive.address, b"film")
    archive.says = {"00081199": {"vr": "SQ", "Value": [{}]}}
    dicomweb.store(archive.address, b"--b\r\n")
    mark, _, rest = archive.taken[-1].partition(b"\r\n")
    assert rest.endswith(b"\r\n\r\n--b\r\n\r\n" + mark + b"--\r\n")


def test_a_report_leaves_empty_what_is_no_date_time_or_sex(mimic, tmp_path):
    film = pydicom.dcmread(next((mimic / "files").rglob("*.dcm")), stop_before_pixels=True)
    film.PatientID = "7"
    with warnings.catch_warnings(action="ignore"):
        film.PatientBirthDate, film.PatientSex, film.StudyTime = "19500000", "male", "abc"
    film.save_as(tmp_path / "film.dcm")
    row = {"image_id": str(tmp_path / "film.dcm"), "reason": "", "Edema_probability": 0.25}
    predicted = pd.DataFrame([row | {"Edema_positive": pd.NA}])
    card = {"findings": ["Edema"], "thresholds": {"Edema": {"youden": None}}, "encoder": None}
    (written,) = structured_reports.write_reports(tmp_path, predicted, card, "digest", {})
    report = pydicom.dcmread(written)
    assert report.PatientID == "7" and report.StudyInstanceUID == film.StudyInstanceUID
    assert not (report.PatientBirthDate or report.PatientSex or report.StudyTime)


def test_films_of_an_archive_stay_what_they_are():
    film = InputFile("dicomweb+https://pacs/studies/1/series/2/instances/3", "3")
    assert not prediction_files.changed_since(0, [film])
    assert prediction_files.changed_since(0, [InputFile("gs://bucket/film.dcm", "film")])


class Known(google.auth.credentials.Credentials):
    """Credentials as Google's libraries have them, which count their tokens."""

    count = 0

    def refresh(self, request):
        self.count += 1
        self.token = f"token-{self.count}"


def test_google_is_asked_with_its_default_credentials(monkeypatch, tmp_path):
    def sign(host, scheme="https", **headers):
        request = requests.Request("GET", f"{scheme}://{host}/v1/dicomWeb", headers=headers)
        return dicomweb_credentials.sign(request.prepare()).headers.get("Authorization")

    def fail(**_):
        raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.delenv("DICOMWEB_TOKEN", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(google.auth, "default", fail)
    with pytest.raises(PermissionError, match="gcloud auth"):
        sign("healthcare.googleapis.com")
    known = Known()
    monkeypatch.setattr(google.auth, "default", lambda scopes: (known, "project"))
    assert (
        sign("healthcare.googleapis.com") == sign("healthcare.googleapis.com") == "Bearer token-1"
    )
    known.token = None  # as one that has expired
    assert sign("healthcare.googleapis.com") == "Bearer token-2"
    for host in ("pacs.example", "healthcare.googleapis.com.example"):
        assert sign(host) is None
    assert sign("healthcare.googleapis.com", "http") is None
    assert sign("healthcare.googleapis.com", Authorization="Bearer mine") == "Bearer mine"
    (tmp_path / "netrc").write_text("machine healthcare.googleapis.com login me password secret\n")
    assert sign("healthcare.googleapis.com") == "Basic bWU6c2VjcmV0"
    monkeypatch.setenv("DICOMWEB_TOKEN", "right")
    assert sign("healthcare.googleapis.com") == "Bearer right"
