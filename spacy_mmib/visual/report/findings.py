"""Run a pipeline on a corpus with its pictures, without and with shuffled ones, and keep what it says."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.errors import PostChange, find_errors
from ...evaluation.evaluate import Roles, evaluate, get_roles
from ...post.relations import relations_to_json, set_relations

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example


@dataclass(frozen=True)
class Findings:
    """What a report is made of.

    metrics (Dict[str, Dict[str, Any]]): What `spacy mmib evaluate` finds, for "own", and if any post has a
        picture for "none" and "shuffled".
    posts (List[PostChange]): All posts, in order. Without pictures in the corpus, `without` is `doc`.
    examples (List[Example]): The predictions with pictures, beside gold.
    roles (Roles): Who does what in the pipeline.
    """

    metrics: dict[str, dict[str, Any]]
    posts: list[PostChange]
    examples: "list[Example]"
    roles: Roles

    @property
    def compared(self) -> bool:
        """RETURNS (bool): Whether there are pictures to take away."""
        return "none" in self.metrics


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
            seen[images] = _join(roles, parts)
        if not metrics["own"]["pictures"]["with_picture"]:
            break
    own = seen["own"]
    posts = []
    for i, (example, other) in enumerate(zip(own, seen.get("none", own), strict=True)):
        errors = find_errors(example, roles)
        errors_without = errors if other is example else find_errors(other, roles)
        posts.append(
            PostChange(i, example.reference, example.predicted, other.predicted, errors, errors_without)
        )
    return Findings(metrics, posts, own, roles)


def _join(roles: Roles, parts: "dict[str, list[Example]]") -> "list[Example]":
    """RETURNS (List[Example]): Predictions of entities and relations on the same docs."""
    if not roles.extractors or roles.end_to_end:
        return parts["end_to_end"]
    if not roles.recognizers:
        return parts["given_entities"]
    for example, answer in zip(parts["end_to_end"], parts["given_entities"], strict=True):
        set_relations(example.predicted, relations_to_json(answer.predicted))
    return parts["end_to_end"]
