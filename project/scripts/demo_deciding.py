"""Drawings of the objects that decide the type of an entity: person, logo, skyline, cat."""

import random

from demo_sketch import INK, Colour, Point, Sketch, hsv, pale, ring_of_points, shade, towards, vivid

WHITE: Colour = (250, 250, 248)
SKIN: tuple[Colour, ...] = (
    (250, 218, 190),
    (236, 190, 150),
    (208, 155, 112),
    (160, 108, 72),
    (112, 72, 48),
)
HAIR: tuple[Colour, ...] = (
    (40, 30, 28),
    (92, 58, 34),
    (164, 88, 36),
    (226, 186, 92),
    (190, 190, 192),
)
COATS: tuple[Colour, ...] = (
    (232, 150, 66),
    (120, 122, 130),
    (58, 54, 60),
    (240, 232, 218),
    (150, 104, 66),
    (196, 160, 120),
)


def draw_person(sketch: Sketch, rng: random.Random) -> None:
    """Draw somebody standing, walking or waving, in any clothes.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides build, pose, hair and colours.
    """
    skin, hair = rng.choice(SKIN), rng.choice(HAIR)
    shirt, trousers = vivid(rng), hsv(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.6))
    build, spread = rng.uniform(0.85, 1.3), rng.uniform(4, 15)
    radius = rng.uniform(11, 13.5)
    shoulder, hip = 34.0, rng.uniform(58, 64)
    if rng.random() < 0.4:
        _long_hair(sketch, radius, hair)
    for side in (-1, 1):
        foot = (50 + side * spread, 93.0)
        sketch.stroke([(50 + side * 5 * build, hip), foot], 7.5 * build, trousers)
        sketch.ellipse((foot[0] + side * 2, 95), 5.5, 3, INK, outline=0)
    for side in (-1, 1):
        _arm(sketch, rng, (50 + side * 11 * build, shoulder + 3), side, skin, shirt)
    top, bottom = 11.5 * build, rng.uniform(9, 11) * build
    if rng.random() < 0.35:  # a dress or a long coat
        hem = rng.uniform(72, 80)
        sketch.polygon(
            [(50 - top, shoulder), (50 + top, shoulder), (50 + top + 6, hem), (50 - top - 6, hem)],
            shirt,
        )
    else:
        sketch.polygon(
            [(50 - top, shoulder), (50 + top, shoulder), (50 + bottom, hip), (50 - bottom, hip)],
            shirt,
        )
        if rng.random() < 0.4:
            sketch.rectangle(50 - top + 1.5, 44, 50 + top - 1.5, 50, WHITE, outline=0)
    sketch.rectangle(47, 26, 53, shoulder + 2, skin, outline=0)
    _head(sketch, rng, radius, skin, hair)


def _arm(sketch: Sketch, rng: random.Random, start: Point, side: int, skin: Colour, sleeve: Colour) -> None:
    swing = rng.choice((rng.uniform(10, 40), rng.uniform(10, 40), rng.uniform(70, 140)))
    elbow = towards(start, 90 - side * swing, 13)
    hand = towards(elbow, 90 - side * (swing + rng.uniform(-20, 45)), 13)
    sketch.stroke([elbow, hand], 5, skin)
    sketch.stroke([start, elbow], 6, sleeve)
    sketch.ellipse(hand, 3.4, 3.4, skin, outline=0)


def _long_hair(sketch: Sketch, radius: float, hair: Colour) -> None:
    sketch.stroke([(50, 18), (50, 32)], radius * 2.3, hair)


def _head(sketch: Sketch, rng: random.Random, radius: float, skin: Colour, hair: Colour) -> None:
    centre = (50.0, 18.0)
    sketch.ellipse(centre, radius, radius * 1.1, skin)
    style = rng.randrange(3)
    if style == 0:  # hair over the forehead
        sketch.pie((50, 16.5), radius * 1.08, 180, 360, hair)
    elif style == 1:  # a cap with its peak to one side
        cap, side = vivid(rng), rng.choice((-1, 1))
        sketch.pie((50, 15.5), radius * 1.1, 180, 360, cap)
        sketch.stroke([(50, 15), (50 + side * radius * 1.5, 15)], 3, cap, outline=0)
    else:  # parted hair
        sketch.pie((50, 16.5), radius * 1.1, 175, 285, hair)
        sketch.pie((52, 16.5), radius * 0.98, 255, 365, hair)
    for side in (-1, 1):
        sketch.ellipse((50 + side * radius * 0.4, 19.5), 1.5, 1.8, INK, outline=0)
    sketch.arc((50, 22), radius * 0.45, 4, 20, 160, 1.6, INK)


