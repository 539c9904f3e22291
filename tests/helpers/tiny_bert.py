"""A tiny BERT with random weights, saved to disk as the hub has it: its words are letters."""

from pathlib import Path

import spacy


def save_tiny_bert(folder: Path) -> str:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz[]{}<>/"
    pieces = [*letters, *("##" + letter for letter in letters)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=128)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=128,
    )  # fmt: skip
    spacy.util.fix_random_seed(0)
    BertModel(config).save_pretrained(folder)
    return str(folder)
