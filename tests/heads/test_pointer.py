"""The pointer: alone against a computation of its own, and in a pipeline that learns which object an entity is."""

import math
import warnings

import numpy
import pytest
import spacy
import torch
from conftest import MODEL, make_nlp, train
from spacy.tokens import DocBin, Span
from spacy.training import Example

from spacy_mmib.bridge.data import PointerInput
from spacy_mmib.bridge.shim import get_module
from spacy_mmib.evaluation.evaluate import evaluate, tabulate
from spacy_mmib.evaluation.posts import to_record
from spacy_mmib.heads.pointer import Pointer, build_pointer_v1
from spacy_mmib.models.occlusion import LEAST
from spacy_mmib.post.boxes import EntityRegion, get_iou
from spacy_mmib.visual.report import make_report

D, WIDTH = 6, 5
POINTER = {"@architectures": "spacy-mmib.Pointer.v1"}
RNG = numpy.random.RandomState(0)


def random(*shape) -> numpy.ndarray:
    return RNG.normal(size=shape).astype("float32")


def owners(rows: list[int], n_regions: int) -> numpy.ndarray:
    return numpy.eye(1 + n_regions, dtype="float32")[rows] if rows else numpy.zeros((0, 0), dtype="float32")


@pytest.fixture
def layer():
    spacy.util.fix_random_seed(0)
    layer = build_pointer_v1()
    layer.initialize(X={"width": D, "image_width": WIDTH})
    return layer


@pytest.fixture
def posts() -> PointerInput:
    """Two rows of an object, an object without a row, one that is all there is, none, and no picture."""
    rows = [[0, 1, 2, 2], [0, 2, 3], [0, 1], [0], []]
    return PointerInput(
        [random(n, D) for n in (4, 2, 7, 3, 2)],
        [random(len(of), WIDTH) for of in rows],
        [owners(of, 3) for of in rows],
        [[(0, 1), (1, 4)], [(0, 2)], [(2, 3), (4, 5), (6, 7)], [(0, 1)], [(1, 2)]],
    )


def by_hand(layer, X: PointerInput, i: int) -> list[dict[int, float]]:
    """The probabilities of each entity of a post, by number, from the parameters, step by step."""
    module = get_module(layer)
    (q, q_bias, k, k_bias, n) = (
        x.detach().double().numpy()
        for x in (module.query.weight, module.query.bias, module.key.weight, module.key.bias, module.nowhere)
    )
    result = []
    for start, end in X.spans[i]:
        query = q @ X.context[i][start:end].astype("float64").mean(0) + q_bias
        scores = {0: query @ n / math.sqrt(D)}
        for number in range(1, X.objects[i].shape[1]):
            own = [row for row, of in zip(X.image[i], X.objects[i]) if of[number]]
            if own:
                scores[number] = query @ (k @ numpy.mean(own, 0) + k_bias) / math.sqrt(D)
        total = sum(map(math.exp, scores.values()))
        result.append({number: math.exp(score) / total for number, score in scores.items()})
    return result


def test_what_it_says_is_what_the_formula_says_in_any_batch(layer, posts):
    for i, found in enumerate(layer.predict(posts)):
        expected = by_hand(layer, posts, i)
        assert len(found) == len(expected)
        one = [[x[i]] for x in (posts.context, posts.image, posts.objects, posts.spans)]
        (alone,) = layer.predict(PointerInput(*one))
        for region, probabilities, same in zip(found, expected, alone):
            best = max(probabilities, key=probabilities.get)
            assert (region.index, region.source) == (best - 1 if best else None, "pointer")
            assert region.score == pytest.approx(probabilities[best], abs=1e-6)
            assert (same.index, same.score) == (region.index, pytest.approx(region.score, abs=1e-6))
    assert layer.predict(posts)[3:] == [[EntityRegion(None, 1.0, "pointer")]] * 2


def test_the_loss_is_what_the_formula_says(layer, posts):
    targets = [[[1], [1, 2]], [[0]], [[], [1], []], [[0]], [[]]]
    posts.targets = targets
    (loss,), _ = layer.begin_update(posts)
    right = [
        sum(probabilities[number] for number in of)
        for i, of_post in enumerate(targets)
        for of, probabilities in zip(of_post, by_hand(layer, posts, i))
        if of
    ]
    assert loss == pytest.approx(-sum(map(math.log, right)) / 5, abs=1e-6)


