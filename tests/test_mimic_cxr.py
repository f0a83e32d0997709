import gzip
import pickle
import re
import shutil

import fsspec
import pandas as pd
import pytest

from cxr_embeddings.input_pipeline.films.film import Skipped
from cxr_embeddings.input_pipeline.mimic.counts import (
    APPROXIMATE,
    PUBLISHED,
    counts_rows,
    counts_table,
)
from cxr_embeddings.input_pipeline.mimic.selection import FilmRecord, list_films

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"
SPLIT = "mimic-cxr-2.0.0-split.csv.gz"
RECORDS = "cxr-record-list.csv.gz"
NUMBERS = ("films listed", "patients", "studies", "skipped", "chosen")

# dicom_id, subject_id, study_id, split, ViewPosition, Rows, Columns
FILMS = [
    ("e5", "10000002", "50000003", "test", "", "3056", "2544"),
    ("a1", "10000001", "50000001", "train", "PA", "3056", "2544"),
    ("b2", "10000001", "50000001", "train", "LATERAL", "2544.0", "3056.0"),
    ("c3", "10000001", "50000002", "train", "", "", ""),
    ("d4", "10000002", "50000003", "test", "", "x", "1"),
]
COLUMNS = ("dicom_id", "subject_id", "study_id", "split", "ViewPosition", "Rows", "Columns")


def image_id(film):
    dicom_id, subject, study = film[:3]
    return f"files/p{subject[:2]}/p{subject}/s{study}/{dicom_id}.dcm"


def write_table(path, columns, rows):
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def write(folder, films=FILMS, records=True, tables=True, suffix=".dcm"):
    """Writes films and MIMIC-CXR's tables of them; returns the folder as a string."""
    for film in films:
        path = folder / image_id(film).replace(".dcm", suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"film")
    if records:
        rows = [(*film[1:3], film[0], image_id(film)) for film in films]
        write_table(folder / RECORDS, ("subject_id", "study_id", "dicom_id", "path"), rows)
    if tables:
        columns, rows = (*COLUMNS[:3], *COLUMNS[4:]), [(*f[:3], *f[4:]) for f in films]
        write_table(folder / METADATA, columns, rows)
        write_table(folder / SPLIT, COLUMNS[:4], [film[:4] for film in films])
    return str(folder)


def change(folder, name, edit):
    """Changes the text of a table."""
    path = folder / name
    path.write_bytes(gzip.compress(edit(gzip.decompress(path.read_bytes()).decode()).encode()))


def stems(films):
    return [re.sub(r".*/|\..*", "", film.image_id) for film in films]


def check(listed):
    """What is true of every list."""
    ids = [film.image_id for film in listed.films]
    skipped = [image_id for image_id, _ in listed.skipped]
    assert ids == sorted(ids)
    assert skipped == sorted(skipped)
    assert len({*ids, *skipped}) == len(ids) + len(skipped) == listed.counts["films listed"]
    counts = listed.counts
    assert (counts["chosen"], counts["skipped"]) == (len(ids), len(skipped))
    for what, total in (("view", "films listed"), ("split", "films listed"), ("chosen", "chosen")):
        parts = [count for name, count in counts.items() if name.startswith(what + " ")]
        assert not parts or sum(parts) == counts[total], what
    return listed


def test_the_list_holds_what_the_tables_say(tmp_path):
    listed = check(list_films(write(tmp_path), views=None))
    assert listed.has_views
    assert stems(listed.films) == ["a1", "b2", "c3", "d4", "e5"]
    path = "files/p10/p10000001/s50000001/a1.dcm"
    ids = ("10000001", "50000001", "train")
    assert listed.films[0] == FilmRecord(f"{tmp_path}/{path}", path, *ids, "PA", (3056, 2544))
    assert [film.view for film in listed.films] == ["PA", "LATERAL", "", "", ""]
    assert [film.split for film in listed.films] == ["train"] * 3 + ["test"] * 2
    assert [film.size for film in listed.films[1:]] == [(2544, 3056), None, None, (3056, 2544)]
    of_split = {"train": 3, "validate": 0, "test": 2, "unassigned": 0}
    assert listed.counts == {
        **dict(zip(NUMBERS, (5, 2, 3, 0, 5), strict=True)),
        **{"view AP": 0, "view PA": 1, "view LATERAL": 1, "frontal (AP, PA)": 1},
        **{"view not said": 3, "view not in the table": 0},
        **{f"{what} {split}": n for split, n in of_split.items() for what in ("split", "chosen")},
        **{f"patients {split}": min(n, 1) for split, n in of_split.items()},
    }
    assert listed.notes == [
        f"The films are those of {tmp_path}/{RECORDS}.",
        f"5 films have a row in {tmp_path}/{SPLIT}.",
        f"5 films have a row in {tmp_path}/{METADATA}.",
    ]
    assert pickle.loads(pickle.dumps(listed.films)) == listed.films


