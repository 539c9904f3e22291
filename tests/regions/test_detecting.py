"""What the getters with a detector have in common, whatever network it is."""

import copy
import math
import pickle
from functools import partial

import pytest
import spacy
from conftest import make_picture
from spacy.tokens import Doc, Span
from spacy.util import registry
from tiny_detectors import draw_picture, save_grounding_dino, save_owl, save_torchvision_detector

import spacy_mmib.post.extensions  # noqa: F401
from spacy_mmib.post.regions import clip_box, normalize_regions

EN = spacy.blank("en").vocab
ARCHS = {"ssd": "ssdlite320_mobilenet_v3_large", "faster": "fasterrcnn_mobilenet_v3_large_320_fpn"}
MODELS = {"dino": save_grounding_dino, "owl2": save_owl, "owl1": partial(save_owl, version=1)}


@pytest.fixture(scope="module", params=[*ARCHS, *MODELS])
def make_getter(request, tmp_path_factory):
    """Makes getters of one kind."""
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    if kind in ARCHS:
        weights = save_torchvision_detector(folder / "weights.safetensors", ARCHS[kind])
        config = {"@region_getters": "spacy-mmib.detector.v1", "arch": ARCHS[kind], "weights": str(weights)}
    else:
        config = {"@region_getters": "spacy-mmib.grounding.v1", "name": str(MODELS[kind](folder))}
    return lambda **settings: registry.resolve({"x": {**config, "threshold": 0.05, **settings}})["x"]


def make_doc() -> Doc:
    return Doc(EN, words=["Rob", "met", "Mia"])


def test_regions_of_docs(make_getter):
    getter = make_getter(max_regions=2)
    docs = [make_doc() for _ in range(3)]
    regions = getter(docs, [draw_picture(60, 40), None, draw_picture(40, 60, seed=1)])
    assert [len(one) for one in regions] == [2, 0, 2]
    assert normalize_regions(regions[0]) == regions[0]
    assert regions[0][0]["score"] >= regions[0][1]["score"]
    assert all(region["label"] for one in regions for region in one)
    docs[0]._.regions = regions[0]
    assert docs[0]._.regions == regions[0]
    assert getter([], []) == []


def test_the_text_and_its_annotations_change_nothing(make_getter):
    getter = make_getter()
    picture = draw_picture(60, 40)
    annotated = make_doc()
    annotated.ents = [Span(annotated, 0, 1, label="PER"), Span(annotated, 2, 3, label="PER")]
    annotated._.relations = [(annotated.ents[0], annotated.ents[1], "couple")]
    expected = getter([make_doc()], [picture])
    assert expected[0]
    # Nothing of a doc is looked at.
    assert getter([annotated], [picture]) == getter([object()], [picture]) == expected
    assert getter.get_query(annotated) == ""


@pytest.mark.parametrize(
    "settings", [{"max_regions": 0}, {"batch_size": 0}, {"threshold": 1.5}, {"nms": -1.0}, {"nms": math.nan}]
)
def test_settings_are_checked(make_getter, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        make_getter(**settings)


def test_pickled_without_the_network(make_getter):
    getter = make_getter()
    docs, pictures = [make_doc()], [draw_picture(60, 40)]
    expected = getter(docs, pictures)
    for other in (pickle.loads(pickle.dumps(getter)), copy.deepcopy(getter)):
        assert other._loaded is None
        assert other(docs, pictures) == expected
        assert other.get_identity() == getter.get_identity()
    assert len(pickle.dumps(getter)) < 2000
    assert getter._loaded is not None


@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_odd_pictures(make_getter, threshold):
    pictures = [
        make_picture("red", (1, 1)),
        draw_picture(700, 3),
        draw_picture(3, 700),
        draw_picture(2, 40),
        make_picture("white", (90, 60)),
        draw_picture(3000, 2100),
    ]
    getter = make_getter(threshold=threshold, max_regions=99)
    found = getter([make_doc() for _ in pictures], pictures)
    for picture, regions in zip(pictures, found):
        for region in regions:
            x0, y0, x1, y1 = region["box"]
            assert 0 <= x0 < x1 <= picture.width
            assert 0 <= y0 < y1 <= picture.height
            clip_box(region["box"], *picture.size)
            assert threshold <= region["score"] <= 1
    if threshold == 0.0:  # in the pixels of the picture, not of the smaller one that was looked at
        assert max(region["box"][2] for region in found[-1]) > 2048


@pytest.mark.gpu
def test_the_same_on_a_gpu(make_getter):
    pictures = [draw_picture(60, 40), draw_picture(30, 80, seed=1)]
    docs = [make_doc() for _ in pictures]
    for a, b in zip(*(make_getter(device=device)(docs, pictures) for device in ("cpu", "cuda"))):
        assert [region["label"] for region in a] == [region["label"] for region in b]
        for c, d in zip(a, b):
            assert c["box"] == pytest.approx(d["box"], abs=0.1)
            assert c["score"] == pytest.approx(d["score"], abs=1e-2)
