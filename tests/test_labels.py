"""Tables of labels: which columns count, what values mean, and which film a row is about."""

import gzip

import numpy as np
import pandas as pd
import pytest
from label_tables import counts, ids, join, read_labels, said, the_note

from cxr_embeddings.common import data_sets
from cxr_embeddings.heads.labels.columns import read_table
from cxr_embeddings.heads.labels.matching import clean

CHEXPERT, NIH = (data_sets.load(name).findings for name in ("mimic_cxr", "chestxray14"))
FOUR = (
    "image_id,patient_id,split,x; a.png,1,train,1; b.png,2,train,0; c.png,3,tune,1; d.png,4,tune,"
)


def values_of(found, finding=0):
    """1, 0 or None where unknown."""
    pairs = zip(found.label[:, finding], found.mask[:, finding], strict=True)
    return [int(label) if known else None for label, known in pairs]


def labels_of(examples):
    return dict(zip(examples.image_id, values_of(examples), strict=True))


# ---- the text of a table


def test_values_stay_text(table, tmp_path):
    path = table("image_id,n; 007, 1.0; NA ,; ,nan")
    assert read_table(path).to_numpy().tolist() == [["007", "1.0"], ["NA", ""], ["", "nan"]]
    packed = tmp_path / "labels.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n")))
    assert read_table(packed).equals(read_table(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image_id,x,y\na,1,0\nb,1\n", "row 3 of .* has 2 values, its header 3"),
        (b"image_id,x\na,1\nb,1,0\n", "row 3 of .* has 3 values, its header 2"),
        (b"image_id,x\na,\xff\n", "not UTF-8 text"),
        (b'image_id,x\n"a,1\n', "not a whole CSV"),
        (b"image_id,x\n", "no rows"),
        (b"", "no rows"),
        (b"image_id,x,x\na,1,0\n", r"more than one column named \['x'\]"),
        (b"image_id;x\na;1\n", "has semicolons between its values: save it with commas"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, content, message):
    path, cut = tmp_path / "labels.csv", tmp_path / "labels.csv.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path)
    cut.write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(ValueError, match=r"not a whole CSV"):
        read_table(cut)
    for nothing in (tmp_path, tmp_path / "u.csv"):
        with pytest.raises(FileNotFoundError, match=r"found no table .*; expected a CSV file"):
            read_table(nothing)


# ---- which columns are which


def test_columns_without_a_name_are_no_columns(table):
    found = read_labels(table(",image_id,x,; 0,a,1,; 1,b,0,"))
    assert found.findings == ("x",) and found.columns == ("image_id", "x")


def test_named_columns_come_before_known_ones(table):
    path = table("image_id,Film,patient_id,group,Split,fold,x; a,A,1,2,train,tune,1")
    found, columns = read_labels(path), ("image", "patient", "split")
    assert found.findings == ("x",) and said(found, *columns) == [["a"], ["1"], ["train"]]
    named = {"id_column": "film", "patient_column": "Group", "split_column": "fold"}
    assert said(read_labels(path, ("x",), **named), *columns) == [["A"], ["2"], ["tune"]]


def test_findings_are_matched_exactly_or_without_case_and_underscores(table):
    path = table("image_id,Pleural_Thickening,Edema,Lung_Lesion,lung lesion; a,1,0,1,0")
    found = read_labels(path, ("pleural thickening", "Edema", "lung lesion"))
    assert found.findings == ("Pleural_Thickening", "Edema", "lung lesion")
    assert found.label.tolist() == [[1, 0, 0]]


def test_all_findings_of_an_unknown_table_are_its_columns_of_labels(table):
    path = table("image_id,split,patient_id,x,sex,y,age,z; 1,train,0,1,0,-1,61,; 0,tune,1,0,1,,1,")
    assert read_labels(path).findings == ("x", "sex", "y"), "z is empty in all rows"
    assert read_labels(path, subgroups=("sex",)).findings == ("x", "y")


TWICE = "image_id,study_id,patient_id,split,x,sex; a,1,p,train,1,F; {}; b,3,r,train,1,F"
PUBLISHED = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],; 00000001_000.png,Cardiomegaly|Effusion,0,00001,058Y,M,PA,1,1,; "
    "00000001_001.png,No Finding,1,00001,058Y,M,PA,1,1,; 00000002_000.png,,0,00002,081Y,F,AP,1,1,; "
    "00000003_000.png,Pleural_Thickening,0,00003,61,F,AP,1,1,"
)
SEVEN = "; ".join(f"{name},{value}" for name in "abcdefg" for value in "01")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("film,patient,x; a,1,1", {}, "id_column or study_column. There are: film, patient, x"),
        ("film,x; a,1", {"id_column": "filn"}, "no column 'filn'; did you mean 'film'"),
        ("image_id,L_L,l l; a,1,0", {"findings": ("L L",)}, "write one as it is there"),
        ("image_id,Edema; a,1", {"findings": ("Edema", "edema")}, "twice"),
        ("image_id,Edema; a,1", {"findings": ("Edemma",)},
         "no finding 'Edemma'; did you mean 'Edema'.*There are:"),
        ("image_id,n; a,5", {}, "no finding"),
        (FOUR, {"uncertain": "U-Ones"}, "uncertain='U-Ones'; expected one of ignore"),
        (FOUR, {"not_mentioned": "no"}, "not_mentioned='no'; expected one of ignore"),
        (PUBLISHED.replace("|Effusion", "|Efusion"), {},
         "no finding 'Efusion'; did you mean 'Effusion'"),
        (PUBLISHED.replace("|Effusion", "|No Finding"), {},
         "1 rows of .* list No Finding beside a finding"),
        ("image_id,x; ,0; ,1", {}, "found no id"),
        (f"image_id,x; {SEVEN}", {}, "7 ids of .*: a, b, c, d, e; expected"),
        *((TWICE.format(row), {"findings": ("x",), "subgroups": ("sex",)},
           "1 ids of .* in rows with different .*: a; expected one")
          for row in ("a,1,p,train,0,F", "a,1,p,train,,F", "a,1,q,train,1,F", "a,2,p,train,1,F",
                      "a,1,p,tune,1,F", "a,1,p,train,1,M")),
    ],
)  # fmt: skip
def test_tables_that_are_refused(table, text, options, message):
    with pytest.raises(ValueError, match=message):
        read_labels(table(text), **options)


