"""The encoder: weights on the devices, and the engine that computes embeddings with them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

from cxr_embeddings.card_check import bundle_of, read_card
from cxr_embeddings.common import machine
from cxr_embeddings.configs.schema import EncoderConfig
from cxr_embeddings.engines import choose
from cxr_embeddings.errors import translated

if TYPE_CHECKING:
    import jax
    import numpy as np

    from cxr_embeddings.encoder.card import Card
    from cxr_embeddings.encoder.efficientnet import EfficientNet
    from cxr_embeddings.encoder.weights import Variables
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.input_pipeline.films.decode import Batch, Decoder

    # What takes batches with their images float32 [b h w 1] to embeddings [b dim], in order
    Infer = Callable[[Iterable[tuple[Batch, np.ndarray]]], Iterator[tuple[Batch, np.ndarray]]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """Weights on the devices, ready to embed films; `load_encoder` makes it.

    Attributes:
        card: what the weights are, and how films are prepared for them.
        layer: of the network, whose output is the embedding.
        settings: what was asked for, with the engine and the dtype that were chosen.
        mesh: the devices that share the films.
        batch_size: films a step, over all devices of all hosts; 0: as many as their memory holds.
        compiled: films of this host in a step, and a layer -> what computes that layer of them.
        lock: held while the decoders are in use.
    """

    card: Card
    layer: str
    settings: EncoderConfig
    mesh: jax.sharding.Mesh
    batch_size: int
    compiled: Callable[[int, str], Infer]
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @translated
    def embed(
        self,
        films: str | os.PathLike | Iterable[str | os.PathLike | IO[bytes] | bytes | np.ndarray],
        *,
        image_ids: Sequence[str] | None = None,
        progress: bool | None = None,
    ) -> Embeddings:
        """Embeds films in memory; nothing is written. For many films see `cxr_embeddings.embed`.

        Args:
            films: paths or addresses of DICOM, PNG and JPEG files; such files opened in binary
                mode, or their bytes; uint8 or uint16 arrays [height width] of grey values, where 0
                is black, which are taken as a PNG file of that depth would be. A path alone may
                also be a folder, a glob or a list of files.
            image_ids: what the films are called; None: their absolute paths or addresses, and by
                their position ("0", "1", ...) those that have none.
            progress: show a progress bar; None: in a terminal or a notebook.

        Returns:
            The embeddings in the order of the films: `image_id`, `embedding` float32 [film dim].
            Films that cannot be read are in `rejected`, with reason and detail.

        Raises:
            InputError: no film is given, one is of another type, or two have one image id.
        """
        from cxr_embeddings.in_memory import embed_films

        return embed_films(self, films, image_ids, progress)

    @property
    def dtype(self) -> str:
        """The type of the arithmetic."""
        return str(self.settings.dtype)

    @property
    def engine(self) -> str:
        """What computes."""
        return self.settings.engine

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of an embedding: [dim], or [h w channels] of a map."""
        from cxr_embeddings.encoder.embedding_layers import embedding_shape

        width = self.card.embeddings[self.layer]
        return embedding_shape(width, self.layer, self.card.resolution)

    @property
    def identity(self) -> dict[str, object]:
        """What makes its embeddings comparable with others: a part of every manifest."""
        from cxr_embeddings.input_pipeline.films.presets import PRESETS

        card = self.card
        return {
            "weights": card.source,
            "weights_digest": card.digest,
            "trained": card.trained,
            "projection": card.projection if self.layer == "projection" else None,
            "variant": card.variant,
            "embedding": self.layer,
            "shape": self.shape,
            "dtype": self.dtype,
            "resolution": card.resolution,
            "preset": card.preset,
            "preset_version": PRESETS[card.preset].version,
            "mean": card.mean,
            "std": card.std,
        }

    @functools.cached_property
    def decoders(self) -> Sequence[Decoder]:
        """Processes that read films for `embed`; each is started when it is first needed."""
        from cxr_embeddings.input_pipeline.films import decode

        card, count = self.card, machine.processors()
        stack = contextlib.ExitStack()
        weakref.finalize(self, stack.close)
        return stack.enter_context(decode.decoders(card.preset, card.resolution, None, count))

    def films_a_step(self, films: int) -> int:
        """`batch_size`, or how many of so many films the memory of all devices holds."""
        from cxr_embeddings.encoder.inference import films_that_fit

        shared = self.mesh.shape["data"]
        memory = self.mesh.local_devices[0].memory_stats()
        fit = films_that_fit(self.card, self.dtype, memory)
        return self.batch_size or min(math.ceil(max(1, films) / shared), fit) * shared

    @property
    def description(self) -> str:
        """One line that says what computes what."""
        card, device = self.card, self.mesh.devices.flat[0]
        return (
            f"{card.variant} at {card.resolution} px, {self.layer} ({math.prod(self.shape):,}), "
            f"{self.dtype} by {self.engine} on {self.mesh.size} {device.platform}"
        )

    def __repr__(self) -> str:
        return f"Encoder({self.description}; weights: {self.card.source})"


