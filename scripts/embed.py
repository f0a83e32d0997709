"""Chest X-ray films in, one embedding a film out: `python scripts/embed.py --config ...`."""

import sys
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.configs.schema import EmbedConfig

USAGE = """
python scripts/embed.py --config configs/mimic.py \\
    --input /data/mimic-cxr/files --weights /models/cxr-l2 --output /data/embeddings

Reads DICOM, PNG and JPEG films, embeds them and writes files beside a manifest, tables of skipped
and rejected films, and checksums. The same command again continues where it stopped.
"""
STOPPED = "the same command continues from here"


def embed(config: EmbedConfig) -> int:
    """Runs the job. Returns 0 if a film was embedded and none failed that a retry could fix."""
    from cxr_embeddings.embedding import run_job

    done = cli.on_hosts(lambda hosts: run_job(config, hosts), config.distributed)
    return 0 if done.is_success else 1


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(embed, EmbedConfig, USAGE, STOPPED, config_files=True, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
