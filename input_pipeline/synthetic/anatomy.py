"""A patient, and the parts of the chest that films are drawn from: lungs, vessels, bones."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from .canvas import (
    SIDES,
    Canvas,
    Film,
    Line,
    Outline,
    both,
    curve,
    ellipse,
    fill,
    mirror,
    stroke,
    tube,
)


@dataclasses.dataclass(frozen=True)
class Patient:
    """What stays the same from one film of a patient to the next, in chest units or factors."""

    size: float  # of the whole chest, about 1
    heart: float  # its width, about 1
    breast: float  # weight of the breast shadows, 0 to 0.3
    bulk: float  # attenuation of the soft tissue, about 1
    scoliosis: float  # sideways bend of the spine, -0.03 to 0.03


def draw_patient(rng: np.random.Generator) -> Patient:
    return Patient(
        size=rng.uniform(0.92, 1.06),
        heart=rng.uniform(0.9, 1.06),
        breast=max(0.0, rng.uniform(-0.25, 0.3)),
        bulk=rng.uniform(0.88, 1.15),
        scoliosis=rng.uniform(-0.03, 0.03),
    )


# Outer border of the left lung, from its tip down to the costophrenic angle.
LUNG_WALL = (
    (0.24, -0.83), (0.36, -0.86), (0.48, -0.78), (0.62, -0.56), (0.71, -0.28),
    (0.77, 0.0), (0.80, 0.28), (0.81, 0.52), (0.79, 0.66),
)  # fmt: skip
_HILUM = (0.2, -0.08)


def lung_outline(dome: float) -> Outline:
    """Outline of the left lung above a diaphragm whose top is at height `dome`."""
    floor = [(0.78, dome + 0.23), (0.66, dome + 0.06), (0.46, dome), (0.27, dome + 0.04)]
    inner = [(0.13, dome + 0.12), (0.1, 0.1), (0.1, -0.3), (0.12, -0.62)]
    wall = [(x, y) for x, y in LUNG_WALL if y < dome + 0.12]
    return [*wall, *floor, *inner]


def vessel_tree(rng: np.random.Generator, sign: int) -> list[Line]:
    """The vessel tree of one lung, thin branches first."""
    angles = np.linspace(-1.75, 1.35, 9) + rng.normal(0, 0.12, 9)  # a fan: up, outwards, down
    starts = np.array(_HILUM) + rng.normal(0, 0.03, (9, 2))
    length, lines = 0.3, []
    for width, strength in ((0.032, 1.0), (0.02, 0.75), (0.013, 0.55), (0.009, 0.4)):
        bends = angles[:, None] + rng.normal(0, 0.16, (len(angles), 4)).cumsum(axis=1)
        steps = np.stack([np.cos(bends), np.sin(bends)], axis=-1) * length / 4
        ways = np.concatenate([starts[:, None], starts[:, None] + steps.cumsum(axis=1)], axis=1)
        lines += [(way * (sign, 1), width, strength) for way in ways]
        starts = np.concatenate([ways[:, 4], ways[:, 3]])
        fork = rng.uniform(0.2, 0.6, len(angles))
        angles = np.concatenate([bends[:, 3] + fork, bends[:, 3] - fork])
        length *= 0.72
    return lines[::-1]


def _ribs(sign: int, broken: Sequence[int]) -> tuple[list[Line], list[Line]]:
    """Nine posterior and seven anterior ribs of one side; broken ones have a step."""
    heights, walls = [y for _, y in LUNG_WALL], [x for x, _ in LUNG_WALL]
    posterior, anterior = [], []
    for k in range(9):
        root, bend = -0.78 + 0.155 * k, -0.65 + 0.169 * k
        wall = np.interp(bend, heights, walls) + 0.025
        arch = [(0.08, root), (0.24, root - 0.045), (0.5 * wall + 0.1, root - 0.03), (wall, bend)]
        back = curve(arch)
        if k in broken:
            back[-10:] += (0.0, 0.055)
        posterior += tube(back * (sign, 1), 0.062)
        if k < 7:
            low = np.interp(bend + 0.2, heights, walls) + 0.01
            front = [(wall, bend), (low, bend + 0.17), (0.66 * low, bend + 0.3), (0.3, bend + 0.36)]
            anterior += tube(mirror(front, sign), 0.065, hollow=0.8)
    return posterior, anterior


def bones(canvas: Canvas, patient: Patient, broken: str) -> Film:
    """Attenuation of spine, ribs, clavicles, shoulder blades and upper arms."""
    down = np.arange(-1.5, 1.5, 0.13)
    axis = np.stack([patient.scoliosis * np.sin(2 * down), down], axis=1)
    discs = [(point + np.array([(-0.08, 0.0), (0.08, 0.0)]), 0.025, 0.3) for point in axis]
    cage = [_ribs(sign, (3, 4, 5) if side == broken else ()) for side, sign in SIDES.items()]
    posterior, anterior = (right + left for right, left in zip(*cage, strict=True))
    collar = [(0.06, -0.66), (0.25, -0.71), (0.5, -0.8), (0.8, -0.87), (1.0, -0.86)]
    blade = [(0.96, -0.82), (0.72, -0.72), (0.8, -0.4), (0.86, -0.08), (0.97, -0.4)]
    arm = [(1.04, -0.76), (1.1, -0.7), (1.18, -0.3), (1.26, 0.4)]
    collars = [line for outline in both(collar) for line in tube(outline, 0.062)]
    arms = [line for outline in both(arm) for line in tube(outline, 0.13)]
    heads = both(ellipse(1.04, -0.76, 0.1, 0.11))
    return (
        0.2 * stroke(canvas, (axis, 0.17, 1.0), *discs, soft=0.012)
        + 0.16 * stroke(canvas, *posterior)
        + 0.08 * stroke(canvas, *anterior, soft=0.01)
        + 0.24 * stroke(canvas, *collars)
        + 0.35 * stroke(canvas, *arms, soft=0.015)
        + 0.3 * fill(canvas, *heads, soft=0.015)
        + 0.14 * fill(canvas, *both(blade), soft=0.012)
    )
