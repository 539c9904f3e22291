"""VisualBERT (Li et al., "VisualBERT: A Simple and Performant Baseline for Vision and Language", arXiv 2019),
as a text encoder.
"""

from pathlib import Path
from typing import Any

import torch
from spacy.util import registry
from torch import nn

from .base import Batch, HFText
from .hf_text import Autocast, Pooling, TextModel, text_layer


class VisualBERT(HFText):
    """One transformer over a sequence of word pieces and picture rows: [e(pieces); W v + s], normalized
    together, with W the projection of picture rows to the width of embeddings and s their segment and
    position. The rows of the text come out. A post without a picture gets what the transformer alone gives.
    """

    def __init__(self, *, image_width: int, **shared: Any) -> None:
        super().__init__(image_width=image_width, **shared)
        self.projection = nn.Linear(image_width, self.bert.embedded)
        with torch.no_grad():  # s begins as what is added to a word of the last segment
            start = self.bert.types.weight[-1] + self.bert.positions.weight[self.bert.first_position]
        self.segment = nn.Parameter(start.clone())

    def encode(self, X: Batch, training: bool) -> torch.Tensor:
        """RETURNS (torch.Tensor): Rows of the text, (b, n, d)."""
        x = self.bert.embed(X.ids, training, self.projection(X.image) + self.segment)
        mask = torch.cat([X.mask, X.image_mask], 1)
        for layer in self.bert.layers:
            x = layer(x, mask, training)
        return x[:, : X.ids.shape[1]]


@registry.architectures("spacy-mmib.VisualBERT.v1")
def build_visualbert_v1(
    *,
    name: str | Path,
    img2vec: TextModel,
    pooling: Pooling = "mean",
    window: int = 128,
    stride: int = 96,
    trainable: bool = True,
    dropout: float = 0.1,
    mixed_precision: bool = False,
    autocast: Autocast = None,
) -> TextModel:
    """Build VisualBERT as a `tok2vec`, to be used with `spacy-mmib.NoFusion.v1`. What isn't said here is as
    in `spacy-mmib.HFTextEncoder.v1`. Listeners can't share it: its rows depend on pictures.

    Differences from the published model: it starts from a plain text model, not from VisualBERT's weights,
    which were pretrained on captions with the rows of one detector (Faster R-CNN, 2,048 wide); any picture
    rows are projected anew. Segment and position of picture rows are one vector, as rows that aren't aligned
    with words all have the first position. As published it is used with BERT-base uncased.

    img2vec (Model[List[Doc], List[Floats2d]]): The picture encoder: whole picture and objects, or a grid.
    trainable (bool): Whether the transformer learns; W and s do in any case.
    RETURNS (Model[List[Doc], List[Floats2d]]): Gives `TextVectors`.
    """
    settings: dict[str, Any] = dict(locals())
    return text_layer(VisualBERT, **settings)
