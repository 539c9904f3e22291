"""The scorer of relations, in the form in which components take it from a config."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry

from ..post.relations import ASKED, Pair, Relation, get_relations, has_relations
from ..util import warn

NUMBERS = tuple(f"rel_{kind}_{key}" for kind in ("micro", "macro", "strict") for key in "prf")


@registry.scorers("spacy-mmib.rel_scorer.v1")
def make_rel_scorer_v1(negative_label: str = "None") -> Callable[..., dict[str, Any]]:
    """Build the scorer `spacy-mmib.rel_scorer.v1`.

    negative_label (str): The label of pairs without a relation; the same as that of `mmib_rel`.
    RETURNS (Callable[[Iterable[Example]], Dict[str, Any]]): See `score_relations`.
    RAISES (ValueError): The label is empty, which means "not known".
    """
    if negative_label == ASKED:
        raise ValueError("The negative label can't be empty, which means 'not known'.")
    # No closure: a pipeline with its scorers is pickled when it is given to other processes.
    return partial(score_relations, negative_label=negative_label)


@dataclass
class RelationCounts:
    """Relations; the negative label is none.

    predicted (int): Predictions.
    right (int): Those of them that are right.
    gold (int): Gold relations.
    found (int): Those of them that were predicted. Not the same as `right` only where several labels are
        predicted for a pair that has one of them more than once.
    """

    predicted: int = 0
    right: int = 0
    gold: int = 0
    found: int = 0

    def __iadd__(self, other: "RelationCounts") -> "RelationCounts":
        self.predicted += other.predicted
        self.right += other.right
        self.gold += other.gold
        self.found += other.found
        return self

    def to_dict(self) -> dict[str, float]:
        """RETURNS (Dict[str, float]): Precision, recall and F, 0-1; 0 where there is nothing to divide by."""
        p = self.right / self.predicted if self.predicted else 0.0
        r = self.found / self.gold if self.gold else 0.0
        return {"p": p, "r": r, "f": 2 * p * r / (p + r) if p + r else 0.0}


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

    examples (Iterable[Example]): The gold and the predicted docs.
    negative_label (str): The label of pairs without a relation.
    RETURNS (Dict[str, Any]): All 0-1, and all `None` if no post is annotated:
        `rel_micro_p/r/f`: over all relations.
        `rel_macro_p/r/f`: means of the labels' own, over labels that are gold or predicted.
        `rel_strict_p/r/f`: as micro, but right only if the types of head and tail are, too. A gold type
            that is not known ("") fits any.
        `rel_per_type`: `p`, `r` and `f` of each of these labels, in alphabetical order.
        `rel_accuracy`: the share of annotated instances, those with the negative label included, whose
            label is among the predicted ones, or negative where none is.
    """
    per_type: defaultdict[str, RelationCounts] = defaultdict(RelationCounts)
    strict = RelationCounts()
    annotated = False
    instances = right = 0
    for example in examples:
        accuracy = _count_example(example, negative_label, per_type, strict)
        if accuracy is not None:
            annotated = True
            instances += accuracy[0]
            right += accuracy[1]
    if not annotated:
        return dict.fromkeys((*NUMBERS, "rel_per_type", "rel_accuracy"))
    micro = RelationCounts()
    for counts in per_type.values():
        micro += counts
    by_label = {label: counts.to_dict() for label, counts in sorted(per_type.items())}
    macro = {key: sum(s[key] for s in by_label.values()) / max(1, len(by_label)) for key in "prf"}
    kinds = {"micro": micro.to_dict(), "macro": macro, "strict": strict.to_dict()}
    return {
        **{f"rel_{kind}_{key}": scores[key] for kind, scores in kinds.items() for key in scores},
        "rel_per_type": by_label,
        "rel_accuracy": right / instances if instances else 0.0,
    }


def count_relations(example: Example, *, negative_label: str = "None") -> RelationCounts:
    """Count what `rel_micro_p/r/f` are made of in one post.

    example (Example): The gold and the predicted doc.
    negative_label (str): The label of pairs without a relation.
    RETURNS (RelationCounts): Zeros if the post is not annotated for relations.
    """
    per_type: defaultdict[str, RelationCounts] = defaultdict(RelationCounts)
    _count_example(example, negative_label, per_type, RelationCounts())
    total = RelationCounts()
    for counts in per_type.values():
        total += counts
    return total


def _count_example(
    example: Example,
    negative_label: str,
    per_type: "defaultdict[str, RelationCounts]",
    strict: RelationCounts,
) -> tuple[int, int] | None:
    """Add what is in a post.

    RETURNS (Optional[Tuple[int, int]]): Annotated instances, and those whose label is among the predicted;
        `None` if the post is not annotated.
    """
    gold = _read_gold(example.reference)
    if gold is None:
        return None
    instances = right = 0
    predicted = _read_predicted(example.predicted, negative_label)
    for pair in {**gold, **predicted}:
        answers, relations = predicted.get(pair, {}), gold.get(pair, [])
        labels = [relation.label for relation in relations]
        if ASKED in labels:
            continue
        instances += len(labels)
        right += sum(label in (answers or (negative_label,)) for label in labels)
        _count_pair(relations, answers, negative_label, per_type, strict)
    return instances, right


def _count_pair(
    gold: list[Relation],
    answers: dict[str, Relation],
    negative_label: str,
    per_type: "defaultdict[str, RelationCounts]",
    strict: RelationCounts,
) -> None:
    """Add what is gold and what is predicted for one pair."""
    # A single answer is one for each instance; several can't be told apart by instance.
    times = max(1, len(gold)) if len(answers) == 1 else 1
    for label, answer in answers.items():
        same = [relation for relation in gold if relation.label == label]
        typed = [relation for relation in same if _have_types(relation, answer)]
        for counts, hits in ((per_type[label], same), (strict, typed)):
            counts.predicted += times
            counts.right += min(times, len(hits))
            counts.found += len(hits)
    for relation in gold:
        if relation.label != negative_label:
            per_type[relation.label].gold += 1
            strict.gold += 1


def _have_types(gold: Relation, predicted: Relation) -> bool:
    """RETURNS (bool): Whether head and tail have the gold types, as far as those are known."""
    spans = ((gold.head, predicted.head), (gold.tail, predicted.tail))
    return all(known.label_ in ("", found.label_) for known, found in spans)


def _read_gold(doc: Doc) -> dict[Pair, list[Relation]] | None:
    """RETURNS (Optional[Dict[Pair, List[Relation]]]): What is annotated; `None` if nothing is, not even
    that there are none.
    """
    if not has_relations(doc):
        return None
    try:
        relations = get_relations(doc)
    except ValueError as err:
        warn(f"Relations are not scored, as the gold ones of a post can't be read: {err}")
        return None
    gold: dict[Pair, list[Relation]] = {}
    for relation in relations:
        gold.setdefault(relation.pair, []).append(relation)
    return gold


def _read_predicted(doc: Doc, negative_label: str) -> dict[Pair, dict[str, Relation]]:
    """RETURNS (Dict[Pair, Dict[str, Relation]]): By pair and label what is predicted; of the same prediction
    made twice, the first.
    """
    try:
        relations = get_relations(doc)
    except ValueError as err:
        warn(f"A post counts as one without predicted relations, as they can't be read: {err}")
        return {}
    predicted: dict[Pair, dict[str, Relation]] = {}
    for relation in relations:
        if relation.label not in (ASKED, negative_label):
            predicted.setdefault(relation.pair, {}).setdefault(relation.label, relation)
    return predicted
