"""The scorers of entities and relations, in the form in which components take them from a config, and what
scores are made of, post by post."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy
from spacy.scorer import get_ner_prf
from spacy.tokens import Span
from spacy.training import Example
from spacy.util import registry

from ..post.boxes import get_boxes, get_region, has_boxes, is_one_of
from ..post.extensions import read_regions
from ..post.regions import Region
from ..post.relations import ASKED, Pair, Relation, get_relations, has_relations, read_relations
from ..util import warn

NUMBERS = [f"rel_{kind}_{key}" for kind in ("micro", "macro", "strict") for key in "prf"]

Entity: TypeAlias = tuple[int, int, str]
"""First token and one past the last, and label."""


class DocumentCounts(NamedTuple):
    """Counts of one post, or of many: predictions, those that are right, gold annotations, those that were
    found. `found` differs from `right` only where several relations are predicted for a pair that has one of
    them more than once.
    """

    predicted: int = 0
    right: int = 0
    gold: int = 0
    found: int = 0


def sum_counts(counts: Iterable[Sequence[int]]) -> DocumentCounts:
    """RETURNS (DocumentCounts): Of all posts together."""
    return DocumentCounts(*(sum(column) for column in zip(*counts)))


def get_prf(counts: Iterable[int]) -> tuple[float, float, float]:
    """RETURNS (Tuple[float, float, float]): Precision, recall and F, 0-1; 0 for a division by 0."""
    predicted, right, gold, found = map(int, counts)
    p = right / predicted if predicted else 0.0
    r = found / gold if gold else 0.0
    return p, r, 2 * p * r / (p + r) if p + r else 0.0


# Entities


@registry.scorers("spacy-mmib.ner_scorer.v1")
def make_ner_scorer_v1() -> Callable[..., dict[str, Any]]:
    """RETURNS (Callable[[Iterable[Example]], Dict[str, Any]]): `score_entities`."""
    return score_entities


def score_entities(examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
    """Precision, recall and F of `doc.ents`, exactly as spaCy counts them: an entity is right if its label
    and both ends are; predictions where the gold annotation is missing count neither way.

    RETURNS (Dict[str, Any]): `ents_p`, `ents_r`, `ents_f` (0-1) and `ents_per_type`, which has `p`, `r` and
        `f` for each label, in alphabetical order. All are `None` if nothing was annotated. Those of
        `score_entity_regions` as well, where boxes of entities are annotated.
    """
    examples = list(examples)
    scores: dict[str, Any] = get_ner_prf(examples, **kwargs)
    per_type = scores["ents_per_type"]
    if per_type is not None:  # in the order of a set otherwise, which differs from run to run
        scores["ents_per_type"] = dict(sorted(per_type.items()))
    return {**scores, **score_entity_regions(examples)}


def align_entities(example: Example) -> tuple[list[Entity], list[tuple[Span, Entity]]] | None:
    """RETURNS (Optional[Tuple[List[Entity], List[Tuple[Span, Entity]]]]): Gold entities, and predicted ones
    with what they are in tokens of the reference. As in spaCy's scorer those on tokens whose gold is missing
    are left out. `None` if the post isn't annotated.
    """
    reference = example.reference
    if not reference.has_annotation("ENT_IOB"):
        return None
    found = []
    for ent in example.predicted.ents:
        indices = example.alignment.x2y[ent.start : ent.end]
        if len(indices):
            start, end = int(indices[0]), int(indices[-1]) + 1
            if all(token.ent_iob != 0 for token in reference[start:end]):
                found.append((ent, (start, end, ent.label_)))
    return [(ent.start, ent.end, ent.label_) for ent in reference.ents], found


def count_document_entities(example: Example) -> DocumentCounts:
    """RETURNS (DocumentCounts): What spaCy's `ents_p/r/f` count in a post; zeros if it isn't annotated."""
    aligned = align_entities(example)
    if aligned is None:
        return DocumentCounts()
    gold, found = aligned
    right = len(set(gold) & {entity for _, entity in found})
    return DocumentCounts(len(found), right, len(gold), right)


def score_entity_regions(examples: Sequence[Example]) -> dict[str, Any]:
    """Precision, recall and F of entities with their objects (`ent._.region`), as published for grounded
    multimodal entity recognition. In EEG an entity is right if both ends are, and its object: the region has
    an IoU of at least 0.5 with one of the gold boxes, or both are "not in the picture". In GMNER its label
    has to be right, too. (MNER, the third of these scores, is `ents_p/r/f`.)

    Counted are gold entities with `ent._.boxes`, and the predictions of posts that have any, or no entity at
    all; predictions that overlap a gold entity whose boxes aren't annotated count neither way.

    RETURNS (Dict[str, Any]): `gmner_p/r/f` and `eeg_p/r/f` (0-1); nothing if no boxes are annotated, or no
        component says which objects entities are.
    """
    if not any(has_boxes(example.reference) for example in examples):
        return {}
    counts: dict[str, list[DocumentCounts]] = {"gmner": [], "eeg": []}
    looked = False
    for example in examples:
        aligned = align_entities(example)
        if aligned is None:
            continue
        of_ents = {ent: get_boxes(ent) for ent in example.reference.ents}
        gold = {(ent.start, ent.end): (ent.label_, x) for ent, x in of_ents.items() if x is not None}
        unknown = {token.i for ent, boxes in of_ents.items() if boxes is None for token in ent}
        if of_ents and not gold:
            continue
        found = [x for x in aligned[1] if unknown.isdisjoint(range(*x[1][:2]))]
        looked = looked or any(get_region(ent) is not None for ent, _ in found)
        regions = read_regions(example.predicted)
        right = {x for ent, x in found if x[:2] in gold and _is_right(ent, gold[x[:2]][1], regions)}
        for kind, hits in (("eeg", right), ("gmner", {x for x in right if x[2] == gold[x[:2]][0]})):
            n = len({x[:2] for x in hits})
            counts[kind].append(DocumentCounts(len(found), n, len(gold), n))
    if not looked:
        return {}
    scores = {kind: get_prf(sum_counts(of_posts)) for kind, of_posts in counts.items()}
    return {f"{kind}_{key}": score for kind, prf in scores.items() for key, score in zip("prf", prf)}


def _is_right(ent: Span, boxes: list[Region], regions: list[Region]) -> bool:
    found = get_region(ent)
    if found is None or (found.index is None and boxes):
        return False
    return not boxes if found.index is None else is_one_of(regions[found.index], boxes)


# Relations


@registry.scorers("spacy-mmib.rel_scorer.v1")
def make_rel_scorer_v1(negative_label: str = "None") -> Callable[..., dict[str, Any]]:
    """RETURNS (Callable[[Iterable[Example]], Dict[str, Any]]): `score_relations` with this label.
    RAISES (ValueError): The label is empty, which means "not known".
    """
    if negative_label == ASKED:
        raise ValueError("The negative label can't be empty, which means 'not known'.")
    # No closure: a pipeline with its scorers is pickled when it is given to other processes.
    return partial(score_relations, negative_label=negative_label)


def score_relations(
    examples: Iterable[Example], *, negative_label: str = "None", **kwargs: Any
) -> dict[str, Any]:
    """Precision, recall and F of `doc._.relations`. A relation is right if the characters of its head and
    its tail and its label are. Over given pairs the micro scores are those published for MNRE, which count
    instances: a pair that is annotated k times and has one predicted label is answered k times. Of several
    labels for one pair each is one prediction, and each gold label among them is found.

    Predictions on pairs that aren't annotated are wrong; those with the negative label or none are no
    predictions. Left out are posts that are not annotated for relations, and pairs of which a gold label
    is "" (not known), with what is predicted for them.

    RETURNS (Dict[str, Any]): All 0-1, and all `None` if no post is annotated:
        `rel_micro_p/r/f`: over all relations.
        `rel_macro_p/r/f`: means of the labels' own, over labels that are gold or predicted.
        `rel_strict_p/r/f`: as micro, but right only if the types of head and tail are, too. A gold type
            that is not known ("") fits any.
        `rel_per_type`: `p`, `r` and `f` of each of these labels, in alphabetical order.
        `rel_accuracy`: the share of annotated instances, those with the negative label included, whose
            label is among the predicted ones, or negative where none is.
    """
    tally = _RelationTally(negative_label)
    annotated = [tally.add(example) for example in examples]
    if not any(annotated):
        return dict.fromkeys([*NUMBERS, "rel_per_type", "rel_accuracy"])
    by_label = {label: dict(zip("prf", get_prf(n))) for label, n in sorted(tally.by_label.items())}
    macro = [sum(scores[key] for scores in by_label.values()) / max(1, len(by_label)) for key in "prf"]
    micro = get_prf(sum_counts(tally.by_label.values()))
    return {
        **dict(zip(NUMBERS, (*micro, *macro, *get_prf(tally.strict)))),
        "rel_per_type": by_label,
        "rel_accuracy": tally.accurate / tally.instances if tally.instances else 0.0,
    }


def count_document_relations(example: Example, negative_label: str = "None") -> DocumentCounts:
    """RETURNS (DocumentCounts): What `rel_micro_p/r/f` count in a post; zeros if it isn't annotated."""
    tally = _RelationTally(negative_label)
    tally.add(example)
    return DocumentCounts(*map(int, sum_counts(tally.by_label.values())))


