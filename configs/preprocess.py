"""What `scripts/preprocess.py` starts from without --config: the schema's own values."""

from configs.schema import PreprocessConfig

get_config = PreprocessConfig
