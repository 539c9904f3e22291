"""What is kept beside the text of a doc: any string, beside attributes of others, whatever a stranger wrote."""

import math
import os
import pickle
import warnings

import PIL.Image
import pytest
import spacy
from conftest import docbin, make_picture
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

from spacy_mmib import render
from spacy_mmib.cli.errors import annotations
from spacy_mmib.evaluation.posts import to_record
from spacy_mmib.evaluation.scorers import score_relations
from spacy_mmib.images.reading import read_image
from spacy_mmib.images.values import PathInRoot
from spacy_mmib.post import extensions
from spacy_mmib.post.extensions import (
    ATTRIBUTES,
    get_confidence,
    get_image,
    get_image_error,
    get_region_weights,
    get_regions,
    get_regions_note,
    get_stored_image,
    register_extensions,
    set_image,
    set_image_error,
    set_predicted,
    set_region_weights,
    set_regions,
    set_regions_note,
)
from spacy_mmib.post.relations import (
    PREDICTED_RELATIONS_KEY,
    RELATIONS_KEY,
    get_predicted_relations,
    get_relations,
    set_predicted_relations,
    set_relations,
)
from spacy_mmib.training.corpus import MultimodalCorpus
from spacy_mmib.training.local_pictures import PictureFolder
from spacy_mmib.util import MMIBWarning


def each(function):
    return lambda docs: [function(function(doc)) for doc in docs]


ROUND_TRIPS = {
    "to_bytes": each(lambda doc: Doc(Vocab()).from_bytes(doc.to_bytes())),
    "DocBin": each(docbin),
    "pickle": each(lambda doc: pickle.loads(pickle.dumps(doc))),
    "copy": each(lambda doc: doc.copy()),
    "n_process": lambda docs: list(spacy.blank("en").pipe(docs, n_process=2, batch_size=3)),
}


# Strings that are not UTF-8

STRINGS = {
    "Latin-1": os.fsdecode(b"caf\xe9.png"),
    "GBK": os.fsdecode("照片.png".encode("gbk")),
    "high half": "a\ud83d.png",
    "low half": "\ude00 b",
    "both halves apart": "\ud83d\ude00.png",
    "of both kinds": "\udce9\ud83d",
    "whole": "\U0001f600.png",
    "blanks": "  a  b.png ",
}


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_any_string_survives(round_trip):
    docs = []
    for string in STRINGS.values():
        doc = Doc(Vocab(), words=["Rob", "met", "Mia"])
        set_image(doc, string)
        set_regions(doc, [string, {"box": (0, 0, 2, 2), "label": string, "score": 0.5}])
        set_regions_note(doc, f"note {string}.")
        set_image_error(doc, f"error {string}.")
        set_relations(doc, [((0, 1), (2, 3), string)])
        pair = get_relations(doc)[0].pair
        set_predicted_relations(doc, "mmib_rel", {(pair, string): True})
        docs.append(doc)
    for string, doc in zip(STRINGS.values(), ROUND_TRIPS[round_trip](docs), strict=True):
        assert (doc._.image, type(doc._.image)) == (string, str)
        assert doc._.regions[0] == string
        assert doc._.regions[1]["label"] == string
        assert doc._.image_error == f"error {string}."
        assert get_regions_note(doc) == f"note {string}."
        assert doc._.relations[0].label == string
        pair = doc._.relations[0].pair
        assert get_predicted_relations(doc, "mmib_rel") == {(pair, string): True}
        assert render(doc)


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_a_file_whose_name_is_not_utf8_is_read(tmp_path, round_trip):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            make_picture("red").save(file, "PNG")
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    doc = Doc(Vocab(), words=["Rob"])
    doc._.image = os.fsdecode(name)
    doc._.regions = [os.fsdecode(name)]
    PictureFolder(tmp_path).localize(doc)
    (doc,) = ROUND_TRIPS[round_trip]([doc])
    assert doc._.image == os.fsdecode(name)
    for value in (get_stored_image(doc), *get_regions(doc)):
        assert value.root == str(tmp_path.resolve())
        assert read_image(value).size == (40, 30)
    assert render(doc).count("<img") == 2


