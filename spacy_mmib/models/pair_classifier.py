"""Posts and pairs of their spans to scores of relations: encoders, fusion and head, one after the other."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy
from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import (
    PairArray,
    PairInput,
    PairScores,
    PictureVectors,
    PostVectors,
    SpanWeights,
    TextVectors,
    choose,
    spread,
    sum_by_region,
)
from ..encoders.dropout import encode_pictures
from ..heads.markers import mark_pair
from ..post.extensions import ERROR_KEYS, count_regions
from ..post.user_data import get_entry, set_entry
from .post_encoder import encode_posts, fuse

Backprop: TypeAlias = Callable[[PairScores], list[Doc]]


def classify_pairs(
    model: Model[PairInput, PairScores], X: PairInput | list[Doc], is_train: bool
) -> tuple[PairScores, Backprop]:
    """Score pairs, in the way that the model's attribute "entity_repr" says. Docs alone, which is what `spacy
    debug model` gives any model, are posts without pairs.

    RETURNS (Tuple[PairScores, Callable]): The scores, and the callback for their gradient.
    """
    if not isinstance(X, PairInput):
        X = PairInput(X, [numpy.zeros((0, 4), dtype="int64") for _ in X])
    if model.attrs["entity_repr"] == "marker":
        return _classify_marked(model, X, is_train)
    return _classify_pooled(model, X, is_train)


def _classify_pooled(
    model: Model[PairInput, PairScores], X: PairInput, is_train: bool
) -> tuple[PairScores, Backprop]:
    """Score pairs by the mean of C over the tokens of head and tail (Eq. 19), or by C at their first ones. A
    post is encoded once, whatever the number of its pairs; one without any takes no part in the losses.
    """
    rows = [i for i, pairs in enumerate(X.pairs) if len(pairs)]
    vectors, backprop_posts = encode_posts(model, X.docs, is_train, rows)
    context = choose(vectors.context, rows)
    pairs_of_posts = [X.pairs[i] for i in rows]
    if model.attrs["entity_repr"] == "start":
        pairs_of_posts = [pairs[:, [0, 0, 2, 2]] + (0, 1, 0, 1) for pairs in pairs_of_posts]
    scores, backprop_head = _score(model, context, pairs_of_posts, is_train)
    weights: list[SpanWeights] = [{} for _ in vectors.weights]
    for found, pairs, array in zip(weights, X.pairs, vectors.weights):
        if array.shape[1]:
            spans = {(int(a), int(b)) for a, b in pairs.reshape(-1, 2)}
            found.update({(a, b): [array[a:b].mean(axis=0)] for a, b in sorted(spans)})

    def backprop(dY: PairScores) -> list[Doc]:
        d_context = spread(backprop_head(dY.scores), rows, X.docs, vectors.context.__getitem__)
        return backprop_posts(PostVectors(d_context, dY.losses))

    Y = PairScores(scores, vectors.losses, vectors.logs, weights, vectors.posteriors, vectors.found)
    return Y, backprop


def _classify_marked(
    model: Model[PairInput, PairScores], X: PairInput, is_train: bool
) -> tuple[PairScores, Backprop]:
    """Score pairs by C at the opening markers of head and tail, in the post written anew with markers round
    them: a text encoding a pair, and in training all of a batch at once.
    """
    owners = [i for i, pairs in enumerate(X.pairs) for _ in range(len(pairs))]
    marked = [
        mark_pair(doc, pair, model.attrs["markers"]) for doc, pairs in zip(X.docs, X.pairs) for pair in pairs
    ]
    docs = [doc for doc, _ in marked]
    posts = [X.docs[i] for i in owners]
    text, backprop_text = model.get_ref("tok2vec")(docs, is_train) if docs else ([], None)
    image, backprop_image = encode_pictures(model, X.docs, is_train, _join_marked(X.docs, docs, owners, text))
    vectors, backprop_fusion = fuse(model, posts, text, [image[i] for i in owners], is_train)
    places = [numpy.asarray([place], dtype="int64") for _, place in marked]
    scores, backprop_head = _score(model, vectors.context, places, is_train)
    weights: list[SpanWeights] = []
    if vectors.weights:
        weights = [{} for _ in X.docs]
        pairs = [pair for post in X.pairs for pair in post]
        for i, pair, place, array in zip(owners, pairs, places, vectors.weights):
            array = sum_by_region(array, image.rows[i], count_regions(X.docs[i], image.found[i]))
            for k in (0, 2) if array.shape[1] else ():
                span = int(pair[k]), int(pair[k + 1])
                weights[i].setdefault(span, []).append(array[place[0, k]])

    def backprop(dY: PairScores) -> list[Doc]:
        d_context = backprop_head(dY.scores)
        d_text, d_rows = backprop_fusion(PostVectors(d_context, dY.losses))
        d_image = [model.ops.xp.zeros_like(vectors) for vectors in image]
        for i, d_vectors in zip(owners, d_rows):
            d_image[i] += d_vectors
        backprop_image(d_image)
        if backprop_text is not None:
            backprop_text(list(d_text))  # others' layers may want a list
        return []

    Y = PairScores(scores, vectors.losses, vectors.logs, weights, vectors.posteriors, image.found)
    return Y, backprop


def _join_marked(
    posts: Sequence[Doc], marked: Sequence[Doc], owners: Sequence[int], text: Sequence[Floats2d]
) -> Sequence[Floats2d]:
    """RETURNS (Sequence[Floats2d]): The text vectors; of a text encoder that looks at pictures those of each
    post, instead of those of the marked ones. What was wrong with its picture the post is told.
    """
    if not isinstance(text, TextVectors):
        return text
    image = PictureVectors([text.image[0][:0]] * len(posts), [None] * len(posts))
    for k, i in reversed(list(enumerate(owners))):  # the first of a post comes last
        image[i], image.rows[i], image.found[i] = text.image[k], text.image.rows[k], text.image.found[k]
        for key in ERROR_KEYS:
            set_entry(posts[i], key, get_entry(marked[k], key))
    return TextVectors(text, image)


def _score(
    model: Model[Any, Any], context: Sequence[Floats2d], pairs: Sequence[PairArray], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], list[Floats2d]]]:
    head = model.get_ref("head")
    if not context:
        return model.ops.alloc2f(0, head.get_dim("nO")), lambda d_scores: []
    scores, backprop = head((context, pairs), is_train)
    return scores, backprop
