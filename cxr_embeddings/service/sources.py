"""Films that a client names by an address: fetched only from places on the service's list."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from cxr_embeddings.common import dicomweb, files
from cxr_embeddings.service.batching import Unusable

MOST_BYTES = 256 << 20  # of a film


def check_allowed(address: str, allowed: Sequence[str]) -> None:
    """Raises Unusable unless the address lies below one of the places."""
    plain = urllib.parse.unquote(address) == address and "\\" not in address
    if not plain or "/.." in address or "//" in address.partition("://")[2]:
        raise Unusable("the address is not written plainly")
    if not any(address.startswith(f"{place.rstrip('/')}/") for place in allowed):
        raise Unusable("this service does not fetch films from there: it has a list of places")


def fetch(address: str, token: str) -> bytes:
    """The file at a gs:// address, or a DICOM instance by WADO-RS. Raises Unusable.

    Of buckets the service's own credentials count: a client's token would need a client of its own.
    """
    try:
        if not address.startswith("gs://"):
            return dicomweb.fetch(address, token, MOST_BYTES)
        with files.open_input(address) as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError, ImportError) as error:
        said = str(error) if isinstance(error, OSError) and not error.filename else ""
        raise Unusable(f"the film cannot be fetched: {said or type(error).__name__}") from error
    if len(data) > MOST_BYTES:
        raise Unusable(f"the film has more than {MOST_BYTES:,} bytes")
    return data
