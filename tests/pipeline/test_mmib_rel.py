"""The component `mmib_rel`: learning, candidates, annotations, odd input."""

import numpy
import pytest
import spacy
from conftest import (
    LISTENER,
    MODEL,
    PAIRS,
    REL_MODEL,
    TOK2VEC,
    make_picture,
    make_rel_examples,
    make_rel_nlp,
    relations,
    train,
)
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_mmib.bridge.data import PairInput
from spacy_mmib.post.relations import RELATIONS_KEY
from spacy_mmib.util import MMIBWarning

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

GOLD = [["couple", "couple"], ["team", "team"], ["couple", "couple"], ["team", "team"],
        ["None", "None"], [], []]  # fmt: skip


def asked(nlp) -> list[Doc]:
    return [eg.predicted for eg in make_rel_examples(nlp, ask=True)]


def labels(docs) -> list[list[str]]:
    return [[r.label for r in doc._.relations] for doc in docs]


def test_overfits_what_only_the_pictures_can_tell(trained_rel):
    docs = list(trained_rel.pipe(asked(trained_rel)))
    assert labels(docs) == GOLD
    assert all(0.5 < r.score <= 1 for doc in docs for r in doc._.relations)
    examples = make_rel_examples(trained_rel, ask=True)
    scores = trained_rel.evaluate(examples)
    assert scores["rel_micro_f"] == scores["rel_accuracy"] == 1.0
    blind = asked(trained_rel)
    for doc in blind:
        doc._.image = None
    blind = labels(trained_rel.pipe(blind))
    assert blind[0] == blind[1]
    assert blind[2] == blind[3] == blind[4]


def test_overfits_with_markers():
    nlp = make_rel_nlp(model={"entity_repr": "marker"})
    train(nlp, make_rel_examples(nlp), steps=60)
    assert labels(nlp.pipe(asked(nlp))) == GOLD
    again = make_rel_nlp(model={"entity_repr": "marker"}).from_bytes(nlp.to_bytes())
    assert relations(again.pipe(asked(nlp))) == relations(nlp.pipe(asked(nlp)))


@pytest.mark.parametrize("entity_repr", ["pool", "marker"])
def test_the_baseline_without_the_core_knows_the_text_only(entity_repr):
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-mmib.Text_REL.v1", "tok2vec": TOK2VEC,
             "entity_repr": entity_repr}  # fmt: skip
    pairs = {"@misc": "spacy-mmib.given_pairs.v1"}
    nlp.add_pipe("mmib_rel", config={"model": model, "get_instances": pairs})
    posts = [("Rob met Mia in Oslo", "red", "couple"), ("Kim and Mia", "red", "team")]
    losses = train(nlp, make_rel_examples(nlp, posts), steps=40)
    assert set(losses) == {"mmib_rel", "mmib_rel_task"}
    docs = [eg.predicted for eg in make_rel_examples(nlp, posts, ask=True)]
    assert labels(nlp.pipe(docs)) == [["couple"] * 2, ["team"] * 2]


def test_joint_pipeline_predicts_both_from_the_bare_post(trained_joint):
    docs = [eg.predicted for eg in make_rel_examples(trained_joint)]
    assert not any(doc.ents or doc._.relations for doc in docs)
    docs = list(trained_joint.pipe(docs))
    assert [[ent.text for ent in doc.ents] for doc in docs[:2]] == [["Rob", "Mia"]] * 2
    assert labels(docs) == [[x for x in post if x != "None"] for post in GOLD]
    assert docs[0]._.relations[0].head.label_ == "PER"


# --- the loss -------------------------------------------------------------------------------------


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=1, keepdims=True))


def test_task_loss_is_equation_28_and_its_gradient_the_numerical_one(trained_rel):
    component = trained_rel.get_pipe("mmib_rel")
    examples = make_rel_examples(trained_rel)
    gold = [component._get_gold(example) for example in examples]
    X = PairInput([eg.predicted for eg in examples], [pairs for pairs, _ in gold])
    scores = component.model.predict(X)
    names = ["None", *component.labels]
    targets = [names.index(label) for post in GOLD for label in post]
    assert scores.scores.shape == (len(targets), 3)
    assert component.labels == ("couple", "team")
    loss, gradient = component.get_loss(examples, scores)
    logits = scores.scores.astype("float64")
    rows = numpy.arange(len(targets))
    assert loss == pytest.approx(-log_softmax(logits)[rows, targets].mean(), rel=1e-4)
    for i, j in [(0, 0), (3, 1), (8, 2)]:
        up, down = logits.copy(), logits.copy()
        up[i, j] += 1e-5
        down[i, j] -= 1e-5
        numeric = (-log_softmax(up) + log_softmax(down))[rows, targets].mean() / 2e-5
        assert gradient.scores[i, j] == pytest.approx(numeric, abs=1e-5)


