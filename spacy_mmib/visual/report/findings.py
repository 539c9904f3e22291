"""Run a pipeline on a corpus with its pictures, without and with shuffled ones, and count what it takes
for what.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.errors import AnyError, EntityError, PostChange, find_errors
from ...evaluation.evaluate import Roles, evaluate, get_roles, join_stages
from ...post.relations import ASKED, has_relations, read_relations

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example


@dataclass(frozen=True)
class Findings:
    """What a report is made of.

    metrics (Dict[str, Dict[str, Any]]): What `spacy mmib evaluate` finds, for "own", and if any post has a
        picture for "none" and "shuffled".
    posts (List[PostChange]): All posts, in order. Without pictures in the corpus, `without` is `doc`.
    roles (Roles): Who does what in the pipeline.
    """

    metrics: dict[str, dict[str, Any]]
    posts: list[PostChange]
    roles: Roles

    @property
    def compared(self) -> bool:
        """RETURNS (bool): Whether there are pictures to take away."""
        return "none" in self.metrics


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


def find(
    nlp: "Language",
    corpus: str | Path,
    *,
    image_root: str | Path | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Findings:
    """Evaluate a pipeline, with the pictures, without and shuffled.

    nlp (Language): The pipeline.
    corpus (Union[str, Path]): A `.spacy` file, or a folder of them.
    image_root (Optional[Union[str, Path]]): See `MultimodalCorpus`.
    seed (int): Of the shuffling.
    batch_size (Optional[int]): Posts at a time.
    RETURNS (Findings): What was found.
    RAISES (EvaluationError): The corpus can't be read or has no posts.
    """
    roles = get_roles(nlp)
    metrics: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[Example]] = {}
    for images in ("own", "none", "shuffled"):
        parts: dict[str, list[Example]] = {}
        metrics[images] = evaluate(
            nlp,
            corpus,
            images=images,
            seed=seed,
            image_root=image_root,
            batch_size=batch_size,
            see=parts.__setitem__,
        )
        if images != "shuffled":
            seen[images] = join_stages(roles, **parts)
        if not metrics["own"]["pictures"]["with_picture"]:
            break
    posts = []
    for i, (example, other) in enumerate(zip(seen["own"], seen.get("none", seen["own"]), strict=True)):
        errors = find_errors(example, roles)
        without = errors if other is example else find_errors(other, roles)
        posts.append(PostChange(i, example.reference, example.predicted, other.predicted, errors, without))
    return Findings(metrics, posts, roles)


def count_entity_confusion(posts: Iterable[PostChange]) -> Confusion | None:
    """RETURNS (Optional[Confusion]): Of the types of entities; `None` if there are none."""
    gold: Counter[str] = Counter()
    errors: list[AnyError] = []
    for post in posts:
        if post.reference.has_annotation("ENT_IOB"):
            gold.update(ent.label_ for ent in post.reference.ents)
        errors += [error for error in post.errors if isinstance(error, EntityError)]
    return _count(gold, errors, ["boundary", "missed"])


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
    return _count(gold, errors, ["missed"])


def _count(gold: "Counter[str]", errors: Sequence[AnyError], others: list[str]) -> Confusion | None:
    # A label is a tuple here: it may have any name, "missed" for one.
    cells: Counter[tuple[Any, Any]] = Counter({((label,), (label,)): n for label, n in gold.items()})
    for error in errors:
        row = "spurious" if error.gold is None else error.gold[-1:]
        column = "missed" if error.predicted is None else error.predicted[-1:]
        cells[row, "boundary" if error.kind == "boundary" else column] += 1
        if error.gold is not None:
            cells[row, row] -= 1
    labels = sorted({cell[0] for pair in cells for cell in pair if isinstance(cell, tuple)})
    if not labels:
        return None
    keys = [(label,) for label in labels]
    counts = [[cells[row, column] for column in (*keys, *others)] for row in (*keys, "spurious")]
    return Confusion([*labels, "spurious"], [*labels, *others], counts, len(labels))
