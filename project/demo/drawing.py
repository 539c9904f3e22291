"""Pictures of the demo corpus: an object that decides a type, often another that decides a relation, and
objects that decide nothing. What they look like is in shapes.yml.
"""

import colorsys
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import srsly
from PIL import Image, ImageColor, ImageDraw, ImageFont

_TABLES = srsly.read_yaml(Path(__file__).with_name("shapes.yml"))
SHAPES: Mapping[str, list[dict[str, Any]]] = _TABLES["shapes"]
COLOURS: Mapping[str, list[str]] = _TABLES["colours"]
DECIDING = {"person": "PER", "logo": "ORG", "skyline": "LOC", "cat": "MISC"}
"""The objects that decide a type, with that type."""
RELATING = {"rings": "couple", "jersey": "teammates", "briefcase": "colleagues"}
"""The objects that decide the relation between two people, with that relation."""
DISTRACTORS = tuple(kind for kind in SHAPES if kind not in DECIDING and kind not in RELATING)

SIDE = 240
"""Of the square an object is drawn on, in pixels: larger than it will be shown, as shrinking smooths it."""
SIZES = ((128, 128), (160, 128), (128, 160))
LONGEST_SIDE = (38, 62)
OBJECTS = (3, 4)
"""The smallest and the largest number of objects in a post's picture, whatever they are."""
GAP = 2

Colour: TypeAlias = tuple[int, ...]
Box: TypeAlias = tuple[int, int, int, int]
"""Left, upper, right, lower in pixels; the last two are just outside."""


class DrawnObject(NamedTuple):
    """An object in a picture: what it is, and where."""

    kind: str
    box: Box


class Picture(NamedTuple):
    """A finished picture, and what is in it, in no meaningful order."""

    image: Image.Image
    objects: tuple[DrawnObject, ...]


def draw_post_picture(label: str, shown: str, rng: random.Random) -> Picture:
    """Draw the picture of a post: the object that decides its type, the one that decides a relation if
    it is to show one, and distractors, so that there are three or four objects in either case.

    label (str): The type the picture has to show, a value of `DECIDING`.
    shown (str): The relation the picture has to show, a value of `RELATING`; anything else for none.
    """
    kinds = [kind for kind, decided in {**DECIDING, **RELATING}.items() if decided in (label, shown)]
    n = rng.randint(*OBJECTS)
    return draw_picture([*kinds, *rng.sample(DISTRACTORS, n - len(kinds))], rng)


def draw_picture(kinds: Sequence[str], rng: random.Random) -> Picture:
    """Draw objects at places of their own, none over another.

    kinds (Sequence[str]): The kinds to draw, keys of `SHAPES`; up to four fit well.
    rng (random.Random): Decides size, background, places, order and every detail.
    """
    image = _draw_background(*rng.choice(SIZES), rng)
    order = rng.sample(list(kinds), len(kinds))
    tiles = [draw_object(kind, rng.randint(*LONGEST_SIDE), rng) for kind in order]
    boxes = _place([tile.size for tile in tiles], *image.size, rng)
    for tile, box in zip(tiles, boxes, strict=True):
        tile = tile.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BOX)
        image.paste(tile, box[:2], tile)
    return Picture(image, tuple(map(DrawnObject, order, boxes)))


def draw_object(kind: str, longest: int, rng: random.Random) -> Image.Image:
    """Draw one object, a little tilted, cut to what is visible of it."""
    image = Image.new("RGBA", (SIDE, SIDE))
    colours = {name: ImageColor.getrgb(rng.choice(some)) for name, some in COLOURS.items()}
    colours |= {name: _hsv(rng.random(), rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)) for name in "abc"}
    colours["pale"] = _hsv(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.82, 1.0))
    scale = SIDE / 100 * rng.uniform(0.85, 1.0), SIDE / 100 * rng.uniform(0.85, 1.0)
    _Pen(ImageDraw.Draw(image), colours, scale, rng).draw_steps(SHAPES[kind])
    if kind != "jersey" and rng.random() < 0.5:  # numbers are read from the left
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-10, 10), Image.Resampling.NEAREST, expand=True)
    image = image.crop(image.getbbox())
    factor = longest / max(image.size)
    size = tuple(max(1, round(side * factor)) for side in image.size)
    return image.resize(size, Image.Resampling.BOX)


