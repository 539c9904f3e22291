"""Relations as arcs over a row of their spans, laid out without a browser: widths of text are estimated."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ...post.relations import Relation
from .colours import get_hue

GAP = (44.0, 160.0)
"""Pixels between nodes: at least, and as much as labels need, at most."""
LEVEL = 26.0
"""Pixels between arcs that lie over each other: the height of a label."""
NODE_HEIGHT = 40.0
LONGEST = 28
"""Characters of a span, or of a label, that are shown; all of it is in the description."""


@dataclass(frozen=True)
class Node:
    """A span that is related to another.

    x, width (float): Pixels.
    text, label (str): As far as they are shown.
    hue (int): Degrees.
    title (str): Text and label in full.
    """

    x: float
    width: float
    text: str
    label: str
    hue: int
    title: str

    @property
    def middle(self) -> float:
        """RETURNS (float): Pixels."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Arc:
    """A relation.

    path, arrow (str): What an SVG path draws.
    x, y (float): Where its label stands, in pixels.
    text (str): The label, with the probability if there is one.
    title (str): The relation in words.
    """

    path: str
    arrow: str
    x: float
    y: float
    text: str
    title: str


@dataclass(frozen=True)
class ArcDrawing:
    """What is drawn: see `lay_out`.

    left, width, height (float): The view, in pixels; labels may reach beyond the nodes.
    base (float): Where the nodes begin, from above.
    """

    nodes: list[Node]
    arcs: list[Arc]
    left: float
    width: float
    height: float
    base: float

    @property
    def description(self) -> str:
        """RETURNS (str): All relations in words."""
        return "; ".join(arc.title for arc in self.arcs)


def lay_out(relations: Sequence[Relation]) -> ArcDrawing | None:
    """Place the spans of relations in a row, in the order of the text, and an arc for each relation.

    relations (Sequence[Relation]): Of one doc. Spans may overlap: each is a node of its own.
    RETURNS (Optional[ArcDrawing]): `None` without relations.
    """
    if not relations:
        return None
    spans = [span for relation in relations for span in (relation.head, relation.tail)]
    keys = sorted({(span.start, span.end, span.text, span.label_) for span in spans})
    widest = max(_measure(_get_text(relation), 6.8) for relation in relations)
    gap = min(max(widest, GAP[0]), GAP[1])
    nodes, x = [], 0.0
    for _, _, text, label in keys:
        shown, shown_label = _shorten(text), _shorten(label)
        width = max(_measure(shown, 8.0), _measure(shown_label, 6.5)) + 20.0
        title = f"{text} ({label})" if label else text
        nodes.append(Node(x, width, shown, shown_label, get_hue(label), title))
        x += width + gap
    place = {key: i for i, key in enumerate(keys)}
    ends = []
    for relation in relations:
        at = [
            nodes[place[(span.start, span.end, span.text, span.label_)]]
            for span in (relation.head, relation.tail)
        ]
        ends.append((relation, *_get_ends(*at)))
    return _draw(nodes, ends, x - gap)


def _draw(nodes: list[Node], ends: list[tuple[Relation, float, float]], right: float) -> ArcDrawing:
    # Short arcs first, as deep as there is room: long ones pass over them.
    order = sorted(range(len(ends)), key=lambda i: (abs(ends[i][2] - ends[i][1]), i))
    levels: list[list[tuple[float, float]]] = []
    level_of: dict[int, int] = {}
    left = 0.0
    for i in order:
        relation, start, end = ends[i]
        half = _measure(_get_text(relation), 6.8) / 2 + 6
        middle = (start + end) / 2
        low, high = min(start, end, middle - half), max(start, end, middle + half)
        left, right = min(left, low), max(right, high)
        # Above the highest arc that it meets.
        level = 0
        for number, taken in enumerate(levels):
            if any(low < b and a < high for a, b in taken):
                level = number + 1
        if level == len(levels):
            levels.append([])
        levels[level].append((low, high))
        level_of[i] = level
    base = 20.0 + LEVEL * len(levels)
    arcs = []
    for i, (relation, start, end) in enumerate(ends):
        top = base - 26.0 - LEVEL * level_of[i]
        arcs.append(_make_arc(relation, start, end, base, top))
    return ArcDrawing(nodes, arcs, left - 4, right - left + 8, base + NODE_HEIGHT + 2, base)


def _make_arc(relation: Relation, start: float, end: float, base: float, top: float) -> Arc:
    # The highest point of such a curve is at three quarters of the way to its control points.
    control = base - (base - top) * 4 / 3
    path = (
        f"M{start:.1f},{base:.1f} C{start:.1f},{control:.1f} {end:.1f},{control:.1f} {end:.1f},{base - 5:.1f}"
    )
    arrow = f"M{end - 4:.1f},{base - 8:.1f} L{end + 4:.1f},{base - 8:.1f} L{end:.1f},{base:.1f} Z"
    text = _get_text(relation)
    label = relation.label or "?"
    title = f"{relation.head.text} → {relation.tail.text}: {label}{_get_score(relation)}"
    return Arc(path, arrow, (start + end) / 2, top + 4, text, title)


def _get_ends(head: Node, tail: Node) -> tuple[float, float]:
    """RETURNS (Tuple[float, float]): Where an arc starts and ends: not both at the middle, so that the arcs
    of both directions can be told apart.
    """
    if head is tail:
        return head.middle - 10, head.middle + 10
    side = 1.0 if head.x < tail.x else -1.0
    return head.middle + 4.0 * side, tail.middle - 13.0 * side


def _get_text(relation: Relation) -> str:
    return _shorten(relation.label or "?") + _get_score(relation)


def _get_score(relation: Relation) -> str:
    return "" if relation.score is None else f" {relation.score * 100:.0f} %"


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _measure(text: str, width: float) -> float:
    """RETURNS (float): About how many pixels a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return width * (len(text) + 0.9 * wide)
