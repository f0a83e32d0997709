import errno
import io
import os
import pathlib
import signal

import numpy as np
import pytest
from PIL import Image

from cxr_embeddings.common import workers
from cxr_embeddings.input_pipeline.films import decode as pipeline
from cxr_embeddings.input_pipeline.films.decode import Prepared
from cxr_embeddings.input_pipeline.films.film import InputFile, Rejected


def film(folder, name, value):
    path = folder / f"{name}.png"
    Image.fromarray(np.full((6, 4), value, np.uint8)).save(path)
    return InputFile(str(path), name)


def decode(films, size=8, count=2, ahead=4):
    with pipeline.decoders("native", size, None, count) as decoders:
        yield from workers.in_order(((film, film.path) for film in films), decoders, ahead)


def test_films_come_back_in_order_with_bad_ones_in_their_place(tmp_path):
    names = [f"{i:02d}" for i in range(11)] + [os.fsdecode(b"not UTF-8 \xff")]
    films = [film(tmp_path, name, 10 * i) for i, name in enumerate(names)]
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


def test_an_error_of_our_own_is_said_to_be_one(tmp_path):
    with pipeline.decoders("no such preset", 8, None, 1) as (decoder,):
        assert decoder(np.empty((0, 3), np.uint8)) == Rejected("zero_size", "0 x 3"), "no error"
        assert decoder(film(tmp_path, "a", 1).path) == Rejected("failed", "KeyError")


# A decoder that dies or hangs on films of some names
DEADLY = f"""
import os, signal, sys, time
sys.path.append(sys.argv[1])
from cxr_embeddings.input_pipeline.films import decode
load = decode.load

def act(path, *rest):
    name = os.path.basename(path)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("once") and os.path.exists(path + ".armed"):
        os.remove(path + ".armed")
        os.kill(os.getpid(), signal.SIGKILL)
    return load(path, *rest)

decode.load = act
{workers.PROGRAM}
"""


def test_a_film_on_which_its_decoder_dies_or_hangs_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PROGRAM", DEADLY)
    monkeypatch.setattr(pipeline, "DECODE_SECONDS", 3)
    films = [film(tmp_path, name, 90) for name in ("a", "crash", "b", "hang", "c", "once", "d")]
    (tmp_path / "once.png.armed").touch()
    outcomes = {film.key: outcome for film, outcome in decode(films, count=1)}
    crashed = Rejected("crashed", "its decoder processes ended with exit codes -11 and -11")
    assert outcomes.pop("crash") == crashed
    assert outcomes.pop("hang") == Rejected("timed_out", "not decoded within 3 s")
    assert len(outcomes) == 5 and all(isinstance(one, Prepared) for one in outcomes.values())


def test_a_decoder_killed_while_idle_costs_no_film(tmp_path):
    films = [(i, film(tmp_path, str(i), 9).path) for i in range(3)]
    with pipeline.decoders("native", 8, None, 1) as (decoder,):
        for _ in range(2):
            outcomes = [outcome for _, outcome in workers.in_order(films, [decoder], 4)]
            assert all(isinstance(outcome, Prepared) for outcome in outcomes)
            decoder.process.kill()
            decoder.process.wait()


def test_a_decoder_that_cannot_be_started_at_once_is_started_later(tmp_path, monkeypatch):
    program, paused = workers.PROGRAM, []

    def pause(seconds):
        paused.append(seconds)
        monkeypatch.setattr(workers, "PROGRAM", program if len(paused) == 2 else "exit(3)")

    monkeypatch.setattr(pipeline.files.time, "sleep", pause)
    monkeypatch.setattr(workers, "PROGRAM", "exit(3)")
    (_, outcome), *_ = decode([film(tmp_path, "a", 9)], count=1)
    assert isinstance(outcome, Prepared) and len(paused) == 2
    monkeypatch.setattr(workers, "PROGRAM", "exit(3)")
    monkeypatch.setattr(pipeline.files.time, "sleep", paused.append)
    with pytest.raises(OSError, match="ended with exit code 3 before it was ready"):
        list(decode([film(tmp_path, "a", 9)], count=1))


def test_leaving_early_leaves_no_process_behind(tmp_path):
    films = [(i, film(tmp_path, str(i), i).path) for i in range(9)]
    with pipeline.decoders("native", 8, None, 2) as decoders:
        for _ in workers.in_order(films, decoders, 4):
            break
        processes = [decoder.process for decoder in decoders]
    assert all(process.returncode == -signal.SIGKILL for process in processes)


def test_batches_are_full_and_the_last_one_is_padded(tmp_path):
    images = [Prepared(np.full((2, 2, 1), i, np.float32), None, (2, 2)) for i in range(1, 6)]
    films = [InputFile(str(i), str(i)) for i in range(7)]
    outcomes = [*images[:2], Rejected("truncated", ""), images[2], Rejected("colour", "")]
    dropped = []
    decoded = zip(films, outcomes + images[3:], strict=True)
    found = list(pipeline.batches(decoded, 3, lambda *both: dropped.append(both)))
    assert [[f.key for f in b.films] for b in found] == [["0", "1", "3"], ["5", "6"]]
    np.testing.assert_array_equal(found[0].image[:, 0, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(found[1].image[:, 0, 0, 0], [4, 5, 0])
    assert [(f.key, why.reason) for f, why in dropped] == [("2", "truncated"), ("4", "colour")]


@pytest.mark.parametrize(("failures", "reason"), [(3, None), (4, "unreadable")])
def test_a_film_that_cannot_be_read_to_its_end_is_tried_again(
    tmp_path, monkeypatch, failures, reason
):
    data = pathlib.Path(film(tmp_path, "a", 90).path).read_bytes()
    paused, left = [], [OSError(errno.EIO, "Input/output error")] * failures

    class Broken(io.BytesIO):
        def read(self, *size):
            if left:
                raise left.pop()
            return super().read(*size)

    monkeypatch.setattr(pipeline.files, "open_input", lambda path: Broken(data))
    monkeypatch.setattr(pipeline.files.time, "sleep", paused.append)
    outcome = pipeline.load("a.png", "native", 8, None)
    assert getattr(outcome, "reason", None) == reason
    assert len(paused) == len(pipeline.files.RETRY_SECONDS) == 3