def test_a_very_wrong_prediction_has_a_finite_loss(trained_rel):
    component = trained_rel.get_pipe("mmib_rel")
    examples = make_rel_examples(trained_rel)[:1]
    scores = component.model.predict(
        PairInput([examples[0].predicted], [component._get_gold(examples[0])[0]])
    )
    scores.scores[:] = [[0, -500, 500], [0, -500, 500]]
    loss, gradient = component.get_loss(examples, scores)
    assert loss == pytest.approx(1000)
    assert numpy.isfinite(gradient.scores).all()


def test_losses_have_their_own_keys_and_add_up():
    nlp = make_rel_nlp(beta1=0.5, beta2=0.25, alignment_weight=2.0)
    losses = train(nlp, make_rel_examples(nlp), steps=1)
    assert losses["mmib_rel"] == pytest.approx(
        losses["mmib_rel_task"] + 0.5 * losses["mmib_rel_kl_text"]
        + 0.25 * losses["mmib_rel_kl_image"] + 2 * losses["mmib_rel_alignment"], rel=1e-5
    )  # fmt: skip


# --- what is learned from -------------------------------------------------------------------------


def make_gold(nlp, text="Rob met Mia in Oslo", given=((0, 1, 2, 3, "couple"),)) -> Example:
    doc = nlp.make_doc(text)
    gold = doc.copy()
    gold.ents = [Span(gold, i, i + 1, label="PER") for i in (0, 2, 4)]
    gold._.relations = [((a, b), (c, d), label) for a, b, c, d, label in given]
    return Example(doc, gold)


def test_pairs_that_are_not_annotated_are_negative(trained_joint):
    component = trained_joint.get_pipe("mmib_rel")
    pairs, targets = component._get_gold(make_gold(trained_joint))
    found = {tuple(pair): target for pair, target in zip(pairs.tolist(), targets.tolist())}
    assert len(found) == 6
    assert found.pop((0, 1, 2, 3)) == 1  # couple
    assert set(found.values()) == {0}


def test_unknown_pairs_and_posts_teach_nothing(trained_joint):
    component = trained_joint.get_pipe("mmib_rel")
    example = make_gold(trained_joint, given=[(0, 1, 2, 3, ""), (2, 3, 0, 1, "team")])
    both = make_gold(trained_joint, given=[(0, 1, 2, 3, ""), (0, 1, 2, 3, "couple")])
    assert component._get_gold(both)[0].tolist() == component._get_gold(example)[0].tolist()
    pairs, targets = component._get_gold(example)
    assert (0, 1, 2, 3) not in {tuple(pair) for pair in pairs.tolist()}
    assert sorted(targets.tolist()) == [0, 0, 0, 0, 2]
    example.reference._.relations = None
    assert [len(part) for part in component._get_gold(example)] == [0, 0]
    example.reference._.relations = []
    assert component._get_gold(example)[1].tolist() == [0] * 6


def test_a_pair_with_two_labels_is_learned_with_both(trained_rel):
    component = trained_rel.get_pipe("mmib_rel")
    given = [(0, 1, 2, 3, "couple"), (0, 1, 2, 3, "team"), (0, 1, 2, 3, "couple")]
    pairs, targets = component._get_gold(make_gold(trained_rel, given=given))
    assert pairs.tolist() == [[0, 1, 2, 3]] * 3
    assert targets.tolist() == [1, 2, 1]


