"""Words and characters in a bidirectional LSTM."""

import numpy
import pytest
import spacy
import torch
from conftest import MODEL
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.joint.char_bilstm import MAX_CHARS

SMALL = {"@architectures": "spacy-mmib.CharBiLSTM.v1", "word_width": 12, "char_width": 6, "width": 10}
KINDS = [{"chars": "cnn"}, {"chars": "lstm", "tanh_layer": True}, {"chars": "lstm", "static_vectors": True}]
TEXTS = [
    "Rob met Mia",
    "a",
    "",
    "  \n Zoë 😀 in New\tYork http://t.co/AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
    "met",
]


@pytest.fixture(scope="module")
def nlp():
    nlp = spacy.blank("en")
    rng = numpy.random.RandomState(0)
    for word in ("Rob", "Mia", "met", "in"):
        nlp.vocab.set_vector(word, rng.randn(7).astype("float32"))
    return nlp


def make(nlp, seed=0, **settings):
    spacy.util.fix_random_seed(seed)
    layer = registry.resolve({"x": {**SMALL, **settings}})["x"]
    layer.initialize(X=[nlp.make_doc("Rob met Mia")])
    return layer


@pytest.mark.parametrize("settings", KINDS)
def test_rows_of_a_post_are_its_own(nlp, settings):
    layer = make(nlp, **settings)
    docs = [nlp.make_doc(text) for text in TEXTS]
    assert max(len(token) for token in docs[3]) > MAX_CHARS
    together = layer.predict(docs)
    assert layer.get_dim("nO") == 20
    assert [rows.shape for rows in together] == [(len(doc), 20) for doc in docs]
    for order in (range(len(docs)), reversed(range(len(docs)))):
        for i in order:
            numpy.testing.assert_allclose(layer.predict([docs[i]])[0], together[i], atol=1e-5)
    assert [rows.shape for rows in layer.predict([docs[2]])] == [(0, 20)]
    assert layer.predict([]) == []
    again = make(nlp, **settings)
    again.from_bytes(layer.to_bytes())
    for a, b in zip(again.predict(docs), together):
        numpy.testing.assert_array_equal(a, b)


def by_hand(layer, doc, chars):
    """The vectors of a doc, word by word and step by step."""
    state = {key: value.double() for key, value in get_module(layer.layers[0]).state_dict().items()}

    def embed(table, key):
        hashes = layer.ops.hash(numpy.array([key], dtype="uint64"), 0)[0]
        return sum(state[f"{table}.weight"][int(row) % len(state[f"{table}.weight"])] for row in hashes)

    def run(name, rows, end=""):
        """States of an LSTM, whose gates are those of input, forgetting, cell and output."""
        h = c = torch.zeros(state[f"{name}.weight_hh_l0"].shape[1], dtype=torch.float64)
        states = []
        for x in rows:
            i, f, g, o = (
                state[f"{name}.weight_ih_l0{end}"] @ x
                + state[f"{name}.bias_ih_l0{end}"]
                + state[f"{name}.weight_hh_l0{end}"] @ h
                + state[f"{name}.bias_hh_l0{end}"]
            ).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return states

    def both(name, rows):
        back = run(name, rows[::-1], "_reverse")[::-1]
        return list(zip(run(name, rows), back))

    words = []
    for token in doc:
        letters = [embed("characters", ord(char)) for char in token.text[:MAX_CHARS]]
        if chars == "cnn":
            nothing = torch.zeros_like(letters[0])
            windows = [torch.stack(x) for x in zip([nothing, *letters], letters, [*letters[1:], nothing])]
            weight = state["word_of_chars.weight"]  # filters, width, 3
            values = [
                torch.einsum("kw,fwk->f", window, weight) + state["word_of_chars.bias"] for window in windows
            ]
            found = torch.stack(values).max(0).values
        else:
            states = both("word_of_chars", letters)
            found = torch.cat([states[-1][0], states[0][1]])
        words.append(torch.cat([embed("words", token.norm), found]))
    rows = torch.stack([torch.cat(pair) for pair in both("lstm", words)])
    if chars == "lstm":
        rows = (rows @ state["last.0.weight"].T + state["last.0.bias"]).tanh()
    return rows


