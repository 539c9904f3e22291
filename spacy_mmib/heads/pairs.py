"""`spacy-mmib.Pairs.v1`: relations of pairs of spans, by mean pooling and a softmax classifier (Eq. 19)."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from spacy.util import registry
from thinc.api import ArgsKwargs, Model
from thinc.layers.pytorchwrapper import convert_pytorch_default_outputs
from thinc.types import Floats2d
from torch import nn
from torch.nn import functional as F

from ..bridge.data import PairArray
from ..bridge.shim import pad, unpad, wrap_module
from ..fusion.blocks import at_least_float32

RelationInput: TypeAlias = tuple[list[Floats2d], list[PairArray]]
"""C of each post, a row a token, and its pairs."""


class RelationHead(nn.Module):
    """Scores the relation of pairs of spans: W [E1 + E2] + b of Eq. 19, where + is concatenation.

    As the classifier is linear, W is kept as one matrix for heads and one for tails: each span is scored
    once in either role, and a pair costs one addition. Sixty entities have 3,540 ordered pairs.

    width (int): d, the width of the vectors.
    n_labels (int): Labels, the negative one included.
    hidden, dropout: Those of `spacy-mmib.Pairs.v1`. With a hidden layer the matrices are its own, 2d x 2d.
    """

    def __init__(self, *, width: int, n_labels: int, hidden: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        size = 2 * width if hidden else n_labels
        self.head = nn.Linear(width, size)
        self.tail = nn.Linear(width, size, bias=False)
        self.output = nn.Linear(size, n_labels) if hidden else None
        for layer in (self.head, self.tail):  # as one matrix of 2d columns would be
            nn.init.uniform_(layer.weight, -((2 * width) ** -0.5), (2 * width) ** -0.5)

    def forward(
        self, context: torch.Tensor, pooling: torch.Tensor, pairs: torch.Tensor, *, training: bool = False
    ) -> torch.Tensor:
        """Score pairs.

        context (torch.Tensor): C, picture-aware text vectors, (b, n, d).
        pooling (torch.Tensor): A row a span, with the weights of its tokens: 1 / length for its own and 0
            for all others, (b, spans, n).
        pairs (torch.Tensor): Long (p, 3): post, and head and tail among the spans of that post.
        training (bool): Whether there is dropout.
        RETURNS (torch.Tensor): Logits, (p, n_labels).
        """
        # A product of matrices rather than gathering rows: its gradient is deterministic on a GPU too.
        spans = pooling.to(context.dtype) @ context
        heads, tails = self.head(spans), self.tail(spans)
        post, head, tail = pairs.unbind(-1)
        scores: torch.Tensor = heads[post, head] + tails[post, tail]
        if self.output is not None:
            scores = self.output(F.dropout(scores, self.dropout, training))
        return at_least_float32(scores)


@registry.architectures("spacy-mmib.Pairs.v1")
def build_pairs_v1(hidden: bool = False, dropout: float = 0.0) -> Model[RelationInput, Floats2d]:
    """Build the sub-layer `head` of `spacy-mmib.REL.v1`: a classifier of E1 and E2, concatenated.

    hidden (bool): With a linear layer, 2d to 2d, before the one that classifies: with `entity_repr =
        "marker"` and a transformer that is the text model of Soares et al. ("Matching the Blanks", ACL 2019),
        as papers on MNRE compare with it: without the pretraining that gave it its name, whose weights were
        never released.
    dropout (float): 0-1, between the two; 0.5 there.
    RETURNS (Model[RelationInput, Floats2d]): Logits, a row a pair, in the order of the posts; its
        gradient callback gives d(context).
    """
    settings = {"hidden": hidden, "dropout": dropout}
    layer = wrap_module(
        RelationHead,
        _convert_inputs,
        convert_pytorch_default_outputs,
        settings=settings,
        runtime_settings={"dropout": dropout},
    )
    layer.name = "relation_head"
    return layer


def _convert_inputs(
    model: Model[Any, Any], X: RelationInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], Sequence[Floats2d]]]:
    vectors, pairs_of_posts = X
    context, _ = pad(vectors, requires_grad=is_train)
    spans: list[dict[tuple[int, int], int]] = [{} for _ in vectors]
    pairs = []
    for post, (rows, known) in enumerate(zip(pairs_of_posts, spans)):
        for head_start, head_end, tail_start, tail_end in rows.tolist():
            head = known.setdefault((head_start, head_end), len(known))
            tail = known.setdefault((tail_start, tail_end), len(known))
            pairs.append((post, head, tail))
    pooling = torch.zeros(len(vectors), max(map(len, spans)), context.shape[1])
    for post, known in enumerate(spans):
        for (start, end), row in known.items():
            pooling[post, row, start:end] = 1 / (end - start)
    index = torch.tensor(pairs, dtype=torch.long, device=context.device).view(-1, 3)
    args = (context, pooling.to(context.device), index)

    def backprop(d_inputs: ArgsKwargs) -> Sequence[Floats2d]:
        return unpad(d_inputs.args[0], vectors)

    return ArgsKwargs(args=args, kwargs={}), backprop