def test_overlapping_spans(trained_rel):
    component = trained_rel.get_pipe("mmib_rel")
    given = [(0, 3, 2, 3, "couple"), (2, 3, 0, 3, "None"), (0, 3, 0, 3, "team")]
    pairs, targets = component._get_gold(make_gold(trained_rel, given=given))
    assert pairs.tolist() == [[0, 3, 2, 3], [2, 3, 0, 3], [0, 3, 0, 3]]
    assert targets.tolist() == [1, 0, 2]
    doc = trained_rel.make_doc("Rob met Mia in Oslo")
    doc._.relations = [((0, 3), (2, 3), ""), ((0, 3), (0, 3), "")]
    assert [len(r.label) > 0 for r in trained_rel(doc)._.relations] == [True, True]


def test_gold_of_another_tokenization_is_aligned(trained_rel):
    component = trained_rel.get_pipe("mmib_rel")
    gold = Doc(trained_rel.vocab, words=["Rob Lee", "met", "Mi", "a", "."],
               spaces=[True, True, False, False, False])  # fmt: skip
    gold._.relations = [((0, 1), (2, 4), "couple"), ((2, 3), (0, 1), "team")]
    example = Example(trained_rel.make_doc(gold.text), gold)
    pairs, targets = component._get_gold(example)
    assert pairs.tolist() == [[0, 2, 3, 4]]  # "Mi" is no token: it can't be learned
    assert targets.tolist() == [1]


def test_what_cant_be_learned_is_said():
    nlp = make_rel_nlp(get_instances={"@misc": "spacy-mmib.ordered_pairs.v1"})
    examples = make_rel_examples(nlp)
    far = make_gold(nlp, given=[(0, 1, 2, 3, "couple"), (0, 1, 3, 4, "team"), (3, 4, 0, 1, "")])
    unknown = make_gold(nlp, given=[])
    unknown.reference._.relations = None
    with pytest.warns(MMIBWarning) as caught:
        nlp.initialize(lambda: [*examples, far, unknown])
    said = " ".join(str(w.message) for w in caught)
    assert "1 of 9 posts are not annotated for relations" in said
    assert "1 of 10 gold relations are between spans that get_instances doesn't give" in said


def test_labels():
    nlp = make_rel_nlp()
    component = nlp.get_pipe("mmib_rel")
    nlp.initialize(lambda: make_rel_examples(nlp))
    assert component.labels == ("couple", "team")
    assert component.label_data == ["couple", "team"]
    assert component.add_label("None") == 0
    with pytest.raises(ValueError, match="can't add the label 'enemies' to a model that is already"):
        component.add_label("enemies")
    with pytest.raises(ValueError, match="'enemies' in the training data is not one of .*Kim"):
        nlp.update(make_rel_examples(nlp, [("Kim and Mia", "red", "enemies")]))
    component.initialize(lambda: make_rel_examples(nlp), nlp=nlp, labels=["x", "None", "couple"])
    assert component.labels == ("couple", "team", "x")


def test_no_labels_and_no_weights():
    nlp = make_rel_nlp()
    with pytest.raises(ValueError, match="mmib_rel has no weights yet"):
        nlp("Rob met Mia")
    nothing = make_rel_examples(nlp, [("Kim and Mia", "red", None), ("nobody", None, None)])
    with pytest.raises(ValueError, match="mmib_rel has no labels: the examples hold no relations"):
        nlp.initialize(lambda: nothing)


def test_another_negative_label():
    nlp = make_rel_nlp(negative_label="couple")
    train(nlp, make_rel_examples(nlp), steps=1)
    component = nlp.get_pipe("mmib_rel")
    assert component.labels == ("None", "team")
    scores = nlp.evaluate(make_rel_examples(nlp, ask=True))
    assert "couple" not in scores["rel_per_type"]
    again = make_rel_nlp().from_bytes(nlp.to_bytes())
    assert again.get_pipe("mmib_rel").negative_label == "couple"


# --- shared encoders ------------------------------------------------------------------------------


@pytest.mark.parametrize("posts", [[("Rob sleeps", "red", None)], [("Mia met Kim", "red", "couple")]])
def test_a_batch_without_pairs_still_backpropagates(posts):
    """mmib_rel is the last listener: what mmib_ner learned reaches the shared encoder through it only."""
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "tok2vec": listener}})
    nlp.add_pipe("mmib_rel", config={"model": {**REL_MODEL, "tok2vec": listener}})
    optimizer = nlp.initialize(lambda: make_rel_examples(nlp))
    optimizer.learn_rate = 0.005
    before = nlp.get_pipe("tok2vec").model.to_bytes()
    for _ in range(2):  # spaCy takes the step of a shared encoder at the next update
        losses = nlp.update(make_rel_examples(nlp, posts), sgd=optimizer, losses={})
        assert (losses["mmib_rel_task"] == 0) == (posts[0][2] is None)
    assert nlp.get_pipe("tok2vec").model.to_bytes() != before


