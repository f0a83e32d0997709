"""What the explorer gives to take home is what `train_head.py` makes of the same labels."""

import csv
import json

import numpy as np
import pandas as pd
import published
import pytest
import running

import cxr_embeddings as cxr
from cxr_embeddings.explorer.label_file import LabelFile
from cxr_embeddings.explorer.take_home import split, take_home
from cxr_embeddings.labelled_films import read_labelled_films

FILMS = 90
IDS = [f"p{10_000_000 + i // 2}/s{50_000_000 + i}/film_{i:03d}.dcm" for i in range(FILMS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Embeddings of 90 films of 45 patients, and labels of 70 of them made in the explorer."""
    folder = tmp_path_factory.mktemp("films")
    published.make_source(folder / "embeddings", IDS, trained=True, dtype="float32", shape=[6])
    table = cxr.read_embeddings(folder / "embeddings")
    labels = LabelFile(folder / "mine.csv", table.image_id, ["Edema"])
    generator = np.random.default_rng(0)
    for film in generator.permutation(FILMS)[:70]:
        shown = table.embedding[film, 0] + 0.5 * generator.standard_normal() > 0
        said = "positive" if shown else "negative"
        labels.say(table.image_id[film], "Edema", said, chosen="random", reader="Ann")
    return folder


@pytest.fixture
def films(folder):
    table = cxr.read_embeddings(folder / "embeddings")
    return table, LabelFile(folder / "mine.csv", table.image_id, ["Edema"])


def maps(table):
    return {"pca": table.embedding[:, :2], "umap": table.embedding[:, 2:4]}


@pytest.mark.slow
def test_it_is_the_head_of_train_head(folder, films, tmp_path):
    table, labels = films
    taken = take_home(tmp_path / "home", table, labels, ["Edema"], maps(table), seed=3)
    written = {name: path.relative_to(tmp_path / "home") for name, path in taken.files.items()}
    assert {name: str(path) for name, path in written.items()} == {
        "labels": "labels.csv", "head": "head", "report": "head/report.html", "map": "map.parquet",
    }  # fmt: skip
    assert "Edema" in taken.files["report"].read_text()
    run = running.call(
        "train_head", f"--embeddings={folder}/embeddings", f"--labels={taken.files['labels']}",
        "--findings=Edema", f"--output={tmp_path}/other", "--config.seed=3",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    other = cxr.load_head(tmp_path / "other")
    for again in (other, cxr.load_head(taken.files["head"])):
        assert again.metrics == taken.head.metrics
        pd.testing.assert_frame_equal(again.predict(table), taken.predicted)
    cards = [
        json.loads((one / "card.json").read_text())
        for one in (tmp_path / "other", taken.files["head"])
    ]
    for card in cards:
        del card["config"]
    assert cards[0] == cards[1]

    with open(taken.files["labels"], newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert len(rows) == 70 and {row["split"] for row in rows} == {"train", "tune", "test"}
    for row in rows:
        said = labels.said(row["image_id"], "Edema")
        assert row["Edema"] == {"positive": "1", "negative": "0"}[said]
    of_patient = pd.DataFrame(rows).groupby("patient_id")["split"].nunique()
    assert len(of_patient) > 30 and (of_patient == 1).all()
    found = pd.read_parquet(taken.files["map"])
    assert found.image_id.tolist() == table.image_id.tolist()
    assert np.array_equal(found[["pca_x", "pca_y", "umap_x"]], table.embedding[:, :3])
    assert np.array_equal(found.Edema_logit, taken.predicted.Edema_logit)
    assert (found.Edema != "").sum() == 70


def test_the_held_out_part_is_test_and_a_given_table_counts(films, tmp_path):
    table, _ = films
    labels = ["1" if row[0] > 0 else "0" for row in table.embedding]
    given = tmp_path / "given.csv"
    lines = (f"{name},{label}" for name, label in zip(table.image_id, labels, strict=True))
    given.write_text("\n".join(["image_id,Edema", *lines]) + "\n")
    mine = LabelFile(
        tmp_path / "mine.csv", table.image_id, (), read_labelled_films(table.image_id, str(given))
    )
    mine.say(table.image_id[0], "Edema", "unknown", chosen="looked_up")
    held_out = np.arange(FILMS) // 2 % 3 == 0
    taken = take_home(tmp_path / "home", table, mine, ["Edema"], {}, held_out)
    rows = pd.read_csv(taken.files["labels"], dtype=str).set_index("image_id")
    assert len(rows) == FILMS - 1 and table.image_id[0] not in rows.index
    assert ((rows.split == "test") == held_out[1:]).all()
    assert taken.head.metrics["split"] == "test"
    assert taken.head.metrics["counts"]["test"]["films"] == held_out[1:].sum()
    assert len(pd.read_parquet(taken.files["map"])) == FILMS


def test_what_cannot_be_taken_home_leaves_nothing(films, tmp_path):
    table, labels = films
    few = LabelFile(tmp_path / "few.csv", table.image_id, ["Edema"])
    with pytest.raises(cxr.InputError, match="no film is labelled for Edema"):
        take_home(tmp_path / "home", table, few, ["Edema"], {})
    few.say(table.image_id[0], "Edema", "positive", chosen="random")
    with pytest.raises(cxr.InputError):
        take_home(tmp_path / "home", table, few, ["Edema"], {})
    assert not (tmp_path / "home").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("mine")
    with pytest.raises(cxr.FileError, match="exists already"):
        take_home(tmp_path / "home", table, labels, ["Edema"], {})
    (tmp_path / "plain").write_text("")
    with pytest.raises(cxr.FileError):
        take_home(tmp_path / "plain" / "home", table, labels, ["Edema"], {})


def test_the_split():
    patient = [f"p{i // 2}" if i < 60 else "" for i in range(80)]
    edema = ["1" if i % 16 == 0 else "0" for i in range(80)]
    table = pd.DataFrame(
        {"image_id": [f"{i}" for i in range(80)], "patient_id": patient, "Edema": edema}
    )
    for seed in range(5):
        found = split(table, ["Edema"], (0.6, 0.2, 0.2), seed)
        assert np.array_equal(found, split(table, ["Edema"], (0.6, 0.2, 0.2), seed))
        order = np.random.default_rng(seed).permutation(80)
        assert np.array_equal(
            split(table.iloc[order], ["Edema"], (0.6, 0.2, 0.2), seed), found[order]
        )
        for part in ("train", "tune", "test"):
            assert {*table.Edema[found == part]} == {"0", "1"}
        assert (found[:60:2] == found[1:60:2]).all()
    table.loc[table.index[2:], "Edema"] = "0"
    table.loc[40, "Edema"] = "1"  # the films of two patients have it
    found = split(table, ["Edema"], (0.6, 0.2, 0.2), 0)
    assert {*found[(table.Edema == "1").to_numpy()]} == {"train", "tune"}
