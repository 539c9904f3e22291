"""Which object of the picture an entity is: gold boxes of entities, and the regions that components found."""

import math
from dataclasses import dataclass
from typing import Any

from spacy.tokens import Doc, Span

from ..util import warn
from .regions import Region, normalize_regions, pack_region
from .user_data import (
    get_entry,
    get_rows,
    is_finite,
    is_whole,
    make_key,
    pack_text,
    set_entry,
    set_rows,
    unpack_text,
)

# Gold boxes of entities: [[start_char, end_char, [region, ...]], ...]
BOXES_KEY = ("spacy_mmib", "boxes", None, None)
# By component: {name: [[start_char, end_char, index of the region or None, score, source], ...]}
ENTITY_REGIONS_KEY = ("spacy_mmib", "entity_regions", None, None)

SAME = 0.5
"""Intersection over union from which on two boxes count as the same object, as in published scores."""


@dataclass(frozen=True)
class EntityRegion:
    """Which object an entity is, as a component found.

    index (Optional[int]): Of `doc._.regions`; `None`: the entity is not in the picture.
    score (float): Its probability, 0-1.
    source (str): What found it, "pointer" or "occlusion".
    """

    index: int | None
    score: float
    source: str


def get_boxes(span: Span) -> list[Region] | None:
    """RETURNS (Optional[List[Region]]): The gold boxes of an entity, which it can be seen in; empty if it
    is not in the picture, `None` if that isn't annotated (or can't be read, which a warning says).
    """
    place, stored = [span.start_char, span.end_char], get_entry(span.doc, BOXES_KEY)
    for row in stored if isinstance(stored, (list, tuple)) else ():
        if _is_of(row, place) and len(row) == 3:
            try:
                return check_boxes(row[2])
            except (TypeError, ValueError) as err:  # written past the setter
                warn(f"The boxes of {span.text[:60]!r} count as not annotated: {err}")
                return None
    return None


def set_boxes(span: Span, boxes: Any) -> None:
    """Annotate in which boxes an entity can be seen, in place of what was annotated.

    boxes (Optional[Iterable]): In the forms that `doc._.regions` takes, without crops; empty for an entity
        that is not in the picture, `None` for "not annotated".
    RAISES (TypeError, ValueError): Something else, or a box without area.
    """
    checked = None if boxes is None else check_boxes(boxes)
    place, stored = [span.start_char, span.end_char], get_entry(span.doc, BOXES_KEY)
    rows = list(stored) if isinstance(stored, (list, tuple)) else []
    rows = [row for row in rows if not _is_of(row, place)]
    if checked is not None:
        rows.append([*place, [pack_region(box) for box in checked]])
    set_entry(span.doc, BOXES_KEY, rows or None)


def _is_of(row: Any, place: list[int]) -> bool:
    """Whether this is a row of what is at this place."""
    return isinstance(row, (list, tuple)) and all(map(is_whole, row[:2])) and list(row[:2]) == place


def has_boxes(doc: Doc) -> bool:
    """RETURNS (bool): Whether boxes of any entity are annotated, be it with none at all (`[]`)."""
    return bool(get_entry(doc, BOXES_KEY))


def check_boxes(values: Any) -> list[Region]:
    """RETURNS (List[Region]): Boxes, normalized; `TypeError` or `ValueError` for a crop, or without area."""
    boxes = normalize_regions(values, name="ent._.boxes")
    for i, box in enumerate(boxes):
        if isinstance(box, str):
            raise TypeError(f"ent._.boxes[{i}] is a path, {box[:60]!r}: an entity has boxes, no crops.")
        x0, y0, x1, y1 = box["box"]
        if not (all(map(math.isfinite, box["box"])) and x0 < x1 and y0 < y1):
            raise ValueError(
                f"ent._.boxes[{i}] is {box['box']}, which has no area: a box is (x0, y0, x1, y1) in pixels, "
                "with x0 < x1 and y0 < y1. For an entity that is not in the picture, assign []."
            )
    return boxes


def get_iou(a: Region, b: Region) -> float:
    """RETURNS (float): Intersection over union; 0 for crops, in two pictures, or without (finite) area."""
    if isinstance(a, str) or isinstance(b, str) or a.get("image", 0) != b.get("image", 0):
        return 0.0
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a["box"], b["box"]
    if not (all(map(math.isfinite, (*a["box"], *b["box"]))) and ax0 < ax1 and ay0 < ay1):
        return 0.0
    both = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    return both / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both) if both else 0.0


def is_one_of(region: Region, boxes: list[Region]) -> bool:
    """RETURNS (bool): Whether a region is the same object as one of these boxes (IoU of at least `SAME`)."""
    return any(get_iou(region, box) >= SAME for box in boxes)


def set_entity_regions(doc: Doc, name: str, found: dict[tuple[int, int], EntityRegion]) -> None:
    """Keep which objects a component took entities (first character, one past the last) for."""
    rows = [[*place, x.index, float(x.score), pack_text(x.source)] for place, x in found.items()]
    set_rows(doc, ENTITY_REGIONS_KEY, name, rows)


def get_region(span: Span) -> EntityRegion | None:
    """RETURNS (Optional[EntityRegion]): Which of `doc._.regions` an entity is, or that it isn't in the
    picture, as the component found that ran last; `None` if nobody has looked.
    """
    doc, result = span.doc, None
    if ENTITY_REGIONS_KEY not in doc.user_data:
        return None
    stored = get_entry(doc, make_key("regions"))
    try:
        n_regions = 0 if stored is None else len(normalize_regions(stored))
    except TypeError:  # written past the setter
        return None
    for _, row in get_rows(doc, ENTITY_REGIONS_KEY):
        if len(row) == 5 and all(map(is_whole, row[:2])) and is_finite(row[3]) and 0 <= row[3] <= 1:
            index, source = row[2], unpack_text(row[4])
            known = index is None or (is_whole(index) and index < n_regions)
            if known and source is not None and tuple(row[:2]) == (span.start_char, span.end_char):
                result = EntityRegion(None if index is None else int(index), float(row[3]), source)
    return result
