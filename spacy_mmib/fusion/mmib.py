"""MMIB (Cui et al., "Enhancing Multimodal Entity and Relation Extraction With Variational Information
Bottleneck", TASLP 2024). Equations are numbered as there.
"""

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import (
    AttentivePropagationEncoder,
    FeedForward,
    Pooling,
    fill_mask,
    fill_no_picture,
    pool,
    project,
)
from .bottleneck import (
    AlignmentDiscriminator,
    Discriminator,
    KLReduction,
    Latent,
    VariationalEncoder,
    get_kl,
    reduce_kl,
)


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
        empty = torch.zeros(0, 1, 1)  # for what they say of settings they don't know
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
        attend = self.text_to_image  # C, Eq. 17
        context, weights = attend(latent.z, fused, keys_mask, training=training, need_weights=not training)
        output = FusionOutput(context, weights=weights)
        if not training:
            return output
        output.losses["kl_text"], output.logs["kl_text"] = get_kl(latent, text_mask, self.kl_reduction)
        output.losses["kl_image"] = context.new_zeros(1)
        if image_latent is not None:
            of_image = get_kl(image_latent, image_mask, self.kl_reduction)
            output.losses["kl_image"], output.logs["kl_image"] = of_image
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
        if mask.shape[1]:  # there are rows where any post has a picture; to look would be to wait for a GPU
            latent = self.image_encoder(self.image_projection(image), keys_mask, training=training)
            z = latent.z
        return fill_no_picture(self.no_picture, z, mask), keys_mask, latent

    @torch.no_grad()
    def get_posteriors(
        self, text: torch.Tensor, text_mask: torch.Tensor, image: torch.Tensor, image_mask: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """RETURNS (Dict[str, Tuple[torch.Tensor, torch.Tensor]]): `get_posterior` by modality."""
        found = {"text": self.text_encoder.get_posterior(self.text_projection(text), text_mask)}
        if image.shape[1]:
            found["image"] = self.image_encoder.get_posterior(self.image_projection(image), image_mask)
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
