"""Noise, or a constant, in place of picture vectors: controls."""

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy
from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import PictureVectors, as_picture_vectors
from ..images.values import image_key
from ..post.extensions import get_stored_image

Kind: TypeAlias = Literal["noise", "constant"]


def forward(
    model: Model[list[Doc], list[Floats2d]], docs: Sequence[Doc], is_train: bool, *, seed: int, kind: Kind
) -> tuple[PictureVectors, Callable[[list[Floats2d]], Any]]:
    """Replace the vectors that the wrapped encoder gives. No gradient reaches that encoder."""
    vectors, backprop_img2vec = model.layers[0](docs, is_train)
    result = copy.copy(as_picture_vectors(vectors))  # what its rows stand for stays
    for i, of_doc in enumerate(result):
        if len(of_doc):
            drawn = _draw((seed, None if kind == "constant" else _get_key(docs[i])), of_doc.shape)
            norms = model.ops.xp.linalg.norm(of_doc, axis=1, keepdims=True)
            if kind == "noise":
                drawn /= numpy.linalg.norm(drawn, axis=1, keepdims=True)
            else:
                norms = norms > 0
            result[i] = model.ops.asarray2f(drawn, dtype=of_doc.dtype) * norms

    def backprop(d_vectors: list[Floats2d]) -> Any:
        return backprop_img2vec([model.ops.xp.zeros_like(d_rows) for d_rows in d_vectors])

    return result, backprop


def _get_key(doc: Doc) -> str:
    image: Any = get_stored_image(doc)
    key, root = image_key(image), getattr(image, "root", None)
    if root is not None:  # the same wherever the pictures are
        key = os.path.relpath(str(key).removeprefix("path:"), os.path.realpath(root))
    return str(key)


def _draw(seed: tuple[int, str | None], shape: tuple[int, ...]) -> "numpy.ndarray[Any, Any]":
    """Not seeded by the rows' numbers: their last bits depend on the batch a picture is in."""
    digest = hashlib.blake2b(repr(seed).encode("utf8", "surrogatepass"), digest_size=16).digest()
    return numpy.random.default_rng(int.from_bytes(digest, "little")).standard_normal(shape)


def _init(model: Model[Any, Any], X: Any = None, Y: Any = None) -> None:
    img2vec = model.layers[0]
    img2vec.initialize(X=X)
    if img2vec.has_dim("nO"):
        model.set_dim("nO", img2vec.get_dim("nO"), force=True)


@registry.architectures("spacy-mmib.NoiseEncoder.v1")
def build_noise_encoder_v1(
    *, img2vec: Model[list[Doc], list[Floats2d]], seed: int = 0, kind: Kind = "noise"
) -> Model[list[Doc], list[Floats2d]]:
    """Build a control for experiments: does a model profit from what a picture shows, or from any vector
    that a picture gives it? Each row of a picture encoder is replaced.

    "noise": Gaussian noise of the same norm, drawn by picture and place of the row, so that a picture has the
    same noise in all epochs, in training and in prediction, and whatever batch it is in: a model can
    recognise a picture that it has been trained on, and learns nothing about another one. "constant": for
    each place of a row one vector, of numbers of variance 1, the same for all pictures: what is left of a
    picture is the number of its rows. Rows of zeros stay zeros in either case.

    img2vec (Model[List[Doc], List[Floats2d]]): The picture encoder, or a listener. It doesn't learn.
    seed (int): Another one gives other noise, or another constant.
    kind (str): "noise" or "constant".
    RETURNS (Model[List[Doc], List[Floats2d]]): As any picture encoder: row 0 is of the whole picture, and
        there are no rows without a picture.
    RAISES (ValueError): Another kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(get_args(Kind))}.")
    layer_forward = partial(forward, seed=seed, kind=kind)
    return Model("noise_encoder", layer_forward, init=_init, layers=[img2vec], dims={"nO": None})
