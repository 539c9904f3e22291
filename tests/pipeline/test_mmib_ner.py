"""The component: learning, predicting, masks, losses, errors."""

import warnings

import numpy
import pytest
import spacy
from conftest import (
    IMG2VEC,
    LANGUAGE,
    MODEL,
    REL_MODEL,
    entities,
    make_examples,
    make_nlp,
    make_picture,
    make_rel_examples,
    new_docs,
    train,
)
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.evaluation.ablation import remove_images
from spacy_mmib.pipeline.mmib_ner import batches_by_length
from spacy_mmib.post.extensions import get_predicted
from spacy_mmib.training.schedules import Warmup, Weight
from spacy_mmib.util import MMIBWarning


def test_overfits_what_only_the_pictures_can_tell(trained):
    gold = make_examples(trained)
    predicted = list(trained.pipe(new_docs(trained)))
    for eg, doc in zip(gold, predicted):
        assert [(e.text, e.label_) for e in doc.ents] == [(e.text, e.label_) for e in eg.reference.ents]
        assert all(0.5 < ent._.confidence <= 1 for ent in doc.ents)
    assert trained.evaluate(gold)["ents_f"] == 1.0
    # without pictures the same texts can't be told apart
    for eg in gold:
        eg.predicted._.image = None
        eg.predicted.ents = []
    assert trained.evaluate(gold)["ents_f"] < 0.8


def test_losses_are_floats_and_added_to():
    nlp = make_nlp()
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    losses, once = {}, {}
    for _ in range(2):
        spacy.util.fix_random_seed(0)
        nlp.update(examples, sgd=False, losses=losses)
        once = once or dict(losses)
    assert {type(value) for value in losses.values()} == {float}
    assert losses == pytest.approx({name: 2 * value for name, value in once.items()})


def test_losses_have_their_own_keys_and_add_up():
    nlp = make_nlp(beta1=0.3, beta2=0.2, alignment_weight=0.5)
    losses = train(nlp, make_examples(nlp), steps=3)
    assert set(losses) == {"mmib_ner"} | {
        f"mmib_ner_{t}" for t in ("task", "kl_text", "kl_image", "alignment")
    }
    total = losses["mmib_ner_task"] + 0.3 * losses["mmib_ner_kl_text"] + 0.2 * losses["mmib_ner_kl_image"]
    assert losses["mmib_ner"] == pytest.approx(total + 0.5 * losses["mmib_ner_alignment"], rel=1e-5)
    nlp.update(make_examples(nlp), losses=losses)
    assert losses["mmib_ner"] > total


def test_switched_off_regularizers_are_neither_computed_nor_reported():
    nlp = make_nlp(beta1=0.0, beta2=0.0, alignment_weight=0.0)
    losses = train(nlp, make_examples(nlp), steps=2)
    assert set(losses) == {"mmib_ner", "mmib_ner_task"}
    assert losses["mmib_ner"] == losses["mmib_ner_task"]


def test_weights_may_be_schedules():
    warmup = {"@schedules": "spacy-mmib.warmup.v1", "initial": 0.0, "final": 0.4, "steps": 2}
    compounding = {"@schedules": "compounding.v1", "start": 1.0, "stop": 4.0, "compound": 2.0}
    nlp = make_nlp(beta1=warmup, beta2=0.0, alignment_weight=compounding)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    for beta1, alignment in ((0.0, 1.0), (0.2, 2.0), (0.4, 4.0), (0.4, 4.0)):
        losses = nlp.update(examples, losses={})
        assert ("mmib_ner_kl_text" in losses) == (beta1 > 0)
        expected = losses["mmib_ner_task"] + alignment * losses["mmib_ner_alignment"]
        expected += beta1 * losses.get("mmib_ner_kl_text", 0.0)
        assert losses["mmib_ner"] == pytest.approx(expected, rel=1e-5)


