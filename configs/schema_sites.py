"""The settings of `scripts/compare_sites.py`, typed, with their sentences for `--help`."""

import dataclasses

from cxr_embeddings.configs.schema import LabelsConfig, TrainingConfig, field

PROBE = TrainingConfig()


@dataclasses.dataclass(frozen=True)
class SiteConfig:
    """A hospital, or any set of films that no other site shares.

    Attributes:
        name: as the report calls it.
        embeddings: folders, of one encoder for all sites.
        labels: its table; where no split is named, and the table has none, one is drawn.
        view, sex, age, scanner: columns of the table, or of `labels.metadata_path`; "": the column
            of that name if the table has one.
    """

    name: str
    embeddings: tuple[str, ...]
    labels: LabelsConfig
    view: str = ""
    sex: str = ""
    age: str = ""
    scanner: str = ""


@dataclasses.dataclass(frozen=True)
class SitesOutputConfig:
    path: str = field(
        "", "folder to be made: report, metrics, predictions, figures", "output", required=False
    )


@dataclasses.dataclass(frozen=True)
class SitesConfig:
    """Settings of `scripts/compare_sites.py`; the sites stand in a file, such as configs/sites.py.

    `sites` is no option of the command line.
    """

    sites: tuple[SiteConfig, ...] = ()
    findings: tuple[str, ...] = field(
        ("all",), "findings to compare; all: those that every site has", "findings", required=False
    )
    training: TrainingConfig = PROBE
    output: SitesOutputConfig = SitesOutputConfig()
    fractions: tuple[float, ...] = field(
        (0.6, 0.2, 0.2), "shares of patients to train, tune and test on, where a site has no split"
    )
    local: int = field(100, "films of a site's train split on which foreign heads are recalibrated")
    sizes: tuple[str, ...] = field(
        ("16", "...", "all"),
        "numbers of local labels, to compare local heads with foreign ones; none: no curve",
    )
    draws: int = field(5, "random draws of patients for each of these numbers")
    resamples: int = field(1000, "bootstrap samples of patients, for the intervals")
    seed: int = field(0, "seed of the bootstrap, the draws and the splits")
    dtype: str = field("float32", "numbers of the embeddings: float32, or float16 to save memory")
