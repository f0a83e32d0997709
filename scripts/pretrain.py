"""Labelled films in, an encoder out."""

import sys
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.configs.schema_pretraining import PretrainConfig
from cxr_embeddings.input_pipeline.hosts import Hosts

USAGE = """
python scripts/pretrain.py --config configs/pretrain.py \\
    --input /data/tfds/mimic_cxr_native/1.0.0 --labels /data/abnormal.csv \\
    --config.input.splits=/data/mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz \\
    --output /data/pretraining/run1

Trains an EfficientNet by the supervised contrastive loss, abnormal against normal. The same command
again continues where it stopped. At the end, OUTPUT/weights is a bundle for embed.py.
"""
STOPPED = "the same command continues from the last checkpoint"


def pretrain(config: PretrainConfig) -> int:
    """Runs the job. Returns the exit code."""

    def train(hosts: Hosts) -> None:
        from cxr_embeddings.pretraining import job  # when the hosts know one another

        job.pretrain(config, hosts)

    cli.on_hosts(train, config.distributed)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(pretrain, PretrainConfig, USAGE, STOPPED, config_files=True, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