def test_schedules_count_updates_not_batches():
    warmup = {"@schedules": "spacy-mmib.warmup.v1", "initial": 1.0, "final": 3.0, "steps": 2}
    nlp = make_nlp(beta1=0.0, beta2=0.0, alignment_weight=warmup)
    component = nlp.get_pipe("mmib_ner")

    def weight():
        losses = component.update(examples, losses={})
        return (losses["mmib_ner"] - losses["mmib_ner_task"]) / losses["mmib_ner_alignment"]

    examples = make_examples(nlp)
    for _ in range(2):  # initializing again starts again
        optimizer = nlp.initialize(lambda: examples)
        for expected in (1.0, 2.0, 3.0, 3.0):
            assert [weight() for _ in range(3)] == pytest.approx([expected] * 3, rel=1e-4)  # accumulated
            component.finish_update(optimizer)


def test_weights_are_not_negative():
    with pytest.raises(ValueError, match="beta1 has to be 0 or more, not -1"):
        make_nlp(beta1=-1.0)
    with pytest.raises(ValueError, match="alignment_weight has to be 0 or more"):
        Weight([-0.5], "alignment_weight").at(0)


def test_pickled_schedules():
    import pickle

    weight = Weight(Warmup(0.0, 1.0, 4))
    weight.at(0)
    assert pickle.loads(pickle.dumps(weight)).at(1) == weight.at(1) == 0.25
    generator = Weight(x for x in [0.5, 0.6])
    generator.at(0)
    with pytest.warns(MMIBWarning, match="can't be copied or pickled.*stays at 0.5"):
        assert pickle.loads(pickle.dumps(generator)).at(1) == 0.5


def test_regularizers_reach_the_encoders():
    """The gradient of the whole loss with respect to a text vector, against finite differences."""
    nlp = make_nlp(beta1=0.7, beta2=0.0, alignment_weight=0.0)
    examples = make_examples(nlp)
    spacy.util.fix_random_seed(0)
    nlp.initialize(lambda: examples)
    component = nlp.get_pipe("mmib_ner")
    embed = component.model.get_ref("tok2vec")
    node = next(n for n in embed.walk() if n.name == "maxout" and n.has_param("b"))
    settings = component.model.get_ref("fusion").shims[0]._model
    for module in settings.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0
        if type(module).__name__ == "MultiheadAttention":
            module.dropout = 0.0

    def loss_at(delta):
        bias = node.get_param("b").copy()
        changed = bias.copy()
        changed[0, 0] += delta
        node.set_param("b", changed)
        spacy.util.fix_random_seed(1)  # the same noise
        losses = component.update(examples, losses={})
        node.set_param("b", bias)
        return losses["mmib_ner"]

    eps = 1e-2
    numeric = (loss_at(eps) - loss_at(-eps)) / (2 * eps)
    for n in component.model.walk():
        for name in n.grad_names:
            n.set_grad(name, n.get_grad(name) * 0)
    loss_at(0.0)
    assert node.get_grad("b")[0, 0] == pytest.approx(numeric, rel=0.02, abs=1e-3)


def test_a_trainable_encoder_learns_through_the_whole_model():
    nlp = spacy.blank("en")
    img2vec = {**MODEL["img2vec"], "trainable": True}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": img2vec}})
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples)
    network = nlp.get_pipe("mmib_ner").model.get_ref("img2vec").layers[0].shims[0]._model
    before = {name: p.clone() for name, p in network.named_parameters()}
    nlp.update(examples, sgd=optimizer)
    changed = [name for name, p in network.named_parameters() if not (p == before[name]).all()]
    assert len(changed) == len(before)


def test_a_copy_of_the_own_picture_is_no_negative():
    nlp = make_nlp(beta1=0.0, beta2=0.0)
    posts = [("Rob is here", [(0, 3, "PER")], "red"), ("so is Mia", [(6, 9, "ORG")], "red")]
    train(nlp, make_examples(nlp, posts), steps=1)
    core = nlp.get_pipe("mmib_ner").model.get_ref("fusion").shims[0]._model
    seen = []
    core.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[2].tolist()))
    nlp.get_pipe("mmib_ner").update(make_examples(nlp, posts))
    other = [posts[0], (*posts[1][:2], "blue"), (*posts[1][:2], None)]
    nlp.get_pipe("mmib_ner").update(make_examples(nlp, other))
    (first, copy), (red, blue, none) = seen
    assert first == copy >= 0
    assert red != blue
    assert min(red, blue) >= 0 > none