# ---- values and policies


@pytest.mark.parametrize("value", ["2", "yes", "1 1", "True", "nan", "0.5", "-1.00"])
def test_other_values_are_refused(table, value):
    path = table(f"image_id,x,y; a,1,0; b,0,{value}; c,1,{value}")
    with pytest.raises(ValueError, match=f"'{value}' in row 3, column 'y'.*the first of 2"):
        read_labels(path, ("x", "y"))
    assert read_labels(path).findings == ("x",)


POLICIES = [  # uncertain, not_mentioned, then labels of 1, 0, -1 and empty; None unknown
    ("ignore", "ignore", [1, 0, None, None]),
    ("zeros", "ignore", [1, 0, 0, None]),
    ("ones", "ignore", [1, 0, 1, None]),
    ("ignore", "negative", [1, 0, None, 0]),
    ("zeros", "negative", [1, 0, 0, 0]),
    ("ones", "negative", [1, 0, 1, 0]),
]


@pytest.mark.parametrize(("uncertain", "not_mentioned", "expected"), POLICIES)
@pytest.mark.parametrize("form", ["1 0 -1", "1.0 0.0 -1.0"])
def test_policies(table, form, uncertain, not_mentioned, expected):
    path = table("image_id,x; a,{}; b,{}; c,{}; d,".format(*form.split()))
    found = read_labels(path, uncertain=uncertain, not_mentioned=not_mentioned)
    assert values_of(found) == expected
    assert found.label.dtype == np.float32 and not found.label[~found.mask].any()
    assert the_note(found, "-1 (uncertain), taken as")["count"] == 1
    assert the_note(found, "empty (not mentioned), taken as")["count"] == 1


def chexpert(table, rows):
    """Rows of patient, study and the values of some findings, as MIMIC-CXR has them."""
    text = [",".join(["subject_id", "study_id", *CHEXPERT])]
    for patient, study, values in rows:
        text.append(",".join([patient, study, *(values.get(name, "") for name in CHEXPERT)]))
    return table("; ".join(text), "chexpert.csv")


