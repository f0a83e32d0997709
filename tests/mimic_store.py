"""What `scripts/preprocess.py` does with a stand-in of MIMIC-CXR, in the process of the test."""

import dataclasses

import tqdm

from input_pipeline import make_store, mimic_cxr, preprocess

IN_PROCESS = ("--runner=FnApiRunner",)


def hidden_bar(films, done):
    return tqdm.tqdm(total=films, initial=done, disable=True)


def settings(folder, size, **changes):
    plain = preprocess.Settings(
        str(folder), "native", size, "png16", ("AP", "PA"), "keep", True, None
    )
    return dataclasses.replace(plain, **changes)


def make(mimic, folder, listed=None, *, size, films_per_shard, details=None, **changes):
    listed = listed or mimic_cxr.list_films(str(mimic))
    return make_store.make_store(
        listed,
        settings(folder, size, has_views=listed.has_views, **changes),
        "mimic_cxr",
        films_per_shard,
        str(mimic),
        details or {},
        preprocess.parse_options(IN_PROCESS),
        hidden_bar,
    )
