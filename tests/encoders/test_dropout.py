"""Picture dropout and region dropout: what reaches the fusion in training, and what is learned from it."""

import pickle
from zlib import crc32

import numpy
import pytest
import spacy
from conftest import IMG2VEC, LISTENER, MODEL, REL_MODEL, make_doc, make_picture, make_rel_examples
from spacy.tokens import Span
from spacy.training import Example
from spacy.util import fix_random_seed, registry
from thinc.api import Model

from spacy_mmib.bridge.data import PictureVectors
from spacy_mmib.encoders.dropout import HOOK, draw_dropout, drop_pictures
from spacy_mmib.models import pair_classifier, post_encoder
from spacy_mmib.post.extensions import describe_regions, get_stored_image, remove_image

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

GRADIENTS: list = []
"""What the pictures of each update got, of the encoder of these tests."""


@registry.architectures("tests.Rows.v1")
def make_rows_encoder() -> Model:
    """A picture encoder of somebody else's: 8 numbers for the picture and each object, by what they are."""

    def forward(model, docs, is_train):
        def encode(doc):
            n = 0 if get_stored_image(doc) is None else 1 + len(doc._.regions)
            seeds = [crc32(f"{doc.text} {describe_regions(doc)} {i}".encode()) for i in range(n)]
            rows = [numpy.random.default_rng(seed).normal(size=8) for seed in seeds]
            return numpy.asarray(rows, dtype="float32").reshape(n, 8)

        return [encode(doc) for doc in docs], GRADIENTS.append

    return Model("rows", forward, dims={"nO": 8})


ROWS = {"@architectures": "tests.Rows.v1"}


@pytest.fixture
def seen(monkeypatch):
    """The picture vectors that reach the fusion, a list an update of a component."""
    calls, fuse = [], post_encoder.fuse

    def spy(model, docs, text, image, is_train):
        calls.append([x.copy() for x in image])
        return fuse(model, docs, text, image, is_train)

    for module in (post_encoder, pair_classifier):
        monkeypatch.setattr(module, "fuse", spy)
    GRADIENTS.clear()
    return calls


def make_nlp(*components: str, img2vec=ROWS, shared=None, model=None, **settings):
    nlp = spacy.blank("en")
    if shared is not None:
        nlp.add_pipe("mmib_img2vec", config={"model": shared})
        img2vec = LISTENER
    for name in components or ("mmib_ner",):
        layers = {**(MODEL if name == "mmib_ner" else REL_MODEL), "img2vec": img2vec, **(model or {})}
        nlp.add_pipe(name, config={"model": layers, **settings})
    return nlp


def make_posts(nlp, n: int = 12, regions: int = 2):
    examples = []
    for i in range(n):
        doc = nlp.make_doc(f"Rob met Mia and Kim in town {i}")
        doc._.image = numpy.asarray(make_picture("red"))
        doc._.regions = [(k, 0, 20 + k, 20) for k in range(regions)]
        gold = doc.copy()
        gold.ents = [Span(gold, k, k + 1, label="PER") for k in (0, 2, 4)]
        gold._.relations = [(gold.ents[0], gold.ents[1], "couple"), (gold.ents[2], gold.ents[1], "team")]
        examples.append(Example(doc, gold))
    return examples


def start(nlp, examples, seed: int = 0):
    fix_random_seed(seed)
    nlp.initialize(lambda: examples)
    fix_random_seed(seed)
    return nlp.create_optimizer()


def lengths(call) -> list[int]:
    return [len(x) for x in call]


def is_same(call, other) -> bool:
    return lengths(call) == lengths(other) and all(map(numpy.array_equal, call, other))


def test_pictures_are_dropped_in_training_only(seen):
    nlp = make_nlp(picture_dropout=0.5)
    examples = make_posts(nlp)
    sgd = start(nlp, examples)
    nlp.update(examples, sgd=sgd)
    nlp.evaluate(examples)
    trained, *predicted = seen
    assert set(lengths(trained)) == {0, 3}
    assert {n for call in predicted for n in lengths(call)} == {3}


@pytest.mark.parametrize("rate", [0.1, 0.3, 1.0])
def test_how_many_are_dropped(rate):
    docs = [make_doc(make_picture("red"), words=["a"]) for _ in range(2000)]
    image = PictureVectors([numpy.ones((5, 2), dtype="float32") for _ in docs], [[0, 0, 1, 1, 2]] * len(docs))
    fix_random_seed(0)
    draw_dropout(docs, "one", rate, 0.0)
    pictures, _ = drop_pictures(docs, image, lambda d: None)
    dropped = [len(x) == 0 for x in pictures]
    assert numpy.mean(dropped) == pytest.approx(rate, abs=0.03)
    # Objects: all rows of one together, each on its own, of pictures that are kept, whose own rows stay.
    draw_dropout(docs, "two", rate, rate)
    both, _ = drop_pictures(docs, image, lambda d: None)
    assert [len(x) == 0 for x in both] == dropped
    kept = [tuple(rows) for rows, is_dropped in zip(both.rows, dropped) if not is_dropped]
    assert set(kept) <= {(0, 0), (0, 0, 1, 1), (0, 0, 2), (0, 0, 1, 1, 2)}
    for i in (1, 2) if kept else ():
        assert numpy.mean([i not in rows for rows in kept]) == pytest.approx(rate, abs=0.05)
    # At a higher rate, these and more.
    draw_dropout(docs, "three", rate / 2, 0.0)
    fewer, _ = drop_pictures(docs, image, lambda d: None)
    assert all(is_dropped for x, is_dropped in zip(fewer, dropped) if not len(x))
    assert sum(len(x) == 0 for x in fewer) < sum(dropped)