@pytest.mark.parametrize(("uncertain", "not_mentioned", "expected"), POLICIES)
def test_no_finding_is_one_sided_and_unlabelled_studies_are_unknown(
    table, uncertain, not_mentioned, expected
):
    said = [{"Edema": "1.0"}, {"Edema": "0.0"}, {"Edema": "-1.0"}, {"No Finding": "1.0"}, {}]
    said.append({"Support Devices": "1.0"})
    path = chexpert(table, [("10000001", f"5000000{i}", one) for i, one in enumerate(said, 1)])
    policies = {"uncertain": uncertain, "not_mentioned": not_mentioned}
    for findings, empty in ((("Edema", "No Finding"), 2), (("all",), 5 * 12 - 1 + 2)):
        found = read_labels(path, findings, **policies)
        assert the_note(found, "empty (not mentioned), taken as")["count"] == empty
        edema, healthy = (found.findings.index(name) for name in ("Edema", "No Finding"))
        assert values_of(found, edema) == [*expected, None, expected[3]]
        assert values_of(found, healthy) == [0, 0, 0, 1, None, 0]
        assert not found.mask[4].any()
    assert found.findings == CHEXPERT
    assert the_note(found, "every finding is empty")["examples"] == ["50000005"]


def test_rows_that_differ_only_in_being_unlabelled_are_refused(table):
    rows = [("1", "2", {"Edema": "1"}), ("1", "3", {}), ("1", "3", {"Fracture": "1"})]
    with pytest.raises(ValueError, match=r"1 ids of .*: 3; expected one"):
        read_labels(chexpert(table, rows), ("Edema",))


# ---- ChestX-ray14


def test_finding_labels_are_split(table):
    found = read_labels(table(PUBLISHED), subgroups=("patient_age", "View Position"))
    assert found.findings == NIH
    there = [NIH.index("Cardiomegaly"), NIH.index("Effusion")]
    assert found.label[0].nonzero()[0].tolist() == there
    assert not found.label[1].any() and found.mask[1].all()
    views, patients = said(found, "View Position", "patient")
    assert (views, patients) == (["PA", "PA", "AP", "AP"], ["00001", "00001", "00002", "00003"])
    healthy = read_labels(table(PUBLISHED), ("no finding",), not_mentioned="negative")
    assert values_of(healthy) == [0, 1, None, 0]  # a film without any label stays unknown


def test_columns_come_before_finding_labels(table):
    text = "Image Index,Finding Labels,Edema; a.png,Edema|Mass,0; b.png,No Finding,1"
    found = read_labels(table(text), ("Edema", "Mass"))
    assert found.label.tolist() == [[0, 1], [1, 0]]


def test_the_real_table_of_nih(shared_data):
    path = shared_data / "nih" / "labels.csv"
    table, split = pd.read_csv(path), {"fractions": (0.7, 0.1, 0.2), "seed": 3}
    found = read_labels(path, subgroups=("age", "sex", "view"))
    order = np.random.default_rng(0).permutation(len(table))
    names = "/data/nih/" + table["file"].to_numpy(object)[order]
    examples = join(names, found, **split)
    assert examples.findings == NIH and len(examples.row) == 621 and not examples.unmatched
    assert np.array_equal(examples.label, table[list(NIH)].to_numpy()[order])
    assert np.array_equal(examples.groups["sex"], table["sex"].to_numpy(object)[order])
    bands = pd.cut(table["age"], [-1, 17, 39, 59, 79, 120], labels=[*"abcde"]).to_numpy()[order]
    pairs = set(zip(bands, examples.groups["age"], strict=True))
    assert pairs == set(zip("abcde", ("0-17", "18-39", "40-59", "60-79", "80+"), strict=True))
    healthy = read_labels(path, ("No Finding",))
    assert healthy.label.sum() == 100 and healthy.findings == ("no_finding",)


# ---- ids in several rows, and in none


def test_rows_that_say_the_same_are_taken_once(table):
    found = read_labels(table("image_id,x,y; a,1,1; a,1.0,0; b,0,1; a,1,0; ,1,; c,,; d,1,"), ("x",))
    assert said(found, "image") == [[*"abcd"]] and values_of(found) == [1, 0, None, 1]
    one, without = the_note(found, "taken once"), the_note(found, "without an id")
    assert (one["count"], one["examples"]) == (2, ["a", "a"])
    assert (without["count"], without["examples"]) == (1, ["row 6"])


def test_rows_keep_together_what_they_say(table):
    header = "image_id,study_id,patient_id,split,sex,x"
    rows = ["a,1,p,train,F,1", "a,1,p,train,F,1", ",2,q,tune,M,0", "b,3,r,test,M,0", "c,4,s,x,N,1"]
    found = read_labels(table("; ".join([header, *rows])), ("x",), subgroups=("sex",))
    columns = [*said(found, "image", "study", "patient", "split", "sex"), values_of(found)]
    told = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    assert told == [rows[0], *rows[3:]] and found.mask.all()


