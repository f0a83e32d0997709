"""Options of a command line, made of a dataclass of settings; how they are read; their help."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import textwrap
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn, TypeVar

from absl import flags
from ml_collections import config_flags

from cxr_embeddings import configs


class Dataclass(typing.Protocol):
    """Any dataclass."""

    __dataclass_fields__: typing.ClassVar[dict[str, dataclasses.Field]]


Config = TypeVar("Config", bound=Dataclass)
Given = dict[str, list[typing.Any]]  # name of an option -> each value that it is given

FROZEN = "settings are given when a config is made, as in EncoderConfig(weights=...)"
_TRUTHS = {**dict.fromkeys(("true", "t", "1"), True), **dict.fromkeys(("false", "f", "0"), False)}
_READ: dict[type, Callable[[str], object]] = {
    **{kind: kind for kind in (str, int, float)},
    bool: lambda text: _TRUTHS[text.lower()],
}
_EXPECTED = {
    (int, False): "a whole number",
    (int, True): "whole numbers with commas between them, such as 512,256",
    (float, False): "a number",
    (float, True): "numbers with commas between them, such as 0.7,0.3",
    (bool, False): "true or false",
}


class Usage(Exception):
    """The command line cannot be followed. The text is a sentence, or several lines."""

    def __init__(self, text: str, code: int = 1):
        super().__init__(text)
        self.code = code


class Option(NamedTuple):
    """One option: its name in full, such as config.input.path, and what `schema.field` says."""

    name: str
    hint: object
    value: object  # where the option is not given
    help: str
    short: str = ""
    required: bool = False
    repeated: bool = False

    def kind(self) -> tuple[type, bool]:
        """The type of a value, such as int of `int | None`; and whether it is a tuple of these."""
        hint, listed = self.hint, False
        while parts := typing.get_args(hint):
            listed = listed or typing.get_origin(hint) is tuple
            hint = parts[0]
        return typing.cast("type", hint), listed and not self.repeated

    def read(self, text: str) -> object:
        """The value that a text means."""
        kind, listed = self.kind()
        try:
            if not listed:
                return _READ[kind](text)
            parts = [part.strip(" '\"") for part in text.strip(" ()[]").split(",")]
            return tuple(_READ[kind](part) for part in parts if part and part != "None")
        except (ValueError, KeyError):
            expected = _EXPECTED[kind, listed]
            raise argparse.ArgumentTypeError(f"is {text!r}; expected {expected}") from None

    def shown(self) -> str:
        """How the option is written, with its value."""
        names = f"--{self.short}, --{self.name}" if self.short else f"--{self.name}"
        value = ",".join(map(str, self.value)) if isinstance(self.value, tuple) else self.value
        if value in (None, ""):
            return names + " (required)" * self.required
        return f"{names}={value}"


def settings(config: Dataclass, prefix: str) -> Iterator[Option]:
    """Every setting of a config as an option, in the order of the schema."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = prefix + field.name.rstrip("_"), getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from settings(value, f"{name}.")
        elif field.metadata:  # what has none is set in a file
            yield Option(name, hints[field.name], value, **field.metadata)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(message.removeprefix("argument ").replace(": is ", " is ", 1))


