"""Score a pipeline on posts with their pictures, without, or with wrong ones."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

from spacy.language import Language
from spacy.scorer import Scorer
from spacy.training import Example

from ..pipeline.instances import get_given_pairs
from ..post.given import Given, give
from ..post.relations import relations_to_json, set_relations
from ..training.corpus import MultimodalCorpus
from ..training.local_pictures import PictureCounts
from . import EvaluationError
from .ablation import remove_images, shuffle_images

PRF: TypeAlias = tuple[float | None, ...]
"""Precision, recall and F, 0-1; `None` where nothing is annotated."""


def evaluate(
    nlp: Language,
    corpus: str | Path,
    *,
    images: str = "own",
    seed: int = 0,
    image_root: str | Path | None = None,
    gold_preproc: bool = False,
    batch_size: int | None = None,
    limit: int = 0,
    see: Callable[[str, list[Example]], None] | None = None,
) -> dict[str, Any]:
    """Score a pipeline. What `spacy mmib evaluate` prints:

        with_pictures = evaluate(nlp, "test.spacy")["ents_f"]
        without = evaluate(nlp, "test.spacy", images="none")["ents_f"]

    corpus (Union[str, Path]): A `.spacy` file, or a folder of them.
    images (str): "own", "none" or "shuffled" (by `seed`): which picture each post is shown with.
    image_root (Optional[Union[str, Path]]): See `MultimodalCorpus`.
    gold_preproc (bool): Use the tokens of the corpus.
    limit (int): Score the first so many posts only; 0 for all.
    see (Optional[Callable]): Is given the posts with their predictions: once as "end_to_end", and with a
        component for relations once more as "given_entities".
    RETURNS (Dict[str, Any]): Plain values: all scores of the pipeline, `speed` (words a second), `corpus`,
        `images`, `seed` (if shuffled) and `pictures`: the counts of the corpus, `shown`, how many posts were
        given a picture, and `kept`, how many of these their own. With a component for relations, its scores
        are end to end (on predicted entities, if a component predicts entities), and `given_entities` has
        those on the gold entities and annotated pairs, as published scores of MNRE are. `leaks`, if there
        are any: what is known to leak the labels, of this corpus or the training data.
    RAISES (EvaluationError): The corpus can't be read or has no posts.
    RAISES (ValueError): Another value of `images`.
    """
    if images not in ("own", "none", "shuffled"):
        raise ValueError(f"images is {images!r}; choose one of own, none, shuffled.")
    examples, counts, leaks = read_corpus(
        nlp, corpus, image_root=image_root, gold_preproc=gold_preproc, limit=limit
    )
    shown = kept = counts.with_picture
    if images == "none":
        examples, shown, kept = remove_images(examples), 0, 0
    elif images == "shuffled":
        examples, kept = shuffle_images(examples, seed)
    see = see or (lambda stage, posts: None)
    roles = get_roles(nlp)
    start = perf_counter()
    found = _predict(nlp, examples, batch_size, disable=roles.silent)
    seconds = perf_counter() - start
    see("end_to_end", found)
    metrics = _score(nlp, found, disable=roles.silent)
    metrics["speed"] = sum(len(example.predicted) for example in found) / seconds
    if roles.extractors:
        answered = predict_given(nlp, examples, batch_size=batch_size)
        see("given_entities", answered)
        scores = _score(nlp, answered, disable=roles.recognizers)
        metrics["given_entities"] = {key: scores[key] for key in scores if key.startswith("rel_")}
    metrics.update(corpus=str(corpus), images=images, **({"seed": seed} if images == "shuffled" else {}))
    metrics["pictures"] = {**asdict(counts), "shown": shown, "kept": kept}
    del metrics["pictures"]["example"]  # names a file of this machine
    leaks = {*leaks, *nlp.meta.get("spacy_mmib", {}).get("leaks", ())}
    for _, component in nlp.pipeline:
        leaks.update((getattr(component, "cfg", None) or {}).get("leaks", ()))
    if leaks:
        metrics["leaks"] = sorted(leaks)
    return metrics


def read_corpus(
    nlp: Language, corpus: str | Path, **settings: Any
) -> tuple[list[Example], PictureCounts, set[str]]:
    """RETURNS (Tuple[List[Example], PictureCounts, Set[str]]): At least one post, read with the settings of
    `MultimodalCorpus`, what was found about their pictures, and what is known to leak the labels.
    RAISES (EvaluationError): The corpus can't be read, or has no posts.
    """
    try:
        reader = MultimodalCorpus(corpus, **settings)
        examples = list(reader(nlp))
    except ValueError as err:
        raise EvaluationError(str(err)) from err
    if not examples or reader.counts is None:
        raise EvaluationError(f"There are no posts in {corpus}.")
    return examples, reader.counts, set(reader.notes)


@dataclass(frozen=True)
class Roles:
    """Who does what in a pipeline: which components find entities, and which relations.

    silent (List[str]): The extractors, if the pipeline finds no entities to relate, or they wait for given
        pairs: relations are then asked for, pair by pair, between gold entities.
    """

    recognizers: list[str]
    extractors: list[str]
    silent: list[str]
    negative_label: str


def get_roles(nlp: Language) -> Roles:
    """RETURNS (Roles): Of the components that are enabled, as they say themselves what they assign."""

    def assigning(*what: str) -> list[str]:
        return [name for name in nlp.pipe_names if set(what) & set(nlp.get_pipe_meta(name).assigns)]

    extractors, recognizers = assigning("doc._.relations"), assigning("doc.ents", "doc.spans")
    pipes = [nlp.get_pipe(name) for name in extractors]
    asks = any(getattr(pipe, "get_instances", None) is get_given_pairs for pipe in pipes)
    negative = [pipe.negative_label for pipe in pipes if hasattr(pipe, "negative_label")]
    silent = extractors if asks or not recognizers else []
    return Roles(recognizers, extractors, silent, (*negative, "None")[0])


def predict_examples(
    nlp: Language, examples: Sequence[Example], *, batch_size: int | None = None
) -> list[Example]:
    """Predict copies of posts the way they are scored. Entities come from the components that find them;
    relations too, unless there is no end to end: then they are those of `predict_given`.

    RETURNS (List[Example]): In order, without those that the pipeline's error handler leaves out.
    """
    roles = get_roles(nlp)
    if not roles.silent:
        return _predict(nlp, examples, batch_size)
    answered = predict_given(nlp, examples, batch_size=batch_size)
    found = _predict(nlp, examples, batch_size, disable=roles.silent) if roles.recognizers else []
    return join_stages(roles, found, answered)


def join_stages(
    roles: Roles, end_to_end: list[Example], given_entities: Sequence[Example] = ()
) -> list[Example]:
    """RETURNS (List[Example]): What is found in posts, end to end and for given entities, together."""
    if not roles.silent:
        return end_to_end
    if not roles.recognizers:
        return list(given_entities)
    answers = {id(example.reference): example.predicted for example in given_entities}
    for example in end_to_end:
        if id(example.reference) in answers:
            set_relations(example.predicted, relations_to_json(answers[id(example.reference)]))
    return end_to_end


def predict_given(nlp: Language, examples: Sequence[Example], *, batch_size: int | None) -> list[Example]:
    """Predict the relations of copies of posts, given the gold entities and the pairs that are annotated, but
    not their labels. Whatever the pipeline's candidates are otherwise, it is asked for just these.
    """
    own = [(pipe, pipe.get_instances) for _, pipe in nlp.pipeline if hasattr(pipe, "get_instances")]
    try:
        for pipe, _ in own:
            pipe.get_instances = get_given_pairs
        return _predict(nlp, examples, batch_size, given="pairs", disable=get_roles(nlp).recognizers)
    finally:
        for pipe, get_instances in own:
            pipe.get_instances = get_instances


def _predict(
    nlp: Language,
    examples: Sequence[Example],
    batch_size: int | None,
    *,
    given: Given = "none",
    disable: Sequence[str] = (),
) -> list[Example]:
    copies = [Example(example.predicted.copy(), example.reference) for example in examples]
    for example in copies:
        give(example, given)
    with nlp.select_pipes(disable=list(disable)):
        docs = ((example.predicted, example.reference) for example in copies)
        found = nlp.pipe(docs, as_tuples=True, batch_size=batch_size)
        return [Example(doc, reference) for doc, reference in found]


def _score(nlp: Language, examples: list[Example], *, disable: list[str]) -> dict[str, Any]:
    with nlp.select_pipes(disable=disable):
        return dict(Scorer(nlp=nlp).score(examples))


def tabulate(metrics: dict[str, Any]) -> list[tuple[str, dict[str, PRF], dict[str, PRF]]]:
    """RETURNS (List[Tuple[str, Dict[str, PRF], Dict[str, PRF]]]): Of what `evaluate` returns what is scored:
    what it is of, "all" (of relations end to end also "all, with types"; of entities with their objects that
    is GMNER, and "all, without types" EEG), and each label.
    """

    def get_prf(scores: dict[str, Any], name: str = "") -> PRF:
        return tuple(scores.get(f"{name}{key}") for key in "prf")

    tables = []
    for title, scores, kind, micro in (
        ("Entities", metrics, "ents", "ents_"),
        ("Relations, end to end", metrics, "rel", "rel_micro_"),
        ("Relations of given entities", metrics.get("given_entities", {}), "rel", "rel_micro_"),
    ):
        if f"{micro}f" in scores:
            overall = {"all": get_prf(scores, micro)}
            if title == "Relations, end to end":
                overall["all, with types"] = get_prf(scores, "rel_strict_")
            by_label = {label: get_prf(prf) for label, prf in (scores.get(f"{kind}_per_type") or {}).items()}
            tables.append((title, overall, by_label))
    if "gmner_f" in metrics:
        overall = {"all": get_prf(metrics, "gmner_"), "all, without types": get_prf(metrics, "eeg_")}
        tables.insert(1, ("Entities with their objects (GMNER, EEG)", overall, {}))
    return tables


def show_score(score: float | None) -> str:
    """RETURNS (str): A score, 0-1, in percent."""
    return "-" if score is None else f"{100 * score:.2f}"
