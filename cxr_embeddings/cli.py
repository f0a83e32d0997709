"""What the commands share: their options, errors as sentences, and the hosts of a run.

`run` and `run_flags` change nothing in the process that calls them: tests run commands by them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging as python_logging
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from absl import flags, logging

from cxr_embeddings import options
from cxr_embeddings.common import untrusted
from cxr_embeddings.errors import FAMILY, sentence

if TYPE_CHECKING:
    from cxr_embeddings.input_pipeline.hosts import Hosts

CONFIG = "Python file whose get_config() gives the settings; FILE:NAME asks it for one of several"


def run(
    main: Callable[..., int],
    schema: type[options.Dataclass],
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
        file = options.Option("config", "", str, default, CONFIG, repeated=False, required=False)
        for option in (file, *options.settings(schema(), names, required)):
            options.define(option, values)
        helps, rest = options.parse(words, values, others)
        path = values["config"].value
        given = options.load_config(path or default, schema, variant if path else "")
        config = options.overridden(given, values)
        found = list(options.settings(config, names, required))
        if helps:
            print(options.help_text(usage, [file._replace(value=path or default), *found]))
            return 0
        options.check_given([one for one in found if one.required and not one.value], usage)
        return main(config, rest) if others else main(config)

    return _guarded(command, argv, stopped)


def run_flags(
    main: Callable[..., int],
    usage: str,
    stopped: str,
    texts: Mapping[str, str],
    *,
    short: Mapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command whose options are the arguments of a function, as `run` does.

    Args:
        main: the command; returns the exit code. The types of its arguments are
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
        values, names = flags.FlagValues(), {full: one for one, full in (short or {}).items()}
        found = options.arguments(main, texts, names)
        for option in found.values():
            options.define(option, values)
        helps, _ = options.parse(words, values)
        if helps:
            print(options.help_text(usage, list(found.values())))
            return 0
        given = {name: values[option.name] for name, option in found.items()}
        for name, option in found.items():
            if (count := given[name].present) > 1 and not option.repeated:
                raise options.Usage(f"--{option.name} is given {count} times; expected once")
        missing = [one for name, one in found.items() if one.required and not given[name].value]
        options.check_given(missing, usage)
        return main(**{name: flag.value for name, flag in given.items() if flag.present})

    return _guarded(command, argv, stopped)


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
        except options.Usage as error:
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
    shown = functools.partial(untrusted.printable, keep="\n\t")
    stream.write = lambda text: write(shown(text))  # type: ignore[method-assign]
    try:
        yield
    finally:
        del stream.write
        stream.reconfigure(errors=errors)


class Shared(typing.Protocol):
    """A config that says whether several processes share the run."""

    @property
    def distributed(self) -> bool: ...


Config = TypeVar("Config", bound=Shared)
Result = TypeVar("Result")


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
