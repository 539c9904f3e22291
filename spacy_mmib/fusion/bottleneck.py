"""What MMIB compresses and aligns its modalities with: posteriors, their KL, a discriminator. Equations are
numbered as in its paper (Cui et al., TASLP 2024).
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import AttentivePropagationEncoder, FeedForward, at_least_float32, fill_mask

KLReduction: TypeAlias = Literal["mean", "position", "sum"]
Discriminator: TypeAlias = Literal["scalar", "vector"]


class Latent(NamedTuple):
    """A Gaussian a row, and a point of it, (b, rows, d) each: `z` is drawn from it in training and is `mu`
    otherwise, when nothing needs the logarithm of the variance.
    """

    z: torch.Tensor
    mu: torch.Tensor
    log_var: torch.Tensor | None


class VariationalEncoder(nn.Module):
    """Two separate APEnc, one for the mean and one for the logarithm of the variance, both attending within
    the modality (Eq. 6-7). The settings are those of `spacy-mmib.MMIB.v1`.
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
        # The bias of the last LayerNorm is where log sigma^2 is around before training.
        self.mu = AttentivePropagationEncoder(*block)
        self.log_var = AttentivePropagationEncoder(*block)
        nn.init.constant_(self.log_var.feed_forward_norm.bias, initial_log_var)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, *, training: bool) -> Latent:
        """Encode, and sample while training (the reparameterization of Eq. 9).

        x (torch.Tensor): X, (b, rows, d).
        mask (torch.Tensor): Bool (b, rows); at least one True a post.
        """
        mu, _ = self.mu(x, x, mask, training=training)
        if not training:
            return Latent(mu, mu, None)
        log_var, _ = self.log_var(x, x, mask, training=training)
        sigma = torch.exp(0.5 * log_var)
        return Latent(mu + sigma * torch.randn_like(sigma), mu, log_var)

    @torch.no_grad()
    def get_posterior(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """RETURNS (Tuple[torch.Tensor, torch.Tensor]): mu and sigma^2 without dropout, whose noise would pass
        for a difference between posts, (b, rows, d). They mean nothing where the mask is False.
        """
        filled = fill_mask(mask)
        mu, log_var = (part(x, x, filled, training=False)[0] for part in (self.mu, self.log_var))
        return at_least_float32(mu), at_least_float32(log_var).exp()


def kl_to_standard_normal(mu: torch.Tensor, log_var: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) in closed form, summed over dimensions (Eq. 21).

    mu, log_var (torch.Tensor): (b, rows, d).
    RETURNS (torch.Tensor): (b, rows), in nats; 0 where `mask` is False.
    """
    # In half precision exp() overflows at log_var > 11; the sum over d would lose digits anyway.
    mu, log_var = at_least_float32(mu), at_least_float32(log_var)
    kl = 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum(-1)
    return kl.masked_fill(~mask, 0.0)


def reduce_kl(kl: torch.Tensor, mask: torch.Tensor, width: int, reduction: KLReduction) -> torch.Tensor:
    """One number for the batch.

    kl (torch.Tensor): (b, rows), 0 where `mask` is False.
    width (int): d.
    reduction (str): "mean": over real rows and dimensions of the whole batch, nats per dimension. "sum": over
        both in a post, mean over posts that have rows. "position": sum over the rows of a post, mean over
        dimensions and over posts that have rows.
    RETURNS (torch.Tensor): (1,); 0 if nothing is real.
    """
    if reduction == "mean":
        count = mask.sum() * width
    elif reduction == "position":
        count = mask.any(-1).sum() * width
    elif reduction == "sum":
        count = mask.any(-1).sum()
    else:
        raise ValueError(f"kl_reduction is 'mean', 'position' or 'sum', not {reduction!r}.")
    return (kl.sum() / count.clamp(min=1)).reshape(1)


def get_kl(latent: Latent, mask: torch.Tensor, reduction: KLReduction) -> tuple[torch.Tensor, torch.Tensor]:
    """RETURNS (Tuple[torch.Tensor, torch.Tensor]): The KL of the posteriors of a batch, (1,), and, without
    gradient, what it is in nats per dimension.
    """
    assert latent.log_var is not None
    width = latent.mu.shape[-1]
    kl = kl_to_standard_normal(latent.mu, latent.log_var, mask)
    return reduce_kl(kl, mask, width, reduction), reduce_kl(kl.detach(), mask, width, "mean")


class AlignmentDiscriminator(nn.Module):
    """D(Z^T, Z^V), which tells a post's own picture from another's (Eq. 26), and the loss it gives.

    kind (str): "scalar": Linear(2d, d), ReLU, Linear(d, 1), one logit a pair. "vector": a single
        Linear(2d, d), d logits a pair.
    """

    def __init__(self, width: int, kind: Discriminator = "scalar", max_negatives: int = 16) -> None:
        super().__init__()
        if kind not in ("scalar", "vector"):
            raise ValueError(f"discriminator is 'scalar' or 'vector', not {kind!r}.")
        if max_negatives < 1:
            raise ValueError(f"max_negatives has to be at least 1, not {max_negatives}.")
        self.max_negatives = max_negatives
        # The first linear layer of the pair [text, picture], kept as its two halves: the product with
        # each text and each picture is computed once, however many pairs they are in.
        self.text = nn.Linear(width, width)
        self.image = nn.Linear(width, width, bias=False)
        self.output: nn.Module = nn.Identity()
        if kind == "scalar":
            self.output = nn.Sequential(nn.ReLU(), nn.Linear(width, 1))

    def forward(self, text: torch.Tensor, image: torch.Tensor, image_ids: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy of own pairs against in-batch negatives (Eq. 24-25).

        text, image (torch.Tensor): Pooled Z^T and Z^V, (b, d).
        image_ids (torch.Tensor): Long (b,): equal for equal pictures, negative for a post without.
        RETURNS (torch.Tensor): (1,): mean of -log D over own pairs, plus mean of -log(1 - D) over
            negatives where there are any. A negative never pairs a text with a copy of its own picture.
        """
        # Which pairs count is decided by masks: to select them a GPU would have to be waited for.
        real = image_ids >= 0
        order = real.int().argsort(descending=True, stable=True)  # real ones first
        n_real, ids = real.sum(), image_ids[order]
        text_half, image_half = self.text(text[order]), self.image(image[order])
        # Shifts by 1, 2, ... pair every text with that many different posts of the batch.
        shifts = torch.arange(1 + min(self.max_negatives, len(ids) - 1), device=ids.device)
        rows = torch.arange(len(ids), device=ids.device).unsqueeze(1)
        others = (rows - shifts) % n_real.clamp(min=1)
        scores = at_least_float32(self.output(text_half.unsqueeze(1) + image_half[others]))
        counts = (rows < n_real) & (shifts < n_real) & ((ids[others] != ids.unsqueeze(1)) | (shifts == 0))
        loss = F.softplus(torch.cat([-scores[:, :1], scores[:, 1:]], 1)).mean(-1)
        sums, numbers = loss.where(counts, 0.0).sum(0), counts.sum(0)
        return sums[:1] / numbers[:1].clamp(min=1) + sums[1:].sum() / numbers[1:].sum().clamp(min=1)
