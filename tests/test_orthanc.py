"""A real archive, Orthanc: films from it, results back to it, and what becomes of its failures."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time
import types

import numpy as np
import pandas as pd
import pydicom
import pytest
import requests
import running
from services import free_port, near, predict, serving

import cxr_embeddings as cxr
from cxr_embeddings.common import dicomweb, files

PLUGIN = pathlib.Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real archive on a free port, to be stopped and started; skips where it is missing."""
    if not shutil.which("Orthanc") or not PLUGIN.exists():
        pytest.skip("no Orthanc: install Debian's packages orthanc and orthanc-dicomweb")
    port = free_port()
    config = {
        "StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": port, "DicomServerEnabled": False, "Locale": "C", "Plugins": [str(PLUGIN)],
        "AuthenticationEnabled": True, "RegisteredUsers": {"reader": "secret"},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(config))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url, started = f"http://127.0.0.1:{port}/dicom-web", []

    def start():
        command = ["Orthanc", tmp_path / "orthanc.json"]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        for _ in range(100):
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{url}/studies", timeout=5).status_code == 200:
                    return
            time.sleep(0.1)

    def stop():
        started[-1].terminate()
        started[-1].wait()

    start()
    yield types.SimpleNamespace(address=f"dicomweb+{url}", start=start, stop=stop)
    stop()


@pytest.fixture
def orthanc(server):
    return server.address


