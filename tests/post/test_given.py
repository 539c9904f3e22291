"""Relations through the reader: gold ones stay on the reference, and what of them is given."""

import warnings

import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import registry

from spacy_mmib.post.given import give, give_entities, give_pairs
from spacy_mmib.post.relations import RELATIONS_KEY, has_relations
from spacy_mmib.training.corpus import MultimodalCorpus

WORDS = ["Rob", "of", "Lee", "Ltd", ".", "Ann", "met", "Rob", "."]
RELATIONS = [
    ((0, 1), (2, 4), "/per/org/member_of"),
    ((2, 3), (2, 4), "/org/org/alternate_names"),  # overlapping
    ((5, 6), (7, 8), "None"),
    ((0, 1), (5, 6), "/per/per/peer"),  # between the sentences
    ((0, 1), (2, 4), "/per/org/founder"),  # the pair of the first again
]


@pytest.fixture
def nlp():
    return spacy.blank("en")


def make_reference(nlp, relations=RELATIONS, *, spaces=True, sents=False):
    doc = Doc(
        nlp.vocab,
        words=WORDS,
        spaces=[True] * len(WORDS) if spaces else None,
        sent_starts=[i in (0, 5) for i in range(len(WORDS))] if sents else None,
        ents=["B-PER", "O", "B-ORG", "I-ORG", "O", "B-PER", "O", "B-PER", "O"],
    )
    if relations is not None:
        doc._.relations = [
            (Span(doc, *head, label="HEAD"), Span(doc, *tail, label="TAIL"), label)
            for head, tail, label in relations
        ]
    return doc


@pytest.fixture
def save(tmp_path):
    def save(*docs):
        DocBin(store_user_data=True, docs=docs).to_disk(tmp_path / "train.spacy")
        return tmp_path / "train.spacy"

    return save


def read(corpus, nlp):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        examples = list(corpus(nlp))
    return examples, [str(w.message) for w in caught]


def texts(doc):
    return [(r.head.text, r.tail.text, r.label) for r in doc._.relations]


def resolve_augmenter(name, **settings):
    return registry.resolve({"a": {"@augmenters": name, **settings}})["a"]


ORTH = {"level": 1.0, "lower": 1.0, "orth_variants": {"single": [], "paired": []}}


@pytest.mark.parametrize("given", ["none", "entities", "pairs"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gold_preproc": True},
        {"max_length": 6},
        {"augmenter": resolve_augmenter("spacy.lower_case.v1", level=1.0)},
        {"augmenter": resolve_augmenter("spacy.orth_variants.v1", **ORTH)},
        {"augmenter": lambda nlp, example: [Example(example.reference.copy(), example.reference)]},
    ],
)
def test_labels_never_go_to_predicted(nlp, save, settings, given):
    path = save(make_reference(nlp, sents=True))
    examples, _ = read(MultimodalCorpus(path, given=given, **settings), nlp)
    assert len(examples) == (2 if {"gold_preproc", "max_length"} & set(settings) else 1)
    for example in examples:
        assert any(relation.label for relation in example.reference._.relations)
        predicted = example.predicted
        assert {r.label for r in predicted._.relations} <= {""}
        assert has_relations(predicted) == (given == "pairs")
        gold = {r.label for r in example.reference._.relations}
        assert not any(label in str(predicted.user_data) for label in gold - {"None"})


def test_given_none(nlp, save):
    (example,), _ = read(MultimodalCorpus(save(make_reference(nlp))), nlp)
    assert RELATIONS_KEY not in example.predicted.user_data
    assert not example.predicted.has_annotation("ENT_IOB")
    assert len(example.reference._.relations) == 5


def test_given_entities(nlp, save):
    (example,), _ = read(MultimodalCorpus(save(make_reference(nlp)), given="entities"), nlp)
    found = [(ent.text, ent.label_) for ent in example.predicted.ents]
    assert found == [("Rob", "PER"), ("Lee Ltd", "ORG"), ("Ann", "PER"), ("Rob", "PER")]
    assert example.predicted.has_annotation("ENT_IOB")
    assert not has_relations(example.predicted)


@pytest.mark.parametrize("spaces", [True, False])
def test_given_pairs(nlp, save, spaces):
    path = save(make_reference(nlp, spaces=spaces))
    block = {"@readers": "spacy-mmib.Corpus.v1", "path": str(path), "given": "pairs"}
    (example,) = registry.resolve({"corpus": block})["corpus"](nlp)
    predicted = example.predicted
    assert [(r.head.start, r.head.end, r.tail.start, r.tail.end) for r in predicted._.relations] == [
        (0, 1, 2, 4),
        (2, 3, 2, 4),
        (5, 6, 7, 8),
        (0, 1, 5, 6),
    ]
    for relation in predicted._.relations:
        assert (relation.label, relation.score) == ("", None)
        assert (relation.head.label_, relation.tail.label_) == ("HEAD", "TAIL")
    assert len(predicted.ents) == 4
    # The gold ones are as they were.
    assert [r.label for r in example.reference._.relations] == [label for *_, label in RELATIONS]


