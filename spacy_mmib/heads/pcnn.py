"""`spacy-mmib.PCNN.v1` (Zeng et al., "Distant Supervision for Relation Extraction via Piecewise Convolutional
Neural Networks", EMNLP 2015), as a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from spacy.util import registry
from thinc.api import ArgsKwargs, Model
from thinc.layers.pytorchwrapper import convert_pytorch_default_outputs
from thinc.types import Floats2d
from torch import nn
from torch.nn import functional as F

from ..bridge.shim import pad, unpad, wrap_module
from ..fusion.blocks import BUFFER, at_least_float32
from .pairs import RelationInput

FURTHEST = 128
"""Distances beyond it, in tokens, count as it."""


class PCNN(nn.Module):
    """Each token of a post is x_t = [c_t; p_(t - h); q_(t - u)], with h and u the first tokens of head and
    tail and p, q embeddings of distances. A convolution over it, y = W * x + b, is cut into three pieces, up
    to the first of h and u, from there to the second, and the rest; the maximum of ReLU(y) over each piece, 0
    for an empty one, is what the classifier gets of it.

    width (int): d, the width of C.
    n_labels (int): Labels, the negative one included.
    filters, window, position_width, dropout: The settings of `spacy-mmib.PCNN.v1`.
    """

    def __init__(
        self,
        *,
        width: int,
        n_labels: int,
        filters: int = 230,
        window: int = 3,
        position_width: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if window < 1 or not window % 2:
            raise ValueError(f"window is an odd number of tokens, not {window}.")
        self.dropout = dropout
        self.head_distances = nn.Embedding(2 * FURTHEST + 1, position_width)
        self.tail_distances = nn.Embedding(2 * FURTHEST + 1, position_width)
        self.convolution = nn.Conv1d(width + 2 * position_width, filters, window, padding=window // 2)
        self.classifier = nn.Linear(3 * filters, n_labels)

    def forward(
        self, context: torch.Tensor, mask: torch.Tensor, pairs: torch.Tensor, *, training: bool = False
    ) -> torch.Tensor:
        """Score pairs.

        context (torch.Tensor): C, (b, n, d).
        mask (torch.Tensor): Bool (b, n).
        pairs (torch.Tensor): Long (p, 3), in the order of the posts: post, first token of the head, of the
            tail.
        training (bool): Whether there is dropout.
        RETURNS (torch.Tensor): Logits, (p, n_labels).
        """
        # So many pairs at a time that memory doesn't grow with pairs x tokens.
        at_once = max(1, BUFFER // (context.shape[1] * self.convolution.out_channels))
        parts = [self._pool(context, mask, part) for part in pairs.split(at_once)]
        return at_least_float32(self.classifier(F.dropout(torch.cat(parts), self.dropout, training)))

    def _pool(self, context: torch.Tensor, mask: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """RETURNS (torch.Tensor): The three maxima of each filter, (p, 3 * filters)."""
        posts, counts = pairs[:, 0].unique_consecutive(return_counts=True)
        of_posts = list(zip(posts.tolist(), counts.tolist()))
        real = mask[pairs[:, 0]]
        # Not context[posts], whose gradient isn't deterministic on a GPU.
        rows = torch.cat([context[post].expand(count, -1, -1) for post, count in of_posts])
        places = torch.arange(context.shape[1], device=context.device) - pairs[:, 1:].unsqueeze(-1)
        distances = places.clamp(-FURTHEST, FURTHEST) + FURTHEST
        x = torch.cat([rows, self.head_distances(distances[:, 0]), self.tail_distances(distances[:, 1])], -1)
        x = x.masked_fill(~real.unsqueeze(-1), 0.0)
        y = self.convolution(x.transpose(1, 2)).relu()
        piece = (places > 0).sum(1)  # how many of the two starts lie before the token
        masks = [(piece == k) & real for k in range(3)]
        return torch.cat([y.masked_fill(~m.unsqueeze(1), 0.0).amax(-1) for m in masks], -1)


@registry.architectures("spacy-mmib.PCNN.v1")
def build_pcnn_v1(
    filters: int = 230, window: int = 3, position_width: int = 5, dropout: float = 0.5
) -> Model[RelationInput, Floats2d]:
    """Build the sub-layer `head` of `spacy-mmib.REL.v1` that is a piecewise convolution. As published it is
    a model of its own, on word vectors of width 50, trained by SGD; here it stands on the vectors that the
    text encoder and the fusion give. `entity_repr` is "pool": which tokens are marked plays no part.

    filters (int): Of the convolution.
    window (int): Its width in tokens, odd.
    position_width (int): Of the embedding of the distance to head or tail.
    dropout (float): 0-1, before the classifier.
    RETURNS (Model[RelationInput, Floats2d]): Logits, a row a pair, in the order of the posts; its
        gradient callback gives d(context).
    RAISES (ValueError): A window that is no odd number.
    """
    settings = {"filters": filters, "window": window, "position_width": position_width, "dropout": dropout}
    layer = wrap_module(
        PCNN,
        _convert_inputs,
        convert_pytorch_default_outputs,
        settings=settings,
        runtime_settings={"dropout": dropout},
    )
    layer.name = "pcnn"
    return layer


def _convert_inputs(
    model: Model[Any, Any], X: RelationInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], Sequence[Floats2d]]]:
    vectors, pairs_of_posts = X
    context, mask = pad(vectors, requires_grad=is_train)
    rows = [(post, *pair[[0, 2]]) for post, pairs in enumerate(pairs_of_posts) for pair in pairs]
    pairs = torch.from_numpy(numpy.asarray(rows, dtype="int64").reshape(-1, 3)).to(context.device)

    def backprop(d_inputs: ArgsKwargs) -> Sequence[Floats2d]:
        return unpad(d_inputs.args[0], vectors)

    return ArgsKwargs(args=(context, mask, pairs), kwargs={}), backprop
