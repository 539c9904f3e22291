"""`ent._.boxes` and `ent._.region`: which object of the picture an entity is."""

import pickle

import numpy
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from spacy_mmib.post.boxes import (
    BOXES_KEY,
    ENTITY_REGIONS_KEY,
    EntityRegion,
    get_boxes,
    get_iou,
    has_boxes,
    set_boxes,
    set_entity_regions,
)
from spacy_mmib.post.extensions import REGIONS_KEY
from spacy_mmib.training.corpus import MultimodalCorpus
from spacy_mmib.util import MMIBWarning

BOX = {"box": [1.0, 2.0, 30.0, 40.0], "label": None, "score": None}
FOUND = EntityRegion(1, 0.75, "pointer")


@pytest.fixture
def doc():
    doc = spacy.blank("en")("Rob met Mia in Oslo .")
    doc.ents = [Span(doc, i, i + 1, label="X") for i in (0, 2, 4)]
    doc._.image = numpy.zeros((50, 50, 3), dtype="uint8")
    doc._.regions = [(0, 0, 10, 10), (1, 2, 30, 40)]
    return doc


def test_annotated_not_in_the_picture_and_not_annotated(doc):
    rob, mia, oslo = doc.ents
    assert not has_boxes(doc)
    rob._.boxes = [(1, 2, 30, 40), {"box": [3, 4, 5, 6], "label": "\udc80", "score": 0.5}]
    mia._.boxes = []
    assert rob._.boxes == [BOX, {"box": [3.0, 4.0, 5.0, 6.0], "label": "\udc80", "score": 0.5}]
    assert (mia._.boxes, oslo._.boxes) == ([], None)
    assert has_boxes(doc)
    rob._.boxes = None
    mia._.boxes = [(1, 2, 30, 40)]
    assert (rob._.boxes, mia._.boxes) == (None, [BOX])
    mia._.boxes = None
    assert not has_boxes(doc)
    assert BOXES_KEY not in doc.user_data


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([(1, 2, 1, 5)], ValueError, r"boxes\[0\] is .* no area"),
        ([(1, 2, 5, 5), (9, 2, 5, 5)], ValueError, r"boxes\[1\]"),
        ([(0, 0, float("inf"), 5)], ValueError, "area"),
        ([(0, 0, float("nan"), 5)], ValueError, "area"),
        (["crop.jpg"], TypeError, "crops"),
        ("crop.jpg", TypeError, "ent._.boxes takes a list"),
        ([(1, 2, 3)], TypeError, r"ent._.boxes\[0\]"),
        ([None], TypeError, "neither"),
    ],
)
def test_what_is_no_box_is_refused_and_changes_nothing(doc, value, error, message):
    doc.ents[0]._.boxes = [(1, 2, 30, 40)]
    with pytest.raises(error, match=message):
        doc.ents[0]._.boxes = value
    assert doc.ents[0]._.boxes == [BOX]


def test_they_survive_every_serialization(doc, tmp_path):
    doc.ents[0]._.boxes = [(1, 2, 30, 40)]
    doc.ents[1]._.boxes = []
    set_entity_regions(doc, "mmib_ner", {(0, 3): FOUND, (8, 11): EntityRegion(None, 1.0, "pointer")})
    DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "a.spacy")
    (binned,) = DocBin().from_disk(tmp_path / "a.spacy").get_docs(doc.vocab)
    copies = [doc.copy(), pickle.loads(pickle.dumps(doc)), binned, Doc(doc.vocab).from_bytes(doc.to_bytes())]
    for copy in copies:
        assert [ent._.boxes for ent in copy.ents] == [[BOX], [], None]
        assert [ent._.region for ent in copy.ents] == [FOUND, EntityRegion(None, 1.0, "pointer"), None]


def test_what_was_found_goes_with_the_picture_and_its_regions(doc):
    for change in (
        lambda: setattr(doc._, "image", None),
        lambda: setattr(doc._, "image", numpy.ones((50, 50, 3), dtype="uint8")),
        lambda: setattr(doc._, "regions", [(0, 0, 10, 10), (5, 5, 9, 9)]),
    ):
        set_entity_regions(doc, "mmib_ner", {(0, 3): FOUND})
        doc._.regions = doc._.regions  # the same ones
        assert doc.ents[0]._.region == FOUND
        change()
        assert doc.ents[0]._.region is None
        doc._.image, doc._.regions = numpy.zeros((50, 50, 3), dtype="uint8"), [(0, 0, 10, 10), (1, 2, 30, 40)]


