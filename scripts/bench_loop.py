"""The embedding loop with ready images, its files written, against the bare forward pass."""

import tempfile

import jax
import numpy as np

from encoder import embed, random_weights, sharding, weights
from input_pipeline import files, outputs
from scripts import timing

BATCHES, BATCH, RESOLUTION = 6, 8, 224


def run(repeats: int) -> None:
    """Prints how much of the bare forward pass's throughput the whole loop keeps (B0, float32)."""
    card = random_weights.random_card("b0", RESOLUTION, "native", (0.0,) * 3, (1.0,) * 3)
    model = weights.model_for(card)
    mesh = sharding.make_mesh()
    variables = random_weights.random_variables(model)
    variables = jax.device_put(variables, sharding.variable_shardings(mesh, variables))
    forward = embed.make_forward(model, variables, mesh, "head", card.mean, card.std)
    generator = np.random.default_rng(0)
    images = generator.random((BATCHES, BATCH, RESOLUTION, RESOLUTION, 1), np.float32)
    films = [files.InputFile(f"/{i}.dcm", str(i)) for i in range(BATCHES * BATCH)]

    def bare() -> None:
        jax.block_until_ready([forward(variables, batch) for batch in images])

    def loop() -> None:
        planned = outputs.plan(films, "per_image", "tfrecord", 1)
        with (
            tempfile.TemporaryDirectory() as folder,
            outputs.open_run(folder, planned, "tfrecord", {}, {}) as opened,
        ):
            batches = (
                (films[i * BATCH : (i + 1) * BATCH], batch) for i, batch in enumerate(images)
            )
            for names, embeddings in embed.embed(forward, variables, mesh, batches):
                for film, embedding in zip(names, embeddings, strict=True):
                    opened.add(film, embedding)
            opened.finish()

    seconds = timing.interleave({"bare forward pass": bare, "loop, files written": loop}, repeats)
    print(f"{len(films)} ready images of {RESOLUTION} px, B0 in float32, batches of {BATCH}")
    print(timing.report(seconds, baseline="bare forward pass"))
