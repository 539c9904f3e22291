"""Which pairs of spans of a post may be related: the setting `get_instances` of `mmib_rel`."""

from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import TypeAlias

from spacy.tokens import Doc, Span
from spacy.util import registry

from ..post.relations import get_relations

GetInstances: TypeAlias = Callable[[Doc], list[tuple[Span, Span]]]
"""Head and tail of each candidate, spans of the doc, which may overlap. Called on predicted docs, and in
training on the reference, whose tokens may be others."""


@registry.misc("spacy-mmib.ordered_pairs.v1")
def make_ordered_pairs_v1(max_distance: int | None = 100, spans_key: str | None = None) -> GetInstances:
    """Build a `get_instances` of all ordered pairs of a post's entities.

    max_distance (Optional[int]): Pairs with more tokens than this between head and tail are left out;
        `None` for no limit.
    spans_key (Optional[str]): Pairs of `doc.spans[spans_key]`, which may overlap, instead of `doc.ents`.
    RETURNS (Callable[[Doc], List[Tuple[Span, Span]]]): The function.
    RAISES (ValueError): A negative distance.
    """
    if max_distance is not None and max_distance < 0:
        raise ValueError(f"max_distance is 0 or more tokens, or null, not {max_distance}.")

    # No closures here: a pipeline is pickled when it is given to other processes.
    return partial(_get_ordered_pairs, max_distance=max_distance, spans_key=spans_key)


def _get_ordered_pairs(
    doc: Doc, *, max_distance: int | None, spans_key: str | None
) -> list[tuple[Span, Span]]:
    spans = list(doc.ents)
    if spans_key is not None:
        spans = list(doc.spans[spans_key]) if spans_key in doc.spans else []
    limit = float("inf") if max_distance is None else max_distance
    return [
        (head, tail)
        for head, tail in permutations(spans, 2)
        # A group of spans may have one span twice, with two labels.
        if (head.start, head.end) != (tail.start, tail.end)
        and max(head.start, tail.start) - min(head.end, tail.end) <= limit
    ]


@registry.misc("spacy-mmib.given_pairs.v1")
def make_given_pairs_v1() -> GetInstances:
    """Build a `get_instances` of the pairs that `doc._.relations` names, whatever their labels: all that
    are annotated in training (pairs without a relation have to be annotated with the negative label), and
    in prediction those that were asked for, with the empty label.

    RETURNS (Callable[[Doc], List[Tuple[Span, Span]]]): The function.
    """
    return get_given_pairs


def get_given_pairs(doc: Doc) -> list[tuple[Span, Span]]:
    """RETURNS (List[Tuple[Span, Span]]): Heads and tails of `doc._.relations`."""
    return [(relation.head, relation.tail) for relation in get_relations(doc)]
