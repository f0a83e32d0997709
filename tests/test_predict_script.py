"""The whole way of a user: films to embeddings to a head to predictions, in a stand-in of MIMIC."""

import io
import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import running
from PIL import Image

from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder, films=60, laterals=3, damaged=2, seed=3, size_range=(48, 80))
    return folder


@pytest.fixture(scope="module")
def trained(mimic):
    """What training printed; the head is in mimic / "head"."""
    embed = running.call(
        "embed", "--config=configs/demo.py", f"--config.input.path={mimic}/files",
        "--config.input.views=AP,PA", "--config.encoder.weights=random",
        "--config.encoder.variant=tiny", "--config.encoder.resolution=32",
        "--config.input.workers=1", f"--config.output.path={mimic}/embeddings",
    )  # fmt: skip
    assert embed.returncode == 0, embed.stderr
    train = running.call(
        "train_head",
        f"--config.embeddings.path={mimic}/embeddings",
        f"--config.labels.path={mimic}/mimic-cxr-2.0.0-chexpert.csv.gz",
        f"--config.labels.split_path={mimic}/mimic-cxr-2.0.0-split.csv.gz",
        f"--config.labels.metadata_path={mimic}/mimic-cxr-2.0.0-metadata.csv.gz",
        "--config.labels.subgroups=ViewPosition",
        "--config.labels.findings=No Finding,Lung Opacity",
        "--config.labels.not_mentioned=negative",
        "--config.labels.uncertain=zeros",
        "--config.resamples=20",
        f"--config.output.path={mimic}/head",
    )
    assert train.returncode == 0, train.stdout + train.stderr
    return train.stdout


def test_labels_of_studies_reach_their_own_films(mimic, trained):
    assert "untrained network" in trained and "AUROC on test" in trained
    predicted = pd.read_csv(mimic / "head" / "predictions.csv", dtype=str)
    chexpert = pd.read_csv(mimic / "mimic-cxr-2.0.0-chexpert.csv.gz", dtype=str)
    split = pd.read_csv(mimic / "mimic-cxr-2.0.0-split.csv.gz", dtype=str).set_index("dicom_id")
    chexpert = chexpert.set_index("study_id")
    finding = next(c for c in predicted if c.endswith("_label") and c != "No Finding_label")
    names = {"tune": "validate", "test": "test"}
    for _, row in predicted.iterrows():
        dicom = split.loc[os.path.basename(row.image_id).removesuffix(".dcm")]
        assert (dicom.study_id, dicom.subject_id) == (row.study_id, row.patient_id)
        assert dicom.split == names[row.split]
        mentioned = chexpert.loc[row.study_id, finding.removesuffix("_label")]
        if mentioned == "-1.0":  # uncertain=zeros is for training
            assert pd.isna(row[finding])
        else:
            assert row[finding] == ("1" if mentioned == "1.0" else "0")


def test_films_and_their_embeddings_give_the_same_predictions(mimic, trained):
    of_embeddings = running.call(
        "predict", f"--head={mimic}/head", f"--embeddings={mimic}/embeddings",
        f"--output={mimic}/one.csv",
    )  # fmt: skip
    assert of_embeddings.returncode == 0, of_embeddings.stderr
    of_films = running.call(
        "predict", f"--head={mimic}/head", "--weights=random", f"--input={mimic}/files",
        f"--output={mimic}/other.csv",
    )  # fmt: skip
    assert of_films.returncode == 0, of_films.stdout + of_films.stderr
    one, other = (pd.read_csv(mimic / f"{n}.csv").set_index("image_id") for n in ("one", "other"))
    assert sorted(one.index) == sorted(other.index) and len(one) == len([*mimic.rglob("*.dcm")])
    columns = [column for column in one if column.endswith("_probability")]
    np.testing.assert_allclose(other.loc[one.index, columns], one[columns], atol=1e-5)
    for table, said in ((one, of_embeddings.stdout), (other, of_films.stdout)):
        without = table[table[columns].isna().any(axis=1)]
        assert without.reason.str.startswith("skipped, view L").sum() == 3
        assert without.reason.str.startswith("rejected, ").sum() == len(without) - 3 == 2
        assert without.drop(columns="reason").isna().all(axis=None)
        assert table.drop(without.index).reason.isna().all()
        assert "5 films have no prediction" in said
        far = int(table.out_of_distribution.sum())
        assert far and f"warning: {far} films are out of distribution" in said
    assert "SHA256SUMS" not in of_films.stdout and not list(mimic.glob(".*embeddings*"))


