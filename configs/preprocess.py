"""What `scripts/preprocess.py` starts from without --config: the schema's own values."""

from cxr_embeddings.configs.schema import PreprocessConfig


def get_config(_: str = "preprocess") -> PreprocessConfig:
    return PreprocessConfig()
