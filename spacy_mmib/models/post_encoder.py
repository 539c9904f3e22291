"""Docs to picture-aware text vectors: text encoder, picture encoder and fusion, one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy
from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import FusionInput, PostVectors, choose, spread, sum_by_region
from ..bridge.shim import Shim, get_module
from ..encoders.dropout import encode_pictures
from ..encoders.listener import get_image_width
from ..fusion.base import build_fusion
from ..post.extensions import count_regions, get_image_key

LAYERS = ("tok2vec", "img2vec", "fusion", "head")
"""Sub-layers of a model, its refs; some have a "pointer" besides."""

FuseGradient: TypeAlias = Callable[[PostVectors], tuple[Sequence[Floats2d], Sequence[Floats2d]]]


def make_model(
    name: str,
    forward: Callable[..., Any],
    head: Model[Any, Any],
    tok2vec: Model[Any, Any],
    fusion: Model[Any, Any] | None = None,
    img2vec: Model[Any, Any] | None = None,
    *,
    pointer: Model[Any, Any] | None = None,
    hidden_size: int | None = None,
    autocast: str | None = None,
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
    attrs: dict[str, Any] | None = None,
) -> Model[Any, Any]:
    """Put the sub-layers of a model together. The settings are those of `spacy-mmib.NER.v1`. A text encoder
    that looks at pictures itself has a picture encoder of its own, which is the model's if there is no other.

    name (str): Of the model.
    forward (Callable): Runs them.
    head (Model): Gets the fusion's vectors, or without a fusion those of the text as they are.
    pointer (Optional[Model]): Gets them too, with the picture's.
    attrs (Optional[Dict[str, Any]]): What the weights depend on: a saved model brings these along.
    RETURNS (Model): The model, with the sub-layers as refs; `img2vec` only if something has use for it.
    RAISES (ValueError): The fusion needs pictures, and there is no picture encoder.
    """
    within_text = tok2vec.maybe_get_ref("img2vec")
    if fusion is None or not fusion.attrs["uses_pictures"]:
        img2vec = within_text
    elif img2vec is None and within_text is None:
        raise ValueError(
            f"The fusion {fusion.name} needs picture vectors: add a block [...model.img2vec], for example "
            'with @architectures = "spacy-mmib.TorchvisionEncoder.v1".'
        )
    img2vec = img2vec or within_text
    if pointer is not None and img2vec is None:
        raise ValueError("A pointer points at objects in pictures, but this model looks at none.")
    for layer in (fusion, pointer, head):
        if layer is not None and "borders" not in layer.attrs:  # a CRF, which stays in float32
            for shim in (shim for shim in layer.shims if isinstance(shim, Shim)):
                shim.use_autocast(autocast, mixed_precision, grad_scaler_config)
    layers = dict(zip(LAYERS, (tok2vec, img2vec, fusion, head)))
    if pointer is not None:
        layers["pointer"] = pointer
    return Model(
        name,
        forward,
        # A partial, not an attribute of the model, which Thinc would restore from a saved one over the
        # config's.
        init=partial(_init, hidden_size=hidden_size),
        layers=[layer for layer in layers.values() if layer not in (None, within_text)],
        refs=layers,
        dims={"nO": None},
        attrs=attrs or {},
    )


def _init(
    model: Model[Any, Any], X: list[Doc] | None = None, Y: Any = None, *, hidden_size: int | None
) -> None:
    """Initialize all sub-layers. The size of the output has to be there as dimension nO."""
    tok2vec, img2vec, fusion, head = map(model.maybe_get_ref, LAYERS)
    docs = [doc for doc in X or () if len(doc)]
    tok2vec.initialize(X=docs or None)
    width: int | None = tok2vec.maybe_get_dim("nO")
    if width is None:  # wrappers that don't state it, e.g. of a transformer
        if not docs:
            raise ValueError("The width of the tok2vec layer can't be inferred without any example.")
        width = int(tok2vec.predict(docs[:1])[0].shape[1])
    border_width = text_width = width
    image_width = 0
    if fusion is not None:
        if img2vec is not None:
            if img2vec in model.layers:
                img2vec.initialize(X=docs or None)
            image_width = get_image_width(img2vec)
        width = build_fusion(
            fusion, text_width=text_width, image_width=image_width, width=hidden_size or width
        )
        border_width = get_module(fusion).border_width
        if border_width and not head.attrs.get("borders"):
            raise ValueError(
                f"The fusion {fusion.name} gives vectors to tell the borders of entities from, which this "
                'head doesn\'t use: set head to @architectures = "spacy-mmib.CRF.v1" with borders = "bias", '
                "or auxiliary = false in the fusion."
            )
        border_width = border_width or text_width
    n_labels = model.get_dim("nO")
    borders = {"border_width": border_width} if head.attrs.get("borders") else {}
    head.initialize(X={"width": width, "n_labels": n_labels, **borders})
    pointer = model.maybe_get_ref("pointer")
    if pointer is not None:
        pointer.initialize(X={"width": width, "image_width": image_width})
    head.set_dim("nI", width, force=True)
    head.set_dim("nO", n_labels, force=True)


def encode_posts(
    model: Model[Any, Any], docs: Sequence[Doc], is_train: bool, rows: Sequence[int] | None = None
) -> tuple[PostVectors, Callable[[PostVectors], list[Doc]]]:
    """Run the sub-layers `tok2vec`, `img2vec` and `fusion`, which the model has as refs.

    is_train (bool): Whether to sample, compute losses and prepare for backprop.
    rows (Optional[Sequence[int]]): The docs that are wanted, all that have tokens by default. The others
        pass through with no rows, and take no part in the losses.
    RETURNS (Tuple[PostVectors, Callable]): C of each doc, the losses and the attention weights; and the
        callback that takes their gradients to both encoders.
    """
    no_rows = model.ops.alloc2f(0, 0)
    text, backprop_text = model.get_ref("tok2vec")(docs, is_train)
    image, backprop_image = encode_pictures(model, docs, is_train, text)
    rows = [i for i in (range(len(docs)) if rows is None else rows) if len(docs[i])]
    posts, texts, pictures = (choose(x, rows) for x in (docs, text, image))
    Y, backprop_fusion = fuse(model, posts, texts, pictures, is_train)
    context, borders = (spread(x, rows, docs, lambda i: no_rows) for x in (Y.context, Y.borders))
    weights = []
    if Y.weights:
        weights = [numpy.zeros((len(doc), 0), dtype="float32") for doc in docs]
        for i, array in zip(rows, Y.weights):
            weights[i] = sum_by_region(array, image.rows[i], count_regions(docs[i], image.found[i]))

    def backprop(dY: PostVectors) -> list[Doc]:
        zeros_like, d_rows = model.ops.xp.zeros_like, PostVectors(choose(dY.context, rows), dY.losses)
        d_rows.borders = choose(dY.borders, rows) if dY.borders else []
        d_text, d_image = backprop_fusion(d_rows)
        d_text = spread(d_text, rows, docs, lambda i: zeros_like(text[i]))
        d_image = spread(d_image, rows, docs, lambda i: zeros_like(image[i]))
        if dY.image:  # of a pointer, which looks at the picture itself
            d_image = [d + d_pointer for d, d_pointer in zip(d_image, dY.image)]
        # Also where nothing is learned from this batch: only the last listener of a shared encoder makes
        # it learn, from what all of them have handed in.
        backprop_image(list(d_image))
        d_docs: list[Doc] = backprop_text(list(d_text))  # others' layers may want a list
        return d_docs

    Y = replace(Y, context=context, borders=borders, weights=weights, found=image.found)
    return replace(Y, text=text, image=image, rows=image.rows), backprop


def fuse(
    model: Model[Any, Any],
    docs: Sequence[Doc],
    text: Sequence[Floats2d],
    image: Sequence[Floats2d],
    is_train: bool,
) -> tuple[PostVectors, FuseGradient]:
    """Run the sub-layer `fusion` on text vectors, none of them empty, and picture vectors of posts. Without
    that sub-layer text vectors go to the head as they are. They are also what borders are told from, if the
    fusion gives nothing else for that.

    RETURNS (Tuple[PostVectors, Callable]): C, and the callback that gives the gradients of text and picture
        vectors.
    """
    fusion = model.maybe_get_ref("fusion")
    Y, backprop_fusion = PostVectors(text), None
    if fusion is not None and text:
        # A picture that could not be read has no rows and so is no picture. What is equal matters in training
        # only.
        X = FusionInput(text, image, [str(i) if len(x) else None for i, x in enumerate(image)], [])
        if is_train:
            X.image_keys = [get_image_key(doc) if len(x) else None for doc, x in zip(docs, image)]
            X.text_keys = [doc.text for doc in docs]
        Y, backprop_fusion = fusion(X, is_train)
    gives_borders = bool(Y.borders)

    def backprop(dY: PostVectors) -> tuple[Sequence[Floats2d], Sequence[Floats2d]]:
        if backprop_fusion is not None:
            d_text, d_image = backprop_fusion(dY)
        else:
            d_text, d_image = dY.context, [model.ops.xp.zeros_like(x) for x in image]
        if dY.borders and not gives_borders:
            d_text = [d + d_borders for d, d_borders in zip(d_text, dY.borders)]
        return d_text, d_image

    return Y if gives_borders else replace(Y, borders=text), backprop
