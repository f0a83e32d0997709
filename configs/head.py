"""Heads: `configs/head.py` is a linear probe; `:mlp`; `:toolkit`, the CXR Foundation toolkit's."""

from cxr_embeddings.configs.schema import HeadConfig, TrainingConfig

PRESETS = {
    "linear": TrainingConfig(),
    "mlp": TrainingConfig(
        optimizer="adamw",
        hidden=(512, 256),
        dropout=0.3,
        weight_decays=(1e-2, 1e-1, 1.0),
        seeds=(0, 1, 2),
    ),
    "toolkit": TrainingConfig(
        optimizer="lars",
        hidden=(512, 256),
        standardise=False,
        weight_decays=(0.0,),
        batch_size=512,
        epochs=300,
        learning_rate=0.1,
        patience=0,
        shuffle=False,
    ),
}


def get_config(preset: str = "linear") -> HeadConfig:
    if preset not in PRESETS:
        raise ValueError(f"configs/head.py:{preset} is unknown; expected {', '.join(PRESETS)}")
    return HeadConfig(training=PRESETS[preset])
