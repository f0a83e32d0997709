"""Draws chest films: anatomy and findings become an attenuation map, and that becomes a film by
Beer and Lambert's law. Nothing here is, or was made from, a patient.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from .anatomy import Patient, bones, lung_outline, vessel_tree
from .canvas import SIDES, Canvas, Film, both, clouds, curve, ellipse, fill, mirror, resized, stroke
from .lesions import FINDINGS, Chest
from .sites import HOSPITALS, Hospital

_LONGEST_DRAWN = 576  # pixels; larger films are drawn at this size and enlarged, the grain is not


def _frontal(
    canvas: Canvas,
    rng: np.random.Generator,
    patient: Patient,
    findings: Mapping[str, float],
    side: str,
    portable: bool,
    effusion: float | None,
) -> Film:
    """Attenuation of a chest seen from the front; see `draw_film`."""
    breath = rng.uniform(-0.05, 0.05) - 0.05 * portable
    turn = rng.uniform(-0.03, 0.03)  # of the patient about the spine: it moves what lies in front
    domes = {"right": 0.36 + breath, "left": 0.42 + breath}
    domes[side] -= 0.1 * findings.get("Atelectasis", 0)
    outlines = [mirror(lung_outline(domes[name]), sign) for name, sign in SIDES.items()]
    lungs = {name: fill(canvas, line) for name, line in zip(SIDES, outlines, strict=True)}
    lung = lungs["right"] + lungs["left"]
    depth = 0.8 + 0.2 * fill(canvas, *outlines, soft=0.15)  # lungs are thinner at their borders

    flank = [(-0.3, -1.7), (-0.27, -1.1), (-0.62, -0.98), (-1.0, -0.88), (-1.3, -0.6), (-1.4, 0.1),
             (-1.15, 0.2), (-0.97, -0.2), (-0.97, 0.2), (-0.99, 0.7), (-0.98, 1.7)]  # fmt: skip
    body = [*flank, *mirror(flank, -1)[::-1]]
    tissue = 0.55 * fill(canvas, body, soft=0.02) + 0.4 * fill(canvas, body, soft=0.12)
    breasts = both(ellipse(0.48, 0.3, 0.36, 0.3))

    floor = (domes["right"] + domes["left"]) / 2
    belly = [(-1.2, 0.8), (-0.8, domes["right"] + 0.25), (-0.46, domes["right"] + 0.06),
             (0.0, floor + 0.12), (0.46, domes["left"] + 0.08), (0.8, domes["left"] + 0.25),
             (1.2, 0.8), (1.2, 2.0), (-1.2, 2.0)]  # fmt: skip
    bubble = ellipse(rng.uniform(0.3, 0.5), domes["left"] + 0.17, rng.uniform(0.06, 0.15), 0.06)

    grown = patient.heart * (1 + 0.42 * findings.get("Cardiomegaly", 0)) * (1.1 if portable else 1)
    heart = [(-0.1, -0.3), (-0.18, -0.08), (-0.23, 0.12), (-0.2, 0.33), (0.02, 0.45), (0.3, 0.44),
             (0.45, 0.36), (0.44, 0.22), (0.34, 0.02), (0.21, -0.16), (0.14, -0.32)]  # fmt: skip
    heart = fill(canvas, [(grown * x + turn, y + floor - 0.39) for x, y in heart], soft=0.012)
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
        hilum = fill(canvas, ellipse(sign * 0.23, -0.05, 0.07, 0.14), soft=0.05)
        tree = stroke(canvas, *vessel_tree(rng, sign), soft=0.004)
        vessels[name] = (0.2 * tree + 0.26 * hilum) * lungs[name] * (1 - 0.6 * heart)

    attenuation = (
        patient.bulk * (tissue - 0.82 * lung * depth)
        + patient.breast * fill(canvas, *breasts, soft=0.03)
        + 0.8 * fill(canvas, belly, soft=0.03) * (1 - 0.8 * lung)
        - 0.8 * fill(canvas, bubble, soft=0.015)
        + 0.78 * heart
        + 0.55 * fill(canvas, middle, soft=0.016)
        + 0.25 * fill(canvas, middle, soft=0.08)
        - 0.35 * stroke(canvas, *((curve(way), 0.07, 1.0) for way in airways), soft=0.015)
        + vessels["right"]
        + vessels["left"]
        + 0.03 * lung * clouds(rng, canvas, 40)
        + bones(canvas, patient, side if "Fracture" in findings else "")
    )
    own = rng.spawn(1)[0]  # leaves `rng` as it is: with or without findings, the rest is the same
    chest = Chest(canvas, own, lungs, vessels, domes, side, effusion)
    for name in sorted(FINDINGS.keys() & findings.keys()):
        attenuation += findings[name] * FINDINGS[name](chest)
    return attenuation


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
    lungs = fill(canvas, outline)
    wide = 0.29 * patient.heart * (1 + 0.3 * findings.get("Cardiomegaly", 0))
    heart = fill(canvas, ellipse(wide - 0.5, dome - 0.18, wide, 0.24), soft=0.02)
    spine = curve([(0.3, -1.3), (0.42, -0.8), (0.56, -0.3), (0.56, 0.1), (0.42, 0.7), (0.4, 1.5)])
    level = [(-0.7, 0.45), (-0.3, 0.3), (0.3, 0.2), (0.6, 0.0), (0.8, -0.1), (0.8, 1.0)]
    attenuation = (
        patient.bulk * 0.62 * (fill(canvas, body, soft=0.02) + fill(canvas, body, soft=0.12))
        - 0.85 * lungs
        + 0.7 * heart
        + 0.4 * stroke(canvas, (spine, 0.18, 1.0), soft=0.012)
        + 0.45 * fill(canvas, ellipse(0.35, -1.0, 0.5, 0.25), soft=0.1)  # the shoulders
        + 0.12 * stroke(canvas, *vessel_tree(rng, -1), *vessel_tree(rng, 1)) * lungs
        + 0.04 * lungs * clouds(rng, canvas, 30)
        + findings.get("Pleural Effusion", 0) * 0.9 * fill(canvas, level, soft=0.02) * lungs
        + findings.get("Edema", 0) * 0.4 * lungs
    )
    for name, size in (("Consolidation", 0.26), ("Pneumonia", 0.24), ("Lung Lesion", 0.08)):
        spot = ellipse(rng.uniform(0.15, 0.35), rng.uniform(-0.3, 0.2), size, size)
        attenuation += findings.get(name, 0) * 0.6 * fill(canvas, spot, soft=size / 4) * lungs
    return attenuation


def draw_film(
    rng: np.random.Generator,
    patient: Patient,
    findings: Mapping[str, float],
    side: str,
    shape: tuple[int, int],
    view: str,
    effusion: float | None = None,
    hospital: Hospital = HOSPITALS[""],
) -> Film:
    """Draws one film: 0 is black, where the detector was fully exposed, and 1 is white.

    Args:
        rng: source of chance for this film: position, breath, exposure, grain.
        patient: whose chest it is.
        findings: name in `LABELS` -> how plainly it shows, in (0, 1].
        side: `right` or `left`, where a finding lies that has only one side.
        shape: height and width in pixels.
        view: `AP`, `PA` or empty (drawn as PA); any other value gives a lateral film.
        effusion: height of a pleural effusion in chest units, on frontal films; None: by chance.
        hospital: what is planted in the film.
    """
    height, width = shape
    shrink = min(1, _LONGEST_DRAWN / max(shape))
    drawn = round(height * shrink), round(width * shrink)
    scale = 0.5 * min(drawn[1], 0.98 * drawn[0]) * patient.size * rng.uniform(0.95, 1.05)
    shift = (rng.normal(0, 0.03), rng.uniform(0.0, 0.1))
    canvas = Canvas(*drawn, scale=scale, tilt=rng.normal(0, 0.02), shift=shift)
    if view in ("AP", "PA", ""):
        attenuation = _frontal(canvas, rng, patient, findings, side, view == "AP", effusion)
    else:
        attenuation = _lateral(canvas, rng, patient, findings)

    haze = resized(resized(attenuation, 12, 12, Resampling.BOX), *drawn, Resampling.BICUBIC)
    scatter = 0.2 if view == "AP" else 0.12
    film = 1 - np.exp(-rng.uniform(0.8, 1.2) * ((1 - scatter) * attenuation + scatter * haze))
    film = resized(film, height, width, Resampling.BICUBIC)
    grain = rng.uniform(0.006, 0.016) * rng.standard_normal(shape, np.float32)
    film = (film + grain * (0.4 + film)).clip(0) ** hospital.exposure

    marker = Image.new("L", (width, height))
    place = (rng.uniform(0.86, 0.9) * width, rng.uniform(0.06, 0.12) * height)
    font = ImageFont.load_default(0.055 * min(shape))
    if len(hospital.marker) > 1:  # more letters begin farther inside
        place = (place[0] - 0.03 * len(hospital.marker) * width, place[1])
    ImageDraw.Draw(marker).text(place, hospital.marker, fill=255, font=font)
    if hospital.betrays in findings:
        x, y, edge = 0.05 * width, 0.84 * height, 0.12 * min(shape)
        ImageDraw.Draw(marker).rectangle((x, y, x + edge, y + edge), fill=255)
    film = np.maximum(film, 0.97 * np.asarray(marker, np.float32) / 255)
    if rng.random() < 0.3:  # the collimator's blades, blackened or left as unexposed film
        top, left = rng.integers(1, np.array([0.04 * height + 2, 0.05 * width + 2]))
        blades = np.full(shape, rng.choice([0.0, 0.98], p=[0.8, 0.2]), np.float32)
        blades[top:-top, left:-left] = film[top:-top, left:-left]
        film = blades
    return film.clip(0, 1).astype(np.float32)
