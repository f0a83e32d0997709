"""Films of many requests to embeddings: decoded side by side, embedded in batches of fixed sizes.

A film goes from the queue to a decoder process, and from there into the next batch. A batch is
filled up to the smallest size that holds it, with black images, so that few programs are compiled
and what else is in a batch changes nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxr_embeddings.input_pipeline.films import decode
from cxr_embeddings.input_pipeline.films.film import InputFile

if TYPE_CHECKING:
    from cxr_embeddings.loading import Encoder, Infer


class Full(Exception):
    """As many films as may be are waiting or at work."""


class Unusable(ValueError):
    """A film that gives no embedding; the text says why."""


class Embedded(NamedTuple):
    """What became of a film."""

    embedding: np.ndarray  # float32 [dim]
    film: decode.Prepared


class _Task(NamedTuple):
    fetch: Callable[[], decode.Content]
    result: Future[Embedded]


class _Ready(NamedTuple):
    film: decode.Prepared
    result: Future[Embedded]


class Batcher:
    """See `submit`. All may be called from several threads.

    Attributes:
        taken: films that are waiting or at work.
        on_batch: is told how many films each batch holds.
    """

    def __init__(
        self, encoder: Encoder, sizes: Sequence[int], wait: float, most: int, decoders: int
    ) -> None:
        """Compiles nothing yet; see `start`.

        Args:
            encoder: computes.
            sizes: of batches that are compiled, in films; multiples of the devices that share one.
            wait: seconds that a film waits for others at most, where others are being decoded.
            most: films that may be waiting or at work.
            decoders: processes that decode films.
        """
        shared = encoder.mesh.shape["data"]
        if not sizes or any(size < 1 or size % shared for size in sizes):
            raise ValueError(
                f"the batch sizes are {', '.join(map(str, sizes))}; expected multiples of "
                f"{shared}, the number of devices that share a batch"
            )
        self.encoder, self.sizes, self.wait, self.most = encoder, sorted({*sizes}), wait, most
        self.taken = 0
        self.on_batch: Callable[[int], object] = lambda films: None
        self._lock = threading.Lock()
        self._closing = False
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Ready | None] = queue.SimpleQueue()
        self._infer: dict[int, Infer] = {}
        card = encoder.card
        self._decoders = [
            decode.Decoder(card.preset, card.resolution, None, False) for _ in range(decoders)
        ]
        self._threads = [
            threading.Thread(target=self._decode, args=(one,), daemon=True)
            for one in self._decoders
        ]
        self._batches = threading.Thread(target=self._embed, daemon=True)

    def start(self) -> None:
        """Compiles a program for each size and runs it once. Then films are taken."""
        side = self.encoder.card.resolution
        for size in self.sizes:
            self._infer[size] = self.encoder.compiled(size, self.encoder.layer)
            self._run(size, np.zeros((size, side, side, 1), np.float32))
        for thread in (*self._threads, self._batches):
            thread.start()

    def submit(self, fetch: Callable[[], decode.Content]) -> Future[Embedded]:
        """Takes a film. The future raises `Unusable` where it gives no embedding.

        Args:
            fetch: gives its bytes or path; is called on a thread of a decoder, and may raise
                `Unusable`.

        Raises:
            Full: too many films are there already, or the service is ending.
        """
        with self._lock:
            if self.taken >= self.most or self._closing:
                raise Full
            self.taken += 1
        result: Future[Embedded] = Future()
        result.add_done_callback(self._leave)  # also when the client has gone and it is cancelled
        self._tasks.put(_Task(fetch, result))
        return result

    def _leave(self, _: Future[Embedded]) -> None:
        with self._lock:
            self.taken -= 1

    def _decode(self, decoder: decode.Decoder) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.result.set_running_or_notify_cancel():
                continue
            try:
                film = decoder(task.fetch())
                if isinstance(film, decode.Prepared):
                    self._ready.put(_Ready(film, task.result))
                else:
                    said = film.reason.replace("_", " ")
                    task.result.set_exception(Unusable(f"the film cannot be read: {said}"))
            except Unusable as error:
                task.result.set_exception(error)
            except Exception as error:  # of ours; the thread goes on
                logging.getLogger("cxr_embeddings").exception("a film could not be decoded")
                task.result.set_exception(error)

    def _embed(self) -> None:
        while (first := self._ready.get()) is not None:
            batch, until = [first], time.monotonic() + self.wait
            while len(batch) < self.sizes[-1]:
                others = self.taken > len(batch)  # that may be ready soon
                try:
                    left = max(0.0, until - time.monotonic()) if others else 0.0
                    one = self._ready.get(timeout=left) if left else self._ready.get_nowait()
                except queue.Empty:
                    break
                if one is None:
                    self._ready.put(None)
                    break
                batch.append(one)
            self._finish(batch)

    def _finish(self, batch: Sequence[_Ready]) -> None:
        size = next(size for size in self.sizes if size >= len(batch))
        images = np.zeros((size, *batch[0].film.image.shape), np.float32)
        for i, one in enumerate(batch):
            images[i] = one.film.image
        self.on_batch(len(batch))
        try:
            rows = self._run(size, images)
        except Exception as error:  # memory that ran out, for one; the next batch may succeed
            logging.getLogger("cxr_embeddings").exception("a batch could not be embedded")
            for one in batch:
                one.result.set_exception(error)
            return
        for one, row in zip(batch, rows, strict=False):
            if np.isfinite(row).all():
                one.result.set_result(Embedded(row, one.film))
            else:
                one.result.set_exception(Unusable("the embedding of the film is not finite"))

    def _run(self, size: int, images: np.ndarray) -> np.ndarray:
        files = [InputFile(str(i), str(i)) for i in range(size)]
        batch = decode.Batch(images, files, [None] * size)
        ((_, rows),) = self._infer[size]([(batch, images)])
        return np.array(rows, np.float32)

    @property
    def failed(self) -> bool:
        """Whether a thread has ended that should not have."""
        return bool(self._infer) and not self._closing and not self._batches.is_alive()

    def close(self) -> None:
        """Finishes the films that were taken, and ends the processes."""
        with self._lock:
            self._closing = True
        while self.taken and self._batches.is_alive():
            time.sleep(0.02)
        for _ in self._threads:
            self._tasks.put(None)
        self._ready.put(None)
        for thread in (*self._threads, self._batches):
            if thread.is_alive():
                thread.join()
        for decoder in self._decoders:
            decoder.stop()
