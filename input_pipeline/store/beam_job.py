"""The Apache Beam pipeline: films to the shards of a store, one element a shard.

What Beam hands around is a place in the plan, which lies in the store's folder: job descriptions of
clusters are bounded. TFDS' own Beam writer would hold gigabytes in memory.
"""

import contextlib
import difflib
import importlib
import importlib.metadata
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

import apache_beam as beam
import grpc
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from cxr_embeddings.common import machine, paths, workers

from ..films import decode
from . import shards
from .shards import Settings

_LIBRARIES = (
    "cxr-embeddings",
    "apache-beam",
    "numpy",
    "pydicom",
    "imagecodecs",
    "pillow",
    "tensorflow-datasets",
)
_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"  # Beam 2.77 has no short name for it
_AHEAD = 2  # films decoded while one is encoded
# A worker process of this machine. Why it fails it tells Beam; what it prints besides is noise.
_WORKER = """
import os, runpy, sys
sys.stderr = open(os.devnull, "w")
runpy.run_module("apache_beam.runners.worker.sdk_worker_main", run_name="__main__")
"""


class _WriteShard(beam.DoFn):
    """(place, length) in the plan -> a shard on the disk."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def setup(self) -> None:
        settings, self._stack = self._settings, contextlib.ExitStack()
        paths.bill(settings.user_project)
        # Where the header decides, films are skipped before their pixels are read.
        views = None if settings.has_views else settings.views
        decoders = decode.decoders(settings.preset, settings.size, views, 1, settings.chest_only)
        self._decoders = self._stack.enter_context(decoders)

    def process(self, place: tuple[int, int]) -> None:
        shard = shards.read_shard(self._settings.folder, *place)
        films = ((film, film.path) for film in shard.films)
        decoded = workers.in_order(films, self._decoders, _AHEAD)
        summary = shards.write_shard(self._settings, shard, decoded)
        Metrics.counter("films", "written").inc(len(summary.films))
        for _, kind, reason, _ in summary.dropped:
            Metrics.counter("films", f"{kind}: {reason}").inc()

    def teardown(self) -> None:
        self._stack.close()


def versions() -> dict[str, str]:
    """The versions of the libraries that make a store, by name."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def parse_options(flags: Sequence[str]) -> PipelineOptions:
    """Beam's options, with all processors of this machine where no runner is named.

    Raises ValueError for those that Beam, left to itself, would ignore.
    """
    defaults: dict[str, object] = {
        "--runner": "FnApiRunner",
        "--direct_running_mode": "multi_processing",
        "--direct_num_workers": machine.processors(),
    }
    names = {flag.partition("=")[0] for flag in flags}
    if "--runner=DaskRunner" in flags:
        importlib.import_module(_DASK.rpartition(".")[0])  # without it, Beam has no such options
        flags = [f"--runner={_DASK}" if flag == "--runner=DaskRunner" else flag for flag in flags]
        # Beam would give 128 shards at once to one worker
        defaults = {} if "--dask_npartitions" in names else {"--dask_partition_size": 1}
    elif "--runner" in names and "--runner=FnApiRunner" not in flags:
        defaults = {}
    added = [f"{name}={value}" for name, value in defaults.items() if name not in names]
    options = PipelineOptions([*flags, *added])
    known = options.get_all_options(drop_default=True).keys()
    if unknown := options.get_all_options(True, retain_unknown_options=True).keys() - known:
        close = difflib.get_close_matches(min(unknown), options.get_all_options(), 1)
        hint = f"; did you mean --{close[0]}?" if close else ""
        raise ValueError(f"Beam knows no option --{', --'.join(sorted(unknown))}{hint}")
    name = options.view_as(StandardOptions).runner
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"Beam's runner {name} is not available: {error}") from error
    return options


@contextlib.contextmanager
def _lost_workers() -> Iterator[list[BaseException]]:
    """Interrupts the main thread when a worker process dies, for Beam would wait; says why."""
    lost: list[BaseException] = []
    interrupted = threading.Event()
    hook = threading.excepthook

    def notice(died: threading.ExceptHookArgs) -> None:
        if died.exc_value and "Worker subprocess exited" in str(died.exc_value):
            if lost or interrupted.is_set():
                return
            lost.append(died.exc_value)
            # A true signal, that wakes it; and SIGINT is ignored by programs in the background.
            main = threading.main_thread().ident
            signal.pthread_kill(main, signal.SIGUSR1)  # type: ignore[arg-type]  # it has started
        elif not issubclass(died.exc_type, grpc.RpcError):  # of those that talked to it
            hook(died)

    def interrupt(*_: object) -> NoReturn:
        # Beam would wait for its workers, of which some may not even listen yet.
        command = ["pkill", "-KILL", "-P", str(os.getpid()), "-f", "sdk_worker_main"]
        interrupted.set()
        with contextlib.suppress(OSError):
            subprocess.run(command, check=False)
        raise KeyboardInterrupt

    signals = [signal.SIGUSR1]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signals.append(signal.SIGINT)
    handlers = {number: signal.signal(number, interrupt) for number in signals}
    threading.excepthook = notice
    try:
        yield lost
    finally:
        if not interrupted.is_set():  # Beam's threads may see later that a worker was killed
            threading.excepthook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run(settings: Settings, places: Sequence[tuple[int, int]], options: PipelineOptions) -> None:
    """Makes the shards at some places in the plan by Beam. Raises OSError if a worker failed."""
    runner, direct = None, options.view_as(DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        direct.direct_running_mode = "in_memory"  # else Beam would take a worker of its own making
        command = f"exec {shlex.join([sys.executable, '-c', _WORKER])}"
        environment = SubprocessSDKEnvironment.from_command_string(command)
        runner = FnApiRunner(default_environment=environment)
    try:
        with _lost_workers() as lost, beam.Pipeline(runner, options) as job:
            _ = (
                job
                | "Shards" >> beam.Create(places)
                | beam.Reshuffle()
                | "Write" >> beam.ParDo(_WriteShard(settings))
            )
    except KeyboardInterrupt:
        if not lost:
            raise
        raise OSError(
            f"a Beam worker died ({lost[0]}); with -9, memory may have run out: take fewer by "
            "--direct_num_workers. The same command continues from here"
        ) from None
    except OSError:
        raise
    except Exception as error:  # RuntimeError whose text is a traceback; KilledWorker of Dask
        why = str(error).strip().splitlines()[-1].partition(" [while running")[0]
        why = why.removeprefix("RuntimeError: ").rstrip(".")
        raise OSError(
            f"a Beam worker failed: {why}. The same command continues from here"
        ) from error
