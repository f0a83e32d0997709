"""What each finding adds to the attenuation of a frontal chest film."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from .anatomy import LUNG_WALL, lung_outline
from .canvas import SIDES, Canvas, Film, clouds, curve, ellipse, fill, mirror, stroke, tube


@dataclasses.dataclass(frozen=True)
class Chest:
    """The chest that a finding is drawn into."""

    canvas: Canvas
    rng: np.random.Generator
    lungs: Mapping[str, Film]  # side -> coverage in [0, 1]
    vessels: Mapping[str, Film]  # side -> attenuation
    domes: Mapping[str, float]  # side -> height of the diaphragm's top, in chest units
    side: str  # right or left: of what has only one side
    effusion: float | None  # height of an effusion; None: by chance

    def patch(self, side: str, y: float, width: float, height: float, rough: float) -> Film:
        """An opacity with soft, cloudy edges inside a lung; `rough` 0 is even, 1 is mottled."""
        outline = ellipse(SIDES[side] * self.rng.uniform(0.42, 0.5), y, width, height)
        cloud = 1 - rough * (0.5 + 0.5 * np.tanh(clouds(self.rng, self.canvas, 14)))
        return fill(self.canvas, outline, soft=0.07) * cloud * self.lungs[side]


def _effusion(chest: Chest) -> Film:
    sign, dome = SIDES[chest.side], chest.domes[chest.side]
    height = chest.rng.uniform(0.16, 0.42) if chest.effusion is None else chest.effusion
    top = dome - height
    fluid = [(0.95, top - 0.1), (0.8, top - 0.02), (0.6, top + 0.13), (0.35, top + 0.21)]
    outline = [*fluid, (0.05, top + 0.22), (0.05, 0.95), (0.95, 0.95)]
    return 1.05 * fill(chest.canvas, mirror(outline, sign), soft=0.02) * chest.lungs[chest.side]


def _pneumothorax(chest: Chest) -> Film:
    sign, lung = SIDES[chest.side], chest.lungs[chest.side]
    left = chest.rng.uniform(0.66, 0.8)  # what is left of the lung's width
    whole = lung_outline(chest.domes[chest.side])
    inner = mirror([(0.1 + left * (x - 0.1), 0.05 + 0.84 * y) for x, y in whole], sign)
    air = lung * (1 - fill(chest.canvas, inner))
    pleura = stroke(chest.canvas, (curve(inner[:9]), 0.014, 1.0)) * lung
    return 0.2 * pleura + 0.05 * lung - air * (0.22 + chest.vessels[chest.side])


def _pneumonia(chest: Chest) -> Film:
    low = chest.patch(chest.side, chest.rng.uniform(0.1, 0.25), 0.27, 0.2, rough=0.7)
    high = chest.patch(chest.side, chest.rng.uniform(-0.15, 0.0), 0.16, 0.12, rough=0.8)
    return 0.75 * low + 0.45 * high


def _edema(chest: Chest) -> Film:
    haze = sum(chest.patch(side, 0.0, 0.34, 0.5, rough=0.5) for side in SIDES)
    return 0.75 * haze + 0.3 * (chest.vessels["right"] + chest.vessels["left"])


def _lesion(chest: Chest) -> Film:
    x, y = SIDES[chest.side] * chest.rng.uniform(0.36, 0.58), chest.rng.uniform(-0.5, 0.15)
    radius = chest.rng.uniform(0.06, 0.1)
    return 0.6 * fill(chest.canvas, ellipse(x, y, radius, 0.92 * radius), soft=0.012)


def _atelectasis(chest: Chest) -> Film:
    sign, dome = SIDES[chest.side], chest.domes[chest.side]
    bands = [
        (curve([(0.24, y), (0.45, y - 0.04), (0.7, y - 0.02)]) * (sign, 1), 0.05, 1.0)
        for y in (dome - 0.07, dome - 0.17)
    ]
    return 0.8 * stroke(chest.canvas, *bands, soft=0.02) * chest.lungs[chest.side]


def _pleural_thickening(chest: Chest) -> Film:
    wall = curve([(x - 0.03, y) for x, y in LUNG_WALL]) * (SIDES[chest.side], 1)
    return 0.8 * stroke(chest.canvas, (wall, 0.1, 1.0), soft=0.012) * chest.lungs[chest.side]


def _devices(chest: Chest) -> Film:
    canvas = chest.canvas
    if chest.rng.random() < 0.5:  # a pacemaker with two leads
        vein = [(0.48, -0.56), (0.3, -0.66), (0.06, -0.6), (-0.1, -0.4), (-0.12, 0.0)]
        leads = [curve([*vein, (-0.08, 0.14)]), curve([*vein, (0.1, 0.33), (0.34, 0.34)])]
        return (
            1.3 * stroke(canvas, *((lead, 0.016, 1.0) for lead in leads))
            + 2.2 * fill(canvas, ellipse(0.56, -0.5, 0.11, 0.09), soft=0.006)
            - 0.8 * fill(canvas, ellipse(0.56, -0.52, 0.07, 0.04), soft=0.006)
        )
    trachea = tube([(0.0, -1.4), (0.015, -0.9), (0.0, -0.46)], 0.03, hollow=0.4)
    vein = curve([(-0.5, -0.9), (-0.3, -0.72), (-0.14, -0.55), (-0.13, -0.2), (-0.11, 0.02)])
    wires = [
        curve([(-0.9, 0.7), (-0.5, 0.5), (-0.58, 0.1), (-0.52, -0.3)]),
        curve([(0.95, 0.8), (0.7, 0.4), (0.6, 0.0), (0.62, -0.36)]),
    ]
    lines = [*trachea, (vein, 0.016, 0.9), *((wire, 0.01, 0.5) for wire in wires)]
    pads = fill(canvas, *(ellipse(x, y, 0.03, 0.03) for *_, (x, y) in wires))
    return 1.1 * stroke(canvas, *lines) + 0.9 * pads


# finding -> what it adds to the attenuation of a frontal film. Cardiomegaly, Enlarged
# Cardiomediastinum and Fracture change the anatomy itself, in drawing.py.
FINDINGS: dict[str, Callable[[Chest], Film]] = {
    "Atelectasis": _atelectasis,
    "Consolidation": lambda chest: (
        0.85 * chest.patch(chest.side, chest.rng.choice([-0.38, 0.2]), 0.26, 0.22, rough=0.25)
    ),
    "Edema": _edema,
    "Lung Lesion": _lesion,
    "Lung Opacity": lambda chest: (
        0.5 * chest.patch(chest.side, chest.rng.uniform(-0.4, 0.2), 0.24, 0.22, rough=0.4)
    ),
    "Pleural Effusion": _effusion,
    "Pleural Other": _pleural_thickening,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Support Devices": _devices,
}
