"""What the commands share: a command line becomes settings, errors sentences; hosts of a run.

`run` changes nothing in the process that calls it: tests run commands by it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging as python_logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

from absl import logging

from cxr_embeddings import options
from cxr_embeddings.common import untrusted
from cxr_embeddings.errors import FAMILY, sentence

if TYPE_CHECKING:
    from cxr_embeddings.input_pipeline.hosts import Hosts

CONFIG = "Python file whose get_config() gives the settings; FILE:NAME asks it for one of several"
Result = TypeVar("Result")


def run(
    main: Callable[..., int],
    schema: type[options.Dataclass],
    usage: str,
    stopped: str,
    *,
    config_files: bool = False,
    variant: str = "",
    others: bool = False,
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the command line into an object of `schema`, hands it to `main`; gives the exit code.

    A ValueError, OSError or ImportError of `main` is the user's to mend: its text is printed, and
    the exit code is 1. `--verbosity=1` shows where it came from.

    Args:
        main: the command; returns the exit code.
        schema: dataclass with a default for every field, made by `schema.field`.
        usage: an example and what the command does, for `--help`.
        stopped: what to say when the user stops it.
        config_files: whether `--config FILE` gives the settings that others change, as
            --config.a.b.
        variant: what such a file is asked for, unless the user says it, as in FILE:x.
        others: whether other options, --NAME=VALUE, are another library's; they are the second
            argument of `main`, as they were typed.
        argv: the command line, with the name of the command first; None: that of the process.
    """

    def command(words: Sequence[str]) -> int:
        prefix, config = "config." if config_files else "", schema()
        file = [options.Option("config", str, "", CONFIG)] if config_files else []
        known = [*file, *options.settings(config, prefix)]
        given, rest = options.parse(words, known, others)
        logging.set_verbosity(given.get("verbosity", [logging.WARNING])[-1])
        for option in known:
            count = len(given.get(option.name, []))
            if count > 1 and not config_files and not option.repeated:
                raise options.Usage(f"--{option.name} is given {count} times; expected once")
        if path := str(given.get("config", [""])[-1]):
            config = options.load_config(path, schema, variant)
        config = options.overridden(config, given, prefix)
        found = [*(one._replace(value=path) for one in file), *options.settings(config, prefix)]
        if "help" in given:
            print(options.help_text(usage, found))
            return 0
        options.check_required(found, usage)
        return main(config, rest) if others else main(config)

    return _guarded(command, argv, stopped)


def _guarded(
    command: Callable[[Sequence[str]], int], argv: Sequence[str] | None, stopped: str
) -> int:
    """Runs a command; errors are printed as sentences. Returns the exit code.

    While it runs, what a terminal would obey or cannot show is printed with backslashes, and the
    loggers of JAX and Orbax are quiet.
    """
    with _printable(sys.stdout), _logs():
        try:
            return command(list(sys.argv if argv is None else argv)[1:])
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
def _printable(stream: TextIO) -> Iterator[None]:
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


def on_hosts(job: Callable[[Hosts], Result], distributed: bool) -> Result:
    """Runs `job(hosts)` as one of the processes that work together, or as the only one.

    Where it fails, one of several ends at once; not by an exception: JAX would wait for the others,
    who wait for this one.
    """
    from cxr_embeddings.encoder import sharding

    if distributed:
        sharding.join_hosts()
    import jax

    from cxr_embeddings.input_pipeline.hosts import Hosts

    hosts = Hosts(jax.process_index(), jax.process_count(), sharding.gather)
    try:
        return job(hosts)
    except (*FAMILY, jax.errors.JaxRuntimeError) as error:
        if hosts.count == 1:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
