"""AdapCoAtt (Zhang et al., "Adaptive Co-attention Network for Named Entity Recognition in Tweets", AAAI
2018).
"""

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn
from torch.nn import functional as F

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import AdditiveAttention, fill_mask, fill_no_picture, project


class AdapCoAtt(Fusion):
    """Attention to the picture, then to the text, and two gates, on text vectors h_t and picture vectors
    v_i = tanh(W x_i + b), all of width d:

    a_t = softmax_i(w^T tanh([W_h h_t; W_v v_i])), v^_t = sum_i a_ti v_i
    b_t = softmax_j(w'^T tanh([W'_v v^_t; W'_h h_j])), h^_t = sum_j b_tj h_j
    v' = tanh(W_1 v^_t), h' = tanh(W_2 h^_t), g = sigmoid(w_g^T [v'; h']), m_t = g v' + (1 - g) h'
    s = sigmoid(w_s^T [W_3 h_t; W_4 m_t]), u_t = s tanh(W_5 m_t); c_t = [h_t; u_t], of width 2d.

    Both g and s are one number a token. Biases are not written.

    These equations do less than their names say. [;] is concatenation, so the scores separate:
    w^T tanh([W_h h_t; W_v v_i]) = w_1^T tanh(W_h h_t) + w_2^T tanh(W_v v_i). The first term is the same for
    all i and cancels in the softmax, so the "word-guided" a_t is the same at every token, and so is v^_t. In
    the "picture-guided" b_t the term of v^_t cancels likewise: it depends neither on the token nor on the
    picture. So m is one vector a post, and only s tells its tokens apart. W_h, W'_v, w_1 and w'_1 never get a
    gradient; they are left out here, and with them n x n x 2d numbers a post. `additive = true` is what the
    paper's text describes: tanh(W_h h_t + W_v v_i) and tanh(W'_v v^_t + W'_h h_j) are scored instead.

    W_3 and W_4 are left out too: nothing stands between them and w_s, so that w_s^T [h_t; m_t] can be all
    that w_s^T [W_3 h_t; W_4 m_t] can. A post without a picture has a learned row in the place of v. The
    settings are those of `spacy-mmib.AdapCoAtt.v1`.
    """

    runtime = ("dropout",)

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        additive: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(2 * width)
        self.dropout = dropout
        self.text_projection = project(text_width, width)
        self.image_projection = nn.Linear(image_width, width)
        self.no_picture = nn.Parameter(torch.empty(width).normal_(std=width**-0.5))
        query_width = width if additive else None
        self.image_attention = AdditiveAttention(width, width, query_width)
        self.text_attention = AdditiveAttention(width, width, query_width)
        self.attended_image = nn.Linear(width, width)  # W_1
        self.attended_text = nn.Linear(width, width)  # W_2
        self.gate = nn.Linear(2 * width, 1)  # w_g
        self.filter = nn.Linear(2 * width, 1)  # w_s
        self.filtered = nn.Linear(width, width)  # W_5

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
        """Fuse text and picture, as `Fusion.forward` says. No losses; the weights are a."""
        h = self.text_projection(F.dropout(text, self.dropout, training))
        v = fill_no_picture(self.no_picture, torch.tanh(self.image_projection(image)), image_mask)
        # (b, n, d), or as published (b, 1, d) for all tokens
        v_hat, weights = self.image_attention(h, v, fill_mask(image_mask), need_weights=not training)
        h_hat, _ = self.text_attention(v_hat, h, text_mask)
        v_hat, h_hat = torch.tanh(self.attended_image(v_hat)), torch.tanh(self.attended_text(h_hat))
        gate = torch.sigmoid(self.gate(torch.cat([v_hat, h_hat], -1)))
        m = gate * v_hat + (1 - gate) * h_hat
        s = torch.sigmoid(self.filter(torch.cat([h, m.expand_as(h)], -1)))
        u = s * torch.tanh(self.filtered(m))
        if weights is not None:
            weights = weights.expand(-1, h.shape[1], -1)
        return FusionOutput(torch.cat([h, u.to(h.dtype)], -1), weights=weights)


@registry.architectures("spacy-mmib.AdapCoAtt.v1")
def build_adapcoatt_v1(additive: bool = False, dropout: float = 0.1) -> Model[FusionInput, PostVectors]:
    """Build the fusion of AdapCoAtt.

    As published it is used with a BiLSTM over words and characters (d = 200 or 400) and the 7 x 7 x 512 grid
    of the last pooling layer of VGG-16. The released code has no masks: LSTMs and attention run over padding
    to 35 words, and longer posts are cut. Here what is masked takes part in nothing, and nothing is cut.

    additive (bool): Whether scores are made of sums instead of concatenations, so that attention depends on
        what attends (see `AdapCoAtt`). Time then grows with the square of a post's length, memory doesn't.
    dropout (float): 0-1, on the text vectors. The rate in [training] doesn't reach it. As published: 0.0.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(AdapCoAtt, additive=additive, dropout=dropout)
