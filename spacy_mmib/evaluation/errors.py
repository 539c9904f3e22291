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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from ..post.relations import ASKED, Pair, Relation, get_relations, has_relations
from ..util import warn
from .ablation import remove_images
from .predicting import GetExamples, Roles, get_roles, predict_examples

ENTITY_KINDS = ("boundary", "type", "missed", "spurious")
RELATION_KINDS = ("type", "missed", "spurious")


class EntityError(NamedTuple):
    """An error.

    kind (str): "boundary", "type", "missed" or "spurious"; see above.
    gold (Optional[Tuple[int, int, str]]): First token and one past the last, both of the predicted doc, and
        label of the gold entity; `None` if it is spurious.
    predicted (Optional[Tuple[int, int, str]]): The same of the prediction; `None` if it is missed.
    """

    kind: str
    gold: tuple[int, int, str] | None
    predicted: tuple[int, int, str] | None


class RelationError(NamedTuple):
    """An error.

    kind (str): "type", "missed" or "spurious"; see above.
    gold (Optional[Tuple[int, int, int, int, str]]): First token and one past the last of the head, then of
        the tail, all of the predicted doc, and the label; `None` if it is spurious.
    predicted (Optional[Tuple[int, int, int, int, str]]): The same of the prediction; `None` if it is missed.
    """

    kind: str
    gold: tuple[int, int, int, int, str] | None
    predicted: tuple[int, int, int, int, str] | None


AnyError: TypeAlias = EntityError | RelationError


def find_entity_errors(example: Example) -> list[EntityError]:
    """Find the errors among the entities of a post. What is right, and what is left out, is the same as
    in spaCy's scores: predictions on tokens whose gold annotation is missing count neither way.

    Gold and predicted entities are matched one to one: the same tokens and label first, then the same tokens,
    then those that overlap; of these the longest overlap, then the same label, then what comes first.

    example (Example): The gold and the predicted doc, whose tokens may differ.
    RETURNS (List[EntityError]): In the order of the text; none if the post is not annotated for entities.
    """
    reference = example.reference
    if not reference.has_annotation("ENT_IOB"):
        return []
    gold = [(ent.start, ent.end, ent.label_) for ent in reference.ents]
    ents: list[Span] = []
    found: list[tuple[int, int, str]] = []  # in tokens of the reference
    for ent in example.predicted.ents:
        indices = example.alignment.x2y[ent.start : ent.end]
        if not len(indices):
            continue
        start, end = int(indices[0]), int(indices[-1]) + 1
        if all(token.ent_iob != 0 for token in reference[start:end]):
            ents.append(ent)
            found.append((start, end, ent.label_))
    pairs = _match(gold, found)
    errors = []
    for i, (start, end, label) in enumerate(gold):
        j = pairs.get(i)
        right = (*_to_predicted(example, start, end), label)
        if j is None:
            errors.append(EntityError("missed", right, None))
        elif found[j] != gold[i]:
            kind = "type" if found[j][:2] == gold[i][:2] else "boundary"
            errors.append(EntityError(kind, right, (ents[j].start, ents[j].end, ents[j].label_)))
    matched = set(pairs.values())
    for j, ent in enumerate(ents):
        if j not in matched:
            errors.append(EntityError("spurious", None, (ent.start, ent.end, ent.label_)))
    return sorted(errors, key=_position)


def _match(gold: list[tuple[int, int, str]], found: list[tuple[int, int, str]]) -> dict[int, int]:
    """RETURNS (Dict[int, int]): Which prediction belongs to which gold entity."""
    candidates = []
    for i, (start, end, label) in enumerate(gold):
        for j, (other_start, other_end, other_label) in enumerate(found):
            overlap = min(end, other_end) - max(start, other_start)
            if overlap > 0:
                same = (start, end) == (other_start, other_end)
                candidates.append((not same, -overlap, label != other_label, i, j))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for *_, i, j in sorted(candidates):
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def find_relation_errors(example: Example, *, negative_label: str = "None") -> list[RelationError]:
    """Find the errors among the relations of a post. A pair is the same if the characters of head and tail
    are, as in `spacy-mmib.rel_scorer.v1`; the types of both play no role. Pairs with a gold label that is not
    known ("") are left out, with what is predicted for them.

    example (Example): The gold and the predicted doc.
    negative_label (str): The label of pairs without a relation.
    RETURNS (List[RelationError]): In the order of the text; none if the post is not annotated for relations.
    """
    if not has_relations(example.reference):
        return []
    gold, found = _read(example.reference), _read(example.predicted)
    none = (ASKED, negative_label)
    errors = []
    for pair in {**gold, **found}:
        wanted, answers = gold.get(pair, {}), found.get(pair, {})
        if ASKED in wanted:
            continue
        missed = sorted(label for label in wanted if label not in answers and label not in none)
        wrong = sorted(label for label in answers if label not in wanted and label not in none)
        for k in range(max(len(missed), len(wrong))):
            right = predicted = None
            if k < len(missed):
                relation = wanted[missed[k]]
                head, tail = (
                    _to_predicted(example, span.start, span.end) for span in (relation.head, relation.tail)
                )
                right = (*head, *tail, relation.label)
            if k < len(wrong):
                answer = answers[wrong[k]]
                predicted = (
                    answer.head.start,
                    answer.head.end,
                    answer.tail.start,
                    answer.tail.end,
                    answer.label,
                )
            kind = "type" if right and predicted else "missed" if right else "spurious"
            errors.append(RelationError(kind, right, predicted))
    return sorted(errors, key=_position)


