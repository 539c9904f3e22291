import pytest
import spacy
from spacy.scorer import get_ner_prf
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry

from spacy_mmib.evaluation.scorers import make_ner_scorer_v1


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
