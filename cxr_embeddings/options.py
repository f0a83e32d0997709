"""Options of a command line: what they are, how they are read, and what `--help` says of them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import textwrap
import types
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from absl import flags, logging
from ml_collections import config_flags

from cxr_embeddings import configs


class Dataclass(typing.Protocol):
    """Any dataclass."""

    __dataclass_fields__: typing.ClassVar[dict[str, dataclasses.Field]]


Config = TypeVar("Config", bound=Dataclass)

HELP_FLAGS = ("--help", "-h", "-help", "--helpshort", "--helpfull")
OLD_CONFIG = (
    "it imports `configs`, which is now a part of cxr_embeddings: write `from "
    "cxr_embeddings.configs.schema import ...` in that file"
)
FROZEN = "settings are given when a config is made, as in EncoderConfig(weights=...)"


class Usage(Exception):
    """The command line cannot be followed. The text is a sentence, or several lines."""

    def __init__(self, text: str, code: int = 1):
        super().__init__(text)
        self.code = code


class Option(NamedTuple):
    """One option of a command.

    Attributes:
        name: in full, such as config.input.path.
        short: another name, such as input; "" where there is none.
        hint: type of the value.
        value: the value where the option is not given.
        text: one sentence for `--help`.
        repeated: whether it may be given several times, for a value each.
        required: whether it must have a value.
    """

    name: str
    short: str
    hint: object
    value: object
    text: str
    repeated: bool
    required: bool

    def shown(self) -> str:
        """How the option is written, with its value."""
        names = f"--{self.short}, --{self.name}" if self.short else f"--{self.name}"
        value = self.value
        if isinstance(value, tuple | list):
            value = ",".join(map(str, value))
        said = names if value in (None, "") else f"{names}={value}"
        return said + " (required)" * self.required


def arguments(
    command: Callable[..., int], texts: Mapping[str, str], short: Mapping[str, str]
) -> dict[str, Option]:
    """The arguments of a function as options; those without a default are required.

    Args:
        command: the function.
        texts: arguments -> their help; `from_` is the option `from`.
        short: arguments -> other names of the options.
    """
    hints, known = typing.get_type_hints(command), inspect.signature(command).parameters
    found = {}
    for name, text in texts.items():
        hint, value = hints[name], known[name].default
        required = value is inspect.Parameter.empty
        repeated = Sequence[str] in (hint, *typing.get_args(hint))
        shown, other = None if required else value, short.get(name, "")
        found[name] = Option(name.rstrip("_"), other, hint, shown, text, repeated, required)
    return found


def settings(
    config: Dataclass,
    short: Mapping[str, str],
    required: Collection[str],
    prefix: str = "config",
) -> Iterator[Option]:
    """Every setting of a config as an option, in the order of the schema.

    Args:
        config: the config, or a section of it.
        short: fields, such as config.input.path -> other names of the options.
        required: fields that must have a value.
        prefix: name of the config or the section.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = f"{prefix}.{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from settings(value, short, required, name)
        else:
            text, repeated = field.metadata["help"], field.metadata["repeated"]
            hint, other = hints[field.name], short.get(name, "")
            yield Option(name, other, hint, value, text, repeated, name in required)


def define(option: Option, values: flags.FlagValues) -> None:
    """Makes an option known to `values` under both its names."""
    parser, name = _Parser(option), option.name
    kind = flags.MultiFlag if option.repeated else flags.Flag
    boolean = parser.kind is bool
    flag: flags.Flag = kind(parser, None, name, None, option.text, option.short or None, boolean)
    flags.DEFINE_flag(flag, values)


class _Parser(flags.ArgumentParser):
    """The text of an option as a value of its type."""

    def __init__(self, option: Option) -> None:
        hint = option.hint
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        hints = typing.get_args(hint) if union else (hint,)
        (hint,) = {one for one in hints if one is not types.NoneType} - {Sequence[str]} or {str}
        self.listed = typing.get_origin(hint) is tuple and not option.repeated
        self.choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        self.kind = typing.get_args(hint)[0] if typing.get_args(hint) else hint
        if self.choices:
            self.kind = str
        self.name = option.short or option.name

    def parse(self, argument: str) -> object:
        if self.choices and argument not in self.choices:
            text = f"--{self.name} is {argument!r}; expected {' or '.join(self.choices)}"
            raise flags.IllegalFlagValueError(text)
        try:
            if not self.listed:
                return _READ[self.kind](argument)
            parts = [part.strip(" '\"") for part in argument.strip(" ()[]").split(",")]
            return tuple(_READ[self.kind](part) for part in parts if part and part != "None")
        except (ValueError, KeyError):
            expected = (_LISTED if self.listed else _SINGLE)[self.kind]
            text = f"--{self.name} is {argument!r}; expected {expected}"
            raise flags.IllegalFlagValueError(text) from None

    def flag_type(self) -> str:
        return self.kind.__name__


