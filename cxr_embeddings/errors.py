"""The errors of the Python face: one small family, so that `except cxr.Error` catches them all."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from cxr_embeddings.common import extras, untrusted

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Error(Exception):
    """Something that the user can mend. The text says what was found, and what to do."""


class InputError(Error, ValueError):
    """An option, a file's content or a combination of both is wrong."""


class FileError(Error, OSError):
    """A file or folder is not there, cannot be read, or cannot be written."""


class MissingPackage(Error, ImportError):
    """A Python package that this use needs is not installed."""


FAMILY = {ValueError: InputError, OSError: FileError, ImportError: MissingPackage}


def translated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorates a function of the face: what it raises is of the family, with the cause kept."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Error:
            raise
        except tuple(FAMILY) as error:
            kind = next(FAMILY[known] for known in FAMILY if isinstance(error, known))
            raise kind(sentence(error)) from error

    return call


def sentence(error: BaseException) -> str:
    """What an error says to the user; for errors of the system without their number."""
    if isinstance(error, ImportError) and (advice := extras.advice(error)):
        return advice
    said = [getattr(error, name, None) for name in ("strerror", "filename")]
    text = ": ".join(str(part) for part in said if part) or str(error)
    return untrusted.printable(text, keep="\n")