def test_what_version_0_1_0_stored():
    doc = Doc(Vocab(), words=["Rob", "met", "Mia"])
    box = {"box": [0.0, 0.0, 2.0, 2.0], "label": None, "score": None}
    old = {
        "image": "a.png",
        "regions": [box, "crop.png"],
        "image_error": "broken",
        "relations": [[0, 3, "", 8, 11, "", "couple", None]],
    }
    for name, value in old.items():
        doc.user_data["._.", name, None, None] = value
    doc = docbin(doc)
    assert (doc._.image, doc._.regions, doc._.image_error) == ("a.png", [box, "crop.png"], "broken")
    assert doc._.relations[0].label == "couple"
    doc._.image, doc._.relations = "b.png", None
    assert (doc._.image, doc._.regions, doc._.image_error) == ("b.png", [], None)
    assert doc._.relations == []
    doc._.image = None
    assert not doc.user_data


# Attributes of others


FOREIGN = {
    "default": {"default": None},
    "list": {"default": []},
    "getter": {"getter": lambda obj: "theirs", "setter": lambda obj, value: None},
    "method": {"method": lambda obj: "theirs"},
}


@pytest.fixture(params=[(kind, first) for kind in FOREIGN for first in (True, False)], ids=str)
def foreign(request):
    """All our attributes are somebody else's: theirs were there first, or they took ours away."""
    kind, first = request.param
    ours = {(cls, name): cls.get_extension(name) for cls, name, _, _ in ATTRIBUTES}
    for cls, name in ours:
        cls.set_extension(name, force=True, **FOREIGN[kind])
    said = []
    if first:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            register_extensions()
        said = [str(warning.message) for warning in caught]
    yield kind, said
    for (cls, name), (_, _, getter, setter) in ours.items():
        cls.set_extension(name, getter=getter, setter=setter, force=True)


def test_nothing_goes_through_a_foreign_attribute(foreign, trained, tmp_path):
    kind, said = foreign
    if said:
        (line,) = said
        for cls, name, _, setter in ATTRIBUTES:
            assert f"{cls.__name__}._.{name}" in line
            assert f"get_{name}(" in line
            assert hasattr(extensions, f"get_{name}")
            assert (f"set_{name}(" in line) == (setter is not None)
    make_picture("red").save(tmp_path / "a.png")
    doc = trained.make_doc("Rob had dinner with us")
    if kind != "method":
        doc._.image = doc._.relations = doc._.regions = doc._.image_error = "theirs"
    theirs = dict(doc.user_data)
    set_image(doc, str(tmp_path / "a.png"))
    set_regions(doc, [(0, 0, 20, 20)])
    set_relations(doc, [((0, 1), (2, 3), "eats")])
    assert len(theirs) == (4 if kind in ("default", "list") else 0)
    doc = docbin(trained(doc))
    assert {key: doc.user_data[key] for key in theirs} == theirs
    (ent,) = doc.ents
    assert get_confidence(ent) > 0.3
    assert len(get_region_weights(ent)) == 2
    record = to_record({}, doc)
    assert record["entities"][0]["confidence"] == round(float(get_confidence(ent)), 5)
    assert [relation["label"] for relation in record["relations"]] == ["eats"]
    assert "image_error" not in record
    assert annotations(doc)["entities"][0]["region_weights"] == get_region_weights(ent)
    html = render(doc)
    assert html.count("<img") == 1
    assert "theirs" not in html
    doc = Doc(Vocab(), words=["Rob"])
    if kind in ("default", "list"):
        doc._.image = "theirs.png"
    assert get_image(doc) is None
    assert get_image_error(doc) is None
    set_image(doc, "a.png")
    DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "a.spacy")
    (example,) = MultimodalCorpus(tmp_path / "a.spacy")(spacy.blank("en"))
    assert get_image(example.predicted) == str((tmp_path / "a.png").resolve())


def test_attributes_of_ours_are_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_extensions()


# What strangers store

NAN, INF = float("nan"), float("inf")
DEEP: list = []
for _ in range(100):
    DEEP = [DEEP]
