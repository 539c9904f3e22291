"""A posterior that has collapsed is noticed, whatever it has collapsed to, and none that hasn't."""

import warnings

import numpy
import pytest
import spacy
import torch
from conftest import MODEL, make_examples, make_nlp, make_rel_examples, make_rel_nlp, train

from spacy_mmib.bridge.data import FusionInput, Posterior
from spacy_mmib.fusion.base import WATCHED_ROWS, build_fusion
from spacy_mmib.fusion.mmib import MMIB, build_mmib_v1
from spacy_mmib.pipeline.collapse import CollapseMonitor, count_active_units
from spacy_mmib.util import MMIBWarning

D = 32


def make_posteriors(mu, variance=1.0, posts=40, rows=4, seed=0) -> list[Posterior]:
    """mu: of a generator, the rows of a post (rows, D)."""
    rng = numpy.random.default_rng(seed)
    return [
        Posterior(
            key=f"post {seed} {i}",
            x=rng.normal(size=(rows, 5)),
            mu=numpy.broadcast_to(mu(rng), (rows, D)).astype("float32"),
            variance=numpy.full((rows, D), variance, dtype="float32"),
        )
        for i in range(posts)
    ]


CONSTANT = numpy.random.default_rng(9).normal(size=D) * 3
ROWS = numpy.random.default_rng(8).normal(size=(4, D)) * 3

COLLAPSED = {
    "the prior": (lambda rng: numpy.zeros(D), 1.0),
    "a constant far from the prior": (lambda rng: CONSTANT, 0.1),
    "a constant without noise to speak of": (lambda rng: CONSTANT, 1e-8),
    "the number of the row": (lambda rng: ROWS, 0.1),
    "less than its noise": (lambda rng: CONSTANT + 0.01 * rng.normal(size=D), 0.5),
    "one unit": (lambda rng: CONSTANT + (numpy.arange(D) == 3) * rng.normal(), 0.5),
}
HEALTHY = {
    "like the prior on average": (lambda rng: 0.7 * rng.normal(size=(4, D)), 0.5),
    "near a constant": (lambda rng: CONSTANT + 0.2 * rng.normal(size=(4, D)), 0.1),
    "weak, in little noise": (lambda rng: 0.01 * rng.normal(size=(4, D)), 1e-4),
    "the same in all rows of a post": (lambda rng: ROWS + rng.normal(size=D), 1.0),
    "few units": (lambda rng: CONSTANT + (numpy.arange(D) < 4) * rng.normal(size=D), 0.5),
}


