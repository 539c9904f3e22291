"""No fusion: the text vectors as they are, to compare with, or for text encoders that look at pictures."""

from typing import Any

import torch
from spacy.util import registry
from thinc.api import Model

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import project


class NoFusion(Fusion):
    """C = X^T, projected if the hidden size is another one than the width of the text vectors."""

    uses_pictures = False

    def __init__(self, *, text_width: int, image_width: int, width: int) -> None:
        super().__init__(width)
        self.text_projection = project(text_width, width)

    def forward(self, text: torch.Tensor, *inputs: Any, training: bool) -> FusionOutput:
        """RETURNS (FusionOutput): The text vectors; no losses, no weights."""
        return FusionOutput(self.text_projection(text))


@registry.architectures("spacy-mmib.NoFusion.v1")
def build_no_fusion_v1() -> Model[FusionInput, PostVectors]:
    """Build a fusion that leaves the text vectors as they are. No picture is read or encoded for it.

    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(NoFusion)
