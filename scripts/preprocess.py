"""Films in, a store of images that are ready for the network out."""

import sys
from collections.abc import Sequence

from absl import logging

from cxr_embeddings import cli
from cxr_embeddings.configs.schema import PreprocessConfig

USAGE = """
python scripts/preprocess.py --config configs/mimic.py \\
    --input /data/mimic-cxr --weights /models/cxr-l2 --output /data/tfds/mimic_cxr/1.0.0 \\
    --config.input.metadata_path=/data/mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz \\
    --config.input.split_path=/data/mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz

Reads every film once and writes shards that TFDS and embed.py read, by Apache Beam on all
processors of this machine. Beam's own options work too, such as --direct_num_workers=4 or
--runner=DataflowRunner. The same command again continues where it stopped.
"""
STOPPED = "the same command continues from here"


def preprocess(config: PreprocessConfig, beam_options: Sequence[str]) -> int:
    """Runs the job. Returns 0 if a film was written and none failed that a retry could fix."""
    from cxr_embeddings import preparing

    if logging.get_verbosity() == logging.WARNING:
        logging.set_verbosity(logging.FATAL)  # Beam is loud; its failures come as exceptions
    outcome = preparing.prepare(config, beam_options)
    return 1 if outcome.retryable or not sum(outcome.written.values()) else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(
        preprocess,
        PreprocessConfig,
        USAGE,
        STOPPED,
        config_files=True,
        variant="preprocess",
        others=True,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
