"""MIMIC-CXR for `tfds build`, with shards that are the same bytes as those of preprocess.py.

    tfds build input_pipeline/mimic_cxr_dataset_builder.py --config=cxr_foundation_1280_png16 \\
        --manual_dir=/data/mimic-cxr --data_dir=/data/tfds

Without --config, TFDS builds each of `CONFIGS`. Others are written as JSON:
--config='{"name": "native_768", "preset": "native", "size": 768}'. The command of TFDS 4.9 needs
`pip install mlcroissant`. The same command again continues: until all is done, the shards lie in
`unfinished.1.0.0`, beside the folder that TFDS will make. TFDS' own options for shards and examples
have no effect.
"""

import dataclasses
import functools
import logging
import os

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from cxr_embeddings.common import paths
from cxr_embeddings.input_pipeline.mimic import counts, selection, tables
from cxr_embeddings.input_pipeline.store import dataset


@dataclasses.dataclass(eq=False, kw_only=True)
class MimicCxrConfig(tfds.core.BuilderConfig):
    """Which films, and what becomes of them: see `shards.Settings`."""

    preset: str
    size: int
    storage: str = "png16"
    views: tuple[str, ...] | None = ("AP", "PA")
    no_view: str = "keep"
    films_per_shard: int = 64


CONFIGS = [
    MimicCxrConfig(name=f"{preset}_{size}_{kept}", preset=preset, size=size, storage=kept)
    for preset, size, kept in (
        ("cxr_foundation", 1280, "png16"),
        ("cxr_foundation", 1280, "png8"),
        ("cxr_foundation", 1280, "jpeg95"),
        ("imagenet", 224, "png8"),
        ("imagenet", 512, "png8"),
        ("native", 512, "png16"),
        ("native", 1024, "png16"),
    )
]


class Builder(FileReaderBuilder):
    """TFDS takes the data set's name, mimic_cxr, from that of this file."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = CONFIGS
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    `manual_dir` holds, as files or as links, MIMIC-CXR's files/ and cxr-record-list.csv.gz, and
    mimic-cxr-2.0.0-metadata.csv.gz and mimic-cxr-2.0.0-split.csv.gz of MIMIC-CXR-JPG. PhysioNet
    gives them after training and a data use agreement: https://physionet.org/content/mimic-cxr/
    """

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description="Chest X-ray films of MIMIC-CXR (Johnson et al., Scientific Data 6, 317, "
            "2019), prepared as network input, with ids and views. They must not be passed on.",
            features=dataset.features(config.size, config.storage),
            homepage="https://physionet.org/content/mimic-cxr/",
        )

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> None:
        """Makes the store beside the folder that TFDS gives, then puts it in its place.

        TFDS removes its own folder when anything fails, so nothing would be there to go on from.
        """
        from .store import beam_job, build, shards  # after TFDS has read what this file is

        if paths.is_remote(self.data_dir):
            raise ValueError(
                f"data_dir is {self.data_dir_root}; expected a local folder: for others use "
                "scripts/preprocess.py, which writes to them directly"
            )
        source = paths.typed(os.fspath(dl_manager.manual_dir))
        config, asked = self.builder_config, dataclasses.asdict(self.builder_config)
        settings = shards.Settings(
            folder=paths.typed(os.fspath(self.data_path.parent / f"unfinished.{self.version}")),
            source=source,
            name=self.name,
            has_views=True,
            views=config.views and tuple(config.views),
            **{n: asked[n] for n in ("preset", "size", "storage", "no_view", "films_per_shard")},
        )
        for kind in ("metadata", "split"):  # TFDS users count on views and splits
            if not tables.find_table(source, {*os.listdir(source)}, kind, None):
                raise FileNotFoundError(
                    f"found no mimic-cxr-2.0.0-{kind}.csv.gz in {source}; expected it there, as a "
                    "file or a link: MIMIC-CXR-JPG has it"
                )
        listed = selection.list_films(source, views=config.views, no_view=config.no_view)
        print(*listed.notes, counts.counts_table(listed.counts), sep="\n", flush=True)
        options = download_config.beam_options
        if options is None:
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # failures are exceptions
            options = beam_job.parse_options(())
        outcome = build.make_store(
            listed,
            settings,
            {"config": asked, "versions": beam_job.versions()},
            functools.partial(beam_job.run, options=options),
            lambda total, done: tfds.core.utils.tqdm(total=total, initial=done, unit=" films"),
        )
        total = sum(outcome.written.values())
        print(f"{total} films; left out: {len(outcome.dropped)}, see skipped.csv and rejected.csv")
        if not total:
            raise ValueError(f"no film could be prepared: {settings.folder}/rejected.csv says why")
        if outcome.retryable:
            print(
                f"warning: {outcome.retryable} films failed temporarily: scripts/preprocess.py "
                "with the same settings, into the same folder, tries them again"
            )
        os.replace(settings.folder, self.data_dir)
        self.info.set_splits(tfds.builder_from_directory(self.data_dir).info.splits)