def test_nothing_annotated_nothing_given(nlp, save):
    docs = [make_reference(nlp, None), make_reference(nlp, []), Doc(nlp.vocab, words=["x"])]
    examples, _ = read(MultimodalCorpus(save(*docs), given="pairs"), nlp)
    assert [has_relations(example.predicted) for example in examples] == [False, True, False]
    assert [has_relations(example.reference) for example in examples] == [False, True, False]
    assert examples[1].predicted._.relations == []
    assert not examples[2].predicted.has_annotation("ENT_IOB")


def test_wrong_value(nlp, tmp_path):
    with pytest.raises(ValueError, match="choose one of none, entities, pairs"):
        MultimodalCorpus(tmp_path, given="labels")
    doc = nlp.make_doc("x")
    with pytest.raises(ValueError, match="choose one of"):
        give(Example(doc, doc.copy()), "labels")


def test_other_tokens(nlp):
    reference = Doc(nlp.vocab, words=["New", "York-based", "Rob"], ents=["B-LOC", "O", "B-PER"])
    reference._.relations = [((2, 3), (0, 1), "/a/b/c"), ((0, 1), (1, 2), "None")]
    words = ["New York", "-based", "Rob"]
    predicted = Doc(nlp.vocab, words=words, spaces=[False, True, True])
    example = Example(predicted, reference)
    give_entities(example)
    # No token of the predicted doc is "New": an answer about "New York" would be right for nobody.
    assert [ent.text for ent in example.predicted.ents] == ["Rob"]
    assert give_pairs(example) == 2
    assert texts(example.predicted) == []


def test_a_pair_that_is_annotated_twice_is_one_question(nlp):
    reference = Doc(nlp.vocab, words=["a", "b", "c"])
    reference._.relations = [((0, 1), (2, 3), "/a/b/c"), ((0, 1), (2, 3), "None")]
    example = Example(Doc(nlp.vocab, words=["a", "b", "c"]), reference)
    assert give_pairs(example) == 0
    assert texts(example.predicted) == [("a", "c", "")]


def test_other_text(nlp):
    """spaCy aligns texts that differ in spaces and case only."""
    reference = Doc(nlp.vocab, words=["Rob", "of", "LeeLtd"])
    reference._.relations = [((0, 1), (2, 3), "/a/b/c"), ((1, 2), (0, 1), "None")]
    spaced = Example(Doc(nlp.vocab, words=[" ", "rob", "of", "lee", "ltd"], spaces=[False] * 5), reference)
    assert give_pairs(spaced) == 0
    assert texts(spaced.predicted) == [("rob", "leeltd", ""), ("of", "rob", "")]
    longer = Doc(nlp.vocab, words=["\u0130" * 3, "of", "Lee"])  # lower-cased: 6 characters
    longer._.relations = [((1, 2), (2, 3), "/a/b/c")]
    lower = Example(Doc(nlp.vocab, words=[word.lower_ for word in longer]), longer)
    assert give_pairs(lower) == 0
    assert texts(lower.predicted) == [("of", "lee", "")]
    glued = Example(Doc(nlp.vocab, words=["robof", "LeeLtd"]), reference)
    assert give_pairs(glued) == 2
    assert glued.predicted._.relations == []


def test_pairs_that_are_lost_are_said(nlp, save):
    path = save(make_reference(nlp))

    def glue(nlp, example):
        doc = Doc(nlp.vocab, words=["".join(WORDS[:4]), *WORDS[4:]], spaces=[False] * 6)
        yield Example(doc, example.reference)

    examples, said = read(MultimodalCorpus(path, given="pairs", augmenter=glue), nlp)
    assert texts(examples[0].predicted) == [("Ann", "Rob", "")]
    assert ["4 pairs could not be given" in line for line in said].count(True) == 1


@pytest.mark.parametrize("settings", [{"gold_preproc": True}, {"max_length": 6}])
@pytest.mark.parametrize("spaces", [True, False])
def test_parts(nlp, save, settings, spaces):
    docs = [make_reference(nlp, r, spaces=spaces, sents=True) for r in (RELATIONS, None, [])]
    path = save(*docs)
    corpus = MultimodalCorpus(path, given="pairs", **settings)
    examples, said = read(corpus, nlp)
    references = [example.reference for example in examples]
    assert [len(reference) for reference in references] == [5, 4] * 3
    assert texts(references[0]) == [
        ("Rob", "Lee Ltd", "/per/org/member_of"),
        ("Lee", "Lee Ltd", "/org/org/alternate_names"),
        ("Rob", "Lee Ltd", "/per/org/founder"),
    ]
    assert texts(references[1]) == [("Ann", "Rob", "None")]
    relation = references[1]._.relations[0]
    assert (relation.head.start, relation.tail.start) == (0, 2)
    assert (relation.head.label_, relation.tail.label_) == ("HEAD", "TAIL")
    assert [has_relations(doc) for doc in references] == [True, True, False, False, True, True]
    assert [token.text for token in examples[1].predicted] == WORDS[5:]
    assert texts(examples[0].predicted) == [("Rob", "Lee Ltd", ""), ("Lee", "Lee Ltd", "")]
    assert texts(examples[1].predicted) == [("Ann", "Rob", "")]
    assert [has_relations(e.predicted) for e in examples] == [True, True, False, False, True, True]
    lines = [line for line in said if "between two sentences" in line]
    assert len(lines) == 1
    assert "train.spacy: 1 relations" in lines[0]
    assert not [line for line in read(corpus, nlp)[1] if "between" in line]


