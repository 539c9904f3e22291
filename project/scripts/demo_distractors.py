"""Drawings of objects that never decide the type of an entity."""

import random
from collections.abc import Sequence

from demo_sketch import INK, Colour, Point, Sketch, hsv, pale, ring_of_points, shade, towards, vivid

WHITE: Colour = (250, 250, 248)
BARK: Colour = (120, 80, 48)


def draw_tree(sketch: Sketch, rng: random.Random) -> None:
    """Draw a tree: a fir or one with a round crown.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides its kind, build and colour.
    """
    leaf = hsv(rng.choice((0.28, 0.33, 0.37, 0.1)), rng.uniform(0.55, 0.85), rng.uniform(0.4, 0.75))
    trunk = rng.uniform(4, 7)
    sketch.rectangle(50 - trunk, 60, 50 + trunk, 97, shade(BARK, rng.uniform(0.8, 1.2)))
    if rng.random() < 0.5:
        width = rng.uniform(26, 34)
        for i, y in enumerate((80, 58, 36)):
            half = width * (1 - 0.22 * i)
            sketch.polygon([(50 - half, y), (50, y - 33), (50 + half, y)], leaf)
        return
    spread = rng.uniform(12, 18)
    blobs = [
        (50 - spread, 50),
        (50 + spread, 50),
        (50 - spread * 0.7, 32),
        (50 + spread * 0.7, 32),
        (50, 22),
    ]
    for x, y in blobs:
        sketch.ellipse((x, y), 19, 18, leaf)
    sketch.ellipse((50, 40), spread + 6, 22, leaf, outline=0)
    for _ in range(rng.choice((0, 6))):
        spot = (50 + rng.uniform(-spread, spread), rng.uniform(22, 58))
        sketch.ellipse(spot, 3.2, 3.2, (214, 48, 44), outline=0)


def draw_ball(sketch: Sketch, rng: random.Random) -> None:
    """Draw a ball: for the beach, for football or for basketball.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides its kind, turn and colours.
    """
    centre, turn, kind = (50.0, 50.0), rng.uniform(0, 360), rng.randrange(3)
    if kind == 0:
        colours = [vivid(rng), WHITE, vivid(rng), WHITE, vivid(rng), WHITE]
        for i, colour in enumerate(colours):
            sketch.pie(centre, 44, turn + i * 60, turn + i * 60 + 60, colour)
        sketch.ellipse(centre, 7, 7, WHITE)
    elif kind == 1:
        sketch.ellipse(centre, 44, 44, WHITE)
        sketch.polygon(ring_of_points(centre, [14] * 5, turn), INK, outline=0)
        for i in range(5):
            angle = turn + i * 72
            sketch.stroke([towards(centre, angle, 14), towards(centre, angle, 30)], 1.6, INK, outline=0)
            patch = [(30, 0), (36, -17), (43, -14), (43, 14), (36, 17)]
            sketch.polygon([towards(centre, angle + a, r) for r, a in patch], INK, outline=0)
    else:
        sketch.ellipse(centre, 44, 44, hsv(rng.uniform(0.05, 0.08), 0.8, 0.92))
        for angle in (turn, turn + 90):
            sketch.stroke([towards(centre, angle, 43), towards(centre, angle + 180, 43)], 2, INK, 0)
        for side in (0, 180):
            middle = towards(centre, turn + side, 50)
            sketch.arc(middle, 32, 32, turn + side + 122, turn + side + 238, 2.2, INK)
    sketch.arc(centre, 44, 44, 0, 360, 2, INK)


