"""Labels and embeddings in, a head and its statistics out: `python scripts/train_head.py ...`."""

import sys
import time
from collections.abc import Sequence

from cxr_embeddings import cli, head_training, prediction
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import HeadConfig

USAGE = """
python scripts/train_head.py --config configs/head.py \\
    --embeddings /data/embeddings --labels /data/mimic-cxr-2.0.0-chexpert.csv.gz \\
    --config.labels.split_path=/data/mimic-cxr-2.0.0-split.csv.gz \\
    --findings Cardiomegaly,Edema --output /data/heads/heart

Trains on the train split, chooses on tune, and reports on test, with intervals: see report.html.
configs/head.py trains linear probes; configs/head.py:mlp and :toolkit heads with hidden layers.
"""
STOPPED = "nothing was written"


def job(config: HeadConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    folder, start = paths.typed_local(config.output.path, "output.path"), time.monotonic()
    prediction.check_new(folder)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a GPU is left to others
    head_training.train(config).report(folder)
    print(f"in {folder}, after {time.monotonic() - start:.0f} s: report.html, metrics.json, ...")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(job, HeadConfig, USAGE, STOPPED, config_files=True, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
