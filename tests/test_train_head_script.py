import dataclasses
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_embeddings.configs import head as presets
from cxr_embeddings.configs.schema import (
    EmbeddingsConfig,
    HeadConfig,
    HeadOutputConfig,
    LabelsConfig,
)
from cxr_embeddings.heads import predictions, saved
from cxr_embeddings.heads.statistics.metrics import Scored
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS, EmbeddingRecord
from cxr_embeddings.scripts import predict, train_head

FILMS, DIM = 180, 24
IDENTITY = {
    "weights_digest": "abc",
    "trained": True,
    "projection": None,
    "variant": "b0",
    "embedding": "head",
    "resolution": 224,
    "preset": "native",
    "mean": [0.0],
    "std": [1.0],
    "dtype": "float32",
}


@pytest.fixture
def data(tmp_path):
    """Embeddings of 180 films of 90 patients in two shards, and a table of two findings."""
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((FILMS, DIM)).astype(np.float32)
    odds = 4 * embedding @ generator.standard_normal((DIM, 2)) / np.sqrt(DIM)
    label = (generator.random((FILMS, 2)) < 1 / (1 + np.exp(-odds))).astype(int)
    names = [f"film_{i:03d}" for i in range(FILMS)]
    write_embeddings(tmp_path / "embeddings", names, embedding)
    table = pd.DataFrame(
        {
            "image_id": [f"{name}.png" for name in names],
            "patient": [f"p{i // 2}" for i in range(FILMS)],
            "split": ["test" if i % 3 == 2 else "tune" if i % 9 < 2 else "train"
                      for i in np.arange(FILMS) // 2],
            "sex": generator.choice(["F", "M"], FILMS),
            "Edema": label[:, 0],
            "Mass <b>": label[:, 1],
        }
    ).sample(frac=1, random_state=0)  # fmt: skip
    table.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path, embedding, table.set_index("image_id")


def write_embeddings(folder, names, embedding, identity=IDENTITY):
    folder.mkdir()
    records = [
        EmbeddingRecord(f"/films/{name}.png", vector)
        for name, vector in zip(names, embedding, strict=True)
    ]
    half = len(records) // 2
    for i, some in enumerate((records[:half], records[half:])):
        (folder / f"embeddings-{i:05d}-of-00002.tfrecord").write_bytes(
            FORMATS["tfrecord"].encode(some)
        )
    if identity is not None:
        manifest = {"identity": identity, "runs": [], "complete": True}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def config(folder, name="out", preset="linear", **labels):
    return HeadConfig(
        EmbeddingsConfig((str(folder / "embeddings"),)),
        LabelsConfig(
            **{
                "path": str(folder / "labels.csv"),
                "findings": ("Edema", "Mass <b>"),
                "patient_column": "patient",
                **labels,
            }
        ),
        dataclasses.replace(presets.PRESETS[preset]),
        HeadOutputConfig(str(folder / name)),
        resamples=40,
    )


def test_a_linear_probe_is_as_good_as_scikit_learns(data, capsys):
    folder, embedding, table = data
    settings = config(folder, subgroups=("sex",))
    settings.training.weight_decays = (0.01,)
    assert train_head.train_head(settings) == 0
    out = folder / "out"
    assert {p.name for p in out.iterdir()} == {
        "head", "card.json", "metrics.json", "predictions.csv", "left_out.csv", "report.html",
        "figures",
    }  # fmt: skip
    measured = json.loads((out / "metrics.json").read_text())
    assert measured["split"] == "test"
    assert sum(measured["counts"][s]["films"] for s in ("train", "tune", "test")) == FILMS
    assert {"F", "M"} <= measured["results"]["subgroups"]["sex"].keys()

    order = [f"film_{i:03d}.png" for i in range(FILMS)]
    table = table.loc[order]
    train, test = ((table.split == s).to_numpy() for s in ("train", "test"))
    scaled = (embedding - embedding[train].mean(0)) / embedding[train].std(0)
    for finding in ("Edema", "Mass <b>"):
        model = LogisticRegression(C=1 / (0.01 * train.sum()), tol=1e-6, max_iter=1000)
        model.fit(scaled[train], table[finding][train])
        theirs = roc_auc_score(table[finding][test], model.decision_function(scaled[test]))
        ours = measured["results"]["findings"][finding]["auroc"]["value"]
        assert ours == pytest.approx(theirs, abs=0.002) and ours > 0.7
        found = predictions.read(out).query("split == 'test'")
        assert roc_auc_score(found[f"{finding}_label"], found[f"{finding}_logit"]) == pytest.approx(
            ours, abs=1e-12
        )
    predicted = pd.read_csv(out / "predictions.csv")
    assert set(predicted.split) == {"tune", "test"}
    for row in predicted.itertuples():  # each label beside its own film
        assert table.loc[os.path.basename(row.image_id), "Edema"] == row.Edema_label
    assert "&lt;b&gt;" in (out / "report.html").read_text()
    assert "in " + str(out) in capsys.readouterr().out


def test_labels_are_joined_by_id_whatever_the_order(data):
    folder, _, table = data
    assert train_head.train_head(config(folder)) == 0
    table.sample(frac=1, random_state=5).reset_index().to_csv(folder / "labels.csv", index=False)
    assert train_head.train_head(config(folder, "again")) == 0
    one, other = (json.loads((folder / n / "metrics.json").read_text()) for n in ("out", "again"))
    assert one == other


def test_predict_gives_what_training_gave(data):
    folder, _, _ = data
    settings = config(folder, preset="mlp")
    settings.training = dataclasses.replace(
        settings.training, hidden=(8,), epochs=3, seeds=(0,), weight_decays=(0.1,)
    )
    train_head.train_head(settings)
    run_predict(head=folder / "out", embeddings=folder / "embeddings",
                output=folder / "p.csv")  # fmt: skip
    predicted = pd.read_csv(folder / "p.csv").set_index("image_id")
    assert len(predicted) == FILMS
    ours = pd.read_csv(folder / "out" / "predictions.csv").set_index("image_id")
    for finding in ("Edema", "Mass <b>"):
        column = f"{finding}_probability"
        np.testing.assert_allclose(predicted.loc[ours.index, column], ours[column], atol=1e-6)
    card = json.loads((folder / "out" / "card.json").read_text())
    threshold = card["thresholds"]["Edema"]["Youden's J on tune"]
    positive = predicted.Edema_probability >= threshold
    np.testing.assert_array_equal(predicted.Edema_positive == 1, positive)


def run_predict(**arguments):
    assert predict.predict(**{name: str(value) for name, value in arguments.items()}) == 0


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({**IDENTITY, "weights_digest": "xyz"}, "another encoder.*\n.*'abc' of the head, 'xyz'"),
        ({**IDENTITY, "preset": "imagenet"}, "another encoder"),
        ({**IDENTITY, "preset_version": 2}, "preset_version: 1 of the head, 2 of the embeddings"),
        (None, "with a manifest.json, these are without a"),
    ],
)
def test_predict_refuses_embeddings_of_another_encoder(data, identity, message):
    folder, embedding, _ = data
    train_head.train_head(config(folder))
    write_embeddings(folder / "other", ["a", "b"], embedding[:2], identity)
    with pytest.raises(ValueError, match=message):
        run_predict(head=folder / "out", embeddings=folder / "other",
                    output=folder / "p.csv")  # fmt: skip
    assert not (folder / "p.csv").exists()