def test_parts_keep_tokens_of_unknown_spaces(nlp, save):
    words = ["don't", "stop", "#NBA", "can't", "lose"]
    doc = Doc(nlp.vocab, words=words, sent_starts=[True, False, False, True, False])
    examples, _ = read(MultimodalCorpus(save(doc), max_length=4), nlp)
    assert [[t.text for t in example.predicted] for example in examples] == [words[:3], words[3:]]


def test_whole_post_loses_nothing(nlp, save):
    path = save(make_reference(nlp, sents=True))
    (example,), said = read(MultimodalCorpus(path, max_length=100), nlp)
    assert len(example.reference._.relations) == 5
    assert not any("relations" in line for line in said)


def test_augmenters_that_move_nothing_keep_relations(nlp, save):
    path = save(make_reference(nlp), make_reference(nlp, None))
    lower = resolve_augmenter("spacy.lower_case.v1", level=1.0)
    examples, said = read(MultimodalCorpus(path, augmenter=lower, given="pairs"), nlp)
    assert examples[0].text.startswith("rob of lee")
    assert texts(examples[0].reference)[:2] == [
        ("rob", "lee ltd", "/per/org/member_of"),
        ("lee", "lee ltd", "/org/org/alternate_names"),
    ]
    assert len(examples[0].reference._.relations) == 5
    assert texts(examples[0].predicted)[0] == ("rob", "lee ltd", "")
    assert len(examples[0].predicted.ents) == 4
    assert not has_relations(examples[1].reference)
    assert not any("augmenter" in line for line in said)


def test_augmenters_that_move_tokens_leave_the_post_unannotated(nlp, save):
    path = save(make_reference(nlp), make_reference(nlp, None))
    whitespace = resolve_augmenter(
        "spacy.combined_augmenter.v1",
        lower_level=0.0,
        orth_level=0.0,
        orth_variants=None,
        whitespace_level=1.0,
        whitespace_per_token=0.2,
        whitespace_variants=["\n"],
    )
    corpus = MultimodalCorpus(path, augmenter=whitespace, given="pairs")
    examples, said = read(corpus, nlp)
    assert "\n" in examples[0].text
    assert not has_relations(examples[0].reference)
    assert not has_relations(examples[0].predicted)
    lines = [line for line in said if "augmenter" in line]
    assert len(lines) == 1
    assert "train.spacy: 1 times an augmenter moved" in lines[0]
    save(*[make_reference(nlp)] * 2)  # the same file, with another number
    assert not [line for line in read(corpus, nlp)[1] if "augmenter" in line]

    def shorten(nlp, example):  # the same characters, but other tokens
        words = ["Rob of", *WORDS[2:]]
        yield Example(example.predicted, Doc(nlp.vocab, words=words, spaces=[True] * len(words)))

    examples, _ = read(MultimodalCorpus(path, augmenter=shorten), nlp)
    assert not has_relations(examples[0].reference)


def test_augmenter_with_relations_of_its_own(nlp, save):
    def swap(nlp, example):
        doc = example.reference.copy()
        doc._.relations = [((7, 8), (5, 6), "/own")]
        yield Example(example.predicted, doc)

    corpus = MultimodalCorpus(save(make_reference(nlp)), augmenter=swap, given="pairs")
    (example,), _ = read(corpus, nlp)
    assert texts(example.reference) == [("Rob", "Ann", "/own")]
    assert texts(example.predicted) == [("Rob", "Ann", "")]


@pytest.mark.parametrize("given", ["none", "pairs"])
@pytest.mark.parametrize("settings", [{}, {"gold_preproc": True}])
def test_damaged_relations_harm_no_other_post(nlp, save, given, settings):
    damaged = make_reference(nlp, sents=True)
    damaged.user_data[RELATIONS_KEY] = [[0, 3, "", 9000, 9001, "", "x", None]]
    path = save(make_reference(nlp), damaged, make_reference(nlp))
    examples, said = read(MultimodalCorpus(path, given=given, **settings), nlp)
    first, *middle, last = [example.reference for example in examples]
    assert len(first._.relations) == len(last._.relations) == 5
    assert len(middle) == (2 if settings else 1)
    assert not any(has_relations(doc) for doc in middle)
    lines = [line for line in said if "can't be read" in line]
    assert len(lines) == 1
    assert "1 posts have relations" in lines[0]
    assert "9000" in lines[0]
