"""Pretraining: `configs/pretrain.py` is B0 for one machine; `:l2`, L2 for a slice or many GPUs."""

from cxr_embeddings.configs.schema_pretraining import (
    NetworkConfig,
    PretrainConfig,
    PretrainingConfig,
)

PRESETS = {
    "b0": PretrainConfig(),
    "l2": PretrainConfig(
        network=NetworkConfig(variant="l2", remat=True, fully_sharded=True),
        training=PretrainingConfig(
            batch_size=2048,
            micro_batch=256,
            optimizer="lars",
            learning_rate=2.4,
            weight_decay=1e-6,
            steps=100_000,
            warmup_steps=2500,
        ),
    ),
}


def get_config(preset: str = "b0") -> PretrainConfig:
    if preset not in PRESETS:
        raise ValueError(f"configs/pretrain.py:{preset} is unknown; expected {', '.join(PRESETS)}")
    return PRESETS[preset]
