"""Folders and archives of reports: all of them labelled, whatever they are, and none shown."""

import contextlib
import gzip
import io
import tarfile
import types
import zipfile

import fsspec
import pytest

from cxr_embeddings.common import files, workers
from cxr_embeddings.input_pipeline.reports import corpus
from cxr_embeddings.input_pipeline.reports import label as reports

NORMAL = b"FINAL REPORT\n FINDINGS:  The lungs are clear. No pleural effusion.\n"
ABNORMAL = b"FINAL REPORT\n IMPRESSION:  Large right pleural effusion.\n"
SECRET = "an unusual phrase"


def name(study, patient=10000032):
    return f"files/p10/p{patient}/s{study}.txt"


REPORTS = {
    name(50000003): ABNORMAL,
    name(50000001): NORMAL,
    name(50000002, 10000001): b"",
    name(50000004): b"\x00\x01\x02\x03" * 100,
    name(50000005): "FINDINGS: Le coeur est normal. ".encode("latin-1") + b"\xe9" * 3,
    name(50000006): b"FINDINGS: The lungs are clear. " * 200_000,
}
OTHERS = {"README.txt": b"read me", "files/p10/index.html": b"<p>"}


def write(path, contents):
    """Writes files into a folder, or an archive, by the ending of its name."""
    kind = path.suffix.lower()
    if kind == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("files")
            for inner, data in contents.items():
                archive.writestr(inner, data)
    elif kind:
        with tarfile.open(path, "w" if kind == ".tar" else "w:gz") as archive:
            for inner, data in contents.items():
                info = tarfile.TarInfo(inner)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        for inner, data in contents.items():
            (path / inner).parent.mkdir(parents=True, exist_ok=True)
            (path / inner).write_bytes(data)
    return str(path)


def label(path):
    """Labels of reports; the bar must have moved to its end."""
    totals, counts = [], []
    bar = types.SimpleNamespace(update=counts.append)

    def progress(total):
        totals.append(total)
        return contextlib.nullcontext(bar)

    labels = corpus.label_reports(str(path), 2, progress)
    assert [sum(counts)] == totals
    assert all(len(ids) == len(labels.columns) for ids in labels.rows)
    return labels


def verdicts(path):
    return {ids[0]: verdict for ids, verdict in label(path).rows.items()}


@pytest.mark.parametrize("kind", ["", ".ZIP", ".tar", ".tgz", "memory"])
def test_every_report_gets_a_verdict(tmp_path, kind):
    path = write(tmp_path / f"reports{kind.removeprefix('memory')}", REPORTS | OTHERS)
    if kind == "memory":
        fsspec.filesystem("memory").put(path, "/reports", recursive=True)
        path = "memory://reports"
    labels = label(path)
    assert labels.about == f"6 reports in {path}; ignored 2 other files"
    found = {ids[0]: verdict for ids, verdict in labels.rows.items()}
    assert found.pop("50000005").label != "abnormal"
    assert found == {
        "50000001": ("normal", "normal_statement"),
        "50000002": ("unknown", "empty"),
        "50000003": ("abnormal", "effusion"),
        "50000004": ("unknown", "binary"),
        "50000006": ("unknown", "too_long"),
    }
    if kind == "memory":
        fsspec.filesystem("memory").rm("/reports", recursive=True)


def test_many_reports_keep_their_verdicts(tmp_path):
    contents = {name(50_000_000 + i): ABNORMAL if i % 3 else NORMAL for i in range(300)}
    found = verdicts(write(tmp_path / "r.zip", contents))
    expected = {
        str(50_000_000 + i): "effusion" if i % 3 else "normal_statement" for i in range(300)
    }
    assert {study: verdict.rule for study, verdict in found.items()} == expected


def test_only_some_reports_are_in_memory(tmp_path, monkeypatch):
    """Those that are read wait in the queue of the workers or are done."""
    monkeypatch.setattr(corpus, "CHUNK", 2)
    read, most, done = [], [], []
    read_with = files.read_with

    def counted(*arguments):
        read.append(arguments)
        most.append(len(read) - len(done))
        return read_with(*arguments)

    monkeypatch.setattr(files, "read_with", counted)
    bar = types.SimpleNamespace(update=lambda count: done.extend([None] * count))
    path = write(tmp_path / "in", {name(50_000_000 + i): NORMAL for i in range(60)})
    corpus.label_reports(path, 1, lambda total: contextlib.nullcontext(bar))
    assert len(read) == len(done) == 60 and 2 < max(most) <= 2 * 4


HALF_READ = {"50000001": ("normal", "normal_statement"), "50000002": ("unknown", "unreadable")}


def test_a_damaged_member_of_an_archive_is_unreadable(tmp_path):
    path = write(tmp_path / "r.zip", {name(50000001): NORMAL, name(50000002): ABNORMAL * 20})
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name(50000002)).header_offset + 30 + len(name(50000002))
    data = bytearray((tmp_path / "r.zip").read_bytes())
    data[start + 5 : start + 25] = b"\xff" * 20
    (tmp_path / "r.zip").write_bytes(data)
    assert verdicts(path) == HALF_READ


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_would_be_unpacked_whole_are_unreadable(tmp_path, compression):
    path = tmp_path / "r.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name(50000001), NORMAL)
        archive.writestr(name(50000002), b"a" * 9_000_000, compression)
    assert verdicts(path) == HALF_READ


def test_an_error_of_ours_tells_nothing_of_the_report(tmp_path, monkeypatch):
    def failing(text):
        raise RuntimeError(f"no idea what {text} is")

    monkeypatch.setattr(reports, "label_report", failing)
    path = write(tmp_path / "in", {"a.txt": SECRET.encode()})
    assert verdicts(path) == {"a": ("unknown", "failed")}


