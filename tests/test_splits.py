"""Splits by name, at random and by patient; subgroups; and findings of one class."""

import numpy as np
import pytest
from label_tables import counts, ids, join, read_labels, the_note

from cxr_embeddings.heads.labels.join import group_values
from cxr_embeddings.heads.labels.splits import (
    check_classes,
    check_patients,
    named_splits,
    random_splits,
)

FRACTIONS = (0.7, 0.1, 0.2)
TWO = "image_id,x; a,1; b,0"


# ---- splits by name


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Training TRAIN"),
        ("tune", "tune validate validation valid val dev Validate"),
        ("test", "test testing Test"),
        ("", "spare train2 holdout"),
    ],
)
def test_names_of_splits(split, names):
    assert named_splits(ids(*names.split())).tolist() == [split] * len(names.split())


def test_names_of_the_caller_replace_the_known_ones(table):
    names = {"train": ("Fit",), "tune": ("stop", ""), "test": ("none",)}
    assert named_splits(ids("fit", "stop", "test", ""), names).tolist() == ["train", "tune", "", ""]
    found = read_labels(table("image_id,split,x; a,fit,1; b,stop,0; c,,1"))
    assert join(ids(*"abc"), found, **names).split.tolist() == ["train", "tune"]


def test_a_table_of_splits_comes_before_the_labels_own(table):
    found = read_labels(table("image_id,split,x; a,train,1; b,tune,0; c,test,0"))
    split = table("image_id,split; c,train; a,tune", "split.csv")
    examples = join(ids(*"abc"), found, split_path=split)
    assert dict(zip(examples.image_id, examples.split, strict=True)) == {"a": "tune", "c": "train"}
    assert ("films without a split", "b") in examples.unmatched


SIX = "; ".join(f"{n}{s},p{n},{s},1" for n in range(6) for s in ("train", "tune"))
SIX_TWICE = f"image_id,patient_id,split,x; {SIX}; b,q,train,1"


@pytest.mark.parametrize(
    ("text", "films", "split", "message"),
    [
        (TWO, "a b", None, "no split in .*split_column.*split_path.*fractions"),
        (TWO, "a b", "image_id,fold; b,train", "no column 'split'; there are: image_id, fold"),
        (TWO, "a b", "film,split; b,train", "no column with ids in .*There are: film, split"),
        (TWO, "a b", "image_id,split; b,train; a,tune; b,test",
         "1 ids of .* in rows of different splits: b; expected"),
        (TWO, "a b", "image_id,split; ,train", "found no id in .*split.csv"),
        ("image_id,split,x; a,fit,1; b,stop,0; c,,1", "a b c", None,
         "no film in the split 'train'.* 1 films, fit 1 films, stop"),
        ("image_id,split,x; a,train,1; b,test,0; c,spare,0; d,spare,0; e,val,", "a b c d e", None,
         "'tune'.*spare 2 films, test 1 films, train 1 films. .* labels.tune"),
        ("image_id,split,x; a,train,1; b,val,0; c,test,0", "b c", None, "no film in the .*'train'"),
        (SIX_TWICE, "0train 0tune 1train 1tune 2train 2tune 3train 3tune 4train 4tune 5train 5tune",
         None, "6 patients .*: p0, p1, p2, p3, p4; .*with fractions"),
    ],
)  # fmt: skip
def test_splits_that_cannot_serve_are_refused(table, text, films, split, message):
    options = {"split_path": table(split, "split.csv")} if split else {}
    with pytest.raises(ValueError, match=message):
        join(ids(*films.split()), read_labels(table(text)), **options)


# ---- random splits


@pytest.mark.parametrize("seed", range(2))
def test_a_random_split_keeps_patients_whole_whatever_the_order(seed):
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, 100, 700).astype(str).astype(object)
    split = random_splits(patient, FRACTIONS, seed)
    of_patient = {one: set(split[patient == one]) for one in patient}
    assert all(len(splits) == 1 for splits in of_patient.values())
    sizes = [list(of_patient.values()).count({name}) for name in ("train", "tune", "test")]
    assert sizes == [70, 10, 20]
    order = rng.permutation(700)
    assert np.array_equal(random_splits(patient[order], FRACTIONS, seed), split[order])
    assert not np.array_equal(random_splits(patient, FRACTIONS, seed + 100), split)
    assert set(random_splits(patient, (0.5, 0.5, 0.0), seed)) == {"train", "tune"}


