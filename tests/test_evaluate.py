"""A head on another set: its recalibration, what is refused, the command and its report."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import running
import test_head_training as of_training
from scipy import special
from sklearn.metrics import roc_auc_score

import cxr_embeddings as cxr
from cxr_embeddings.heads import predictions
from cxr_embeddings.heads.statistics import bootstrap, calibration, metrics

SHIFT = 1.5  # of the log-odds at the other place


def away(folder, name="b", shift=SHIFT, identity=of_training.IDENTITY, films=600, **columns):
    """Another place: the same findings by the same rule, at other odds; two films a patient."""
    own = np.random.default_rng(0)  # as make_data draws its films, and then its rule
    own.standard_normal((of_training.FILMS, of_training.DIM))
    rule = own.standard_normal((of_training.DIM, 2))
    generator = np.random.default_rng(1)
    embedding = generator.standard_normal((films, of_training.DIM)).astype(np.float32)
    odds = 4 * embedding @ rule / np.sqrt(of_training.DIM) + shift
    label = (generator.random((films, 2)) < special.expit(odds)).astype(int)
    names = [f"{name}_{i:03d}" for i in range(films)]
    of_training.write_embeddings(folder / name, names, embedding, identity)
    table = {
        "image_id": [f"{one}.png" for one in names],
        "patient": [f"{name}{i // 2}" for i in range(films)],
        "Edema": label[:, 0],
        "Mass <b>": label[:, 1],
    }
    pd.DataFrame(table | columns).to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A head that knows its films in the folder `head`, and the other place `b`."""
    folder = tmp_path_factory.mktemp("places")
    of_training.make_data(folder)
    of_training.train(folder).report(folder / "head")
    of_training.train(folder, weight_decays=[10.0]).save(folder / "other")
    away(folder)
    return folder


def evaluate(places, labels="b.csv", embeddings="b", head="head", **options):
    options = {"patient_column": "patient", "resamples": 40} | options
    return cxr.load_head(places / head).evaluate(places / embeddings, places / labels, **options)


def test_a_planted_line_is_recovered_and_undone():
    slopes, intercepts = [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        logit = random.normal(0, 2, 500)
        label = (random.random(500) < special.expit(-1 + 0.5 * logit)).astype(int)
        intercept, slope = calibration.fit_line(logit, label)
        intercepts.append(intercept)
        slopes.append(slope)
    assert np.mean(slopes) == pytest.approx(0.5, abs=0.03)
    assert np.mean(intercepts) == pytest.approx(-1, abs=0.05)
    draws, rows = bootstrap.draw(np.arange(500).astype(str), 30, 0), np.arange(500)
    lines = calibration.line(draws, rows, logit, label)
    moved = calibration.moved(*lines, (intercept, slope))
    again = calibration.line(draws, rows, intercept + slope * logit, label)
    for one, other, ideal in zip(moved, again, (1, 0), strict=True):
        assert one.value == pytest.approx(ideal, abs=1e-4)
        np.testing.assert_allclose(one.of_resamples, other.of_resamples, atol=1e-4)


def test_recalibration_mends_what_other_patients_show():
    random = np.random.default_rng(0)
    truth = random.normal(-1, 1.5, (4000, 1))
    label = (random.random((4000, 1)) < special.expit(truth)).astype(np.float32)
    logit, known = 1 + 2 * truth, np.ones_like(label, bool)
    patient = np.array([f"p{i // 2}" for i in range(4000)], object)
    parts = [metrics.Scored(logit[i::2], label[i::2], known[i::2], patient[i::2]) for i in (0, 1)]
    chosen = {"Edema": metrics.Chosen(1.0, {"Youden's J on tune": 0.5}, None)}
    found = metrics.evaluate(["Edema"], None, parts[0], chosen, {}, local=parts[1], resamples=200)
    found = found["findings"]["Edema"]
    local, came = found["recalibration"], found["calibration"]["after"]
    assert local["slope"] == pytest.approx(0.5, abs=0.06)
    assert local["intercept"] == pytest.approx(-0.5, abs=0.12)
    assert came["slope"]["high"] < 0.6 and came["intercept"]["high"] < -0.2
    assert local["after"]["slope"]["low"] < 1 < local["after"]["slope"]["high"]
    assert local["after"]["intercept"]["low"] < 0 < local["after"]["intercept"]["high"]
    assert local["after"]["ece"]["value"] < came["ece"]["value"] / 3
    assert found["operating_points"][0]["tune"] is None  # its films are not known


def test_a_head_at_another_place(places, tmp_path):
    found = evaluate(places, compare=places / "other")
    counts = found.metrics["counts"]
    assert [*counts] == ["local", "test"]
    assert counts["local"]["patients"] == 60 and counts["test"]["patients"] == 240
    predicted = found.experiment.predicted
    patients = predicted.groupby("split")["patient_id"].agg(set)
    assert not patients["local"] & patients["test"]
    for name in of_training.FINDINGS:
        result = found.metrics["results"]["findings"][name]
        test = predicted[predicted["split"] == "test"]
        auroc = roc_auc_score(test[f"{name}_label"].astype(int), test[f"{name}_logit"])
        assert result["auroc"]["value"] == pytest.approx(auroc)
        came, local = result["calibration"]["after"], result["recalibration"]
        assert came["intercept"]["low"] > 0.5  # positives are more frequent than where it learnt
        assert local["after"]["intercept"]["value"] < came["intercept"]["value"] / 2
        assert result["operating_points"][0]["tune"]  # of its own films
        compared = found.metrics["comparison"]["findings"][name]
        assert compared["n"] == len(test) and compared["difference"] > -0.1
    assert "calibration before and after recalibration" in found.summary
    found.report(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "metrics.json", "predictions.csv", "left_out.csv", "figures"}
    assert "After recalibration" in (tmp_path / "out/report.html").read_text()
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == found.metrics
    with pytest.raises(cxr.FileError, match="exists already"):
        found.report(tmp_path / "out")
    again = evaluate(places, compare=tmp_path / "out")  # by its predictions
    assert again.metrics["comparison"]["findings"]["Edema"]["difference"] == 0


def test_films_and_patients_that_the_head_knows_are_refused(places, tmp_path):
    with pytest.raises(cxr.InputError, match="trained or chosen on 120 of these"):
        evaluate(places, "labels.csv", "embeddings", local=0.0)
    found = evaluate(places, "labels.csv", "embeddings", test=["test"], local=0.0)
    own = cxr.load_head(places / "head").metrics["results"]["findings"]["Edema"]["auroc"]["value"]
    assert found.metrics["results"]["findings"]["Edema"]["auroc"]["value"] == pytest.approx(own)
    known = predictions.read(places / "head").predicted.patient_id.iloc[0]
    away(tmp_path, "c", films=60, patient=[known, *(f"c{i}" for i in range(59))])
    with pytest.raises(cxr.InputError, match="patients of 1 of them, such as /films/c_000"):
        evaluate(places, tmp_path / "c.csv", tmp_path / "c", local=0.0)
    head = cxr.load_head(places / "head")
    head.save(tmp_path / "bare")
    said = evaluate(places, head=tmp_path / "bare").summary
    assert "warning: " in said and "does not say which films it was trained on" in said


def test_films_are_known_without_their_folders_and_patients_without_zeros(places, tmp_path):
    shutil.copytree(places / "head", tmp_path / "moved")
    file = tmp_path / "moved/training_films.csv"
    films = pd.read_csv(file, dtype=str)
    films["image_id"] = films["image_id"].str.removeprefix("/films/")
    films["patient_id"] = "00" + films["patient_id"].str.removeprefix("p")
    films.to_csv(file, index=False)
    pd.read_csv(places / "labels.csv").drop(columns="patient").to_csv(tmp_path / "l.csv")
    options = {"head": tmp_path / "moved", "local": 0.0}
    with pytest.raises(cxr.InputError, match="trained or chosen on 120 of these"):
        evaluate(places, tmp_path / "l.csv", "embeddings", patient_column="", **options)
    known = films.query("split == 'tune'")["patient_id"].iloc[0].removeprefix("00")
    away(tmp_path, "n", films=60, patient=[known, *(f"n{i}" for i in range(59))])
    with pytest.raises(cxr.InputError, match="patients of 1 of them, such as /films/n_000"):
        evaluate(places, tmp_path / "n.csv", tmp_path / "n", **options)


def test_heads_of_films_and_of_studies_are_not_compared(places, tmp_path):
    shutil.copytree(places / "other", tmp_path / "studies")
    card = tmp_path / "studies/card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"per_study": "mean"}))
    with pytest.raises(cxr.InputError, match=r"per_study=mean, and .* none; expected the same"):
        evaluate(places, compare=tmp_path / "studies")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"findings": "Fracture"}, "does not score Fracture; expected findings among Edema, Mass"),
        ({"local": 1.0}, "local is 1.0; expected a share"),
        ({"subgroup": ["sex"]}, "evaluate has no option subgroup: did you mean subgroups"),
        ({"test": ["holdout"]}, "found no split in"),
        ({"compare": "gone"}, "no predictions.csv in .*gone"),
    ],
)
def test_what_cannot_be_done_is_said(places, options, said):
    with pytest.raises(cxr.Error, match=said):
        evaluate(places, **options)


