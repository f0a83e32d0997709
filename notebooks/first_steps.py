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
# # First steps
#
# This notebook draws 400 chest X-ray films, turns each into an embedding, finds similar
# films, and trains a small classifier with few labels. It takes about two minutes on a
# laptop and needs no download.
#
# - A *film* is one X-ray image.
# - An *embedding* is a vector that describes a film: here 4,096 numbers.
# - A *head* is a small classifier on embeddings.
#
# **What to expect.** A program draws these films; no patient is shown. The demo weights
# were trained on 3,448 real films, most of them of children, and have never seen a
# drawing. So the results show how to work with embeddings. They do not show how good
# embeddings of real films are.

# %%
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.presets import PRESETS, network_input
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

plt.rcParams.update({"figure.dpi": 72, "figure.facecolor": "white", "font.size": 9})
scratch = tempfile.TemporaryDirectory()  # for all files below; removed at the end
os.chdir(scratch.name)

# %% [markdown]
# ## 1. The films
#
# `write_mimic` draws films in the layout of MIMIC-CXR: DICOM files in folders of
# patients and studies, with tables of labels and splits. With your own films, start at
# step 2.

# %%
write_mimic("mimic", films=400, size_range=(300, 600))
studies = pd.read_csv("mimic/mimic-cxr-2.0.0-chexpert.csv.gz").set_index("study_id")
studies[["No Finding", "Pleural Effusion", "Edema"]].head()

# %% [markdown]
# Each row is a study. 1 means that the finding is present, 0 absent, -1 uncertain. NaN
# means that the report does not mention it.
#
# ## 2. The embeddings
#
# `load_encoder("demo")` loads the weights that come with the project. `embed` writes
# the embeddings into a folder. If it is stopped, the same call continues. `views` keeps
# frontal films.

# %%
encoder = cxr.load_encoder("demo")
table = cxr.embed(
    "mimic/files", encoder, "embeddings", views=["AP", "PA"], progress=False
)
print("embeddings:", table.embedding.shape, table.embedding.dtype)

rejected = pd.DataFrame(table.rejected, columns=["film", "reason", "detail"])
rejected.assign(film=rejected["film"].str[-44:])

# %% [markdown]
# Two of the drawn files are damaged on purpose. They are rejected with a reason, and
# the run continues.
#
# For a few films you need no folder: `encoder.embed` takes paths, open files or arrays
# of grey values.

# %%
few = encoder.embed(list(table.image_id[:3]), progress=False)
few.embedding.round(3)

# %% [markdown]
# ## 3. Similar films
#
# Films are similar if the angle between their embeddings is small. The mean embedding
# is subtracted first, because what all films share does not help. Films of the same
# patient are left out, because they are alike for other reasons.

# %%
FINDING = "Pleural Effusion"
films = pd.DataFrame({"image_id": table.image_id})
films["patient_id"] = films["image_id"].str.extract(r"/p(\d{8})/", expand=False)
study = films["image_id"].str.extract(r"/s(\d{8})/", expand=False).astype(int)
films[FINDING] = (study.map(studies[FINDING]) == 1).astype(int)
present = films[FINDING].to_numpy() == 1

direction = table.embedding - table.embedding.mean(axis=0)
direction /= np.linalg.norm(direction, axis=1, keepdims=True)
cosine = direction @ direction.T
patient = films["patient_id"].to_numpy()
cosine[patient[:, None] == patient] = -np.inf
nearest = np.argsort(-cosine, axis=1)[:, :5]


def show(rows: np.ndarray, titles: list[str], heading: str) -> None:
    """Draws films side by side, as the network sees them; green: with the finding."""
    figure, axes = plt.subplots(1, len(rows), figsize=(1.7 * len(rows), 2.4))
    for axis, row, title in zip(axes, rows, titles, strict=True):
        with open(table.image_id[row], "rb") as stream:
            image = network_input(read_film(stream), PRESETS["native"], 112)
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(
            title, fontsize=9, color="green" if films[FINDING][row] else "black"
        )
        axis.axis("off")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    plt.show()


shared = present[nearest].sum(axis=1)
film = np.argmax(np.where(present, shared, -1))
show(
    [film, *nearest[film]],
    ["this film", *(f"cosine {cosine[film, row]:.2f}" for row in nearest[film])],
    f"A film with {FINDING}, and the five most similar films (green: it is present)",
)

# %% [markdown]
# This is the film for which it works best. Is it better than chance for all of them?
# For every film with the finding, count how many of its five nearest films have it too.

