"""The encoder: EfficientNet in Flax, its weights, its sharding and the compiled forward pass."""
