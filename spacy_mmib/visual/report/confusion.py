"""Which labels are taken for which."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...evaluation.errors import AnyError, EntityError, PostChange
from ...post.relations import ASKED, has_relations, read_relations

SPURIOUS = "spurious"
MISSED = "missed"
BOUNDARY = "boundary"


@dataclass(frozen=True)
class Confusion:
    """A matrix of counts.

    rows (List[str]): Gold labels, and at the end "spurious": predictions that nothing gold belongs to.
    columns (List[str]): Predicted labels, and at the end "boundary" (entities of which only a part, or more,
        was found, under whatever label) and "missed".
    counts (List[List[int]]): By row and column. A gold label's row sums up to how often it is gold.
    """

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]
    n_labels: int

    def shares(self) -> list[list[float]]:
        """RETURNS (List[List[float]]): How large each count is, 0-1: of what is gold, or in the last row of
        what is predicted under this label.
        """
        *gold, spurious = self.counts
        predicted = [sum(column) for column in zip(*self.counts)]
        shares = [[count / max(1, sum(row)) for count in row] for row in gold]
        return [*shares, [count / max(1, total) for count, total in zip(spurious, predicted)]]


class _Cell(NamedTuple):
    """A label, nothing (missed or spurious), or a part of an entity."""

    label: str | None = None
    partly: bool = False


def count_entity_confusion(posts: Iterable[PostChange]) -> Confusion | None:
    """RETURNS (Optional[Confusion]): Of the types of entities; `None` if there are none."""
    gold: Counter[str] = Counter()
    errors: list[AnyError] = []
    for post in posts:
        if post.reference.has_annotation("ENT_IOB"):
            gold.update(ent.label_ for ent in post.reference.ents)
        errors += [error for error in post.errors if isinstance(error, EntityError)]
    return _make(gold, errors, [BOUNDARY, MISSED])


def count_relation_confusion(posts: Iterable[PostChange], negative_label: str) -> Confusion | None:
    """RETURNS (Optional[Confusion]): Of relations; `None` if there are none."""
    gold: Counter[str] = Counter()
    errors: list[AnyError] = []
    for post in posts:
        if has_relations(post.reference):
            found = {(relation.pair, relation.label) for relation in read_relations(post.reference)}
            unknown = {pair for pair, label in found if label == ASKED}
            gold.update(label for pair, label in found if pair not in unknown and label != negative_label)
        errors += [error for error in post.errors if not isinstance(error, EntityError)]
    return _make(gold, errors, [MISSED])


def _make(gold: "Counter[str]", errors: Sequence[AnyError], more: list[str]) -> Confusion | None:
    # What isn't a label is an object of its own, as a label may have any name.
    cells: Counter[tuple[_Cell, _Cell]] = Counter()
    right = Counter(gold)
    for error in errors:
        row, column = (
            _Cell() if where is None else _Cell(str(where[-1])) for where in (error.gold, error.predicted)
        )
        if row.label is not None:
            right[row.label] -= 1
        cells[(row, _Cell(partly=True) if error.kind == BOUNDARY else column)] += 1
    for label, count in right.items():
        cells[(_Cell(label), _Cell(label))] += count
    labels = sorted({cell.label for pair in cells for cell in pair if cell.label is not None})
    if not labels:
        return None
    rows = [*map(_Cell, labels), _Cell()]
    columns = [*map(_Cell, labels), *([_Cell(partly=True)] if BOUNDARY in more else []), _Cell()]
    counts = [[cells[(row, column)] for column in columns] for row in rows]
    return Confusion([*labels, SPURIOUS], [*labels, *more], counts, len(labels))
