"""Links films of MIMIC-CXR to MIMIC-IV: what was known at the film, and what came after it.

python scripts/link_mimic_iv.py --mimic_iv /data/mimiciv/3.1 --mimic_iv_ed /data/mimic-iv-ed/2.2 \\
    --metadata /data/mimic-cxr-2.0.0-metadata.csv.gz --output linked
python scripts/link_mimic_iv.py --check linked --splits /data/mimic-cxr-2.0.0-split.csv.gz

Writes a folder: covariates.csv, which train_head.py takes by --config.labels.covariates_path;
outcomes.csv, which it takes by --labels; links.csv with the ids of stays, also of later ones (never
give it to a head); columns.json, which says where each column comes from and when it was known; and
manifest.json. A check that nothing leaks is part of every run; --check runs it on a
folder whose rows or columns you have chosen since. docs/mimic_iv.md has the rules.
"""

import dataclasses
import sys
from collections.abc import Sequence

from cxr_embeddings import cli, record_linking
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import field


@dataclasses.dataclass(frozen=True)
class Options:
    mimic_iv: str = field(
        "", "folder of MIMIC-IV, with hosp and icu in it; required unless --check"
    )
    mimic_iv_ed: str = field("", "folder of MIMIC-IV-ED, with ed in it; unset: that of MIMIC-IV")
    metadata: str = field(
        "", "MIMIC-CXR's table mimic-cxr-2.0.0-metadata.csv.gz; required unless --check"
    )
    output: str = field("", "folder to be made; required unless --check")
    splits: str = field("", "CSV with dicom_id and split; a patient in two splits is an error")
    before_admission_hours: float = field(
        24.0, "a film at most so long before an admission belongs to it"
    )
    nearest_days: float = field(
        7.0, "a film outside all emergency visits gets the last, else the next, at most so far away"
    )
    vitals_hours: float = field(24.0, "vital signs that are older at the film are left out")
    select: str = field("all", "all: outcomes of all films; first: of the first films of each stay")
    ventilation: bool = field(False, "one more outcome: ventilation begins within 24 hours")
    check: str = field("", "only check this folder for leaks")


def link(options: Options) -> int:
    """Links the films, or checks a folder. Returns the exit code."""
    from cxr_embeddings.input_pipeline.mimic_iv import leaks

    needed = (options.mimic_iv, options.metadata, options.output)
    if options.check:
        if any(needed):
            raise ValueError("--check takes a folder that is there, and --splits; expected no more")
        splits = paths.typed_local(options.splits, "--splits") if options.splits else None
        checked = leaks.check(paths.typed_local(options.check, "--check"), splits)
        print(f"no leak: {checked:,} values are on their side of the film's time")
        return 0
    if not all(needed):
        raise ValueError("expected --mimic_iv, --metadata and --output, or --check")
    settings = dataclasses.asdict(options)
    del settings["check"]
    counts = record_linking.link_mimic_iv(**settings)
    for line in record_linking.summary(counts):
        print(line)
    print("no leak: covariates were known at the film, outcomes were open")
    print(f"in {options.output}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(link, Options, __doc__, "nothing was written", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
