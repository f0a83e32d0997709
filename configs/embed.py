"""What `scripts/embed.py` starts from without --config: the schema's own values."""

from cxr_embeddings.configs.schema import EmbedConfig

get_config = EmbedConfig
