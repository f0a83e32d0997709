"""Serves an encoder, and heads, over HTTP to clients of CXR Foundation and to cxr.connect.

python scripts/serve.py --weights demo --head heads/heart --port 8080

Requests are {"instances": [...]} to /predict, as the CXR Foundation toolkit, the container of CXR
Foundation 2 and MedSigLIP send them; docs/service.md shows each. The address / shows an example,
/health says whether films are taken, /metrics counts. It listens on this machine alone; for others
it needs a certificate and a token. SIGTERM ends it when the films that it has taken are done.
"""

import dataclasses
import sys
from collections.abc import Sequence

from cxr_embeddings import cli, serving
from cxr_embeddings.configs.schema import EncoderConfig, field


@dataclasses.dataclass(frozen=True)
class Options:
    weights: str = field("", 'folder of a weights bundle, "demo", or hf:ORG/NAME', required=True)
    head: tuple[str, ...] = field((), "folder of a head; repeat for several", repeated=True)
    embedding: str | None = field(None, "layer to return; unset: the first of the weights' card")
    engine: str = field("auto", "jax, openvino or auto: the fastest that is installed")
    dtype: str | None = field(None, "float32 or bfloat16; unset: float32 on CPUs, else bfloat16")
    host: str = field("127.0.0.1", "address to listen on; others than this need token and TLS")
    port: int = field(8080, "port; Vertex AI's variable AIP_HTTP_PORT takes its place")
    token_file: str = field("", "file with the token that clients must send")
    tls_certificate: str = field("", "PEM file of the certificate")
    tls_key: str = field("", "PEM file of its key")
    allow: tuple[str, ...] = field(
        (), "place from which films may be fetched, such as https://pacs/dicom-web", repeated=True
    )
    sizes: tuple[int, ...] = field((), "films in a batch, of each program; unset: 1,2,4,8 a device")
    wait: float = field(0.01, "most seconds that a film waits for others")
    queue: int = field(256, "films that may be waiting or at work; more are refused with 429")
    most_instances: int = field(128, "most instances of a request")
    most_megabytes: int = field(64, "most megabytes of a request")
    seconds: float = field(60.0, "most seconds for a request")


def serve(options: Options) -> int:
    """Serves until it is told to end. Returns the exit code."""
    given = dataclasses.asdict(options)
    names = ("weights", "embedding", "engine", "dtype")
    config = EncoderConfig(**{name: given.pop(name) for name in names})
    heads, allowed = given.pop("head"), given.pop("allow")
    serving.serve(config, heads, allowed=allowed, **given)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(serve, Options, __doc__, "the films that were taken are done", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
