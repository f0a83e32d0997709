"""What `scripts/preprocess.py` does with a stand-in of MIMIC-CXR, in the process of the test."""

import tqdm

from cxr_embeddings.input_pipeline.mimic import selection
from cxr_embeddings.input_pipeline.store import beam_job, build, shards

IN_PROCESS = ("--runner=FnApiRunner",)


def make(mimic, folder, listed=None, *, details=None, **changes):
    """`changes` are of `shards.Settings`, such as `size` and `films_per_shard`."""
    listed = listed or selection.list_films(str(mimic))
    settings = {
        "folder": str(folder),
        "source": str(mimic),
        "name": "mimic_cxr",
        "preset": "native",
        "storage": "png16",
        "views": ("AP", "PA"),
        "no_view": "keep",
        "has_views": listed.has_views,
    }
    return build.make_store(
        listed,
        shards.Settings(**settings | changes),
        details or {},
        beam_job.parse_options(IN_PROCESS),
        lambda films, done: tqdm.tqdm(total=films, initial=done, disable=True),
    )
