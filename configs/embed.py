"""What `scripts/embed.py` starts from without --config: the schema's own values."""

from configs.schema import EmbedConfig

get_config = EmbedConfig
