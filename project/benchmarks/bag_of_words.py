"""Relations of given pairs by logistic regression on bags of words: what a model has to beat. The rows of
the grid "pairs" see the same pairs, choose on dev, and are counted by the same scorer.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import spacy
import typer
from spacy.tokens import Doc
from spacy.training import Example
from wasabi import msg

from spacy_mmib.evaluation.scorers import score_relations
from spacy_mmib.post.relations import Relation, get_relations, set_relations
from spacy_mmib.training.corpus import MultimodalCorpus

STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Inverse strengths of the L2 penalty, of which dev chooses. Wide enough that neither end is chosen."""


def main(data: Path, limit: int = 0) -> None:
    """Fit on the posts of data/train.spacy (the first so many; 0: all), choose on dev, and print a table."""
    rows = []
    for name, between in (("bag of words", False), ("words between head and tail apart", True)):
        examples = {split: read(data, split, limit) for split in ("train", "dev", "test")}
        annotate = fit_bag_of_words(examples["train"], examples["dev"], between=between)
        numbers = []
        for split in ("dev", "test"):
            annotate([eg.predicted for eg in examples[split]])
            scores = score_relations(examples[split])
            numbers += [f"{100 * scores[f'rel_micro_{key}']:.2f}" for key in "prf"]
        rows.append((name, *numbers))
    header = ("micro, relations but None", "dev P", "dev R", "dev F", "test P", "test R", "test F")
    msg.table(rows, header=header, aligns=("l",) + ("r",) * 6, divider=True)


def read(data: Path, split: str, limit: int = 0) -> list[Example]:
    """RETURNS (List[Example]): A split, whose predicted docs have the pairs without their labels."""
    return list(MultimodalCorpus(data / f"{split}.spacy", limit=limit, given="pairs")(spacy.blank("en")))


def fit_bag_of_words(
    train: Sequence[Example], dev: Sequence[Example], *, between: bool
) -> Callable[[Sequence[Doc]], None]:
    """Fit the baseline.

    between (bool): The words between head and tail, those before and those after both are bags of their own,
        and which of the two comes first is known.
    RAISES (ImportError): scikit-learn is missing.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as err:
        raise ImportError('The baseline needs scikit-learn: pip install "spacy-mmib[audit]"') from err
    gold = [relation for eg in train for relation in get_relations(eg.reference)]
    # Rare words weigh more, and long posts no more than short ones.
    vectorizer = TfidfVectorizer(analyzer=partial(get_features, between=between))
    features = vectorizer.fit_transform(gold)

    def annotate(docs: Iterable[Doc], model: Any) -> None:
        for doc in docs:
            pairs = get_relations(doc)
            if pairs:
                labels = model.predict(vectorizer.transform(pairs))
                set_relations(doc, [(r.head, r.tail, str(label)) for r, label in zip(pairs, labels)])

    def score(model: Any) -> float:
        found = [Example(eg.predicted.copy(), eg.reference) for eg in dev]
        annotate([eg.predicted for eg in found], model)
        return score_relations(found)["rel_micro_f"]

    models = [LogisticRegression(C=strength, max_iter=2000) for strength in STRENGTHS]
    labels = [relation.label for relation in gold]
    return partial(annotate, model=max((model.fit(features, labels) for model in models), key=score))


def get_features(pair: Relation, between: bool) -> list[str]:
    """RETURNS (List[str]): Lower-cased words and pairs of adjacent words of the post, and the words of
    head and tail as bags of their own; see `fit_bag_of_words` for what `between` adds.
    """
    head, tail = pair.head, pair.tail
    words = [token.lower_ for token in head.doc]
    found = {*_ngrams("w", words)}
    found |= {f"h={token.lower_}" for token in head} | {f"t={token.lower_}" for token in tail}
    if between:
        first, last = sorted((head, tail), key=lambda span: (span.start, span.end))
        found.add(f"first={'head' if first is head else 'tail'}")
        found |= {*_ngrams("between", words[first.end : last.start])}
        found |= {*_ngrams("before", words[max(0, first.start - 3) : first.start])}
        found |= {*_ngrams("after", words[last.end : last.end + 3])}
    return sorted(found)


def _ngrams(name: str, words: Sequence[str]) -> list[str]:
    return [f"{name}={word}" for word in words] + [f"{name}={a} {b}" for a, b in pairwise(words)]


if __name__ == "__main__":
    typer.run(main)
