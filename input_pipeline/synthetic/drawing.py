"""Draws chest films: outlines and strokes become an attenuation map, and that becomes a film by
Beer and Lambert's law. Nothing here is, or was made from, a patient.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.Image import Resampling

_LONGEST_DRAWN = 576  # pixels; larger films are drawn at this size and enlarged, the grain is not
SIDES = {"right": -1, "left": 1}  # the patient's right lies on the left of the image

Film = Float32[np.ndarray, "height width"]
Points = Float[np.ndarray, "_ 2"]
Outline = Sequence[Sequence[float]]  # corner points (x, y) that a smooth line goes through
Line = tuple[Points, float, float]  # the points, the width in chest units, the strength in [0, 1]

# the canvas


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Where the chest lies on a film.

    Outlines are written in chest units: x to the right of the image, y down, the origin in the
    middle of the chest, its outer walls at x = -0.8 and 0.8, the tips of the lungs at y = -0.86.

    Attributes:
        height, width: size of the film in pixels.
        scale: pixels per chest unit.
        tilt: how far the patient leans, in radians.
        shift: where the origin lies off the middle of the film, in chest units (x, y).
    """

    height: int
    width: int
    scale: float
    tilt: float
    shift: tuple[float, float]

    def pixels(self, points: Points) -> list[float]:
        """Chest units to pixel positions, as the flat list x, y, x, y, ... that Pillow draws."""
        sin, cos = math.sin(self.tilt) * self.scale, math.cos(self.tilt) * self.scale
        turned = (points + self.shift) @ np.array([[cos, sin], [-sin, cos]])
        return (turned + np.array([self.width / 2, self.height / 2])).ravel().tolist()


# Catmull-Rom: eight positions between the two middle ones of four neighbouring points.
_T = np.arange(8)[:, None] / 8
_CATMULL_ROM = 0.5 * np.hstack(
    [
        -(_T**3) + 2 * _T**2 - _T,
        3 * _T**3 - 5 * _T**2 + 2,
        -3 * _T**3 + 4 * _T**2 + _T,
        _T**3 - _T**2,
    ]
)


def _curve(points: Outline, closed: bool = False) -> Points:
    """A smooth line through the points, or around them."""
    first, last = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    knots = np.array([*first, *points, *last], float)
    fours = knots[np.arange(len(knots) - 3)[:, None] + np.arange(4)]  # [segment, four, xy]
    curve = (_CATMULL_ROM @ fours).reshape(-1, 2)
    return curve if closed else np.vstack([curve, knots[-1:]])


def _ellipse(x: float, y: float, width: float, height: float) -> Outline:
    """Eight points of an ellipse with these half axes."""
    turns = np.arange(8) * (np.pi / 4)
    return np.stack([x + width * np.cos(turns), y + height * np.sin(turns)], axis=1).tolist()


def _mirror(points: Outline, sign: int) -> Outline:
    """The outline itself for sign 1, its mirror image on the other side of the chest for -1."""
    return [(sign * x, y) for x, y in points]


def _both(outline: Outline) -> list[Outline]:
    return [_mirror(outline, sign) for sign in SIDES.values()]


def _mask(image: Image.Image, canvas: Canvas, soft: float) -> Film:
    blurred = image.filter(ImageFilter.BoxBlur(max(1.5 * soft * canvas.scale, 0.8)))
    return np.asarray(blurred, np.float32) / 255


def _fill(canvas: Canvas, *outlines: Outline, soft: float = 0.008) -> Film:
    """Coverage in [0, 1] of smooth closed outlines, their edges blurred over `soft` units."""
    image = Image.new("L", (canvas.width, canvas.height))
    for outline in outlines:
        ImageDraw.Draw(image).polygon(canvas.pixels(_curve(outline, closed=True)), fill=255)
    return _mask(image, canvas, soft)


