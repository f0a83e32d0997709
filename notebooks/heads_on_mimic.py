# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Heads on the published MIMIC-CXR embeddings
#
# Google has published embeddings of MIMIC-CXR on PhysioNet ("Generalized Image
# Embeddings for the MIMIC Chest X-Ray dataset"). CXR Foundation's EfficientNet-L2 made
# them: 1,376 numbers for each film, one TFRecord file for each film. You need access to
# MIMIC-CXR on PhysioNet to download them.
#
# This notebook shows how the files are read, how MIMIC-CXR's labels are joined, and how
# a head is trained. **Its data are made up**: random numbers in the published format,
# with labels that depend on them. So the results mean nothing. With the real files,
# leave out the cell that makes the data, and change three paths.

# %%
import os
import pathlib
import tempfile

import numpy as np
import pandas as pd

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline.embeddings.formats import (
    EmbeddingRecord,
    encode_tfrecord,
)

scratch = tempfile.TemporaryDirectory()  # for all files below; removed at the end
os.chdir(scratch.name)

# %% [markdown]
# ## 1. Files in the published format
#
# | What | Where it is for real |
# |---|---|
# | embeddings | `files/p10/p10000032/s50414267/<dicom_id>.tfrecord` of the published data set |
# | labels | `mimic-cxr-2.0.0-chexpert.csv.gz` of MIMIC-CXR-JPG: one row for each study |
# | splits | `mimic-cxr-2.0.0-split.csv.gz` of MIMIC-CXR-JPG: one row for each film |
#
# The next cell makes small stand-ins: 300 patients with one to three studies, and one
# or two films for each study.

# %%
rng = np.random.default_rng(0)
directions = {name: rng.normal(size=1376) / 12 for name in ("Cardiomegaly", "Edema")}
label_rows, split_rows = [], []
for patient in range(10_000_000, 10_000_300):
    for study in range(rng.integers(1, 4)):
        study_id = 50_000_000 + 10 * (patient - 10_000_000) + study
        present = {name: int(rng.random() < 0.3) for name in directions}
        cells = {
            name: rng.choice([str(value), "", "-1"], p=[0.7, 0.2, 0.1])
            for name, value in present.items()
        }
        label_rows.append({"subject_id": patient, "study_id": study_id, **cells})
        for _ in range(rng.integers(1, 3)):
            dicom_id = "-".join(rng.bytes(4).hex() for _ in range(5))
            vector = rng.normal(size=1376) + sum(
                present[name] * directions[name] for name in directions
            )
            name = f"files/p{str(patient)[:2]}/p{patient}/s{study_id}/{dicom_id}"
            record = EmbeddingRecord(f"{name}.dcm", vector.astype(np.float32))
            file = pathlib.Path(f"{name}.tfrecord")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_tfrecord([record]))
            split = (
                "train"
                if patient % 10 < 6
                else "validate"
                if patient % 10 < 8
                else "test"
            )
            split_rows.append(
                {
                    "dicom_id": dicom_id,
                    "study_id": study_id,
                    "subject_id": patient,
                    "split": split,
                }
            )
pd.DataFrame(label_rows).to_csv("mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
pd.DataFrame(split_rows).to_csv("mimic-cxr-2.0.0-split.csv.gz", index=False)

# %% [markdown]
# With the real files, give their full paths here. The rest stays as it is.

# %%
published = "files"
labels = "mimic-cxr-2.0.0-chexpert.csv.gz"
splits = "mimic-cxr-2.0.0-split.csv.gz"

# %% [markdown]
# ## 2. Read the embeddings
#
# The files are gathered once into one table, `.table` beside them; the next call only
# opens it. If the folder cannot be written, name another place with `cache=`.

# %%
table = cxr.read_embeddings(published, progress=False)
print(table.embedding.shape, table.embedding.dtype)
table.image_id[:3].tolist()

# %% [markdown]
# `table.encoder` is None: the published files do not say which encoder made them. Files
# of this project do, and a head refuses embeddings of another encoder.

# %% [markdown]
# ## 3. Join the labels, train a head
#
# CheXpert's table has one row for each study. A row counts for all films of its study.
# Films and rows are matched by the ids in the paths, never by their order.
#
# | Cell | Meaning | Here |
# |---|---|---|
# | 1, 0 | present, absent | used |
# | -1 | uncertain | `uncertain="ignore"`: not used (`"zeros"`, `"ones"` for training) |
# | empty | not mentioned | `not_mentioned="ignore"`: not used (or `"negative"`) |

# %%
head = cxr.train_head(
    table,
    labels,
    findings=["Cardiomegaly", "Edema"],
    split_path=splits,
    uncertain="ignore",
    not_mentioned="ignore",
    progress=False,
)
print(head.summary)

# %% [markdown]
# All intervals are by patient: a patient with six films does not count six times.


# %%
def with_interval(measured: dict) -> str:
    """A value and its 95 % interval."""
    return f"{measured['value']:.2f} ({measured['low']:.2f} to {measured['high']:.2f})"


results = head.metrics["results"]["findings"]
pd.DataFrame(
    {
        name: {
            "films": one["n"],
            "patients": one["patients"],
            "positives": one["positives"],
            "AUROC": with_interval(one["auroc"]),
            "AUPRC": with_interval(one["auprc"]),
        }
        for name, one in results.items()
    }
).transpose()

# %% [markdown]
# ## 4. One example for each study
#
# A study often has several films, but one report and so one label. `per_study="mean"`
# averages the embeddings of a study's films.

# %%
by_study = cxr.train_head(
    table,
    labels,
    findings=["Edema"],
    split_path=splits,
    per_study="mean",
    progress=False,
)
print(by_study.summary)

# %% [markdown]
# ## 5. What was not used
#
# Nothing is dropped silently: `left_out.csv` names every film and every row of the
# table that was not used, and why.

# %%
head.report("head")
left_out = pd.read_csv("head/left_out.csv")
left_out["reason"].value_counts().to_frame("rows")

# %% [markdown]
# ## 6. Predictions
#
# One row for each film: a logit (use it to rank films), a calibrated probability, and 1
# where the probability reaches the threshold that was chosen on tune.

# %%
head.predict(table).drop(columns="reason").head().round(3)

# %%
os.chdir("/")
scratch.cleanup()

# %% [markdown]
# More on labels, splits and comparisons of heads: [docs/heads.md](../docs/heads.md).
