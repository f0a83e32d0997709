"""Small enough for a laptop: EfficientNet-B0 at 224 px in float32, every view kept."""

from configs.schema import EmbedConfig, EncoderConfig


def get_config() -> EmbedConfig:
    return EmbedConfig(
        encoder=EncoderConfig(variant="b0", resolution=224, dtype="float32"),
        batch_size=8,
    )