def test_a_random_split_is_the_same_in_every_version():
    split = random_splits(ids(*"abcdefgh"), (0.5, 0.25, 0.25), 0)
    assert [name[:2] for name in split] == ["tr", "tu", "tr", "te", "tu", "tr", "tr", "te"]


def test_a_random_split_needs_every_patient_and_no_other_split(table):
    found = read_labels(table("image_id,patient_id,x; a,1,1; b,,0; c,,1; d,,1"))
    with pytest.raises(ValueError, match=r"patients of 2 of 3 films are unknown.*patient_column"):
        join(ids(*"abc"), found, fractions=FRACTIONS)
    with pytest.raises(ValueError, match=r"fractions as well as split_path"):
        join(ids(*"abc"), found, split_path="split.csv", fractions=FRACTIONS)


def test_a_random_split_does_not_depend_on_the_findings(table):
    rows = "; ".join(f"f{n},{n},{n % 2},{'' if n % 3 else n % 2}" for n in range(30))
    path = table(f"image_id,patient_id,x,y; {rows}")
    names, splits = ids(*(f"f{n}" for n in range(30))), []
    for finding in ("x", "y"):
        examples = join(names, read_labels(path, (finding,)), fractions=(0.4, 0.3, 0.3))
        splits.append(dict(zip(examples.image_id, examples.split, strict=True)))
    assert len(splits[1]) == 10 and splits[1].items() <= splits[0].items()


# ---- patients


def test_unknown_patients_are_noted_where_the_split_is_given(table):
    found = read_labels(table("image_id,split,x; a,train,1; b,tune,0"))
    examples = join(ids("a", "b"), found)
    assert the_note(examples, "films whose patient is unknown")["count"] == 2
    assert examples.patient_id.tolist() == ["", ""]
    nowhere = ids("", "", "", "")
    notes = check_patients(ids("", "", "p", "p"), nowhere, ids("train", "tune", "train", "train"))
    assert [note["count"] for note in notes] == [2]
    assert check_patients(ids("q", "p"), ids("1", "1"), ids("train", "tune")) == []


@pytest.mark.parametrize(
    ("patient", "study", "message"),
    [
        (["", "", "p"], [*"112"], "1 studies, whose patients are unknown, .*: 1; expected"),
        (["p", "", "q"], [*"112"], "1 studies, whose patients are unknown"),
        (["007", "7", "8"], ["", "", ""], "1 patients have films .*: 007, 7; expected"),
    ],
)
def test_studies_and_misspelt_patients_in_two_splits_are_refused(patient, study, message):
    with pytest.raises(ValueError, match=message):
        check_patients(ids(*patient), ids(*study), ids("train", "tune", "tune"))


# ---- subgroups


@pytest.mark.parametrize(
    "column", ["age", "Patient Age", "PatientAge", "anchor_age", "AGE", "Age_at_study"]
)
def test_ages_are_cut_into_bands(column):
    for band, texts in {
        "0-17": "0 17 17.9 017Y 216D 030M 100W 3m",
        "18-39": "18 39 39.5 018Y",
        "40-59": "40 59 058Y",
        "60-79": "60 79",
        "80+": "80 91 120 089Y",
        "": "121 -1 411Y unknown 61X nan",
    }.items():
        values = ids("50", *texts.split())
        found, notes = group_values(column, values, values)
        assert found.tolist() == ["40-59", *[band] * len(texts.split())]
        assert [note["count"] for note in notes] == [6] * (band == "")
    with pytest.raises(ValueError, match=f"found no age in the column '{column}'"):
        group_values(column, ids("40-59", ""), ids("a", "b"))
    assert group_values(column, ids("", ""), ids("a", "b"))[0].tolist() == ["", ""]


def test_subgroups_come_from_the_labels_then_from_the_metadata(table):
    path = table("image_id,patient_id,split,x,Sex; a,1,train,1,F; b,1,train,0,F; c,2,tune,0,M")
    metadata = table("image_id,sex,ViewPosition; c,?,PA; a,?,AP; d,?,AP", "metadata.csv")
    found = read_labels(path, subgroups=("sex", "view position"))
    examples = join(ids(*"cba"), found, metadata_path=metadata)
    assert {name: values.tolist() for name, values in examples.groups.items()} == {
        "sex": ["M", "F", "F"],
        "view position": ["PA", "", "AP"],
    }
    assert the_note(examples, "films that are not in")["examples"] == ["b"]
    message = r"labels.csv .and no metadata_path is given. has no column 'view position'"
    with pytest.raises(ValueError, match=message):
        join(ids(*"cba"), found)
    with pytest.raises(ValueError, match=r"metadata.csv has no column 'race'"):
        join(ids(*"cba"), read_labels(path, subgroups=("race",)), metadata_path=metadata)


