"""What comes out of files that nobody vouches for: bounded, checked by a schema, printable.

It stands here because the three packages import nothing in common but `configs`.
"""

import functools
import gzip
import json
from typing import IO, Any, TypeVar

Checked = TypeVar("Checked")

MAX_JSON_BYTES = 64 << 20  # a manifest of a store of all MIMIC-CXR takes 0.1 MB
# Of a table when unpacked. MIMIC-CXR's largest has 377,110 rows of 12 values, in 0.06 GB.
MAX_TABLE_BYTES, MAX_ROWS, MAX_COLUMNS, MAX_CELLS = 1 << 30, 10_000_000, 10_000, 200_000_000
_MOST_PROBLEMS = 5  # that an error names


def read_json(data: bytes, schema: type[Checked], file: str, advice: str) -> Checked:
    """The content of a JSON file, if it is what the schema says.

    Args:
        data: the whole file.
        schema: a dataclass or a TypedDict. Types are taken strictly, but for integers where floats
            are expected, and lists where tuples are. Its `__pydantic_config__` may say how strict
            it is about fields that it does not have; what it does not say is as in pydantic.
        file: its name, for the error.
        advice: what to do about a wrong file, likewise.

    Raises:
        ValueError: it is too large, no JSON, nested too deeply, lacks a field, has one of another
            type or range, or a number that is not finite. It names up to five such fields, with
            what was found and what was expected.
    """
    from pydantic import ValidationError  # 0.1 s that only those who read such a file pay

    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {len(data)} bytes; expected at most {MAX_JSON_BYTES}")
    try:
        checked = _adapter(schema).validate_json(data, strict=True)
    except ValidationError as error:
        problems = [_problem(found) for found in error.errors(include_url=False)]
        more = [f"{len(problems) - _MOST_PROBLEMS} more"] if problems[_MOST_PROBLEMS:] else []
        said = "; ".join(problems[:_MOST_PROBLEMS] + more)
        raise ValueError(f"{file}: {said}: {advice}") from None
    try:  # also what the schema leaves open
        json.dumps(checked, default=vars, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{file} holds a number that is not finite: {advice}") from error
    return checked


@functools.cache
def _adapter(schema: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _problem(found: Any) -> str:
    """One finding of pydantic as words: which field, what was found, what was expected."""
    field = ".".join(printable(str(part)) for part in found["loc"])
    said = found["msg"].removeprefix("Value error, ")
    said = printable(said[:1].lower() + said[1:]).replace("input should be", "expected")
    match found["type"]:
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden":
            return f"{field} is not expected"
        case "json_invalid":
            return f"it is no JSON ({said.removeprefix('invalid JSON: ')})"
        case "value_error":
            return said
    value = found["input"]
    shown = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)[:80]
    return f"{field or 'the whole'} is {shown}, {said}"


def read_table(stream: IO[bytes], packed: bool, file: str) -> bytes:
    """A table of text, unpacked where it is packed by gzip, no further than the bounds above.

    Args:
        stream: the open file.
        packed: whether it is packed.
        file: its name, for the error.

    Raises:
        ValueError: it is larger.
        gzip.BadGzipFile, EOFError, zlib.error: it is damaged or cut short.
    """
    opened = gzip.GzipFile(fileobj=stream) if packed else stream
    data = opened.read(MAX_TABLE_BYTES + 1)
    lines = max(data.count(b"\n"), data.count(b"\r"))
    commas = data.count(b",")
    first = data[: data.find(b"\n")].count(b",")
    for number, most, what in [
        (len(data), MAX_TABLE_BYTES, "bytes"),
        (lines, MAX_ROWS, "rows"),
        (first, MAX_COLUMNS, "columns"),
        (lines + commas, MAX_CELLS, "values"),
    ]:
        if number > most:
            raise ValueError(
                f"{file} has more than {most:,} {what} when unpacked, which is the most that is "
                "read: cut it into several tables, or leave out what is not needed"
            )
    return data


def printable(text: str, keep: str = "") -> str:
    """Text with what a terminal would obey, or could not show, written as Python writes it.

    Args:
        text: of a file, such as a name, or the source that a card gives.
        keep: characters that stay all the same, such as line breaks.
    """
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
    return "".join(shown)
