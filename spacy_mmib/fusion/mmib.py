"""The MMIB core: text and picture vectors in, picture-aware text vectors and regularizer terms out."""

from collections.abc import Collection
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import nn

from .attention import AttentivePropagationEncoder, FeedForward
from .regularizers import (
    AlignmentDiscriminator,
    Discriminator,
    KLReduction,
    Pooling,
    at_least_float32,
    kl_to_standard_normal,
    pool,
    reduce_kl,
)
from .variational import Latent, VariationalEncoder

Term: TypeAlias = Literal["kl_text", "kl_image", "alignment"]


class CoreOutput(NamedTuple):
    """What the core gives.

    context (torch.Tensor): C, the picture-aware text vectors (Eq. 17), (b, n, d).
    kl_text (Optional[torch.Tensor]): KL of the text's posterior (Eq. 20-21), (1,).
    kl_image (Optional[torch.Tensor]): The same for pictures, (1,).
    alignment (Optional[torch.Tensor]): The alignment loss (Eq. 24-26), (1,).
    kl_per_dim (Dict[str, torch.Tensor]): The KLs that were computed as nats per dimension, whatever their
        reduction; detached. A modality that is absent from the whole batch is absent here.
    weights (Optional[torch.Tensor]): What each token attended to among the rows of B when C was made of them
        (Eq. 17), mean over heads, (b, n, max(m + 1, 1)); `None` in training. Of a post without a picture, all
        weight is on the learned row.
    posteriors (Optional[Dict[str, Tuple[torch.Tensor, torch.Tensor]]]): If they were asked for, see
        `get_posteriors`.

    Terms that were not asked for, and all of them outside training, are `None`.
    """

    context: torch.Tensor
    kl_text: torch.Tensor | None
    kl_image: torch.Tensor | None
    alignment: torch.Tensor | None
    kl_per_dim: dict[str, torch.Tensor]
    weights: torch.Tensor | None = None
    posteriors: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None


class Inspected(NamedTuple):
    """What the core makes of posts on the way, at inference, where Z is the mean of the posterior.

    text (torch.Tensor): X^T, projected to the width of the core, (b, n, d).
    z_text (torch.Tensor): Z^T, (b, n, d).
    image (torch.Tensor): X^V = W_v of the picture vectors, (b, max(m + 1, 1), d).
    z_image (torch.Tensor): Z^V, (b, max(m + 1, 1), d); the learned row for a post without a picture.
    weights (torch.Tensor): See `CoreOutput`.
    """

    text: torch.Tensor
    z_text: torch.Tensor
    image: torch.Tensor
    z_image: torch.Tensor
    weights: torch.Tensor