def test_predict_refuses_another_width_and_damaged_heads(data):
    folder, embedding, _ = data
    train_head.train_head(config(folder))
    write_embeddings(folder / "narrow", ["a", "b"], embedding[:2, :5])
    arguments = dict(head=folder / "out", output=folder / "p.csv")
    with pytest.raises(ValueError, match="have 5 numbers, the head was trained on 24"):
        run_predict(embeddings=folder / "narrow", **arguments)
    for file in (folder / "out" / "head").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        run_predict(embeddings=folder / "embeddings", **arguments)
    (folder / "out" / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="is no card of a head: train"):
        saved.load(folder / "out")


def test_two_heads_are_compared_on_the_same_films(data, capsys):
    folder, _, _ = data
    train_head.train_head(config(folder))
    settings = config(folder, "other")
    settings.training.weight_decays = (30.0,)
    settings.compare = str(folder / "out")
    train_head.train_head(settings)
    measured = json.loads((folder / "other" / "metrics.json").read_text())
    compared = measured["comparison"]
    assert compared["test"] == "DeLong by patient"
    method = measured["results"]["findings"]["Edema"]["auroc"]["method"]
    assert method == "score interval by patient"
    first = json.loads((folder / "out" / "metrics.json").read_text())["results"]["findings"]
    for finding, found in compared["findings"].items():
        assert found["other_auroc"] == pytest.approx(first[finding]["auroc"]["value"], abs=1e-6)
        mine = measured["results"]["findings"][finding]["auroc"]["value"]
        assert found["difference"] == pytest.approx(mine - found["other_auroc"], abs=1e-6)
    said = capsys.readouterr().out
    assert "AUROC on 60 films of test less that of out (DeLong by patient)" in said
    for found in compared["findings"].values():
        both = f"{found['auroc']:.3f} - {found['other_auroc']:.3f} = {found['difference']:+.3f}"
        interval = f"({found['low']:+.3f} to {found['high']:+.3f}; p {found['p']:.3g}"
        assert f"{both}  {interval}" in said


