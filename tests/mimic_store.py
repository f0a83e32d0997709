"""What `scripts/preprocess.py` does with a stand-in of MIMIC-CXR, in the process of the test."""

from published import progress

from cxr_embeddings.input_pipeline.films import decode
from cxr_embeddings.input_pipeline.mimic import selection
from cxr_embeddings.input_pipeline.store import build, shards


def write_here(settings, places, load=decode.load):
    """Writes shards as Beam's workers do, one after another."""
    views = None if settings.has_views else settings.views
    for place in places:
        shard = shards.read_shard(settings.folder, *place)
        asked = settings.preset, settings.size, views, settings.chest_only
        films = ((film, load(film.path, *asked)) for film in shard.films)
        shards.write_shard(settings, shard, films)


def write_by_beam(settings, places):
    from cxr_embeddings.input_pipeline.store import beam_job

    here = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
    beam_job.run(settings, places, beam_job.parse_options(here))


def make(mimic, folder, listed=None, *, write=write_here, **changes):
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
    }
    settings = shards.Settings(**settings | changes)
    return build.make_store(listed, settings, {}, write, progress)
