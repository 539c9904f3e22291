"""The optimizer beside Thinc's own."""

import numpy
import pytest
import spacy
from conftest import make_examples, make_nlp
from spacy.util import registry


def make(name, **settings):
    return registry.resolve({"x": {"@optimizers": name, **settings}})["x"]


WARMUP = {"@schedules": "warmup_linear.v1", "initial_rate": 0.05, "warmup_steps": 3, "total_steps": 9}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"L2": 0.1, "L2_is_weight_decay": True, "grad_clip": 0.5},
        {"L2": 0.1, "L2_is_weight_decay": False, "grad_clip": 0.0},
        {"eps": 0.1, "beta1": 0.5, "beta2": 0.7},
        {"learn_rate": WARMUP},
        {"use_averages": True},
    ],
)
def test_its_steps_are_those_of_thincs_adam(settings):
    settings = {"learn_rate": 0.01, "use_averages": False, **settings}
    ours, thincs = make("spacy-mmib.Adam.v1", **settings), make("Adam.v1", **settings)
    rng = numpy.random.RandomState(0)
    shapes = [(7, 5), (3,), (2, 3, 4), (1, 1)]
    weights = [rng.randn(*shape).astype("float32") for shape in shapes]
    expected = [w.copy() for w in weights]
    for _ in range(12):
        for i, shape in enumerate(shapes):
            gradient = rng.randn(*shape).astype("float32")
            expected[i], zero = thincs((i, "w"), expected[i], gradient.copy())
            weights[i], mine = ours((i, "w"), weights[i], gradient.copy())
            numpy.testing.assert_allclose(weights[i], expected[i], rtol=1e-5, atol=1e-6)
            assert not mine.any()
            assert mine.shape == zero.shape
        ours.step_schedules()
        thincs.step_schedules()
    for i in range(len(shapes)):
        numpy.testing.assert_allclose(ours.mom1[i, "w"], thincs.mom1[i, "w"], rtol=1e-5, atol=1e-6)


def test_the_rate_can_be_scaled_and_odd_arrays_are_left_to_thinc():
    ours, thincs = make("spacy-mmib.Adam.v1"), make("Adam.v1", use_averages=False)
    rng = numpy.random.RandomState(0)
    wide = rng.randn(6, 8).astype("float32")
    for weights in (wide, wide[:, ::2].T):
        gradient = rng.randn(*weights.shape).astype("float32")
        a, _ = ours((weights.shape, "w"), weights.copy(order="K"), gradient.copy(), lr_scale=0.3)
        b, _ = thincs((weights.shape, "w"), weights.copy(order="K"), gradient.copy(), lr_scale=0.3)
        numpy.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_training_with_it_is_training_with_thincs():
    losses = []
    for name in ("Adam.v1", "spacy-mmib.Adam.v1"):
        nlp = make_nlp()
        spacy.util.fix_random_seed(0)
        examples = make_examples(nlp)
        nlp.initialize(lambda: examples)
        optimizer = make(name, learn_rate=0.005, L2=0.01, grad_clip=1.0, use_averages=False)
        spacy.util.fix_random_seed(0)
        steps = [nlp.update(examples, sgd=optimizer, losses={})["mmib_ner"] for _ in range(6)]
        losses.append(steps)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1][-1] < losses[1][0]
