"""Heads by the Python face, and the command that trains them."""

import csv
import dataclasses
import json
import os
import shutil

import numpy as np
import pandas as pd
import published
import pytest
import running
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import cxr_embeddings as cxr
from cxr_embeddings import head_training
from cxr_embeddings.configs import schema
from cxr_embeddings.heads import predictions
from cxr_embeddings.heads.statistics.metrics import Scored
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS, EmbeddingRecord
from cxr_embeddings.input_pipeline.embeddings.table import LeftOut

FILMS, DIM = 180, 24
FINDINGS = ("Edema", "Mass <b>")
IDENTITY = published.IDENTITY | {"trained": True, "dtype": "float32"}
MLP = {"preset": "mlp", "hidden": [8], "epochs": 3, "seeds": [0]}
SPLITS = ["test" if i % 3 == 2 else "tune" if i % 9 < 2 else "train" for i in range(FILMS // 2)]


def make_data(folder):
    """Embeddings of 180 films of 90 patients in two shards, and a table of two findings."""
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((FILMS, DIM)).astype(np.float32)
    odds = 4 * embedding @ generator.standard_normal((DIM, 2)) / np.sqrt(DIM)
    label = (generator.random((FILMS, 2)) < 1 / (1 + np.exp(-odds))).astype(int)
    names = [f"film_{i:03d}" for i in range(FILMS)]
    write_embeddings(folder / "embeddings", names, embedding)
    columns = {
        "image_id": [f"{name}.png" for name in names],
        "patient": [f"p{i // 2}" for i in range(FILMS)],
        "split": np.repeat(SPLITS, 2),
        "sex": generator.choice(["F", "M"], FILMS),
        "Edema": label[:, 0],
        "Mass <b>": label[:, 1],
    }
    table = pd.DataFrame(columns).sample(frac=1, random_state=0).set_index("image_id")
    table.to_csv(folder / "labels.csv")
    return embedding, table


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A linear probe, and its report in the folder `out`, in which it had been saved."""
    folder = tmp_path_factory.mktemp("whole")
    embedding, table = make_data(folder)
    head = train(folder, subgroups=["sex"])
    head.save(folder / "out")
    assert {p.name for p in (folder / "out").iterdir()} == {"head", "card.json", "metrics.json"}
    head.report(folder / "out")  # the same head: its folder is filled up
    return folder, embedding, table, head


def write_embeddings(folder, names, embedding, identity=IDENTITY):
    folder.mkdir()
    records = [
        EmbeddingRecord(f"/films/{name}.png", vector)
        for name, vector in zip(names, embedding, strict=True)
    ]
    half = len(records) // 2
    for i, some in enumerate((records[:half], records[half:])):
        file = folder / f"embeddings-{i:05d}-of-00002.tfrecord"
        file.write_bytes(FORMATS["tfrecord"].encode(some))
    if identity is not None:
        manifest = {"identity": identity, "runs": [], "complete": True}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def train(folder, labels="labels.csv", **options):
    """A head; where shapes and the number of weight decays are equal, nothing is compiled anew."""
    given = {"findings": FINDINGS, "patient_column": "patient", "resamples": 40}
    given |= {"weight_decays": [0.01]} | options
    return cxr.train_head(folder / "embeddings", folder / labels, **given)


def test_a_linear_probe_is_as_good_as_scikit_learns(whole):
    _, embedding, table, head = whole
    assert head.findings == FINDINGS and head.metrics["split"] == "test"
    counts = head.metrics["counts"]
    assert sum(counts[s]["films"] for s in ("train", "tune", "test")) == FILMS
    assert {"F", "M"} <= head.metrics["results"]["subgroups"]["sex"].keys()

    table = table.loc[[f"film_{i:03d}.png" for i in range(FILMS)]]
    train, test = ((table.split == s).to_numpy() for s in ("train", "test"))
    scaled = (embedding - embedding[train].mean(0)) / embedding[train].std(0)
    for finding in FINDINGS:
        model = LogisticRegression(C=1 / (0.01 * train.sum()), tol=1e-6, max_iter=1000)
        model.fit(scaled[train], table[finding][train])
        theirs = roc_auc_score(table[finding][test], model.decision_function(scaled[test]))
        ours = head.metrics["results"]["findings"][finding]["auroc"]["value"]
        assert ours == pytest.approx(theirs, abs=0.002) and ours > 0.7
        assert f"{ours:.3f}" in head.summary


def test_what_a_report_holds(whole):
    folder, _, table, head = whole
    out = folder / "out"
    assert {p.name for p in out.iterdir()} == {
        "head", "card.json", "metrics.json", "predictions.csv", "training_films.csv",
        "left_out.csv", "report.html", "figures",
    }  # fmt: skip
    assert "&lt;b&gt;" in (out / "report.html").read_text()
    assert json.loads((out / "metrics.json").read_text()) == head.metrics
    written = predictions.read(out).predicted
    for finding in FINDINGS:
        found = written.query("split == 'test'")
        ours = head.metrics["results"]["findings"][finding]["auroc"]["value"]
        auroc = roc_auc_score(found[f"{finding}_label"], found[f"{finding}_logit"])
        assert auroc == pytest.approx(ours, abs=1e-12)
    predicted = pd.read_csv(out / "predictions.csv", dtype=str)
    assert set(predicted.split) == {"tune", "test"}
    for row in predicted.itertuples():  # each label beside its own film
        assert table.loc[os.path.basename(row.image_id), "Edema"] == int(row.Edema_label)
        assert str(np.float32(row.Edema_logit)) == row.Edema_logit


def test_a_head_predicts_what_training_gave_also_when_loaded(whole, tmp_path):
    folder, *_ = whole
    head = train(folder, **MLP, weight_decays=[0.1, 0.01])
    table = cxr.read_embeddings(folder / "embeddings")
    predicted = head.predict(table)
    assert [*predicted] == ["image_id", "ood_distance", "out_of_distribution",
                            *(f"{f}_{w}" for f in FINDINGS
                            for w in ("logit", "probability", "positive")), "reason"]  # fmt: skip
    assert len(predicted) == FILMS and predicted["Edema_logit"].dtype == np.float32
    ours = head.experiment.predicted.set_index("image_id")
    by_id = predicted.set_index("image_id")
    for finding in FINDINGS:
        column = f"{finding}_probability"
        np.testing.assert_allclose(by_id.loc[ours.index, column], ours[column], atol=1e-6)
    np.testing.assert_allclose(by_id.ood_distance[ours.index], ours.ood_distance, rtol=1e-5)
    assert by_id.out_of_distribution[ours.index[ours.split == "tune"]].sum() == 1
    threshold = head.saved.card["thresholds"]["Edema"]["Youden's J on tune"]
    positive = predicted.Edema_probability >= threshold
    np.testing.assert_array_equal(predicted.Edema_positive == 1, positive)

    head.save(tmp_path / "head")
    loaded = cxr.load_head(tmp_path / "head")
    pd.testing.assert_frame_equal(loaded.predict(folder / "embeddings"), predicted)
    assert (loaded.metrics, loaded.summary) == (head.metrics, head.summary)
    with pytest.raises(cxr.InputError, match="was loaded, and its report was made when it was"):
        loaded.report(tmp_path / "other")
    with pytest.raises(cxr.InputError, match=r"it is .*report.html"):
        cxr.load_head(folder / "out").report(tmp_path / "other")


def test_films_without_an_embedding_have_a_reason(whole):
    folder, _, _, head = whole
    table = cxr.read_embeddings(folder / "embeddings")
    left_out = LeftOut("/films/gone.png", "unreadable", "No such file")
    predicted = head.predict(dataclasses.replace(table, rejected=[left_out], folders=()))
    row = predicted.iloc[-1]
    assert len(predicted) == FILMS + 1 and row.image_id == "/films/gone.png"
    assert row.reason == "failed, unreadable: No such file" and pd.isna(row.Edema_positive)
    assert predicted.Edema_logit.dtype == np.float32 and predicted.reason[0] == ""
    rows = list(csv.DictReader(predictions.encode(predicted, "NA").decode().splitlines()))
    called = [row["Edema_positive"] for row in rows]
    assert {*called[:-1]} <= {"0", "1"} and called[-1] == rows[-1]["Edema_logit"] == "NA"


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({**IDENTITY, "weights_digest": "xyz"}, "another encoder.*\n.*'abc' of the head, 'xyz'"),
        ({**IDENTITY, "preset": "imagenet"}, "another encoder"),
        ({**IDENTITY, "preset_version": 2}, "preset_version: 1 of the head, 2 of the embeddings"),
        (None, "with a manifest.json, these have no manifest.json"),
    ],
)
def test_predict_refuses_embeddings_of_another_encoder(whole, tmp_path, identity, message):
    folder, embedding, _, head = whole
    write_embeddings(tmp_path / "other", ["a", "b"], embedding[:2], identity)
    with pytest.raises(cxr.InputError, match=message):
        head.predict(tmp_path / "other")
    arguments = [f"--head={folder}/out", f"--embeddings={tmp_path}/other"]
    run = running.call("predict", *arguments, f"--output={tmp_path}/p.csv")
    assert run.returncode == 1 and not (tmp_path / "p.csv").exists()


def test_another_width_and_damaged_heads_are_refused(whole, tmp_path):
    folder, embedding, _, head = whole
    write_embeddings(tmp_path / "narrow", ["a", "b"], embedding[:2, :5])
    with pytest.raises(cxr.InputError, match="have 5 numbers, the head was trained on 24"):
        head.predict(tmp_path / "narrow")
    spread = head.saved.spread
    spread = spread._replace(scale=spread.scale * np.nan)
    dataclasses.replace(head, saved=head.saved._replace(spread=spread)).save(tmp_path / "nan")
    with pytest.raises(cxr.InputError, match="numbers that are not finite: train the head again"):
        cxr.load_head(tmp_path / "nan")
    shutil.copytree(folder / "out", tmp_path / "head")
    for file in (tmp_path / "head" / "head").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(cxr.InputError, match="cannot be read"):
        cxr.load_head(tmp_path / "head")
    (tmp_path / "head" / "card.json").write_text("{}")
    with pytest.raises(cxr.InputError, match="is not the card of a head: train"):
        cxr.load_head(tmp_path / "head")
    with pytest.raises(cxr.FileError, match=r"no card.json in"):
        cxr.load_head(tmp_path)


def test_two_heads_are_compared_on_the_same_films(whole):
    folder, _, _, head = whole
    other = train(folder, weight_decays=[30.0], compare=folder / "out")
    compared = other.metrics["comparison"]
    assert compared["test"] == "DeLong by patient"
    found = other.metrics["results"]["findings"]
    assert found["Edema"]["auroc"]["method"] == "score interval by patient"
    assert "AUROC on 60 films of test less that of out (DeLong by patient)" in other.summary
    for finding, result in compared["findings"].items():
        first = head.metrics["results"]["findings"][finding]["auroc"]["value"]
        assert result["other_auroc"] == pytest.approx(first, abs=1e-12)
        mine = found[finding]["auroc"]["value"]
        assert result["difference"] == pytest.approx(mine - first, abs=1e-12)
        both = f"{result['auroc']:.3f} - {result['other_auroc']:.3f} = {result['difference']:+.3f}"
        interval = f"({result['low']:+.3f} to {result['high']:+.3f}; p {result['p']:.3g}"
        assert f"{both}  {interval}" in other.summary


def test_saturated_heads_are_compared_by_their_logits(tmp_path):
    """Probabilities of 1 are all alike, and would rank the films otherwise than the logits do."""
    names = np.array([f"f{i}" for i in range(8)], object)
    logit = np.float32([[41], [55], [38], [70], [60], [39], [45], [-3]])
    label, mask = np.float32([[0], [1], [0], [1], [0], [1], [1], [0]]), np.ones((8, 1), bool)
    ids = {name: names if name == "image_id" else np.full(8, "test") for name in predictions.IDS}
    written = predictions.table(ids, ["x"], logit, {"x": 0.05}, label, mask)
    assert (written["x_probability"] == 1).sum() == 7
    (tmp_path / "predictions.csv").write_bytes(predictions.encode(written))
    other = predictions.read(tmp_path)
    arguments = ("test", names, ["x"], Scored(logit, label, mask, names))
    found = predictions.compare(other, *arguments)["findings"]["x"]
    assert found["difference"] == 0 and found["auroc"] == pytest.approx(0.75)
    with pytest.raises(ValueError, match="has no logits of y"):
        predictions.compare(other, "test", names, ["y"], arguments[-1])


def test_a_head_chosen_on_our_test_films_is_not_compared(whole, tmp_path):
    folder, *_ = whole
    head = train(folder, tune=["test"], test=["tune"])
    written = predictions.encode(head.experiment.predicted)
    (tmp_path / "predictions.csv").write_bytes(written)
    with pytest.raises(cxr.InputError, match=r"60 of the films .* not in the split test of"):
        train(folder, compare=str(tmp_path))
    with pytest.raises(cxr.FileError, match=r"no predictions.csv in .*nowhere"):
        train(folder, compare=str(folder / "nowhere"))


def test_a_candidate_that_diverges_is_named_and_not_chosen(whole):
    folder, *_ = whole
    card = train(folder, **MLP, weight_decays=[0.1, 1e30], patience=0).saved.card
    assert card["chosen"]["weight_decay"] == 0.1 and "1 of 2 candidates diverged" in card["note"]
    assert card["candidates"][0]["tune_auroc"] is None
    with pytest.raises(cxr.InputError, match="all diverged; choose a smaller"):
        train(folder, **MLP, weight_decays=[1e29, 1e30], patience=0)


def test_data_efficiency_ends_at_the_whole_training(whole):
    found = train(whole[0], sizes=["all"], draws=4).metrics
    (point,) = found["data_efficiency"]["mean"]
    assert (point["size"], point["draws"]) == (80, 1)
    auroc = found["results"]["mean"]["auroc"]["value"]
    assert point["auroc"]["value"] == pytest.approx(auroc, abs=1e-3)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_predictions_of_studies(tmp_path, how):
    """Two films a study in MIMIC-CXR's folders: their embeddings are merged, by predict, too.

    Of max, the table has the first film of each study only: the other one counts all the same.
    """
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((FILMS, DIM)).astype(np.float32)
    studies = [f"p{10_000_000 + i // 2}/s{50_000_000 + i // 2}" for i in range(FILMS)]
    names = [f"{study}/film_{i}" for i, study in enumerate(studies)]
    write_embeddings(tmp_path / "embeddings", names, embedding)
    pairs = embedding.reshape(-1, 2, DIM)
    merged = pairs.mean(1) if how == "mean" else pairs.max(1)
    edema = (merged[:, 0] > np.median(merged[:, 0])).astype(int)
    columns = {
        "subject_id": [10_000_000 + i for i in range(FILMS // 2)],
        "study_id": [50_000_000 + i for i in range(FILMS // 2)],
        "split": SPLITS,
        "Edema": edema,
        "No Edema": 1 - edema,
    }
    if how == "max":
        columns["dicom_id"] = [f"film_{2 * i}" for i in range(FILMS // 2)]
    pd.DataFrame(columns).to_csv(tmp_path / "labels.csv", index=False)
    head = train(tmp_path, findings=["Edema", "No Edema"], patient_column="", per_study=how)
    predicted = head.predict(tmp_path / "embeddings").set_index("image_id").Edema_probability
    assert list(predicted.index) == sorted(set(studies))
    for row in head.experiment.predicted.itertuples():
        key = f"p{row.patient_id}/s{row.study_id}"
        assert predicted[key] == pytest.approx(row.Edema_probability, abs=1e-6)
        assert row.Edema_label == edema[int(row.study_id) - 50_000_000]
    write_embeddings(tmp_path / "other", ["a", "b"], embedding[:2])
    with pytest.raises(cxr.InputError, match="2 of 2 films are of no known study, such as /films"):
        head.predict(tmp_path / "other")


def test_studies_of_a_table_become_one_example(whole):
    folder, *_ = whole
    head = train(folder, per_study="mean", study_column="patient")
    counts = head.metrics["counts"]
    assert sum(counts[s]["films"] for s in ("train", "tune", "test")) == FILMS // 2
    with pytest.raises(cxr.InputError, match=r"train the head with labels.per_study=none"):
        head.predict(folder / "embeddings")


def test_the_options_of_the_face_are_the_settings_of_the_schema():
    ours = head_training.HeadOptions.__annotations__
    settings = {}
    for config in (schema.LabelsConfig, schema.TrainingConfig, schema.HeadConfig):
        settings |= {f.name: f.type for f in dataclasses.fields(config)}
    rest = {"path", "findings", "embeddings", "labels", "training", "output"}
    assert ours.keys() == settings.keys() - rest
    for name, hint in ours.items():
        hint = hint.__forward_arg__.replace(" | os.PathLike[str]", "")
        hint = hint.replace("Sequence[", "tuple[").replace("]", ", ...]")
        assert getattr(settings[name], "__name__", None) == hint or str(settings[name]) == hint


def test_findings_of_one_class_in_a_split(whole):
    folder, _, table, _ = whole
    table = table.assign(Flat=0)
    table.loc[table.split == "test", "Edema"] = 0
    table.to_csv(folder / "one_class.csv")
    found = train(folder, "one_class.csv", findings="all", subgroups=["sex"]).metrics
    assert any("one class only in train" in note["what"] for note in found["notes"])
    found = found["results"]["findings"]
    assert tuple(found) == FINDINGS and "0 positive" in found["Edema"]["undefined"]
    assert found["Mass <b>"]["auroc"]
    table.loc[table.split == "tune", [*FINDINGS]] = 0
    table.to_csv(folder / "one_class.csv")
    with pytest.raises(cxr.InputError, match="no finding has both classes in tune"):
        train(folder, "one_class.csv")


def test_bad_embeddings_are_left_out_and_listed(whole, tmp_path, capsys):
    shutil.copytree(whole[0] / "embeddings", tmp_path / "embeddings")
    shutil.copy(whole[0] / "labels.csv", tmp_path)
    records = [EmbeddingRecord("/films/bad.png", np.full(DIM, np.nan, np.float32))]
    (tmp_path / "embeddings" / "more.npz").write_bytes(FORMATS["npz"].encode(records))
    (tmp_path / "embeddings" / "cut.tfrecord").write_bytes(b"123")
    head = train(tmp_path, progress=True)
    said = capsys.readouterr().out
    assert "2 left out" in said and head.summary in said and len(head.experiment.left_out) == 2


def test_a_folder_that_holds_something_else_is_refused(whole, tmp_path):
    _, _, _, head = whole
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for write in (head.save, head.report):
        with pytest.raises(cxr.FileError, match="exists already"):
            write(tmp_path)
        with pytest.raises(cxr.FileError, match=r"cannot be written \(.*\): choose another folder"):
            write(tmp_path / "file" / "out")
    with pytest.raises(cxr.InputError, match="expected a local path"):
        head.save("gs://bucket/head")
    assert {p.name for p in tmp_path.iterdir()} == {"card.json", "file"}
