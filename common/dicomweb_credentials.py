"""What an archive knows a request by: a token, netrc, or Google's default credentials."""

from __future__ import annotations

import functools
import os
import threading
import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests
    from google.auth import credentials
    from google.auth.transport import requests as transport

GOOGLE = "healthcare.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-healthcare"
_refreshing = threading.Lock()


def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Adds credentials to a request that has none: the first that there are.

    These are the variable DICOMWEB_TOKEN, a bearer token; the line of the host in netrc; for
    Google's Healthcare API the application default credentials, which are refreshed.

    Raises:
        PermissionError: the host is Google's, and there are no credentials.
        OSError: they cannot be refreshed.
    """
    from requests import auth, utils

    url = urllib.parse.urlsplit(str(request.url))
    if "Authorization" in request.headers:
        return request
    if token := os.environ.get("DICOMWEB_TOKEN"):
        request.headers["Authorization"] = f"Bearer {token}"
    elif login := utils.get_netrc_auth(str(request.url)):
        auth.HTTPBasicAuth(*login)(request)
    elif (url.scheme, url.hostname) == ("https", GOOGLE):
        _sign_for_google(request)
    return request


def _sign_for_google(request: requests.PreparedRequest) -> None:
    from google.auth import exceptions

    try:
        with _refreshing:
            known, channel = _google_default()
            known.before_request(channel, request.method, request.url, request.headers)
    except exceptions.DefaultCredentialsError as error:
        raise PermissionError(
            "Google's archive asks for credentials: set DICOMWEB_TOKEN, or run gcloud auth "
            "application-default login"
        ) from error
    except exceptions.GoogleAuthError as error:
        raise OSError(f"no token of Google can be got ({type(error).__name__})") from error


@functools.cache
def _google_default() -> tuple[credentials.Credentials, transport.Request]:
    import google.auth
    from google.auth.transport.requests import Request

    return google.auth.default(scopes=[SCOPE])[0], Request()
