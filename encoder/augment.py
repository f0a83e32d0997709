"""Random views of a film, drawn on the device: crop, rotation, contrast, brightness, blur, noise.

No mirroring unless asked for: the heart lies on one side, and so does the stomach's air bubble.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Float32, Key

from cxr_embeddings.configs.schema_pretraining import AugmentationConfig

_BLUR_RADIUS = 3  # taps of the kernel on either side, in pixels


def check(augmentation: AugmentationConfig) -> None:
    """Raises ValueError where an amount is out of range."""
    limits = {
        "crop": (0.05, 1),
        "rotation": (0, 180),
        "contrast": (0, 1),
        "brightness": (0, 1),
        "blur": (0, _BLUR_RADIUS),
        "noise": (0, 1),
    }
    for name, (low, high) in limits.items():
        if not low <= (found := getattr(augmentation, name)) <= high:
            raise ValueError(f"training.augmentation.{name} is {found}; expected {low} to {high}")


def view(
    key: Key[Array, ""], film: Float32[Array, "h w 1"], how: AugmentationConfig
) -> Float32[Array, "h w 1"]:
    """One view of a film, of values in [0, 1] like the film; beyond the film's edge it is black.

    Every amount is drawn uniformly by the key.
    """
    height, width, _ = film.shape
    keys = jax.random.split(key, 8)

    def draw(i: int, low: float, high: float) -> Float32[Array, ""]:
        return jax.random.uniform(keys[i], (), jnp.float32, low, high)

    # where in the film each pixel of the view lies: scaled, rotated and shifted about the centre
    scale = draw(0, how.crop, 1.0)
    angle = jnp.deg2rad(draw(1, -how.rotation, how.rotation))
    slack = (1 - scale) / 2
    down, right = draw(2, -1.0, 1.0) * slack, draw(3, -1.0, 1.0) * slack
    y = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2) * scale
    x = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2) * scale
    if how.mirror:
        x = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 8)), -x, x)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    rows = y[:, None] * cos + x[None] * sin + down * height + (height - 1) / 2
    columns = x[None] * cos - y[:, None] * sin + right * width + (width - 1) / 2
    image = map_coordinates(film[..., 0], [rows, columns], order=1, mode="constant")

    mean = image.mean()
    image = (image - mean) * draw(4, 1 - how.contrast, 1 + how.contrast) + mean
    image = (image + draw(5, -how.brightness, how.brightness)).clip(0, 1)
    if how.blur:
        image = _blur(image, draw(6, 0.0, how.blur))
    if how.noise:
        amount, noise = jax.random.split(keys[7])
        amount = jax.random.uniform(amount, (), jnp.float32, 0, how.noise)
        image = (image + amount * jax.random.normal(noise, image.shape)).clip(0, 1)
    return image[..., None]


def _blur(image: Float[Array, "h w"], deviation: Float[Array, ""]) -> Float[Array, "h w"]:
    """A Gaussian, cut off after `_BLUR_RADIUS` pixels; the edge's pixels go on beyond it."""
    offset = jnp.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=jnp.float32)
    kernel = jax.nn.softmax(-((offset / jnp.maximum(deviation, 0.01)) ** 2) / 2)
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (_BLUR_RADIUS, _BLUR_RADIUS)
        padded = jnp.pad(image, pad, mode="edge")
        size = image.shape[axis]
        parts = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(kernel)))
        image = sum(part * weight for part, weight in zip(parts, kernel, strict=True))
    return image
