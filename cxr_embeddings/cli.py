"""What the commands share: options to a typed config, `--help`, and errors as sentences.

`run` and `run_flags` change nothing in the process that calls them: tests run commands by them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import logging as python_logging
import os
import sys
import textwrap
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from absl import flags, logging
from ml_collections import config_flags

from cxr_embeddings import configs
from cxr_embeddings.common import untrusted
from cxr_embeddings.errors import FAMILY, sentence

if TYPE_CHECKING:
    from cxr_embeddings.input_pipeline.hosts import Hosts


class Dataclass(typing.Protocol):
    """Any dataclass."""

    __dataclass_fields__: typing.ClassVar[dict[str, dataclasses.Field]]


Config = TypeVar("Config", bound=Dataclass)
Result = TypeVar("Result")

HELP_FLAGS = ("--help", "-h", "-help", "--helpshort", "--helpfull")
OLD_CONFIG = (
    "it imports `configs`, which is now a part of cxr_embeddings: write `from "
    "cxr_embeddings.configs.schema import ...` in that file"
)


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
    """

    name: str
    short: str
    hint: object
    value: object
    text: str
    repeated: bool = False

    def shown(self) -> str:
        """How the option is written, with its value."""
        names = f"--{self.short}, --{self.name}" if self.short else f"--{self.name}"
        value = self.value
        if isinstance(value, tuple | list):
            value = ",".join(map(str, value))
        return names if value in (None, "") else f"{names}={value}"


