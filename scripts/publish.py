"""A folder of embeddings in the layout of the published ones of MIMIC-CXR, or as one table.

python scripts/publish.py --embeddings /data/embeddings --output /data/public --layout per_image
python scripts/publish.py --embeddings /data/embeddings --output /data/table --layout parquet

per_image: files/p10/p10000032/s50414267/<dicom_id>.tfrecord, each of image/id and embedding.
parquet: embeddings.parquet, with the columns image_id and embedding.
Beside them: manifest.json, rejected.csv (films without an embedding, and why) and SHA256SUMS.txt.
The same command again goes on where it ended.
"""

import importlib.metadata
import sys
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.common import paths

FLAGS = {
    "embeddings": "folder of embeddings, from embed.py",
    "output": "folder to be written",
    "layout": "per_image, one TFRecord a film in the films' tree; or parquet, one table",
}
LIBRARIES = ("cxr-embeddings", "numpy", "pyarrow")


def publish(embeddings: str, output: str, layout: str) -> int:
    """Publishes embeddings; the arguments are `FLAGS`. Returns the exit code."""
    if layout not in ("per_image", "parquet"):
        raise ValueError(f"--layout is {layout!r}; expected per_image or parquet")
    from cxr_embeddings.input_pipeline.embeddings import publish as publishing
    from cxr_embeddings.input_pipeline.embeddings import verified

    source, folder = verified.open_source(embeddings), paths.typed(output)
    if f"{folder}/".startswith(f"{source.folder}/"):
        raise ValueError(
            f"{folder} lies in the folder of the embeddings; expected another, so that they are "
            "not mixed up"
        )
    if source.given_up:
        print(
            f"warning: {source.given_up} films of the input were given up and have no "
            "embedding: rejected.csv, here or of the store that was embedded, names them"
        )
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    print(f"{source.count} embeddings in {len(source.sums)} files: checking them", flush=True)
    ids = verified.read_ids(source, cli.progress)
    print("writing them", flush=True)
    if layout == "per_image":
        before, refused = publishing.write_per_image(source, ids, folder, versions, cli.progress)
        what = "one TFRecord a film"
    else:
        before, refused = publishing.write_parquet(source, folder, versions, cli.progress)
        what = publishing.TABLE
    if refused:
        print(f"warning: {refused} films are left out for their names: rejected.csv says why")
    count = source.count - refused
    print(f"{count} embeddings in {folder}, {before} of them there before: {what}, with")
    print("manifest.json, rejected.csv and SHA256SUMS.txt. To check them, in that folder:")
    print("    sha256sum -c --quiet SHA256SUMS.txt")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_flags(
        publish, __doc__ or "", "the same command goes on from here", FLAGS, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
