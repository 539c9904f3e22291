"""Scorers, in the form in which components take them from a config."""

from collections.abc import Callable, Iterable
from typing import Any

from spacy.scorer import get_ner_prf
from spacy.training import Example
from spacy.util import registry


def score_entities(examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
    """Precision, recall and F of `doc.ents`, exactly as spaCy counts them: an entity is right if
    its label and both ends are; predictions where the gold annotation is missing count neither way.

    examples (Iterable[Example]): The gold and the predicted docs.
    RETURNS (Dict[str, Any]): `ents_p`, `ents_r`, `ents_f` (0-1) and `ents_per_type`, which has `p`,
        `r` and `f` for each label, in alphabetical order. All are `None` if nothing was annotated.
    """
    scores: dict[str, Any] = get_ner_prf(examples, **kwargs)
    per_type = scores["ents_per_type"]
    if per_type is not None:  # in the order of a set otherwise, which differs from run to run
        scores["ents_per_type"] = dict(sorted(per_type.items()))
    return scores


@registry.scorers("spacy-mmib.ner_scorer.v1")
def make_ner_scorer_v1() -> Callable[..., dict[str, Any]]:
    """Build the scorer `spacy-mmib.ner_scorer.v1`.

    RETURNS (Callable[[Iterable[Example]], Dict[str, Any]]): See `score_entities`.
    """
    return score_entities