VALUES = [
    *(None, True, False, 0, 1, -1, 7, 2**63, -(2**63), 10**5000, 0.5, -0.0, NAN, INF, -INF, 1e308),
    *("", " ", "x", "a\0b", "\ud83d", "x" * 9000, b"", b"\xff", b"path", 1j, object()),
    *((), [], {}, [None], [[]], [{}], [[[]]], DEEP, {1, 2}, frozenset(), range(3), [1, "a", b"c"]),
    *({"mmib_ner": None}, {"mmib_ner": 7}, {"mmib_ner": [7]}, {"mmib_ner": [[]]}, {"mmib_ner": {}}),
    {None: [[0, 3, "PER", 0.5]]},
    *({"mmib_ner": [[a, b, c, d]]} for a, b, c, d in [(0, 3, "PER", NAN), (0, 3, "PER", "high")]),
    *({"mmib_ner": [[0, 3, c, d]]} for c, d in [(None, 0.5), ([], 0.5), ("PER", 10**400)]),
    *({"mmib_ner": [[-9, 10**9, "PER", 0.5]]}, {"mmib_ner": [[NAN, INF, "PER", 0.5]]}),
    *({"mmib_ner": [[0, 3, x]]} for x in (None, 7, "ab", [], [NAN, 1], ["a", "b"], [[], []], {})),
    *({"mmib_ner": [[0, 3, 8, 11, x, 1]]} for x in (None, b"\xff", 7, [])),
    *([[0, 3, "", 8, 11, "", "couple", x]] for x in (NAN, INF, "high", [], 10**400, True)),
    *([[x, 3, "", 8, 11, "", "couple", None]] for x in (-1, 10**30, 1.5, NAN, None, "0", 99, [])),
    *([[0, 3, x, 8, 11, x, x, None]] for x in (None, 7, [], {}, b"\xff", "\ud83d", "x" * 9000)),
    *([{"box": x}] for x in (None, "1234", [1, 2], [NAN] * 4, [INF] * 4, [10**400] * 4, [1e308] * 4)),
    *([{"box": [0, 0, 2, 2], "label": x, "score": y}] for x, y in [(10**5000, 1), ([], "x"), (DEEP, NAN)]),
    *([{"box": [0, 0, 2, 2], "score": x}] for x in (NAN, INF, 10**400, {}, "high")),
    *(["path", x, y] for x, y in [(None, None), ("a", 7), (b"\xff", None), ("a\0", "b\0"), ("", "")]),
    *([["path", "a.png", x]] for x in (None, "/", "relative", "\0", 7)),
    {"__spacy_mmib_pixels__": ["pil", 2, 2, b"abc"]},
]
KEYS = [
    *(extensions.IMAGE_KEY, extensions.REGIONS_KEY, extensions.ERROR_KEY, RELATIONS_KEY),
    *(extensions.REGIONS_NOTE_KEY, extensions.ENCODER_ERROR_KEY, extensions.ERROR_KINDS_KEY),
    *(extensions.REGIONS_SOURCE_KEY, extensions.PREDICTED_KEY, extensions.REGION_WEIGHTS_KEY),
    PREDICTED_RELATIONS_KEY,
    *(("._.", name, None, None) for name in ("image", "regions", "image_error", "relations")),
]


def make_gold(vocab: Vocab) -> Doc:
    doc = Doc(vocab, words=["Rob", "met", "Mia"])
    doc.ents = [Span(doc, 0, 1, label="PER"), Span(doc, 2, 3, label="PER")]
    set_image(doc, b"no picture")
    set_regions(doc, [(0, 0, 2, 2)])
    set_relations(doc, [((0, 1), (2, 3), "couple")])
    set_predicted(doc, "mmib_ner", {(0, 3, "PER"): 0.5})
    set_region_weights(doc, "mmib_ner", {(0, 3): [0.5, 0.5]})
    pair = get_relations(doc)[0].pair
    set_predicted_relations(doc, "mmib_rel", {(pair, "couple"): True})
    return doc


@pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key[0]}{key[1]}")
def test_no_entry_of_a_stranger_makes_a_reader_fail(key, tmp_path):
    gold = make_gold(Vocab())
    for value in VALUES:
        doc = gold.copy()
        if key[:2] == ("._.", key[1]) and not key[1].startswith("spacy_mmib"):
            doc.user_data.pop(("._.", f"spacy_mmib.{key[1]}", None, None), None)
        doc.user_data[key] = value
        assert "Rob" in render(doc)
        for relation in doc._.relations:
            assert relation.score is None or math.isfinite(relation.score)
        assert all(isinstance(region, (str, dict)) for region in doc._.regions)
        for text in (doc._.image_error, get_regions_note(doc)):
            assert text is None or (isinstance(text, str) and text and "\n" not in text)
        assert extensions.get_regions_source(doc) in (None, value) or isinstance(value, bytes)
        assert all(isinstance(kind, str) for kind in extensions.get_image_error_kinds(doc))
        for ent in doc.ents:
            assert ent._.confidence is None or 0 <= ent._.confidence <= 1
            assert ent._.region_weights is None or sum(ent._.region_weights) == 1
        assert extensions.get_weighted_spans(doc, without="x") in (set(), {(0, 3)})
        get_predicted_relations(doc, "mmib_rel")
        to_record({}, doc)
        annotations(doc)
        score_relations([spacy.training.Example(doc, gold), spacy.training.Example(gold, doc)])
        # Writing over it works, and leaves no trace of it.
        PictureFolder(tmp_path).localize(doc)
        set_image(doc, b"another")
        set_regions(doc, None)
        set_relations(doc, None)
        set_predicted(doc, "mmib_ner", {(0, 3, "PER"): 0.25})
        assert doc.ents[0]._.confidence == 0.25
        set_region_weights(doc, "mmib_ner", {(0, 3): [1.0]})
        assert doc.ents[0]._.region_weights == [1.0]
        set_predicted_relations(doc, "mmib_rel", {})
        assert (doc._.image, doc._.image_error, doc._.regions) == (b"another", None, [])


def test_a_damaged_entry_is_said():
    doc = make_gold(Vocab())
    doc.user_data[RELATIONS_KEY] = [[0, 999, "", 8, 11, "", "couple", None]]
    doc.user_data[extensions.REGIONS_KEY] = 7
    with pytest.warns(MMIBWarning, match=r"without relations.*\[0\] of 'Rob met Mia.* 0 to 999"):
        assert doc._.relations == []
    with pytest.warns(MMIBWarning, match="without regions.*got int"):
        assert doc._.regions == []


# Messages show the path as it is

PATHS = {
    **{repr(x): x for x in ("rob.png ", " rob.png", "r\nob.png", "rob.png\r", "a  b.png", "\tx", "\x1b[1m")},
    **{repr(x): x for x in ("it's.png", 'a"b.png', "a\u2028b", "\udce9.png", "plain.png", "a\\b.png")},
    "long": "x" * 120 + "/" + "y" * 200 + "/z.png",
}


@pytest.mark.parametrize("name", PATHS)
def test_the_reason_shows_the_path(tmp_path, name):
    path = PATHS[name]
    folder = str(tmp_path.resolve())
    for attached in (path, os.path.join(folder, path)):
        doc = Doc(Vocab(), words=["Rob"])
        doc._.image = attached
        PictureFolder(tmp_path).localize(doc)
        assert repr(os.path.join(folder, path)) in doc._.image_error
        assert doc._.image_error.isprintable()
        doc._.image = attached
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            html = render(doc)
        assert "mmib-error" in html
    good = tmp_path / "ok.png"
    PIL.Image.new("RGB", (4, 4)).save(good)
    doc = Doc(Vocab(), words=["Rob"])
    doc._.image, doc._.regions = str(good), [path]
    PictureFolder(tmp_path).localize(doc)
    assert repr(os.path.join(folder, path)) in doc._.image_error
    doc._.image = f"../{path}"
    PictureFolder(tmp_path).localize(doc)
    assert f"{f'../{path}'!r} leads out" in doc._.image_error


def test_what_is_too_long_for_a_path_is_cut_and_says_so(tmp_path):
    doc = Doc(Vocab(), words=["Rob"])
    doc._.image = "x" * 90_000
    PictureFolder(tmp_path).localize(doc)
    assert len(doc._.image_error) < 700
    assert "characters)" in doc._.image_error


def test_a_path_in_a_root_is_a_string():
    path = PathInRoot("/a/b.png", "/a")
    assert path == "/a/b.png"
    assert repr(path) == "'/a/b.png'"
    other = pickle.loads(pickle.dumps(path))
    assert (other, other.root, type(other)) == ("/a/b.png", "/a", PathInRoot)
