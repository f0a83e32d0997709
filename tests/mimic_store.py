"""What `scripts/preprocess.py` does with a stand-in of MIMIC-CXR, in the process of the test."""

import dataclasses

import tqdm

from input_pipeline import make_store, mimic_cxr, preprocess

IN_PROCESS = ("--runner=FnApiRunner",)


def make(mimic, folder, listed=None, *, size, films_per_shard, details=None, **changes):
    listed = listed or mimic_cxr.list_films(str(mimic))
    settings = preprocess.Settings(
        str(folder), "native", size, "png16", ("AP", "PA"), "keep", listed.has_views, None
    )
    return make_store.make_store(
        listed,
        dataclasses.replace(settings, **changes),
        "mimic_cxr",
        films_per_shard,
        str(mimic),
        details or {},
        preprocess.parse_options(IN_PROCESS),
        lambda films, done: tqdm.tqdm(total=films, initial=done, disable=True),
    )