class MMIBCore(nn.Module):
    """Variational encoders, bi-directional fusion and both regularizers (Eq. 4-9, 16-17, 20-26).

    text_width (int): Width of the text vectors X^T. Projected to `width` if it differs.
    image_width (int): Width of the picture vectors; always projected (W_v).
    width (int): d, the hidden size.
    heads (int): h, attention heads; must divide `width`.
    dropout (float): In every attentive propagation encoder, see there.
    feed_forward (str): "transformer" or "linear", see `AttentivePropagationEncoder`.
    kl_reduction (str): "mean", "position" or "sum", see `reduce_kl`.
    discriminator (str): "scalar" or "vector", see `AlignmentDiscriminator`.
    max_negatives (int): See `AlignmentDiscriminator`.
    initial_log_var (float): See `VariationalEncoder`.
    residual_dropout (Optional[float]): See `AttentivePropagationEncoder`.
    alignment_pooling (str): What of Z^T and Z^V the discriminator gets, "mean" or "first", see `pool`.
    """

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
        super().__init__()
        self.settings: dict[str, Any] = {
            "text_width": text_width,
            "image_width": image_width,
            "width": width,
            "heads": heads,
            "dropout": dropout,
            "feed_forward": feed_forward,
            "kl_reduction": kl_reduction,
            "discriminator": discriminator,
            "max_negatives": max_negatives,
            "initial_log_var": initial_log_var,
            "residual_dropout": residual_dropout,
            "alignment_pooling": alignment_pooling,
        }
        # On nothing, for what they say of settings they don't know.
        empty = torch.zeros(0, 1)
        reduce_kl(empty, empty.bool(), width, kl_reduction)
        pool(empty.unsqueeze(-1), empty.bool(), alignment_pooling)
        self.width = width
        self.kl_reduction: KLReduction = kl_reduction
        self.alignment_pooling: Pooling = alignment_pooling
        self.text_projection: nn.Module = nn.Identity()
        if text_width != width:
            self.text_projection = nn.Linear(text_width, width)
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
        terms: Collection[Term] = ("kl_text", "kl_image", "alignment"),
        watch: bool = False,
        *,
        training: bool,
    ) -> CoreOutput:
        """Fuse text and picture.

        text (torch.Tensor): X^T before projection, (b, n, text_width).
        text_mask (torch.Tensor): Bool (b, n); at least one True a post.
        image (torch.Tensor): Picture vectors before W_v, (b, m + 1, image_width); m + 1 may be 0.
        image_mask (torch.Tensor): Bool (b, m + 1); all False for a post without a picture.
        image_ids (torch.Tensor): Long (b,), equal for equal pictures, negative for a post without.
        terms (Collection[str]): The regularizer terms to compute, in training.
        watch (bool): Whether to give the posteriors, too.
        training (bool): Whether to sample, drop out and compute the terms. An argument, not the module's
            mode: threads share the module.
        RETURNS (CoreOutput): See there.
        """
        with_picture = image_mask.any(-1)
        terms = terms if training else ()
        text_latent = self.text_encoder(self.text_projection(text), text_mask, training=training)
        kl_per_dim: dict[str, torch.Tensor] = {}
        z_image, keys_mask, kl_image = self._encode_pictures(
            image, image_mask, terms, kl_per_dim, training=training
        )
        fused = self.image_to_text(z_image, text_latent.z, text_mask, training=training)  # B, Eq. 16
        weights = None
        if training:  # C, Eq. 17
            context = self.text_to_image(text_latent.z, fused, keys_mask, training=True)
        else:
            context, weights = self.text_to_image.attend(text_latent.z, fused, keys_mask)
        kl_text = alignment = None
        if "kl_text" in terms:
            kl_text, kl_per_dim["kl_text"] = self._kl(text_latent, text_mask)
        if "alignment" in terms:
            alignment = self.discriminator(
                pool(text_latent.z, text_mask, self.alignment_pooling),
                pool(z_image, keys_mask, self.alignment_pooling),
                torch.where(with_picture, image_ids, -1),
            )
        return CoreOutput(
            at_least_float32(context),
            kl_text,
            kl_image,
            alignment,
            kl_per_dim,
            None if weights is None else at_least_float32(weights),
            self.get_posteriors(text, text_mask, image, image_mask) if watch else None,
        )

    @torch.no_grad()
    def get_posteriors(
        self,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        image: torch.Tensor,
        image_mask: torch.Tensor,
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Give what the latents are drawn from, without dropout, whose noise would pass for a difference
        between posts. For the arguments see `forward`.

        RETURNS (Dict[str, Tuple[torch.Tensor, torch.Tensor]]): Under "text" and "image" mu and sigma^2, each
            (b, rows, d), "image" only if there are rows. They mean nothing where a mask is False.
        """
        found = {}
        for name, encoder, x, mask in (
            ("text", self.text_encoder, self.text_projection(text), text_mask),
            ("image", self.image_encoder, self.image_projection(image), image_mask),
        ):
            if not x.shape[1]:
                continue
            # Attention over no key at all is undefined.
            mask = mask | ~mask.any(-1, keepdim=True)
            mu, log_var = (part(x, x, mask, training=False) for part in (encoder.mu, encoder.log_var))
            found[name] = (at_least_float32(mu), at_least_float32(log_var).exp())
        return found

    @torch.no_grad()
    def inspect(
        self,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        image: torch.Tensor,
        image_mask: torch.Tensor,
    ) -> Inspected:
        """Show what is between input and output, as it is at inference. For the arguments see `forward`.

        RETURNS (Inspected): See there.
        """
        x_text, x_image = self.text_projection(text), self.image_projection(image)
        z_text = self.text_encoder(x_text, text_mask, training=False).mu
        z_image, keys_mask, _ = self._encode_pictures(image, image_mask, (), {}, training=False)
        fused = self.image_to_text(z_image, z_text, text_mask, training=False)
        _, weights = self.text_to_image.attend(z_text, fused, keys_mask)
        return Inspected(x_text, z_text, x_image, z_image.detach(), weights)

    def _kl(self, latent: Latent, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert latent.log_var is not None
        kl = kl_to_standard_normal(latent.mu, latent.log_var, mask)
        per_dim = reduce_kl(kl.detach(), mask, self.width, "mean")
        return reduce_kl(kl, mask, self.width, self.kl_reduction), per_dim

    def _encode_pictures(
        self,
        image: torch.Tensor,
        mask: torch.Tensor,
        terms: Collection[Term],
        kl_per_dim: dict[str, torch.Tensor],
        *,
        training: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """RETURNS (Tuple): Z^V with the learned row where there is no picture (b, max(m + 1, 1), d), its
        mask, and KL of the picture posteriors, if asked for (then also in `kl_per_dim`).
        """
        with_picture = mask.any(-1)
        rows = torch.nonzero(with_picture).squeeze(-1)
        z = self.no_picture.expand(len(mask), max(mask.shape[1], 1), self.width)
        keys_mask = mask.new_zeros(z.shape[:2])
        keys_mask[:, 0] = True
        kl_image = None
        if "kl_image" in terms:
            kl_image = z.new_zeros(1)
        if len(rows):
            # Only posts with a picture are encoded: attention over no key at all is undefined.
            latent = self.image_encoder(self.image_projection(image[rows]), mask[rows], training=training)
            z = z.to(latent.z.dtype).index_copy(0, rows, latent.z)
            keys_mask = torch.where(with_picture.unsqueeze(-1), mask, keys_mask)
            if kl_image is not None:
                kl_image, kl_per_dim["kl_image"] = self._kl(latent, mask[rows])
        return z, keys_mask, kl_image