# Labels


def test_labels_come_from_the_data_or_from_add_label():
    nlp = make_nlp()
    component = nlp.get_pipe("mmib_ner")
    assert component.labels == ()
    assert component.add_label("GPE") == 1
    assert component.add_label("GPE") == 0
    nlp.initialize(lambda: make_examples(nlp))
    assert component.labels == ("GPE", "ORG", "PER")
    assert component.label_data == ["GPE", "ORG", "PER"]
    with pytest.raises(ValueError, match="can't add the label 'LOC'"):
        component.add_label("LOC")
    assert component.add_label("PER") == 0
    with pytest.raises(ValueError, match="non-empty string"):
        component.add_label("")


def test_labels_from_init_labels_are_taken_as_they_are():
    nlp = make_nlp()
    component = nlp.get_pipe("mmib_ner")
    examples = make_examples(nlp)
    component.initialize(lambda: examples, nlp=nlp, labels=["PER", "MISC", "ORG"])
    assert component.labels == ("PER", "MISC", "ORG")


def test_no_labels_at_all():
    nlp = make_nlp()
    eg = Example.from_dict(nlp.make_doc("nothing here"), {"entities": []})
    with pytest.raises(ValueError, match="mmib_ner has no labels"):
        nlp.initialize(lambda: [eg])


def test_a_reader_that_drops_the_pictures_is_noticed():
    nlp = make_nlp()
    examples = make_examples(nlp)
    for eg in examples:
        eg.reference._.image = eg.predicted._.image
    with warnings.catch_warnings():
        warnings.simplefilter("error", MMIBWarning)
        warnings.filterwarnings("ignore", message=".*random weights and is frozen")
        nlp.initialize(lambda: examples)
    dropped = [Example(nlp.make_doc(eg.text), eg.reference) for eg in examples]
    with pytest.warns(
        MMIBWarning, match=r"its reader drops them.*trains on text only.*spacy-mmib\.Corpus\.v1"
    ):
        nlp.initialize(lambda: dropped)
    # the wrong reader for dev only, or `spacy evaluate`: the scores would be those of the text alone
    nlp.initialize(lambda: examples)
    with pytest.warns(MMIBWarning, match=r"its reader drops them.*is scored on text only") as caught:
        nlp.evaluate(dropped)
        nlp.evaluate(dropped)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", MMIBWarning)
        nlp.evaluate(examples)
        nlp.evaluate(remove_images(examples))


def test_sizes_are_inferred_from_posts_with_tokens():
    nlp = make_nlp()
    empty = [Example.from_dict(nlp.make_doc(""), {}) for _ in range(15)]
    examples = empty + make_examples(nlp)
    nlp.initialize(lambda: examples)
    nlp.update(examples)


def test_unknown_label_in_the_data_names_the_post():
    nlp = make_nlp()
    train(nlp, make_examples(nlp), steps=1)
    eg = Example.from_dict(nlp.make_doc("I saw Paris"), {"entities": [(6, 11, "GPE")]})
    with pytest.raises(ValueError, match=r"label 'GPE' .* not one of \['ORG', 'PER'\].*I saw Paris"):
        nlp.update([eg])


# Gold that is missing or misaligned


