"""Blocks that fusions are built of, in pure torch.

Shapes are written with b posts in the batch, n tokens, m + 1 picture rows (the whole picture and m objects),
d the hidden size. Masks are bool, True at what is real. Equations are those of the MMIB paper (Cui et al.,
2024).
"""

from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

FeedForward: TypeAlias = Literal["transformer", "linear"]
Pooling: TypeAlias = Literal["mean", "first"]

BUFFER = 2**24
"""Attention weights that a training step holds at a time, of all posts and heads of a batch: 64 MiB."""


class AttentivePropagationEncoder(nn.Module):
    """APEnc(Q, K): multi-head attention and a feed-forward network, each followed by a residual
    connection and layer normalization (Eq. 4-5).

    width (int): d.
    heads (int): h, must divide `width`.
    dropout (float): On attention weights.
    residual_dropout (Optional[float]): On both residual branches; `dropout` if `None`.
    feed_forward (str): "transformer" for Linear(d, 4d), GELU, Linear(4d, d); "linear" for one
        Linear(d, d) without activation, as in the code released with the paper.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.1,
        feed_forward: FeedForward = "transformer",
        residual_dropout: float | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(
                f"The number of attention heads ({heads}) has to divide the hidden size ({width}). "
                f"Numbers that do: {[h for h in range(1, min(width, 64) + 1) if width % h == 0]}."
            )
        # Holds the weights. Its own forward reads `self.training`, which threads share, and has a buffer of
        # n x n a head.
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward: nn.Module
        if feed_forward == "transformer":
            self.feed_forward = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )
        elif feed_forward == "linear":
            self.feed_forward = nn.Linear(width, width)
        else:
            raise ValueError(f"feed_forward is 'transformer' or 'linear', not {feed_forward!r}.")
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = dropout
        self.residual_dropout = dropout if residual_dropout is None else residual_dropout

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        key_mask: torch.Tensor,
        *,
        training: bool,
        need_weights: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Let every query row attend to the real key rows of its post. Memory grows with q + k, not with
        their product, unless the weights are needed.

        query (torch.Tensor): Q, (b, q, d).
        keys (torch.Tensor): K, keys and values, (b, k, d).
        key_mask (torch.Tensor): Bool (b, k); at least one True a post.
        training (bool): Whether there is dropout.
        need_weights (bool): Whether to give the attention weights. Has a buffer of q x k a head: for few
            keys. They are without dropout.
        RETURNS (Tuple[torch.Tensor, Optional[torch.Tensor]]): F, (b, q, d), and the attention weights, mean
            over heads, (b, q, k): 0 where `key_mask` is False, of sum 1 over the keys.
        """
        projections = zip(self.attention.in_proj_weight.chunk(3), self.attention.in_proj_bias.chunk(3))
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.attention.num_heads, -1)).transpose(1, 2)
            for x, (weight, bias) in zip((query, keys, keys), projections)
        )
        mask = key_mask[:, None, None]
        weights = None
        if need_weights:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            every = scores.masked_fill(~mask, float("-inf")).softmax(-1)
            attended, weights = every @ v, every.mean(1)
        else:
            attended = attend(q, k, v, mask, self.dropout if training else 0.0)
        attended = self.attention.out_proj(attended.transpose(1, 2).flatten(-2))
        hidden = self.attention_norm(query + F.dropout(attended, self.residual_dropout, training))
        forwarded = F.dropout(self.feed_forward(hidden), self.residual_dropout, training)
        return self.feed_forward_norm(hidden + forwarded), weights


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, dropout: float
) -> torch.Tensor:
    """Scaled dot-product attention in memory that grows with q + k, not with their product.

    q, k, v (torch.Tensor): (b, h, rows, d / h).
    mask (torch.Tensor): Bool (b, 1, 1, k); at least one True a post.
    dropout (float): On attention weights; 0 outside training.
    RETURNS (torch.Tensor): (b, h, q, d / h).
    """
    # torch's kernels need no buffer of q x k, but the one with dropout does on CPU: there a long post takes
    # its queries in parts, each computed once more in the backward pass.
    at_once = max(1, BUFFER // (q.shape[0] * q.shape[1] * k.shape[2]))
    if not dropout or q.shape[2] <= at_once:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout)
    attend_again = partial(checkpoint, F.scaled_dot_product_attention, use_reentrant=False)
    return torch.cat([attend_again(part, k, v, mask, dropout) for part in q.split(at_once, 2)], 2)


def project(width_in: int, width_out: int) -> nn.Module:
    """RETURNS (nn.Module): A linear layer, or nothing at all between equal widths."""
    return nn.Identity() if width_in == width_out else nn.Linear(width_in, width_out)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): `x`, in float32 if mixed precision made it anything smaller."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pool(x: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector a post.

    x (torch.Tensor): (b, rows, d).
    mask (torch.Tensor): Bool (b, rows); row 0 is real where any is.
    pooling (str): "mean": over the real rows. "first": row 0.
    RETURNS (torch.Tensor): (b, d); zeros for a post without real rows.
    RAISES (ValueError): Another pooling.
    """
    if pooling == "first":
        x, mask = x[:, :1], mask[:, :1]
    elif pooling != "mean":
        raise ValueError(f"pooling is 'mean' or 'first', not {pooling!r}.")
    total = x.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def fill_mask(mask: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): `mask`, bool (b, rows), with row 0 real where none is, and one row at least:
    attention over no key is undefined.
    """
    if not mask.shape[1]:
        return mask.new_ones(len(mask), 1)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return torch.where(mask.any(-1, keepdim=True), mask, first)


def fill_no_picture(row: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Give each post without a picture a learned row in its place; `fill_mask` gives the mask.

    row (torch.Tensor): The learned row, (d,).
    rows (torch.Tensor): Picture rows, (b, m + 1, d); m + 1 may be 0.
    mask (torch.Tensor): Bool (b, m + 1); all False for a post without a picture.
    RETURNS (torch.Tensor): (b, max(m + 1, 1), d).
    """
    if not mask.shape[1]:
        return row.expand(len(mask), 1, -1)
    return torch.where(mask.any(-1)[:, None, None], rows, row.to(rows.dtype))
