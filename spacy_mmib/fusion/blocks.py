"""Blocks that fusions are built of, in pure torch.

Shapes are written with b posts in the batch, n tokens, m + 1 picture rows (the whole picture and m objects),
d the hidden size. Masks are bool, True at what is real. Equations are those of the MMIB paper (Cui et al.,
2024).
"""

from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

FeedForward: TypeAlias = Literal["transformer", "linear"]
Pooling: TypeAlias = Literal["mean", "first", "sum"]

BUFFER = 2**24
"""Attention weights that a training step holds at a time, of all posts and heads of a batch: 64 MiB."""


def check_choice(name: str, value: str, choices: Any) -> None:
    """RAISES (ValueError): `value`, of the setting `name`, is none of those that a `Literal` lists."""
    if value not in get_args(choices):
        known = " or ".join(map(repr, get_args(choices)))
        raise ValueError(f"{name} is {known}, not {value!r}.")


class AttentivePropagationEncoder(nn.Module):
    """APEnc(Q, K): multi-head attention and a feed-forward network, each followed by a residual
    connection and layer normalization (Eq. 4-5).

    width (int): d.
    heads (int): h, must divide `width`.
    dropout (float): On attention weights.
    residual_dropout (Optional[float]): On both residual branches; `dropout` if `None`.
    feed_forward (str): "transformer" for Linear(d, 4d), GELU, Linear(4d, d); "linear" for one
        Linear(d, d) without activation, as in the code released with the paper.
    feed_forward_width (Optional[int]): What "transformer" has in the place of 4d.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.1,
        feed_forward: FeedForward = "transformer",
        residual_dropout: float | None = None,
        feed_forward_width: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("feed_forward", feed_forward, FeedForward)
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
            inner = feed_forward_width or 4 * width
            self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        else:
            self.feed_forward = nn.Linear(width, width)
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


class AdditiveAttention(nn.Module):
    """Attention by a small network (Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align
    and Translate", ICLR 2015): a_ti = softmax_i(w^T tanh(W_q q_t + W_k k_i + b)), of which it gives
    sum_i a_ti k_i.

    width (int): Of what is between W_q, W_k and w.
    key_width (int): Of k, which are the values as well.
    query_width (Optional[int]): Of q. `None`: there are none, and a_i = softmax_i(w^T tanh(W_k k_i + b)) is
        one distribution a post.
    """

    def __init__(self, width: int, key_width: int, query_width: int | None = None) -> None:
        super().__init__()
        self.key = nn.Linear(key_width, width)
        self.query = None if query_width is None else nn.Linear(query_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        key_mask: torch.Tensor,
        *,
        need_weights: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Let every query look at the real keys of its post. q x k x width numbers are made of a few queries
        at a time, and once more in the backward pass.

        query (torch.Tensor): (b, q, query_width); of a module without queries none of it is used.
        keys (torch.Tensor): (b, k, key_width).
        key_mask (torch.Tensor): Bool (b, k); at least one True a post.
        need_weights (bool): Whether to give the attention weights, which are q x k a post.
        RETURNS (Tuple[torch.Tensor, Optional[torch.Tensor]]): What the queries see, (b, q, key_width), and
            the weights, (b, q, k), with q = 1 without queries.
        """
        key = self.key(keys)
        q = key.new_zeros(len(key), 1, 1) if self.query is None else self.query(query)

        def attend(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = self.score(torch.tanh(part.unsqueeze(2) + key.unsqueeze(1))).squeeze(-1)
            weights = scores.masked_fill(~key_mask.unsqueeze(1), float("-inf")).softmax(-1)
            return weights.to(keys.dtype) @ keys, weights

        parts = q.split(max(1, BUFFER // key.numel()), 1)
        run = attend if len(parts) == 1 else partial(checkpoint, attend, use_reentrant=False)
        attended, weights = zip(*map(run, parts))
        return torch.cat(attended, 1), torch.cat(weights, 1) if need_weights else None


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
    pooling (str): "mean" or "sum": over the real rows. "first": row 0.
    RETURNS (torch.Tensor): (b, d); zeros for a post without real rows.
    RAISES (ValueError): Another pooling.
    """
    check_choice("pooling", pooling, Pooling)
    if pooling == "first":
        x, mask = x[:, :1], mask[:, :1]
    total = x.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1) if pooling == "mean" else total


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
