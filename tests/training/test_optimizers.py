"""The optimizer beside Thinc's own."""

import warnings

import numpy
import pytest
import spacy
import torch
from conftest import make_examples, make_nlp
from spacy.util import registry
from thinc.api import Config
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.training.optimizers import clip
from spacy_mmib.util import MMIBWarning


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


SCALES = {"crf": 3.0, "crf.transitions": 0.5, "layer.1": 10.0}
NAMES = {
    "crf.start_transitions": 3.0,
    "head.crf.end": 3.0,
    "crf": 3.0,
    "crf.transitions": 0.5,
    "a.layer.1.b": 10.0,
    "layer.11.b": 1.0,
    "crfs.w": 1.0,
    "my_crf.w": 1.0,
}


@pytest.mark.parametrize("settings", [{}, {"L2": 0.1}, {"L2": 0.1, "use_averages": True}])
def test_rates_are_scaled_by_the_names_of_parameters(settings):
    settings = {"learn_rate": 0.01, "use_averages": False, **settings}
    ours, thincs = make("spacy-mmib.Adam.v1", lr_scale=SCALES, **settings), make("Adam.v1", **settings)
    rng = numpy.random.RandomState(0)
    start = rng.randn(4, 5).astype("float32")
    a, b = ({name: start.copy() for name in NAMES} for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(12):
            gradient = rng.randn(4, 5).astype("float32")
            for name, scale in NAMES.items():
                a[name], _ = ours((1, name), a[name], gradient.copy())
                b[name], _ = thincs((1, name), b[name], gradient.copy(), lr_scale=scale)
                numpy.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5)
    ours((1, "crf"), a["crf"], gradient.copy(), lr_scale=0.5)
    thincs((1, "crf"), b["crf"], gradient.copy(), lr_scale=1.5)
    numpy.testing.assert_allclose(a["crf"], b["crf"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"L2_is_weight_decay": False}, {"use_averages": True}])
def test_vectors_without_decay(settings):
    """Of torch modules, and of other weights by torch and by Thinc (with averages)."""
    settings = {"learn_rate": 0.01, "grad_clip": 0.0, "use_averages": False, **settings}
    steps = {}
    for L2, decay_1d in ((0.0, True), (0.5, True), (0.5, False)):
        optimizer = make("spacy-mmib.Adam.v1", L2=L2, decay_1d=decay_1d, **settings)
        module = torch.nn.Linear(3, 4)
        for parameter in module.parameters():
            torch.nn.init.ones_(parameter)
            parameter.grad = torch.ones_like(parameter)
        optimizer.update_module(0, module.named_parameters())
        single = [numpy.ones(shape, dtype="float32") for shape in ((4, 3), (4,))]
        for i, weights in enumerate(single):
            single[i], _ = optimizer((1, str(i)), weights, numpy.ones_like(weights))
        steps[L2, decay_1d] = [*(p.detach().numpy() for p in module.parameters()), *single]
        assert optimizer.L2 == L2
    for matrix, vector in ((0, 1), (2, 3)):
        plain, everywhere, matrices = ([of[matrix], of[vector]] for of in steps.values())
        numpy.testing.assert_array_equal(matrices[0], everywhere[0])
        numpy.testing.assert_array_equal(matrices[1], plain[1])
        if settings.get("L2_is_weight_decay", True):
            numpy.testing.assert_allclose(everywhere[1], plain[1] * (1 - 0.01 * 0.5), rtol=1e-6)
            assert not numpy.allclose(everywhere[0], plain[0])


def test_rates_of_a_module_are_scaled_by_name_and_names_that_fit_nothing_said():
    module = torch.nn.ModuleDict({"crf": torch.nn.Linear(2, 2), "crfs": torch.nn.Linear(2, 2)})
    optimizer = make("spacy-mmib.Adam.v1", lr_scale={"crf": 0.0, "clasifier": 10.0})
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(12):
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.update_module(1, module.named_parameters())
            assert len(said) == (step >= 10)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("crf.")


@pytest.mark.parametrize(
    "settings", [{"L2": 0.1}, {"L2": 0.1, "L2_is_weight_decay": False, "decay_1d": False}]
)
def test_nothing_of_a_step_looks_at_numbers_on_a_gpu(settings):
    """Of one that isn't there: its tensors have shapes only, and to read a number of one raises."""
    optimizer = make("spacy-mmib.Adam.v1", **settings)
    with FakeTensorMode(), torch.device("cuda"):
        module = torch.nn.Linear(3, 4)
        for _ in range(2):
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.update_module(0, module.named_parameters())
        with pytest.raises(DataDependentOutputException):
            module.bias.sum().item()


def test_clipping_without_looking_at_the_lengths():
    rng = torch.Generator().manual_seed(0)
    long, short = 3 * torch.randn(5, 4, generator=rng), 0.01 * torch.randn(7, generator=rng)
    results = []
    for on_host in (True, False):
        results.append([x.clone() for x in (long, short, torch.zeros(2))])
        clip(results[-1], 0.5, on_host=on_host)
    for looked, blind, gradient in zip(*results, (long, short, torch.zeros(2))):
        torch.testing.assert_close(blind, looked, rtol=1e-6, atol=0)
        expected = gradient * (0.5 / max(0.5, numpy.linalg.norm(gradient.numpy())))
        torch.testing.assert_close(looked, expected, rtol=1e-6, atol=0)


def test_a_name_that_fits_nothing_is_said_once():
    optimizer = make("spacy-mmib.Adam.v1", lr_scale={"crf": 10.0, "clasifier": 10.0})
    parameter = numpy.ones((2, 2), dtype="float32")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(30):
            for name in ("crf.transitions", "classifier.weight"):
                optimizer((1, name), parameter, parameter.copy())
            assert bool(said) == (step >= 10)
    (warning,) = said
    assert warning.category is MMIBWarning
    assert "fit nothing trained in 10 steps: clasifier. " in str(warning.message)
    assert "classifier, crf" in str(warning.message)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_impossible_multipliers(scale):
    with pytest.raises(ValueError, match=r"lr_scale\['crf'\] is"):
        make("spacy-mmib.Adam.v1", lr_scale={"crf": scale})


def test_multipliers_in_a_config():
    lines = '[x]\n@optimizers = "spacy-mmib.Adam.v1"\nlr_scale = {"crf": 1000.0, "layer.1": 2}'
    config = Config().from_str(lines)
    config = Config().from_str(config.to_str())
    assert registry.resolve(config)["x"].lr_scale == {"crf": 1000.0, "layer.1": 2}


def test_the_crf_of_a_pipeline_can_have_a_rate_of_its_own():
    moved = []
    for scales in ({}, {"crf": 0.0}):
        nlp = make_nlp()
        examples = make_examples(nlp)
        nlp.initialize(lambda: examples)
        crf = get_module(nlp.get_pipe("mmib_ner").model.get_ref("head")).crf
        before = crf.end_transitions.detach().clone()
        nlp.update(examples, sgd=make("spacy-mmib.Adam.v1", lr_scale=scales))
        moved.append(float((crf.end_transitions.detach() - before).abs().max()))
    assert moved[0] > 0 == moved[1]


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
