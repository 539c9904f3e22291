"""Relations of pairs of spans: mean pooling and a softmax classifier (Eq. 19)."""

from typing import Any

import torch
from torch import nn


class RelationHead(nn.Module):
    """Scores the relation of pairs of spans: W [E1 + E2] + b of Eq. 19, where + is concatenation.

    As the classifier is linear, W is kept as one matrix for heads and one for tails: each span is scored
    once in either role, and a pair costs one addition. Sixty entities have 3,540 ordered pairs.

    width (int): d, the width of the vectors.
    n_labels (int): Labels, the negative one included.
    """

    def __init__(self, *, width: int, n_labels: int) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"width": width, "n_labels": n_labels}
        self.head = nn.Linear(width, n_labels)
        self.tail = nn.Linear(width, n_labels, bias=False)
        for layer in (self.head, self.tail):  # as one matrix of 2d columns would be
            nn.init.uniform_(layer.weight, -((2 * width) ** -0.5), (2 * width) ** -0.5)

    def forward(
        self,
        context: torch.Tensor,
        pooling: torch.Tensor,
        pairs: torch.Tensor,
        *,
        training: bool = False,
    ) -> torch.Tensor:
        """Score pairs.

        context (torch.Tensor): C, picture-aware text vectors, (b, n, d).
        pooling (torch.Tensor): A row a span, with the weights of its tokens: 1 / length for its own and 0
            for all others, (b, spans, n).
        pairs (torch.Tensor): Long (p, 3): post, and head and tail among the spans of that post.
        training (bool): Makes no difference: nothing here is random.
        RETURNS (torch.Tensor): Logits, (p, n_labels).
        """
        # A product of matrices rather than gathering rows: its gradient is deterministic on a GPU too.
        spans = pooling.to(context.dtype) @ context
        heads, tails = self.head(spans), self.tail(spans)
        post, head, tail = pairs.unbind(-1)
        scores: torch.Tensor = heads[post, head] + tails[post, tail]
        return scores
