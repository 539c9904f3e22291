"""What scores are made of, post by post: needed to tell whether two systems differ by more than chance."""

from collections.abc import Sequence
from typing import NamedTuple

from spacy.training import Example

from .relation_scorer import count_relations


class DocumentCounts(NamedTuple):
    """Counts of one post, or of many.

    predicted (int): Predictions.
    right (int): Those of them that are right.
    gold (int): Gold annotations.
    found (int): Those of them that were predicted; differs from `right` only as `relation_scorer` says.
    """

    predicted: int
    right: int
    gold: int
    found: int


def count_document_entities(example: Example) -> DocumentCounts:
    """Count the entities of a post as spaCy's `ents_p/r/f` do: predictions on tokens whose gold is missing
    are neither right nor wrong.

    example (Example): The gold and the predicted doc.
    RETURNS (DocumentCounts): Zeros if the post isn't annotated.
    """
    reference = example.reference
    if not reference.has_annotation("ENT_IOB"):
        return DocumentCounts(0, 0, 0, 0)
    golds = {(ent.label_, ent.start, ent.end) for ent in reference.ents}
    n_gold, predicted, right = len(golds), 0, 0
    x2y = example.alignment.x2y
    for ent in example.predicted.ents:
        indices = x2y[ent.start : ent.end]
        if not len(indices):
            continue
        start, end = int(indices[0]), int(indices[-1]) + 1
        if any(token.ent_iob == 0 for token in reference[start:end]):
            continue
        predicted += 1
        if (ent.label_, start, end) in golds:
            golds.remove((ent.label_, start, end))
            right += 1
    return DocumentCounts(predicted, right, n_gold, right)


def count_document_relations(example: Example, negative_label: str = "None") -> DocumentCounts:
    """Count the relations of a post as `rel_micro_p/r/f` do.

    example (Example): The gold and the predicted doc.
    negative_label (str): See `spacy-mmib.rel_scorer.v1`.
    RETURNS (DocumentCounts): Zeros if the post isn't annotated for relations.
    """
    counts = count_relations(example, negative_label=negative_label)
    return DocumentCounts(counts.predicted, counts.right, counts.gold, counts.found)


def sum_counts(counts: Sequence[Sequence[int]]) -> DocumentCounts:
    """RETURNS (DocumentCounts): Of all posts together."""
    columns = zip(*counts) if len(counts) else ((0,),) * 4
    return DocumentCounts(*(sum(column) for column in columns))


def get_prf(counts: Sequence[int]) -> tuple[float, float, float]:
    """RETURNS (Tuple[float, float, float]): Precision, recall and F, 0-1; 0 where there is nothing to divide
    by.
    """
    predicted, right, gold, found = counts
    p = right / predicted if predicted else 0.0
    r = found / gold if gold else 0.0
    return p, r, 2 * p * r / (p + r) if p + r else 0.0
