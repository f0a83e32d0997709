"""Small enough for a laptop: our own EfficientNet-Lite0 at 224 px in float32, every view kept."""

import pathlib

from cxr_embeddings.configs.schema import EmbedConfig, EncoderConfig

WEIGHTS = pathlib.Path(__file__).parents[1] / "weights/demo"


def get_config() -> EmbedConfig:
    return EmbedConfig(
        encoder=EncoderConfig(weights=str(WEIGHTS), dtype="float32", engine="jax"),
        batch_size=8,
    )