@pytest.fixture
def stored(orthanc, mimic):
    """Twelve films that the archive has: their files by UID."""
    found = {}
    for path in sorted((mimic / "files").rglob("*.dcm"))[:12]:
        dicomweb.store(orthanc, path.read_bytes())
        found[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
    return found


class Proxy(http.server.BaseHTTPRequestHandler):
    """Stands before an archive; `server.before` gets the number of each request for a film."""

    def do_GET(self):
        if re.search(r"/instances/[\d.]+$", self.path):
            self.server.fetched += 1
            self.server.before(self.server.fetched)
        said = {"Accept": self.headers["Accept"], "Authorization": self.headers["Authorization"]}
        try:
            answer = requests.get(self.server.archive + self.path, headers=said, timeout=30)
        except requests.RequestException:
            return self.send_error(502)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy(orthanc):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.archive = orthanc.removeprefix("dicomweb+").removesuffix("/dicom-web")
        server.fetched, server.before = 0, lambda count: None
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.address = f"dicomweb+http://127.0.0.1:{server.server_address[1]}/dicom-web"
        yield server
        server.shutdown()


def uids(names):
    return [name.rpartition("/")[2] for name in names]


def test_a_real_archive_gives_back_its_films(orthanc, stored):
    found = dicomweb.films(orthanc)
    assert {*uids(found)} == {*stored} and len(stored) == 12
    for one in found:
        assert files.read_bytes(one) == stored[one.rpartition("/")[2]].read_bytes()
    with pytest.raises(FileNotFoundError, match="answered 404"):
        dicomweb.read(f"{found[0]}1")
    with pytest.raises(OSError, match="answered 400"):
        dicomweb.store(orthanc, b"no film")


@pytest.mark.slow
def test_the_real_films_come_back_as_their_files(orthanc, shared_data, save_bundle):
    """Four of the 23 share one UID, two another; the first of each that was stored stays."""
    first = {}
    for path in sorted((shared_data / "dicom").rglob("*.dcm")):
        dicomweb.store(orthanc, path.read_bytes())
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        first.setdefault(uid, path)
    found = dicomweb.films(orthanc)
    assert len(found) == len(first) == 19 and {*uids(found)} == {*first}
    names = {path.name for path in first.values()}
    assert {"nih_udacity_test1.dcm", "nih_tfio_00000001.dcm"} <= names
    assert all(files.read_bytes(one) == first[one.rpartition("/")[2]].read_bytes() for one in found)
    encoder = cxr.load_encoder(save_bundle())
    theirs, ours = (
        encoder.embed(paths, progress=False)
        for paths in (found, [first[uid] for uid in uids(found)])
    )
    assert uids(theirs.image_id) == uids(found) and len(ours.image_id) == 19
    assert np.array_equal(theirs.embedding, ours.embedding)


@pytest.mark.slow
def test_an_archive_that_stops_and_comes_back_loses_no_film(
    server, proxy, stored, save_bundle, tmp_path
):
    encoder = cxr.load_encoder(save_bundle())
    expected = dict(zip(stored, encoder.embed([*stored.values()], progress=False).embedding))  # noqa: B905

    def interrupt(count):
        if count == 2:
            time.sleep(3)  # a slow answer
        elif count == 4:
            server.stop()
            threading.Timer(2, server.start).start()

    proxy.before = interrupt
    table = cxr.embed(proxy.address, encoder, tmp_path / "once", workers=1, progress=False)
    assert not table.rejected and proxy.fetched > 12
    assert {*uids(table.image_id)} == {*expected}
    for uid, row in zip(uids(table.image_id), table.embedding, strict=True):
        assert np.array_equal(row, expected[uid])

    proxy.fetched, proxy.before = 0, lambda count: server.stop() if count == 11 else None
    command = ("embed", f"--input={proxy.address}", f"--weights={save_bundle()}",
               f"--output={tmp_path / 'twice'}", "--config.input.workers=1")  # fmt: skip
    run = running.call(*command)
    assert run.returncode == 1 and "2 films failed temporarily" in run.stdout + run.stderr
    rejected = pd.read_csv(tmp_path / "twice/rejected.csv")
    assert [*rejected["reason"]] == ["unreadable"] * 2
    server.start()
    proxy.fetched, proxy.before = 0, lambda count: None
    run = running.call(*command)
    assert run.returncode == 0 and proxy.fetched == 2, run.stderr
    again = cxr.read_embeddings(tmp_path / "twice", progress=False)
    for uid, row in zip(uids(again.image_id), again.embedding, strict=True):
        assert np.array_equal(row, expected[uid])


@pytest.mark.slow
def test_a_wrong_password_and_a_missing_study_are_said(orthanc, stored, save_bundle, tmp_path):
    known = dicomweb.films(orthanc)[0].split("/studies/")[1].split("/")[0]
    (tmp_path / "studies.csv").write_text(f"StudyInstanceUID\n{known}\n1.2.3\n")
    command = ("embed", f"--input={orthanc}#{tmp_path / 'studies.csv'}",
               f"--weights={save_bundle()}", f"--output={tmp_path / 'made'}")  # fmt: skip
    run = running.call(*command)
    (rejected,) = pd.read_csv(tmp_path / "made/rejected.csv").itertuples()
    assert rejected.image_id == f"{orthanc}/studies/1.2.3" and "answered 404" in rejected.detail
    assert run.returncode == 1 and "1 films failed temporarily" in run.stdout + run.stderr
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password other\n")
    run = running.call(*command)
    assert run.returncode == 1 and re.search(r"answered 401: set DICOMWEB_TOKEN", run.stderr)
    assert "other" not in run.stdout + run.stderr


@pytest.fixture
def head(mimic, save_bundle, tmp_path):
    """The folder of a head, trained on drawn films."""
    paths = sorted((mimic / "files").rglob("*.dcm"))[:20]
    table = cxr.load_encoder(save_bundle()).embed(paths, progress=False)
    order = [*dict.fromkeys(name.split("/")[-3] for name in table.image_id)]
    split = [("train", "tune")[order.index(one.split("/")[-3]) % 2] for one in table.image_id]
    labels = {"image_id": table.image_id, "Edema": np.arange(len(split)) % 2, "split": split}
    pd.DataFrame(labels).to_csv(tmp_path / "labels.csv", index=False)
    head = cxr.train_head(table, tmp_path / "labels.csv", findings=["Edema"], progress=False)
    head.save(tmp_path / "head")
    return tmp_path / "head"


@pytest.mark.slow
def test_reports_and_heat_maps_go_back_to_the_archive(orthanc, stored, head, save_bundle, tmp_path):
    films = dicomweb.films(orthanc)
    run = running.call(
        "predict", f"--head={head}", f"--weights={save_bundle()}", f"--input={orthanc}",
        f"--output={tmp_path / 'predictions.csv'}", f"--heat_maps={tmp_path / 'maps'}",
        f"--dicom_sr={tmp_path / 'reports'}", f"--store={orthanc}",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "12 heat maps" in run.stdout and "person name" not in run.stderr
    written = {path.stem: pydicom.dcmread(path) for path in (tmp_path / "reports").glob("*.dcm")}
    captures = {one.SourceImageSequence[0].ReferencedSOPInstanceUID: one for one in
                map(pydicom.dcmread, (tmp_path / "reports").glob("*/*.dcm"))}  # fmt: skip
    assert {*captures} == {*stored}
    assert {*uids(dicomweb.films(orthanc))} == {
        *stored, *(one.SOPInstanceUID for one in captures.values())}  # fmt: skip
    predicted = pd.read_csv(tmp_path / "predictions.csv").set_index("image_id")
    for study, report in written.items():
        mine, texts = [one for one in films if f"/studies/{study}/" in one], report.to_json()
        values = map(float, re.findall(r"0040A30A.{0,30}?\[([\d.e-]+)\]", texts))
        expected = sorted(predicted.loc[mine, "Edema_probability"])
        assert sorted(values) == pytest.approx(expected, abs=1e-6)
        for uid in uids(mine):
            film, capture = pydicom.dcmread(stored[uid], stop_before_pixels=True), captures[uid]
            assert film.PatientID == report.PatientID == capture.PatientID
            assert capture.StudyInstanceUID == study and capture.pixel_array[-64:].max() > 200
            assert capture.DerivationDescription.startswith("Not for clinical use. Heat map of Ed")
            assert all(one in texts for one in ("Not for cl", uid, capture.SOPInstanceUID))
    for one in (*written.values(), *captures.values()):
        back = "/".join([orthanc, "studies", one.StudyInstanceUID, "series",
                         one.SeriesInstanceUID, "instances", one.SOPInstanceUID])  # fmt: skip
        assert pydicom.dcmread(files.open_input(back)) == one
    for path in (tmp_path / "reports").rglob("*.dcm"):
        if shutil.which("dciodvfy"):  # Debian's dicom3tools
            found = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
            assert "Error" not in found.stdout + found.stderr
        if shutil.which("dsrdump") and path.stem in written:  # Debian's dcmtk
            found = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True)
            assert "Heat map of Edema" in found.stdout and "(SC image" in found.stdout


@pytest.mark.slow
def test_a_store_is_prepared_from_an_archive(orthanc, stored, save_bundle, tmp_path):
    folder = tmp_path / "store/1.0.0"
    run = running.run("preprocess", f"--input={orthanc}", f"--output={folder}",
                      f"--config.image.weights={save_bundle()}")  # fmt: skip
    assert run.returncode == 0, run.stderr
    made = pd.read_csv(folder / "films.csv", dtype=str)
    assert {*uids(made["image_id"])} == {*stored}
    assert all(f"{orthanc}/{one}" in dicomweb.films(orthanc) for one in made["image_id"])


@pytest.mark.slow
def test_the_explorer_shows_films_of_an_archive(orthanc, stored, save_bundle, tmp_path):
    encoder = cxr.load_encoder(save_bundle())
    table = cxr.embed(orthanc, encoder, tmp_path / "made", progress=False)
    page = cxr.explore(table, tmp_path / "explored", films=orthanc, weights=save_bundle(), port=0)
    try:
        assert page.session.films.found() == 12
        answer = requests.get(f"{page.url}ask/pixels", params={"row": 3}, timeout=60)
        assert answer.status_code == 200 and len(answer.content) > 1000
    finally:
        page.stop()


@pytest.mark.slow
def test_the_service_fetches_films_of_an_archive(orthanc, stored, save_bundle, environment):
    place, films = orthanc.removeprefix("dicomweb+"), dicomweb.films(orthanc)
    asked = [{"dicomweb_uri": one.removeprefix("dicomweb+")} for one in films]
    encoder = cxr.load_encoder(save_bundle(), engine="jax")
    expected = encoder.embed(films, progress=False).embedding
    options = (f"--weights={save_bundle()}", f"--allow={place}")
    with serving(*options, environment=environment | {"NETRC": os.environ["NETRC"]}) as (url, _):
        found = predict(url, *asked, {"dicomweb_uri": f"{place}/studies/1/series/1/instances/1"})
    rows = [one["general_img_emb"] for one in found[:-1]]
    assert near(np.reshape(rows, expected.shape), expected)
    assert "answered 404" in found[-1]["error"]["description"]
