"""Errors by kind, and what pictures have to do with them."""

import json
from itertools import product

import numpy
import pytest
import spacy
from commands import run, save_pairs
from conftest import PAIRS, make_examples, make_rel_examples, make_rel_nlp
from spacy.scorer import get_ner_prf
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab

from spacy_mmib.evaluation.errors import (
    Error,
    compare_pictures,
    count_kinds,
    find_entity_errors,
    find_relation_errors,
    predict_both,
)
from spacy_mmib.evaluation.evaluate import get_roles, predict_examples
from spacy_mmib.evaluation.scorers import count_document_relations
from spacy_mmib.post.relations import RELATIONS_KEY
from spacy_mmib.util import MMIBWarning

VOCAB = Vocab()


def make_example(gold, found, words=("a", "b", "c", "d", "e", "f"), gold_words=None) -> Example:
    reference = Doc(VOCAB, words=list(gold_words or words))
    reference.set_ents([Span(reference, *ent[:2], label=ent[2]) for ent in gold], default="outside")
    predicted = Doc(VOCAB, words=list(words))
    predicted.ents = [Span(predicted, *ent[:2], label=ent[2]) for ent in found]
    return Example(predicted, reference)


def kinds(example):
    return [error.kind for error in find_entity_errors(example)]


A, B = "A", "B"


@pytest.mark.parametrize(
    ("gold", "found", "expected"),
    [
        ([(0, 2, A)], [(0, 2, A)], []),
        ([(0, 2, A)], [(0, 2, B)], [("type", (0, 2, A), (0, 2, B))]),
        ([(0, 2, A)], [(0, 3, A)], [("boundary", (0, 2, A), (0, 3, A))]),
        ([(0, 2, A)], [(1, 3, B)], [("boundary", (0, 2, A), (1, 3, B))]),
        ([(0, 2, A)], [], [("missed", (0, 2, A), None)]),
        ([], [(4, 5, B)], [("spurious", None, (4, 5, B))]),
        ([(0, 1, A)], [(1, 2, A)], [("missed", (0, 1, A), None), ("spurious", None, (1, 2, A))]),
        # One prediction over two gold entities belongs to the one it overlaps most.
        (
            [(0, 1, A), (1, 3, B)],
            [(0, 3, A)],
            [("missed", (0, 1, A), None), ("boundary", (1, 3, B), (0, 3, A))],
        ),
        # Equally long overlaps: the one with its label; then the first.
        (
            [(0, 1, A), (1, 2, B)],
            [(0, 2, B)],
            [("missed", (0, 1, A), None), ("boundary", (1, 2, B), (0, 2, B))],
        ),
        (
            [(0, 1, A), (1, 2, A)],
            [(0, 2, A)],
            [("boundary", (0, 1, A), (0, 2, A)), ("missed", (1, 2, A), None)],
        ),
        # Two predictions in one gold entity.
        (
            [(0, 4, A)],
            [(0, 1, A), (1, 4, A)],
            [("spurious", None, (0, 1, A)), ("boundary", (0, 4, A), (1, 4, A))],
        ),
    ],
)
def test_entity_errors(gold, found, expected):
    errors = find_entity_errors(make_example(gold, found))
    assert sorted(errors, key=str) == sorted((Error("entity", *e) for e in expected), key=str)


def test_the_errors_add_up_to_the_scores():
    """Whatever is annotated and predicted: gold = right + boundary + type + missed, and so on."""
    spans = [(0, 1), (0, 2), (1, 3), (3, 4), (2, 5)]
    choices = [[], *([(*s, label)] for s, label in product(spans, (A, B)))]
    choices += [[(0, 2, A), (2, 5, B)], [(0, 1, B), (1, 3, A), (3, 4, A)]]
    for gold, found in product(choices, choices):
        example = make_example(gold, found)
        errors = kinds(example)
        wrong = len(errors)
        scores = get_ner_prf([example])
        right = len(gold) - (wrong - errors.count("spurious"))
        assert right == len(found) - (wrong - errors.count("missed"))
        if gold:
            assert scores["ents_r"] == pytest.approx(right / len(gold))


def test_what_is_not_annotated_is_no_error():
    example = make_example([], [(0, 1, A)])
    example.reference.set_ents([], missing=[example.reference[0:2]], default="outside")
    assert find_entity_errors(example) == []
    bare = Example(Doc(VOCAB, words=["a"]), Doc(VOCAB, words=["a"]))
    bare.predicted.ents = [Span(bare.predicted, 0, 1, label=A)]
    assert find_entity_errors(bare) == []
    empty = Example(Doc(VOCAB), Doc(VOCAB))
    assert find_entity_errors(empty) == find_relation_errors(empty) == []


