"""Words and their characters in a bidirectional LSTM, the text encoder of models before transformers.

CNN-BiLSTM-CRF: Ma and Hovy, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF", ACL 2016.
HBiLSTM-CRF: Lample et al., "Neural Architectures for Named Entity Recognition", NAACL 2016.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy
import torch
from spacy.ml.staticvectors import StaticVectors
from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import ArgsKwargs, Model, NumpyOps, torch2xp, xp2torch
from thinc.types import Floats2d, Ragged
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from ..bridge.shim import pad, unpad, wrap_module

Chars: TypeAlias = Literal["cnn", "lstm"]
WORD_ROWS, CHAR_ROWS, MAX_CHARS = 10000, 1000, 30
"""Rows of the tables that words and characters are hashed into; characters of a word that are looked at."""


class CharBiLSTM(nn.Module):
    """With characters c_1..c_k of a word, and its vector w,
    r = max_i conv(c_1..c_k)_i ("cnn"), or the last states of an LSTM in either direction ("lstm");
    h_1..h_n = BiLSTM([w_1; r_1], ..., [w_n; r_n]), and with `tanh_layer` tanh(W h_t + b) of each.

    Dropout is on c, [w; r] and h. The settings are those of `spacy-mmib.CharBiLSTM.v1`.
    """

    def __init__(
        self, *, chars: Chars, word_width: int, char_width: int, width: int, tanh_layer: bool, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.words = _make_embedding(WORD_ROWS, word_width)
        self.characters = _make_embedding(CHAR_ROWS, char_width)
        if chars == "cnn":
            self.word_of_chars: nn.Module = nn.Conv1d(char_width, char_width, 3, padding=1)
        else:
            self.word_of_chars = nn.LSTM(char_width, char_width, batch_first=True, bidirectional=True)
        width_in = word_width + char_width * (1 if chars == "cnn" else 2)
        self.lstm = nn.LSTM(width_in, width, batch_first=True, bidirectional=True)
        self.last = nn.Sequential(*([nn.Linear(2 * width, 2 * width), nn.Tanh()] if tanh_layer else []))

    def forward(
        self,
        words: torch.Tensor,
        vectors: torch.Tensor | None,
        characters: torch.Tensor,
        word_lengths: torch.Tensor,
        lengths: list[int],
        *,
        training: bool,
    ) -> torch.Tensor:
        """Encode posts, with t words in all. What is padded is left out, so it changes nothing.

        words, characters (torch.Tensor): Four hashes of each, long (t, 4) and (t, k, 4).
        vectors (Optional[torch.Tensor]): To add to the vectors of the words, (t, word_width).
        word_lengths (torch.Tensor): Characters of each word, at least 1, long (t,), on CPU.
        lengths (List[int]): Words of each post, at least 1.
        RETURNS (torch.Tensor): (b, n, 2 width).
        """
        w = self.words(words % WORD_ROWS)
        if vectors is not None:
            w = w + vectors
        c = self.characters((characters % CHAR_ROWS).flatten(0, 1)).unflatten(0, characters.shape[:2])
        real = (torch.arange(c.shape[1]) < word_lengths.unsqueeze(1)).to(c.device).unsqueeze(-1)
        c = F.dropout(c.masked_fill(~real, 0.0), self.dropout, training)
        if isinstance(self.word_of_chars, nn.Conv1d):
            convolved = self.word_of_chars(c.transpose(1, 2)).transpose(1, 2)
            r = convolved.masked_fill(~real, float("-inf")).amax(1)
        else:
            packed = pack_padded_sequence(c, word_lengths, batch_first=True, enforce_sorted=False)
            r = torch.cat(list(self.word_of_chars(packed)[1][0]), -1)
        x = F.dropout(torch.cat([w, r], -1), self.dropout, training)
        posts = pad_sequence(x.split(lengths), batch_first=True)
        packed = pack_padded_sequence(posts, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.last(F.dropout(h, self.dropout, training))


def _make_embedding(rows: int, width: int) -> nn.EmbeddingBag:
    """A vector is the sum of four rows, as in spaCy's `HashEmbed`; here of variance 1 / width."""
    embedding = nn.EmbeddingBag(rows, width, mode="sum")
    nn.init.uniform_(embedding.weight, -((3 / width) ** 0.5) / 2, (3 / width) ** 0.5 / 2)
    return embedding


