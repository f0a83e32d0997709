"""What clients send: three forms of an instance, each to a film and to what is asked of it.

The forms are those of the CXR Foundation toolkit (`b64`), of the container of CXR Foundation 2
(`input_bytes`, `gcs_uri`, `dicomweb_uri`) and of MedSigLIP (`image`).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import pybase64
from google.protobuf import message

from cxr_embeddings.input_pipeline import tfrecord

Form = Literal["toolkit", "cxr_foundation", "medsiglip"]

GCS = re.compile(r"gs://[^/?#]+/[^?#]*[^/?#]")
DICOMWEB = re.compile(
    r"https?://[^?#@]+/studies/[\d.]{1,64}/series/[\d.]{1,64}/instances/[\d.]{1,64}"
)
_SOURCES = ("input_bytes", "gcs_uri", "dicomweb_uri")
_V2 = {*_SOURCES, "bearer_token", "prompt_query", "extensions"}
_MEDSIGLIP = {*_SOURCES, "access_credential"}
_EXTENSIONS = {"heads", "heat_maps"}
SERVERS_OWN = "application_default"  # MedSigLIP's word for the credentials that the server has


class BadInstance(ValueError):
    """An instance that cannot be followed. `code` is MedSigLIP's name of the error."""

    def __init__(self, text: str, code: str = "INVALID_REQUEST_FIELD_ERROR") -> None:
        super().__init__(text)
        self.code = code


class Instance(NamedTuple):
    """A film, and what is asked of it."""

    form: Form
    content: bytes | None  # of the file; None where it is to be fetched from
    address: str
    token: str = ""  # for that place
    heads: bool = False  # whether heads are to score it
    heat_maps: bool = False  # and where their maps have their maxima


def form(given: object) -> Form:
    """In which form an instance is, as far as it can be told."""
    named = given.keys() if isinstance(given, dict) else ()
    return "toolkit" if "b64" in named else "medsiglip" if "image" in named else "cxr_foundation"


def read(given: object) -> Instance:
    """What an instance asks for. Raises BadInstance."""
    if not isinstance(given, dict):
        raise BadInstance("an instance is no JSON object")
    if "b64" in given:
        _only(given, {"b64"})
        return Instance("toolkit", _of_example(_decoded(given["b64"], "b64")), "")
    if "text" in given or ("prompt_query" in given and not given.keys() & {*_SOURCES}):
        raise BadInstance("this service embeds films, not text")
    if "image" in given:
        _only(given, {"image"})
        image = given["image"]
        if not isinstance(image, dict):
            raise BadInstance("image is no JSON object")
        if "image_url" in image:
            raise BadInstance("image_url is not fetched: send input_bytes")
        _only(image, _MEDSIGLIP)
        token = image.get("access_credential")
        return _of_source("medsiglip", image, None if token == SERVERS_OWN else token)
    _only(given, _V2)
    if "bearer_token" in given and "input_bytes" in given:
        raise BadInstance("bearer_token is for an address, not for input_bytes")
    asked = given.get("extensions", {})
    if not isinstance(asked, dict) or not asked.keys() <= _EXTENSIONS:
        raise BadInstance(f"extensions are {', '.join(sorted(_EXTENSIONS))}")
    found = _of_source("cxr_foundation", given, given.get("bearer_token"))
    maps = bool(asked.get("heat_maps"))
    return found._replace(heads=maps or bool(asked.get("heads")), heat_maps=maps)


def _only(given: Mapping[str, object], known: set[str]) -> None:
    if unknown := sorted(map(str, given.keys() - known)):
        raise BadInstance(f"{unknown[0][:60]!r} is not known; expected {', '.join(sorted(known))}")


def _of_source(form: Form, given: Mapping[str, object], token: object) -> Instance:
    named = [name for name in _SOURCES if name in given]
    if len(named) != 1:
        raise BadInstance(f"expected exactly one of {', '.join(_SOURCES)}")
    if not isinstance(token, str | None):
        raise BadInstance("the token is no text")
    (name,) = named
    value = given[name]
    if name == "input_bytes":
        return Instance(form, _decoded(value, name), "")
    pattern = GCS if name == "gcs_uri" else DICOMWEB
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadInstance(f"{name} is not an address of that kind", "DICOM_PATH_ERROR")
    return Instance(form, None, value, token or "")


def _decoded(text: object, name: str) -> bytes:
    if not isinstance(text, str):
        raise BadInstance(f"{name} is no text")
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInstance(f"{name} is not base64") from None


def _of_example(data: bytes) -> bytes:
    """The file inside a serialised tf.train.Example, as the toolkit sends it."""
    try:
        features = {f.key: f.value for f in tfrecord.Example.FromString(data).features.feature}
        (content,) = features["image/encoded"].bytes_list.value
    except (KeyError, ValueError, message.DecodeError):
        raise BadInstance("b64 is not a tf.train.Example with image/encoded") from None
    return content
