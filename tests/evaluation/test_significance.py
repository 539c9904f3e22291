import itertools
import random

import numpy
import pytest
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab

import spacy_mmib.post.extensions  # noqa: F401 (registers doc._.relations)
from spacy_mmib.evaluation.scorers import (
    count_document_entities,
    count_document_relations,
    get_prf,
    make_ner_scorer_v1,
    score_relations,
    sum_counts,
)
from spacy_mmib.evaluation.significance import compare_f1

VOCAB = Vocab()


def f1(counts):
    return get_prf(sum_counts(counts))[2]


def make_system(n, accuracy, seed):
    """Counts of documents with two gold labels each, of which a system finds some and invents some."""
    rng = random.Random(seed)
    counts = []
    for _ in range(n):
        right = sum(rng.random() < accuracy for _ in range(2))
        counts.append((right + (rng.random() < 0.3), right, 2, right))
    return counts


def exact_p(a, b):
    """All ways to exchange documents, one by one."""
    observed = abs(f1(a) - f1(b))
    hits = total = 0
    for swaps in itertools.product((False, True), repeat=len(a)):
        x = [d if swap else c for c, d, swap in zip(a, b, swaps)]
        y = [c if swap else d for c, d, swap in zip(a, b, swaps)]
        hits += abs(f1(x) - f1(y)) >= observed - 1e-12
        total += 1
    return hits / total


@pytest.mark.parametrize("seed", range(4))
def test_few_documents_give_the_exact_p(seed):
    a, b = make_system(9, 0.9, seed), make_system(9, 0.4, seed + 100)
    result = compare_f1([a], [b])
    assert result.f == pytest.approx(f1(a) - f1(b))
    assert result.p == pytest.approx(exact_p(a, b), abs=1e-9)


def test_many_documents_come_near_to_it():
    # 13 documents have 8,192 exchanges: fewer resamples than that are drawn at random.
    a, b = make_system(13, 0.8, 1), make_system(13, 0.5, 2)
    assert compare_f1([a], [b], resamples=3000).p == pytest.approx(exact_p(a, b), abs=0.03)


def test_a_clear_difference_and_none():
    good, bad = make_system(300, 0.9, 0), make_system(300, 0.6, 1)
    assert compare_f1([good], [bad]).p < 0.001
    assert compare_f1([bad], [good]).f < 0
    assert compare_f1([good], [good]) == (0.0, 1.0)
    assert compare_f1([good], [make_system(300, 0.9, 7)]).p > 0.05


def test_chance_is_called_significant_as_often_as_it_says():
    ps = [
        compare_f1([make_system(60, 0.7, 2 * i)], [make_system(60, 0.7, 2 * i + 1)], resamples=199).p
        for i in range(150)
    ]
    assert 0 < numpy.mean(numpy.array(ps) < 0.1) < 0.2


def test_it_is_the_same_each_time_and_in_both_directions():
    a, b = make_system(80, 0.8, 0), make_system(80, 0.7, 1)
    assert compare_f1([a], [b]) == compare_f1([a], [b])
    assert compare_f1([a], [b]).p == pytest.approx(compare_f1([b], [a]).p, abs=0.02)


def test_runs_are_added_by_document():
    runs = [[make_system(50, accuracy, 10 * s) for s in range(3)] for accuracy in (0.8, 0.6)]
    added = [[tuple(map(sum, zip(*doc))) for doc in zip(*system)] for system in runs]
    assert compare_f1(*runs) == compare_f1([added[0]], [added[1]])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([make_system(3, 1, 0)], [make_system(4, 1, 0)], "same documents"),
        ([make_system(3, 1, 0)] * 2, [make_system(3, 1, 0)], "same number of runs"),
        ([[(1, 1, 1, 1)]], [[(1, 1, 2, 1)]], "numbers of gold labels"),
        ([make_system(3, 1, 0), make_system(4, 1, 0)], [[]], "different numbers"),
        ([], [], "no run"),
    ],
)
def test_what_cant_be_compared(first, second, message):
    with pytest.raises(ValueError, match=message):
        compare_f1(first, second)


def make_example(gold, predicted, words=("Rob", "met", "Mia", "Kim", "in", "Oslo")):
    return Example(Doc(VOCAB, words=words, ents=predicted), Doc(VOCAB, words=words, ents=gold))


def test_entity_counts_add_up_to_spacys_scores():
    rng = random.Random(0)
    tags = ("O", "B-PER", "B-LOC")
    examples = [
        make_example([rng.choice(tags) for _ in range(6)], [rng.choice(tags) for _ in range(6)])
        for _ in range(40)
    ]
    scores = make_ner_scorer_v1()(examples)
    p, r, f = get_prf(sum_counts([count_document_entities(eg) for eg in examples]))
    assert (p, r, f) == pytest.approx([scores[f"ents_{key}"] for key in "prf"])


def test_entities_of_posts_that_are_not_annotated_dont_count():
    doc = Doc(VOCAB, words=["Rob", "sleeps"], ents=["B-PER", "O"])
    assert count_document_entities(Example(doc, Doc(VOCAB, words=["Rob", "sleeps"]))) == (0,) * 4


def test_relation_counts_add_up_to_the_scorers():
    examples = []
    rng = random.Random(1)
    for _ in range(30):
        docs = []
        for _ in range(2):
            doc = Doc(VOCAB, words=["Rob", "met", "Mia"], ents=["B-PER", "O", "B-PER"])
            pairs = [((0, 1), (2, 3)), ((2, 3), (0, 1))]
            doc._.relations = [(*p, rng.choice(["couple", "team", "None"])) for p in pairs]
            docs.append(doc)
        examples.append(Example(*docs))
    scores = score_relations(examples)
    found = get_prf(sum_counts([count_document_relations(eg) for eg in examples]))
    assert found == pytest.approx([scores[f"rel_micro_{key}"] for key in "prf"])
    assert count_document_relations(make_example(["O"] * 6, ["O"] * 6)) == (0,) * 4


def test_nothing_at_all():
    assert sum_counts([]) == (0, 0, 0, 0)
    assert get_prf((0, 0, 0, 0)) == (0.0, 0.0, 0.0)


def test_a_single_document_that_differs_says_nothing():
    same, other = [[1, 1, 1, 1], [2, 1, 1, 1]], [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert compare_f1([same], [other]).p == 1.0
