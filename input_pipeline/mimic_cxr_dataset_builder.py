"""MIMIC-CXR for `tfds build`, with shards that are the same bytes as those of preprocess.py.

    tfds build input_pipeline/mimic_cxr_dataset_builder.py --config=cxr_foundation_1280_png16 \\
        --manual_dir=/data/mimic-cxr --data_dir=/data/tfds

With an installed package, `tfds build mimic_cxr -i input_pipeline.mimic_cxr_dataset_builder ...` is
the same. Without --config, TFDS builds every row of `BUILDER_CONFIGS`, one after the other. What is
no row is said as JSON: --config='{"name": "native_768", "preset": "native", "size": 768}'. It takes
all processors of this machine; --beam_pipeline_options, if given, stand as they are. The command of
TFDS 4.9 asks for `pip install mlcroissant`, which is not used.

The same command again goes on where it ended: until all is done, the shards lie in the folder
`unfinished.1.0.0`, beside the one that TFDS will make.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from cxr_embeddings.common import extras, paths
from cxr_embeddings.input_pipeline.films.presets import PRESETS
from cxr_embeddings.input_pipeline.mimic import counts, selection, tables
from cxr_embeddings.input_pipeline.store import dataset
from cxr_embeddings.input_pipeline.store.codecs import STORAGES

# Of TFDS's own writers, which are not used here
_FOREIGN = (
    "beam_runner",
    "max_examples_per_split",
    "max_shard_size",
    "min_shard_size",
    "nondeterministic_order",
    "num_shards",
)


@dataclasses.dataclass(eq=False, kw_only=True)
class MimicCxrConfig(tfds.core.BuilderConfig):
    """Which films, and what becomes of them.

    Attributes:
        preset: a key of `preprocessing.PRESETS`.
        size: side of the images in pixels.
        storage: a key of `storage.STORAGES`.
        views: ViewPositions to keep; None keeps all.
        no_view: what to do with films whose view nothing says; see `mimic_cxr.list_films`.
        films_per_shard: at most.
    """

    preset: str
    size: int
    storage: str = "png16"
    views: Sequence[str] | None = ("AP", "PA")
    no_view: str = "keep"
    films_per_shard: int = 64

    def __post_init__(self) -> None:
        if self.preset not in PRESETS or self.storage not in STORAGES or not 8 <= self.size <= 8192:
            raise ValueError(
                f"the config {self.name} has preset {self.preset!r}, size {self.size}, storage "
                f"{self.storage!r}; expected one of {', '.join(PRESETS)}, 8 to 8192 pixels, and "
                f"one of {', '.join(STORAGES)}"
            )


def _configs(*rows: tuple[str, int, str]) -> list[MimicCxrConfig]:
    return [
        MimicCxrConfig(
            name=f"{preset}_{size}_{storage}",
            description=f"Frontal films by the preset {preset}, {size} x {size}, as {storage}.",
            preset=preset,
            size=size,
            storage=storage,
        )
        for preset, size, storage in rows
    ]


class Builder(FileReaderBuilder):
    """TFDS takes the data set's name, mimic_cxr, from that of this file."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _configs(
        ("cxr_foundation", 1280, "png16"),
        ("cxr_foundation", 1280, "png8"),
        ("cxr_foundation", 1280, "jpeg95"),
        ("imagenet", 224, "png8"),
        ("imagenet", 512, "png8"),
        ("native", 512, "png16"),
        ("native", 1024, "png16"),
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Get MIMIC-CXR (https://physionet.org/content/mimic-cxr/) and MIMIC-CXR-JPG's tables
    (https://physionet.org/content/mimic-cxr-jpg/), for which PhysioNet asks for training and a data
    use agreement. `manual_dir` holds, as files or as links:

    * files/p10/... to files/p19/..., MIMIC-CXR's DICOM files
    * cxr-record-list.csv.gz of MIMIC-CXR
    * mimic-cxr-2.0.0-metadata.csv.gz of MIMIC-CXR-JPG, which has the views
    * mimic-cxr-2.0.0-split.csv.gz of MIMIC-CXR-JPG, which has the splits
    """

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description="Chest X-ray films of MIMIC-CXR, prepared as network input, with ids and "
            "views. Like their source, they must not be passed on.",
            features=dataset.features(config.size, config.storage),
            homepage="https://physionet.org/content/mimic-cxr/",
            citation="""\
            @article{johnson2019mimic,
              title={{MIMIC-CXR}, a de-identified publicly available database of chest radiographs
                     with free-text reports},
              author={Johnson, Alistair E. W. and Pollard, Tom J. and others},
              journal={Scientific Data}, volume={6}, pages={317}, year={2019},
              doi={10.1038/s41597-019-0322-0}
            }""",
        )

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> None:
        """Makes the store beside the folder that TFDS gives, then puts it in its place.

        TFDS removes its own folder when anything fails, so nothing would be there to go on from.
        """
        try:
            from .store import beam_job, build
        except ModuleNotFoundError as error:
            raise ImportError(extras.advice(error) or str(error)) from error

        self._check(download_config)
        source = paths.typed(os.fspath(dl_manager.manual_dir))
        folder = paths.typed(os.fspath(self.data_path.parent / f"unfinished.{self.version}"))
        config = self.builder_config
        listed = _list_films(source, config)
        settings = beam_job.Settings(
            folder=folder,
            preset=config.preset,
            size=config.size,
            storage=config.storage,
            views=None if config.views is None else tuple(config.views),
            no_view=config.no_view,
            has_views=listed.has_views,
            user_project=None,
        )
        details = {"config": dataclasses.asdict(config), "versions": beam_job.versions()}
        options = download_config.beam_options
        if options is None:
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # failures are exceptions
            options = beam_job.parse_options(beam_job.runner_options(()))
        outcome = build.make_store(
            listed,
            settings,
            self.name,
            config.films_per_shard,
            source,
            details,
            options,
            lambda total, done: tfds.core.utils.tqdm(total=total, initial=done, unit=" films"),
        )
        total = sum(outcome.written.values())
        print(f"{total} films; left out: {len(outcome.dropped)}, see skipped.csv and rejected.csv")
        if not total:
            raise ValueError(f"no film could be prepared: {folder}/rejected.csv says why")
        if outcome.retryable:
            print(
                f"warning: {outcome.retryable} films failed for reasons that may pass: "
                "scripts/preprocess.py with the same settings, into the same folder, tries again"
            )
        os.replace(folder, self.data_dir)
        self.info.set_splits(tfds.builder_from_directory(self.data_dir).info.splits)

    def _check(self, download_config: tfds.download.DownloadConfig) -> None:
        """Raises ValueError at what would be ignored, or cannot be done."""
        if paths.is_remote(self.data_dir):
            raise ValueError(
                f"data_dir is {self.data_dir_root}; expected a local folder: for others take "
                "scripts/preprocess.py, which writes to them directly"
            )
        if self.info.file_format != tfds.core.FileFormat.TFRECORD:
            raise ValueError(f"file_format is {self.info.file_format.value}; expected tfrecord")
        usual = tfds.download.DownloadConfig()
        if asked := [n for n in _FOREIGN if getattr(download_config, n) != getattr(usual, n)]:
            raise ValueError(
                f"{', '.join(asked)} cannot be chosen here: leave them out, choose a runner by "
                "beam_options, and the length of shards by films_per_shard of a config"
            )


def _list_films(source: str, config: MimicCxrConfig) -> selection.FilmList:
    """The films of `manual_dir`; says what was found beside what MIMIC-CXR has.

    Raises:
        FileNotFoundError: a table is missing. TFDS users count on views and splits, so it is said
            now and not after hours.
    """
    names = {path.name for path in tfds.core.Path(source).iterdir()}
    for kind in ("metadata", "split"):
        if not tables.find_table(source, names, kind, None):
            raise FileNotFoundError(
                f"found no mimic-cxr-2.0.0-{kind}.csv.gz in {source}; expected it there, as a file "
                "or a link: MIMIC-CXR-JPG has it"
            )
    listed = selection.list_films(source, views=config.views, no_view=config.no_view)
    for note in listed.notes:
        print(note)
    print(counts.counts_table(listed.counts), flush=True)
    return listed