def test_posts_without_pairs_take_no_part_in_the_regularizers():
    nlp = make_rel_nlp(model={"fusion": {**REL_MODEL["fusion"], "dropout": 0.0}})
    examples = make_rel_examples(nlp)
    nlp.initialize(lambda: examples)
    kls = []
    for batch in (examples[:2], [*examples[:2], *examples[5:]]):
        losses = nlp.update(batch, losses={}, drop=0.0, sgd=False)
        kls.append((losses["mmib_rel_kl_text"], losses["mmib_rel_kl_image"]))
    assert kls[0] == pytest.approx(kls[1], rel=1e-5)


def test_markers_need_an_encoder_of_their_own():
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}
    model = {**REL_MODEL, "tok2vec": listener, "entity_repr": "marker"}
    with pytest.raises(ValueError, match="encodes a post anew for each pair.*not a listener"):
        nlp.add_pipe("mmib_rel", config={"model": model})


@pytest.mark.parametrize("entity_repr", ["pool", "marker"])
def test_the_own_picture_under_another_pair_or_row_is_no_negative(entity_repr):
    """Two rows of one post, as in MNRE without grouping, and two pairs of each: one picture, no negative."""
    nlp = make_rel_nlp(model={"entity_repr": entity_repr, "fusion": {**REL_MODEL["fusion"], "dropout": 0.0}})
    nlp.initialize(lambda: make_rel_examples(nlp))
    core = nlp.get_pipe("mmib_rel").model.get_ref("fusion")
    keys = []
    forward = core._func
    core._func = lambda model, X, is_train: keys.append(X.image_keys) or forward(model, X, is_train)
    discriminator = core.shims[0]._model.discriminator

    def get_alignment(*posts):
        spacy.util.fix_random_seed(1)
        losses = nlp.update(make_rel_examples(nlp, posts), losses={}, sgd=False)
        return losses["mmib_rel_alignment"]

    post, other = PAIRS[0], PAIRS[1]
    alone = get_alignment(post, post)
    assert len(keys[0]) == (2 if entity_repr == "pool" else 4)
    assert len(set(keys[0])) == 1
    both = get_alignment(post, other)
    discriminator.max_negatives = 0
    assert get_alignment(post, post) == pytest.approx(alone, rel=1e-5)
    assert both > get_alignment(post, other) + 0.3


# --- prediction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["trained_rel", "trained_joint"])
def test_a_post_alone_in_a_batch_and_in_any_order(fixture, request):
    nlp = request.getfixturevalue(fixture)
    ask = fixture == "trained_rel"
    fresh = lambda: [eg.predicted for eg in make_rel_examples(nlp, ask=ask)]
    together = relations(nlp.pipe(fresh()))
    assert relations(nlp(doc) for doc in fresh()) == together
    assert relations(nlp.pipe(fresh(), batch_size=2)) == together
    assert relations(list(nlp.pipe(fresh()[::-1]))[::-1]) == together
    long = nlp.make_doc("Rob met Mia in Oslo " * 40)
    if ask:
        long._.relations = [((0, 1), (2, 3), "")]
    assert relations(list(nlp.pipe([long, *fresh()]))[1:]) == together
    component = nlp.get_pipe("mmib_rel")
    before = component.max_batch_tokens
    try:
        component.max_batch_tokens = 1
        assert relations(nlp.pipe(fresh())) == together
    finally:
        component.max_batch_tokens = before


def test_vectors_differ_by_float_noise_only(trained_rel):
    component = trained_rel.get_pipe("mmib_rel")
    together = component.predict(asked(trained_rel))
    alone = [component.predict([doc])[0] for doc in asked(trained_rel)]
    for a, b in zip(together, alone):
        numpy.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)


def test_training_is_repeatable():
    found = []
    for _ in range(2):
        nlp = make_rel_nlp(joint=True)
        train(nlp, make_rel_examples(nlp), steps=5, seed=3)
        found.append(nlp.to_bytes(exclude=["vocab"]))
    assert found[0] == found[1]