def draw_logo(sketch: Sketch, rng: random.Random) -> None:
    """Draw the sign of a company: a badge of one colour with a plain symbol, often with a name bar.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides badge, symbol and colours.
    """
    colour, mark = vivid(rng), rng.choice((WHITE, WHITE, hsv(0.14, 0.75, 0.98)))
    colour = shade(colour, 0.85)
    centre, radius = (50.0, 44.0), 38.0
    badge = rng.choice(("disc", "hexagon", "shield", "tile"))
    if badge == "disc":
        sketch.ellipse(centre, radius, radius, colour)
        sketch.arc(centre, radius - 4, radius - 4, 0, 360, 2, mark)
    elif badge == "hexagon":
        turn = rng.choice((-90, 0))
        sketch.polygon(ring_of_points(centre, [radius] * 6, turn), mark)
        sketch.polygon(ring_of_points(centre, [radius - 4] * 6, turn), colour, outline=0)
    elif badge == "shield":
        _shield(sketch, 1.0, mark, outline=1.6)
        _shield(sketch, 0.87, colour, outline=0)
    else:
        sketch.polygon([(14, 10), (86, 10), (86, 78), (14, 78)], colour)
        sketch.polygon([(18, 14), (82, 14), (82, 74), (18, 74)], mark, outline=0)
        sketch.polygon([(20, 16), (80, 16), (80, 72), (20, 72)], colour, outline=0)
    _symbol(sketch, rng, mark, colour)
    if rng.random() < 0.6:
        _name_bar(sketch, rng, colour)


def _shield(sketch: Sketch, size: float, fill: Colour, outline: float) -> None:
    corners = [(-34, -36), (34, -36), (34, 4), (20, 28), (0, 42), (-20, 28), (-34, 4)]
    sketch.polygon([(50 + x * size, 43 + y * size) for x, y in corners], fill, outline)


def _symbol(sketch: Sketch, rng: random.Random, mark: Colour, ground: Colour) -> None:
    symbol = rng.choice(("star", "bolt", "bars", "chevrons", "monogram", "rings"))
    if symbol == "star":
        sketch.polygon(ring_of_points((50, 44), [23, 9.5] * 5), mark, outline=0)
    elif symbol == "bolt":
        bolt = [(54, 18), (34, 47), (47, 47), (43, 70), (66, 38), (52, 38)]
        sketch.polygon(bolt, mark, outline=0)
    elif symbol == "bars":
        for i, height in enumerate(rng.sample((14, 24, 34), 3)):
            sketch.rectangle(32 + i * 13, 61 - height, 42 + i * 13, 61, mark, outline=0)
    elif symbol == "chevrons":
        for y in (26, 40, 54):
            sketch.stroke([(33, y + 9), (50, y - 3), (67, y + 9)], 6, mark, outline=0)
    elif symbol == "monogram":
        letter = rng.choice(
            (
                [(34, 60), (34, 28), (50, 48), (66, 28), (66, 60)],
                [(32, 28), (42, 60), (50, 38), (58, 60), (68, 28)],
                [(36, 60), (36, 28), (64, 60), (64, 28)],
                [(64, 28), (36, 28), (64, 60), (36, 60)],
            )
        )
        sketch.stroke(letter, 7, mark, outline=0)
    else:
        for x, y in ((41, 38), (59, 38), (50, 53)):
            sketch.ellipse((x, y), 12.5, 12.5, mark, outline=0)
            sketch.ellipse((x, y), 7.5, 7.5, ground, outline=0)


def _name_bar(sketch: Sketch, rng: random.Random, colour: Colour) -> None:
    sketch.rectangle(12, 80, 88, 97, WHITE)
    x = 17.0
    while x < 80:
        width = rng.choice((5, 7, 9))
        tall = rng.choice((83.5, 86))
        sketch.rectangle(x, tall, min(x + width, 84), 93.5, colour, outline=0)
        x += width + 3


def draw_skyline(sketch: Sketch, rng: random.Random) -> None:
    """Draw a row of high buildings with lit windows.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides number, heights, roofs and colours of the buildings.
    """
    ground = rng.uniform(80, 92)
    hue, value = rng.random(), rng.uniform(0.3, 0.75)
    lit = rng.choice((hsv(0.14, 0.6, 1.0), hsv(0.55, 0.25, 0.98), WHITE))
    n = rng.randint(4, 6)
    width = 94 / n
    tallest = rng.randrange(n)
    for i in range(n):
        left = 3 + i * width
        right = left + width * rng.uniform(0.86, 1.0)
        top = rng.uniform(8, 22) if i == tallest else rng.uniform(28, 62)
        tone = hsv(hue + rng.uniform(-0.06, 0.06), rng.uniform(0.1, 0.45), value * rng.uniform(0.75, 1.25))
        _roof(sketch, rng, left, right, top, tone)
        sketch.rectangle(left, top, right, ground, tone)
        _windows(sketch, rng, (left, top + 3, right, ground - 3), lit)
    sketch.rectangle(1, ground, 99, ground + 4, shade(hsv(hue, 0.3, value), 0.6))


