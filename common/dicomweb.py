"""Films of a DICOMweb archive: `dicomweb+https://pacs/dicom-web?ModalitiesInStudy=DX,CR`.

Behind the address of the archive stand QIDO-RS filters of studies. Each film has the address
`dicomweb+https://pacs/dicom-web/studies/S/series/S/instances/I`. Credentials never come from an
address; see `dicomweb_credentials`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.cookiejar
import re
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cxr_embeddings.common import dicomweb_credentials

if TYPE_CHECKING:
    import requests

SCHEMES = ("dicomweb+https://", "dicomweb+http://")
MOST_BYTES = 512 << 20  # of a film
SECONDS = 60.0  # for the first bytes, and for each further part
AT_ONCE = 8  # searches
PAGE = 200  # results of a search that are asked for at once
_PART = 1 << 20
UID = re.compile(r"[0-9.]{1,64}")
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"  # tags of the UIDs
_CLASS, _REPORTS = "00080016", "1.2.840.10008.5.1.4.1.1.88."  # of all Structured Reports
_TAKEN = "00081199"  # the files that an archive has taken
_JSON = {"Accept": "application/dicom+json"}
_sessions = threading.local()


def is_archive(path: str) -> bool:
    """Whether a path is the address of an archive, or of a film of one."""
    return path.startswith(SCHEMES)


def films(address: str) -> list[str]:
    """The address of every instance of the studies that the filters of an address select.

    A filter with several values, such as ModalitiesInStudy=DX,CR, is asked for one by one. All
    pages are read. Structured Reports are left out.

    Raises:
        ValueError: the address or a filter is wrong.
        OSError: the archive does not answer, or refuses.
    """
    archive, filters = _split(address)
    searches: list[dict[str, str]] = [{}]
    for name, values in filters.items():
        searches = [one | {name: value} for one in searches for value in values.split(",")]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        found = threads.map(lambda one: _studies(archive, one), searches)
        studies = sorted({uid for some in found for uid in some})
    return [one for some in films_of(f"dicomweb+{archive}", studies) for one in some]


def films_of(address: str, studies: Sequence[str]) -> list[list[str]]:
    """The films of each of some studies, given by their UIDs. Raises as `films`."""
    archive, _ = _split(address)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        listed = threads.map(lambda uid: _instances(archive, uid), studies)
        return [[f"dicomweb+{archive}/{one}" for one in some] for some in listed]


def read(address: str) -> bytes:
    """The DICOM file of a film, in the transfer syntax in which the archive has it.

    Raises:
        FileNotFoundError, PermissionError: it is not there, or the archive refuses.
        OSError: the archive fails, is busy or does not answer: it may later.
    """
    return fetch(address.removeprefix("dicomweb+"))


def fetch(url: str, token: str = "", most: int = MOST_BYTES) -> bytes:
    """As `read`, of an instance's URL (WADO-RS). Redirects are not followed."""
    headers = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    with _asked("GET", url, headers, stream=True) as answer:
        parts, size = [], 0
        for part in answer.iter_content(_PART):
            size += len(part)
            if size > most:
                raise PermissionError(f"the film has more than {most:,} bytes")
            parts.append(part)
        return _only_part(b"".join(parts), answer.headers.get("Content-Type", ""))


def store(address: str, content: bytes) -> None:
    """Sends a DICOM file to an archive (STOW-RS).

    Raises:
        ValueError: the address is wrong.
        PermissionError: the archive does not take the file.
        OSError: it does not answer.
    """
    archive, _ = _split(address)
    mark = hashlib.sha256(content).hexdigest()  # which the content does not hold
    start = f"--{mark}\r\nContent-Type: application/dicom\r\n\r\n"
    body = start.encode() + content + f"\r\n--{mark}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={mark}'
    headers = _JSON | {"Content-Type": kind}
    # 202 is taken with a warning, 409 is not taken; Orthanc says so with status 200
    with _asked("POST", f"{archive}/studies", headers, good=(202, 409), data=body) as answer:
        if not answer.json().get(_TAKEN, {}).get("Value"):
            raise PermissionError("the archive did not take the file; its log may say why")


