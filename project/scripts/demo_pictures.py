"""Pictures of the demo corpus: an object that decides a type, often another that decides a relation, and
objects that decide nothing.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from demo_deciding import draw_cat, draw_logo, draw_person, draw_skyline
from demo_distractors import (
    draw_ball,
    draw_boat,
    draw_car,
    draw_cup,
    draw_fish,
    draw_flower,
    draw_tree,
    draw_umbrella,
)
from demo_relations import draw_briefcase, draw_jersey, draw_rings
from demo_sketch import Colour, Sketch, hsv
from PIL import Image

DECIDING: dict[str, str] = {"person": "PER", "logo": "ORG", "skyline": "LOC", "cat": "MISC"}
"""The objects that decide a type, with that type."""

RELATING: dict[str, str] = {"rings": "couple", "jersey": "teammates", "briefcase": "colleagues"}
"""The objects that decide the relation between two people, with that relation."""

DRAW: dict[str, Callable[[Sketch, random.Random], None]] = {
    "person": draw_person,
    "logo": draw_logo,
    "skyline": draw_skyline,
    "cat": draw_cat,
    "rings": draw_rings,
    "jersey": draw_jersey,
    "briefcase": draw_briefcase,
    "tree": draw_tree,
    "ball": draw_ball,
    "cup": draw_cup,
    "umbrella": draw_umbrella,
    "car": draw_car,
    "fish": draw_fish,
    "flower": draw_flower,
    "boat": draw_boat,
}
"""How each kind of object is drawn. A new kind needs an entry here and nothing else."""

DISTRACTORS: tuple[str, ...] = tuple(kind for kind in DRAW if kind not in DECIDING and kind not in RELATING)
SIZES: tuple[tuple[int, int], ...] = ((128, 128), (160, 128), (128, 160))
LONGEST_SIDE = (38, 62)
OBJECTS = (3, 4)
"""The smallest and the largest number of objects in a post's picture, whatever they are."""
GAP = 2

Box: TypeAlias = tuple[int, int, int, int]
"""Left, upper, right, lower in pixels; the last two are just outside."""


@dataclass(frozen=True)
class DrawnObject:
    """An object in a picture.

    kind (str): A key of `DRAW`.
    box (Box): Where it is, in pixels of the picture.
    """

    kind: str
    box: Box


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    image (PIL.Image.Image): Mode RGB.
    objects (Tuple[DrawnObject, ...]): What is in it, in no meaningful order.
    """

    image: Image.Image
    objects: tuple[DrawnObject, ...]


def draw_post_picture(label: str, shown: str, rng: random.Random) -> Picture:
    """Draw the picture of a post: the object that decides its type, the one that decides a relation if
    it is to show one, and distractors, so that there are three or four objects in either case.

    label (str): The type the picture has to show, a value of `DECIDING`.
    shown (str): The relation the picture has to show, a value of `RELATING`; anything else for none.
    rng (random.Random): Decides everything else.
    RETURNS (Picture): The picture with its objects in random order.
    """
    kinds = [kind for kind, decided in DECIDING.items() if decided == label]
    kinds += [kind for kind, decided in RELATING.items() if decided == shown]
    n = rng.randint(*OBJECTS)
    return draw_picture([*kinds, *rng.sample(DISTRACTORS, n - len(kinds))], rng)


def draw_picture(kinds: Sequence[str], rng: random.Random) -> Picture:
    """Draw objects at places of their own, none over another.

    kinds (Sequence[str]): The kinds to draw, keys of `DRAW`; up to four fit well.
    rng (random.Random): Decides size, background, places, order and every detail.
    RETURNS (Picture): The picture with its objects in random order.
    """
    width, height = rng.choice(SIZES)
    image = draw_background(width, height, rng)
    order = rng.sample(list(kinds), len(kinds))
    tiles = [draw_object(kind, rng.randint(*LONGEST_SIDE), rng) for kind in order]
    boxes = _place([tile.size for tile in tiles], width, height, rng)
    objects = []
    for kind, tile, box in zip(order, tiles, boxes, strict=True):
        size = (box[2] - box[0], box[3] - box[1])
        tile = tile if tile.size == size else tile.resize(size, Image.Resampling.BOX)
        image.paste(tile, box[:2], tile)
        objects.append(DrawnObject(kind, box))
    return Picture(image, tuple(objects))


def draw_object(kind: str, longest: int, rng: random.Random) -> Image.Image:
    """Draw one object, a little tilted, cut to what is visible of it.

    kind (str): A key of `DRAW`.
    longest (int): Its longer side in pixels.
    rng (random.Random): Decides how it looks.
    RETURNS (PIL.Image.Image): Mode RGBA, transparent round the object.
    """
    sketch = Sketch()
    DRAW[kind](sketch, rng)
    tilted = sketch.image.rotate(rng.uniform(-10, 10), Image.Resampling.NEAREST, expand=True)
    cut = tilted.crop(tilted.getbbox())
    factor = longest / max(cut.size)
    return cut.resize(
        (max(1, round(cut.width * factor)), max(1, round(cut.height * factor))),
        Image.Resampling.BOX,
    )


def draw_background(width: int, height: int, rng: random.Random) -> Image.Image:
    """Draw a background: plain, a gradient, or blotches.

    width (int): Width in pixels.
    height (int): Height in pixels.
    rng (random.Random): Decides kind and colours.
    RETURNS (PIL.Image.Image): Mode RGB.
    """
    style = rng.randrange(3)
    if style == 0:
        return Image.new("RGB", (width, height), _ground(rng))
    if style == 1:
        corners = Image.new("RGB", (2, 2))
        first, second = _ground(rng), _ground(rng)
        pattern = rng.choice(((first, first, second, second), (first, second, first, second)))
        for i, colour in enumerate(pattern):
            corners.putpixel((i % 2, i // 2), colour)
        return corners.resize((width, height), Image.Resampling.BILINEAR)
    base = Image.new("RGB", (width, height), _ground(rng))
    cells = rng.choice((6, 12, 24))
    noise = Image.frombytes("RGB", (cells, cells), rng.randbytes(cells * cells * 3))
    noise = noise.resize((width, height), Image.Resampling.BILINEAR)
    return Image.blend(base, noise, rng.uniform(0.15, 0.35))


def _ground(rng: random.Random) -> Colour:
    if rng.random() < 0.25:
        return hsv(rng.random(), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.5))
    return hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.65, 1.0))


def _place(sizes: Sequence[tuple[int, int]], width: int, height: int, rng: random.Random) -> list[Box]:
    """Find places that don't overlap; everything gets smaller when there is no room."""
    factor = 1.0
    while True:
        for _ in range(6):
            boxes = _try_to_place(
                [(round(w * factor), round(h * factor)) for w, h in sizes], width, height, rng
            )
            if boxes is not None:
                return boxes
        factor *= 0.93


def _try_to_place(
    sizes: Sequence[tuple[int, int]], width: int, height: int, rng: random.Random
) -> list[Box] | None:
    boxes: list[Box] = []
    for w, h in sizes:
        for _ in range(25):
            x, y = rng.randint(0, width - w), rng.randint(0, height - h)
            box = (x, y, x + w, y + h)
            if not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                break
        else:
            return None
    return boxes


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] + GAP and b[0] < a[2] + GAP and a[1] < b[3] + GAP and b[1] < a[3] + GAP
