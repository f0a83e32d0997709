"""Whether pretraining as it is by default keeps an embedding rich, on drawn films."""

import csv
import pathlib
import subprocess
import sys

from cxr_embeddings.input_pipeline.synthetic.report_text import LABELS

FINDINGS = [name for name in LABELS if name != "No Finding"]


def command(name: str, *options: str) -> None:
    subprocess.run([sys.executable, f"scripts/{name}.py", *options], check=True)


def run(
    weights: str,
    work: str,
    films: int = 2000,
    steps: int = 100,
    size: int = 224,
    least_rank: float = 30,
    noise: float = 0.02,
) -> None:
    """Draws films, trains from a bundle, and compares the first look with the best one.

    It ends with an error where the effective rank is below `least_rank`, or a question's AUROC
    fell by more than `noise`, which it may by chance. 2,000 films take some 10 minutes on two
    cores.
    """
    folder = pathlib.Path(work)
    mimic, store, output = folder / "mimic", folder / "store", folder / "run"
    if not store.exists():
        command("synthetic_mimic", f"--output={mimic}", f"--films={films}", "--seed=22")
        command(
            *("preprocess", f"--input={mimic}/files", "--config.input.views=AP,PA"),
            *(f"--output={store}", "--config.image.preset=native", f"--config.image.size={size}"),
        )
    command(
        *("pretrain", f"--input={store}", f"--output={output}", f"--weights={weights}"),
        f"--labels={mimic}/mimic-cxr-2.0.0-chexpert.csv.gz",
        f"--config.input.splits={mimic}/mimic-cxr-2.0.0-split.csv.gz",
        f"--config.input.findings={','.join(FINDINGS)}",
        *("--config.input.not_mentioned=negative", "--config.training.batch_size=32"),
        *(f"--config.training.steps={steps}", f"--config.training.warmup_steps={steps // 10}"),
        *("--config.training.average_decay=0.98", f"--config.watch.evaluate_steps={steps // 2}"),
    )
    with (output / "metrics.csv").open(newline="") as stream:
        looks = [row for row in csv.DictReader(stream) if row["score"]]
    if not looks:
        sys.exit(f"no finding has enough films among {films}: draw more")
    first, best = looks[0], max(looks, key=lambda row: float(row["score"]))
    lost = []
    for name in (name for name in first if name.startswith("probe_") and first[name]):
        before, after = float(first[name]), float(best[name])
        print(f"{name.removeprefix('probe_'):28} {before:.3f} {after:.3f}")
        lost += [name] * (after < before - noise)
    rank = float(best["effective_rank"])
    print(f"effective rank               {float(first['effective_rank']):.1f} {rank:.1f}")
    if lost or rank < least_rank:
        sys.exit(f"worse than the first weights: {', '.join(lost) or 'the effective rank'}")
