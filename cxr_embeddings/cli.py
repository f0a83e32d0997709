"""What the commands share: a typed config from flags, its `--help`, and errors as sentences."""

import collections
import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from cxr_embeddings import configs
from cxr_embeddings.common import untrusted
from cxr_embeddings.errors import sentence

HELP_FLAGS = ("--help", "-h", "-help", "--helpshort", "--helpfull")


def fields(config: Any, prefix: str = "config") -> Iterator[tuple[str, Any, str]]:
    """Name, value and help of every knob of a config, in the order of the schema."""
    for field in dataclasses.fields(config):
        name, value = f"{prefix}.{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, name)
        else:
            yield name, value, field.metadata["help"]


def unset(config: Any, required: Sequence[str], usage: str) -> bool:
    """Whether some required knob has no value; says which, and what to do."""
    missing = [(n, text) for n, value, text in fields(config) if n in required and not value]
    if missing:
        print("error: missing required options:")
        print("\n".join(f"  --{name}: {text}" for name, text in missing))
        print(f"\nFor example:\n{usage}")
    return bool(missing)


def run(
    main: Callable[..., int],
    schema: type,
    default: str,
    usage: str,
    stopped: str,
    variant: str = "",
    passes_on: Callable[[str], bool] | None = None,
) -> None:
    """Parses the command line into a config and hands it to `main`; never returns.

    `main` returns the exit code. A ValueError or OSError it raises is the user's to mend: its text
    is printed and the exit code is 1. Where it came from is shown with `--verbosity=1`.

    Args:
        main: the command.
        schema: dataclass of the config.
        default: config file, for command lines without `--config`.
        usage: what `--help` prints above the table of knobs.
        stopped: what to say when the user stops it.
        variant: what a file given by `--config` is asked for, unless it says itself, as in FILE:x.
        passes_on: whether a flag is another library's; such flags are the second argument of
            `main`, as they were typed.
    """
    flag = config_flags.DEFINE_config_file(
        "config", help_string="file whose get_config() returns the config"
    )
    others: list[str] = []

    def parse(argv: Sequence[str]) -> list[str]:
        if not any(argument.split("=")[0] in ("--config", "-config") for argument in argv):
            argv = [argv[0], f"--config={default}", *argv[1:]]
        elif variant:
            argv = _with_variant(argv, variant)
        asks_help = any(argument in HELP_FLAGS for argument in argv)
        if passes_on:
            others.extend(argument for argument in argv[1:] if passes_on(argument))
            argv = [argument for argument in argv if argument not in others]
        argv, lists = _take_lists(argv, schema)
        try:
            rest = flags.FLAGS(
                [_find_config(argument) for argument in argv if argument not in HELP_FLAGS]
            )
            if not isinstance(flag.value, schema):
                raise KeyError
            for name, value in lists.items():
                *parents, field = name.split(".")[1:]
                setattr(functools.reduce(getattr, parents, flag.value), field, value)
        except KeyError:  # ml_collections' answer to a field that does not exist
            sys.exit(f"error: {_unknown_field(argv, schema)}")
        except (flags.Error, OSError) as error:  # of a config file: with its traceback
            sys.exit(f"error: {str(error).splitlines()[-1].removeprefix('ValueError: ')}")
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = logging.WARNING  # JAX and Orbax inform at length
        if len(rest) > 1:
            sys.exit(f"error: {rest[1]!r} is no flag; flags are written --name=value")
        if asks_help:
            print(usage.strip(), "\n\nKnobs and their values now:")
            for name, value, text in fields(flag.value):
                print(f"  --{name}={value}\n      {text}")
            sys.exit(0)
        return rest

    def command(_: Sequence[str]) -> int:
        with _guarded(stopped):
            return main(flag.value, others) if passes_on else main(flag.value)

    app.run(command, flags_parser=parse)


