"""Two models' probabilities, mixed: how they are decoded, and which weight is chosen."""

import itertools

import numpy
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span

from project.late_fusion import PROBABILITIES, decode, mix, name_tag, set_tags

TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]


def is_wellformed(path):
    return all(tag == 0 or tag % 2 or (i and path[i - 1] in (tag, tag - 1)) for i, tag in enumerate(path))


def test_the_best_sequence_is_found_by_trying_all():
    rng = numpy.random.default_rng(0)
    for length in (1, 2, 4):
        scores = rng.normal(size=(length, 5))
        paths = [p for p in itertools.product(range(5), repeat=length) if is_wellformed(p)]
        assert decode(scores) == list(max(paths, key=lambda p: sum(scores[range(length), p])))


def test_tags_have_names_and_make_entities():
    assert [name_tag(tag, ["A", "B"]) for tag in range(5)] == TAGS
    doc = Doc(spacy.blank("en").vocab, words=["a", "b", "c", "d", "e"])
    set_tags(doc, ["B-A", "I-A", "B-A", "O", "I-B"])
    assert [(e.start, e.end, e.label_) for e in doc.ents] == [(0, 2, "A"), (2, 3, "A"), (4, 5, "B")]


@pytest.fixture
def posts(tmp_path):
    """Two dev posts and a test post, of two words each, whose first word is an A, and related to the other."""
    for split, n in (("dev", 2), ("test", 1)):
        docs = []
        for _ in range(n):
            doc = Doc(spacy.blank("en").vocab, words=["Ana", "sings"])
            doc.set_ents([Span(doc, 0, 1, label="A")])
            doc._.relations = [((0, 1), (1, 2), "r")]
            docs.append(doc)
        DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / f"{split}.spacy")
    return tmp_path


def mix_parts(posts, component, labels, *parts):
    for i, (dev, test) in enumerate(parts):
        (posts / "cells" / str(i)).mkdir(parents=True, exist_ok=True)
        numpy.savez(posts / "cells" / str(i) / PROBABILITIES, labels=labels, dev=dev, test=test)
    cell = {"parts": ["0", "1"], "component": component, "test": str(posts / "test.spacy")}
    cell |= {"limit": 0, "image_root": None}
    return mix(cell, {"paths": {"dev": str(posts / "dev.spacy")}}, posts / "cells")


def test_dev_chooses_the_weight_of_entities(posts):
    # Tokens are right with a weight of 0.3 or more; the smallest that does best is taken.
    wrong = numpy.array([[0.64, 0.36, 0.0], [1.0, 0.0, 0.0]])
    right = numpy.array([[0.1, 0.9, 0.0], [1.0, 0.0, 0.0]])
    parts = [(numpy.concatenate([rows, rows]), rows) for rows in (wrong, right)]
    examples, more = mix_parts(posts, "ner", ["A"], *parts)
    assert more == {"task": "entities", "weight": 0.3, "dev": {"ents_f": 1.0}}
    assert [(e.text, e.label_) for eg in examples for e in eg.predicted.ents] == [("Ana", "A")]


def test_dev_chooses_the_weight_of_relations(posts):
    rows = [numpy.array([[0.9, 0.1]]), numpy.array([[0.0, 1.0]])]
    parts = [(numpy.concatenate([row, row]), row) for row in rows]
    examples, more = mix_parts(posts, "rel", ["None", "r"], *parts)
    assert more == {"task": "relations", "weight": 0.5, "dev": {"rel_micro_f": 1.0}}
    assert [r.label for eg in examples for r in eg.predicted._.relations] == ["r"]


def test_parts_of_other_labels(posts):
    rows = numpy.ones((2, 2)) / 2
    mix_parts(posts, "rel", ["None", "r"], (rows, rows[:1]), (rows, rows[:1]))
    numpy.savez(posts / "cells" / "1" / PROBABILITIES, labels=["None", "q"], dev=rows, test=rows[:1])
    cell = {"parts": ["0", "1"], "component": "rel", "test": str(posts / "test.spacy")}
    cell |= {"limit": 0, "image_root": None}
    with pytest.raises(ValueError, match="same labels"):
        mix(cell, {"paths": {"dev": str(posts / "dev.spacy")}}, posts / "cells")
