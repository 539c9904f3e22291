"""The relation head as a Thinc layer."""

from collections.abc import Callable
from typing import Any

import torch
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d

from ..bridge.data import RelationHeadInput
from ..bridge.padding import pad, unpad
from ..bridge.shim import set_module, wrap_module
from .pairs import RelationHead


def RelationHeadLayer() -> Model[RelationHeadInput, Floats2d]:
    """RETURNS (Model[RelationHeadInput, Floats2d]): Logits, a row a pair, in the order of the posts; its
    gradient callback gives d(context).
    """
    layer = wrap_module(_convert_inputs, _convert_outputs)
    layer.name = "relation_head"
    return layer


def build_relation_head(layer: Model[RelationHeadInput, Floats2d], *, width: int, n_labels: int) -> None:
    """Build the torch module, with new weights."""
    set_module(layer, RelationHead(width=width, n_labels=n_labels))
    layer.set_dim("nI", width, force=True)
    layer.set_dim("nO", n_labels, force=True)


def _convert_inputs(
    model: Model[Any, Any], X: RelationHeadInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], list[Floats2d]]]:
    context, _ = pad(X.context, requires_grad=is_train)
    spans: list[dict[tuple[int, int], int]] = [{} for _ in X.context]
    pairs = []
    for post, rows in enumerate(X.pairs):
        known = spans[post]
        for head_start, head_end, tail_start, tail_end in rows.tolist():
            head = known.setdefault((head_start, head_end), len(known))
            tail = known.setdefault((tail_start, tail_end), len(known))
            pairs.append((post, head, tail))
    pooling = torch.zeros(len(X.context), max(map(len, spans)), context.shape[1])
    for post, known in enumerate(spans):
        for (start, end), row in known.items():
            pooling[post, row, start:end] = 1 / (end - start)
    device = context.device
    args = (
        context,
        pooling.to(device),
        torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 3),
    )

    def backprop(d_inputs: ArgsKwargs) -> list[Floats2d]:
        return unpad(d_inputs.args[0], [len(x) for x in X.context])

    return ArgsKwargs(args=args, kwargs={}), backprop


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[RelationHeadInput, Any], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], ArgsKwargs]]:
    _, logits = inputs_outputs

    def backprop(d_logits: Floats2d) -> ArgsKwargs:
        return ArgsKwargs(args=([logits],), kwargs={"grad_tensors": [xp2torch(d_logits)]})

    return torch2xp(logits.detach()), backprop
