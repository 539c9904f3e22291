"""GVATT (Lu et al., "Visual Attention Model for Name Tagging in Multimodal Social Media", ACL 2018)."""

from typing import Literal, TypeAlias

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn
from torch.nn import functional as F

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import AdditiveAttention, check_choice, fill_mask, fill_no_picture, pool, project

Query: TypeAlias = Literal["mean", "states"]


class GVATT(Fusion):
    """One look at the picture for the whole post, and a gate at each token, on text vectors x and picture
    vectors v:

    a_i = softmax_i(w^T tanh(W_q q + W_v v_i + b)), v_c = sum_i a_i v_i, with one query q for a post;
    h = P x; g_v = sigmoid(W_1 h + U_1 v_c + b_1), g_w = sigmoid(W_2 h + U_2 v_c + b_2),
    m = tanh(W_3 h + U_3 v_c + b_3); c = g_w * h + g_v * m.

    P is there between unequal widths only. A post without a picture has a learned row in the place of its
    picture vectors. The settings are those of `spacy-mmib.GVATT.v1`.
    """

    runtime = ("dropout",)

    def __init__(
        self, *, text_width: int, image_width: int, width: int, query: Query = "mean", dropout: float = 0.1
    ) -> None:
        super().__init__(width)
        check_choice("query", query, Query)
        if query == "states" and text_width % 2:
            raise ValueError(
                'query = "states" takes the halves of a text vector for the states of two directions, so its '
                f'width has to be even, not {text_width}. Set query = "mean".'
            )
        self.query = query
        self.dropout = dropout
        self.text_projection = project(text_width, width)
        self.attention = AdditiveAttention(width, image_width, text_width)
        self.no_picture = nn.Parameter(torch.empty(image_width).normal_(std=image_width**-0.5))
        self.text_gates = nn.Linear(width, 3 * width)  # W_1, W_2, W_3
        self.image_gates = nn.Linear(image_width, 3 * width, bias=False)  # U_1, U_2, U_3

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
        """Fuse text and picture, as `Fusion.forward` says. No losses; the weights are a, for all tokens."""
        text = F.dropout(text, self.dropout, training)
        v = fill_no_picture(self.no_picture, image, image_mask)
        q = self._make_query(text, text_mask).unsqueeze(1)
        v_c, weights = self.attention(q, v, fill_mask(image_mask), need_weights=not training)
        h = self.text_projection(text)
        gates = self.text_gates(h) + self.image_gates(v_c)
        g_v, g_w, m = gates.chunk(3, -1)
        context = torch.sigmoid(g_w) * h + torch.sigmoid(g_v) * torch.tanh(m)
        if weights is not None:
            weights = weights.expand(-1, text.shape[1], -1)
        return FusionOutput(context, weights=weights)

    def _make_query(self, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.query == "mean":
            return pool(text, mask, "mean")
        last = mask.sum(1) - 1  # padding comes last
        half = text.shape[-1] // 2
        return torch.cat(
            [text[torch.arange(len(text), device=last.device), last, :half], text[:, 0, half:]], -1
        )


@registry.architectures("spacy-mmib.GVATT.v1")
def build_gvatt_v1(query: Query = "mean", dropout: float = 0.1) -> Model[FusionInput, PostVectors]:
    """Build the fusion of GVATT.

    As published it is used with a BiLSTM over words and characters and the 7 x 7 grid of a ResNet, whose
    pooled vector, our row 0, it doesn't look at. There is no released code, and nothing is known of masks:
    here padding and absent rows take part in nothing.

    query (str): What looks at the picture: the "mean" of the text vectors, for any text encoder; or "states",
        as published, the last states of both directions of a BiLSTM: the first half of the last token's
        vector and the second half of the first token's. Of other encoders these halves are nothing special.
    dropout (float): 0-1, on the text vectors. The rate in [training] doesn't reach it.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(GVATT, query=query, dropout=dropout)
