"""Files that were made to do harm: bounded memory, one sentence, nothing believed unchecked."""

import gzip

import pytest

from configs import untrusted
from heads import predictions
from heads.labels import tables
from input_pipeline import datasets, files, mimic_tables

BOUNDS = {"MAX_TABLE_BYTES": 100_000, "MAX_ROWS": 1000, "MAX_COLUMNS": 50, "MAX_CELLS": 5000}
READERS = {
    "a list of films": files.list_inputs,
    "a table of MIMIC-CXR": lambda path: mimic_tables.read_table(path, ("path",)),
    "a label table of a data set": datasets.read_labels,
    "a label table of a head": tables.read_table,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"path\n" + bytes(10_000_000), "more than 100,000 bytes when unpacked"),
        (b"path\n" + 2000 * b"a\n", "more than 1,000 rows"),
        (b"path\r" + 2000 * b"a\r", "more than 1,000 rows"),
        (b"path" + 60 * b"," + b"\n", "more than 50 columns"),
        (b"path\n" + 5000 * b"," + b"\n", "more than 5,000 values"),
    ],
)
def test_tables_that_unpack_to_more_than_is_read(tmp_path, monkeypatch, reader, content, found):
    for name, value in BOUNDS.items():
        monkeypatch.setattr(untrusted, name, value)
    bomb = tmp_path / "table.csv.gz"
    bomb.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=rf"{bomb} has {found}.*cut it into several"):
        READERS[reader](str(bomb))
    plain = tmp_path / "predictions.csv"
    plain.write_bytes(content)
    with pytest.raises(ValueError, match=f"{plain} has {found}"):
        predictions.read(tmp_path)
