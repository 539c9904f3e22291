"""UMT (Yu et al., "Improving Multimodal Named Entity Recognition via Entity Span Detection with Unified
Multimodal Transformer", ACL 2020).
"""

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn
from torch.nn import functional as F

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import AttentivePropagationEncoder, fill_mask, fill_no_picture, project


class UMT(Fusion):
    """Three cross-modal transformer layers and a gate, on text vectors H and picture vectors V:

    M = self-attention(H); T = X1(M, V1), the picture-aware text; P = X2(V2, M), the text-aware picture;
    R = X3(M, P); g = sigmoid(W [R; T]); C = [R; g * T], of width 2d. V1 and V2 are projections of V, and
    X(q, kv) a transformer layer whose residual connection is on q. With `auxiliary` an encoder of its own,
    A = self-attention'(H), gives what the head tells borders from: `borders = "bias"` of `spacy-mmib.CRF.v1`,
    whose auxiliary loss has the published weight 0.5. A post without a picture has a learned row
    in the place of V1 and one in the place of V2. The settings are those of `spacy-mmib.UMT.v1`.
    """

    runtime = ("dropout",)

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        heads: int = 12,
        dropout: float = 0.1,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(2 * width, width if auxiliary else 0)
        self.dropout = dropout
        self.text_projection = project(text_width, width)
        self.keys_projection = nn.Linear(image_width, width)  # V1
        self.query_projection = nn.Linear(image_width, width)  # V2
        self.no_picture = nn.Parameter(torch.empty(2, width).normal_(std=width**-0.5))
        self.self_attention, self.text_to_image, self.image_to_text, self.text_to_aware_image = (
            AttentivePropagationEncoder(width, heads, dropout) for _ in range(4)
        )
        self.gate = nn.Linear(2 * width, width)
        self.auxiliary = AttentivePropagationEncoder(width, heads, dropout) if auxiliary else None

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
        """Fuse text and picture, as `Fusion.forward` says. No losses; the weights are those of T over V1."""
        h = F.dropout(self.text_projection(text), self.dropout, training)
        m, _ = self.self_attention(h, h, text_mask, training=training)
        mask = fill_mask(image_mask)
        v1 = fill_no_picture(self.no_picture[0], self.keys_projection(image), image_mask)
        v2 = fill_no_picture(self.no_picture[1], self.query_projection(image), image_mask)
        t, weights = self.text_to_image(m, v1, mask, training=training, need_weights=not training)
        p, _ = self.image_to_text(v2, m, text_mask, training=training)
        r, _ = self.text_to_aware_image(m, p, mask, training=training)
        gate = torch.sigmoid(self.gate(torch.cat([r, t], -1)))
        borders = None if self.auxiliary is None else self.auxiliary(h, h, text_mask, training=training)[0]
        return FusionOutput(torch.cat([r, gate * t], -1), borders=borders, weights=weights)


@registry.architectures("spacy-mmib.UMT.v1")
def build_umt_v1(
    heads: int = 12, dropout: float = 0.1, auxiliary: bool = False
) -> Model[FusionInput, PostVectors]:
    """Build the fusion of UMT. As published it is used with cased BERT-base, the 7 x 7 grid of a ResNet-152
    and, for entities, the auxiliary head. The released code crops and flips pictures at random, those of the
    test posts included, and lets BatchNorm drift: neither is done here. Its CRFs have tags for padding,
    continued word pieces and the marks of BERT, which a token can get.

    heads (int): Attention heads; must divide the hidden size.
    dropout (float): 0-1, on the text vectors, on attention weights and on residual connections. The rate in
        [training] doesn't reach it.
    auxiliary (bool): Give the vectors of the auxiliary head, for `spacy-mmib.CRF.v1` with `borders = "bias"`.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(UMT, heads=heads, dropout=dropout, auxiliary=auxiliary)