def parse(
    words: Sequence[str], known: Sequence[Option], others: bool = False
) -> tuple[Given, list[str]]:
    """Reads the command line.

    Args:
        words: of the command line, without the name of the command.
        known: options.
        others: whether there may be options of another library, --NAME=VALUE.

    Returns:
        What is given, `help` and `verbosity` too, and the options of the other library.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    switch: dict[str, typing.Any] = {"action": "append_const", "const": True}
    parser.add_argument("--help", "-h", "--helpshort", "--helpfull", **switch)
    parser.add_argument("--verbosity", "-v", action="append", type=int)
    for option in known:
        names = [f"--{name}" for name in (option.short, option.name) if name]
        more: dict[str, typing.Any] = {"dest": option.name, "action": "append"}
        if option.kind()[0] is bool:
            parser.add_argument(f"--no{option.name}", dest=option.name, **switch | {"const": False})
            more |= {"nargs": "?", "const": True}
        parser.add_argument(*names, type=option.read, **more)
    words = [re.sub(r"^-(?=[A-Za-z]\w)", "--", word) for word in words]
    given, rest = parser.parse_known_args(words)
    names = [name for option in known for name in (option.name, option.short)]
    for word in rest:
        name = word.lstrip("-").partition("=")[0]
        if not word.startswith("-"):
            raise Usage(f"{word!r} is not an option: options are written --name=value")
        ours = not others or name.startswith("config")
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.6 if ours else 0.8)
        if ours or close:
            hint = f"; did you mean --{close[0]}?" if close else "; --help lists them"
            raise Usage(f"there is no option --{name}{hint}")
    return vars(given), rest


def load_config(file: str, schema: type[Config], variant: str = "") -> Config:
    """The config of a file. `configs/x.py` is the installed one if this folder has none.

    Args:
        file: path of the file, or PATH:NAME, where NAME is what its `get_config` is asked for.
        schema: class of the config.
        variant: NAME, where the file says none.
    """
    path, _, asked = file.partition(":")
    installed = os.path.join(os.path.dirname(configs.__file__), os.path.basename(path))
    if path.startswith("configs/") and not os.path.exists(path) and os.path.exists(installed):
        path = installed
    if not os.path.isfile(path):
        raise Usage(f"--config is {path}; expected a Python file with a function get_config()")
    asked = asked or variant
    loader = flags.FlagValues()
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # its loader's
            config_flags.DEFINE_config_file(
                "config", f"{path}:{asked}" if asked else path, flag_values=loader, sys_argv=[]
            )
    except dataclasses.FrozenInstanceError as error:
        raise Usage(f"{path}: {error}: {FROZEN}") from error
    except (flags.Error, AttributeError) as error:  # flags.Error: with the traceback of the file
        said = str(error).splitlines()[-1].removeprefix("ValueError: ")
        raise Usage(f"{path} gives no config: {said}") from error
    config = loader["config"].value
    if not isinstance(config, schema):
        raise Usage(
            f"{path} is not a configuration of this command: its get_config() gives a "
            f"{type(config).__name__}; expected a {schema.__name__}"
        )
    return config


def overridden(config: Config, given: Given, prefix: str) -> Config:
    """A new config, with the values of the options that are given."""
    changes: dict[str, object] = {}
    for field in dataclasses.fields(config):
        name, value = prefix + field.name.rstrip("_"), getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = overridden(value, given, f"{name}.")
        elif name in given:
            values = given[name]
            changes[field.name] = tuple(values) if field.metadata["repeated"] else values[-1]
    return dataclasses.replace(config, **changes)


def check_required(found: Sequence[Option], usage: str) -> None:
    """Raises Usage, with the example, where options have no value but need one."""
    if missing := [one for one in found if one.required and not one.value]:
        lines = [f"  --{option.short or option.name}: {option.help}" for option in missing]
        (example, *_) = (part for part in usage.split("\n\n") if "python " in part)
        said = ["missing required options:", *lines, "", example.strip(), "", "See also --help."]
        raise Usage("\n".join(said), code=2)


def help_text(usage: str, found: Sequence[Option]) -> str:
    """What `--help` prints: the example, and the options by section of the config."""
    lines, last = [usage.strip()], None
    for option in found:
        section = ".".join(option.name.split(".")[1:-1]) or "options"
        if section != last:
            lines += ["", f"{section}:"]
            last = section
        text = textwrap.fill(option.help, 90, break_on_hyphens=False)
        lines += [f"  {option.shown()}", textwrap.indent(text, " " * 6)]
    return "\n".join([*lines, "  --verbosity", "      1: show where an error comes from"])
