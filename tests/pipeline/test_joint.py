"""One picture encoder for several components: `mmib_img2vec` and its listeners."""

import gc
import pickle

import numpy
import pytest
import spacy
from conftest import (
    IMG2VEC,
    LANGUAGE,
    LEARN_FAST,
    LISTENER,
    MODEL,
    REL_MODEL,
    TOK2VEC,
    make_picture,
    make_rel_examples,
    make_rel_nlp,
    relations,
    train,
)

from spacy_mmib.util import MMIBWarning

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")


def count_pictures(monkeypatch, model) -> list[int]:
    """Numbers of pictures and objects in each forward pass of the networks under a model."""
    from spacy_mmib.encoders.torchvision import Backbone

    counts: list[int] = []
    forward = Backbone.forward

    def counting(self, pictures, *args, **kwargs):
        counts.append(len(pictures))
        return forward(self, pictures, *args, **kwargs)

    monkeypatch.setattr(Backbone, "forward", counting)
    return counts


def make_shared_nlp(trainable: bool = False):
    """Text and picture vectors shared by both components."""
    nlp = spacy.blank(LANGUAGE)
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    nlp.add_pipe("mmib_img2vec", config={"model": {**IMG2VEC, "trainable": trainable}})
    text = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}
    layers = {"tok2vec": text, "img2vec": LISTENER}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, **layers}, **LEARN_FAST})
    nlp.add_pipe("mmib_rel", config={"model": {**REL_MODEL, **layers}, **LEARN_FAST})
    return nlp


def posts(nlp):
    return [eg.predicted for eg in make_rel_examples(nlp)]


def found(nlp, docs) -> list[tuple]:
    docs = list(nlp.pipe(docs))
    ents = [[(e.text, e.label_, round(e._.confidence, 4)) for e in doc.ents] for doc in docs]
    return list(zip(ents, relations(docs)))


def different_pictures(nlp):
    """Equal pictures would be encoded once a batch."""
    examples = make_rel_examples(nlp)
    for i, example in enumerate(examples):
        if example.predicted._.image is not None:
            example.predicted._.image = numpy.full((30, 40, 3), i, dtype="uint8")
            example.predicted._.regions = [(0, 0, 20, 20)]
    return examples


def test_pictures_are_encoded_once_a_run(trained_joint, monkeypatch):
    counts = count_pictures(monkeypatch, trained_joint)
    docs = [example.predicted for example in different_pictures(trained_joint)]
    list(trained_joint.pipe(docs, batch_size=3))
    pictures = sum(2 for doc in docs if doc._.image is not None)  # the picture and one object
    assert sum(counts) == pictures
    trained_joint(docs[0])
    assert sum(counts) == pictures + 2
    counts.clear()
    nlp = make_rel_nlp(joint=True)
    optimizer = nlp.initialize(lambda: make_rel_examples(nlp))
    counts.clear()
    nlp.update(different_pictures(nlp), sgd=optimizer, losses={})
    assert sum(counts) == pictures
    counts.clear()
    nlp.evaluate(different_pictures(nlp))
    assert sum(counts) == pictures


def test_shared_and_own_encoders_of_the_same_weights_predict_the_same(trained_joint):
    docs = found(trained_joint, posts(trained_joint))
    nlp = make_rel_nlp(joint=True).from_bytes(trained_joint.to_bytes())
    for name in ("mmib_ner", "mmib_rel"):
        nlp.replace_listeners("mmib_img2vec", name, ["model.img2vec"])
    nlp.remove_pipe("mmib_img2vec")
    assert found(nlp, posts(nlp)) == docs
    assert nlp.config["components"]["mmib_rel"]["model"]["img2vec"]["arch"] == "squeezenet1_1"
    again = spacy.blank(nlp.lang).from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert found(again, posts(again)) == docs


def test_vectors_are_no_part_of_the_doc_and_die_with_it(trained_joint):
    doc = posts(trained_joint)[0]
    before = len(doc.to_bytes())
    with trained_joint.select_pipes(enable="mmib_img2vec"):
        trained_joint(doc)
    kept = trained_joint.get_pipe("mmib_img2vec").kept
    assert kept.get(doc)[0].shape == (2, 512)
    assert len(doc.to_bytes()) == before
    assert kept.get(doc.copy()) is None
    assert not len(pickle.loads(pickle.dumps(kept)))
    gc.collect()
    held = len(kept)
    del doc
    gc.collect()
    assert len(kept) == held - 1


