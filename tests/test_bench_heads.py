"""The benchmark of MIMIC-CXR's size, at a tenth of it: what is held in memory stays bounded."""

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_tenth_of_mimic_fits_in_little_memory():
    program = "from benchmarks import heads_memory\nheads_memory.run(36_896)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    peaks = [float(peak) for peak in re.findall(r"peak ([\d.]+) GB", run.stdout)]
    aurocs = [float(auroc) for auroc in re.findall(r"AUROC ([\d.]+)", run.stdout)]
    assert len(peaks) == 2 and max(peaks) < 2.0, run.stdout  # 0.6 GB are the films in float32
    assert min(aurocs) > 0.65, run.stdout