def test_missing_and_misaligned_gold_is_unknown_not_outside():
    nlp = make_nlp()
    train(nlp, make_examples(nlp), steps=1)
    component = nlp.get_pipe("mmib_ner")
    org, per = component.labels.index("ORG"), component.labels.index("PER")

    missing = Doc(nlp.vocab, words=["Rob", "met", "Mia"])
    missing.set_ents([Span(missing, 0, 1, label="PER")], missing=[missing[2:3]], default="outside")
    eg = Example(Doc(nlp.vocab, words=["Rob", "met", "Mia"]), missing)
    assert component._get_tags(eg).tolist() == [2 * per + 1, 0, -1]

    # the entity "New York" begins inside a token of the prediction
    gold = Doc(nlp.vocab, words=["I", "love", "New", "York", "City"])
    gold.ents = [Span(gold, 2, 4, label="ORG")]
    predicted = Doc(nlp.vocab, words=["I", "loveNew", "York", "City"], spaces=[True, True, True, False])
    gold2 = Doc(
        nlp.vocab, words=["I", "love", "New", "York", "City"], spaces=[True, False, True, True, False]
    )
    gold2.ents = [Span(gold2, 2, 4, label="ORG")]
    assert component._get_tags(Example(predicted, gold2)).tolist() == [0, -1, -1, 0]
    whole = component._get_tags(Example(Doc(nlp.vocab, words=["I", "love", "New", "York", "City"]), gold))
    assert whole.tolist() == [0, 0, 2 * org + 1, 2 * org + 2, 0]


@pytest.mark.parametrize("masked", [True, False])
def test_masked_tokens_teach_nothing(masked):
    """The same name is an entity in other posts; only where it is marked as outside is it learned as such."""
    nlp = make_nlp(beta1=0.0, beta2=0.0, alignment_weight=0.0)
    words = ["Mia", "met", "Rob", "here"]

    def example(words, names, missing=()):
        gold = Doc(nlp.vocab, words=words)
        spans = [Span(gold, i, i + 1, label="PER") for i in names]
        gold.set_ents(spans, missing=[gold[i : i + 1] for i in missing], default="outside")
        return Example(Doc(nlp.vocab, words=words), gold)

    examples = [example(words, [0], [2] if masked else [])]
    examples += [example(["Jo", "met", "Rob", "here"], [0, 2]), example(["Rob", "met", "Jo"], [0, 2])]
    train(nlp, examples, steps=50)
    found = [ent.text for ent in nlp(Doc(nlp.vocab, words=words)).ents]
    assert found == (["Mia", "Rob"] if masked else ["Mia"])


# Invariance


def vectors(nlp, docs):
    component = nlp.get_pipe("mmib_ner")
    full = [doc for doc in docs if len(doc)]
    return component.model.predict(full).context


def test_a_post_alone_in_a_batch_and_in_any_order(trained):
    rng = numpy.random.RandomState(0)

    def post():
        doc = trained.make_doc("Rob had dinner with us")
        doc._.image = numpy.asarray(make_picture("blue", (50, 40)))
        doc._.regions = [(0, 0, 20, 20), (5, 5, 30, 40)]
        return doc

    others = []
    for i in range(31):  # longer posts, more regions, odd ones
        doc = Doc(trained.vocab, words=[f"w{rng.randint(99)}" for _ in range(rng.randint(0, 90))])
        if i % 3:
            doc._.image = rng.randint(0, 255, (30 + i, 60, 3)).astype("uint8")
            doc._.regions = [(0, 0, 5 + j, 9) for j in range(i % 7)]
        others.append(doc)
    alone = vectors(trained, [post()])[0]
    expected = entities([trained.get_pipe("mmib_ner")(post())])[0]
    assert expected
    for position in (0, 17, 31):
        batch = others[:position] + [post()] + others[position:]
        full = [doc for doc in batch if len(doc)]
        index = next(i for i, doc in enumerate(full) if doc.text == "Rob had dinner with us ".strip())
        numpy.testing.assert_allclose(vectors(trained, batch)[index], alone, atol=1e-5)
        docs = list(trained.get_pipe("mmib_ner").pipe([d.copy() for d in batch], batch_size=32))
        assert entities(docs)[position] == expected
    shuffled = [others[i] for i in rng.permutation(31)]
    pipe = trained.get_pipe("mmib_ner").pipe
    in_order = {d.text: d for d in pipe([d.copy() for d in others], batch_size=32)}
    for doc in pipe([d.copy() for d in shuffled], batch_size=5):
        same = in_order[doc.text]
        assert [(e.text, e.label_) for e in doc.ents] == [(e.text, e.label_) for e in same.ents]
        confidences = [e._.confidence for e in same.ents]
        assert [e._.confidence for e in doc.ents] == pytest.approx(confidences, abs=1e-3)


