"""Films of a DICOMweb archive: all pages, each film as its file, and what an archive refuses."""

import contextlib
import http.server
import json
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse

import numpy as np
import pandas as pd
import pydicom
import pytest
import requests
import running

import cxr_embeddings as cxr
from cxr_embeddings.common import dicomweb, files

PLUGIN = pathlib.Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Archive(http.server.BaseHTTPRequestHandler):
    """Answers as an archive does; `server.films` are files by study, series and instance."""

    def do_GET(self):
        server, (path, _, query) = self.server, self.path.partition("?")
        asked = {name: values[0] for name, values in urllib.parse.parse_qs(query).items()}
        server.asked.append(self.path)
        status = server.failing.pop(0) if server.failing else 200
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

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.address = f"dicomweb+http://127.0.0.1:{server.server_address[1]}/pacs"
        monkeypatch.setattr(dicomweb, "_sessions", threading.local())
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


def test_a_busy_archive_is_asked_again(archive, monkeypatch):
    monkeypatch.setattr(files, "RETRY_SECONDS", (0.01, 0.01))
    (film, *_) = dicomweb.films(archive.address)
    archive.failing = [503, 429]
    assert files.read_bytes(film) == next(iter(archive.films.values()))
    archive.failing = [503, 503, 503]
    with pytest.raises(OSError, match="answered 503"):
        files.read_bytes(film)


@pytest.mark.parametrize(("status", "kind"), [(404, FileNotFoundError), (302, FileNotFoundError),
                                              (403, PermissionError)])  # fmt: skip
def test_what_is_refused_is_not_asked_for_again(archive, status, kind):
    (film, *_) = dicomweb.films(archive.address)
    archive.failing, before = [status], len(archive.asked)
    with pytest.raises(kind, match=str(status)):
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


def test_a_wrong_token_is_said(archive, monkeypatch):
    monkeypatch.setenv("DICOMWEB_TOKEN", "wrong")
    with pytest.raises(PermissionError, match=r"answered 401.*DICOMWEB_TOKEN"):
        dicomweb.films(archive.address)


@pytest.fixture
def orthanc(tmp_path, monkeypatch):
    """A real archive on a free port, with its address; skips where Orthanc is missing."""
    if not shutil.which("Orthanc") or not PLUGIN.exists():
        pytest.skip("no Orthanc: install Debian's packages orthanc and orthanc-dicomweb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": port, "DicomServerEnabled": False, "Locale": "C", "Plugins": [str(PLUGIN)],
        "AuthenticationEnabled": True, "RegisteredUsers": {"reader": "secret"},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(config))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(dicomweb, "_sessions", threading.local())
    server = subprocess.Popen(["Orthanc", tmp_path / "orthanc.json"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/dicom-web"
    for _ in range(100):
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/studies", timeout=5).status_code == 200:
                break
        time.sleep(0.1)
    yield f"dicomweb+{url}"
    server.terminate()
    server.wait()


def test_a_real_archive_gives_back_its_films(orthanc, mimic):
    paths = sorted((mimic / "files").rglob("*.dcm"))[:10]
    stored = {}
    for path in paths:
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--b--"
        kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
        url = f"{orthanc.removeprefix('dicomweb+')}/studies"
        if requests.post(url, data=body, headers=kind, timeout=30).status_code == 200:
            stored[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
    found = dicomweb.films(orthanc)
    assert {one.rpartition("/")[2] for one in found} == {*stored} and len(stored) > 5
    for one in found:
        ours, theirs = (pydicom.dcmread(stream) for stream in
                        (stored[one.rpartition("/")[2]], files.open_input(one)))  # fmt: skip
        assert ours.PixelData == theirs.PixelData


@pytest.mark.slow
def test_reports_of_predictions_go_back_to_the_archive(orthanc, mimic, save_bundle, tmp_path):
    paths = sorted((mimic / "files").rglob("*.dcm"))[:20]
    encoder = cxr.load_encoder(save_bundle())
    table = encoder.embed(paths, progress=False)
    order = [*dict.fromkeys(name.split("/")[-3] for name in table.image_id)]
    split = [("train", "tune")[order.index(one.split("/")[-3]) % 2] for one in table.image_id]
    labels = {"image_id": table.image_id, "Edema": np.arange(len(split)) % 2, "split": split}
    pd.DataFrame(labels).to_csv(tmp_path / "labels.csv", index=False)
    head = cxr.train_head(table, tmp_path / "labels.csv", findings=["Edema"], progress=False)
    head.save(tmp_path / "head")
    (tmp_path / "films.txt").write_text("\n".join(map(str, paths[:4])))
    run = running.call(
        "predict", f"--head={tmp_path / 'head'}", f"--weights={save_bundle()}",
        f"--input={tmp_path / 'films.txt'}", f"--output={tmp_path / 'predictions.csv'}",
        f"--dicom_sr={tmp_path / 'reports'}", f"--store={orthanc}",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    written = {path.stem: pydicom.dcmread(path) for path in (tmp_path / "reports").iterdir()}
    assert {one.split("/")[-5] for one in dicomweb.films(orthanc)} == {*written}
    predicted = pd.read_csv(tmp_path / "predictions.csv").set_index("image_id")
    for path in paths[:4]:
        film = pydicom.dcmread(path, stop_before_pixels=True)
        report = written[film.StudyInstanceUID]
        assert (report.Modality, report.PatientID) == ("SR", film.PatientID)
        texts = report.to_json()
        assert "Not for clinical use" in texts and film.SOPInstanceUID in texts
        (value,) = re.findall(r"0040A30A.{0,30}?\[([\d.e-]+)\]", texts)
        expected = predicted.loc[str(path), "Edema_probability"]
        assert float(value) == pytest.approx(expected, abs=1e-6)