def test_tables_are_joined_by_id_in_whatever_order_they_are(tmp_path):
    expected = list_films(write(tmp_path))

    def turned(text):
        header, *rows = text.splitlines(keepends=True)
        return "".join([header, *sorted(rows, key=lambda row: row[::-1])])

    for name in (RECORDS, METADATA, SPLIT):
        change(tmp_path, name, turned)
        assert list_films(str(tmp_path)) == expected


def test_views_that_were_not_asked_for_are_skipped(tmp_path):
    folder = write(tmp_path)
    listed = check(list_films(folder))
    assert stems(listed.films) == ["a1", "c3", "d4", "e5"]
    assert listed.skipped == [(image_id(FILMS[2]), Skipped("view", "LATERAL"))]
    change(tmp_path, METADATA, lambda text: text.replace(",PA,", ", pa ,"))
    assert list_films(folder).films[0].view == "PA"
    change(tmp_path, METADATA, lambda text: text.replace("LATERAL", "for Jane Doe"))
    listed = list_films(folder)
    assert listed.skipped == [(image_id(FILMS[2]), Skipped("view", "other"))]
    assert listed.counts["view other"] == 1
    named = list_films(folder, views=("FOR JANE DOE",), no_view="drop").films
    assert [film.view for film in named] == ["FOR JANE DOE"]  # what the user names is no secret
    change(tmp_path, METADATA, lambda text: text.replace("for Jane Doe", "LATERAL"))
    listed = check(list_films(folder, no_view="drop"))
    assert stems(listed.films) == ["a1"]
    assert [why.detail for _, why in listed.skipped] == ["LATERAL"] + ["not said"] * 3


def test_without_a_record_list_the_metadata_table_lists_the_films(tmp_path):
    for name, suffix in (("dicom", ".dcm"), ("jpg", ".jpg")):
        folder = write(tmp_path / name, records=False, suffix=suffix)
        listed = check(list_films(folder, views=None))
        expected = [f"{folder}/{image_id(film)}".replace(".dcm", suffix) for film in FILMS]
        assert [film.path for film in listed.films] == sorted(expected)
        assert [film.patient_id for film in listed.films] == ["10000001"] * 3 + ["10000002"] * 2
        assert listed.notes[0].endswith(f"{METADATA}, as *{suffix}.")
    shutil.rmtree(tmp_path / "jpg/files")
    with pytest.raises(FileNotFoundError, match=r"found neither files/.*/e5\.dcm nor \.jpg in"):
        list_films(folder)


def test_tables_that_lie_elsewhere_describe_the_films_that_are_there(tmp_path):
    (tmp_path / "tables").mkdir()
    tables = {f"{kind}_path": write(tmp_path / "tables") + f"/{name}"
              for kind, name in (("metadata", METADATA), ("split", SPLIT))}  # fmt: skip
    folder = write(tmp_path / "data", FILMS[:3], records=False, tables=False)
    listed = check(list_films(folder, views=None, **tables))
    assert [film[1:] for film in listed.films] == [
        (image_id(FILMS[1]), "10000001", "50000001", "train", "PA", (3056, 2544)),
        (image_id(FILMS[2]), "10000001", "50000001", "train", "LATERAL", (2544, 3056)),
        (image_id(FILMS[0]), "10000002", "50000003", "test", "", (3056, 2544)),
    ]
    (tmp_path / "flat").mkdir()
    for name in ("a1.dcm", "c3.png", "zz"):
        (tmp_path / "flat" / name).write_bytes(b"film")
    listed = check(list_films(f"{tmp_path}/flat", metadata_path=tables["metadata_path"]))
    assert [film[1:6] for film in listed.films] == [
        ("a1.dcm", "10000001", "50000001", "unassigned", "PA"),
        ("c3.png", "10000001", "50000002", "unassigned", ""),
        ("zz", "", "", "unassigned", None),
    ]
    assert "The patient of 1 films is not known." in listed.notes
    assert (listed.counts["patients"], listed.counts["studies"]) == (1, 2)


