"""HVPNeT (Chen et al., "Good Visual Guidance Makes A Better Extractor: Hierarchical Visual Prefix for
Multimodal Entity and Relation Extraction", Findings of NAACL 2022), as a text encoder.
"""

from pathlib import Path
from typing import Any

import torch
from spacy.util import registry
from torch import nn
from torch.nn import functional as F

from .base import Batch, HFText
from .hf_text import Autocast, Pooling, TextModel, text_layer

PIECES = 4
"""Of a row, which the layers mix: as many as a ResNet has stages."""


class HVPNeT(HFText):
    """Picture rows as further keys and values in every layer of a transformer. For each picture and object,
    of p x p rows r of a pyramid:

    [m_1; m_2; m_3; m_4] = W_2 tanh(W_1 r), four pieces of twice the transformer's width d;
    in layer l, g = softmax(LeakyReLU(G_l u)), with u the means of the pieces of all p x p rows together;
    [k; v] = sum_i g_i m_i, a key and a value a row, cut into heads as those of the text are.

    These stand before the text's keys and values; positions of the text stay as they are. A post without a
    picture gets what the transformer alone gives, except as published.
    """

    def __init__(
        self,
        *,
        image_width: int,
        pyramid_size: int = 2,
        bottleneck: int = 800,
        as_published: bool = False,
        max_pictures: int = 4,
        **shared: Any,
    ) -> None:
        own: dict[str, Any] = {"as_published": as_published, "max_pictures": max_pictures}
        own |= {"image_width": image_width, "pyramid_size": pyramid_size, "bottleneck": bottleneck}
        super().__init__(**own, **shared)
        self.parts, self.as_published, self.max_pictures = pyramid_size**2, as_published, max_pictures
        width = 2 * self.bert.width
        self.inner = nn.Linear(image_width, bottleneck)
        self.outer = nn.Linear(bottleneck, PIECES * width)
        self.gates: Any = nn.ModuleList(nn.Linear(self.parts * width, PIECES) for _ in self.bert.layers)

    def make_prefix(
        self, image: torch.Tensor, mask: torch.Tensor
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Make keys and values of picture rows, (b, m, image_width), where `mask`, bool (b, m), is True.

        RETURNS (Tuple[List[Tuple[torch.Tensor, torch.Tensor]], torch.Tensor]): For each layer keys and
            values, (b, heads, rows, d / heads), and the mask of these, bool (b, rows).
        RAISES (ValueError): The rows aren't those of a pyramid.
        """
        if bool((mask.sum(1) % self.parts).any()):
            raise ValueError(
                f"HVPNeT takes {self.parts} rows of each picture and object, but its picture encoder gives "
                f'posts of {mask.sum(1).tolist()}. Set rows = "pyramid" in [...img2vec], and pyramid_size as '
                "in [...tok2vec]."
            )
        image = image * mask.unsqueeze(-1)
        if self.as_published:
            rows = self.max_pictures * self.parts
            image = F.pad(image[:, :rows], (0, 0, 0, max(0, rows - image.shape[1])))
            mask = mask.new_ones(image.shape[:2])
        pictures = image.unflatten(1, (image.shape[1] // self.parts, self.parts))
        if self.as_published:  # channels by positions, read as if they were positions by channels
            pictures = pictures.transpose(2, 3).reshape(pictures.shape)
        pieces = self.outer(torch.tanh(self.inner(pictures))).unflatten(-1, (PIECES, -1))
        mean = pieces.mean(3).flatten(2)
        prefix = []
        for layer, gate in zip(self.bert.layers, self.gates):
            g = F.leaky_relu(gate(mean)).softmax(-1)
            rows_of_layer = torch.einsum("bmi,bmpid->bmpd", g, pieces).flatten(1, 2)
            k, v = rows_of_layer.chunk(2, -1)
            if self.as_published:  # rows after rows, read as if they were heads after heads
                shape = (len(k), layer.heads, k.shape[1], -1)
                prefix.append((k.reshape(shape), v.reshape(shape)))
            else:
                prefix.append((layer.split(k), layer.split(v)))
        return prefix, mask

    def encode(self, X: Batch, training: bool) -> torch.Tensor:
        """RETURNS (torch.Tensor): Rows of the text, (b, n, d)."""
        prefix, prefix_mask = self.make_prefix(X.image, X.image_mask)
        mask = torch.cat([prefix_mask, X.mask], 1)
        x = self.bert.embed(X.ids, training)
        for layer, of_pictures in zip(self.bert.layers, prefix):
            k, v = (torch.cat(pair, 2) for pair in zip(of_pictures, layer.keys(x)))
            x = layer.finish(x, layer.attend(x, k, v, mask, training), training)
        return x


@registry.architectures("spacy-mmib.HVPNeT.v1")
def build_hvpnet_v1(
    *,
    name: str | Path,
    img2vec: TextModel,
    pyramid_size: int = 2,
    bottleneck: int = 800,
    as_published: bool = False,
    max_pictures: int = 4,
    pooling: Pooling = "mean",
    window: int = 128,
    stride: int = 96,
    trainable: bool = True,
    dropout: float = 0.1,
    mixed_precision: bool = False,
    autocast: Autocast = None,
) -> TextModel:
    """Build HVPNeT as a `tok2vec`, to be used with `spacy-mmib.NoFusion.v1`. What isn't said here is as in
    `spacy-mmib.HFTextEncoder.v1`. Listeners can't share it: its rows depend on pictures.

    What the released code does otherwise, and this does with `as_published`: it reads an array of channels by
    positions as one of positions by channels, so that a row is 960 channels at all four positions instead of
    3,840 at one of them; it cuts rows into heads without turning them, so that the first head sees the first
    two rows only, in all of their dimensions, and the last head the last two; and pictures that are missing
    are prefix rows like any others. Its missing pictures are black ones that have gone through the ResNet;
    here they are rows of zeros. Its relation classifier isn't among the parameters that are trained, and its
    ResNet's BatchNorm statistics drift; neither is so here.

    As published it is used with BERT-base uncased, the first piece of each token, a frozen ResNet-50, and the
    whole picture with up to three objects.

    img2vec (Model[List[Doc], List[Floats2d]]): The picture encoder, with rows = "pyramid".
    pyramid_size (int): p, as in the picture encoder.
    bottleneck (int): Width between W_1 and W_2.
    as_published (bool): See above: what was measured in the paper.
    max_pictures (int): As published, the whole picture and objects together; others are cut off, and those
        that are missing made up.
    trainable (bool): Whether the transformer learns; W_1, W_2 and G_l do in any case.
    RETURNS (Model[List[Doc], List[Floats2d]]): Gives `TextVectors`.
    """
    settings: dict[str, Any] = dict(locals())
    for setting in ("pyramid_size", "bottleneck", "max_pictures"):
        if settings[setting] < 1:
            raise ValueError(f"{setting} of HVPNeT has to be at least 1, not {settings[setting]}.")
    return text_layer(HVPNeT, **settings)
