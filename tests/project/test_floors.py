import sys
from dataclasses import replace

import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

import spacy_mmib.post.extensions  # noqa: F401 (registers doc._.relations)
from project.floors import (
    FLOORS,
    fit_bag_of_words,
    fit_dictionary,
    fit_relation,
    fit_tags,
    get_features,
    predict_floor,
    read,
)

VOCAB = spacy.blank("en").vocab
PEOPLE, CLUBS = ["Ana", "Bo", "Cy", "Di"], ["Reds", "Blues", "Greens"]


def make_doc(words, head, tail, label):
    doc = Doc(VOCAB, words=words)
    spans = [Span(doc, start, end, label="ENTITY") for start, end in (head, tail)]
    doc.set_ents(spans)
    doc._.relations = [(*spans, label)]
    return doc


def make_docs(people=PEOPLE):
    docs = []
    for person in people:
        for club in CLUBS:
            docs.append(make_doc([person, "plays", "for", club], (0, 1), (3, 4), "member"))
            docs.append(make_doc([person, "hates", "the", club], (0, 1), (3, 4), "None"))
            # The same words: only their order tells these two apart.
            docs.append(make_doc([person, "beat", club], (0, 1), (2, 3), "won"))
            docs.append(make_doc([club, "beat", person], (2, 3), (0, 1), "lost"))
    return docs


def ask(docs):
    """Examples whose predicted docs have the pairs without their labels."""
    examples = []
    for gold in docs:
        predicted = Doc(VOCAB, words=[token.text for token in gold])
        predicted._.relations = [(r.head, r.tail, "") for r in gold._.relations]
        examples.append(Example(predicted, gold))
    return examples


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split, people in (("train", PEOPLE), ("dev", ["Ed"]), ("test", ["Flo", "Gus"])):
        DocBin(store_user_data=True, docs=make_docs(people)).to_disk(folder / f"{split}.spacy")
    return folder


def test_features_tell_head_from_tail_and_order():
    pair = make_doc(["Ana", "beat", "Reds"], (0, 1), (2, 3), "won")._.relations[0]
    turned = replace(pair, head=pair.tail, tail=pair.head)
    plain = get_features(pair, between=False)
    assert {"h=ana", "t=reds", "w=beat", "w=ana beat"} <= set(plain)
    assert get_features(turned, between=False) != plain
    assert {"between=beat", "first=head"} <= set(get_features(pair, between=True))
    assert "first=tail" in get_features(turned, between=True)


def test_features_of_overlapping_spans():
    doc = Doc(VOCAB, words=["Ana", "Reds", "play"])
    doc._.relations = [((0, 2), (1, 2), "a")]
    found = get_features(doc._.relations[0], between=True)
    assert not [name for name in found if name.startswith("between=")]
    assert {"h=ana", "h=reds", "t=reds"} <= set(found)


def test_bag_of_words_learns_and_answers_every_pair():
    pytest.importorskip("sklearn")
    dev = ask(make_docs(["Ed"]))
    annotate = fit_bag_of_words(ask(make_docs()), dev, between=True)
    # Dev chose, but was not answered on the way.
    assert {r.label for eg in dev for r in eg.predicted._.relations} == {""}
    test = ask(make_docs(["Flo", "Gus"]))
    annotate([eg.predicted for eg in test])
    for example in test:
        found, gold = example.predicted._.relations, example.reference._.relations
        assert [(r.pair, r.label) for r in found] == [(r.pair, r.label) for r in gold]
    nothing = Doc(VOCAB, words=["no", "pair"])
    annotate([nothing])
    assert nothing._.relations == []


def test_gold_labels_are_not_seen(data):
    for split in ("train", "dev", "test"):
        examples = read(data / f"{split}.spacy")
        assert {r.label for eg in examples for r in eg.predicted._.relations} == {""}
        assert "" not in {r.label for eg in examples for r in eg.reference._.relations}
    assert len(read(data / "train.spacy", 5)) == 5


def make_tagged(text):
    """A post of words, some of them as word/TAG."""
    pairs = [word.partition("/")[::2] for word in text.split()]
    return Doc(VOCAB, words=[word for word, _ in pairs], ents=[tag or "O" for _, tag in pairs])


TAGGED = [
    "New/B-LOC York/I-LOC wins",
    "New/B-ORG York/I-ORG Times/I-ORG",
    "New/B-LOC York/I-LOC is new",
    "Rob/B-PER likes York/B-LOC",
]


def find(fit, text):
    doc = make_tagged(text)
    train = [Example(Doc(VOCAB, words=[t.text for t in gold]), gold) for gold in map(make_tagged, TAGGED)]
    fit(train, [])([doc])
    return [(ent.text, ent.label_) for ent in doc.ents]


def test_a_dictionary_finds_the_longest_with_its_most_frequent_label():
    assert find(fit_dictionary, "New York Times and New York") == [
        ("New York Times", "ORG"),
        ("New York", "LOC"),
    ]
    # Case matters; what is left of a longer one is found where it is one itself.
    assert find(fit_dictionary, "rob saw Rob in York Times") == [("Rob", "PER"), ("York", "LOC")]
    assert find(fit_dictionary, "nothing here") == []


def test_most_frequent_tags():
    # New is B-LOC two times of three; York is I-LOC two times of four.
    assert find(fit_tags, "New York Times") == [("New York", "LOC"), ("Times", "ORG")]
    assert find(fit_tags, "New is York unknown") == [("New", "LOC"), ("York", "LOC")]


def test_the_most_frequent_relation():
    train = ask(make_docs())
    found = ask(make_docs(["Ed"]))
    fit_relation(train, [])([eg.predicted for eg in found])
    # All are as frequent as "None", which isn't chosen; the first in the alphabet is.
    assert {r.label for eg in found for r in eg.predicted._.relations} == {"lost"}


@pytest.mark.parametrize("floor", FLOORS)
def test_floors_as_cells(data, floor):
    pytest.importorskip("sklearn")
    paths = {split: str(data / f"{split}.spacy") for split in ("train", "dev")}
    cell = {"floor": floor, "test": str(data / "test.spacy"), "limit": 3, "image_root": None}
    examples, more = predict_floor(cell, {"paths": paths})
    assert len(examples) == 3
    assert more["task"] == ("entities" if floor in ("tags", "dictionary") else "relations")
    if more["task"] == "relations":
        assert all(r.label for eg in examples for r in eg.predicted._.relations)
    else:
        # Clubs are those of training.
        assert [[e.text for e in eg.predicted.ents] for eg in examples] == [["Reds"]] * 3


def test_pictures_in_another_folder_are_not_missing(tmp_path, recwarn):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(b"never opened")
    doc = make_docs(["Ed"])[0]
    doc._.image = "1.jpg"
    DocBin(store_user_data=True, docs=[doc]).to_disk(tmp_path / "test.spacy")
    (example,) = read(tmp_path / "test.spacy", image_root=tmp_path / "pictures")
    assert example.predicted._.image_error is None
    assert not recwarn.list


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ImportError, match=r"spacy-mmib\[audit\]"):
        fit_bag_of_words([], [], between=False)