def test_prediction_is_deterministic_and_training_repeatable(trained):
    docs = new_docs(trained)
    assert entities(trained.pipe(new_docs(trained))) == entities(trained.pipe(docs))
    runs = []
    for _ in range(2):
        nlp = make_nlp()
        train(nlp, make_examples(nlp), steps=3, seed=7)
        runs.append(nlp.get_pipe("mmib_ner").model.to_bytes())
    assert runs[0] == runs[1]


def test_batches_by_length_bound_padding():
    lengths = (3, 0, 700, 5, 30, 2, 30)
    groups = list(batches_by_length(lengths, max_tokens=64))
    assert sorted(i for group in groups for i in group) == [0, 2, 3, 4, 5, 6]
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 64


@pytest.mark.parametrize("component", ["mmib_ner", "mmib_rel"])
def test_posts_of_all_lengths_share_the_batches_of_the_picture_network(component):
    """However many groups of similar length there are, pictures are encoded once and in full batches."""
    settings = {"model": {**MODEL, "img2vec": {**IMG2VEC, "batch_size": 4}}, "max_batch_tokens": 12}
    if component == "mmib_rel":
        settings["model"] = {**settings["model"], "@architectures": REL_MODEL["@architectures"]}
        settings["model"]["entity_repr"] = "marker"  # each pair is a text of its own
        settings["get_instances"] = {"@misc": "spacy-mmib.given_pairs.v1"}
    nlp = spacy.blank(LANGUAGE)
    pipe = nlp.add_pipe(component, config=settings)
    pipe.add_label("PER")
    nlp.initialize(lambda: make_rel_examples(nlp))
    docs = [eg.predicted for eg in make_rel_examples(nlp, ask=True)]
    docs = [doc for doc in docs if doc._.image is not None and len(doc) > 2] + [nlp.make_doc("")]
    for i, doc in enumerate(docs[:-1]):
        doc._.image = numpy.asarray(make_picture("red", (20 + i, 20)))
    sizes = []
    module = get_module(pipe.model.get_ref("img2vec").layers[0])
    module.network.register_forward_hook(lambda m, i, output: sizes.append(len(output)))
    predicted = pipe.predict(docs)
    assert len({len(doc) for doc in docs}) > 2
    assert sizes == [4, 1]
    if component == "mmib_rel":
        assert [len(x.probabilities) for x in predicted] == [2, 2, 2, 2, 2, 0]


def test_long_posts_lose_no_tag(trained):
    words = ("Rob had dinner with us " * 140).split()
    assert len(words) == 700
    doc = Doc(trained.vocab, words=words)
    doc._.image = numpy.asarray(make_picture("red"))
    component = trained.get_pipe("mmib_ner")
    assert vectors(trained, [doc])[0].shape[0] == 700
    component(doc)
    assert all(token.ent_iob_ in "BIO" and token.ent_iob for token in doc)
    assert {ent.text for ent in doc.ents} >= {"Rob"}
    assert max(ent.start for ent in doc.ents) > 650


# Odd docs and annotations


def test_empty_docs_and_white_space(trained):
    component = trained.get_pipe("mmib_ner")
    assert component.predict([]) == []
    docs = [trained.make_doc(text) for text in ("", " ", "\n\n", "Rob had dinner with us", "")]
    for doc in list(component.pipe(docs)) + [component(trained.make_doc(""))]:
        assert not any(ent.text.isspace() for ent in doc.ents)
    assert list(component.pipe([])) == []
    empty = Example.from_dict(trained.make_doc(""), {})
    assert component.update([empty], losses={}) == {"mmib_ner": 0.0, "mmib_ner_task": 0.0}
    assert component.update([], losses={}) == {"mmib_ner": 0.0, "mmib_ner_task": 0.0}


