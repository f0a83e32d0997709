"""The encoder that a command line asks for, on the devices, and what runs it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import EncoderConfig

if TYPE_CHECKING:
    import jax

    from cxr_embeddings.encoder.card import Card
    from cxr_embeddings.encoder.efficientnet import EfficientNet
    from cxr_embeddings.encoder.weights import Variables

ENGINES = ("jax", "openvino", "pallas")


def make_mesh(config: EncoderConfig) -> jax.sharding.Mesh:
    """The devices that share the films: all that JAX sees; of OpenVINO each host's CPU.

    Raises:
        ValueError: there is no such engine, or not on these devices, or `model_parallel` does
            not fit.
        ImportError: the engine is not installed.
    """
    if config.engine not in ENGINES:
        raise ValueError(
            f"encoder.engine is {config.engine!r}; expected one of {', '.join(ENGINES)}"
        )
    if config.engine == "openvino" and not importlib.util.find_spec("openvino"):
        raise ImportError(
            "encoder.engine=openvino needs OpenVINO: pip install 'cxr-embeddings[openvino]', in a "
            "checkout pip install -e '.[openvino]'"
        )
    import jax

    from cxr_embeddings.encoder import sharding

    if config.engine == "pallas" and jax.default_backend() != "gpu":
        raise ValueError(
            f"encoder.engine is 'pallas', which needs an NVIDIA GPU, but JAX runs on "
            f"{jax.default_backend()}: leave the option out"
        )
    if config.engine == "pallas" and config.model_parallel != 1:
        raise ValueError(
            f"encoder.model_parallel is {config.model_parallel}; with engine=pallas expected 1"
        )
    if config.engine != "openvino":
        return sharding.make_mesh(config.model_parallel)
    hosts = range(jax.process_count())
    devices = [jax.local_devices(process_index=host, backend="cpu")[0] for host in hosts]
    return sharding.make_mesh(config.model_parallel, devices)


def make_infer(
    config: EncoderConfig,
    card: Card,
    model: EfficientNet,
    variables: Variables,
    mesh: jax.sharding.Mesh,
    layer: str,
    films: int,
) -> Callable[..., Any]:
    """What takes batches of (tag, images) to (tag, embeddings).

    Args:
        config: of the encoder.
        card, model, variables: from `load_encoder`.
        mesh: from `make_mesh`.
        layer: to emit.
        films: of this host in a batch.
    """
    if config.engine == "openvino":
        from cxr_embeddings.encoder import openvino_engine

        requests = openvino_engine.compile(card, variables, layer, config.dtype, films)
        return functools.partial(openvino_engine.embed, requests)
    from cxr_embeddings.encoder import embed

    forward = embed.make_forward(model, variables, mesh, layer, card.mean, card.std)
    return functools.partial(embed.embed, forward, variables, mesh)


def check_version(card: Card, say: Callable[..., object]) -> None:
    """Notes that weights were made with films prepared by an older version of their preset.

    Raises:
        ValueError: of a newer one, which this program cannot follow.
    """
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    made, now = card.preset_version, PRESETS[card.preset].version
    if made > now:
        raise ValueError(
            f"the weights' card has version {made} of the preset {card.preset}, this program has "
            f"{now}: update cxr-embeddings"
        )
    if made < now:
        say(
            f"note: the weights are of version {made} of the preset {card.preset}; films are "
            f"prepared by version {now} (docs/films.md says what differs)"
        )


def load_encoder(
    config: EncoderConfig, mesh: jax.sharding.Mesh, say: Callable[..., object] = print
) -> tuple[Card, EfficientNet, Variables]:
    """The weights' card, the network and its variables on the devices.

    Raises:
        ValueError: the config contradicts the card, or asks for what the weights cannot give.
    """
    from cxr_embeddings.encoder import random_weights, sharding, weights
    from cxr_embeddings.encoder.card import load_card
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    if config.dtype is None:
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        config.dtype = "float32" if on_cpu else "bfloat16"
    if config.dtype not in ("bfloat16", "float32"):
        raise ValueError(f"encoder.dtype is {config.dtype!r}; expected bfloat16 or float32")
    random = config.weights == "random"
    if random:
        say("warning: weights=random: these will be the embeddings of an untrained network")
        name = config.preset or "native"
        preset = PRESETS.get(name, PRESETS["native"])
        card = random_weights.random_card(
            config.variant, config.resolution, name, preset.mean, preset.std, preset.version
        )
    else:
        bundle = paths.typed_local(config.weights, "encoder.weights")
        card = load_card(bundle)
    if card.preset not in PRESETS:
        raise ValueError(f"encoder.preset is {card.preset!r}; expected one of {', '.join(PRESETS)}")
    check_version(card, say)
    for name in ("variant", "resolution", "preset"):
        asked, given = getattr(config, name), getattr(card, name)
        if asked not in (None, given):
            raise ValueError(
                f"config.encoder.{name} is {asked!r}, but the card of {config.weights} says "
                f"{given!r}: leave the option out, or choose other weights"
            )
    if config.embedding not in (None, *card.embeddings):
        offers = ", ".join(f"{name} ({width:,})" for name, width in card.embeddings.items())
        raise ValueError(
            f"encoder.embedding is {config.embedding!r}, but the card of {config.weights} offers "
            f"{offers}. head is this project's own, of 4,096 numbers; `convert_weights.py "
            "--projection orthonormal:0` adds an untrained map to 4,096 numbers, named projection"
        )
    model = weights.model_for(card, config.dtype)
    if mesh.devices.flat[0].platform == "gpu":
        from cxr_embeddings.encoder import depthwise_kernel as gpu

        layers = gpu.depthwise_bn_swish if config.engine == "pallas" else gpu.by_xla
        model = gpu.for_gpu(model, layers)
    place = functools.partial(sharding.variable_shardings, mesh)
    # OpenVINO takes BatchNorm into the kernels first, and rounds them then
    kernels = "float32" if config.engine == "openvino" else config.dtype
    if random:
        variables = random_weights.random_variables(model, config.seed)
        card = dataclasses.replace(card, digest=weights.digest(variables))
        variables = weights.cast_kernels(variables, kernels)
        variables = sharding.put_variables(variables, place(variables))
    else:
        variables = weights.load_variables(bundle, card, dtype=kernels, place=place)
    return card, model, variables
