import json
import pickle
import random

import pytest
import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import registry

import spacy_mmib.post.extensions  # noqa: F401 (registers doc._.relations)
from spacy_mmib.evaluation.scorers import make_rel_scorer_v1
from spacy_mmib.post.relations import RELATIONS_KEY
from spacy_mmib.util import MMIBWarning

WORDS = ["w0", "w1", "w2", "w3", "w4", "w5"]
KEYS = {f"rel_{kind}_{key}" for kind in ("micro", "macro", "strict") for key in "prf"} | {
    "rel_per_type",
    "rel_accuracy",
}
VOCAB = spacy.blank("en").vocab


def make_doc(rows, words=WORDS):
    """rows: (head token, tail token, label[, head type, tail type]), or None: not annotated."""
    doc = Doc(VOCAB, words=words)
    if rows is not None:
        doc._.relations = [
            (
                Span(doc, head, head + 1, label=(types or ("", ""))[0]),
                Span(doc, tail, tail + 1, label=(types or ("", ""))[1]),
                label,
            )
            for head, tail, label, *types in rows
        ]
    return doc


def score(*posts, negative_label="None"):
    """posts: (predicted rows, gold rows)."""
    examples = [Example(make_doc(predicted), make_doc(gold)) for predicted, gold in posts]
    return make_rel_scorer_v1(negative_label)(examples)


def prf(scores, kind="micro"):
    return tuple(scores[f"rel_{kind}_{key}"] for key in "prf")


# A second computation, by listing decisions one by one instead of counting.


def fits(gold_types, types):
    return all(g in ("", t) for g, t in zip(gold_types, types))


def harmonic(p, r):
    return 0.0 if p + r == 0 else 2 / (1 / p + 1 / r) if p and r else 0.0


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def by_lists(posts, negative="None"):
    """Each prediction is (label, right, right and typed), each gold relation (label, found, ...)."""
    said, true, correct = [], [], []
    posts = [(predicted or [], gold) for predicted, gold in posts if gold is not None]
    if not posts:
        return dict.fromkeys(KEYS)
    for predicted, gold in posts:
        rows = [(h, t, label, tuple(types) or ("", "")) for h, t, label, *types in gold]
        unknown = {(h, t) for h, t, label, _ in rows if label == ""}
        for pair in {(row[0], row[1]) for row in [*predicted, *gold]} - unknown:
            instances = [(label, types) for h, t, label, types in rows if (h, t) == pair]
            answers = {}
            for h, t, label, *types in predicted:
                if (h, t) == pair and label not in ("", negative) and label not in answers:
                    answers[label] = tuple(types) or ("", "")
            for label, types in instances:
                correct.append(label in answers if answers else label == negative)
                if label != negative:
                    hit = label in answers
                    true.append((label, hit, hit and fits(types, answers[label])))
            for label, types in answers.items():
                hits = [(g == label, g == label and fits(gt, types)) for g, gt in instances]
                if len(answers) == 1:
                    said += [(label, *hit) for hit in hits or [(False, False)]]
                else:
                    said.append((label, any(h for h, _ in hits), any(h for _, h in hits)))
    labels = sorted({row[0] for row in said} | {row[0] for row in true})
    per_type = {}
    for label in labels:
        p = mean(right for name, right, _ in said if name == label)
        r = mean(right for name, right, _ in true if name == label)
        per_type[label] = {"p": p, "r": r, "f": harmonic(p, r)}
    scores = {"rel_per_type": per_type, "rel_accuracy": mean(correct)}
    for kind, column in (("micro", 1), ("strict", 2)):
        p, r = mean(row[column] for row in said), mean(row[column] for row in true)
        scores.update({f"rel_{kind}_p": p, f"rel_{kind}_r": r, f"rel_{kind}_f": harmonic(p, r)})
    for key in "prf":
        scores[f"rel_macro_{key}"] = mean(row[key] for row in per_type.values())
    return scores


def as_published(golden, answers, negative="None"):
    """Lists of labels, one an instance, as MNRE's systems are evaluated."""
    both = sum(g == a != negative for g, a in zip(golden, answers))
    p = both / max(1, sum(a != negative for a in answers))
    r = both / max(1, sum(g != negative for g in golden))
    accuracy = sum(g == a for g, a in zip(golden, answers)) / max(1, len(golden))
    return {"rel_micro_p": p, "rel_micro_r": r, "rel_micro_f": harmonic(p, r), "rel_accuracy": accuracy}


def draw_rows(rng, labels, *, n, pairs):
    types = ["", "PER", "ORG"]
    return [
        (*rng.choice(pairs), rng.choice(labels), rng.choice(types), rng.choice(types))
        for _ in range(rng.randint(0, n))
    ]


