"""From films to batches: films are decoded in processes of their own and packed, padded, in order.

A film is decoded by native code from bytes that nobody vouches for. So each decoder is a process:
if it hangs on a film, or two of them die on it, that film is rejected, the process is replaced and
the run goes on. What passes between processes is bytes, not pickles.
"""

import contextlib
import dataclasses
import io
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import Float32, UInt

from cxr_embeddings.common import dicomweb, files, paths, workers
from cxr_embeddings.common.files import NotAFile

from .dicom import HEADER_BYTES, read_film
from .film import MAX_FILE_BYTES, Film, InputFile, Rejected, Rejection, Skipped, check_size
from .presets import PRESETS, Place, network_input, place_in_input

DECODE_SECONDS = 300  # a film takes well under a second; a stalled network file system may not
DECODERS_A_FILM = 2  # processes that may die on a film before it is said to be the film's fault
DECODER_MEMORY = 8 << 30  # bytes of address space: bounds what a crafted file can take

Content = str | bytes | UInt[np.ndarray, "h w"]  # a path or address, a file's bytes, or grey values


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A film as network input."""

    image: Float32[np.ndarray, "size size 1"]  # in [0, 1]
    view_position: str | None  # what the file says, if it does
    shape: tuple[int, int]  # height and width of the film in its file, in pixels
    not_chest: tuple[str, str] | None = None  # see `chest.other_than_chest`
    place: Place | None = None  # of the film in the image; None: nobody knows any more


@dataclasses.dataclass(frozen=True)
class Batch:
    """Films in the order of the input, in [0, 1] before channel normalisation."""

    image: Float32[np.ndarray, "batch size size 1"]
    films: Sequence[InputFile]  # of the first rows; the rest is padding, which is 0
    places: Sequence[Place | None]  # of these films in their images


def load(
    content: str | bytes,
    preset: str,
    size: int,
    views: tuple[str, ...] | None,
    chest_only: bool = False,
) -> Prepared | Skipped | Rejected:
    """Reads one film as network input; failures of the file system are met by trying again.

    The content is a local path or address, or the bytes of a file; see `read_film` for `views`
    and `chest_only`, and `network_input`.
    """

    def read(stream: io.IOBase) -> Film | Skipped | Rejected:
        film = read_film(stream, views=views, chest_only=chest_only)
        if isinstance(film, Rejected) and film.reason == "unreadable":
            raise OSError(film.detail)
        return film

    try:
        if isinstance(content, bytes):
            film = read(io.BytesIO(content))
        elif paths.is_remote(content) and not dicomweb.is_archive(content):
            film = _read_remote(content, read, bool(views) or chest_only)
        else:
            film = files.read_with(content, read)
    except NotAFile as error:
        return Rejected("not_a_file", error.strerror or str(error))
    except OSError as error:
        return Rejected("unreadable", os.strerror(error.errno) if error.errno else str(error))
    return film if isinstance(film, Skipped | Rejected) else prepare(film, preset, size)


def _read_remote(
    address: str, read: Callable[[io.IOBase], Film | Skipped | Rejected], may_skip: bool
) -> Film | Skipped | Rejected:
    """What `read` says of a film, which is fetched by one request; only its head if it is skipped.

    A film that its header may skip takes two requests where it does not. No byte is fetched twice.
    """
    head = files.read_range(address, 0, HEADER_BYTES) if may_skip else b""
    if may_skip:
        film = read(io.BytesIO(head))
        if isinstance(film, Skipped) or len(head) < HEADER_BYTES:
            return film
    rest = files.read_range(address, len(head), MAX_FILE_BYTES + 1 - len(head))
    return read(io.BytesIO(head + rest))


def prepare(film: Film, preset: str, size: int) -> Prepared | Rejected:
    """As `network_input`; what that refuses is not raised."""
    try:
        check_size(*film.pixels.shape)
        image = network_input(film, PRESETS[preset], size)
    except Rejection as rejection:
        return Rejected(*rejection.args)
    place = place_in_input(film.pixels.shape, film.pixel_aspect, PRESETS[preset], size)
    return Prepared(image, film.view_position, film.pixels.shape, film.not_chest, place)


def serve(connection: Connection, settings: str) -> None:
    """A decoder process: paths or files in; pixels, or the JSON of a reason, out.

    The settings are JSON of what `load` is asked for: preset, size, views, chest_only.
    """
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (DECODER_MEMORY, DECODER_MEMORY))
    preset, size, views, chest_only = json.loads(settings)
    connection.send_bytes(b"ready")
    while True:
        kind, data = connection.recv_bytes(), connection.recv_bytes()
        signal.alarm(2 * DECODE_SECONDS)  # ends it even when nobody is left to do so
        try:
            content = os.fsdecode(data) if kind == b"path" else data
            outcome = load(content, preset, size, views, chest_only)
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


class Decoder:
    """A decoder process: started when it is first needed, and again after it died or hung."""

    def __init__(
        self, preset: str, size: int, views: tuple[str, ...] | None, chest_only: bool
    ) -> None:
        self._settings = preset, size, views, chest_only
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        self.process, self._connection = workers.start(__name__, json.dumps(self._settings))
        try:
            self._connection.recv_bytes()
        except (EOFError, OSError):
            code = self.stop()
            message = f"a decoder process ended with exit code {code} before it was ready"
            raise OSError(message) from None

    def stop(self) -> int | None:
        """Ends the process and returns its exit code: minus a signal's number if one ended it."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        process.kill()
        self._connection.close()
        return process.wait()

    def __call__(self, content: Content) -> Prepared | Skipped | Rejected:
        """Decodes a film. Raises OSError where the process cannot be started.

        Beside the reasons of `read_film` a film is rejected as `crashed` (its decoders died),
        `timed_out`, or `failed` (an error of ours). A process that died may have been killed while
        it was idle, or for memory that others took: so another one tries first.
        """
        if isinstance(content, np.ndarray):  # nothing of it is decoded
            return prepare(Film(content, 8 * content.itemsize), *self._settings[:2])
        codes: list[int | None] = []
        while len(codes) < DECODERS_A_FILM:
            if self.process is None:
                files.retry(self._start)  # where memory has run out, it may be free again soon
            try:
                return self._ask(content)
            except (EOFError, OSError):  # the latter also where an image was cut short
                codes.append(self.stop())
        said = " and ".join(map(str, codes))
        return Rejected("crashed", f"its decoder processes ended with exit codes {said}")

    def _ask(self, content: str | bytes) -> Prepared | Skipped | Rejected:
        """What the process says of a film. Raises EOFError or OSError where it has died."""
        self._connection.send_bytes(b"path" if isinstance(content, str) else b"bytes")
        self._connection.send_bytes(os.fsencode(content) if isinstance(content, str) else content)
        if not self._connection.poll(DECODE_SECONDS):
            self.stop()
            return Rejected("timed_out", f"not decoded within {DECODE_SECONDS} s")
        kind, facts = json.loads(self._connection.recv_bytes())
        if kind != "Prepared":
            return Skipped(**facts) if kind == "Skipped" else Rejected(**facts)
        image, side = np.frombuffer(self._connection.recv_bytes(), np.float32), self._settings[1]
        shape, said = (*facts["shape"],), facts["not_chest"] and (*facts["not_chest"],)
        image, place = image.reshape(side, side, 1), Place(*facts["place"])
        return Prepared(image, facts["view_position"], shape, said, place)


