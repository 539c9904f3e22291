"""Baselines that need no picture and no network: what a model has to beat before it is said to have learned
something. They see the same posts, are counted by the same scorer, and what there is to choose is chosen on
dev.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example

from project.facts import NEGATIVE
from project.late_fusion import set_tags
from spacy_mmib.evaluation.scorers import score_relations
from spacy_mmib.post.relations import Relation, get_relations, set_relations
from spacy_mmib.training.corpus import MultimodalCorpus

Annotate: TypeAlias = Callable[[Iterable[Doc]], None]
STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Inverse strengths of the L2 penalty, of which dev chooses. Wide enough that neither end is chosen."""


def predict_floor(cell: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[list[Example], dict[str, Any]]:
    """RETURNS (Tuple[List[Example], Dict[str, Any]]): The test posts with the predictions of the cell's
    baseline, and its "task".
    """
    paths = {split: config["paths"][split] for split in ("train", "dev")} | {"test": cell["test"]}
    splits = {split: read(path, cell["limit"], cell["image_root"]) for split, path in paths.items()}
    task, fit = FLOORS[cell["floor"]]
    fit(splits["train"], splits["dev"])([example.predicted for example in splits["test"]])
    return splits["test"], {"task": task}


def read(path: str | Path, limit: int = 0, image_root: str | Path | None = None) -> list[Example]:
    """RETURNS (List[Example]): Posts, whose predicted docs have the pairs without their labels."""
    corpus = MultimodalCorpus(path, image_root=image_root, limit=limit, given="pairs", check_images="none")
    return list(corpus(spacy.blank("en")))


def fit_tags(train: Sequence[Example], dev: Sequence[Example]) -> Annotate:
    """RETURNS (Callable): Gives each word the tag that it has most often in training, O if it isn't there."""
    counts: dict[Hashable, Counter[str]] = {}
    for example in train:
        for token in example.reference:
            tag = f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O"
            counts.setdefault(token.text, Counter())[tag] += 1
    tags = {word: get_most_common(found) for word, found in counts.items()}

    def annotate(docs: Iterable[Doc]) -> None:
        for doc in docs:
            set_tags(doc, [tags.get(token.text, "O") for token in doc])

    return annotate


def fit_dictionary(train: Sequence[Example], dev: Sequence[Example]) -> Annotate:
    """RETURNS (Callable): Finds the entities of training, from left to right the longest that begins at a
    word, and gives each the label that it has most often.
    """
    counts: dict[Hashable, Counter[str]] = {}
    for example in train:
        for ent in example.reference.ents:
            counts.setdefault(tuple(token.text for token in ent), Counter())[ent.label_] += 1
    labels = {words: get_most_common(found) for words, found in counts.items()}
    longest = max((len(ent) for example in train for ent in example.reference.ents), default=0)

    def annotate(docs: Iterable[Doc]) -> None:
        for doc in docs:
            words, found, start = tuple(token.text for token in doc), [], 0
            while start < len(words):
                ends = range(min(start + longest, len(words)), start, -1)
                end = next((end for end in ends if words[start:end] in labels), start)
                if end > start:
                    found.append(Span(doc, start, end, label=labels[words[start:end]]))
                start = max(end, start + 1)
            doc.set_ents(found, default="outside")

    return annotate


def fit_relation(train: Sequence[Example], dev: Sequence[Example]) -> Annotate:
    """RETURNS (Callable): Gives every pair the most frequent label but that of pairs without a relation."""
    found = Counter(relation.label for example in train for relation in get_relations(example.reference))
    del found[NEGATIVE]
    best = get_most_common(found)

    def annotate(docs: Iterable[Doc]) -> None:
        for doc in docs:
            set_relations(doc, [(pair.head, pair.tail, best) for pair in get_relations(doc)])

    return annotate


def get_most_common(counts: Counter[str]) -> str:
    """RETURNS (str): The most frequent string; of equally frequent ones, the first in the alphabet."""
    return min(counts, key=lambda key: (-counts[key], key))


def fit_bag_of_words(train: Sequence[Example], dev: Sequence[Example], *, between: bool) -> Annotate:
    """Fit logistic regression on bags of words.

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


FLOORS: dict[str, tuple[str, Callable[[Sequence[Example], Sequence[Example]], Annotate]]] = {
    "tags": ("entities", fit_tags),
    "dictionary": ("entities", fit_dictionary),
    "relation": ("relations", fit_relation),
    "bag of words": ("relations", partial(fit_bag_of_words, between=False)),
    "bags of words": ("relations", partial(fit_bag_of_words, between=True)),
}
"""By the names that cells know them by: the task, and how they are fitted on training and dev posts."""