def test_gradients(layer, posts):
    posts.targets = [[[1], [1, 2]], [[0]], [[], [1], []], [[0]], [[]]]
    loss, backprop = layer.begin_update(posts)
    for arrays, gradients in zip((posts.context, posts.image), backprop(layer.ops.xp.ones_like(loss))):
        for array, gradient in zip(arrays, gradients):
            assert gradient.shape == array.shape
            for place in list(numpy.ndindex(array.shape))[::3]:
                before, losses = array[place].copy(), []
                for step in (0.01, -0.01):
                    array[place] = before + step
                    losses.append(float(layer.begin_update(posts)[0][0]))
                array[place] = before
                assert gradient[place] == pytest.approx((losses[0] - losses[1]) / 0.02, abs=1e-3)
    module = Pointer(width=D, image_width=WIDTH).double()
    context, image = (torch.randn(2, 3, n, dtype=torch.float64, requires_grad=True) for n in (D, WIDTH))
    spans, objects = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1), torch.zeros(2, 2, 3).double()
    objects[:, 0, 1] = objects[0, 1, 2] = 1
    targets = torch.zeros(2, 3, 3).bool()
    targets[0, 0, 1:] = targets[1, 1, 1] = targets[1, 2, 0] = True
    assert torch.autograd.gradcheck(lambda *x: module(*x, spans, objects, targets), (context, image))


def test_nothing_known_teaches_nothing(layer, posts):
    posts.targets = [[[] for _ in spans] for spans in posts.spans]
    loss, backprop = layer.begin_update(posts)
    assert loss.tolist() == [0.0]
    assert all(not d.any() for gradients in backprop(layer.ops.xp.ones_like(loss)) for d in gradients)


# A red and a blue object in each picture. The text tells the type, and whether it is to be seen; boxes tell that
# PER is the red one.
TEXTS = [("Rob sings", "PER"), ("Acme sells", "ORG"), ("Mia sings", "PER"), ("Zorg sells", "ORG")]
PLACES = [(2, 2, 22, 22), (40, 4, 60, 24), (8, 36, 30, 58), (36, 34, 60, 60)]


def make_examples(nlp, boxes: str = "gold") -> list[Example]:
    rng, examples = numpy.random.RandomState(1), []
    for i in range(24):
        text, label = TEXTS[i % 4]
        absent = i % 3 == 0
        doc = nlp.make_doc(f"{text} far away" if absent else text)
        pixels = numpy.full((64, 64, 3), 255, dtype="uint8")
        places = [PLACES[j] for j in rng.permutation(4)[:2]]
        for (x0, y0, x1, y1), colour in zip(places, [(230, 20, 20), (20, 20, 230)]):
            pixels[y0:y1, x0:x1] = colour
        doc._.image = pixels
        order = rng.permutation(2)
        doc._.regions = [places[j] for j in order]
        gold = doc.copy()
        gold.ents = [Span(gold, 0, 1, label=label)]
        x0, y0, x1, y1 = places[0 if label == "PER" else 1]
        given = {"gold": [] if absent else [(x0 + 1, y0, x1 + 1, y1)], "none": None, "wrong": [(0, 0, 2, 2)]}
        gold.ents[0]._.boxes = given[boxes]
        examples.append(Example(doc, gold))
    return examples


def make_pointing(pointer=POINTER, **config):
    return make_nlp(model={**MODEL, "pointer": pointer}, beta1=0.01, beta2=0.01, **config)


