"""Give a pipeline gold as input: entities, or the pairs whose relation is asked for, never the labels."""

from typing import Literal, TypeAlias, get_args

from spacy.tokens import Span
from spacy.training import Example

from .relations import ASKED, Pair, get_relations, has_relations, set_relations

Given: TypeAlias = Literal["none", "entities", "pairs"]
"""Nothing, the entities, or the entities and which pairs are annotated."""


def check_given(value: str) -> None:
    """RAISES (ValueError): The value is none of `Given`."""
    if value not in get_args(Given):
        raise ValueError(f"given is {value!r}; choose one of {', '.join(get_args(Given))}.")


def give(example: Example, given: Given) -> int:
    """Give the predicted doc, in place, what `given` says, instead of the relations it has.

    RETURNS (int): Pairs that could not be given; see `give_pairs`.
    """
    check_given(given)
    set_relations(example.predicted, None)
    if given != "none":
        give_entities(example)
    return give_pairs(example) if given == "pairs" else 0


def give_entities(example: Example) -> None:
    """Set the gold entities, if annotated, whose borders are borders of tokens, on the predicted doc."""
    reference = example.reference
    if reference.has_annotation("ENT_IOB"):
        example.predicted.set_ents(example.get_aligned_spans_y2x(reference.ents), default="outside")


def give_pairs(example: Example) -> int:
    """Ask for the pairs that are annotated, each once: relations with both types and the label `ASKED`.

    RETURNS (int): Pairs that are left out because no tokens of the predicted doc fit them.
    RAISES (ValueError): The gold relations are damaged.
    """
    reference, predicted = example.reference, example.predicted
    # Characters are the same even if the tokens differ; lower-casing leaves them where they are, too.
    same = len(predicted.text) == len(reference.text)
    same = same and predicted.text.lower() == reference.text.lower()
    asked: dict[Pair, tuple[Span, Span, str]] = {}
    lost = 0
    for relation in get_relations(reference):
        spans = [relation.head, relation.tail]
        if same:
            found = [predicted.char_span(x.start_char, x.end_char, label=x.label_) for x in spans]
        else:
            found = [next(iter(example.get_aligned_spans_y2x([x], allow_overlap=True)), None) for x in spans]
        if None in found:
            lost += 1
        else:
            head, tail = found
            pair = (head.start_char, head.end_char, tail.start_char, tail.end_char)
            asked.setdefault(pair, (head, tail, ASKED))
    set_relations(predicted, asked.values() if has_relations(reference) else None)
    return lost
