"""Labels and embeddings in, a head and its statistics out: `python scripts/train_head.py ...`."""

import os
import re
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
The flags of the CXR Foundation toolkit's train work, too, and mean configs/head.py:toolkit.
"""
STOPPED = "nothing was written"
TOOLKIT_FLAGS = {
    "labels_csv": "labels",
    "data_dir": "embeddings",
    "head_name": "findings",
    "train_split_name": "config.labels.train",
    "tune_split_name": "config.labels.tune",
    "num_epochs": "config.training.epochs",
    "batch_size": "config.training.batch_size",
}


def job(config: HeadConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    folder, start = paths.typed_local(config.output.path, "output.path"), time.monotonic()
    prediction.check_new(folder)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a GPU is left to others
    head_training.train(config).report(folder)
    print(f"in {folder}, after {time.monotonic() - start:.0f} s: report.html, metrics.json, ...")
    return 0


def translated(argv: Sequence[str]) -> list[str]:
    """A command line of the toolkit's train as one of ours; any other as it is."""
    found = [re.match(r"--?(\w+)(=.*)?$", word, re.DOTALL) for word in argv]
    theirs = [one if one and one[1] in TOOLKIT_FLAGS else None for one in found]
    if not any(theirs):
        return [*argv]
    ours = [
        f"--{TOOLKIT_FLAGS[one[1]]}{one[2] or ''}" if one else word
        for one, word in zip(theirs, argv, strict=True)
    ]
    names = [word.lstrip("-").partition("=")[0] for word in ours]
    if not {"output", "config.output.path"} & {*names} and "embeddings" in names:
        i = names.index("embeddings")
        if data := ours[i].partition("=")[2] or "".join(ours[i + 1 : i + 2]):
            ours.append(f"--output={os.path.join(data, 'model')}")  # where the toolkit puts it
    return ours if "config" in names else [ours[0], "--config=configs/head.py:toolkit", *ours[1:]]


def main(argv: Sequence[str] | None = None) -> int:
    argv = translated(sys.argv if argv is None else argv)
    return cli.run(job, HeadConfig, USAGE, STOPPED, config_files=True, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