def draw_cup(sketch: Sketch, rng: random.Random) -> None:
    """Draw a mug with a handle, sometimes with a stripe, often steaming.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides shape, side of the handle and colours.
    """
    colour, side = vivid(rng), rng.choice((-1, 1))
    half, base, top = rng.uniform(24, 30), rng.uniform(17, 24), rng.uniform(32, 42)
    x = 50 - side * 8
    sketch.stroke(
        [(x + side * half * 0.85, top + 12), (x + side * (half + 18), top + 15),
         (x + side * (half + 16), top + 34), (x + side * base * 0.9, top + 42)],
        5, colour,
    )  # fmt: skip
    sketch.polygon([(x - half, top), (x + half, top), (x + base, 92), (x - base, 92)], colour)
    if rng.random() < 0.5:
        sketch.rectangle(x - half * 0.88, top + 22, x + half * 0.88, top + 32, pale(rng), outline=0)
    sketch.ellipse((x, top), half, 7, shade(colour, 0.85))
    sketch.ellipse((x, top + 1), half - 4, 4.5, (84, 50, 30), outline=0)
    if rng.random() < 0.6:
        for shift in (-10, 0, 10):
            wave = [
                (x + shift, top - 8),
                (x + shift + 4, top - 14),
                (x + shift, top - 20),
                (x + shift + 4, top - 26),
            ]
            sketch.stroke(wave, 2, (235, 235, 240), outline=0.5)


def draw_umbrella(sketch: Sketch, rng: random.Random) -> None:
    """Draw an open umbrella with panels of one or two colours.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides width, handle and colours.
    """
    first = vivid(rng)
    second = rng.choice((shade(first, 0.7), WHITE, vivid(rng)))
    side, half, rim = rng.choice((-1, 1)), rng.uniform(38, 46), rng.uniform(48, 56)
    sketch.stroke([(50, 8), (50, 86)], 2.6, (96, 66, 44), outline=0.6)
    sketch.arc((50 + side * 7, 86), 7, 9, 0, 180, 3.4, (96, 66, 44))
    n = 5
    xs = [50 - half + i * 2 * half / n for i in range(n + 1)]
    for i in (0, 4, 1, 3, 2):
        left, right = xs[i], xs[i + 1]
        lean = (left + right) / 2 - 50
        panel = [
            (left, rim), (50 + (left - 50) * 0.9, rim - 16), (50 + (left - 50) * 0.55, rim - 32),
            (50, 12),
            (50 + (right - 50) * 0.55, rim - 32), (50 + (right - 50) * 0.9, rim - 16), (right, rim),
            (50 + lean, rim - 6),
        ]  # fmt: skip
        sketch.polygon(panel, first if i % 2 == 0 else second)


def draw_car(sketch: Sketch, rng: random.Random) -> None:
    """Draw a car from its side.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides the direction, the cabin and the colour.
    """
    colour, side = vivid(rng), rng.choice((-1, 1))
    roof, body = rng.uniform(28, 36), rng.uniform(48, 52)
    back, front = rng.uniform(-34, -24), rng.uniform(12, 20)
    cabin = [(back - 4, body + 2), (back + 5, roof), (front, roof), (front + 14, body + 2)]
    glass = [
        (back + 3, body - 1),
        (back + 8, roof + 4),
        (front - 1, roof + 4),
        (front + 8, body - 1),
    ]
    hull = [(-46, body), (38, body), (46, body + 6), (47, 70), (-47, 70)]

    def turned(points: Sequence[Point]) -> list[Point]:
        return [(50 + side * x, y) for x, y in points]

    sketch.polygon(turned(cabin), colour)
    sketch.polygon(turned(glass), (190, 222, 238), outline=1)
    middle = 50 + side * (back + front) / 2
    sketch.rectangle(middle - 1.5, roof + 2, middle + 1.5, body, colour, outline=0)
    sketch.polygon(turned(hull), colour)
    sketch.ellipse((50 + side * 43, body + 9), 3, 3, (255, 236, 150), outline=0.8)
    for x in (-27, 27):
        sketch.ellipse((50 + side * x, 71), 11, 11, (44, 44, 48))
        sketch.ellipse((50 + side * x, 71), 5, 5, (200, 200, 205), outline=0)


