"""A head on embeddings, or on films with the weights they are embedded by.

python scripts/predict.py --head heads/heart --embeddings /data/embeddings --output predictions.csv
python scripts/predict.py --head heads/heart --weights /models/cxr-l2 --input /data/films \\
    --output predictions.csv

Writes one row a film: image_id, and for each finding NAME_probability (calibrated on the head's
tune split) and NAME_positive, 1 where it reaches the head's threshold (Youden's J on tune).
"""

import os
import pathlib
import tempfile
from typing import Any

from configs import writing
from scripts import cli

FLAGS = {
    "head": "folder of a head, from train_head.py",
    "embeddings": "folder of embeddings, from embed.py",
    "cache": "folder for the table they are gathered in once; unset: .table in their own",
    "weights": "weights bundle to embed the films of --input with",
    "input": "films: a folder, a glob, or a list of files",
    "output": "CSV to be written",
}


def predict(
    head: str | None,
    output: str | None,
    embeddings: str | None = None,
    cache: str | None = None,
    weights: str | None = None,
    input: str | None = None,
) -> int:
    """Writes the predictions; the arguments are `FLAGS`. Returns the exit code."""
    films = bool(weights and input)
    halves = bool(weights or input) and not films
    if not head or not output or halves or films == bool(embeddings):
        raise ValueError(
            "expected --head, --output, and either --embeddings or --weights with --input\n\n"
            + (__doc__ or "")
        )
    file = pathlib.Path(output).expanduser().absolute()
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{file} cannot be written: expected a file in a folder that exists")

    from heads import store

    saved = store.load(os.path.expanduser(head))
    if not films:
        return predict_embeddings(saved, embeddings, cache, file)
    with tempfile.TemporaryDirectory(prefix=".embeddings-", dir=file.parent) as folder:
        code = embed(saved.card, weights, input, folder)
        return code or predict_embeddings(saved, folder, None, file)


def embed(card: dict[str, Any], weights: str, input: str, folder: str) -> int:
    """Embeds films as those that the head was trained on, of the same views."""
    from configs.schema import EmbedConfig, EncoderConfig, InputConfig, OutputConfig
    from scripts import embed

    encoder = card["encoder"]
    if encoder is None:
        raise ValueError(
            "the head was trained on embeddings without manifest.json: which encoder made them "
            "cannot be told, so films cannot be embedded for it; expected --embeddings"
        )
    random = weights == "random"
    config = EmbedConfig(
        InputConfig(input, views=encoder["views"]),
        EncoderConfig(
            weights,
            embedding=encoder["embedding"],
            dtype=encoder["dtype"],
            **{name: encoder[name] for name in ("variant", "resolution", "preset") if random},
        ),
        OutputConfig(folder),
    )
    return embed.embed(config)


def predict_embeddings(saved: Any, path: str, cache: str | None, output: pathlib.Path) -> int:
    import numpy as np
    from scipy import special

    from heads import candidates, store
    from heads.labels import studies
    from input_pipeline.embedding_table import read_table

    card = saved.card
    table = read_table(path, cache, card["embeddings_dtype"])
    store.check_encoder(card, table.encoder, table.embedding.shape[1])
    if table.encoder is None:
        print("warning: no manifest.json says which encoder made these embeddings")
    embedding, image_id = table.embedding, table.image_id
    if card["per_study"] != "none":
        if not card["studies_from_paths"]:
            raise ValueError(
                "the head was trained on studies that a table told, and of films alone it cannot "
                "be told which are of one study: train it with labels.per_study=none"
            )
        embedding, image_id = studies.merge_by_path(embedding, image_id, card["per_study"])
    logit = candidates.score(saved.trained, embedding, np.arange(len(embedding)))
    columns: dict[str, Any] = {"image_id": image_id}
    for j, finding in enumerate(card["findings"]):
        probability = special.expit(logit[:, j].astype(float) / card["temperatures"][finding])
        threshold = next(iter(card["thresholds"][finding].values()))
        columns[f"{finding}_probability"] = probability
        positive = (probability >= threshold).astype(int) if threshold is not None else ""
        columns[f"{finding}_positive"] = positive
    rows = zip(*(np.broadcast_to(c, len(image_id)).tolist() for c in columns.values()), strict=True)
    with writing.whole_file(output) as stream:
        stream.write(writing.encode_table(list(columns), rows))
    print(f"{len(image_id)} predictions in {output}")
    for name, reason in table.rejected:
        print(f"warning: no prediction for {name}: {reason}")
    return 0


def main() -> None:
    cli.run_flags(predict, "nothing was written", FLAGS)


if __name__ == "__main__":
    main()
