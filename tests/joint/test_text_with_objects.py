"""Posts with words behind them for what their pictures show."""

import warnings

import numpy
import pytest
import spacy
from conftest import MODEL, TOK2VEC, make_picture
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import registry
from thinc.api import Model

from spacy_mmib.encoders.dropout import draw_dropout
from spacy_mmib.evaluation.ablation import remove_images, shuffle_images
from spacy_mmib.joint.text_with_objects import get_labels
from spacy_mmib.training.corpus import MultimodalCorpus
from spacy_mmib.util import MMIBWarning

WITH_OBJECTS = {"@architectures": "spacy-mmib.TextWithObjects.v1", "tok2vec": TOK2VEC}
OBJECTS = [
    {"box": (0, 0, 1, 1), "label": "dog", "score": 0.3},
    {"box": (0, 0, 2, 2), "label": "traffic light", "score": 0.9},
    {"box": (0, 0, 3, 3), "label": None, "score": 1.0},
    {"box": (0, 0, 4, 4), "label": "man", "score": None},
    "crop.png",
    {"box": (0, 0, 5, 5), "label": "dog", "score": 0.8},
]


@pytest.fixture
def nlp():
    return spacy.blank("en")


@pytest.fixture
def docs(nlp):
    """With objects, without, empty, with objects without labels, and with objects again."""
    docs = [nlp.make_doc(text) for text in ("Rob can't come", "Rob can't come", "", "a post ", "Mia")]
    for doc, regions in zip(docs, (OBJECTS, [], OBJECTS, OBJECTS[2:3], OBJECTS[:1])):
        doc._.image = make_picture("red")
        doc._.regions = regions
    return docs


@pytest.fixture
def captions():
    """An attribute of the user's own."""
    Doc.set_extension("caption", default=None)
    yield
    Doc.remove_extension("caption")


def make(docs, **settings):
    spacy.util.fix_random_seed(0)
    layer = registry.resolve({"x": {**WITH_OBJECTS, **settings}})["x"]
    layer.initialize(X=docs)
    return layer


def write(doc, words):
    """The post and the words behind it, in one doc."""
    words = words.split()
    spaces = [bool(token.whitespace_) for token in doc[:-1]] + [True]
    result = Doc(doc.vocab, words=[t.text for t in doc] + words, spaces=spaces + [True] * len(words))
    for token, other in zip(doc, result):
        other.norm_ = token.norm_
    return result


def test_labels_once_and_by_score(docs):
    assert get_labels(docs[0]) == "traffic light dog man"
    assert [get_labels(doc) for doc in docs[1:]] == ["", "traffic light dog man", "", "dog"]


def test_rows_are_those_of_the_post_before_the_words(docs):
    layer = make(docs)
    assert layer.get_dim("nO") == 24
    found, tok2vec = layer.predict(docs), layer.layers[0]
    assert [rows.shape for rows in found] == [(len(doc), 24) for doc in docs]
    words = ["[SEP] traffic light dog man", "", "", "", "[SEP] dog"]
    for doc, behind, rows in zip(docs, words, found):
        expected = tok2vec.predict([write(doc, behind) if behind else doc])[0][: len(doc)]
        numpy.testing.assert_allclose(rows, expected, atol=1e-6)
        numpy.testing.assert_allclose(rows, layer.predict([doc])[0], atol=1e-6)
    assert numpy.abs(found[0] - found[1]).max() > 0.01
    numpy.testing.assert_array_equal(make(docs, max_words=1, separator="|").predict(docs)[1], found[1])
    few = make(docs, max_words=1, separator="|").predict(docs)[0]
    numpy.testing.assert_allclose(few, tok2vec.predict([write(docs[0], "| traffic")])[0][:4], atol=1e-6)


def test_gradients_are_those_of_the_post(docs):
    gradients = []
    for by_hand in (False, True):
        layer = make(docs)
        tok2vec = layer.layers[0]
        if by_hand:
            Y, backprop = tok2vec.begin_update([write(docs[0], "[SEP] traffic light dog man")])
            d_rows = numpy.zeros_like(Y[0])
            d_rows[: len(docs[0])] = Y[0][: len(docs[0])]
            backprop([d_rows])
        else:
            Y, backprop = layer.begin_update(docs[:1])
            backprop(Y)
        gradients.append(
            [
                node.get_grad(name)
                for node in tok2vec.walk()
                for name in node.grad_names
                if node.has_grad(name)
            ]
        )
    assert len(gradients[0]) > 5
    for a, b in zip(*gradients, strict=True):
        numpy.testing.assert_allclose(a, b, atol=1e-6)


def test_picture_dropout_leaves_out_the_words(docs):
    layer = make(docs)
    spacy.util.fix_random_seed(0)
    told, plain = layer.predict(docs[:1])[0], layer.layers[0].predict(docs[1:2])[0]
    for rate, expected in ((1.0, plain), (0.0, told)):
        copies = [doc.copy() for doc in docs]
        draw_dropout(copies, "ner", rate, 0.1)
        numpy.testing.assert_allclose(layer.begin_update(copies)[0][0], expected, atol=1e-6)
        numpy.testing.assert_allclose(layer.predict(copies)[0], told, atol=1e-6)


