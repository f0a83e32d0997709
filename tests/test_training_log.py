"""What a training writes down, and what it looks at."""

import csv

import numpy as np
import pytest
from PIL import Image

from cxr_embeddings.pretraining import training_log, training_picture, tune_look

ROW = {"films": 640, "loss": 2.34994, "films_per_second": 30.125}


def rows(folder):
    with (folder / training_log.METRICS).open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(folder, first, steps):
    with training_log.open_log(folder, first, False) as log:
        for step in steps:
            log({"step": step, **ROW})


def test_rows_after_the_checkpoint_are_written_anew(tmp_path):
    write(tmp_path, 0, (10, 20, 30))
    write(tmp_path, 20, (30, 40))
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20", "30", "40"]


def test_a_row_that_was_cut_short_goes(tmp_path):
    write(tmp_path, 0, (10, 20))
    file = tmp_path / training_log.METRICS
    file.write_text(file.read_text()[:-25])
    write(tmp_path, 20, (30,))
    assert [row["step"] for row in rows(tmp_path)] == ["10", "30"]


def test_a_picture_is_drawn_with_every_look(tmp_path):
    write(tmp_path, 0, (10, 20))
    assert not (tmp_path / training_picture.PICTURE).exists()
    with training_log.open_log(tmp_path, 20, False) as log:
        log({"step": 25, **ROW, "probe_auroc": 0.8, "knn_auroc": 0.7, "tune_uniformity": -2.0})
    with Image.open(tmp_path / training_picture.PICTURE) as image:
        assert image.width > 900
    figure = training_picture.draw(tmp_path / "again.png", training_log.read_metrics(tmp_path))
    drawn = [[[*line.get_xdata()] for line in ax.lines] for ax in figure.axes]
    assert drawn == [[[0.64] * 3], [[0.64], [0.64]], [[]], [[], [0.64]]]


def test_other_hosts_write_nothing(tmp_path):
    with training_log.open_log(tmp_path, 0, True) as log:
        log({"step": 10, **ROW})
    assert not [*tmp_path.iterdir()]


def test_the_line_says_what_is_known():
    assert training_log.line({"step": 10, **ROW}) == "step 10: loss 2.35, films per second 30.12"
    with_auroc = training_log.line({"step": 10, **ROW, "probe_auroc": 0.9})
    assert with_auroc.endswith("probe auroc 0.9")


def classes(films, distance, seed):
    generator = np.random.default_rng(seed)
    label = np.arange(films) % 2
    embedding = generator.standard_normal((films, 8))
    embedding[:, 0] += distance * label
    return embedding.astype(np.float32), label


def test_probe_and_neighbours_tell_classes_that_differ():
    apart = tune_look.measure(*classes(200, 6.0, 0), *classes(100, 6.0, 1))
    assert apart["probe_auroc"] > 0.99 and apart["knn_auroc"] > 0.99
    alike = tune_look.measure(*classes(200, 0.0, 0), *classes(100, 0.0, 1))
    assert 0.3 < alike["probe_auroc"] < 0.7 and 0.3 < alike["knn_auroc"] < 0.7
    # the wider they are spread on the sphere, the lower; one point: 0
    assert apart["tune_uniformity"] < -1
    point = [(np.ones((films, 8), np.float32), np.arange(films) % 2) for films in (200, 100)]
    one = tune_look.measure(*point[0], *point[1])
    assert one["tune_uniformity"] == pytest.approx(0, abs=1e-6)


def test_a_class_alone_is_not_measured():
    embedding, label = classes(20, 1.0, 0)
    assert tune_look.measure(embedding, label, embedding, np.ones(20, int)) == {}
    assert tune_look.measure(embedding, np.zeros(20, int), embedding, label) == {}


def test_a_sample_is_always_the_same_rows():
    many = np.arange(100, 200)
    some = tune_look.sample(many, 10)
    assert len({*some}) == 10 and {*some} <= {*many} and (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, tune_look.sample(many, 10))
    np.testing.assert_array_equal(tune_look.sample(many, 1000), many)