@pytest.mark.parametrize("few", [None, "positives", "negatives"])
def test_few_films_of_a_class_on_tune_are_warned_of(capsys, few):
    many = {"films": 40, "patients": 20, "films_of_unknown_patients": 0}
    many |= {"positives": {"Edema": 20}, "negatives": {"Edema": 20}}
    tune = many | ({few: {"Edema": 9}} if few else {})
    train_head.report_counts({"train": many, "tune": tune, "test": tune}, [])
    warning = f"warning: tune has fewer than 10 films of one class for Edema (9 {few}): thresholds"
    said = capsys.readouterr().out
    assert said.count("warning") == bool(few) and (warning in said) == bool(few)


def test_saturated_heads_are_compared_by_their_logits(tmp_path):
    """Probabilities of 1 are all alike, and would rank the films otherwise than the logits do."""
    names = np.array([f"f{i}" for i in range(8)], object)
    logit = np.float32([[41], [55], [38], [70], [60], [39], [45], [-3]])
    label, mask = np.float32([[0], [1], [0], [1], [0], [1], [1], [0]]), np.ones((8, 1), bool)
    ids = {name: names if name == "image_id" else np.full(8, "test") for name in predictions.IDS}
    written = predictions.table(ids, ["x"], logit, {"x": 0.05}, label, mask)
    assert (written["x_probability"] == 1).sum() == 7
    written.to_csv(tmp_path / "predictions.csv", index=False)
    other = predictions.read(tmp_path)
    arguments = ("out", "test", names, ["x"], Scored(logit, label, mask, names))
    found = predictions.compare(other, *arguments)["findings"]["x"]
    assert found["difference"] == 0 and found["auroc"] == pytest.approx(0.75)
    with pytest.raises(ValueError, match="out has no logits, and probabilities of 0 or 1"):
        predictions.compare(other.drop(columns="x_logit"), *arguments)


