"""The two regularizers: refinement (Eq. 20-21) and alignment (Eq. 24-26)."""

from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

KLReduction: TypeAlias = Literal["mean", "position", "sum"]
Discriminator: TypeAlias = Literal["scalar", "vector"]
Pooling: TypeAlias = Literal["mean", "first"]


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): `x`, in float32 if mixed precision made it anything smaller."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def kl_to_standard_normal(mu: torch.Tensor, log_var: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) in closed form, summed over dimensions (Eq. 21).

    mu (torch.Tensor): (b, rows, d).
    log_var (torch.Tensor): (b, rows, d).
    mask (torch.Tensor): Bool (b, rows).
    RETURNS (torch.Tensor): (b, rows), in nats; 0 where `mask` is False.
    """
    # In half precision exp() overflows at log_var > 11; the sum over d would lose digits anyway.
    mu, log_var = at_least_float32(mu), at_least_float32(log_var)
    kl = 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum(-1)
    return kl.masked_fill(~mask, 0.0)


def reduce_kl(kl: torch.Tensor, mask: torch.Tensor, width: int, reduction: KLReduction) -> torch.Tensor:
    """One number for the batch.

    kl (torch.Tensor): (b, rows), 0 where `mask` is False.
    mask (torch.Tensor): Bool (b, rows).
    width (int): d.
    reduction (str): "mean": over real rows and dimensions of the whole batch, nats per dimension.
        "sum": over rows and dimensions of a post as written in Eq. 21, mean over posts that have rows.
        "position": sum over the rows of a post, mean over dimensions and over posts that have rows: it grows
        with the length of a post as the likelihood of its tags does, and not with d.
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


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the real rows.

    x (torch.Tensor): (b, rows, d).
    mask (torch.Tensor): Bool (b, rows).
    RETURNS (torch.Tensor): (b, d); zeros for a post without real rows.
    """
    total = x.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def pool(x: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector a post.

    x (torch.Tensor): (b, rows, d).
    mask (torch.Tensor): Bool (b, rows); row 0 is real where any is.
    pooling (str): "mean": over the real rows. "first": row 0.
    RETURNS (torch.Tensor): (b, d).
    """
    if pooling == "mean":
        return masked_mean(x, mask)
    if pooling == "first":
        return x[:, 0]
    raise ValueError(f"alignment_pooling is 'mean' or 'first', not {pooling!r}.")


class AlignmentDiscriminator(nn.Module):
    """D(Z^T, Z^V), which tells a post's own picture from another's (Eq. 26), and the loss it gives.

    width (int): d.
    kind (str): "scalar": Linear(2d, d), ReLU, Linear(d, 1), one logit a pair. "vector": a single
        Linear(2d, d), d logits a pair, as in the code released with the paper.
    max_negatives (int): Pictures of at most this many other posts are set against each text.
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

    def logits(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Score pairs of pooled latents, row by row.

        text (torch.Tensor): Pooled Z^T, (p, d).
        image (torch.Tensor): Pooled Z^V, (p, d).
        RETURNS (torch.Tensor): (p, 1) or (p, d) for "vector".
        """
        scores: torch.Tensor = self.output(self.text(text) + self.image(image))
        return scores

    def forward(self, text: torch.Tensor, image: torch.Tensor, image_ids: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy of own pairs against in-batch negatives (Eq. 24-25).

        text (torch.Tensor): Pooled Z^T, (b, d).
        image (torch.Tensor): Pooled Z^V, (b, d).
        image_ids (torch.Tensor): Long (b,): equal for equal pictures, negative for a post without.
        RETURNS (torch.Tensor): (1,): mean of -log D over own pairs, plus mean of -log(1 - D) over
            negatives where there are any. A negative never pairs a text with a copy of its own picture.
        """
        real = torch.nonzero(image_ids >= 0).squeeze(-1)
        if not len(real):
            return text.new_zeros(1)
        ids = image_ids[real]
        text_half, image_half = self.text(text[real]), self.image(image[real])
        own = at_least_float32(self.output(text_half + image_half))
        loss = F.binary_cross_entropy_with_logits(own, torch.ones_like(own))
        # Shifts by 1, 2, ... pair every text with that many different posts of the batch.
        negatives = []
        for shift in range(1, min(self.max_negatives, len(real) - 1) + 1):
            other = ids != ids.roll(shift)
            if other.any():
                negatives.append((text_half + image_half.roll(shift, 0))[other])
        if negatives:
            scores = at_least_float32(self.output(torch.cat(negatives)))
            loss = loss + F.binary_cross_entropy_with_logits(scores, torch.zeros_like(scores))
        return loss.reshape(1)
