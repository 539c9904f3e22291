"""Variational encoding of one modality (Eq. 6-9)."""

from typing import NamedTuple

import torch
from torch import nn

from .attention import AttentivePropagationEncoder, FeedForward


class Latent(NamedTuple):
    """A Gaussian a row, and a point of it.

    z (torch.Tensor): Z, (b, rows, d): drawn from the Gaussian in training, `mu` otherwise.
    mu (torch.Tensor): The mean, (b, rows, d).
    log_var (Optional[torch.Tensor]): The logarithm of the variance, (b, rows, d); `None` outside
        training, where nothing needs it.
    """

    z: torch.Tensor
    mu: torch.Tensor
    log_var: torch.Tensor | None


class VariationalEncoder(nn.Module):
    """Two separate APEnc, one for the mean and one for the logarithm of the variance, both attending
    within the modality (Eq. 6-7).

    width (int): d.
    heads (int): h.
    dropout (float): See `AttentivePropagationEncoder`.
    feed_forward (str): See `AttentivePropagationEncoder`.
    initial_log_var (float): What log sigma^2 is around before training (the bias of its last
        LayerNorm). At 0 noise and signal start out equally strong, as in the paper; lower, with less noise.
    residual_dropout (Optional[float]): See `AttentivePropagationEncoder`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.1,
        feed_forward: FeedForward = "transformer",
        initial_log_var: float = 0.0,
        residual_dropout: float | None = None,
    ) -> None:
        super().__init__()
        block = (width, heads, dropout, feed_forward, residual_dropout)
        self.mu = AttentivePropagationEncoder(*block)
        self.log_var = AttentivePropagationEncoder(*block)
        nn.init.constant_(self.log_var.feed_forward_norm.bias, initial_log_var)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, *, training: bool) -> Latent:
        """Encode, and sample while training (the reparameterization of Eq. 9).

        x (torch.Tensor): X, (b, rows, d).
        mask (torch.Tensor): Bool (b, rows); at least one True a post.
        training (bool): Whether to sample.
        RETURNS (Latent): See there.
        """
        mu = self.mu(x, x, mask, training=training)
        if not training:
            return Latent(mu, mu, None)
        log_var = self.log_var(x, x, mask, training=training)
        sigma = torch.exp(0.5 * log_var)
        return Latent(mu + sigma * torch.randn_like(sigma), mu, log_var)
