"""Docs to picture-aware text vectors: text encoder, picture encoder and core, one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d

from ..extensions import get_image_key
from .data import CoreInput, PostVectors
from .mmib import build_core
from .padding import zeros_like


def init_post_encoder(
    model: Model[Any, Any],
    docs: list[Doc] | None,
    *,
    hidden_size: int | None,
    settings: dict[str, Any],
) -> tuple[int, int]:
    """Initialize the sub-layers `tok2vec`, `img2vec` and `core` of a model.

    model (Model): Has these three as refs.
    docs (Optional[List[Doc]]): A sample, to infer sizes from.
    hidden_size (Optional[int]): d; the width of the text vectors if `None`.
    settings (Dict[str, Any]): Of the core, see `MMIBLayer`.
    RETURNS (Tuple[int, int]): Width of the text vectors, width of the picture vectors.
    RAISES (ValueError): The core's settings don't fit these widths.
    """
    tok2vec, img2vec = model.get_ref("tok2vec"), model.get_ref("img2vec")
    docs = [doc for doc in docs or () if len(doc)]
    tok2vec.initialize(X=docs or None)
    img2vec.initialize(X=docs or None)
    text_width = tok2vec.maybe_get_dim("nO")
    if text_width is None:  # wrappers that don't state it, e.g. of a transformer
        if not docs:
            raise ValueError(
                "The width of the tok2vec layer can't be inferred without any example."
            )
        text_width = tok2vec.predict(docs[:1])[0].shape[1]
    image_width = img2vec.get_dim("nO")
    build_core(
        model.get_ref("core"),
        text_width=text_width,
        image_width=image_width,
        hidden_size=hidden_size,
        settings=settings,
    )
    return text_width, image_width


def encode_posts(
    model: Model[Any, Any], docs: Sequence[Doc], is_train: bool
) -> tuple[PostVectors, Callable[[PostVectors], list[Doc]]]:
    """Run the sub-layers `tok2vec`, `img2vec` and `core` of a model.

    model (Model): Has these three as refs.
    docs (Sequence[Doc]): A batch; docs without tokens pass through with no rows.
    is_train (bool): Whether to sample, compute regularizer terms and prepare for backprop.
    RETURNS (Tuple[PostVectors, Callable]): C of each doc and the terms; and the callback that takes
        their gradients to both encoders.
    """
    tok2vec, img2vec, core = (model.get_ref(name) for name in ("tok2vec", "img2vec", "core"))
    text, backprop_text = tok2vec(docs, is_train)
    image, backprop_image = img2vec(docs, is_train)
    full = [i for i, doc in enumerate(docs) if len(doc)]
    X = CoreInput(
        [text[i] for i in full],
        [image[i] for i in full],
        # A picture that could not be read has no rows and so is no picture.
        [get_image_key(docs[i]) if len(image[i]) else None for i in full],
    )
    Y, backprop_core = core(X, is_train)
    context: list[Floats2d] = [model.ops.alloc2f(0, 0) for _ in docs]
    for i, rows in zip(full, Y.context):
        context[i] = rows

    def backprop(dY: PostVectors) -> list[Doc]:
        d_full = PostVectors([dY.context[i] for i in full], dY.terms)
        d_text_full, d_image_full = backprop_core(d_full)
        d_text, d_image = zeros_like(model.ops, text), zeros_like(model.ops, image)
        for i, d_text_rows, d_image_rows in zip(full, d_text_full, d_image_full):
            d_text[i], d_image[i] = d_text_rows, d_image_rows
        backprop_image(d_image)
        # Last: with listeners, the shared encoder's own update runs inside this call.
        d_docs: list[Doc] = backprop_text(d_text)
        return d_docs

    return PostVectors(context, Y.terms, Y.kl_per_dim), backprop