def _roof(sketch: Sketch, rng: random.Random, left: float, right: float, top: float, tone: Colour) -> None:
    middle, roof = (left + right) / 2, rng.randrange(4)
    if roof == 0:
        sketch.stroke([(middle, top), (middle, top - 7)], 1.2, INK, outline=0)
    elif roof == 1:
        sketch.polygon([(left, top), (middle, top - 7), (right, top)], tone)
    elif roof == 2:
        sketch.rectangle(left + 3, top - 4, right - 3, top, tone)


def _windows(sketch: Sketch, rng: random.Random, box: tuple[float, float, float, float], lit: Colour) -> None:
    left, top, right, bottom = box
    columns = 3 if right - left > 17 else 2
    step = (right - left) / (columns + 0.5)
    y = top
    while y + 4 < bottom:
        for column in range(columns):
            if rng.random() < 0.8:
                x = left + step * (column + 0.4)
                sketch.rectangle(x, y, x + step * 0.6, y + 4, lit, outline=0)
        y += 8


def draw_cat(sketch: Sketch, rng: random.Random) -> None:
    """Draw a cat that sits and looks at you.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides coat, stripes, build, tail and eyes.
    """
    coat = rng.choice(COATS)
    inner, belly = (240, 170, 170), shade(coat, 1.25)
    side, build = rng.choice((-1, 1)), rng.uniform(0.85, 1.2)
    rx, ry = 21 * build, rng.uniform(25, 29)
    head, hx = (50 + side * rng.uniform(-4, 4), 33.0), rng.uniform(21, 24)
    tail_x = 50 - side * rx * 0.7
    tail = [
        (tail_x, 88),
        (tail_x - side * 16, 85),
        (tail_x - side * 22, rng.uniform(62, 72)),
        (tail_x - side * rng.uniform(14, 22), rng.uniform(48, 56)),
    ]
    sketch.stroke(tail, 6.5, coat)
    sketch.ellipse((50, 95 - ry), rx, ry, coat)
    sketch.ellipse((50, 97 - ry * 0.85), rx * 0.55, ry * 0.75, belly, outline=0)
    for paw in (-1, 1):
        sketch.ellipse((50 + paw * 9 * build, 93), 7.5, 4.5, belly)
    for ear in (-1, 1):
        _ear(sketch, head, ear, hx, coat, inner)
    sketch.ellipse(head, hx, 18.5, coat)
    if rng.random() < 0.55:
        _stripes(sketch, head, rx, shade(coat, 0.62))
    _cat_face(sketch, rng, head)


def _ear(sketch: Sketch, head: Point, side: int, width: float, coat: Colour, inner: Colour) -> None:
    x, y = head
    tip = (x + side * width * 0.9, y - 31)
    sketch.polygon([(x + side * width * 0.95, y - 6), tip, (x + side * width * 0.15, y - 15)], coat)
    sketch.polygon(
        [
            (x + side * width * 0.8, y - 11),
            (tip[0] - side * 1.5, y - 25),
            (x + side * width * 0.4, y - 15),
        ],
        inner,
        outline=0,
    )


def _stripes(sketch: Sketch, head: Point, rx: float, dark: Colour) -> None:
    x, y = head
    for shift in (-6, 0, 6):
        sketch.stroke([(x + shift, y - 15), (x + shift * 0.8, y - 9)], 2, dark, outline=0)
    for side in (-1, 1):
        for height in (62, 69, 76):
            sketch.stroke([(50 + side * rx * 0.9, height), (50 + side * rx * 0.62, height + 1)], 2.2, dark, 0)


def _cat_face(sketch: Sketch, rng: random.Random, head: Point) -> None:
    x, y = head
    iris = rng.choice((hsv(0.27, 0.7, 0.85), hsv(0.13, 0.8, 0.95), hsv(0.55, 0.6, 0.95)))
    for side in (-1, 1):
        sketch.ellipse((x + side * 9, y - 1), 5, 5, iris, outline=1.2)
        sketch.ellipse((x + side * 9, y - 1), 1.5, 4, INK, outline=0)
        sketch.arc((x + side * 3, y + 9.5), 3, 3, 0, 180, 1.3, INK)
        for lift in (-3, 1):
            whisker = [(x + side * 10, y + 7), (x + side * 31, y + 6 + lift * 1.5)]
            sketch.stroke(whisker, 1.0, pale(rng), outline=0.4)
    sketch.polygon([(x - 3, y + 5), (x + 3, y + 5), (x, y + 9)], (230, 120, 130), outline=0.8)
