"""Drawings of the objects that decide the relation between two people: rings, jersey, briefcase."""

import random

from demo_sketch import INK, Colour, Point, Sketch, hsv, shade, towards, vivid

WHITE: Colour = (250, 250, 248)
METALS: tuple[Colour, ...] = (
    (244, 200, 64),
    (230, 178, 40),
    (208, 212, 220),
    (232, 176, 150),
)
LEATHERS: tuple[Colour, ...] = (
    (124, 76, 40),
    (164, 108, 60),
    (66, 48, 40),
    (52, 54, 62),
    (110, 40, 44),
    (44, 58, 92),
)
BRASS: Colour = (238, 206, 110)

# Digits as lines on a grid of 2 x 4: x to the right, y down.
DIGITS: tuple[tuple[Point, ...], ...] = (
    ((0, 0), (2, 0), (2, 4), (0, 4), (0, 0)),
    ((0, 1), (1, 0), (1, 4)),
    ((0, 0), (2, 0), (2, 2), (0, 2), (0, 4), (2, 4)),
    ((0, 0), (2, 0), (1, 2), (2, 2), (2, 4), (0, 4)),
    ((0, 0), (0, 2), (2, 2), (2, 0), (2, 4)),
    ((2, 0), (0, 0), (0, 2), (2, 2), (2, 4), (0, 4)),
    ((2, 0), (0, 0), (0, 4), (2, 4), (2, 2), (0, 2)),
    ((0, 0), (2, 0), (1, 4)),
    ((0, 2), (2, 2), (2, 4), (0, 4), (0, 0), (2, 0), (2, 2)),
    ((2, 2), (0, 2), (0, 0), (2, 0), (2, 4), (0, 4)),
)


def draw_rings(sketch: Sketch, rng: random.Random) -> None:
    """Draw two wedding rings, one through the other, often with a diamond.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides metals, sizes, how the two lie, and the diamond.
    """
    slope, side = rng.uniform(-35, 35), rng.choice((-1, 1))
    radii = rng.uniform(21, 25), rng.uniform(24, 29)
    width = rng.uniform(6, 8.5)
    first = rng.choice(METALS)
    second = rng.choice((first, first, rng.choice(METALS)))
    distance = sum(radii) * rng.uniform(0.62, 0.74)
    left = towards((50, 56), slope + (180 if side > 0 else 0), distance / 2)
    right = towards((50, 56), slope + (0 if side > 0 else 180), distance / 2)
    if rng.random() < 0.7:
        _diamond(sketch, towards(right, -90, radii[1] + 1))
    _ring(sketch, left, radii[0], width, first)
    _ring(sketch, right, radii[1], width, second)
    # A piece of the first once more, over the second: on this side it is in front, on the other behind.
    facing = slope + (0 if side > 0 else 180)
    _ring(sketch, left, radii[0], width, first, facing, facing + 90)


def _ring(
    sketch: Sketch,
    centre: Point,
    radius: float,
    width: float,
    metal: Colour,
    start: float = 0,
    end: float = 360,
) -> None:
    for edge, colour in ((1.6, INK), (0.0, metal)):
        outer = radius + edge
        sketch.arc(centre, outer, outer, start, end, width + 2 * edge, colour)
    shine = radius - width * 0.3
    sketch.arc(centre, shine, shine, start, end, width * 0.25, shade(metal, 1.2))


def _diamond(sketch: Sketch, tip: Point) -> None:
    x, y = tip
    stone = hsv(0.54, 0.22, 1.0)
    cut = [(x, y + 3), (x - 12, y - 8), (x - 7, y - 15), (x + 7, y - 15), (x + 12, y - 8)]
    sketch.polygon(cut, stone)
    sketch.polygon([(x, y + 1), (x - 5, y - 8), (x + 5, y - 8)], WHITE, outline=0)


