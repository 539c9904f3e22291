"""A text-only model with as many parameters as a multimodal one: does a fusion win by its size?"""

from typing import Any

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn

from ..bridge.data import FusionInput, PostVectors
from ..bridge.shim import Unbuilt, get_module, set_module
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import AttentivePropagationEncoder, project


class TextLayer(Fusion):
    """C = APEnc(H, H), once or several times: transformer layers over the text vectors H, whose feed-forward
    networks are as wide as it takes to have as many parameters as another fusion. No picture is looked at.

    With the widths of MMIB's own setting (d = 768, 2,048 a picture row) one layer has a feed-forward network
    of some 35 d; six have the usual 4 d. The settings are those of `spacy-mmib.TextLayer.v1`; besides, stored
    in the place of `like`:

    feed_forward_widths (Optional[List[int]]): Of each layer.
    """

    uses_pictures = False
    runtime = ("dropout",)

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        like: Model[FusionInput, PostVectors] | None = None,
        layers: int = 1,
        heads: int = 12,
        dropout: float = 0.1,
        feed_forward_widths: list[int] | None = None,
    ) -> None:
        super().__init__(width)
        widths = {"text_width": text_width, "image_width": image_width, "width": width}
        self.text_projection = project(text_width, width)
        if feed_forward_widths is None:
            assert like is not None
            least = _count(self.text_projection) + layers * (4 * width**2 + 9 * width)
            feed_forward_widths = _share_out(
                _count_parameters(like, widths) - least, width, layers, like.name
            )
        self.settings: dict[str, Any] = {**widths, "heads": heads, "dropout": dropout}
        self.settings["feed_forward_widths"] = feed_forward_widths
        self.layers = nn.ModuleList(
            AttentivePropagationEncoder(width, heads, dropout, feed_forward_width=inner)
            for inner in feed_forward_widths
        )

    def forward(
        self, text: torch.Tensor, text_mask: torch.Tensor, *inputs: Any, training: bool
    ) -> FusionOutput:
        """RETURNS (FusionOutput): C; no losses, no weights."""
        h = self.text_projection(text)
        for layer in self.layers:
            h, _ = layer(h, h, text_mask, training=training)
        return FusionOutput(h)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_parameters(like: Model[FusionInput, PostVectors], widths: dict[str, int]) -> int:
    """RETURNS (int): Of the fusion with these widths, which is built, counted and left unbuilt, without a
    trace in the random numbers.
    """
    with torch.random.fork_rng(devices=[]):
        like.initialize(X=widths)
    count = _count(get_module(like))
    set_module(like, Unbuilt())
    return count


def _share_out(rest: int, width: int, layers: int, name: str) -> list[int]:
    """RETURNS (List[int]): Widths of feed-forward networks that have together `rest` parameters, nearly.
    RAISES (ValueError): There are too few.
    """
    units = round(
        rest / (2 * width + 1)
    )  # a unit has a row of one matrix, its bias and a column of the other
    if layers < 1 or units < layers:
        raise ValueError(
            f"The fusion {name} has too few parameters for a text model of {layers} transformer layer(s) of "
            f"width {width} that has as many: {-rest} less than the attention of the layers alone needs. Set "
            'less "layers" (at least 1), or compare with spacy-mmib.NoFusion.v1.'
        )
    return [units // layers + (i < units % layers) for i in range(layers)]


@registry.architectures("spacy-mmib.TextLayer.v1")
def build_text_layer_v1(
    like: Model[FusionInput, PostVectors],
    image_width: int,
    layers: int = 1,
    heads: int = 12,
    dropout: float = 0.1,
) -> Model[FusionInput, PostVectors]:
    """Build transformer layers over the text that have as many parameters as a multimodal fusion, to 1 %:
    the control that separates what a picture adds from what a larger model does. No picture is read or
    encoded for it. Not counted are a picture encoder that is trained, and the head, which is smaller by half
    than behind a fusion whose vectors are 2d wide.

    like (Model[FusionInput, PostVectors]): The fusion it is to be as large as. It is only counted, when the
        pipeline is initialized, and neither trained nor saved.
    image_width (int): Width of the picture vectors that fusion would get, e.g. 2048 of a ResNet-50.
    layers (int): How many layers share the parameters.
    heads (int): Attention heads; must divide the hidden size.
    dropout (float): 0-1, on attention weights and residual connections. The rate in [training] doesn't reach
        it.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    settings = {"like": like, "image_width": image_width, "layers": layers}
    return fusion_layer(TextLayer, **settings, heads=heads, dropout=dropout)
