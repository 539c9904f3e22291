"""Picture dropout: in training a part of the posts goes without its picture, or without some of its objects,
so that a model also learns what to do where they are missing. Free of torch: components import it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy
from spacy.tokens import Doc
from thinc.api import Model, get_array_module
from thinc.types import Floats2d

from ..bridge.data import EncodedPosts, PictureVectors, TextVectors, as_picture_vectors
from ..post.extensions import get_stored_image

HOOK = "spacy_mmib_dropout"
"""Among the hooks of a doc in training (`Doc.user_hooks`): the `Draw` of this update."""


class Draw(NamedTuple):
    """Decides what a post goes without in an update. A number, 0-1, for the picture and one for each object
    are made from it, and what has one below the rate is dropped. So components that learn from a doc drop the
    same, and at another rate more or less of the same.

    doc (int): The id of the doc: the copies that each `nlp.update` makes have draws of their own.
    seed (int): What the numbers are made from.
    users (Tuple[str, ...]): The components that have learned from it.
    picture, region (float): The rates of the last of them.
    """

    doc: int
    seed: int
    users: tuple[str, ...] = ()
    picture: float = 0.0
    region: float = 0.0

    def __reduce__(self) -> Any:
        return type(None), ()  # a pickled doc has none


def draw_dropout(docs: Sequence[Doc], component: str, picture: float, region: float) -> None:
    """Draw what the pictures of docs go without when a component learns from them next: the same as for
    other components in this update, and anew if it has learned from these very docs before. It is drawn from
    numpy's random numbers, which [training] seed seeds; not at rates of 0, nor for docs without a picture.

    component (str): Its name.
    picture, region (float): Its rates, 0-1, of pictures, and of objects in those that stay.
    """
    for doc in docs:
        draw: Draw | None = doc.user_hooks.get(HOOK)
        is_used = draw is None or draw.doc != id(doc) or component in draw.users
        if is_used and (picture or region) and get_stored_image(doc) is not None:
            draw = Draw(id(doc), numpy.random.randint(2**31))
        if draw is not None:
            users = (*draw.users, component)
            doc.user_hooks[HOOK] = draw._replace(users=users, picture=picture, region=region)


def goes_without_picture(doc: Doc) -> bool:
    """RETURNS (bool): Whether a doc goes without its picture in this update."""
    draw: Draw | None = doc.user_hooks.get(HOOK)
    return draw is not None and bool(numpy.random.default_rng(draw.seed).random() < draw.picture)


def encode_ahead(model: Model[Any, Any], docs: Sequence[Doc]) -> EncodedPosts:
    """RETURNS (EncodedPosts): For prediction, from which `encode_pictures` takes them. A text encoder that
    looks at pictures encodes them itself.
    """
    img2vec = model.maybe_get_ref("img2vec")
    if img2vec not in model.layers or not docs:
        return EncodedPosts(docs, as_picture_vectors([model.ops.alloc2f(0, 0) for _ in docs]), None)
    return EncodedPosts(docs, as_picture_vectors(img2vec.predict(docs)), img2vec)


def encode_pictures(
    model: Model[Any, Any], docs: Sequence[Doc], is_train: bool, text: Sequence[Floats2d] = ()
) -> tuple[PictureVectors, Callable[[list[Floats2d]], Any]]:
    """Encode the pictures, unless the text encoder has.

    text (Sequence[Floats2d]): What the text encoder gave for the docs.
    RETURNS (Tuple[PictureVectors, Callable]): Picture vectors of each doc, no rows of any in a model
        without the sub-layer `img2vec`, in training less what `draw_dropout` has drawn; and the callback for
        their gradient.
    """
    img2vec = model.maybe_get_ref("img2vec")
    if isinstance(docs, EncodedPosts) and docs.encoder is img2vec:
        return docs.image, lambda d_image: []
    if isinstance(text, TextVectors) and img2vec not in model.layers:
        return text.image, lambda d_image: []
    if img2vec is None:
        return as_picture_vectors([model.ops.alloc2f(0, 0) for _ in docs]), lambda d_image: []
    vectors, backprop = img2vec(docs, is_train)
    image = as_picture_vectors(vectors)
    return drop_pictures(docs, image, backprop) if is_train else (image, backprop)


def drop_pictures(
    docs: Sequence[Doc], image: PictureVectors, backprop: Callable[[list[Floats2d]], Any]
) -> tuple[PictureVectors, Callable[[list[Floats2d]], Any]]:
    """Leave out what was drawn: all rows of a picture, so that its post is one without, or those of objects.

    RETURNS (Tuple[PictureVectors, Callable]): The rows that stay, and the callback for their gradient; the
        others' is 0.
    """
    kept = [_choose_rows(doc, x, of) for doc, x, of in zip(docs, image, image.rows)]
    if all(len(chosen) == len(x) for x, chosen in zip(image, kept)):
        return image, backprop
    left = [x[chosen] for x, chosen in zip(image, kept)]
    rows = [None if of is None else [of[k] for k in chosen] for of, chosen in zip(image.rows, kept)]

    def backprop_left(d_left: list[Floats2d]) -> Any:
        d_image = [get_array_module(x).zeros_like(x) for x in image]
        for d_vectors, chosen, d_chosen in zip(d_image, kept, d_left):
            d_vectors[chosen] = d_chosen
        return backprop(d_image)

    return PictureVectors(left, rows, image.found), backprop_left


def _choose_rows(doc: Doc, vectors: Floats2d, rows: list[int] | None) -> Any:
    """RETURNS (numpy.ndarray): The rows that stay, int64. If it isn't known what they are, the first is the
    picture and each other one an object.
    """
    draw: Draw | None = doc.user_hooks.get(HOOK)
    of = numpy.arange(len(vectors)) if rows is None else numpy.asarray(rows, dtype="int64")
    if draw is None or not len(of):
        return numpy.arange(len(vectors))
    if goes_without_picture(doc):
        return numpy.arange(0)
    numbers = numpy.random.default_rng(draw.seed).random(1 + int(of.max()))  # the first is the picture's
    return numpy.flatnonzero((of == 0) | (numbers[of] >= draw.region))
