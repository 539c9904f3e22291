"""MAF (Xu et al., "MAF: A General Matching and Alignment Framework for Multimodal Named Entity Recognition",
WSDM 2022), and its debiased form (Zhang et al., "Reducing the Bias of Visual Objects in Multimodal Named
Entity Recognition", WSDM 2023; DebiasCL for short).
"""

from typing import Literal, TypeAlias

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn
from torch.nn import functional as F

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import AttentivePropagationEncoder, at_least_float32, fill_mask, fill_no_picture, pool, project

Contrastive: TypeAlias = Literal["infonce", "debiased"]
WEIGHT = 0.38 / 0.62
"""Of either loss: 0.62 NLL + 0.38 (matching + contrastive), but for a factor, which makes no odds to Adam."""


class MAF(Fusion):
    """Text that is picture-aware as far as text and picture match. On text vectors H and picture vectors V:

    T = X(H, V), a cross-modal transformer layer with the residual connection on H;
    p = softmax(W_m mean_i [h_i; t_i])[match]; T' = p T; g = sigmoid(W [H; T']); C = [H; g * T'], of width 2d.

    Two losses. "matching" is the cross-entropy of p over the posts with a picture, some of which get another
    post's picture for it. "contrastive" sets MLP(mean of H) and MLP(whole picture) of a post against those of
    the other posts in the batch, with s their cosine over the temperature t: share * L(text to picture) +
    (1 - share) * L(picture to text), means over posts with a picture, where L is for the own pair s+

    - "infonce": -log e^{s+} / (e^{s+} + sum_neg e^s);
    - "debiased", with N negatives of which a `prior` is really positive: -log e^{s+} / (e^{s+} + N g),
      g = max((mean_neg e^s - prior * e^{s+}) / (1 - prior), e^{-1/t}).

    It reaches encoders alone (of pictures if they are trained), not X, W_m or W. Equal pictures are no
    negatives; with fewer than two different ones in a batch both losses are 0. A post without a picture takes
    no part, and its p is 0: nothing is added to its text. The settings are those of `spacy-mmib.MAF.v1`.
    """

    losses = {"matching": WEIGHT, "contrastive": WEIGHT}  # noqa: RUF012
    runtime = ("dropout", "contrastive", "temperature", "share", "negatives", "prior", "as_published")

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        heads: int = 12,
        dropout: float = 0.1,
        contrastive: Contrastive = "infonce",
        temperature: float = 0.179,
        share: float = 0.7,
        negatives: float = 0.25,
        prior: float = 0.1,
        as_published: bool = False,
    ) -> None:
        super().__init__(2 * width)
        for name, value, fits, limits in (
            ("contrastive", contrastive, contrastive in ("infonce", "debiased"), "'infonce' or 'debiased'"),
            ("temperature", temperature, temperature > 0, "above 0"),
            ("share", share, 0 <= share <= 1, "0-1"),
            ("negatives", negatives, 0 < negatives < 1, "between 0 and 1"),
            ("prior", prior, 0 <= prior < 1, "at least 0 and below 1"),
        ):
            if not fits:
                raise ValueError(f"MAF's {name} has to be {limits}, not {value!r}.")
        self.dropout = dropout
        self.temperature, self.share, self.negatives = temperature, share, negatives
        self.prior = prior if contrastive == "debiased" else None
        self.as_published = as_published
        self.text_projection = project(text_width, width)
        self.image_projection = nn.Linear(image_width, width)
        self.text_to_image = AttentivePropagationEncoder(width, heads, dropout)
        self.matcher = nn.Linear(2 * width, 2)  # 1: text and picture belong together
        self.gate = nn.Linear(2 * width, width)
        self.text_mlp, self.image_mlp = (
            nn.Sequential(nn.Linear(w, width), nn.ReLU(), nn.Linear(width, width))
            for w in (width, image_width)
        )

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
        """Fuse text and picture, as `Fusion.forward` says; but in training with `as_published` the context of
        some posts is others'. The weights are those of T over V.
        """
        has_picture, mask = image_mask.any(-1), fill_mask(image_mask)
        vectors = self.text_projection(text)
        h = F.dropout(vectors, self.dropout, training)
        v = fill_no_picture(h.new_zeros(h.shape[-1]), self.image_projection(image), image_mask)
        t, weights = self.text_to_image(h, v, mask, training=training, need_weights=not training)
        logits = self._match(h, t, text_mask)
        losses = dict.fromkeys(self.losses, h.new_zeros(1)) if training else {}
        real = torch.nonzero(has_picture).squeeze(-1)  # r posts
        negative = image_ids[real, None] != image_ids[real]
        if training and negative.any():  # so each of them has another picture in the batch
            drawn = torch.randperm(len(real), device=real.device)[: max(1, round(self.negatives * len(real)))]
            swapped, others = real[drawn], real[torch.multinomial(negative[drawn].float(), 1).squeeze(-1)]
            if self.as_published:
                t = t.index_copy(0, swapped, t.masked_fill(~text_mask.unsqueeze(-1), 0.0)[others])
                tested = logits = self._match(h, t, text_mask)
            else:
                wrong, _ = self.text_to_image(h[swapped], v[others], mask[others], training=True)
                tested = logits.index_copy(0, swapped, self._match(h[swapped], wrong, text_mask[swapped]))
            belong = has_picture.long().index_fill(0, swapped, 0)
            losses["matching"] = F.cross_entropy(tested[real], belong[real]).reshape(1)
            pooled = pool(vectors, text_mask, "mean")[real], pool(image, image_mask, "first")[real]
            losses["contrastive"] = self._contrast(*pooled, negative)
        p = logits.softmax(-1)[:, 1].masked_fill(~has_picture, 0.0)
        t = p[:, None, None] * t
        gate = torch.sigmoid(self.gate(torch.cat([h, t], -1)))
        return FusionOutput(torch.cat([h, gate * t], -1), losses, weights=weights)

    def _match(self, h: torch.Tensor, t: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        return at_least_float32(self.matcher(pool(torch.cat([h, t], -1), text_mask, "mean")))

    def _contrast(self, text: torch.Tensor, image: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        t, v = F.normalize(self.text_mlp(text), dim=-1), F.normalize(self.image_mlp(image), dim=-1)
        scores = at_least_float32(t @ v.T) / self.temperature
        to_image, to_text = (contrast(s, negative, self.temperature, self.prior) for s in (scores, scores.T))
        return (self.share * to_image + (1 - self.share) * to_text).reshape(1)


def contrast(
    scores: torch.Tensor, negative: torch.Tensor, temperature: float, prior: float | None
) -> torch.Tensor:
    """One direction of the contrastive loss, see `MAF`, in a form that doesn't overflow.

    scores (torch.Tensor): s, (r, r), cosine over temperature; the own pairs are on the diagonal.
    negative (torch.Tensor): Bool (r, r), which pairs are negatives, at least one a row.
    prior (Optional[float]): Of negatives that are really positive; `None`: InfoNCE.
    RETURNS (torch.Tensor): Mean over rows, a scalar.
    """
    own, others = scores.diagonal(), scores.masked_fill(~negative, float("-inf"))
    if prior is None:
        return (torch.logaddexp(own, others.logsumexp(1)) - own).mean()
    # All terms over that of the largest score: the loss is a ratio.
    top = torch.maximum(own, others.amax(1)).detach()
    positive, n = (own - top).exp(), negative.sum(1)
    mean = (others - top.unsqueeze(1)).exp().sum(1) / n
    g = torch.maximum((mean - prior * positive) / (1 - prior), (-1 / temperature - top).exp())
    return ((positive + n * g).log() - (own - top)).mean()


@registry.architectures("spacy-mmib.MAF.v1")
def build_maf_v1(
    heads: int = 12,
    dropout: float = 0.1,
    contrastive: Contrastive = "infonce",
    temperature: float = 0.179,
    share: float = 0.7,
    negatives: float = 0.25,
    prior: float = 0.1,
    as_published: bool = False,
) -> Model[FusionInput, PostVectors]:
    """Build the fusion of MAF, or with `contrastive = "debiased"` of DebiasCL. As published: BERT-base-
    cased, the 7 x 7 grid of a ResNet-152, whose mean is the whole picture, batches of 64. Its losses weigh
    0.38/0.62 each: the paper's 0.62 NLL + 0.38 (matching + contrastive), over 0.62.

    What differs from the released code: there *outputs* of cross-attention are swapped, which carry the other
    post's text by the residual connection, so that the matcher can tell a swap without any picture; and the
    entities of these posts are learned from the wrong outputs. Here pictures are swapped, for the matcher
    alone; `as_published` does it as there. There the matcher has weights for each of 128 positions, padding
    included, and the contrastive loss takes BERT's pooler; here both take the mean over real tokens. Of
    DebiasCL, which has no released code, the loss is here, with a prior of our choice; its choice of hard
    samples by their number of objects isn't.

    heads (int): Attention heads; must divide the hidden size.
    dropout (float): 0-1, on text vectors, attention weights and residual connections.
    contrastive (str): "infonce" or "debiased".
    temperature (float): t, what cosines are divided by.
    share (float): 0-1, of text to picture in the contrastive loss; the rest is picture to text.
    negatives (float): 0-1, of the posts with a picture that get another one's for the matcher.
    prior (float): 0-1, for "debiased": how many negatives are positive in truth.
    as_published (bool): Swap as the released code does.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    RAISES (ValueError): A setting out of its range.
    """
    return fusion_layer(
        MAF,
        heads=heads,
        dropout=dropout,
        contrastive=contrastive,
        temperature=temperature,
        share=share,
        negatives=negatives,
        prior=prior,
        as_published=as_published,
    )