def assert_same(found, expected):
    assert found.keys() == expected.keys() == KEYS
    assert list(found["rel_per_type"] or ()) == list(expected["rel_per_type"] or ())
    for key, value in expected.items():
        if key == "rel_per_type":
            for label in value or ():
                assert found[key][label] == pytest.approx(value[label]), label
        else:
            assert found[key] == (value if value is None else pytest.approx(value)), key


@pytest.mark.parametrize("seed", range(300))
def test_random_posts_against_a_second_computation(seed):
    rng = random.Random(seed)
    # Few pairs make repeated ones; many make pairs that are in one of the two only.
    everything = [(h, t) for h in range(6) for t in range(6) if h != t]
    pairs = rng.sample(everything, rng.choice([2, 4, 12]))
    labels = ["None", "a", "b", "c"] + [""] * (seed % 2)
    posts = []
    for _ in range(rng.randint(1, 20)):
        gold = draw_rows(rng, labels, n=6, pairs=pairs)
        near = [row for row in gold if rng.random() < 0.6]
        predicted = near + draw_rows(rng, labels, n=3, pairs=pairs)
        rng.shuffle(predicted)
        posts.append((predicted, None if rng.random() < 0.1 else gold))
    assert_same(score(*posts), by_lists(posts))


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("seed", range(100))
def test_equals_the_published_formula_over_given_pairs(seed, repeated):
    rng = random.Random(seed)
    labels = ["None", "None", "a", "b", "c"]
    golden, answers, posts = [], [], []
    for _ in range(rng.randint(1, 30)):
        predicted, gold = [], []
        for head, tail in rng.sample([(h, t) for h in range(6) for t in range(6)], 5):
            answer = rng.choice(labels)
            predicted.append((head, tail, answer))
            for _ in range(rng.randint(1, 3) if repeated else 1):
                gold.append((head, tail, rng.choice([answer, *labels])))
                golden.append(gold[-1][2])
                answers.append(answer)
        posts.append((predicted, gold))
    scores = score(*posts)
    for key, value in as_published(golden, answers).items():
        assert scores[key] == pytest.approx(value), key


def test_counts_by_hand():
    scores = score(
        # right; wrong label; missed; right that there is none
        ([(0, 1, "a"), (1, 0, "a"), (3, 4, "None")], [(0, 1, "a"), (1, 0, "b"), (2, 3, "b"), (3, 4, "None")]),
        # wrong, as it isn't annotated; wrong, as there is none
        ([(0, 5, "b"), (0, 1, "a")], [(0, 1, "None")]),
    )
    assert prf(scores) == pytest.approx((1 / 4, 1 / 3, 2 / 7))
    assert scores["rel_per_type"] == {
        "a": pytest.approx({"p": 1 / 3, "r": 1.0, "f": 0.5}),
        "b": {"p": 0.0, "r": 0.0, "f": 0.0},
    }
    assert list(scores["rel_per_type"]) == ["a", "b"]
    assert prf(scores, "macro") == pytest.approx((1 / 6, 1 / 2, 1 / 4))
    assert scores["rel_accuracy"] == pytest.approx(2 / 5)
    assert json.loads(json.dumps(scores)) == scores


def test_direction_matters():
    assert prf(score(([(1, 0, "a")], [(0, 1, "a")]))) == (0.0, 0.0, 0.0)


def test_one_answer_for_a_repeated_pair_counts_for_each():
    gold = [(0, 1, "a"), (0, 1, "a"), (0, 1, "b"), (0, 1, "None")]
    scores = score(([(0, 1, "a")], gold))
    assert prf(scores) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert scores["rel_accuracy"] == pytest.approx(2 / 4)


def test_several_answers_for_a_pair_count_once_each():
    gold = [(0, 1, "a"), (0, 1, "a"), (0, 1, "b")]
    scores = score(([(0, 1, "a"), (0, 1, "c")], gold))
    assert prf(scores) == pytest.approx((1 / 2, 2 / 3, 4 / 7))
    assert prf(score(([(0, 1, "a"), (0, 1, "b")], gold))) == pytest.approx((1.0, 1.0, 1.0))


def test_the_same_prediction_twice_counts_once():
    gold = [(0, 1, "a"), (2, 3, "b")]
    once, twice = [(0, 1, "a"), (2, 3, "a")], [(0, 1, "a"), (2, 3, "a"), (2, 3, "a")]
    assert score((twice, gold)) == score((once, gold))
    # Nor does it make one answer into several.
    assert prf(score(([(0, 1, "a")] * 2, [(0, 1, "a")] * 3))) == (1.0, 1.0, 1.0)


def test_negative_and_unanswered_predictions_are_none():
    gold = [(0, 1, "a"), (1, 2, "None")]
    silent = score(([], gold))
    assert score(([(0, 1, "None"), (1, 2, "None")], gold)) == silent
    assert score(([(0, 1, ""), (1, 2, "")], gold)) == silent
    assert silent["rel_accuracy"] == 0.5


