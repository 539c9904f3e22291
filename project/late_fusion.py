"""Late fusion of two trained rows of a table: their probabilities are mixed, with the weight that does best
on dev. Neither model is needed any more: a cell whose probabilities others want keeps them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, biluo_tags_to_spans, iob_to_biluo

from spacy_mmib.bridge.shim import get_module, pad
from spacy_mmib.evaluation.evaluate import read_corpus
from spacy_mmib.evaluation.scorers import score_entities, score_relations
from spacy_mmib.heads.crf import NERHead
from spacy_mmib.pipeline.instances import get_given_pairs
from spacy_mmib.post.given import give
from spacy_mmib.post.relations import get_relations, set_relations

Array: TypeAlias = "numpy.ndarray[Any, Any]"
PROBABILITIES = "probabilities.npz"
"""Of a cell: arrays "dev" and "test", a row a token (of tags) or given pair (of labels), all posts one after
the other; and the "labels" of the columns.
"""
WEIGHTS = tuple(i / 10 for i in range(11))
"""Of the second row's probabilities, of which dev chooses."""


def write_probabilities(path: Path, nlp: Language, splits: Mapping[str, str], **corpus: Any) -> None:
    """Write all that a pipeline of one component, mmib_ner or mmib_rel, thinks of the posts of some splits.

    splits (Mapping[str, str]): Their files by name.
    corpus (Any): As for `read_corpus`.
    """
    (pipe,) = (pipe for _, pipe in nlp.pipeline)
    relations = hasattr(pipe, "get_instances")
    labels = [pipe.negative_label, *pipe.labels] if relations else [*pipe.labels]
    get = get_label_probabilities if relations else get_tag_probabilities
    arrays = {}
    for split, loc in splits.items():
        examples, *_ = read_corpus(nlp, loc, **corpus)
        arrays[split] = numpy.concatenate([get(pipe, example) for example in examples])
    temporary = path.with_suffix(".part.npz")
    numpy.savez(temporary, labels=labels, **arrays)
    temporary.replace(path)


def get_label_probabilities(pipe: Any, example: Example) -> Array:
    """RETURNS (numpy.ndarray): Of each annotated pair of a post, (pairs, labels)."""
    give(example, "pairs")
    pipe.get_instances = get_given_pairs
    (scored,) = pipe.predict([example.predicted])
    found: Array = scored.probabilities
    return found


def get_tag_probabilities(pipe: Any, example: Example) -> Array:
    """RETURNS (numpy.ndarray): Of each token of a post, (tokens, tags), float32."""
    head = get_module(pipe.model.get_ref("head"))
    if not len(example.predicted):
        return numpy.zeros((0, 2 * len(pipe.labels) + 1), dtype="float32")
    context, mask = pad(pipe.model.predict([example.predicted]).context)
    with torch.no_grad():
        found: Array = head.tag_probabilities(head.emission(context), mask)[0].float().numpy()
    return found


def mix(
    cell: Mapping[str, Any], config: Mapping[str, Any], cells: Path
) -> tuple[list[Example], dict[str, Any]]:
    """Mix the probabilities of the cell's two parts.

    cells (Path): The folder of all cells.
    RETURNS (Tuple[List[Example], Dict[str, Any]]): The test posts with predictions, and what is known of
        them: "task", "weight", and "dev", the score on dev.
    RAISES (ValueError): The parts don't fit together.
    """
    parts = [numpy.load(cells / part / PROBABILITIES) for part in cell["parts"]]
    labels = parts[0]["labels"].tolist()
    if labels != parts[1]["labels"].tolist():
        raise ValueError(f"{cell['parts']} don't have the same labels.")
    entities = cell["component"] == "ner"
    score, key = (score_entities, "ents_f") if entities else (score_relations, "rel_micro_f")
    annotate = set_entities if entities else set_labels
    paths = {"dev": config["paths"]["dev"], "test": cell["test"]}
    nlp = spacy.blank("en")

    def predict(split: str, weight: float) -> list[Example]:
        examples, *_ = read_corpus(
            nlp, paths[split], image_root=cell["image_root"], limit=cell["limit"], check_images="none"
        )
        mixed = iter((1 - weight) * parts[0][split] + weight * parts[1][split])
        for example in examples:
            annotate(example, mixed, labels)
        return examples

    found = {weight: score(predict("dev", weight))[key] for weight in WEIGHTS}
    best = max(WEIGHTS, key=lambda weight: found[weight])
    more = {"task": "entities" if entities else "relations", "weight": best, "dev": {key: found[best]}}
    return predict("test", best), more


def set_labels(example: Example, rows: Iterator[Array], labels: Sequence[str]) -> None:
    """Give the annotated pairs of a post their most probable labels."""
    give(example, "pairs")
    doc = example.predicted
    answers = [(r.head, r.tail, labels[int(next(rows).argmax())]) for r in get_relations(doc)]
    set_relations(doc, answers)


def set_entities(example: Example, rows: Iterator[Array], labels: Sequence[str]) -> None:
    """Give a post the entities of its best sequence of tags."""
    doc = example.predicted
    if len(doc):
        tags = decode(numpy.log(numpy.maximum([next(rows) for _ in doc], 1e-30)))
        set_tags(doc, [name_tag(tag, labels) for tag in tags])


def name_tag(tag: int, labels: Sequence[str]) -> str:
    """RETURNS (str): The tag of a number, as in `NERHead`."""
    return "O" if not tag else f"{'B' if tag % 2 else 'I'}-{labels[(tag - 1) // 2]}"


def set_tags(doc: Doc, tags: Sequence[str]) -> None:
    """Set the entities that BIO tags mean; an I- that continues nothing begins one."""
    doc.set_ents(biluo_tags_to_spans(doc, iob_to_biluo(tags)), default="outside")


def decode(scores: Array) -> list[int]:
    """RETURNS (List[int]): Of all sequences in which I of a label follows its B or I, the one with the
    largest sum of scores (Viterbi).

    scores (numpy.ndarray): A row a token, a column a tag.
    """
    head = NERHead(width=1, n_labels=scores.shape[1] // 2)
    for parameter in head.crf.parameters():
        torch.nn.init.zeros_(parameter)
    head.constrain()
    mask = torch.ones(1, len(scores), dtype=torch.bool)
    path: list[int] = head.find_best_paths(torch.from_numpy(scores).unsqueeze(0), mask)[0].tolist()
    return path
