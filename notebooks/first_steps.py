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
# This notebook draws 400 chest X-ray films, turns each into an embedding, finds similar films, and
# trains a small classifier with few labels. It takes about three minutes on a laptop and needs no
# download.
#
# - A *film* is one X-ray image.
# - An *embedding* is a vector that describes a film: here 4,096 numbers.
# - A *head* is a small classifier on embeddings.
#
# **What to expect.** A program draws these films; no patient is shown. The demo weights were
# trained on 3,448 real films, most of them of children, and have never seen a drawing. So the
# results show how to work with embeddings. They do not show how good embeddings of real films are.

# %%
import pathlib
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
scratch = (
    tempfile.TemporaryDirectory()
)  # removed at the end; take a folder of your own for real films
work = pathlib.Path(scratch.name)

# %% [markdown]
# ## 1. The films
#
# `write_mimic` draws films in the layout of MIMIC-CXR: DICOM files in folders of patients and
# studies, with tables of labels and splits. With your own films you start at step 2.

# %%
write_mimic(work / "mimic", films=400, size_range=(300, 600))
films = work / "mimic" / "files"
labels = pd.read_csv(work / "mimic" / "mimic-cxr-2.0.0-chexpert.csv.gz")
labels.set_index("study_id")[["No Finding", "Pleural Effusion", "Edema"]].head()

# %% [markdown]
# One row is a study. 1 means that the finding is present, 0 absent, -1 uncertain, and empty not
# mentioned.

# %% [markdown]
# ## 2. The embeddings
#
# `load_encoder("demo")` takes the weights that come with the project. `embed` writes the embeddings
# into a folder. If it is stopped, the same call continues. `views` keeps frontal films.

# %%
encoder = cxr.load_encoder("demo")
table = cxr.embed(films, encoder, work / "embeddings", views=["AP", "PA"], progress=False)
print("embedding:", table.embedding.shape, table.embedding.dtype)
pd.DataFrame(table.rejected).assign(
    image_id=lambda t: t["image_id"].map(lambda i: pathlib.Path(i).name)
)

# %% [markdown]
# Two of the drawn files are damaged on purpose. They are rejected with a reason, and the run
# continues.
#
# For a few films you need no folder: `encoder.embed` takes paths, open files or arrays of grey
# values.

# %%
few = encoder.embed(table.image_id[:3].tolist(), progress=False)
few.embedding[:, :5].round(3)

# %% [markdown]
# ## 3. Similar films
#
# Films are similar if the angle between their embeddings is small: we sort by its cosine. Films of
# the same patient are left out, because they would be similar for other reasons.

# %%
FINDING = "Pleural Effusion"
film_table = pd.DataFrame({"image_id": table.image_id})
film_table["patient"] = film_table["image_id"].str.extract(r"/p(\d{8})/", expand=False)
film_table["study_id"] = film_table["image_id"].str.extract(r"/s(\d{8})/", expand=False).astype(int)
film_table["present"] = film_table["study_id"].map(labels.set_index("study_id")[FINDING]) == 1

unit = table.embedding / np.linalg.norm(table.embedding, axis=1, keepdims=True)
centred = unit - unit.mean(axis=0)  # what all films share tells nothing
centred /= np.linalg.norm(centred, axis=1, keepdims=True)


def show(rows: list[int], titles: list[str], heading: str) -> None:
    """Draws films side by side, as the network sees them."""
    figure, axes = plt.subplots(1, len(rows), figsize=(2 * len(rows), 2.6))
    for axis, row, title in zip(axes, rows, titles, strict=True):
        with open(table.image_id[row], "rb") as stream:
            image = network_input(read_film(stream), PRESETS["native"], 144)
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(
            title, fontsize=9, color="tab:green" if film_table["present"][row] else "black"
        )
        axis.axis("off")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    plt.show()


query = int(np.flatnonzero(film_table["present"])[0])
cosine = centred @ centred[query]
others = film_table["patient"] != film_table["patient"][query]
nearest = [query, *np.argsort(np.where(others, -cosine, np.inf))[:5]]
show(
    nearest,
    ["the film"] + [f"cosine {cosine[row]:.2f}" for row in nearest[1:]],
    f"A film with {FINDING}, and the five most similar films (green title: has it too)",
)

# %% [markdown]
# Is this better than chance? For every film with the finding we count how many of its five nearest
# films, of other patients, have it too.

# %%
patients = film_table["patient"].to_numpy()
similarity = np.where(patients[:, None] == patients, -np.inf, centred @ centred.T)
neighbours = np.argsort(-similarity, axis=1)[:, :5]
present = film_table["present"].to_numpy()
print(
    f"of the neighbours of a film with {FINDING}: {present[neighbours[present]].mean():.2f} have it"
)
print(f"of all films:                               {present.mean():.2f} have it")

