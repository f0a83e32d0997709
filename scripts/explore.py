"""Serves a page on which films are seen as a map and labelled, and a classifier is trained.

python scripts/explore.py --embeddings /data/embeddings --films /data/films --weights demo \\
    --labels /data/labels.csv --output explored

Open the address that it prints in a browser on this machine. On a server, it also says how to reach
the page from your own machine by ssh. Every key is saved to OUTPUT/labels.csv at once, in the form
that train_head.py reads, and the next start continues with it. "Take home" trains a head as
train_head.py does, into OUTPUT/NAME. Ctrl-C ends the page; no label is lost.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence

from cxr_embeddings import cli, exploring
from cxr_embeddings.configs.schema import EMBEDDINGS, field


@dataclasses.dataclass(frozen=True)
class Options:
    embeddings: tuple[str, ...] = field((), EMBEDDINGS, repeated=True, required=True)
    films: str = field("", "films: a folder, a glob, a list or an archive; without it no pictures")
    labels: str = field("", "CSV of labels to start from; it is never changed")
    weights: str = field("", "weights bundle that made the embeddings, for heat maps")
    head: str = field("", "folder of a head, whose scores and heat maps are shown")
    findings: tuple[str, ...] = field((), "findings that can be labelled, with commas between them")
    output: str = field("explored", "folder for the labels and for what is taken home")
    held_out: float = field(0.0, "share of the patients whose films are never trained on")
    reader: str = field("", "your name, written beside each label")
    port: int = field(exploring.PORT, "port on this machine; 0: any that is free")
    seed: int = field(0, "seed of the random numbers")


def explore(options: Options) -> int:
    """Serves the page until it is stopped. Returns the exit code."""
    page = exploring.explore(
        options.embeddings,
        options.output,
        films=options.films or None,
        labels=options.labels or None,
        weights=options.weights or None,
        head=options.head or None,
        findings=options.findings,
        held_out=options.held_out,
        reader=options.reader,
        port=options.port,
        seed=options.seed,
    )
    films = page.session.films
    print(f"{page.session.embeddings!r}")
    if films:
        print(f"{films.found()} of these films are in {options.films}")
    print(f"labels: {page.session.labels.path}")
    print(f"\nopen {page.url}")
    if "SSH_CONNECTION" in os.environ:
        port = page.url.split(":")[2].split("/")[0]
        print(f"from your own machine, first: ssh -N -L {port}:127.0.0.1:{port} THIS-SERVER")
    sys.stdout.flush()
    try:
        page.wait()
    except KeyboardInterrupt:
        print("\nstopped: all labels are saved")
    finally:
        page.stop()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    stopped = "all labels are saved"
    return cli.run(explore, Options, __doc__, stopped, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
