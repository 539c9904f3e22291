"""`spacy-mmib.HFTextEncoder.v1`, and the Thinc layer of all text encoders of its kind."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy
import torch
from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d
from torch import nn

from ..bridge.data import TextVectors
from ..bridge.shim import get_module, pad, set_module, unpad, wrap_module
from ..encoders.dropout import encode_pictures
from ..encoders.listener import get_image_width
from .base import Batch, HFText
from .bert import read_bert
from .windows import Windows, cut

TextModel: TypeAlias = Model[list[Doc], list[Floats2d]]
Pooling: TypeAlias = Literal["mean", "first"]
Autocast: TypeAlias = Literal["bfloat16", "float16"] | None

AT_ONCE = 64
"""Windows in one pass of a prediction: the bound on memory."""


def text_layer(
    module_class: type[HFText],
    *,
    name: str | Path,
    img2vec: TextModel | None = None,
    pooling: str,
    window: int,
    stride: int,
    trainable: bool,
    dropout: float,
    mixed_precision: bool,
    autocast: str | None,
    **own: Any,
) -> TextModel:
    """Make the Thinc layer of a text encoder. The settings are those of `build_hf_text_encoder_v1`.

    img2vec (Optional[Model]): Its picture encoder, which it has as ref "img2vec".
    own (Any): Settings of the class.
    """
    if pooling not in ("mean", "first"):
        raise ValueError(f"pooling is 'mean' or 'first', not {pooling!r}.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is at least 0 and below 1, not {dropout!r}.")
    runtime: dict[str, Any] = {"trainable": trainable, "dropout": dropout}
    network = wrap_module(module_class, _convert_inputs, _convert_outputs, runtime_settings=runtime)
    network.name = module_class.__name__
    network.shims[0].use_autocast(autocast, mixed_precision)
    build = partial(module_class, **runtime, **own)
    check = partial(_check, window=window, stride=stride)
    split = partial(cut, window=window, stride=stride, pooling=pooling)
    return Model(
        "text_encoder",
        partial(forward, check=check, split=split),
        init=partial(_init, name=str(name), build=build, check=check),
        layers=[network] if img2vec is None else [network, img2vec],
        refs={"img2vec": img2vec},
        dims={"nO": None},
    )


def _init(model: TextModel, X: Any = None, Y: Any = None, *, name: str, build: Any, check: Any) -> None:
    """Read the weights: the only place where they are looked for, a saved pipeline brings its own."""
    img2vec, image_width = model.maybe_get_ref("img2vec"), 0
    if img2vec is not None:
        img2vec.initialize(X=X)
        image_width = get_image_width(img2vec)
    config, tokenizer, state = read_bert(name)
    module = build(config=config, tokenizer=tokenizer, state=state, image_width=image_width)
    check(module)
    set_module(model.layers[0], module)
    model.set_dim("nO", module.bert.width, force=True)


def _check(module: HFText, window: int, stride: int) -> None:
    special, longest = len(module.pieces.before) + len(module.pieces.after), module.bert.longest
    if window > longest or not 1 <= stride <= window - special:
        raise ValueError(
            f"A text encoder has window = {window} and stride = {stride}. It takes at most {longest} word "
            f"pieces at a time; stride is 1 to {window - special}: {special} of a window are special tokens."
        )


def forward(
    model: TextModel, docs: Sequence[Doc], is_train: bool, *, check: Any, split: Callable[..., Windows]
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    """RETURNS (Tuple[List[Floats2d], Callable]): A row a token, `TextVectors` if it looks at pictures; and
    the callback for their gradient.
    """
    network: Model[Any, Any] = model.layers[0]
    module = get_module(network)
    if not isinstance(module, HFText):
        module()  # says that there are no weights
    check(module)
    image, backprop_image = encode_pictures(model, docs, is_train)
    windows = split(docs, module.pieces)
    learns = is_train and module.learns
    rows = model.ops.alloc2f(windows.n_tokens, module.bert.width)
    sums = xp2torch(rows)  # the same memory: CuPy would compile a kernel for a sum
    backprop_network: Callable[[Floats2d], list[Floats2d]] | None = None
    # Training has one pass, whose callback is the one that there is.
    for part in windows.in_parts(max(1, len(windows.ids)) if learns else AT_ONCE):
        of_part, backprop_network = network((part, image), learns)
        sums[part.first : part.first + part.n_tokens] += xp2torch(of_part)
    ends = list(accumulate(map(len, docs)))
    vectors = [rows[end - len(doc) : end].copy() for doc, end in zip(docs, ends)]

    def backprop(d_vectors: list[Floats2d]) -> list[Doc]:
        d_image = [model.ops.xp.zeros_like(x) for x in image]
        if learns and backprop_network is not None:
            d_rows = model.ops.xp.concatenate([d for d in d_vectors if len(d)])
            d_pictures = backprop_network(d_rows[part.first : part.first + part.n_tokens])
            for i, d_picture in zip(sorted({*part.posts}), d_pictures):
                d_image[i] = d_picture
        backprop_image(d_image)
        return []

    if model.maybe_get_ref("img2vec") is None:
        return vectors, backprop
    return TextVectors(vectors, image), backprop


def _convert_inputs(
    model: Model[Any, Any], X: tuple[Windows, list[Floats2d]], is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], Sequence[Floats2d]]]:
    part, pictures = X
    posts, of_windows = numpy.unique(part.posts, return_inverse=True)
    vectors = [pictures[i] for i in posts]
    image, image_mask = pad(vectors, requires_grad=is_train)
    tensor = partial(torch.as_tensor, device=image.device)
    ids = nn.utils.rnn.pad_sequence(
        [tensor(x) for x in part.ids], batch_first=True, padding_value=get_module(model).bert.pad
    )
    lengths = tensor([len(x) for x in part.ids])
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
    places = part.numbers * ids.shape[1] + part.places
    first = numpy.searchsorted(part.tokens, numpy.arange(part.n_tokens))
    rows = tuple(map(tensor, (places, part.weights, first)))

    def backprop(d_inputs: ArgsKwargs) -> Sequence[Floats2d]:
        d_image = torch.zeros_like(image) if image.grad is None else image.grad  # if none is looked at
        return unpad(d_image, vectors)

    batch = Batch(ids, mask, image, image_mask)
    return ArgsKwargs((batch, tensor(of_windows), rows), {}), backprop


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[Any, torch.Tensor], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], ArgsKwargs]]:
    _, rows = inputs_outputs

    def backprop(d_rows: Floats2d) -> ArgsKwargs:
        # Of a frozen transformer that had no picture to learn from, the rows are constants.
        pairs = [(rows, xp2torch(d_rows).contiguous())] if rows.requires_grad else []
        return ArgsKwargs(([x for x, _ in pairs],), {"grad_tensors": [d for _, d in pairs]})

    return torch2xp(rows.detach()), backprop


@registry.architectures("spacy-mmib.HFTextEncoder.v1")
def build_hf_text_encoder_v1(
    *,
    name: str | Path,
    pooling: Pooling = "mean",
    window: int = 128,
    stride: int = 96,
    trainable: bool = True,
    dropout: float = 0.1,
    mixed_precision: bool = False,
    autocast: Autocast = None,
) -> TextModel:
    """Build a text encoder from a transformer of the BERT family (BERT, CamemBERT, ELECTRA, RoBERTa,
    XLM-RoBERTa): a `tok2vec` for any component, spaCy's included, with a row of the last layer a token. It
    gives what transformers' own model gives for each window.

    name (Union[str, Path]): Name of the model on the Hugging Face hub, or a folder with its config.json,
        model.safetensors and tokenizer.json. Read on initialization only: a saved pipeline holds weights,
        configuration and tokenizer.
    pooling (str): The row of a token is the "mean" of its word pieces, or the "first" of them, as in most
        papers. A token without any (white space) has a row of zeros.
    window (int): Word pieces in one pass at most, special tokens included. Longer posts take several passes:
        memory and time grow with their length, not with its square.
    stride (int): By how many pieces these windows follow each other; window - stride is about how much they
        overlap. Each piece is taken from the window that it is nearest to the middle of.
    trainable (bool): Whether the transformer learns with the component. If it doesn't, and looks at no
        pictures, it has no dropout either.
    dropout (float): 0-1, in all layers, in training; 0.1 is BERT's. The rate in [training] doesn't reach it.
    mixed_precision (bool): An older name of autocast = "float16".
    autocast (Optional[str]): "bfloat16" or "float16": run what can stand it in this precision, see
        `spacy-mmib.NER.v1`. Rows of tokens are float32 in either case.
    RETURNS (Model[List[Doc], List[Floats2d]]): The layer.
    RAISES (ValueError): Settings that don't fit together, or, on initialization, no such model.
    """
    return text_layer(HFText, **locals())
