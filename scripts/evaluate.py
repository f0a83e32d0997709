"""Measures a head on films of another place: `python scripts/evaluate.py ...`."""

import sys
import time
from collections.abc import Sequence

from cxr_embeddings import cli, head_evaluation, prediction
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import EvaluateConfig

USAGE = """
python scripts/evaluate.py --head heads/heart --embeddings /data/site_b --labels site_b.csv \\
    --output /data/heart_at_b

Measures a head on labelled films that it was not trained on, with the full report: intervals,
operating points, and calibration before and after recalibration on a share of the patients. These
patients are not measured. --config.compare=OTHER adds a paired test with another head. All films
with labels are used, or those of the split that --config.labels.test names.
"""


def evaluate(config: EvaluateConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    start = time.monotonic()
    if config.output.path:
        folder = paths.typed_local(config.output.path, "output.path")
        prediction.check_new(folder)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a GPU is left to others
    found = head_evaluation.evaluate(prediction.load_head(config.head), config)
    print(found.summary)
    if not config.output.path:
        print("nothing is written; --output FOLDER writes the report")
        return 0
    found.report(folder)
    print(f"in {folder}, after {time.monotonic() - start:.0f} s: report.html, metrics.json, ...")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(
        evaluate, EvaluateConfig, USAGE, "nothing was written", config_files=True, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