def test_a_study_number_may_repeat_among_patients(table):
    studies = table("patient_id,study_id,x,split; p,1,1,train; q,1,0,tune; q,2,1,tune; r,1,1,test")
    films = table("image_id,patient_id,study_id,split; a,p,1,; b,q,1,; c,q,2,; d,r,2,", "films.csv")
    examples = join(ids(*"abcd"), read_labels(studies), metadata_path=films)
    assert labels_of(examples) == {"a": 1, "b": 0, "c": 1}
    assert ("films without a label", "d") in examples.unmatched


def test_unknown_ids_fit_nothing(table):
    studies = table("patient_id,study_id,x,split; p,1,1,train; q,1,0,tune; ,1,1,tune; ,2,1,tune")
    films = table("image_id,patient_id,study_id; a,p,1; b,q,1; c,,1; d,p,; e,,", "films.csv")
    examples = join(ids(*"edcba"), read_labels(studies), metadata_path=films)
    assert labels_of(examples) == {"a": 1, "b": 0}
    assert the_note(examples, "label rows without a film")["count"] == 2


# ---- films by name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/data/files/p10/s5/02aa804e-bde0afdd.dcm", "data/files/p10/s5/02aa804e-bde0afdd"),
        ("gs://b/x/004.PNG", "gs:/b/x/004"),
        ("a\\b\\c.jpeg", "a/b/c"),
        ("1.2.840.113.4", "1.2.840.113.4"),
        ("1.2.840.dcm.png.npz", "1.2.840"),
        ("x/.png", "x/.png"),
        ("dcm", "dcm"),
        ("a.txt", "a.txt"),
        ("a//b/", "a/b"),
    ],
)
def test_clean(name, expected):
    assert clean(name) == expected


@pytest.mark.parametrize(
    ("in_table", "embedded", "needed"),  # name_parts, where the folders contradict each other
    [
        ("{}.png", "/data/images/{}.dcm", 0),
        ("{}", "gs://bucket/{}.tfrecord", 0),
        ("images/{}.jpg", "/data/images/{}.jpg", 0),
        ("images/{}.jpg", "/copy/{}.jpg", 1),
        ("/old/place/images/{}.jpg", "/new/images/{}.jpg", 2),
        ("siteA/{}.png", "siteB/{}.png", 1),
        ("old/images/{}.jpg", "{}", 0),
    ],
)
def test_names_are_compared_with_all_folders_that_both_have(table, in_table, embedded, needed):
    rows = [f"{in_table.format(n)},{n % 2},{s}" for n, s in enumerate(("train", "train", "tune"))]
    found = read_labels(table("; ".join(["image_id,x,split", *rows])))
    films = ids(*(embedded.format(n) for n in (2, 0, 1)))
    if needed:
        message = r"found 3 films whose image .* in another folder .name_parts=1"
        with pytest.raises(ValueError, match=message):
            join(films, found)
    examples = join(films, found, name_parts=needed)
    assert labels_of(examples) == {embedded.format(n): n % 2 for n in range(3)}
    assert examples.row.tolist() == [0, 1, 2]
    assert the_note(examples, "films found in")["count"] == 3


def test_films_of_another_folder_or_depth_are_not_lost_silently(table):
    """The folders of a/2.png and c/2.png differ; 3.png and d/4.png name fewer than the table."""
    rows = "a/1.png,1,train; a/2.png,0,train; b/3.png,1,tune; x/d/4.png,0,tune; 005,1,train; P6,0,"
    found = read_labels(table(f"image_id,x,split; {rows}"))
    examples = join(ids("/f/a/1.png", "/f/c/2.png", "3.png", "d/4.png", "5.png", "p6"), found)
    assert labels_of(examples) == {"/f/a/1.png": 1, "3.png": 1, "d/4.png": 0}
    for why, film in (
        ("in another folder", "/f/c/2.png"),
        ("as a number", "5.png"),
        ("lower case", "p6"),
    ):
        assert the_note(examples, why)["examples"] == [film]
        assert ("films without a label", film) in examples.unmatched


def test_folders_tell_films_of_one_name_apart(table):
    found = read_labels(table("image_id,x,split; u/1.png,1,train; v/1.png,0,train; v/2.png,1,tune"))
    examples = join(ids("/d/v/1.png", "/d/u/1.png", "/d/w/1.png", "/d/v/2.png"), found)
    assert labels_of(examples) == {"/d/v/1.png": 0, "/d/u/1.png": 1, "/d/v/2.png": 1}
    assert ("films without a label", "/d/w/1.png") in examples.unmatched
    strangers = ids("u/1.png", "v/2.png", "u/3.png", "v/3.png")
    assert len(join(strangers, found).row) == 2  # names that no row has are in nobody's way