def test_relations_of_others_are_kept_and_own_ones_replaced(trained_joint):
    (doc,) = (eg.predicted for eg in make_rel_examples(trained_joint)[:1])
    trained_joint(doc)
    first = relations([doc])[0]
    assert {label for *_, label, _ in first} == {"couple"}
    doc._.image = numpy.asarray(make_picture("blue"))
    doc._.regions = [(0, 0, 20, 20)]
    trained_joint(doc)
    assert [x[:3] for x in relations([doc])[0]] == [("Rob", "Mia", "team"), ("Mia", "Rob", "team")]
    doc._.relations = [(doc[0:1], doc[2:3], "enemies"), (doc[0:1], doc[4:5], "lives in")]
    trained_joint(doc)
    assert labels([doc]) == [["enemies", "lives in", "team"]]


def test_a_prediction_that_a_user_confirms_is_the_users(trained_joint):
    (doc,) = (eg.predicted for eg in make_rel_examples(trained_joint)[:1])
    trained_joint(doc)
    doc._.relations = [(doc[0:1], doc[2:3], "couple")]  # as predicted, but without a score
    doc._.image, doc._.regions = numpy.asarray(make_picture("blue")), [(0, 0, 20, 20)]
    trained_joint(doc)
    found = [(r.head.text, r.label, r.score is None) for r in doc._.relations]
    assert found == [("Rob", "couple", True), ("Mia", "team", False)]


def test_a_question_outlives_a_run_in_which_it_is_no_candidate(trained_joint):
    (doc,) = (eg.predicted for eg in make_rel_examples(trained_joint)[:1])
    doc._.relations = [(doc[0:1], doc[2:3], "")]
    trained_joint(doc)
    assert "couple" in labels([doc])[0]
    doc.ents = []
    component = trained_joint.get_pipe("mmib_rel")
    component(doc)
    assert labels([doc]) == [[""]]


def test_questions_are_answered_and_answered_again(trained_rel):
    doc = trained_rel.make_doc("Kim and Mia")
    doc._.image = numpy.asarray(make_picture("white"))
    doc._.relations = [((0, 1), (2, 3), ""), ((2, 3), (0, 1), "cousins")]
    trained_rel(doc)
    assert [(r.label, r.score is not None) for r in doc._.relations] == [
        ("cousins", False), ("None", True)
    ]  # fmt: skip
    doc._.image = numpy.asarray(make_picture("red"))
    doc._.regions = [(0, 0, 20, 20)]
    trained_rel(doc)
    assert labels([doc]) == [["cousins", "couple"]]
    again = Doc(doc.vocab).from_bytes(doc.to_bytes())
    again._.image = numpy.asarray(make_picture("white"))
    again._.regions = [(0, 0, 20, 20)]
    assert labels([trained_rel(again)]) == [["cousins", "None"]]


def test_questions_that_are_no_candidates_stay(trained_joint):
    doc = trained_joint.make_doc("Rob met Mia in Oslo")
    doc._.relations = [((3, 4), (4, 5), ""), ((0, 1), (2, 3), "")]
    found = {(r.head.text, r.tail.text): r.label for r in trained_joint(doc)._.relations}
    assert found["in", "Oslo"] == ""
    assert found["Rob", "Mia"] != ""


def test_threshold(trained_rel):
    component = trained_rel.get_pipe("mmib_rel")
    scores = [r.score for r in trained_rel(asked(trained_rel)[0])._.relations]
    before = component.threshold
    try:
        component.threshold = max(scores) + 1e-6
        relations_ = trained_rel(asked(trained_rel)[0])._.relations
        assert [r.label for r in relations_] == ["None", "None"]
        assert all(r.score < 0.5 for r in relations_)  # of "None", not of what was not sure enough
    finally:
        component.threshold = before
    for value in (-0.1, 1.1):
        with pytest.raises(ValueError, match="the threshold is a probability"):
            make_rel_nlp(threshold=value)


# --- candidates -----------------------------------------------------------------------------------


def instances(nlp, doc) -> list[tuple[str, str]]:
    return [(a.text, b.text) for a, b in nlp.get_pipe("mmib_rel").get_instances(doc)]