@contextlib.contextmanager
def decoders(
    preset: str, size: int, views: tuple[str, ...] | None, count: int, chest_only: bool = False
) -> Iterator[Sequence[Decoder]]:
    """So many processes that decode films as `load` does, for `workers.in_order`."""
    with contextlib.ExitStack() as stack:
        ready = [Decoder(preset, size, views, chest_only) for _ in range(count)]
        for decoder in ready:
            stack.callback(decoder.stop)
        yield ready


def batches(
    decoded: Iterable[tuple[InputFile, Prepared | Skipped | Rejected]],
    batch_size: int,
    drop: Callable[[InputFile, Skipped | Rejected], None],
) -> Iterator[Batch]:
    """Packs images into batches of `batch_size`; gives what is no image to `drop`."""
    films: list[InputFile] = []
    places: list[Place | None] = []
    rows: list[np.ndarray] = []
    for film, outcome in decoded:
        if not isinstance(outcome, Prepared):
            drop(film, outcome)
            continue
        films.append(film)
        places.append(outcome.place)
        rows.append(outcome.image)
        if len(rows) == batch_size:
            yield Batch(np.stack(rows), films, places)
            films, places, rows = [], [], []
    if rows:
        padding = [np.zeros_like(rows[0])] * (batch_size - len(rows))
        yield Batch(np.stack(rows + padding), films, places)