def test_a_walk_without_tables(tmp_path):
    folder = write(tmp_path, records=False, tables=False)
    (tmp_path / "files/p10/p10000001/s50000001.txt").write_text("a report")
    (tmp_path / "p7").mkdir()
    (tmp_path / "p7/1.2.840").write_bytes(b"film")
    listed = check(list_films(folder))
    assert not listed.has_views
    assert listed.skipped == []
    assert [film[2:] for film in listed.films[:1]] == [
        ("10000001", "50000001", "unassigned", None, None)
    ]
    assert listed.films[-1].image_id == "p7/1.2.840"
    assert listed.films[-1].patient_id == listed.films[-1].study_id == ""
    assert listed.counts == dict(zip(NUMBERS, (6, 2, 3, 0, 6), strict=True))
    assert "Ignored 1 .txt files." in listed.notes
    below = check(list_films(f"{folder}/files/p10/p10000001/s50000001"))
    assert [film.image_id for film in below.films] == ["a1.dcm", "b2.dcm"]
    assert {film.patient_id for film in below.films} == {"10000001"}


def test_globs_lists_and_single_films(tmp_path):
    folder = write(tmp_path)
    metadata = {"metadata_path": f"{folder}/{METADATA}"}
    listed = check(list_films(f"{folder}/files/**/*.dcm", **metadata))
    assert listed.films[0].image_id == "p10/p10000001/s50000001/a1.dcm"
    assert (listed.films[0].view, len(listed.skipped)) == ("PA", 1)
    (tmp_path / "list.txt").write_text(f"{image_id(FILMS[0])}\n" * 2)
    listed = check(list_films(f"{folder}/list.txt"))
    assert [film.image_id for film in listed.films] == [image_id(FILMS[0])]
    assert "1 entries of the list repeat a film." in listed.notes
    listed = check(list_films(f"{folder}/{image_id(FILMS[2])}"))
    assert [film[1:4] for film in listed.films] == [("b2.dcm", "10000001", "50000001")]
    listed = check(list_films(f"{folder}/{image_id(FILMS[2])}", **metadata))
    assert listed.skipped == [("b2.dcm", Skipped("view", "LATERAL"))]


