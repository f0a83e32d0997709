"""Chest X-ray films in, embeddings out, and small heads trained on them.

    import cxr_embeddings as cxr

    encoder = cxr.load_encoder("demo")
    table = encoder.embed(["a.dcm", "b.png"])
    head = cxr.train_head("embeddings/", "labels.csv", findings=["Edema"])

A film is one X-ray image. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connecting import RemoteEncoder as RemoteEncoder
    from .connecting import connect as connect
    from .embedding import embed as embed
    from .embedding import read_embeddings as read_embeddings
    from .errors import Error as Error
    from .errors import FileError as FileError
    from .errors import InputError as InputError
    from .errors import MissingPackage as MissingPackage
    from .exploring import Explorer as Explorer
    from .exploring import explore as explore
    from .head_training import train_head as train_head
    from .heat_maps import HeatMap as HeatMap
    from .heat_maps import explain as explain
    from .input_pipeline.embeddings.table import Embeddings as Embeddings
    from .loading import Encoder as Encoder
    from .loading import load_encoder as load_encoder
    from .prediction import Head as Head
    from .prediction import load_head as load_head
    from .record_linking import link_mimic_iv as link_mimic_iv
    from .report_labelling import label_reports as label_reports
    from .site_comparison import compare_sites as compare_sites

__version__ = "0.1.0"

_HOMES = {  # public name -> the module that has it
    "Embeddings": "input_pipeline.embeddings.table",
    "Encoder": "loading",
    "Error": "errors",
    "Explorer": "exploring",
    "FileError": "errors",
    "Head": "prediction",
    "HeatMap": "heat_maps",
    "InputError": "errors",
    "MissingPackage": "errors",
    "RemoteEncoder": "connecting",
    "compare_sites": "site_comparison",
    "connect": "connecting",
    "embed": "embedding",
    "explain": "heat_maps",
    "explore": "exploring",
    "label_reports": "report_labelling",
    "link_mimic_iv": "record_linking",
    "load_encoder": "loading",
    "load_head": "prediction",
    "read_embeddings": "embedding",
    "train_head": "head_training",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