UNIQUE = "image_id,x,split; 1.png,1,train; 2.png,0,tune"


@pytest.mark.parametrize(
    ("text", "films", "message"),
    [
        (UNIQUE, "u/1.png v/1.png u/2.png", "1 rows of .* fit more than one film .*: 1.png; exp"),
        (UNIQUE, "u/1.png u/1.png u/2.png", "1 films are there more than once .u/1.png"),
        (UNIQUE, "", "without an image id"),
        (FOUR, "/d/x.png /d/y.png", "none of 2 films.* is /d/x.png .*table a.png.*id_col"),
        *((f"image_id,x,split; u/1.png,1,train; {other},1,tune", film,
           f"1 films fit more than one row .*{film}; expected one")
          for other, film in (("v/1.png", "1.png"), ("u/1.dcm", "/d/u/1.png"),
                              ("1.png", "/d/u/1.png"))),
    ],
)  # fmt: skip
def test_films_and_rows_that_cannot_be_told_apart_are_refused(table, text, films, message):
    with pytest.raises(ValueError, match=message):
        join(ids(*films.split()), read_labels(table(text)))


def test_what_has_no_partner_is_counted_and_listed(table):
    path = table(
        "image_id,split,x; a,train,1; b,tune,0; c,train,; d,spare,1; e,,1; f,train,0; g,test,"
    )
    examples = join(np.array([*"zgyxedcbauvw"]), read_labels(path))  # strings of NumPy serve, too
    assert dict(zip(examples.image_id, examples.split, strict=True)) == {"b": "tune", "a": "train"}
    assert type(examples.image_id[0]) is str and examples.row.tolist() == [7, 8]
    assert sorted(examples.unmatched) == [
        ("films in the split 'spare', which is not used", "d"),
        ("films without a known label", "c"),
        ("films without a known label", "g"),
        *(("films without a label", name) for name in "uvwxyz"),
        ("films without a split", "e"),
        ("label rows without a film", "f"),
    ]
    one = the_note(examples, "without a label")
    assert (one["count"], one["examples"]) == (6, ["z", "y", "x", "u", "v"])
    unmatched = [what for what, _ in examples.unmatched]
    assert all(counts(examples)[what] == unmatched.count(what) for what in unmatched)


# ---- studies


A, B, C = "p10/p10000001/s50000001/aa", "p10/p10000001/s50000002/bb", "p11/p11000002/s50000003/cc"
MIMIC = "subject_id,study_id,x; 11000002,50000003,0; 10000001,50000001,1; 10000001,50000002,0"
SPLIT = (
    "dicom_id,study_id,subject_id,split; cc,50000003,11000002,validate; "
    "bb,50000002,10000001,train; aa,50000001,10000001,train; dd,50000002,10000001,train"
)


def test_films_of_a_study_share_its_labels(table):
    names = ids(*(f"gs://bucket/files/{name}.dcm" for name in (C, A, B, B[:-2] + "dd")))
    found = read_labels(table(MIMIC))
    examples = join(names, found, split_path=table(SPLIT, "split.csv"))
    assert examples.label[:, 0].tolist() == [0, 1, 0, 0]
    assert examples.split.tolist() == ["tune", "train", "train", "train"]
    assert examples.study_id.tolist() == ["50000003", "50000001", "50000002", "50000002"]
    assert examples.patient_id.tolist() == ["11000002", *["10000001"] * 3]
    drawn = join(names, found, fractions=(0.5, 0.5, 0.0))
    assert drawn.label.tolist() == examples.label.tolist()


def test_a_table_of_films_tells_the_study(table):
    bare, found = ids("dd", "cc", "bb", "aa", "ee"), read_labels(table(MIMIC))
    with pytest.raises(ValueError, match=r"study: unknown.*as split_path or metadata_path"):
        join(bare, found, fractions=(0.5, 0.5, 0.0))
    for options in (
        {"split_path": table(SPLIT, "split.csv")},
        {"metadata_path": table(SPLIT, "metadata.csv"), "fractions": (0.5, 0.5, 0.0)},
    ):
        examples = join(bare, found, **options)
        assert labels_of(examples) == {"aa": 1, "bb": 0, "cc": 0, "dd": 0}
        assert ("films without a label", "ee") in examples.unmatched
        assert examples.patient_id.tolist() == ["10000001", "11000002", "10000001", "10000001"]


