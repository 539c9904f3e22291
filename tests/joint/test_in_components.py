"""Text encoders that look at pictures in the models of both components: markers, errors, dropout, pointers."""

import pytest
import spacy
from conftest import IMG2VEC, LISTENER, make_examples, make_rel_examples, new_docs, train
from spacy.util import fix_random_seed
from tiny_text import save_text_model

PAIRS_OF_GOLD = {"@misc": "spacy-mmib.given_pairs.v1"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return save_text_model(tmp_path_factory.mktemp("models") / "bert", "bert")


def make_pipeline(kind, bert, *, config=None, **model):
    text = {"@architectures": "spacy-mmib.VisualBERT.v1", "name": bert, "img2vec": IMG2VEC}
    model = {
        "@architectures": f"spacy-mmib.{kind.upper()}.v1",
        "tok2vec": text,
        "fusion": {"@architectures": "spacy-mmib.NoFusion.v1"},
        "img2vec": None,
        **model,
    }
    nlp = spacy.blank("en")
    config = {"model": model, "picture_dropout": 0.0, **(config or {})}
    if kind == "rel":
        config["get_instances"] = PAIRS_OF_GOLD
    nlp.add_pipe(f"mmib_{kind}", config=config)
    return nlp


def predict_pairs(nlp, change=lambda doc: None):
    docs = [example.predicted for example in make_rel_examples(nlp, ask=True)]
    for doc in docs:
        change(doc)
    found = list(nlp.pipe(docs))
    return found, [[(r.label, round(r.score, 4)) for r in doc._.relations] for doc in found]


@pytest.mark.parametrize("entity_repr", ["pool", "start", "marker"])
def test_relations_see_the_picture(bert, entity_repr, tmp_path):
    fix_random_seed(0)
    nlp = make_pipeline("rel", bert, entity_repr=entity_repr)
    examples = make_rel_examples(nlp)
    first = train(nlp, examples, steps=1)["mmib_rel_task"]
    assert train(nlp, examples, steps=15)["mmib_rel_task"] < first
    docs, found = predict_pairs(nlp)
    _, without = predict_pairs(nlp, lambda doc: setattr(doc._, "image", None))
    assert found != without
    assert not any(doc._.image_error for doc in docs)
    nlp.to_disk(tmp_path)
    assert predict_pairs(spacy.load(tmp_path))[1] == found


def test_an_unreadable_picture_is_said_of_the_post_with_markers(bert):
    nlp = make_pipeline("rel", bert, entity_repr="marker")
    nlp.initialize(lambda: make_rel_examples(nlp))
    with pytest.warns(UserWarning, match="the post is processed from its text"):
        docs, found = predict_pairs(nlp, lambda doc: setattr(doc._, "image", b"no picture"))
    assert all(doc._.image_error for doc in docs if len(doc.ents) > 1)
    assert found == predict_pairs(nlp, lambda doc: setattr(doc._, "image", None))[1]


@pytest.mark.parametrize("entity_repr", ["pool", "marker"])
def test_dropped_pictures_are_dropped_in_the_text_encoder(bert, entity_repr):
    losses = []
    for rate, with_pictures in ((1.0, True), (0.0, False)):
        nlp = make_pipeline("rel", bert, entity_repr=entity_repr, config={"picture_dropout": rate})
        examples = make_rel_examples(nlp)
        for example in examples if not with_pictures else ():
            example.predicted._.image = example.reference._.image = None
        losses.append(train(nlp, examples, steps=2)["mmib_rel_task"])
    assert losses[0] == pytest.approx(losses[1])


def test_a_fusion_can_look_at_the_same_rows(bert):
    nlp = make_pipeline("ner", bert, fusion={"@architectures": "spacy-mmib.MMIB.v1", "heads": 2})
    examples = make_examples(nlp)
    first = train(nlp, examples, steps=1)["mmib_ner_task"]
    assert train(nlp, examples, steps=15)["mmib_ner_task"] < first
    model = nlp.get_pipe("mmib_ner").model
    encoder = model.get_ref("img2vec")
    assert encoder is model.get_ref("tok2vec").get_ref("img2vec")
    assert sum(node is encoder for node in model.walk()) == 1
    assert list(nlp.pipe(new_docs(nlp)))


def test_a_pointer_at_the_rows_of_the_text_encoder(bert):
    nlp = make_pipeline("ner", bert, pointer={"@architectures": "spacy-mmib.Pointer.v1"})
    examples = make_examples(nlp)
    for example in examples:
        example.predicted._.regions = example.reference._.regions = [(0, 0, 20, 20)]
        for ent in example.reference.ents:
            ent._.boxes = [(0, 0, 20, 20)]
    first = train(nlp, examples, steps=1)
    losses = train(nlp, examples, steps=15)
    assert 0 < losses["mmib_ner_pointer"] < first["mmib_ner_pointer"]


def test_a_listener_without_its_component(bert):
    text = {"@architectures": "spacy-mmib.VisualBERT.v1", "name": bert, "img2vec": LISTENER}
    nlp = make_pipeline("ner", bert, tok2vec=text)
    with pytest.raises(
        ValueError, match="listens to a component 'mmib_img2vec', which is not in the pipeline"
    ):
        nlp.initialize(lambda: make_examples(nlp))
