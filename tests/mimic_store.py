"""What `scripts/preprocess.py` does with a stand-in of MIMIC-CXR, in the process of the test."""

import dataclasses

import tqdm

from cxr_embeddings.input_pipeline.mimic import selection
from cxr_embeddings.input_pipeline.store import beam_job, build

IN_PROCESS = ("--runner=FnApiRunner",)


def make(mimic, folder, listed=None, *, size, films_per_shard, details=None, **changes):
    listed = listed or selection.list_films(str(mimic))
    settings = beam_job.Settings(
        str(folder), "native", size, "png16", ("AP", "PA"), "keep", listed.has_views, None
    )
    return build.make_store(
        listed,
        dataclasses.replace(settings, **changes),
        "mimic_cxr",
        films_per_shard,
        str(mimic),
        details or {},
        beam_job.parse_options(IN_PROCESS),
        lambda films, done: tqdm.tqdm(total=films, initial=done, disable=True),
    )