def match_pairs(
    example: Example, negative_label: str
) -> list[tuple[list[Relation], dict[str, Relation]]] | None:
    """RETURNS (Optional[List[Tuple[List[Relation], Dict[str, Relation]]]]): For each pair what is gold,
    negative labels included, and by label what is predicted; without the pairs of which a gold label isn't
    known. `None` if the post is not annotated for relations.
    """
    if not has_relations(example.reference):
        return None
    pairs: defaultdict[Pair, tuple[list[Relation], dict[str, Relation]]] = defaultdict(lambda: ([], {}))
    try:
        for relation in get_relations(example.reference):
            pairs[relation.pair][0].append(relation)
    except ValueError as err:
        warn(f"Relations are not scored, as the gold ones of a post can't be read: {err}")
        return None
    for relation in read_relations(example.predicted):
        if relation.label not in (ASKED, negative_label):
            pairs[relation.pair][1].setdefault(relation.label, relation)
    return [pair for pair in pairs.values() if all(relation.label != ASKED for relation in pair[0])]


class _RelationTally:
    """Counts relations: predicted, right, gold, found."""

    def __init__(self, negative_label: str) -> None:
        self.negative_label = negative_label
        self.by_label: defaultdict[str, Any] = defaultdict(lambda: numpy.zeros(4, dtype=int))
        self.strict = numpy.zeros(4, dtype=int)
        self.instances = 0
        self.accurate = 0

    def add(self, example: Example) -> bool:
        """RETURNS (bool): Whether the post is annotated."""
        pairs = match_pairs(example, self.negative_label)
        for gold, answers in pairs or ():
            self.instances += len(gold)
            self.accurate += sum(g.label in (answers or (self.negative_label,)) for g in gold)
            # A single answer is one for each instance; several can't be told apart by instance.
            times = max(1, len(gold)) if len(answers) == 1 else 1
            for label, answer in answers.items():
                same = [relation for relation in gold if relation.label == label]
                typed = [relation for relation in same if _have_types(relation, answer)]
                for counts, hits in ((self.by_label[label], same), (self.strict, typed)):
                    counts += (times, min(times, len(hits)), 0, len(hits))
            for relation in gold:
                if relation.label != self.negative_label:
                    self.by_label[relation.label] += (0, 0, 1, 0)
                    self.strict += (0, 0, 1, 0)
        return pairs is not None


def _have_types(gold: Relation, predicted: Relation) -> bool:
    """Whether head and tail have the gold types, as far as those are known."""
    spans = ((gold.head, predicted.head), (gold.tail, predicted.tail))
    return all(known.label_ in ("", found.label_) for known, found in spans)
