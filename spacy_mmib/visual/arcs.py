"""Relations as arcs over a row of their spans, laid out without a browser: widths of text are estimated.
(displaCy's arcs connect the tokens of a parse: no spans, none from a span to itself, labels are not escaped.)
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

from spacy.tokens import Span

from ..post.relations import Relation

GAP = 44.0
"""Pixels between nodes, at least: as much as the longest label needs."""
LEVEL = 26.0
"""Pixels between arcs that lie over each other: the height of a label."""
NODE_HEIGHT = 40.0
LONGEST = 28
"""Characters of a span, or of a label, that are shown; all of it is in the description."""

HUES = {"PER": 205, "PERSON": 205, "ORG": 30, "LOC": 130, "GPE": 130, "MISC": 290, "OTHER": 290}
"""Hues of frequent types, far from each other. The style sheet gives them lightness, so that text on them
has a contrast of at least 4.5:1, in light and in dark.
"""


def get_hue(label: str) -> int:
    """RETURNS (int): The hue of a label, 0-359 degrees, whatever else is on the page."""
    digest = hashlib.blake2b(label.encode("utf8", "replace"), digest_size=4).digest()
    return HUES.get(label.upper(), int.from_bytes(digest, "big") % 24 * 15)


def lay_out(relations: Sequence[Relation]) -> dict[str, Any] | None:
    """Place the spans of relations in a row, in the order of the text, and an arc for each relation.

    relations (Sequence[Relation]): Of one doc. Spans may overlap: each is a node of its own.
    RETURNS (Optional[Dict[str, Any]]): For the template, in pixels: "nodes", "arcs", the view ("left",
        "width", "height"; labels may reach beyond the nodes), "base" (where the nodes begin, from above), and
        "description" (all relations in words). `None` without relations.
    """
    if not relations:
        return None
    gap = max(GAP, *(_measure(_get_label(relation), 6.8) for relation in relations))
    nodes: dict[Any, dict[str, Any]] = {}
    right = -gap
    for key in sorted({_get_key(span) for relation in relations for span in (relation.head, relation.tail)}):
        *_, text, label = key
        shown, shown_label = _shorten(text), _shorten(label)
        width = max(_measure(shown, 8.0), _measure(shown_label, 6.5)) + 20.0
        nodes[key] = {
            "x": right + gap,
            "middle": right + gap + width / 2,
            "width": width,
            "text": shown,
            "label": shown_label,
            "hue": get_hue(label),
            "title": f"{text} ({label})" if label else text,
        }
        right += gap + width
    arcs = [_make_arc(rel, nodes[_get_key(rel.head)], nodes[_get_key(rel.tail)]) for rel in relations]
    placed: list[dict[str, Any]] = []
    # Short arcs first, as deep as there is room: long ones pass over them.
    for arc in sorted(arcs, key=lambda arc: abs(arc["end"] - arc["start"])):
        below = [other for other in placed if arc["low"] < other["high"] and other["low"] < arc["high"]]
        arc["level"] = max((other["level"] + 1 for other in below), default=0)
        placed.append(arc)
    base = 20.0 + LEVEL * (1 + max(arc["level"] for arc in arcs))
    for arc in arcs:
        arc["y"] = base - 22.0 - LEVEL * arc["level"]
        # The highest point of such a curve is at three quarters of the way to its control points.
        arc["control"] = base - (26.0 + LEVEL * arc["level"]) * 4 / 3
    left = min(0.0, *(arc["low"] for arc in arcs)) - 4
    return {
        "nodes": list(nodes.values()),
        "arcs": arcs,
        "left": left,
        "width": max(right, *(arc["high"] for arc in arcs)) + 4 - left,
        "height": base + NODE_HEIGHT + 2,
        "base": base,
        "description": "; ".join(arc["title"] for arc in arcs),
    }


def _make_arc(relation: Relation, head: dict[str, Any], tail: dict[str, Any]) -> dict[str, Any]:
    # Not both ends at the middle, so that the arcs of both directions can be told apart.
    side = 1.0 if head["x"] < tail["x"] else -1.0
    start, end = head["middle"] + 4.0 * side, tail["middle"] - 13.0 * side
    if head is tail:
        start, end = head["middle"] - 10, head["middle"] + 10
    text = _get_label(relation)
    half, middle = _measure(text, 6.8) / 2 + 6, (start + end) / 2
    return {
        "start": start,
        "end": end,
        "low": min(start, end, middle - half),
        "high": max(start, end, middle + half),
        "x": middle,
        "text": text,
        "title": f"{relation.head.text} → {relation.tail.text}: {_get_label(relation, whole=True)}",
    }


def _get_key(span: Span) -> tuple[int, int, str, str]:
    return span.start, span.end, span.text, span.label_


def _get_label(relation: Relation, *, whole: bool = False) -> str:
    label = relation.label or "?"
    score = "" if relation.score is None else f" {relation.score * 100:.0f} %"
    return (label if whole else _shorten(label)) + score


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _measure(text: str, width: float) -> float:
    """About how many pixels a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return width * (len(text) + 0.9 * wide)
