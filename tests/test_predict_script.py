"""The whole way of a user: films to embeddings to a head to predictions, in a stand-in of MIMIC."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from input_pipeline.synthetic.mimic import write_mimic


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder, films=60, laterals=3, damaged=2, seed=3, size_range=(48, 80))
    return folder


@pytest.fixture(scope="module")
def trained(mimic):
    """What training printed; the head is in mimic / "head"."""
    embed = run(
        "embed", "--config=configs/demo.py", f"--config.input.path={mimic}/files",
        "--config.input.views=AP,PA", "--config.encoder.weights=random",
        "--config.encoder.resolution=32", f"--config.output.path={mimic}/embeddings",
    )  # fmt: skip
    assert embed.returncode == 0, embed.stderr
    train = run(
        "train_head",
        f"--config.embeddings.path={mimic}/embeddings",
        f"--config.labels.path={mimic}/mimic-cxr-2.0.0-chexpert.csv.gz",
        f"--config.labels.split_path={mimic}/mimic-cxr-2.0.0-split.csv.gz",
        f"--config.labels.metadata_path={mimic}/mimic-cxr-2.0.0-metadata.csv.gz",
        "--config.labels.subgroups=ViewPosition",
        "--config.labels.findings=all",
        "--config.labels.not_mentioned=negative",
        "--config.labels.uncertain=zeros",
        "--config.resamples=20",
        f"--config.output.path={mimic}/head",
    )
    assert train.returncode == 0, train.stdout + train.stderr
    return train.stdout


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"scripts.{script}", *arguments],
        capture_output=True, text=True, timeout=200, env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip


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
    of_embeddings = run(
        "predict", f"--head={mimic}/head", f"--embeddings={mimic}/embeddings",
        f"--output={mimic}/one.csv",
    )  # fmt: skip
    assert of_embeddings.returncode == 0, of_embeddings.stderr
    of_films = run(
        "predict", f"--head={mimic}/head", "--weights=random", f"--input={mimic}/files",
        f"--output={mimic}/other.csv",
    )  # fmt: skip
    assert of_films.returncode == 0, of_films.stdout + of_films.stderr
    one, other = (pd.read_csv(mimic / f"{n}.csv").set_index("image_id") for n in ("one", "other"))
    assert len(other) == len(one) and "skipped             3   view" in of_films.stdout
    columns = [column for column in one if column.endswith("_probability")]
    np.testing.assert_allclose(other.loc[one.index, columns], one[columns], atol=1e-5)
    assert not list(mimic.glob(".embeddings*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: expected --head, --output, and either --embeddings or --weights with --input"),
        (["--head=x", "--output=p.csv", "--embeddings=y"], "error: no card.json in x"),
        (["--head=x", "--output=no/p.csv", "--embeddings=y"], "expected a file in a folder that"),
        (["--head=x", "--output=p.csv", "--weights=y"], "error: expected --head"),
        (["head"], "error: 'head' is no flag"),
    ],
)
def test_command_lines_that_cannot_work(arguments, message):
    result = run("predict", *arguments)
    assert result.returncode == 1 and message in result.stderr