_TRUTHS = {**dict.fromkeys(("true", "t", "1"), True), **dict.fromkeys(("false", "f", "0"), False)}
_READ: dict[type, Callable[[str], object]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: _TRUTHS[text.lower()],
}
_SINGLE = {int: "a whole number", float: "a number", bool: "true or false"}
_LISTED = {
    int: "whole numbers with commas between them, such as 512,256",
    float: "numbers with commas between them, such as 0.7,0.3",
}


def parse(
    words: list[str], values: flags.FlagValues, others: bool = False
) -> tuple[bool, list[str]]:
    """Reads the command line into `values`. Returns whether help is asked for, and what is left."""
    flags.DEFINE_integer("verbosity", logging.WARNING, "", flag_values=values, short_name="v")
    helps = any(word in HELP_FLAGS for word in words)
    try:
        _, *rest = values([word for word in words if word not in HELP_FLAGS], known_only=True)
    except (flags.Error, ValueError) as error:
        text, missing = str(error), "Missing value for flag "
        if text.startswith(missing):
            name = text.removeprefix(missing)
            text = f"{name} has no value: write {name}=VALUE"
        raise Usage(text) from error
    logging.set_verbosity(values.verbosity)
    for word in rest:
        name = word.lstrip("-").partition("=")[0]
        if not word.startswith("-"):
            raise Usage(f"{word!r} is not an option: options are written --name=value")
        ours = not others or name.startswith("config")
        close = difflib.get_close_matches(name, list(values), n=1, cutoff=0.6 if ours else 0.8)
        if ours or close:
            hint = f"; did you mean --{close[0]}?" if close else "; --help lists them"
            raise Usage(f"there is no option --{name}{hint}")
    return helps, rest


def load_config(file: str, schema: type[Config], variant: str) -> Config:
    """The config of a file. `configs/x.py` is the installed one if this folder has none.

    Args:
        file: path of the file, or PATH:NAME, where NAME is what its `get_config` is asked for.
        schema: class of the config.
        variant: NAME, where the file says none.
    """
    path, colon, asked = file.partition(":")
    installed = os.path.join(os.path.dirname(configs.__file__), os.path.basename(path))
    if path.startswith("configs/") and not os.path.exists(path) and os.path.exists(installed):
        path = installed
    if not os.path.isfile(path):
        raise Usage(f"--config is {path}; expected a Python file with a function get_config()")
    if variant:
        colon, asked = ":", asked or variant
    loader = flags.FlagValues()
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # its loader's
            config_flags.DEFINE_config_file(
                "config", path + colon + asked, flag_values=loader, sys_argv=[]
            )
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "configs":
            raise Usage(f"{path}: {OLD_CONFIG}") from error
        raise
    except dataclasses.FrozenInstanceError as error:
        raise Usage(f"{path}: {error}: {FROZEN}") from error
    except flags.Error as error:  # a ValueError or TypeError of the file, with its traceback
        raise Usage(str(error).splitlines()[-1].removeprefix("ValueError: ")) from error
    config = loader["config"].value
    if not isinstance(config, schema):
        if type(config).__module__.partition(".")[0] == "configs":
            raise Usage(f"{path}: {OLD_CONFIG}")
        raise Usage(
            f"{path} is not a configuration of this command: its get_config() gives a "
            f"{type(config).__name__}; expected a {schema.__name__}"
        )
    return config


def overridden(config: Config, values: flags.FlagValues, prefix: str = "config") -> Config:
    """A new config, with the values of the options that are given."""
    changes: dict[str, object] = {}
    for field in dataclasses.fields(config):
        name, value = f"{prefix}.{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = overridden(value, values, name)
        elif values[name].present:
            value = values[name].value
            changes[field.name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(config, **changes)


def check_given(missing: Sequence[Option], usage: str) -> None:
    """Raises Usage, with the example, where options have no value."""
    if missing:
        lines = [f"  --{option.short or option.name}: {option.text}" for option in missing]
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
        lines.append(f"  {option.shown()}")
        lines.append(
            textwrap.indent(textwrap.fill(option.text, 90, break_on_hyphens=False), " " * 6)
        )
    return "\n".join([*lines, "  --verbosity=1", "      show where an error comes from"])
