"""A folder of embeddings in the layout of the published ones of MIMIC-CXR, or as one table.

python scripts/publish.py --embeddings /data/embeddings --output /data/public --layout per_image
python scripts/publish.py --embeddings /data/embeddings --output /data/table --layout parquet

per_image: files/p10/p10000032/s50414267/<dicom_id>.tfrecord, each of image/id and embedding.
parquet: embeddings.parquet, with the columns image_id and embedding.
Beside them: manifest.json, rejected.csv (films without an embedding, and why) and SHA256SUMS.txt.
The same command again continues where it stopped.
"""

import dataclasses
import importlib.metadata
import sys
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.common import paths, progress
from cxr_embeddings.configs.schema import field

LIBRARIES = ("cxr-embeddings", "numpy", "pyarrow")


@dataclasses.dataclass(frozen=True)
class Options:
    embeddings: str = field("", "folder of embeddings, from embed.py", required=True)
    output: str = field("", "folder to be written", required=True)
    cache: str | None = field(
        None, "folder for the table of the embeddings; unset: .table in their own folder"
    )
    layout: str = field(
        "",
        "per_image, one TFRecord a film in the films' tree; or parquet, one table",
        required=True,
    )


def publish(options: Options) -> int:
    """Publishes embeddings. Returns the exit code."""
    layout = options.layout
    if layout not in ("per_image", "parquet"):
        raise ValueError(f"--layout is {layout!r}; expected per_image or parquet")
    from cxr_embeddings.input_pipeline.embeddings import relayout
    from cxr_embeddings.input_pipeline.embeddings.table import read_table

    table, folder = read_table(options.embeddings, options.cache), paths.typed(options.output)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    print(f"{len(table.image_id)} embeddings in {table.folders[0]}", flush=True)
    before, refused = relayout.publish(table, folder, layout, versions, progress.bar)
    for count, why in ((refused, "for their names"), (len(table.rejected), "as in the source")):
        if count:
            print(f"warning: {count} films have no embedding there, {why}: rejected.csv says why")
    count = len(table.image_id) - refused
    what = "one TFRecord a film" if layout == "per_image" else relayout.TABLE
    print(f"{count} embeddings in {folder}, {before} of them there before: {what}, with")
    print("manifest.json, rejected.csv and SHA256SUMS.txt. To check them, in that folder:")
    print("    sha256sum -c --quiet SHA256SUMS.txt")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(publish, Options, __doc__, "the same command continues from here", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
