"""The entity head as a Thinc layer: entities at inference, the loss in training."""

from collections.abc import Callable
from typing import Any

import numpy
import torch
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats1d, Floats2d

from ..bridge.data import NERInput
from ..bridge.padding import pad, unpad
from ..bridge.shim import set_module, wrap_module
from .crf import DecodedEntities, NERHead


def NERHeadLayer() -> Model[NERInput, Any]:
    """RETURNS (Model[NERInput, Union[List[DecodedEntities], Floats1d]]): Entities of each post, or with
    targets the loss, shape (1,); its gradient callback gives d(context).
    """
    layer = wrap_module(_convert_inputs, _convert_outputs)
    layer.name = "ner_head"
    return layer


def build_ner_head(layer: Model[NERInput, Any], *, width: int, n_labels: int) -> None:
    """Build the torch module, with new weights."""
    set_module(layer, NERHead(width=width, n_labels=n_labels))
    layer.set_dim("nI", width, force=True)
    layer.set_dim("nO", n_labels, force=True)


def _convert_inputs(
    model: Model[Any, Any], X: NERInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], list[Floats2d]]]:
    context, mask = pad(X.context, requires_grad=is_train)
    tags = None
    if X.targets is not None:
        longest = mask.shape[1]
        rows = [numpy.pad(t, (0, longest - len(t)), constant_values=0) for t in X.targets.tags]
        tags = torch.from_numpy(numpy.stack(rows).astype("int64")).to(context.device)

    def backprop(d_inputs: ArgsKwargs) -> list[Floats2d]:
        return unpad(d_inputs.args[0], [len(x) for x in X.context])

    return ArgsKwargs(args=(context, mask, tags), kwargs={}), backprop


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[NERInput, Any], is_train: bool
) -> tuple[list[DecodedEntities] | Floats1d, Callable[[Floats1d], ArgsKwargs]]:
    _, output = inputs_outputs
    Y = torch2xp(output.detach()) if isinstance(output, torch.Tensor) else output

    def backprop(d_loss: Floats1d) -> ArgsKwargs:
        return ArgsKwargs(args=([output],), kwargs={"grad_tensors": [xp2torch(d_loss)]})

    return Y, backprop