@pytest.fixture(scope="module")
def pointing():
    """Shared: don't change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = make_pointing()
        losses = train(nlp, make_examples(nlp), steps=60)
    assert losses["mmib_ner_pointer"] < 0.1
    return nlp


def regions_of(docs) -> list:
    return [
        [(e.text, e._.region.index, round(e._.region.score, 4), e._.region.source) for e in d.ents]
        for d in docs
    ]


def test_it_learns_which_object_it_is(pointing):
    examples = make_examples(pointing)
    for example, doc in zip(examples, pointing.pipe(eg.predicted for eg in examples)):
        (gold,), (ent,) = example.reference.ents, doc.ents
        found = ent._.region
        assert found.source == "pointer"
        assert 0.5 < found.score <= 1
        if gold._.boxes:
            assert get_iou(doc._.regions[found.index], gold._.boxes[0]) > 0.5
        else:
            assert found.index is None


def test_without_a_picture_it_is_not_in_the_picture(pointing):
    doc = pointing("Rob sings")
    assert [ent._.region for ent in doc.ents] == [EntityRegion(None, 1.0, "pointer")]


def test_no_batch_and_no_serialization_changes_it(pointing, tmp_path):
    docs = lambda: [eg.predicted for eg in make_examples(pointing)] + [pointing.make_doc("Rob")]
    expected = regions_of(pointing.pipe(docs()))
    assert regions_of(map(pointing, docs())) == expected
    pointing.to_disk(tmp_path)
    assert regions_of(spacy.load(tmp_path).pipe(docs(), batch_size=5)) == expected


def test_where_no_boxes_fit_nothing_is_learned_and_said_nothing_without_a_pointer():
    nlp = make_pointing()
    for boxes in ("none", "wrong"):
        losses = train(nlp, make_examples(nlp, boxes), steps=1)
        assert losses["mmib_ner_pointer"] == 0.0
    plain = make_nlp()
    assert "mmib_ner_pointer" not in train(plain, make_examples(plain), steps=12)
    docs = list(plain.pipe(eg.predicted for eg in make_examples(plain)))
    assert [ent._.region for doc in docs for ent in doc.ents] == [None for doc in docs for ent in doc.ents]


def test_its_loss_has_a_weight():
    losses = {}
    for weight in (0.0, 1.0, 2.0):
        nlp = make_pointing(loss_weights={"pointer": weight})
        losses[weight] = train(nlp, make_examples(nlp), steps=1)
    assert "mmib_ner_pointer" not in losses[0.0]
    part = losses[1.0]["mmib_ner_pointer"]
    assert part == losses[2.0]["mmib_ner_pointer"] > 0
    assert losses[1.0]["mmib_ner"] == pytest.approx(losses[0.0]["mmib_ner"] + part, rel=1e-4)
    assert losses[2.0]["mmib_ner"] == pytest.approx(losses[0.0]["mmib_ner"] + 2 * part, rel=1e-4)


def test_a_pointer_needs_pictures_and_locate_one_of_its_values():
    with pytest.raises(ValueError, match="points at objects in pictures"):
        make_nlp(model={**MODEL, "fusion": {"@architectures": "spacy-mmib.NoFusion.v1"}, "pointer": POINTER})
    with pytest.raises(ValueError, match="locate.*'attention' is not"):
        make_nlp(locate="attention")
    with pytest.raises(
        ValueError, match="mmib_ner: locate is 'attention'; choose pointer, occlusion or None"
    ):
        make_nlp().get_pipe("mmib_ner").locate = "attention"


def test_gradients_reach_an_encoder_that_learns():
    nlp = make_nlp(model={**MODEL, "img2vec": {**MODEL["img2vec"], "trainable": True}, "pointer": POINTER})
    losses = train(nlp, make_examples(nlp)[:6], steps=3)
    assert math.isfinite(losses["mmib_ner_pointer"])


@pytest.fixture(scope="module")
def occluding(pointing):
    nlp = make_pointing(locate="occlusion")
    return nlp.from_bytes(pointing.to_bytes())


def test_occlusion_is_the_fall_of_the_probability(occluding):
    """By hand: the same post with each object taken away."""
    docs = [eg.predicted for eg in make_examples(occluding)]
    for doc, alone in zip(occluding.pipe([doc.copy() for doc in docs]), map(occluding, docs)):
        assert regions_of([doc]) == regions_of([alone])
    occluding.get_pipe("mmib_ner").locate = None
    try:
        for doc in docs[:6]:
            ent = doc.ents[0]
            falls = []
            for j in range(2):
                without = doc.copy()
                without.ents = []
                without._.regions = [region for i, region in enumerate(doc._.regions) if i != j]
                (same,) = occluding(without).ents
                falls.append(
                    max(0.0, ent._.confidence - same._.confidence) if same.label == ent.label else None
                )
            # Not where rounding decides.
            if None not in falls and (max(falls) > 0.01 or max(falls) < LEAST / 5):
                best = falls.index(max(falls))
                index, score = (
                    (None, 1 - max(falls)) if max(falls) < LEAST else (best, falls[best] / sum(falls))
                )
                assert ent._.region == EntityRegion(index, pytest.approx(score, abs=1e-3), "occlusion")
    finally:
        occluding.get_pipe("mmib_ner").locate = "occlusion"
    assert occluding("Rob sings").ents[0]._.region == EntityRegion(None, 1.0, "occlusion")


def test_predict_evaluate_and_report_have_it(pointing, tmp_path):
    examples = make_examples(pointing)
    record = to_record({}, pointing(examples[1].predicted.copy()))
    region = record["entities"][0]["region"]
    (ent,) = pointing(examples[1].predicted.copy()).ents
    assert region == {
        "index": ent._.region.index,
        "box": [float(x) for x in ent.doc._.regions[ent._.region.index]["box"]],
        "score": round(ent._.region.score, 5),
        "source": "pointer",
    }
    nowhere = to_record({}, pointing(pointing.make_doc("Rob sings")))["entities"][0]["region"]
    assert nowhere == {"index": None, "box": None, "score": 1.0, "source": "pointer"}
    DocBin(docs=[eg.reference for eg in examples], store_user_data=True).to_disk(tmp_path / "a.spacy")
    scores = evaluate(pointing, tmp_path / "a.spacy")
    assert scores["gmner_f"] == scores["eeg_f"] == scores["ents_f"] == 1.0
    title, overall, _ = tabulate(scores)[1]
    assert (title, list(overall)) == (
        "Entities with their objects (GMNER, EEG)",
        ["all", "all, without types"],
    )
    html = make_report(pointing, tmp_path / "a.spacy")
    assert "found by pointer" in html
    assert "GMNER" in html
    plain = make_nlp(beta1=0.01, beta2=0.01)
    train(plain, examples, steps=20)
    assert "gmner_f" not in evaluate(plain, tmp_path / "a.spacy")
    assert "found by occlusion" in make_report(plain, tmp_path / "a.spacy")
    assert plain.get_pipe("mmib_ner").locate == "pointer"