def draw_jersey(sketch: Sketch, rng: random.Random) -> None:
    """Draw a sports shirt with a number, laid out flat.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides cut, number and colours.
    """
    shirt = vivid(rng)
    second = rng.choice((WHITE, WHITE, shade(shirt, 0.45), hsv(0.14, 0.75, 0.98)))
    half, hem = rng.uniform(22, 27), rng.uniform(88, 95)
    reach, cuff = rng.uniform(42, 47), rng.uniform(40, 50)
    for side in (-1, 1):
        sleeve = [
            (50 + side * 12, 8),
            (50 + side * (half + 3), 12),
            (50 + side * reach, cuff - 4),
            (50 + side * (reach - 14), cuff + 5),
            (50 + side * (half - 3), 34),
        ]
        sketch.polygon(sleeve, shirt)
        sketch.stroke([sleeve[2], sleeve[3]], 4, second, outline=0.8)
    body = [(38, 7), (62, 7), (50 + half, 14), (50 + half, hem), (50 - half, hem), (50 - half, 14)]
    sketch.polygon(body, shirt)
    # The seams of the sleeves would look like a cut.
    for side in (-1, 1):
        seam = 50 + side * half
        sketch.rectangle(seam - 2.5, 16, seam + 2.5, 30, shirt, outline=0)
    if rng.random() < 0.5:
        sketch.polygon([(40, 7), (60, 7), (50, 20)], second)
    else:
        sketch.pie((50, 7), 11, 0, 180, second, outline=1.6)
    number = [rng.randrange(10) for _ in range(rng.choice((1, 1, 2)))]
    ink = second if rng.random() < 0.8 else WHITE
    _number(sketch, number, ink)


def _number(sketch: Sketch, number: list[int], ink: Colour) -> None:
    wide, high = (9.0, 11.0) if len(number) == 1 else (6.0, 11.0)
    gap = 6.5
    left = 50 - (len(number) * 2 * wide + (len(number) - 1) * gap) / 2
    for i, digit in enumerate(number):
        x0 = left + i * (2 * wide + gap)
        line = [(x0 + x * wide, 32 + y * high) for x, y in DIGITS[digit]]
        sketch.stroke(line, 6.5 if len(number) == 1 else 5, ink, outline=0)


def draw_briefcase(sketch: Sketch, rng: random.Random) -> None:
    """Draw a leather case for papers, with a handle, a flap and clasps.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides proportions, leather, flap and clasps.
    """
    leather = shade(rng.choice(LEATHERS), rng.uniform(0.9, 1.15))
    dark, light = shade(leather, 0.7), shade(leather, 1.25)
    top, bottom, half = rng.uniform(34, 40), rng.uniform(80, 88), rng.uniform(42, 47)
    grip, rise = rng.uniform(13, 17), rng.uniform(15, 19)
    left, right = 50 - grip, 50 + grip
    handle = [(left, top + 2), (left, top - rise), (right, top - rise), (right, top + 2)]
    sketch.stroke(handle, 5.5, dark)
    corner = 5.0
    sketch.polygon(
        [
            (50 - half + corner, top), (50 + half - corner, top), (50 + half, top + corner),
            (50 + half, bottom - corner), (50 + half - corner, bottom),
            (50 - half + corner, bottom), (50 - half, bottom - corner), (50 - half, top + corner),
        ],
        leather,
    )  # fmt: skip
    seam = top + (bottom - top) * rng.uniform(0.36, 0.5)
    if rng.random() < 0.5:  # a flap over the whole width
        edge = top + corner
        flap = [(50 - half, edge), (50 + half, edge), (44 + half, seam), (56 - half, seam)]
        sketch.polygon(flap, light, outline=1.2)
    else:
        sketch.stroke([(50 - half + 1, seam), (50 + half - 1, seam)], 2, INK, outline=0)
    clasps = rng.choice(((0.0,), (-0.55, 0.55), (-0.55, 0.55)))
    for place in clasps:
        x = 50 + place * half
        sketch.rectangle(x - 5, seam - 6, x + 5, seam + 6, BRASS, outline=1.2)
    if rng.random() < 0.5:
        for side in (-1, 1):
            x = 50 + side * half
            sketch.polygon([(x, bottom - 12), (x, bottom), (x - side * 12, bottom)], dark, outline=0)
