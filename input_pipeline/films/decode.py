"""From files to batches: films are decoded in processes of their own and packed, padded, in order.

A film is decoded by native code from bytes that nobody vouches for. So each decoder is a process:
if it hangs on a film, or two of them die on it, that film is rejected, the process is replaced and
the run goes on. What passes between processes is bytes, not pickles.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import queue
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

import numpy as np
from jaxtyping import Float32

from cxr_embeddings.common.paths import NotAFile

from .. import files
from .dicom import read_film
from .film import Film, Rejected, Rejection, Skipped
from .presets import PRESETS, network_input

DECODE_SECONDS = 300  # a film takes well under a second; a stalled network file system may not
DECODERS_A_FILM = 2  # processes that may die on a film before it is said to be the film's fault
DECODER_MEMORY = 8 << 30  # bytes of address space: bounds what a crafted file can take

Image = Float32[np.ndarray, "size size 1"]
Named = TypeVar("Named")  # whatever has the `path` of a film


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A film as network input.

    Attributes:
        image: values in [0, 1].
        view_position: what the file says; None where it says nothing.
        shape: height and width of the film in its file, in pixels.
    """

    image: Image
    view_position: str | None
    shape: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Films in the order of the input; the last batch is padded.

    Attributes:
        image: network input in [0, 1] before channel normalisation; padded rows are 0.
        films: of the first rows; the rest is padding.
    """

    image: Float32[np.ndarray, "batch size size 1"]
    films: Sequence[files.InputFile]


def load(
    path: str, preset: str, size: int, views: tuple[str, ...] | None
) -> Prepared | Skipped | Rejected:
    """Reads one film as network input; failures of the file system are met by trying again.

    Args:
        path: local path or address.
        preset: a key of `PRESETS`.
        size: side of the network input in pixels.
        views: ViewPositions to keep; None keeps all.
    """

    def read(stream: io.IOBase) -> Film | Skipped | Rejected:
        film = read_film(stream, views=views)
        if isinstance(film, Rejected) and film.reason == "unreadable":
            raise OSError(film.detail)
        return film

    try:
        film = files.read_with(path, read)
    except NotAFile as error:
        return Rejected("not_a_file", error.strerror)
    except OSError as error:
        return Rejected("unreadable", os.strerror(error.errno) if error.errno else str(error))
    if isinstance(film, Skipped | Rejected):
        return film
    try:
        image = network_input(film, PRESETS[preset], size)
    except Rejection as rejection:
        return Rejected(*rejection.args)
    return Prepared(image, film.view_position, film.pixels.shape)


def _serve(connection: Connection, preset: str, size: int, views: tuple[str, ...] | None) -> None:
    """A decoder process: paths in; pixels, or the JSON of a reason, out. Ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (DECODER_MEMORY, DECODER_MEMORY))
    with contextlib.suppress(EOFError, ConnectionError):
        connection.send_bytes(b"ready")
        while True:
            path = os.fsdecode(connection.recv_bytes())
            signal.alarm(2 * DECODE_SECONDS)  # ends it even when nobody is left to do so
            try:
                outcome = load(path, preset, size, views)
            except MemoryError:
                outcome = Rejected("too_large", f"needs more than {DECODER_MEMORY >> 30} GiB")
            except Exception as error:  # its message might quote the file
                outcome = Rejected("failed", type(error).__name__)
            signal.alarm(0)
            facts = dict(vars(outcome))
            image = facts.pop("image", None)
            connection.send_bytes(json.dumps([type(outcome).__name__, facts]).encode())
            if image is not None:
                connection.send_bytes(image)


