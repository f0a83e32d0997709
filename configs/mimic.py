"""MIMIC-CXR as the published embeddings were made: frontal films, EfficientNet-L2 at 1280 px."""

from configs.schema import EmbedConfig, EncoderConfig, InputConfig


def get_config() -> EmbedConfig:
    return EmbedConfig(
        input=InputConfig(views=("AP", "PA")),
        encoder=EncoderConfig(variant="l2", resolution=1280, dtype="bfloat16"),
        batch_size=8,
    )
