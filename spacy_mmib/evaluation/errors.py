"""What a pipeline gets wrong, by kind of error, and what of that its pictures are to blame for or spared it
(the paper's §V-E).

Entities have four kinds of errors, relations three. One gold and one predicted annotation are at most in one
error, so that the numbers add up:

| kind | entities | relations |
|---|---|---|
| `type` | the right tokens, another label | the right pair, another label |
| `boundary` | tokens that overlap, but aren't the same, whatever the label: both are there to see | |
| `missed` | a gold entity without a prediction of its own | a gold relation without a prediction |
| `spurious` | a prediction without a gold entity of its own | a prediction without a gold relation |
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from .ablation import remove_images
from .evaluate import Roles, get_roles, predict_examples
from .scorers import Entity, align_entities, match_pairs

KINDS = (
    *(f"entity {kind}" for kind in ("boundary", "type", "missed", "spurious")),
    *(f"relation {kind}" for kind in ("type", "missed", "spurious")),
)


@dataclass(frozen=True)
class Error:
    """An error of an entity or a relation, one of `KINDS`.

    gold (Optional[Tuple]): Of a gold entity the first token and one past the last, both of the predicted doc,
        and its label; of a relation the tokens of the head, those of the tail, and its label. `None` if it is
        spurious.
    predicted (Optional[Tuple]): The same of the prediction; `None` if it is missed.
    """

    what: str
    kind: str
    gold: tuple[Any, ...] | None
    predicted: tuple[Any, ...] | None


def find_entity_errors(example: Example) -> list[Error]:
    """Find the errors among the entities of a post. What is right, and what is left out, is the same as
    in spaCy's scores: predictions on tokens whose gold annotation is missing count neither way.

    Gold and predicted entities are matched one to one: the same tokens and label first, then the same tokens,
    then those that overlap; of these the longest overlap, then the same label, then what comes first.

    RETURNS (List[Error]): In the order of the text; none if the post is not annotated for entities.
    """
    gold, found = align_entities(example) or ([], [])
    pairs = _match(gold, [entity for _, entity in found])
    predicted = [(ent.start, ent.end, ent.label_) for ent, _ in found]
    errors = []
    for i, (start, end, label) in enumerate(gold):
        right = (*_to_predicted(example, start, end), label)
        j = pairs.get(i)
        if j is None:
            errors.append(Error("entity", "missed", right, None))
        elif found[j][1] != gold[i]:
            kind = "type" if found[j][1][:2] == (start, end) else "boundary"
            errors.append(Error("entity", kind, right, predicted[j]))
    for j in set(range(len(found))) - set(pairs.values()):
        errors.append(Error("entity", "spurious", None, predicted[j]))
    return sorted(errors, key=_position)


def _match(gold: list[Entity], found: list[Entity]) -> dict[int, int]:
    """RETURNS (Dict[int, int]): Which prediction belongs to which gold entity."""
    candidates = []
    for i, (start, end, label) in enumerate(gold):
        for j, (other_start, other_end, other_label) in enumerate(found):
            overlap = min(end, other_end) - max(start, other_start)
            if overlap > 0:
                same = (start, end) == (other_start, other_end)
                candidates.append((not same, -overlap, label != other_label, i, j))
    pairs: dict[int, int] = {}
    for *_, i, j in sorted(candidates):
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def find_relation_errors(example: Example, *, negative_label: str = "None") -> list[Error]:
    """Find the errors among the relations of a post. A pair is the same if the characters of head and tail
    are, as in `spacy-mmib.rel_scorer.v1`; the types of both play no role. Pairs with a gold label that is not
    known ("") are left out, with what is predicted for them.

    RETURNS (List[Error]): In the order of the text; none if the post is not annotated for relations.
    """
    errors = []
    for gold, answers in match_pairs(example, negative_label) or ():
        wanted = {relation.label: relation for relation in gold if relation.label != negative_label}
        missed, wrong = sorted(set(wanted) - set(answers)), sorted(set(answers) - set(wanted))
        for gold_label, label in zip_longest(missed, wrong):
            right = predicted = None
            if gold_label is not None:
                spans = (wanted[gold_label].head, wanted[gold_label].tail)
                where = [_to_predicted(example, span.start, span.end) for span in spans]
                right = (*where[0], *where[1], gold_label)
            if label is not None:
                head, tail = answers[label].head, answers[label].tail
                predicted = (head.start, head.end, tail.start, tail.end, label)
            kind = "type" if right and predicted else "missed" if right else "spurious"
            errors.append(Error("relation", kind, right, predicted))
    return sorted(errors, key=_position)


def _to_predicted(example: Example, start: int, end: int) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): The predicted tokens that these gold ones touch, or an empty range."""
    y2x = example.alignment.y2x
    indices = y2x[start:end]
    if len(indices):
        return int(indices[0]), int(indices[-1]) + 1
    before = y2x[:start]
    place = int(before[-1]) + 1 if len(before) else 0
    return place, place