@pytest.mark.parametrize(
    "row",
    [
        [0, 3, 2, 0.5, "pointer"],  # there are two regions
        [0, 3, -1, 0.5, "pointer"],
        [0, 3, True, 0.5, "pointer"],
        [0, 3, "1", 0.5, "pointer"],
        [0, 3, [], 0.5, "pointer"],
        [0, 3, 1, 1.5, "pointer"],
        [0, 3, 1, float("nan"), "pointer"],
        [0, 3, 1, 10**400, "pointer"],
        [0, 3, 1, 0.5, None],
        [0, 3, 1, 0.5, b"\xff"],
        ["0", 3, 1, 0.5, "pointer"],
        [0, 3, 1, 0.5],
        None,
    ],
)
def test_damaged_findings_are_none(doc, row):
    doc.user_data[ENTITY_REGIONS_KEY] = {"mmib_ner": [row], 3: [[0, 3, 1, 0.5, "pointer"]]}
    assert doc.ents[0]._.region is None
    set_entity_regions(doc, "mmib_ner", {(0, 3): FOUND})
    doc.user_data[REGIONS_KEY] = [3, "x"]  # written past the setter
    assert doc.ents[0]._.region is None


@pytest.mark.parametrize(
    "stored",
    [
        3,
        "x",
        [3],
        [[0, 3]],
        [["0", 3, []]],
        {"a": 1},
        [[10**400, 3, []]],
        [[None, None, None]],
        [[numpy.arange(9), 3, []]],
    ],
)
def test_damaged_annotations_are_none(doc, stored):
    doc.user_data[BOXES_KEY] = stored
    assert doc.ents[0]._.boxes is None
    doc.ents[0]._.boxes = [(1, 2, 30, 40)]
    assert doc.ents[0]._.boxes == [BOX]


@pytest.mark.parametrize("boxes", [3, None, ["crop.jpg"], [[1, 2, 1, 5]], [{"box": [1, 2, "3x", 4]}]])
def test_boxes_that_cannot_be_read_are_said(doc, boxes):
    doc.user_data[BOXES_KEY] = [[0, 3, boxes]]
    with pytest.warns(MMIBWarning, match="'Rob' count as not annotated"):
        assert get_boxes(doc.ents[0]) is None


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),
        ((9, 0, 3, 10), (0, 0, 10, 10), 0.0),
        ((0, 0, float("inf"), 10), (0, 0, 10, 10), 0.0),
        ((0, 0, float("nan"), 10), (0, 0, 10, 10), 0.0),
    ],
)
def test_intersection_over_union(a, b, expected):
    a, b = {"box": list(a)}, {"box": list(b)}
    assert get_iou(a, b) == get_iou(b, a) == pytest.approx(expected)
    assert get_iou(a, {**b, "image": 1}) == get_iou("crop.jpg", b) == 0.0


def test_the_reader_keeps_gold_boxes_on_the_reference(doc, tmp_path):
    doc[3].is_sent_start = True
    set_boxes(doc.ents[0], [(1, 2, 30, 40)])
    set_boxes(doc.ents[2], [])
    doc._.image = None
    DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "a.spacy")
    nlp = spacy.blank("en")

    def read(**settings) -> list[Example]:
        return list(MultimodalCorpus(tmp_path / "a.spacy", **settings)(nlp))

    (example,) = read()
    assert [ent._.boxes for ent in example.reference.ents] == [[BOX], None, []]
    assert not has_boxes(example.predicted)
    parts = [part.reference for part in read(gold_preproc=True)]
    assert [[ent._.boxes for ent in part.ents] for part in parts] == [[[BOX], None], [[]]]
    lower = spacy.registry.augmenters.get("spacy.lower_case.v1")(level=1.0)
    (example,) = read(augmenter=lower)
    assert [ent._.boxes for ent in example.reference.ents] == [[BOX], None, []]