@pytest.mark.parametrize("settings", KINDS[:2])
def test_the_equations(nlp, settings):
    layer = make(nlp, **settings)
    doc = nlp.make_doc(TEXTS[3])
    expected = by_hand(layer, doc, settings["chars"])
    numpy.testing.assert_allclose(layer.predict([nlp.make_doc("a"), doc])[1], expected, atol=1e-5)


def test_only_training_drops_out(nlp):
    docs = [nlp.make_doc(text) for text in TEXTS]
    layer = make(nlp)
    before = layer.predict(docs)
    first, second = (layer(docs, is_train=True)[0] for _ in range(2))
    assert (first[0] != second[0]).any()
    numpy.testing.assert_array_equal(layer.predict(docs)[0], before[0])
    dry = make(nlp, dropout=0.0)
    numpy.testing.assert_allclose(dry(docs, is_train=True)[0][0], before[0], atol=1e-6)


@pytest.mark.parametrize("settings", KINDS)
def test_everything_learns(nlp, settings):
    layer = make(nlp, dropout=0.0, **settings)
    docs = [nlp.make_doc(text) for text in TEXTS]
    Y, backprop = layer.begin_update(docs)
    assert backprop([2 * rows for rows in Y]) == []
    module = get_module(layer.layers[0])
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    if settings.get("static_vectors"):
        assert numpy.abs(layer.layers[1].get_grad("W")).sum() > 0
    layer.finish_update(registry.optimizers.get("Adam.v1")(0.01))
    norm = sum(float((rows**2).sum()) for rows in Y)
    assert sum(float((rows**2).sum()) for rows in layer.predict(docs)) < norm


def test_pretrained_vectors_are_added(nlp):
    layer = make(nlp, static_vectors=True)
    docs = [Doc(nlp.vocab, words=[word]) for word in ("Rob", "unknown")]
    before = layer.predict(docs)
    layer.layers[1].set_param("W", layer.layers[1].get_param("W") * 2)
    after = layer.predict(docs)
    assert numpy.abs(after[0] - before[0]).max() > 1e-3
    numpy.testing.assert_array_equal(after[1], before[1])
    with pytest.raises(ValueError, match="static_vectors = true .* none"):
        make(spacy.blank("en"), static_vectors=True)


@pytest.mark.parametrize("settings", [{"chars": "words"}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} is "):
        registry.architectures.get("spacy-mmib.CharBiLSTM.v1")(**settings)


@pytest.mark.parametrize("factory", ["ner", "mmib_ner"])
def test_components_learn_with_it(factory, tmp_path):
    posts = [
        ("Rob met Mia", "PER O PER"),
        ("we like Oslo", "O O LOC"),
        ("Kim", "PER"),
        ("in Rome with Kim", "O LOC O PER"),
    ]
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    tok2vec = {**SMALL, "dropout": 0.1, "chars": "lstm" if factory == "ner" else "cnn"}
    model = {
        **MODEL,
        "tok2vec": tok2vec,
        "fusion": {"@architectures": "spacy-mmib.NoFusion.v1"},
        "img2vec": None,
    }
    if factory == "ner":
        parser = {"state_type": "ner", "extra_state_tokens": False, "hidden_width": 16, "maxout_pieces": 2}
        model = {
            "@architectures": "spacy.TransitionBasedParser.v2",
            **parser,
            "use_upper": True,
            "tok2vec": tok2vec,
        }
    pipe = nlp.add_pipe(factory, config={"model": model})
    examples = []
    for text, tags in posts:
        tags = [tag if tag == "O" else f"B-{tag}" for tag in tags.split()]
        examples.append(Example(nlp.make_doc(text), Doc(nlp.vocab, words=text.split(), ents=tags)))
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.02
    for _ in range(40):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    assert nlp.evaluate(examples)["ents_f"] == 1.0
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    docs = [nlp.make_doc(text) for text in TEXTS]
    for a, b in zip(
        pipe.model.get_ref("tok2vec").predict(docs),
        loaded.get_pipe(factory).model.get_ref("tok2vec").predict(docs),
    ):
        numpy.testing.assert_array_equal(a, b)
    assert loaded.evaluate(examples)["ents_f"] == 1.0
