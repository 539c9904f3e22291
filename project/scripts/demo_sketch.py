"""A small drawing surface with its own coordinates, and colours, for the demo's pictures."""

import colorsys
import math
import random
from collections.abc import Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
"""Red, green, blue, 0-255."""

Point: TypeAlias = tuple[float, float]
"""x to the right, y down, in hundredths of the sketch's side."""

INK: Colour = (38, 34, 40)


class Sketch:
    """A transparent square to draw one object on, in coordinates from 0 to 100.

    It is drawn larger than it will be shown: shrinking it smooths the edges.

    side (int): Width and height in pixels.
    """

    def __init__(self, side: int = 240) -> None:
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._scale = side / 100

    def polygon(self, points: Sequence[Point], fill: Colour, outline: float = 1.6) -> None:
        """Fill a polygon and go round its edge with ink.

        points (Sequence[Point]): The corners, in hundredths of the side.
        fill (Colour): The inside.
        outline (float): Width of the edge in hundredths of the side, 0 for none.
        """
        pixels = self._pixels(points)
        self._draw.polygon(pixels, fill=fill)
        if outline:
            self._draw.line([*pixels, pixels[0], pixels[1]], INK, self._width(outline), "curve")

    def ellipse(self, centre: Point, rx: float, ry: float, fill: Colour, outline: float = 1.6) -> None:
        """Fill an ellipse.

        centre (Point): Its centre, in hundredths of the side.
        rx (float): Half of its width.
        ry (float): Half of its height.
        fill (Colour): The inside.
        outline (float): Width of the edge, 0 for none.
        """
        x, y = centre
        box = self._pixels([(x - rx, y - ry), (x + rx, y + ry)])
        edge = INK if outline else None
        self._draw.ellipse(box, fill=fill, outline=edge, width=self._width(outline))

    def rectangle(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, outline: float = 1.6
    ) -> None:
        """Fill an upright rectangle from its upper left to its lower right corner."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outline)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour, outline: float = 1.6) -> None:
        """Draw a thick line with round ends, with ink on both sides.

        points (Sequence[Point]): Where it goes, in hundredths of the side.
        width (float): Its width in hundredths of the side.
        fill (Colour): Its colour.
        outline (float): Width of the edge, 0 for none.
        """
        if outline:
            self._round_line(points, width + 2 * outline, INK)
        self._round_line(points, width, fill)

    def arc(
        self,
        centre: Point,
        rx: float,
        ry: float,
        start: float,
        end: float,
        width: float,
        fill: Colour,
    ) -> None:
        """Draw a part of an ellipse's edge, in degrees clockwise from the right."""
        x, y = centre
        box = self._pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.arc(box, start, end, fill=fill, width=self._width(width))

    def pie(
        self,
        centre: Point,
        radius: float,
        start: float,
        end: float,
        fill: Colour,
        outline: float = 0,
    ) -> None:
        """Fill a slice of a disc, from `start` to `end` degrees, clockwise from the right."""
        x, y = centre
        box = self._pixels([(x - radius, y - radius), (x + radius, y + radius)])
        edge = INK if outline else None
        self._draw.pieslice(box, start, end, fill=fill, outline=edge, width=self._width(outline))

    def _round_line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        self._draw.line(self._pixels(points), fill, self._width(width), "curve")
        for point in (points[0], points[-1]):
            self.ellipse(point, width / 2, width / 2, fill, outline=0)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]

    def _width(self, width: float) -> int:
        return max(1, round(width * self._scale))


def towards(start: Point, degrees: float, length: float) -> Point:
    """RETURNS (Point): The point `length` away from `start`; 0 degrees is right, 90 is down."""
    angle = math.radians(degrees)
    return start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)


def ring_of_points(centre: Point, radii: Sequence[float], turn: float = -90) -> list[Point]:
    """RETURNS (List[Point]): A corner for each radius, evenly round the centre."""
    step = 360 / len(radii)
    return [towards(centre, turn + i * step, radius) for i, radius in enumerate(radii)]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RETURNS (Colour): A colour from hue, saturation and value, each 0-1; hues wrap round."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def vivid(rng: random.Random) -> Colour:
    """RETURNS (Colour): Any strong colour."""
    return hsv(rng.random(), rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95))


def pale(rng: random.Random) -> Colour:
    """RETURNS (Colour): Any light, weak colour."""
    return hsv(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.82, 1.0))


def shade(colour: Colour, factor: float) -> Colour:
    """RETURNS (Colour): The colour made darker (factor below 1) or lighter (above 1)."""
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue
