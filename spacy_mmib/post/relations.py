"""What `doc._.relations` holds: relations between spans of a post.

They are kept in `Doc.user_data` as plain rows with characters as offsets: every way of storing a doc keeps
them, and any tokenization of the same text can read them.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from spacy.tokens import Doc, Span

from ..util import show, warn
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

RELATIONS_KEY = make_key("relations")
# Relations by the component that predicted them: {name: [[*pair, label, asked], ...]}
PREDICTED_RELATIONS_KEY = ("spacy_mmib", "predicted_relations", None, None)

ASKED = ""
"""The label of a pair whose relation is not known: a question to `mmib_rel` with given pairs, and not
annotated in training data."""

Pair: TypeAlias = tuple[int, int, int, int]
"""Head and tail of a relation: first character and one past the last of each."""

ACCEPTED = (
    "a Relation, a tuple (head, tail, label) or (head, tail, label, score), or a dict with these keys; head "
    "and tail are a Span, a pair of token offsets (start, end), or a dict with the characters "
    '{"start": ..., "end": ...}'
)


@dataclass(frozen=True)
class Relation:
    """A relation between two spans of a doc.

    head, tail (Span): From where to where: the person and the organization of "member of". They may overlap;
        their `label_` is the type of the entity, "" if that is not known.
    label (str): What the relation is; "" if it is not known.
    score (Optional[float]): Probability of the label, 0-1; `None` for gold annotations.
    """

    head: Span
    tail: Span
    label: str
    score: float | None = None

    @property
    def pair(self) -> Pair:
        """RETURNS (Pair): Characters of head and tail."""
        return self.head.start_char, self.head.end_char, self.tail.start_char, self.tail.end_char

    def to_json(self) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): Plain values: "head" and "tail" (each with "start", "end" in characters,
        "start_token", "end_token", "text", "label"), "label", "score". `doc._.relations` takes them back.
        """
        head, tail = (
            {
                "start": span.start_char,
                "end": span.end_char,
                "start_token": span.start,
                "end_token": span.end,
                "text": span.text,
                "label": span.label_,
            }
            for span in (self.head, self.tail)
        )
        return {"head": head, "tail": tail, "label": self.label, "score": self.score}


def relations_to_json(doc: Doc) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): `Relation.to_json` of each of `doc._.relations`."""
    return [relation.to_json() for relation in get_relations(doc)]


def has_relations(doc: Doc) -> bool:
    """RETURNS (bool): Whether the doc is annotated for relations, be it with none at all (`[]`)."""
    return get_entry(doc, RELATIONS_KEY) is not None


def get_relations(doc: Doc) -> list[Relation]:
    """RETURNS (List[Relation]): The relations; empty if none are known. A new list: to change it, assign.
    RAISES (ValueError): What is stored is no relations of this doc.
    """
    stored = get_entry(doc, RELATIONS_KEY)
    if stored is None:
        return []
    if not isinstance(stored, (list, tuple)):
        raise ValueError(
            f"doc._.relations of {_name(doc)} holds {show(stored, str)!r}, not a list of relations. Assign "
            f"to doc._.relations, which checks what it takes: {ACCEPTED}."
        )
    return [_from_row(doc, row, i) for i, row in enumerate(stored)]


def read_relations(doc: Doc) -> list[Relation]:
    """RETURNS (List[Relation]): The same for `doc._.relations`: none, with a warning, if unreadable."""
    try:
        return get_relations(doc)
    except ValueError as err:  # written past the setter
        warn(f"A post counts as one without relations, as they can't be read: {err}")
        return []


def set_relations(doc: Doc, values: Any) -> None:
    """Annotate relations, in place of those that were there.

    values (Optional[Iterable]): Each a relation in one of the forms of `ACCEPTED`; `None` for "not
        annotated", which is not the same as an empty list.
    RAISES (TypeError, ValueError): Something else, or spans that are not in the doc.
    """
    if values is None:
        return set_entry(doc, RELATIONS_KEY, None)
    if isinstance(values, (str, bytes, dict, Relation)) or not isinstance(values, Iterable):
        raise TypeError(
            f"doc._.relations takes a list, of which each is {ACCEPTED}; got {type(values).__name__}."
        )
    rows = []
    for i, value in enumerate(values):
        try:
            rows.append(_to_row(doc, value))
        except (TypeError, ValueError) as err:
            kind = TypeError if isinstance(err, TypeError) else ValueError
            raise kind(f"doc._.relations[{i}]: {err}") from None
    set_entry(doc, RELATIONS_KEY, rows)


def _from_row(doc: Doc, row: Any, i: int) -> Relation:
    try:
        head_start, head_end, head_label, tail_start, tail_end, tail_label, label, score = row
        stored = [head_label, tail_label, label]
        texts = [text for text in map(unpack_text, stored) if text is not None]
        if len(texts) < 3:
            raise ValueError(f"its labels are {show(stored)}, not strings")
        head = _char_span(doc, head_start, head_end, texts[0])
        tail = _char_span(doc, tail_start, tail_end, texts[1])
        if not (score is None or is_finite(score)):
            raise ValueError(f"the score is {show(score)}")
        return Relation(head, tail, texts[2], None if score is None else float(score))
    except (TypeError, ValueError, OverflowError) as err:
        raise ValueError(f"doc._.relations[{i}] of {_name(doc)}: {err}") from None


def _to_row(doc: Doc, value: Any) -> list[Any]:
    if isinstance(value, Relation):
        value = (value.head, value.tail, value.label, value.score)
    elif isinstance(value, dict):
        missing = {"head", "tail", "label"} - set(value)
        if missing:
            raise TypeError(f"it lacks {', '.join(sorted(missing))}; it takes {ACCEPTED}.")
        value = (value["head"], value["tail"], value["label"], value.get("score"))
    elif not isinstance(value, Sequence) or isinstance(value, str) or len(value) not in (3, 4):
        raise TypeError(f"it is {show(value, str)!r}, but it takes {ACCEPTED}.")
    head, tail, label, score = (*value, None)[:4]
    if not isinstance(label, str):
        raise TypeError(f'the label is a string ("" if it is not known), not {show(label)}.')
    if score is not None:
        try:
            score = float(score)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"the score is a number or None, not {show(score)}.") from None
        if not math.isfinite(score):
            raise ValueError(f"the score is {score}.")
    return [*_to_offsets(doc, head), *_to_offsets(doc, tail), pack_text(label), score]


def _to_offsets(doc: Doc, value: Any) -> tuple[int, int, str]:
    """RETURNS (Tuple[int, int, str]): Characters and entity type of a head or tail."""
    if isinstance(value, Span):
        if value.doc is not doc and doc.text[value.start_char : value.end_char] != value.text:
            raise ValueError(f"the span {value.text!r} is of another doc, with another text")
        span = _char_span(doc, value.start_char, value.end_char, value.label_)
    elif isinstance(value, dict) and {"start", "end"} <= set(value):
        span = _char_span(doc, value["start"], value["end"], str(value.get("label") or ""))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == 2:
        start, end = _to_whole("token offsets", *value)
        if not 0 <= start < end <= len(doc):
            raise ValueError(f"the tokens {start} to {end} are not in a doc of {len(doc)} tokens")
        span = doc[start:end]
    else:
        raise TypeError(f"{show(value, str)!r} is no span. It takes {ACCEPTED}.")
    return span.start_char, span.end_char, span.label_


def _char_span(doc: Doc, start: Any, end: Any, label: str) -> Span:
    start, end = _to_whole("characters", start, end)
    # Not len(doc.text), which would write the whole text for each span.
    length = doc[-1].idx + len(doc[-1].text_with_ws) if len(doc) else 0
    inside = 0 <= start < end <= length
    # Other tokens than when it was stored: the whole tokens it touches.
    span = doc.char_span(start, end, label=label, alignment_mode="expand") if inside else None
    if span is None:
        raise ValueError(
            f"the characters {show(start)} to {show(end)} are no span of a text of {length} characters"
        )
    return span


def _to_whole(what: str, start: Any, end: Any) -> tuple[int, int]:
    try:
        return operator.index(start), operator.index(end)
    except TypeError:
        raise TypeError(f"{what} are whole numbers, not {show(start)} and {show(end)}") from None


def _name(doc: Doc) -> str:
    return repr(doc.text if len(doc.text) <= 60 else doc.text[:57] + "...")


def get_predicted_relations(doc: Doc, name: str) -> dict[tuple[Pair, str], bool]:
    """RETURNS (Dict[Tuple[Pair, str], bool]): A component's predictions, and whether they were asked for."""
    found = {}
    for _, row in get_rows(doc, PREDICTED_RELATIONS_KEY, name):
        label = unpack_text(row[4]) if len(row) == 6 else None
        if label is not None and all(map(is_whole, row[:4])):
            a, b, c, d = row[:4]
            found[(a, b, c, d), label] = bool(row[5])
    return found


def set_predicted_relations(doc: Doc, name: str, predicted: dict[tuple[Pair, str], bool]) -> None:
    """Keep what a component predicted for a doc, instead of what it predicted before."""
    rows = [[*pair, pack_text(label), asked] for (pair, label), asked in predicted.items()]
    set_rows(doc, PREDICTED_RELATIONS_KEY, name, rows)
