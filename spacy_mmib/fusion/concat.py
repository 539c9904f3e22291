"""Concatenation: the plainest use of a picture, one vector of it beside each token."""

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import Pooling, check_choice, pool, project


class Concat(Fusion):
    """c = [h; W v + b], of width 2d, h a token and v the picture, one vector for all tokens of a post.

    A post without a picture has a learned vector in the place of W v + b. Zeros would not be nothing: the
    head has learned its scores with what pictures have in common added to them, and would miss that. The
    settings are those of `spacy-mmib.Concat.v1`.
    """

    def __init__(self, *, text_width: int, image_width: int, width: int, pooling: Pooling = "first") -> None:
        super().__init__(2 * width)
        check_choice("pooling", pooling, Pooling)
        self.pooling: Pooling = pooling
        self.text_projection = project(text_width, width)
        self.image_projection = nn.Linear(image_width, width)
        self.no_picture = nn.Parameter(torch.empty(width).normal_(std=width**-0.5))

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
        v = self.image_projection(pool(image, image_mask, self.pooling))
        v = torch.where(image_mask.any(-1, keepdim=True), v, self.no_picture.to(v.dtype))
        return FusionOutput(torch.cat([h, v.unsqueeze(1).expand(-1, h.shape[1], -1)], -1))


@registry.architectures("spacy-mmib.Concat.v1")
def build_concat_v1(pooling: Pooling = "first") -> Model[FusionInput, PostVectors]:
    """Build a fusion that puts one vector of the picture beside each token: controls that attention has to
    beat. With `sum` and the rows of objects it is what is published as BERT+SG (Zheng et al., "Multimodal
    Relation Extraction with Efficient Graph Alignment", ACM MM 2021), there with 10 objects of a scene graph.

    pooling (str): "first": row 0, the whole picture. "mean": of the whole picture and its objects. "sum": of
        them, which shows how many objects there are; in data where that number tells the label (the published
        crops of MNRE) it is no fair control. They are pooled before W, so b counts once.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(Concat, pooling=pooling)