class _Pen(NamedTuple):
    """Draws what shapes.yml says, with points and sizes a little different each time."""

    draw: ImageDraw.ImageDraw
    colours: Mapping[str, Colour]
    scale: tuple[float, float]
    rng: random.Random

    def draw_steps(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            if "either" in step:
                self.draw_steps(self.rng.choice(step["either"]))
            elif self.rng.random() < step.get("chance", 1):
                tool = next(iter(step))
                numbers = [x + self.rng.uniform(-1, 1) for x in step[tool]]
                numbers[1] += self.rng.uniform(-1, 1) * step.get("top", 0)
                for mirrored in (False, True)[: 1 + step.get("mirror", False)]:
                    self.draw_step(tool, numbers, step, mirrored)

    def pick(self, name: str | list[Any]) -> Colour:
        name, factor = (name, 1) if isinstance(name, str) else name
        return tuple(min(255, round(part * factor)) for part in self.colours[name])

    def draw_step(self, tool: str, numbers: list[float], step: Mapping[str, Any], mirrored: bool) -> None:
        draw, (scale_x, scale_y) = self.draw, self.scale
        xs = [(100 - x if mirrored else x) * scale_x for x in numbers[::2]]
        points = list(zip(xs, [y * scale_y for y in numbers[1::2]]))
        fill, outline = self.pick(step["fill"]), step.get("outline", 0 if tool == "pie" else 1.6)
        edge = max(1, round(outline * SIDE / 100))
        ink = self.pick("ink") if outline else None
        width = step.get("width", 0) * SIDE / 100
        if tool == "number":
            font = ImageFont.load_default(numbers[2] * scale_y)
            draw.text(points[0], str(self.rng.randint(1, 99)), fill, font, "mm", stroke_width=2)
        elif tool == "polygon":
            draw.polygon(points, fill)
            if ink:
                draw.line([*points, *points[:2]], ink, edge, "curve")
        elif tool == "line":
            for tone, size in ((ink, width + 2 * edge), (fill, width)):
                if tone:
                    draw.line(points, tone, round(size), "curve")
                    for x, y in (points[0], points[-1]):
                        draw.ellipse((x - size / 2, y - size / 2, x + size / 2, y + size / 2), tone)
        elif tool == "box":
            (left, right), (top, bottom) = map(sorted, zip(*points))
            draw.rectangle((left, top, right, bottom), fill, ink, edge)
            if "windows" in step:
                lit, side = self.pick(step["windows"]), (right - left) / 7
                for y in range(round(top + side), round(bottom - 2 * side), round(2.5 * side)):
                    for x in (left + side, left + 3 * side, left + 5 * side):
                        draw.rectangle((x, y, x + side, y + 1.3 * side), lit)
        else:
            x, y = points[0]
            rx, ry = numbers[2] * scale_x, numbers[3] * scale_y
            box = (x - rx, y - ry, x + rx, y + ry)
            start, end = step[tool][4:] or (0, 360)
            start, end = (180 - end, 180 - start) if mirrored else (start, end)
            if tool == "ellipse":
                draw.ellipse(box, fill, ink, edge)
            elif tool == "arc":
                draw.arc(box, start, end, fill, round(width))
            else:
                draw.pieslice(box, start, end, fill, ink, edge)


def _draw_background(width: int, height: int, rng: random.Random) -> Image.Image:
    """RETURNS (PIL.Image.Image): Plain, a gradient, or blotches; mode RGB."""
    base = Image.new("RGB", (width, height), _ground(rng))
    style = rng.randrange(3)
    if style == 0:
        return base
    if style == 1:
        other = Image.new("RGB", (width, height), _ground(rng))
        mask = Image.linear_gradient("L").rotate(rng.choice((0, 90))).resize((width, height))
        return Image.composite(base, other, mask)
    cells = rng.choice((6, 12, 24))
    noise = Image.frombytes("RGB", (cells, cells), rng.randbytes(cells * cells * 3))
    noise = noise.resize((width, height), Image.Resampling.BILINEAR)
    return Image.blend(base, noise, rng.uniform(0.15, 0.35))


def _ground(rng: random.Random) -> Colour:
    if rng.random() < 0.25:
        return _hsv(rng.random(), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.5))
    return _hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.65, 1.0))


def _hsv(*parts: float) -> Colour:
    return tuple(round(part * 255) for part in colorsys.hsv_to_rgb(*parts))


def _place(sizes: Sequence[tuple[int, int]], width: int, height: int, rng: random.Random) -> list[Box]:
    """Find places that don't overlap; everything gets smaller when there is no room."""
    factor = 1.0
    while True:
        boxes: list[Box] = []
        for _ in range(25 * len(sizes)):
            w, h = (round(side * factor) for side in sizes[len(boxes)])
            x, y = rng.randint(0, width - w), rng.randint(0, height - h)
            if all(
                x + w + GAP <= left or right + GAP <= x or y + h + GAP <= upper or lower + GAP <= y
                for left, upper, right, lower in boxes
            ):
                boxes.append((x, y, x + w, y + h))
            if len(boxes) == len(sizes):
                return boxes
        factor *= 0.985
