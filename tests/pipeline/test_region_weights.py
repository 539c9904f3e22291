"""`ent._.region_weights`: what entities attend to in the picture."""

import dataclasses
import pickle
import warnings

import numpy
import PIL.Image
import pytest
import spacy
import torch
from conftest import (
    IMG2VEC,
    MODEL,
    PAIRS,
    TOK2VEC,
    entities,
    make_examples,
    make_nlp,
    make_picture,
    make_rel_examples,
    make_rel_nlp,
    new_docs,
    relations,
    train,
)
from processes import pipe_in_processes
from spacy.tokens import Doc, DocBin, Span
from thinc.api import Model

from spacy_mmib.bridge.data import sum_by_region
from spacy_mmib.bridge.shim import get_module
from spacy_mmib.fusion.mmib import MMIB
from spacy_mmib.post.extensions import REGIONS_KEY, set_images, set_region_weights
from spacy_mmib.regions.base import region_getters

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

RNG = numpy.random.RandomState(0)
PICTURE = RNG.randint(0, 255, (60, 80, 3)).astype("uint8")
BOXES = [(0, 0, 40, 30), (30, 20, 80, 60), (10, 10, 60, 50), (40, 0, 80, 30)]
OUTSIDE = (500, 500, 600, 600)


def make_post(nlp, text="Rob had dinner with us", image=PICTURE, regions=BOXES) -> Doc:
    doc = nlp.make_doc(text)
    doc._.image = image
    doc._.regions = regions
    return doc


def weights_of(doc: Doc) -> list:
    assert doc.ents
    return [ent._.region_weights for ent in doc.ents]


def check(weights, n_regions: int) -> None:
    assert type(weights) is list
    assert all(type(x) is float for x in weights)
    assert len(weights) == 1 + n_regions
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert min(weights) >= 0


