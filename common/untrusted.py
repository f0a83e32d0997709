"""What comes out of files that nobody vouches for: bounded, checked by a schema, printable."""

import functools
import math
import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar
from xml.etree import ElementTree

Checked = TypeVar("Checked")
Schema = TypeVar("Schema", bound=type)

MAX_JSON_BYTES = 64 << 20  # a manifest of a store of all MIMIC-CXR takes 0.1 MB
MAX_TAR_HEADER = 1 << 20
# What a schema (`__pydantic_config__`) says of fields that it does not name
OPEN = {"extra": "allow", "allow_inf_nan": False}
CLOSED = {"extra": "forbid", "allow_inf_nan": False}
_MOST_PROBLEMS = 5  # that an error names


def may_have_more(schema: Schema) -> Schema:
    """Decorates a TypedDict: there may be fields that it does not name."""
    schema.__pydantic_config__ = OPEN  # type: ignore[attr-defined]  # pydantic's own name
    return schema


def read_json(
    data: bytes, schema: type[Checked], file: str, advice: str, most: int = MAX_JSON_BYTES
) -> Checked:
    """The content of a JSON file, if it is what the schema says.

    Args:
        data: the whole file, or more of it than the bytes that it may have at `most`.
        schema: a dataclass or a TypedDict, `OPEN` or `CLOSED`. Types are taken strictly, but for
            integers where floats are expected, and lists where tuples are.
        file: its name, for the error.
        advice: what to do about a wrong file, likewise.

    Raises:
        ValueError: it is too large, no JSON, nested too deeply, lacks a field, has one of another
            type or range, or a number that is not finite. It names up to five such fields.
    """
    from pydantic import ValidationError  # 0.1 s that only those who read such a file pay

    if len(data) > most:
        raise ValueError(f"{file} has more than {most:,} bytes, the most that is read: {advice}")
    # Names of files need not be UTF-8: Python holds their odd bytes as lone surrogates, which
    # pydantic refuses. Their escapes become plain text.
    if re.search(rb"\\u[dD][cC]", data):
        data = _ESCAPE.sub(lambda found: b"\\" * bool(found[1]) + found[0], data)
    try:
        checked = _adapter(schema).validate_json(data, strict=True)  # type: ignore[arg-type]  # classes have hashes
    except ValidationError as error:
        problems = [_problem(found) for found in error.errors(include_url=False)]
        more = [f"{len(problems) - _MOST_PROBLEMS} more"] if problems[_MOST_PROBLEMS:] else []
        said = "; ".join(problems[:_MOST_PROBLEMS] + more)
        raise ValueError(f"{file}: {said}: {advice}") from None
    for field, value in _not_finite(checked):  # also where the schema leaves it open
        raise ValueError(f"{file}: {field} is {value}, expected a finite number: {advice}")
    return checked


# An escape in JSON: two surrogates that make a character; one alone (PEP 383); another escape
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][cC][89a-fA-F])|.)"
)


def _not_finite(value: object, field: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested dicts and lists that is not finite, with the names that lead to it."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield printable(field.removeprefix(".")), value
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, one in pairs:
            if not isinstance(one, str):
                yield from _not_finite(one, f"{field}.{name}")


@functools.cache
def _adapter(schema: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _problem(found: Any) -> str:
    """One finding of pydantic as words: which field, what was found, what was expected."""
    field = ".".join(printable(str(part)) for part in found["loc"])[:100]
    said = found["msg"].removeprefix("Value error, ")
    said = said if len(said) < 300 else f"{said[:300]}..."
    said = printable(said[:1].lower() + said[1:]).replace("input should be", "expected")
    match found["type"]:
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{field} is not expected"
        case "json_invalid":
            return f"it is not JSON ({said.removeprefix('invalid JSON: ')})"
        case "value_error":
            return said
    value = found["input"]
    shown = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)[:80]
    return f"{field or 'the whole'} is {shown}, {said}"


def read_xml(data: bytes) -> ElementTree.Element | None:
    """The root of an XML file; None if it is none, or has entities, which may unfold endlessly."""
    try:
        return None if b"<!ENTITY" in data else ElementTree.fromstring(data)
    except (ValueError, ElementTree.ParseError):
        return None


class TarMember(tarfile.TarInfo):
    """A member of a tar archive whose header is not believed: `tarinfo=TarMember`.

    Headers that say more of a member, such as a long name, are read whole into memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "TarMember":
        info = super().frombuf(buf, encoding, errors)
        if not info.isreg() and not info.isdir() and info.size > MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {info.size} bytes; expected {MAX_TAR_HEADER}")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file, whose header may be endless")
        return info


def printable(text: str, keep: str = "") -> str:
    """Text in which Python's escapes show what a terminal obeys or cannot show, but for `keep`."""
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
    return "".join(shown)


def some(names: Iterable[str]) -> str:
    """The first five of some names, printable, and how many more there are."""
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - 5} more" if shown[5:] else ""
    return f"{', '.join(shown[:5]) or 'nothing'}{more}"
