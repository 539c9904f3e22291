"""Transformers of the BERT family, written out: what looks at pictures reaches into every layer, and threads
share the network, so that dropout is told by an argument. Weights come from transformers, once.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..images.errors import explain
from ..regions.grounding import find_model_folder

FAMILIES = {"bert": False, "camembert": True, "electra": False, "roberta": True, "xlm-roberta": True}
"""transformers' `model_type`, and whether positions are counted from behind the number of the padding."""

CONFIG = {
    "model_type": "bert",
    "vocab_size": 0,
    "hidden_size": 0,
    "embedding_size": None,
    "num_hidden_layers": 0,
    "num_attention_heads": 0,
    "intermediate_size": 0,
    "hidden_act": "gelu",
    "max_position_embeddings": 0,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
"""What of a model's config.json its numbers depend on."""

ACTIVATIONS: dict[str, Any] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}

NAMES = {
    "embeddings.word_embeddings.": "words.",
    "embeddings.position_embeddings.": "positions.",
    "embeddings.token_type_embeddings.": "types.",
    "embeddings.LayerNorm.": "norm.",
    "embeddings_project.": "projection.",
    "encoder.layer.": "layers.",
    ".attention.self.": ".",
    ".attention.output.dense.": ".attended.",
    ".attention.output.LayerNorm.": ".attended_norm.",
    ".intermediate.dense.": ".inner.",
    ".output.dense.": ".outer.",
    ".output.LayerNorm.": ".norm.",
}
"""Names of tensors in transformers, and here. In this order: some are parts of others."""


class Layer(nn.Module):
    """c = attention(x); a = LayerNorm(x + W_a c); y = LayerNorm(a + W_2 act(W_1 a)). In parts, for models
    that put something in between.
    """

    def __init__(self, config: dict[str, Any], dropout: float) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads, self.dropout = config["num_attention_heads"], dropout
        self.activation = ACTIVATIONS[config["hidden_act"]]
        self.query, self.key, self.value, self.attended = (nn.Linear(width, width) for _ in range(4))
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)
        self.attended_norm, self.norm = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """RETURNS (torch.Tensor): (b, heads, rows, d / heads), of (b, rows, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """RETURNS (Tuple[torch.Tensor, torch.Tensor]): Keys and values, each (b, heads, n, d / heads)."""
        return self.split(self.key(x)), self.split(self.value(x))

    def attend(
        self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, training: bool
    ) -> torch.Tensor:
        """RETURNS (torch.Tensor): c, (b, n, d), over keys where `mask`, bool (b, keys), is True."""
        dropout = self.dropout if training else 0.0
        q = self.split(self.query(x))
        attended = F.scaled_dot_product_attention(q, k, v, mask[:, None, None], dropout)
        return attended.transpose(1, 2).flatten(2)

    def finish(
        self, x: torch.Tensor, c: torch.Tensor, training: bool, more: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """RETURNS (torch.Tensor): y, (b, n, d). `more` is added to W_1 a."""
        a = self.attended_norm(x + F.dropout(self.attended(c), self.dropout, training))
        y = self.outer(self.activation(self.inner(a) + more))
        y = self.norm(a + F.dropout(y, self.dropout, training))
        return y

    def forward(self, x: torch.Tensor, mask: torch.Tensor, training: bool) -> torch.Tensor:
        """RETURNS (torch.Tensor): (b, n, d)."""
        return self.finish(x, self.attend(x, *self.keys(x), mask, training), training)


class BERT(nn.Module):
    """Embeddings and layers.

    config (Dict[str, Any]): See `CONFIG`.
    dropout (float): 0-1.
    """

    def __init__(self, config: dict[str, Any], dropout: float) -> None:
        super().__init__()
        width, embedded = config["hidden_size"], config["embedding_size"] or config["hidden_size"]
        self.width, self.embedded, self.dropout = width, embedded, dropout
        self.pad = config["pad_token_id"] or 0
        self.first_position = self.pad + 1 if FAMILIES[config["model_type"]] else 0
        self.words = nn.Embedding(config["vocab_size"], embedded)
        self.positions = nn.Embedding(config["max_position_embeddings"], embedded)
        self.types = nn.Embedding(config["type_vocab_size"], embedded)
        self.norm = nn.LayerNorm(embedded, config["layer_norm_eps"])
        self.projection = nn.Identity() if embedded == width else nn.Linear(embedded, width)
        self.layers: Any = nn.ModuleList(Layer(config, dropout) for _ in range(config["num_hidden_layers"]))

    @property
    def longest(self) -> int:
        """RETURNS (int): How many pieces it can take, special tokens included."""
        return self.positions.num_embeddings - self.first_position

    def embed(self, ids: torch.Tensor, training: bool, more: torch.Tensor | None = None) -> torch.Tensor:
        """Embed word pieces, (b, n), all of the first segment.

        more (Optional[torch.Tensor]): Further embeddings to normalize, (b, m, embedded).
        RETURNS (torch.Tensor): (b, n + m, width).
        """
        first = self.first_position
        x = self.words(ids) + self.positions.weight[first : first + ids.shape[1]] + self.types.weight[0]
        x = x if more is None else torch.cat([x, more], 1)
        x = self.projection(F.dropout(self.norm(x), self.dropout, training))
        return x


def read_bert(name: str) -> tuple[dict[str, Any], str, dict[str, torch.Tensor]]:
    """Read a model of transformers, from a folder or the hub. No code that comes with it is ever run.

    RETURNS (Tuple[Dict[str, Any], str, Dict[str, torch.Tensor]]): Its configuration (see `CONFIG`), its
        tokenizer.json, and the weights of a `BERT`.
    RAISES (ValueError): There is no such model, it is of another family, or it isn't complete.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        folder = find_model_folder(name)
        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = {key: getattr(whole, key, default) for key, default in CONFIG.items()}
        _check_family(whole, config)
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        if not tokenizer.is_fast:
            raise ValueError("it has no fast tokenizer (a tokenizer.json, or what one can be made of)")
        settings = {"output_loading_info": True, "trust_remote_code": False}
        network, info = AutoModel.from_pretrained(folder, **settings)
        missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise ValueError(f"its weights lack {len(missing)} tensors ({', '.join(missing[:3])})")
    except Exception as err:
        reason = " ".join(str(err).split()) if isinstance(err, (ValueError, OSError)) else explain(err)
        raise ValueError(
            f"The text encoder {name!r} can't be read: {reason}. 'name' is that of a model on the Hugging "
            "Face hub, or a folder with its config.json, model.safetensors and tokenizer.json."
        ) from None
    state = {}
    for key, tensor in network.state_dict().items():
        for theirs, ours in NAMES.items():
            key = key.replace(theirs, ours)
        state[key] = tensor.float()
    # The pooler serves tasks on whole texts; numbers of positions are no weights.
    left_out = ("pooler.", "embeddings.")
    state = {key: tensor for key, tensor in state.items() if not key.startswith(left_out)}
    return config, tokenizer.backend_tokenizer.to_str(), state


def _check_family(whole: Any, config: dict[str, Any]) -> None:
    positions = getattr(whole, "position_embedding_type", None) or "absolute"
    if config["model_type"] not in FAMILIES or positions != "absolute":
        raise ValueError(
            f"it is of type {config['model_type']!r} with {positions} positions. Known types: "
            f"{', '.join(FAMILIES)}, with absolute positions; for others there is "
            "spacy-transformers.Tok2VecTransformer.v3"
        )
    if config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"its activation is {config['hidden_act']!r}. Known ones: {', '.join(ACTIVATIONS)}")