def test_ordered_pairs(trained_joint):
    nlp = make_rel_nlp(get_instances={"@misc": "spacy-mmib.ordered_pairs.v1", "max_distance": 1})
    doc = nlp.make_doc("Rob met Mia in Oslo")
    doc.ents = [Span(doc, i, i + 1, label="PER") for i in (0, 2, 4)]
    assert instances(nlp, doc) == [
        ("Rob", "Mia"), ("Mia", "Rob"), ("Mia", "Oslo"), ("Oslo", "Mia")
    ]  # fmt: skip
    assert len(instances(trained_joint, doc)) == 6
    spans = {"@misc": "spacy-mmib.ordered_pairs.v1", "spans_key": "sc"}
    nlp = make_rel_nlp(get_instances=spans)
    assert instances(nlp, doc) == []
    doc.spans["sc"] = [doc[0:3], doc[2:3]]
    assert instances(nlp, doc) == [("Rob met Mia", "Mia"), ("Mia", "Rob met Mia")]
    with pytest.raises(ValueError, match="max_distance is 0 or more"):
        make_rel_nlp(get_instances={"@misc": "spacy-mmib.ordered_pairs.v1", "max_distance": -1})


def test_a_span_is_not_paired_with_itself():
    spans = {"@misc": "spacy-mmib.ordered_pairs.v1", "spans_key": "sc"}
    nlp = make_rel_nlp(get_instances=spans)
    doc = nlp.make_doc("Rob met Mia in Oslo")
    doc.spans["sc"] = [Span(doc, 0, 1, "PER"), Span(doc, 0, 1, "ORG"), Span(doc, 2, 3, "PER")]
    assert set(instances(nlp, doc)) == {("Rob", "Mia"), ("Mia", "Rob")}


def test_given_pairs_that_are_not_given_are_noticed(trained_rel):
    with pytest.warns(MMIBWarning, match='answers given pairs, but was given none.*given = "pairs"'):
        scores = trained_rel.evaluate(make_rel_examples(trained_rel))
    assert scores["rel_micro_f"] == 0


def test_a_saved_model_brings_its_way_to_represent_entities():
    marked = make_rel_nlp(model={"entity_repr": "marker", "markers": ["(", ")", "<", ">"]})
    train(marked, make_rel_examples(marked), steps=2)
    nlp = make_rel_nlp().from_bytes(marked.to_bytes())
    assert nlp.get_pipe("mmib_rel").model.attrs["markers"] == ["(", ")", "<", ">"]
    assert relations(nlp.pipe(asked(nlp))) == relations(marked.pipe(asked(nlp)))


@pytest.mark.parametrize("bad", [[1], [("a", "b")], [(None, None)], "empty", "foreign"])
def test_a_get_instances_that_misbehaves(trained_rel, monkeypatch, bad):
    component = trained_rel.get_pipe("mmib_rel")
    doc, other = trained_rel.make_doc("Rob met Mia"), trained_rel.make_doc("Rob met Mia")
    given = {"empty": [(doc[0:0], doc[1:2])], "foreign": [(other[0:1], doc[1:2])]}
    monkeypatch.setattr(component, "get_instances", lambda doc: given.get(str(bad), bad))
    with pytest.raises(ValueError, match="get_instances has to return pairs"):
        component.predict([doc])


def test_docs_with_no_entity_one_and_sixty(trained_joint, monkeypatch):
    component = trained_joint.get_pipe("mmib_rel")
    docs = []
    for n in (0, 1, 60):
        doc = Doc(trained_joint.vocab, words=["Rob"] * n + ["and"] * 61)
        doc.ents = [Span(doc, i, i + 1, label="PER") for i in range(n)]
        doc._.image = numpy.asarray(make_picture("red"))
        docs.append(doc)
    shapes = []
    forward = component.model._func
    monkeypatch.setattr(
        component.model, "_func",
        lambda model, X, is_train: shapes.append(len(X.docs)) or forward(model, X, is_train),
    )  # fmt: skip
    trained_joint.get_pipe("mmib_img2vec").set_annotations(
        docs, trained_joint.get_pipe("mmib_img2vec").predict(docs)
    )
    empty, one, many = component.pipe(docs)
    assert shapes == [1]  # the post with pairs, once, for all its 3,540
    assert empty._.relations == one._.relations == []
    scored = component.predict([many])[0]
    assert scored.probabilities.shape == (60 * 59, 3)
    numpy.testing.assert_allclose(scored.probabilities.sum(1), 1, atol=1e-5)