def test_another_picture_is_encoded_anew(trained_joint):
    doc = posts(trained_joint)[0]
    first = relations([trained_joint(doc)])
    doc._.image, doc._.regions = numpy.asarray(make_picture("blue")), [(0, 0, 20, 20)]
    second = relations([trained_joint(doc)])
    assert {x[2] for x in first[0]} == {"couple"}
    assert {x[2] for x in second[0]} == {"team"}


@pytest.mark.parametrize("trainable", [False, True])
def test_learns_through_shared_encoders(trainable):
    nlp = make_shared_nlp(trainable)
    examples = make_rel_examples(nlp)
    spacy.util.fix_random_seed(0)
    nlp.initialize(lambda: examples)
    names = ("tok2vec", "mmib_img2vec")
    before = [nlp.get_pipe(name).model.to_bytes() for name in names]
    train(nlp, examples, steps=5 if trainable else 100)  # from nothing, it takes hundreds
    after = [nlp.get_pipe(name).model.to_bytes() for name in names]
    assert after[0] != before[0]
    assert (after[1] != before[1]) == trainable
    if not trainable:
        scores = nlp.evaluate(make_rel_examples(nlp))
        assert scores["ents_f"] == scores["rel_micro_f"] == scores["rel_strict_f"] == 1.0
    again = make_shared_nlp(trainable).from_bytes(nlp.to_bytes())
    assert found(again, posts(again)) == found(nlp, posts(nlp))


def test_a_trainable_encoder_gets_the_sum_of_its_listeners_gradients():
    nlp = make_shared_nlp(trainable=True)
    examples = make_rel_examples(nlp)[:2]
    nlp.initialize(lambda: make_rel_examples(nlp))
    encoder = nlp.get_pipe("mmib_img2vec")
    received = []
    forward = encoder.model._func

    def spy(model, docs, is_train):
        vectors, _ = forward(model, docs, is_train)
        return vectors, lambda d_vectors: received.append([d.copy() for d in d_vectors])

    encoder.model._func = spy
    encoder.update(examples)
    docs = [eg.predicted for eg in examples]
    assert len(encoder.listeners) == 2
    for factor, listener in enumerate(encoder.listeners, 1):
        vectors, backprop = listener(docs, True)
        backprop([numpy.full_like(x, factor) for x in vectors])
    assert len(received) == 1  # with the last one
    assert [set(d.ravel()) for d in received[0]] == [{3.0}, {3.0}]
    assert [d.shape for d in received[0]] == [(2, 512), (2, 512)]


def test_one_after_the_other():
    """First entities; then relations on top of what stays as it is."""
    nlp = make_shared_nlp()
    nlp.remove_pipe("mmib_rel")
    train(nlp, make_rel_examples(nlp), steps=60)
    joint = make_shared_nlp()
    frozen = ["tok2vec", "mmib_img2vec", "mmib_ner"]
    for name in frozen:
        joint.remove_pipe(name)
    joint.remove_pipe("mmib_rel")
    for name in frozen:
        joint.add_pipe(name, source=nlp)
    text = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}
    model = {**REL_MODEL, "tok2vec": text, "img2vec": LISTENER}
    joint.add_pipe("mmib_rel", config={"model": model, **LEARN_FAST})
    before = [joint.get_pipe(name).model.to_bytes() for name in frozen]
    examples = make_rel_examples(joint)
    with joint.select_pipes(enable="mmib_rel"):
        optimizer = joint.initialize(lambda: examples)
    optimizer.learn_rate = 0.005
    for _ in range(80):
        joint.update(
            examples, sgd=optimizer, losses={}, exclude=frozen, annotates=["tok2vec", "mmib_img2vec"]
        )
    assert [joint.get_pipe(name).model.to_bytes() for name in frozen] == before
    scores = joint.evaluate(make_rel_examples(joint))
    assert scores["ents_f"] == scores["rel_strict_f"] == 1.0


def test_an_encoder_that_is_missing_or_disabled_is_said(trained_joint):
    with (
        trained_joint.select_pipes(disable="mmib_img2vec"),
        pytest.raises(ValueError, match="'mmib_img2vec' has not encoded the picture of the post 'Rob"),
    ):
        trained_joint(posts(trained_joint)[0])
    nlp = make_shared_nlp()
    nlp.initialize(lambda: make_rel_examples(nlp))
    with pytest.raises(ValueError, match="has to be in annotating_components"):
        nlp.update(make_rel_examples(nlp), losses={}, exclude=["mmib_img2vec"])


