"""MMIB: variational information bottleneck and bi-directional fusion (Cui et al., "Enhancing Multimodal
Entity and Relation Extraction With Variational Information Bottleneck", TASLP 2024). Equations are numbered
as there.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn
from torch.nn import functional as F

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import (
    AttentivePropagationEncoder,
    FeedForward,
    Pooling,
    at_least_float32,
    fill_mask,
    fill_no_picture,
    pool,
    project,
)

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


class MMIB(Fusion):
    """Variational encoders, bi-directional fusion and both regularizers (Eq. 4-9, 16-17, 20-26). The
    settings are those of `spacy-mmib.MMIB.v1`.
    """

    losses = {"kl_text": 0.1, "kl_image": 0.1, "alignment": 1.0}  # noqa: RUF012
    runtime = ("dropout", "residual_dropout", "kl_reduction", "alignment_pooling", "max_negatives")
    stored_names = ("MMIBCore",)

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        heads: int = 12,
        dropout: float = 0.1,
        feed_forward: FeedForward = "transformer",
        kl_reduction: KLReduction = "mean",
        discriminator: Discriminator = "scalar",
        max_negatives: int = 16,
        initial_log_var: float = 0.0,
        residual_dropout: float | None = None,
        alignment_pooling: Pooling = "mean",
    ) -> None:
        super().__init__(width)
        # On nothing, for what they say of settings they don't know.
        empty = torch.zeros(0, 1, 1)
        reduce_kl(empty, empty.bool(), width, kl_reduction)
        pool(empty, empty[..., 0].bool(), alignment_pooling)
        self.width = width
        self.kl_reduction: KLReduction = kl_reduction
        self.alignment_pooling: Pooling = alignment_pooling
        self.text_projection = project(text_width, width)
        self.image_projection = nn.Linear(image_width, width)
        encoder = (width, heads, dropout, feed_forward, initial_log_var, residual_dropout)
        self.text_encoder = VariationalEncoder(*encoder)
        self.image_encoder = VariationalEncoder(*encoder)
        # Stands in the place of Z^V for a post without a picture. Directly in latent space: there is
        # nothing to compress, so such a post has no posterior and no KL.
        self.no_picture = nn.Parameter(torch.empty(width).normal_(std=width**-0.5))
        block = (width, heads, dropout, feed_forward, residual_dropout)
        self.image_to_text = AttentivePropagationEncoder(*block)
        self.text_to_image = AttentivePropagationEncoder(*block)
        self.discriminator = AlignmentDiscriminator(width, discriminator, max_negatives)

    def forward(
        self,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        image: torch.Tensor,
        image_mask: torch.Tensor,
        image_ids: torch.Tensor,
        *,
        training: bool,
    ) -> FusionOutput:
        """Fuse text and picture, as `Fusion.forward` says.

        RETURNS (FusionOutput): C (Eq. 17); the KLs of both posteriors (Eq. 20-21) and the alignment loss
            (Eq. 24-26); as logs the KLs in nats per dimension, whatever their reduction, of modalities that
            occur in the batch; and the attention weights of C over the rows of B.
        """
        latent = self.text_encoder(self.text_projection(text), text_mask, training=training)
        z_image, keys_mask, image_latent = self._encode_pictures(image, image_mask, training=training)
        fused, _ = self.image_to_text(z_image, latent.z, text_mask, training=training)  # B, Eq. 16
        context, weights = self.text_to_image(  # C, Eq. 17
            latent.z, fused, keys_mask, training=training, need_weights=not training
        )
        output = FusionOutput(context, weights=weights)
        if not training:
            return output
        output.losses["kl_text"], output.logs["kl_text"] = self._kl(latent, text_mask)
        output.losses["kl_image"] = context.new_zeros(1)
        if image_latent is not None:
            output.losses["kl_image"], output.logs["kl_image"] = self._kl(image_latent, image_mask)
        output.losses["alignment"] = self.discriminator(
            pool(latent.z, text_mask, self.alignment_pooling),
            pool(z_image, keys_mask, self.alignment_pooling),
            torch.where(image_mask.any(-1), image_ids, -1),
        )
        return output

    def _encode_pictures(
        self, image: torch.Tensor, mask: torch.Tensor, *, training: bool
    ) -> tuple[torch.Tensor, torch.Tensor, Latent | None]:
        """RETURNS (Tuple): Z^V with the learned row where there is no picture, (b, max(m + 1, 1), d), its
        mask, and the posteriors, if the batch has any picture.
        """
        keys_mask, latent = fill_mask(mask), None
        z = self.no_picture.new_zeros(*mask.shape, self.width)
        if mask.any():
            latent = self.image_encoder(self.image_projection(image), keys_mask, training=training)
            z = latent.z
        return fill_no_picture(self.no_picture, z, mask), keys_mask, latent

    def _kl(self, latent: Latent, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert latent.log_var is not None
        kl = kl_to_standard_normal(latent.mu, latent.log_var, mask)
        per_dim = reduce_kl(kl.detach(), mask, self.width, "mean")
        return reduce_kl(kl, mask, self.width, self.kl_reduction), per_dim

    @torch.no_grad()
    def get_posteriors(
        self, text: torch.Tensor, text_mask: torch.Tensor, image: torch.Tensor, image_mask: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Give what the latents are drawn from, without dropout, whose noise would pass for a difference
        between posts. The arguments are those of `forward`.

        RETURNS (Dict[str, Tuple[torch.Tensor, torch.Tensor]]): Under "text" and "image" mu and sigma^2, each
            (b, rows, d), "image" only if there are rows. They mean nothing where a mask is False.
        """
        found = {}
        for name, encoder, x, mask in (
            ("text", self.text_encoder, self.text_projection(text), text_mask),
            ("image", self.image_encoder, self.image_projection(image), image_mask),
        ):
            if x.shape[1]:
                parts = (encoder.mu, encoder.log_var)
                mu, log_var = (part(x, x, fill_mask(mask), training=False)[0] for part in parts)
                found[name] = (at_least_float32(mu), at_least_float32(log_var).exp())
        return found

    @torch.no_grad()
    def inspect(
        self, text: torch.Tensor, text_mask: torch.Tensor, image: torch.Tensor, image_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Show what is between input and output at inference, where Z is the mean of the posterior. The
        arguments are those of `forward`.

        RETURNS (Tuple[torch.Tensor, ...]): X^T and Z^T, (b, n, d); X^V = W_v of the picture vectors and Z^V,
            (b, max(m + 1, 1), d); and what each token attended to among the rows of B, mean over heads,
            (b, n, max(m + 1, 1)).
        """
        x_text, x_image = self.text_projection(text), self.image_projection(image)
        z_text = self.text_encoder(x_text, text_mask, training=False).mu
        z_image, keys_mask, _ = self._encode_pictures(image, image_mask, training=False)
        fused, _ = self.image_to_text(z_image, z_text, text_mask, training=False)
        _, weights = self.text_to_image(z_text, fused, keys_mask, training=False, need_weights=True)
        return x_text, z_text, x_image, z_image.detach(), weights


@registry.architectures("spacy-mmib.MMIB.v1")
def build_mmib_v1(
    heads: int = 12,
    dropout: float = 0.1,
    residual_dropout: float | None = None,
    feed_forward: FeedForward = "transformer",
    kl_reduction: KLReduction = "mean",
    alignment_pooling: Pooling = "mean",
    discriminator: Discriminator = "scalar",
    max_negatives: int = 16,
    initial_log_var: float = 0.0,
) -> Model[FusionInput, PostVectors]:
    """Build the fusion of MMIB. Its losses are `kl_text` and `kl_image` (Eq. 20-21, weight 0.1) and
    `alignment` (Eq. 24-26, weight 1).

    heads (int): Attention heads; must divide the hidden size. The paper has 12 with d = 768.
    dropout (float): 0-1, on attention weights. The rate in [training] doesn't reach it.
    residual_dropout (Optional[float]): 0-1, on what is added to the residual connections. `None`: as
        `dropout`; 0.0: none, as in the released code.
    feed_forward (str): "transformer" (Linear, GELU, Linear, 4d wide) or "linear" (one Linear, as in the
        code released with the paper).
    kl_reduction (str): "mean" over real positions and dimensions; "sum" over both as in Eq. 21, which at the
        paper's beta drowns the task; or "position": sum over positions, mean over dimensions. That grows with
        the length of a post as the likelihood of its tags does, and not with d.
    alignment_pooling (str): What the discriminator gets of text and picture: the "mean" over real tokens and
        over the picture and its objects, or of each the "first": the first token and the whole picture. The
        released code takes the first by default, for its text [CLS], which has no row here.
    discriminator (str): "scalar" (Eq. 26), or "vector" as in the released code.
    max_negatives (int): In-batch pictures set against each text in the alignment loss; the released
        code uses 1.
    initial_log_var (float): Around where log sigma^2 starts. 0: noise as strong as the signal, as in the
        paper; lower numbers start with less.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(
        MMIB,
        heads=heads,
        dropout=dropout,
        residual_dropout=residual_dropout,
        feed_forward=feed_forward,
        kl_reduction=kl_reduction,
        alignment_pooling=alignment_pooling,
        discriminator=discriminator,
        max_negatives=max_negatives,
        initial_log_var=initial_log_var,
    )