def by_hand(nlp, doc: Doc, component="mmib_ner") -> numpy.ndarray:
    """The attention of Eq. 17 from the parameters of the module, step by step, for one post."""
    model = nlp.get_pipe(component).model
    core = get_module(model.get_ref("fusion"))
    text = torch.tensor(model.get_ref("tok2vec").predict([doc])[0])[None]
    image = torch.tensor(model.get_ref("img2vec").predict([doc])[0])[None]
    mask = torch.ones(1, text.shape[1]).bool()
    image_mask = torch.ones(1, image.shape[1]).bool()
    with torch.no_grad():
        z_text = core.text_encoder(core.text_projection(text), mask, training=False).z
        z_image = core.image_encoder(core.image_projection(image), image_mask, training=False).z
        fused, _ = core.image_to_text(z_image, z_text, mask, training=False)
    attention = core.text_to_image.attention
    weight = attention.in_proj_weight.detach().numpy()
    bias = attention.in_proj_bias.detach().numpy()
    d, heads = core.width, attention.num_heads
    q = z_text[0].numpy() @ weight[:d].T + bias[:d]
    k = fused[0].numpy() @ weight[d : 2 * d].T + bias[d : 2 * d]
    mean = numpy.zeros((len(q), len(k)))
    for h in range(heads):
        part = slice(h * d // heads, (h + 1) * d // heads)
        scores = q[:, part] @ k[:, part].T / numpy.sqrt(d // heads)
        exp = numpy.exp(scores - scores.max(axis=1, keepdims=True))
        mean += exp / exp.sum(axis=1, keepdims=True) / heads
    return mean


def test_they_are_the_attention_of_the_fusion(trained):
    doc = trained(make_post(trained, "New Mia Records is here"))
    every = by_hand(trained, doc)
    for ent in doc.ents:
        check(ent._.region_weights, len(BOXES))
        expected = every[ent.start : ent.end].mean(axis=0)
        numpy.testing.assert_allclose(ent._.region_weights, expected, atol=1e-6)


def test_of_several_tokens_the_mean(trained):
    doc = make_post(trained, "New Mia Records is here")
    every = by_hand(trained, doc)
    component = trained.get_pipe("mmib_ner")
    prediction = component.predict([doc])[0]
    numpy.testing.assert_allclose(prediction.weights, every, atol=1e-6)
    component.set_annotations(
        [doc], [prediction._replace(starts=[0], ends=[3], labels=[0], confidences=[0.5])]
    )
    (weights,) = weights_of(doc)
    numpy.testing.assert_allclose(weights, every[:3].mean(axis=0), atol=1e-6)


def test_the_order_of_regions_is_the_order_of_weights(trained):
    """Weights go with the objects, not with the places."""
    (first,) = weights_of(trained(make_post(trained)))
    order = [2, 0, 3, 1]
    (second,) = weights_of(trained(make_post(trained, regions=[BOXES[i] for i in order])))
    numpy.testing.assert_allclose(second, [first[0], *(first[1 + i] for i in order)], atol=1e-5)
    assert len({round(x, 6) for x in first}) > 2


@pytest.mark.parametrize("features", ["crop", "roi"])
def test_regions_that_cant_be_used_have_no_weight(features, tmp_path):
    nlp = make_nlp(model={**MODEL, "img2vec": {**IMG2VEC, "region_features": features}})
    train(nlp, make_examples(nlp), steps=40)
    PIL.Image.fromarray(PICTURE[:20, :20]).save(tmp_path / "crop.png")
    crop, missing = str(tmp_path / "crop.png"), str(tmp_path / "missing.png")
    good = [BOXES[0], crop, BOXES[1], BOXES[2]]
    (expected,) = weights_of(nlp(make_post(nlp, regions=good)))
    bad = [OUTSIDE, BOXES[0], missing, crop, BOXES[1], (5, 5, 5, 5), BOXES[2]]
    doc = nlp(make_post(nlp, regions=bad))
    (weights,) = weights_of(doc)
    check(weights, len(bad))
    assert weights[1] == weights[3] == weights[6] == 0.0
    numpy.testing.assert_allclose([weights[i] for i in (0, 2, 4, 5, 7)], expected, atol=1e-6)
    assert "region 0" in doc._.image_error
    # The same again, from a batch in which two posts share the picture.
    docs = list(nlp.pipe([make_post(nlp, regions=bad), make_post(nlp, regions=bad)]))
    for doc in docs:
        numpy.testing.assert_allclose(weights_of(doc)[0], weights, atol=1e-6)


def test_equal_regions_and_regions_beyond_the_limit():
    nlp = make_nlp(model={**MODEL, "img2vec": {**IMG2VEC, "max_regions": 2}})
    train(nlp, make_examples(nlp), steps=40)
    doc = nlp(make_post(nlp, regions=[BOXES[1], BOXES[1], BOXES[0]]))
    (weights,) = weights_of(doc)
    check(weights, 3)
    assert weights[1] == pytest.approx(weights[2], abs=1e-6)
    assert weights[3] == 0.0


def test_posts_without_a_picture_or_with_a_broken_one(trained, tmp_path):
    docs = [
        make_post(trained, image=None, regions=[]),
        make_post(trained, image=str(tmp_path / "no.png")),
        make_post(trained, image=b"garbage", regions=[]),
        make_post(trained),
        trained.make_doc(""),
        make_post(trained, regions=[]),
        make_post(trained, regions=[OUTSIDE]),
    ]
    docs = list(trained.pipe(docs))
    for doc in docs[:3]:
        assert weights_of(doc) == [None]
    check(weights_of(docs[3])[0], len(BOXES))
    assert weights_of(docs[5]) == [pytest.approx([1.0])]
    assert weights_of(docs[6]) == [pytest.approx([1.0, 0.0])]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_they_dont_depend_on_the_batch(trained, size):
    posts = [
        ("Rob had dinner with us", PICTURE, BOXES),
        ("we saw Mia in the city, and it was a very long evening for all of us", PICTURE, BOXES[:1]),
        ("Rob had dinner with us", None, []),
        ("we saw Mia in the city", PICTURE[::-1].copy(), [*BOXES, *BOXES]),
        ("Rob had dinner with us", PICTURE, []),
    ]
    alone = [weights_of(trained(make_post(trained, *post))) for post in posts]
    together = trained.pipe([make_post(trained, *post) for post in posts], batch_size=size)
    for expected, doc in zip(alone, together, strict=True):
        for one, other in zip(expected, weights_of(doc), strict=True):
            if one is None:
                assert other is None
            else:
                numpy.testing.assert_allclose(one, other, atol=1e-6)


def test_predictions_are_those_of_a_core_that_gives_no_weights(trained, monkeypatch):
    expected = entities(trained.pipe(new_docs(trained)))
    forward = MMIB.forward
    without = lambda *args, **kwargs: dataclasses.replace(forward(*args, **kwargs), weights=None)
    monkeypatch.setattr(MMIB, "forward", without)
    docs = list(trained.pipe(new_docs(trained)))
    assert entities(docs) == expected
    assert all(ent._.region_weights is None for doc in docs for ent in doc.ents)


def test_no_weights_are_computed_in_training():
    core = MMIB(text_width=8, image_width=8, width=8, heads=2)
    args = (torch.ones(2, 3, 8), torch.ones(2, 3).bool(), torch.ones(2, 2, 8), torch.ones(2, 2).bool())
    assert core(*args, torch.tensor([0, 1]), training=True).weights is None
    assert core(*args, torch.tensor([0, 1]), training=False).weights.shape == (2, 3, 2)


# --- what happens to the doc afterwards -----------------------------------------------------------


@pytest.fixture
def doc(trained) -> Doc:
    return trained(make_post(trained))


def test_every_way_to_store_a_doc(doc, tmp_path):
    expected = weights_of(doc)
    check(expected[0], len(BOXES))
    assert weights_of(doc.copy()) == expected
    assert weights_of(pickle.loads(pickle.dumps(doc))) == expected
    assert weights_of(Doc(doc.vocab).from_bytes(doc.to_bytes())) == expected
    doc.to_disk(tmp_path / "doc")
    assert weights_of(Doc(doc.vocab).from_disk(tmp_path / "doc")) == expected
    data = DocBin(docs=[doc], store_user_data=True).to_bytes()
    assert weights_of(next(DocBin().from_bytes(data).get_docs(doc.vocab))) == expected


@pytest.mark.slow
def test_processes(trained, tmp_path):
    posts = [make_post(trained), make_post(trained, regions=BOXES[:2])]
    (docs,) = pipe_in_processes([(trained, posts)], tmp_path, batch_size=1, fresh=False)
    for found, post in zip(docs, posts, strict=True):
        numpy.testing.assert_allclose(weights_of(found), weights_of(trained(post)), atol=1e-6)


def test_another_picture_or_other_regions_forget_them(trained, doc):
    doc._.regions = [*BOXES[1:], BOXES[0]]
    assert weights_of(doc) == [None]
    trained(doc)
    check(weights_of(doc)[0], 4)
    doc._.regions = list(BOXES)  # other ones again
    assert weights_of(doc) == [None]
    trained(doc)
    before = weights_of(doc)
    doc._.regions = list(BOXES)  # the same
    doc._.image = PICTURE.copy()
    assert weights_of(doc) == before
    set_images(doc, ["elsewhere.png"], keep_regions=True)
    assert weights_of(doc) == before
    doc._.image = PICTURE[::-1].copy()
    assert weights_of(doc) == [None]


@pytest.mark.parametrize("again", [True, False])
def test_a_picture_that_goes_takes_them_along(doc, again):
    doc._.image = None
    if again:
        doc._.image = PICTURE
    assert weights_of(doc) == [None]


def test_regions_changed_past_the_setter(doc):
    doc.user_data[REGIONS_KEY] = doc.user_data[REGIONS_KEY][:2]
    assert weights_of(doc) == [None]
    doc.user_data[REGIONS_KEY] = 7
    assert weights_of(doc) == [None]


def test_a_doc_that_is_run_twice(trained, doc):
    first = weights_of(doc)
    assert weights_of(trained(doc)) == [pytest.approx(first[0], abs=1e-6)]
    doc._.image = None
    assert weights_of(trained(doc)) == [None]


def test_only_spans_that_were_looked_at(trained, doc):
    ent = doc.ents[0]
    assert doc[1:3]._.region_weights is None
    assert doc[ent.start : ent.end]._.region_weights == ent._.region_weights
    mine = make_post(trained)
    mine.set_ents([Span(mine, 0, 1, label="MINE")], default="missing")
    assert weights_of(trained(mine)) == [None]  # another component's


# --- several encoders, and who writes -------------------------------------------------------------


def rel_docs(nlp, ask=False):
    examples = make_rel_examples(nlp, ask=ask)
    for example in examples:
        if example.predicted._.image is not None:
            example.predicted._.regions = [OUTSIDE, (0, 0, 20, 20)]
    return [example.predicted for example in examples]


def test_listeners(trained_joint):
    alone = make_rel_nlp(joint=True).from_bytes(trained_joint.to_bytes())
    for name in ("mmib_ner", "mmib_rel"):
        alone.replace_listeners("mmib_img2vec", name, ["model.img2vec"])
    alone.remove_pipe("mmib_img2vec")
    shared = list(trained_joint.pipe(rel_docs(trained_joint)))
    own = list(alone.pipe(rel_docs(alone)))
    for doc, other, (_, colour, _) in zip(shared, own, PAIRS):
        for a, b in zip(doc.ents, other.ents, strict=True):
            if colour is None:
                assert a._.region_weights is b._.region_weights is None
            else:
                check(a._.region_weights, 2)
                assert a._.region_weights[1] == 0.0
                numpy.testing.assert_allclose(a._.region_weights, b._.region_weights, atol=1e-6)
    assert relations(shared) == relations(own)


def test_rows_are_those_of_the_vectors_that_are_used():
    """Between a shared encoder and its listener another encoder looks at fewer objects of the same docs."""
    nlp = make_rel_nlp(joint=True)
    nlp.remove_pipe("mmib_ner")
    img2vec = {**IMG2VEC, "max_regions": 1}
    nlp.add_pipe(
        "mmib_ner",
        after="mmib_img2vec",
        config={"model": {**MODEL, "img2vec": img2vec}, "beta1": 0.01, "beta2": 0.01},
    )
    train(nlp, make_rel_examples(nlp), steps=60)
    doc = make_post(nlp, "Rob met Mia in Oslo", regions=[OUTSIDE, *BOXES])
    nlp(doc)
    for weights in weights_of(doc):  # of mmib_ner
        check(weights, 5)
        assert weights == pytest.approx([1, 0, 0, 0, 0, 0])
    with nlp.select_pipes(disable="mmib_ner"):
        given = make_post(nlp, "Rob met Mia in Oslo", regions=[OUTSIDE, *BOXES])
        given.ents = [Span(given, ent.start, ent.end, label=ent.label_) for ent in doc.ents]
        nlp(given)
    for weights in weights_of(given):  # of mmib_rel
        assert weights[1] == 0.0
        assert min(weights[2:]) > 0


def test_mmib_rel_writes_for_entities_that_have_none(trained_rel):
    docs = rel_docs(trained_rel, ask=True)
    for doc in docs:
        spans = {(r.head.start, r.head.end): r.head for r in doc._.relations}
        doc.ents = [Span(doc, s, e, label="PER") for s, e in sorted(spans)]
    docs = list(trained_rel.pipe(docs))
    seen = 0
    for doc, (_, colour, _) in zip(docs, PAIRS):
        for ent in doc.ents:
            if colour is None:
                assert ent._.region_weights is None
            else:
                seen += 1
                check(ent._.region_weights, 2)
                assert ent._.region_weights[1] == 0.0
    assert seen == 10
    expected = by_hand(trained_rel, docs[0], "mmib_rel")
    head = docs[0]._.relations[0].head
    numpy.testing.assert_allclose([head._.region_weights[i] for i in (0, 2)], expected[head.start], atol=1e-6)


def test_mmib_rel_leaves_those_of_mmib_ner(trained_joint):
    def post():
        return make_post(trained_joint, "Rob met Mia in Oslo", regions=[OUTSIDE, *BOXES])

    with trained_joint.select_pipes(disable="mmib_rel"):
        ner = trained_joint(post())
    both = trained_joint(post())
    assert weights_of(both) == weights_of(ner)
    rel = both.copy()
    set_region_weights(rel, "mmib_ner", {})
    with trained_joint.select_pipes(disable="mmib_ner"):
        trained_joint(rel)
    for ours, others in zip(weights_of(rel), weights_of(both), strict=True):
        check(ours, 5)
        assert ours != pytest.approx(others, abs=1e-4)
    # And the other way round: mmib_ner's take the place of those of mmib_rel.
    trained_joint(rel)
    numpy.testing.assert_allclose(weights_of(rel), weights_of(ner), atol=1e-6)


def test_markers_dont_depend_on_the_batch():
    nlp = make_rel_nlp(
        model={"entity_repr": "marker"}, get_instances={"@misc": "spacy-mmib.ordered_pairs.v1"}
    )
    train(nlp, make_rel_examples(nlp), steps=3)

    def predict(**settings):
        doc = make_post(nlp, "Rob met Mia and Kim in Oslo", regions=[OUTSIDE, *BOXES])
        doc.ents = [Span(doc, i, i + 1, label="PER") for i in (0, 2, 4)]
        nlp.get_pipe("mmib_rel").max_batch_tokens = settings.get("max_batch_tokens", 8192)
        return weights_of(nlp(doc))

    together, apart = predict(), predict(max_batch_tokens=1)
    numpy.testing.assert_allclose(together, apart, atol=1e-6)
    for weights in together:
        check(weights, 5)
        assert weights[1] == 0


def test_markers_of_several_posts():
    """Each pair has the picture of its own post, whose regions are others."""
    nlp = make_rel_nlp(
        model={"entity_repr": "marker"}, get_instances={"@misc": "spacy-mmib.ordered_pairs.v1"}
    )
    train(nlp, make_rel_examples(nlp), steps=3)

    def posts():
        docs = []
        for regions in ([OUTSIDE, *BOXES], BOXES[:2], [BOXES[0], OUTSIDE, OUTSIDE, BOXES[1]], []):
            doc = make_post(nlp, "Rob met Mia in Oslo", regions=regions)
            doc.ents = [Span(doc, i, i + 1, label="PER") for i in (0, 2)]
            docs.append(doc)
        return docs

    together = [weights_of(doc) for doc in nlp.pipe(posts())]
    alone = [weights_of(nlp(doc)) for doc in posts()]
    for one, other in zip(together, alone, strict=True):
        numpy.testing.assert_allclose(one, other, atol=1e-6)
    assert [w == 0 for w in together[2][0]] == [False, False, True, True, False]


def test_a_model_without_a_core():
    nlp = spacy.blank("en")
    text = {"@architectures": "spacy-mmib.Text_NER.v1", "tok2vec": TOK2VEC}
    nlp.add_pipe("mmib_ner", config={"model": text})
    train(nlp, make_examples(nlp), steps=30)
    assert weights_of(nlp(make_post(nlp, "New Mia Records is here"))) == [None]


def test_patches_are_the_whole_picture():
    array = numpy.full((2, 5), 0.2)
    numpy.testing.assert_allclose(sum_by_region(array, [0] * 5, 2), [[1, 0, 0]] * 2)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (None, None),
        ([0, 1, 2], [0.5, 0.3, 0.2, 0.0]),
        ([0, 2, 3], [0.5, 0.0, 0.3, 0.2]),
        ([0, 2], None),
        ([0, 2, 9], None),
    ],
)
def test_rows_that_dont_fit_are_nobodys(rows, expected):
    found = sum_by_region(numpy.asarray([[0.5, 0.3, 0.2]]), rows, 3).tolist()
    assert found == [expected or []]