class _Decoder:
    """A decoder process, replaced whenever it dies or hangs."""

    def __init__(self, preset: str, size: int, views: tuple[str, ...] | None) -> None:
        self._arguments = preset, size, views
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._connection.recv_bytes()
        except (EOFError, OSError):
            code = self.stop()
            message = f"a decoder process ended with exit code {code} before it was ready"
            raise OSError(message) from None

    def _replace(self) -> int:
        """Ends the process, starts another, and returns the exit code of the first, as `stop`."""
        code = self.stop()
        files.retry(self._start)  # where memory has run out, it may be free again soon
        return code

    def stop(self) -> int:
        """Ends the process and returns its exit code; minus a signal's number if one ended it."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        return self._process.exitcode

    def __call__(self, path: str) -> Prepared | Skipped | Rejected:
        """Decodes a film.

        A process that died may have been killed while it was idle, or for memory that others took:
        so the film is given to another one before it is rejected.
        """
        codes = []
        while len(codes) < DECODERS_A_FILM:
            try:
                return self._ask(path)
            except (EOFError, OSError):  # the latter also where an image was cut short
                codes.append(self._replace())
        said = " and ".join(map(str, codes))
        return Rejected("crashed", f"its decoder processes ended with exit codes {said}")

    def _ask(self, path: str) -> Prepared | Skipped | Rejected:
        """What the process says of a film. Raises EOFError or OSError where it has died."""
        self._connection.send_bytes(os.fsencode(path))
        if not self._connection.poll(DECODE_SECONDS):
            self._replace()
            return Rejected("timed_out", f"not decoded within {DECODE_SECONDS} s")
        kind, facts = json.loads(self._connection.recv_bytes())
        if kind != "Prepared":
            return {"Skipped": Skipped, "Rejected": Rejected}[kind](**facts)
        size = self._arguments[1]
        image = np.frombuffer(self._connection.recv_bytes(), np.float32).reshape(size, size, 1)
        return Prepared(image, facts["view_position"], tuple(facts["shape"]))


@contextlib.contextmanager
def decoders(
    preset: str, size: int, views: tuple[str, ...] | None, workers: int
) -> Iterator[Sequence[_Decoder]]:
    """Processes that decode films, for `decode`.

    Args:
        preset: a key of `PRESETS`.
        size: side of the network input in pixels.
        views: ViewPositions to keep; None keeps all.
        workers: number of processes.

    Raises:
        OSError: the processes cannot be started.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        started = list(threads.map(lambda _: _Decoder(preset, size, views), range(workers)))
    try:
        yield started
    finally:
        for decoder in started:
            decoder.stop()


def decode(
    films: Iterable[Named], decoders: Sequence[_Decoder], ahead: int
) -> Iterator[tuple[Named, Prepared | Skipped | Rejected]]:
    """Reads films in parallel processes and gives them back in order.

    Args:
        films: what to read, each with its `path`.
        decoders: the processes; for one call at a time.
        ahead: films decoded before they are asked for; bounds the memory.

    Yields:
        Each film as network input, or with what `read_film` says of it, or with a Rejected of
        this module: `crashed` (its decoders died), `timed_out`, or `failed` (an error of ours).
    """
    idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
    for decoder in decoders:
        idle.put(decoder)

    def ask(path: str) -> Prepared | Skipped | Rejected:
        decoder = idle.get()
        try:
            return decoder(path)
        finally:
            idle.put(decoder)

    films = iter(films)
    pending: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(len(decoders), "decoder") as threads:
        try:
            while True:
                for film in itertools.islice(films, max(ahead, 1) - len(pending)):
                    pending.append((film, threads.submit(ask, film.path)))
                if not pending:
                    return
                film, outcome = pending.popleft()
                yield film, outcome.result()
        finally:
            for _, outcome in pending:
                outcome.cancel()
            concurrent.futures.wait(outcome for _, outcome in pending)


def batches(
    decoded: Iterable[tuple[files.InputFile, Prepared | Skipped | Rejected]],
    batch_size: int,
    drop: Callable[[files.InputFile, Skipped | Rejected], None],
) -> Iterator[Batch]:
    """Packs images into batches of `batch_size`; gives what is no image to `drop`."""
    films: list[files.InputFile] = []
    rows: list[np.ndarray] = []
    for film, outcome in decoded:
        if not isinstance(outcome, Prepared):
            drop(film, outcome)
            continue
        films.append(film)
        rows.append(outcome.image)
        if len(rows) == batch_size:
            yield _pack(films, rows, batch_size)
            films, rows = [], []
    if rows:
        yield _pack(films, rows, batch_size)


def _pack(films: Sequence[files.InputFile], rows: Sequence[np.ndarray], batch_size: int) -> Batch:
    image = np.zeros((batch_size, *rows[0].shape), np.float32)
    np.stack(rows, out=image[: len(rows)])
    return Batch(image, films)
