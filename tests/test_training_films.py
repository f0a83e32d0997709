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
    tables = ("a,p,train,1\nb,q,tune,0", f"c,{patient},train,1\nd,r,tune,0")
    paths = tuple(str(tmp_path / f"{n}.csv") for n in range(2))
    for path, rows in zip(paths, tables, strict=True):
        with open(path, "w") as stream:
            stream.write(f"{ids},split,abnormal\n{rows}\n")
    config = TrainingFilmsConfig(stores=("/one", "/two"), labels=paths)
    if message:
        with pytest.raises(ValueError, match=message):
            training_films.read(config, lambda *_: None)
    else:
        films = training_films.read(config, lambda *_: None)
        assert films.label.tolist() == [1, 0, 1, 0]