def test_both_components_drop_the_same(seen):
    nlp = make_nlp("mmib_ner", "mmib_rel", shared=ROWS, picture_dropout=0.4, region_dropout=0.4)
    examples = make_posts(nlp)
    sgd = start(nlp, examples)
    for _ in range(2):
        nlp.update(examples, sgd=sgd)
    first, same, second, again = seen
    assert is_same(first, same)
    assert is_same(second, again)
    assert not is_same(first, second)
    assert {0, 1, 2, 3} == {n for call in seen for n in lengths(call)}


def test_updates_of_one_component_draw_anew(seen):
    nlp = make_nlp("mmib_ner", "mmib_rel", picture_dropout=0.5)
    examples = make_posts(nlp)
    sgd = start(nlp, examples)
    for _ in range(2):
        nlp.get_pipe("mmib_ner").update(examples, sgd=sgd)
    # Its draws are not those of the copies that nlp.update makes.
    for _ in range(2):
        nlp.update(examples, sgd=sgd, exclude=["mmib_ner"])
    found = {tuple(lengths(call)) for call in seen}
    assert len(found) == len(seen) == 4
    doc = examples[0].predicted
    assert HOOK in doc.user_hooks
    assert pickle.loads(pickle.dumps(doc)).user_hooks[HOOK] is None


@pytest.mark.parametrize("settings", [{}, {"picture_dropout": 0.0, "img2vec": ROWS}])
def test_nothing_is_drawn_where_nothing_is_dropped(settings, seen):
    """Neither at rates of 0 nor without a picture encoder: the random numbers are those of before."""
    fusion = {"@architectures": "spacy-mmib.NoFusion.v1"}
    nlp = make_nlp("mmib_ner", "mmib_rel", **(settings or {"model": {"fusion": fusion}}))
    examples = make_posts(nlp)
    sgd = start(nlp, examples)
    nlp.update(examples, sgd=sgd)
    for name in nlp.pipe_names:
        nlp.get_pipe(name).update(examples, sgd=sgd)
    after = numpy.random.get_state()[1]
    fix_random_seed(0)
    assert numpy.array_equal(after, numpy.random.get_state()[1])
    assert all(HOOK not in example.predicted.user_hooks for example in examples)


@pytest.mark.parametrize("component", ["mmib_ner", "mmib_rel", "marker"])
def test_a_dropped_picture_is_none(component, seen):
    """The losses, regularizers included, and all weights are those of an update in which the posts had none."""
    model = {"entity_repr": "marker"} if component == "marker" else {}
    name = "mmib_rel" if model else component

    def update(rate: float, without=()):
        nlp = make_nlp(name, model=model, picture_dropout=rate)
        examples = make_posts(nlp)
        sgd = start(nlp, examples)
        for i in without:
            remove_image(examples[i].predicted)
        fix_random_seed(0)
        losses = nlp.update(examples, sgd=sgd, losses={})
        return losses, nlp.get_pipe(name).model.to_bytes()

    dropped = update(0.5)
    (gradients,) = GRADIENTS
    without = [i for i, d in enumerate(gradients) if not d.any()]
    assert 0 < len(without) < 12
    assert [d.shape for d in gradients] == [(3, 8)] * 12
    assert f"{name}_kl_image" in dropped[0]
    assert dropped == update(0.0, without)
    assert dropped[0] != update(0.0)[0]
    # With markers a post is encoded once a pair, always with the same.
    pairs = numpy.reshape(lengths(seen[0]), (12, -1))
    assert all(len(set(row)) == 1 for row in pairs.tolist())
    assert [i for i, row in enumerate(pairs) if not row.any()] == without


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_what_is_dropped_teaches_the_encoder_nothing(rate, shared):
    encoder = {**IMG2VEC, "arch": "resnet18", "trainable": True}
    layers = {"shared": encoder} if shared else {"img2vec": encoder}
    nlp = make_nlp("mmib_ner", **layers, picture_dropout=rate)
    examples = make_posts(nlp, n=2, regions=1)
    sgd = start(nlp, examples)
    pipe = nlp.get_pipe("mmib_img2vec" if shared else "mmib_ner")
    layer = pipe.model if shared else pipe.model.get_ref("img2vec")
    before = layer.to_bytes()
    nlp.update(examples, sgd=sgd)
    assert (layer.to_bytes() == before) == (rate == 1.0)


def test_objects_of_several_rows(seen):
    """With our own encoders it is known in training, too, what the rows are."""
    encoder = {**IMG2VEC, "arch": "resnet18", "rows": "pyramid"}
    nlp = make_nlp("mmib_ner", "mmib_rel", img2vec=encoder, picture_dropout=0.0, region_dropout=1.0)
    examples = make_posts(nlp, n=2)
    sgd = start(nlp, examples)
    nlp.update(examples, sgd=sgd)
    nlp.evaluate(examples)
    assert [lengths(call) for call in seen[:3]] == [[4, 4], [4, 4], [12, 12]]  # 4 rows for each of 3


def test_one_seed_one_result():
    def run(seed: int) -> bytes:
        nlp = make_nlp("mmib_ner", "mmib_rel", shared=ROWS, region_dropout=0.2)
        examples = make_rel_examples(nlp)
        sgd = start(nlp, examples, seed)
        for _ in range(3):
            nlp.update(examples, sgd=sgd, drop=0.1)
        return nlp.to_bytes()

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize("component", ["mmib_ner", "mmib_rel"])
@pytest.mark.parametrize("rate", [-0.1, 30])
def test_rates_that_are_none(component, rate):
    for setting in ("picture_dropout", "region_dropout"):
        with pytest.raises(ValueError, match=f"{component}: {setting} is a probability, 0-1, not {rate}"):
            make_nlp(component, **{setting: rate})