def run(
    main: Callable[..., int],
    schema: type[Dataclass],
    default: str,
    usage: str,
    stopped: str,
    *,
    required: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
    variant: str = "",
    others: bool = False,
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the command line into a config and hands it to `main`.

    A ValueError, OSError or ImportError of `main` is the user's to mend: its text is printed, and
    the exit code is 1. `--verbosity=1` shows where it came from.

    Args:
        main: the command; returns the exit code.
        schema: dataclass of the config.
        default: config file, for command lines without `--config`.
        usage: an example and what the command does, for `--help`.
        stopped: what to say when the user stops it.
        required: fields that must have a value, such as config.input.path.
        short: short names of options -> fields.
        variant: what a file given by `--config` is asked for, unless it says itself, as in FILE:x.
        others: whether other options, --NAME=VALUE, are another library's; they are the second
            argument of `main`, as they were typed.
        argv: the command line, with the name of the command first; None: that of the process.

    Returns:
        The exit code.
    """

    def command(words: list[str]) -> int:
        values, names = flags.FlagValues(), {full: one for one, full in (short or {}).items()}
        flags.DEFINE_string("config", default, "file", flag_values=values)
        for option in options(schema(), names):
            _define(option, values)
        helps, rest = _parse(words, values, others)
        config = _load(values["config"], schema, variant)
        config = _overridden(config, values)
        found = list(options(config, names))
        if helps:
            print(_help(usage, found))
            return 0
        _check_given([one for one in found if one.name in required and not one.value], usage)
        return main(config, rest) if others else main(config)

    return _guarded(command, argv, stopped)


def run_flags(
    main: Callable[..., int | None],
    usage: str,
    stopped: str,
    texts: Mapping[str, str],
    *,
    short: Mapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command whose options are the arguments of a function, as `run` does.

    Args:
        main: the command; returns the exit code, or None for 0. The types of its arguments are
            those of the options: str, int, float, bool, or Sequence[str] for an option that may be
            given several times. Arguments without a default must be given.
        usage: an example and what the command does, for `--help`.
        stopped: what to say when the user stops it.
        texts: names of the arguments -> their help.
        short: other names of options -> arguments.
        argv: the command line, with the name of the command first; None: that of the process.

    Returns:
        The exit code.
    """

    def command(words: list[str]) -> int:
        values, found = flags.FlagValues(), []
        names = {full: one for one, full in (short or {}).items()}
        hints, signature = typing.get_type_hints(main), inspect.signature(main).parameters
        for name, text in texts.items():
            hint, value = hints[name], signature[name].default
            repeated = Sequence[str] in (hint, *typing.get_args(hint))
            value = None if value is inspect.Parameter.empty else value
            option = Option(name.rstrip("_"), names.get(name, ""), hint, value, text, repeated)
            found.append(option)
            _define(option, values)
        helps, _ = _parse(words, values)
        if helps:
            print(_help(usage, found))
            return 0
        given = {name: values[name.rstrip("_")] for name in texts}
        for option, flag in zip(found, given.values(), strict=True):
            if flag.present > 1 and not option.repeated:
                raise Usage(f"--{option.name} is given {flag.present} times; expected once")
        needed = {n for n in texts if signature[n].default is inspect.Parameter.empty}
        missing = [
            o for o, n in zip(found, given, strict=True) if n in needed and not given[n].value
        ]
        _check_given(missing, usage)
        return main(**{n: flag.value for n, flag in given.items() if flag.present}) or 0

    return _guarded(command, argv, stopped)


def options(
    config: Dataclass, short: Mapping[str, str], prefix: str = "config"
) -> Iterator[Option]:
    """Every setting of a config, in the order of the schema; `short` are fields -> short names."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = f"{prefix}.{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from options(value, short, name)
        else:
            about = field.metadata
            hint = hints[field.name]
            yield Option(name, short.get(name, ""), hint, value, about["help"], about["repeated"])


def _define(option: Option, values: flags.FlagValues) -> None:
    """Makes an option known under both its names."""
    parser, name = _Parser(option), option.name
    kind = flags.MultiFlag if option.repeated else flags.Flag
    boolean = parser.kind is bool
    flag = kind(parser, None, name, None, option.text, option.short or None, boolean)
    flags.DEFINE_flag(flag, values)


class _Parser(flags.ArgumentParser):
    """The text of an option as a value of its type."""

    def __init__(self, option: Option) -> None:
        hint = option.hint
        hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        (hint,) = {one for one in hints if one is not types.NoneType} - {Sequence[str]} or {str}
        self.listed = typing.get_origin(hint) is tuple and not option.repeated
        self.kind = typing.get_args(hint)[0] if typing.get_args(hint) else hint
        self.name = option.short or option.name

    def parse(self, argument: str) -> object:
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


def _parse(
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
    logging.set_verbosity(values["verbosity"].value)
    for word in rest:
        name = word.lstrip("-").partition("=")[0]
        if not word.startswith("-"):
            raise Usage(f"{word!r} is no option: options are written --name=value")
        if not others or name.startswith("config"):
            close = difflib.get_close_matches(name, list(values), n=1)
            hint = f"; did you mean --{close[0]}?" if close else "; --help lists them"
            raise Usage(f"there is no option --{name}{hint}")
    return helps, rest


def _load(flag: flags.Flag, schema: type[Config], variant: str) -> Config:
    """The config of a file; FILE:VARIANT is what its `get_config` is asked for.

    `configs/x.py` is the installed file where there is none in this folder.
    """
    path, colon, asked = flag.value.partition(":")
    installed = os.path.join(os.path.dirname(configs.__file__), os.path.basename(path))
    if path.startswith("configs/") and not os.path.exists(path) and os.path.exists(installed):
        path = installed
    if not os.path.isfile(path):
        raise Usage(f"--config is {path}; expected a Python file with a function get_config()")
    if flag.present and variant:
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
    except flags.Error as error:  # a ValueError or TypeError of the file, with its traceback
        raise Usage(str(error).splitlines()[-1].removeprefix("ValueError: ")) from error
    config = loader["config"].value
    if not isinstance(config, schema):
        if type(config).__module__.partition(".")[0] == "configs":
            raise Usage(f"{path}: {OLD_CONFIG}")
        raise Usage(
            f"{path} is no configuration of this command: its get_config() gives a "
            f"{type(config).__name__}; expected a {schema.__name__}"
        )
    return config


def _overridden(config: Config, values: flags.FlagValues, prefix: str = "config") -> Config:
    """A new config, with the values of the options that are given."""
    changes = {}
    for field in dataclasses.fields(config):
        name, value = f"{prefix}.{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _overridden(value, values, name)
        elif values[name].present:
            value = values[name].value
            changes[field.name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(config, **changes)


def _check_given(missing: Sequence[Option], usage: str) -> None:
    if missing:
        lines = [f"  --{option.short or option.name}: {option.text}" for option in missing]
        raise Usage("\n".join(["missing required options:", *lines, "", usage.strip()]), code=2)


def _help(usage: str, found: Sequence[Option]) -> str:
    """What `--help` prints: the example, and the options by section of the config."""
    lines, last = [usage.strip()], None
    for option in found:
        section = ".".join(option.name.split(".")[1:-1])
        if section != last:
            lines += ["", f"{section}:" if section else "other:"]
            last = section
        lines.append(f"  {option.shown()}")
        lines.append(textwrap.indent(textwrap.fill(option.text, 90), " " * 6))
    return "\n".join(lines)


def _guarded(command: Callable[[list[str]], int], argv: Sequence[str] | None, stopped: str) -> int:
    """Runs a command; errors are printed as sentences. Returns the exit code.

    While it runs, what a terminal would obey or cannot show is printed with backslashes, and the
    loggers of JAX and Orbax are quiet.
    """
    with _printable(sys.stdout), _logs():
        try:
            return command(list(sys.argv if argv is None else argv))
        except KeyboardInterrupt:
            print(f"\nstopped: {stopped}", file=sys.stderr)
        except Usage as error:
            print(f"error: {untrusted.printable(str(error), keep=chr(10))}", file=sys.stderr)
            return error.code
        except tuple(FAMILY) as error:
            logging.debug("the error came from here", exc_info=True)
            print(f"error: {sentence(error)}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _logs() -> Iterator[None]:
    """Has absl write the logs, of JAX and Orbax too, as `--verbosity` says."""
    root, verbosity = python_logging.getLogger(), logging.get_verbosity()
    there = logging.get_absl_handler() in root.handlers
    logging.use_absl_handler()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not there:
            root.removeHandler(logging.get_absl_handler())


@contextlib.contextmanager
def _printable(stream: typing.TextIO) -> Iterator[None]:
    """Has backslashes written for what a terminal would obey or lacks."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    write, errors = stream.write, stream.errors
    stream.reconfigure(errors="backslashreplace")
    stream.write = lambda text: write(untrusted.printable(text, keep="\n\t"))
    try:
        yield
    finally:
        del stream.write
        stream.reconfigure(errors=errors)


def on_hosts(command: Callable[[Hosts, Config], Result], config: Config) -> Result:
    """Runs `command(hosts, config)` as one of the processes that work together, or as the only one.

    Where it fails, one of several ends at once; not by an exception: JAX would wait for the others,
    who wait for this one.
    """
    from cxr_embeddings.encoder import sharding

    if config.distributed:
        sharding.join_hosts()
    import jax

    from cxr_embeddings.input_pipeline.hosts import Hosts

    hosts = Hosts(jax.process_index(), jax.process_count(), sharding.gather)
    try:
        return command(hosts, config)
    except (*FAMILY, jax.errors.JaxRuntimeError) as error:
        if hosts.count == 1:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
