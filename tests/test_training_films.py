"""Films of several stores, their labels and their patients."""

from types import SimpleNamespace

import numpy as np
import pytest

from cxr_embeddings.configs.schema_pretraining import TrainingFilmsConfig
from cxr_embeddings.input_pipeline.store import dataset, random_access
from cxr_embeddings.pretraining import training_films


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("image_id,patient_id", "q"), "all stores together: 1 patients .*: q; .*store's name"),
        (("image_id,study_id", "q"), "all stores together: 1 studies, whose patients .*: q; "),
        (("image_id,patient_id", "s"), None),
    ],
)
def test_patients_of_all_stores_are_checked_together(tmp_path, monkeypatch, columns, message):
    names, (ids, patient) = np.array([*"abcd"], object), columns
    places = SimpleNamespace(image_id=names, store=np.array([0, 0, 1, 1]))
    monkeypatch.setattr(dataset, "open_store", lambda path: SimpleNamespace(folder=path))
    monkeypatch.setattr(random_access, "find_films", lambda stores: places)
    tables = ("a,p,train,1\nb,q,tune,0", f"c,{patient},train,0\nd,r,tune,0")
    paths = tuple(str(tmp_path / f"{n}.csv") for n in range(2))
    for path, rows in zip(paths, tables, strict=True):
        with open(path, "w") as stream:
            stream.write(f"{ids},split,abnormal\n{rows}\n")
    config = TrainingFilmsConfig(stores=("/one", "/two"), labels=paths)
    if message:
        with pytest.raises(ValueError, match=message):
            training_films.read(config, (), lambda *_: None)
    else:
        films = training_films.read(config, (), lambda *_: None)
        assert films.label.tolist() == [[1], [0], [0], [0]]


@pytest.fixture
def two_stores(tmp_path, monkeypatch):
    """Films a to d of one store, e to h of another, whose tables have other columns."""
    places = SimpleNamespace(image_id=np.array([*"abcdefgh"], object), store=np.arange(8) // 4)
    monkeypatch.setattr(dataset, "open_store", lambda path: SimpleNamespace(folder=path))
    monkeypatch.setattr(random_access, "find_films", lambda stores: places)
    tables = {
        "children": "image_id,split,pneumonia,sex\na,train,1,1\nb,train,0,0\nc,tune,,1\nd,tune,0,",
        "adults": "image_id,split,Pneumonia,Edema\ne,train,0,1\nf,train,,0\ng,tune,1,-1\nh,tune,0,",
    }
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tuple(str(tmp_path / f"{name}.csv") for name in tables)


def read(labels, *findings, more=(), **changes):
    config = TrainingFilmsConfig(
        stores=("/one", "/two"), labels=labels, findings=findings, **changes
    )
    said = []
    return training_films.read(config, more, said.append), said


def test_findings_that_a_table_lacks_are_unknown_of_its_films(two_stores):
    films, said = read(two_stores, "Edema", "Pneumonia", more=("sex",))
    assert films.label.tolist() == [
        *([-1, 1], [-1, 0], [-1, -1], [-1, 0]),
        *([1, 0], [0, -1], [-1, 1], [-1, 0]),
    ]
    assert films.answers[:, 2].tolist() == [1, 0, 1, -1, -1, -1, -1, -1]
    # c has an answer and no finding: it is not trained on
    assert films.rows("train").tolist() == [0, 1, 4, 5] and films.rows("tune").tolist() == [3, 6, 7]
    assert "train        4 films; Edema 1, not 1; Pneumonia 1, not 2" in said


def test_stores_are_compared_apart_and_taken_as_often_as_is_said(two_stores):
    films, _ = read(two_stores, "Edema", "Pneumonia", repeat=(1, 3))
    apart = films.by_store()
    np.testing.assert_array_equal(
        apart[:4], np.pad(films.label[:4], ((0, 0), (0, 2)), constant_values=-1)
    )
    np.testing.assert_array_equal(
        apart[4:], np.pad(films.label[4:], ((0, 0), (2, 0)), constant_values=-1)
    )
    assert films.epoch().tolist() == [0, 1, *3 * [4], *3 * [5]]
    with pytest.raises(ValueError, match=r"input.repeat is \(2,\); expected a number of 1 or more"):
        read(two_stores, "Pneumonia", repeat=(2,))
