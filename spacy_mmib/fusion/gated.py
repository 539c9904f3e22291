"""Gated residual: the plain baseline, which adds to each token what a gate lets through of the picture."""

from typing import Literal, TypeAlias

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import Pooling, check_choice, pool, project

Gate: TypeAlias = Literal["scalar", "vector"]


class Gated(Fusion):
    """c = h + g * W v with g = sigmoid(U [h; v] + b), h a token and v the pooled picture. A post without a
    picture keeps its text vectors. The settings are those of `spacy-mmib.Gated.v1`.
    """

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        gate: Gate = "vector",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__(width)
        check_choice("gate", gate, Gate)
        check_choice("pooling", pooling, Pooling)
        self.pooling: Pooling = pooling
        self.text_projection = project(text_width, width)
        self.image_projection = nn.Linear(image_width, width, bias=False)
        self.gate = nn.Linear(width + image_width, width if gate == "vector" else 1)

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
        """Fuse text and picture, as `Fusion.forward` says, without losses or attention weights."""
        h = self.text_projection(text)
        if not image.shape[1]:
            return FusionOutput(h)
        v = pool(image, image_mask, self.pooling).unsqueeze(1)  # zeros without a picture, and W has no bias
        gate = torch.sigmoid(self.gate(torch.cat([h, v.expand(-1, h.shape[1], -1)], -1)))
        return FusionOutput(h + gate * self.image_projection(v))


@registry.architectures("spacy-mmib.Gated.v1")
def build_gated_v1(gate: Gate = "vector", pooling: Pooling = "mean") -> Model[FusionInput, PostVectors]:
    """Build a gated residual fusion, a control that published models have to beat.

    gate (str): "vector", a gate a dimension, or "scalar", one a token.
    pooling (str): What of the picture is added: the "mean" or the "sum" of the whole picture and its objects,
        or the "first" row, the whole picture.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(Gated, gate=gate, pooling=pooling)