def test_marked_posts_are_encoded_a_few_at_a_time(monkeypatch):
    pairs = {"@misc": "spacy-mmib.ordered_pairs.v1"}
    nlp = make_rel_nlp(model={"entity_repr": "marker"}, get_instances=pairs, max_batch_tokens=400)
    train(nlp, make_rel_examples(nlp), steps=1)
    component = nlp.get_pipe("mmib_rel")
    doc = Doc(nlp.vocab, words=["Rob", "and"] * 12)
    doc.ents = [Span(doc, i, i + 1, label="PER") for i in range(0, 24, 2)]
    tokens = []
    tok2vec = component.model.get_ref("tok2vec")
    forward = tok2vec._func
    monkeypatch.setattr(
        tok2vec, "_func",
        lambda model, docs, is_train: tokens.append(sum(map(len, docs))) or forward(model, docs, is_train),
    )  # fmt: skip
    bounded = component.predict([doc])[0].probabilities
    assert len(bounded) == 12 * 11
    assert max(tokens) <= 400
    assert len(tokens) > 5
    component.max_batch_tokens = 100_000
    tokens.clear()
    numpy.testing.assert_allclose(component.predict([doc])[0].probabilities, bounded, atol=1e-5)
    assert len(tokens) == 1


# --- odd posts ------------------------------------------------------------------------------------


def test_empty_docs(trained_rel, trained_joint):
    for nlp in (trained_rel, trained_joint):
        docs = [nlp.make_doc(""), nlp.make_doc(" "), nlp.make_doc("Rob")]
        assert labels(nlp.pipe(docs)) == [[], [], []]
        assert labels([nlp("")]) == [[]]
        losses = nlp.update([Example(nlp.make_doc(""), nlp.make_doc(""))], losses={}, sgd=False)
        assert losses["mmib_rel"] == 0


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("couple", "holds 'couple', not a list of relations"),
        ([[0, 3, "", 8, 11, "couple"]], r"relations\[0\]"),
        ([[0, 3, "", 800, 900, "", "couple", None]], "800 to 900 are no span of a text of 19"),
    ],
)
def test_relations_of_a_stranger_harm_no_other_post(trained_rel, stored, message):
    docs = asked(trained_rel)[:3]
    expected = relations(trained_rel.pipe(asked(trained_rel)[:3]))
    docs[1].user_data[RELATIONS_KEY] = stored
    with pytest.warns(MMIBWarning, match=f"{message}.* No relations are predicted for this post"):
        found = list(trained_rel.pipe(docs))
    assert relations([found[0], found[2]]) == [expected[0], expected[2]]
    assert found[1].user_data[RELATIONS_KEY] == stored  # theirs, as it was


def test_wrong_gold_names_the_post(trained_rel):
    example = make_rel_examples(trained_rel)[0]
    example.reference.user_data[RELATIONS_KEY] = [[0, 99, "", 8, 11, "", "couple", None]]
    with pytest.raises(ValueError, match=r"relations\[0\] of 'Rob met Mia in Oslo'.*0 to 99"):
        trained_rel.update([example])


def test_unreadable_pictures(trained_rel):
    docs = asked(trained_rel)[:2]
    docs[0]._.image = "missing.jpg"
    blind = asked(trained_rel)[0]
    blind._.image = None
    with pytest.warns(MMIBWarning, match="no such file"):
        found = relations(trained_rel.pipe(docs))
    assert found == relations([trained_rel(blind), trained_rel(asked(trained_rel)[1])])


def test_add_pipe_needs_no_config():
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_rel")
    assert nlp.get_pipe("mmib_rel").threshold == 0
    assert nlp.get_pipe_meta("mmib_rel").assigns == ["doc._.relations"]


def test_settings_that_dont_fit():
    for model, message in (
        ({"entity_repr": "mean"}, "entity_repr.*'pool', 'start', 'marker'"),
        ({"markers": ["<", ">"]}, "markers are four tokens"),
        ({"img2vec": {**LISTENER, "upstream": 3}}, "upstream"),
    ):
        with pytest.raises(Exception, match=message):
            make_rel_nlp(model=model)
    with pytest.raises(ValueError, match="negative label can't be empty"):
        make_rel_nlp(negative_label="")