def test_the_text_encoder_sees_all_that_it_looks_at(nlp):
    """Annotations of the tokens, the picture, and where it says what was wrong with that."""
    seen = []

    def look(model, docs, is_train):
        seen.extend(docs)
        docs[0]._.image_error = "broken"
        return [numpy.zeros((len(doc), 3), dtype="float32") for doc in docs], lambda dY: []

    layer = registry.architectures.get("spacy-mmib.TextWithObjects.v1")(Model("look", look))
    words, heads = ["We", "saw", "it", "."], [1, 1, 1, 1]
    doc = Doc(nlp.vocab, words=words, tags=["PRP", "VB", "PRP", "."], lemmas=["we", "see", "it", "."], heads=heads,
              deps=["nsubj", "ROOT", "obj", "punct"], ents=["B-PER", "O", "O", "O"])  # fmt: skip
    doc[1].norm_ = "see"
    doc._.image = make_picture("red")
    doc._.regions = OBJECTS
    doc.spans["more"] = [doc[0:2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.predict([doc])
    (found,) = seen
    assert found is not doc
    assert [token.text for token in found[len(doc) :]] == ["[SEP]", "traffic", "light", "dog", "man"]
    attributes = ["ORTH", "NORM", "TAG", "LEMMA", "ENT_TYPE", "DEP", "SHAPE"]
    numpy.testing.assert_array_equal(found.to_array(attributes)[: len(doc)], doc.to_array(attributes))
    assert found.text.startswith(doc.text)
    assert found._.regions == doc._.regions
    assert doc._.image_error == "broken"
    assert len(doc.ents) == 1


def test_captions(nlp, docs, captions):
    docs[0]._.caption = "A man, walking\nhis dog"
    docs[1]._.caption = 7
    with pytest.warns(MMIBWarning, match=r"doc\._\.caption is int, not text"):
        layer = make(docs, texts="caption")
        found = layer.predict(docs)
    expected = layer.layers[0].predict([write(docs[0], "[SEP] A man , walking his dog"), *docs[1:]])
    for doc, a, b in zip(docs, found, expected):
        numpy.testing.assert_allclose(a, b[: len(doc)], atol=1e-6)


def test_captions_go_with_pictures(nlp, tmp_path):
    """From the file to the predicted doc, to another post, or away; whether somebody has registered them or not."""
    docs = [nlp.make_doc(f"post {i}") for i in range(4)]
    for i, doc in enumerate(docs[:3]):
        doc._.image = f"{i}.png"
        make_picture("red").save(tmp_path / f"{i}.png")
        doc.user_data["._.", "caption", None, None] = f"caption {i}"
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "train.spacy")

    def read(images):
        return list(MultimodalCorpus(tmp_path / "train.spacy", images=images)(nlp))

    def told(examples):
        docs = [eg.predicted for eg in examples]
        return [
            ((doc._.image or "")[-5:-4], doc.user_data.get(("._.", "caption", None, None))) for doc in docs
        ]

    own = read("own")
    assert told(own) == [("0", "caption 0"), ("1", "caption 1"), ("2", "caption 2"), ("", None)]
    for shuffled in (read("shuffled"), shuffle_images(own)[0]):
        assert sorted(told(shuffled)) == sorted(told(own))
        assert all(a != b for a, b in zip(told(shuffled)[:3], told(own)))
    for without in (read("none"), remove_images(own)):
        assert told(without) == [("", None)] * 4
    layer = make(docs, texts="caption")
    assert all((a != b).any() for a, b in zip(layer.predict(docs[:3]), layer.layers[0].predict(docs[:3])))


def test_posts_without_words_are_said(docs):
    with pytest.warns(MMIBWarning, match=r"none of the first 2 posts has objects with a label"):
        make([docs[1], docs[3]])
    with pytest.warns(MMIBWarning, match=r"none of the first 5 posts has a doc\._\.capton"):
        make(docs, texts="caption", caption="capton")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texts": "boxes"}, "'boxes' is not typing.Literal"),
        ({"separator": " "}, "separator is one token"),
        ({"separator": "a b"}, "separator is one token"),
        ({"max_words": 0}, "max_words at least 1"),
        ({"tok2vec": {"@architectures": "spacy.Tok2VecListener.v1", "width": 8}}, "not a listener"),
        ({"tok2vec": {"@architectures": "spacy-transformers.TransformerListener.v1", "grad_factor": 1.0,
                      "pooling": {"@layers": "reduce_mean.v1"}}}, "not a listener"),
    ],
)  # fmt: skip
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        registry.resolve({"x": {**WITH_OBJECTS, **settings}})


def test_a_pipeline_learns_types_from_labels(nlp, tmp_path):
    spacy.util.fix_random_seed(0)
    fusion = {"@architectures": "spacy-mmib.NoFusion.v1"}
    nlp.add_pipe(
        "mmib_ner", config={"model": {**MODEL, "tok2vec": WITH_OBJECTS, "img2vec": None, "fusion": fusion}}
    )
    examples = []
    for label, type_ in (("dog", "PET"), ("stage", "BAND"), ("dog", "PET"), ("stage", "BAND")):
        doc = nlp.make_doc("Kim")
        doc._.regions = [{"box": (0, 0, 4, 4), "label": label, "score": 0.5}]
        gold = doc.copy()
        gold.ents = [Span(gold, 0, 1, label=type_)]
        examples.append(Example(doc, gold))
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.01
    for _ in range(25):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    for pipeline in (nlp, loaded):
        assert pipeline.evaluate(examples)["ents_f"] == 1.0
        assert len(next(iter(pipeline.pipe([examples[0].predicted.copy()])))) == 1
