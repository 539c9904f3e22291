"""`doc._.relations`: what it takes, what it gives, and that it is kept everywhere."""

import json
import pickle

import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span

import spacy_mmib.post.extensions  # noqa: F401
from spacy_mmib.post.relations import RELATIONS_KEY, Relation, get_relations, has_relations, relations_to_json


@pytest.fixture
def doc() -> Doc:
    nlp = spacy.blank("en")
    doc = nlp.make_doc("Rob met Mia Lee in Oslo 😂 today")
    doc.ents = [Span(doc, 0, 1, label="PER"), Span(doc, 2, 4, label="PER")]
    doc._.relations = [
        (doc.ents[0], doc.ents[1], "couple", 0.75),
        {"head": (2, 4), "tail": {"start": 19, "end": 23, "label": "LOC"}, "label": "lives in"},
        ((2, 4), (3, 4), "overlap"),
        ((0, 1), (2, 4), ""),
    ]
    return doc


def rows(doc: Doc) -> list[tuple]:
    return [
        (r.head.text, r.head.label_, r.tail.text, r.tail.label_, r.label, r.score) for r in doc._.relations
    ]


ROWS = [
    ("Rob", "PER", "Mia Lee", "PER", "couple", 0.75),
    ("Mia Lee", "", "Oslo", "LOC", "lives in", None),
    ("Mia Lee", "", "Lee", "", "overlap", None),
    ("Rob", "", "Mia Lee", "", "", None),
]


def test_forms_that_are_taken(doc):
    assert rows(doc) == ROWS
    assert all(r.head.doc is doc and r.tail.doc is doc for r in doc._.relations)
    doc._.relations = iter(doc._.relations)  # what it gives, it takes
    assert rows(doc) == ROWS
    doc._.relations = relations_to_json(doc)
    assert rows(doc) == ROWS


@pytest.mark.parametrize("way", ["copy", "bytes", "pickle", "docbin"])
def test_ways_to_keep_them(doc, way, tmp_path):
    if way == "copy":
        other = doc.copy()
    elif way == "bytes":
        other = Doc(doc.vocab).from_bytes(doc.to_bytes())
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(doc))
    else:
        DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "x.spacy")
        loaded = DocBin().from_disk(tmp_path / "x.spacy")
        (other,) = loaded.get_docs(spacy.blank("de").vocab)
    assert rows(other) == ROWS
    assert all(r.head.doc is other for r in other._.relations)
    other._.relations = []
    assert rows(doc) == ROWS


def test_json_is_plain_and_complete(doc):
    first = json.loads(json.dumps(relations_to_json(doc)))[0]
    assert first == {
        "head": {"start": 0, "end": 3, "start_token": 0, "end_token": 1, "text": "Rob", "label": "PER"},
        "tail": {"start": 8, "end": 15, "start_token": 2, "end_token": 4, "text": "Mia Lee", "label": "PER"},
        "label": "couple",
        "score": 0.75,
    }


def test_none_is_not_the_same_as_no_relation():
    doc = spacy.blank("en").make_doc("Rob")
    assert doc._.relations == []
    assert not has_relations(doc)
    doc._.relations = []
    assert has_relations(doc.copy())
    doc._.relations = None
    assert not has_relations(doc)
    assert not has_relations(spacy.blank("en").make_doc(""))


def test_other_tokens_of_the_same_text(doc):
    other = Doc(doc.vocab, words=["Rob", "met", "Mia Lee", "in", "Os", "lo", "😂", "today"],
                spaces=[True] * 4 + [False, True, True, False])  # fmt: skip
    assert other.text == doc.text
    other.user_data[RELATIONS_KEY] = doc.user_data[RELATIONS_KEY]
    assert [(r.head.text, r.tail.text) for r in other._.relations][:3] == [
        ("Rob", "Mia Lee"),
        ("Mia Lee", "Oslo"),
        ("Mia Lee", "Mia Lee"),  # no token of its own: the whole token it touches
    ]
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[2:4])
    assert [r.tail.text for r in doc._.relations][:2] == ["Mia Lee", "Oslo"]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (5, TypeError, "takes a list.*got int"),
        ("couple", TypeError, "takes a list.*got str"),
        ({"head": (0, 1)}, TypeError, "takes a list.*got dict"),
        ([5], TypeError, r"relations\[0\]: it is '5', but it takes a Relation"),
        ([((0, 1), (1, 2))], TypeError, r"relations\[0\]: it is .*tuple \(head, tail, label\)"),
        ([{"head": (0, 1), "label": "x"}], TypeError, r"relations\[0\]: it lacks tail"),
        ([((0, 1), (1, 2), None)], TypeError, "the label is a string"),
        ([((0, 1), (1, 2), "x", "high")], TypeError, "score is a number or None"),
        ([((0, 1), (1, 2), "x", float("nan"))], ValueError, "score is nan"),
        ([((0, 1), "Mia", "x")], TypeError, "'Mia' is no span"),
        ([((0.0, 1.0), (1, 2), "x")], TypeError, "token offsets are whole numbers"),
        ([((0, 1), (1, 99), "x")], ValueError, "tokens 1 to 99 are not in a doc of 8 tokens"),
        ([((1, 1), (1, 2), "x")], ValueError, "tokens 1 to 1 are not in"),
        ([((-1, 1), (1, 2), "x")], ValueError, "tokens -1 to 1 are not in"),
        ([({"start": 0, "end": 999}, (1, 2), "x")], ValueError, "0 to 999 are no span of a text"),
        ([({"start": "a", "end": 9}, (1, 2), "x")], TypeError, "characters are whole numbers"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(doc, value, error, message):
    with pytest.raises(error, match=message):
        doc._.relations = value
    assert rows(doc) == ROWS


def test_spans_of_another_doc(doc):
    nlp = spacy.blank("en")
    same, other = nlp.make_doc(doc.text), nlp.make_doc("Mia met Rob Lee in Oslo")
    doc._.relations = [Relation(same[0:1], same[2:4], "couple")]
    assert doc._.relations[0].head.doc is doc
    with pytest.raises(ValueError, match="the span 'Mia' is of another doc"):
        doc._.relations = [Relation(other[0:1], other[2:4], "couple")]


@pytest.mark.parametrize(
    "stored",
    [
        "couple",
        7,
        [1],
        [[0, 3, "PER", 8, 15, "PER", "couple"]],
        [[0, 999, "", 8, 15, "", "couple", None]],
        [[0, 3, "", 8, 15, "", "couple", "high"]],
        [[0, None, "", 8, 15, "", "couple", None]],
    ],
)
def test_what_a_stranger_stored(doc, stored):
    doc.user_data[RELATIONS_KEY] = stored
    with pytest.raises(ValueError, match=r"doc\._\.relations.* of 'Rob met Mia"):
        get_relations(doc)
