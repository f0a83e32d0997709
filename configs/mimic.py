"""MIMIC-CXR as it was for the published embeddings: frontal films only."""

from configs.schema import EmbedConfig, InputConfig


def get_config() -> EmbedConfig:
    return EmbedConfig(
        input=InputConfig(views=("AP", "PA")),
        batch_size=8,
    )