def test_a_head_chosen_on_our_test_films_is_not_compared(data):
    folder, _, _ = data
    train_head.train_head(config(folder, tune=("test",), test=("tune",)))
    settings = config(folder, "other")
    settings.compare = str(folder / "out")
    with pytest.raises(ValueError, match=r"60 of the films .* not in the split test of out"):
        train_head.train_head(settings)
    settings.compare = str(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no predictions.csv in .*nowhere"):
        train_head.train_head(settings)
    assert not (folder / "other").exists() and not list(folder.glob(".other*"))


def test_a_candidate_that_diverges_is_named_and_not_chosen(data):
    folder, _, _ = data
    settings = config(folder, preset="mlp")
    settings.training = dataclasses.replace(
        settings.training, hidden=(8,), epochs=3, seeds=(0,), weight_decays=(0.1, 1e30), patience=0
    )
    train_head.train_head(settings)
    card = json.loads((folder / "out" / "card.json").read_text())
    assert card["chosen"]["weight_decay"] == 0.1 and "1 of 2 candidates diverged" in card["note"]
    assert card["candidates"][0]["tune_auroc"] is None
    settings.output.path = str(folder / "second")
    settings.training.weight_decays = (1e30,)
    with pytest.raises(ValueError, match="the training diverged; choose a smaller"):
        train_head.train_head(settings)


def test_balanced_weights_leave_probabilities_where_they_belong(data):
    folder, _, table = data
    generator = np.random.default_rng(3)
    table["Edema"] = np.where(generator.random(FILMS) < 0.75, 0, table["Edema"])
    table.reset_index().to_csv(folder / "labels.csv", index=False)
    for name, weights in (("out", "none"), ("balanced", "balanced")):
        settings = config(folder, name)
        settings.training = dataclasses.replace(
            settings.training, class_weights=weights, weight_decays=(1.0,)
        )
        train_head.train_head(settings)
        predicted = pd.read_csv(folder / name / "predictions.csv").Edema_probability
        card = json.loads((folder / name / "card.json").read_text())
        unscaled = expit(logit(predicted) * card["temperatures"]["Edema"])
        assert unscaled.mean() == pytest.approx(table.Edema.mean(), abs=0.03)


def test_data_efficiency_grows_with_the_labels(data):
    folder, _, _ = data
    settings = config(folder)
    settings.sizes, settings.draws = ("8", "...", "all"), 4
    settings.training.weight_decays = (0.1,)
    train_head.train_head(settings)
    found = json.loads((folder / "out" / "metrics.json").read_text())
    curve = found["data_efficiency"]["mean"]
    assert [point["size"] for point in curve][:4] == [8, 16, 32, 64]
    assert curve[0]["auroc"]["value"] < curve[-1]["auroc"]["value"] - 0.05
    whole = found["results"]["mean"]["auroc"]["value"]
    assert curve[-1]["auroc"]["value"] == pytest.approx(whole, abs=1e-3)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_predictions_of_studies(tmp_path, how):
    """Two films a study in MIMIC-CXR's folders: their embeddings are merged, in predict.py too.

    Of max, the table has the first film of each study only: the other one counts all the same.
    """
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((FILMS, DIM)).astype(np.float32)
    studies = [f"p{10_000_000 + i // 4}/s{50_000_000 + i // 2}" for i in range(FILMS)]
    names = [f"{study}/film_{i}" for i, study in enumerate(studies)]
    write_embeddings(tmp_path / "embeddings", names, embedding)
    pairs = embedding.reshape(-1, 2, DIM)
    merged = pairs.mean(1) if how == "mean" else pairs.max(1)
    edema = (merged[:, 0] > np.median(merged[:, 0])).astype(int)
    columns = {
        "subject_id": [10_000_000 + i // 2 for i in range(FILMS // 2)],
        "study_id": [50_000_000 + i for i in range(FILMS // 2)],
        "Edema": edema,
    }
    if how == "max":
        columns["dicom_id"] = [f"film_{2 * i}" for i in range(FILMS // 2)]
    pd.DataFrame(columns).to_csv(tmp_path / "labels.csv", index=False)
    settings = config(tmp_path, findings=("Edema",), patient_column="", per_study=how,
                      fractions=(0.5, 0.25, 0.25))  # fmt: skip
    train_head.train_head(settings)
    run_predict(head=tmp_path / "out", embeddings=tmp_path / "embeddings",
                output=tmp_path / "p.csv")  # fmt: skip
    predicted = pd.read_csv(tmp_path / "p.csv").set_index("image_id").Edema_probability
    assert list(predicted.index) == sorted(set(studies))
    ours = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"study_id": str})
    for row in ours.itertuples():
        key = f"p{row.patient_id}/s{row.study_id}"
        assert predicted[key] == pytest.approx(row.Edema_probability, abs=1e-6)
        assert row.Edema_label == edema[int(row.study_id) - 50_000_000]
    write_embeddings(tmp_path / "other", ["a", "b"], embedding[:2])
    with pytest.raises(ValueError, match="2 of 2 films are of no known study, such as /films/a"):
        run_predict(head=tmp_path / "out", embeddings=tmp_path / "other",
                    output=tmp_path / "q.csv")  # fmt: skip


def test_studies_of_a_table_become_one_example(data):
    folder, _, _ = data
    settings = config(folder, per_study="mean", study_column="patient", not_mentioned="ignore")
    train_head.train_head(settings)
    found = json.loads((folder / "out" / "metrics.json").read_text())
    assert sum(found["counts"][s]["films"] for s in ("train", "tune", "test")) == FILMS // 2
    with pytest.raises(ValueError, match=r"train it with labels.per_study=none"):
        run_predict(head=folder / "out", embeddings=folder / "embeddings",
                    output=folder / "p.csv")  # fmt: skip


def test_without_a_test_split_the_figures_are_of_tune_and_say_so(data, capsys):
    folder, _, _ = data
    train_head.train_head(config(folder, test=("none",)))
    assert "there is no test split" in capsys.readouterr().out
    assert json.loads((folder / "out" / "metrics.json").read_text())["split"] == "tune"
    assert "no test split" in (folder / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"findings": ("Edma",)}, "Edma.*Edema"),
        ({"path": "missing.csv"}, "missing.csv"),
        ({"per_study": "median"}, "per_study is 'median'"),
    ],
)
def test_wrong_labels_are_refused_before_anything_is_written(data, labels, message):
    folder, _, _ = data
    with pytest.raises((ValueError, OSError), match=message):
        train_head.train_head(config(folder, **labels))
    assert not (folder / "out").exists() and not list(folder.glob(".out*"))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; expected one of lbfgs, adamw, lars"),
        ({"hidden": (8,)}, "lbfgs, which trains linear probes"),
        ({"weight_decays": (0.0,)}, "may have no optimum"),
        ({"seeds": ()}, "seeds is"),
        ({"seeds": (1, 1)}, r"seeds is \(1, 1\); expected each once"),
        ({"weight_decays": (1.0, float("inf"))}, "expected finite ones"),
    ],
)
def test_wrong_settings_are_refused(data, training, message):
    folder, _, _ = data
    settings = config(folder)
    settings.training = dataclasses.replace(settings.training, **training)
    with pytest.raises(ValueError, match=message):
        train_head.train_head(settings)


