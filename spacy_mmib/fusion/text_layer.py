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

    With MMIB and the widths of its paper (d = 768, 2,048 of a picture vector) the feed-forward network of one
    layer is 36 d wide, and those of six are 4.4 d wide each; the usual width is 4 d. The settings are those
    of `spacy-mmib.TextLayer.v1`. In the place of `like` and `layers` it is stored with what they come to:

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
        if feed_forward_widths is None:
            assert like is not None
            feed_forward_widths = _find_widths(like, layers, **widths)
        stored = {"heads": heads, "dropout": dropout, "feed_forward_widths": feed_forward_widths}
        self.settings: dict[str, Any] = {**widths, **stored}
        self.text_projection = project(text_width, width)
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


def _find_widths(
    like: Model[FusionInput, PostVectors], layers: int, *, text_width: int, image_width: int, width: int
) -> list[int]:
    """RETURNS (List[int]): Widths of the feed-forward networks, with which layers have as many parameters as
        the other fusion. That is built, counted and left unbuilt, without a trace in the random numbers.
    RAISES (ValueError): It has fewer.
    """
    with torch.random.fork_rng(devices=[]):
        like.initialize(X={"text_width": text_width, "image_width": image_width, "width": width})
    wanted = sum(parameter.numel() for parameter in get_module(like).parameters())
    set_module(like, Unbuilt())
    # The projection of text, and of each layer attention, two norms and the last bias.
    fixed = (text_width + 1) * width * (text_width != width) + layers * (4 * width**2 + 9 * width)
    unit = (
        2 * width + 1
    )  # a row of the first matrix of a feed-forward network, its bias, a column of the second
    units = round((wanted - fixed) / unit)
    if layers < 1 or units < layers:
        raise ValueError(
            f"{like.name} has {wanted:,} parameters, and {layers} transformer layer(s) of width {width} have "
            f'at least {fixed + layers * unit:,}. Set "layers" to a smaller number, at least 1, or compare '
            "with spacy-mmib.NoFusion.v1."
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
    """Build transformer layers over the text that have as many parameters as a multimodal fusion: the control
    that separates what a picture adds from what a larger model does. The number is the nearest there is (with
    d = 768 within 0.01 %). No picture is read or encoded for it. Not counted are a picture encoder that is
    trained, and the head, which is larger behind a fusion whose vectors are 2d wide.

    like (Model[FusionInput, PostVectors]): The fusion it is to be as large as. It is only counted, when the
        pipeline is initialized, and neither trained nor saved. A smaller one than so many layers, such as
        `spacy-mmib.Concat.v1`, is an error.
    image_width (int): Width of the picture vectors that fusion would get, e.g. 2048 of a ResNet-50.
    layers (int): How many layers share the parameters.
    heads (int): Attention heads; must divide the hidden size.
    dropout (float): 0-1, on attention weights and residual connections. The rate in [training] doesn't reach
        it.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    settings = {"like": like, "image_width": image_width, "layers": layers}
    return fusion_layer(TextLayer, **settings, heads=heads, dropout=dropout)