def forward(
    model: Model[list[Doc], list[Floats2d]], docs: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    """Encode docs, of which some may have no tokens."""
    encoder, *static = model.layers
    real = [doc for doc in docs if len(doc)]
    Y: list[Floats2d] = [model.ops.alloc2f(0, model.get_dim("nO")) for _ in docs]
    if not real:
        return Y, lambda dY: []
    backprop_static: Any
    found, backprop_static = static[0](real, is_train) if static else (None, None)
    rows, backprop_rows = encoder((real, None if found is None else found.data), is_train)
    Y = [rows.pop(0) if len(doc) else y for doc, y in zip(docs, Y)]

    def backprop(dY: list[Floats2d]) -> list[Doc]:
        d_vectors = backprop_rows([d_rows for d_rows in dY if len(d_rows)])
        if found is not None:
            backprop_static(Ragged(d_vectors, found.lengths))
        return []

    return Y, backprop


def _convert_inputs(
    model: Model[Any, Any], X: tuple[list[Doc], Floats2d | None], is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], Floats2d | None]]:
    docs, vectors = X
    texts = [token.text[:MAX_CHARS] or " " for doc in docs for token in doc]
    word_lengths = torch.tensor([len(text) for text in texts])
    codes = numpy.zeros((len(texts), int(word_lengths.max())), dtype="uint64")
    for row, text in zip(codes, texts):
        row[: len(text)] = [ord(char) for char in text]
    norms = numpy.concatenate([doc.to_array("NORM") for doc in docs])
    words, characters = (_hash(keys).to(model.shims[0].device) for keys in (norms, codes))
    given = None if vectors is None else xp2torch(vectors, requires_grad=is_train)
    args = (words, given, characters, word_lengths, [len(doc) for doc in docs])
    return ArgsKwargs(args, {}), lambda d: None if vectors is None else torch2xp(d.args[1])


def _hash(keys: "numpy.ndarray[Any, Any]") -> torch.Tensor:
    """RETURNS (torch.Tensor): Four hashes of each key, the same on all devices; long (..., 4)."""
    hashed: Any = NumpyOps().hash(keys.ravel(), 0)
    return torch.from_numpy(hashed.astype("int64").reshape(*keys.shape, 4))


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[tuple[list[Doc], Any], torch.Tensor], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], ArgsKwargs]]:
    (docs, _), output = inputs_outputs
    Y = [array.copy() for array in unpad(output, docs)]  # they may be kept for longer than the batch
    return Y, lambda dY: ArgsKwargs(([output],), {"grad_tensors": [pad(dY)[0]]})


def _init(model: Model[Any, Any], X: list[Doc] | None = None, Y: Any = None) -> None:
    if len(model.layers) > 1 and X and not X[0].vocab.vectors.shape[1]:
        raise ValueError(
            "static_vectors = true of spacy-mmib.CharBiLSTM.v1 needs word vectors, and this pipeline has "
            "none. Give it some (in a config: [initialize] vectors), or set static_vectors = false."
        )
    model.layers[0].initialize(X={})
    for static in model.layers[1:]:
        static.initialize(X=X)


@registry.architectures("spacy-mmib.CharBiLSTM.v1")
def build_char_bilstm_v1(
    chars: Chars = "cnn",
    *,
    word_width: int = 100,
    char_width: int = 30,
    width: int = 200,
    tanh_layer: bool = False,
    static_vectors: bool = False,
    dropout: float = 0.5,
) -> Model[list[Doc], list[Floats2d]]:
    """Build the text encoder of CNN-BiLSTM-CRF or HBiLSTM-CRF: a `tok2vec` for any component. The defaults
    are the published setting of the former; that of the latter is `chars = "lstm"`, `char_width = 25`,
    `width = 100` and `tanh_layer = true`.

    Published models have a vector for each word of a vocabulary, which starts as a pretrained one. Here words
    are hashed into a table that is learned, as in spaCy's `MultiHashEmbed`, so that none is unknown, and with
    `static_vectors` a learned projection of the pretrained vector, which stays as it is, is added.

    chars (str): "cnn" (over three characters; the maximum of each filter) or "lstm" (both directions).
    word_width, char_width (int): Widths of the vectors of words and characters; the latter also of the
        filters, or of their LSTM in each direction. Of a word the first 30 characters are looked at.
    width (int): Units, in each direction, of the LSTM over words: half the width of the vectors.
    tanh_layer (bool): Whether a layer with tanh follows.
    static_vectors (bool): Whether to use the word vectors of the pipeline (`nlp.vocab.vectors`).
    dropout (float): 0-1, on the vectors of characters, on what goes into the LSTM over words and on what
        comes out. The rate in [training] doesn't reach it.
    RETURNS (Model[List[Doc], List[Floats2d]]): The layer.
    RAISES (ValueError): Another value of `chars`, or a dropout that is out of range.
    """
    if chars not in get_args(Chars):
        raise ValueError(f"chars is {chars!r}; choose one of {', '.join(get_args(Chars))}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it has to be at least 0 and below 1.")
    rate: dict[str, Any] = {"dropout": dropout}
    settings = {"word_width": word_width, "char_width": char_width, "width": width, **rate}
    settings.update(chars=chars, tanh_layer=tanh_layer)
    encoder = wrap_module(
        CharBiLSTM, _convert_inputs, _convert_outputs, settings=settings, runtime_settings=rate
    )
    layers = [encoder, StaticVectors(nO=word_width)] if static_vectors else [encoder]
    return Model("char_bilstm", forward, init=_init, layers=layers, dims={"nO": 2 * width})
