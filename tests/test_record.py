"""Columns of the patient's record as numbers, and films in the order of time."""

import numpy as np
import pytest
from label_tables import ids

from cxr_embeddings.heads.labels import priors, record
from cxr_embeddings.heads.labels.matching import FilmIds


def films(patients, studies):
    names = ids(*(f"f{i}" for i in range(len(patients))))
    return FilmIds(names, names, ids(*studies), ids(*patients))


def find(patients, studies, dates, times, view=None):
    taken = priors.moments(ids(*dates), ids(*times))
    view = None if view is None else ids(*view)
    found, notes = priors.find(films(patients, studies), taken, view)
    pairs = {}
    for film, prior in zip(found.of.tolist(), found.film.tolist(), strict=True):
        pairs.setdefault(film, []).append(prior)
    return pairs, found, {note["what"].split(",")[0]: note["count"] for note in notes}


def test_numbers_are_standardised_by_train_and_missing_ones_are_its_mean():
    column = record.learn("heartrate", ids("80", "100", "", " 120", "NA"))
    assert column == {
        "name": "heartrate", "categories": None, "mean": 100.0, "indicator": True,
        "scale": pytest.approx(np.std([80, 100, 120])),
    }  # fmt: skip
    found = record.encode(column, ids("100", "", "1e2", "116.33"))
    np.testing.assert_allclose(found, [[0, 0], [0, 1], [0, 0], [1, 0]], atol=1e-3)
    assert record.width([column]) == 2 and not record.unlike_train(column, ids("1", ""))
    whole = record.learn("age", ids("1", "3"))
    (note,) = record.unlike_train(whole, ids("2", "", ""))
    assert note["count"] == 2 and "mean of train" in note["what"]


def test_texts_are_one_hot_with_the_categories_of_train():
    column = record.learn("sex", ids("F", "M", "F ", ""))
    assert column["categories"] == ["F", "M"] and column["indicator"]
    found = record.encode(column, ids("M", "F", "", "X"))
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    (note,) = record.unlike_train(column, ids("M", "X", "X", ""))
    assert note["count"] == 2 and "such as X" in note["what"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["", "NA", "nan"], "empty for all 3 films"),
        (["7", "7", "7"], "is 7 for every film"),
        (["M", "M"], "is M for every film"),
        (["80", "90", "100", "high"], r"is no number for 1 films \('high'\)"),
        (["80", "90", "-inf"], "infinite, or beyond 1e.30 for 1 films"),
        ([f"text {i}" for i in range(21)], "21 different texts"),
    ],
)
def test_columns_that_cannot_serve_are_named(values, message):
    with pytest.raises(ValueError, match=f"'heartrate'.*{message}"):
        record.learn("heartrate", ids(*values))


def test_a_column_of_numbers_refuses_text_of_other_films():
    column = record.learn("heartrate", ids("80", "90"))
    with pytest.raises(ValueError, match=r"no number for 2 films \('F', 'M'\)"):
        record.encode(column, ids("F", "M", "80"))


def test_ids_with_two_values_are_refused_and_columns_are_found(table):
    facts = record.read(table("subject_id,Heart Rate; 1,80; 1,80; 2,90"), ["heart_rate"])
    assert facts.values["heart_rate"].tolist() == ["80", "90"]
    with pytest.raises(ValueError, match=r"1 ids of .* have several values of 'age': 1; expected"):
        record.read(table("subject_id,age; 1,80; 1,81; 2,90"), ["age"])
    with pytest.raises(ValueError, match="no column 'pulse'"):
        record.read(table("subject_id,age; 1,80"), ["pulse"])


def test_films_are_in_the_order_of_date_and_time_not_of_study_numbers():
    patients, studies = ["a"] * 4 + ["b"], ["9", "7", "8", "8", "1"]
    dates = ["21800506", "2180-05-06", "21800601", "21800601", "21800101"]
    times = ["93025.84", "183025", "1", "000001.5", "120000"]
    pairs, found, told = find(patients, studies, dates, times)
    assert pairs == {1: [0], 2: [1], 3: [1]}
    assert found.days[1] == pytest.approx(9 / 24, abs=1e-4)
    assert np.isnan(found.days[[0, 4]]).all()
    assert str(found.taken[0]) == "2180-05-06T09:30:25"
    assert told == {"films with an embedding and an earlier study of the patient that has one": 3}
    shuffled = np.array([3, 4, 0, 2, 1])
    again, *_ = find(*(np.array(one)[shuffled] for one in (patients, studies, dates, times)))
    assert {shuffled[i]: shuffled[j].tolist() for i, j in again.items()} == pairs


def test_prior_films_are_of_the_same_view_where_there_are_any():
    patients, dates, times = (
        "a" * 5,
        ["21800506"] * 3 + ["21800507"] * 2,
        ["1"] * 3 + ["120000"] * 2,
    )
    views = ["AP", "AP", "LL", "AP", "PA"]
    pairs, *_ = find(patients, "11122", dates, times, views)
    assert pairs == {3: [0, 1], 4: [0, 1, 2]}
    assert find(patients, "11122", dates, times)[0] == {3: [0, 1, 2], 4: [0, 1, 2]}


def test_studies_at_one_second_are_not_prior_to_each_other_and_unknown_films_to_none():
    pairs, found, told = find(
        ["a", "a", "a", "a", ""], "12345", ["21800506"] * 2 + ["21800508", "", "21800509"],
        ["120000"] * 5,
    )  # fmt: skip
    assert pairs == {2: [0, 1]} and np.isnat(found.taken[[3, 4]]).all()
    assert told["studies at the same second as another of the patient"] == 2
    assert told["films of an unknown patient or time"] == 2
    _, _, told = find("aa", "11", ["21800506"] * 2, ["120000", "120500"])
    assert told["studies whose films differ in time"] == 1


def test_films_that_were_all_taken_after_midnight_have_their_seconds():
    dates = ["21800506", "21800507"]
    _, found, _ = find("aa", "12", dates, ["512.93", "12.0"])
    assert found.taken.astype(str).tolist() == ["2180-05-06T00:05:12", "2180-05-07T00:00:12"]


@pytest.mark.parametrize(
    ("dates", "times", "message"),
    [
        (["21800506", "May"], ["120000"] * 2, "1 films have a StudyDate .* 'May'"),
        (["21800506", "21801301"], ["120000"] * 2, "1 films have a StudyDate"),
        (["21800506"] * 2, ["0930", "120000"], "1 films have a StudyTime without seconds"),
        (["21800506"] * 2, ["930", "1215"], "2 films have a StudyTime without seconds"),
        (["21800506"] * 2, ["126100", "noon"], "2 films have a StudyTime that cannot be read"),
        (["21800506", "21800510"], ["120000"] * 2, "films of 1 studies lie more than a day apart"),
        (["", ""], ["120000"] * 2, "the patient and the time of none of 2 films"),
    ],
)
def test_times_that_cannot_be_are_refused(dates, times, message):
    with pytest.raises(ValueError, match=message):
        find("aa", "11", dates, times)


def test_a_film_with_two_dates_is_refused(table):
    path = table("dicom_id,StudyDate,StudyTime; 1,21800101,120000; 1,21800102,120000")
    with pytest.raises(ValueError, match=r"1 ids of .* several values of 'StudyDate'"):
        priors.read(path)
    path = table("dicom_id,StudyDate,StudyTime,ViewPosition; 1,21800101,120000,AP")
    assert [*priors.read(path).values] == ["StudyDate", "StudyTime", "ViewPosition"]
