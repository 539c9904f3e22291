"""The Attentive Propagation Encoder, the one building block of MMIB (Eq. 4-5)."""

from typing import Literal, TypeAlias

import torch
from torch import nn

FeedForward: TypeAlias = Literal["transformer", "linear"]


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
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
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
        self.dropout = nn.Dropout(dropout if residual_dropout is None else residual_dropout)

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, key_mask: torch.Tensor
    ) -> torch.Tensor:
        """Let every query row attend to the real key rows of its post.

        query (torch.Tensor): Q, (b, q, d).
        keys (torch.Tensor): K, keys and values, (b, k, d).
        key_mask (torch.Tensor): Bool (b, k); at least one True a post.
        RETURNS (torch.Tensor): F, (b, q, d).
        """
        return self.attend(query, keys, key_mask, need_weights=False)[0]

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        key_mask: torch.Tensor,
        *,
        need_weights: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same, and what every query row attended to.

        need_weights (bool): Whether to give the weights too, which costs the faster kernels.
        RETURNS (Tuple[torch.Tensor, Optional[torch.Tensor]]): F, (b, q, d), and the attention weights, mean
            over heads, (b, q, k): 0 where `key_mask` is False, of sum 1 over the keys.
        """
        attended, weights = self.attention(
            query, keys, keys, key_padding_mask=~key_mask, need_weights=need_weights
        )
        hidden = self.attention_norm(query + self.dropout(attended))
        result: torch.Tensor = self.feed_forward_norm(
            hidden + self.dropout(self.feed_forward(hidden))
        )
        return result, weights
