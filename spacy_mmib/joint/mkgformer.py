"""MKGformer (Chen et al., "Hybrid Transformer with Multi-level Fusion for Multimodal Knowledge Graph
Completion", SIGIR 2022), as a text encoder.
"""

from pathlib import Path
from typing import Any

import torch
from spacy.util import registry
from torch import nn

from ..fusion.blocks import fill_mask, project
from .base import Batch, HFText
from .bert import Layer
from .hf_text import Autocast, Pooling, TextModel, text_layer


class MKGformer(HFText):
    """The last L layers of a transformer side by side with L layers over picture rows V, of the same width d.
    In layer l, first the pictures, then the text:

    V attends to itself and to keys and values of the text in layer l - 1;
    c is the text's attention to itself, f = softmax(c V^T / sqrt(d)) V;
    a = LayerNorm(x + W_a c), and W_1 a in the feed-forward network becomes W_1 a + W_f f.

    W_f has no bias, so that a post without a picture, whose f is 0, gets what the transformer alone gives.
    """

    def __init__(
        self, *, image_width: int, layers: int = 4, as_published: bool = False, **shared: Any
    ) -> None:
        super().__init__(image_width=image_width, layers=layers, as_published=as_published, **shared)
        config, width, dropout = self.settings["config"], self.bert.width, self.settings["dropout"]
        if not 1 <= layers <= len(self.bert.layers):
            raise ValueError(
                f"layers of MKGformer is {layers}; it is at least 1, and at most what its transformer has, "
                f"{len(self.bert.layers)}."
            )
        self.first = len(self.bert.layers) - layers
        self.scale = 1.0 if as_published else width**-0.5
        self.projection = project(image_width, width)
        self.vision: Any = nn.ModuleList(Layer(config, dropout) for _ in range(layers))
        inner = config["intermediate_size"]
        self.mix: Any = nn.ModuleList(nn.Linear(width, inner, bias=False) for _ in range(layers))  # W_f

    def see(self, c: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """RETURNS (torch.Tensor): f, (b, n, d), of c, (b, n, d), and V, (b, m, d), where `mask`, bool (b, m),
        is True; 0 for a post without a picture.
        """
        scores = self.scale * (c @ v.transpose(1, 2))
        scores = scores.masked_fill(~mask.unsqueeze(1), torch.finfo(scores.dtype).min)
        return (scores.softmax(-1) @ v) * mask.any(1)[:, None, None]

    def encode(self, X: Batch, training: bool) -> torch.Tensor:
        """RETURNS (torch.Tensor): Rows of the text, (b, n, d)."""
        x, pictures = self.bert.embed(X.ids, training), self.projection(X.image)
        own_mask, both_mask = fill_mask(X.image_mask), torch.cat([X.mask, X.image_mask], 1)
        before: tuple[torch.Tensor, torch.Tensor] | None = None  # of the text in the layer before
        for i, layer in enumerate(self.bert.layers, -self.first):
            k, v = layer.keys(x)
            c = layer.attend(x, k, v, X.mask, training)
            more: torch.Tensor | float = 0.0
            if i >= 0 and X.image.shape[1]:
                vision, keys, mask = self.vision[i], self.vision[i].keys(pictures), own_mask
                if before is not None:
                    keys, mask = tuple(torch.cat(pair, 2) for pair in zip(before, keys)), both_mask
                attended = vision.attend(pictures, *keys, mask, training)
                pictures = vision.finish(pictures, attended, training)
                more = self.mix[i](self.see(c, pictures, X.image_mask))
            x = layer.finish(x, c, training, more)
            before = k, v
        return x


@registry.architectures("spacy-mmib.MKGformer.v1")
def build_mkgformer_v1(
    *,
    name: str | Path,
    img2vec: TextModel,
    layers: int = 4,
    as_published: bool = False,
    pooling: Pooling = "mean",
    window: int = 128,
    stride: int = 96,
    trainable: bool = True,
    dropout: float = 0.1,
    mixed_precision: bool = False,
    autocast: Autocast = None,
) -> TextModel:
    """Build MKGformer as a `tok2vec`, to be used with `spacy-mmib.NoFusion.v1`. What isn't said here is as in
    `spacy-mmib.HFTextEncoder.v1`. Listeners can't share it: its rows depend on pictures.

    What the released code does otherwise: c V^T has no scale, so that its softmax saturates (here so with
    `as_published`); pictures attend to the padding of texts as well; and of pictures it sees the crops alone,
    never the whole. Its layers over pictures are the last four of CLIP's ViT-B/32, and the first eight give
    what these begin with. Here any picture encoder gives that, its last layer for example, and the layers
    side by side begin at random; they are of the transformer's own kind, normalized behind the residual
    connection, not before it. Its relation classifier isn't among the parameters that are trained; here it
    is.

    As published it is used with BERT-base uncased, the first piece of each token, and six crops.

    img2vec (Model[List[Doc], List[Floats2d]]): The picture encoder, best with rows = "patches" (ViT, CLIP) or
        "grid" (ResNet). Rows of another width than the transformer's are projected.
    layers (int): L.
    as_published (bool): See above.
    trainable (bool): Whether the transformer learns; what is new does in any case.
    RETURNS (Model[List[Doc], List[Floats2d]]): Gives `TextVectors`.
    """
    settings: dict[str, Any] = dict(locals())
    return text_layer(MKGformer, **settings)