def test_a_picture_that_breaks_is_said_and_harms_nobody(trained_joint):
    docs = posts(trained_joint)[:3]
    docs[1]._.image = "missing.jpg"
    with pytest.warns(MMIBWarning, match="no such file"):
        docs = list(trained_joint.pipe(docs))
    assert "no such file" in docs[1]._.image_error
    first, _, third = relations(docs)
    alone = relations(trained_joint.pipe(posts(trained_joint)[:3]))
    assert (first, third) == (alone[0], alone[2])


def test_listener_of_another_name():
    nlp = spacy.blank(LANGUAGE)
    nlp.add_pipe("mmib_img2vec", name="pictures", config={"model": IMG2VEC})
    model = {**MODEL, "img2vec": {**LISTENER, "upstream": "pictures"}}
    nlp.add_pipe("mmib_ner", config={"model": model})
    assert nlp.get_pipe("pictures").listening_components == ["mmib_ner"]
    losses = train(nlp, make_rel_examples(nlp), steps=2)
    assert numpy.isfinite(losses["mmib_ner"])
    nlp.remove_pipe("pictures")
    assert nlp.pipe_names == ["mmib_ner"]


def test_vectors_of_a_picture_that_was_replaced_are_not_used(trained_joint):
    doc = trained_joint(posts(trained_joint)[0])
    doc._.image, doc._.regions = numpy.asarray(make_picture("blue")), [(0, 0, 20, 20)]
    with (
        trained_joint.select_pipes(disable="mmib_img2vec"),
        pytest.raises(ValueError, match="or the doc has got another picture since"),
    ):
        trained_joint(doc)
    trained_joint(doc)
    doc._.regions = [(1, 1, 9, 9)]  # other objects in the same picture
    assert trained_joint.get_pipe("mmib_img2vec").kept.get(doc) is None


def test_a_training_batch_is_used_once():
    """Trained together, then with the encoder frozen in the same process: what it saw last is forgotten."""
    nlp = make_shared_nlp()
    examples = make_rel_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    frozen = {"exclude": ["mmib_img2vec"], "annotates": ["mmib_img2vec"]}
    nlp.update(examples[:2], sgd=optimizer, losses={})
    nlp.update(examples[2:4], sgd=optimizer, losses={}, **frozen)  # other texts: no mismatch
    listener = nlp.get_pipe("mmib_rel").model.get_ref("img2vec")
    docs = [eg.predicted for eg in examples[:2]]
    nlp.get_pipe("mmib_img2vec").update(examples[:2])
    first, _ = listener(docs, True)
    swapped = [docs[1], docs[0]]  # the same texts, each with the other one's picture
    encoder = nlp.get_pipe("mmib_img2vec")
    encoder.set_annotations(swapped, encoder.predict(swapped))
    second, _ = listener(swapped, True)
    numpy.testing.assert_allclose(second[0], first[1], atol=1e-5)
    assert abs(first[0] - first[1]).max() > 1e-3


def test_vectors_kept_are_no_view_of_the_batch(trained_joint):
    docs = posts(trained_joint)
    list(trained_joint.pipe(docs))
    assert trained_joint.get_pipe("mmib_img2vec").kept.get(docs[0])[0].base is None


@pytest.mark.parametrize("upstream", ["mmib_img2vec", "other"])
def test_a_listener_without_a_component_is_explained(upstream):
    nlp = spacy.blank(LANGUAGE)
    model = {**MODEL, "img2vec": {**LISTENER, "upstream": upstream}}
    nlp.add_pipe("mmib_ner", config={"model": model})
    if upstream == "other":
        nlp.add_pipe("mmib_img2vec", config={"model": IMG2VEC}, first=True)
    with pytest.raises(ValueError, match=f"listens to a component '{upstream}', which is not in"):
        nlp.initialize(lambda: make_rel_examples(nlp))


def test_a_listener_to_any():
    nlp = spacy.blank(LANGUAGE)
    nlp.add_pipe("mmib_img2vec", name="pictures", config={"model": IMG2VEC})
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": {**LISTENER, "upstream": "*"}}})
    train(nlp, make_rel_examples(nlp), steps=2)
    assert len(list(nlp.pipe(posts(nlp)))) == 7


def test_a_batch_that_was_never_used_is_not_pickled():
    """As after an update with posts that have no tokens."""
    nlp = make_shared_nlp()
    nlp.initialize(lambda: make_rel_examples(nlp))
    nlp.get_pipe("mmib_img2vec").update(make_rel_examples(nlp)[:2])
    copy = pickle.loads(pickle.dumps(nlp.get_pipe("mmib_rel").model))
    assert copy.get_ref("img2vec").upstream_name == "mmib_img2vec"
    docs = posts(nlp)
    with pytest.raises(ValueError, match="has to be in annotating_components"):
        copy.get_ref("img2vec")(docs, True)