def test_other_tokens():
    """Offsets are those of the predicted doc; what is right is what spaCy's scorer says."""
    gold_words = ["Rob", "'s", "New", "York"]
    words = ["Rob's", "New", "Yo", "rk"]
    example = make_example([(2, 4, A)], [(1, 4, A)], words, gold_words)
    assert find_entity_errors(example) == []
    example = make_example([(2, 4, A)], [(1, 4, B)], words, gold_words)
    assert find_entity_errors(example) == [Error("entity", "type", (1, 4, A), (1, 4, B))]
    # "Rob" is no token of its own.
    example = make_example([(0, 1, A)], [(0, 1, A)], words, gold_words)
    assert find_entity_errors(example) == [Error("entity", "boundary", (0, 1, A), (0, 1, A))]
    assert get_ner_prf([example])["ents_f"] == 0
    example = make_example([(3, 4, A)], [], words, gold_words)
    assert find_entity_errors(example) == [Error("entity", "missed", (2, 4, A), None)]


def relation_example(gold, found) -> Example:
    docs = [Doc(VOCAB, words=["a", "b", "c", "d"]) for _ in range(2)]
    for doc, relations in zip(docs, (gold, found)):
        if relations is not None:
            doc._.relations = [((h, h + 1), (t, t + 1), label) for h, t, label in relations]
    return Example(docs[1], docs[0])


@pytest.mark.parametrize(
    ("gold", "found", "expected"),
    [
        ([(0, 1, "x")], [(0, 1, "x")], []),
        ([(0, 1, "x")], [(0, 1, "y")], [("type", (0, 1, 1, 2, "x"), (0, 1, 1, 2, "y"))]),
        ([(0, 1, "x")], [(0, 1, "None")], [("missed", (0, 1, 1, 2, "x"), None)]),
        ([(0, 1, "x")], [], [("missed", (0, 1, 1, 2, "x"), None)]),
        ([(0, 1, "None")], [(0, 1, "y")], [("spurious", None, (0, 1, 1, 2, "y"))]),
        ([], [(2, 3, "y")], [("spurious", None, (2, 3, 3, 4, "y"))]),
        ([(0, 1, "")], [(0, 1, "y")], []),  # not known
        ([(0, 1, "None")], [(0, 1, "")], []),
        ([(0, 1, "x"), (0, 1, "x")], [(0, 1, "x")], []),  # annotated twice
        (
            [(0, 1, "x"), (0, 1, "z")],
            [(0, 1, "x"), (0, 1, "a"), (0, 1, "b")],
            [
                ("type", (0, 1, 1, 2, "z"), (0, 1, 1, 2, "a")),
                ("spurious", None, (0, 1, 1, 2, "b")),
            ],
        ),
        ([(0, 1, "x")], [(1, 0, "x")], [
            ("missed", (0, 1, 1, 2, "x"), None),
            ("spurious", None, (1, 2, 0, 1, "x")),
        ]),
        (None, [(0, 1, "x")], []),  # not annotated
    ],
)  # fmt: skip
def test_relation_errors(gold, found, expected):
    example = relation_example(gold, found)
    assert find_relation_errors(example) == [Error("relation", *e) for e in expected]
    if gold is not None:
        counts = count_document_relations(example)
        assert (counts.found == counts.gold and counts.right == counts.predicted) == (not expected)


def test_relations_with_another_negative_label_and_damaged_ones():
    example = relation_example([(0, 1, "no")], [])
    assert find_relation_errors(example, negative_label="no") == []
    assert len(find_relation_errors(example)) == 1
    example.predicted.user_data[RELATIONS_KEY] = [["nonsense"]]
    with pytest.warns(MMIBWarning, match="can't be read"):
        assert [e.kind for e in find_relation_errors(example)] == ["missed"]


def test_relation_errors_in_other_tokens():
    gold = Doc(VOCAB, words=["Rob", "met", "New", "York"])
    gold._.relations = [((0, 1), (2, 4), "x")]
    predicted = Doc(VOCAB, words=["R", "ob", "met", "NewYork"], spaces=[False, True, True, False])
    assert find_relation_errors(Example(predicted, gold)) == [
        Error("relation", "missed", (0, 2, 3, 4, "x"), None)
    ]


def shown_wrong(nlp) -> list[Example]:
    """The first post and the third get the other one's picture: their pictures mislead."""
    examples = make_rel_examples(nlp)
    docs = [examples[i].predicted for i in (0, 1)]
    pictures = [doc._.image for doc in docs]
    for doc, picture in zip(docs, reversed(pictures)):
        doc._.image = picture
        doc._.regions = [(0, 0, 20, 20)]
    return examples


def test_compare_pictures_end_to_end(trained_joint):
    posts = predict_both(trained_joint, shown_wrong(trained_joint))
    assert [post.index for post in posts] == list(range(len(PAIRS)))
    assert all(post.doc.text == post.without.text == PAIRS[post.index][0] for post in posts)
    assert all(post.without._.image is None for post in posts)
    assert [e.kind for e in posts[0].errors] == ["type", "type"]
    changed = compare_pictures(trained_joint, lambda: shown_wrong(trained_joint))
    order = [(-len(post.added), len(post.repaired), post.index) for post in changed]
    assert order == sorted(order)
    assert all(post.added or post.repaired for post in changed)
    assert changed[0].index in (0, 1)
    # Without a picture the same text has one answer, which is wrong for one of each two posts.
    without = count_kinds([e for post in posts for e in post.errors_without])
    assert without["relation type"] + without["relation missed"] >= 4
    again = compare_pictures(trained_joint, lambda: shown_wrong(trained_joint))
    assert [(p.index, p.errors, p.added) for p in again] == [(p.index, p.errors, p.added) for p in changed]