def judge(*batches: list[Posterior], modality="image", times=2, **settings) -> list[str]:
    """What is said of them, a batch an update, all of them watched, again and again."""
    settings = {"window": len(batches), "watched": len(batches)} | settings
    monitor = CollapseMonitor("mmib_ner", **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in times * batches:
            assert monitor.watching
            monitor.update({}, {modality: batch} if batch else {})
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("kind", COLLAPSED)
def test_collapsed(kind):
    (message,) = judge(make_posteriors(*COLLAPSED[kind]))
    assert "mmib_ner: the picture posterior has collapsed" in message
    assert "differ between 40 pictures" in message
    assert "Lower loss_weights.kl_image" in message
    (message,) = judge(make_posteriors(*COLLAPSED[kind]), modality="text")
    assert "the text posterior has collapsed" in message
    assert "Lower loss_weights.kl_text" in message


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy(kind):
    assert judge(make_posteriors(*HEALTHY[kind])) == []


def test_active_units_are_those_of_the_variance_by_row():
    """Against numpy's variance, row by row, of posts with different numbers of rows."""
    rng = numpy.random.default_rng(0)
    posts = []
    for i in range(20):
        rows = 1 + i % 3
        mu = 1e3 + rng.normal(size=(rows, D)) * numpy.geomspace(1e-3, 1, D)
        posts.append(Posterior(str(i), rng.normal(size=(rows, 2)), mu, rng.uniform(0.1, 1, (rows, D))))
    squares = numpy.zeros(D)
    for row in range(3):
        mus = numpy.stack([p.mu[row] for p in posts if len(p.mu) > row])
        squares += mus.var(axis=0) * len(mus)
    rows = sum(len(p.mu) for p in posts)
    noise = numpy.concatenate([p.variance for p in posts]).mean(axis=0)
    ratio = squares / (rows - 3) / noise
    units = count_active_units(posts, 0.01)
    assert units.active == (ratio > 0.01).sum()
    assert 0 < units.active < D == units.width
    assert units.nats == pytest.approx(0.5 * numpy.log1p(ratio).sum(), rel=1e-6)


def test_no_verdict_on_too_little():
    """One post, one picture on all posts, under one name or many; few pictures; none at all; no numbers."""
    mu, variance = COLLAPSED["the prior"]
    posts = make_posteriors(mu, variance)
    assert judge(posts[:1]) == []
    assert judge(*[posts[:1]] * 30) == []
    assert judge(*[posts[:7]] * 30) == []
    assert len(judge(*[posts[:8]] * 30)) == 1
    files = [Posterior(f"{i}.png", posts[0].x, p.mu, p.variance) for i, p in enumerate(posts)]
    assert judge(files) == []
    nearly = [Posterior(f.key, f.x * (1 + 1e-6 * i), f.mu, f.variance) for i, f in enumerate(files)]
    assert judge(nearly) == []
    assert judge([], [], []) == []
    broken = [Posterior(p.key, p.x, p.mu * numpy.nan, p.variance) for p in posts]
    assert judge(broken) == []
    # with as many rows as no other: nothing to compare
    assert judge(make_posteriors(mu, posts=1, rows=16)) == []


def test_a_post_a_batch_adds_up_over_windows():
    """Every tenth post has a picture: 8 of them are there in the fourth window of 20 updates, and in the eighth."""
    posts = make_posteriors(*COLLAPSED["a constant far from the prior"], posts=200)
    batches = [[post] if i % 10 == 0 else [] for i, post in enumerate(posts)]
    assert judge(*batches[:140], window=20, watched=20, times=1) == []
    assert len(judge(*batches[:160], window=20, watched=20, times=1)) == 1


def test_what_is_coming_through_has_not_collapsed():
    """The signal of weak vectors grows; if it does so no longer and is as weak as before, it is lost."""
    monitor = CollapseMonitor("mmib_ner", window=1, watched=1)
    weak = lambda signal: make_posteriors(lambda rng: signal * rng.normal(size=D))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for signal in (0.01, 0.02, 0.04, 0.5):
            monitor.update({}, {"image": weak(signal)})
        monitor.update({}, {"image": weak(0.4)})
    with pytest.warns(MMIBWarning, match="picture posterior has collapsed"):
        monitor.update({}, {"image": weak(0.02)})


def test_it_is_said_once_of_each_and_only_the_end_of_a_window_is_watched(caplog):
    spacy.util.logger.propagate = True
    monitor = CollapseMonitor("mmib_ner", window=5, watched=2)
    bad = make_posteriors(*COLLAPSED["the prior"])
    good = make_posteriors(*HEALTHY["few units"])
    watched = []
    with warnings.catch_warnings(record=True) as caught, caplog.at_level("INFO"):
        warnings.simplefilter("always")
        for i in range(20):
            watched.append(monitor.watching)
            posteriors = {"text": good, "image": bad if i >= 10 else good}
            monitor.update({"kl_text": 0.4, "kl_image": 0.3}, posteriors if watched[-1] else {})
    assert watched == [False, False, False, True, True] * 4
    assert ["picture posterior has collapsed" in str(w.message) for w in caught] == [True]
    assert "of the 32 units of its latent 0 differ" in str(caught[0].message)
    assert "at a KL of 0.3000 nats" in str(caught[0].message)
    assert caplog.text.count("KL per dimension of the text posterior, mean of 5 updates") == 4
    assert "active units of the text posterior on 40 different texts: 4 of 32" in (caplog.text)
    assert "active units of the picture posterior on 40 different pictures: 0 of 32" in (caplog.text)
    monitor.reset()
    with pytest.warns(MMIBWarning, match="picture posterior"):
        for _ in range(10):
            monitor.update({}, {"image": bad})


# From the core


def make_core_layer(collapse=lambda core: None, **settings):
    layer = build_mmib_v1(**{"dropout": 0.5, "max_negatives": 4, "heads": 4, **settings})
    torch.manual_seed(0)
    build_fusion(layer, text_width=6, image_width=5, width=D)
    with torch.no_grad():
        collapse(layer.shims[0]._model)
    layer.attrs["watch"] = True
    return layer


def make_core_input(posts=12, rows=3, seed=0) -> FusionInput:
    rng = numpy.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype("float32")
    return FusionInput(
        text=[normal(5, 6) for _ in range(posts)],
        image=[normal(rows, 5) for _ in range(posts)],
        image_keys=[f"{seed} {i}" for i in range(posts)],
        text_keys=[f"{seed} {i}" for i in range(posts)],
    )


def to_constant(mean: float, log_var: float):
    """The gains of the last LayerNorm are where a posterior collapses."""

    def change(core: MMIB) -> None:
        for part, bias in ((core.image_encoder.mu, mean), (core.image_encoder.log_var, log_var)):
            part.feed_forward_norm.weight.fill_(0.0)
            part.feed_forward_norm.bias.fill_(bias)

    return change


def only_dropout(core: MMIB) -> None:
    """Nothing of the pictures gets in, and dropout makes every mu another one in training."""
    core.image_projection.weight.fill_(0.0)


@pytest.mark.parametrize(
    ("collapse", "expected"),
    [
        (to_constant(0.0, 0.0), True),
        (to_constant(2.0, -3.0), True),
        (only_dropout, True),
        (lambda core: None, False),
    ],
    ids=["the prior", "a constant", "only noise", "healthy"],
)
def test_the_core(collapse, expected):
    layer = make_core_layer(collapse)
    batches = []
    for seed in range(3):
        Y, _ = layer(make_core_input(seed=seed), True)
        batches.append(Y.posteriors)
    assert [len(batch["image"]) for batch in batches] == [12] * 3
    assert len(judge(*[batch["image"] for batch in batches])) == expected
    assert judge(*[batch["text"] for batch in batches], modality="text") == []


def test_posteriors_of_a_batch():
    layer = make_core_layer()
    X = make_core_input(posts=3)
    X.image[1] = X.image[1][:0]
    X.image_keys[1] = None
    X.text[2] = numpy.repeat(X.text[2], 8, axis=0)  # 40 tokens
    Y, _ = layer(X, True)
    text, image = Y.posteriors["text"], Y.posteriors["image"]
    assert [p.key for p in image] == ["0 0", "0 2"]
    assert [len(p.mu) for p in text] == [5, 5, WATCHED_ROWS]
    for posterior in (*text, *image):
        assert posterior.mu.shape == posterior.variance.shape == (len(posterior.x), D)
        assert (posterior.variance > 0).all()
    assert numpy.array_equal(image[1].x, X.image[2])
    # the mean is what inference takes
    _, z_text, _, z_image, _ = layer.shims[0]._model.inspect(
        *(torch.tensor(X.text[0][None]), torch.ones(1, 5).bool()),
        *(torch.tensor(X.image[0][None]), torch.ones(1, 3).bool()),
    )
    numpy.testing.assert_allclose(text[0].mu, z_text[0].numpy(), atol=1e-5)
    numpy.testing.assert_allclose(image[0].mu, z_image[0].numpy(), atol=1e-5)
    for i in range(3):
        X.image[i], X.image_keys[i] = X.image[i][:0], None
    Y, _ = layer(X, True)
    assert Y.posteriors.get("image", []) == []
    assert layer.predict(X).posteriors == {}
    layer.attrs["watch"] = False
    assert layer(X, True)[0].posteriors == {}


# In training


COLOURS = (
    *("#a00000", "#0000a0", "#b01010", "#1010b0", "#c00020", "#2000c0"),
    *("#d02000", "#0020d0", "#e00030", "#3030e0", "#ff1010", "#1020ff"),
)
WHAT = ("dinner", "lunch", "tea", "time", "fun", "a walk")
# Only the colour tells the type.
POSTS = [
    (f"Rob had {WHAT[i // 2]} with us", [(0, 3, ("PER", "ORG")[i % 2])], colour)
    for i, colour in enumerate(COLOURS)
]


def watch(nlp, examples, steps: int) -> list[str]:
    """What is said in a training of so many updates, with verdicts every 10 of them."""
    monitor = nlp.get_pipe(nlp.pipe_names[-1])._monitor
    monitor.window, monitor.watched = 10, 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(nlp, examples, steps=steps)
    return [str(w.message) for w in caught if "posterior" in str(w.message)]


def test_a_training_that_loses_the_pictures(caplog):
    spacy.util.logger.propagate = True
    model = {**MODEL, "fusion": {**MODEL["fusion"], "kl_reduction": "sum"}}
    nlp = make_nlp(beta1=0.0, beta2=2.0, alignment_weight=0.0, model=model)
    with caplog.at_level("INFO", logger="spacy.mmib"):
        (message,) = watch(nlp, make_examples(nlp, POSTS), steps=30)
    assert "the picture posterior has collapsed" in message
    assert "active units of the picture posterior on 12 different pictures" in caplog.text
    assert "active units of the text posterior on 6 different texts" not in caplog.text


def test_a_training_that_keeps_the_pictures():
    nlp = make_nlp(beta1=0.01, beta2=0.01)
    assert watch(nlp, make_examples(nlp, POSTS), steps=60) == []
    assert nlp.evaluate(make_examples(nlp, POSTS))["ents_f"] > 0.9


def test_a_training_without_pictures():
    nlp = make_nlp(beta1=0.01, beta2=0.01)
    posts = [(text, ents, None) for text, ents, _ in POSTS]
    assert watch(nlp, make_examples(nlp, posts), steps=20) == []


@pytest.mark.parametrize("entity_repr", ["pool", "marker"])
def test_relations_are_watched_too(entity_repr):
    """Each text once, in how many pairs it is."""
    nlp = make_rel_nlp(model={"entity_repr": entity_repr})
    component = nlp.get_pipe("mmib_rel")
    component._monitor.window = component._monitor.watched = 3
    seen = []
    component._monitor._judge = lambda *args: seen.append(args)
    component._monitor.min_posts = 2
    train(nlp, make_rel_examples(nlp), steps=3)
    # Of the posts with pairs: two texts, three colours.
    assert [(modality, posts) for modality, _, posts in seen] == [("text", 2), ("image", 3)]
