"""Heads across hospitals: `python scripts/compare_sites.py --config configs/sites.py`."""

import sys
import time
from collections.abc import Sequence

from cxr_embeddings import cli, prediction, site_comparison
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema_sites import SitesConfig

USAGE = """
python scripts/compare_sites.py --config configs/sites.py --output /data/sites

Trains a head on each site, and on all but one, and tests each on every site. The page shows AUROCs,
differences to the site's own head, calibration before and after recalibration, the heads' own
thresholds, prevalence and case mix, how well a probe tells the hospitals apart, and how many local
labels a local head needs to reach a foreign one. The sites are listed in the file of --config.
"""


def compare_sites(config: SitesConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    start = time.monotonic()
    if config.output.path:
        folder = paths.typed_local(config.output.path, "output.path")
        prediction.check_new(folder)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a GPU is left to others
    found = site_comparison.compare(config, shown=True)
    print(found.summary)
    if not config.output.path:
        print("nothing is written; --output FOLDER writes the report")
        return 0
    found.report(folder)
    print(f"in {folder}, after {time.monotonic() - start:.0f} s: report.html, metrics.json, ...")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(
        compare_sites, SitesConfig, USAGE, "nothing was written", config_files=True, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