@pytest.mark.parametrize(
    ("labels", "split", "message"),
    [
        (MIMIC.replace("11000002,", "19999999,"), SPLIT, "patient .*cc .19999999, not 1100"),
        (MIMIC, SPLIT.replace("cc,50000003", "cc,50000009"), "study in .*split.csv"),
        (MIMIC, SPLIT.replace("50000003,11000002", "50000003,19999999"), "patient in .*split.csv"),
    ],
)
def test_tables_that_disagree_on_a_film_are_refused(table, labels, split, message):
    with pytest.raises(ValueError, match=f"1 films have another {message}"):
        join(ids(A, B, C), read_labels(table(labels)), split_path=table(split, "split.csv"))


def test_patients_and_studies_reach_films_through_any_table(table):
    films = table("image_id,patient_id,x; a,p,1; b,q,0; c,r,1", "films.csv")
    people = table("patient_id,split,sex; q,tune,F; p,train,M; r,train,M", "people.csv")
    found = read_labels(films, subgroups=("sex",))
    examples = join(ids(*"cba"), found, split_path=people, metadata_path=people)
    assert examples.split.tolist() == ["train", "tune", "train"]
    assert examples.groups["sex"].tolist() == ["M", "F", "M"]


# ---- shuffling


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_rows_and_embeddings_changes_nothing(tmp_path, seed):
    rng = np.random.default_rng(seed)
    studies = pd.DataFrame({"study_id": [f"{50_000_000 + n}" for n in rng.permutation(60)]})
    studies["subject_id"] = [f"{10_000_000 + n // 2}" for n in range(60)]
    studies["sex"] = [*"FM"] * 30
    values = rng.choice(["1.0", "0.0", "-1.0", ""], (60, 14))
    studies = pd.concat([studies, pd.DataFrame(values, columns=CHEXPERT)], axis=1)
    films = studies.loc[rng.integers(0, 60, 100), ["study_id", "subject_id"]]
    films["dicom_id"] = [rng.bytes(4).hex() for _ in range(100)]
    films["split"] = [("train", "validate", "test")[int(p) % 3] for p in films["subject_id"]]
    films["ViewPosition"] = rng.choice(["AP", "PA", ""], 100)
    names = films["dicom_id"].to_numpy(object).copy()
    full = rng.random(100) < 0.5
    folders = "/data/p10/p" + films["subject_id"] + "/s" + films["study_id"] + "/"
    names[full] = (folders + films["dicom_id"] + ".dcm").to_numpy(object)[full]
    names = np.append(names, ["stray", "p10/p10000001/s59999999/strange"])

    def outcome(order):
        written = []
        for name, frame in (("labels", studies), ("films", films)):
            written.append(tmp_path / f"{name}.csv")
            frame.iloc[order(len(frame))].to_csv(written[-1], index=False)
        found = read_labels(written[0], uncertain="ones", subgroups=("ViewPosition", "sex"))
        examples = []
        for options in ({"split_path": written[1]}, {"fractions": (0.4, 0.3, 0.3), "seed": 1}):
            shuffled = names[order(len(names))]
            made = join(shuffled, found, metadata_path=written[1], **options)
            assert np.array_equal(shuffled[made.row], made.image_id)
            columns = [made.image_id, made.patient_id, made.study_id, made.split]
            columns += [*made.label.T.astype(int), *made.mask.T, *made.groups.values()]
            examples.append(sorted(map(tuple, np.array(columns, object).T)))
            examples.append(sorted(made.unmatched))
        return examples

    expected = outcome(np.arange)
    assert len(expected[0]) > 90
    of_study = studies.set_index("study_id")
    for image_id, patient_id, study_id, split, *rest in expected[0]:  # by another way than join's
        film = films[films["dicom_id"] == clean(image_id).rsplit("/")[-1]].iloc[0]
        assert (patient_id, study_id) == (film["subject_id"], film["study_id"])
        text = of_study.loc[study_id, list(CHEXPERT)]
        unlabelled = (text == "").all()
        for finding, label, known in zip(CHEXPERT, rest[:14], rest[14:28], strict=True):
            value = text[finding]
            guessed = value == "-1.0" and split != "train"  # the policy is for training
            assert label == (value in ("1.0", "-1.0") and not guessed)
            named = value != "" or (finding == "No Finding" and not unlabelled)
            assert known == (named and not guessed)
        assert rest[28:] == [film["ViewPosition"], of_study.loc[study_id, "sex"]]
    assert outcome(rng.permutation) == expected
