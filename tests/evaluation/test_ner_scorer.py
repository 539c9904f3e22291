import random

import pytest
import spacy
from spacy.scorer import get_ner_prf
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry

from spacy_mmib.evaluation.scorers import make_ner_scorer_v1, score_entities
from spacy_mmib.post.boxes import EntityRegion, set_entity_regions


@pytest.fixture
def vocab():
    return spacy.blank("en").vocab


def example(vocab, predicted, gold):
    words = [f"w{i}" for i in range(len(gold))]
    return Example(Doc(vocab, words=words, ents=predicted), Doc(vocab, words=words, ents=gold))


def test_registered():
    score = registry.resolve({"scorer": {"@scorers": "spacy-mmib.ner_scorer.v1"}})["scorer"]
    assert callable(score)
    assert registry.get("scorers", "spacy-mmib.ner_scorer.v1") is make_ner_scorer_v1
    assert registry.scorers.get_entry_point("spacy-mmib.ner_scorer.v1") is make_ner_scorer_v1


def test_counts_by_hand(vocab):
    examples = [
        example(vocab, ["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "I-PER", "O", "B-ORG"]),
        example(vocab, ["O", "O", "B-PER"], ["B-PER", "O", "B-PER"]),
    ]
    scores = make_ner_scorer_v1()(examples)
    assert scores["ents_p"] == pytest.approx(2 / 3)
    assert scores["ents_r"] == pytest.approx(2 / 4)
    assert scores["ents_f"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert list(scores["ents_per_type"]) == ["LOC", "ORG", "PER"]
    assert scores["ents_per_type"]["PER"] == pytest.approx({"p": 1.0, "r": 2 / 3, "f": 0.8})
    assert scores["ents_per_type"]["LOC"]["p"] == 0.0
    assert scores == get_ner_prf(examples)


def test_boundaries_count(vocab):
    scores = make_ner_scorer_v1()([example(vocab, ["B-PER", "O"], ["B-PER", "I-PER"])])
    assert scores["ents_f"] == 0.0


def test_missing_gold_is_ignored(vocab):
    words = ["a", "b", "c"]
    gold = Doc(vocab, words=words)
    gold.set_ents([], outside=[gold[0:1]], missing=[gold[1:3]])
    predicted = Doc(vocab, words=words, ents=["O", "B-PER", "O"])
    scores = make_ner_scorer_v1()([Example(predicted, gold)])
    assert scores["ents_f"] == 0.0 or scores["ents_f"] is None
    wrong = Doc(vocab, words=words, ents=["B-PER", "O", "O"])
    gold_per = Doc(vocab, words=words, ents=["B-PER", "O", "O"])
    both = make_ner_scorer_v1()([Example(predicted, gold), Example(wrong, gold_per)])
    assert both["ents_p"] == both["ents_r"] == 1.0


def test_nothing_annotated(vocab):
    words = ["a", "b"]
    scores = make_ner_scorer_v1()([Example(Doc(vocab, words=words), Doc(vocab, words=words))])
    assert scores == {"ents_p": None, "ents_r": None, "ents_f": None, "ents_per_type": None}


def test_empty_docs(vocab):
    scores = make_ner_scorer_v1()([Example(Doc(vocab), Doc(vocab))])
    assert not scores["ents_f"]


def located(vocab, ents, found, regions=((0, 0, 10, 10), (20, 20, 40, 40))):
    """A doc of four words. found: of each entity the index of its region, None for "not in the picture", or
    nothing."""
    doc = Doc(vocab, words=["w0", "w1", "w2", "w3"], ents=ents)
    doc._.image, doc._.regions = b"x", regions
    places = zip(doc.ents, found)
    said = {(e.start_char, e.end_char): EntityRegion(i, 0.9, "pointer") for e, i in places if i != "nothing"}
    set_entity_regions(doc, "mmib_ner", said)
    return doc


def annotated(vocab, ents, boxes):
    doc = Doc(vocab, words=["w0", "w1", "w2", "w3"], ents=ents)
    for ent, of_ent in zip(doc.ents, boxes):
        ent._.boxes = of_ent
    return doc


A, B = [(1, 0, 10, 10)], [(0, 0, 3, 3), (21, 20, 40, 40)]
GROUNDED = [
    # right and right; an unannotated entity, and a prediction over it, count neither way
    (["B-X", "B-Y", "B-X", "O"], [0, None, 1], ["B-X", "B-Y", "B-Z", "O"], [A, [], None]),
    # another type, another object
    (["B-X", "O", "B-X", "O"], [1, "-", 0], ["B-Y", "O", "B-X", "O"], [B, A]),
    # "not in the picture" on one side only, a spurious one, one that nobody looked for
    (["B-X", "B-X", "B-X", "B-X"], [None, 0, 0, "nothing"], ["B-X", "B-X", "O", "B-X"], [A, [], []]),
    # nothing is annotated: does not count; no entity at all: does
    (["B-X", "O", "O", "O"], [0], ["B-X", "O", "O", "O"], [None]),
    (["B-X", "O", "O", "O"], [0], ["O", "O", "O", "O"], []),
]


def make_grounded(vocab):
    posts = []
    for ents, found, gold, boxes in GROUNDED:
        found = [x for x in found if x != "-"]
        posts.append(Example(located(vocab, ents, found), annotated(vocab, gold, boxes)))
    return posts


def test_entities_with_their_objects_by_hand(vocab):
    scores = make_ner_scorer_v1()(make_grounded(vocab))
    # predicted 2 + 2 + 4 + 0 + 1, gold 2 + 2 + 3, EEG right 2 + 2, GMNER right 2 + 1
    assert {key: scores[key] for key in scores if key[:3] in ("eeg", "gmn")} == pytest.approx(
        {
            "gmner_p": 3 / 9,
            "gmner_r": 3 / 7,
            "gmner_f": 2 * 3 / 16,
            "eeg_p": 4 / 9,
            "eeg_r": 4 / 7,
            "eeg_f": 2 * 4 / 16,
        }
    )
    plain = [example(vocab, *row[:3:2]) for row in GROUNDED]
    assert {key: scores[key] for key in score_entities(plain)}["ents_f"] == scores["ents_f"]


def test_entities_with_their_objects_by_another_computation(vocab):
    """On random posts, counted another way: by sets of answers."""
    rng = random.Random(0)
    regions = [(10 * i, 0, 10 * i + 9, 9) for i in range(3)]
    posts, right, predicted, gold = [], 0, 0, 0
    for _ in range(60):
        sides = []
        for _ in range(2):
            tags = [rng.choice(["O", "B-X", "B-Y"]) for _ in range(4)]
            sides.append((tags, [rng.choice([None, 0, 1, 2]) for tag in tags if tag != "O"]))
        (tags, found), (gold_tags, is_at) = sides
        boxes = [[] if at is None else [regions[at]] for at in is_at]
        posts.append(Example(located(vocab, tags, found, regions), annotated(vocab, gold_tags, boxes)))
        answers, truth = (
            {(i, tag, next(at)) for at in [iter(x)] for i, tag in enumerate(t) if tag != "O"}
            for t, x in sides
        )
        right, predicted, gold = right + len(answers & truth), predicted + len(answers), gold + len(truth)
    scores = score_entities(posts)
    assert scores["gmner_p"] == pytest.approx(right / predicted)
    assert scores["gmner_r"] == pytest.approx(right / gold)
    assert scores["gmner_f"] == pytest.approx(2 * right / (predicted + gold))


def test_no_such_scores_where_nobody_says_or_nothing_is_annotated(vocab):
    posts = make_grounded(vocab)
    silent = [Example(located(vocab, row[0], []), eg.reference) for row, eg in zip(GROUNDED, posts)]
    blank = [Example(eg.predicted, annotated(vocab, row[2], [])) for row, eg in zip(GROUNDED, posts)]
    for examples in (silent, blank):
        assert not [key for key in score_entities(examples) if key[:3] in ("eeg", "gmn")]