def test_other_embeddings_and_labels_are_refused(places, tmp_path):
    away(tmp_path, "d", films=60, identity=of_training.IDENTITY | {"weights_digest": "other"})
    with pytest.raises(cxr.InputError, match="of another encoder than the head"):
        evaluate(places, tmp_path / "d.csv", tmp_path / "d")
    away(tmp_path, "e", films=60, Edema=1, **{"Mass <b>": 0})
    with pytest.raises(cxr.InputError, match="no finding of Edema, Mass <b> has both classes"):
        evaluate(places, tmp_path / "e.csv", tmp_path / "e")
    table = pd.read_csv(places / "b.csv").drop(columns="Edema")
    table.to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(cxr.InputError, match="has no finding 'Edema'"):
        evaluate(places, tmp_path / "f.csv")
    table = pd.read_csv(places / "b.csv").drop(columns="patient")
    table.to_csv(tmp_path / "g.csv", index=False)
    found = evaluate(places, tmp_path / "g.csv", patient_column="")
    assert [*found.metrics["counts"]] == ["local", "test"]
    assert found.metrics["counts"]["local"]["films"] == 0
    assert "recalibration" not in found.metrics["results"]["findings"]["Edema"]
    assert "films of unknown patients: nothing is recalibrated" in found.summary


def test_the_command(places, tmp_path):
    words = [f"--head={places}/head", f"--embeddings={places}/b", f"--labels={places}/b.csv",
             "--config.labels.patient_column=patient", "--config.resamples=20"]  # fmt: skip
    printed = running.call("evaluate", *words)
    assert printed.returncode == 0, printed.stderr
    assert "nothing is written" in printed.stdout and "AUROC on test" in printed.stdout
    whole = running.call("evaluate", *words, "--findings=Edema", f"--output={tmp_path}/out")
    assert whole.returncode == 0 and f"in {tmp_path}/out" in whole.stdout, whole.stderr
    again = running.call("evaluate", *words, f"--output={tmp_path}/out")
    assert again.returncode == 1 and "exists already" in again.stderr