def _position(error: Error) -> tuple[Any, ...]:
    where = error.gold or error.predicted
    assert where is not None
    return (*where[:-1], error.gold is None)


@dataclass(frozen=True, eq=False)
class PostChange:
    """A post, predicted with its picture and without.

    index (int): Its number among the posts, from 0.
    errors (List[Error]): Of `doc`: entities, if the pipeline finds them, then relations.
    """

    index: int
    reference: Doc
    doc: Doc
    without: Doc
    errors: list[Error]
    errors_without: list[Error]

    @property
    def added(self) -> list[Error]:
        """RETURNS (List[Error]): Errors made with the picture only."""
        return list((Counter(self.errors) - Counter(self.errors_without)).elements())

    @property
    def repaired(self) -> list[Error]:
        """RETURNS (List[Error]): Errors made without the picture only."""
        return list((Counter(self.errors_without) - Counter(self.errors)).elements())


def compare_pictures(
    nlp: Language, get_examples: Callable[[], Iterable[Example]], *, batch_size: int | None = None
) -> list[PostChange]:
    """RETURNS (List[PostChange]): Posts with other errors without their picture, see `sort_changes`."""
    return sort_changes(predict_both(nlp, list(get_examples()), batch_size=batch_size))


def predict_both(
    nlp: Language, examples: Sequence[Example], *, batch_size: int | None = None
) -> list[PostChange]:
    """RETURNS (List[PostChange]): All posts, in order; see `predict_examples`."""
    roles = get_roles(nlp)
    own, without = (
        {id(eg.reference): eg for eg in predict_examples(nlp, posts, batch_size=batch_size)}
        for posts in (examples, remove_images(examples))
    )
    keys = [id(example.reference) for example in examples]
    return [compare(i, own[k], without[k], roles) for i, k in enumerate(keys) if k in own and k in without]


def compare(index: int, own: Example, without: Example, roles: Roles) -> PostChange:
    """RETURNS (PostChange): A post, of its predictions with its picture and without."""

    def find(example: Example) -> list[Error]:
        errors = find_entity_errors(example) if roles.recognizers else []
        if roles.extractors:
            errors += find_relation_errors(example, negative_label=roles.negative_label)
        return errors

    docs = (own.reference, own.predicted, without.predicted)
    return PostChange(index, *docs, find(own), find(without))


def sort_changes(posts: Iterable[PostChange]) -> list[PostChange]:
    """RETURNS (List[PostChange]): Those that changed, most errors added first, then fewest repaired."""
    changed = [post for post in posts if post.added or post.repaired]
    return sorted(changed, key=lambda post: (-len(post.added), len(post.repaired), post.index))


def count_kinds(errors: Sequence[Error]) -> dict[str, int]:
    """RETURNS (Dict[str, int]): Errors of each kind, under "entity boundary", "relation missed" and so on."""
    counts = dict.fromkeys(KINDS, 0)
    for error in errors:
        counts[f"{error.what} {error.kind}"] += 1
    return counts