def _stroke(canvas: Canvas, *lines: Line, soft: float = 0.005) -> Film:
    """Coverage in [0, 1] of lines, later ones over earlier ones.

    Lines thinner than a pixel are drawn fainter, and below half a pixel not at all: tiny films
    are drawn by the thousand.
    """
    image = Image.new("L", (canvas.width, canvas.height))
    pen = ImageDraw.Draw(image)
    visible = [line for line in lines if line[1] * canvas.scale > 0.5]
    pixels = canvas.pixels(np.concatenate([np.zeros((0, 2)), *(points for points, *_ in visible)]))
    start = 0
    for points, width, strength in visible:
        end, thickness = start + 2 * len(points), width * canvas.scale
        level = round(255 * strength * min(thickness, 1))
        pen.line(pixels[start:end], fill=level, width=max(1, round(thickness)))
        start = end
    return _mask(image, canvas, soft)


def _resized(
    field: Float32[np.ndarray, "rows columns"], height: int, width: int, rule: Resampling
) -> Film:
    return np.asarray(Image.fromarray(field).resize((width, height), rule))


def _clouds(rng: np.random.Generator, canvas: Canvas, cells: int) -> Film:
    """Smooth noise of unit variance or less, with about `cells` bumps along each side."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return _resized(coarse, canvas.height, canvas.width, Resampling.BICUBIC)


# patients


@dataclasses.dataclass(frozen=True)
class Patient:
    """What stays the same from one film of a patient to the next, in chest units or factors.

    Attributes:
        size: of the whole chest, about 1.
        heart: width of the heart, about 1.
        breast: weight of the breast shadows, 0 to 0.3.
        bulk: attenuation of the soft tissue, about 1.
        scoliosis: sideways bend of the spine, about -0.03 to 0.03.
    """

    size: float
    heart: float
    breast: float
    bulk: float
    scoliosis: float


def draw_patient(rng: np.random.Generator) -> Patient:
    """A random patient."""
    return Patient(
        size=rng.uniform(0.92, 1.06),
        heart=rng.uniform(0.9, 1.06),
        breast=max(0.0, rng.uniform(-0.25, 0.3)),
        bulk=rng.uniform(0.88, 1.15),
        scoliosis=rng.uniform(-0.03, 0.03),
    )


# the frontal film


# Outer border of the left lung, from its tip down to the costophrenic angle.
_LUNG_WALL = (
    (0.24, -0.83), (0.36, -0.86), (0.48, -0.78), (0.62, -0.56), (0.71, -0.28),
    (0.77, 0.0), (0.80, 0.28), (0.81, 0.52), (0.79, 0.66),
)  # fmt: skip
_HILUM = (0.2, -0.08)


def _lung(dome: float) -> Outline:
    """Outline of the left lung above a diaphragm whose top is at height `dome`."""
    floor = [(0.78, dome + 0.23), (0.66, dome + 0.06), (0.46, dome), (0.27, dome + 0.04)]
    inner = [(0.13, dome + 0.12), (0.1, 0.1), (0.1, -0.3), (0.12, -0.62)]
    wall = [(x, y) for x, y in _LUNG_WALL if y < dome + 0.12]
    return [*wall, *floor, *inner]


def _vessels(rng: np.random.Generator, sign: int) -> list[Line]:
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


def _tube(points: Outline | Points, width: float, hollow: float = 0.6) -> list[Line]:
    """A line with a dense wall, as bones and catheters show: `hollow` is the strength inside."""
    curve = points if isinstance(points, np.ndarray) else _curve(points)
    return [(curve, width, 1.0), (curve, 0.6 * width, hollow)]


def _ribs(sign: int, broken: Sequence[int]) -> tuple[list[Line], list[Line]]:
    """Nine posterior and seven anterior ribs of one side; broken ones have a step."""
    heights, walls = [y for _, y in _LUNG_WALL], [x for x, _ in _LUNG_WALL]
    posterior, anterior = [], []
    for k in range(9):
        root, bend = -0.78 + 0.155 * k, -0.65 + 0.169 * k
        wall = np.interp(bend, heights, walls) + 0.025
        arch = [(0.08, root), (0.24, root - 0.045), (0.5 * wall + 0.1, root - 0.03), (wall, bend)]
        back = _curve(arch)
        if k in broken:
            back[-10:] += (0.0, 0.055)
        posterior += _tube(back * (sign, 1), 0.062)
        if k < 7:
            low = np.interp(bend + 0.2, heights, walls) + 0.01
            front = [(wall, bend), (low, bend + 0.17), (0.66 * low, bend + 0.3), (0.3, bend + 0.36)]
            anterior += _tube(_mirror(front, sign), 0.065, hollow=0.8)
    return posterior, anterior


@dataclasses.dataclass(frozen=True)
class Chest:
    """What a finding needs of the chest it is drawn into.

    Attributes:
        canvas: where the chest lies.
        rng: source of chance for the finding.
        lungs: coverage by side, in [0, 1].
        vessels: attenuation of the vessels by side.
        domes: height of the diaphragm's top by side, in chest units.
        side: `right` or `left`, the side of what has only one.
    """

    canvas: Canvas
    rng: np.random.Generator
    lungs: Mapping[str, Film]
    vessels: Mapping[str, Film]
    domes: Mapping[str, float]
    side: str

    def patch(self, side: str, y: float, width: float, height: float, rough: float) -> Film:
        """An opacity with soft, cloudy edges inside a lung; `rough` 0 is even, 1 is mottled."""
        outline = _ellipse(SIDES[side] * self.rng.uniform(0.42, 0.5), y, width, height)
        cloud = 1 - rough * (0.5 + 0.5 * np.tanh(_clouds(self.rng, self.canvas, 14)))
        return _fill(self.canvas, outline, soft=0.07) * cloud * self.lungs[side]


def _effusion(chest: Chest) -> Film:
    sign, dome = SIDES[chest.side], chest.domes[chest.side]
    top = dome - chest.rng.uniform(0.16, 0.42)
    fluid = [(0.95, top - 0.1), (0.8, top - 0.02), (0.6, top + 0.13), (0.35, top + 0.21)]
    outline = [*fluid, (0.05, top + 0.22), (0.05, 0.95), (0.95, 0.95)]
    return 1.05 * _fill(chest.canvas, _mirror(outline, sign), soft=0.02) * chest.lungs[chest.side]


def _pneumothorax(chest: Chest) -> Film:
    sign, lung = SIDES[chest.side], chest.lungs[chest.side]
    left = chest.rng.uniform(0.66, 0.8)  # what is left of the lung's width
    whole = _lung(chest.domes[chest.side])
    inner = _mirror([(0.1 + left * (x - 0.1), 0.05 + 0.84 * y) for x, y in whole], sign)
    air = lung * (1 - _fill(chest.canvas, inner))
    pleura = _stroke(chest.canvas, (_curve(inner[:9]), 0.014, 1.0)) * lung
    return 0.2 * pleura + 0.05 * lung - air * (0.22 + chest.vessels[chest.side])


def _consolidation(chest: Chest) -> Film:
    y = chest.rng.choice([-0.38, 0.2])
    return 0.85 * chest.patch(chest.side, y, 0.26, 0.22, rough=0.25)


def _pneumonia(chest: Chest) -> Film:
    low = chest.patch(chest.side, chest.rng.uniform(0.1, 0.25), 0.27, 0.2, rough=0.7)
    high = chest.patch(chest.side, chest.rng.uniform(-0.15, 0.0), 0.16, 0.12, rough=0.8)
    return 0.75 * low + 0.45 * high


def _opacity(chest: Chest) -> Film:
    return 0.5 * chest.patch(chest.side, chest.rng.uniform(-0.4, 0.2), 0.24, 0.22, rough=0.4)


def _edema(chest: Chest) -> Film:
    haze = sum(chest.patch(side, 0.0, 0.34, 0.5, rough=0.5) for side in SIDES)
    return 0.75 * haze + 0.3 * (chest.vessels["right"] + chest.vessels["left"])


def _lesion(chest: Chest) -> Film:
    x, y = SIDES[chest.side] * chest.rng.uniform(0.36, 0.58), chest.rng.uniform(-0.5, 0.15)
    radius = chest.rng.uniform(0.06, 0.1)
    return 0.6 * _fill(chest.canvas, _ellipse(x, y, radius, 0.92 * radius), soft=0.012)


def _atelectasis(chest: Chest) -> Film:
    sign, dome = SIDES[chest.side], chest.domes[chest.side]
    bands = [
        (_curve([(0.24, y), (0.45, y - 0.04), (0.7, y - 0.02)]) * (sign, 1), 0.05, 1.0)
        for y in (dome - 0.07, dome - 0.17)
    ]
    return 0.8 * _stroke(chest.canvas, *bands, soft=0.02) * chest.lungs[chest.side]


def _pleural_thickening(chest: Chest) -> Film:
    wall = _curve([(x - 0.03, y) for x, y in _LUNG_WALL]) * (SIDES[chest.side], 1)
    return 0.8 * _stroke(chest.canvas, (wall, 0.1, 1.0), soft=0.012) * chest.lungs[chest.side]


def _devices(chest: Chest) -> Film:
    canvas = chest.canvas
    if chest.rng.random() < 0.5:  # a pacemaker with two leads
        vein = [(0.48, -0.56), (0.3, -0.66), (0.06, -0.6), (-0.1, -0.4), (-0.12, 0.0)]
        leads = [_curve([*vein, (-0.08, 0.14)]), _curve([*vein, (0.1, 0.33), (0.34, 0.34)])]
        return (
            1.3 * _stroke(canvas, *((lead, 0.016, 1.0) for lead in leads))
            + 2.2 * _fill(canvas, _ellipse(0.56, -0.5, 0.11, 0.09), soft=0.006)
            - 0.8 * _fill(canvas, _ellipse(0.56, -0.52, 0.07, 0.04), soft=0.006)
        )
    trachea = _tube([(0.0, -1.4), (0.015, -0.9), (0.0, -0.46)], 0.03, hollow=0.4)
    vein = _curve([(-0.5, -0.9), (-0.3, -0.72), (-0.14, -0.55), (-0.13, -0.2), (-0.11, 0.02)])
    wires = [
        _curve([(-0.9, 0.7), (-0.5, 0.5), (-0.58, 0.1), (-0.52, -0.3)]),
        _curve([(0.95, 0.8), (0.7, 0.4), (0.6, 0.0), (0.62, -0.36)]),
    ]
    lines = [*trachea, (vein, 0.016, 0.9), *((wire, 0.01, 0.5) for wire in wires)]
    pads = _fill(canvas, *(_ellipse(*wire[-1], 0.03, 0.03) for wire in wires))
    return 1.1 * _stroke(canvas, *lines) + 0.9 * pads


# finding -> what it adds to the attenuation of a frontal film. Cardiomegaly, Enlarged
# Cardiomediastinum and Fracture change the anatomy itself, in `_frontal`.
FINDINGS: dict[str, Callable[[Chest], Film]] = {
    "Atelectasis": _atelectasis,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Lung Lesion": _lesion,
    "Lung Opacity": _opacity,
    "Pleural Effusion": _effusion,
    "Pleural Other": _pleural_thickening,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Support Devices": _devices,
}


def _bones(canvas: Canvas, patient: Patient, broken: str) -> Film:
    """Attenuation of spine, ribs, clavicles, shoulder blades and upper arms; see `_frontal`."""
    down = np.arange(-1.5, 1.5, 0.13)
    axis = np.stack([patient.scoliosis * np.sin(2 * down), down], axis=1)
    discs = [(point + np.array([(-0.08, 0.0), (0.08, 0.0)]), 0.025, 0.3) for point in axis]
    cage = [_ribs(sign, (3, 4, 5) if side == broken else ()) for side, sign in SIDES.items()]
    posterior, anterior = (right + left for right, left in zip(*cage, strict=True))
    collar = [(0.06, -0.66), (0.25, -0.71), (0.5, -0.8), (0.8, -0.87), (1.0, -0.86)]
    blade = [(0.96, -0.82), (0.72, -0.72), (0.8, -0.4), (0.86, -0.08), (0.97, -0.4)]
    arm = [(1.04, -0.76), (1.1, -0.7), (1.18, -0.3), (1.26, 0.4)]
    collars = [line for outline in _both(collar) for line in _tube(outline, 0.062)]
    arms = [line for outline in _both(arm) for line in _tube(outline, 0.13)]
    heads = _both(_ellipse(1.04, -0.76, 0.1, 0.11))
    return (
        0.2 * _stroke(canvas, (axis, 0.17, 1.0), *discs, soft=0.012)
        + 0.16 * _stroke(canvas, *posterior)
        + 0.08 * _stroke(canvas, *anterior, soft=0.01)
        + 0.24 * _stroke(canvas, *collars)
        + 0.35 * _stroke(canvas, *arms, soft=0.015)
        + 0.3 * _fill(canvas, *heads, soft=0.015)
        + 0.14 * _fill(canvas, *_both(blade), soft=0.012)
    )


def _frontal(
    canvas: Canvas,
    rng: np.random.Generator,
    patient: Patient,
    findings: Mapping[str, float],
    side: str,
    portable: bool,
) -> Film:
    """Attenuation of a chest seen from the front; see `draw_film`."""
    breath = rng.uniform(-0.05, 0.05) - 0.05 * portable
    turn = rng.uniform(-0.03, 0.03)  # of the patient about the spine: it moves what lies in front
    domes = {"right": 0.36 + breath, "left": 0.42 + breath}
    domes[side] -= 0.1 * findings.get("Atelectasis", 0)
    outlines = [_mirror(_lung(domes[name]), sign) for name, sign in SIDES.items()]
    lungs = {name: _fill(canvas, line) for name, line in zip(SIDES, outlines, strict=True)}
    lung = lungs["right"] + lungs["left"]
    depth = 0.8 + 0.2 * _fill(canvas, *outlines, soft=0.15)  # lungs are thinner at their borders

    flank = [(-0.3, -1.7), (-0.27, -1.1), (-0.62, -0.98), (-1.0, -0.88), (-1.3, -0.6), (-1.4, 0.1),
             (-1.15, 0.2), (-0.97, -0.2), (-0.97, 0.2), (-0.99, 0.7), (-0.98, 1.7)]  # fmt: skip
    body = flank + _mirror(flank, -1)[::-1]
    tissue = 0.55 * _fill(canvas, body, soft=0.02) + 0.4 * _fill(canvas, body, soft=0.12)
    breasts = _both(_ellipse(0.48, 0.3, 0.36, 0.3))

    floor = (domes["right"] + domes["left"]) / 2
    belly = [(-1.2, 0.8), (-0.8, domes["right"] + 0.25), (-0.46, domes["right"] + 0.06),
             (0.0, floor + 0.12), (0.46, domes["left"] + 0.08), (0.8, domes["left"] + 0.25),
             (1.2, 0.8), (1.2, 2.0), (-1.2, 2.0)]  # fmt: skip
    bubble = _ellipse(rng.uniform(0.3, 0.5), domes["left"] + 0.17, rng.uniform(0.06, 0.15), 0.06)

    grown = patient.heart * (1 + 0.42 * findings.get("Cardiomegaly", 0)) * (1.1 if portable else 1)
    heart = [(-0.1, -0.3), (-0.18, -0.08), (-0.23, 0.12), (-0.2, 0.33), (0.02, 0.45), (0.3, 0.44),
             (0.45, 0.36), (0.44, 0.22), (0.34, 0.02), (0.21, -0.16), (0.14, -0.32)]  # fmt: skip
    heart = _fill(canvas, [(grown * x + turn, y + floor - 0.39) for x, y in heart], soft=0.012)
    wide = 1 + 1.1 * findings.get("Enlarged Cardiomediastinum", 0)
    middle = [(-0.12, -1.5), (-0.1, -1.0), (-0.12 * wide, -0.72), (-0.14 * wide, -0.4),
              (-0.14 * wide, -0.15), (-0.12, 0.3), (-0.1, 1.6), (0.1, 1.6), (0.13, 0.3),
              (0.15 * wide, -0.18), (0.15 * wide, -0.26), (0.2 * wide, -0.38), (0.17 * wide, -0.5),
              (0.12 * wide, -0.72), (0.1, -1.0), (0.12, -1.5)]  # fmt: skip
    middle = [(x + turn, y) for x, y in middle]
    fork = (turn + 0.01, -0.36)
    airways = ([(turn, -1.5), (turn, -0.75), fork], [fork, (-0.15, -0.2)], [fork, (0.18, -0.22)])

    vessels = {}
    for name, sign in SIDES.items():
        hilum = _fill(canvas, _ellipse(sign * 0.23, -0.05, 0.07, 0.14), soft=0.05)
        tree = _stroke(canvas, *_vessels(rng, sign), soft=0.004)
        vessels[name] = (0.2 * tree + 0.26 * hilum) * lungs[name] * (1 - 0.6 * heart)

    attenuation = (
        patient.bulk * (tissue - 0.82 * lung * depth)
        + patient.breast * _fill(canvas, *breasts, soft=0.03)
        + 0.8 * _fill(canvas, belly, soft=0.03) * (1 - 0.8 * lung)
        - 0.8 * _fill(canvas, bubble, soft=0.015)
        + 0.78 * heart
        + 0.55 * _fill(canvas, middle, soft=0.016)
        + 0.25 * _fill(canvas, middle, soft=0.08)
        - 0.35 * _stroke(canvas, *((_curve(way), 0.07, 1.0) for way in airways), soft=0.015)
        + vessels["right"]
        + vessels["left"]
        + 0.03 * lung * _clouds(rng, canvas, 40)
        + _bones(canvas, patient, side if "Fracture" in findings else "")
    )
    own = rng.spawn(1)[0]  # leaves `rng` as it is: with or without findings, the rest is the same
    chest = Chest(canvas, own, lungs, vessels, domes, side)
    for name in sorted(FINDINGS.keys() & findings.keys()):
        attenuation += findings[name] * FINDINGS[name](chest)
    return attenuation


# the lateral film


def _lateral(
    canvas: Canvas, rng: np.random.Generator, patient: Patient, findings: Mapping[str, float]
) -> Film:
    """Attenuation of a chest seen from its left side, the patient facing the left of the image."""
    dome = 0.32 + rng.uniform(-0.05, 0.05)
    body = [(-0.16, -1.6), (-0.2, -1.0), (-0.5, -0.72), (-0.72, -0.2), (-0.76, 0.3), (-0.7, 1.6),
            (0.8, 1.6), (0.82, 0.3), (0.84, -0.3), (0.66, -0.8), (0.4, -1.1),
            (0.35, -1.6)]  # fmt: skip
    outline = [(0.06, -0.84), (-0.2, -0.66), (-0.44, -0.3), (-0.56, 0.1), (-0.58, dome + 0.1),
               (-0.36, dome - 0.02), (0.0, dome - 0.04), (0.3, dome + 0.1), (0.6, dome + 0.34),
               (0.67, dome + 0.2), (0.7, -0.1), (0.6, -0.5), (0.36, -0.8)]  # fmt: skip
    lungs = _fill(canvas, outline)
    grown = patient.heart * (1 + 0.3 * findings.get("Cardiomegaly", 0))
    heart = [(-0.5, 0.36), (-0.5, 0.08), (-0.3, -0.12), (-0.06, -0.1), (0.08, 0.1), (0.04, 0.36)]
    heart = [(-0.5 + grown * (x + 0.5), y + dome - 0.3) for x, y in heart]
    column = _curve([(0.3, -1.3), (0.42, -0.8), (0.56, -0.3), (0.56, 0.1), (0.42, 0.7), (0.4, 1.5)])
    discs = [(point + np.array([(-0.09, 0.0), (0.09, 0.03)]), 0.022, 0.5) for point in column[::3]]
    arch = [(-0.14, -0.1), (-0.1, -0.34), (0.1, -0.44), (0.3, -0.34), (0.4, 0.0), (0.42, 0.7)]
    aorta = _curve(arch)
    airway = _curve([(-0.04, -1.4), (0.0, -0.8), (0.1, -0.3)])
    ribs = [
        (_curve([(0.72, y), (0.4, y + 0.12), (0.0, y + 0.3), (-0.4, y + 0.38)]), 0.055, 1.0)
        for y in np.arange(-0.75, 0.5, 0.155)
    ]
    tissue = 0.62 * _fill(canvas, body, soft=0.02) + 0.62 * _fill(canvas, body, soft=0.12)
    attenuation = (
        patient.bulk * tissue
        - 0.85 * lungs
        + 0.7 * _fill(canvas, heart, soft=0.02) * _fill(canvas, outline, soft=0.03)
        + 0.35 * _fill(canvas, _ellipse(0.08, -0.14, 0.12, 0.12), soft=0.05)
        + 0.28 * _stroke(canvas, (aorta, 0.13, 1.0), soft=0.02)
        + 0.4 * _stroke(canvas, (column, 0.18, 1.0), *discs, soft=0.012)
        - 0.35 * _stroke(canvas, (airway, 0.07, 1.0), soft=0.012)
        + 0.09 * _stroke(canvas, *ribs)
        + 0.3 * _stroke(canvas, (_curve(outline[1:5]), 0.04, 1.0), soft=0.015)
        + 0.45 * _fill(canvas, _ellipse(0.35, -1.0, 0.5, 0.25), soft=0.1)
        + 0.12 * _stroke(canvas, *_vessels(rng, -1), *_vessels(rng, 1)) * lungs
        + 0.04 * lungs * _clouds(rng, canvas, 30)
    )
    if fluid := findings.get("Pleural Effusion"):
        level = [(-0.7, 0.45), (-0.3, 0.3), (0.3, 0.2), (0.6, 0.0), (0.8, -0.1), (0.8, 1.0)]
        attenuation += fluid * 0.9 * _fill(canvas, level, soft=0.02) * lungs
    for name, size in (("Consolidation", 0.26), ("Pneumonia", 0.24), ("Lung Lesion", 0.08)):
        spot = _ellipse(rng.uniform(0.15, 0.35), rng.uniform(-0.3, 0.2), size, size)
        attenuation += findings.get(name, 0) * 0.6 * _fill(canvas, spot, soft=size / 4) * lungs
    haze = _fill(canvas, _ellipse(0.1, -0.1, 0.4, 0.4), soft=0.1)
    return attenuation + findings.get("Edema", 0) * 0.5 * haze


# the film


def draw_film(
    rng: np.random.Generator,
    patient: Patient,
    findings: Mapping[str, float],
    side: str,
    shape: tuple[int, int],
    view: str,
) -> Film:
    """Draws one film.

    Args:
        rng: source of chance for this film: position, breath, exposure, grain.
        patient: whose chest it is.
        findings: finding -> how plainly it shows, in (0, 1]; the names are those of `LABELS`.
        side: `right` or `left`, where a finding lies that has only one side.
        shape: height and width in pixels.
        view: `AP`, `PA` or empty (drawn as PA); any other value gives a lateral film.

    Returns:
        float32 [height width] in [0, 1], 0 where the detector was fully exposed (shown black) and
        1 where nothing came through (shown white).
    """
    height, width = shape
    shrink = min(1, _LONGEST_DRAWN / max(shape))
    drawn = round(height * shrink), round(width * shrink)
    scale = 0.5 * min(drawn[1], 0.98 * drawn[0]) * patient.size * rng.uniform(0.95, 1.05)
    shift = (rng.normal(0, 0.03), rng.uniform(0.0, 0.1))
    canvas = Canvas(*drawn, scale=scale, tilt=rng.normal(0, 0.02), shift=shift)
    if view in ("AP", "PA", ""):
        attenuation = _frontal(canvas, rng, patient, findings, side, portable=view == "AP")
    else:
        attenuation = _lateral(canvas, rng, patient, findings)

    haze = _resized(_resized(attenuation, 12, 12, Resampling.BOX), *drawn, Resampling.BICUBIC)
    scatter = 0.2 if view == "AP" else 0.12
    film = 1 - np.exp(-rng.uniform(0.8, 1.2) * ((1 - scatter) * attenuation + scatter * haze))
    film = _resized(film, height, width, Resampling.BICUBIC)
    grain = rng.uniform(0.006, 0.016) * rng.standard_normal(shape, np.float32)
    film = film + grain * (0.4 + film)

    marker = Image.new("L", (width, height))
    place = (rng.uniform(0.86, 0.9) * width, rng.uniform(0.06, 0.12) * height)
    font = ImageFont.load_default(0.055 * min(shape))
    ImageDraw.Draw(marker).text(place, "L", fill=255, font=font)
    film = np.maximum(film, 0.97 * np.asarray(marker, np.float32) / 255)
    if rng.random() < 0.3:  # the collimator's blades, blackened or left as unexposed film
        top, left = rng.integers(1, [0.04 * height + 2, 0.05 * width + 2])
        blades = np.full(shape, rng.choice([0.0, 0.98], p=[0.8, 0.2]), np.float32)
        blades[top:-top, left:-left] = film[top:-top, left:-left]
        film = blades
    return film.clip(0, 1).astype(np.float32)