def _read(doc: Doc) -> dict[Pair, dict[str, Relation]]:
    """RETURNS (Dict[Pair, Dict[str, Relation]]): By pair and label, each once."""
    try:
        relations = get_relations(doc)
    except ValueError as err:
        warn(f"A post counts as one without relations, as they can't be read: {err}")
        return {}
    found: dict[Pair, dict[str, Relation]] = {}
    for relation in relations:
        found.setdefault(relation.pair, {}).setdefault(relation.label, relation)
    return found


def _to_predicted(example: Example, start: int, end: int) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): The tokens of the predicted doc that tokens of the reference touch; an
    empty range at their place if there are none.
    """
    y2x = example.alignment.y2x
    indices = y2x[start:end]
    if len(indices):
        return int(indices[0]), int(indices[-1]) + 1
    before = y2x[:start]
    place = int(before[-1]) + 1 if len(before) else 0
    return place, place


def _position(error: AnyError) -> tuple[int, ...]:
    where = error.gold or error.predicted
    assert where is not None
    numbers: tuple[int, ...] = where[:-1]
    return (*numbers, error.gold is None)


@dataclass(frozen=True, eq=False)
class PostChange:
    """A post, predicted with its picture and without.

    index (int): Its number among the posts, from 0.
    reference (Doc): The gold annotations.
    doc (Doc): The prediction with its picture.
    without (Doc): The prediction without.
    errors (List[Union[EntityError, RelationError]]): Of `doc`: entities, if the pipeline finds them, then
        relations.
    errors_without (List[Union[EntityError, RelationError]]): Of `without`.
    """

    index: int
    reference: Doc
    doc: Doc
    without: Doc
    errors: list[AnyError]
    errors_without: list[AnyError]

    @property
    def added(self) -> list[AnyError]:
        """RETURNS (List[Union[EntityError, RelationError]]): Errors made with the picture only."""
        return list((Counter(self.errors) - Counter(self.errors_without)).elements())

    @property
    def repaired(self) -> list[AnyError]:
        """RETURNS (List[Union[EntityError, RelationError]]): Errors made without the picture only."""
        return list((Counter(self.errors_without) - Counter(self.errors)).elements())


def compare_pictures(
    nlp: Language, get_examples: GetExamples, *, batch_size: int | None = None
) -> list[PostChange]:
    """Find the posts on which the pictures make a difference.

    nlp (Language): The pipeline. If it has to be asked for pairs it gets the gold ones, see
        `predict_examples`.
    get_examples (Callable[[], Iterable[Example]]): Reads the posts; called twice.
    batch_size (Optional[int]): Posts at a time.
    RETURNS (List[PostChange]): Those whose errors are others without the picture, worst first: by the number
        of errors that the picture added, then by how few it repaired.
    """
    return sort_changes(predict_both(nlp, get_examples, batch_size=batch_size))


def predict_both(
    nlp: Language, get_examples: GetExamples, *, batch_size: int | None = None
) -> list[PostChange]:
    """RETURNS (List[PostChange]): All posts, in order; see `compare_pictures`."""
    roles = get_roles(nlp)
    examples = list(get_examples())
    numbers = {id(example.reference): i for i, example in enumerate(examples)}
    own = predict_examples(nlp, examples, batch_size=batch_size)
    # Another reading may make other objects of the same posts.
    again = remove_images(list(get_examples()))
    again = [Example(eg.predicted, first.reference) for first, eg in zip(examples, again)]
    without = predict_examples(nlp, again, batch_size=batch_size)
    others = {id(example.reference): example for example in without}
    result = []
    for example in own:
        other = others.get(id(example.reference))
        if other is not None:
            result.append(
                PostChange(
                    numbers[id(example.reference)],
                    example.reference,
                    example.predicted,
                    other.predicted,
                    find_errors(example, roles),
                    find_errors(other, roles),
                )
            )
    return result


def sort_changes(posts: Iterable[PostChange]) -> list[PostChange]:
    """RETURNS (List[PostChange]): Those that changed, in the order of `compare_pictures`."""
    changed = [post for post in posts if post.added or post.repaired]
    return sorted(changed, key=lambda post: (-len(post.added), len(post.repaired), post.index))


def find_errors(example: Example, roles: Roles) -> list[AnyError]:
    """RETURNS (List[Union[EntityError, RelationError]]): The errors of a post in what a pipeline finds."""
    errors: list[AnyError] = []
    if roles.recognizers:
        errors += find_entity_errors(example)
    if roles.extractors:
        errors += find_relation_errors(example, negative_label=roles.negative_label)
    return errors


def count_kinds(errors: Sequence[AnyError]) -> dict[str, int]:
    """RETURNS (Dict[str, int]): Errors of each kind, under "entity boundary", "relation missed" and so on."""
    counts = {f"entity {kind}": 0 for kind in ENTITY_KINDS}
    counts.update({f"relation {kind}": 0 for kind in RELATION_KINDS})
    for error in errors:
        what = "entity" if isinstance(error, EntityError) else "relation"
        counts[f"{what} {error.kind}"] += 1
    return counts