def test_heat_maps_come_with_the_predictions(mimic, trained, tmp_path):
    result = running.call(
        "predict", f"--head={mimic}/head", "--weights=random", f"--input={mimic}/files",
        f"--output={tmp_path}/p.csv", f"--heat_maps={tmp_path}/maps",
    )  # fmt: skip
    assert result.returncode == 0 and f"heat maps in {tmp_path}/maps" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", "maps"}
    predicted = pd.read_csv(tmp_path / "p.csv").set_index("image_id")
    without = predicted.index[predicted.reason.notna()]
    assert len(without) == 5
    files = running.tree(tmp_path / "maps")
    kinds = ("Lung_Opacity.npy", "Lung_Opacity.png", "No_Finding.npy", "No_Finding.png")
    for image_id, row in predicted.drop(without).iterrows():
        key = os.path.relpath(image_id, mimic / "files").removesuffix(".dcm")
        facts = json.loads(files.pop(f"{key}/heat_maps.json"))
        assert facts["image_id"] == image_id and [*facts["findings"]] == [
            "No Finding",
            "Lung Opacity",
        ]
        for name, finding in facts["findings"].items():
            assert finding["probability"] == pytest.approx(row[f"{name}_probability"], abs=1e-5)
            assert 0 <= finding["maximum"]["x"] < facts["width"]
        for kind in kinds:
            content = io.BytesIO(files.pop(f"{key}/{kind}"))
            if kind.endswith("npy"):
                on_film = np.load(content)
                assert on_film.dtype == np.float32
                assert on_film.shape == (facts["height"], facts["width"])
            else:
                with Image.open(content) as picture:
                    assert picture.size == (facts["width"], facts["height"]) and not picture.info
    assert not files


@pytest.mark.slow
def test_a_film_that_cannot_be_read_costs_no_other(mimic, trained, tmp_path):
    films = sorted(str(path) for path in mimic.rglob("*.dcm"))[:6]
    (tmp_path / "list.txt").write_text("\n".join([*films, "gone.dcm"]))
    arguments = [
        f"--head={mimic}/head", "--weights=random", f"--input={tmp_path}/list.txt",
        f"--output={tmp_path}/p.csv",
    ]  # fmt: skip
    for attempt in range(3):
        result = running.call("predict", *arguments)
        assert result.returncode == (attempt < 2), result.stdout + result.stderr
        table = pd.read_csv(tmp_path / "p.csv").set_index("image_id")
        assert {*table.index} == {*films, str(tmp_path / "gone.dcm")}
        failed = table.loc[str(tmp_path / "gone.dcm")]
        assert failed.reason == "failed, unreadable: No such file or directory"
        kept = [f"kept in {path} for" for path in tmp_path.glob(".p.csv.embeddings-*")]
        assert len(kept) == (attempt < 2) and all(said in result.stdout for said in kept)
        done = int(re.search(r"already done +(\d+)", result.stdout)[1])
        seen = table.reason.isna().sum()
        assert done == (0, seen, seen - 1)[attempt]
        if attempt == 1:  # a film that has changed is embedded again
            readable = table.index[table.reason.isna()][0]
            os.chmod(readable, 0o600)


def test_a_run_in_which_no_film_can_be_read_says_so(mimic, trained, tmp_path):
    (tmp_path / "list.txt").write_text("gone.dcm")
    result = running.call("predict", f"--head={mimic}/head", "--weights=random",
                          f"--input={tmp_path}/list.txt", f"--output={tmp_path}/p.csv")  # fmt: skip
    assert result.returncode == 1 and "0 predictions" in result.stdout, result.stderr
    (failed,) = pd.read_csv(tmp_path / "p.csv").itertuples()
    assert failed.reason == "failed, unreadable: No such file or directory"


def test_other_weights_are_refused_before_anything_is_embedded(mimic, trained, tmp_path):
    shutil.copytree(mimic / "head", tmp_path / "head")
    card = json.loads((tmp_path / "head/card.json").read_text())
    card["encoder"]["weights_digest"] = "xyz"
    (tmp_path / "head/card.json").write_text(json.dumps(card))
    result = running.call(
        "predict", f"--head={tmp_path}/head", "--weights=random", f"--input={mimic}/files",
        f"--output={tmp_path}/p.csv",
    )  # fmt: skip
    assert result.returncode == 1 and "films/s" not in result.stderr
    assert (
        "the weights random cannot be used with this head: the embeddings are of another"
        in result.stderr
    )
    assert "weights_digest: 'xyz' of the head" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["head"]