def test_one_class_in_a_split(data):
    folder, _, table = data
    table.loc[table.split == "train", "Edema"] = 0
    table.reset_index().to_csv(folder / "labels.csv", index=False)
    with pytest.raises(ValueError, match=r"one class only in train.*Edema"):
        train_head.train_head(config(folder))
    assert train_head.train_head(config(folder, findings=("all",))) == 0
    found = json.loads((folder / "out" / "metrics.json").read_text())
    assert list(found["results"]["findings"]) == ["Mass <b>"]
    assert any("one class only in train" in note["what"] for note in found["notes"])


def test_one_class_in_tune_or_test_is_counted(data):
    folder, _, table = data
    table.loc[table.split == "test", "Edema"] = 0
    table.reset_index().to_csv(folder / "labels.csv", index=False)
    train_head.train_head(config(folder))
    found = json.loads((folder / "out" / "metrics.json").read_text())["results"]["findings"]
    assert "0 positive" in found["Edema"]["undefined"] and found["Mass <b>"]["auroc"]
    table.loc[table.split == "tune", ["Edema", "Mass <b>"]] = 0
    table.reset_index().to_csv(folder / "labels.csv", index=False)
    with pytest.raises(ValueError, match="tune has both classes of no finding"):
        train_head.train_head(config(folder, "second"))


def test_bad_embeddings_are_left_out_and_listed(data, capsys):
    folder, _, _ = data
    records = [EmbeddingRecord("/films/bad.png", np.full(DIM, np.nan, np.float32))]
    (folder / "embeddings" / "more.npz").write_bytes(FORMATS["npz"].encode(records))
    (folder / "embeddings" / "cut.tfrecord").write_bytes(b"123")
    train_head.train_head(config(folder))
    assert "2 left out" in capsys.readouterr().out
    left_out = pd.read_csv(folder / "out" / "left_out.csv")
    assert len(left_out) == 2


def test_an_existing_head_is_not_overwritten(data):
    folder, _, _ = data
    (folder / "out").mkdir()
    (folder / "out" / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="exists already"):
        train_head.train_head(config(folder))


@pytest.mark.parametrize("step", ["made", "written"])
def test_a_folder_that_cannot_be_written(data, step, monkeypatch):
    folder, _, _ = data
    if step == "made":
        (folder / "file").write_text("")
        settings = config(folder, "file/out")
    else:
        settings = config(folder)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(saved, "save", full)
    with pytest.raises(OSError, match=r"out cannot be written \(.*\): choose another output.path"):
        train_head.train_head(settings)
    assert not list(folder.glob(".out*")) and not (folder / "out").exists()


def test_the_toolkits_command_line(data):
    """As it stands in the toolkit's README, but for the name of the program."""
    folder, _, table = data
    kept = table.drop(columns=["patient", "sex", "Mass <b>"]).rename(columns={"Edema": "EFFUSION"})
    kept.reset_index().to_csv(folder / "labels.csv", index=False)
    command = (
        "--train_split_name train --tune_split_name tune --labels_csv labels.csv "
        "--head_name EFFUSION --data_dir ./embeddings/ --num_epochs 3"
    )
    run = subprocess.run(
        [sys.executable, "-m", "cxr_embeddings.scripts.train_head", *command.split()],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "XLA_FLAGS": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    card = json.loads((folder / "embeddings" / "model" / "card.json").read_text())
    assert card["config"]["training"]["optimizer"] == "lars"
    assert card["config"]["training"]["epochs"] == card["chosen"]["epoch"] == 3
    assert card["findings"] == ["EFFUSION"]


def test_a_command_line_of_ours_is_left_alone():
    ours = ["x", "--config=configs/head.py:mlp", "--config.seed=3"]
    assert train_head.translated(ours) == ours
    assert train_head.translated(["x", "-head_name=A", "--data_dir", "d"]) == [
        "x", "--config=configs/head.py:toolkit", "--config.labels.findings=A",
        "--config.embeddings.path", "d", "--config.output.path=d/model",
    ]  # fmt: skip