def test_metadata_of_patients_may_have_several_rows(table):
    path = table("image_id,subject_id,split,x; a,1,train,1; b,2,train,0; c,3,tune,0; d,3,tune,1")
    admissions = table(
        "subject_id,hadm_id,race; 3,10,X; 2,11,Y; 1,12,X; 3,13,Y; 2,14,Y; 1,15,; 9,16,Z; 9,17,X",
        "admissions.csv",
    )
    examples = join(ids(*"abcd"), read_labels(path, subgroups=("race",)), metadata_path=admissions)
    assert examples.groups["race"].tolist() == ["X", "Y", "", ""]
    note = the_note(examples, "differ in 'race'")
    assert (note["count"], note["examples"]) == (2, ["c", "d"])


def test_the_finest_ids_of_the_metadata_count(table):
    path = table("image_id,study_id,subject_id,split,x; a,s,1,train,1; b,t,1,train,0; c,u,2,tune,0")
    found = read_labels(path, subgroups=("g",))
    by_study = table("subject_id,study_id,g; 1,t,T; 1,s,S; 2,u,U", "study.csv")
    assert join(ids(*"abc"), found, metadata_path=by_study).groups["g"].tolist() == [*"STU"]
    by_film = table("study_id,dicom_id,g; s,a,A; u,c,C; t,b,B", "film.csv")
    assert join(ids(*"abc"), found, metadata_path=by_film).groups["g"].tolist() == [*"ABC"]


# ---- classes


CLASSES = (
    "image_id,split,good,flat,none,rare,late; a,train,1,0,,1,0; b,train,0,0,,0,1; "
    "c,tune,1,1,1,0,1; d,tune,0,0,0,0,0; e,test,1,1,1,1,1; f,test,0,0,0,0,; "
    "g,test,,1,,,; h,train,,0,,,"
)


def classes(table, findings):
    header, *rows = CLASSES.split("; ")
    rows = [f"{row},{row[0]}p,{row[0]}s,{row[0]}g" for row in rows]
    path = table("; ".join([f"{header},patient_id,study_id,group", *rows]))
    found = read_labels(path, findings, subgroups=("group",))
    return check_classes(join(ids(*"hagbcdef"), found), findings != ("all",))


def test_a_named_finding_needs_both_classes_in_train(table):
    with pytest.raises(ValueError, match=r"for 1 of 2 findings: flat .*train 0 of 3, tune 1 of 2"):
        classes(table, ("good", "flat"))
    with pytest.raises(ValueError, match=r"none .*train 0 of 0, tune 1 of 2, test 1 of 2"):
        classes(table, ("none", "good"))
    assert classes(table, ("good",)).findings == ("good",)


def test_among_all_findings_those_of_one_class_are_left_out(table):
    examples = classes(table, ("all",))
    assert examples.findings == ("good", "rare", "late")
    assert examples.image_id.tolist() == [*"abcdef"]
    assert examples.row.tolist() == [1, 3, 4, 5, 6, 7]
    assert examples.split.tolist() == ["train", "train", "tune", "tune", "test", "test"]
    for values, letter in (
        (examples.patient_id, "p"),
        (examples.study_id, "s"),
        (examples.groups["group"], "g"),
    ):
        assert values.tolist() == [f"{image_id}{letter}" for image_id in "abcdef"]
    label = examples.label.astype(int).tolist()
    assert label == [[1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert examples.mask.tolist() == [[True] * 3] * 5 + [[True, True, False]]
    what = "films without a known label of the findings that are left"
    assert examples.unmatched[-2:] == [(what, "h"), (what, "g")]
    notes = [what for what in counts(examples) if what.startswith("finding")]
    for note, words in zip(
        notes,
        (
            ["left out", ": flat "],
            ["left out", ": none "],
            ["temperature", "rare (positives of the known: train 1 of 2"],
            ["AUROC", "late", "test 1 of 1"],
        ),
        strict=True,
    ):
        assert all(word in note for word in words), note