@translated
def load_encoder(
    weights: str | os.PathLike = "demo",
    *,
    engine: str = "auto",
    dtype: str | None = None,
    embedding: str | None = None,
    batch_size: int = 0,
    model_parallel: int = 1,
    variant: str | None = None,
    resolution: int | None = None,
    preset: str | None = None,
    seed: int = 0,
) -> Encoder:
    """Loads weights, and puts them on the devices.

    Args:
        weights: folder of a weights bundle; "demo" for the weights that are shipped;
            "hf:ORG/NAME" or "hf:ORG/NAME/FOLDER" for published ones, which are converted into
            ~/.cache/cxr_embeddings the first time, or found there; "random" for untrained ones,
            whose variant, resolution, preset and seed are given.
        engine: "jax"; "openvino", the faster one on x86 CPUs; "auto": the fastest that is installed
            for the device.
        dtype: of the arithmetic, "float32" or "bfloat16"; None: float32 on CPUs, else bfloat16.
        embedding: layer to emit, of those that the card offers; None: the first of them.
        batch_size: films a step, over all devices; 0: as many as their memory holds.
        model_parallel: devices that share one copy of the weights.
        variant, resolution, preset: of random weights; with a bundle its card decides.
        seed: of random weights.

    Raises:
        InputError: the options contradict one another, the card or the devices.
        FileError: there is no such bundle, or it cannot be read.
        MissingPackage: the engine is not installed.
    """
    say = logging.getLogger("cxr_embeddings").warning
    config = EncoderConfig(
        weights=os.fspath(weights),
        variant=variant,
        resolution=resolution,
        embedding=embedding,
        preset=preset,
        dtype=dtype,
        engine=engine,
        seed=seed,
        model_parallel=model_parallel,
    )
    return open_encoder(config, batch_size, say)


def open_encoder(
    config: EncoderConfig, batch_size: int = 0, say: Callable[[str], object] = print
) -> Encoder:
    """The encoder that a config asks for.

    Args:
        config: what is asked for.
        batch_size: films a step, over all devices of all hosts; 0: as many as their memory holds.
        say: is told what the user should know.

    Raises:
        ValueError, OSError, ImportError: as the family of `load_encoder`.
    """
    from cxr_embeddings.encoder import weights

    config, mesh = choose(config)
    shared = mesh.shape["data"]
    if batch_size < 0 or batch_size % shared:
        raise ValueError(
            f"batch_size is {batch_size}; expected a positive multiple of {shared}, the number of "
            "devices that share a batch, or 0"
        )
    card = read_card(config, say)
    layer = config.embedding or next(iter(card.embeddings))
    model = weights.model_for(card, str(config.dtype))
    if mesh.devices.flat[0].platform == "gpu":
        from cxr_embeddings.encoder import gpu_form

        model = gpu_form.for_gpu(model)
    card, variables = _load_variables(config, card, model, mesh)

    def compiled(films: int, layer: str) -> Infer:
        if config.engine == "openvino":
            from cxr_embeddings.encoder import openvino_engine

            requests = openvino_engine.compile(card, variables, layer, str(config.dtype), films)
            return functools.partial(openvino_engine.embed, requests)
        return functools.partial(inference.embed, forward(layer), variables, mesh)

    if config.engine != "openvino":
        from cxr_embeddings.encoder import inference

        @functools.cache
        def forward(layer: str) -> inference.Forward:
            return inference.make_forward(model, variables, mesh, layer, card.mean, card.std)

    return Encoder(card, layer, config, mesh, batch_size, functools.lru_cache(2)(compiled))


def _load_variables(
    config: EncoderConfig, card: Card, model: EfficientNet, mesh: jax.sharding.Mesh
) -> tuple[Card, Variables]:
    """The variables on the devices, and the card with their digest."""
    from cxr_embeddings.encoder import random_weights, sharding, weights

    place = functools.partial(sharding.variable_shardings, mesh)
    # OpenVINO takes BatchNorm into the kernels first, and rounds them then
    kernels = "float32" if config.engine == "openvino" else str(config.dtype)
    if config.weights != "random":
        return card, weights.load_variables(
            bundle_of(config.weights), card, dtype=kernels, place=place
        )
    variables = random_weights.random_variables(model, config.seed)
    card = dataclasses.replace(card, digest=weights.digest(variables))
    variables = weights.cast_kernels(variables, kernels)
    return card, sharding.put_variables(variables, place(variables))
