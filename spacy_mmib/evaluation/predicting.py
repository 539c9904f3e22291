"""Run a pipeline on annotated posts the way it is scored: relations end to end, or of given pairs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from ..pipeline.instances import get_given_pairs
from ..post.given import give
from ..post.relations import relations_to_json, set_relations

GetExamples = Callable[[], Iterable[Example]]
"""Reads the posts anew at each call: predictions are made on `Example.predicted`."""


@dataclass(frozen=True)
class Roles:
    """Who does what in a pipeline.

    recognizers (List[str]): Components that find entities.
    extractors (List[str]): Components that find relations.
    end_to_end (bool): Whether relations are looked for between entities that the pipeline found; if not
        they are asked for, pair by pair, between gold entities.
    negative_label (str): What pairs without a relation are annotated with.
    """

    recognizers: list[str]
    extractors: list[str]
    end_to_end: bool
    negative_label: str


def get_roles(nlp: Language) -> Roles:
    """RETURNS (Roles): Of the components that are enabled, as they say themselves what they assign."""
    extractors = [name for name in nlp.pipe_names if _assigns(nlp, name, "doc._.relations")]
    recognizers = [name for name in nlp.pipe_names if _assigns(nlp, name, "doc.ents", "doc.spans")]
    pipes = [nlp.get_pipe(name) for name in extractors]
    asks = any(getattr(pipe, "get_instances", None) is get_given_pairs for pipe in pipes)
    negative = [pipe.negative_label for pipe in pipes if hasattr(pipe, "negative_label")]
    return Roles(
        recognizers,
        extractors,
        bool(recognizers) and not asks,
        negative[0] if negative else "None",
    )


def predict_examples(
    nlp: Language, examples: Sequence[Example], *, batch_size: int | None = None
) -> list[Example]:
    """Predict the posts, in place. Entities come from the components that find them; relations too, unless
    the pipeline has to be asked for pairs: then the gold entities and the annotated pairs are given (never
    their labels), and what it answers is put beside the entities that it found.

    nlp (Language): The pipeline.
    examples (Sequence[Example]): The posts.
    batch_size (Optional[int]): Posts at a time.
    RETURNS (List[Example]): Those with a prediction, in order: all, unless the pipeline's error handler
        leaves posts out.
    """
    roles = get_roles(nlp)
    if not roles.extractors or roles.end_to_end:
        for example in examples:
            give(example, "none")
        return _run(nlp, examples, batch_size, disable=[])
    asked = [Example(example.predicted.copy(), example.reference) for example in examples]
    for example in asked:
        give(example, "pairs")
    answered = _run(nlp, asked, batch_size, disable=roles.recognizers)
    if not roles.recognizers:
        return answered
    for example in examples:
        give(example, "none")
    found = _run(nlp, examples, batch_size, disable=roles.extractors)
    answers = {id(example.reference): example.predicted for example in answered}
    for example in found:
        answer = answers.get(id(example.reference))
        if answer is not None:
            set_relations(example.predicted, relations_to_json(answer))
    return found


def _run(
    nlp: Language, examples: Sequence[Example], batch_size: int | None, *, disable: list[str]
) -> list[Example]:
    def read() -> Iterable[tuple[Doc, Example]]:
        for example in examples:
            yield example.predicted, example

    with nlp.select_pipes(disable=disable):
        found = list(nlp.pipe(read(), as_tuples=True, batch_size=batch_size))
    return [Example(doc, example.reference) for doc, example in found]


def _assigns(nlp: Language, name: str, *what: str) -> bool:
    return not set(nlp.get_pipe_meta(name).assigns).isdisjoint(what)