def test_given_pairs(trained_rel):
    roles = get_roles(trained_rel)
    assert (roles.recognizers, roles.extractors, roles.silent) == ([], ["mmib_rel"], ["mmib_rel"])
    posts = predict_both(trained_rel, make_rel_examples(trained_rel))
    assert all(post.errors == [] for post in posts)
    assert sum(bool(post.errors_without) for post in posts) >= 2
    assert all(e.what == "relation" for post in posts for e in post.errors_without)


def test_entities_found_beside_given_pairs(trained_joint):
    """Entities are those the pipeline finds, relations those between gold entities."""
    from spacy_mmib.pipeline.instances import get_given_pairs

    nlp = make_rel_nlp(joint=True).from_bytes(trained_joint.to_bytes())
    nlp.get_pipe("mmib_rel").get_instances = get_given_pairs
    nlp.remove_pipe("mmib_ner")
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": "PER", "pattern": "Mia"}])
    examples = predict_examples(nlp, make_rel_examples(nlp))
    assert [ent.text for ent in examples[0].predicted.ents] == ["Mia"]
    assert len(examples[0].predicted._.relations) == 2
    assert find_relation_errors(examples[0]) == []
    assert kinds(examples[0]) == ["missed"]


def test_texts_only(trained):
    posts = predict_both(trained, make_examples(trained)[4:5])
    assert compare_pictures(trained, lambda: make_examples(trained)[4:5]) == []
    assert posts[0].errors == posts[0].errors_without


# --- spacy mmib errors ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(trained_joint, trained_rel, tmp_path_factory):
    path = tmp_path_factory.mktemp("errors")
    trained_joint.to_disk(path / "joint")
    trained_rel.to_disk(path / "rel")
    spacy.blank("en").to_disk(path / "blank")

    def mislead(docs):
        docs[0]._.image, docs[0]._.regions = "blue.png", [(0, 0, 20, 20)]

    save_pairs(path / "test.spacy", change=mislead)
    save_pairs(path / "empty.spacy", [])
    save_pairs(path / "text.spacy", [(text, None, label) for text, _, label in PAIRS])
    return path


@pytest.mark.parametrize("model", ["joint", "rel"])
def test_command(folder, model):
    output = folder / model / "out" / "errors.jsonl"
    result = run("errors", folder / model, folder / "test.spacy", "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "7 posts, 6 of them with a picture" in result.output
    assert "relation missed" in result.output
    assert ("entity missed" in result.output) == (model == "joint")
    assert ("gold ones" in result.output) == (model == "rel")
    lines = [json.loads(line) for line in output.read_text(encoding="utf8").splitlines()]
    assert lines
    for line in lines:
        assert line["added"] or line["repaired"]
        assert line["image"].endswith(".png")
        assert line["text"] == PAIRS[line["post"]][0]
        assert line["gold"]["entities"]
        assert {"entities", "relations", "errors"} == set(line["with_picture"])
    worst = lines[0]
    assert worst["added"] == max(line["added"] for line in lines)
    if worst["added"]:
        assert "Rob met Mia" in result.output
        error = worst["with_picture"]["errors"][0]
        assert error["kind"] == "type"
        assert "'Rob -> Mia'" in error["said"]


def test_command_without_pictures_and_limit(folder):
    output = folder / "none.jsonl"
    result = run("errors", folder / "joint", folder / "text.spacy", "--output", output)
    assert result.exit_code == 0
    assert "No post of this corpus has a picture" in result.output
    assert output.read_text() == ""
    result = run("errors", folder / "joint", folder / "test.spacy", "--output", output, "--limit", 0)
    assert "Post 0" not in result.output
    assert output.read_text()


@pytest.mark.parametrize(
    ("model", "corpus", "output", "message"),
    [
        ("nothing", "test.spacy", "x.jsonl", "Can't load the pipeline"),
        ("joint", "nothing.spacy", "x.jsonl", "There is no corpus at"),
        ("joint", "empty.spacy", "x.jsonl", "There are no posts"),
        ("joint", "test.spacy", "x.txt", "has to end in .jsonl"),
    ],
)
def test_command_says_what_is_wrong(folder, model, corpus, output, message):
    result = run("errors", folder / model, folder / corpus, "--output", folder / output)
    assert result.exit_code == 1
    assert message in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_pipeline_that_finds_nothing(folder):
    result = run("errors", folder / "blank", folder / "test.spacy", "--output", folder / "blank.jsonl")
    assert result.exit_code == 0
    assert "No component of this pipeline finds" in result.output


def test_bad_posts_dont_stop_the_others(trained_joint):
    examples = make_rel_examples(trained_joint)
    examples[1].predicted._.image = b"no picture"
    examples[2].predicted._.image = numpy.zeros((3, 3, 3), dtype="uint8")
    with pytest.warns(MMIBWarning):
        posts = predict_both(trained_joint, examples)
    assert len(posts) == len(PAIRS)
    assert posts[1].errors == posts[1].errors_without
