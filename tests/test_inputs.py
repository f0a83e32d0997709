"""Heads that know the record and the prior film, on films whose effects are planted."""

import numpy as np
import pandas as pd
import pytest
import running
from sklearn.metrics import roc_auc_score
from test_head_training import write_embeddings

import cxr_embeddings as cxr
from cxr_embeddings.heads import inputs

PATIENTS, DIM = 160, 16
KEPT = {"resamples": 30, "weight_decays": [0.01], "progress": False}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Films of a latent severity and of who the patient is, which hides it but for the prior film.

    The heart rate tells of the finding what no film does, and `noise` tells nothing. The numbers of
    studies fall with time.
    """
    folder = tmp_path_factory.mktemp("planted")
    random = np.random.default_rng(0)
    rows, vectors, shown = [], [], random.standard_normal((2, DIM))
    for patient in range(PATIENTS):
        who, before = 3 * random.normal(), None
        for k in range(3):
            severity, rate = random.normal(size=2)
            moved = "" if before is None else int(np.sign(round(severity - before)))
            before = severity
            vectors.append(np.array([severity + who, random.normal()]) @ shown)
            chance = 1 / (1 + np.exp(-0.6 * (severity + who) - 2 * rate))
            rows.append(
                {
                    "file": f"film_{patient:03d}{k}.png",
                    "subject_id": f"p{patient}",
                    "study_id": f"{patient:03d}{9 - k}",
                    "StudyDate": f"2180010{1 + k}",
                    "StudyTime": 93025.84,
                    "split": ("train", "train", "tune", "test")[patient % 4],
                    "heartrate": "" if random.random() < 0.1 else round(90 + 10 * rate, 2),
                    "noise": random.normal(),
                    "arrival": random.choice(["WALK IN", "AMBULANCE"]),
                    "Edema": int(random.random() < chance),
                    "edema_change": moved,
                }
            )
    table = pd.DataFrame(rows)
    names = [name.removesuffix(".png") for name in table["file"]]
    vectors = np.float32(vectors) + random.normal(0, 0.1, (len(rows), DIM)).astype(np.float32)
    write_embeddings(folder / "embeddings", names, vectors)
    table.drop(columns=["heartrate", "noise", "arrival"]).to_csv(folder / "labels.csv", index=False)
    apart = table.sample(frac=1, random_state=1)[["file", "heartrate", "noise", "arrival"]]
    apart.to_csv(folder / "record.csv", index=False)
    return folder


def train(folder, findings, **options):
    return cxr.train_head(
        folder / "embeddings", folder / "labels.csv", findings=findings, **KEPT | options
    )


@pytest.fixture(scope="module")
def with_record(planted):
    names = ["heartrate", "arrival"]
    return train(planted, "Edema", covariates=names, covariates_path=planted / "record.csv")


@pytest.fixture(scope="module")
def with_prior(planted):
    return train(planted, ["edema_change", "Edema"], prior="difference")


def test_film_and_record_are_better_than_each_alone(with_record):
    parts = with_record.metrics["parts"]
    assert [*parts] == ["film alone", "record alone"]
    for part in parts.values():
        found = part["less"]["findings"]["Edema"]
        assert found["low"] > 0
        assert part["auroc"]["Edema"]["value"] == found["other_auroc"]
    assert parts["record alone"]["auroc"]["Edema"]["low"] > 0.5
    assert "less that of record alone" in with_record.summary


@pytest.mark.slow
def test_a_useless_covariate_adds_nothing(planted):
    head = train(planted, "Edema", covariates=["noise"], covariates_path=planted / "record.csv")
    parts = head.metrics["parts"]
    found = parts["film alone"]["less"]["findings"]["Edema"]
    assert found["low"] <= 0 <= found["high"]
    table = pd.read_csv(planted / "labels.csv").merge(
        pd.read_csv(planted / "record.csv"), on="file"
    )
    test = table[table["split"] == "test"]
    known = roc_auc_score(test["Edema"], test["noise"])  # a head on one number ranks as it does
    found = parts["record alone"]["auroc"]["Edema"]
    assert min(abs(found["value"] - known), abs(found["value"] - 1 + known)) < 1e-9
    assert found["low"] < 0.5 < found["high"]


def test_the_record_is_joined_by_id(planted, with_record, tmp_path):
    """Values of other films, as a join by position would give, tell nothing."""
    table = pd.read_csv(planted / "record.csv", dtype=str)
    table["heartrate"] = np.roll(table["heartrate"], 7)
    table.to_csv(tmp_path / "rolled.csv", index=False)
    head = train(
        planted,
        "Edema",
        covariates=["heartrate", "arrival"],
        covariates_path=tmp_path / "rolled.csv",
    )
    low, high = (
        head.metrics["parts"]["record alone"]["auroc"]["Edema"][k] for k in ("low", "high")
    )
    assert low < 0.5 < high


@pytest.mark.parametrize("prior", ["difference", "concatenate"])
def test_changes_need_the_prior_film(planted, with_prior, prior):
    names = ["edema_change", "Edema"]
    head = with_prior if prior == "difference" else train(planted, names, prior=prior)
    part = head.metrics["parts"]["film alone"]["less"]["findings"]
    assert all(part[f"edema_change_{one}"]["low"] > 0.1 for one in ("not_improved", "worse"))
    assert head.metrics["changes"]["edema_change"]["kappa"]["low"] > 0.8
    assert "weighted kappa" in head.summary


def test_a_loaded_head_predicts_what_training_gave(planted, with_record, with_prior, tmp_path):
    given = {"covariates": planted / "record.csv"}, {"metadata": planted / "labels.csv"}
    for head, tables, logit in zip(
        (with_record, with_prior), given, ("Edema_logit", "edema_change_worse_logit"), strict=True
    ):
        head.report(tmp_path / logit)
        assert head.saved.card["card_version"] == 3
        found = cxr.load_head(tmp_path / logit).predict(planted / "embeddings", **tables)
        ours = head.experiment.predicted.set_index("image_id")[logit]
        theirs = found.set_index("image_id")[logit].loc[ours.index]
        np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    first = found["prior_days"].isna()
    assert first.sum() == PATIENTS and (found["prior_days"][~first] == 1).all()
    assert (found["edema_change_class"].isna() == first).all()
    kinds = [f"edema_change_{kind}_probability" for kind in ("improved", "stable", "worse")]
    np.testing.assert_allclose(found[kinds].sum(axis=1), 1)
    page = (tmp_path / logit / "report.html").read_text()
    assert "One patient over time" in page and "called stable" in page
    assert (tmp_path / logit / "figures" / "course.png").is_file()


def test_only_the_prior_of_the_patient_counts_and_without_one_it_is_zero(planted, with_prior):
    card, table = with_prior.saved.card, cxr.read_embeddings(planted / "embeddings")
    matrix, days, _ = inputs.for_prediction(
        card["inputs"], table.embedding, table.image_id, "none", None, planted / "labels.csv"
    )
    assert matrix.shape == (3 * PATIENTS, 2 * DIM + 2)
    embedding = table.embedding.reshape(PATIENTS, 3, DIM)
    difference = matrix[:, DIM : 2 * DIM].reshape(PATIENTS, 3, DIM)
    assert not difference[:, 0].any() and np.isnan(days.reshape(PATIENTS, 3)[:, 0]).all()
    np.testing.assert_allclose(difference[:, 1:], np.diff(embedding, axis=1), rtol=1e-5)
    assert card["width"] == DIM == len(with_prior.saved.spread.centre)


def test_studies_have_the_prior_study(planted):
    names = ["edema_change", "Edema"]
    head = train(planted, names, prior="concatenate", per_study="max")
    assert head.metrics["changes"]["edema_change"]["kappa"]["low"] > 0.8


@pytest.mark.slow
def test_hidden_layers_and_curves_have_all_parts(planted, tmp_path):
    head = train(
        planted, "Edema", covariates=["heartrate"], covariates_path=planted / "record.csv",
        preset="mlp", hidden=[8], epochs=3, seeds=[0], sizes=["64", "all"], draws=1,
    )  # fmt: skip
    for part in head.metrics["parts"].values():
        assert [point["size"] for point in part["data_efficiency"]["mean"]] == [64, 240]
    head.report(tmp_path / "out")
    assert "Edema, record alone" in (tmp_path / "out" / "report.html").read_text()


def test_a_head_is_evaluated_with_the_tables_that_it_needs(planted, with_record, tmp_path):
    labels = pd.read_csv(planted / "labels.csv").assign(subject_id=lambda t: "b" + t.subject_id)
    labels = labels[labels["split"] == "test"]
    labels.assign(file="b/" + labels["file"]).to_csv(tmp_path / "labels.csv", index=False)
    record = pd.read_csv(planted / "record.csv")
    record.assign(file="b/" + record["file"]).to_csv(tmp_path / "record.csv", index=False)
    table = cxr.read_embeddings(planted / "embeddings")
    write_embeddings(tmp_path / "e", [f"b/{n[7:-4]}" for n in table.image_id], table.embedding)
    given = {"covariates_path": tmp_path / "record.csv", "resamples": 30, "local": 0.0}
    found = with_record.evaluate(tmp_path / "e", tmp_path / "labels.csv", **given)
    ours = with_record.metrics["results"]["findings"]["Edema"]["auroc"]["value"]
    assert found.metrics["results"]["findings"]["Edema"]["auroc"]["value"] == pytest.approx(ours)
    with pytest.raises(cxr.InputError, match="the card of the head says what it needs"):
        with_record.evaluate(tmp_path / "e", tmp_path / "labels.csv", covariates=["noise"])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "expected a table of these films with heartrate, arrival"),
        ({"covariates": "labels.csv"}, "has no column 'heartrate'"),
        ({"covariates": "swapped.csv"}, "'heartrate', which is of numbers, is no number for"),
    ],
)
def test_predict_asks_for_the_table_and_refuses_another(planted, with_record, tables, message):
    swapped = pd.read_csv(planted / "record.csv").assign(heartrate="AMBULANCE")
    swapped.to_csv(planted / "swapped.csv", index=False)
    tables = {name: planted / file for name, file in tables.items()}
    with pytest.raises(cxr.InputError, match=message):
        with_record.predict(planted / "embeddings", **tables)


def test_pages_and_services_refuse_heads_that_see_more_than_films(
    planted, with_record, with_prior, tmp_path
):
    from cxr_embeddings.prediction import check_films_suffice

    with pytest.raises(ValueError, match=r"the patient's record \(heartrate, arrival\)"):
        check_films_suffice(with_record.saved.card, "the service")
    with_prior.save(tmp_path / "head")
    given = "--embeddings", planted / "embeddings", "--head", tmp_path / "head"
    done = running.call("explore", *given, "--output", tmp_path / "out")
    assert done.returncode == 1 and "needs the patient's prior film" in done.stderr
    with pytest.raises(cxr.InputError, match="expected a table of these films with StudyDate"):
        with_prior.predict(planted / "embeddings")
    plain = train(planted, "Edema")
    assert plain.saved.card["card_version"] == 2 and "parts" not in plain.metrics
    with pytest.raises(cxr.InputError, match="sees films alone"):
        plain.predict(planted / "embeddings", metadata=planted / "labels.csv")


def test_settings_that_cannot_be_followed(planted):
    for options, message in (
        ({"prior": "next"}, "expected one of none, difference, concatenate"),
        ({"covariates_path": planted / "record.csv"}, "no covariates; expected the columns"),
        ({"covariates": ["Edema", "Edema"]}, "names a column twice"),
        ({"prior": "difference", "metadata_path": planted / "record.csv"}, "no column 'StudyDate'"),
    ):
        with pytest.raises(cxr.InputError, match=message):
            train(planted, "Edema", **options)
