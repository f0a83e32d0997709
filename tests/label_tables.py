"""Tables of labels, read and joined by settings that are given one by one, and what they hold."""

import dataclasses
import os

import numpy as np

from cxr_embeddings.configs.schema import LabelsConfig
from cxr_embeddings.heads.labels import join as joining
from cxr_embeddings.heads.labels import label_table


def read_labels(path, findings=("all",), **options):
    return label_table.read_labels(LabelsConfig(os.fspath(path), findings, **options))


def join(names, found, *, seed=0, **options):
    texts = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in options.items()}
    config = dataclasses.replace(found.config, **texts)
    return joining.join(names, dataclasses.replace(found, config=config), seed)


def ids(*names):
    return np.array(names, object)


def said(found, *names):
    """Columns of a table of labels: "image", "study", "patient", "split" or a subgroup."""
    return [(found.facts.ids | found.facts.values)[name].tolist() for name in names]


def counts(holder):
    return {note["what"]: note["count"] for note in holder.notes}


def the_note(holder, part):
    found = [note for note in holder.notes if part in note["what"]]
    assert len(found) == 1, holder.notes
    return found[0]