# %%
print(f"{shared[present].mean() / 5:.2f} of the neighbours of these films have it")
print(f"{present.mean():.2f} of all films have it")

# %% [markdown]
# `scripts/neighbours.py` does this for all findings, with a test by patient.
#
# ## 4. A head with few labels
#
# `train_head` takes embeddings and a CSV of labels. It trains on 40 % of the patients
# here, makes every choice on 20 % (*tune*), and measures once on the other 40 %
# (*test*).

# %%
names = films["image_id"].str.rpartition("/")[2]  # of the files, without their folders
films.assign(image_id=names).to_csv("labels.csv", index=False)
pd.read_csv("labels.csv").head(3)

# %%
head = cxr.train_head(
    table,
    "labels.csv",
    findings=[FINDING],
    fractions=[0.4, 0.2, 0.4],
    weight_decays=[1e-2, 1e-1, 1.0, 10.0, 100.0],
    progress=False,
)
print(head.summary)

# %% [markdown]
# The interval is wide, because few test films have the finding. Report the interval of
# so small a study, not only the value.
#
# `report` writes the head, all numbers and a page, `report.html`, into a folder. Its
# `predictions.csv` has one row for each tune and test film.

# %%
head.report("effusion")
predictions = pd.read_csv("effusion/predictions.csv")
test = predictions[predictions["split"] == "test"].reset_index(drop=True)
test = test.rename(columns=lambda name: name.removeprefix(f"{FINDING}_"))
test.groupby("label")["probability"].describe().round(2)

# %% [markdown]
# ## 5. ROC curve and threshold
#
# Thresholds are chosen on the tune films, so the test films have no part in them. The
# dot is the first one: Youden's J.

# %%
measured = head.metrics["results"]["findings"][FINDING]
auroc, points = measured["auroc"], measured["operating_points"]
dot = points[0]["test"]

figure, axis = plt.subplots(figsize=(4, 4))
axis.plot(*roc_curve(test["label"], test["logit"], drop_intermediate=False)[:2])
axis.plot([0, 1], [0, 1], ":", color="grey")
axis.plot(1 - dot["specificity"]["value"], dot["sensitivity"]["value"], "o")
axis.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
axis.set_title(
    f"AUROC {auroc['value']:.2f} ({auroc['low']:.2f} to {auroc['high']:.2f})"
)
plt.show()

# %%
rows = {}
for point in points:
    rows[point["rule"]] = {"threshold": f"{point['threshold']:.3f}"}
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        value = point["test"][name]
        rows[point["rule"]][name] = (
            f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
        )
pd.DataFrame.from_dict(rows, orient="index")

# %% [markdown]
# ## 6. Films by score
#
# Look at films before you trust a number. Best and worst are the films with the finding
# that score highest and lowest. Borderline films lie next to the threshold.

# %%
row_of = {image_id: row for row, image_id in enumerate(table.image_id)}
by_score = test.sort_values("probability", ascending=False)


def show_test(chosen: pd.DataFrame, heading: str) -> None:
    """Draws five test films with their probability."""
    chosen = chosen[:5]
    titles = [f"{probability:.3f}" for probability in chosen["probability"]]
    show([row_of[image_id] for image_id in chosen["image_id"]], titles, heading)


show_test(by_score[by_score["label"] == 1], f"Best: {FINDING}, highest probability")
show_test(
    by_score[by_score["label"] == 1][::-1], f"Worst: {FINDING}, lowest probability"
)
show_test(
    by_score[by_score["label"] == 0], f"False alarms: no {FINDING}, highest probability"
)
distance = (by_score["probability"] - points[0]["threshold"]).abs().sort_values()
show_test(
    by_score.loc[distance.index], f"Borderline: nearest to {points[0]['threshold']:.3f}"
)

# %% [markdown]
# ## 7. New films
#
# A saved head scores new films. It refuses embeddings of another encoder.

# %%
cxr.load_head("effusion").predict(few).drop(columns=["image_id", "reason"]).round(3)

# %%
os.chdir("/")
scratch.cleanup()

# %% [markdown]
# ## Next
#
# - Your own films: put your folder in place of `mimic/files`, and take larger
#   [weights](../docs/weights.md).
# - The published embeddings of MIMIC-CXR: [heads_on_mimic.ipynb](heads_on_mimic.ipynb).
# - How good the demo weights are on real films: [docs/quality.md](../docs/quality.md).
