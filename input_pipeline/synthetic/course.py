"""Courses of drawn patients: an effusion that grows and resolves over a patient's studies."""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .mimic_folder import Study

STUDIES = (4, 8)  # of a patient: at least, and below
SEEN, STEP = 0.04, 0.05  # in chest units: the least height that shows, and that counts as change
COLUMNS = ("subject_id", "study_id", "pleural_effusion_change")


def draw_courses(studies: Sequence["Study"], rng: np.random.Generator) -> list["Study"]:
    """Gives runs of studies to one patient each, hours to days apart, with an effusion on one side.

    Other findings stay as they were drawn. Numbers of studies are in no order of time.
    """
    found: list[Study] = []
    while len(found) < len(studies):
        some = studies[len(found) : len(found) + int(rng.integers(*STUDIES))]
        steps = np.arange(len(some)) / max(1, len(some) - 1)
        highest, when, slope = rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.8), rng.uniform(1, 2)
        levels = highest * (1 - slope * abs(steps - when)) + rng.normal(0, 0.02, len(some))
        levels, taken = np.maximum(0, levels), some[0].taken
        for k, (study, level) in enumerate(zip(some, levels, strict=True)):
            labels = {name: value for name, value in study.labels.items() if name != "No Finding"}
            moved = level - levels[k - 1] if k else 0.0
            one = dataclasses.replace(
                some[0],
                study_id=study.study_id,
                taken=taken,
                earlier=k > 0,
                labels=labels | {"Pleural Effusion": int(level > SEEN)},
                effusion=float(level),
                change=int(np.sign(moved) * (abs(moved) > STEP)) if k else None,
            )
            found.append(one)
            taken += datetime.timedelta(seconds=int(rng.uniform(3, 200) * 3600))
    return found