def test_unknown_gold_counts_neither_way():
    known = ([(0, 1, "a"), (1, 2, "b")], [(0, 1, "a"), (1, 2, "a")])
    asked = ([*known[0], (3, 4, "a"), (4, 5, "x")], [*known[1], (3, 4, ""), (4, 5, ""), (5, 4, "")])
    assert score(asked) == score(known)
    # The unknown one may be what was predicted.
    both = ([*known[0], (3, 4, "b")], [*known[1], (3, 4, "a"), (3, 4, "")])
    assert score(both) == score(known)


def test_other_negative_label():
    posts = ([(0, 1, "NA"), (1, 2, "None")], [(0, 1, "NA"), (1, 2, "None")])
    assert list(score(posts, negative_label="NA")["rel_per_type"]) == ["None"]
    assert list(score(posts)["rel_per_type"]) == ["NA"]
    with pytest.raises(ValueError, match="not known"):
        make_rel_scorer_v1(negative_label="")


def test_strict_wants_the_types():
    gold = [(0, 1, "a", "PER", "ORG")]
    assert prf(score(([(0, 1, "a", "PER", "ORG")], gold)), "strict") == (1.0, 1.0, 1.0)
    for types in (("PER", "LOC"), ("LOC", "ORG"), ("ORG", "PER"), ("", "")):
        scores = score(([(0, 1, "a", *types)], gold))
        assert prf(scores, "strict") == (0.0, 0.0, 0.0)
        assert prf(scores) == (1.0, 1.0, 1.0)
    half = [(0, 1, "a", "", "ORG")]
    assert prf(score(([(0, 1, "a", "PER", "ORG")], half)), "strict") == (1.0, 1.0, 1.0)
    assert prf(score(([(0, 1, "a", "PER", "LOC")], half)), "strict") == (0.0, 0.0, 0.0)
    assert prf(score(([(0, 1, "b", "PER", "ORG")], gold)), "strict") == (0.0, 0.0, 0.0)


def test_other_tokens():
    coarse = make_doc([], words=["New York", "loves", "Mia Lee"])
    fine = make_doc([], words=["New", "York", "loves", "Mia", "Lee"])
    assert coarse.text == fine.text
    fine._.relations = [((0, 2), (3, 5), "a"), ((3, 5), (0, 1), "b")]
    coarse._.relations = [((0, 1), (2, 3), "a"), ((2, 3), (0, 1), "b")]
    scorer = make_rel_scorer_v1()
    # "New" is not "New York".
    for example in (Example(coarse, fine), Example(fine, coarse)):
        assert prf(scorer([example])) == (0.5, 0.5, 0.5)


def test_posts_that_are_not_annotated_are_left_out():
    known = ([(0, 1, "a"), (2, 3, "a")], [(0, 1, "a")])
    assert score(known, ([(0, 1, "b")], None)) == score(known)
    nothing = score(([(0, 1, "b")], None), (None, None))
    assert nothing == score() == dict.fromkeys(KEYS)


def test_annotated_with_none_at_all():
    wrong = score(([(0, 1, "a")], []))
    assert prf(wrong) == (0.0, 0.0, 0.0)
    assert list(wrong["rel_per_type"]) == ["a"]
    for empty in (score(([], [])), score((None, [])), make_rel_scorer_v1()([empty_post()])):
        assert empty.pop("rel_per_type") == {}
        assert set(empty.values()) == {0.0}


def empty_post():
    return Example(make_doc([], words=[]), make_doc([], words=[]))


def test_damaged_relations_take_no_other_post_down():
    good = Example(make_doc([(0, 1, "a")]), make_doc([(0, 1, "a")]))
    damaged = Example(make_doc([(0, 1, "a")]), make_doc([]))
    damaged.reference.user_data[RELATIONS_KEY] = [[0, 2, "", 900, 902, "", "a", None]]
    scorer = make_rel_scorer_v1()
    with pytest.warns(MMIBWarning, match="gold ones of a post"):
        assert scorer([damaged, good]) == scorer([good])
    silent = Example(make_doc([]), make_doc([(0, 1, "a")]))
    expected = scorer([silent, good])
    silent.predicted.user_data[RELATIONS_KEY] = "not relations"
    with pytest.warns(MMIBWarning, match="counts as one without relations"):
        assert scorer([silent, good]) == expected


def test_registered():
    config = {"scorer": {"@scorers": "spacy-mmib.rel_scorer.v1", "negative_label": "NA"}}
    posts = [Example(make_doc([(0, 1, "NA")]), make_doc([(0, 1, "NA"), (1, 2, "a")]))]
    scorer = registry.resolve(config)["scorer"]
    assert scorer(posts, some_setting_of_a_pipeline=1)["rel_accuracy"] == 0.5
    assert pickle.loads(pickle.dumps(scorer))(posts) == scorer(posts)
