"""Three hospitals for `scripts/compare_sites.py`: a site is one entry. Change the paths."""

from cxr_embeddings.configs.schema import LabelsConfig
from cxr_embeddings.configs.schema_sites import SiteConfig, SitesConfig


def get_config() -> SitesConfig:
    return SitesConfig(
        sites=(
            SiteConfig(
                name="MIMIC-CXR",
                embeddings=("/data/embeddings/mimic",),
                labels=LabelsConfig(
                    path="/data/mimic/mimic-cxr-2.0.0-chexpert.csv.gz",
                    split_path="/data/mimic/mimic-cxr-2.0.0-split.csv.gz",
                    metadata_path="/data/mimic/mimic-cxr-2.0.0-metadata.csv.gz",
                    not_mentioned="negative",
                ),
                view="ViewPosition",
            ),
            SiteConfig(
                name="CheXpert",
                embeddings=("/data/embeddings/chexpert",),
                labels=LabelsConfig(
                    path="/data/chexpert/train.csv", data_set="chexpert", not_mentioned="negative"
                ),
            ),
            SiteConfig(
                name="ChestX-ray14",
                embeddings=("/data/embeddings/chestxray14",),
                labels=LabelsConfig(
                    path="/data/chestxray14/Data_Entry_2017_v2020.csv", data_set="chestxray14"
                ),
            ),
        ),
        findings=("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pneumonia"),
    )