@contextlib.contextmanager
def _asked(
    method: str, url: str, headers: dict[str, str], good: Sequence[int] = (), **more: object
) -> Iterator[requests.Response]:
    """An answer of the archive, asked for once: who calls asks again, as for files.

    Raises the OSError that its status means, unless that is 200 or one of `good`.
    """
    import requests

    if not hasattr(_sessions, "session"):  # of this thread; it keeps its connections
        _sessions.session = requests.Session()
        _sessions.session.auth = dicomweb_credentials.sign
        # A cookie that an archive gave for one client's token could let in another's request
        _sessions.session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    more |= {"headers": headers, "timeout": SECONDS, "allow_redirects": False}
    try:
        with _sessions.session.request(method, url, **more) as answer:
            if answer.status_code not in good:
                _check(answer.status_code)
            yield answer
    except requests.JSONDecodeError as error:
        raise OSError("the archive's answer cannot be read") from error
    except requests.RequestException as error:
        raise OSError(f"the archive does not answer ({type(error).__name__})") from error


def _check(status: int) -> None:
    """Raises the OSError that an answer's status means, unless it is 200."""
    said = f"the archive answered {status}"
    if status in (401, 403):
        raise PermissionError(f"{said}: set DICOMWEB_TOKEN, or write name and password to ~/.netrc")
    if status in (404, 410) or 300 <= status < 400:
        raise FileNotFoundError(said)
    if status != 200:
        raise OSError(said)


def _only_part(data: bytes, kind: str) -> bytes:
    """The content of a multipart answer with one part (RFC 2046); other answers as they are."""
    _, found, rest = kind.partition("boundary=")
    if not found:
        return data
    mark = b"--" + rest.split(";")[0].strip().strip('"').encode()
    begin = data.find(b"\r\n\r\n", data.find(mark))
    end = data.rfind(b"\r\n" + mark)
    if begin < 0 or end < begin + 4:
        raise OSError("the archive's answer holds no film")
    return data[begin + 4 : end]


def _split(address: str) -> tuple[str, dict[str, str]]:
    """The URL of the archive, and the filters. Raises ValueError."""
    parts = urllib.parse.urlsplit(address.removeprefix("dicomweb+"))
    if parts.username or parts.password:
        raise ValueError(
            "the address of the archive holds a password: put it into ~/.netrc, or a token into "
            "the variable DICOMWEB_TOKEN"
        )
    try:
        filters = urllib.parse.parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(
            f"the filters are {parts.query!r}; expected NAME=VALUE&NAME=VALUE"
        ) from None
    if wrong := [name for name in filters if not re.fullmatch(r"[A-Za-z]+|[0-9A-Fa-f]{8}", name)]:
        raise ValueError(f"{wrong[0]!r} is no attribute of DICOM; expected such as StudyDate")
    archive = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return archive, {name: values[-1] for name, values in filters.items()}


def _studies(archive: str, filters: dict[str, str]) -> list[str]:
    return [_uid(one, _STUDY) for one in _search(f"{archive}/studies", filters)]


def _instances(archive: str, study: str) -> list[str]:
    """The instances of a study, each as studies/S/series/S/instances/I."""
    return sorted(
        f"studies/{study}/series/{_uid(one, _SERIES)}/instances/{_uid(one, _INSTANCE)}"
        for one in _search(f"{archive}/studies/{study}/instances", {})
        if not str((one.get(_CLASS, {}).get("Value") or [""])[0]).startswith(_REPORTS)
    )


def _search(url: str, filters: dict[str, str]) -> list[dict]:
    """All pages of a search (QIDO-RS). An archive that knows no offset gives its first again."""
    found: dict[str, dict] = {}
    while True:
        asked = filters | {"limit": str(PAGE), "offset": str(len(found))}
        with _asked("GET", url, _JSON, good=(204,), params=asked) as answer:
            page = answer.json() if answer.content else []  # 204 is none
        before = len(found)
        found |= {repr(sorted(one.items(), key=str)): one for one in page}
        if len(page) < PAGE or len(found) == before:
            return [*found.values()]


def _uid(found: dict, tag: str) -> str:
    values = found.get(tag, {}).get("Value") or [""]
    if not UID.fullmatch(str(values[0])):
        raise OSError(f"the archive's answer has no UID in {tag}")
    return str(values[0])