def test_films_of_equal_names_in_different_folders_stay_apart(tmp_path):
    for name in ("x/m/m.dcm", "x/cm.dcm", "y/cm.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"film")
    ids = ["x/cm.dcm", "x/m/m.dcm", "y/cm.dcm"]
    assert [film.image_id for film in list_films(str(tmp_path)).films] == ids
    write_table(tmp_path / "t.csv", COLUMNS[:4], [("cm", "1", "2", "train")])
    listed = check(list_films(str(tmp_path), split_path=str(tmp_path / "t.csv")))
    assert [film.split for film in listed.films] == ["train", "unassigned", "train"]
    assert "1 films have the name of another one in t.csv." in listed.notes


def test_what_has_no_partner_is_noted_and_counted(tmp_path):
    folder = write(tmp_path)
    change(tmp_path, METADATA, lambda text: text.replace("a1,", "a9,"))
    change(tmp_path, SPLIT, lambda text: text.replace("b2,", "b8,").replace("c3,", "c8,"))
    listed = check(list_films(folder, views=None))
    assert [film[4:] for film in listed.films[:3]] == [
        ("train", None, None),
        ("unassigned", "LATERAL", (2544, 3056)),
        ("unassigned", "", None),
    ]
    assert listed.counts["view not in the table"] == 1
    assert listed.counts["split unassigned"] == listed.counts["chosen unassigned"] == 2
    for count, name in ((1, METADATA), (2, SPLIT)):
        assert f"{count} films have no row in {name}." in listed.notes
        assert f"{count} rows of {name} have no film." in listed.notes
    assert not any("more than one split" in note for note in listed.notes)


def test_the_limit_comes_before_the_views(tmp_path):
    folder = write(tmp_path)
    listed = check(list_films(folder, limit=2))
    assert (stems(listed.films), len(listed.skipped)) == (["a1"], 1)
    assert listed.counts["patients"] == 1
    assert "Of 5 films only the first 2 are listed." in listed.notes
    assert list_films(folder, limit=5) == list_films(folder)
    listed = check(list_films(f"{folder}/files", limit=2))
    assert stems(listed.films) == ["a1", "b2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("d4,", "e5,", "more than one row for 1 films, .* 'e5'"),
        ("train", "Train", "has the splits 'Train'; expected only train, val"),
        ("train", "", "has the splits ''; expected only"),
        (
            "1,train\nb2,10000001,50000001,train",
            '1,"train\nb2,10000001,50000001,train"',
            "a quotation",
        ),
        ("a1,10000001", "a1,10000002", "has subject_id '10000002' for .*a1.dcm, but"),
        ("50000001", "50000009", "study_id '50000009' for .*a1.dcm, .* 2 films are"),
    ],
)
def test_tables_that_contradict_themselves_or_the_list(tmp_path, old, new, message):
    folder = write(tmp_path)
    change(tmp_path, SPLIT, lambda text: text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        list_films(folder)


OUTSIDE = (
    "/etc/a1.dcm ../a1.dcm files/../../a1.dcm files/./a1.dcm files//a1.dcm files\\a1.dcm "
    "gs://bucket/a1.dcm zip::a1.dcm ~/a1.dcm files/.hidden/a1.dcm files/a1.dcm/"
).split()


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        *((RECORDS, image_id(FILMS[1]), path, "expected plain paths") for path in ("", *OUTSIDE)),
        (RECORDS, "/a1.dcm", "/b2.dcm", r"b2\.dcm' for dicom_id 'a1', and 1 are like that"),
        (METADATA, "50000001", "5/../../../../x", "and 2 are like that; expected plain paths"),
    ],
)
def test_a_list_stays_in_its_folder_and_names_its_films(tmp_path, table, old, new, message):
    folder = write(tmp_path, records=table == RECORDS)
    change(tmp_path, table, lambda text: text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        list_films(folder)


def test_remote_folders(tmp_path):
    write(tmp_path)
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path), "/mimic", recursive=True)
    try:
        listed = check(list_films("memory://mimic"))
        assert fs.cat_file(listed.films[0].path) == b"film"
        assert stems(listed.films) == stems(list_films(str(tmp_path)).films)
        fs.rm(f"/mimic/{RECORDS}")
        assert check(list_films("memory://mimic")).films == listed.films
        for name in (METADATA, SPLIT):
            fs.rm(f"/mimic/{name}")
        walked = check(list_films("memory://mimic"))
        assert fs.cat_file(walked.films[0].path) == b"film"
        assert walked.films[0][1:4] == listed.films[0][1:4]
    finally:
        fs.rm("/mimic", recursive=True)


def test_counts_stand_beside_the_published_ones(tmp_path):
    counts = list_films(write(tmp_path)).counts
    assert {*PUBLISHED} <= counts.keys()
    assert APPROXIMATE <= PUBLISHED.keys()
    rows = counts_rows(counts | {"films listed": 377_109})
    assert rows[:2] == [("what", "here", "published"), ("films listed", "377109", "377110")]
    assert ("view not said", "3", "about 15770") in rows and ("chosen", "4", "") in rows
    counts = {"films listed": 377_109, "view AP": 7, "view not said": 3, "chosen": 12}
    assert counts_table(counts).splitlines() == [
        "what              here     published",
        "films listed   377,109       377,110",
        "view AP              7",
        "view not said        3  about 15,770",
        "chosen              12",
    ]
