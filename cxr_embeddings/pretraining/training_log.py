"""What a training writes down: rows of metrics.csv, the same for TensorBoard, and as a picture."""

import contextlib
import csv
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tensorboardX import SummaryWriter

from cxr_embeddings.common import writing
from cxr_embeddings.pretraining import training_picture

METRICS = "metrics.csv"
COLUMNS = (
    "step",
    "films",
    "loss",
    "learning_rate",
    "gradient_norm",
    "alignment",
    "uniformity",
    "films_per_second",
    "score",
    "effective_rank",
    "tune_alignment",
    "tune_uniformity",
)
PROBE = "probe_"  # a column for each question, after these


def columns(questions: Iterable[str]) -> list[str]:
    """Those of metrics.csv."""
    return [*COLUMNS, *(PROBE + name for name in questions)]


def read_metrics(folder: pathlib.Path) -> list[dict[str, str]]:
    """The rows so far; a last one that was cut short is left out."""
    file = folder / METRICS
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if None not in row.values()]


@contextlib.contextmanager
def open_log(
    folder: pathlib.Path, step: int, questions: Sequence[str], hidden: bool
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Gives a function that writes one row: names of columns -> numbers; missing ones are empty.

    Rows after `step`, where the run goes on, are of steps that are done again, and go. With
    `hidden` nothing is written: another host does.
    """
    if hidden:
        yield lambda row: None
        return
    names = columns(questions)
    kept = [row for row in read_metrics(folder) if int(row["step"]) <= step] if step else []
    with writing.whole_file(folder / METRICS) as stream:
        stream.write(writing.encode_table(names, [[row[name] for name in names] for row in kept]))
    curves = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
    with (folder / METRICS).open("a", newline="") as stream, curves:
        writer = csv.DictWriter(stream, names, lineterminator="\n")

        def write(row: Mapping[str, float]) -> None:
            writer.writerow({name: _text(value) for name, value in row.items()})
            stream.flush()
            for name, value in row.items():
                if name != "step":
                    curves.add_scalar(name, value, int(row["step"]))
            curves.flush()
            if "effective_rank" in row:
                training_picture.draw(
                    folder / training_picture.PICTURE, read_metrics(folder), PROBE
                )

        yield write


def line(row: Mapping[str, float]) -> str:
    """The row as a line for the terminal."""
    shown = ("loss", "films_per_second", "score", "effective_rank")
    parts = (f"{name.replace('_', ' ')} {row[name]:.4g}" for name in shown if name in row)
    return f"step {row['step']}: {', '.join(parts) or 'no films of tune'}"


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
