"""`spacy-mmib.CRF.v1`: the sub-layer that makes entities of picture-aware text vectors, or learns to."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy
import torch
from spacy.util import registry
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats1d, Floats2d

from ..bridge.data import DecodedEntities, NERInput
from ..bridge.shim import pad, unpad, wrap_module
from .borders import BorderBias, BorderFirst
from .crf import NERHead

Gradients: TypeAlias = tuple[list[Floats2d], list[Floats2d]]
"""Of C, and of what borders are told from; no list of the latter if it isn't used."""


@registry.architectures("spacy-mmib.CRF.v1")
def build_crf_v1(borders: Literal["bias", "decide"] | None = None) -> Model[NERInput, Any]:
    """Build the sub-layer `head` of `spacy-mmib.NER.v1`: a linear-chain CRF over BIO tags (Eq. 18, 27 of the
    MMIB paper).

    borders (Optional[str]): What a second CRF over O, B and I without types is for. It learns from vectors
        that the fusion gives for this (`spacy-mmib.UMT.v1` with `auxiliary = true`), otherwise from the text
        vectors. "bias": its emissions are half of those of the main one, as in UMT; its loss is named
        "borders" and has the weight 0.5. "decide": it alone finds the entities, and C only tells their types:
        the control "text decides borders, the picture types". `None`: there is none.
    RETURNS (Model[NERInput, Union[List[DecodedEntities], List[float], Floats1d]]): Entities of each post, or
        probabilities of those that are given, or with gold tags the loss, followed by that of "borders" if
        there is one; its gradient callback gives those of C and of what borders are told from.
    RAISES (ValueError): `borders` is something else.
    """
    heads = {None: NERHead, "bias": BorderBias, "decide": BorderFirst}
    if borders not in heads:
        raise ValueError(f"borders is 'bias', 'decide' or null, not {borders!r}.")
    layer = wrap_module(heads[borders], _convert_inputs, _convert_outputs)
    layer.name = "ner_head"
    layer.attrs.update(borders=borders is not None, losses={"borders": 0.5} if borders == "bias" else {})
    return layer


def _convert_inputs(
    model: Model[Any, Any], X: NERInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], Gradients]]:
    context, mask = pad(X.context, requires_grad=is_train)
    borders = pad(X.borders, requires_grad=is_train)[0] if model.attrs["borders"] else None
    tags = None
    if X.tags is not None:
        rows = [numpy.pad(t, (0, mask.shape[1] - len(t)), constant_values=0) for t in X.tags]
        tags = torch.from_numpy(numpy.stack(rows).astype("int64")).to(context.device)

    def backprop(d_inputs: ArgsKwargs) -> Gradients:
        lengths = [len(x) for x in X.context]
        d_context, d_borders = d_inputs.args[0], d_inputs.args[-1]
        d_context = torch.zeros_like(context) if d_context is None else d_context  # no entity to type
        return unpad(d_context, lengths), [] if d_borders is None else unpad(d_borders, lengths)

    return ArgsKwargs(args=(context, mask, tags, X.spans, borders), kwargs={}), backprop


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[NERInput, Any], is_train: bool
) -> tuple[list[DecodedEntities] | Floats1d, Callable[[Floats1d], ArgsKwargs]]:
    _, output = inputs_outputs
    Y = torch2xp(output.detach()) if isinstance(output, torch.Tensor) else output

    def backprop(d_loss: Floats1d) -> ArgsKwargs:
        return ArgsKwargs(args=([output],), kwargs={"grad_tensors": [xp2torch(d_loss)]})

    return Y, backprop
