"""The torch side of text encoders: from windows of word pieces to rows of tokens."""

from typing import Any, NamedTuple

import torch
from torch import nn

from ..fusion.blocks import at_least_float32
from .bert import BERT
from .windows import WordPieces


class Batch(NamedTuple):
    """Windows of word pieces, and the pictures of their posts. What is masked must change nothing.

    ids, mask (torch.Tensor): Long and bool, (b, n).
    image (torch.Tensor): Picture rows, (b, m, image_width); m may be 0.
    image_mask (torch.Tensor): Bool (b, m); all False for a post without a picture.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    image: torch.Tensor
    image_mask: torch.Tensor


class HFText(nn.Module):
    """A transformer of the BERT family, at `bert`. A subclass adds what looks at pictures, and puts
    it to use in `encode`.

    config (Dict[str, Any]), tokenizer (str): As `read_bert` gives them; stored with the weights.
    image_width (int): Width of picture vectors; 0 if it looks at none.
    trainable (bool), dropout (float): As in `build_hf_text_encoder_v1`.
    state (Optional[Dict[str, torch.Tensor]]): Weights of the transformer, unless they are loaded afterwards.
    own (Any): Settings of a subclass.
    """

    def __init__(
        self,
        *,
        config: dict[str, Any],
        tokenizer: str,
        image_width: int = 0,
        trainable: bool = True,
        dropout: float = 0.1,
        state: dict[str, torch.Tensor] | None = None,
        **own: Any,
    ) -> None:
        super().__init__()
        stored = {"config": config, "tokenizer": tokenizer, "image_width": image_width}
        self.settings = {**stored, "trainable": trainable, "dropout": dropout, **own}
        self.pieces = WordPieces(tokenizer)
        self.bert = BERT(config, dropout)
        if state is not None:
            self.bert.load_state_dict(state)
        self.bert.requires_grad_(trainable)
        self.learns = trainable or image_width > 0

    def encode(self, X: Batch, training: bool) -> torch.Tensor:
        """RETURNS (torch.Tensor): The last layer, (b, n, d). Dropout is for training only."""
        x = self.bert.embed(X.ids, training)
        for layer in self.bert.layers:
            x = layer(x, X.mask, training)
        return x

    def forward(
        self, X: Batch, posts: torch.Tensor, rows: tuple[torch.Tensor, ...], *, training: bool
    ) -> torch.Tensor:
        """Encode windows, and make rows of tokens of them.

        X (Batch): With a row a picture, not yet a window.
        posts (torch.Tensor): Of each window, which of the pictures is its post's, long (b,).
        rows (Tuple[torch.Tensor, ...]): Of each piece its place among those of all windows, long, and its
            weight; of each token its first piece, long.
        RETURNS (torch.Tensor): A row a token, (tokens, d); zeros for a token without pieces.
        """
        X = X._replace(image=X.image[posts], image_mask=X.image_mask[posts])
        hidden = at_least_float32(self.encode(X, training)).flatten(0, 1)
        places, weights, first = rows
        return nn.functional.embedding_bag(
            places, hidden, first, mode="sum", per_sample_weights=weights.to(hidden.dtype)
        )