def run_flags(
    main: Callable[..., int | None],
    stopped: str,
    texts: Mapping[str, str] | None = None,
    repeated: Collection[str] = (),
) -> None:
    """Runs a command whose flags are its own, as `run` does; never returns.

    Args:
        main: the command; returns the exit code, or None for 0.
        stopped: what to say when the user stops it.
        texts: name -> help of flags that are text; they are the keywords of `main`, None if unset.
        repeated: those of them that may be given several times, and are lists.
    """
    given = {
        name: (flags.DEFINE_multi_string if name in repeated else flags.DEFINE_string)(
            name, None, text
        )
        for name, text in (texts or {}).items()
    }

    def command(arguments: Sequence[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # JAX and Orbax inform at length
        if arguments[1:]:
            sys.exit(f"error: {arguments[1]!r} is no flag; --help lists them")
        said = [re.match(r"--?(\w+)", argument) for argument in sys.argv[1:]]
        counts = collections.Counter(name[1] for name in said if name)
        if twice := [n for n in given if counts[n] > 1 and n not in repeated]:
            sys.exit(f"error: --{twice[0]} is given {counts[twice[0]]} times; expected once")
        with _guarded(stopped):
            return main(**{name: flag.value for name, flag in given.items()})

    app.run(command)


@contextlib.contextmanager
def _guarded(stopped: str) -> Iterator[None]:
    """Has errors printed as sentences, and backslashes for what a terminal would obey or lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
        write = sys.stdout.write
        sys.stdout.write = lambda text: write(untrusted.printable(text, keep="\n\t"))
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(f"\nstopped: {stopped}")
    except (ValueError, OSError, ImportError) as error:
        logging.debug("the error came from here", exc_info=True)
        sys.exit(f"error: {sentence(error)}")


def on_hosts(command: Callable[[Any, Any], int], config: Any) -> int:
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
    except (ValueError, OSError, ImportError, jax.errors.JaxRuntimeError) as error:
        if hosts.count == 1:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def kept_views(views: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The views in capitals; None keeps all."""
    names = {name.upper() for name in views or ()}
    return None if not names or "ALL" in names else tuple(sorted(names))


def progress(total: int, done: int = 0, hidden: bool = False, what: str = "films") -> Any:
    """A progress bar, as a context manager; in a log a line every ten seconds."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=done,
        unit=f" {what}",
        bar_format="{percentage:3.0f}% {bar} {n}/{total}{unit}, {rate_noinv_fmt}, {remaining} left",
        mininterval=0.1 if sys.stderr.isatty() else 10,
        disable=hidden,
    )


def _find_config(argument: str) -> str:
    """`--config configs/x.py` also means the installed one when there is none in this folder."""
    name, mark, config = argument.rpartition("=")
    path, colon, preset = config.partition(":")
    installed = os.path.join(os.path.dirname(configs.__file__), os.path.basename(path))
    if path.startswith("configs/") and not os.path.exists(path) and os.path.exists(installed):
        return name + mark + installed + colon + preset
    return argument


def _with_variant(argv: Sequence[str], variant: str) -> list[str]:
    """The command line with FILE:variant for the file of `--config`, unless it says a variant."""
    argv = list(argv)
    for i, argument in enumerate(argv):
        name, equals, _ = argument.partition("=")
        place = i if equals else i + 1
        if name in ("--config", "-config") and place < len(argv):
            argv[place] += "" if ":" in argv[place] else f":{variant}"
    return argv


def _take_lists(argv: Sequence[str], schema: type) -> tuple[list[str], dict[str, Any]]:
    """The command line without the knobs that are lists, and these.

    ml_collections takes their text for Python, in which `No Finding,Edema` is no tuple.
    """
    kinds = dict(_list_kinds(schema))
    rest, lists, waiting = [], {}, collections.deque(argv)
    while waiting:
        argument = waiting.popleft()
        name, equals, text = argument.lstrip("-").partition("=")
        if name not in kinds or not argument.startswith("-"):
            rest.append(argument)
            continue
        if not equals:
            if not waiting:
                sys.exit(f"error: --{name} has no value: write --{name}=VALUE,VALUE")
            text = waiting.popleft()
        kind, what = kinds[name]
        if what == REPEATED:  # a comma may be part of a path
            lists[name] = (*lists.get(name, ()), text)
            continue
        parts = [part.strip(" '\"") for part in text.strip(" ()[]").split(",")]
        try:
            values = tuple(kind(part) for part in parts if part and part != "None")
        except ValueError:
            sys.exit(f"error: --{name} is {text!r}; expected {what} with commas between them")
        lists[name] = values
    return rest, lists


REPEATED = "a value each time the option is given"
_LISTED = {str: "names", int: "whole numbers, such as 512,256,", float: "numbers, such as 0.7,0.3,"}


def _list_kinds(schema: type, prefix: str = "config") -> Iterator[tuple[str, tuple[type, str]]]:
    """Of every knob that is a list: its name, the type of its parts, and the words for them."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint, name = hints[field.name], f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(hint):
            yield from _list_kinds(hint, name)
        for one in (hint, *typing.get_args(hint)):
            if typing.get_origin(one) is tuple:
                kind = typing.get_args(one)[0]
                yield name, (kind, REPEATED if field.metadata["repeated"] else _LISTED[kind])


def _unknown_field(argv: Sequence[str], schema: type) -> str:
    known = [name for name, _, _ in fields(schema())]
    names = [argument.lstrip("-").partition("=")[0] for argument in argv]
    unknown = [name for name in names if name.startswith("config.") and name not in known]
    if not unknown:  # the config has not all fields of its schema
        return f"there is no configuration of this command in --config, a {schema.__name__}"
    similar = [m for name in unknown for m in difflib.get_close_matches(name, known, n=1)]
    hint = f"; did you mean --{similar[0]}?" if similar else "; --help lists them"
    return f"there is no --{', --'.join(unknown)}{hint}"