def test_entities_of_others_are_kept_and_own_ones_replaced(trained):
    component = trained.get_pipe("mmib_ner")
    doc = new_docs(trained)[0]
    doc.ents = [Span(doc, 0, 2, label="RULE")]
    component(doc)
    assert [(e.text, e.label_) for e in doc.ents] == [("Rob had", "RULE")]
    assert doc.ents[0]._.confidence is None
    assert [t.ent_iob_ for t in doc] == ["B", "I", "O", "O", "O"]

    doc = new_docs(trained)[0]
    component(doc)
    assert [(e.text, e.label_) for e in doc.ents] == [("Rob", "PER")]
    doc._.image = numpy.asarray(make_picture("blue"))
    component(doc)
    assert [(e.text, e.label_) for e in doc.ents] == [("Rob", "ORG")]
    assert get_predicted(doc, "mmib_ner").keys() == {(0, 3, "ORG")}


def test_corrections_of_own_entities_are_kept(trained):
    component = trained.get_pipe("mmib_ner")
    doc = component(new_docs(trained)[0])
    doc.ents = [Span(doc, 0, 1, label="CAT")]  # another component or a user knows better
    assert doc.ents[0]._.confidence is None
    component(doc)
    assert [(e.text, e.label_) for e in doc.ents] == [("Rob", "CAT")]


def test_two_components_leave_each_others_entities(trained):
    nlp = make_nlp()
    posts = [("Rob had dinner with us", [(8, 14, "MEAL")], "red"), ("no meal here", [], None)]
    train(nlp, make_examples(nlp, posts), steps=60)
    assert [(e.text, e.label_) for e in nlp(new_docs(nlp)[0]).ents] == [("dinner", "MEAL")]
    people = trained.get_pipe("mmib_ner")
    meals = nlp.get_pipe("mmib_ner")
    meals.name = "meals"
    doc = new_docs(trained)[0]
    for _ in range(2):
        meals(people(doc))
        assert [(e.text, e.label_) for e in doc.ents] == [("Rob", "PER"), ("dinner", "MEAL")]
        assert all(e._.confidence > 0.4 for e in doc.ents)


def test_white_space_is_no_part_of_an_entity(trained, monkeypatch):
    from spacy_mmib.heads.crf import DecodedEntities

    component = trained.get_pipe("mmib_ner")
    doc = Doc(trained.vocab, words=[" ", "Rob", "\n", " ", "x"])
    component.set_annotations([doc], [DecodedEntities([0, 3], [3, 4], [1, 1], [0.9, 0.8])])
    assert [(e.start, e.end) for e in doc.ents] == [(1, 2)]
    assert doc.ents[0]._.confidence == 0.9


def test_blocked_tokens_stay_blocked(trained):
    doc = new_docs(trained)[0]
    doc.set_ents([], blocked=[doc[0:1]], default="missing")
    trained.get_pipe("mmib_ner")(doc)
    assert doc.ents == ()


def test_never_initialized():
    nlp = make_nlp()
    with pytest.raises(ValueError, match=r"mmib_ner has no weights yet.*spacy train"):
        nlp("Rob had dinner")
    eg = make_examples(nlp)[:1]
    with pytest.raises(ValueError, match="mmib_ner has no weights yet"):
        nlp.get_pipe("mmib_ner").update(eg)


def test_heads_that_dont_divide_the_width():
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "fusion": {**MODEL["fusion"], "heads": 5}}})
    with pytest.raises(ValueError, match=r"heads \(5\) has to divide the hidden size \(24\)"):
        nlp.initialize(lambda: make_examples(nlp))


def test_add_pipe_needs_no_config():
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner")
    img2vec = nlp.config["components"]["mmib_ner"]["model"]["img2vec"]
    assert (img2vec["arch"], img2vec["weights"], img2vec["trainable"]) == ("resnet50", None, False)