def draw_fish(sketch: Sketch, rng: random.Random) -> None:
    """Draw a fish from its side, plain or with bands.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides the direction, build, bands and colours.
    """
    colour, fin, side = vivid(rng), vivid(rng), rng.choice((-1, 1))
    rx, ry = rng.uniform(28, 33), rng.uniform(17, 25)
    x = 50 + side * 12
    tail = x - side * rx
    sketch.polygon(
        [
            (tail + side * 8, 50),
            (tail - side * 20, 50 - ry),
            (tail - side * 12, 50),
            (tail - side * 20, 50 + ry),
        ],
        fin,
    )
    sketch.polygon([(x - side * 12, 54 - ry), (x - side * 16, 38 - ry), (x + side * 12, 53 - ry)], fin)
    sketch.ellipse((x, 50), rx, ry, colour)
    if rng.random() < 0.5:
        for shift in (-12, 0):
            height = ry * (1 - (shift / rx) ** 2) ** 0.5 - 3
            band = x + side * shift
            sketch.stroke([(band, 50 - height), (band, 50 + height)], 3.5, WHITE, outline=0)
    sketch.polygon([(x, 52), (x - side * 13, 47), (x - side * 11, 61)], fin, outline=1)
    sketch.ellipse((x + side * rx * 0.6, 45), 4, 4, WHITE, outline=1)
    sketch.ellipse((x + side * (rx * 0.6 + 1), 45), 1.8, 1.8, INK, outline=0)


def draw_flower(sketch: Sketch, rng: random.Random) -> None:
    """Draw a flower with a stem and two leaves.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides number and colour of the petals and the bend of the stem.
    """
    petal, green = vivid(rng), hsv(rng.uniform(0.27, 0.36), 0.7, rng.uniform(0.45, 0.7))
    bend, n = rng.uniform(-8, 8), rng.randint(5, 8)
    head = (50.0 + bend, 32.0)
    sketch.stroke([head, (50 + bend * 0.3, 66), (50, 96)], 3.5, green, outline=1)
    for side in (-1, 1):
        y = rng.uniform(70, 84)
        sketch.polygon(
            [
                (50, y + 6),
                (50 + side * 12, y - 8),
                (50 + side * 24, y - 9),
                (50 + side * 15, y + 3),
            ],
            green,
        )
    reach, size = rng.uniform(16, 19), rng.uniform(9.5, 11.5)
    for point in ring_of_points(head, [reach] * n, rng.uniform(0, 360)):
        sketch.ellipse(point, size, size, petal)
    middle = rng.choice((hsv(0.13, 0.85, 0.98), (110, 70, 40)))
    sketch.ellipse(head, 9.5, 9.5, middle)


def draw_boat(sketch: Sketch, rng: random.Random) -> None:
    """Draw a sailing boat.

    sketch (Sketch): What to draw on.
    rng (random.Random): Decides the direction, the sails and the colours.
    """
    hull, sail, side = vivid(rng), rng.choice((WHITE, pale(rng), vivid(rng))), rng.choice((-1, 1))
    deck, keel = rng.uniform(70, 75), rng.uniform(88, 94)
    sketch.stroke([(50, 6), (50, deck)], 2.4, BARK, outline=0.6)
    sketch.polygon(
        [
            (50 + side * 3, 8),
            (50 + side * rng.uniform(30, 40), deck - 6),
            (50 + side * 3, deck - 6),
        ],
        sail,
    )
    jib = rng.choice((sail, vivid(rng)))
    sketch.polygon(
        [
            (50 - side * 3, 16),
            (50 - side * rng.uniform(24, 34), deck - 6),
            (50 - side * 3, deck - 6),
        ],
        jib,
    )
    sketch.polygon([(6, deck), (94, deck), (78, keel), (22, keel)], hull)
    sketch.stroke([(12, deck + 5), (88, deck + 5)], 1.6, WHITE, outline=0)