class Custom(Model):
    """An encoder of somebody else's, which knows nothing of rows."""

    def __init__(self):
        super().__init__("custom", self._forward, dims={"nO": 4})

    @staticmethod
    def _forward(model, docs, is_train):
        numbers = [0 if doc._.image is None else 1 + len(doc._.regions) for doc in docs]
        return [model.ops.alloc2f(n, 4) + numpy.arange(n, dtype="f")[:, None] for n in numbers], lambda d: []


def test_an_encoder_that_says_nothing_about_rows():
    spacy.util.registry.architectures.register("test.Custom.v1", func=Custom)
    nlp = make_nlp(model={**MODEL, "img2vec": {"@architectures": "test.Custom.v1"}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(nlp, make_examples(nlp), steps=30)
    check(weights_of(nlp(make_post(nlp, "New Mia Records is here")))[0], len(BOXES))


def test_getters():
    """Regions that are found belong to the doc; those that a getter keeps to itself can't be told."""

    def find(docs, pictures):
        return [[(0, 0, 20, 20), (10, 10, 30, 30), OUTSIDE, (5, 5, 30, 30)] for _ in docs]

    region_getters.register("test.find.v1", func=lambda: find)
    img2vec = {**IMG2VEC, "get_regions": {"@region_getters": "test.find.v1"}}
    nlp = make_nlp(model={**MODEL, "img2vec": img2vec})
    train(nlp, make_examples(nlp), steps=40)
    doc = nlp(make_post(nlp, regions=[]))
    assert len(doc._.regions) == 4
    (weights,) = weights_of(doc)
    check(weights, 4)
    assert weights[3] == 0.0
    assert min(weights[1:3]) > 0
    assert weights_of(nlp(doc)) == [pytest.approx(weights, abs=1e-6)]


@pytest.mark.parametrize(
    ("name", "entity_repr"),
    [("mmib_ner", None), ("mmib_img2vec", None), ("mmib_rel", "pool"), ("mmib_rel", "marker")],
)
def test_what_is_found_is_attached_by_set_annotations(name, entity_repr):
    img2vec = {**IMG2VEC, "get_regions": {"@region_getters": "spacy-mmib.grid.v1", "k": 2}}
    if name == "mmib_rel":
        nlp = make_rel_nlp(model={"img2vec": img2vec, "entity_repr": entity_repr})
    else:
        nlp = make_nlp(model={**MODEL, "img2vec": img2vec})
        nlp.add_pipe("mmib_img2vec", config={"model": img2vec})
    examples = make_rel_examples(nlp, ask=True)
    nlp.initialize(lambda: examples)
    docs = [example.predicted for example in examples]
    before = [doc.to_bytes() for doc in docs]
    pipe = nlp.get_pipe(name)
    predictions = pipe.predict(docs)
    assert [doc.to_bytes() for doc in docs] == before
    pipe.set_annotations(docs, predictions)
    for doc in docs:
        is_encoded = name != "mmib_rel" or len(doc._.relations) > 0  # posts without pairs aren't
        by_hand = 0 if doc._.image is None else 1
        assert len(doc._.regions) == (4 if doc._.image is not None and is_encoded else by_hand)


def test_pictures_known_from_the_cache(tmp_path):
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(tmp_path / "cache")}
    nlp = make_nlp(model={**MODEL, "img2vec": {**IMG2VEC, "cache": cache}})
    train(nlp, make_examples(nlp), steps=40)
    make_picture("red", (80, 60)).save(tmp_path / "red.png")
    PIL.Image.fromarray(PICTURE).save(tmp_path / "a.png")
    for regions in (BOXES, [BOXES[0], OUTSIDE, BOXES[1]]):
        first, second = (
            weights_of(nlp(make_post(nlp, image=str(tmp_path / "a.png"), regions=regions)))[0]
            for _ in range(2)
        )
        check(first, len(regions))
        numpy.testing.assert_allclose(first, second, atol=1e-6)
    assert first[2] == 0.0
