"""Films that a client names by an address: fetched only from places on the service's list."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from cxr_embeddings.common import files
from cxr_embeddings.service.batching import Unusable

MOST_BYTES = 256 << 20  # of a film
SECONDS = 30  # for the first bytes, and for each further part
_PART = 1 << 20


def check_allowed(address: str, allowed: Sequence[str]) -> None:
    """Raises Unusable unless the address lies below one of the places."""
    plain = urllib.parse.unquote(address)
    if (
        plain != address
        or "\\" in address
        or "/.." in address
        or "//" in address.split("://", 1)[1]
    ):
        raise Unusable("the address is not written plainly")
    if not any(address.startswith(f"{place.rstrip('/')}/") for place in allowed):
        raise Unusable("this service does not fetch films from there: it has a list of places")


def fetch(address: str, token: str) -> bytes:
    """The file at a gs:// address, or a DICOM instance by WADO-RS. Raises Unusable."""
    if address.startswith("gs://"):
        return _from_bucket(address)
    return _from_dicomweb(address, token)


def _from_bucket(address: str) -> bytes:
    """By the service's own credentials: a client's token would need a client of its own."""
    try:
        with files.open_input(address) as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError, ImportError) as error:
        raise Unusable(f"the film cannot be fetched ({type(error).__name__})") from error
    return _bounded(data)


def _from_dicomweb(address: str, token: str) -> bytes:
    import requests

    headers = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with requests.get(
            address, headers=headers, timeout=SECONDS, stream=True, allow_redirects=False
        ) as answer:
            if answer.status_code != 200:
                raise Unusable(f"the archive answered {answer.status_code}")
            data = b""
            for part in answer.iter_content(_PART):
                data = _bounded(data + part)
            return _only_part(data, answer.headers.get("Content-Type", ""))
    except requests.RequestException as error:
        raise Unusable(f"the film cannot be fetched ({type(error).__name__})") from error


def _bounded(data: bytes) -> bytes:
    if len(data) > MOST_BYTES:
        raise Unusable(f"the film has more than {MOST_BYTES:,} bytes")
    return data


def _only_part(data: bytes, kind: str) -> bytes:
    """The content of a multipart answer with one part (RFC 2046); other answers as they are."""
    _, found, rest = kind.partition("boundary=")
    if not found:
        return data
    mark = b"--" + rest.split(";")[0].strip().strip('"').encode()
    begin = data.find(b"\r\n\r\n", data.find(mark))
    end = data.rfind(b"\r\n" + mark)
    if begin < 0 or end < begin + 4:
        raise Unusable("the archive's answer holds no film")
    return data[begin + 4 : end]
