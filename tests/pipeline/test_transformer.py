"""On a TransformerListener: a tiny BERT with random weights, made here and saved to disk."""

import numpy
import pytest
import spacy
from conftest import (
    LANGUAGE,
    LEARN_FAST,
    LISTENER,
    MODEL,
    POSTS,
    entities,
    make_examples,
    make_picture,
    new_docs,
    train,
)
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import load_model_from_config


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for text, *_ in POSTS for word in text.lower().split()})
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*words, *letters, *("##" + letter for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    spacy.util.fix_random_seed(0)
    BertModel(config).save_pretrained(folder)
    return str(folder)


def make_nlp(bert: str):
    nlp = spacy.blank(LANGUAGE)
    nlp.add_pipe(
        "transformer",
        config={
            "model": {
                "@architectures": "spacy-transformers.TransformerModel.v3",
                "name": bert,
                "get_spans": {
                    "@span_getters": "spacy-transformers.strided_spans.v1",
                    "window": 32,
                    "stride": 24,
                },
                "tokenizer_config": {"use_fast": True},
            }
        },
    )
    listener = {
        "@architectures": "spacy-transformers.TransformerListener.v1",
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "tok2vec": listener}, **LEARN_FAST})
    return nlp


@pytest.fixture(scope="module")
def trained_bert(bert):
    nlp = make_nlp(bert)
    train(nlp, make_examples(nlp), steps=100)
    return nlp


def test_learns_and_reaches_the_transformer(trained_bert, bert):
    assert trained_bert.evaluate(make_examples(trained_bert))["ents_f"] == 1.0
    fresh = make_nlp(bert)
    fresh.initialize(lambda: make_examples(fresh))
    weights = [nlp.get_pipe("transformer").model.to_bytes() for nlp in (trained_bert, fresh)]
    assert weights[0] != weights[1]


def test_long_posts_lose_no_tag(trained_bert):
    """700 tokens, through spans of 32 with a position limit of 64: in training and in prediction."""
    words = ("Rob had dinner with us " * 140).split()
    doc = Doc(trained_bert.vocab, words=words)
    doc._.image = numpy.asarray(make_picture("red"))
    reference = doc.copy()
    reference.ents = [spacy.tokens.Span(reference, i, i + 1, label="PER") for i in range(0, 700, 5)]
    example = Example(doc, reference)
    tags = trained_bert.get_pipe("mmib_ner")._get_tags(example)
    assert len(tags) == 700
    assert (tags > 0).sum() == 140
    losses = trained_bert.update([example], losses={}, sgd=False)
    assert numpy.isfinite(losses["mmib_ner"])
    found = trained_bert(doc)
    assert all(token.ent_iob for token in found)
    starts = {ent.start for ent in found.ents if ent.text == "Rob"}
    assert max(starts) > 650
    assert len(starts) > 100


def test_round_trips(trained_bert, bert, tmp_path):
    expected = entities(trained_bert.pipe(new_docs(trained_bert)))
    assert (
        entities(make_nlp(bert).from_bytes(trained_bert.to_bytes()).pipe(new_docs(trained_bert))) == expected
    )
    trained_bert.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    assert entities(nlp.pipe(new_docs(nlp))) == expected


def test_frozen_transformer(bert):
    nlp = make_nlp(bert)
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    before = nlp.get_pipe("transformer").model.to_bytes()
    for _ in range(2):
        nlp.update(examples, sgd=optimizer, losses={}, exclude=["transformer"], annotates=["transformer"])
    assert nlp.get_pipe("transformer").model.to_bytes() == before


def test_listeners_of_a_transformer_are_replaced(bert, tmp_path):
    nlp = make_nlp(bert)
    nlp.add_pipe("mmib_img2vec", config={"model": MODEL["img2vec"]}, before="mmib_ner")
    model = nlp.get_pipe_config("mmib_ner")["model"]
    nlp.remove_pipe("mmib_ner")
    nlp.add_pipe("mmib_ner", config={"model": {**model, "img2vec": LISTENER}})
    train(nlp, make_examples(nlp), steps=1)
    nlp.to_disk(tmp_path / "source")
    config = nlp.config.copy()
    paths = ["model.tok2vec", "model.img2vec"]
    config["nlp"]["pipeline"] = ["mmib_ner"]
    config["components"] = {"mmib_ner": {"source": str(tmp_path / "source"), "replace_listeners": paths}}
    alone = load_model_from_config(config)
    architectures = alone.config["components"]["mmib_ner"]["model"]
    assert "Tok2VecTransformer" in architectures["tok2vec"]["@architectures"]
    assert "TorchvisionEncoder" in architectures["img2vec"]["@architectures"]
    alone.to_disk(tmp_path / "alone")
    expected = get_tags(nlp)
    assert get_tags(alone) == expected
    assert get_tags(spacy.load(tmp_path / "alone")) == expected


def get_tags(nlp) -> list:
    return [[e.label_ for e in doc.ents] for doc in nlp.pipe(new_docs(nlp))]