NONE = r"no report in .*, among 2 files; expected reports as \.txt or, of Open-i, as"
TWO = r"1 \.txt and 1 \.xml in .*; expected .* only one"
SAME = r"copy/files/p10/p10000032/s50000001\.txt and .* are reports of one study"


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        *((file, OTHERS, NONE) for file in ("in", "in.zip")),
        *((file, {"a.txt": NORMAL, "b.xml": b"<a/>"}, TWO) for file in ("in", "in.zip")),
        *(
            (file, {name(50000001): NORMAL, "copy/" + name(50000001): NORMAL}, SAME)
            for file in ("in", "in.zip")
        ),
        ("in.zip", "x", r"in\.zip is not a whole archive"),
        ("t.csv", "id,value\na,b\n", r"not a table of reports: .* of texts .* There are: id, v"),
        ("t.csv", "report\nClear.\n", "and one of ids"),
        ("t.csv", "id,report\na,Clear.\na,Clear.\n", "row 3 of .* is the second of a"),
        ("t.csv", "id,report\n,Clear.\n", "row 2 of .* lacks an id"),
        ("t.csv", "id,report\n", "has no rows"),
        ("t.csv", "", r"There are: \(none\)"),
    ],
)
def test_what_is_refused(tmp_path, file, contents, message):
    if isinstance(contents, str):
        (tmp_path / file).write_text(contents)
    else:
        write(tmp_path / file, contents)
    with pytest.raises(ValueError, match=message):
        label(tmp_path / file)


def test_a_process_that_dies_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PROGRAM", "exit(3)")
    monkeypatch.setattr(corpus, "CHUNK", 1)
    with pytest.raises(OSError, match="a process that labels reports was killed"):
        label(write(tmp_path / "in", {name(50000001): NORMAL, name(50000002): NORMAL}))


@pytest.mark.parametrize("file", ["in", "in.zip", "in.tgz"])
def test_plain_texts_are_known_by_their_names(tmp_path, file):
    contents = {"a/one.txt": NORMAL, "b/two.TXT": ABNORMAL, "._one.txt": b"\0", "LICENSE.txt": b"x"}
    found = label(write(tmp_path / file, contents))
    assert found.columns == ("study_id",)
    assert found.rows == {
        ("one",): ("normal", "normal_statement"), ("two",): ("abnormal", "effusion")
    }  # fmt: skip


OPENI = """<eCitation><uId id="CXR1"/><AbstractText Label="INDICATION">Edema</AbstractText>
<AbstractText Label="FINDINGS">{}</AbstractText>{}</eCitation>"""


def test_reports_of_openi_label_the_films_that_they_name(tmp_path):
    images = '<parentImage id="CXR1_1_IM-0001-3001"/><parentImage id="CXR1_1_IM-0001-4001"/>'
    contents = {
        "ecgen/1.xml": OPENI.format("Lungs are clear.", images).encode(),
        "ecgen/2.xml": OPENI.format("Edema.", "").encode(),
        "ecgen/3.xml": b"<eCitation>",
        "ecgen/4.xml": b'<!DOCTYPE a [<!ENTITY a "b">]><a>&a;</a>',
    }
    found = label(write(tmp_path / "in.tgz", contents))
    assert found.about.startswith("5 films of reports in ")
    assert found.columns == ("image_id", "study_id")
    assert {ids: kind for ids, (kind, _) in found.rows.items()} == {
        ("CXR1_1_IM-0001-3001", "1"): "normal",
        ("CXR1_1_IM-0001-4001", "1"): "normal",
        ("2", "2"): "abnormal",
        ("3", "3"): "unknown",
        ("4", "4"): "unknown",
    }


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Report_ID,Report,Patient ID", ("study_id", "subject_id")),
        ("image_id,text,study_id", ("image_id", "study_id")),
        ("filename,FINDINGS,Impression", ("image_id",)),
    ],
)
def test_tables_of_reports(tmp_path, header, columns):
    rows = f'{header}\nx,"The lungs are clear.\nNo effusion.",7\ny,,\nz,No effusion. Scoliosis.,8\n'
    (tmp_path / "t.csv").write_text("\ufeff" + rows)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(rows.encode()))
    for file in ("t.csv", "t.csv.gz"):
        found = label(tmp_path / file)
        assert found.columns == columns and [ids[0] for ids in found.rows] == [*"xyz"]
        kinds = [verdict.label for verdict in found.rows.values()]
        assert kinds == ["normal", "unknown", "abnormal"]


def test_links_of_archives_are_ignored_and_no_name_is_a_path(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(ABNORMAL)
    path = tmp_path / "in.tar"
    write(path, {str(tmp_path / "made.txt"): NORMAL, "../up.txt": NORMAL})
    with tarfile.open(path, "a") as archive:
        for name, kind in (("soft.txt", tarfile.SYMTYPE), ("hard.txt", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
    found = verdicts(path)
    assert found.keys() == {"made", "up"} and {kind for kind, _ in found.values()} == {"normal"}
    assert {path.name for path in tmp_path.iterdir()} == {"secret.txt", "in.tar"}


def test_what_an_archive_unpacks_to_is_bounded(tmp_path):
    """A long member is read in part, and a header of many bytes, which tarfile reads whole, not."""
    path = write(tmp_path / "in.tgz", {"a.txt": bytes(50_000_000), "b.txt": NORMAL})
    assert verdicts(path)["b"] == ("normal", "normal_statement")
    info = tarfile.TarInfo("c.txt")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "bomb.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(ValueError, match=r"not a whole archive .a header of 8589934592 bytes"):
        label(tmp_path / "bomb.tar")
    (tmp_path / "cut.tgz").write_bytes((tmp_path / "in.tgz").read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.tgz is not a whole archive"):
        label(tmp_path / "cut.tgz")
