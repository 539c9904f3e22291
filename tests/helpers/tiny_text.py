"""Tiny text models of transformers with random weights, saved to disk as the hub has them: a piece a letter."""

from pathlib import Path

import numpy
import torch
import transformers
from thinc.api import Model
from tiny_bert import save_tiny_bert
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from spacy_mmib.bridge.data import PictureVectors
from spacy_mmib.post.extensions import get_stored_image

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
MORE = {**SIZES, "max_position_embeddings": 130, "initializer_range": 0.2}


def save_text_model(folder: Path, family: str) -> str:
    """family: As transformers calls it."""
    if family == "bert":
        return save_tiny_bert(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {piece: i for i, piece in enumerate([*specials, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    names |= {"cls_token": "<s>", "sep_token": "</s>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    sizes = {**MORE, "vocab_size": len(vocab), "pad_token_id": 1}
    if family == "electra":
        sizes |= {"embedding_size": 16}
    if family == "distilbert":
        sizes = {"vocab_size": len(vocab), "dim": 24, "n_layers": 1, "n_heads": 2, "hidden_dim": 48}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = transformers.AutoConfig.for_model(family, **sizes)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


def make_rows_encoder(rows: int = 4, width: int = 10) -> Model:
    """A picture encoder: so many rows of noise, by the picture's bytes, of the picture and each object. Its
    attribute "gradients" has what it got."""
    gradients: list = []

    def forward(model, docs, is_train):
        def encode(doc):
            image = get_stored_image(doc)
            n = 0 if image is None else rows * (1 + len(doc._.regions))
            rng = numpy.random.default_rng(0 if image is None else list(image))
            return rng.normal(size=(n, width)).astype("float32")

        vectors = [encode(doc) for doc in docs]
        of = [[i // rows for i in range(len(x))] for x in vectors]
        return PictureVectors(vectors, of), gradients.append

    return Model("rows", forward, dims={"nO": width}, attrs={"gradients": gradients})
