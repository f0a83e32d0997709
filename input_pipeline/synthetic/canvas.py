"""Smooth outlines and strokes, in chest units, drawn as coverage on a film."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image, ImageDraw, ImageFilter
from PIL.Image import Resampling

SIDES = {"right": -1, "left": 1}  # the patient's right lies on the left of the image

Film = Float32[np.ndarray, "height width"]
Points = Float[np.ndarray, "_ 2"]
Outline = Sequence[Sequence[float]]  # corner points (x, y) that a smooth line goes through
Line = tuple[Points, float, float]  # the points, the width in chest units, the strength in [0, 1]


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Where the chest lies on a film.

    Outlines are written in chest units: x to the right of the image, y down, the origin in the
    middle of the chest, its outer walls at x = -0.8 and 0.8, the tips of the lungs at y = -0.86.
    """

    height: int  # of the film, in pixels
    width: int
    scale: float  # pixels per chest unit
    tilt: float  # how far the patient leans, in radians
    shift: tuple[float, float]  # of the origin from the middle of the film, in chest units (x, y)

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


def curve(points: Outline, closed: bool = False) -> Points:
    """A smooth line through the points, or around them."""
    first, last = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    knots = np.array([*first, *points, *last], float)
    fours = knots[np.arange(len(knots) - 3)[:, None] + np.arange(4)]  # [segment, four, xy]
    curve = (_CATMULL_ROM @ fours).reshape(-1, 2)
    return curve if closed else np.vstack([curve, knots[-1:]])


def ellipse(x: float, y: float, width: float, height: float) -> Outline:
    """Eight points of an ellipse with these half axes."""
    turns = np.arange(8) * (np.pi / 4)
    return np.stack([x + width * np.cos(turns), y + height * np.sin(turns)], axis=1).tolist()


def mirror(points: Outline, sign: int) -> Outline:
    """The outline itself for sign 1, its mirror image on the other side of the chest for -1."""
    return [(sign * x, y) for x, y in points]


def both(outline: Outline) -> list[Outline]:
    return [mirror(outline, sign) for sign in SIDES.values()]


def _mask(image: Image.Image, canvas: Canvas, soft: float) -> Film:
    blurred = image.filter(ImageFilter.BoxBlur(max(1.5 * soft * canvas.scale, 0.8)))
    return np.asarray(blurred, np.float32) / 255


def fill(canvas: Canvas, *outlines: Outline, soft: float = 0.008) -> Film:
    """Coverage in [0, 1] of smooth closed outlines, their edges blurred over `soft` units."""
    image = Image.new("L", (canvas.width, canvas.height))
    for outline in outlines:
        ImageDraw.Draw(image).polygon(canvas.pixels(curve(outline, closed=True)), fill=255)
    return _mask(image, canvas, soft)


def stroke(canvas: Canvas, *lines: Line, soft: float = 0.005) -> Film:
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


def resized(
    field: Float32[np.ndarray, "rows columns"], height: int, width: int, rule: Resampling
) -> Film:
    return np.asarray(Image.fromarray(field).resize((width, height), rule))


def clouds(rng: np.random.Generator, canvas: Canvas, cells: int) -> Film:
    """Smooth noise of unit variance or less, with about `cells` bumps along each side."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return resized(coarse, canvas.height, canvas.width, Resampling.BICUBIC)


def tube(points: Outline | Points, width: float, hollow: float = 0.6) -> list[Line]:
    """A line with a dense wall, as bones and catheters show: `hollow` is the strength inside."""
    line = points if isinstance(points, np.ndarray) else curve(points)
    return [(line, width, 1.0), (line, 0.6 * width, hollow)]