# Failures stay where they are


def test_one_bad_post_takes_no_neighbour_down(monkeypatch):
    nlp = make_nlp()
    train(nlp, make_examples(nlp), steps=1)
    component = nlp.get_pipe("mmib_ner")
    predict = component.predict

    def fail_on_mia(docs):
        docs = list(docs)
        if any("Mia" in doc.text and "city" in doc.text for doc in docs):
            raise RuntimeError("a defect in the model")
        return predict(docs)

    monkeypatch.setattr(component, "predict", fail_on_mia)
    failed = []
    nlp.set_error_handler(lambda name, proc, docs, error: failed.extend(docs))
    docs = list(nlp.pipe(new_docs(nlp)))
    assert len(docs) == 6
    assert [doc.text for doc in failed] == ["we saw Mia in the city"] * 2
    nlp.set_error_handler(spacy.util.raise_error)
    with pytest.raises(RuntimeError, match="a defect"):
        list(nlp.pipe(new_docs(nlp)))


@pytest.mark.parametrize("policy", ["warn", "raise"])
def test_unreadable_pictures(policy, tmp_path):
    nlp = spacy.blank("en")
    img2vec = {**MODEL["img2vec"], "on_image_error": policy}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": img2vec}})
    train(nlp, make_examples(nlp), steps=1)
    (tmp_path / "text.jpg").write_text("not a picture")

    def docs():
        found = new_docs(nlp)[:3]
        found[1]._.image = tmp_path / "text.jpg"
        return found

    if policy == "warn":
        with pytest.warns(MMIBWarning, match=r"Rob had dinner.*not a picture.*processed from its text"):
            results = list(nlp.pipe(docs()))
        assert "not a picture" in results[1]._.image_error
        assert results[0]._.image_error is None
        text_only = new_docs(nlp)[1]
        text_only._.image = None
        assert entities(results[1:2]) == entities(nlp.pipe([text_only]))
        assert entities(results[:1]) == entities(nlp.pipe(docs()[:1]))
    else:
        with pytest.raises(ValueError, match="not a picture"):
            list(nlp.pipe(docs()))
        failed = []
        nlp.set_error_handler(lambda name, proc, docs, error: failed.extend(docs))
        assert len(list(nlp.pipe(docs()))) == 2
        assert len(failed) == 1


# With a shared encoder


def make_shared_nlp() -> Language:
    from conftest import TOK2VEC

    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24, "upstream": "*"}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "tok2vec": listener}})
    return nlp


def test_shared_tok2vec_learns_through_the_listener():
    nlp = make_shared_nlp()
    examples = make_examples(nlp)
    spacy.util.fix_random_seed(0)
    nlp.initialize(lambda: examples)
    before = nlp.get_pipe("tok2vec").model.to_bytes()
    losses = train(nlp, examples, steps=60)
    assert losses["tok2vec"] > 0
    assert nlp.get_pipe("tok2vec").model.to_bytes() != before
    assert nlp.evaluate(make_examples(nlp))["ents_f"] == 1.0
    expected = entities(nlp.pipe(new_docs(nlp)))
    reloaded = make_shared_nlp().from_bytes(nlp.to_bytes())
    assert entities(reloaded.pipe(new_docs(reloaded))) == expected
    nlp.replace_listeners("tok2vec", "mmib_ner", ["model.tok2vec"])
    nlp.remove_pipe("tok2vec")
    assert entities(nlp.pipe(new_docs(nlp))) == expected


def test_a_batch_without_gold_still_backpropagates():
    nlp = make_shared_nlp()
    train(nlp, make_examples(nlp), steps=1)
    doc = nlp.make_doc("Rob had dinner")
    unknown = Example(doc, nlp.make_doc("Rob had dinner"))  # ents never annotated: missing
    losses = nlp.update([unknown], losses={})
    assert losses["mmib_ner_task"] == pytest.approx(0, abs=1e-4)
