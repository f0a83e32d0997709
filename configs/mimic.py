"""MIMIC-CXR as it was for the published embeddings: frontal films only."""

from cxr_embeddings.configs.schema import (
    EmbedConfig,
    FilmsConfig,
    InputConfig,
    PreprocessConfig,
    StoreConfig,
)

VIEWS = ("AP", "PA")


def get_config(command: str = "embed") -> EmbedConfig | PreprocessConfig:
    """The config of `embed.py` or of `preprocess.py`, which each ask for their own."""
    configs: dict[str, EmbedConfig | PreprocessConfig] = {
        "embed": EmbedConfig(input=InputConfig(views=VIEWS)),
        "preprocess": PreprocessConfig(
            input=FilmsConfig(views=VIEWS), output=StoreConfig(name="mimic_cxr")
        ),
    }
    return configs[command]
