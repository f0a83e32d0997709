import errno
import io
import multiprocessing
import os
import signal

import numpy as np
import pytest
from PIL import Image

from input_pipeline import pipeline
from input_pipeline.files import InputFile
from input_pipeline.film import Rejected
from input_pipeline.pipeline import Prepared


def film(folder, name, value):
    path = folder / f"{name}.png"
    Image.fromarray(np.full((6, 4), value, np.uint8)).save(path)
    return InputFile(str(path), name)


def decode(films, size=8, workers=2, ahead=4):
    with pipeline.decoders("native", size, None, workers) as decoders:
        yield from pipeline.decode(films, decoders, ahead)


def test_films_come_back_in_order_with_bad_ones_in_their_place(tmp_path):
    films = [film(tmp_path, f"{i:02d}", 10 * i) for i in range(12)]
    (tmp_path / "05.png").write_bytes(b"nonsense")
    films.append(InputFile(str(tmp_path / "gone.dcm"), "gone"))
    decoded = list(decode(films))
    assert [f for f, _ in decoded] == films
    assert decoded[5][1].reason == "not_an_image"
    assert decoded[12][1] == Rejected("unreadable", "No such file or directory")
    for i in set(range(12)) - {5}:
        assert decoded[i][1].image.shape == (8, 8, 1)
        assert decoded[i][1].image.max() == pytest.approx(10 * i / 255, abs=1e-4)
        assert (decoded[i][1].shape, decoded[i][1].view_position) == ((6, 4), None)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    os.rename(film(tmp_path, "a", 1).path, name)
    ((_, outcome),) = decode([InputFile(name, "odd")])
    assert isinstance(outcome, Prepared)


def test_an_error_of_our_own_is_said_to_be_one(tmp_path):
    with pipeline.decoders("no such preset", 8, None, 1) as decoders:
        ((_, outcome),) = pipeline.decode([film(tmp_path, "a", 1)], decoders, 1)
    assert outcome == Rejected("failed", "KeyError")


def waiting_films(folder):
    """Two good films around one that never comes: a pipe that nobody writes to."""
    os.mkfifo(folder / "stuck.dcm")
    stuck = InputFile(str(folder / "stuck.dcm"), "stuck")
    return [film(folder, "a", 1), stuck, film(folder, "b", 2)]


def test_a_hanging_film_is_rejected_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "DECODE_SECONDS", 3)
    outcomes = [outcome for _, outcome in decode(waiting_films(tmp_path), workers=1)]
    assert outcomes[1] == Rejected("timed_out", "not decoded within 3 s")
    assert isinstance(outcomes[0], Prepared) and isinstance(outcomes[2], Prepared)


def test_a_film_that_kills_its_decoder_is_rejected_and_the_run_goes_on(tmp_path):
    decoded = decode(waiting_films(tmp_path), workers=1)
    outcomes = [next(decoded)[1]]  # its decoder has started, and turns to the film that is stuck
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGSEGV)
    outcomes += [outcome for _, outcome in decoded]
    assert outcomes[1] == Rejected("crashed", "its decoder process ended with exit code -11")
    assert isinstance(outcomes[0], Prepared) and isinstance(outcomes[2], Prepared)


def test_a_decoder_that_dies_while_it_sends_an_image_costs_that_film_only(tmp_path):
    class Cut:
        """The decoder's end of the line, which dies between the facts and the image."""

        def __init__(self, inner, pid):
            self.inner, self.pid, self.received = inner, pid, 0

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def recv_bytes(self):
            self.received += 1
            if self.received == 2:
                os.kill(self.pid, signal.SIGKILL)
                raise OSError("got end of file during message")
            return self.inner.recv_bytes()

    films = [film(tmp_path, name, 9) for name in "ab"]
    with pipeline.decoders("native", 8, None, 1) as decoders:
        (decoder,) = decoders
        decoder._connection = Cut(decoder._connection, decoder._process.pid)
        outcomes = [outcome for _, outcome in pipeline.decode(films, decoders, 1)]
    assert outcomes[0] == Rejected("crashed", "its decoder process ended with exit code -9")
    assert isinstance(outcomes[1], Prepared)


def test_leaving_early_leaves_no_process_behind(tmp_path):
    films = [film(tmp_path, str(i), i) for i in range(9)]
    for _ in decode(films):
        break
    assert not multiprocessing.active_children()


def test_batches_are_full_and_the_last_one_is_padded(tmp_path):
    images = [Prepared(np.full((2, 2, 1), i, np.float32), None, (2, 2)) for i in range(1, 6)]
    films = [InputFile(str(i), str(i)) for i in range(7)]
    outcomes = [*images[:2], Rejected("truncated", ""), images[2], Rejected("colour", "")]
    dropped = []
    found = list(
        pipeline.batches(
            zip(films, outcomes + images[3:], strict=True), 3, lambda *both: dropped.append(both)
        )
    )
    assert [[f.key for f in b.films] for b in found] == [["0", "1", "3"], ["5", "6"]]
    np.testing.assert_array_equal(found[0].image[:, 0, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(found[1].image[:, 0, 0, 0], [4, 5, 0])
    assert [(f.key, why.reason) for f, why in dropped] == [("2", "truncated"), ("4", "colour")]


@pytest.mark.parametrize(("failures", "reason"), [(2, None), (3, None), (4, "unreadable")])
def test_a_film_that_cannot_be_read_to_its_end_is_tried_again(
    tmp_path, monkeypatch, failures, reason
):
    whole = film(tmp_path, "a", 90)
    paused, left = [], [failures]

    class Broken(io.BytesIO):
        def read(self, *size):
            if left[0]:
                left[0] -= 1
                raise OSError(errno.EIO, "Input/output error")
            return super().read(*size)

    def open_input(path):
        with open(path, "rb") as stream:
            return Broken(stream.read())

    monkeypatch.setattr(pipeline.files, "open_input", open_input)
    monkeypatch.setattr(pipeline.files.time, "sleep", paused.append)
    outcome = pipeline.load(whole.path, "native", 8, None)
    assert getattr(outcome, "reason", None) == reason
    assert len(paused) == min(failures, len(pipeline.files.RETRY_SECONDS))
