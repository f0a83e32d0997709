"""The service's description as OpenAPI 3.1, for clients, gateways and fuzzers."""

from __future__ import annotations

from cxr_embeddings import __version__
from cxr_embeddings.service.instances import DICOMWEB, GCS

Schema = dict[str, object]

_BYTES: Schema = {"type": "string", "contentEncoding": "base64"}
_SOURCES: Schema = {
    "input_bytes": _BYTES,
    "gcs_uri": {"type": "string", "pattern": f"^{GCS.pattern}$"},
    "dicomweb_uri": {"type": "string", "pattern": f"^{DICOMWEB.pattern}$"},
}
_ONE_SOURCE = [{"required": [name]} for name in _SOURCES]
_EXTENSIONS: Schema = {
    "type": "object",
    "properties": {"heads": {"type": "boolean"}, "heat_maps": {"type": "boolean"}},
    "additionalProperties": False,
}
_ERROR: Schema = {  # as Google's APIs have it
    "type": "object",
    "properties": {"error": {"type": "object", "required": ["code", "message"]}},
    "required": ["error"],
}


def describe(predict_route: str, most: int) -> Schema:
    """The whole description; a request has `most` instances at most."""
    refused = {"description": "refused", "content": {"application/json": {"schema": _ERROR}}}
    text = {"description": "text", "content": {"text/plain": {}}}
    predict = {
        "summary": "Embeds films",
        "operationId": "predict",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _request(most)}},
        },
        "responses": {
            "200": {
                "description": "a prediction for each instance, in order",
                "content": {"application/json": {"schema": _ANSWER}},
            },
            **{code: refused for code in ("400", "401", "408", "413", "429", "503", "504")},
        },
    }
    health = {"summary": "Whether films are taken", "responses": {"200": text, "503": text}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "cxr-embeddings", "version": __version__},
        "paths": {predict_route: {"post": predict}, "/health": {"get": health}},
    }


def _request(most: int) -> Schema:
    toolkit = _object({"b64": _BYTES}, required=["b64"])
    more: Schema = {"bearer_token": {"type": "string"}, "extensions": _EXTENSIONS}
    plain = _object({**_SOURCES, **more}, oneOf=_ONE_SOURCE)
    image = _object({**_SOURCES, "access_credential": {"type": "string"}}, oneOf=_ONE_SOURCE)
    medsiglip = _object({"image": image}, required=["image"])
    listed = {
        "type": "array",
        "items": {"anyOf": [toolkit, plain, medsiglip]},
        "minItems": 1,
        "maxItems": most,
    }
    return {"type": "object", "properties": {"instances": listed}, "required": ["instances"]}


def _object(properties: Schema, **more: object) -> Schema:
    """An object without other properties."""
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


_ANSWER: Schema = {
    "type": "object",
    "properties": {"predictions": {"type": "array", "items": {"type": ["object", "array"]}}},
    "required": ["predictions"],
}
