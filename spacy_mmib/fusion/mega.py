"""The semantic half of MEGA (Zheng et al., "Multimodal Relation Extraction with Efficient Graph Alignment",
ACM Multimedia 2021). Its structural half aligns a dependency parse of the text with a scene graph of the
picture, whose tools need PyTorch 1; it isn't built.
"""

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn
from torch.nn import functional as F

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import project


class MEGASemantic(Fusion):
    """What the objects of a picture select from the text. With h_i the text vectors and o_j an object's,
    h'_i = W_h h_i and o'_j = W_o o_j of width 2d:

    s_j = sigmoid(softmax_i(q(o'_j) k(h'_i)^T / sqrt(2d)) v(h'_i)); m = W_m sum_j s_j; c_i = [h_i; m].

    q, k and v are linear layers. Objects only weigh tokens: nothing of a picture gets into m but by these
    weights, thus nothing at all if a post has one token. The sum grows with the number of objects, so that m
    counts them. The whole picture is an object among the others. Without a picture m is 0.

    In the paper x = [h_head; h_tail] of two entities gets a layer W [x; m] + b, dropout and a classifier.
    Without an activation in between both are one linear map of [x; m]. So is our linear classifier of pairs,
    which sees [c_head; c_tail] = [h_head; m; h_tail; m]: with U its weights, U_1 h_head + U_3 h_tail +
    (U_2 + U_4) m. W_m may therefore be of any width that isn't below the number of labels; it is d here. Only
    dropout differs, which is on c here. The settings are those of `spacy-mmib.MEGASemantic.v1`.
    """

    runtime = ("dropout",)

    def __init__(self, *, text_width: int, image_width: int, width: int, dropout: float = 0.5) -> None:
        super().__init__(2 * width)
        self.dropout = dropout
        self.text_projection = project(text_width, width)
        self.tokens = nn.Linear(width, 2 * width)  # W_h
        self.objects = nn.Linear(image_width, 2 * width)  # W_o
        # A bias of the keys would cancel in the softmax.
        self.query, self.key, self.value = (
            nn.Linear(2 * width, 2 * width, bias=bias) for bias in (True, False, True)
        )
        # Without a bias, which would be in the sum once an object, or else tell that there is a picture.
        self.output = nn.Linear(2 * width, width, bias=False)  # W_m

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
        """Fuse text and picture, as `Fusion.forward` says, without losses. There are no weights either: it is
        objects that attend here, to tokens.
        """
        h = self.text_projection(text)
        m = torch.zeros_like(h[:, :1])
        if image.shape[1]:
            tokens = self.tokens(h)
            q, k, v = self.query(self.objects(image)), self.key(tokens), self.value(tokens)
            s = torch.sigmoid(F.scaled_dot_product_attention(q, k, v, text_mask.unsqueeze(1)))
            m = self.output(s.masked_fill(~image_mask.unsqueeze(-1), 0.0).sum(1, keepdim=True))
        # The same dropout of m for all tokens: it is one vector.
        h, m = (F.dropout(x, self.dropout, training) for x in (h, m))
        return FusionOutput(torch.cat([h, m.expand(-1, h.shape[1], -1)], -1))


@registry.architectures("spacy-mmib.MEGASemantic.v1")
def build_mega_semantic_v1(dropout: float = 0.5) -> Model[FusionInput, PostVectors]:
    """Build the semantic half of MEGA. As published: for relations, with BERT-base, the vectors of the first
    tokens of two entities, and ten objects a picture, 4096 wide, of a network for scene graphs.

    What differs from the released code: the structural half is left out, padding isn't attended to, objects
    are those of any picture encoder, and dropout is in front of the classifier's only layer.

    dropout (float): 0-1, on the vectors it makes. The rate in [training] doesn't reach it.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(MEGASemantic, dropout=dropout)