# %% [markdown]
# `scripts/neighbours.py` does this for all findings, with a test by patient.
#
# ## 4. A head with few labels
#
# `train_head` trains on a quarter of the patients, makes every choice on another quarter (*tune*),
# and measures once on the other half (*test*). A cell that is not mentioned counts as negative
# here.

# %%
head = cxr.train_head(
    table,
    work / "mimic" / "mimic-cxr-2.0.0-chexpert.csv.gz",
    findings=[FINDING],
    not_mentioned="negative",
    fractions=[0.25, 0.25, 0.5],
    progress=False,
)
print(head.summary)

# %% [markdown]
# The interval is wide: the test films hold few positives. An honest report of so small a study
# shows this interval, not only the value.
#
# `report` writes the head, all numbers and a page, `report.html`, into a folder. `predictions.csv`
# has one row for each tune and test film.

# %%
head.report(work / "heads" / "effusion")
predictions = pd.read_csv(work / "heads" / "effusion" / "predictions.csv")
test = predictions[predictions["split"] == "test"].reset_index(drop=True)
truth, score = test[f"{FINDING}_label"], test[f"{FINDING}_probability"]
test[[f"{FINDING}_label", f"{FINDING}_logit", f"{FINDING}_probability"]].describe().round(2)

# %% [markdown]
# ## 5. ROC curve and threshold
#
# The threshold is chosen on the tune films (Youden's J), so the test films have no part in it.

# %%
measured = head.metrics["results"]["findings"][FINDING]
point = measured["operating_points"][0]
auroc = measured["auroc"]
false_positive, true_positive, _ = roc_curve(truth, test[f"{FINDING}_logit"])

figure, axis = plt.subplots(figsize=(4, 4))
axis.plot(false_positive, true_positive, drawstyle="steps-post")
axis.plot([0, 1], [0, 1], ":", color="grey")
sensitivity, specificity = (point["test"][name]["value"] for name in ("sensitivity", "specificity"))
axis.plot(1 - specificity, sensitivity, "o", label=f"threshold {point['threshold']:.2f}")
axis.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
axis.set_title(f"AUROC {auroc['value']:.2f} ({auroc['low']:.2f} to {auroc['high']:.2f})")
axis.legend(loc="lower right")
plt.show()

pd.DataFrame(
    {
        one["rule"]: {
            name: f"{one['test'][name]['value']:.2f} "
            f"({one['test'][name]['low']:.2f} to {one['test'][name]['high']:.2f})"
            for name in ("sensitivity", "specificity", "ppv", "npv")
        }
        for one in measured["operating_points"]
    }
).transpose()

# %% [markdown]
# ## 6. Films by score
#
# Look at films before you trust a number. Best and worst are the films with the finding that score
# highest and lowest. Borderline films lie next to the threshold.

# %%
row_of = {image_id: row for row, image_id in enumerate(table.image_id)}


def show_test(chosen: pd.DataFrame, heading: str) -> None:
    """Draws test films with their probability."""
    titles = [f"{value:.2f}" for value in chosen[f"{FINDING}_probability"]]
    show([row_of[image_id] for image_id in chosen["image_id"]], titles, heading)


with_finding = test[truth == 1].sort_values(f"{FINDING}_probability")
show_test(with_finding[::-1][:6], f"Best: {FINDING} with the highest probability")
show_test(with_finding[:6], f"Worst: {FINDING} with the lowest probability")
show_test(
    test[truth == 0].sort_values(f"{FINDING}_probability")[::-1][:6],
    f"False alarms: no {FINDING}, with the highest probability",
)
show_test(
    test.loc[(score - point["threshold"]).abs().sort_values().index[:6]],
    f"Borderline: nearest to the threshold of {point['threshold']:.2f} (green title: has it)",
)

# %% [markdown]
# ## 7. New films
#
# A saved head scores new films. It refuses embeddings of another encoder.

# %%
saved = cxr.load_head(work / "heads" / "effusion")
saved.predict(few).drop(columns="image_id").round(3)

# %%
scratch.cleanup()

# %% [markdown]
# ## Next
#
# - Your own films: replace `films`, and take larger [weights](../docs/weights.md).
# - The published embeddings of MIMIC-CXR: [heads_on_mimic.ipynb](heads_on_mimic.ipynb).
# - How good the demo weights are on real films, with every number:
#   [docs/quality.md](../docs/quality.md).
