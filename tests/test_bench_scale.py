"""The load test's films are MIMIC-CXR's in all that the commands look at; its watch sees memory."""

import pathlib

import pytest

from benchmarks import scale, watching
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.mimic import selection


def test_the_films_are_listed_with_views_and_splits_and_can_be_read(tmp_path):
    scale.write_films(tmp_path / "films", 20, (40, 30), distinct=7)
    listed = selection.list_films(str(tmp_path / "films"))
    assert len(listed.films) == 20 and not listed.skipped and listed.has_views
    assert {film.split for film in listed.films} == {"train", "validate", "test"}
    assert {(film.view, film.size) for film in listed.films} == {("PA", (40, 30))}
    assert len({film.patient_id for film in listed.films}) == 7  # three films each
    assert len({pathlib.Path(film.path).stat().st_ino for film in listed.films}) == 7
    contents = {pathlib.Path(film.path).read_bytes() for film in listed.films}
    assert len(contents) == 7
    for film in listed.films:
        with open(film.path, "rb") as stream:
            read = read_film(stream)
        assert read.pixels.shape == (40, 30) and read.bits_stored == 12
        assert read.view_position == "PA"


HOLD = """
import subprocess, sys, time
child = "import time; files = [open('/dev/null') for _ in range(50)]; time.sleep(1.5)"
if len(sys.argv) > 1:
    child += "; 'sdk_worker_main'"
process = subprocess.Popen([sys.executable, "-c", child])
held = bytearray(b"x" * 100_000_000)
process.wait()
"""


@pytest.mark.parametrize("worker", [False, True])
def test_watching_counts_the_memory_and_files_of_children(tmp_path, worker):
    program = tmp_path / "hold.py"
    program.write_text(HOLD)
    watched = watching.watch("launcher", [str(program), *["worker"] * worker])
    peaks = {
        kind: [max(sample.get(kind, (0, 0))[i] for sample in watched.samples) for i in (0, 1)]
        for kind in ("launcher", watching.BEAM)
    }
    assert 100 < peaks["launcher"][0] < 300
    assert (peaks["launcher"][1] > 50) is not worker
    assert (50 < peaks[watching.BEAM][1] < 60) is worker
    assert watched.seconds > 1.5 and watched.first == float("inf")


def test_watching_notes_when_the_first_result_is_there(tmp_path):
    program, result = tmp_path / "slow.py", tmp_path / "result"
    program.write_text(f"import time; time.sleep(1); open({str(result)!r}, 'w'); time.sleep(2)")
    watched = watching.watch("launcher", [str(program)], result.exists)
    assert 1 <= watched.first < watched.seconds - 1


def test_a_command_that_fails_is_an_error_with_its_own_words(tmp_path):
    program = tmp_path / "fail.py"
    program.write_text("import sys; sys.exit('error: no such thing')")
    with pytest.raises(RuntimeError, match=r"exit code 1, expected 0.*error: no such thing"):
        watching.watch("launcher", [str(program)])
