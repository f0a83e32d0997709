"""Folders and archives of reports: all of them labelled, whatever they are, and none shown."""

import contextlib
import os
import types
import zipfile

import fsspec
import pytest

from input_pipeline import report_files, reports
from input_pipeline.report_files import label_reports

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


def write(folder, contents):
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return str(folder)


def write_zip(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("files")
        for inner, data in contents.items():
            archive.writestr(inner, data)
    return str(path)


def label(path, workers=2):
    """Verdicts by study, and what was ignored; the bar must have moved to its end."""
    bar = types.SimpleNamespace(total=None, n=0)

    def progress(total):
        bar.total = total
        bar.update = lambda count: setattr(bar, "n", bar.n + count)
        return contextlib.nullcontext(bar)

    found, ignored = label_reports(path, workers, progress)
    assert bar.n == bar.total == len(found)
    assert list(found) == sorted(found)
    return {study: tuple(verdict) for (study, _), verdict in found.items()}, ignored


@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_every_report_gets_a_verdict(tmp_path, kind):
    contents = REPORTS | OTHERS
    if kind == "zip":
        path = write_zip(tmp_path / "mimic-cxr-reports.ZIP", contents)
    else:
        path = write(tmp_path / "in", contents)
    if kind == "memory":
        fsspec.filesystem("memory").put(path, "/reports", recursive=True)
        path = "memory://reports"
    found, ignored = label(path)
    assert ignored == 2
    assert found == {
        "50000001": ("normal", "normal_statement"),
        "50000002": ("unknown", "empty"),
        "50000003": ("abnormal", "effusion"),
        "50000004": ("unknown", "binary"),
        "50000005": found["50000005"],
        "50000006": ("unknown", "too_long"),
    }
    assert found["50000005"][0] != "abnormal"
    if kind == "memory":
        fsspec.filesystem("memory").rm("/reports", recursive=True)


def test_many_reports_keep_their_verdicts(tmp_path):
    contents = {
        name(50_000_000 + i, 10_000_000 + i % 7): ABNORMAL if i % 3 else NORMAL for i in range(700)
    }
    found, _ = label(write_zip(tmp_path / "r.zip", contents), workers=3)
    expected = {str(50_000_000 + i): "abnormal" if i % 3 else "normal" for i in range(700)}
    assert {study: verdict for study, (verdict, _) in found.items()} == expected


def test_only_some_reports_are_in_memory(tmp_path, monkeypatch):
    """Those that are read wait in the queue of the workers or are done."""
    monkeypatch.setattr(report_files, "_CHUNK", 2)
    contents = {name(50_000_000 + i): NORMAL for i in range(60)}
    read, most, done = [], [], []
    attempt = report_files._try

    def counted(*arguments):
        read.append(arguments)
        most.append(len(read) - len(done))
        return attempt(*arguments)

    monkeypatch.setattr(report_files, "_try", counted)
    bar = types.SimpleNamespace(update=lambda count: done.extend([None] * count))
    path = write(tmp_path, contents)
    label_reports(path, 1, lambda total: contextlib.nullcontext(bar))
    assert len(read) == len(done) == 60 and 2 < max(most) <= 2 * 4


def test_reports_that_cannot_be_read_are_named_and_the_others_done(tmp_path):
    write(tmp_path, {name(50000001): NORMAL, name(50000002): ABNORMAL})
    os.unlink(tmp_path / name(50000002))
    os.symlink(tmp_path / "nowhere", tmp_path / name(50000002))
    found, _ = label(str(tmp_path))
    assert found["50000001"] == ("normal", "normal_statement")
    assert found["50000002"] == ("unknown", "unreadable")


def test_a_damaged_member_of_an_archive_is_unreadable(tmp_path):
    path = write_zip(tmp_path / "r.zip", {name(50000001): NORMAL, name(50000002): ABNORMAL * 20})
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name(50000002)).header_offset + 30 + len(name(50000002))
    data = bytearray((tmp_path / "r.zip").read_bytes())
    data[start + 5 : start + 25] = b"\xff" * 20
    (tmp_path / "r.zip").write_bytes(data)
    found, _ = label(path)
    assert found["50000001"] == ("normal", "normal_statement")
    assert found["50000002"] == ("unknown", "unreadable")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_would_be_unpacked_whole_are_unreadable(tmp_path, compression):
    path = tmp_path / "r.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name(50000001), NORMAL)
        archive.writestr(name(50000002), b"a" * 9_000_000, compression)
    found, _ = label(str(path))
    assert found["50000001"] == ("normal", "normal_statement")
    assert found["50000002"] == ("unknown", "unreadable")


def test_an_error_of_ours_tells_nothing_of_the_report(monkeypatch):
    def failing(text):
        raise RuntimeError(f"no idea what {text} is")

    monkeypatch.setattr(reports, "label_report", failing)
    assert report_files._verdict(SECRET.encode()) == ("unknown", "failed")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (OTHERS, r"no report in .*, but 2 other files; expected a folder with files such as files"),
        ({}, "but 0 other files; .* or the archive mimic-cxr-reports.zip itself"),
        (
            {name(50000001): NORMAL, "copy/" + name(50000001): NORMAL},
            r"copy/files/p10/p10000032/s50000001\.txt and .* are reports of one study",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_places_that_are_refused(tmp_path, contents, message, zipped):
    (tmp_path / "in").mkdir()
    path = (write_zip if zipped else write)(tmp_path / ("in.zip" if zipped else "in"), contents)
    with pytest.raises(ValueError, match=message):
        label(path)


def test_what_is_no_folder_or_archive_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        label(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        label(str(tmp_path / "none.zip"))
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(NotADirectoryError):
        label(str(tmp_path / "file.txt"))
    (tmp_path / "file.zip").write_text("x")
    with pytest.raises(ValueError, match=r"file\.zip is no whole ZIP archive"):
        label(str(tmp_path / "file.zip"))


def kill(_):
    os.kill(os.getpid(), 9)


def test_a_process_that_dies_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(report_files, "_label", kill)
    with pytest.raises(OSError, match="a process that labels reports was ended"):
        label(write(tmp_path, {name(50000001): NORMAL}))
